"""A whole cluster of both cores: root group, planner and shards, with nothing that cannot fail.

`cluster.py` runs groups whose configs come from a stand-in, which can be made to change them in any
way. Here they come from a real root group: its members are replicas on the same nodes, its record
is one more register on the same disks, and what changes is planned from it. Members leave, are
declared down (some although they live), weights change; nodes lose their stores.

Two kinds of users call. Those of `clients.py` use registers of all levels, which stop where they
have no quorum, and are judged by what they saw. Those of `acting_clients.py` use agents that go on
without one, and are judged by what is left in the end. At the end everything has come to rest:
replicas are equal, no entry is uncovered, no signal on its way, no timer due.
"""

from collections import Counter
from dataclasses import replace
from typing import Any, Final

from jido_placement.changes import apply_all
from jido_placement.commands import BecomeUp, Join
from jido_placement.policies import Strategy
from jido_placement.record import ROOT, MemberRecord, Record, found
from jido_state.checking.sessions import Sight, check_sessions
from jido_state.group import Group
from jido_state.node import Node
from jido_state.requests import Answer
from jido_state.settings import GroupSettings
from jido_state.simulation.acting import AGENTS
from jido_state.simulation.acting_agents import MORTAL, Ledger, Work
from jido_state.simulation.acting_clients import Call, SessionClient
from jido_state.simulation.acting_judge import forgive, judge, judge_answer, restless_record
from jido_state.simulation.clients import CLIENTS, Client, Workload
from jido_state.simulation.cluster import LIVENESS_US, Result, judge_history
from jido_state.simulation.disk import DiskFaults
from jido_state.simulation.history import History
from jido_state.simulation.network import Network
from jido_state.simulation.scheduler import Scheduler
from jido_state.simulation.swarm import Swarm, stream
from jido_state.simulation.trace import Trace
from jido_state.simulation.watch import UnsafeError, Watch
from jido_state.simulation.whole_faults import WholeFaults
from jido_state.simulation.whole_machine import WholeMachine, World

__all__ = ["WholeCluster", "simulate_whole"]

SHARDS: Final = 3
START_US: Final = 6_000_000  # the cluster forms before anybody calls
SETTLED_US: Final = 90_000_000  # within this after the last fault all must be at rest
# The window is longer than any message is held: what comes later than that is not survived.
SETTINGS: Final = GroupSettings(leaves=8, list_rows=16, dedupe_window_ms=30_000, max_trailing=64)
SESSIONS: Final = 100  # index of the first client whose agents go on without a quorum
MAKER: Final = 199
_PLACE: Final = {key: place % SHARDS for place, (key, _, _) in enumerate(AGENTS)}


def simulate_whole(seed: int, *, kept: int = 0) -> Result:
    """Runs one seed of a whole cluster; see `Result`."""
    return WholeCluster(Swarm.draw(seed), kept=kept).run()


def shard_of(key: str) -> int:
    """Where an agent of the simulation lives."""
    return _PLACE[key] if key in _PLACE else int(key[1:]) % SHARDS


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
        self.ledger = Ledger()
        self.counts: Counter[str] = Counter()
        self._is_faulted = True
        self._last_ns = 0
        self._detector = stream(seed, "detector")
        self._registers = self._draw_registers()
        self.network = Network(
            self.scheduler, stream(seed, "network"), self._deliver, swarm.network
        )
        distrusted: set[int] = set()
        world = World(
            swarm,
            SETTINGS,
            self.scheduler,
            self.network,
            self.watch,
            self.ledger,
            self.counts,
            frozenset(key for key, _, _ in self._registers),
            shard_of,
            self._reaches,
            distrusted,
            self._looks,
            self._first_record(),
        )
        self.machines = {node: WholeMachine(node, world) for node in range(swarm.nodes)}
        clocks = stream(seed, "clocks")
        for node in self.machines:
            self.scheduler.set_clock(node, offset_ms=clocks.randint(-400, 400))
        self.machines[0].found()
        self.clients = self._make_clients()
        *self.sessions, self._maker = self._make_sessions()
        self._distrusted = distrusted
        self.faults = WholeFaults(
            swarm,
            stream(seed, "nemesis"),
            self.machines,
            self.scheduler,
            self.network,
            self.trace,
            distrusted,
            lambda: None if self._unsettled() else self._record(),
        )

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

    # Users

    def _draw_registers(self) -> tuple[tuple[str, int, str], ...]:
        swarm = self.swarm
        random = stream(swarm.seed, "registers")
        levels, weights = zip(*swarm.levels, strict=True)
        keys = [f"k{place}" for place in range(max(3, swarm.keys))]
        return tuple((key, shard_of(key), random.choices(levels, weights)[0]) for key in keys)

    def _make_clients(self) -> dict[int, Client]:
        swarm = self.swarm
        random = stream(swarm.seed, "strategies")
        stopping = (Strategy.PAUSE_MINORITY, Strategy.LEADER_ELECTION)
        workload = Workload(
            self._registers,
            tuple(self.machines),
            max(1, swarm.operations // swarm.clients),
            swarm.reads,
            until_us=START_US + swarm.duration_us,
            attempt_us=self._attempt_us(),
            patience_us=3_000_000,
            strategies={key: random.choice(stopping) for key, _, _ in self._registers},
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

    def _attempt_us(self) -> int:
        faults = self.swarm.network
        return 300_000 + 6 * (faults.least_us + faults.mean_us)

    def _make_sessions(self) -> list[SessionClient]:
        clients = []
        for index in (*range(SESSIONS, SESSIONS + self.swarm.nodes), MAKER):
            client = SessionClient(
                index,
                self.scheduler,
                self.network.send,
                stream(self.swarm.seed, f"session {index}"),
                self.ledger,
                AGENTS,
                self.swarm.nodes,
                shard_of,
                attempt_us=self._attempt_us(),
            )
            self.scheduler.start(client.address)
            if index != MAKER:
                self.network.place(client.address, client.home)
            clients.append(client)
        return clients

    def _make_agents(self) -> None:
        """Sees to it that the agents are there that go on without a quorum."""
        scheduler, maker = self.scheduler, self._maker
        maker.stop()
        for key, type_, level in AGENTS:
            work = Work("make", f"maker-{key}-{scheduler.now_us}", type=type_)
            maker.begin(key, level, "spawn", work)
            scheduler.run(scheduler.now_us + 5_000_000, lambda: maker.is_done)

    def _users(self) -> list[Client | SessionClient]:
        return [*self.clients.values(), *self.sessions]

    def _calls(self) -> list[Call]:
        return [call for client in (*self.sessions, self._maker) for call in client.calls]

    # The world

    def _deliver(self, source: int, target: int, message: Any) -> None:
        self.trace.add(self.scheduler.now_us, "deliver", source, target, message)
        if target in self.clients:
            self.clients[target].receive(message)
        elif target >= CLIENTS:
            self._session(target).receive(message)
        else:
            self.machines[target].receive(source, message)

    def _session(self, address: int) -> SessionClient:
        index = address - CLIENTS
        return self._maker if index == MAKER else self.sessions[index - SESSIONS]

    def _reaches(self, one: int, other: int) -> bool:
        """What the detector of the one says of the other; now and then it is wrong."""
        if one == other:
            return True
        cut = self.network.is_cut
        is_true = self.machines[other].is_up and not (cut(one, other) or cut(other, one))
        return is_true != (self._is_faulted and self._detector.random() < 0.02)

    def _looks(self, answer: Answer) -> None:
        """An answer is on its way: whether it may be given."""
        address = answer.id[0]
        if address in self.clients:
            return
        key = None
        if address >= CLIENTS:
            key = self._session(address).calls[answer.id[1] - 1].request.key
        kind = f"answers {answer.durability}" if answer.is_partitioned else "answers"
        self.counts[kind] += 1
        if problems := judge_answer(self.ledger, key, answer, may_end=key == MORTAL):
            raise UnsafeError("; ".join(problems))

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
        calls = self._calls()
        acknowledged = sum(one.return_ns is not None for one in self.history)
        return Result(
            seed=self.swarm.seed,
            failure=failure,
            digest=self.trace.digest(),
            operations=len(self.history) + len(calls),
            acknowledged=acknowledged + sum(call.is_ok for call in calls),
            elections=self.watch.elections,
            virtual_us=self.scheduler.now_us,
            faults=dict(self.faults.counts),
            counts=dict(self.counts),
            history=self.history,
            trace=self.trace.lines(),
        )

    def _run(self) -> None:
        for machine in self.machines.values():
            machine.start()
        self._until(START_US)
        self._make_agents()
        for client in self._users():
            client.start()
        self.faults.start()
        self._until(self.scheduler.now_us + self.swarm.duration_us)
        self._stop()
        self._live()
        self._rest()
        self._judge()

    def _until(self, time_us: int) -> None:
        self.scheduler.run(time_us)
        for machine in self.machines.values():
            if machine.core is not None:
                for group in machine.core.groups.values():
                    group.check()
                machine.record.check()

    def _stop(self) -> None:
        self.faults.stop()
        self._is_faulted = False
        for client in self._users():
            client.stop()
        swarm = self.swarm
        calm = replace(swarm.network, loss=0.0, repeat=0.0, hold=0.0, least_us=100, mean_us=1_000)
        self.network.heal(calm)
        self._distrusted.clear()
        for machine in self.machines.values():
            machine.disk.faults = DiskFaults(latency_us=min(swarm.disk.latency_us, 2_000))
            self.scheduler.resume(machine.node)
            machine.start()

    def _live(self) -> None:
        """All faults have stopped: within a bound, every call has to end."""
        bound = self.scheduler.now_us + LIVENESS_US
        while self.scheduler.now_us < bound and (without := self._leaderless()):
            self._until(self.scheduler.now_us + 500_000)
        if without := self._leaderless():
            raise UnsafeError(f"stuck: {without}")
        for each in self._users():
            while not each.is_done and self.scheduler.now_us < bound + LIVENESS_US:
                self._until(self.scheduler.now_us + 200_000)
        self._make_agents()
        self._last_ns = self.scheduler.now_us * 1_000
        client = next(iter(self.clients.values()))
        for key, shard, _ in client.keys:
            client.call(key, shard, "strong", "read", None)
            while not client.is_done and self.scheduler.now_us < bound + 2 * LIVENESS_US:
                self._until(self.scheduler.now_us + 50_000)
            if not client.is_done:
                raise UnsafeError(f"stuck: {key} cannot be read after the last fault")

    def _rest(self) -> None:
        bound = self.scheduler.now_us + SETTLED_US
        while self.scheduler.now_us < bound and (difference := self._difference()):
            for machine in self.machines.values():
                machine.start()
            self._until(self.scheduler.now_us + 1_000_000)
        if difference := self._difference():
            raise UnsafeError(f"not settled after {SETTLED_US // 1_000_000} s: {difference}")

    def _judge(self) -> None:
        judge_history(self.history, self._registers, self._last_ns)
        problems = [str(one) for one in check_sessions((*self.sights, *self.ledger.sights))]
        calls = self._calls()
        for machine in self.machines.values():
            if not machine.is_member:
                for key, left in machine.held():
                    forgive(calls, key, left)
        records = {}
        for number in range(SHARDS):
            for _, group in self._voters(number):
                records.update({k: row.content for k, row in group.acceptor.rows.items()})
        problems += self.ledger.problems + judge(AGENTS, self.ledger, records, calls)
        if problems:
            raise UnsafeError("\n".join(problems))

    # What there is

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

    def _record(self) -> Record | None:
        core = self._leads(ROOT)
        return None if core is None or core.root is None else core.root.record

    def _voters(self, number: int) -> list[tuple[int, Group]]:
        """The nodes and replicas of a group's committed config, as far as they are there."""
        record = self._record()
        group = None if record is None else record.group(number)
        found = []
        for replica in () if group is None else group.config.voters:
            core = self.machines[replica.node].core
            held = None if core is None else core.groups.get(number)
            if held is not None and held.acceptor.me == replica:
                found.append((replica.node, held))
        return found

    def _unsettled(self) -> str:
        """Which group is changing, or not whole; "" when none is."""
        record = self._record()
        if record is None:
            return "no root leader"
        for number in range(ROOT, SHARDS):
            group = record.group(number)
            if group is None or group.config.is_joint or group.config.learners:
                return f"group {number} is changing: {group}"
            whole = [node for node, held in self._voters(number) if held.acceptor.is_whole]
            if len(whole) < len(group.config.voters):
                return f"group {number}: only {whole} of {group.config.voters} are whole"
        return ""

    def _difference(self) -> str:
        """What has not come to rest; "" when all has."""
        if unsettled := self._unsettled():
            return unsettled
        for number in range(ROOT, SHARDS):
            seen = [
                {key: row.version for key, row in sorted(held.acceptor.rows.items())}
                for _, held in self._voters(number)
            ]
            if any(each != seen[0] for each in seen):
                return f"group {number}: {seen}"
        for machine in self.machines.values():
            if machine.is_member and machine.held():
                return f"node {machine.node} holds entries: {machine.held()}"
        return self._restless()

    def _restless(self) -> str:
        for number in range(SHARDS):
            for _, group in self._voters(number)[:1]:
                for key, row in sorted(group.acceptor.rows.items()):
                    if problems := restless_record(key, row.content):
                        return "; ".join(problems)
        return ""
