"""Schedules told step by step: a simulated cluster in which the test decides what arrives when.

A `Script` is a `Cluster` without clients and faults, on a network that takes a millisecond. The
test says which messages are held, dropped or sent again, which processes crash, and which node is
to lead. What is watched during a run is watched here, and `judge` ends a schedule as a run ends:
the cluster is healed, every agent is read, and what the callers saw is judged.
"""

from collections.abc import Callable, Iterable
from typing import Any, Final

from jido_placement.config import GroupConfig, Replica
from jido_state.checking.linearizability import Outcome, check_linearizable
from jido_state.checking.sessions import Sight, check_sessions
from jido_state.dots import Dot
from jido_state.operations import OpId
from jido_state.requests import Answer, Request, Status
from jido_state.session import Token
from jido_state.simulation.clients import CLIENTS
from jido_state.simulation.cluster import Cluster
from jido_state.simulation.disk import DiskFaults
from jido_state.simulation.history import Operation
from jido_state.simulation.machine import Ask, Directory, Frame, Machine, Told
from jido_state.simulation.network import NetworkFaults
from jido_state.simulation.partitions import two_way
from jido_state.simulation.swarm import Swarm, stream
from jido_state.simulation.watch import UnsafeError
from jido_state.versions import NO_VERSION, Version

__all__ = ["Call", "Hold", "Script", "ScriptError"]

_KINDS: Final = {"read": "read", "spawn": "spawn", "respawn": "spawn", "delete": "stop"}
_DELAY_US: Final = 1_000
_STALL: Final = DiskFaults(latency_us=3_600_000_000)


class ScriptError(Exception):
    """The schedule did not come to where it wants to: it proves nothing."""


class Hold:
    """Messages that are kept back, or copied, while they match.

    Attributes:
        messages: Source, target and message of each.
        is_on: Whether more are taken.
    """

    def __init__(
        self, script: "Script", matches: Callable[[int, int, Any], bool], *, copies: bool
    ) -> None:
        self.messages: list[tuple[int, int, Any]] = []
        self.copies = copies
        self.is_on = True
        self.matches = matches
        self._script = script

    def stop(self) -> None:
        """No more are taken; what was held stays so."""
        self.is_on = False

    def release(self) -> None:
        """Stops, and delivers what was taken, whatever is cut; can be called again."""
        self.is_on = False
        for source, target, message in self.messages:
            self._script.carry(source, target, message)
        self._script.run(10)


class Call:
    """A call of the test, over all its attempts.

    Attributes:
        answers: What came back.
    """

    def __init__(self, number: int, request: Request, session: str) -> None:
        self.number = number
        self.request = request
        self.session = session
        self.answers: list[Answer] = []

    @property
    def is_ok(self) -> bool:
        """Whether it is known to have succeeded."""
        return any(answer.status is Status.OK for answer in self.answers)

    @property
    def status(self) -> Status | None:
        """Of the last answer; None while there is none."""
        return self.answers[-1].status if self.answers else None


class Script:
    """A cluster whose messages and faults a test decides.

    Args:
        replicas: Voters at first: the nodes from 0 on, in order of preference.
        nodes: Machines; None for as many as there are replicas.
        election_ms: Of the groups' settings.
        window_ms: How long op ids and tombstones are kept.
    """

    def __init__(
        self,
        replicas: int = 3,
        nodes: int | None = None,
        *,
        election_ms: int = 2_500,
        window_ms: int = 2_000,
        hosts: int = 1,
    ) -> None:
        swarm = Swarm(
            seed=0,
            hosts=hosts,
            nodes=replicas if nodes is None else nodes,
            replicas=replicas,
            keys=1,
            clients=1,
            operations=1,
            duration_us=0,
            levels=(("strong", 1.0),),
            reads=0.0,
            faults=(),
            fault_us=1,
            partitions=("one",),
            network=NetworkFaults(least_us=_DELAY_US, mean_us=0),
            disk=DiskFaults(latency_us=100),
            offset_ms=0,
            drift_ppm=0,
            evidence=0.0,
            election_ms=election_ms,
            window_ms=window_ms,
        )
        self.cluster = Cluster(swarm)
        self.authority = self.cluster.authority
        self.scheduler = self.cluster.scheduler
        self.routes: dict[int, int] = {}  # where messages for a node go, while it has two processes
        self._holds: list[Hold] = []
        self._calls: dict[int, Call] = {}
        self._seen: dict[str, Version] = {}
        self._sights: list[Sight] = []
        self._attempts = 0
        self._ops = 0
        self.cluster.send = self.send  # type: ignore[method-assign]
        for machine in self.machines.values():
            machine._world = machine._world._replace(send=self.send)
        self.cluster.clients = {CLIENTS: self}  # type: ignore[dict-item]
        self.run(1_000 if replicas > 1 else 300)  # boots are registered, headers made

    @property
    def machines(self) -> dict[int, Machine]:
        """By node."""
        return self.cluster.machines

    # Messages

    def send(self, source: int, target: int, message: Any) -> None:
        """What the cluster sends comes here."""
        to = self.routes.get(target, target)
        network = self.cluster.network
        inner = message.message if type(message) is Frame else message
        for hold in self._holds:
            if hold.is_on and hold.matches(source, target, inner):
                hold.messages.append((source, to, message))
                if not hold.copies:
                    return
        if not network.is_cut(source, to):
            self.carry(source, to, message)

    def carry(self, source: int, target: int, message: Any) -> None:
        """Delivers a message in a millisecond, whatever is cut."""
        deliver = self.cluster._deliver
        self.scheduler.after(
            _DELAY_US, self.scheduler.run_on, target, deliver, source, target, message
        )

    def _take(
        self,
        kind: type | Callable[[Any], bool],
        source: int | None,
        target: int | None,
        copies: bool,
    ) -> Hold:
        def matches(one: int, other: int, message: Any) -> bool:
            is_kind = type(message) is kind if isinstance(kind, type) else kind(message)
            return is_kind and source in {None, one} and target in {None, other}

        hold = Hold(self, matches, copies=copies)
        self._holds.append(hold)
        return hold

    def hold(
        self,
        kind: type | Callable[[Any], bool],
        source: int | None = None,
        target: int | None = None,
    ) -> Hold:
        """Keeps back messages of this kind from now on."""
        return self._take(kind, source, target, copies=False)

    def record(
        self,
        kind: type | Callable[[Any], bool],
        source: int | None = None,
        target: int | None = None,
    ) -> Hold:
        """Copies messages of this kind: what the network may deliver twice, much later."""
        return self._take(kind, source, target, copies=True)

    def cut(self, left: Iterable[int], right: Iterable[int]) -> None:
        """Nothing passes between these nodes."""
        self.cluster.network.cut(two_way(left, list(right)))

    def alone(self, node: int) -> None:
        """Nothing passes between this node and any other; callers and the root group see it."""
        self.cut([node], [one for one in self.machines if one != node])

    def heal(self) -> None:
        """All cuts end."""
        self.cluster.network.heal(self.cluster.network.faults)

    # Time, processes, disks

    def run(self, ms: int) -> None:
        """Lets this much time pass."""
        self.scheduler.run(self.scheduler.now_us + ms * 1_000)

    def until(self, condition: Callable[[], bool], what: str, ms: int = 20_000) -> None:
        """Lets time pass until it is so.

        Raises:
            ScriptError: It is not, after this time.
        """
        if condition():
            return
        end_us = self.scheduler.now_us + ms * 1_000
        self.scheduler.run(end_us, condition)
        if not condition():
            raise ScriptError(f"not reached in {ms} ms: {what}")

    def crash(self, node: int, *, power: bool = False) -> None:
        """The process is gone; with `power` all that was not synced as well."""
        self.machines[node].crash(power=power)

    def start(self, node: int) -> None:
        """A new process; its disk is quick again."""
        self.quick(node)
        self.machines[node].start()
        self.run(50)

    def lose(self, node: int) -> None:
        """The node's store is lost, and a new process started."""
        self.crash(node)
        for file in self.machines[node].directory.files:
            file.lose()
        self.machines[node].start()

    def set_back(self, node: int, image: Directory) -> None:
        """The node's store files are as they were; the rest of its directory is not."""
        self.crash(node, power=True)
        files = self.machines[node].directory.files
        for file, old in zip(files, image.files, strict=True):
            file.set_back(old)
        self.cluster.watch.set_back(node)

    def full(self, node: int, *, is_full: bool = True) -> None:
        """The node's disk has no room, or some again."""
        for file in self.machines[node].directory.files:
            file.is_full = is_full

    def stall(self, node: int) -> None:
        """No write of the node becomes durable any more."""
        for file in self.machines[node].directory.files:
            file.faults = _STALL

    def slow(self, node: int, ms: int) -> None:
        """Writes that begin from now on become durable so late."""
        for file in self.machines[node].directory.files:
            file.faults = DiskFaults(latency_us=ms * 1_000)

    def quick(self, node: int) -> None:
        """Writes that begin from now on become durable soon."""
        for file in self.machines[node].directory.files:
            file.faults = DiskFaults(latency_us=100)

    def twin(self, node: int, directory: Directory) -> Machine:
        """A second process of the node, reached where `routes` says so."""
        twin = self.cluster.make_twin(node, directory)
        twin._world = twin._world._replace(send=self.send)
        return twin

    def image(self, node: int) -> Directory:
        """A copy of the node's data directory."""
        return self.machines[node].directory.copy(stream(0, "image"))

    # Leaders and configs

    def leads(self, node: int) -> bool:
        """Whether the node leads."""
        group = self.machines[node].groups.get(0)
        return group is not None and group.leadership is not None

    def gone(self, node: int) -> None:
        """All others are told that the node's process is gone, true or not."""
        for machine in self.machines.values():
            if machine.node != node and machine.is_up:
                machine.certain(node)

    def back(self, node: int) -> None:
        """All others are told that there is a process of the node again."""
        for machine in self.machines.values():
            if machine.node != node and machine.is_up:
                machine.certain(node, is_gone=False)

    def elect(self, node: int, ms: int = 12_000) -> None:
        """Only this node campaigns, until it leads."""
        from jido_state.messages import Prevote

        others = [self.hold(Prevote, source=one) for one in self.machines if one != node]
        self.until(lambda: self.leads(node), f"{node} leads", ms)
        for hold in others:
            hold.stop()

    @property
    def config(self) -> GroupConfig:
        """The newest committed one."""
        return self.authority.configs[0]

    def replicas(self, nodes: Iterable[int]) -> tuple[Replica, ...]:
        """Those of the committed config on these nodes; new ones where there are none."""
        known = {one.node: one for one in self.config.voters}
        return tuple(known.get(node) or Replica(node, self.authority._rno(0)) for node in nodes)

    def learn(self, nodes: Iterable[int]) -> None:
        """Begins a change to these voters: the new ones copy first."""
        config, target = self.config, self.replicas(nodes)
        self.authority._targets[0] = target
        learners = tuple(one for one in target if one not in config.voters)
        self.authority._commit(0, GroupConfig(config.number + 1, config.voters, (), learners))
        self.run(50)

    def join(self, nodes: Iterable[int]) -> None:
        """Commits the joint config of a change to these voters, who have copied nothing."""
        self.authority._targets[0] = self.replicas(nodes)
        self.authority._begin_joint(0, self.config)
        self.run(50)

    def simple(self, ms: int = 20_000) -> None:
        """The change in progress comes to its end."""
        self.until(lambda: not self.authority.is_changing(0), "the change is over", ms)

    # Calls

    def call(
        self,
        node: int,
        op: str,
        arg: Any = None,
        *,
        key: str = "k",
        level: str = "strong",
        session: str = "",
        over: Dot | None = None,
        ms: int = 20,
    ) -> Call:
        """Asks a node, and waits this long for an answer; a "respawn" names the life it ends."""
        number = self.cluster.history.call(0, key, op, arg, self.scheduler.now_us)
        self._ops += 1
        token = self._token(session) if level == "session" else None
        op_id = None if op == "read" else OpId("test", self._ops)
        kind = _KINDS.get(op, "call")
        request = Request((), kind, key, op_id, level, due_ms=0, payload=(op, arg), token=token)
        request = request._replace(over=over)
        call = self._calls[number] = Call(number, request, session)
        self.again(call, node, ms)
        return call

    def _token(self, session: str) -> Token:
        seen = self._seen.get(session)
        return Token("sim", 0) if seen is None else Token("sim", 0).saw(0, seen)

    def again(self, call: Call, node: int, ms: int = 20) -> None:
        """Another attempt of the same call."""
        self._attempts += 1
        request = call.request._replace(id=(CLIENTS, call.number, self._attempts))
        ask = Ask(0, request, self.scheduler.now_us, 5_000)
        machine = self.machines[node]
        address = self.routes.get(node, node)
        if address != node:
            machine = self.cluster.twins[node]
        self.scheduler.run_on(machine.process, machine.receive, CLIENTS, ask)
        self.run(ms)

    def receive(self, told: Told) -> None:
        """An answer."""
        answer = told.answer
        call = self._calls[answer.id[1]]
        call.answers.append(answer)
        if answer.status is Status.EXISTS and len(call.answers) == 1:
            self.cluster.history.answer(call.number, "exists", self.scheduler.now_us)
        if answer.status is not Status.OK or sum(a.status is Status.OK for a in call.answers) > 1:
            return
        value = answer.value
        kind = "read" if call.request.kind == "read" else "write"
        if kind == "read":
            value = None if value is None else value.state
        self.cluster.history.answer(call.number, value, self.scheduler.now_us)
        if call.request.level != "eventual":
            seen = self._seen.get(call.session, NO_VERSION)
            self._seen[call.session] = max(seen, answer.version)
            sight = Sight(call.session or call.number, call.request.key, kind, answer.version)
            self._sights.append(sight)

    def value(self, node: int, *, key: str = "k") -> Any:
        """A strong read that has to succeed."""
        call = self.call(node, "read", key=key)
        self.until(lambda: call.is_ok, f"{node} answers a read")
        return next(a for a in call.answers if a.status is Status.OK).value

    # The end

    def judge(self) -> None:
        """Heals everything, reads every agent, and judges what was seen.

        Raises:
            UnsafeError: Somebody saw what must not be.
        """
        for hold in self._holds:
            hold.stop()
        self.heal()
        for machine in self.machines.values():
            self.quick(machine.node)
            self.scheduler.resume(machine.process)
            if not machine.is_up:
                machine.start()
        for key in sorted({call.request.key for call in self._calls.values()}):
            self._last_read(key)
        operations = [one for one in self.cluster.history if self._is_judged(one)]
        verdict = check_linearizable(operations)
        if verdict.outcome is not Outcome.LINEARIZABLE:
            raise UnsafeError(str(verdict))
        if violations := check_sessions(self._sights):
            raise UnsafeError("\n".join(map(str, violations)))

    def _is_judged(self, operation: Operation) -> bool:
        """Reads of the weaker levels may be old; writes are in one order."""
        calls = [call.request for call in self._calls.values()]
        levels = {one.level for one in calls if one.key == operation.key and one.kind == "read"}
        return operation.op != "read" or levels == {"strong"}

    def _last_read(self, key: str) -> None:
        end_us = self.scheduler.now_us + 30_000_000
        while self.scheduler.now_us < end_us:
            for node in self.machines:
                if self.leads(node) and self.call(node, "read", key=key, ms=100).is_ok:
                    return
            self.run(100)
        raise UnsafeError(f"stuck: {key} cannot be read after all is healed")
