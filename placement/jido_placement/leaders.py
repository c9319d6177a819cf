"""Who leads each shard: the first of the two passes that build a table.

Leaders come first because any node can lead any shard, so that balance among leaders never has
to wait for zones or replicas; the second pass (`followers.py`) places the other replicas around
them. In order:

1. A leader that is still a member stays.
2. A shard that lost its leader goes to a surviving replica below its limit, the least loaded for
   its weight first, since it holds the state. When all survivors are at their limit, one of them
   hands another shard to a replica of that one, as long as such double moves are few. Only then an
   outsider leads: in ring order, one whose zone has a place in the shard.
3. A leader above its limit hands shards to the least loaded node that is below its own.
4. While fewer leaderships moved than the change of shares accounts for, the most loaded node hands
   one to the least loaded, if that lowers the larger of their loads per weight. This is how a node
   that joins gets its share, and how leftovers of earlier changes are smoothed.
"""

from __future__ import annotations

from collections.abc import Sequence

from jido_placement.ring import Ring
from jido_placement.shares import Quota, Shares

NOBODY = -1
# Distinct nodes of the ring looked at before the least loaded of all is taken instead: with loads
# bounded at 1.05 a walk this long is rare, and it bounds the time of a build.
MAX_WALK = 32


# How far double moves may exceed the budget: a change of one node is to move at most 1.25 of its
# share, and rounding takes a part of that.
DOUBLE_MOVES = 0.2


def assign_leaders(
    ring: Ring,
    shares: Shares,
    survivors: Sequence[Sequence[int]],
    kept: Sequence[int],
    budget: int,
) -> list[int]:
    """The leader of every shard.

    Args:
        ring: the order in which nodes are suggested.
        shares: of the nodes and their zones.
        survivors: per shard, the nodes that held it before and may still hold, in order.
        kept: per shard, its leader before if that may still lead, or `NOBODY`.
        budget: how many leaderships may change before step 4 ends.
    """
    draft = _Leaders(shares, survivors, kept)
    draft.promote()
    draft.promote_by_double_moves(int(budget * (1 + DOUBLE_MOVES)))
    draft.appoint(ring)
    draft.relieve()
    draft.level(budget)
    return draft.leader


class _Leaders:
    """The leaders while they are being assigned. Nodes are numbers, in the holders' order."""

    def __init__(
        self, shares: Shares, survivors: Sequence[Sequence[int]], kept: Sequence[int]
    ) -> None:
        self.quota: Quota = shares.leaders
        self.zones = shares.zones
        self.survivors = survivors
        self.leader = list(kept)
        self.vacant = [shard for shard, node in enumerate(kept) if node == NOBODY]
        self.moved = 0
        nodes = range(len(self.quota.share))
        self.led: list[set[int]] = [set() for _ in nodes]
        self.held: list[set[int]] = [set() for _ in nodes]
        for shard, node in enumerate(kept):
            if node != NOBODY:
                self.led[node].add(shard)
            for survivor in survivors[shard]:
                self.held[survivor].add(shard)

    def load(self, node: int) -> float:
        """Leaderships per fair share; ties go to the lower number through `min` and `max`."""
        return len(self.led[node]) / self.quota.share[node]

    def load_with_one_more(self, node: int) -> float:
        return (len(self.led[node]) + 1) / self.quota.share[node]

    def has_room(self, node: int) -> bool:
        return len(self.led[node]) < self.quota.limit[node]

    def give(self, shard: int, node: int) -> None:
        before = self.leader[shard]
        if before != NOBODY:
            self.led[before].remove(shard)
        self.leader[shard] = node
        self.led[node].add(shard)
        self.moved += 1

    def promote(self) -> None:
        """Vacant shards to survivors with room."""
        vacant, self.vacant = self.vacant, []
        for shard in vacant:
            able = [node for node in self.survivors[shard] if self.has_room(node)]
            if able:
                self.give(shard, min(able, key=self.load_with_one_more))
            else:
                self.vacant.append(shard)

    def promote_by_double_moves(self, allowance: int) -> None:
        """Vacant shards to survivors that pass another shard on, while there are moves to spare."""
        vacant, self.vacant = self.vacant, []
        spare = allowance - self.moved - len(vacant)
        for shard in vacant:
            freed = self.free_survivor(shard) if spare > 0 else None
            if freed is None:
                self.vacant.append(shard)
            else:
                self.give(shard, freed)
                spare -= 1

    def free_survivor(self, shard: int) -> int | None:
        """A survivor of the shard, after it handed another shard to a replica of that one."""
        for survivor in self.survivors[shard]:
            for other in sorted(self.led[survivor]):
                for replica in self.survivors[other]:
                    if replica != survivor and self.has_room(replica):
                        self.give(other, replica)
                        return survivor
        return None

    def appoint(self, ring: Ring) -> None:
        """What is still vacant to anyone, by preference where the zones have a place."""
        for shard in self.vacant:
            self.give(shard, self.suggested(ring, shard))

    def suggested(self, ring: Ring, shard: int) -> int:
        for node, _ in zip(ring.walk(shard), range(MAX_WALK), strict=False):
            if len(self.led[node]) < self.quota.room[node] and self.fits_zones(shard, node):
                return node
        nodes = range(len(self.led))
        fit = [node for node in nodes if self.has_room(node) and self.fits_zones(shard, node)]
        return min(fit or nodes, key=self.load_with_one_more)

    def fits_zones(self, shard: int, node: int) -> bool:
        """Whether the node could join the survivors without any of them having to go."""
        of = self.zones.of
        mates = sum(of[survivor] == of[node] for survivor in self.survivors[shard])
        return mates < self.zones.high[of[node]]

    def hand_over(self, donor: int, receiver: int) -> None:
        """One of the donor's shards to the receiver, one that it holds already if there is any."""
        shards = self.led[donor] & self.held[receiver] or self.led[donor]
        self.give(min(shards), receiver)

    def relieve(self) -> None:
        nodes = range(len(self.led))
        for donor in nodes:
            while len(self.led[donor]) > self.quota.limit[donor]:
                # The least loaded for its weight may be at its limit, or the donor itself; since
                # the limits together exceed the shards, somebody has room.
                able = filter(self.has_room, nodes)
                self.hand_over(donor, min(able, key=self.load_with_one_more))

    def level(self, budget: int) -> None:
        nodes = range(len(self.led))
        while self.moved < budget:
            donor = max(nodes, key=self.load)
            able = [node for node in nodes if self.has_room(node)]
            receiver = min(able, key=self.load_with_one_more, default=donor)
            if self.load_with_one_more(receiver) >= self.load(donor):
                return
            self.hand_over(donor, receiver)
