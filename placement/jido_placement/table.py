"""The shard table: for every shard, the nodes that hold it, the first of which leads.

Theory. A ring orders the nodes for every shard; a bounded-load pass and the zones' rules turn that
order into a table (`leaders.py`, `followers.py`). A table for changed members starts from the
previous one and changes what it must. What a built table promises is listed in this package's
README and held by `tests/placement`.

Source. Karger et al., Consistent Hashing and Random Trees (1997); Mirrokni, Thorup, Zadimoghaddam,
Consistent Hashing with Bounded Loads (2016), section 2.
Departures. The table is built once per change instead of walked per key, so that a look-up is one
array access; and it has a memory, the previous table, so that a node's departure promotes replicas
that hold the state instead of whoever is next on the ring.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any, Literal

from jido_placement.followers import assign_followers
from jido_placement.leaders import NOBODY, assign_leaders
from jido_placement.members import Member, holders, in_order
from jido_placement.ring import Ring
from jido_placement.shares import Quota, Shares, shares_of

_FORMAT = 1


@dataclass(frozen=True, slots=True)
class ShardTable:
    """Who holds which shard. A value: equal inputs give equal tables on every machine.

    Attributes:
        members: what it was built for, sorted by id, distinct.
        replicas: how many distinct nodes per shard were asked for, >= 1.
        lists: per shard its preference list, distinct ids of members, the leader first; all of one
            length, the lesser of `replicas` and the number of members that may hold.
    """

    members: tuple[Member, ...]
    replicas: int
    lists: tuple[tuple[str, ...], ...]
    _leaders: tuple[str, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Keeps the leaders apart, so that a look-up is one access."""
        object.__setattr__(self, "_leaders", tuple(nodes[0] for nodes in self.lists))

    @property
    def shards(self) -> int:
        """How many shards there are, >= 1."""
        return len(self.lists)

    def leader(self, shard: int) -> str:
        """The id of the node that leads the shard; IndexError from `shards` on."""
        return self._leaders[shard]

    def replicas_of(self, shard: int) -> tuple[str, ...]:
        """The preference list of the shard; IndexError from `shards` on."""
        return self.lists[shard]

    def to_data(self) -> list[Any]:
        """The table as lists of numbers and strings, one number per slot; see `from_data`."""
        place = {member.id: number for number, member in enumerate(self.members)}
        return [
            _FORMAT,
            self.replicas,
            len(self.lists[0]),
            [[member.id, member.weight, member.zone] for member in self.members],
            [place[node] for nodes in self.lists for node in nodes],
        ]

    @classmethod
    def from_data(cls, data: Sequence[Any]) -> ShardTable:
        """The table that `to_data` took apart, checked.

        Raises:
            ValueError: the data are of another format or break an invariant of the table.
        """
        if len(data) != 5 or data[0] != _FORMAT:
            raise ValueError(
                f"shard table has format {data[:1]!r}: this version reads format {_FORMAT}"
            )
        _, replicas, width, raw_members, slots = data
        members = tuple(Member(*raw) for raw in raw_members)
        ids = [member.id for member in in_order(members)]
        if [member.id for member in members] != ids:
            raise ValueError("shard table lists its members out of order: the data are damaged")
        if width < 1 or width > replicas or not slots or len(slots) % width:
            raise ValueError(
                f"shard table has {len(slots)} slots of width {width} for {replicas} replicas: "
                "the data are damaged"
            )
        if min(slots) < 0 or max(slots) >= len(ids):
            raise ValueError(f"shard table names a node outside its {len(ids)} members")
        lists = tuple(
            tuple(ids[slot] for slot in slots[start : start + width])
            for start in range(0, len(slots), width)
        )
        for shard, nodes in enumerate(lists):
            if len(set(nodes)) < width:
                raise ValueError(f"shard {shard} is held twice by one node: the data are damaged")
        return cls(members, replicas, lists)


@dataclass(frozen=True, slots=True)
class Move:
    """One difference between two tables.

    Attributes:
        shard: which.
        from_: who had it; None for a replica that is new in number.
        to: who has it; None for a replica that is given up in number.
        role: "leader" when leadership passes, "replica" when a slot changes its holder.
    """

    shard: int
    from_: str | None
    to: str | None
    role: Literal["leader", "replica"]


def moves(before: ShardTable, after: ShardTable) -> tuple[Move, ...]:
    """What has to happen on the way from one table to the other, by shard, slots first.

    Raises:
        ValueError: the tables have different numbers of shards.
    """
    _check_same_shards(before, after.shards)
    found: list[Move] = []
    for shard, (old, new) in enumerate(zip(before.lists, after.lists, strict=True)):
        left = [node for node in old if node not in new]
        joined = [node for node in new if node not in old]
        found.extend(Move(shard, a, b, "replica") for a, b in zip_longest(left, joined))
        if old[0] != new[0]:
            found.append(Move(shard, old[0], new[0], "leader"))
    return tuple(found)


def build_table(
    members: Iterable[Member],
    *,
    shards: int,
    replicas: int,
    previous: ShardTable | None = None,
) -> ShardTable:
    """A table for these members that changes as little of the previous one as the rules allow.

    Args:
        members: the nodes, in any order, with distinct ids.
        shards: how many shards, >= 1; agreed once, never changed.
        replicas: how many distinct nodes per shard, >= 1; all of them if there are fewer.
        previous: the table that is in force; None for the first one.

    Raises:
        ValueError: no members, an id given twice, `shards` or `replicas` below 1, or a previous
            table with another number of shards. The message names value and remedy.
    """
    if shards < 1:
        raise ValueError(f"shards is {shards}: give at least 1")
    if replicas < 1:
        raise ValueError(f"replicas is {replicas}: give at least 1")
    if previous is not None:
        _check_same_shards(previous, shards)
    ordered = in_order(members)
    nodes = holders(ordered)
    shares = shares_of(nodes, shards, replicas)
    ring = Ring(nodes)

    place = {node.id: number for number, node in enumerate(nodes)}
    old = ((),) * shards if previous is None else previous.lists
    survivors = [[place[name] for name in names if name in place] for names in old]
    kept = [place.get(names[0], NOBODY) if names else NOBODY for names in old]
    leader_budget, slot_budget = _budgets(previous, nodes, shares, shards)
    leaders = assign_leaders(ring, shares, survivors, kept, leader_budget)
    lists = assign_followers(ring, shares, survivors, leaders, slot_budget)
    return ShardTable(
        ordered, replicas, tuple(tuple(nodes[node].id for node in held) for held in lists)
    )


def _budgets(
    previous: ShardTable | None, nodes: Sequence[Member], shares: Shares, shards: int
) -> tuple[int, int]:
    """How many leaderships and slots any table with fair shares would have to move.

    That is what all nodes together gain in shares. A first table places everything, and may then
    move everything once to level the loads.
    """
    if previous is None:
        return 2 * shards, 2 * shards * shares.width
    old_nodes = holders(previous.members)
    old = shares_of(old_nodes, shards, previous.replicas)

    def gained(before: Quota, now: Quota) -> int:
        had = {node.id: share for node, share in zip(old_nodes, before.share, strict=True)}
        gains = (
            max(0.0, share - had.get(node.id, 0.0))
            for node, share in zip(nodes, now.share, strict=True)
        )
        return round(math.fsum(gains))

    return gained(old.leaders, shares.leaders), gained(old.replicas, shares.replicas)


def _check_same_shards(table: ShardTable, shards: int) -> None:
    if table.shards != shards:
        raise ValueError(
            f"the previous table has {table.shards} shards, the new one {shards}: "
            "the number of shards never changes"
        )
