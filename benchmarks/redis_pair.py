"""A Redis primary with one replica on this machine, and connections to it.

Nothing is persisted: a write counts when it is in the memory of both, which `WAIT 1` says. There
are two kinds of clients. `Connection` speaks the little of RESP that is needed and nothing else:
the least that a client can take of this machine. redis-py, with hiredis if it is there, is what a
program would use: it does for its caller about what our client does.
"""

import asyncio
import importlib
import importlib.util
import shutil
import socket
import subprocess
import tempfile
import time
from types import TracebackType
from typing import Any, Final, Self

import psutil

SERVER: Final = "redis-server"
START_SECONDS: Final = 20.0  # until the replica follows
_LINE: Final = b"\r\n"
_TO_NOBODY: Final = b":0\r\n"  # so many replicas have it


def is_installed() -> bool:
    """Whether there is a Redis server on this machine."""
    return shutil.which(SERVER) is not None


def has_library() -> bool:
    """Whether redis-py can be imported."""
    return importlib.util.find_spec("redis") is not None


def command(*words: bytes) -> bytes:
    """The bytes of a command."""
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(w), w) for w in words)


WAIT: Final = command(b"WAIT", b"1", b"1000")


class Connection(asyncio.Protocol):
    """One client's connection; one question at a time."""

    def __init__(self) -> None:
        self._transport: asyncio.WriteTransport | None = None
        self._received = b""
        self._lines = 0
        self._waiter: asyncio.Future[bytes] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """As asyncio says."""
        assert isinstance(transport, asyncio.WriteTransport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """As asyncio says. Each answer to what is asked here is one line."""
        self._received += data
        waiter = self._waiter
        if waiter is not None and self._received.count(_LINE) >= self._lines:
            received, self._received, self._waiter = self._received, b"", None
            if not waiter.done():
                waiter.set_result(received)

    def connection_lost(self, exc: Exception | None) -> None:
        """As asyncio says."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(exc or ConnectionResetError("Redis closed the connection"))

    async def ask(self, data: bytes, lines: int = 1) -> bytes:
        """The answers to commands, so many lines.

        Raises:
            RuntimeError: The first is an error.
            OSError: The connection ended.
        """
        assert self._transport is not None
        self._lines = lines
        self._waiter = asyncio.get_running_loop().create_future()
        self._transport.write(data)
        answer = await self._waiter
        if answer.startswith(b"-"):
            raise RuntimeError(f"Redis refuses: {answer.decode().strip()}")
        return answer

    async def write(self, key: bytes, value: bytes) -> bool:
        """SET, then WAIT 1: whether the replica has it."""
        await self.ask(command(b"SET", key, value))
        return await self.ask(WAIT) != _TO_NOBODY

    async def write_at_once(self, key: bytes, value: bytes) -> bool:
        """The same with both commands in one message."""
        answers = await self.ask(command(b"SET", key, value) + WAIT, 2)
        return not answers.endswith(_TO_NOBODY)

    def close(self) -> None:
        """End the connection."""
        if self._transport is not None:
            self._transport.close()


class RedisPair:
    """Primary and replica, for as long as the context lasts."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="jido-bench-redis-")
        self._processes: list[subprocess.Popen[bytes]] = []
        self._connections: list[Connection] = []
        self._clients: list[Any] = []
        self._loop: asyncio.AbstractEventLoop | None = None  # of those
        self._port = _free_port()

    def __enter__(self) -> Self:
        """Start both processes."""
        self._start(self._port)
        self._start(_free_port(), "--replicaof", "127.0.0.1", str(self._port))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End connections and processes; the loop of `connect_library` stands still by now."""
        if self._loop is not None:
            for client in self._clients:
                self._loop.run_until_complete(client.aclose())
        for connection in self._connections:
            connection.close()
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            process.wait()
        self._folder.cleanup()

    def _start(self, port: int, *options: str) -> None:
        arguments = [SERVER, "--port", str(port), "--bind", "127.0.0.1", "--dir", self._folder.name]
        # Without the usual pause of 5 s before a replica gets its first copy.
        arguments += ["--save", "", "--appendonly", "no", "--repl-diskless-sync-delay", "0"]
        process = subprocess.Popen([*arguments, *options], stdout=subprocess.DEVNULL)
        self._processes.append(process)

    async def connect(self, count: int) -> list[Connection]:
        """So many connections, once the replica follows.

        Raises:
            OSError: Redis does not start, or nobody follows it (`TimeoutError`).
        """
        end = time.monotonic() + START_SECONDS
        while not self._connections:
            try:
                await self._dial()
            except ConnectionRefusedError:
                if time.monotonic() > end:
                    raise
                await asyncio.sleep(0.05)
        while not await self._connections[0].write(b"ready", b"1"):
            if time.monotonic() > end:
                raise TimeoutError(f"no replica follows Redis after {START_SECONDS:.0f} s")
        while len(self._connections) < count:
            await self._dial()
        return self._connections

    async def connect_library(self, count: int) -> list[Any]:
        """So many clients of redis-py with a connection each, once `connect` has returned."""
        self._loop = asyncio.get_running_loop()
        library: Any = importlib.import_module("redis.asyncio")
        for _ in range(count):
            client = library.Redis(host="127.0.0.1", port=self._port, single_connection_client=True)
            self._clients.append(await client.initialize())
        return self._clients

    def processes(self) -> list[psutil.Process]:
        """Primary and replica."""
        return [psutil.Process(each.pid) for each in self._processes]

    async def _dial(self) -> None:
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(Connection, "127.0.0.1", self._port)
        self._connections.append(connection)


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])
