"""Replicated types: examples, refusals, and what garbage may not become."""

from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jido_state.crdt import (
    CrdtFormatError,
    CrdtValueError,
    Delta,
    GCounter,
    LWWMap,
    LWWRegister,
    MVRegister,
    ORSet,
    PNCounter,
    RetiredActorError,
)
from jido_state.crdt.values import decode, encode
from jido_state.dots import Acting, Actor, Dot, VersionVector
from jido_state.hlc import NO_STAMP, Stamp
from jido_state.versions import Ballot
from tests.state.values import ACTORS, DOTS, STAMPS, vectors

A, B = Ballot(0, 1, 1, 0), Ballot(0, 1, 2, 1)
APART = Acting(1, 1, 1)
TYPES: tuple[Any, ...] = (GCounter, PNCounter, ORSet, LWWMap, LWWRegister, MVRegister, Delta)
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 64) - 1) | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


class Colour(StrEnum):
    RED = "red"


def test_an_increment_on_each_side_counts_twice() -> None:
    """The leader counts under its ballot and an acting replica under its period: both stay."""
    base = GCounter().increment(A, 3)
    here, there = base.increment(B, 2), base.increment(APART, 4)
    assert here.merge(there).value == 9
    # One actor for both would have lost the smaller of the two.
    assert base.increment(A, 2).merge(base.increment(A, 4)).value == 7


def test_an_item_added_again_survives_a_concurrent_discard() -> None:
    """The discard removes what it has seen; without the second add the item goes."""
    base = ORSet().add(A, "x")
    discarded = base.discard("x")
    assert discarded.merge(base.add(APART, "x")).value == ["x"]
    assert discarded.merge(base).value == []
    assert base.merge(discarded).value == []


def test_what_was_discarded_leaves_nothing_behind() -> None:
    """A thousand items that came and went take no more room than one."""
    once = ORSet().add(A, "x").discard("x")
    often = ORSet()
    for number in range(1000):
        often = often.add(A, number).discard(number)
    assert len(often.to_bytes()) <= len(once.to_bytes()) + 2


def test_folding_many_actors_leaves_one_per_source() -> None:
    """After a hundred leaders and periods, all are forgotten but their sum; no value changes."""
    counter, items = GCounter(), ORSet()
    actors: list[Actor] = [Ballot(0, 1, number, 0) for number in range(100)]
    actors += [Acting(2, number, 1) for number in range(100)]
    for number, actor in enumerate(actors):
        counter = counter.increment(actor, number)
        items = items.add(actor, number % 5)
    folded, few = counter.fold(actors), items.fold(actors)
    assert folded.value == counter.value
    assert (len(folded.counts), len(folded.folded)) == (0, 2)
    assert few.value == items.value
    assert (len(few.context.numbers), len(few.context.floors)) == (0, 2)
    assert folded.merge(counter) == counter.merge(folded) == folded
    assert few.merge(items) == items.merge(few) == few


def test_a_delta_carries_a_later_fold() -> None:
    """A copy that was folded less far is folded as far, from the delta as from the whole."""
    early = GCounter().increment(A, 1).increment(B, 2).fold([A])
    late = early.fold([B])
    assert early.merge_delta(late.delta_since(early.context)) == early.merge(late) == late
    assert late.merge_delta(early.delta_since(late.context)) == late


def test_a_folded_actor_changes_nothing_any_more() -> None:
    """Every type that keeps actors refuses it, and those before it, by name."""
    for actor in (A, A._replace(round=0)):
        for change in (
            lambda actor=actor: GCounter().fold([A]).increment(actor),
            lambda actor=actor: PNCounter().fold([A]).decrement(actor),
            lambda actor=actor: ORSet().fold([A]).add(actor, 1),
            lambda actor=actor: MVRegister().fold([A]).set(actor, 1),
            lambda actor=actor: LWWMap().fold([A]).set(Stamp(1, 0, (*actor, 1)), "k", 1),
        ):
            with pytest.raises(RetiredActorError, match="folded"):
                change()
    assert GCounter().fold([A]).increment(B).increment(APART).value == 2


def test_a_counter_refuses_what_it_cannot_count() -> None:
    """Negative, too large or no whole number; the counter is as before."""
    with pytest.raises(CrdtValueError, match="by -1"):
        GCounter().increment(A, -1)
    with pytest.raises(CrdtValueError, match="by -2"):
        PNCounter().decrement(A, -2)
    with pytest.raises(CrdtValueError, match="makes more than"):
        GCounter().increment(A, 1 << 62).increment(A)
    half: Any = 0.5
    with pytest.raises(TypeError, match="integer"):
        GCounter().increment(A, half)
    assert GCounter().increment(A, 0) == GCounter()


def test_a_value_set_later_wins_over_a_clock_that_is_ahead() -> None:
    """What was seen is overwritten, whatever its stamp: in a register and in a map."""
    ahead, behind = Stamp(9_999, 0, (*A, 1)), Stamp(5, 0, (*B, 1))
    register = LWWRegister().set(ahead, "old").set(behind, "new")
    assert register.value == "new"
    assert register.stamp > ahead
    assert LWWRegister().set(ahead, "old").merge(register).value == "new"
    mapping = LWWMap().set(ahead, "k", "old").set(behind, "k", "new")
    assert mapping.value == [("k", "new")]
    assert LWWMap().set(ahead, "k", "old").merge(mapping).get("k") == "new"
    assert (LWWRegister().value, LWWMap().get("k", 7)) == (None, 7)


def test_of_two_values_in_one_turn_the_second_stays() -> None:
    """Both have the turn's stamp."""
    stamp = Stamp(5, 0, (*A, 1))
    assert LWWRegister().set(stamp, "z").set(stamp, "a").value == "a"
    assert LWWMap().set(stamp, "k", "z").set(stamp, "k", "a").get("k") == "a"


def test_a_register_shows_all_concurrent_values() -> None:
    """Until one is set on top of them; equal ones count as one."""
    one, two = MVRegister().set(A, "x"), MVRegister().set(APART, "y")
    both = one.merge(two)
    assert both.value == ["x", "y"]
    assert both.set(B, "z").merge(both).value == ["z"]
    assert one.merge(MVRegister().set(APART, "x")).value == ["x"]
    assert MVRegister().value == []


def test_values_are_copies() -> None:
    """Changing what a type gave out, or was given, changes nothing in it."""
    given = ["a"]
    register = LWWRegister().set(Stamp(1, 0, (*A, 1)), given)
    given.append("b")
    register.value.append("c")
    assert register.value == ["a"]


def test_a_delta_is_for_whom_it_was_made() -> None:
    """A copy that lacks what came before refuses it and is unchanged."""
    base = ORSet().add(A, 1)
    delta = base.add(A, 2).delta_since(base.context)
    assert base.merge_delta(delta).value == [1, 2]
    with pytest.raises(CrdtValueError, match="ask again"):
        ORSet().merge_delta(delta)
    register = LWWRegister().set(Stamp(1, 0, (*A, 1)), "x")
    assert register.delta_since(register.context) == LWWRegister()
    assert register.delta_since(NO_STAMP) == register


@given(PLAIN)
def test_plain_values_are_kept(value: Any) -> None:
    """Through their bytes they are equal, and equal values have equal bytes."""
    assert decode(encode(value)) == value
    assert encode(decode(encode(value))) == encode(value)


def test_dictionaries_have_one_form() -> None:
    """The order in which keys were put in does not make another item."""
    assert ORSet().add(A, {"a": 1, "b": 2}).has({"b": 2, "a": 1})


@pytest.mark.parametrize(
    "value",
    [object(), {1: 2}, {"a": {3}}, 1 << 64, Colour.RED, datetime(2026, 1, 1, tzinfo=UTC), "\ud800"],
    ids=repr,
)
def test_what_would_come_back_as_something_else_is_refused(value: Any) -> None:
    """The error names the value and what may be kept."""
    with pytest.raises(CrdtValueError, match="cannot be kept"):
        ORSet().add(A, value)


@given(st.binary(), st.sampled_from(TYPES))
def test_garbage_is_no_value(data: bytes, kind: Any) -> None:
    """Bytes of nothing raise the one error."""
    with pytest.raises(CrdtFormatError):
        kind.from_bytes(data)


@pytest.mark.parametrize("kind", TYPES, ids=lambda kind: kind.__name__)
def test_bytes_of_another_type_are_refused(kind: Any) -> None:
    """The error says of which type they are; so do counts that cannot be."""
    for other in TYPES[:-1]:
        if other is not kind:
            with pytest.raises(CrdtFormatError, match=f"bytes of '{other.__name__}'"):
                kind.from_bytes(other().to_bytes())
    below = GCounter({A: (1, -1)})  # type: ignore[dict-item]
    with pytest.raises(CrdtFormatError, match="negative"):
        GCounter.from_bytes(below.to_bytes())


# Dots, vectors and stamps


@given(vectors(), vectors(), vectors(), DOTS)
def test_vectors_join_to_what_either_has_seen(
    one: VersionVector, two: VersionVector, three: VersionVector, dot: Dot
) -> None:
    """Joining is a least upper bound: nothing more, nothing less; through its data it is equal."""
    both = one.join(two)
    assert both == two.join(one)
    assert both.join(three) == one.join(two.join(three))
    assert one.join(one) == one
    assert both.covers(dot) == (one.covers(dot) or two.covers(dot))
    assert both.dominates(one)
    assert both.dominates(two)
    assert one.dominates(both) == (both == one)
    if one.dominates(two) and two.covers(dot):
        assert one.covers(dot)
    assert VersionVector.from_data(both.to_data()) == both


@given(vectors(), DOTS, st.lists(ACTORS, max_size=2), DOTS)
def test_adding_and_folding_only_add(
    vector: VersionVector, dot: Dot, actors: list[Actor], other: Dot
) -> None:
    """A dot brings the actor's dots before it; folding brings actors whole; nothing is lost."""
    more = vector.add(dot)
    assert more.covers(dot)
    assert more.covers((*dot[:-1], 1))
    assert more.dominates(vector)
    folded = vector.fold(actors)
    assert all(folded.covers((*actor, 10**9)) for actor in actors)
    if vector.covers(other):
        assert folded.covers(other)
        assert more.covers(other)
    assert folded.dominates(vector)


def test_a_source_is_folded_in_its_own_order() -> None:
    """Ballots and each node's periods have floors of their own."""
    vector = VersionVector({}, {}).fold([A, Acting(2, 3, 1)])
    assert vector.covers((*A._replace(round=0), 5))
    assert not vector.covers((*B, 1))
    assert vector.covers(Acting(2, 2, 9).dot(1))
    assert not vector.covers(Acting(2, 3, 2).dot(1))
    assert not vector.covers(Acting(1, 1, 1).dot(1))
    assert vector.last(A) == 0


@given(STAMPS, STAMPS, st.integers(0, 2_000), DOTS)
def test_stamps_rise_whatever_the_clock_says(
    stamp: Stamp, other: Stamp, wall_ms: int, dot: Dot
) -> None:
    """The next one is above, and no further from the wall clock than it has to be."""
    following = stamp.next(wall_ms, dot)
    assert following > stamp
    assert following.wall_ms == max(stamp.wall_ms, wall_ms)
    assert following.dot == dot
    assert stamp.adopt(other, wall_ms) == max(stamp, other)


def test_a_clock_that_is_far_ahead_is_not_followed() -> None:
    """60 s is followed, more is not."""
    own = Stamp(1_000, 0, (*A, 1))
    near, far = Stamp(61_000, 0, (*B, 1)), Stamp(61_001, 0, (*B, 1))
    assert own.adopt(near, 1_000) == near
    assert own.adopt(far, 1_000) == own
