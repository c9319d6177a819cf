"""What a leader makes of entries: who wins, what is logged, and that the order does not matter."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jido_state.codec import CorruptRowError, seal_row
from jido_state.dedupe import NO_OPERATIONS
from jido_state.divergence import MAX_SIBLINGS, NO_SIBLINGS, Entry, Siblings, SiblingsFull
from jido_state.dots import NOTHING_SEEN, Acting, Dot, VersionVector
from jido_state.merge import Merged, Reason, Resolve, merge
from jido_state.record import Record
from jido_state.timers import Timer, Timers
from jido_state.versions import NO_BALLOT, NO_VERSION, Ballot, Version
from tests.state.partition import NODES, Partition, count, line, merge_counts

B1, B2 = Ballot(0, 1, 1, 0), Ballot(0, 1, 2, 1)
BASE, NEXT, MERGING = B1.version(1), B1.version(2), B2.version(1)
HERE, THERE = Acting(1, 1, 1), Acting(2, 1, 1)


def born(dot: Dot = BASE, *, type: str = "t", state: bytes = b"base", wall_ms: int = 0) -> Record:
    blank = Record.blank(type=type, state=state)
    if isinstance(dot, Version):
        return blank.completed(
            version=dot, generation=dot, born_op=None, dedupe=NO_OPERATIONS, wall_ms=wall_ms
        )
    return blank.acted(dot=dot, generation=dot, born_op=None, dedupe=NO_OPERATIONS, wall_ms=wall_ms)


def turn(
    before: Record, dot: Dot, state: bytes = b"", *, wall_ms: int = 0, ends: bool = False
) -> Record:
    """The record after one more turn, with or without a quorum."""
    start = replace(before, state=state)
    if isinstance(dot, Version):
        return start.completed(
            version=dot,
            generation=before.generation,
            born_op=None,
            dedupe=NO_OPERATIONS,
            tomb=dot.ballot if ends else None,
            wall_ms=wall_ms,
        )
    return start.acted(
        dot=dot,
        generation=before.generation,
        born_op=None,
        dedupe=NO_OPERATIONS,
        is_tomb=ends,
        wall_ms=wall_ms,
    )


def entry(record: Record, dot: Dot, base: Version = BASE) -> Entry:
    return Entry(dot, base, record)


def merged(
    register: Record | None, *entries: Entry, resolve: Resolve | None = None, wall_ms: int = 0
) -> Merged:
    return merge(
        register,
        Siblings(tuple(sorted(entries, key=lambda one: one.dot))),
        version=MERGING,
        now_ms=0,
        wall_ms=wall_ms,
        resolve=resolve,
    )


def join_states(records: Sequence[Record], winner: int) -> tuple[int, bytes]:
    """Tells what a merge was given."""
    return winner, b"+".join(record.state for record in records)


# What is taken


def test_an_entry_that_has_seen_the_register_takes_its_place() -> None:
    """Nothing is concurrent: no conflict, and the type's merge is not asked."""
    register = born()
    acted = turn(register, HERE.dot(1), b"acted")
    result = merged(register, entry(acted, HERE.dot(1)), resolve=join_states)
    assert result.record is not None
    assert (result.record.state, result.conflicts) == (b"acted", ())
    assert result.dots == (HERE.dot(1),)
    assert result.record.version == MERGING
    assert result.record.merged.covers(MERGING)
    assert result.record.merged.covers(HERE.dot(1))
    assert result.record.merged.covers(BASE)


def test_what_is_merged_already_changes_nothing() -> None:
    """Entries that the register has seen are ignored, however often they come."""
    register = born()
    one = entry(turn(register, HERE.dot(1), b"acted"), HERE.dot(1))
    result = merged(register, one)
    assert result.record is not None
    assert merged(result.record, one) == Merged(None)
    assert merged(register) == merged(None) == Merged(None)


def test_of_concurrent_values_the_higher_stamp_is_taken_and_the_other_logged() -> None:
    """Whichever side has it; with equal times the dot decides."""
    register = born()
    for here_ms, there_ms, winner in ((10, 20, b"quorum"), (20, 10, b"acted"), (5, 5, b"acted")):
        acted = entry(turn(register, HERE.dot(1), b"acted", wall_ms=here_ms), HERE.dot(1))
        quorum = turn(register, NEXT, b"quorum", wall_ms=there_ms)
        result = merged(quorum, acted)
        assert result.record is not None
        assert result.record.state == winner
        (conflict,) = result.conflicts
        assert conflict.reason is Reason.VALUE
        assert {conflict.record.state, winner} == {b"acted", b"quorum"}
        assert conflict.dot == (NEXT if winner == b"acted" else HERE.dot(1))


def test_the_types_own_merge_gets_all_values_and_the_place_of_the_latest() -> None:
    """The register's first, then by dot; what it gives is taken whole and nothing is logged."""
    register = born()
    quorum = turn(register, NEXT, b"q", wall_ms=5)
    here = entry(turn(register, HERE.dot(1), b"h", wall_ms=9), HERE.dot(1))
    there = entry(turn(register, THERE.dot(1), b"t", wall_ms=7), THERE.dot(1))
    result = merged(quorum, there, here, resolve=join_states)
    assert result.record is not None
    assert (result.record.state, result.record.schema) == (b"q+h+t", 1)
    assert result.conflicts == ()
    assert result.record.stamp == here.record.stamp


def test_a_merge_that_fails_leaves_the_latest_value() -> None:
    """The others are logged, and the error's type is told without its text."""

    def fail(records: Sequence[Record], winner: int) -> tuple[int, bytes]:
        raise LookupError(records[winner].state)

    register = born()
    quorum = turn(register, NEXT, b"q", wall_ms=5)
    here = entry(turn(register, HERE.dot(1), b"h", wall_ms=9), HERE.dot(1))
    result = merged(quorum, here, resolve=fail)
    assert result.record is not None
    assert (result.record.state, result.failure) == (b"h", "LookupError")
    assert [each.record.state for each in result.conflicts] == [b"q"]


@pytest.mark.parametrize("ends_here", [True, False])
def test_an_update_wins_over_a_delete(ends_here: bool) -> None:
    """On whichever side the delete was, and however late; it is logged."""
    register = born()
    acted = turn(register, HERE.dot(1), b"acted", ends=ends_here, wall_ms=9)
    quorum = turn(register, NEXT, b"quorum", ends=not ends_here, wall_ms=9)
    result = merged(quorum, entry(acted, HERE.dot(1)), resolve=join_states)
    assert result.record is not None
    assert not result.record.is_tomb
    assert result.record.state == (b"quorum" if ends_here else b"acted")
    assert [each.reason for each in result.conflicts] == [Reason.DELETED]


def test_a_delete_that_has_seen_everything_deletes() -> None:
    """The tombstone is the merging ballot's, so that it is reaped by the rule."""
    register = born()
    acted = turn(register, HERE.dot(1), ends=True)
    assert acted.tomb == NO_BALLOT
    result = merged(register, entry(acted, HERE.dot(1)))
    assert result.record is not None
    assert (result.record.tomb, result.conflicts) == (B2, ())
    both = merged(turn(register, NEXT, ends=True), entry(acted, HERE.dot(1)))
    assert both.record is not None
    assert (both.record.tomb, both.conflicts) == (B2, ())


def test_an_update_that_wins_over_a_delete_keeps_its_timers() -> None:
    """The delete cleared them all; it did not happen. A tombstone has none."""
    timers = Timers().set(Timer("a", BASE, 5, 1, b"", b""))
    assert isinstance(timers, Timers)
    register = replace(born(), timers=timers)
    gone = turn(register, HERE.dot(1), ends=True)
    quorum = turn(register, NEXT, b"quorum")
    for result in (
        merged(quorum, entry(gone, HERE.dot(1))),
        merged(turn(register, NEXT, ends=True), entry(turn(register, HERE.dot(1)), HERE.dot(1))),
    ):
        assert result.record is not None
        assert result.record.timers == timers
    deleted = merged(register, entry(gone, HERE.dot(1)))
    assert deleted.record is not None
    assert deleted.record.timers == Timers()


def test_of_different_types_the_registers_is_taken() -> None:
    """The other is logged whole, timers too. Without a register the later one is taken."""
    timers = Timers().set(Timer("a", HERE.dot(1), 5, 1, b"", b""))
    assert isinstance(timers, Timers)
    register = born(NEXT, type="mine", state=b"m")
    other = replace(born(HERE.dot(1), type="other", state=b"o", wall_ms=9), timers=timers)
    result = merged(register, entry(other, HERE.dot(1), NO_VERSION), resolve=join_states)
    assert result.record is not None
    assert (result.record.type, result.record.state) == ("mine", b"m")
    assert [each.reason for each in result.conflicts] == [Reason.TYPE]
    assert result.conflicts[0].record == other
    assert result.record.timers == Timers()
    third = born(THERE.dot(1), type="third", wall_ms=5)
    apart = merged(None, entry(other, HERE.dot(1)), entry(third, THERE.dot(1)))
    assert apart.record is not None
    assert apart.record.type == "other"
    assert [each.reason for each in apart.conflicts] == [Reason.TYPE]


def test_the_registers_type_is_taken_though_its_value_is_replaced() -> None:
    """As if the entry that replaces it had come first. A deleted register has no say."""
    register = born(type="mine")
    mine = entry(turn(register, HERE.dot(1), b"m", wall_ms=1), HERE.dot(1))
    other = entry(born(THERE.dot(1), type="other", wall_ms=9), THERE.dot(1), NO_VERSION)
    result = merged(register, mine, other)
    assert result.record is not None
    assert (result.record.type, result.record.state) == ("mine", b"m")
    assert [each.dot for each in result.conflicts] == [THERE.dot(1)]
    changed = entry(replace(mine.record, type="changed"), HERE.dot(1))
    result = merged(register, changed, other)
    assert result.record is not None
    assert result.record.type == "other"
    result = merged(turn(register, NEXT, ends=True), mine, other)
    assert result.record is not None
    assert result.record.type == "other"


def test_agents_that_were_made_apart_are_merged() -> None:
    """Both sides made `k`: twins, also when more of one of them comes later."""
    quorum = born(NEXT, state=b"q")
    here = born(HERE.dot(1), state=b"h")
    first = merged(quorum, entry(here, HERE.dot(1), NO_VERSION), resolve=join_states)
    assert first.record is not None
    assert first.record.state == b"q+h"
    assert {first.record.generation, *first.record.twins} == {tuple(NEXT), HERE.dot(1)}
    more = turn(here, HERE.dot(2), b"h2")
    second = merged(first.record, entry(more, HERE.dot(2), NO_VERSION), resolve=join_states)
    assert second.record is not None
    assert (second.record.state, second.conflicts) == (b"q+h+h2", ())


def test_lives_that_followed_each_other_are_not_mixed() -> None:
    """Deleted and made again with a quorum, used apart: the later is taken, the other is logged."""
    register = born()
    dead = turn(register, NEXT, ends=True)
    again = Record.blank(type="t", state=b"again").after(dead)
    reborn = again.completed(
        version=B1.version(3),
        generation=B1.version(3),
        born_op=None,
        dedupe=NO_OPERATIONS,
        wall_ms=10,
    )
    for wall_ms, winner in ((5, b"again"), (20, b"old")):
        old = turn(register, HERE.dot(1), b"old", wall_ms=wall_ms)
        result = merged(reborn, entry(old, HERE.dot(1)), resolve=join_states)
        assert result.record is not None
        assert result.record.state == winner
        assert [each.reason for each in result.conflicts] == [Reason.LIFE]
        assert result.record.twins == ()


def test_a_wrong_clock_wins_once_and_is_not_carried_on() -> None:
    """A value from an hour ahead is taken; the merged record's stamp is not an hour ahead."""
    register = born()
    hour = 3_600_000
    ahead = entry(turn(register, HERE.dot(1), b"ahead", wall_ms=hour), HERE.dot(1))
    quorum = turn(register, NEXT, b"quorum", wall_ms=1_000)
    result = merged(quorum, ahead, wall_ms=2_000)
    assert result.record is not None
    assert result.record.state == b"ahead"
    assert result.record.stamp == quorum.stamp


# The order does not matter


@st.composite
def worlds(draw: st.DrawFn, resolve: Resolve | None) -> Partition:
    """Replicas that have acted apart, and nothing merged yet."""
    world = Partition(resolve)
    which = st.integers(0, NODES - 1)
    for _ in range(draw(st.integers(1, 12))):
        kind = draw(st.sampled_from(("turn", "act", "act", "act", "replicate", "meet", "restart")))
        if kind == "turn":
            world.turn(draw(st.integers(0, 50)))
        elif kind == "act":
            world.act(draw(which), draw(st.integers(0, 50)), clears=draw(st.booleans()))
        elif kind == "meet":
            world.exchange(draw(which), draw(which))
        else:
            getattr(world, kind)(draw(which))
    return world


def rounds(world: Partition, order: Sequence[Entry]) -> Record | None:
    """The register after the entries came one at a time."""
    register = world.register
    for one in order:
        siblings = Siblings((one,))
        result = merge(
            register, siblings, version=MERGING, now_ms=0, wall_ms=50, resolve=world.resolve
        )
        register = register if result.record is None else result.record
    return register


@pytest.mark.parametrize("resolve", [merge_counts, None])
@given(data=st.data())
def test_entries_may_come_in_any_order(resolve: Resolve | None, data: st.DataObject) -> None:
    """At once or one by one, in whatever order: state, signals, timers and history are equal."""
    world = data.draw(worlds(resolve))
    together = NO_SIBLINGS
    for siblings in world.siblings:
        together = together.sync(siblings)
    every = sorted({one.dot: one for each in world.siblings for one in each.entries}.items())
    if not every:
        return
    result = merge(world.register, together, version=MERGING, now_ms=0, wall_ms=50, resolve=resolve)
    one = result.record
    other = rounds(world, data.draw(st.permutations([each for _, each in every])))
    assert one is not None
    assert other is not None
    if resolve is None:
        assert line(one) == line(other)
        assert one.stamp == other.stamp
    else:
        assert count(one) == count(other)
    assert (one.outbox, one.timers, one.merged) == (other.outbox, other.timers, other.merged)
    assert one.lives == other.lives
    assert one.dedupe == other.dedupe


# Entries


def entries_of(world: Partition) -> list[list[Dot]]:
    return [[one.dot for one in siblings.entries] for siblings in world.siblings]


def test_an_entry_takes_the_place_of_those_it_has_seen() -> None:
    """One replica has one entry, however many turns it has run; apart they are siblings."""
    world = Partition(None)
    for _ in range(3):
        world.act(0)
    world.act(1)
    assert entries_of(world) == [[(0, 1, 1, 3)], [(1, 1, 1, 1)], []]
    world.exchange(0, 1)
    world.exchange(1, 2)
    assert entries_of(world) == [[(0, 1, 1, 3), (1, 1, 1, 1)]] * 2 + [[(0, 1, 1, 3), (1, 1, 1, 1)]]
    world.act(2)
    world.exchange(0, 2)
    assert entries_of(world)[0] == [(2, 1, 1, 1)]
    assert entries_of(world)[1] == [(0, 1, 1, 3), (1, 1, 1, 1)]


def test_only_covered_entries_are_deleted() -> None:
    """By what the committed record has seen, not by what was sent."""
    world = Partition(None)
    world.act(0)
    world.act(1)
    world.exchange(0, 1)
    siblings = world.siblings[0]
    left = siblings.without(NOTHING_SEEN.add((0, 1, 1, 1)))
    assert [one.dot for one in left.entries] == [(1, 1, 1, 1)]
    assert siblings.without(NOTHING_SEEN) is siblings
    assert siblings.seen() == NOTHING_SEEN.add((0, 1, 1, 1)).add((1, 1, 1, 1))


def test_too_many_siblings_refuse_a_turn_and_keep_what_is_acked() -> None:
    """A 65th side cannot begin; what other replicas send is taken all the same."""
    siblings = NO_SIBLINGS
    for number in range(MAX_SIBLINGS):
        dot = Acting(number, 1, 1).dot(1)
        added = siblings.add(entry(born(dot), dot))
        assert isinstance(added, Siblings)
        siblings = added
    dot = Acting(99, 1, 1).dot(1)
    refused = siblings.add(entry(born(dot), dot))
    assert isinstance(refused, SiblingsFull)
    assert "64 replicas" in refused.reason
    more = siblings.sync(Siblings((entry(born(dot), dot),)))
    assert len(more.entries) == MAX_SIBLINGS + 1
    seen = VersionVector({}, {}).join(more.seen())
    everything = replace(born(dot), merged=seen.add(Acting(99, 1, 1).dot(2)))
    last = more.add(entry(everything, Acting(99, 1, 1).dot(2)))
    assert isinstance(last, Siblings)
    assert len(last.entries) == 1


def test_a_divergence_row_is_not_a_record_and_not_anothers() -> None:
    """Shard, key and kind are sealed in; garbage under a good seal is corrupt."""
    siblings = Siblings((entry(born(HERE.dot(1)), HERE.dot(1)),))
    row = siblings.to_bytes(1, "k")
    assert Siblings.from_bytes(1, "k", row) == siblings
    for shard, key in ((2, "k"), (1, "l")):
        with pytest.raises(CorruptRowError):
            Siblings.from_bytes(shard, key, row)
    with pytest.raises(CorruptRowError):
        Record.from_bytes(1, "k", row)
    with pytest.raises(CorruptRowError):
        Siblings.from_bytes(1, "k", born().to_bytes(1, "k"))
    sealed = seal_row(1, "k\0divergence", NO_VERSION, 0, NO_BALLOT, b"\x91\x01")
    with pytest.raises(CorruptRowError, match="no divergence entries"):
        Siblings.from_bytes(1, "k", sealed)
