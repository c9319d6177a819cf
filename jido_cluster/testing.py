"""For tests of agents: a cluster in this process that can lose nodes, and single turns.

Levels, cheapest first: call a handler as a plain method; `AgentHarness` for whole turns;
`Cluster.local(nodes=3)` with `kill` for the runtime; a real Ray cluster for everything.
"""

import asyncio
import secrets
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeVar

from jido_cluster._local.clock import VirtualLoop
from jido_cluster._local.places import LocalTransport
from jido_cluster._local.runtime import LocalRuntime, check_local
from jido_cluster.agent import Agent, spec_of
from jido_cluster.cluster import AsyncCluster
from jido_cluster.config import ClusterConfig
from jido_cluster.connection import Connection
from jido_cluster.connections import Binding, forget_process_binding, set_process_binding
from jido_cluster.errors import InvalidInputError, InvalidOutputError, UsageError
from jido_cluster.exec.resource import Resource, override_all
from jido_cluster.harness import AgentHarness
from jido_cluster.ids import new_id
from jido_cluster.portal import Portal, new_loop
from jido_cluster.runtime.client import Client
from jido_cluster.runtime.seen import session_key
from jido_cluster.runtime.wire import encode_value
from jido_cluster.sync_cluster import Cluster

__all__ = ["AgentHarness", "AsyncLocalCluster", "LocalCluster", "check_state", "check_upgrade"]

A = TypeVar("A", bound=Agent)


class AsyncLocalCluster(AsyncCluster):
    """A cluster inside this process, for code on an event loop."""

    @property
    def _runtime(self) -> LocalRuntime:
        driver = self._connection.driver
        assert isinstance(driver, LocalDriver)
        return driver.runtime

    async def kill(self, node: str) -> None:
        """End a node at once, with everything in its memory, as a loss of power would.

        Raises:
            InvalidInputError: There is no such node.
            UsageError: It is down already.
        """
        await self._runtime.kill(node)

    async def restart(self, node: str) -> None:
        """Bring a killed node back, with what its disks hold; a drained one joins anew, empty.

        Raises:
            UsageError: It is up.
        """
        await self._runtime.restart(node)

    async def partition(self, *sides: Sequence[str]) -> None:
        """Cut the network between these groups of nodes; a cut that there is ends.

        Nodes that are not named are one more side. Who calls from outside an agent counts as on
        the first side. Nodes know at once whom they reach; leaders are given up after 2.5 s of
        silence, as on a real network.

        Args:
            *sides: Names or ids of nodes, each in one side at most.

        Raises:
            InvalidInputError: There is no such node, one is named twice, or a side has none.
        """
        self._runtime.splits.partition(sides)

    async def heal(self) -> None:
        """Join the network again; nothing happens if it is whole.

        Shards that were led on no side, or on several, have one leader again some seconds later,
        which merges what was done without a quorum.
        """
        self._runtime.splits.heal()

    async def settle(self) -> None:
        """Return when nothing is in flight: no call, turn, run or move."""
        await self._runtime.settle()

    async def advance(self, seconds: float) -> None:
        """Let virtual time pass; every timer on the way fires at its time.

        Raises:
            UsageError: The cluster was not started with `virtual_time=True`.
        """
        loop = self._connection.client.loop
        if not isinstance(loop, VirtualLoop):
            message = "advance() needs Cluster.local(virtual_time=True)"
            raise UsageError(message)
        await loop.advance(seconds)


class LocalCluster(Cluster):
    """A cluster inside this process, for synchronous code; it has a thread of its own."""

    _inner: AsyncLocalCluster

    def kill(self, node: str) -> None:
        """As `AsyncLocalCluster.kill`."""
        self._portal.call(self._inner.kill(node))

    def restart(self, node: str) -> None:
        """As `AsyncLocalCluster.restart`."""
        self._portal.call(self._inner.restart(node))

    def partition(self, *sides: Sequence[str]) -> None:
        """As `AsyncLocalCluster.partition`."""
        self._portal.call(self._inner.partition(*sides))

    def heal(self) -> None:
        """As `AsyncLocalCluster.heal`."""
        self._portal.call(self._inner.heal())

    def settle(self) -> None:
        """As `AsyncLocalCluster.settle`."""
        self._portal.call(self._inner.settle())

    def advance(self, seconds: float) -> None:
        """As `AsyncLocalCluster.advance`."""
        self._portal.call(self._inner.advance(seconds))

    def close(self) -> None:
        """End the cluster and its thread."""
        super().close()
        if self._inner._connection.is_closed:
            self._portal.stop()

    def shutdown(self) -> None:
        """As `close`: a local cluster belongs to this process alone."""
        self.close()


class LocalDriver:
    """The driver of a local cluster: the connection owns the cluster."""

    def __init__(self, runtime: LocalRuntime, name: str, fakes: ExitStack) -> None:
        self.runtime = runtime
        self._name = name
        self._fakes = fakes

    async def ship(self, definition: type) -> None:
        """Nothing to do: every node is this process."""

    async def disconnect(self) -> None:
        """End the cluster."""
        forget_process_binding(self._name)
        await self.shutdown()

    async def shutdown(self) -> None:
        """End the cluster."""
        try:
            await self.runtime.stop()
        finally:
            self._fakes.close()


async def start_local(
    nodes: int,
    config: ClusterConfig | None,
    data_dir: Path | str | None,
    resources: Mapping[Resource[Any], Any] | None = None,
    *,
    virtual_time: bool = False,
) -> AsyncLocalCluster:
    """A new local cluster on the running loop.

    Raises:
        UsageError: Virtual time is wanted on a loop with real time.
    """
    loop = asyncio.get_running_loop()
    if virtual_time and not isinstance(loop, VirtualLoop):
        message = (
            "virtual time needs a loop of its own: use Cluster.local(virtual_time=True), or run "
            "this on jido_cluster._local.clock.VirtualLoop"
        )
        raise UsageError(message)
    settings = check_local(config)
    if data_dir is not None:
        settings = settings.model_copy(update={"data_dir": Path(data_dir)})
    # Of its own, so that a pickled ref finds this one among several of the process.
    name = new_id("local-")
    driver: LocalDriver

    key = session_key(secrets.token_hex(16))

    def bind(client: Client) -> Binding:
        client.session_key = key
        return Binding(Connection(name, client, settings, driver, "local"), loop)

    runtime = LocalRuntime(nodes, settings, bind)
    fakes = override_all(resources)
    driver = LocalDriver(runtime, name, fakes)
    try:
        await runtime.start()
    except BaseException:
        fakes.close()
        raise
    client = Client(LocalTransport(runtime), runtime.view)
    await client.start()
    client.session_key = key
    connection = Connection(name, client, settings, driver, "local")
    set_process_binding(name, Binding(connection, loop))
    return AsyncLocalCluster(connection)


def start_local_sync(
    nodes: int,
    config: ClusterConfig | None,
    data_dir: Path | str | None,
    resources: Mapping[Resource[Any], Any] | None = None,
    *,
    virtual_time: bool = False,
) -> LocalCluster:
    """A new local cluster on a thread of its own."""
    portal = Portal.start(VirtualLoop if virtual_time else new_loop, name="jido-local")
    try:
        starting = start_local(nodes, config, data_dir, resources, virtual_time=virtual_time)
        inner = portal.call(starting)
    except BaseException:
        portal.stop()
        raise
    return LocalCluster(inner, portal)


def check_upgrade(agent_type: type[A], data: dict[str, Any], version: int) -> A:
    """The agent that an old record becomes today.

    Args:
        agent_type: The class as it is now.
        data: The fields as the older class stored them, of JSON's shape.
        version: Of the older class.

    Raises:
        InvalidInputError: `version` is not an earlier one of the class.
        InvalidOutputError: `on_upgrade` failed, or what it made does not validate.
    """
    spec = spec_of(agent_type)
    if not 1 <= version < spec.version:
        message = f"version is {version!r}; use one below {spec.version}, that of {spec.name!r}"
        raise InvalidInputError(message)
    return spec.load(spec.current_state(encode_value(data), version))  # type: ignore[return-value]


def check_state(agent: Agent) -> None:
    """Do nothing if the agent's state survives being stored.

    Raises:
        InvalidOutputError: It does not encode, does not load, or comes back different: a field
            declared as a base type that holds a subclass, for instance, is cut to the base.
    """
    spec = spec_of(type(agent))
    back = spec.load(spec.dump(agent))
    for name in type(agent).model_fields:
        before, after = getattr(agent, name), getattr(back, name)
        if before != after or type(before) is not type(after):
            message = (
                f"field {name!r} of {spec.name!r} does not survive storing: {before!r} comes back "
                f"as {after!r}"
            )
            raise InvalidOutputError(message, field=name)
