"""All replicas of a node: what it asks the root group, who of its processes answers what."""

from collections import Counter, deque
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from jido_placement.changes import apply_all
from jido_placement.commands import Accepted, BecomeUp, Join, MayFormat, StoreLost
from jido_placement.config import Replica
from jido_placement.record import ROOT, MemberRecord, Record, found
from jido_placement.steps import Limits, World
from jido_state.divergence import Entry, Siblings
from jido_state.entries import AskEntries, NoEntries, Offer, PersistEntries
from jido_state.group import Group
from jido_state.messages import Heartbeat, Persist
from jido_state.node import Node, StoredGroup
from jido_state.node_messages import (
    Frame,
    GroupEffect,
    HandOver,
    RecordIs,
    RecordPull,
    RootAsk,
    RootTold,
    ToNode,
)
from jido_state.operations import OpId
from jido_state.record import Record as Agent
from jido_state.requests import Answer, Commit, Request, RunTurn, Status
from jido_state.root_group import founding
from jido_state.service import Service
from jido_state.settings import GroupSettings
from jido_state.versions import NO_BALLOT, NO_VERSION

SETTINGS = GroupSettings()
SHARDS = 4
HOSTS = 2
PROCESS_BITS = 16  # of an address: the node's index is below, the process's number above


def first_record(nodes: int) -> Record:
    """As if all had joined the founder: nothing is assigned yet."""
    founder = MemberRecord(0, "m0", 1, 0, "m0")
    record = found("c", founder, shards=SHARDS, replicas=min(nodes, 3), expect=nodes)
    commands: list[Any] = []
    for node in range(1, nodes):
        commands += [Join(f"m{node}", node, f"m{node}", (), 1.0, None, ""), BecomeUp(node, 1)]
    return apply_all(record, commands)[0]


def make_node(
    record: Record, node: int = 0, stored: dict[int, StoredGroup] | None = None, **options: Any
) -> Node:
    service = partial(Service, boot=1, settings=SETTINGS, next_due=lambda *_: None)
    return Node(node, record, stored or {}, service, SETTINGS, 0, 1 + node, **options)


class Town:
    """Nodes of one supervisor and two hosts each, on a network and disks that do all they should.

    Args:
        nodes: How many machines.

    Attributes:
        processes: By address.
        answers: By the id of the request.
        asked: Addresses that asked for a record or for something of the root group.
        told: Addresses that were answered that.
    """

    def __init__(self, nodes: int = 3) -> None:
        self.now_ms = 0
        self.first = first_record(nodes)
        self.processes: dict[int, Node] = {}
        self.disks: dict[int, dict[int, dict[str, Any]]] = {}
        self.answers: dict[Any, Answer] = {}
        self.asked: set[int] = set()
        self.told: set[int] = set()
        self._queue: deque[tuple[int, ToNode]] = deque()
        self._asks = 0
        header, rows = founding(self.first)
        self.disks[0] = {ROOT: {"header": header, "rows": dict(rows)}}
        for node in range(nodes):
            for process in range(HOSTS + 1):
                self.start(node | process << PROCESS_BITS)

    def start(self, address: int) -> None:
        """A new process goes on from what is on its disk."""
        process = address >> PROCESS_BITS
        disk = self.disks.setdefault(address, {})
        stored = {group: StoredGroup(one["header"], one["rows"]) for group, one in disk.items()}
        self.processes[address] = make_node(
            self.first,
            address & 0xFFFF,
            stored,
            owns=lambda group: (0 if group == ROOT else group % HOSTS + 1) == process,
        )

    def run(self, until: Any, ms: int = 60_000) -> None:
        """Lets time pass until something holds."""
        end_ms = self.now_ms + ms
        while not until():
            assert self.now_ms < end_ms, "it never came to that"
            self.now_ms += 50
            for address, node in self.processes.items():
                node.reachable = frozenset(one.node for one in self.first.members)
                self.perform(address, node.tick(self.now_ms))
            while self._queue:
                source, sent = self._queue.popleft()
                for target in self.targets(sent):
                    self.deliver(source, target, sent.message)

    def targets(self, sent: ToNode) -> list[int]:
        """Which processes an address and a message stand for."""
        if sent.to >> PROCESS_BITS:
            return [sent.to]
        if isinstance(sent.message, (Frame, HandOver)) and sent.message.group != ROOT:
            return [sent.to | (sent.message.group % HOSTS + 1) << PROCESS_BITS]
        if isinstance(sent.message, RecordIs):
            return [sent.to | process << PROCESS_BITS for process in range(HOSTS + 1)]
        return [sent.to]

    def deliver(self, source: int, target: int, message: Any) -> None:
        if isinstance(message, (RecordPull, RootAsk)):
            self.asked.add(source)
            sender = source
        else:
            sender = source & 0xFFFF
        if isinstance(message, RootTold):
            self.told.add(target)
        if target in self.processes:
            self.perform(target, self.processes[target].receive(sender, message, self.now_ms))

    def perform(self, address: int, effects: list[ToNode | GroupEffect]) -> None:
        for effect in effects:
            if isinstance(effect, ToNode):
                self._queue.append((address, effect))
            else:
                self._group_effect(address, *effect)

    def _group_effect(self, address: int, group: int, rno: int, effect: Any) -> None:
        node = self.processes[address]
        if isinstance(effect, Persist):
            held = self.disks[address].setdefault(group, {"header": None, "rows": {}})
            held["header"] = effect.header or held["header"]
            held["rows"] = {} if effect.clears else held["rows"]
            held["rows"].update({key: row for key, row in effect.rows.items() if row is not None})
            self.perform(address, node.persisted(group, rno, effect.ticket, self.now_ms))
        elif isinstance(effect, PersistEntries):
            self.perform(address, node.entries_persisted(group, effect.ticket, self.now_ms))
        elif isinstance(effect, RunTurn):
            record = effect.record or Agent.blank(state=b"new", level=effect.request.level)
            commit = Commit(record, effect.request.payload)
            key, version = effect.request.key, effect.version
            done = node.step(group, self.now_ms, Service.end, key, version, commit)
            self.perform(address, done)
        elif isinstance(effect, Answer):
            self.answers[effect.id] = effect

    def leader(self, shard: int) -> int | None:
        """The address of the process that leads a shard."""
        for address, node in self.processes.items():
            group = node.groups.get(shard)
            if group is not None and group.leadership is not None:
                return address
        return None

    def ask(self, address: int, shard: int, kind: str, payload: Any = None) -> Answer:
        """Asks a process, and waits for its answer."""
        self._asks += 1
        op = None if kind == "read" else OpId("test", self._asks)
        asked = request(self._asks, kind, f"a{shard}", op, self.now_ms + 9_000)
        node = self.processes[address]
        asked = asked._replace(payload=payload)
        self.perform(address, node.submit_request(shard, asked, self.now_ms))
        self.run(lambda: self._asks in self.answers)
        return self.answers[self._asks]


def request(id: int, kind: str, key: str, op: OpId | None, due_ms: int) -> Request:
    return Request(id, kind, key, op, "eventual", due_ms=due_ms)


def led(town: Town) -> bool:
    return all(town.leader(shard) is not None for shard in range(SHARDS))


# Several processes of one node


def test_the_processes_of_a_node_share_its_groups() -> None:
    """A supervisor with the root group, and hosts that find their way to it and back."""
    town = Town()
    town.run(lambda: led(town))
    for address, node in town.processes.items():
        process = address >> PROCESS_BITS
        shards = [shard for shard in range(SHARDS) if shard % HOSTS + 1 == process]
        assert sorted(node.groups) == (shards if process else [ROOT])
        assert (node.root is None) == bool(process)
    hosts = {address for address in town.processes if address >> PROCESS_BITS}
    assert hosts <= town.asked
    assert hosts <= town.told, "the root group's answers do not come to those who asked"
    for shard in range(SHARDS):
        leader = town.leader(shard)
        assert leader is not None
        assert town.ask(leader, shard, "spawn", payload="made").value == "made"


def test_a_host_that_starts_again_goes_on_from_its_stores() -> None:
    """It has its replicas and their records, and asks for none that it has."""
    town = Town()
    town.run(lambda: led(town))
    leader = town.leader(1)
    assert leader is not None
    town.ask(leader, 1, "spawn")
    before = {number: group.header.rno for number, group in town.processes[leader].groups.items()}
    town.start(leader)
    town.run(lambda: led(town) and town.processes[leader].record.is_serving)
    node = town.processes[leader]
    assert {number: group.header.rno for number, group in node.groups.items()} == before
    successor = town.leader(1)
    assert successor is not None
    assert town.ask(successor, 1, "read").value.state == b"new"


def test_those_who_are_preferred_come_to_lead() -> None:
    """The planner hears who leads, from all processes, and hands over."""
    town = Town()
    town.run(lambda: led(town))

    def all_preferred() -> bool:
        record = town.processes[0].record
        return all(
            (town.leader(shard) or 0) & 0xFFFF == group.config.voters[0].node
            for shard, group in enumerate(record.shards)
        )

    town.run(all_preferred)
    address = town.leader(1)
    assert address is not None
    other = town.processes[0].record.shards[1].config.voters[1].node
    town.perform(address, town.processes[address].receive(0, HandOver(1, other), town.now_ms))
    town.run(lambda: town.leader(1) not in {None, address})
    town.run(all_preferred)


# Requests


def test_who_has_no_replica_of_a_shard_says_who_has() -> None:
    """Before the shards are assigned nobody knows."""
    node = make_node(first_record(3))
    asked = request(1, "call", "k", OpId("c", 1), 1_000)
    (effect,) = node.submit_request(2, asked, 0)
    assert isinstance(effect, GroupEffect)
    assert (effect.effect.status, effect.effect.value) == (Status.NOT_LEADER, None)
    town = Town(4)
    town.run(lambda: led(town))
    record = town.processes[0].record
    shard, outside = next(
        (shard, node)
        for shard, group in enumerate(record.shards)
        for node in range(4)
        if not group.names(node)
    )
    address = outside | (shard % HOSTS + 1) << PROCESS_BITS
    answer = town.ask(address, shard, "read")
    first = record.shards[shard].config.voters[0].node
    assert (answer.status, answer.value) == (Status.NOT_LEADER, first)


# The root group


def test_a_command_is_sent_until_it_is_answered() -> None:
    """A member that was declared down by mistake must not depend on one message."""
    record = first_record(3)
    node = make_node(record, 1)
    command = BecomeUp(1, 1)
    sent = node.submit(command, 0)
    for now_ms in (500, 1_000):
        sent += node.tick(now_ms)
    asks = [
        one.message for one in sent if isinstance(one, ToNode) and isinstance(one.message, RootAsk)
    ]
    assert [one.command for one in asks] == [command] * 3
    node.receive(0, RootTold(asks[-1].id, Accepted(is_change=False), None), 1_000)
    assert not any(isinstance(getattr(one, "message", None), RootAsk) for one in node.tick(1_500))


# Divergence entries


def entry() -> Siblings:
    added = Siblings().add(Entry((1, 1, 1, 1), NO_VERSION, Agent.blank(state=b"apart")))
    assert isinstance(added, Siblings)
    return added


def asks(record: Record, *, ahead: int = 0) -> Frame:
    epoch = (record.recovery_no, record.epoch + ahead)
    return Frame(2, 1, AskEntries(NO_BALLOT, 7, (), epoch))


def reassigned(record: Record, shard: int, node: int) -> tuple[Record, Replica, Replica]:
    """A later record that gives a node its shard anew; with the old and the new replica."""
    group = record.shards[shard]
    mine = next(one for one in group.config.voters if one.node == node)
    fresh = Replica(node, group.next_rno)
    voters = tuple(fresh if one == mine else one for one in group.config.voters)
    config = group.config._replace(number=group.config.number + 1, voters=voters)
    formatted = tuple(one for one in group.formatted if one != mine)
    shards = list(record.shards)
    shards[shard] = group._replace(config=config, formatted=formatted, next_rno=fresh.rno + 1)
    return replace(record, epoch=record.epoch + 1, shards=tuple(shards)), mine, fresh


def test_a_node_without_a_replica_says_that_it_holds_no_entries() -> None:
    """Actors are folded only after all members have said so; no one else is asked or answered."""
    record = first_record(3)
    node = make_node(record)
    told = ToNode(1, Frame(2, 0, NoEntries(NO_BALLOT, 7)))
    assert node.receive(1, asks(record), 0) == [told]
    assert node.receive(1, asks(record, ahead=1), 0) == [], "it goes by an older record"
    assert node.receive(9, asks(record), 0) == [], "that is no member"
    assert node.receive(1, Frame(2, 1, Offer("k", entry())), 0) == []


def test_entries_without_a_replica_are_kept_for_the_next() -> None:
    """The header was spoilt: the replica is lost, what it held beside its registers is not."""
    town = Town()
    town.run(lambda: led(town))
    record = town.processes[0].record
    node = make_node(record, stored={2: StoredGroup(None, siblings={"k": entry()}, period=5)})
    assert node.receive(1, asks(record), 0) == []
    effects = node.tick(500)
    questions = [one.message for one in effects if isinstance(one, ToNode)]
    newer, mine, fresh = reassigned(record, 2, 0)
    lost = next(
        one.id
        for one in questions
        if isinstance(one, RootAsk) and one.command == StoreLost(2, mine)
    )
    # What becomes of it is another assignment, which no header was made for.
    node.receive(1, RootTold(lost, Accepted(is_change=True), None), 500)
    effects = node.receive(1, RecordIs(newer), 500)
    may = next(
        one.message.id
        for one in effects
        if isinstance(one, ToNode)
        and isinstance(one.message, RootAsk)
        and one.message.command == MayFormat(2, fresh)
    )
    node.receive(1, RootTold(may, Accepted(is_change=True), None), 500)
    assert node.groups[2].header.rno == fresh.rno
    assert node.services[2].entries.held == {"k": entry()}
    assert node.services[2].entries.new_period(0) == 6


def test_a_node_that_has_a_shard_again_has_its_entries_still() -> None:
    """The replica is another one; the layer above it is not."""
    town = Town()
    town.run(lambda: led(town))
    record = town.processes[0].record
    address = 1 | (2 % HOSTS + 1) << PROCESS_BITS
    node = town.processes[address]
    service = node.services[2]
    node.step(2, town.now_ms, lambda one: one.entries.put("k", entry()) and None)
    newer, mine, fresh = reassigned(record, 2, 1)
    effects = node.receive(0, RecordIs(newer), town.now_ms)
    asked = [
        one.message
        for one in effects
        if isinstance(one, ToNode) and isinstance(one.message, RootAsk)
    ]
    may = next(one.id for one in asked if one.command == MayFormat(2, fresh))
    effects = node.receive(0, RootTold(may, Accepted(is_change=True), None), town.now_ms)
    assert node.groups[2].header.rno == fresh.rno
    assert node.services[2] is service
    assert service.entries.held == {"k": entry()}
    # The old replica's tickets are higher than its successor's.
    (made,) = [one for one in effects if isinstance(one, GroupEffect)]
    assert made.rno == fresh.rno
    node.persisted(2, mine.rno, 999, town.now_ms)
    assert not node.groups[2].is_durable
    node.persisted(2, fresh.rno, made.effect.ticket, town.now_ms)
    assert node.groups[2].is_durable


def test_the_replicas_of_a_shard_are_told_apart_by_their_layer() -> None:
    """What is said of entries goes to the service, all else to the group."""
    town = Town()
    town.run(lambda: led(town))
    follower = next(
        address
        for address, node in town.processes.items()
        if 2 in node.groups and town.leader(2) != address
    )
    node = town.processes[follower]
    ask = asks(node.record)
    (told,) = node.receive((town.leader(2) or 0) & 0xFFFF, ask, town.now_ms)
    assert isinstance(told, ToNode)
    assert isinstance(told.message, Frame)
    assert told.message.rno == node.groups[2].header.rno
    assert isinstance(told.message.message, NoEntries)
    beat = Frame(2, 1, Heartbeat(node.groups[2].config.number, NO_BALLOT))
    assert not any(
        isinstance(getattr(one, "message", None), NoEntries)
        for one in node.receive(0, beat, town.now_ms)
    )


# Time


def test_idle_replicas_are_not_stepped_but_for_heartbeats(monkeypatch: pytest.MonkeyPatch) -> None:
    """A follower does next to nothing at a tick; a leader only what its heartbeat is due for."""
    town = Town()
    town.run(lambda: led(town))
    end_ms = town.now_ms + 5_000
    town.run(lambda: town.now_ms >= end_ms)
    stepped: Counter[bool] = Counter()
    tick = Group.tick

    def note(group: Group, now_ms: int, *above: Any) -> Any:
        stepped[group.leadership is not None] += 1
        return tick(group, now_ms, *above)

    monkeypatch.setattr(Group, "tick", note)
    end_ms = town.now_ms + 3_000
    town.run(lambda: town.now_ms >= end_ms)
    beats = 3_000 // SETTINGS.heartbeat_ms
    assert beats * (SHARDS + 1) <= stepped[True] <= (beats + 1) * (SHARDS + 1)
    followers = 2 * (SHARDS + 1)
    assert stepped[False] <= 2 * followers, "once for each election's time that a leader is heard"


def test_heartbeats_of_a_node_leave_at_the_same_tick() -> None:
    """They share frames, whenever each leader began."""
    town = Town()
    town.run(lambda: led(town))
    beats: list[int] = []
    for _ in range(20):
        town.now_ms += 50
        for node in town.processes.values():
            frames = [one.message for one in node.tick(town.now_ms) if isinstance(one, ToNode)]
            is_beat = [isinstance(getattr(one, "message", None), Heartbeat) for one in frames]
            beats += [town.now_ms] * any(is_beat)
    assert len(set(beats)) > 1
    assert all(at % SETTINGS.heartbeat_ms == 0 for at in beats)


# What the driver finds out


def test_a_process_known_to_be_gone_is_succeeded_without_waiting_for_its_silence() -> None:
    """`Node.certain` tells the group; only the order among the candidates is waited for."""
    town = Town()
    town.run(lambda: led(town))
    leader = town.leader(0)
    assert leader is not None
    del town.processes[leader]
    for address, node in list(town.processes.items()):
        town.perform(address, node.certain(0, leader & 0xFFFF, town.now_ms))
    town.run(lambda: town.leader(0) is not None, ms=SETTINGS.election_ms // 2)


def test_a_full_disk_ends_leaderships_until_it_has_room() -> None:
    """`Node.store_full` reaches all groups of the process; others lead meanwhile."""
    town = Town()
    town.run(lambda: led(town))
    leader = town.leader(0)
    assert leader is not None
    node = town.processes[leader]
    town.perform(leader, node.store_full(town.now_ms, is_full=True))
    assert all(group.leadership is None for group in node.groups.values())
    town.run(lambda: led(town))
    assert town.leader(0) != leader
    town.perform(leader, node.store_full(town.now_ms, is_full=False))
    heard = node.groups[0]
    town.run(lambda: heard.leader is not None and heard.heard.node == heard.leader)


def test_nothing_is_moved_for_balance_while_the_driver_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`Node.may_rebalance` is what the planner is told."""
    town = Town()
    town.run(lambda: led(town))
    told: list[bool] = []

    def note(_: Record, world: World, __: Limits | None) -> tuple[()]:
        told.append(world.may_rebalance)
        return ()

    monkeypatch.setattr("jido_state.node.plan", note)
    for may in (True, False):
        for node in town.processes.values():
            node.may_rebalance = may
        told.clear()
        town.run(lambda: len(told) > 1)
        assert set(told) == {may}
