"""Counters: each actor counts for itself, and the value is the sum.

Theory. What one actor has counted only grows, so of two copies the higher number is the later one.
Actors that are over are folded into one number by source, together with the last actor it
contains; of two such numbers the one that contains more is the later one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import index
from typing import Any, ClassVar, Final, NamedTuple, Self

from jido_state.crdt.values import CrdtValueError, RetiredActorError, pack, unpack
from jido_state.dots import Actor, VersionVector, source_of

__all__ = ["GCounter", "PNCounter"]

MAX_COUNT: Final = 1 << 62  # of one actor and direction: sums of some stay within 64 bits


class _Counted(NamedTuple):
    ups: int
    downs: int

    def later(self, other: _Counted) -> _Counted:
        return _Counted(max(self.ups, other.ups), max(self.downs, other.downs))


class _Folded(NamedTuple):
    floor: Actor
    ups: int
    downs: int


@dataclass(frozen=True, slots=True)
class GCounter:
    """A counter that grows.

    Attributes:
        counts: By actor what it counted.
        folded: By source what its actors up to a floor counted together.
    """

    counts: Mapping[Actor, _Counted] = field(default_factory=dict)
    folded: Mapping[int, _Folded] = field(default_factory=dict)

    NAME: ClassVar[str] = "GCounter"

    @property
    def value(self) -> int:
        """The sum of all increments, less all decrements."""
        single = sum(each.ups - each.downs for each in self.counts.values())
        return single + sum(each.ups - each.downs for each in self.folded.values())

    def increment(self, actor: Actor, by: int = 1) -> Self:
        """Counts up.

        Raises:
            CrdtValueError: `by` is negative or too large.
            RetiredActorError: The actor was folded.
            TypeError: `by` is no integer.
        """
        return self._count(actor, by, 0)

    def _count(self, actor: Actor, up: int, down: int) -> Self:
        by = index(up or down)
        if by < 0:
            raise CrdtValueError(f"a counter cannot count by {by}: it must be an integer >= 0")
        folded = self.folded.get(source_of(actor))
        if folded is not None and actor <= folded.floor:
            raise RetiredActorError(f"{actor} is folded up to {folded.floor}: it counts no more")
        old = self.counts.get(actor, _Counted(0, 0))
        new = _Counted(old.ups + up, old.downs + down)
        if max(new) > MAX_COUNT:
            raise CrdtValueError(f"counting by {by} makes more than {MAX_COUNT}")
        if by == 0:
            return self
        return type(self)({**self.counts, tuple(actor): new}, self.folded)

    def merge(self, other: Self) -> Self:
        """What both have counted."""
        folded = dict(self.folded)
        for source, each in other.folded.items():
            folded[source] = max(each, folded.get(source, each))
        counts = dict(self.counts)
        for actor, counted in other.counts.items():
            counts[actor] = counted.later(counts.get(actor, counted))
        return self._normal(counts, folded)

    @property
    def context(self) -> VersionVector:
        """How far each actor's counting is known."""
        return VersionVector(
            {actor: ups + downs for actor, (ups, downs) in self.counts.items()},
            {source: each.floor for source, each in self.folded.items()},
        )

    def delta_since(self, context: VersionVector) -> Self:
        """What a copy with this context lacks; to be given to its `merge_delta`."""
        return type(self)(
            {
                actor: counted
                for actor, counted in self.counts.items()
                if not context.covers((*actor, counted.ups + counted.downs))
            },
            {
                source: each
                for source, each in self.folded.items()
                if source not in context.floors or context.floors[source] < each.floor
            },
        )

    def merge_delta(self, delta: Self) -> Self:
        """With what it lacked."""
        return self.merge(delta)

    def fold(self, actors: Iterable[Actor]) -> Self:
        """The same value, without these actors and those before them of their sources.

        All copies must have what they counted, as for `VersionVector.fold`.
        """
        floors = VersionVector({}, {}).fold(actors).floors
        folded = dict(self.folded)
        for source, floor in floors.items():
            old = folded.get(source, _Folded((), 0, 0))
            over = [
                counted
                for actor, counted in self.counts.items()
                if source_of(actor) == source and actor <= floor
            ]
            folded[source] = _Folded(
                max(floor, old.floor),
                old.ups + sum(counted.ups for counted in over),
                old.downs + sum(counted.downs for counted in over),
            )
        return self._normal(self.counts, folded)

    @classmethod
    def _normal(cls, counts: Mapping[Actor, _Counted], folded: Mapping[int, _Folded]) -> Self:
        kept = {
            actor: counted
            for actor, counted in counts.items()
            if (each := folded.get(source_of(actor))) is None or actor > each.floor
        }
        return cls(kept, folded)

    def to_data(self) -> list[Any]:
        """As lists of numbers, equal for equal counters."""
        return [
            [[list(actor), *counted] for actor, counted in sorted(self.counts.items())],
            [
                [source, list(floor), ups, downs]
                for source, (floor, ups, downs) in sorted(self.folded.items())
            ],
        ]

    @classmethod
    def from_data(cls, data: Sequence[Any]) -> Self:
        """What `to_data` took apart. Raises TypeError or ValueError for anything else."""
        counts, folded = data
        made = cls(
            {tuple(actor): _Counted(ups, downs) for actor, ups, downs in counts},
            {source: _Folded(tuple(floor), ups, downs) for source, floor, ups, downs in folded},
        )
        if any(min(ups, downs) < 0 for _, ups, downs in (*counts, *made.folded.values())):
            raise ValueError("negative counts")
        return made

    def to_bytes(self) -> bytes:
        """As bytes, equal for equal counters."""
        return pack(self.NAME, self.to_data())

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """The counter, or delta, in these bytes. Raises CrdtFormatError if there is none."""
        return unpack(cls.NAME, data, cls.from_data)


@dataclass(frozen=True, slots=True)
class PNCounter(GCounter):
    """A counter that goes up and down."""

    NAME: ClassVar[str] = "PNCounter"

    def decrement(self, actor: Actor, by: int = 1) -> Self:
        """Counts down; raises as `increment`."""
        return self._count(actor, 0, by)
