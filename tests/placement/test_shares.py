"""Fair shares, against the conditions that make a distribution the fairest there is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jido_placement import Member
from jido_placement.members import MIN_RELATIVE_WEIGHT, holders, in_order
from jido_placement.shares import Quota, shares_of
from tests.placement.tables import members


@given(members(max_size=40), st.sampled_from((1, 64, 256)), st.integers(1, 6))
def test_no_node_could_be_relieved_by_one_with_less(
    given_members: list[Member], shards: int, replicas: int
) -> None:
    """Replica shares are fair: wherever one node has less per weight, a rule forbids it more.

    This is the optimality condition of the largest load per weight: the node with less is full,
    or its zone is at its ceiling, or the zone of the other is at its floor.
    """
    nodes = holders(in_order(given_members))
    fair = shares_of(nodes, shards, replicas)
    share, zones = fair.replicas.share, fair.zones
    assert sum(share) == pytest.approx(shards * fair.width)
    assert max(share) <= shards + 1e-6

    held = [0.0] * len(zones.low)
    for node, zone in enumerate(zones.of):
        held[zone] += share[node]
    for zone, total in enumerate(held):
        assert zones.low[zone] * shards - 1e-6 <= total <= zones.high[zone] * shards + 1e-6

    per_weight = [one / node.weight for one, node in zip(share, nodes, strict=True)]
    for less, low in enumerate(per_weight):
        for more, high in enumerate(per_weight):
            if low < high * (1 - 1e-6) and share[less] < shards - 1e-6:
                into, out = zones.of[less], zones.of[more]
                assert into != out
                assert (
                    held[into] > zones.high[into] * shards - 1e-3
                    or held[out] < zones.low[out] * shards + 1e-3
                )


def test_shares_follow_the_weights_when_no_rule_stands_against_it() -> None:
    """Twice the weight is twice the share, of leaderships and of replicas."""
    nodes = holders((Member("a", 2.0), *(Member(f"b{n}") for n in range(8))))
    fair = shares_of(nodes, shards=100, replicas=3)
    assert fair.leaders.share == pytest.approx([20.0] + [10.0] * 8)
    assert fair.replicas.share == pytest.approx([60.0] + [30.0] * 8)


def test_a_heavy_node_holds_every_shard_once_and_no_more() -> None:
    """What a node cannot hold twice goes to the others."""
    nodes = holders((Member("big", 10.0), Member("s1"), Member("s2"), Member("s3")))
    fair = shares_of(nodes, shards=90, replicas=2)
    assert fair.replicas.share == pytest.approx([90.0, 30.0, 30.0, 30.0])


@pytest.mark.parametrize(
    ("sizes", "replicas", "low", "high"),
    [
        ((4, 4, 4), 3, (0, 0, 0), (1, 1, 1)),  # as many zones as replicas: all distinct
        ((9, 1, 1, 1), 3, (0, 0, 0, 0), (1, 1, 1, 1)),
        ((5, 5), 3, (1, 1), (2, 2)),  # two zones: 2 + 1
        ((5, 1), 3, (1, 1), (2, 1)),
        ((9, 9, 9), 5, (1, 1, 1), (2, 2, 2)),  # any zone may fail and a majority stays
        ((9, 1), 4, (2, 1), (3, 1)),
        ((6,), 3, (2,), (3,)),
    ],
)
def test_zone_bands(
    sizes: tuple[int, ...], replicas: int, low: tuple[int, ...], high: tuple[int, ...]
) -> None:
    """Replicas spread over zones as evenly as the zones' sizes allow."""
    nodes = tuple(
        Member(f"z{zone}-{number}", 1.0, f"z{zone}")
        for zone, size in enumerate(sizes)
        for number in range(size)
    )
    zones = shares_of(nodes, shards=64, replicas=replicas).zones
    assert zones.low == low
    assert zones.high == high


def test_limits_are_fifteen_percent_or_one_whole_shard() -> None:
    """Seven shards have no room for 15 % (one is 14 %): the next whole number counts instead."""
    quota = Quota.of((0.2, 1.5, 4.0, 6.9, 20.0, 100.0), shards=110)
    assert quota.limit == (1, 2, 4, 7, 23, 110)
    assert quota.room == (1, 2, 4, 7, 21, 105)


def test_weights_are_relative_and_zero_holds_nothing() -> None:
    """Only ratios of weights count; members without weight hold only when none has any."""
    heavy, light = holders(in_order([Member("c", 0.0), Member("a", 3e300), Member("b", 1.5e300)]))
    assert (heavy.id, light.id) == ("a", "b")
    assert 0.5 <= heavy.weight == 2 * light.weight < 1
    idle = in_order([Member("b", 0.0), Member("a", 0.0)])
    assert [(node.id, node.weight) for node in holders(idle)] == [("a", 1.0), ("b", 1.0)]
    far_apart = holders(in_order([Member("a", 1e-300), Member("b", 1e300)]))
    assert far_apart[0].weight == MIN_RELATIVE_WEIGHT
