"""What a built table promises, as checks, and the members that the tests throw at it."""

import math
import random
from collections import Counter
from collections.abc import Iterator

from hypothesis import strategies as st

from jido_placement import Member, ShardTable, build_table, moves
from jido_placement.members import holders
from jido_placement.shares import Quota, Shares, shares_of

MAX_OVER_SHARE = 1.15
MAX_MOVED = 1.25


def members(
    *, min_size: int = 1, max_size: int = 200, max_zones: int = 8
) -> st.SearchStrategy[list[Member]]:
    """Members with distinct ids, weights within 4x of each other, and zones or none."""
    zone = st.none() | st.integers(0, max_zones - 1).map("zone-{}".format)
    one = st.builds(Member, st.integers(0, 999_999).map("n{}".format), st.floats(1.0, 4.0), zone)
    return st.lists(one, min_size=min_size, max_size=max_size, unique_by=lambda member: member.id)


def shares(table: ShardTable) -> Shares:
    return shares_of(holders(table.members), table.shards, table.replicas)


def loads(table: ShardTable) -> tuple[Counter[str], Counter[str]]:
    """Leaderships and replicas per node, counted from the lists."""
    leaders = Counter(nodes[0] for nodes in table.lists)
    return leaders, Counter(node for nodes in table.lists for node in nodes)


def allowed(share: float) -> float:
    """The most a node may hold: 15 % over its share, or the share rounded up."""
    return max(MAX_OVER_SHARE * share, math.ceil(share - 1e-6)) + 1e-6


def check_table(table: ShardTable) -> None:
    """Distinct nodes, spread over zones, and nobody above what its weight allows."""
    nodes = holders(table.members)
    width = min(table.replicas, len(nodes))
    zone_of = {node.id: node.zone or f"alone/{node.id}" for node in nodes}
    zones = Counter(zone_of.values())
    least_most = next(
        most
        for most in range(1, width + 1)
        if sum(min(size, most) for size in zones.values()) >= width
    )
    for held in table.lists:
        assert len(held) == len(set(held)) == width
        used = Counter(zone_of[node] for node in held)
        assert len(used) == min(width, len(zones))
        assert max(used.values()) <= least_most

    fair = shares(table)
    leaders, replicas = loads(table)
    for node, lead, hold in zip(nodes, fair.leaders.share, fair.replicas.share, strict=True):
        assert leaders[node.id] <= allowed(lead), (node, leaders[node.id], lead)
        assert replicas[node.id] <= allowed(hold), (node, replicas[node.id], hold)
    assert sum(replicas[member.id] for member in table.members) == table.shards * width


def gained(before: Quota, after: Quota, old: tuple[Member, ...], new: tuple[Member, ...]) -> float:
    """What all nodes together gain in fair shares: the least that any fair table must move."""
    had = {node.id: share for node, share in zip(old, before.share, strict=True)}
    return sum(
        max(0.0, share - had.get(node.id, 0.0))
        for node, share in zip(new, after.share, strict=True)
    )


def check_change_of_one(before: ShardTable, after: ShardTable) -> None:
    """One node joined or left: at most 1.25 of its part of leaderships and of slots moved.

    Its part is 1/n, or what its weight and zone entitle it to where that is more. Loads are whole
    numbers: one leadership, and one slot in a hundred, may come on top; two in a hundred with fewer
    than seven slots per node, where one slot is more than 15 %.
    """
    old, new = holders(before.members), holders(after.members)
    n = max(len(old), len(new))
    found = moves(before, after)
    fair_before, fair_after = shares(before), shares(after)
    slots = after.shards * fair_after.width

    leaders_moved = sum(move.role == "leader" for move in found)
    part = max(gained(fair_before.leaders, fair_after.leaders, old, new), after.shards / n)
    assert leaders_moved <= MAX_MOVED * part + 1, (leaders_moved, part)

    slots_moved = sum(move.role == "replica" and move.to is not None for move in found)
    part = max(gained(fair_before.replicas, fair_after.replicas, old, new), slots / n)
    rounding = slots / (100 if slots >= 7 * n else 50)
    assert slots_moved <= MAX_MOVED * part + rounding, (slots_moved, part)


def churn(seed: int, changes: int) -> Iterator[ShardTable]:
    """Tables of a cluster in which one node joins or leaves at a time, each from the one before."""
    chance = random.Random(seed)
    shards = chance.choice((256, 256, 512, 1024, 4096))
    replicas = chance.choice((1, 2, 3, 3, 3, 5))
    zones = chance.choice((0, 0, 1, 2, 3, 4, 6, 10))
    has_weights = chance.random() < 0.7
    ids = iter(range(10_000))

    def newcomer() -> Member:
        weight = chance.uniform(1, 4) if has_weights else 1.0
        is_alone = zones == 0 or chance.random() < 0.05
        zone = None if is_alone else f"zone-{chance.randrange(zones)}"
        return Member(f"n{next(ids)}", weight, zone)

    nodes = [newcomer() for _ in range(chance.choice((1, 2, 3, 4, 5, 8, 12, 20, 40, 80, 150, 199)))]
    table = build_table(nodes, shards=shards, replicas=replicas)
    yield table
    for _ in range(changes):
        if len(nodes) > 1 and (len(nodes) >= 200 or chance.random() < 0.5):
            nodes.pop(chance.randrange(len(nodes)))
        else:
            nodes.append(newcomer())
        table = build_table(nodes, shards=shards, replicas=replicas, previous=table)
        yield table
