"""The root group of a local cluster: one object that keeps the record, and takes no time.

Theory. On real nodes the record is a register of its own, kept by some of the supervisors. Here one
object stands for all of them: it applies commands at once, tells everybody, and plans by the same
rules as a root leader. It is there for the side of a cut on which a majority of the root group is
up, and for nobody when there is none. What the plan needs of shards (learners that copy, joint
configs that are settled) their replicas really do. It plans only while something is to be done, and
looks often then, so that a move takes as long as its messages, whatever the replicas' own ticks
are.
"""

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from jido_cluster.errors import InvalidInputError
from jido_cluster.runtime import control_operations as operations
from jido_cluster.runtime import draining
from jido_cluster.runtime.host import ShardHost
from jido_cluster.runtime.view import View
from jido_cluster.runtime.wire import pack, unpack
from jido_placement.changes import apply, apply_all
from jido_placement.commands import Answer, Command, Formatted
from jido_placement.planner import plan
from jido_placement.record import ROOT, Record
from jido_placement.steps import Limits, Order, Transfer, World
from jido_placement.targets import holders_of
from jido_state.node_messages import Done, RecordIs, RecordPull, RootAsk, RootTold
from jido_state.reports import Reports

if TYPE_CHECKING:
    from jido_cluster._local.runtime import LocalRuntime

__all__ = ["LocalRoot"]

SUPERVISOR: Final = 0  # the part of a node from which its hosts hear of records
PACE: Final = 0.05  # seconds between looks while something moves
SLOWEST: Final = 2.0  # while what is to be done cannot be


class LocalRoot:
    """Bound to the loop that made it.

    Args:
        record: Of the cluster as it was made.
        runtime: Has its nodes.

    Attributes:
        record: The newest.
        limits: Of the planner.
    """

    def __init__(self, record: Record, runtime: "LocalRuntime") -> None:
        self.record = record
        self.limits = Limits()
        self._runtime = runtime
        self._leaving: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()
        self._reports = Reports()
        self._looking: asyncio.TimerHandle | None = None
        self._pause = PACE

    @property
    def side(self) -> int | None:
        """The side of the network on which a majority of the root group is up; None without one."""
        runtime, config = self._runtime, self.record.root.config
        sides = {node.index: runtime.switchboard.side(node.index) for node in runtime.up()}
        for side in sides.values():
            if config.is_quorum([one for one in config.members if sides.get(one.node) == side]):
                return side
        return None

    def apply(self, command: Command) -> Answer:
        """The answer to a command; everybody hears of what it changes."""
        after, answer = apply(self.record, command)
        self._adopt(after)
        return answer

    def received(self, node: int, part: int, message: Any) -> None:
        """A message for the root group has come from a process."""
        if not self._is_here(node):
            return
        match message:
            case RootAsk(id_, command):
                answer = self.apply(command)
                self._tell(node, part, RootTold(id_, answer, None))
            case Done():
                self._reports.done(message)
                self.look_soon()
            case RecordPull(recovery_no, epoch):
                if (self.record.recovery_no, self.record.epoch) > (recovery_no, epoch):
                    self._tell(node, part, RecordIs(self.record))

    def look_soon(self) -> None:
        """Go on, if there is something to be done: what stood in the way may be gone."""
        self._pause = PACE
        if self._is_unsettled():
            self._look_after(PACE)

    def tell_all(self) -> None:
        """Give the record to all hosts that can be reached."""
        for host in self._runtime.hosts():
            if self._is_here(host.replicas.core.node):
                # Not by way of links: to pack and unpack the record for each would take seconds.
                self._loop.call_soon(self._tell_record, host, self.record)

    def close(self) -> None:
        """Stop at once."""
        if self._looking is not None:
            self._looking.cancel()
        for task in self._leaving:
            task.cancel()

    async def answer(self, node: int, operation: str, data: bytes) -> bytes:
        """What the supervisor of a node answers to a control request (`control_requests`)."""
        asked, overseer = unpack(data), _Overseer(self, self._runtime, node)
        match operation:
            case "preview":
                return pack([list(move) for move in await draining.preview(overseer, *asked)])
            case "drain":
                drained = await draining.drain(overseer, asked)
                return pack([drained.node, [list(move) for move in drained.moves]])
            case "left":
                left = draining.left_of(overseer, asked)
                return pack([left.groups, left.is_member, list(left.why)])
            case "explain":
                record = overseer.record
                there = {one.node for one in record.members} - overseer.unreachable
                return pack(operations.explain(record, overseer.view, there, asked))
        raise InvalidInputError(f"there is no control request {operation!r}")

    @property
    def is_moving(self) -> bool:
        """Whether replicas are on their way."""
        return any(one.config.is_joint or one.config.learners for one in self.record.shards)

    def _is_here(self, node: int) -> bool:
        """Whether the node is on the root group's side."""
        return self._runtime.switchboard.side(node) == self.side

    # -- the record

    def _adopt(self, after: Record) -> None:
        before = self.record
        if after is before:
            return
        self.record = after
        self.tell_all()
        there = {one.node for one in after.members}
        for member in before.members:
            if member.node not in there:
                task = self._loop.create_task(self._runtime.leave(member.node))
                self._leaving.add(task)
                task.add_done_callback(self._leaving.discard)
        self._runtime.show_record()
        self.look_soon()

    @staticmethod
    def _tell_record(host: ShardHost, record: Record) -> None:
        if not host.is_closed:
            host.replicas.received(host.replicas.core.node, SUPERVISOR, [RecordIs(record)])

    def _tell(self, node: int, part: int, message: Any) -> None:
        """Send a message to a process, from the supervisor of the same node."""
        for one in self._runtime.nodes.values():
            if one.index == node and one.is_up:
                one.peers[0].send(node, part, message)

    def _is_unsettled(self) -> bool:
        """Whether the record is not at rest: somebody comes or goes, or replicas move."""
        record = self.record
        if any(one.is_retiring for one in record.members) or holders_of(record) != (
            record.target_for
        ):
            return True
        return self.is_moving or any(
            tuple(one.node for one in group.config.voters) != aim
            for group, aim in zip(record.shards, record.target, strict=True)
        )

    # -- the plan

    def _look_after(self, pause: float) -> None:
        if self._looking is not None:
            self._looking.cancel()
        self._looking = self._loop.call_later(pause, self._look)

    def _look(self) -> None:
        self._looking = None
        if self.side is None:
            return  # it is looked again when a node is back, or a cut ends
        before = self.record
        for host in self._runtime.hosts():
            host.replicas.tick()
        steps = plan(self.record, self._world(), self.limits)
        commands = [step.command for step in steps if isinstance(step, Order)]
        after, _ = apply_all(self.record, commands)
        # The root group's own replicas are this object: they are ready at once.
        fresh = [one for one in after.root.replicas if one not in after.root.formatted]
        after, _ = apply_all(after, [Formatted(ROOT, one) for one in fresh])
        self._adopt(after)
        for step in steps:
            if isinstance(step, Transfer):
                self._hand_over(step)
        self._pause = PACE if self.record is not before else min(2 * self._pause, SLOWEST)
        if self._is_unsettled():
            self._look_after(self._pause)
        else:
            self._runtime.prefer_later()

    def _hand_over(self, step: Transfer) -> None:
        for host in self._runtime.hosts():
            if host.replicas.core.node == step.leader:
                host.replicas.hand_over(step.group, step.to)  # nothing where it does not lead

    def _world(self) -> World:
        now_ms = int(self._loop.time() * 1000)
        node = next(one.index for one in self._runtime.up() if self._is_here(one.index))
        overseer = _Overseer(self, self._runtime, node)
        seen = self._reports.world(
            self.record, now_ms, unreachable=overseer.unreachable, expired=frozenset()
        )
        leads = enumerate(overseer.view.leads)
        copied = {(ROOT, one.node) for one in self.record.root.config.learners}
        return replace(
            seen,
            leaders={shard: lead.node for shard, lead in leads if lead is not None},
            staged=seen.staged | copied,
        )


class _Overseer:
    """The supervisor of a node, as `draining` sees it."""

    def __init__(self, root: LocalRoot, runtime: "LocalRuntime", node: int) -> None:
        self._root = root
        self._runtime = runtime
        self._node = node

    @property
    def record(self) -> Record:
        """As the protocol says."""
        return self._runtime.record_at(self._node)

    @property
    def view(self) -> View:
        """As the protocol says."""
        return self._runtime.view_at(self._node)

    @property
    def limits(self) -> Limits:
        """As the protocol says."""
        return self._root.limits

    @property
    def unreachable(self) -> frozenset[int]:
        """As the protocol says."""
        is_joined = self._runtime.switchboard.is_joined
        there = {one.index for one in self._runtime.up() if is_joined(self._node, one.index)}
        return frozenset(one.node for one in self.record.members if one.node not in there)

    async def order(self, command: Command) -> Answer | None:
        """As the protocol says."""
        is_here = self._runtime.switchboard.side(self._node) == self._root.side
        return self._root.apply(command) if is_here else None
