"""What holds while nodes die, come back, join, leave and lose stores in the middle of any plan.

The world here does its part slowly and in any order: learners are ready some time, joint leaders
settle some time, leaderships pass or do not, the detector is late. After every step all invariants
are checked; then the trouble stops, and the target is reached.
"""

import dataclasses
import random
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jido_placement.changes import apply, apply_all
from jido_placement.commands import (
    Accepted,
    BecomeUp,
    BeginJoint,
    Command,
    Describe,
    Formatted,
    Join,
    Leave,
    NameLearners,
    RegisterBoot,
    StoreLost,
)
from jido_placement.config import GroupConfig, Replica
from jido_placement.differences import apply_diff, diff, diff_from_bytes, diff_to_bytes
from jido_placement.membership import Status
from jido_placement.packing import record_from_bytes, record_to_bytes
from jido_placement.planner import plan
from jido_placement.record import ROOT, Record
from jido_placement.rehearsal import preview, rehearse
from jido_placement.steps import Limits, Order, Step, Transfer, World
from tests.placement.records import done, formed

LIMITS = Limits(max_moves=3, max_transfers=2)


def quorums(config: GroupConfig) -> list[set[Replica]]:
    """The smallest sets of replicas that decide, by trying all."""
    replicas = config.members
    found = [
        set(some)
        for size in range(len(replicas) + 1)
        for some in combinations(replicas, size)
        if config.is_quorum(some)
    ]
    return [one for one in found if not any(other < one for other in found)]


def check_step(before: GroupConfig, after: GroupConfig) -> None:
    """One config follows another by one legal change, and their quorums meet."""
    assert after.number == before.number + 1
    if before.is_joint:
        assert not after.is_joint
        assert after.voters in {before.voters, before.joining}
    elif after.is_joint:
        assert after.voters == before.voters
        assert set(after.joining) <= {*before.voters, *before.learners}
    else:
        assert set(after.voters) == set(before.voters)
    for one in quorums(before):
        assert all(one & other for other in quorums(after))


class Trouble:
    """A cluster in which everything may happen, drawn from a seed."""

    def __init__(self, seed: int, size: int, shards: int) -> None:
        self.chance = random.Random(seed)
        self.record = formed(size, shards=shards, zones=("a", "b", None))
        self.alive = {member.node for member in self.record.members}
        self.noticed: set[int] = set()
        self.leaders: dict[int, int] = {}
        self.staged: set[tuple[int, int]] = set()
        self.settled: dict[int, tuple[int, int]] = {}
        self.joined = 0

    def world(self, *, expired: bool) -> World:
        """What the root leader sees: deaths a little late."""
        return World(
            unreachable=frozenset(self.noticed),
            expired=frozenset(self.noticed) if expired else frozenset(),
            leaders=dict(self.leaders),
            staged=frozenset(self.staged),
            settled=dict(self.settled),
            may_rebalance=self.chance.random() < 0.9,
        )

    def commit(self, *commands: Command) -> None:
        """Applies what nodes and operators ask for; checks what comes of it."""
        before = self.record
        self.record, _ = apply_all(before, commands)
        self.check(before)

    def perform(self, steps: tuple[Step, ...]) -> None:
        """What the root leader does: every command that it planned is accepted."""
        self.check_plan(steps)
        for step in steps:
            if isinstance(step, Order):
                before = self.record
                self.record, answer = apply(before, step.command)
                assert isinstance(answer, Accepted), (step, answer)
                self.check(before)
            elif self.chance.random() < 0.8 and step.to in self.alive:
                self.leaders[step.group] = step.to

    def check(self, before: Record) -> None:
        """Every record is sound, every change of a group is legal."""
        after = self.record
        after.check()
        assert after.epoch >= before.epoch
        assert after.next_node >= before.next_node
        for old, new in zip(
            (before.root, *before.shards), (after.root, *after.shards), strict=True
        ):
            assert new.next_rno >= old.next_rno
            if old.config != new.config:
                check_step(old.config, new.config)

    def check_plan(self, steps: tuple[Step, ...]) -> None:
        """Nothing begins on nodes that are seen to be dead; nothing shrinks for a death."""
        members = {member.node: member for member in self.record.members}
        for step in steps:
            if isinstance(step, Transfer):
                assert step.to not in self.noticed
                continue
            command = step.command
            if isinstance(command, NameLearners):
                assert self.noticed.isdisjoint(command.nodes)
            if isinstance(command, BeginJoint):
                group = self.record.group(command.group)
                assert group is not None
                answering = [node for node in command.nodes if node not in self.noticed]
                assert 2 * len(answering) > len(command.nodes)
                dropped = [one for one in group.config.voters if one.node not in command.nodes]
                # Only the root group shrinks by itself, when the cluster has become smaller.
                given_up = [one for one in dropped if members[one.node].is_retiring]
                given_up += [one for one in dropped if members[one.node].weight == 0]
                if command.group != ROOT:
                    least = len(group.config.voters) - len({one.node for one in given_up})
                    assert len(command.nodes) >= least
        moving = sum(
            one.config.is_joint or len(one.config.learners) > 0 for one in self.record.shards
        )
        starts = [
            step.command
            for step in steps
            if isinstance(step, Order)
            and isinstance(step.command, NameLearners)
            and step.command.group != ROOT
        ]
        assert moving + len(starts) <= max(moving, LIMITS.max_moves)

    def work(self) -> None:
        """Nodes do some of what they have to do."""
        for number, group in enumerate((self.record.root, *self.record.shards), ROOT):
            config = group.config
            if self.chance.random() < 0.5:
                self.leaders.pop(number, None)
                able = [one.node for one in config.members if one.node in self.alive]
                if able:
                    self.leaders[number] = self.chance.choice(able)
            for one in group.replicas:
                if one.node in self.alive and self.chance.random() < 0.6:
                    self.commit(Formatted(number, one))
            for one in config.learners:
                if one.node in self.alive and self.chance.random() < 0.6:
                    self.staged.add((number, one.node))
            answering = {one for one in config.members if one.node in self.alive}
            if config.is_joint and config.is_quorum(answering) and self.chance.random() < 0.6:
                self.settled[number] = (self.record.recovery_no, config.number)

    def disturb(self) -> None:
        """One thing that happens to a cluster."""
        nodes = [member.node for member in self.record.members]
        node = self.chance.choice(nodes)
        match self.chance.randrange(7):
            case 0:
                self.alive.discard(node)
            case 1:
                self.revive(node)
            case 2 if len(nodes) < 9:
                self.joined += 1
                name, zone = f"new-{self.joined}", self.chance.choice(["a", "b", None])
                self.commit(Join(name, self.joined, name, (), 1.0, zone, "a"))
                self.alive.add(self.record.next_node - 1)
            case 3:
                self.commit(Leave(node))
            case 4:
                weight = self.chance.choice([0.5, 1.0, 3.0])
                self.commit(Describe(self.record.epoch, node, (), weight, None))
            case 5:
                shard = self.chance.randrange(len(self.record.shards))
                group = self.record.shards[shard]
                one = self.chance.choice(group.replicas)
                # With most of a group's stores its data are lost, and only an operator helps.
                left = set(group.config.members) - {one, *group.lost}
                if one.node in self.alive and group.config.is_quorum(left):
                    self.commit(StoreLost(shard, one))
            case _:
                self.noticed = set(nodes) - self.alive

    def revive(self, node: int) -> None:
        """Starts the node again, under its next boot number."""
        member = self.record.member(node)
        if member is not None and (node not in self.alive or member.status is Status.DOWN):
            self.alive.add(node)
            self.noticed.discard(node)
            boot = RegisterBoot(member.id, member.boot + 1, 7, member.nonce, "a")
            self.commit(boot)

    def bring_up(self) -> None:
        for member in self.record.members:
            if member.status is Status.JOINING and member.node in self.alive:
                self.commit(BecomeUp(member.node, member.boot))


def run(seed: int, *, size: int, shards: int, steps: int) -> Trouble:
    """Trouble for a while."""
    one = Trouble(seed, size, shards)
    for _ in range(steps):
        if one.chance.random() < 0.25:
            one.disturb()
        if one.chance.random() < 0.5:
            one.bring_up()
        one.work()
        one.perform(plan(one.record, one.world(expired=one.chance.random() < 0.3), LIMITS))
    return one


def settle(one: Trouble) -> tuple[Record, World]:
    """The trouble stops: everybody is back, and does its part at once."""
    for member in one.record.members:
        one.revive(member.node)
    one.bring_up()
    one.noticed.clear()
    record, world = one.record, dataclasses.replace(one.world(expired=False), may_rebalance=True)
    # Whatever is joint is settled, whoever learns is ready.
    record, world = rehearse(record, world, ())
    rehearsal = preview(record, world, LIMITS, max_rounds=2_000)
    assert rehearsal.is_complete
    return rehearsal.record, world


def check_target(record: Record) -> None:
    """Every shard is where it is to be, on as many members as may be; those who left are gone."""
    able = [one for one in record.members if one.status is Status.UP and not one.is_retiring]
    if not able:
        return
    assert [one.node for one in record.members] == [one.node for one in able]
    for group, aim in zip(record.shards, record.target, strict=True):
        assert tuple(one.node for one in group.config.voters) == aim
        assert not group.config.is_joint
        assert len(aim) == min(record.replicas, len(able))
    assert len(record.root.config.voters) == min(len(able), 5 if len(able) > 4 else 3)


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, 60, 10))
def test_in_any_trouble_plans_are_safe_and_after_it_they_end(first: int) -> None:
    """Legal configs at every step, no quorum given away; then the target, in bounded time."""
    for seed in range(first, first + 10):
        one = run(seed, size=3 + seed % 4, shards=6, steps=60)
        record, _ = settle(one)
        check_target(record)


@given(st.integers(0, 2**32), st.integers(1, 6))
def test_a_dry_run_is_what_is_then_done(seed: int, size: int) -> None:
    """The same configs, to the number, as with nodes that take their time and change leaders."""
    one = Trouble(seed, size, 4)
    for _ in range(4):
        one.disturb()
    for member in one.record.members:
        one.revive(member.node)
    one.noticed.clear()
    one.bring_up()
    shown = preview(one.record, World(), LIMITS)
    assert shown.is_complete
    steps: tuple[Step, ...] = ()
    for _ in range(2_000):
        one.work()
        seen = dataclasses.replace(one.world(expired=False), may_rebalance=True)
        steps = plan(one.record, seen, LIMITS)
        one.perform(steps)
        if one.record.shards == shown.record.shards and not orders(steps):
            break
    assert one.record.shards == shown.record.shards
    assert one.record.root.config == shown.record.root.config
    assert one.record.members == shown.record.members
    assert one.record.target == shown.record.target


def orders(steps: tuple[Step, ...]) -> list[Command]:
    return [step.command for step in steps if isinstance(step, Order)]


@given(st.integers(0, 2**32))
def test_any_record_comes_back_from_its_bytes_and_differences(seed: int) -> None:
    """Also in the middle of trouble."""
    one = Trouble(seed, 4, 5)
    before = one.record
    for _ in range(20):
        one.disturb()
        one.work()
        one.perform(plan(one.record, one.world(expired=True), LIMITS))
        assert record_from_bytes(record_to_bytes(one.record)) == one.record
    change = diff_from_bytes(diff_to_bytes(diff(before, one.record)))
    assert apply_diff(before, change) == one.record


def test_the_checks_here_can_fail() -> None:
    """A change that skips the joint config, or a quorum, does not pass for a legal one."""
    three = formed(3).shards[0].config
    other = three._replace(number=2, voters=(*three.voters[:2], Replica(9, 9)))
    with pytest.raises(AssertionError):
        check_step(three, other)
    with pytest.raises(AssertionError):
        check_step(three, three)
    record = done(formed(3), Leave(2))
    with pytest.raises(AssertionError):
        check_target(record)
