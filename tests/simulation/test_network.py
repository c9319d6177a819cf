"""The network: what it does to messages, by rate; what it cuts, by direction."""

from random import Random

import pytest

from jido_state.simulation import (
    PARTITIONS,
    Network,
    NetworkFaults,
    Scheduler,
    partition,
    swizzle,
    two_way,
)

NODES = 5
SURE = NetworkFaults(least_us=100, mean_us=0)


class World:
    """Five nodes that note what they hear."""

    def __init__(self, faults: NetworkFaults | None = None, seed: int = 1) -> None:
        self.scheduler = Scheduler()
        for node in range(NODES):
            self.scheduler.start(node)
        self.heard: list[tuple[int, int, int, object]] = []
        self.network = Network(self.scheduler, Random(seed), self.hear, faults)

    def hear(self, source: int, target: int, message: object) -> None:
        self.heard.append((self.scheduler.now_us, source, target, message))

    def run(self, seconds: float) -> list[object]:
        """What was heard in the meantime."""
        before = len(self.heard)
        self.scheduler.run(self.scheduler.now_us + int(seconds * 1e6))
        return [message for *_, message in self.heard[before:]]


def test_a_message_arrives_once_after_its_delay() -> None:
    """Without faults nothing is lost or repeated; delays are at least the least, and mean right."""
    world = World(NetworkFaults(least_us=500, mean_us=1_000))
    for number in range(2_000):
        world.network.send(0, 1, number)
    arrived = world.run(60)
    assert sorted(map(str, arrived)) == sorted(map(str, range(2_000)))
    delays = [now for now, *_ in world.heard]
    assert min(delays) >= 500
    assert 1_400 < sum(delays) / len(delays) < 1_600
    assert arrived != sorted(range(2_000))  # messages overtake each other


def test_links_may_keep_their_order() -> None:
    """Then each link is in order, while links overtake each other."""
    world = World(NetworkFaults(least_us=0, mean_us=1_000, in_order=True))
    for number in range(100):
        world.network.send(number % 2, 2, number)
        world.run(0.000_1)
    world.run(60)
    arrived = [int(str(message)) for *_, message in world.heard]
    assert [number for number in arrived if number % 2] == list(range(1, 100, 2))
    assert [number for number in arrived if not number % 2] == list(range(0, 100, 2))
    assert arrived != list(range(100))


def test_rates_are_kept() -> None:
    """Loss, repetition and holding strike as often as asked, and are counted."""
    world = World(NetworkFaults(loss=0.2, repeat=0.1, hold=0.05))
    for number in range(10_000):
        world.network.send(0, 1, number)
    world.run(2)
    counts = world.network.statistics()
    assert counts.sent == 10_000
    assert 1_900 < counts.lost < 2_100
    assert 340 < counts.held < 460
    assert 680 < counts.repeated < 840
    assert counts.holding == counts.held
    assert counts.delivered == counts.sent - counts.lost - counts.held + counts.repeated
    world.run(30)
    counts = world.network.statistics()
    assert counts.holding == 0
    assert counts.delivered == counts.sent - counts.lost + counts.repeated


def test_held_messages_arrive_after_several_elections() -> None:
    """By themselves within their time, or all when released; each once."""
    world = World(NetworkFaults(hold=1.0, hold_us=(3_000_000, 4_000_000)))
    world.network.send(0, 1, "a")
    assert world.run(2.9) == []
    assert world.run(1.2) == ["a"]
    world.network.send(0, 1, "b")
    world.network.send(0, 1, "c")
    world.network.release()
    assert sorted(map(str, world.run(0.1))) == ["b", "c"]
    assert world.run(10) == []


def test_a_cut_is_one_way_and_counts() -> None:
    """Nothing passes in its direction, sent before or during; two cuts need two mendings."""
    world = World(SURE)
    world.network.send(0, 1, "on its way")
    world.network.cut([(0, 1), (0, 2)])
    world.network.cut([(0, 1)])
    world.network.send(0, 1, "sent during")
    world.network.send(1, 0, "back")
    world.network.send(2, 1, "others")
    assert world.run(1) == ["back", "others"]
    world.network.mend([(0, 1), (3, 4)])
    assert world.network.is_cut(0, 1)
    world.network.mend([(0, 1)])
    assert not world.network.is_cut(0, 1)
    assert world.network.is_cut(0, 2)
    world.network.send(0, 1, "after")
    assert world.run(1) == ["after"]
    assert world.network.statistics().cut == 2


def test_healing_ends_everything() -> None:
    """Cuts and faults are gone, and what was held is let go."""
    world = World(NetworkFaults(hold=1.0))
    world.network.send(0, 1, "held")
    world.network.cut(two_way([0], [1, 2]))
    world.network.heal()
    world.network.send(1, 0, "free")
    assert sorted(map(str, world.run(0.1))) == ["free", "held"]
    world.network.heal(SURE)
    assert world.network.faults is SURE


def test_an_address_shares_the_cuts_of_its_host() -> None:
    """A client on a node's host sees what the node sees."""
    world = World(SURE)
    world.scheduler.start(100)
    world.network.place(100, 0)
    world.network.cut(two_way([0], [1]))
    world.network.send(100, 1, "cut")
    world.network.send(1, 100, "cut")
    world.network.send(100, 0, "same host")
    world.network.send(2, 100, "other host")
    assert world.run(1) == ["same host", "other host"]


def test_nobody_hears_what_arrives_while_no_process_runs() -> None:
    """It is lost if the process is down, kept if it is paused, and passes a restart on its way."""
    world = World(SURE)
    world.network.send(0, 1, "lost")
    world.network.send(0, 2, "late")
    world.scheduler.end(1)
    world.scheduler.pause(2)
    world.run(1)
    world.network.send(0, 1, "for the next")
    world.scheduler.start(1)
    world.scheduler.resume(2)
    assert world.run(1) == ["late", "for the next"]
    assert world.network.statistics().unheard == 1


def test_a_run_is_a_function_of_its_seed() -> None:
    """The same seed delivers the same messages at the same times; another does not."""

    def run(seed: int) -> list[tuple[int, int, int, object]]:
        faults = NetworkFaults(loss=0.1, repeat=0.1, hold=0.01)
        world = World(faults, seed)
        for number in range(500):
            world.network.send(number % 5, (number + 1) % 5, number)
        world.run(60)
        return world.heard

    assert run(1) == run(1)
    assert run(1) != run(2)


# Partitions


def hears(pairs: tuple[tuple[int, int], ...], node: int, nodes: int) -> set[int]:
    return {other for other in range(nodes) if (other, node) not in pairs}


@pytest.mark.parametrize("kind", PARTITIONS)
@pytest.mark.parametrize("nodes", range(1, 7))
def test_a_partition_cuts_distinct_pairs_of_its_nodes(kind: str, nodes: int) -> None:
    """Never a node from itself, and nobody who was not named."""
    for seed in range(30):
        pairs = partition(kind, range(nodes), Random(seed))
        assert len(set(pairs)) == len(pairs)
        assert all(one != other and {one, other} <= set(range(nodes)) for one, other in pairs)
        assert nodes > 1 or not pairs


@pytest.mark.parametrize("kind", ["halves", "one", "bridge"])
def test_these_partitions_are_two_way(kind: str) -> None:
    """Whoever is not heard does not hear."""
    for seed in range(30):
        pairs = partition(kind, range(5), Random(seed))
        assert pairs
        assert sorted(pairs) == sorted((other, one) for one, other in pairs)


@pytest.mark.parametrize("nodes", [3, 4, 5, 6, 7])
def test_in_a_ring_everybody_hears_another_majority(nodes: int) -> None:
    """No two nodes hear the same majority."""
    pairs = partition("ring", range(nodes), Random(1))
    heard = [frozenset(hears(pairs, node, nodes)) for node in range(nodes)]
    assert all(node in ones for node, ones in enumerate(heard))
    assert {len(ones) for ones in heard} == {nodes // 2 + 1}
    assert len(set(heard)) == nodes


def test_the_kinds_are_what_they_say() -> None:
    """One is alone, one is mute or deaf, one sees both halves."""
    alone = partition("one", range(5), Random(1))
    assert sorted(len(hears(alone, node, 5)) for node in range(5)) == [1, 4, 4, 4, 4]
    seen = set()
    for seed in range(10):
        one_way = partition("one_way", range(5), Random(seed))
        seen.add(tuple(sorted(len(hears(one_way, node, 5)) for node in range(5))))
    assert seen == {(1, 5, 5, 5, 5), (4, 4, 4, 4, 5)}
    bridge = partition("bridge", range(5), Random(1))
    assert sorted(len(hears(bridge, node, 5)) for node in range(5)) == [3, 3, 3, 3, 5]
    sides = set()
    for seed in range(30):
        halves = partition("halves", range(5), Random(seed))
        sides.add(tuple(sorted(len(hears(halves, node, 5)) for node in range(5))))
    assert sides == {(1, 4, 4, 4, 4), (2, 2, 3, 3, 3)}


def test_an_unknown_partition_is_refused() -> None:
    """The error names those that there are."""
    with pytest.raises(ValueError, match="'thirds' is none of halves, one"):
        partition("thirds", range(3), Random(1))


def test_a_swizzle_stops_some_and_brings_all_of_them_back() -> None:
    """Between one and all; in another order often enough."""
    others = 0
    for seed in range(50):
        stopped, back = swizzle(range(5), Random(seed))
        assert 1 <= len(stopped) <= 5
        assert sorted(stopped) == sorted(back)
        assert len(set(stopped)) == len(stopped)
        others += stopped != back
    assert others > 20
    assert swizzle([], Random(1)) == ([], [])
