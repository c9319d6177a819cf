"""The in-process cluster on simulated time, over a network that misbehaves as told."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from jido_cluster import AsyncCluster, ClusterConfig
from jido_cluster._local.runtime import LocalRuntime, LocalTransport
from jido_cluster.connection import Connection
from jido_cluster.ports import PeerGoneError, PeerTroubleError
from jido_cluster.runtime.client import Client
from jido_cluster.runtime.host import ShardHost
from jido_cluster.runtime.view import Member, View
from jido_cluster.testing import AsyncLocalCluster
from tests.exec.loops import VirtualLoop

T = TypeVar("T")


def run(main: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """The result of `main()` on simulated time; fails on errors that nobody has looked at."""
    unseen: list[dict[str, Any]] = []
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.get_loop().set_exception_handler(lambda _, context: unseen.append(context))
        result = runner.run(main())
    if unseen:
        shown = "; ".join(f"{one['message']}: {one.get('exception')!r}" for one in unseen)
        raise AssertionError(f"errors that nobody has looked at: {shown}")
    return result


@asynccontextmanager
async def local(nodes: int = 1, **config: Any) -> AsyncIterator[AsyncLocalCluster]:
    """A cluster of this loop."""
    async with AsyncLocalCluster.local(nodes, config=ClusterConfig(**config)) as cluster:
        yield cluster


def runtime_of(cluster: AsyncLocalCluster) -> LocalRuntime:
    return cluster._runtime


def hosts_of(cluster: AsyncLocalCluster) -> list[ShardHost]:
    """The living hosts."""
    nodes = runtime_of(cluster).nodes.values()
    return [host for node in nodes if node.is_up for host in node.hosts.values()]


class Network:
    """A transport that treats frames as a script says, then well.

    What a frame can meet: "ok"; "lost" (it never arrives); "deaf" (its answer does not); "late" (it
    arrives after the next one); "gone" (its host is declared dead, and never gets it).
    """

    def __init__(self, inner: LocalTransport, script: Iterable[str] = ()) -> None:
        self.script = list(script)
        self.frames: list[bytes] = []
        self._inner = inner
        self._loop = asyncio.get_running_loop()

    def send(self, host: str, frame: bytes) -> "asyncio.Future[bytes]":
        self.frames.append(frame)
        fate = self.script.pop(0) if self.script else "ok"
        return self._loop.create_task(self._send(fate, host, frame))

    async def _send(self, fate: str, host: str, frame: bytes) -> bytes:
        if fate == "gone":
            raise PeerGoneError("declared dead")
        if fate == "lost":
            raise PeerTroubleError("lost on the way")
        if fate == "late":
            await asyncio.sleep(0.01)
        answer = await self._inner.send(host, frame)
        if fate == "deaf":
            raise PeerTroubleError("lost on the way back")
        return answer

    async def ask(self, supervisor: str, operation: str, data: bytes) -> bytes:
        return await self._inner.ask(supervisor, operation, data)

    async def newer_view(self, epoch: int) -> View:
        return await self._inner.newer_view(epoch)


@asynccontextmanager
async def over(
    cluster: AsyncLocalCluster, script: Iterable[str]
) -> AsyncIterator[tuple[AsyncCluster, Network]]:
    """Another connection to the cluster, over a network with this script."""
    runtime = runtime_of(cluster)
    network = Network(LocalTransport(runtime), script)
    client = Client(network, runtime.view)
    await client.start()
    known = cluster._connection
    yield AsyncCluster(Connection("other", client, known.config, known.driver, "local")), network
    await client.close()


def member(name: str, hosts: int = 1, life: int = 0, **fields: Any) -> Member:
    """A node that is up, with so many hosts."""
    addresses = tuple(f"host/{name}.{life}/{index}" for index in range(hosts))
    known = {"labels": {}, "resources": {"CPU": 2.0}, **fields}
    return Member(f"{name}.{life}", name, "up", f"supervisor/{name}.{life}", addresses, **known)
