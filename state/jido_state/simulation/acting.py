"""One shard under splits, with the whole layer above its group: acting, merging, timers, signals.

`cluster.py` asks whether groups agree; here the question is what becomes of what was done while
they could not. Nodes and links are cut off, processes crash, machines lose power; agents of level
eventual and session, all of strategy continue_all, go on meanwhile. Then all of it ends, and in the
end every replica must hold the same; every turn that was acknowledged must be in the state, or in
the conflict log of a type that has no merge; replicated counters count every turn once; each timer
has fired, and each signal arrived, once; and no session ever saw less than before.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final

from jido_placement.config import GroupConfig, Replica
from jido_state.checking.sessions import check_sessions
from jido_state.entries import MESSAGES, PersistEntries, SendEntries
from jido_state.group import Group
from jido_state.messages import Header, Led, Persist, Row, Send
from jido_state.requests import Answer, Commit, RunTurn
from jido_state.service import Service
from jido_state.settings import GroupSettings
from jido_state.simulation.acting_agents import (
    BAG,
    LINE,
    MORTAL,
    Ledger,
    Work,
    next_due,
    run_turn,
)
from jido_state.simulation.acting_clients import SessionClient
from jido_state.simulation.acting_judge import judge, judge_answer, restless_record
from jido_state.simulation.clients import CLIENTS
from jido_state.simulation.disk import SimDisk, SimStore
from jido_state.simulation.hands import Hands, WatchedService
from jido_state.simulation.machine import Ask, Told
from jido_state.simulation.network import Network, NetworkFaults
from jido_state.simulation.partitions import PARTITIONS, Pairs, partition, two_way
from jido_state.simulation.scheduler import Scheduler
from jido_state.simulation.swarm import stream
from jido_state.store import HEADER_KEY, Change, Table
from jido_state.store import Commit as StoreCommit

__all__ = ["AGENTS", "Node", "Split", "SplitResult", "crumbs", "simulate_split"]

SHARD: Final = 0
TICK_US: Final = 50_000
SETTINGS: Final = GroupSettings(
    election_ms=1_000,
    heartbeat_ms=100,
    jitter_ms=100,
    rank_ms=100,
    resend_ms=150,
    seal_ms=100,
    dedupe_window_ms=60_000,
    leaves=8,
    list_rows=16,
)
AGENTS: Final = (
    ("bag-1", BAG, "eventual"),
    ("bag-2", BAG, "session"),
    ("line-1", LINE, "eventual"),
    ("line-2", LINE, "session"),
    (MORTAL, BAG, "eventual"),
)
FAULTED_US: Final = 9_000_000
QUIET_US: Final = 40_000_000


@dataclass(slots=True)
class SplitResult:
    """What became of a run.

    Attributes:
        seed: Of the run.
        problems: What did not hold.
        counts: How often what happened.
        virtual_us: How long it was, in virtual time.
    """

    seed: int
    problems: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    virtual_us: int = 0


def simulate_split(seed: int) -> SplitResult:
    """Runs one seed."""
    return Split(seed).judged()


def crumbs(nodes: Iterable[int], random: Random) -> Pairs:
    """Cuts them into pieces of one or two: nobody has a quorum."""
    order = list(nodes)
    random.shuffle(order)
    pieces = [order[place : place + 2] for place in range(0, len(order), 2)]
    return tuple(
        pair for one in pieces for other in pieces if one < other for pair in two_way(one, other)
    )


class Node:
    """A node: its disk, and the process that runs its replica.

    Attributes:
        group: The replica of the present process.
        service: The layer above it.
    """

    def __init__(self, node: int, world: "Split", config: GroupConfig, random: Random) -> None:
        self.node = node
        self._world = world
        self._config = config
        self._random = random
        disk_random = stream(world.seed, f"disk {node}")
        self.disk: SimDisk[Any] = SimDisk(world.scheduler, disk_random, node)
        self._store: SimStore[Any] | None = None
        self._tickets: deque[tuple[int, Group, Persist | PersistEntries]] = deque()
        self.group: Group | None = None
        self.service: Service | None = None
        self._asked: set[tuple[Any, ...]] = set()
        self.hands = Hands(
            node,
            world.size,
            world.scheduler,
            random,
            world.ledger,
            world.counts,
            shard_of=lambda _: SHARD,
            send=lambda target, message: world.network.send(node, target, message),
            step=lambda _, method, *args: self.step(method, self.service, *args),
            run=self._run,
        )

    @property
    def is_up(self) -> bool:
        """Whether a process runs."""
        return self._world.scheduler.is_running(self.node)

    def start(self) -> None:
        """A new process goes on from what is on the disk."""
        world = self._world
        world.scheduler.start(self.node)
        self._tickets, self._asked = deque(), set()
        self.hands.drop()
        store = self._store = self.disk.open(self._committed, self.crash)
        header = store.get(Table.HEADER, SHARD, HEADER_KEY)
        rows: dict[str, Row] = dict(store.scan(Table.RECORD, SHARD, limit=1000))
        held = dict(store.scan(Table.DIVERGENCE, SHARD, limit=1000))
        period: int = held.pop(HEADER_KEY, 0)
        me = Replica(self.node, self.node + 1)
        service = self.service = WatchedService(
            self._effect,
            lambda: self.replica,
            shard=SHARD,
            boot=1,  # the same for all processes: only the durable period tells them apart
            settings=SETTINGS,
            next_due=next_due,
            siblings=held,
            period=period,
        )
        service.ledger = world.ledger
        header = header or Header(me.rno, "voter", self._config)
        self.group = Group(self.node, SHARD, header, rows, self.service, SETTINGS, self.now_ms())
        world.scheduler.after_on(self.node, 1 + self.node * 7_000, self._tick)

    def crash(self, *, power: bool = False) -> None:
        """The process is gone; with `power` what was not synced as well."""
        self._world.scheduler.end(self.node)
        self.disk.crash(power=power)
        self.group = self.service = None

    def now_ms(self) -> int:
        """The node's monotonic clock."""
        return self._world.scheduler.monotonic_ms(self.node)

    @property
    def replica(self) -> Group:
        """The replica, while a process runs."""
        if self.group is None:
            raise RuntimeError(f"node {self.node} runs no process")
        return self.group

    def step(self, action: Callable[..., None], *args: Any) -> None:
        """Does something to the service within a step of the group."""
        group, service = self.replica, self.service
        assert service is not None
        service.at(self.now_ms(), self._world.scheduler.wall_ms(self.node))
        self._perform(group.step(self.now_ms(), action, *args))

    def _tick(self) -> None:
        world = self._world
        world.scheduler.after_on(self.node, TICK_US, self._tick)
        group, service = self.replica, self.service
        assert service is not None
        service.reachable = frozenset(
            one for one in range(world.size) if world.reaches(self.node, one, self._random)
        )
        if group.is_due(self.now_ms()):
            service.at(self.now_ms(), world.scheduler.wall_ms(self.node))
            self._perform(group.tick(self.now_ms(), service.tick))

    def receive(self, source: int, message: Any) -> None:
        """Something has arrived for this process."""
        group, service = self.replica, self.service
        assert service is not None
        if isinstance(message, Ask):
            request = message.request
            if request.id not in self._asked:  # links deliver nothing twice
                self._asked.add(request.id)
                due_ms = self.now_ms() + message.left_ms
                self.step(service.submit, request._replace(due_ms=due_ms))
        elif isinstance(message, Told):
            self.hands.told(message.answer)
        elif type(message[1]) in MESSAGES:
            self.step(service.receive, Replica(source, message[0]), message[1])
        else:
            service.at(self.now_ms(), self._world.scheduler.wall_ms(self.node))
            sender = Replica(source, message[0])
            self._perform(group.receive(sender, message[1], self.now_ms()))

    # Effects

    def _perform(self, effects: Iterable[Any]) -> None:
        for effect in effects:
            self._effect(effect)
        self.replica.check()

    def _effect(self, effect: Any) -> None:
        world = self._world
        kind = type(effect)
        if kind is Send or kind is SendEntries:
            world.network.send(self.node, effect.to, (self.replica.header.rno, effect.message))
        elif kind is Persist:
            self._persist(effect)
        elif kind is PersistEntries:
            self._persist_entries(effect)
        elif kind is Answer:
            world.answered(self, effect)
        elif kind is Led:
            world.counts["elections"] += 1
        else:
            self.hands.do(SHARD, effect)

    def _run(self, turn: RunTurn) -> Commit | None:
        world = self._world
        wall_ms = world.scheduler.wall_ms(self.node)
        return run_turn(turn, world.ledger, self._random, wall_ms, world.failures)

    # The disk

    def _persist(self, persist: Persist) -> None:
        changes: list[Change[Any]] = []
        if persist.clears:
            changes.append(Change(Table.RECORD, SHARD, None))
        if persist.header is not None:
            changes.append(Change(Table.HEADER, SHARD, HEADER_KEY, persist.header))
        changes += [Change(Table.RECORD, SHARD, key, row) for key, row in persist.rows.items()]
        self._append(changes, persist)

    def _persist_entries(self, persist: PersistEntries) -> None:
        changes: list[Change[Any]] = [
            Change(Table.DIVERGENCE, SHARD, key, siblings)
            for key, siblings in persist.entries.items()
        ]
        if persist.period is not None:
            changes.append(Change(Table.DIVERGENCE, SHARD, HEADER_KEY, persist.period))
        self._append(changes, persist)

    def _append(self, changes: list[Change[Any]], persist: Persist | PersistEntries) -> None:
        assert self._store is not None
        self._tickets.append((self._store.append(changes), self.replica, persist))

    def _committed(self, ticket: int, commit: StoreCommit) -> None:
        while self._tickets and self._tickets[0][0] <= ticket:
            _, group, persist = self._tickets.popleft()
            service = self.service
            assert service is not None
            assert commit is StoreCommit.DURABLE
            if isinstance(persist, PersistEntries):
                self._world.ledger.keep(self.node, persist.entries)
                self.step(service.persisted, persist.ticket)
            else:
                service.at(self.now_ms(), self._world.scheduler.wall_ms(self.node))
                self._perform(group.persisted(persist.ticket, self.now_ms()))


class Split:
    """A run.

    Args:
        seed: What it is a function of.
        size: Number of replicas; None to draw it.
    """

    def __init__(self, seed: int, *, size: int | None = None) -> None:
        self.seed = seed
        self._random = stream(seed, "nemesis")
        self.size = size or self._random.choice((3, 3, 4, 5))
        self.failures = self._random.choice((0.0, 0.02))
        self.counts: Counter[str] = Counter()
        self.ledger = Ledger()
        self.scheduler = Scheduler()
        faults = NetworkFaults(
            mean_us=self._random.choice((300, 3_000, 20_000)),
            loss=self._random.choice((0.0, 0.0, 0.05)),
            repeat=self._random.choice((0.0, 0.05)),
            hold=self._random.choice((0.0, 0.0, 0.01)),
            hold_us=(500_000, 8_000_000),
        )
        self.network = Network(self.scheduler, stream(seed, "network"), self._arrived, faults)
        voters = tuple(Replica(node, node + 1) for node in range(self.size))
        config = GroupConfig(1, voters)
        self.nodes = [
            Node(node, self, config, stream(seed, f"node {node}")) for node in range(self.size)
        ]
        *self.clients, self._maker = [self._client(index) for index in range(5)]
        # Agents that are not made before are made apart, by whoever comes first on either side.
        self._first = AGENTS[:2] if self._random.random() < 0.3 else AGENTS
        self._is_faulted = True
        self._end_us = FAULTED_US

    def _client(self, index: int) -> SessionClient:
        address = CLIENTS + index
        self.network.place(address, index % self.size)
        # A client is no process that ends, but the network delivers to processes only.
        self.scheduler.start(address)
        return SessionClient(
            index,
            self.scheduler,
            self.network.send,
            stream(self.seed, f"client {index}"),
            self.ledger,
            AGENTS,
            self.size,
            lambda _: SHARD,
        )

    def _arrived(self, source: int, target: int, message: Any) -> None:
        if target >= CLIENTS:
            (*self.clients, self._maker)[target - CLIENTS].receive(message)
        else:
            self.nodes[target].receive(source, message)

    def reaches(self, one: int, other: int, random: Random) -> bool:
        """What the detector of the one says of the other; now and then it is wrong."""
        is_true = self.nodes[other].is_up and not (
            self.network.is_cut(one, other) or self.network.is_cut(other, one)
        )
        return is_true != (self._is_faulted and random.random() < 0.02)

    def answered(self, node: Node, answer: Answer) -> None:
        """A node answers: looks whether it may, and sends the answer."""
        key = None if answer.id[1] == "signal" else self.key_of(answer.id)
        self.ledger.problems += judge_answer(self.ledger, key, answer, may_end=key == MORTAL)
        self.counts[f"answers {answer.durability}" if answer.is_partitioned else "answers"] += 1
        self.network.send(node.node, answer.id[0], Told(answer))

    def key_of(self, name: tuple[Any, ...]) -> str:
        """The agent that a client's request is for."""
        address, number = name[0], name[1]
        client = (*self.clients, self._maker)[address - CLIENTS]
        key: str = client.calls[number - 1].request.key
        return key

    # The run

    def begin(self) -> None:
        """All nodes start, and one of them comes to lead."""
        for node in self.nodes:
            self.scheduler.set_clock(node.node, offset_ms=self._random.randrange(-400, 400))
            node.start()
        self.scheduler.run(2_000_000)

    def judged(self) -> SplitResult:
        """Runs it to its end, and judges."""
        scheduler = self.scheduler
        self.begin()
        self._make(self._first)
        for client in self.clients:
            client.start()
        self._plan_faults()
        scheduler.run(scheduler.now_us + self._end_us)
        self._heal()
        end_us = scheduler.now_us + QUIET_US
        is_quiet = False
        while not is_quiet and scheduler.now_us < end_us:
            scheduler.run(scheduler.now_us + 250_000)
            is_quiet = not self.restless()
        problems = self.ledger.problems
        if not is_quiet:
            problems.append(f"not quiet: {self.restless()}")
        problems += [str(one) for one in check_sessions(self.ledger.sights)]
        if is_quiet:
            rows = self.nodes[0].replica.acceptor.rows
            records = {key: row.content for key, row in rows.items()}
            calls = [call for client in (*self.clients, self._maker) for call in client.calls]
            problems += judge(AGENTS, self.ledger, records, calls)
        self.counts["calls"] = sum(len(client.calls) for client in self.clients)
        return SplitResult(self.seed, problems, self.counts, scheduler.now_us)

    def _plan_faults(self) -> None:
        random, scheduler = self._random, self.scheduler
        at_us = 0
        while at_us < FAULTED_US:
            at_us += int(random.expovariate(1 / 1_200_000))
            kind = random.choices(("cut", "crash", "power", "lag"), (6, 2, 1, 1))[0]
            lasts_us = int(random.expovariate(1 / (4_000_000 if kind == "cut" else 1_500_000)))
            scheduler.after(at_us, self._fault, kind, lasts_us)

    def _fault(self, kind: str, lasts_us: int) -> None:
        random, scheduler = self._random, self.scheduler
        if not self._is_faulted:
            return
        self.counts[kind] += 1
        node = self.nodes[random.randrange(self.size)]
        if kind == "cut":
            nodes = range(self.size)
            if random.random() < 0.3:
                pairs = crumbs(nodes, random)
            else:
                pairs = partition(random.choice(sorted(PARTITIONS)), nodes, random)
            self.network.cut(pairs)
            scheduler.after(lasts_us, self.network.mend, pairs)
        elif kind == "lag":
            scheduler.lag(node.node, min(lasts_us, 2_000_000))
        elif node.is_up:
            node.crash(power=kind == "power")
            scheduler.after(lasts_us, self._restart, node)

    def _restart(self, node: Node) -> None:
        if not node.is_up:
            node.start()

    def _heal(self) -> None:
        self._is_faulted = False
        self.failures = 0.0
        self.network.heal()
        for node in self.nodes:
            self._restart(node)
            self.scheduler.resume(node.node)
        for client in self.clients:
            client.stop()
        self._make(AGENTS)

    def _make(self, agents: Iterable[tuple[str, str, str]]) -> None:
        """Sees to it that these agents are there."""
        scheduler, maker = self.scheduler, self._maker
        maker.stop()
        for key, type_, level in agents:
            work = Work("make", f"maker-{key}-{scheduler.now_us}", type=type_)
            maker.begin(key, level, "spawn", work)
            scheduler.run(scheduler.now_us + 5_000_000, lambda: maker.is_done)

    def restless(self) -> list[str]:
        """What keeps the world from being at its end."""
        found = [f"client {one.index} calls" for one in self.clients if not one.is_done]
        rows = [node.replica.acceptor.rows for node in self.nodes]
        found += [
            f"node {node.node} differs"
            for node, own in zip(self.nodes, rows, strict=True)
            if own != rows[0]
        ]
        for node in self.nodes:
            service = node.service
            assert service is not None
            if service.entries.held:
                found.append(f"node {node.node} holds entries of {sorted(service.entries.held)}")
        for key, row in sorted(rows[0].items()):
            found += restless_record(key, row.content)
        return found
