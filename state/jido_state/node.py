"""All replicas of one node: what the committed record asks of it, and what it tells the root group.

Theory. A node goes by the newest committed record it has heard of. Where the record names a replica
of this node that has no header here, the header is made in three steps, each of which may be
repeated: the root group is asked whether there was one before (an empty store must never vote in
the name of one that is lost); the header is made durable, pending; the root group notes that it is
there. Where there was one before, the replica is reported as lost and comes back under another
number. The node whose root replica leads plans, and orders what the planner says.

Questions to the root group are named by a number drawn for this process, so that an answer to an
earlier life is not taken for one to this.

The driver's duties are those of `group.py`, once for each group; in addition it tells which nodes
it believes to be unreachable, and opens a `Node` only after the boot is registered.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, NamedTuple

from jido_placement.commands import (
    Accepted,
    Answer,
    Command,
    Formatted,
    MayFormat,
    Reason,
    StoreLost,
)
from jido_placement.config import Replica
from jido_placement.planner import plan
from jido_placement.record import ROOT, GroupRecord, Record
from jido_placement.steps import Limits, Order, Transfer, World
from jido_state.group import Group
from jido_state.messages import Effect, Header, JointDone, LearnerReady, Message, Row, Send
from jido_state.pending import Listener
from jido_state.root_group import Applied, Committed, RootCommands, root_config
from jido_state.settings import GroupSettings
from jido_state.versions import NO_BALLOT

__all__ = [
    "Done",
    "Frame",
    "GroupEffect",
    "HandOver",
    "Node",
    "RecordIs",
    "RecordPull",
    "RootAsk",
    "RootTold",
    "ToNode",
]

PULL_MS: Final = 500  # between looks for a newer record, and repetitions of questions
PLAN_MS: Final = 500  # between plans


class Frame(NamedTuple):
    """A message of a group, with the assignment in its sender's header."""

    group: int
    rno: int
    message: Message


class RecordPull(NamedTuple):
    """Is there a record newer than this?"""

    recovery_no: int
    epoch: int


class RecordIs(NamedTuple):
    """The newest committed record the sender knows."""

    record: Record


class RootAsk(NamedTuple):
    """A command for the root group's leader."""

    id: int
    command: Command


class RootTold(NamedTuple):
    """What became of it; None when the asked node does not lead, with who does if known."""

    id: int
    answer: Answer | None
    leader: int | None


class Done(NamedTuple):
    """What the root leader plans by: a learner has copied, or a joint config is settled.

    Attributes:
        group: Which group.
        config: The number of the config it is said of.
        node: The learner's; -1 for a joint config.
        ballot: Recovery and config number of the joint leader's ballot; zeros for a learner.
    """

    group: int
    config: int
    node: int
    ballot: tuple[int, int]


class HandOver(NamedTuple):
    """The leader of the group is asked to pass it on."""

    group: int
    to: int


class ToNode(NamedTuple):
    """Send this to a node; delivery is not needed."""

    to: int
    message: Frame | RecordPull | RecordIs | RootAsk | RootTold | Done | HandOver


class GroupEffect(NamedTuple):
    """An effect of one group: a `Persist` or `Led` or what its upper layer asked for."""

    group: int
    effect: Any


class Node:
    """The replicas of one node, and its part in the root group.

    Args:
        node: Its index.
        record: The newest committed record it knows; durable, or what it joined with.
        stored: What its stores hold: headers and rows by group, and keys of spoilt rows.
        upper: Makes the layer above a shard's group, given the shard, a way to emit effects and
            one to ask who leads.
        settings: Of all groups.
        now_ms: The node's monotonic time.
        nonce: Drawn for this process, 0 to 2**31 - 1.
        limits: Of the planner.
    """

    def __init__(
        self,
        node: int,
        record: Record,
        stored: Mapping[int, tuple[Header, Mapping[str, Row], Iterable[str]]],
        upper: Callable[[int, Callable[[Any], None], Callable[[], int | None]], Listener],
        settings: GroupSettings,
        now_ms: int,
        nonce: int,
        limits: Limits | None = None,
    ) -> None:
        self.node = node
        self.record = record
        self.unreachable: frozenset[int] = frozenset()
        self.expired: frozenset[int] = frozenset()
        self.groups: dict[int, Group] = {}
        self.uppers: dict[int, Any] = {}
        self._make_upper = upper
        self._settings = settings
        self._limits = limits
        self._now_ms = now_ms
        self._effects: list[ToNode | GroupEffect] = []
        self._pulled_ms = now_ms - PULL_MS
        self._planned_ms = now_ms
        self._pulls = 0
        self._root_leader: int | None = None
        self._next_id = nonce << 32
        self._asked: dict[int, Command] = {}
        self._standing: dict[type, Command] = {}  # asked again until they are answered
        self._granted: set[tuple[int, Replica]] = set()
        self._staged: dict[tuple[int, int, int], None] = {}  # group, config, node
        self._settled: dict[tuple[int, int], tuple[int, int]] = {}  # group, config: ballot
        for group, (header, rows, bad) in sorted(stored.items()):
            self._open(group, header, rows, bad)

    @property
    def root(self) -> RootCommands | None:
        """The root group's commands here, when this node has a replica of it."""
        return self.uppers.get(ROOT)

    # What the driver calls

    def receive(self, sender: int, message: object, now_ms: int) -> list[ToNode | GroupEffect]:
        """Handles what another node sent."""
        self._now_ms = now_ms
        kind = type(message)
        if kind is Frame:
            self._receive_frame(sender, message)  # type: ignore[arg-type]
        elif kind is RecordIs:
            self._adopt(message.record)  # type: ignore[attr-defined]
        elif kind is RecordPull:
            self._receive_pull(sender, message)  # type: ignore[arg-type]
        elif kind is RootAsk:
            self._receive_ask(sender, message)  # type: ignore[arg-type]
        elif kind is RootTold:
            self._receive_told(message)  # type: ignore[arg-type]
        elif kind is Done:
            self._receive_done(message)  # type: ignore[arg-type]
        elif kind is HandOver:
            self._hand_over(message)  # type: ignore[arg-type]
        return self._finish()

    def tick(self, now_ms: int) -> list[ToNode | GroupEffect]:
        """Lets time pass in all groups; looks for newer records, plans when it leads the root."""
        self._now_ms = now_ms
        for number, group in list(self.groups.items()):
            self._perform(number, group.tick(now_ms))
            self._perform(number, group.step(now_ms, self.uppers[number].tick))
        if now_ms - self._pulled_ms >= PULL_MS:
            self._pulled_ms = now_ms
            self._pull()
            self._tend()
        if now_ms - self._planned_ms >= PLAN_MS:
            self._planned_ms = now_ms
            self._plan()
        return self._finish()

    def persisted(self, group: int, ticket: int, now_ms: int) -> list[ToNode | GroupEffect]:
        """What the group asked for is durable up to this ticket."""
        self._now_ms = now_ms
        found = self.groups.get(group)
        if found is not None:
            self._perform(group, found.persisted(ticket, now_ms))
        return self._finish()

    def step(
        self, group: int, now_ms: int, action: Callable[..., None], *args: Any
    ) -> list[ToNode | GroupEffect]:
        """Does something to a group's upper layer within a step of it."""
        self._now_ms = now_ms
        found = self.groups.get(group)
        if found is not None:
            self._perform(group, found.step(now_ms, action, *args))
        return self._finish()

    def submit(self, command: Command, now_ms: int) -> list[ToNode | GroupEffect]:
        """Sends a command to the root group until it is answered; its effect shows in the record.

        A second command takes the place of one of the same kind that is not answered.
        """
        self._now_ms = now_ms
        self._standing[type(command)] = command
        self._ask(command)
        return self._finish()

    def _finish(self) -> list[ToNode | GroupEffect]:
        effects, self._effects = self._effects, []
        return effects

    # Effects

    def _send(self, to: int, message: Any) -> None:
        self._effects.append(ToNode(to, message))

    def _perform(self, group: int, effects: Iterable[Effect | Any]) -> None:
        for effect in effects:
            self._effect(group, effect)

    def _effect(self, group: int, effect: Any) -> None:
        kind = type(effect)
        if kind is Send:
            rno = self.groups[group].header.rno
            self._send(effect.to, Frame(group, rno, effect.message))
        elif kind is JointDone:
            ballot = (effect.ballot.recovery, effect.ballot.config)
            self._report(Done(group, effect.config, -1, ballot))
        elif kind is LearnerReady:
            self._report(Done(group, effect.config, self.node, (0, 0)))
        elif kind is Committed:
            self._committed(effect.record)
        elif kind is Applied:
            self._applied(effect)
        else:
            self._effects.append(GroupEffect(group, effect))

    # Groups

    def _open(
        self, number: int, header: Header, rows: Mapping[str, Row], bad: Iterable[str] = ()
    ) -> None:
        """A group with what is durable of it, or a fresh one."""

        def emit(effect: Any) -> None:
            self._effect(number, effect)

        def leader() -> int | None:
            group = self.groups.get(number)
            return None if group is None else group.leader

        upper = (
            RootCommands(emit, leader) if number == ROOT else self._make_upper(number, emit, leader)
        )
        self.uppers[number] = upper
        self.groups[number] = Group(
            self.node,
            number,
            header,
            rows,
            upper,
            self._settings,
            self._now_ms,
            recovery=self.record.recovery_no,
            bad=bad,
            config_of=root_config if number == ROOT else None,
        )

    def _receive_frame(self, sender: int, frame: Frame) -> None:
        group = self.groups.get(frame.group)
        if group is not None:
            replica = Replica(sender, frame.rno)
            self._perform(frame.group, group.receive(replica, frame.message, self._now_ms))

    # The record

    def _adopt(self, record: Record) -> None:
        """Goes by a newer committed record."""
        mine = self.record
        if record.cluster_id != mine.cluster_id:
            return  # another cluster's: its nodes and this one's never exchange state
        if (record.recovery_no, record.epoch) <= (mine.recovery_no, mine.epoch):
            return
        self.record = record
        self._tend()

    def _tend(self) -> None:
        """Brings each group to where the record wants it, as far as that is for this node to do."""
        for number in sorted({ROOT, *self.record.groups_naming(self.node), *self.groups}):
            asked = self.record.group(number)
            if asked is not None:
                self._tend_group(number, asked)

    def _tend_group(self, number: int, asked: GroupRecord) -> None:
        group = self.groups.get(number)
        mine = max((one for one in asked.replicas if one.node == self.node), default=None)
        if group is not None:
            if number != ROOT:
                self._perform(number, group.adopt(asked.config, self._now_ms))
            if group.header.status == "pending" and group.acceptor.me in asked.replicas:
                if group.acceptor.me in asked.formatted:
                    self._perform(number, group.formatted(self._now_ms))
                elif group.is_durable:
                    self._ask(Formatted(number, group.acceptor.me))
                return
        if mine is None or mine in asked.lost:
            return
        if group is not None and group.header.rno >= mine.rno:
            return
        if (number, mine) in self._granted:
            self._format(number, mine, asked)
        elif mine in asked.formatted:
            self._ask(StoreLost(number, mine))
        else:
            self._ask(MayFormat(number, mine))

    def _format(self, number: int, mine: Replica, asked: GroupRecord) -> None:
        """Makes the header of a replica that never had one: pending, until the root notes it."""
        self._granted.discard((number, mine))
        before = self.groups.get(number)
        promised = NO_BALLOT if before is None else before.header.promised
        header = Header(mine.rno, "pending", asked.config, promised)
        self._open(number, header, {})
        self._perform(number, self.groups[number].make(self._now_ms))

    def _committed(self, record: Record) -> None:
        """This node's root replica leads, and the record is committed: everybody may know."""
        self._root_leader = self.node
        self._adopt(record)
        for member in record.members:
            if member.node != self.node:
                self._send(member.node, RecordIs(record))

    def _pull(self) -> None:
        """Asks one member after the other for what is newer; repeats questions to the root."""
        for command in list(self._standing.values()):
            self._ask(command)
        members = [one.node for one in self.record.members if one.node != self.node]
        if members:
            self._pulls += 1
            to = members[self._pulls % len(members)]
            self._send(to, RecordPull(self.record.recovery_no, self.record.epoch))

    def _receive_pull(self, sender: int, pull: RecordPull) -> None:
        mine = (self.record.recovery_no, self.record.epoch)
        if mine > (pull.recovery_no, pull.epoch):
            self._send(sender, RecordIs(self.record))
        elif mine < (pull.recovery_no, pull.epoch):
            self._send(sender, RecordPull(*mine))

    # Questions to the root group

    def _ask(self, command: Command) -> None:
        self._next_id += 1
        self._asked = {id_: one for id_, one in self._asked.items() if one != command}
        self._asked[self._next_id] = command
        root = self.root
        if root is not None and self.groups[ROOT].leadership is not None:
            group = self.groups[ROOT]
            command_id = (self.node, self._next_id)
            self._perform(ROOT, group.step(self._now_ms, root.submit, command_id, command))
            return
        to = self._root_leader
        if to is None or to == self.node:
            names = [one.node for one in self.record.root.config.members if one.node != self.node]
            if not names:
                return
            to = names[self._next_id % len(names)]
        self._send(to, RootAsk(self._next_id, command))

    def _receive_ask(self, sender: int, ask: RootAsk) -> None:
        root = self.root
        if root is None:
            self._send(sender, RootTold(ask.id, None, self._root_leader))
            return
        group = self.groups[ROOT]
        self._perform(ROOT, group.step(self._now_ms, root.submit, (sender, ask.id), ask.command))

    def _applied(self, applied: Applied) -> None:
        sender, id_ = applied.id
        told = RootTold(id_, applied.answer, applied.leader)
        if sender == self.node:
            self._receive_told(told)
        else:
            self._send(sender, told)

    def _receive_told(self, told: RootTold) -> None:
        command = self._asked.get(told.id)
        if command is None:
            return
        if told.answer is None:
            # Asked again at the next look, of whom it named.
            self._root_leader = told.leader
            return
        del self._asked[told.id]
        if self._standing.get(type(command)) == command:
            del self._standing[type(command)]
        if isinstance(command, MayFormat):
            self._may_format(command, told.answer)

    def _may_format(self, command: MayFormat, answer: Answer) -> None:
        asked = self.record.group(command.group)
        if asked is None:
            return
        if isinstance(answer, Accepted):
            group = self.groups.get(command.group)
            if group is None or group.header.rno < command.replica.rno:
                self._granted.add((command.group, command.replica))
                if command.replica in asked.replicas:
                    self._tend_group(command.group, asked)
        elif answer.reason is Reason.ALREADY_FORMATTED:
            self._ask(StoreLost(command.group, command.replica))

    # Planning

    def _report(self, done: Done) -> None:
        """Tells the root leader what it plans by."""
        if self._root_leader is None or self._root_leader == self.node:
            self._receive_done(done)
        for replica in self.record.root.config.members:
            if replica.node != self.node:
                self._send(replica.node, done)

    def _receive_done(self, done: Done) -> None:
        if done.node < 0:
            self._settled[done.group, done.config] = done.ballot
        else:
            self._staged[done.group, done.config, done.node] = None

    def _plan(self) -> None:
        """Orders the next steps, while this node leads the root group."""
        root = self.root
        record = None if root is None else root.record
        if record is None:
            return
        self._forget_done(record)
        world = World(
            unreachable=self.unreachable,
            expired=self.expired,
            leaders={},
            staged=frozenset((group, node) for group, _, node in self._staged),
            settled={group: ballot for (group, _), ballot in self._settled.items()},
        )
        for step in plan(record, world, self._limits):
            if isinstance(step, Order):
                self._ask(step.command)
            elif isinstance(step, Transfer):
                self._send(step.leader, HandOver(step.group, step.to))

    def _forget_done(self, record: Record) -> None:
        """What was said of configs that are over says nothing any more."""

        def is_current(group: int, number: int) -> bool:
            found = record.group(group)
            return found is not None and found.config.number == number

        self._staged = {key: None for key in self._staged if is_current(key[0], key[1])}
        self._settled = {key: ballot for key, ballot in self._settled.items() if is_current(*key)}

    def _hand_over(self, message: HandOver) -> None:
        group = self.groups.get(message.group)
        if group is not None:
            self._perform(message.group, group.transfer(message.to, self._now_ms))
