"""A node of a whole cluster: one store file, the newest record it knew, and the process that runs.

It is the driver of a `Node`, as the real one is: it makes durable what is asked for, in order, runs
what services want to be run, tells the node what a failure detector would, and carries messages.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, NamedTuple

from jido_placement.commands import RegisterBoot
from jido_placement.config import Replica
from jido_placement.membership import Status
from jido_placement.policies import Strategy, admitted
from jido_placement.record import ROOT, Record
from jido_placement.steps import Limits
from jido_state import requests
from jido_state.divergence import Siblings
from jido_state.entries import PersistEntries
from jido_state.messages import Led, Persist, Row, Stopped
from jido_state.node import Node, StoredGroup
from jido_state.node_messages import Frame, GroupEffect, ToNode
from jido_state.requests import Answer, RunTurn
from jido_state.root_group import founding
from jido_state.service import Service
from jido_state.settings import GroupSettings
from jido_state.simulation.acting_agents import Ledger, next_due, run_turn
from jido_state.simulation.clients import CLIENTS
from jido_state.simulation.cluster import apply
from jido_state.simulation.disk import DiskFaults, SimDisk, SimStore
from jido_state.simulation.hands import Hands, WatchedService
from jido_state.simulation.machine import Ask, Stored, Told, is_sound
from jido_state.simulation.network import Network
from jido_state.simulation.scheduler import Scheduler
from jido_state.simulation.swarm import Swarm, stream
from jido_state.simulation.watch import Watch
from jido_state.store import HEADER_KEY, Change, Commit, StoreError, Table

__all__ = ["WholeMachine", "World"]

TICK_US = 100_000


class World(NamedTuple):
    """What a node needs of the world around it.

    Attributes:
        swarm: Gives the node's random numbers and the disk's faults.
        settings: Of all groups.
        scheduler: Time and processes.
        network: Carries messages to nodes and clients.
        watch: Sees what has to hold at every step.
        ledger: What happened to agents that act.
        counts: How often what happened.
        registers: The agents that are registers, and never act.
        shard_of: Where an agent lives.
        reaches: What the failure detector of a node says of another one.
        distrusted: Nodes that are believed to be gone.
        looks: Told of each answer to a client before it is sent.
        first: The record that all nodes begin with.
    """

    swarm: Swarm
    settings: GroupSettings
    scheduler: Scheduler
    network: Network
    watch: Watch
    ledger: Ledger
    counts: Counter[str]
    registers: frozenset[str]
    shard_of: Callable[[str], int]
    reaches: Callable[[int, int], bool]
    distrusted: set[int]
    looks: Callable[[Answer], None]
    first: Record


class WholeMachine:
    """A node; `start` and `crash` are the lives of its process.

    Attributes:
        core: What runs in the present process; None when there is none.
        record: The newest committed record it has known; outlives the process.
        disk: Its store file.
    """

    def __init__(self, node: int, world: World) -> None:
        self.node = node
        self.core: Node | None = None
        self.record = world.first
        self._boot = (1, node)  # number and nonce, durable
        self._world = world
        seed = world.swarm.seed
        self._random = stream(seed, f"node {node}")
        self.disk: SimDisk[Stored] = SimDisk(
            world.scheduler,
            stream(seed, f"disk {node}"),
            node,
            world.swarm.disk,
            lambda stored, _: stored._replace(shard=-9),
        )
        self._store: SimStore[Stored] | None = None
        self._tickets: deque[tuple[int, GroupEffect]] = deque()
        self._links: dict[int, list[int]] = {}  # call and attempt heard last of each client
        self._hands = Hands(
            node,
            world.swarm.nodes,
            world.scheduler,
            stream(seed, f"hands {node}"),
            world.ledger,
            world.counts,
            shard_of=world.shard_of,
            send=lambda target, message: world.network.send(node, target, message),
            step=self._step,
            run=self._run,
        )

    @property
    def is_up(self) -> bool:
        """Whether a process runs here, be it paused."""
        return self._world.scheduler.is_running(self.node)

    @property
    def is_member(self) -> bool:
        """Whether the newest record it knows has it as a member."""
        return self.record.member(self.node) is not None

    def now_ms(self) -> int:
        """The node's monotonic clock."""
        return self._world.scheduler.monotonic_ms(self.node)

    def held(self) -> list[tuple[str, Siblings]]:
        """The divergence entries that are here, by agent."""
        services = [] if self.core is None else self.core.services.values()
        return [each for service in services for each in service.entries.held.items()]

    # Lives

    def found(self) -> None:
        """Writes what the founder of the cluster has before it starts."""
        header, rows = founding(self.record)
        scheduler = self._world.scheduler
        scheduler.start(self.node)
        faults, self.disk.faults = self.disk.faults, DiskFaults()
        store = self.disk.open(lambda *_: None, lambda: None)
        store.append(
            [
                Change(Table.HEADER, ROOT, HEADER_KEY, Stored(ROOT, HEADER_KEY, header)),
                *(Change(Table.RECORD, ROOT, k, Stored(ROOT, k, row)) for k, row in rows.items()),
            ]
        )
        scheduler.run(scheduler.now_us + 1_000_000)
        self.disk.crash()
        scheduler.end(self.node)
        self.disk.faults = faults

    def start(self) -> None:
        """A new process goes on from what is on the disk; no effect where one runs."""
        if self.is_up:
            return
        world = self._world
        world.scheduler.start(self.node)
        self._tickets, self._links = deque(), {}
        self._hands.drop()
        try:
            self._store = self.disk.open(self._committed, self.crash)
        except StoreError:
            self.crash()
            return
        stored = {group: self._stored(self._store, group) for group in self._store.shards()}
        service = partial(
            self._make_service, boot=self._boot[0], settings=world.settings, next_due=next_due
        )
        self.core = Node(
            self.node,
            self.record,
            stored,
            service,
            world.settings,
            self.now_ms(),
            1 + self._random.getrandbits(30),
            Limits(max_moves=2),
        )
        world.scheduler.after_on(self.node, 1 + self.node * 7_000 % TICK_US, self._tick)

    def _make_service(self, *args: Any, **options: Any) -> Service:
        service = WatchedService(*args, **options)
        service.ledger = self._world.ledger
        return service

    def _stored(self, store: SimStore[Stored], group: int) -> StoredGroup:
        rows: dict[str, Row] = {}
        bad: list[str] = []
        after: str | None = None
        while page := store.scan(Table.RECORD, group, after):
            for key, stored in page:
                if is_sound(stored, group, key):
                    rows[key] = stored.content
                else:
                    bad.append(key)
            after = page[-1][0]
        beside = store.scan(Table.DIVERGENCE, group, limit=1_000)
        entries = {key: stored.content for key, stored in beside}
        period: int = entries.pop(HEADER_KEY, 0)
        header = store.get(Table.HEADER, group, HEADER_KEY)
        if header is None or not is_sound(header, group, HEADER_KEY):
            return StoredGroup(None, siblings=entries, period=period)
        me = Replica(self.node, header.content.rno)
        self._world.watch.found(me, group, header.content, rows)
        return StoredGroup(header.content, rows, bad, entries, period, store.durable)

    def crash(self, *, power: bool = False) -> None:
        """The process is gone; with `power` what the operating system held as well."""
        self._world.scheduler.end(self.node)
        self.disk.crash(power=power)
        self._world.watch.ended(self.node)
        self.core = None

    # Time and messages

    def _clock(self, core: Node) -> int:
        core.wall_ms = self._world.scheduler.wall_ms(self.node)
        return self.now_ms()

    def _tick(self) -> None:
        core = self.core
        if core is None:
            return
        world = self._world
        world.scheduler.after_on(self.node, TICK_US, self._tick)
        core.unreachable = core.expired = frozenset(world.distrusted)
        self._look_around(core)
        self.perform(core.tick(self._clock(core)))

    def _look_around(self, core: Node) -> None:
        """What the failure detector says, and what follows from it."""
        record = core.record
        nodes = [one.node for one in record.members]
        reached = {node for node in nodes if self._world.reaches(self.node, node)}
        core.reachable = frozenset(reached)
        root = [one for one in record.root.config.members if one.node in reached]
        core.admitted = frozenset(
            strategy
            for strategy in Strategy
            if admitted(
                strategy,
                contacts=len(reached),
                members=len(nodes),
                reaches_root_quorum=record.root.config.is_quorum(root),
            )
        )

    def receive(self, source: int, message: Any) -> None:
        """Something has arrived for this process."""
        core = self.core
        if core is None:
            return
        if type(message) is Ask:
            self._ask(core, source, message)
        elif type(message) is Told:
            self._hands.told(message.answer)
        else:
            self.perform(core.receive(source, message, self._clock(core)))

    def _ask(self, core: Node, source: int, message: Ask) -> None:
        age_us = self._world.scheduler.now_us - message.called_us
        if age_us > self._world.settings.dedupe_window_ms * 1000:
            return  # nothing as old as the op ids' memory arrives
        if source >= CLIENTS:
            address, *attempt = message.request.id
            if attempt <= self._links.get(address, []):
                return  # a link delivers nothing twice, and nothing that is overtaken
            self._links[address] = attempt
        now_ms = self._clock(core)
        request = message.request._replace(due_ms=now_ms + message.left_ms)
        self.perform(core.submit_request(message.shard, request, now_ms))

    def _step(self, shard: int, method: Callable[..., None], *args: Any) -> None:
        if self.core is not None:
            self.perform(self.core.step(shard, self._clock(self.core), method, *args))

    def _run(self, turn: RunTurn) -> requests.Commit | None:
        world = self._world
        if turn.request.key in world.registers:
            return apply(turn)
        wall_ms = world.scheduler.wall_ms(self.node)
        return run_turn(turn, world.ledger, self._random, wall_ms, 0.0)

    # Effects

    def perform(self, effects: Iterable[ToNode | GroupEffect]) -> None:
        """Does what the node asked for."""
        world = self._world
        for effect in effects:
            if type(effect) is GroupEffect:
                self._group_effect(effect)
                continue
            to, message = effect[:2]
            if type(message) is Frame and self.core is not None and message.rno:
                config = self.core.groups[message.group].config
                world.watch.sent(message.group, message.message, config)
            world.network.send(self.node, to, message)
        if self.core is not None and self.core.record is not self.record:
            self.record = self.core.record
            self._come_back(self.core)

    def _come_back(self, core: Node) -> None:
        """One that was declared down registers a new start: it lives."""
        member = self.record.member(self.node)
        if member is None or member.status is not Status.DOWN:
            return
        if self._boot == (member.boot, member.nonce):
            self._boot = (member.boot + 1, self._random.getrandbits(62))
        command = RegisterBoot(member.id, *self._boot, member.nonce, "")
        self.perform(core.submit(command, self._clock(core)))

    def _group_effect(self, effect: GroupEffect) -> None:
        world = self._world
        group, _, inner = effect
        kind = type(inner)
        if kind is Persist:
            self._persist(effect, _changes(group, inner))
        elif kind is PersistEntries:
            self._persist(effect, _entry_changes(group, inner))
        elif kind is Answer:
            self._answer(group, inner)
        elif kind is Led:
            world.watch.led(self.node, group, inner.ballot)
        elif kind is Stopped:
            world.watch.stopped(self.node, group, inner.ballot)
        else:
            self._hands.do(group, inner)

    def _answer(self, group: int, answer: Answer) -> None:
        world = self._world
        if answer.status is requests.Status.OK and answer.durability == "quorum":
            core = self.core
            leadership = None if core is None else core.groups[group].leadership
            if leadership is not None:
                world.watch.answered(group, answer.version, leadership.config)
        world.looks(answer)
        world.network.send(self.node, answer.id[0], Told(answer))

    def _persist(self, effect: GroupEffect, changes: list[Change[Stored]]) -> None:
        assert self._store is not None
        try:
            ticket = self._store.append(changes)
        except StoreError:
            return  # an fsync failed while the process was paused: it ends as soon as it hears so
        self._tickets.append((ticket, effect))

    def _committed(self, ticket: int, commit: Commit) -> None:
        if commit is Commit.FULL:
            self.crash()
            return
        world = self._world
        while self._tickets and self._tickets[0][0] <= ticket and self.core is not None:
            _, (group, rno, inner) = self._tickets.popleft()
            now_ms = self._clock(self.core)
            if type(inner) is PersistEntries:
                world.ledger.keep(self.node, inner.entries)
                self.perform(self.core.entries_persisted(group, inner.ticket, now_ms))
            else:
                world.watch.durable(Replica(self.node, rno), group, inner)
                done = self.core.persisted(group, rno, inner.ticket, now_ms, appended=ticket)
                self.perform(done)


def _changes(group: int, persist: Persist) -> list[Change[Stored]]:
    changes: list[Change[Stored]] = []
    if persist.clears:
        changes.append(Change(Table.RECORD, group, None))
    if persist.header is not None:
        data = Stored(group, HEADER_KEY, persist.header)
        changes.append(Change(Table.HEADER, group, HEADER_KEY, data))
    return changes + _rows(Table.RECORD, group, persist.rows)


def _entry_changes(group: int, persist: PersistEntries) -> list[Change[Stored]]:
    changes = _rows(Table.DIVERGENCE, group, persist.entries)
    if persist.period is not None:
        data = Stored(group, HEADER_KEY, persist.period)
        changes.append(Change(Table.DIVERGENCE, group, HEADER_KEY, data))
    return changes


def _rows(table: Table, group: int, rows: Mapping[str, Any]) -> list[Change[Stored]]:
    return [
        Change(table, group, key, None if row is None else Stored(group, key, row))
        for key, row in rows.items()
    ]
