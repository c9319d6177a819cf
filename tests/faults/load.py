"""A client of the cluster on one of its nodes: `python -m tests.faults.load ADDRESS NUMBER LOG`.

It takes commands as JSON lines on standard input, `{"id", "do", ...}`, carries them out side by
side, and answers each with a line, `{"id", "result"}` or `{"id", "error"}`, after "connected".

Operations go to the log before they are sent, and again when their end is known, so that the log
of a killed client tells which were under way. Times are CLOCK_MONOTONIC, which all processes of a
machine share whatever their namespaces. See `judge.py` for what is made of it.
"""

import asyncio
import itertools
import json
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

from jido_cluster import (
    AgentExistsError,
    AgentLostError,
    AgentNotFoundError,
    AsyncCluster,
    ClusterConfig,
    ExecutionError,
    JidoError,
    RejectedError,
    Reply,
    new_id,
)
from jido_cluster._ray.transport import RayTransport
from jido_cluster.ports import PeerTroubleError
from tests.faults.agents import (
    EventualRegister,
    LodgingRelay,
    Register,
    Relay,
    SessionRegister,
)

TRY_SECONDS: Final = 5.0  # for one attempt; an attempt to a silent node takes all of it
PATIENCE: Final = 15.0  # for an operation with all its attempts
COUNT_PATIENCE: Final = 300.0  # for an operation that has to be answered
PAUSE: Final = 0.2  # between attempts
COUNTER: Final = "count-"  # agents whose ids begin so are only added to and read
SESSION: Final = "session-"  # these are read as new as their session has seen
SESSIONS: Final = 10_000  # at most, of one client
EVENTUAL: Final = "eventual-"  # and these may be read as they were
MIX: Final = {"read": 50, "write": 20, "cas": 15, "add": 15}

Send = Callable[[], Awaitable[Any]]


def type_of(key: str) -> type[Register]:
    """What the agent of this id is, which decides how it is read."""
    if key.startswith(SESSION):
        return SessionRegister
    return EventualRegister if key.startswith(EVENTUAL) else Register


class Log:
    """The operations of one client process, in a file that outlives it."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._numbers = itertools.count(1)

    def call(self, client: int, key: str, op: str, arg: object) -> int:
        """Note that an operation begins; its number."""
        number = next(self._numbers)
        self.write(n=number, client=client, key=key, op=op, arg=arg, call_ns=time.monotonic_ns())
        return number

    def write(self, **line: object) -> None:
        """Add a line; what one `write` has given to the kernel survives SIGKILL."""
        os.write(self._file, json.dumps(line, separators=(",", ":")).encode() + b"\n")


def lose_frames(request: float, response: float) -> None:
    """From now on frames of this process, or their answers, are lost with these probabilities.

    Ray's own injection of failures does not reach frames: they go by connections of the runtime.
    """
    chance, send = random.Random(0), RayTransport.send

    def lossy(self: RayTransport, host: str, frame: bytes) -> "asyncio.Future[bytes]":
        answered: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        if chance.random() < request:
            answered.set_exception(PeerTroubleError("the frame was lost"))
            return answered
        is_lost = chance.random() < response

        def pass_on(done: "asyncio.Future[bytes]") -> None:
            if answered.done() or done.cancelled():
                answered.cancel()
            elif (error := done.exception()) is not None:
                answered.set_exception(error)
            elif is_lost:
                answered.set_exception(PeerTroubleError("the answer was lost"))
            else:
                answered.set_result(done.result())

        send(self, host, frame).add_done_callback(pass_on)
        return answered

    RayTransport.send = lossy  # type: ignore[method-assign]


class Client:
    """Does operations on registers, one after another for each of its sessions."""

    def __init__(self, cluster: AsyncCluster, number: int, log: Log) -> None:
        self._cluster = cluster
        self._number = number
        self._log = log
        self._random = random.Random(number)
        self._sessions = itertools.count(number * SESSIONS)
        self._values = itertools.count(number * 1_000_000_000)  # no two writes are alike
        self._end = 0.0  # of the load
        self._failed: Counter[str] = Counter()

    async def nodes(self) -> list[Any]:
        """Name, status and number of shards led of each member."""
        return [[one.name, one.status, one.shards_led] for one in await self._cluster.nodes()]

    async def drain(self, node: str) -> list[int]:
        """Drain a node; the numbers of moves, agents and bytes."""
        plan = await self._cluster.drain(node)
        return [len(plan.moves), plan.agents, plan.bytes]

    async def moves(self) -> int:
        """How many moves are still to be done."""
        return len((await self._cluster.options(timeout=TRY_SECONDS).preview()).moves)

    async def failures(self) -> dict[str, int]:
        """How many attempts of operations failed since this was last asked, by kind of error."""
        failed, self._failed = self._failed, Counter()
        return dict(failed)

    async def watch(self, seconds: float) -> dict[str, Any]:
        """How many nodes were listed no more, and which shards got another leader, meanwhile.

        Only changes count that are seen by looking twice a second: seconds since the beginning,
        shard, and the nodes that led it.
        """
        begin = time.monotonic()
        members: set[str] = set()
        leaders: dict[int, int] = {}
        removed, changes = 0, []
        while time.monotonic() < begin + seconds:
            view = self._cluster._connection.client.view
            now = {one.id for one in view.members}
            removed += len(members - now)
            members |= now
            for shard, lead in enumerate(view.leads):
                if lead is not None:
                    before = leaders.setdefault(shard, lead.node)
                    if before != lead.node:
                        passed = round(time.monotonic() - begin, 1)
                        changes.append([passed, shard, before, lead.node])
                    leaders[shard] = lead.node
            await asyncio.sleep(0.5)
        return {"removed": removed, "leader changes": len(changes), "changes": changes}

    async def homes(self, keys: Sequence[str]) -> dict[str, str]:
        """The node that each of these agents lives on, where it can be said."""
        return {key: nodes[0] for key, nodes in (await self.replicas(keys)).items()}

    async def replicas(self, keys: Sequence[str]) -> dict[str, list[str]]:
        """The nodes that hold each of these agents, the leader first, where it can be said."""

        async def found(key: str) -> tuple[str, list[str]]:
            try:
                info = await self._cluster.options(timeout=TRY_SECONDS).ref(key).info()
            except JidoError:
                return key, []
            return key, [info.node, *(one for one in info.replicas if one != info.node)]

        return {key: nodes for key, nodes in await asyncio.gather(*map(found, keys)) if nodes}

    async def spawn(self, keys: Sequence[str]) -> None:
        """Make these agents, with the value 0."""
        session = next(self._sessions)
        for key in keys:
            await self._spawn(session, key)

    async def each(self, keys: Sequence[str], op: str = "read", arg: Any = None) -> None:
        """The same operation on each of these agents, once."""
        session = next(self._sessions)
        await asyncio.gather(*(self._operate(session, key, op, arg) for key in keys))

    async def load(
        self, keys: Sequence[str], seconds: float, rate: float, sessions: int = 20
    ) -> None:
        """Mixed operations on these agents at an even pace, `rate` a second in all.

        A session whose operation takes longer than its pace leaves out what it missed.
        """
        self._end = time.monotonic() + seconds
        period = sessions / rate
        await asyncio.gather(
            *(self._session(keys, period, i * period / sessions) for i in range(sessions))
        )

    async def stop(self) -> None:
        """Let the load end now."""
        self._end = 0.0

    async def probe(
        self, keys: Sequence[str], seconds: float, pause: float, patience: float = PATIENCE
    ) -> None:
        """Add 1 to each of these agents over and over, each with one call at a time."""
        end = self._end = time.monotonic() + seconds

        async def one(key: str) -> None:
            session = next(self._sessions)
            while time.monotonic() < min(end, self._end):
                await self._operate(session, key, "add", 1, patience)
                await asyncio.sleep(pause)

        await asyncio.gather(*map(one, keys))

    async def count(self, keys: Sequence[str], number: int, sessions: int = 100) -> list[int]:
        """Add 1 to these agents `number` times in all, each again until it is answered; the sums.

        Every addition keeps its operation id for as long as it takes.
        """
        left = iter(range(number))

        async def some() -> None:
            session = next(self._sessions)
            for i in left:
                key = keys[i % len(keys)]
                await self._operate(session, key, "add", 1, patience=COUNT_PATIENCE)

        await asyncio.gather(*(some() for _ in range(sessions)))
        session = next(self._sessions)
        return [await self._operate(session, key, "read", None) for key in keys]

    async def value(self, key: str) -> int:
        """What an agent says, which is noted nowhere."""
        cluster = self._cluster.options(timeout=PATIENCE)
        found: int = await cluster.ref(Register, key).call(Register.read)
        return found

    async def spawn_relays(self, keys: Sequence[str]) -> None:
        """Make these relays, every other one with a process of its own for its turns."""
        for i, key in enumerate(keys):
            made = LodgingRelay if i % 2 else Relay
            await self._cluster.options(timeout=PATIENCE).get_or_spawn(made, key)

    async def relay(
        self, key: str, register: str, value: int, seconds: float, timeout: float, log: str
    ) -> str:
        """Have a relay write, and write again after some seconds; the fence of its turn."""
        cluster = self._cluster.options(timeout=timeout, op_id=new_id("op-"))
        fence: str = await cluster.ref(Relay, key).call(Relay.write, register, value, seconds, log)
        return fence

    async def _session(self, keys: Sequence[str], period: float, offset: float) -> None:
        session, seen = next(self._sessions), dict[str, int]()
        due = time.monotonic() + offset
        with self._cluster.session():
            while due < self._end:
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                key = self._random.choice(keys)
                op, arg = self._choose(key, seen)
                answer = await self._operate(session, key, op, arg)
                if op in {"read", "add"} and isinstance(answer, int):
                    seen[key] = answer
                due = max(due + period, time.monotonic())

    def _choose(self, key: str, seen: Mapping[str, int]) -> tuple[str, Any]:
        (op,) = self._random.choices(list(MIX), list(MIX.values()))
        if op == "read":
            return op, None
        if op == "add" or key.startswith(COUNTER):
            return "add", self._random.randint(1, 9)
        if op == "write":
            return op, next(self._values)
        return op, [seen.get(key, 0), next(self._values)]

    async def _operate(
        self, session: int, key: str, op: str, arg: Any, patience: float = PATIENCE
    ) -> Any:
        cluster = self._cluster.options(timeout=TRY_SECONDS, op_id=new_id("op-"))
        ref = cluster.ref(type_of(key), key)
        requests: dict[str, Send] = {
            "read": lambda: ref.request(Register.read),
            "write": lambda: ref.request(Register.write, arg),
            "cas": lambda: ref.request(Register.cas, *arg),
            "add": lambda: ref.request(Register.add, arg),
        }
        number = self._log.call(session, key, op, arg)
        return await self._attempt(number, op, requests[op], patience)

    async def _spawn(self, session: int, key: str) -> None:
        cluster = self._cluster.options(timeout=TRY_SECONDS, op_id=new_id("op-"))

        async def send() -> str:
            try:
                await cluster.spawn(type_of(key), key)
            except AgentExistsError:
                return "exists"
            return "ok"

        await self._attempt(self._log.call(session, key, "spawn", 0), "spawn", send)

    async def _attempt(self, number: int, op: str, send: Send, patience: float = PATIENCE) -> Any:
        """Send it, again with the same operation id while it is not known whether it ran."""
        end = time.monotonic() + patience
        unknown = ""  # the kind of error of the first attempt that may have run
        while True:
            try:
                answer = await send()
            except (AgentLostError, AgentNotFoundError):
                # The state is gone, which is an answer, and one that the checker does not forgive.
                return self._answered(number, None if op == "read" else "absent")
            except (RejectedError, ExecutionError) as error:
                self._failed[error.kind] += 1
                # This attempt changed nothing; an earlier one may have, or may still.
                problem: JidoError = error
                if not unknown and not error.retryable:
                    return self._ended(number, refused=error.kind)
            except JidoError as error:
                self._failed[error.kind] += 1
                problem, unknown = error, unknown or error.kind
            else:
                return self._answered(number, answer)
            if time.monotonic() + PAUSE > end:
                last = {"unknown": unknown} if unknown else {"refused": problem.kind}
                return self._ended(number, **last)
            await asyncio.sleep(PAUSE)

    def _ended(self, number: int, **end: str) -> None:
        self._log.write(n=number, end_ns=time.monotonic_ns(), **end)

    def _answered(self, number: int, answer: Any) -> Any:
        now = time.monotonic_ns()
        if not isinstance(answer, Reply):
            self._log.write(n=number, ret=answer, return_ns=now)
            return answer
        fence = answer.fence
        version = [fence.config_no, fence.round, int(fence.node or "0"), fence.seq]
        self._log.write(n=number, ret=answer.value, return_ns=now, version=version)
        return answer.value


async def serve(address: str, number: int, log: str) -> None:
    """Connect, then do what the lines on standard input say until they end."""
    # Ray prints on standard output when a node dies: that now goes where errors go.
    answers = os.dup(1)
    os.dup2(2, 1)

    def tell(**line: object) -> None:
        os.write(answers, json.dumps(line).encode() + b"\n")

    async def carry_out(client: Client, command: dict[str, Any]) -> None:
        id_, name = command.pop("id"), command.pop("do")
        try:
            tell(id=id_, result=await getattr(client, name)(**command))
        except JidoError as error:
            tell(id=id_, error=f"{error.kind}: {error}")

    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=1 << 22)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    config = json.loads(os.environ["FAULTS_CONFIG"])
    if lost := os.environ.get("FAULTS_FRAMES"):
        lose_frames(*json.loads(lost))
    async with AsyncCluster.connect(address, config=ClusterConfig(**config)) as cluster:
        client = Client(cluster, number, Log(log))
        tell(id=0, result="connected")
        async with asyncio.TaskGroup() as tasks:
            async for line in reader:
                tasks.create_task(carry_out(client, json.loads(line)))


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], int(sys.argv[2]), sys.argv[3]))
