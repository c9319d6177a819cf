"""A cluster in one process: nodes, their hosts, and the coordinator, all on one loop.

The code between the ports is the one that runs on Ray. What is different: frames are handed over
instead of sent, a dedicated agent's worker is an object instead of a process, an action runs as a
task instead of on another machine, and `kill` is known to everybody at once.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from jido_cluster._local.clock import VirtualLoop
from jido_cluster.config import ClusterConfig
from jido_cluster.errors import InvalidInputError, UsageError
from jido_cluster.exec.context import ClusterBinding
from jido_cluster.exec.stream import Put
from jido_cluster.ports import PeerGoneError, PeerTroubleError
from jido_cluster.runtime.actions import import_modules, run_request
from jido_cluster.runtime.coordinator import Coordinator
from jido_cluster.runtime.host import ShardHost
from jido_cluster.runtime.roster import RosterKeeper
from jido_cluster.runtime.view import Member, View
from jido_cluster.runtime.wire import unpack
from jido_cluster.runtime.worker import Worker

MAX_NODES: Final = 64
CORES: Final = 4.0  # what a node claims to have; runs are tasks of one loop, so it limits nothing


class LocalNode:
    """One node: a roster keeper and its hosts."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.generation = 0
        self.keeper = RosterKeeper()
        self.hosts: dict[str, ShardHost] = {}
        self.transports: list[LocalTransport] = []  # of its hosts
        self.runs: set[asyncio.Task[Any]] = set()
        self.is_up = False

    @property
    def id(self) -> str:
        """Changes when the node is restarted: it comes back empty."""
        return f"{self.name}.{self.generation}"

    @property
    def supervisor(self) -> str:
        """Address of its roster keeper."""
        return f"supervisor/{self.id}"

    def addresses(self, count: int) -> tuple[str, ...]:
        """Addresses of its hosts."""
        return tuple(f"host/{self.id}/{index}" for index in range(count))


class LocalRuntime:
    """Everything of one local cluster; bound to the loop that made it."""

    def __init__(self, count: int, config: ClusterConfig, make_binding: "MakeBinding") -> None:
        if not 1 <= count <= MAX_NODES:
            message = f"nodes is {count!r}; use 1 to {MAX_NODES}"
            raise InvalidInputError(message)
        self.config = config
        self.loop = asyncio.get_running_loop()
        self.nodes = {f"node-{n}": LocalNode(f"node-{n}") for n in range(1, count + 1)}
        self.coordinator = Coordinator(config.shards, config.replicas)
        self.started = time.time() - self.loop.time()
        self._make_binding = make_binding
        self._changed = asyncio.Event()

    @property
    def view(self) -> View:
        """The newest view."""
        return self.coordinator.view

    async def start(self) -> None:
        """Bring all nodes up."""
        for node in self.nodes.values():
            node.is_up = True
        await self._join(list(self.nodes.values()))

    async def _join(self, nodes: list[LocalNode]) -> None:
        count = self.config.hosts_per_node or 1
        view = self.coordinator.join([self._member(node, count) for node in nodes])
        for node in nodes:
            for address in node.addresses(count):
                transport = LocalTransport(self)
                node.transports.append(transport)
                host = ShardHost(
                    address,
                    node.id,
                    view,
                    config=self.config,
                    transport=transport,
                    scheduler=LocalScheduler(self),
                    workers=LocalWorkers(self, node),
                    wall=self.wall,
                )
                host.binding = self._make_binding(host.client)
                node.hosts[address] = host
        for node in nodes:
            for host in node.hosts.values():
                await host.start()
        self._announce()

    def _member(self, node: LocalNode, count: int) -> Member:
        return Member(
            id=node.id,
            name=node.name,
            status="up",
            supervisor=node.supervisor,
            hosts=node.addresses(count),
            weight=1.0,
            zone=None,
            labels={},
            resources={"CPU": CORES},
        )

    def _announce(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def wait_change(self) -> None:
        """Return when there is another view."""
        await self._changed.wait()

    def wall(self) -> float:
        """Time for people: that of the loop, on a calendar."""
        return self.started + self.loop.time()

    def host(self, address: str) -> ShardHost | None:
        """The living host at an address."""
        for node in self.nodes.values():
            if node.is_up and address in node.hosts:
                return node.hosts[address]
        return None

    def keeper(self, supervisor: str) -> RosterKeeper | None:
        """The roster keeper at an address, if its node is up."""
        for node in self.nodes.values():
            if node.is_up and node.supervisor == supervisor:
                return node.keeper
        return None

    def node_by_id(self, id_: str) -> LocalNode | None:
        """The node, if it is up in the life that has this id."""
        return next((n for n in self.nodes.values() if n.id == id_ and n.is_up), None)

    def named(self, name: str) -> LocalNode:
        """The node with this name or id.

        Raises:
            InvalidInputError: There is none.
        """
        for node in self.nodes.values():
            if name in (node.name, node.id):
                return node
        message = f"there is no node {name!r}; there are {', '.join(self.nodes)}"
        raise InvalidInputError(message)

    async def kill(self, name: str) -> None:
        """End a node at once, as if its machine had lost power."""
        node = self.named(name)
        if not node.is_up:
            message = f"node {name!r} is down already"
            raise UsageError(message)
        node.is_up = False
        hosts, node.hosts = list(node.hosts.values()), {}
        for run in list(node.runs):
            run.cancel()
        for host in hosts:
            await host.close()
        self._disconnect(node)
        self.coordinator.leave(node.id)
        self._announce()

    def _disconnect(self, node: LocalNode) -> None:
        """What the kernel tells the others when the connections of a dead node close."""
        transports, node.transports = node.transports, []
        for other in self.nodes.values():
            for host in other.hosts.values():
                for transport in transports:
                    host.disconnected(transport)

    async def restart(self, name: str) -> None:
        """Bring a killed node back, empty."""
        node = self.named(name)
        if node.is_up:
            message = f"node {name!r} is up; kill it first"
            raise UsageError(message)
        node.generation += 1
        node.keeper = RosterKeeper()
        node.is_up = True
        await self._join([node])

    async def settle(self) -> None:
        """Return when nothing is in flight: no call, no turn, no run, no move."""
        quiet = 0
        while quiet < 3:
            # A short real pause, not only a pass of the loop: sync handlers run in threads.
            await asyncio.sleep(0 if self._is_virtual() else 0.001)
            quiet = 0 if self._is_busy() else quiet + 1

    def _is_virtual(self) -> bool:
        return isinstance(self.loop, VirtualLoop)

    def _is_busy(self) -> bool:
        hosts = [h for n in self.nodes.values() if n.is_up for h in n.hosts.values()]
        return any(h.is_working() for h in hosts)

    async def stop(self) -> None:
        """End all nodes."""
        for node in self.nodes.values():
            if node.is_up:
                node.is_up = False
                for run in list(node.runs):
                    run.cancel()
                for host in node.hosts.values():
                    await host.close()
        self._announce()


MakeBinding = Callable[[Any], ClusterBinding]


class LocalTransport:
    """Hands frames over on the loop; both sides still pack and unpack them."""

    def __init__(self, runtime: LocalRuntime) -> None:
        self._runtime = runtime

    def send(self, host: str, frame: bytes) -> "asyncio.Future[bytes]":
        """As the port says."""
        return self._runtime.loop.create_task(self._send(host, frame))

    async def _send(self, address: str, frame: bytes) -> bytes:
        host = self._runtime.host(address)
        if host is None:
            message = f"host {address} is down"
            raise PeerGoneError(message)
        answer = await host.frame(frame, self)
        if host.is_closed:
            message = f"host {address} went down before it could answer"
            raise PeerGoneError(message)
        return answer

    async def ask(self, supervisor: str, operation: str, data: bytes) -> bytes:
        """As the port says."""
        keeper = self._runtime.keeper(supervisor)
        await asyncio.sleep(0)
        if keeper is None:
            message = f"{supervisor} is down"
            raise PeerTroubleError(message)
        return keeper.answer(operation, data)

    async def newer_view(self, epoch: int) -> View:
        """As the port says."""
        while self._runtime.view.epoch <= epoch:
            await self._runtime.wait_change()
        return self._runtime.view


class LocalScheduler:
    """Runs actions as tasks that die with their node."""

    def __init__(self, runtime: LocalRuntime) -> None:
        self._runtime = runtime

    async def run(
        self, node: Member, request: bytes, resources: Mapping[str, float], run_id: str
    ) -> bytes:
        """As the port says."""
        place = self._runtime.node_by_id(node.id)
        if place is None:
            message = f"node {node.name} is down"
            raise PeerTroubleError(message)
        host = next(iter(place.hosts.values()))
        task = self._runtime.loop.create_task(run_request(request, node.name, host.binding))
        place.runs.add(task)
        try:
            return await task
        except asyncio.CancelledError:
            if place.is_up or self._runtime.node_by_id(node.id) is place:
                raise
            message = f"node {node.name} went down under the run"
            raise PeerTroubleError(message) from None
        finally:
            task.cancel()
            place.runs.discard(task)


class LocalWorkers:
    """Gives out workers that are objects of this process."""

    def __init__(self, runtime: LocalRuntime, node: LocalNode) -> None:
        self._runtime = runtime
        self._node = node

    async def acquire(
        self, options: Mapping[str, Any] | None, needs: list[Any] | None
    ) -> "LocalWorker":
        """As the port says; options of Ray actors mean nothing here."""
        host = next(iter(self._node.hosts.values()))
        return LocalWorker(Worker(host.binding))


class LocalWorker:
    """A worker in this process."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self.is_closed = False

    async def turn(self, request: bytes, timeout: float | None) -> bytes:
        """As the port says."""
        self._check()
        return await self._worker.turn(unpack(request))

    async def stream(self, request: bytes, timeout: float | None, put: Put) -> bytes:
        """As the port says."""
        self._check()
        return await self._worker.turn(unpack(request), put)

    def close(self) -> None:
        """As the port says."""
        self.is_closed = True

    def _check(self) -> None:
        if self.is_closed:
            message = "the worker was closed"
            raise PeerGoneError(message)


def check_local(config: ClusterConfig | None) -> ClusterConfig:
    """The configuration of a local cluster; its modules are imported here.

    Raises:
        ConfigError: A module cannot be imported.
    """
    config = config or ClusterConfig()
    import_modules(config.modules)
    return config
