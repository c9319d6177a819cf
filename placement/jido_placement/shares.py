"""How much of everything each node should hold, and how far it may be from that.

Theory. With P shards, k = min(N, nodes) replicas each, and weights w that sum to W, a node's fair
share is P * w / W leaderships and k * P * w / W replicas. Two rules may make the second impossible,
and win over it: a node holds a shard at most once, so no share exceeds P; and a shard's replicas
spread over zones as evenly as the zones' sizes allow, so a zone's share has a floor and a ceiling.
The replica shares are then the *water-filling* ones: one level L for all, a node's share L * w
clamped to what its zone and the node can take. That is the distribution whose largest replicas
per weight is the least possible.

A zone's band. Let c be the least number such that k replicas fit with at most c in a zone (a zone
of m nodes takes at most m). Then every shard has min(m, c-1) to min(m, c) replicas in a zone of m
nodes: in k distinct zones when there are that many, in all zones when there are fewer.

The limit of a node is max(1.15 * share, ceil(share)), rounded down: with under seven shards per
node the granularity of one shard exceeds 15 %, and one more than the share's floor is the best
that any table can promise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from jido_placement.members import Member

MAX_OVER_SHARE = 1.15
# Where bounded-load placement stops following the ring (the paper's c, here 1.05): the distance to
# MAX_OVER_SHARE is what a chain of later changes may use up before anything must move.
PLACE_OVER_SHARE = 1.05
# Sums of a thousand float shares are off by about 1e-9; a share this close to an integer is one.
_ROUNDING = 1e-6


@dataclass(frozen=True, slots=True)
class Quota:
    """One kind of load, per node, in the order of the holders.

    Attributes:
        share: what a node should hold, > 0.
        room: up to where a walk along the ring may fill it, share <= room <= limit.
        limit: what it never exceeds after a build, unless the rules leave no other place.
    """

    share: tuple[float, ...]
    room: tuple[int, ...]
    limit: tuple[int, ...]

    @classmethod
    def of(cls, share: Sequence[float], shards: int) -> Quota:
        """The quota around these shares, none of which exceeds `shards`."""

        def bound(over: float) -> tuple[int, ...]:
            return tuple(
                min(shards, max(math.floor(one * over + _ROUNDING), math.ceil(one - _ROUNDING)))
                for one in share
            )

        return cls(tuple(share), bound(PLACE_OVER_SHARE), bound(MAX_OVER_SHARE))


@dataclass(frozen=True, slots=True)
class Zones:
    """The zones of the holders, and how many replicas of one shard each of them takes.

    Attributes:
        of: the zone's number, per holder.
        low: the fewest replicas of one shard in a zone, per zone.
        high: the most, low <= high.
        needed: the zones with low > 0, ascending.
    """

    of: tuple[int, ...]
    low: tuple[int, ...]
    high: tuple[int, ...]
    needed: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Shares:
    """Everything that members, shards and replicas decide before any shard is placed."""

    width: int
    leaders: Quota
    replicas: Quota
    zones: Zones


def shares_of(members: Sequence[Member], shards: int, replicas: int) -> Shares:
    """The shares of members as `holders` gives them; `shards` and `replicas` are > 0."""
    width = min(replicas, len(members))
    weights = [member.weight for member in members]
    total = math.fsum(weights)
    of, groups = _zones(members)
    ceiling = next(
        c for c in range(1, width + 1) if sum(min(len(group), c) for group in groups) >= width
    )
    low = [min(len(group), ceiling - 1) for group in groups]
    high = [min(len(group), ceiling) for group in groups]
    share = [width * shards * weight / total for weight in weights]
    zone_share = [math.fsum(share[node] for node in group) for group in groups]
    fits = max(share) <= shards and all(
        low[zone] * shards <= held <= high[zone] * shards for zone, held in enumerate(zone_share)
    )
    if not fits:
        zone_share = _fill_zones(weights, groups, low, high, shards, width)
        for group, held in zip(groups, zone_share, strict=True):
            for node, one in zip(
                group, _fill([weights[node] for node in group], held, shards), strict=True
            ):
                share[node] = one
    needed = tuple(zone for zone, least in enumerate(low) if least > 0)
    return Shares(
        width=width,
        leaders=Quota.of([shards * weight / total for weight in weights], shards),
        replicas=Quota.of(share, shards),
        zones=Zones(of, tuple(low), tuple(high), needed),
    )


def _zones(members: Sequence[Member]) -> tuple[tuple[int, ...], list[list[int]]]:
    """The zone's number per member, and the members per zone, numbered as they first appear."""
    numbers: dict[tuple[str, str], int] = {}
    groups: list[list[int]] = []
    of: list[int] = []
    for node, member in enumerate(members):
        name = ("node", member.id) if member.zone is None else ("zone", member.zone)
        zone = numbers.setdefault(name, len(groups))
        if zone == len(groups):
            groups.append([])
        groups[zone].append(node)
        of.append(zone)
    return tuple(of), groups


def _fill(weights: Sequence[float], total: float, cap: float) -> list[float]:
    """`total` divided in proportion to the weights, no part above `cap`; total <= cap * parts."""
    parts = [0.0] * len(weights)
    heaviest_first = sorted(range(len(weights)), key=lambda part: (-weights[part], part))
    weight_left = math.fsum(weights)
    for part in heaviest_first:
        parts[part] = min(cap, total * weights[part] / weight_left) if weight_left > 0 else 0.0
        total -= parts[part]
        weight_left -= weights[part]
    return parts


def _fill_zones(
    weights: Sequence[float],
    groups: Sequence[Sequence[int]],
    low: Sequence[int],
    high: Sequence[int],
    shards: int,
    width: int,
) -> list[float]:
    """The zones' water-filling shares, by bisection on the level; together width * shards."""

    def at(level: float) -> list[float]:
        return [
            min(
                max(
                    math.fsum(min(shards, level * weights[node]) for node in group),
                    low[zone] * shards,
                ),
                high[zone] * shards,
            )
            for zone, group in enumerate(groups)
        ]

    # At the upper level every node is full. 100 halvings exceed the precision of a float.
    below, above = 0.0, shards / min(weights)
    for _ in range(100):
        level = (below + above) / 2
        if math.fsum(at(level)) < width * shards:
            below = level
        else:
            above = level
    return at(above)
