"""What placement knows about a node, and the checks at the door.

A member's `weight` is its capacity relative to the others (any unit); its `zone` names what fails
together with it: a rack, a data centre, a power feed. A member without a zone is a zone of its
own, since at least the machine itself fails alone.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass

# Keeps ratios of loads to weights finite; nodes of one cluster do not differ by a billion.
MIN_RELATIVE_WEIGHT = 2.0**-30


@dataclass(frozen=True, slots=True)
class Member:
    """A node that may hold shards.

    Attributes:
        id: unique among the members, not empty.
        weight: capacity relative to the others, finite, >= 0; 0 holds nothing.
        zone: what it fails together with; None makes it a zone of its own.
    """

    id: str
    weight: float = 1.0
    zone: str | None = None

    def __post_init__(self) -> None:
        """Refuses an empty id and a weight that is no finite number >= 0 (ValueError)."""
        if not self.id:
            raise ValueError("member id is empty: give each node its own id")
        if not (math.isfinite(self.weight) and self.weight >= 0):
            raise ValueError(
                f"member {self.id!r} has weight {self.weight!r}: give a finite number >= 0"
            )


def in_order(members: Iterable[Member]) -> tuple[Member, ...]:
    """The members sorted by id, so that their order at the caller decides nothing.

    Raises:
        ValueError: there are none, or two have one id.
    """
    ordered = tuple(sorted(members, key=lambda member: member.id))
    if not ordered:
        raise ValueError("no members: a table needs at least one node")
    for left, right in itertools.pairwise(ordered):
        if left.id == right.id:
            raise ValueError(f"member {left.id!r} is given twice: ids must be distinct")
    return ordered


def holders(ordered: tuple[Member, ...]) -> tuple[Member, ...]:
    """The members that may hold shards, in the same order, with weights scaled to at most 1.

    Those with weight hold; when none has any, all do, equally. The scale is a power of two, so
    that it is exact. A weight under `MIN_RELATIVE_WEIGHT` of the largest is raised to it.
    """
    weighted = tuple(member for member in ordered if member.weight > 0)
    if not weighted:
        return tuple(Member(member.id, 1.0, member.zone) for member in ordered)
    exponent = max(math.frexp(member.weight)[1] for member in weighted)
    return tuple(
        Member(
            member.id,
            max(math.ldexp(member.weight, -exponent), MIN_RELATIVE_WEIGHT),
            member.zone,
        )
        for member in weighted
    )
