"""The in-process cluster on simulated time, over a network that misbehaves as told."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

from jido_cluster import AsyncCluster, ClusterConfig
from jido_cluster._local.places import LocalTransport
from jido_cluster._local.runtime import LocalRuntime
from jido_cluster.connection import Connection
from jido_cluster.ports import PeerGoneError, PeerTroubleError
from jido_cluster.runtime.client import Client
from jido_cluster.runtime.host import ShardHost
from jido_cluster.runtime.view import View
from jido_cluster.testing import AsyncLocalCluster
from tests.runtime.fakes import member, run

__all__ = ["Network", "hosts_of", "local", "member", "over", "run", "runtime_of"]


@asynccontextmanager
async def local(nodes: int = 1, **config: Any) -> AsyncIterator[AsyncLocalCluster]:
    """A cluster of this loop, of few shards: what each costs would only make tests slow."""
    config = {"shards": 32, **config}
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

    async def newer_view(self, source: str) -> View:
        return await self._inner.newer_view(source)


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
