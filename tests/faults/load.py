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
from tests.faults.agents import Register

TRY_SECONDS: Final = 5.0  # for one attempt; an attempt to a silent node takes all of it
PATIENCE: Final = 15.0  # for an operation with all its attempts
PAUSE: Final = 0.2  # between attempts
COUNTER: Final = "count-"  # agents whose ids begin so are only added to and read
MIX: Final = {"read": 50, "write": 20, "cas": 15, "add": 15}

Send = Callable[[], Awaitable[Any]]


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


class Client:
    """Does operations on registers, one after another for each of its sessions."""

    def __init__(self, cluster: AsyncCluster, number: int, log: Log) -> None:
        self._cluster = cluster
        self._number = number
        self._log = log
        self._random = random.Random(number)
        self._sessions = itertools.count(number * 10_000)
        self._values = itertools.count(number * 1_000_000_000)  # no two writes are alike

    async def nodes(self) -> list[Any]:
        """Name, status and number of shards led of each member."""
        return [[one.name, one.status, one.shards_led] for one in await self._cluster.nodes()]

    async def homes(self, keys: Sequence[str]) -> dict[str, str]:
        """The node that each of these agents lives on, where it can be said."""

        async def home(key: str) -> tuple[str, str]:
            try:
                info = await self._cluster.options(timeout=TRY_SECONDS).ref(key).info()
            except JidoError:
                return key, ""
            return key, info.node

        found = await asyncio.gather(*map(home, keys))
        return {key: node for key, node in found if node}

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
        end = time.monotonic() + seconds
        period = sessions / rate
        await asyncio.gather(
            *(self._session(keys, end, period, i * period / sessions) for i in range(sessions))
        )

    async def _session(self, keys: Sequence[str], end: float, period: float, offset: float) -> None:
        session, seen = next(self._sessions), dict[str, int]()
        due = time.monotonic() + offset
        while due < end:
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

    async def _operate(self, session: int, key: str, op: str, arg: Any) -> Any:
        ref = self._cluster.options(timeout=TRY_SECONDS, op_id=new_id("op-")).ref(Register, key)
        requests: dict[str, Send] = {
            "read": lambda: ref.request(Register.read),
            "write": lambda: ref.request(Register.write, arg),
            "cas": lambda: ref.request(Register.cas, *arg),
            "add": lambda: ref.request(Register.add, arg),
        }
        return await self._attempt(self._log.call(session, key, op, arg), op, requests[op])

    async def _spawn(self, session: int, key: str) -> None:
        cluster = self._cluster.options(timeout=TRY_SECONDS, op_id=new_id("op-"))

        async def send() -> str:
            try:
                await cluster.spawn(Register, key)
            except AgentExistsError:
                return "exists"
            return "ok"

        await self._attempt(self._log.call(session, key, "spawn", 0), "spawn", send)

    async def _attempt(self, number: int, op: str, send: Send) -> Any:
        """Send it, again with the same operation id while it is not known whether it ran."""
        end = time.monotonic() + PATIENCE
        unknown = ""  # the kind of error of the first attempt that may have run
        while True:
            try:
                answer = await send()
            except (AgentLostError, AgentNotFoundError):
                # The state is gone, which is an answer, and one that the checker does not forgive.
                return self._answered(number, None if op == "read" else "absent")
            except (RejectedError, ExecutionError) as error:
                # This attempt changed nothing; an earlier one may have, or may still.
                problem: JidoError = error
                if not unknown and not error.retryable:
                    return self._log.write(n=number, refused=error.kind)
            except JidoError as error:
                problem, unknown = error, unknown or error.kind
            else:
                return self._answered(number, answer)
            if time.monotonic() + PAUSE > end:
                last = {"unknown": unknown} if unknown else {"refused": problem.kind}
                return self._log.write(n=number, **last)
            await asyncio.sleep(PAUSE)

    def _answered(self, number: int, answer: Any) -> Any:
        now = time.monotonic_ns()
        if not isinstance(answer, Reply):
            self._log.write(n=number, ret=answer, return_ns=now)
            return answer
        fence = answer.fence
        version = [fence.config_no, fence.round, int(fence.node or "0", 16), fence.seq]
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
    async with AsyncCluster.connect(address, config=ClusterConfig(**config)) as cluster:
        client = Client(cluster, number, Log(log))
        tell(id=0, result="connected")
        async with asyncio.TaskGroup() as tasks:
            async for line in reader:
                tasks.create_task(carry_out(client, json.loads(line)))


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], int(sys.argv[2]), sys.argv[3]))
