"""Messages between processes: what holds over TCP, on both kinds of loop, and within one loop."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from jido_state.messages import Accept, Row
from jido_state.node_messages import Frame
from jido_state.record import Record
from jido_state.versions import Version
from tests.runtime.peer_support import Net, beat, run_net

Story = Callable[[Net], Coroutine[Any, Any, None]]

KINDS = ("local", "asyncio", "uvloop")


@pytest.fixture(params=KINDS)
def run(request: pytest.FixtureRequest) -> Callable[[Story], None]:
    return lambda story: run_net(request.param, story)


def test_messages_of_one_pass_arrive_as_one_batch(run: Callable[[Story], None]) -> None:
    """In their order, named by who sent them, equal and not the same objects."""

    async def story(net: Net) -> None:
        one, two = await net.process(1, 4), await net.process(2)
        one.know(two)
        first = beat(0)
        one.peers.send(2, 0, first)
        one.send(two, *range(1, 50))
        await two.hears(*range(50))
        assert [(node, part) for node, part, _ in two.ear.batches] == [(1, 4)]
        assert two.ear.messages[0] is not first
        one.send(two, 50)
        await two.hears(*range(51))
        assert len(two.ear.batches) == 2

    run(story)


def test_both_ways_do_not_disturb_each_other(run: Callable[[Story], None]) -> None:
    """Both send before either has heard anything, and answer what comes."""

    async def story(net: Net) -> None:
        one, two = await net.pair()
        one.send(two, 1)
        two.send(one, 2)
        await one.hears(2)
        await two.hears(1)
        one.send(two, 3)
        await two.hears(1, 3)

    run(story)


def test_who_is_unknown_gets_nothing(run: Callable[[Story], None]) -> None:
    """Neither one that was never known, nor one that is nowhere any more."""

    async def story(net: Net) -> None:
        one, two = await net.pair()
        one.peers.send(7, 0, beat(1))
        one.send(two, 2)
        one.peers.know(2, 0, "", 1)
        one.send(two, 3)
        one.know(two)
        one.send(two, 4)
        await two.hears(4)

    run(story)


def test_nothing_goes_out_before_a_process_has_a_name(run: Callable[[Story], None]) -> None:
    """A node has no index before it has joined."""

    async def story(net: Net) -> None:
        one, two = await net.process(1, cluster=None), await net.process(2)
        one.know(two)
        one.send(two, 1)
        one.peers.be("cluster", 1, 0)
        one.send(two, 2)
        await two.hears(2)

    run(story)


def test_it_is_told_once_that_a_process_is_there_and_that_it_is_dead(
    run: Callable[[Story], None],
) -> None:
    """Without anything being sent to the dead one; a new process takes its place."""

    async def story(net: Net) -> None:
        one, two = await net.pair()
        one.send(two, 1)
        await two.hears(1)
        await one.ear.until(lambda: one.ear.told == [("back", 2, 0)])
        two.peers.close()
        await one.ear.until(lambda: len(one.ear.told) > 1)
        for number in range(5):
            one.send(two, number)
        again = await net.process(2)
        one.know(again, life=2)
        one.send(again, 6)
        await again.hears(6)
        await one.ear.until(lambda: len(one.ear.told) > 2)
        assert one.ear.told == [("back", 2, 0), ("gone", 2, 0), ("back", 2, 0)]
        assert two.ear.told == []

    run(story)


def test_a_process_that_was_dead_before_anything_was_sent_is_gone(
    run: Callable[[Story], None],
) -> None:
    """Nobody is at its address; it is enough to have tried."""

    async def story(net: Net) -> None:
        one, two = await net.pair()
        two.peers.close()
        one.send(two, 1)
        await one.ear.until(lambda: one.ear.told == [("gone", 2, 0)])

    run(story)


def test_to_know_the_same_again_changes_nothing(run: Callable[[Story], None]) -> None:
    """What waits still goes, and no second connection is told of."""

    async def story(net: Net) -> None:
        one, two = await net.pair()
        one.send(two, 1)
        one.know(two, life=2)
        one.send(two, 2)
        await two.hears(1, 2)
        one.know(two, life=3)
        one.send(two, 3)
        await two.hears(1, 2, 3)
        assert one.ear.told == [("back", 2, 0)]

    run(story)


def test_a_closed_process_says_and_hears_nothing(run: Callable[[Story], None]) -> None:
    """As one that has crashed; to close it again does nothing."""

    async def story(net: Net) -> None:
        one, two = await net.pair()
        one.send(two, 1)
        await two.hears(1)
        one.peers.close()
        one.peers.close()
        one.send(two, 2)
        two.send(one, 3)
        await two.ear.until(lambda: ("gone", 1, 0) in two.ear.told)
        assert one.ear.batches == []
        assert two.ear.messages == [beat(1)]

    run(story)


def test_rows_are_not_kept_once_they_have_left(run: Callable[[Story], None]) -> None:
    """They are encoded once for all that get them in one pass, and then forgotten."""

    async def story(net: Net) -> None:
        one, two = await net.pair()
        row = Row(Version(0, 1, 1, 0, 1), content=Record("counter"))
        message = Frame(3, 1, Accept(1, row.version.ballot, (("key", row),)))
        one.peers.send(2, 0, message)
        sealed = one.peers._packer.sealer._sealed
        assert len(sealed) == 1
        await two.ear.until(lambda: two.ear.messages == [message])
        assert len(sealed) == 0

    run(story)


# What only a switchboard does.


def test_nobody_hears_of_a_cut_and_nothing_passes_it() -> None:
    """Those on one side still talk; after the cut is healed, all do."""

    async def story(net: Net) -> None:
        one, two = await net.pair()
        three = await net.process(3)
        one.know(three)
        two.know(three)
        one.send(two, 1)
        await two.hears(1)
        net.switchboard.partition([1, 3], [2])
        one.send(two, 2)
        one.send(three, 3)
        two.send(one, 4)
        await three.hears(3)
        net.switchboard.heal()
        one.send(two, 5)
        await two.hears(1, 5)
        assert one.ear.told == [("back", 2, 0), ("back", 3, 0)]
        assert one.ear.batches == []

    run_net("local", story)


def test_what_is_on_its_way_when_the_network_is_cut_is_lost() -> None:
    """Sent before the cut, and not there yet."""

    async def story(net: Net) -> None:
        one, two = await net.pair()
        one.send(two, 1)
        net.switchboard.partition([1])
        net.switchboard.heal()
        one.send(two, 2)
        await two.hears(1, 2)
        one.send(two, 7)
        net.switchboard.partition([1])
        await asyncio.sleep(0)  # it leaves now
        net.switchboard.heal()
        one.send(two, 8)
        await asyncio.sleep(0)  # it has left, and is not there yet
        net.switchboard.partition([1])
        await asyncio.sleep(0)
        net.switchboard.heal()
        one.send(two, 3)
        net.switchboard.partition([1])  # those that are named nowhere are the other side
        one.send(one, 4)
        one.know(one)
        one.send(one, 5)
        await one.hears(5)
        net.switchboard.heal()
        one.send(two, 6)
        await two.hears(1, 2, 6)

    run_net("local", story)


def test_a_death_across_a_cut_is_noticed_after_it() -> None:
    """Whoever is on the same side hears of it at once."""

    async def story(net: Net) -> None:
        one, two = await net.pair()
        three = await net.process(3)
        three.know(two)
        net.switchboard.partition([1], [2, 3])
        net.switchboard.kill(2)
        await three.ear.until(lambda: three.ear.told == [("gone", 2, 0)])
        assert one.ear.told == []
        net.switchboard.heal()
        one.send(two, 1)
        await one.ear.until(lambda: one.ear.told == [("gone", 2, 0)])

    run_net("local", story)


def test_what_is_over_is_not_told() -> None:
    """A death is told once; not at all when another process has taken the place meanwhile."""

    async def story(net: Net) -> None:
        one, two = await net.pair()
        again = await net.process(2)
        net.switchboard.kill(2, 0)
        one.know(again)
        one.peers.know(3, 0, two.address, 1)
        for _ in range(2):
            one.peers.send(3, 0, beat(1))
            await asyncio.sleep(0)
        await one.ear.until(lambda: ("gone", 3, 0) in one.ear.told)
        one.peers.send(3, 0, beat(2))
        one.know(one)
        one.send(one, 3)
        await one.hears(3)
        assert sorted(one.ear.told) == [("back", 1, 0), ("gone", 3, 0)]

    run_net("local", story)


def test_a_node_dies_whole_or_in_part() -> None:
    """One process of it, or all; those of other nodes live."""

    async def story(net: Net) -> None:
        one = await net.process(1)
        parts = [await net.process(2, part) for part in range(3)]
        for each in parts:
            one.know(each)
        net.switchboard.kill(2, 1)
        await one.ear.until(lambda: one.ear.told == [("gone", 2, 1)])
        net.switchboard.kill(2)
        await one.ear.until(lambda: len(one.ear.told) == 3)
        assert sorted(one.ear.told) == [("gone", 2, part) for part in range(3)]
        one.know(one)
        one.send(one, 1)
        await one.hears(1)

    run_net("local", story)
