"""Who did something, which deed of theirs it was, and which deeds a copy has seen.

Theory. Everything that happens to one agent is done by an *actor*, one deed after the other: by a
leader under one ballot, or by a replica during one period in which it acts without a quorum. A
*dot* is an actor and a number, so it names one deed for ever. What a copy has seen is a *version
vector*, the highest number by actor: whoever has an actor's deed has the ones before it. A deed
that a copy has seen and whose trace it lacks was undone there; one that it has not seen is new.

Actors only become more, so those that are over are folded: of each *source* (all leaders together,
and each node that acted) the actors follow each other, and those up to a *floor* count as seen
whole. An actor may be folded once every committed member holds its deeds and no entry of it.
*Source*: Almeida, Shoker, Baquero, Delta state replicated data types (2018), section 7; Preguiça et
al., Dotted version vectors (2012).
*Departure*: the floor; the actor is a period or a ballot, never a node, which may lose its memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

__all__ = ["LEADERS", "NOTHING_SEEN", "Acting", "Actor", "Dot", "VersionVector", "source_of"]

Actor = tuple[int, ...]
"""A ballot (recovery, config, round, node) or an `Acting` period (node, boot, period)."""

Dot = tuple[int, ...]
"""An actor and the number of its deed, from 1, in one tuple. A `Version` is the dot of a turn."""

LEADERS: Final = -1
"""The source of everything that was done with a quorum."""

_BALLOT_FIELDS: Final = 4


class Acting(NamedTuple):
    """A time in which a replica acts without a quorum; never resumed.

    Attributes:
        node: Its index.
        boot: Its node's boot number.
        period: Counted by the process, from 1.
    """

    node: int
    boot: int
    period: int

    def dot(self, number: int) -> Dot:
        """The period's deed of this number, > 0."""
        return (*self, number)


def source_of(actor: Actor) -> int:
    """`LEADERS` for a ballot, else the index of the node that acted."""
    return LEADERS if len(actor) == _BALLOT_FIELDS else actor[0]


@dataclass(frozen=True, slots=True)
class VersionVector:
    """Which deeds have been seen. A value; the mappings are never changed.

    Invariant: no actor of `numbers` is at or below the floor of its source.

    Attributes:
        numbers: By actor the highest number seen, > 0.
        floors: By source the last actor that, with all before it, counts as seen whole.
    """

    numbers: Mapping[Actor, int]
    floors: Mapping[int, Actor]

    def covers(self, dot: Dot) -> bool:
        """Whether this deed has been seen."""
        actor = dot[:-1]
        return dot[-1] <= self.numbers.get(actor, 0) or self.is_folded(actor)

    def is_folded(self, actor: Actor) -> bool:
        """Whether the actor is over, and everything it did has been seen."""
        floor = self.floors.get(source_of(actor))
        return floor is not None and actor <= floor

    def last(self, actor: Actor) -> int:
        """The highest number seen of an actor; 0 for one that is not seen, or folded."""
        return self.numbers.get(actor, 0)

    def add(self, dot: Dot) -> VersionVector:
        """With this deed of an actor, and all it did before."""
        if self.covers(dot):
            return self
        return VersionVector({**self.numbers, tuple(dot[:-1]): dot[-1]}, self.floors)

    def join(self, other: VersionVector) -> VersionVector:
        """With everything that either has seen."""
        if not other.numbers and not other.floors:
            return self
        floors = dict(self.floors)
        for source, floor in other.floors.items():
            floors[source] = max(floor, floors.get(source, floor))
        numbers = dict(self.numbers)
        for actor, number in other.numbers.items():
            if number > numbers.get(actor, 0):
                numbers[actor] = number
        return _normal(numbers, floors)

    def dominates(self, other: VersionVector) -> bool:
        """Whether it has seen everything that the other has.

        It may deny so of a copy whose actors are folded here less far, never the reverse.
        """
        mine = self.floors
        return all(
            source in mine and mine[source] >= floor for source, floor in other.floors.items()
        ) and all(self.covers((*actor, number)) for actor, number in other.numbers.items())

    def fold(self, actors: Iterable[Actor]) -> VersionVector:
        """With these actors, and all before them of their sources, seen whole."""
        floors = dict(self.floors)
        for actor in actors:
            source = source_of(actor)
            floors[source] = max(tuple(actor), floors.get(source, ()))
        return _normal(self.numbers, floors)

    def to_data(self) -> list[Any]:
        """As lists of numbers, equal for equal vectors."""
        if not self.numbers and not self.floors:
            return []
        return [
            [[*actor, number] for actor, number in sorted(self.numbers.items())],
            [[source, *floor] for source, floor in sorted(self.floors.items())],
        ]

    @classmethod
    def from_data(cls, data: Sequence[Any]) -> VersionVector:
        """What `to_data` took apart. Raises TypeError or ValueError for anything else."""
        if not data:
            return NOTHING_SEEN
        numbers, floors = data
        return cls(
            {tuple(dot[:-1]): dot[-1] for dot in numbers},
            {source: tuple(floor) for source, *floor in floors} if floors else {},
        )


def _normal(numbers: Mapping[Actor, int], floors: Mapping[int, Actor]) -> VersionVector:
    if floors:
        numbers = {
            actor: number
            for actor, number in numbers.items()
            if (floor := floors.get(source_of(actor))) is None or actor > floor
        }
    return VersionVector(numbers, floors)


NOTHING_SEEN: Final = VersionVector({}, {})
