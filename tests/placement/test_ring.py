"""The ring against the obvious way to compute it, and what it promises by itself."""

from hypothesis import given
from hypothesis import strategies as st

from jido_placement import Member, h64
from jido_placement.members import holders, in_order
from jido_placement.ring import POINTS_OF_HEAVIEST, Ring
from tests.placement.tables import members


def obvious_walk(nodes: tuple[Member, ...], shard: int) -> list[int]:
    """All nodes by the clockwise distance from the shard to their nearest point."""
    start = h64(f"shard/{shard}")

    def distance(node: Member) -> int:
        count = max(1, round(POINTS_OF_HEAVIEST * node.weight))
        # A point exactly at the start belongs to the previous arc, as in bisect_right.
        return min((h64(f"{node.id}-{number}") - start - 1) % 2**64 for number in range(count))

    return sorted(range(len(nodes)), key=lambda number: distance(nodes[number]))


@given(members(max_size=12), st.integers(0, 4_095))
def test_a_walk_is_the_order_of_nearest_points(given_members: list[Member], shard: int) -> None:
    """The walk over sorted points gives what sorting all nodes by distance gives."""
    nodes = holders(in_order(given_members))
    assert list(Ring(nodes).walk(shard)) == obvious_walk(nodes, shard)


def test_an_arrival_does_not_reorder_the_others() -> None:
    """Without the newcomer every walk is what it was: the others' points did not shift.

    uhashring divides points by the sum of weights when it is given weights; then they shift.
    """
    weights = [1.0, 3.5, 2.0, 0.7, 4.0, 1.3]
    nodes = tuple(Member(f"n{number}", weight) for number, weight in enumerate(weights))
    before, after = Ring(holders(nodes)), Ring(holders((*nodes, Member("n9", 2.5))))
    for shard in range(512):
        assert [one for one in after.walk(shard) if one < len(nodes)] == list(before.walk(shard))
