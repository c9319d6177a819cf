"""The bytes of joining, the choice of a boot, and what a node believes of the others."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jido_cluster.config import ClusterConfig
from jido_cluster.errors import WireError
from jido_cluster.runtime.entry import (
    About,
    Entered,
    Entry,
    Later,
    Refusal,
    answer_of,
    seen_of,
    to_bytes,
)
from jido_cluster.runtime.formation import Seen, fingerprint
from jido_cluster.runtime.identity import Boot, DirectoryIdentity, Identity, MemoryIdentity
from jido_cluster.runtime.view import View
from jido_cluster.runtime.watching import Watching
from jido_cluster.runtime.wire import pack
from jido_cluster.storage.directory import DataDirectory
from jido_placement.changes import apply_all
from jido_placement.commands import BecomeUp, Join, RegisterBoot
from jido_placement.healing import Stage
from jido_placement.probing import Carried, Gossip
from jido_placement.record import MemberRecord, Record, found
from jido_placement.timings import Timings

SEEN = Seen("id", "c", 3, 2, "s/1", "p/1")
ENTRY = Entry(
    SEEN,
    Boot(2, 1 << 61, 7, is_own=True),
    About("n", {"b": "2", "a": "1"}, 2.0, "z"),
    ClusterConfig().agreed(),
    is_fresh=False,
)


def test_a_request_to_join_comes_out_as_it_went_in() -> None:
    for is_fresh in (False, True):
        entry = ENTRY._replace(is_fresh=is_fresh)
        assert Entry.from_bytes(entry.to_bytes()) == entry


def test_a_fresh_node_joins_and_another_one_registers_its_boot() -> None:
    join = ENTRY._replace(is_fresh=True).command("f")
    assert join == Join("id", 1 << 61, "n", (("a", "1"), ("b", "2")), 2.0, "z", "f")
    assert ENTRY.command("f") == RegisterBoot("id", 2, 1 << 61, 7, "f")


def test_answers_to_join_come_out_as_they_went_in() -> None:
    record = found("c", MemberRecord(0, "id", 1, 0, "n"), shards=2)
    view = View("c", 0, 1, (), ((), ()))
    for answer in (Entered(3, record, view), Refusal("no"), Later("not now")):
        assert answer_of(to_bytes(answer)) == answer


@given(st.binary(max_size=64))
def test_bytes_that_are_no_request_and_no_answer_raise_wire_errors_only(data: bytes) -> None:
    for read in (Entry.from_bytes, answer_of, seen_of):
        with pytest.raises(WireError):
            read(data)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (0, ["id"]),
        (0, [1, None, None, 0, "s"]),
        (1, ["1", 2, 3, True]),
        (2, ["n", {}, "heavy", None]),
        (2, ["n", [], 1.0, None]),
        (2, ["n", {}, 1.0, 5]),
        (3, []),
    ],
)
def test_a_request_with_a_part_of_another_kind_is_refused(place: int, value: Any) -> None:
    parts: list[Any] = [list(SEEN), [2, 1, 7, True], ["n", {}, 1.0, None], {}, False]
    Entry.from_bytes(pack(parts))
    parts[place] = value
    with pytest.raises(WireError):
        Entry.from_bytes(pack(parts))


@pytest.fixture(params=["memory", "disk"])
def identities(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Identity]:
    """What each process of one node after the other finds."""
    if request.param == "memory":
        held = MemoryIdentity("id")

        def again() -> Identity:
            nonlocal held
            held = held.copy()
            return held

        return again
    open_ones: list[DataDirectory] = []

    def taken() -> Identity:
        if open_ones:
            open_ones.pop().release()
        open_ones.append(DataDirectory.take(tmp_path))
        return DirectoryIdentity(open_ones[0], "main")

    return taken


def test_a_pair_that_an_earlier_process_drew_is_settled_before_the_own_one(
    identities: Callable[[], Identity],
) -> None:
    identity = identities()
    first = identity.ask_boot(lambda bits: 5)
    assert first == Boot(1, 6, 0, is_own=True)
    assert identity.ask_boot(lambda bits: 9) == first
    identity = identities()
    found_pair = identity.ask_boot(lambda bits: 9)
    assert found_pair == Boot(1, 6, 0, is_own=False)
    identity.boot_registered(found_pair)
    own = identity.ask_boot(lambda bits: 9)
    assert own == Boot(2, 10, 6, is_own=True)
    identity.boot_registered(found_pair)  # an answer to what is over
    assert identity.ask_boot(lambda bits: 7) == own
    identity.boot_registered(own)
    assert identities().ask_boot(lambda bits: 1) == Boot(3, 2, 10, is_own=True)


def test_the_record_that_was_kept_is_found_by_the_next_process(
    identities: Callable[[], Identity],
) -> None:
    identity = identities()
    assert identity.record() is None
    record = members(3)
    identity.keep(record, 1)
    again = identities()
    assert again.record() == record
    assert again.id == identity.id


def test_the_fingerprint_names_the_agreed_fields_and_nothing_else() -> None:
    config = ClusterConfig()
    assert fingerprint(config) == fingerprint(ClusterConfig(call_timeout=1.0))
    assert fingerprint(config) == fingerprint(ClusterConfig(modules=("shop.agents",)))
    assert fingerprint(config) == "partition_strategy=pause_minority replicas=3 shards=256"
    assert fingerprint(config) != fingerprint(ClusterConfig(shards=16))
    assert fingerprint(config) != fingerprint(ClusterConfig(partition_strategy="continue_all"))


def members(count: int) -> Record:
    first = found("c", MemberRecord(0, "m0", 1, 0, "m0"), shards=4)
    commands: list[Any] = []
    for node in range(1, count):
        commands += [Join(f"m{node}", 0, "n", (), 1.0, None, ""), BecomeUp(node, 1)]
    return apply_all(first, commands)[0]


def watching(record: Record) -> Watching:
    return Watching(
        0,
        record,
        boot=1,
        timings=Timings.local(),
        seed=1,
        now_ms=0,
        down_after_ms=5_000,
        stable_after_ms=1_000,
    )


def hear(one: Watching, node: int, now_ms: int, incarnation: int = 1 << 32) -> None:
    one.receive(node, Gossip(Carried(incarnation)), now_ms)


def test_a_dead_supervisor_is_unreachable_at_once_and_replaced_only_after_its_time() -> None:
    one = watching(members(3))
    for node in (1, 2):
        hear(one, node, 0)
    one.gone(1, 100)
    one.tick(100)
    assert one.unreachable == {1}
    assert one.expired == frozenset()
    for now_ms in range(200, 6_000, 100):
        hear(one, 2, now_ms)
        one.tick(now_ms)
        assert one.expired == (frozenset({1}) if now_ms >= 5_100 else frozenset())


def test_another_life_of_a_dead_supervisor_ends_its_being_unreachable() -> None:
    one = watching(members(3))
    hear(one, 1, 0)
    one.gone(1, 100)
    one.tick(100)
    hear(one, 1, 200)  # what the dead one still had in the network
    one.tick(200)
    assert one.unreachable == {1}
    hear(one, 1, 300, 2 << 32)
    one.tick(300)
    assert one.unreachable == frozenset()


def test_what_is_certain_of_a_stranger_is_nothing() -> None:
    one = watching(members(2))
    assert one.gone(7, 100) == []
    assert one.gone(0, 100) == []


def test_time_in_which_this_process_did_not_run_replaces_nobody() -> None:
    one = watching(members(3))
    hear(one, 1, 0)
    one.gone(1, 100)
    one.tick(100)
    one.tick(60_000)
    assert one.expired == frozenset()
    for now_ms in range(60_100, 64_500, 100):
        one.tick(now_ms)
    assert one.expired == frozenset()
    for now_ms in range(64_500, 66_000, 100):
        one.tick(now_ms)
    assert one.expired == {1}


def test_the_split_is_healed_step_by_step_and_each_step_waits_until_it_is_done() -> None:
    record = members(1)
    one = watching(record)
    one.tick(0)
    assert one.steps(0) == []
    assert one.may_rebalance
    one.adopt(members(2))
    assert one.steps(100) == []
    assert (one.stage, one.may_rebalance) == (Stage.SPLIT, False)
    one.adopt(record)
    one.steps(200)
    (step,) = one.steps(1_300)
    assert step.step is Stage.RECORD
    assert one.steps(1_400) == []
    assert one.steps(2_400) == [step], "it is asked for again"
    seen = []
    steps = [step]
    while steps:
        seen.append(steps[0].step)
        steps = one.done(steps[0], 2_500)
    assert seen[-1] is Stage.REPORT
    assert one.stage is Stage.RESTING
    one.steps(5_000)
    assert one.may_rebalance


def test_members_that_leave_the_record_are_watched_no_more() -> None:
    record = members(3)
    one = watching(record)
    hear(one, 1, 0)
    one.gone(1, 100)
    one.tick(100)
    one.adopt(dataclasses.replace(record, members=record.members[:1]))
    one.tick(200)
    assert one.unreachable == frozenset()
    assert one.contacts == (0,)
