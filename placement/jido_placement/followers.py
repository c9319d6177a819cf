"""Who follows in each shard: the second of the two passes that build a table.

The leaders are fixed; a shard's other replicas are the nodes that held it before, as far as they
may stay, then others. In order:

1. A shard with too many nodes, or with a zone outside its band, lets go of followers, the most
   loaded for its weight first.
2. A shard with too few takes the least loaded node that its zones allow; a shard that had no
   nodes before follows the ring, past nodes without room.
3. A node above its limit passes slots on: to the least loaded node that may take one, else along
   a shortest chain of nodes, each passing one slot to the next (breadth-first search, as in
   augmenting a flow).
4. While fewer slots moved than the change of shares accounts for, loaded nodes pass slots to the
   least loaded, if that lowers the larger of their loads per weight; first directly, then along
   chains.

A step 3 or 4 replaces one follower by one other node, and only where the zones stay in their
bands, so that what steps 1 and 2 established stays true.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from jido_placement.leaders import MAX_WALK
from jido_placement.ring import Ring
from jido_placement.shares import Shares

# How many nodes in a row of falling load may find no chain before leveling ends. Each miss searches
# everything in reach, and those below have less to give.
MAX_MISSES = 8


def assign_followers(
    ring: Ring,
    shares: Shares,
    survivors: Sequence[Sequence[int]],
    leaders: Sequence[int],
    budget: int,
) -> list[list[int]]:
    """The preference list of every shard: its leader, then its followers.

    Args:
        ring: the order in which nodes are suggested.
        shares: of the nodes and their zones.
        survivors: per shard, the nodes that held it before and may still hold, in order.
        leaders: per shard.
        budget: how many slots may change before step 4 ends.
    """
    draft = _Slots(shares, survivors, leaders)
    for shard in range(len(leaders)):
        draft.trim(shard)
    for shard in range(len(leaders)):
        draft.fill(shard, ring)
    draft.relieve()
    draft.level(budget)
    return draft.lists


class _Slots:
    """The preference lists while they are being assigned; `lists[shard][0]` leads and stays.

    Invariants: `held[node]` is the set of shards whose list contains the node; a list contains no
    node twice. After `fill` each list has `shares.width` nodes.
    """

    def __init__(
        self, shares: Shares, survivors: Sequence[Sequence[int]], leaders: Sequence[int]
    ) -> None:
        self.width = shares.width
        self.quota = shares.replicas
        self.zones = shares.zones
        self.before = [frozenset(nodes) for nodes in survivors]
        self.lists = [
            [leader, *(node for node in nodes if node != leader)]
            for leader, nodes in zip(leaders, survivors, strict=True)
        ]
        self.held: list[set[int]] = [set() for _ in self.quota.share]
        for shard, nodes in enumerate(self.lists):
            for node in nodes:
                self.held[node].add(shard)
        # Where the search for a slot to pass from one node to another goes on; see `pass_on`.
        self.searches: dict[tuple[int, int], tuple[list[int], int]] = {}

    def load(self, node: int) -> float:
        """Replicas per fair share; ties go to the lower number through `min` and `max`."""
        return len(self.held[node]) / self.quota.share[node]

    def load_with_one_more(self, node: int) -> float:
        return (len(self.held[node]) + 1) / self.quota.share[node]

    def has_room(self, node: int) -> bool:
        return len(self.held[node]) < self.quota.limit[node]

    def count(self, nodes: Sequence[int], zone: int) -> int:
        of = self.zones.of
        return sum(of[node] == zone for node in nodes)

    def missing(self, nodes: Sequence[int]) -> int:
        """How many replicas a list still needs for the least that its zones must have."""
        low = self.zones.low
        return sum(max(0, low[zone] - self.count(nodes, zone)) for zone in self.zones.needed)

    def trim(self, shard: int) -> None:
        """Lets go of followers until the list can be completed within the zones' bands."""
        of, low, high = self.zones.of, self.zones.low, self.zones.high
        nodes = self.lists[shard]
        while len(nodes) > 1:
            spare = [node for node in nodes[1:] if self.count(nodes, of[node]) > high[of[node]]]
            if not spare:
                if len(nodes) + self.missing(nodes) <= self.width:
                    return
                spare = [node for node in nodes[1:] if self.count(nodes, of[node]) > low[of[node]]]
            victim = max(spare or nodes[1:], key=self.load)
            nodes.remove(victim)
            self.held[victim].remove(shard)

    def may_join(self, nodes: Sequence[int], node: int, *, only_needed: bool) -> bool:
        zone = self.zones.of[node]
        most = self.zones.low[zone] if only_needed else self.zones.high[zone]
        return node not in nodes and self.count(nodes, zone) < most

    def fill(self, shard: int, ring: Ring) -> None:
        """Completes the list, within the zones' bands."""
        nodes = self.lists[shard]
        while len(nodes) < self.width:
            # The zones' least comes first when nothing else fits beside it.
            only_needed = self.missing(nodes) >= self.width - len(nodes)
            node = self.suggested(ring, shard, only_needed=only_needed)
            nodes.append(node)
            self.held[node].add(shard)

    def suggested(self, ring: Ring, shard: int, *, only_needed: bool) -> int:
        nodes = self.lists[shard]
        # A table with a memory fills evenly instead: the ring's own order would use up the nodes
        # that fit anywhere, and what is left then needs chains (more moves) in `relieve`.
        walk = () if self.before[shard] else zip(ring.walk(shard), range(MAX_WALK), strict=False)
        for node, _ in walk:
            if len(self.held[node]) < self.quota.room[node] and self.may_join(
                nodes, node, only_needed=only_needed
            ):
                return node
        others = [node for node in range(len(self.held)) if node not in nodes]
        fit = [node for node in others if self.may_join(nodes, node, only_needed=only_needed)]
        return min(fit or others, key=self.load_with_one_more)

    def zone_may_replace(self, shard: int, donor: int, into: int) -> bool:
        """Whether a node of zone `into` that is not in the list may take the donor's slot."""
        nodes, zones = self.lists[shard], self.zones
        out = zones.of[donor]
        if nodes[0] == donor or donor not in nodes:
            return False
        return out == into or (
            self.count(nodes, into) < zones.high[into] and self.count(nodes, out) > zones.low[out]
        )

    def may_replace(self, shard: int, donor: int, receiver: int) -> bool:
        return receiver not in self.lists[shard] and self.zone_may_replace(
            shard, donor, self.zones.of[receiver]
        )

    def replace(self, shard: int, donor: int, receiver: int) -> None:
        nodes = self.lists[shard]
        nodes[nodes.index(donor)] = receiver
        self.held[donor].remove(shard)
        self.held[receiver].add(shard)

    def pass_on(self, donor: int, receiver: int) -> bool:
        """Passes one of the donor's slots to the receiver, if there is one that it may take.

        Each pair of nodes goes once through the donor's shards, over all calls: without that the
        search would start again for each of thousands of slots.
        """
        shards, at = self.searches.get((donor, receiver)) or (sorted(self.held[donor]), 0)
        for place in range(at, len(shards)):
            if self.may_replace(shards[place], donor, receiver):
                self.replace(shards[place], donor, receiver)
                self.searches[donor, receiver] = shards, place + 1
                return True
        self.searches[donor, receiver] = shards, len(shards)
        return False

    def relieve(self) -> None:
        """Brings every node to its limit, as far as zones and leaders leave a way."""
        nodes = range(len(self.held))
        over = [node for node in nodes if len(self.held[node]) > self.quota.limit[node]]
        for donor in sorted(over, key=self.load, reverse=True):
            for receiver in sorted(nodes, key=self.load_with_one_more):
                while (
                    len(self.held[donor]) > self.quota.limit[donor]
                    and self.load_with_one_more(receiver) < self.load(donor)
                    and self.has_room(receiver)
                    and self.pass_on(donor, receiver)
                ):
                    pass
            while len(self.held[donor]) > self.quota.limit[donor] and self.pass_along(
                donor, frozenset(filter(self.has_room, nodes))
            ):
                pass

    def pass_along(self, donor: int, goals: frozenset[int]) -> bool:
        """Passes one slot along a shortest chain from the donor to one of the goals."""
        came_from: dict[int, tuple[int, int]] = {}
        queue = deque([donor])
        unseen: dict[int, set[int]] = {}
        for node, zone in enumerate(self.zones.of):
            unseen.setdefault(zone, set()).add(node)
        unseen[self.zones.of[donor]].discard(donor)
        while queue and unseen:
            node = queue.popleft()
            for shard in sorted(self.held[node]):
                # Zone by zone, since what may replace the node is the same for a whole zone: node
                # by node, a search over a thousand nodes takes a second instead of milliseconds.
                for zone in [one for one in unseen if self.zone_may_replace(shard, node, one)]:
                    found = unseen[zone].difference(self.lists[shard])
                    came_from.update((receiver, (node, shard)) for receiver in found)
                    if reached := goals & found:
                        nearest = min(sorted(reached), key=self.load_with_one_more)
                        return self.follow_chain(came_from, donor, nearest)
                    queue.extend(sorted(found))
                    unseen[zone] -= found
                    if not unseen[zone]:
                        del unseen[zone]
        return False

    def follow_chain(
        self, came_from: dict[int, tuple[int, int]], donor: int, receiver: int
    ) -> bool:
        """Performs a chain from its end, so that no node is ever above what it had."""
        while receiver != donor:
            node, shard = came_from[receiver]
            # An earlier step may have changed this very shard; what is done so far stands.
            if not self.may_replace(shard, node, receiver):
                return False
            self.replace(shard, node, receiver)
            receiver = node
        return True

    def moved(self) -> int:
        """How many slots have another holder than before."""
        return sum(
            len(nodes) - len(before.intersection(nodes))
            for nodes, before in zip(self.lists, self.before, strict=True)
        )

    def level(self, budget: int) -> None:
        left = budget - self.moved()
        receivers = set(range(len(self.held)))
        while left > 0 and receivers:
            receiver = min(sorted(receivers), key=self.load_with_one_more)
            wanted = self.load_with_one_more(receiver)
            donors = [node for node in range(len(self.held)) if self.load(node) > wanted]
            donors.sort(key=self.load, reverse=True)
            if self.has_room(receiver) and any(self.pass_on(one, receiver) for one in donors):
                left -= 1
            else:
                receivers.remove(receiver)
        self.level_along_chains(left)

    def level_along_chains(self, left: int) -> None:
        """Levels what no direct exchange could, the most loaded first, until searches miss."""
        nodes = range(len(self.held))
        misses = 0
        for donor in sorted(nodes, key=self.load, reverse=True):
            while left > 0:
                load = self.load(donor)
                less_loaded = (node for node in nodes if self.load_with_one_more(node) < load)
                goals = frozenset(filter(self.has_room, less_loaded))
                if not goals or not self.pass_along(donor, goals):
                    misses += 1
                    break
                left -= 2  # A chain has at least two links; a direct exchange was tried before.
            if misses == MAX_MISSES:
                return
