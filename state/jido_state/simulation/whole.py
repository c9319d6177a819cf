"""A whole cluster of both cores: root group, planner and shards, with nothing that cannot fail.

`cluster.py` runs groups whose configs come from a stand-in, which can be made to change them in any
way. Here they come from a real root group: its members are replicas on the same nodes, its record
is one more register on the same disks, and what changes is planned from it. Members leave, are
declared down (some although they live), weights change; nodes lose their stores.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, Final

from jido_placement.changes import apply_all
from jido_placement.commands import BecomeUp, Describe, Join, Leave, RegisterBoot
from jido_placement.config import Replica
from jido_placement.membership import Status
from jido_placement.record import ROOT, MemberRecord, Record, found
from jido_placement.steps import Limits
from jido_state.checking.linearizability import Outcome, check_linearizable
from jido_state.checking.sessions import Sight
from jido_state.messages import Header, Led, Persist, Row, Stopped
from jido_state.node import Frame, GroupEffect, Node, ToNode
from jido_state.root_group import founding
from jido_state.settings import GroupSettings
from jido_state.simulation.clients import CLIENTS, Client, Workload
from jido_state.simulation.cluster import LIVENESS_US, SETTLED_US, Result, apply
from jido_state.simulation.disk import DiskFaults, SimDisk, SimStore
from jido_state.simulation.history import History
from jido_state.simulation.machine import Ask, Stored, Told, is_sound
from jido_state.simulation.network import Network
from jido_state.simulation.partitions import partition
from jido_state.simulation.scheduler import Scheduler
from jido_state.simulation.swarm import Swarm, stream
from jido_state.simulation.trace import Trace
from jido_state.simulation.watch import UnsafeError, Watch
from jido_state.store import HEADER_KEY, Change, Commit, StoreError, Table
from jido_state.turns import Answer, RunTurn, Turns

__all__ = ["WholeCluster", "simulate_whole"]

TICK_US: Final = 100_000
SHARDS: Final = 3
START_US: Final = 6_000_000  # the cluster forms before anybody calls
# The window is longer than any message is held: what comes later than that is not survived.
SETTINGS: Final = GroupSettings(leaves=8, list_rows=16, dedupe_window_ms=30_000, max_trailing=64)
# What befalls a whole cluster, and how often each kind is drawn for a seed.
FAULTS: Final = {
    "crash": 0.7,
    "power": 0.4,
    "power_all": 0.2,
    "pause": 0.5,
    "lag": 0.4,
    "cut": 0.7,
    "lose_disk": 0.4,
    "rot": 0.3,
    "weight": 0.6,
    "leave": 0.3,
    "distrust": 0.4,
    "release": 0.3,
}


def simulate_whole(seed: int, *, kept: int = 0) -> Result:
    """Runs one seed of a whole cluster; see `Result`."""
    return WholeCluster(Swarm.draw(seed), kept=kept).run()


class _Machine:
    """A node: one store file, the newest record it knew, and the process that runs."""

    def __init__(self, node: int, world: "WholeCluster") -> None:
        self.node = node
        self.core: Node | None = None
        self.record = world.first
        self.boot = (1, node or 0)  # number and nonce, durable
        self._world = world
        self._random = stream(world.swarm.seed, f"node {node}")
        self.disk: SimDisk[Stored] = SimDisk(
            world.scheduler,
            stream(world.swarm.seed, f"disk {node}"),
            node,
            world.swarm.disk,
            lambda stored, _: stored._replace(shard=-9),
        )
        self._store: SimStore[Stored] | None = None
        self._tickets: deque[tuple[int, int, Persist]] = deque()
        self._links: dict[int, list[int]] = {}

    @property
    def is_up(self) -> bool:
        return self._world.scheduler.is_running(self.node)

    def now_ms(self) -> int:
        return self._world.scheduler.monotonic_ms(self.node)

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
        if self.is_up:
            return
        scheduler = self._world.scheduler
        scheduler.start(self.node)
        self._tickets = deque()
        self._links = {}
        try:
            self._store = self.disk.open(self._committed, self.crash)
        except StoreError:
            self.crash()
            return
        stored: dict[int, tuple[Header, dict[str, Row], list[str]]] = {}
        for group in self._store.shards():
            header = self._store.get(Table.HEADER, group, HEADER_KEY)
            if header is not None and is_sound(header, group, HEADER_KEY):
                rows, bad = self._scan(self._store, group)
                stored[group] = (header.content, rows, bad)
                me = Replica(self.node, header.content.rno)
                self._world.watch.found(me, group, header.content, rows)
        nonce = self._random.getrandbits(31)
        self.core = Node(
            self.node,
            self.record,
            stored,
            self._upper,
            SETTINGS,
            self.now_ms(),
            nonce,
            Limits(max_moves=2),
        )
        scheduler.after_on(self.node, 1 + self.node * 7_000 % TICK_US, self._tick)

    @staticmethod
    def _scan(store: SimStore[Stored], group: int) -> tuple[dict[str, Row], list[str]]:
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
        return rows, bad

    @staticmethod
    def _upper(_: int, emit: Callable[[Any], None], leader: Callable[[], int | None]) -> Turns:
        return Turns(emit, leader, window_ms=SETTINGS.dedupe_window_ms)

    def crash(self, *, power: bool = False) -> None:
        self._world.scheduler.end(self.node)
        self.disk.crash(power=power)
        self._world.watch.ended(self.node)
        self.core = None

    def _tick(self) -> None:
        core = self.core
        if core is None:
            return
        self._world.scheduler.after_on(self.node, TICK_US, self._tick)
        core.unreachable = frozenset(self._world.distrusted)
        core.expired = frozenset(self._world.distrusted)
        self._clock(core)
        self.perform(core.tick(self.now_ms()))

    def _clock(self, core: Node) -> None:
        for upper in core.uppers.values():
            if isinstance(upper, Turns):
                upper.now_ms = self.now_ms()

    def receive(self, source: int, message: Any) -> None:
        core = self.core
        if core is None:
            return
        self._clock(core)
        now = self.now_ms()
        if type(message) is Ask:
            turns = core.uppers.get(message.shard)
            if self._world.scheduler.now_us - message.called_us > SETTINGS.dedupe_window_ms * 1000:
                return  # nothing as old as the op ids' memory arrives
            address, *attempt = message.request.id
            if attempt <= self._links.get(address, []):
                return  # a link delivers nothing twice, and nothing that is overtaken
            self._links[address] = attempt
            request = message.request._replace(due_ms=now + message.left_ms)
            if isinstance(turns, Turns):
                self.perform(core.step(message.shard, now, turns.submit, request))
            return
        self.perform(core.receive(source, message, now))

    def end_turn(self, group: int, effect: RunTurn) -> None:
        core = self.core
        turns = None if core is None else core.uppers.get(group)
        if core is not None and isinstance(turns, Turns):
            self._clock(core)
            key = effect.request.key
            commit = apply(effect)
            step = core.step(group, self.now_ms(), turns.end, key, effect.version, commit)
            self.perform(step)

    def perform(self, effects: Iterable[ToNode | GroupEffect]) -> None:
        world = self._world
        for effect in effects:
            if isinstance(effect, ToNode):
                if type(effect.message) is Frame and self.core is not None:
                    number = effect.message.group
                    config = self.core.groups[number].config
                    world.watch.sent(number, effect.message.message, config)
                world.network.send(self.node, effect.to, effect.message)
            else:
                self._group_effect(effect.group, effect.effect)
        if self.core is not None and self.core.record is not self.record:
            self.record = self.core.record
            self._come_back(self.core)

    def _come_back(self, core: Node) -> None:
        """One that was declared down registers a new start: it lives."""
        member = self.record.member(self.node)
        if member is None or member.status is not Status.DOWN:
            return
        if self.boot == (member.boot, member.nonce):
            self.boot = (member.boot + 1, self._random.getrandbits(62))
        command = RegisterBoot(member.id, *self.boot, member.nonce, "")
        self.perform(core.submit(command, self.now_ms()))

    def _group_effect(self, group: int, effect: Any) -> None:
        world = self._world
        kind = type(effect)
        if kind is Persist:
            assert self._store is not None
            changes: list[Change[Stored]] = []
            if effect.clears:
                changes.append(Change(Table.RECORD, group, None))
            if effect.header is not None:
                data = Stored(group, HEADER_KEY, effect.header)
                changes.append(Change(Table.HEADER, group, HEADER_KEY, data))
            for key, row in effect.rows.items():
                stored = None if row is None else Stored(group, key, row)
                changes.append(Change(Table.RECORD, group, key, stored))
            self._tickets.append((self._store.append(changes), group, effect))
        elif kind is Answer:
            world.network.send(self.node, effect.id[0], Told(effect))
        elif kind is RunTurn:
            delay = int(world.turns.expovariate(1 / 1_500))
            world.scheduler.after_on(self.node, delay, self.end_turn, group, effect)
        elif kind is Led:
            world.watch.led(self.node, group, effect.ballot)
        elif kind is Stopped:
            world.watch.stopped(self.node, group, effect.ballot)

    def _committed(self, ticket: int, commit: Commit) -> None:
        if commit is Commit.FULL:
            self.crash()
            return
        while self._tickets and self._tickets[0][0] <= ticket and self.core is not None:
            _, group, persist = self._tickets.popleft()
            held = self.core.groups[group]
            self._world.watch.durable(held.acceptor.me, group, persist)
            self._clock(self.core)
            self.perform(self.core.persisted(group, persist.ticket, self.now_ms()))


class WholeCluster:
    """Nodes, clients and faults of one run.

    Args:
        swarm: Size, load, network and disks; its own list of faults is not used.
        kept: How many events the trace keeps for a reader.
    """

    def __init__(self, swarm: Swarm, *, kept: int = 0) -> None:
        self.swarm = swarm = replace(swarm, nodes=max(1, swarm.nodes))
        seed = swarm.seed
        self.scheduler = Scheduler()
        self.trace = Trace(kept)
        self.watch = Watch()
        self.history = History()
        self.sights: list[Sight] = []
        self.counts: Counter[str] = Counter()
        self.turns = stream(seed, "turns")
        self.distrusted: set[int] = set()
        self._random = stream(seed, "nemesis")
        self._is_on = True
        self._wiped: dict[int, int] = {}
        self._rotten: set[int] = set()
        self._left: set[int] = set()
        self.network = Network(
            self.scheduler, stream(seed, "network"), self._deliver, swarm.network
        )
        self.first = self._first_record()
        self.machines = {node: _Machine(node, self) for node in range(swarm.nodes)}
        self.machines[0].found()
        self.clients = self._make_clients()
        kinds = [kind for kind, rate in FAULTS.items() if self._random.random() < rate]
        self._kinds = kinds or ["crash"]

    def _first_record(self) -> Record:
        """As if all had joined the founder one after the other: what is written before any run."""
        founder = MemberRecord(0, "m0", 1, 0, "m0")
        swarm = self.swarm
        record = found(
            f"c{swarm.seed}", founder, shards=SHARDS, replicas=swarm.replicas, expect=swarm.nodes
        )
        commands: list[Any] = []
        for node in range(1, swarm.nodes):
            commands.append(Join(f"m{node}", node, f"m{node}", (), 1.0, None, ""))
            commands.append(BecomeUp(node, 1))
        return apply_all(record, commands)[0]

    def _make_clients(self) -> dict[int, Client]:
        swarm = self.swarm
        keys = tuple((f"k{i}", i % SHARDS, "strong") for i in range(max(3, swarm.keys)))
        each = max(1, swarm.operations // swarm.clients)
        workload = Workload(
            keys,
            tuple(self.machines),
            each,
            swarm.reads,
            until_us=START_US + swarm.duration_us,
            attempt_us=300_000 + 6 * (swarm.network.least_us + swarm.network.mean_us),
            patience_us=3_000_000,
        )
        clients = {}
        for index in range(swarm.clients):
            random = stream(swarm.seed, f"client {index}")
            client = Client(
                index,
                self.scheduler,
                self.network.send,
                random,
                self.history,
                self.sights,
                workload,
            )
            self.scheduler.start(client.address)
            clients[client.address] = client
        return clients

    def _deliver(self, source: int, target: int, message: Any) -> None:
        self.trace.add(self.scheduler.now_us, "deliver", source, target, message)
        if target >= CLIENTS:
            self.clients[target].receive(message)
        else:
            self.machines[target].receive(source, message)

    # The run

    def run(self) -> Result:
        """Runs it; never raises for what the run itself finds."""
        failure = ""
        try:
            self._run()
        except AssertionError as error:
            failure = str(error) or repr(error)
        for operation in self.history:
            self.trace.mark(repr(operation).encode())
        return Result(
            seed=self.swarm.seed,
            failure=failure,
            digest=self.trace.digest(),
            operations=len(self.history),
            acknowledged=sum(one.return_ns is not None for one in self.history),
            elections=self.watch.elections,
            virtual_us=self.scheduler.now_us,
            faults=dict(self.counts),
            history=self.history,
            trace=self.trace.lines(),
        )

    def _run(self) -> None:
        for machine in self.machines.values():
            machine.start()
        self._until(START_US)
        for client in self.clients.values():
            client.start()
        self._next_fault()
        self._until(START_US + self.swarm.duration_us)
        self._stop()
        self._live()
        verdict = check_linearizable(self.history)
        if verdict.outcome is not Outcome.LINEARIZABLE:
            raise UnsafeError(str(verdict))

    def _until(self, time_us: int) -> None:
        self.scheduler.run(time_us)
        for machine in self.machines.values():
            if machine.core is not None:
                for group in machine.core.groups.values():
                    group.check()
                machine.record.check()

    def _stop(self) -> None:
        self._is_on = False
        for client in self.clients.values():
            client.stop()
        swarm = self.swarm
        calm = replace(swarm.network, loss=0.0, repeat=0.0, hold=0.0, least_us=100, mean_us=1_000)
        self.network.heal(calm)
        self.distrusted.clear()
        for machine in self.machines.values():
            machine.disk.faults = DiskFaults(latency_us=min(swarm.disk.latency_us, 2_000))
            self.scheduler.resume(machine.node)
            machine.start()

    def _live(self) -> None:
        bound = self.scheduler.now_us + LIVENESS_US
        while self.scheduler.now_us < bound and (without := self._leaderless()):
            self._until(self.scheduler.now_us + 500_000)
        if without := self._leaderless():
            raise UnsafeError(f"stuck: {without}")
        for client in self.clients.values():
            while not client.is_done and self.scheduler.now_us < bound + LIVENESS_US:
                self._until(self.scheduler.now_us + 200_000)
        client = next(iter(self.clients.values()))
        for key, shard, _ in client.keys:
            client.call(key, shard, "strong", "read", None)
            while not client.is_done and self.scheduler.now_us < bound + 2 * LIVENESS_US:
                self._until(self.scheduler.now_us + 50_000)
            if not client.is_done:
                raise UnsafeError(f"stuck: {key} cannot be read after the last fault")
        bound = self.scheduler.now_us + SETTLED_US
        while self.scheduler.now_us < bound and (difference := self._difference()):
            for machine in self.machines.values():
                machine.start()
            self._until(self.scheduler.now_us + 1_000_000)
        if difference := self._difference():
            raise UnsafeError(f"not settled after {SETTLED_US // 1_000_000} s: {difference}")

    def _leads(self, group: int) -> Node | None:
        for machine in self.machines.values():
            core = machine.core
            found = None if core is None else core.groups.get(group)
            if found is not None and found.leadership is not None:
                return core
        return None

    def _leaderless(self) -> str:
        for group in range(ROOT, SHARDS):
            if self._leads(group) is None:
                return f"group {group} has no leader"
        return ""

    def _difference(self) -> str:
        """What has not come to rest: records, changes, replicas; "" when all has."""
        core = self._leads(ROOT)
        record = None if core is None or core.root is None else core.root.record
        if record is None:
            return "no root leader"
        for number in range(ROOT, SHARDS):
            group = record.group(number)
            if group is None or group.config.is_joint or group.config.learners:
                return f"group {number} is changing: {group}"
            seen = []
            for replica in group.config.voters:
                here = self.machines[replica.node].core
                held = None if here is None else here.groups.get(number)
                if held is None or held.acceptor.me != replica or not held.acceptor.is_whole:
                    return f"group {number}: {replica} is not whole"
                seen.append({k: row.version for k, row in sorted(held.acceptor.rows.items())})
            if any(each != seen[0] for each in seen):
                return f"group {number}: {seen}"
        return ""

    # Faults

    def _next_fault(self) -> None:
        pause = 1 + int(self._random.expovariate(1 / max(self.swarm.fault_us, 500_000)))
        self.scheduler.after(pause, self._fault)

    def _fault(self) -> None:
        if not self._is_on:
            return
        kind = self._random.choice(self._kinds)
        self.counts[kind] += 1
        self.trace.add(self.scheduler.now_us, kind)
        getattr(self, f"_do_{kind}")(self._random.choice(list(self.machines.values())))
        self._next_fault()

    def _later(self, low_ms: int, high_ms: int, call: Callable[..., None], *args: object) -> None:
        self.scheduler.after(self._random.randint(low_ms, high_ms) * 1000, call, *args)

    def _do_crash(self, machine: _Machine) -> None:
        if machine.is_up:
            machine.crash()
        self._later(50, 6_000, machine.start)

    def _do_power(self, machine: _Machine) -> None:
        if machine.is_up:
            machine.crash(power=True)
        self._later(500, 8_000, machine.start)

    def _do_power_all(self, _: _Machine) -> None:
        for machine in self.machines.values():
            self._do_power(machine)

    def _do_pause(self, machine: _Machine) -> None:
        self.scheduler.pause(machine.node)
        self._later(500, 12_000, self.scheduler.resume, machine.node)

    def _do_lag(self, machine: _Machine) -> None:
        self.scheduler.lag(machine.node, self._random.randint(100, 4_000) * 1000)

    def _do_cut(self, _: _Machine) -> None:
        if len(self.machines) > 1:
            kind = self._random.choice(self.swarm.partitions)
            pairs = partition(kind, self.machines, self._random)
            self.network.cut(pairs)
            self._later(500, 10_000, self.network.mend, pairs)

    def _do_release(self, _: _Machine) -> None:
        self.network.release()

    def _do_weight(self, machine: _Machine) -> None:
        weight = self._random.choice((0.5, 1.0, 2.0))
        core = machine.core
        if core is not None:
            command = Describe(core.record.epoch, machine.node, (), weight, None)
            machine.perform(core.submit(command, machine.now_ms()))

    def _do_leave(self, machine: _Machine) -> None:
        core = machine.core
        if core is None or not core.record.is_serving:
            return
        room = len(self.machines) - len(self._left) > self.swarm.replicas
        if room and machine.node not in self._left:
            self._left.add(machine.node)
            machine.perform(core.submit(Leave(machine.node), machine.now_ms()))

    def _do_distrust(self, machine: _Machine) -> None:
        """The detector is wrong, or right: the node is believed to be gone."""
        serves = machine.core is not None and machine.core.record.is_serving
        if serves and 2 * len(self.distrusted) + 2 < len(self.machines):
            self.distrusted.add(machine.node)
            self._later(1_000, 10_000, self.distrusted.discard, machine.node)

    def _do_lose_disk(self, machine: _Machine) -> None:
        """The store is gone; of each group at most one replica at a time, and none that has few."""
        if not self._may_impair(machine):
            return
        self._wiped[machine.node] = self.scheduler.now_us
        if machine.is_up:
            machine.crash()
        machine.disk.format()
        self._later(50, 3_000, machine.start)

    def _do_rot(self, machine: _Machine) -> None:
        if not self._may_impair(machine):
            return
        self._rotten.add(machine.node)
        machine.disk.rot(Table.RECORD, in_key=self._random.random() < 0.3)
        if machine.is_up:
            machine.crash()
        self._later(50, 3_000, machine.start)

    def _may_impair(self, _: _Machine) -> bool:
        """Whether everything that went bad before is whole again, and every group has three."""
        core = self._leads(ROOT)
        record = None if core is None or core.root is None else core.root.record
        if record is None or self._difference():
            return False
        if any(len(group.config.voters) < 3 for group in (record.root, *record.shards)):
            return False
        for machine in self.machines.values():
            rows = machine.disk.rows
            if any(
                not is_sound(rows.get(table, shard, key), shard, key)
                for table, shard, key in rows.names()
            ):
                return False
        return all(machine.is_up for machine in self.machines.values())
