"""From the record and what is seen of the world to the next few steps, a little at a time.

Theory. A group comes to other nodes by steps each of which is safe to stop after: its leadership
goes to somebody who stays; new nodes copy as learners; old and new voters decide together; the old
ones go. The planner looks at where each group stands and gives the next step, if its turn has come
and it can succeed. It remembers nothing: the same record and world give the same steps, so that any
root leader goes on where another one stopped, and a dry run (`rehearsal.py`) shows what will be
done.

What it keeps to, beside what `changes.py` enforces:

1. A group never gets fewer replicas because members are dead (`targets.shard_goals`).
2. Nothing begins that cannot end: old and new voters have majorities that answer.
3. What cannot end any more is undone: learners that do not answer are dropped, a joint config whose
   new side has no majority goes back to its old side.
4. Repair comes before drains, drains before balance; a shard nearest to losing its quorum first.
5. Between two nodes one shard moves at a time, and `Limits.max_moves` in all.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from jido_placement.commands import (
    Abort,
    Assign,
    BeginJoint,
    DeclareDown,
    Finish,
    NameLearners,
    Prefer,
    Remove,
    Retarget,
)
from jido_placement.config import Replica
from jido_placement.membership import Status
from jido_placement.record import ROOT, GroupRecord, Record, root_size
from jido_placement.steps import Limits, Order, Step, Transfer, World
from jido_placement.targets import holders_of, root_goal, shard_goals, target_of

__all__ = ["plan"]

# How urgent a move is.
REPAIR, DRAIN, BALANCE = range(3)


def plan(record: Record, world: World, limits: Limits | None = None) -> tuple[Step, ...]:
    """The steps to take now, in this order; none when nothing can or need be done.

    The commands among them hold for this record: apply them before any others.
    """
    return tuple(_Plan(record, world, limits or Limits()).steps())


class _Start(NamedTuple):
    """A shard that is to move, and how urgently; compares by urgency."""

    urgency: int
    margin: int
    shard: int


class _Plan:
    """One pass over the record."""

    def __init__(self, record: Record, world: World, limits: Limits) -> None:
        self.record = record
        self.world = world
        self.limits = limits
        self.status = {member.node: member.status for member in record.members}
        self.retiring = {member.node for member in record.members if member.is_retiring}
        self.pairs: set[tuple[int, int]] = set()
        self.moving = 0
        self.transfers = 0

    def steps(self) -> Iterator[Step]:
        record = self.record
        deaths = list(self.deaths())
        changes_target = not deaths and self.must_retarget()
        if changes_target:
            # It holds for this very epoch, so that it goes first.
            target = target_of(record)
            command = Retarget if record.shards else Assign
            why = "the members have changed" if record.shards else "all expected members are up"
            yield Order(command(record.epoch, target.lists, target.made_for), why)
        yield from deaths
        yield from self.next_of(ROOT, record.root, root_goal(record, self.world.unreachable))
        if record.shards:
            # What is joint goes on; nothing begins to be so for a target that is about to change.
            yield from self.shards(may_start=not deaths and not changes_target)
        if not deaths:
            yield from self.removals()

    # Members.

    def deaths(self) -> Iterator[Step]:
        """Members that are gone for too long, as long as most are not."""
        members = self.record.members
        if 2 * sum(self.is_reachable(one.node) for one in members) <= len(members):
            return
        for member in members:
            is_expired = member.node in self.world.expired and not self.is_reachable(member.node)
            if is_expired and member.status is not Status.DOWN:
                yield Order(DeclareDown(member.node, member.boot), "unreachable for too long")

    def removals(self) -> Iterator[Step]:
        """Members that are leaving or down and hold nothing any more."""
        leftover = {
            node for node, one in self.status.items() if one in {Status.LEAVING, Status.DOWN}
        }
        if leftover:
            for group in (self.record.root, *self.record.shards):
                leftover.difference_update(replica.node for replica in group.replicas)
        for node in sorted(leftover):
            yield Order(Remove(node), "no group is on it")

    def must_retarget(self) -> bool:
        record = self.record
        holders = holders_of(record)
        if record.shards:
            return bool(holders) and holders != record.target_for
        up = sum(status is Status.UP for status in self.status.values())
        root = record.root.config
        is_formed = not root.is_joint and len(root.voters) >= root_size(up)
        return bool(holders) and up >= record.expect and is_formed

    # Groups.

    def shards(self, *, may_start: bool) -> Iterator[Step]:
        goals = shard_goals(self.record)
        starts: list[_Start] = []
        for shard, (group, goal) in enumerate(zip(self.record.shards, goals, strict=True)):
            config = group.config
            if config.joining or config.learners:
                self.moving += 1
                self.pairs.update(self.pairs_of(group, goal))
                if may_start or config.joining:
                    yield from self.next_of(shard, group, goal)
            elif group.lost or goal != tuple(one.node for one in config.voters):
                starts.append(self.start(shard, group))
            elif self.world.leaders:
                yield from self.prefer_leader(shard, group)
        for start in sorted(starts) if may_start else ():
            group, goal = self.record.shards[start.shard], goals[start.shard]
            pairs = self.pairs_of(group, goal)
            if not pairs and len(goal) == len(group.config.voters):
                # Another order of preference moves nothing.
                yield from self.next_of(start.shard, group, goal)
            elif (
                (start.urgency < BALANCE or self.world.may_rebalance)
                and self.moving < self.limits.max_moves
                and self.pairs.isdisjoint(pairs)
            ):
                steps = list(self.next_of(start.shard, group, goal))
                if steps:
                    self.moving += 1
                    self.pairs.update(pairs)
                yield from steps

    def start(self, shard: int, group: GroupRecord) -> _Start:
        voters = group.config.voters
        answering = sum(self.answers(group, one) for one in voters)
        if group.lost or any(self.status[one.node] is Status.DOWN for one in voters):
            urgency = REPAIR
        elif any(one.node in self.retiring for one in voters):
            urgency = DRAIN
        else:
            urgency = BALANCE
        return _Start(urgency, 2 * answering - len(voters), shard)

    def next_of(self, number: int, group: GroupRecord, goal: tuple[int, ...]) -> Iterator[Step]:
        """The next step of one group towards its goal."""
        config = group.config
        if config.is_joint:
            yield from self.end_joint(number, group)
        elif config.learners:
            yield from self.end_copying(number, group, goal)
        elif not goal or not self.has_majority(group, config.voters):
            return
        else:
            yield from self.begin(number, group, goal)

    def begin(self, number: int, group: GroupRecord, goal: tuple[int, ...]) -> Iterator[Step]:
        """A step of a group that is not changing."""
        config = group.config
        added = self.coming(group, goal)
        nodes = {one.node for one in config.voters}
        if not added and nodes == set(goal):
            yield from self.reorder(number, group, goal)
            return
        # A target may be old: with nobody left to hold shards no new one is made.
        strangers = [node for node in goal if node not in nodes] + list(added)
        if not all(self.is_reachable(one) and self.status[one] is Status.UP for one in strangers):
            return
        transfer = self.hand_over(number, group, goal)
        if transfer is not None:
            yield from transfer
        elif added:
            command = NameLearners(number, config.number, added)
            yield Order(command, f"it is to be on {list(goal)}")
        elif self.has_majority(group, tuple(one for one in config.voters if one.node in goal)):
            yield Order(BeginJoint(number, config.number, goal), "some of its voters are to go")

    def reorder(self, number: int, group: GroupRecord, goal: tuple[int, ...]) -> Iterator[Step]:
        config = group.config
        if goal != tuple(one.node for one in config.voters) and self.has_transfers_left():
            yield Order(Prefer(number, config.number, goal), "another order is preferred")

    def end_copying(self, number: int, group: GroupRecord, goal: tuple[int, ...]) -> Iterator[Step]:
        """A step of a group that has learners."""
        config = group.config
        coming = {one.node for one in config.learners}
        if coming != set(self.coming(group, goal)):
            # Another goal, or a voter that was to stay has lost its store meanwhile.
            yield Order(Abort(number, config.number), "others are to copy it now")
        elif not all(self.answers(group, one) for one in config.learners):
            yield Order(Abort(number, config.number), "a learner does not answer")
        elif all(one in group.formatted for one in config.learners) and (
            number == ROOT or all((number, node) in self.world.staged for node in coming)
        ):
            by_node = {one.node: one for one in config.voters + config.learners}
            joining = tuple(by_node[node] for node in goal)
            if self.has_majority(group, config.voters) and self.has_majority(group, joining):
                transfer = self.hand_over(number, group, goal)
                if transfer is not None:
                    yield from transfer
                else:
                    yield Order(BeginJoint(number, config.number, goal), "its learners are ready")

    def end_joint(self, number: int, group: GroupRecord) -> Iterator[Step]:
        """A step of a group whose config is joint."""
        config = group.config
        settled = self.world.settled.get(number)
        # The write that made the root's config joint has settled its one key to both sides.
        if number == ROOT:
            settled = (self.record.recovery_no, config.number)
        if not self.has_majority(group, config.joining):
            if self.has_majority(group, config.voters):
                yield Order(Abort(number, config.number), "its new side has no majority")
        elif settled == (self.record.recovery_no, config.number):
            transfer = self.hand_over(number, group, [one.node for one in config.joining])
            if transfer is not None:
                yield from transfer
            else:
                yield Order(Finish(number, config.number, *settled), "every key is settled")

    def hand_over(
        self, number: int, group: GroupRecord, staying: Sequence[int]
    ) -> tuple[Transfer, ...] | None:
        """The leadership goes first to a voter that stays; None when that is not needed.

        An empty result means that it is needed, but not now.
        """
        leader = self.world.leaders.get(number)
        if leader is None or leader in staying or not self.is_reachable(leader):
            return None
        able = {one.node for one in group.config.members if self.answers(group, one)}
        heirs = [node for node in staying if node in able]
        if not heirs:
            return None
        return self.transfer(number, leader, heirs[0], "its leader is to go")

    def prefer_leader(self, shard: int, group: GroupRecord) -> tuple[Transfer, ...]:
        """Whom the group prefers is to lead it."""
        leader, first = self.world.leaders.get(shard), group.config.voters[0]
        if leader is None or leader == first.node or not self.is_reachable(leader):
            return ()
        if not self.answers(group, first) or not self.world.may_rebalance:
            return ()
        return self.transfer(shard, leader, first.node, "another leader is preferred")

    def transfer(self, number: int, leader: int, to: int, why: str) -> tuple[Transfer, ...]:
        return (Transfer(number, leader, to, why),) if self.has_transfers_left() else ()

    def has_transfers_left(self) -> bool:
        self.transfers += 1
        return self.transfers <= self.limits.max_transfers

    # What is seen of them.

    def pairs_of(self, group: GroupRecord, goal: Sequence[int]) -> set[tuple[int, int]]:
        """Between which nodes the shard moves: those that go, and those that come for them."""
        config = group.config
        joining = [one for one in config.joining if one not in config.voters]
        coming = tuple(one.node for one in (*config.learners, *joining))
        aim = [one.node for one in config.joining] or goal
        if not config.learners and not config.joining:
            coming = self.coming(group, goal)
        going = [one.node for one in config.voters if one.node not in aim]
        first = config.voters[0].node
        return {
            (going[place] if place < len(going) else first, node)
            for place, node in enumerate(coming)
        }

    def coming(self, group: GroupRecord, goal: Sequence[int]) -> tuple[int, ...]:
        """The nodes that are to hold the group and do not; nobody comes who is down."""
        held = {one.node for one in group.config.voters if one not in group.lost}
        return tuple(
            node for node in goal if node not in held and self.status[node] is not Status.DOWN
        )

    def is_reachable(self, node: int) -> bool:
        return node not in self.world.unreachable

    def answers(self, group: GroupRecord, replica: Replica) -> bool:
        """Whether the replica can be counted on."""
        node = replica.node
        return (
            node not in self.world.unreachable
            and self.status[node] is not Status.DOWN
            and replica not in group.lost
        )

    def has_majority(self, group: GroupRecord, side: Sequence[Replica]) -> bool:
        return 2 * sum(self.answers(group, one) for one in side) > len(side)
