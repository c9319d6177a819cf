"""The shard table by example: what it answers, refuses, and sends over the wire."""

import math
from collections.abc import Callable
from typing import Any

import pytest

from jido_placement import Member, Move, ShardTable, build_table, moves

THREE = [Member("a"), Member("b"), Member("c")]


def table_of(*lists: str) -> ShardTable:
    """A table written as text, one letter per node: `table_of("abc", "bca")`."""
    nodes = sorted(set("".join(lists)))
    return ShardTable(tuple(map(Member, nodes)), len(lists[0]), tuple(tuple(one) for one in lists))


def test_a_table_answers_who_leads_and_who_holds() -> None:
    """The first of a preference list leads; look-ups end at the number of shards."""
    table = table_of("abc", "bca")
    assert (table.shards, table.replicas) == (2, 3)
    assert table.leader(1) == "b"
    assert table.replicas_of(1) == ("b", "c", "a")
    for look_up in (table.leader, table.replicas_of):
        with pytest.raises(IndexError):
            look_up(2)


def test_one_node_holds_everything_alone() -> None:
    """With fewer nodes than replicas every node holds every shard."""
    assert build_table([Member("a")], shards=4, replicas=3).lists == (("a",),) * 4
    pair = build_table(THREE[:2], shards=4, replicas=3)
    assert {frozenset(nodes) for nodes in pair.lists} == {frozenset("ab")}


def test_members_without_weight_hold_nothing() -> None:
    """Weight 0 drains a node; when nobody has weight, everybody holds."""
    drained = build_table([*THREE, Member("d", 0.0)], shards=64, replicas=3)
    assert {node for nodes in drained.lists for node in nodes} == set("abc")
    idle = [Member(name, 0.0) for name in "abc"]
    assert {node for nodes in build_table(idle, shards=64, replicas=1).lists for node in nodes} == (
        set("abc")
    )


def test_replicas_are_in_three_zones() -> None:
    """Nine nodes in three racks: each shard survives the loss of any rack but one replica."""
    nodes = [Member(f"n{number}", zone=f"rack-{number % 3}") for number in range(9)]
    zone_of = {node.id: node.zone for node in nodes}
    for held in build_table(nodes, shards=256, replicas=3).lists:
        assert len({zone_of[node] for node in held}) == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"members": []}, "no members"),
        ({"members": [Member("a"), Member("a", 2.0)]}, "'a' is given twice"),
        ({"shards": 0}, "shards is 0: give at least 1"),
        ({"replicas": -1}, "replicas is -1: give at least 1"),
        ({"previous": build_table(THREE, shards=4, replicas=3)}, "4 shards, the new one 8"),
    ],
)
def test_what_cannot_be_built_is_refused(arguments: dict[str, Any], message: str) -> None:
    """The error names the value and what to do about it."""
    with pytest.raises(ValueError, match=message):
        build_table(**{"members": THREE, "shards": 8, "replicas": 3, **arguments})


@pytest.mark.parametrize("weight", [-1.0, math.nan, math.inf])
def test_bad_members_are_refused(weight: float) -> None:
    """A weight is a finite number, not negative; an id is not empty."""
    with pytest.raises(ValueError, match=r"'a' has weight .* finite number"):
        Member("a", weight)
    with pytest.raises(ValueError, match="id is empty"):
        Member("")


def test_moves_name_slots_and_leaderships() -> None:
    """A move says which shard, from whom, to whom, and whether a slot or the lead passes."""
    before, after = table_of("abc", "bca", "cab"), table_of("abc", "cba", "dab")
    assert moves(before, after) == (
        Move(1, "b", "c", "leader"),
        Move(2, "c", "d", "replica"),
        Move(2, "c", "d", "leader"),
    )
    assert moves(before, before) == ()


def test_moves_between_widths_have_no_partner() -> None:
    """Slots that come or go in number move from, or to, nobody."""
    assert moves(table_of("ab"), table_of("abc")) == (Move(0, None, "c", "replica"),)
    assert moves(table_of("abc"), table_of("ab")) == (Move(0, "c", None, "replica"),)
    with pytest.raises(ValueError, match="never changes"):
        moves(table_of("ab"), table_of("ab", "ba"))


def test_a_lost_leader_is_followed_by_a_replica() -> None:
    """With equal nodes every shard that lost its leader goes to one that holds its state."""
    nodes = [Member(f"n{number}") for number in range(6)]
    before = build_table(nodes, shards=256, replicas=3)
    after = build_table(nodes[1:], shards=256, replicas=3, previous=before)
    lost = [shard for shard in range(256) if before.leader(shard) == "n0"]
    assert len(lost) > 30
    assert all(after.leader(shard) in before.replicas_of(shard) for shard in lost)
    # What else changes is the little that evens out rounding.
    others = sum(move.role == "leader" for move in moves(before, after)) - len(lost)
    assert others <= 2


def test_a_few_shards_among_very_different_weights_can_be_built() -> None:
    """A node above its limit finds one with room, also where the least loaded has none."""
    nodes = [Member("a", 0.5), Member("b", 1.0), Member("c", 0.5), Member("d", 3.0)]
    before = ShardTable(
        tuple(nodes), 2, (("d", "c"), ("d", "b"), ("b", "d"), ("b", "d"), ("d", "a"))
    )
    after = build_table(nodes, shards=5, replicas=2, previous=before)
    assert [sum(held[0] == node.id for held in after.lists) for node in nodes] == [1, 1, 0, 3]


def test_data_round_trip() -> None:
    """`to_data` is lists of plain values, and `from_data` gives the equal table."""
    nodes = [Member("a", 2.0, "z1"), Member("b"), Member("c", 0.0)]
    table = build_table(nodes, shards=16, replicas=2)
    again = ShardTable.from_data(table.to_data())
    assert again == table
    assert again.leader(3) == table.leader(3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data.__setitem__(0, 99), "format"),
        (lambda data: data.pop(), "format"),
        (lambda data: data.__setitem__(2, 3), "damaged"),
        (lambda data: data[3].reverse(), "out of order"),
        (lambda data: data[4].pop(), "damaged"),
        (lambda data: data[4].clear(), "damaged"),
        (lambda data: data[4].__setitem__(0, 7), "outside"),
        (lambda data: data[4].__setitem__(0, -1), "outside"),
        (lambda data: data[4].__setitem__(0, data[4][1]), "held twice"),
    ],
)
def test_damaged_data_are_refused(change: Callable[[list[Any]], Any], message: str) -> None:
    """No table comes into being that breaks its own invariants."""
    data = build_table(THREE, shards=4, replicas=2).to_data()
    change(data)
    with pytest.raises(ValueError, match=message):
        ShardTable.from_data(data)
