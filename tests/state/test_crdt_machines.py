"""Every replicated type against its definition, over replicas that exchange what they like.

The definition is written once, for the whole history: which changes has a replica seen, and what
had each of these seen when it was made. The replicas know nothing of that; they have values.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from jido_state.crdt import (
    Delta,
    GCounter,
    LWWMap,
    LWWRegister,
    MVRegister,
    ORSet,
    PNCounter,
)
from jido_state.dots import Acting, Actor
from jido_state.hlc import NO_STAMP, Stamp
from jido_state.versions import Ballot

REPLICAS = 3
WHICH = st.integers(0, REPLICAS - 1)
ITEMS = st.sampled_from(("a", "b", 1, True))


class Change(NamedTuple):
    """A change and all changes that its replica had seen."""

    name: str
    args: tuple[Any, ...]
    seen: frozenset[int]
    stamp: Stamp


class Replicas(RuleBasedStateMachine):
    """Three replicas of one value; the first changes it under ballots, the others by acting."""

    new: Callable[[], Any]

    @initialize()
    def begin(self) -> None:
        self.values = [type(self).new() for _ in range(REPLICAS)]
        self.seen: list[frozenset[int]] = [frozenset()] * REPLICAS
        self.history: list[Change] = []
        self.periods = [1] * REPLICAS
        self.over: list[Actor] = []  # whose changes every replica has
        self.wire: list[tuple[bytes, frozenset[int]]] = []

    def actor(self, replica: int) -> Actor:
        period = self.periods[replica]
        return Ballot(0, 1, period, 0) if replica == 0 else Acting(replica, 1, period)

    def stamp(self, replica: int, wall_ms: int) -> Stamp:
        return Stamp(wall_ms, 0, (*self.actor(replica), len(self.history) + 1))

    def changed(self, replica: int, value: Any, stamp: Stamp, name: str, *args: Any) -> None:
        self.values[replica] = value
        self.history.append(Change(name, args, self.seen[replica], stamp))
        self.seen[replica] |= {len(self.history) - 1}

    def live(self, replica: int, *names: str) -> list[Change]:
        """The changes of these names seen, less those that another one seen has replaced."""
        seen = sorted(self.seen[replica])
        return [
            self.history[one]
            for one in seen
            if self.history[one].name in names
            and not any(
                one in self.history[other].seen and self.replaces(other, one) for other in seen
            )
        ]

    def replaces(self, later: int, earlier: int) -> bool:
        return self.history[later].args[:1] == self.history[earlier].args[:1]

    @rule(origin=WHICH, into=WHICH)
    def merge(self, origin: int, into: int) -> None:
        copy = type(self.values[origin]).from_bytes(self.values[origin].to_bytes())
        assert copy == self.values[origin]
        self.values[into] = self.values[into].merge(copy)
        self.seen[into] |= self.seen[origin]

    @rule(origin=WHICH, into=WHICH)
    def merge_delta(self, origin: int, into: int) -> None:
        delta = self.values[origin].delta_since(self.values[into].context)
        copy = type(delta).from_bytes(delta.to_bytes())
        assert copy == delta
        whole = self.values[into].merge(self.values[origin])
        self.values[into] = self.values[into].merge_delta(copy)
        assert self.values[into] == whole
        self.seen[into] |= self.seen[origin]

    @rule(origin=WHICH)
    def send(self, origin: int) -> None:
        self.wire.append((self.values[origin].to_bytes(), self.seen[origin]))

    @precondition(lambda self: self.wire)
    @rule(into=WHICH, data=st.data())
    def receive_late(self, into: int, data: st.DataObject) -> None:
        sent, seen = data.draw(st.sampled_from(self.wire))
        self.values[into] = self.values[into].merge(type(self).new().from_bytes(sent))
        self.seen[into] |= seen

    @rule(replica=WHICH)
    def begin_again(self, replica: int) -> None:
        """A new period or ballot: the old actor changes nothing any more."""
        self.periods[replica] += 1

    @rule()
    def all_meet(self) -> None:
        """Every replica has everything, and its actor is over; older copies may be on their way."""
        for replica in (*range(1, REPLICAS), *range(1, REPLICAS)):
            self.merge(replica, 0)
            self.merge(0, replica)
        assert len(set(self.seen)) == 1
        assert len({value.to_bytes() for value in self.values}) == 1
        self.over = [self.actor(replica) for replica in range(REPLICAS)]
        self.periods = [period + 1 for period in self.periods]

    @precondition(lambda self: self.over)
    @rule(replica=WHICH, data=st.data())
    def fold(self, replica: int, data: st.DataObject) -> None:
        actors = data.draw(st.lists(st.sampled_from(self.over), max_size=3))
        before = self.values[replica].value
        self.values[replica] = self.values[replica].fold(actors)
        assert self.values[replica].value == before

    @invariant()
    def is_as_defined(self) -> None:
        for replica, value in enumerate(self.values):
            assert value.value == self.expected(replica)
            assert value.merge(value) == value

    def expected(self, replica: int) -> Any:
        raise NotImplementedError

    def teardown(self) -> None:
        """Merging commutes and associates, from wherever the replicas have come."""
        if not hasattr(self, "values"):
            return
        one, two, three = self.values
        assert one.merge(two) == two.merge(one)
        assert one.merge(two).merge(three) == one.merge(two.merge(three))


class GCounters(Replicas):
    new = GCounter

    @rule(replica=WHICH, by=st.integers(0, 9))
    def increment(self, replica: int, by: int) -> None:
        value = self.values[replica].increment(self.actor(replica), by)
        self.changed(replica, value, NO_STAMP, "count", by)

    def expected(self, replica: int) -> int:
        return sum(self.history[one].args[0] for one in self.seen[replica])


class PNCounters(GCounters):
    new = PNCounter

    @rule(replica=WHICH, by=st.integers(0, 9))
    def decrement(self, replica: int, by: int) -> None:
        value = self.values[replica].decrement(self.actor(replica), by)
        self.changed(replica, value, NO_STAMP, "count", -by)


class ORSets(Replicas):
    new = ORSet

    @rule(replica=WHICH, item=ITEMS)
    def add(self, replica: int, item: Any) -> None:
        value = self.values[replica].add(self.actor(replica), item)
        self.changed(replica, value, NO_STAMP, "add", repr(item), item)
        assert value.has(item)

    @rule(replica=WHICH, item=ITEMS)
    def discard(self, replica: int, item: Any) -> None:
        value = self.values[replica].discard(item)
        self.changed(replica, value, NO_STAMP, "discard", repr(item))
        assert not value.has(item)

    def expected(self, replica: int) -> list[Any]:
        items = {change.args[0]: change.args[1] for change in self.live(replica, "add")}
        return [items[name] for name in ("1", "'a'", "'b'", "True") if name in items]


class LWWRegisters(Replicas):
    new = LWWRegister

    @rule(replica=WHICH, content=st.integers(0, 99), wall_ms=st.integers(0, 5))
    def set(self, replica: int, content: int, wall_ms: int) -> None:
        given = self.stamp(replica, wall_ms)
        stamps = [self.history[one].stamp for one in self.seen[replica]]
        latest = max(stamps, default=NO_STAMP)
        stamp = given if given.wall_ms > latest.wall_ms else latest.next(wall_ms, given.dot)
        value = self.values[replica].set(given, content)
        self.changed(replica, value, max(stamp, given), "set", content)

    def expected(self, replica: int) -> Any:
        changes = [self.history[one] for one in self.seen[replica]]
        return max(changes, key=lambda change: change.stamp).args[0] if changes else None


class LWWMaps(Replicas):
    new = LWWMap

    @rule(replica=WHICH, key=ITEMS, content=st.integers(0, 99), wall_ms=st.integers(0, 5))
    def set(self, replica: int, key: Any, content: int, wall_ms: int) -> None:
        given = self.stamp(replica, wall_ms)
        name = repr(key)
        stamps = [one.stamp for one in self.live(replica, "set") if one.args[0] == name]
        stamp = max([given, *(one.next(wall_ms, given.dot) for one in stamps)])
        value = self.values[replica].set(given, key, content)
        self.changed(replica, value, stamp, "set", name, key, content)
        assert (value.has(key), value.get(key)) == (True, content)

    @rule(replica=WHICH, key=ITEMS)
    def discard(self, replica: int, key: Any) -> None:
        value = self.values[replica].discard(key)
        self.changed(replica, value, NO_STAMP, "discard", repr(key))
        assert (value.has(key), value.get(key, "none")) == (False, "none")

    def expected(self, replica: int) -> list[tuple[Any, Any]]:
        live = sorted(self.live(replica, "set"), key=lambda change: change.stamp)
        values = {change.args[0]: change.args[1:] for change in live}
        return [values[name] for name in ("1", "'a'", "'b'", "True") if name in values]


class MVRegisters(Replicas):
    new = MVRegister

    @rule(replica=WHICH, content=st.integers(0, 20))
    def set(self, replica: int, content: int) -> None:
        value = self.values[replica].set(self.actor(replica), content)
        self.changed(replica, value, NO_STAMP, "set", content)
        assert value.value == [content]

    def replaces(self, later: int, earlier: int) -> bool:
        return True

    def expected(self, replica: int) -> list[int]:
        return sorted({change.args[0] for change in self.live(replica, "set")})


def test_a_delta_is_smaller_than_the_whole() -> None:
    """What the other has seen goes as dots, without the items."""
    big = ORSet()
    for number in range(100):
        big = big.add(Ballot(0, 1, 1, 0), f"a rather long item {number}")
    more = big.add(Ballot(0, 1, 2, 0), "new")
    delta = more.delta_since(big.context)
    assert isinstance(delta, Delta)
    assert len(delta.to_bytes()) < len(more.to_bytes()) / 2
    assert big.merge_delta(delta) == more


TestGCounters = GCounters.TestCase
TestPNCounters = PNCounters.TestCase
TestORSets = ORSets.TestCase
TestLWWRegisters = LWWRegisters.TestCase
TestLWWMaps = LWWMaps.TestCase
TestMVRegisters = MVRegisters.TestCase
for _machine in (GCounters, PNCounters, ORSets, LWWRegisters, LWWMaps, MVRegisters):
    _machine.TestCase.settings = settings(stateful_step_count=25)
