"""All replicas of one node: what the committed record asks of it, and what it tells the root group.

Theory. A node goes by the newest committed record it has heard of. Where the record names a replica
of this node that has no header here, the header is made in three steps, each of which may be
repeated: the root group is asked whether there was one before (an empty store must never vote in
the name of one that is lost); the header is made durable, pending; the root group notes that it is
there. Where there was one before, the replica is reported as lost and comes back under another
number. The node whose root replica leads plans, and orders what the planner says.

Above each replica of a shard there is a `Service`. It outlives the replica, since its entries do: a
node that loses a shard, and one that is given it again, still has what it did without a quorum.
What is left of a replica whose header is spoilt waits for the next one.

Questions to the root group are named by a number drawn for this process, so that an answer to an
earlier life is not taken for one to this.

The driver's duties are those of `Group` and of `Service`, once for each group, and these:

1. A `Node` is opened only after the node's boot is registered, with what its stores hold durably.
   A node that was removed comes back as another member, with empty stores.
2. `wall_ms` is set before each call. `reachable`, `admitted`, and where the root replica is
   `unreachable` and `expired`, are kept as the failure detector has them.
3. Of several processes on one node each has a `Node` for its groups, which `owns` names, and one of
   them has the root group. They have addresses and share messages as `node_messages` says.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
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
from jido_placement.policies import Strategy
from jido_placement.record import ROOT, GroupRecord, Record
from jido_placement.steps import Limits, Order, Transfer
from jido_state import requests
from jido_state.divergence import Siblings
from jido_state.entries import MESSAGES, AskEntries, NoEntries, SendEntries
from jido_state.group import Group
from jido_state.messages import Effect, Header, JointDone, LearnerReady, Row, Send
from jido_state.node_messages import (
    Done,
    Frame,
    GroupEffect,
    HandOver,
    Leads,
    RecordIs,
    RecordPull,
    RootAsk,
    RootTold,
    ToNode,
)
from jido_state.reports import Reports
from jido_state.root_group import Applied, Committed, RootCommands, root_config
from jido_state.service import Service
from jido_state.settings import GroupSettings
from jido_state.versions import NO_BALLOT

__all__ = ["Node", "StoredGroup"]

PULL_MS: Final = 500  # between looks for a newer record, and repetitions of questions
PLAN_MS: Final = 500  # between plans


class StoredGroup(NamedTuple):
    """What the stores hold of one group.

    Attributes:
        header: None when there is none, or it is spoilt: the replica is lost, its entries are not.
        rows: By key.
        bad: Keys of rows that are spoilt.
        siblings: Divergence entries, by key.
        period: The number of the last acting period; 0 for none.
        appended: The append counter of the group's store.
    """

    header: Header | None
    rows: Mapping[str, Row] = {}
    bad: Iterable[str] = ()
    siblings: Mapping[str, Siblings] = {}
    period: int = 0
    appended: int = 0


class Node:
    """The replicas of one node, and its part in the root group.

    Args:
        node: Its index.
        record: The newest committed record it knows; durable, or what it joined with.
        stored: What its stores hold, by group.
        service: Makes the layer above a shard's group: `Service` with all that is alike for the
            shards of this process, its boot number among it.
        settings: Of all groups.
        now_ms: The node's monotonic time.
        nonce: Drawn for this process, 1 to 2**31 - 1.
        limits: Of the planner.
        owns: Whether a group, `ROOT` too, is this process's; None when all of the node's are.

    Attributes:
        groups: Its replicas.
        services: The layers above those of shards.
        wall_ms: The wall clock's time of the next call.
        reachable: The nodes with which this one has contact both ways.
        admitted: The strategies under which it may serve users now.
        unreachable: The nodes that the root leader is not to count on.
        expired: Those of them that are to be replaced.
        may_rebalance: Whether the root leader may move shards for balance; not while a split heals.
    """

    def __init__(
        self,
        node: int,
        record: Record,
        stored: Mapping[int, StoredGroup],
        service: Callable[..., Service],
        settings: GroupSettings,
        now_ms: int,
        nonce: int,
        limits: Limits | None = None,
        owns: Callable[[int], bool] | None = None,
    ) -> None:
        self.node = node
        self.record = record
        self._members = tuple(one.node for one in record.members)
        self._epoch = (record.recovery_no, record.epoch)
        self.unreachable: frozenset[int] = frozenset()
        self.expired: frozenset[int] = frozenset()
        self.may_rebalance = True
        self.reachable: frozenset[int] = frozenset()
        self.admitted: frozenset[Strategy] = frozenset(Strategy)
        self.wall_ms = 0
        self.groups: dict[int, Group] = {}
        self.services: dict[int, Service] = {}
        self.root: RootCommands | None = None
        self._make_service = service
        self._owns = owns or (lambda _: True)
        self._is_whole = owns is None
        self._settings = settings
        self._limits = limits
        self._now_ms = now_ms
        self._effects: list[ToNode | GroupEffect] = []
        self._pulled_ms = now_ms - PULL_MS
        self._planned_ms = now_ms
        self._pulls = 0
        self._root_leader: int | None = None
        self._nonce = nonce
        self._next_id = nonce << 32
        self._asked: dict[int, Command] = {}
        self._standing: dict[type, Command] = {}  # asked again until they are answered
        self._granted: set[tuple[int, Replica]] = set()
        self._reports = Reports()
        # Entries of groups that have no replica here, with their acting periods.
        self._left: dict[int, tuple[Mapping[str, Siblings], int]] = {}
        for number, held in sorted(stored.items()):
            self._left[number] = (held.siblings, held.period)
            if held.header is not None:
                self._open(number, held.header, held.rows, held.bad, held.appended)

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
            self._reports.done(message)  # type: ignore[arg-type]
            self._plan_soon()
        elif kind is Leads:
            self._reports.leads(message, now_ms)  # type: ignore[arg-type]
        elif kind is HandOver:
            self._hand_over(message)  # type: ignore[arg-type]
        return self._finish()

    def tick(self, now_ms: int) -> list[ToNode | GroupEffect]:
        """Lets time pass in all groups; looks for newer records, plans when it leads the root."""
        self._now_ms = now_ms
        for number, group in list(self.groups.items()):
            if group.is_due(now_ms):
                layer = self.root if number == ROOT else self.services[number]
                above = None if layer is None else layer.tick
                self._perform(number, self._at(number).tick(now_ms, above))
        if now_ms - self._pulled_ms >= PULL_MS:
            self._pulled_ms = now_ms
            self._pull()
            self._report_leads()
            self._tend()
        if now_ms - self._planned_ms >= PLAN_MS:
            self._planned_ms = now_ms
            self._plan()
        return self._finish()

    def persisted(
        self, group: int, rno: int, ticket: int, now_ms: int, *, appended: int = 0
    ) -> list[ToNode | GroupEffect]:
        """What this replica of the group asked for is durable up to this ticket.

        Args:
            group: Which.
            rno: As in the effect.
            ticket: Of the last `Persist`.
            now_ms: The node's monotonic time.
            appended: The append counter of the group's store.
        """
        self._now_ms = now_ms
        found = self.groups.get(group)
        if found is not None and found.header.rno == rno:  # its successor counts anew
            self._perform(group, self._at(group).persisted(ticket, now_ms, appended=appended))
            asked = self.record.group(group)
            if found.header.status == "pending" and asked is not None:
                self._tend_group(group, asked)  # the root group waits to hear of it
        return self._finish()

    def entries_persisted(self, group: int, ticket: int, now_ms: int) -> list[ToNode | GroupEffect]:
        """What the layer above the group asked for by `PersistEntries` is durable up to this."""
        return self.step(group, now_ms, Service.persisted, ticket)

    def submit_request(
        self, group: int, request: requests.Request, now_ms: int
    ) -> list[ToNode | GroupEffect]:
        """Takes a user's request; its `Answer` comes in this step or a later one.

        A node that is not to have the shard says who is.
        """
        asked = self.record.group(group)
        if group in self.services and (asked is None or asked.names(self.node)):
            return self.step(group, now_ms, Service.submit, request)
        who = None if asked is None else asked.config.voters[0].node
        answer = requests.Answer(request.id, requests.Status.NOT_LEADER, who, token=request.token)
        return [GroupEffect(group, 0, answer)]

    def step(
        self, group: int, now_ms: int, method: Callable[..., object], *args: Any
    ) -> list[ToNode | GroupEffect]:
        """Calls a method of the shard's `Service`, `Service.end` say, within a step of the group.

        Nothing happens where there is none.
        """
        self._now_ms = now_ms
        service = self.services.get(group)
        if service is not None:
            self._perform(group, self._at(group).step(now_ms, method, service, *args))
        return self._finish()

    def certain(
        self, group: int, node: int, now_ms: int, *, is_gone: bool = True
    ) -> list[ToNode | GroupEffect]:
        """See `Group.certain`: the process with the other node's replica is gone, or is there."""
        self._now_ms = now_ms
        if group in self.groups:
            self._perform(group, self._at(group).certain(node, now_ms, is_gone=is_gone))
        return self._finish()

    def store_full(self, now_ms: int, *, is_full: bool) -> list[ToNode | GroupEffect]:
        """See `Group.store_full`, for all groups."""
        self._now_ms = now_ms
        for number in list(self.groups):
            self._perform(number, self._at(number).store_full(now_ms, is_full=is_full))
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

    def _at(self, number: int) -> Group:
        """The group, after the layer above it was told the time and how things are."""
        service = self.services.get(number)
        if service is not None:
            service.at(self._now_ms, self.wall_ms)
            service.reachable, service.admitted = self.reachable, self.admitted
            service.epoch, service.members = self._epoch, self._members
        return self.groups[number]

    def _step(self, number: int, action: Callable[..., object], *args: Any) -> None:
        self._perform(number, self._at(number).step(self._now_ms, action, *args))

    def _perform(self, group: int, effects: Iterable[Effect | Any]) -> None:
        for effect in effects:
            self._effect(group, effect)

    def _effect(self, group: int, effect: Any) -> None:
        kind = type(effect)
        if kind is Send or kind is SendEntries:
            rno = self.groups[group].acceptor.me.rno
            self._effects.append(ToNode(effect.to, Frame(group, rno, effect.message)))
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
            rno = self.groups[group].acceptor.me.rno
            self._effects.append(GroupEffect(group, rno, effect))

    # Groups

    def _open(
        self,
        number: int,
        header: Header,
        rows: Mapping[str, Row],
        bad: Iterable[str] = (),
        appended: int = 0,
    ) -> None:
        """A group with what is durable of it, or a fresh one."""

        def emit(effect: Any) -> None:
            self._effect(number, effect)

        def leader() -> int | None:
            group = self.groups.get(number)
            return None if group is None else group.leader

        upper: RootCommands | Service
        if number == ROOT:
            upper = self.root = RootCommands(emit, leader)
        elif number in self.services:
            upper = self.services[number]
        else:
            siblings, period = self._left.pop(number, ({}, 0))
            upper = self.services[number] = self._make_service(
                emit,
                lambda: self.groups[number],
                shard=number,
                siblings=siblings,
                period=period,
            )
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
            appended=appended,
            life=self._nonce,
            config_of=root_config if number == ROOT else None,
        )

    def _receive_frame(self, sender: int, frame: Frame) -> None:
        number, message = frame.group, frame.message
        if type(message) in MESSAGES:
            self._receive_entries(Replica(sender, frame.rno), number, message)
        elif number in self.groups:
            replica = Replica(sender, frame.rno)
            received = self._at(number).receive(replica, message, self._now_ms)  # type: ignore[arg-type]
            self._perform(number, received)

    def _receive_entries(self, sender: Replica, number: int, message: Any) -> None:
        """What is said of entries: answers for a shard of which there is no replica here."""
        if number in self.services:
            self._step(number, self.services[number].receive, sender, message)
        elif type(message) is AskEntries and sender.node in self._members:
            is_known = message.epoch <= (self.record.recovery_no, self.record.epoch)
            if is_known and not self._left.get(number, ({}, 0))[0]:
                none = NoEntries(message.ballot, message.number)
                self._send(sender.node, Frame(number, 0, none))

    # The record

    def _adopt(self, record: Record) -> None:
        """Goes by a newer committed record."""
        mine = self.record
        if record.cluster_id != mine.cluster_id:
            return  # another cluster's: its nodes and this one's never exchange state
        if (record.recovery_no, record.epoch) <= (mine.recovery_no, mine.epoch):
            return
        self.record = record
        self._members = tuple(one.node for one in record.members)
        self._epoch = (record.recovery_no, record.epoch)
        self._tend()

    def _tend(self) -> None:
        """Brings each group to where the record wants it, as far as that is for this node to do."""
        for number in sorted({ROOT, *self.record.groups_naming(self.node), *self.groups}):
            asked = self.record.group(number)
            if asked is not None and self._owns(number):
                self._tend_group(number, asked)

    def _tend_group(self, number: int, asked: GroupRecord) -> None:
        group = self.groups.get(number)
        if group is not None and group.header.status == "voter" and group.config == asked.config:
            is_changing = asked.config.is_joint or asked.config.learners
            if not is_changing:
                return
        mine = max((one for one in asked.replicas if one.node == self.node), default=None)
        if group is not None:
            if number != ROOT and asked.config.number > group.config.number:
                self._perform(number, self._at(number).adopt(asked.config, self._now_ms))
            me = group.acceptor.me
            if group.header.status == "lost" and me in asked.replicas and me not in asked.lost:
                self._ask(StoreLost(number, me))
            if group.header.status == "pending" and group.acceptor.me in asked.replicas:
                if group.acceptor.me in asked.formatted:
                    self._perform(number, self._at(number).formatted(self._now_ms))
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
        for node in self._members:
            if node != self.node or not self._is_whole:
                self._send(node, RecordIs(record))
        self._plan_soon()

    def _pull(self) -> None:
        """Asks one member after the other for what is newer; repeats questions to the root."""
        for command in list(self._standing.values()):
            self._ask(command)
        members = [node for node in self._members if self._is_elsewhere(node)]
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
            self._step(ROOT, root.submit, (self.node, self._next_id), command)
            return
        to = self._root_leader
        if to is None or not self._is_elsewhere(to):
            members = self.record.root.config.members
            names = [one.node for one in members if self._is_elsewhere(one.node)]
            if not names:
                return
            to = names[self._next_id % len(names)]
        self._send(to, RootAsk(self._next_id, command))

    def _is_elsewhere(self, node: int) -> bool:
        """Whether the root replica of that node, if it has one, is another process's."""
        return node != self.node or not self._owns(ROOT)

    def _receive_ask(self, sender: int, ask: RootAsk) -> None:
        root = self.root
        if root is None:
            self._send(sender, RootTold(ask.id, None, self._root_leader))
            return
        self._step(ROOT, root.submit, (sender, ask.id), ask.command)

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
        if self._owns(ROOT):
            self._reports.done(done)
            self._plan_soon()
        self._send_root(done)

    def _send_root(self, message: Done | Leads) -> None:
        for replica in self.record.root.config.members:
            if self._is_elsewhere(replica.node):
                self._send(replica.node, message)

    def _report_leads(self) -> None:
        """Tells who plans which groups this process leads."""
        groups = [number for number, one in self.groups.items() if one.leadership is not None]
        if groups:
            leads = Leads(self.node, tuple(sorted(groups)))
            if self._owns(ROOT):
                self._reports.leads(leads, self._now_ms)
            self._send_root(leads)

    def _plan_soon(self) -> None:
        """At the next tick: something has changed that the next steps wait for."""
        self._planned_ms = self._now_ms - PLAN_MS

    def _plan(self) -> None:
        """Orders the next steps, while this node leads the root group."""
        root = self.root
        record = None if root is None else root.record
        if record is None:
            return
        world = replace(
            self._reports.world(
                record, self._now_ms, unreachable=self.unreachable, expired=self.expired
            ),
            may_rebalance=self.may_rebalance,
        )
        for step in plan(record, world, self._limits):
            if isinstance(step, Order):
                self._ask(step.command)
            elif isinstance(step, Transfer):
                self._send(step.leader, HandOver(step.group, step.to))

    def _hand_over(self, message: HandOver) -> None:
        group = self.groups.get(message.group)
        if group is not None:
            self._perform(message.group, self._at(message.group).transfer(message.to, self._now_ms))
