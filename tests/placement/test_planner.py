"""The planner by example: what it does, in which order, and what it leaves alone."""

import dataclasses
from collections import Counter

import pytest

from jido_placement.changes import apply
from jido_placement.commands import (
    Abort,
    Assign,
    BeginJoint,
    DeclareDown,
    Describe,
    Finish,
    ForceRecover,
    NameLearners,
    RegisterBoot,
    Remove,
    Retarget,
    StoreLost,
)
from jido_placement.membership import Status
from jido_placement.planner import plan
from jido_placement.record import ROOT, Record
from jido_placement.rehearsal import explain, preview, rehearse
from jido_placement.steps import Limits, Order, Step, Transfer, World
from tests.placement.records import done, down, formed, joined, leading, leaving, with_node


def commands(steps: tuple[Step, ...], kind: type) -> list[object]:
    return [
        one.command for one in steps if isinstance(one, Order) and isinstance(one.command, kind)
    ]


def finished(record: Record, world: World | None = None) -> Record:
    """The record when nothing more is to be done."""
    rehearsal = preview(record, world or World(leaders=leading(record)))
    assert rehearsal.is_complete
    rehearsal.record.check()
    return rehearsal.record


def held(record: Record) -> Counter[int]:
    """How many replicas each node holds."""
    return Counter(one.node for group in record.shards for one in group.config.voters)


def on_nodes(record: Record, group: int) -> set[int]:
    found = record.group(group)
    assert found is not None
    return {one.node for one in found.config.voters}


@pytest.mark.parametrize(("size", "root"), [(1, 1), (2, 2), (3, 3), (4, 3), (5, 5), (8, 5)])
def test_formation_ends_with_a_full_root_group_and_all_shards(size: int, root: int) -> None:
    """The root group grows first; shards are assigned once it has its size."""
    record = joined(size)
    rounds = preview(record, World()).rounds
    assigned = [number for number, steps in enumerate(rounds) if commands(steps, Assign)]
    finishes = [number for number, steps in enumerate(rounds) if commands(steps, Finish)]
    assert len(assigned) == 1
    assert all(number < assigned[0] for number in finishes)
    record = finished(record)
    assert len(record.root.config.voters) == root
    assert all(len(group.config.voters) == min(3, size) for group in record.shards)
    assert plan(record, World(leaders=leading(record))) == ()


def test_nothing_is_assigned_before_everybody_expected_is_up() -> None:
    """The rest waits, and says so to who asks."""
    record = joined(2)
    record = dataclasses.replace(record, expect=3)
    record = finished(record)
    assert not record.is_serving
    assert explain(record, "c-1").endswith("2 of 3 expected members are up")
    assert finished(with_node(record, "id-2")).is_serving


def test_a_join_takes_its_part_and_no_more() -> None:
    """The new node gets a fair share; nothing moves between the others."""
    before = with_node(formed(4, shards=64), "id-4")
    rehearsal = preview(before, World(leaders=leading(before)))
    assert max(held(rehearsal.record).values()) <= 1.15 * 64 * 3 / 5 + 1
    slots = [move for move in rehearsal.moves if move.role == "replica"]
    assert {move.to for move in slots} == {"id-4"}
    assert len(slots) <= 1.25 * 64 * 3 / 5 + 1


def test_a_group_moves_by_transfer_learner_joint_and_new() -> None:
    """Each step once, in this order, for a shard whose leader goes."""
    record = leaving(with_node(formed(3), "id-3"), 0)
    led = [shard for shard, leader in leading(record).items() if leader == 0]
    rehearsal = preview(record, World(leaders=leading(record)))
    for shard in led:
        kinds = [
            type(step).__name__ if isinstance(step, Transfer) else type(step.command).__name__
            for steps in rehearsal.rounds
            for step in steps
            if (step.group if isinstance(step, Transfer) else getattr(step.command, "group", None))
            == shard
        ]
        assert kinds[:4] == ["Transfer", "NameLearners", "BeginJoint", "Finish"]
    assert rehearsal.record.member(0) is None
    assert held(rehearsal.record) == {1: 16, 2: 16, 3: 16}


def test_a_dead_member_is_replaced_when_another_can_take_its_place() -> None:
    """Its replicas go to others, its place in the root group too, and then it is forgotten."""
    record = formed(4)
    dead = World(unreachable=frozenset({0}), expired=frozenset({0}), leaders=leading(record))
    steps = plan(record, dead)
    assert commands(steps, DeclareDown) == [DeclareDown(0, 1)]
    after = finished(record, dead)
    assert after.member(0) is None
    assert held(after) == {1: 16, 2: 16, 3: 16}
    assert on_nodes(after, ROOT) == {1, 2, 3}


def test_groups_never_shrink_because_a_member_is_dead() -> None:
    """With nobody to take its place it stays named, and comes back to what it held."""
    record = formed(3)
    dead = World(unreachable=frozenset({0}), expired=frozenset({0}), leaders=leading(record))
    after = finished(record, dead)
    assert held(after) == {0: 16, 1: 16, 2: 16}
    assert on_nodes(after, ROOT) == {0, 1, 2}
    # Who prefers to lead has changed, as far as the dead one was preferred.
    assert all(group.config.voters[0].node != 0 for group in after.shards)
    back = finished(done(after, RegisterBoot("id-0", 2, 7, 100, "a")))
    assert held(back) == {0: 16, 1: 16, 2: 16}


def test_an_operator_can_shrink_them() -> None:
    """A dead member that is told to leave is let go, with nobody in its place."""
    record = leaving(down(formed(3), 0), 0)
    after = finished(record, World(unreachable=frozenset({0})))
    assert after.member(0) is None
    assert held(after) == {1: 16, 2: 16}
    assert on_nodes(after, ROOT) == {1, 2}


def test_a_drain_goes_nowhere_when_who_was_to_take_over_is_down() -> None:
    """There is nobody to hold the shards: they stay, and so does the member."""
    record = down(leaving(formed(2), 0), 1)
    assert plan(record, World(unreachable=frozenset({1}))) == ()
    assert record.groups_naming(0)


def test_most_members_are_not_declared_dead_at_once() -> None:
    """When half of them are out of reach it is this side that is cut off."""
    record = formed(4)
    gone = frozenset({2, 3})
    assert plan(record, World(unreachable=gone, expired=gone)) == ()
    # And nobody is declared dead who answers.
    assert plan(record, World(expired=frozenset({3}))) == ()


def test_nothing_begins_that_cannot_end() -> None:
    """No learner on a node out of reach, no change of a group without its majority."""
    record = with_node(formed(3), "id-3")
    away = World(unreachable=frozenset({3}))
    after, _ = rehearse(record, away, plan(record, away))
    assert plan(after, away) == ()
    stuck = World(unreachable=frozenset({1, 2}))
    assert commands(plan(after, stuck), NameLearners) == []


def test_only_replicas_that_can_answer_make_a_majority() -> None:
    """Neither one whose member was given up counts, reachable or not, nor one without its store."""
    record = with_node(formed(3), "id-3")
    record, world = rehearse(record, World(), plan(record, World()))
    away = dataclasses.replace(world, unreachable=frozenset({1}))
    assert commands(plan(record, away), NameLearners)
    given_up = down(record, 2)
    given_up, seen = rehearse(given_up, away, plan(given_up, away))
    assert commands(plan(given_up, seen), NameLearners) == []
    without: Record = record
    for shard, group in enumerate(record.shards):
        lost = next(one for one in group.config.voters if one.node == 2)
        without = done(without, StoreLost(shard, lost))
    assert commands(plan(without, away), NameLearners) == []


def test_no_group_becomes_joint_for_a_target_that_is_about_to_change() -> None:
    """The old target may leave out who has come back in the meantime."""
    record, world, shard = learning(with_node(formed(3), "id-3"))
    assert shard in {getattr(one, "group", 0) for one in commands(plan(record, world), BeginJoint)}
    steps = plan(with_node(record, "id-4"), world)
    assert commands(steps, Retarget)
    assert commands(steps, BeginJoint) == []


def learning(record: Record) -> tuple[Record, World, int]:
    """The record when its first learners copy, what is seen then, and one such shard."""
    world = World(leaders=leading(record))
    while not any(group.config.learners for group in record.shards):
        record, world = rehearse(record, world, plan(record, world))
    shard = next(number for number, one in enumerate(record.shards) if one.config.learners)
    return record, world, shard


def test_a_learner_that_stops_answering_is_dropped() -> None:
    """And so is one that the target does not want any more."""
    record, _, shard = learning(with_node(formed(3), "id-3"))
    number = record.shards[shard].config.number
    steps = plan(record, World(unreachable=frozenset({3})))
    assert Abort(shard, number) in commands(steps, Abort)
    left = leaving(record, 3)
    left, world = rehearse(left, World(), plan(left, World()))
    assert Abort(shard, number) in commands(plan(left, world), Abort)
    assert (
        finished(record, World(unreachable=frozenset({3}), expired=frozenset({3}))).member(3)
        is None
    )


def test_a_store_lost_while_others_copy_is_replaced_too() -> None:
    """The learners are dropped, and copy again together with the node that lost its store."""
    record, world, shard = learning(leaving(with_node(formed(3), "id-3"), 0))
    kept = next(one for one in record.shards[shard].config.voters if one.node != 0)
    after = finished(done(record, StoreLost(shard, kept)), world)
    assert on_nodes(after, shard) == {1, 2, 3}
    assert kept not in after.shards[shard].config.voters


def test_a_learner_waits_until_it_is_ready() -> None:
    """Its header is made and its pages are copied; before that there is no next step."""
    record, world, shard = learning(with_node(formed(3), "id-3"))
    unready = dataclasses.replace(world, staged=frozenset())
    assert commands(plan(record, unready), BeginJoint) == []
    ready = commands(plan(record, world), BeginJoint)
    assert shard in {one.group for one in ready if isinstance(one, BeginJoint)}


def test_a_joint_config_whose_new_side_died_goes_back() -> None:
    """Its old side has a majority, so it serves again; with neither, nothing helps but waiting."""
    record = with_node(formed(1, replicas=1), "id-1")
    record, world, shard = learning(record)
    record, world = rehearse(record, world, plan(record, world))
    number = record.shards[shard].config.number
    assert record.shards[shard].config.is_joint
    lost_new = dataclasses.replace(world, unreachable=frozenset({1}))
    assert Abort(shard, number) in commands(plan(record, lost_new), Abort)
    lost_both = dataclasses.replace(world, unreachable=frozenset({0, 1}))
    assert plan(record, lost_both) == ()
    waiting = dataclasses.replace(world, settled={})
    assert shard not in {
        getattr(one, "group", None) for one in commands(plan(record, waiting), Finish)
    }


def test_a_lost_store_is_replaced_on_its_own_node() -> None:
    """The node copies again under another number, and its old replica counts no more."""
    record = formed(3)
    lost = record.shards[5].config.voters[1]
    after = finished(done(record, StoreLost(5, lost)))
    config = after.shards[5].config
    assert on_nodes(after, 5) == on_nodes(record, 5)
    assert lost not in config.voters
    assert after.shards[5].lost == ()


def test_a_lost_store_of_a_dead_node_waits_for_it() -> None:
    """Nothing can take its place; the group keeps its size."""
    record = formed(3)
    lost = next(one for one in record.shards[5].config.voters if one.node == 0)
    record = done(record, StoreLost(5, lost))
    dead = World(unreachable=frozenset({0}), expired=frozenset({0}), leaders=leading(record))
    after = finished(record, dead)
    assert on_nodes(after, 5) == {0, 1, 2}
    back = finished(done(after, RegisterBoot("id-0", 2, 7, 100, "a")))
    assert lost not in back.shards[5].config.voters


def test_repair_comes_first_then_drains_then_balance() -> None:
    """And among repairs the shard that is nearest to losing its quorum."""
    record = formed(6, shards=64)
    record = with_node(leaving(down(record, 0), 1), "id-6")
    record, world = rehearse(record, World(), plan(record, World()))
    limits = Limits(max_moves=1)
    order = []
    for _ in range(600):
        steps = plan(record, world, limits)
        if not steps:
            break
        for one in commands(steps, NameLearners):
            assert isinstance(one, NameLearners)
            if one.group != ROOT:
                nodes = on_nodes(record, one.group)
                order.append(0 if 0 in nodes else 1 if 1 in nodes else 2)
        record, world = rehearse(record, world, steps)
    assert order == sorted(order)
    assert set(order) == {0, 1, 2}


def test_one_move_between_two_nodes_and_so_many_in_all() -> None:
    """Joint configs and learners count until they are finished."""
    record = with_node(formed(4, shards=64), "id-4")
    world = World(leaders=leading(record))
    limits = Limits(max_moves=2, max_transfers=3)
    for _ in range(400):
        steps = plan(record, world, limits)
        if not steps:
            break
        assert sum(isinstance(step, Transfer) for step in steps) <= 3
        record, world = rehearse(record, world, steps)
        moving = [one for one in record.shards if one.config.learners or one.config.is_joint]
        assert len(moving) <= 2
        donors = [
            one.node
            for group in moving
            for one in group.config.voters
            if group.config.is_joint and one not in group.config.joining
        ]
        assert len(donors) == len(set(donors))
    assert plan(record, world, limits) == ()


def test_while_a_split_heals_nothing_is_moved_for_balance() -> None:
    """Repair and drains need no leave."""
    record = with_node(formed(3), "id-3")
    healing = World(may_rebalance=False, leaders=leading(record))
    record, _ = rehearse(record, healing, plan(record, healing))
    assert plan(record, healing) == ()
    after = finished(leaving(record, 0), healing)
    assert after.member(0) is None


def test_weights_move_shards() -> None:
    """A member that doubles its weight gets about twice as much; weight 0 empties it."""
    record = formed(6, shards=64)
    heavier = finished(done(record, Describe(record.epoch, 0, (), 2.0, None)))
    assert held(heavier)[0] > 1.5 * held(record)[0]
    empty = finished(done(record, Describe(record.epoch, 0, (), 0.0, None)))
    assert held(empty)[0] == 0
    member = empty.member(0)
    assert member is not None
    assert member.status is Status.UP


def test_a_target_of_the_members_before_goes_on_where_it_was() -> None:
    """A second change in the middle of the first keeps what was planned; its dead lose theirs."""
    record, world, _ = learning(with_node(formed(4, shards=64), "id-4"))
    aims = Counter(node for aim in record.target for node in aim)
    dead = dataclasses.replace(world, unreachable=frozenset({4}), expired=frozenset({4}))
    record = down(record, 4)
    steps = plan(record, dead)
    (order,) = commands(steps, Retarget)
    assert isinstance(order, Retarget)
    assert aims[4] > 30
    # Those who held a shard before the dead one was to take it over keep it.
    kept = sum(
        set(aim) == {one.node for one in group.config.voters}
        for aim, group in zip(order.lists, record.shards, strict=True)
    )
    assert kept >= 0.9 * 64


def test_the_root_group_spreads_over_zones() -> None:
    """A better spread is worth a move, since it holds one key."""
    record = formed(4, zones=("a", "a", "a", "b"))
    assert {record.member(node).zone for node in on_nodes(record, ROOT)} == {"a", "b"}  # type: ignore[union-attr]


def test_forced_recovery_is_followed_by_repair() -> None:
    """The survivors are the members; shards that nobody held start empty, and spread."""
    record = formed(5)
    record, _ = apply(record, ForceRecover(0, (0, 1)))
    after = finished(record)
    assert held(after) == {0: 16, 1: 16}
    assert len(after.root.config.voters) == 2


def test_preference_is_restored_when_nothing_else_is_to_be_done() -> None:
    """Whoever leads hands over to the first of its group, unless that one does not answer."""
    record = formed(3)
    group = record.shards[0].config.voters
    other = World(leaders={0: group[1].node})
    assert plan(record, other) == (
        Transfer(0, group[1].node, group[0].node, "another leader is preferred"),
    )
    absent = dataclasses.replace(other, unreachable=frozenset({group[0].node}))
    assert plan(record, absent) == ()
    gone = dataclasses.replace(other, unreachable=frozenset({group[1].node}))
    assert plan(record, gone) == ()


def test_limits_that_stop_everything_are_refused() -> None:
    """The error names field and value."""
    with pytest.raises(ValueError, match="max_moves=0: give at least 1"):
        Limits(max_moves=0)


def test_a_rehearsal_can_be_cut_off() -> None:
    """It says so; what was shown is what would be done first."""
    record = with_node(formed(3), "id-3")
    short = preview(record, World(), max_rounds=2)
    assert not short.is_complete
    assert short.rounds == preview(record, World()).rounds[:2]


def test_explanations_tell_where_and_why() -> None:
    """Shard, voters, what is under way, what is wanted; names rather than numbers."""
    record, world, shard = learning(with_node(formed(3, zones=("z",)), "id-3", zone="y"))
    agent = next(f"c-{n}" for n in range(999) if f"shard {shard} of" in explain(record, f"c-{n}"))
    text = explain(record, agent)
    assert "n3 (node 3, up, zone y) copy it and are to become voters" in text
    assert "put it on" in text
    record, world = rehearse(record, world, plan(record, world))
    assert "it is joint" in explain(record, agent)
    lost = record.shards[shard].config.voters[0]
    assert "is lost, to be replaced" in explain(done(record, StoreLost(shard, lost)), agent)
    recovered, _ = apply(record, ForceRecover(0, (0,)))
    assert "a removed member (node" in explain(recovered, agent)
    settled = explain(finished(record, world), agent)
    assert settled.endswith("that is where the ring, weights and zones of the members put it")


def test_removal_waits_for_the_last_name() -> None:
    """A member that leaves is forgotten in the very next plan after nothing names it."""
    record = leaving(with_node(formed(3), "id-3"), 3)
    steps = plan(record, World())
    assert commands(steps, Remove) == [Remove(3)]
