"""A consistent hash ring over uhashring: the order in which nodes are suggested for a shard.

The ring only suggests; `table.py` decides under balance and zone rules. It is built once per
change of members and walked once per shard, never on a look-up.

Departures from how uhashring is usually used, each for movement or speed:
- the number of points of a node depends on its own weight and on the power of two above the
  largest weight, not on the sum of weights: another node's arrival does not shift its points;
- the hash is `h64` instead of MD5 over 128 bits: points are plain machine-sized integers;
- all nodes are given at construction, since uhashring sorts all points again for each addition;
- walks go over its published points, since `HashRing.range` copies the rest of the ring per call.
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Iterator, Sequence

from uhashring import HashRing

from jido_placement.digest import h64
from jido_placement.members import Member

# A heaviest node has 64 to 128 points. More points smooth the ring's own imbalance (about
# 1/sqrt(points)), but the bounded-load pass repairs that anyway, and points cost build time.
POINTS_OF_HEAVIEST = 128


class Ring:
    """Ordered nodes for every shard. Immutable; nodes are named by their place in `members`."""

    __slots__ = ("_owners", "_points")

    def __init__(self, members: Sequence[Member]) -> None:
        """Places the points of members as `holders` gives them: sorted by id, 0 < weight <= 1."""
        nodes = {
            member.id: {"vnodes": max(1, round(POINTS_OF_HEAVIEST * member.weight))}
            for member in members
        }
        index = {member.id: place for place, member in enumerate(members)}
        points = HashRing(nodes, hash_fn=h64).get_points()
        self._points: list[int] = [point for point, _ in points]
        self._owners: list[int] = [index[owner] for _, owner in points]

    def walk(self, shard: int) -> Iterator[int]:
        """All members, each once, in the order in which the ring meets them after the shard."""
        start = bisect(self._points, h64(f"shard/{shard}"))
        seen: set[int] = set()
        for part in (range(start, len(self._owners)), range(start)):
            for place in part:
                owner = self._owners[place]
                if owner not in seen:
                    seen.add(owner)
                    yield owner
