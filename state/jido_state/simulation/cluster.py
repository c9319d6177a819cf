"""Groups of replicas in one thread: everything a seed stands for, run, and judged.

A run has three parts. First clients call while the seed's faults come and go; after every event
the invariants are checked. Then all faults stop, and the cluster has to be alive within a bound:
every group has a leader, every call that is made now ends. At last what the clients saw is judged:
strong agents must be linearizable, sessions must have seen their own writes, and all replicas must
hold the same. Agents that are kept in memory are judged as any others, until two faults in a row
may have cost what they had acknowledged.
"""

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any, Final

from jido_state.checking.convergence import check_converged
from jido_state.checking.linearizability import Outcome, check_linearizable
from jido_state.checking.sessions import Sight, check_sessions
from jido_state.group import Group
from jido_state.record import Record
from jido_state.requests import Commit, RunTurn
from jido_state.settings import GroupSettings
from jido_state.simulation.authority import AUTHORITY, Authority
from jido_state.simulation.clients import CLIENTS, Client, Workload
from jido_state.simulation.disk import SimDisk
from jido_state.simulation.history import History
from jido_state.simulation.in_memory import AgentsInMemory
from jido_state.simulation.machine import Directory, Machine, Stored, World
from jido_state.simulation.nemesis import Nemesis
from jido_state.simulation.network import Network
from jido_state.simulation.scheduler import Scheduler
from jido_state.simulation.swarm import Swarm, stream
from jido_state.simulation.trace import Trace
from jido_state.simulation.watch import UnsafeError, Watch
from jido_state.versions import Version

__all__ = ["Cluster", "Result", "apply", "judge_history", "simulate"]

LIVENESS_US: Final = 30_000_000  # within this after the last fault everything must work again
SETTLED_US: Final = 60_000_000  # and within this all replicas must be equal
_READS: Final = 150  # asked for on each node; most of them it cannot answer
TWINS: Final = 600  # address of the second process of node 0


@dataclass(slots=True)
class Result:
    """What became of a run.

    Attributes:
        seed: Of the run.
        failure: What did not hold; "" when all did.
        digest: Of every event and answer, equal for equal runs.
        operations: How many calls are in the history: all but those that surely did not run.
        acknowledged: How many of them are known to have succeeded.
        elections: How often a leader was made.
        virtual_us: How long it was, in virtual time.
        faults: How often each kind of fault came.
        counts: How often else what happened.
        history: What the clients saw.
        trace: The last events, when they were kept.
    """

    seed: int
    failure: str = ""
    digest: str = ""
    operations: int = 0
    acknowledged: int = 0
    elections: int = 0
    virtual_us: int = 0
    faults: dict[str, int] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    history: History = field(default_factory=History)
    trace: list[str] = field(default_factory=list)


def simulate(seed: int, *, kept: int = 0, swarm: Swarm | None = None) -> Result:
    """Runs one seed.

    Args:
        seed: Gives everything.
        kept: How many of the last events the result's trace has.
        swarm: In place of what the seed would draw.
    """
    cluster = Cluster(Swarm.draw(seed) if swarm is None else swarm, kept=kept)
    return cluster.run()


class Cluster:
    """Machines, clients and faults of one run.

    Args:
        swarm: Size, load and mix of faults.
        kept: How many events the trace keeps for a reader.

    Attributes:
        machines: By node.
        twins: Second processes of some nodes, by node: on an image of its data directory, or on
            the very same files.
        slow: Nodes for which what others send them is late, by as many microseconds.
    """

    def __init__(self, swarm: Swarm, *, kept: int = 0) -> None:
        self.swarm = swarm
        seed = swarm.seed
        self.scheduler = Scheduler()
        self._last_ns = 0
        self.trace = Trace(kept)
        self.watch = Watch()
        self.watch.in_memory = AgentsInMemory(self._groups)
        self.history = History()
        self.sights: list[Sight] = []
        self.network = Network(
            self.scheduler, stream(seed, "network"), self._deliver, swarm.network
        )
        shards = 1 if swarm.nodes < 3 else 1 + seed % 2
        nodes = list(range(swarm.nodes))
        self.scheduler.start(AUTHORITY)
        self._world = World(
            self.scheduler,
            self.send,
            self._run_turn,
            self.watch,
            self._ended,
            self._refused,
            settings_of(swarm),
        )
        self.machines: dict[int, Machine] = {}
        self.twins: dict[int, Machine] = {}
        self.slow: dict[int, int] = {}
        clocks = stream(seed, "clocks")
        for node in nodes:
            random = stream(seed, f"disk {node}")
            files: list[SimDisk[Stored]] = [
                SimDisk(self.scheduler, random, node, swarm.disk, _spoil)
                for _ in range(swarm.hosts)
            ]
            draw = _drawer(stream(seed, f"nonce {node}"))
            self.machines[node] = Machine(node, Directory(files), self._world, draw)
            offset = clocks.randint(-swarm.offset_ms, swarm.offset_ms)
            drift = clocks.randint(-swarm.drift_ppm, swarm.drift_ppm)
            self.scheduler.set_clock(node, offset_ms=offset, drift_ppm=drift)
            self.network.place(TWINS + node, node)
        self.nemesis = Nemesis(self)
        for node in nodes:
            self.machines[node].start()
        self.authority = Authority(
            self._send_from_authority, stream(seed, "authority"), nodes, shards, swarm.replicas
        )
        self._turns = stream(seed, "turns")
        self._routes = stream(seed, "routes")
        self.clients = self._make_clients(shards)
        drawn = stream(seed, "agents in memory")
        self.in_memory = frozenset(
            key
            for key, _, level in self._keys()
            if level != "strong" and drawn.random() < swarm.in_memory
        )

    def _make_clients(self, shards: int) -> dict[int, Client]:
        swarm = self.swarm
        random = stream(swarm.seed, "clients")
        levels, weights = zip(*swarm.levels, strict=True)
        keys = tuple(
            (f"k{i}", i % shards, random.choices(levels, weights)[0]) for i in range(swarm.keys)
        )
        each = max(1, swarm.operations // swarm.clients)
        workload = Workload(
            keys,
            tuple(self.machines),
            each,
            swarm.reads,
            until_us=swarm.duration_us,
            attempt_us=300_000 + 6 * (swarm.network.least_us + swarm.network.mean_us),
            patience_us=min(3_000, swarm.window_ms // 2) * 1_000,
        )
        homes = [
            random.randrange(swarm.nodes) if random.random() < 0.5 else None
            for _ in range(swarm.clients)
        ]
        clients = [self._make_client(index, workload, home) for index, home in enumerate(homes)]
        # On each node somebody reads who knows no other: also from a leader that is deposed.
        for node in self.machines:
            reads = workload._replace(
                nodes=(node,), operations=_READS, reads=1.0, patience_us=workload.attempt_us // 2
            )
            clients.append(self._make_client(swarm.clients + node, reads, node))
        return {client.address: client for client in clients}

    def _make_client(self, index: int, workload: Workload, home: int | None) -> Client:
        """A client; what cuts off its home cuts off the client."""
        client = Client(
            index,
            self.scheduler,
            self.send,
            stream(self.swarm.seed, f"client {index}"),
            self.history,
            self.sights,
            workload,
        )
        self.scheduler.start(client.address)
        if home is not None:
            self.network.place(client.address, home)
        return client

    # The world

    def send(self, source: int, target: int, message: object) -> None:
        """Sends to a node, whichever of its processes that reaches, the authority or a client."""
        node = target
        if target in self.twins and self._routes.random() < 0.5:
            target += TWINS
        if node in self.slow and source < CLIENTS:
            self.scheduler.after(self.slow[node], self.network.send, source, target, message)
        else:
            self.network.send(source, target, message)

    def make_twin(self, node: int, directory: Directory) -> Machine:
        """A second process of the node, not started yet."""
        random = stream(self.swarm.seed, f"twin {node} {self.scheduler.now_us}")
        twin = Machine(node, directory, self._world, _drawer(random), process=TWINS + node)
        self.twins[node] = twin
        return twin

    def _send_from_authority(self, node: int, message: object) -> None:
        self.send(AUTHORITY, node, message)

    def _ended(self, machine: Machine) -> None:
        self.watch.ended(machine.process)
        self.nemesis.ended(machine)

    def _refused(self, machine: Machine) -> None:
        self.nemesis.refused(machine)

    def _groups(self, shard: int) -> list[Group]:
        """The replicas of a shard in all running processes."""
        machines = [*self.machines.values(), *self.twins.values()]
        found = [machine.groups.get(shard) for machine in machines if machine.is_up]
        return [group for group in found if group is not None]

    def _deliver(self, source: int, target: int, message: Any) -> None:
        self.trace.add(self.scheduler.now_us, "deliver", source, target, message)
        sender = source - TWINS if TWINS <= source < AUTHORITY else source
        if target == AUTHORITY:
            self.authority.receive(sender, message)
        elif target >= CLIENTS:
            self.clients[target].receive(message)
        elif target < TWINS:
            self.machines[target].receive(sender, message)
        elif target - TWINS in self.twins:
            self.twins[target - TWINS].receive(sender, message)

    def _run_turn(self, machine: Machine, shard: int, effect: RunTurn) -> None:
        """A handler runs for a while; nothing but its end is seen."""
        delay = int(self._turns.expovariate(1 / 1_500))
        self.scheduler.after_on(machine.process, delay, self._end_turn, machine, shard, effect)

    def _end_turn(self, machine: Machine, shard: int, effect: RunTurn) -> None:
        commit = apply(effect)._replace(in_memory=effect.request.key in self.in_memory)
        machine.end_turn(shard, effect.request.key, effect.version, commit)

    # The run

    def run(self) -> Result:
        """Runs all three parts; never raises for what the run itself finds."""
        failure = ""
        try:
            self._run()
        except UnsafeError as error:
            failure = str(error)
        except AssertionError as error:
            failure = f"a process found itself wrong: {error!r}"
        return self._result(failure)

    def _run(self) -> None:
        swarm = self.swarm
        for client in self.clients.values():
            client.start()
        self.nemesis.start()
        self._until(swarm.duration_us)
        self.nemesis.stop()
        for client in self.clients.values():
            client.stop()
        self._live()
        self._judge()

    def _until(self, time_us: int, stop: Callable[[], bool] | None = None) -> bool:
        """Runs to that time, checking after each event. Whether `stop` said so before."""
        scheduler = self.scheduler
        stopped = False

        def look() -> bool:
            nonlocal stopped
            stopped = stop is not None and stop()
            return stopped

        scheduler.run(time_us, look if stop is not None else None)
        return stopped

    def _live(self) -> None:
        """All faults have stopped: within a bound, every call has to end."""
        bound = self.scheduler.now_us + LIVENESS_US
        while self.scheduler.now_us < bound and not self._has_leaders():
            self._until(self.scheduler.now_us + 500_000)
        if not self._has_leaders():
            raise UnsafeError(f"stuck: no leader {LIVENESS_US // 1_000_000} s after the last fault")
        for client in self.clients.values():
            while not client.is_done and self.scheduler.now_us < bound:
                self._until(self.scheduler.now_us + 200_000)
        self._last_reads(bound)
        bound = self.scheduler.now_us + SETTLED_US
        while self.scheduler.now_us < bound and (difference := self._difference()):
            self._until(self.scheduler.now_us + 1_000_000)
        if difference := self._difference():
            raise UnsafeError(f"not equal after {SETTLED_US // 1_000_000} s: {difference}")

    def _last_reads(self, bound: int) -> None:
        """Every agent is read once more, strongly."""
        self._last_ns = self.scheduler.now_us * 1_000
        client = next(iter(self.clients.values()))
        for key, shard, _ in client.keys:
            client.call(key, shard, "strong", "read", None)
            while not client.is_done and self.scheduler.now_us < bound:
                self._until(self.scheduler.now_us + 50_000)
            if not client.is_done:
                raise UnsafeError(f"stuck: {key} cannot be read after the last fault")

    def _has_leaders(self) -> bool:
        return all(self._leader(shard) is not None for shard in self.authority.configs)

    def _leader(self, shard: int) -> Machine | None:
        for machine in self.machines.values():
            group = machine.groups.get(shard)
            if group is not None and group.leadership is not None:
                return machine
        return None

    def _difference(self) -> str:
        """Which replicas of a shard differ from each other; "" for none."""
        for shard, config in self.authority.configs.items():
            if self.authority.is_changing(shard):
                return f"shard {shard} is still changing"
            held: dict[int, dict[str, Version]] = {}
            for replica in config.voters:
                group = self.machines[replica.node].groups.get(shard)
                if group is None or group.acceptor.me != replica or not group.acceptor.is_whole:
                    return f"shard {shard}: no whole replica {replica}"
                rows = group.acceptor.rows
                held[replica.node] = {key: row.version for key, row in rows.items()}
            if problems := check_converged(held):
                return f"shard {shard}: {'; '.join(problems)}"
        return ""

    def _judge(self) -> None:
        lost = self.watch.in_memory.may_be_lost
        judge_history(self.history, self._keys(), self._last_ns, lost)
        if violations := check_sessions(one for one in self.sights if one.key not in lost):
            raise UnsafeError("\n".join(map(str, violations)))

    def _keys(self) -> tuple[tuple[str, int, str], ...]:
        return next(iter(self.clients.values())).keys

    def _result(self, failure: str) -> Result:
        for operation in self.history:
            self.trace.mark(repr(operation).encode())
        acknowledged = sum(one.return_ns is not None for one in self.history)
        return Result(
            seed=self.swarm.seed,
            failure=failure,
            digest=self.trace.digest(),
            operations=len(self.history),
            acknowledged=acknowledged,
            elections=self.watch.elections,
            virtual_us=self.scheduler.now_us,
            faults=dict(self.nemesis.counts),
            counts={
                "answers from memory": self.watch.in_memory.answers,
                "agents in memory": len(self.in_memory),
                "of them perhaps lost": len(self.watch.in_memory.may_be_lost),
            },
            history=self.history,
            trace=self.trace.lines(),
        )


def judge_history(
    history: History,
    keys: Iterable[tuple[str, int, str]],
    last_ns: int,
    lost: Collection[str] = (),
) -> None:
    """Looks whether operations on agents are linearizable, as far as their levels promise.

    Reads of the weaker levels may be old; writes are in one order at every level.

    Args:
        history: What clients saw.
        keys: Agents with shard and level.
        last_ns: From when on reads were strong on all agents.
        lost: Agents that may have forgotten what they had acknowledged: nothing is judged of them.

    Raises:
        UnsafeError: They are not.
    """
    strong = {key for key, _, level in keys if level == "strong"}
    judged = [
        operation
        for operation in history
        if operation.key not in lost
        and (operation.key in strong or operation.op != "read" or operation.call_ns >= last_ns)
    ]
    verdict = check_linearizable(judged)
    if verdict.outcome is not Outcome.LINEARIZABLE:
        raise UnsafeError(str(verdict))


def apply(effect: RunTurn) -> Commit:
    """What the simulated handler does with the state: `Register`'s operations."""
    if effect.request.kind == "fold":
        assert effect.record is not None
        return Commit(effect.record, None)  # nothing in it names actors
    op, arg = effect.request.payload
    record = effect.record
    state = None if record is None else record.state
    result: Any = "ok"
    if op in {"spawn", "write"}:
        state = arg
    elif op == "respawn":
        state = arg[1]
    elif op == "add":
        state = result = state + arg
    elif op == "cas":
        result = state == arg[0]
        state = arg[1] if result else state
    elif op == "delete":
        state = None
    new = Record.blank(state=state) if record is None else replace(record, state=state)
    return Commit(new, result)


def _drawer(random: Random) -> Callable[[], int]:
    return lambda: random.getrandbits(63)


def _spoil(stored: Stored, _: Random) -> Stored:
    """What a flipped bit makes of a row: its checksum does not fit any more."""
    return stored._replace(shard=-1)


def settings_of(swarm: Swarm) -> GroupSettings:
    """Small trees and pages, so that runs meet their edges, and the times the swarm has drawn."""
    election_ms = swarm.election_ms
    return GroupSettings(
        election_ms=election_ms,
        heartbeat_ms=election_ms // 8,
        jitter_ms=election_ms // 8,
        rank_ms=election_ms // 8,
        resend_ms=election_ms // 10,
        leaves=8,
        list_rows=16,
        dedupe_window_ms=swarm.window_ms,
        max_trailing=64,
    )
