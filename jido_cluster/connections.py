"""The connections of this process: made once for each cluster, shared, counted, closed at the end.

A ref that arrives in another process (a Ray task) finds its cluster here, or connects to it.
"""

import asyncio
import os
import threading
from typing import Any

from jido_cluster.agent import Agent, spec_of
from jido_cluster.cluster import AsyncCluster
from jido_cluster.config import ClusterConfig
from jido_cluster.connection import Connection, Target
from jido_cluster.errors import ConfigError, InvalidInputError, UsageError
from jido_cluster.exec.context import ClusterBinding
from jido_cluster.portal import Portal
from jido_cluster.refs import AgentRef, AsyncAgentRef
from jido_cluster.runrefs import AsyncRunRef, RunRef
from jido_cluster.sync_cluster import Cluster

LOCAL = "local"

_lock = threading.Lock()
_portal: Portal | None = None
_connections: dict[tuple[int, int, str, str], Connection] = {}


class Binding:
    """Gives handlers and actions their views of the cluster they run in."""

    def __init__(self, connection: Connection, loop: asyncio.AbstractEventLoop) -> None:
        self._connection = connection
        self._portal = Portal(loop)

    def async_view(self) -> AsyncCluster:
        """For code on the loop."""
        return AsyncCluster(self._connection)

    def sync_view(self) -> Cluster:
        """For code in a thread."""
        return Cluster(AsyncCluster(self._connection), self._portal)


def resolve_address(address: str | None) -> str:
    """Where to connect: the argument, `$JIDO_ADDRESS`, `$RAY_ADDRESS`, then "auto".

    Raises:
        InvalidInputError: It is a Ray Client address, or malformed.
    """
    chosen = address or os.environ.get("JIDO_ADDRESS") or os.environ.get("RAY_ADDRESS") or "auto"
    if chosen.startswith("ray://"):
        message = (
            f"address {chosen!r} is a Ray Client address: every call would take a detour through "
            "one proxy; run on a node of the cluster and use 'auto', or 'host:port' of its GCS"
        )
        raise InvalidInputError(message)
    if chosen not in (LOCAL, "auto") and not chosen.rpartition(":")[2].isdigit():
        message = f"address {chosen!r} is not 'host:port', 'auto' or 'local'"
        raise InvalidInputError(message)
    return chosen


async def connect(
    address: str | None, *, name: str, config: ClusterConfig | None, start: bool
) -> AsyncCluster:
    """The cluster of this process at an address; shared with earlier connections to it."""
    chosen = resolve_address(address)
    if chosen == LOCAL:
        from jido_cluster.testing import start_local

        return await start_local(1, config, None)
    key = (os.getpid(), id(asyncio.get_running_loop()), chosen, name)
    known = _connections.get(key)
    if known is not None and not known.is_closed:
        if config is not None:
            config.check_agrees(known.config.agreed())
        known.users += 1
        return AsyncCluster(known)
    try:
        from jido_cluster._ray.driver import connect_ray
    except ImportError as error:
        message = f"Ray is not usable in this environment: {error}; run 'pip install jido-cluster'"
        raise ConfigError(message) from error
    connection = await connect_ray(chosen, name=name, config=config, start=start)
    _connections[key] = connection
    return AsyncCluster(connection)


def connect_sync(
    address: str | None, *, name: str, config: ClusterConfig | None, start: bool
) -> Cluster:
    """As `connect`, on the portal thread of this process."""
    chosen = resolve_address(address)
    if chosen == LOCAL:
        from jido_cluster.testing import start_local_sync

        return start_local_sync(1, config, None)
    _join_ray(chosen)
    portal = shared_portal()
    inner = portal.call(connect(chosen, name=name, config=config, start=start))
    return Cluster(inner, portal)


def _join_ray(address: str) -> None:
    """Join on the caller's thread: on another one Ray complains about signal handlers."""
    try:
        from jido_cluster._ray.session import join
    except ImportError as error:
        message = f"Ray is not usable in this environment: {error}; run 'pip install jido-cluster'"
        raise ConfigError(message) from error
    join(address)


def shared_portal() -> Portal:
    """The portal that synchronous connections of this process share."""
    global _portal  # noqa: PLW0603 - one thread for the whole process is the point
    with _lock:
        if _portal is None:
            _portal = Portal.start()
        return _portal


async def release(connection: Connection, *, for_good: bool = False) -> None:
    """Give up one use of a connection; the last one closes it."""
    if connection.is_closed:
        return
    connection.users -= 1
    if connection.users > 0 and not for_good:
        return
    connection.is_closed = True
    for key, known in list(_connections.items()):
        if known is connection:
            del _connections[key]
    await connection.client.close()
    await connection.driver.disconnect()


def _forget_all() -> None:
    """In a forked child: the parent's loops and threads are not here."""
    global _portal  # noqa: PLW0603 - as above
    _portal = None
    _connections.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)


# -- refs that arrive pickled

_bindings: dict[str, ClusterBinding] = {}


def set_process_binding(name: str, binding: ClusterBinding) -> None:
    """Make refs of a cluster that arrive in this process use the runtime's own connection."""
    _bindings[name] = binding


def forget_process_binding(name: str) -> None:
    """The cluster is no more."""
    _bindings.pop(name, None)


def load_ref(
    is_sync: bool,
    address: str,
    name: str,
    agent_type: type[Agent] | None,
    agent_id: str,
    timeout: float | None,
    op_id: str | None,
) -> AsyncAgentRef[Any] | AgentRef[Any]:
    """The ref of a pickle, on this process's connection to the cluster."""
    spec = spec_of(agent_type) if agent_type is not None else None
    target = Target(agent_id, spec, timeout, op_id)
    if is_sync:
        connection, portal = _sync_parts(address, name)
        return AgentRef(AsyncAgentRef(connection, target), portal)
    return AsyncAgentRef(_async_cluster(address, name)._connection, target)


def load_run(is_sync: bool, address: str, name: str, run_id: str) -> AsyncRunRef[Any] | RunRef[Any]:
    """The run ref of a pickle, on this process's connection to the cluster."""
    if is_sync:
        connection, portal = _sync_parts(address, name)
        return RunRef(AsyncRunRef(connection, run_id), portal)
    return AsyncRunRef(_async_cluster(address, name)._connection, run_id)


class _Late:
    """The cluster of a ref that arrived where nobody is connected: found when it is first used.

    Not when the ref is unpickled: Ray unpickles the arguments of a task under a lock that other
    threads need in order to connect.
    """

    def __init__(self, address: str, name: str) -> None:
        self.address = address
        self.name = name
        self._lock = threading.Lock()
        self._cluster: Cluster | None = None

    def cluster(self) -> Cluster:
        """The cluster, connected."""
        with self._lock:
            if self._cluster is None:
                self._cluster = _sync_cluster(self.address, self.name)
            return self._cluster


class _LateConnection:
    """Stands for a connection; of itself it knows only which."""

    def __init__(self, late: _Late) -> None:
        self.address = late.address
        self.name = late.name
        self._late = late

    def __getattr__(self, name: str) -> Any:
        return getattr(self._late.cluster()._inner._connection, name)


class _LatePortal:
    """Stands for the portal of a connection."""

    def __init__(self, late: _Late) -> None:
        self._late = late

    def __getattr__(self, name: str) -> Any:
        return getattr(self._late.cluster()._portal, name)


def _sync_parts(address: str, name: str) -> tuple[Any, Any]:
    """A connection and its portal, or what stands for them until a ref is used."""
    cluster = _known_cluster(address, name)
    if cluster is None:
        late = _Late(address, name)
        return _LateConnection(late), _LatePortal(late)
    return cluster._inner._connection, cluster._portal


def _sync_cluster(address: str, name: str) -> Cluster:
    known = _known_cluster(address, name)
    return known or connect_sync(address, name=name, config=None, start=False)


def _known_cluster(address: str, name: str) -> Cluster | None:
    if name in _bindings:
        found: Cluster = _bindings[name].sync_view()
        return found
    for (pid, _, at, called), connection in _connections.items():
        is_this = pid == os.getpid() and (at, called) == (address, name)
        if is_this and _portal is not None and connection.client.loop is _portal.loop:
            return Cluster(AsyncCluster(connection), _portal)
    return None


def _async_cluster(address: str, name: str) -> AsyncCluster:
    if name in _bindings:
        found: AsyncCluster = _bindings[name].async_view()
        return found
    loop = asyncio.get_running_loop()
    known = _connections.get((os.getpid(), id(loop), address, name))
    if known is None:
        message = (
            "an AsyncAgentRef arrived in a process without a connection; await "
            f"AsyncCluster.connect({address!r}, name={name!r}) first, or send an AgentRef"
        )
        raise UsageError(message)
    return AsyncCluster(known)
