"""The cluster supervisor: a node supervisor on every living Ray node, and the next view.

One per runtime, on no data path. Ray restarts it when its process dies; it then continues from the
newest view that any node has.

Evidence that a node is gone: its supervisor's connection closed and the machine refuses both that
port and the raylet's; or Ray's GCS says so. A supervisor that died alone (the raylet still listens)
is restarted by Ray and registers again.
"""

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, Final

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from jido_cluster._ray import streams
from jido_cluster._ray.names import SUPERVISOR, actor_options, node_actor
from jido_cluster._ray.node import make_node_supervisor
from jido_cluster._ray.process import Settings
from jido_cluster._ray.transport import RayTransport, call, is_not_installed, translate
from jido_cluster.errors import ConfigError, JidoError
from jido_cluster.ports import PeerTroubleError
from jido_cluster.runtime.coordinator import Coordinator
from jido_cluster.runtime.roster import unpack_large
from jido_cluster.runtime.view import Member, View
from jido_cluster.runtime.wire import pack

logger = logging.getLogger(__name__)

WATCH_SECONDS: Final = 0.5  # between looks at Ray's list of nodes
START_SECONDS: Final = 90.0
VIEW_WAIT: Final = 20.0
ZONE_LABELS: Final = ("jido.zone", "ray.io/availability-zone")


@dataclass(frozen=True)
class RayNode:
    """A living Ray node."""

    id: str
    name: str
    ip: str
    port: int
    labels: dict[str, str]
    resources: dict[str, float]


class ClusterSupervisorActor:
    """The Ray actor that makes the views of one runtime."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._has_started = False

    async def running(self) -> Settings:
        """The settings in force: those of whoever made this actor."""
        await self._ready()
        return self._settings

    async def _ready(self) -> None:
        """Begin to supervise, on the first call after a start or restart."""
        if not self._has_started:
            self._has_started = True
            self._begin()
        await asyncio.shield(self._recovered)

    def _begin(self) -> None:
        settings = self._settings
        self._transport = RayTransport(settings.namespace)
        self._coordinator = Coordinator(settings.config.shards, settings.config.replicas)
        self._changed = asyncio.Event()
        self._nodes: dict[str, RayNode] = {}
        self._starting: dict[str, asyncio.Task[None]] = {}
        self._watched: dict[str, asyncio.Task[None]] = {}
        self._problems: dict[str, str] = {}
        self._code: tuple[int, list[bytes]] = (0, [])
        self._definitions: dict[str, bytes] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._recovered = asyncio.get_running_loop().create_task(self._recover())
        self._spawn(self._watch_nodes())

    # -- recovery

    async def _recover(self) -> None:
        """Continue from the newest view of any node of an earlier life."""
        names = await asyncio.to_thread(ray.util.list_named_actors, all_namespaces=True)
        for entry in names:
            if entry["namespace"] != self._settings.namespace:
                continue
            if not entry["name"].startswith("node-"):
                continue
            try:
                handle = await self._transport.handle(entry["name"])
                data = await call(handle.latest_view.remote(), 5.0)
                code = await call(handle.code.remote(), 5.0)
            except (PeerTroubleError, JidoError):
                continue
            if data:
                view = View.from_data(unpack_large(data))
                if view.shards == self._settings.config.shards:
                    self._coordinator.adopt(view)
            if code[0] > self._code[0]:
                self._code = (code[0], list(code[1]))
        self._announce()

    # -- nodes

    async def _watch_nodes(self) -> None:
        await self._recovered
        while True:
            try:
                alive = await asyncio.to_thread(_living_nodes)
            except Exception:  # the GCS is restarting; what runs goes on without it
                logger.warning("Ray's list of nodes is out of reach", exc_info=True)
            else:
                self._nodes = {node.id: node for node in alive}
                self._compare()
            await asyncio.sleep(WATCH_SECONDS)

    def _compare(self) -> None:
        """Start what is missing on living nodes; let go of nodes that Ray has lost."""
        members = {member.id: member for member in self._coordinator.view.members}
        for node_id in members.keys() - self._nodes.keys():
            self._gone(node_id, "the GCS says that it is dead")
        for node in self._nodes.values():
            if node.id not in members and node.id not in self._starting:
                self._starting[node.id] = self._spawn(self._start_node(node))

    async def _start_node(self, node: RayNode) -> None:
        try:
            handle = await asyncio.to_thread(make_node_supervisor, self._settings, node.id)
            await call(handle.start.remote(), START_SECONDS)
        except (RayError, PeerTroubleError, JidoError) as error:
            self._problems[node.name] = _explain(error)
            logger.warning("node %s could not be started: %s", node.name, error)
            await asyncio.sleep(1.0)
        finally:
            self._starting.pop(node.id, None)

    async def register(self, data: bytes) -> bytes:
        """A node is up: make it a member; the view it is in."""
        await self._ready()
        node_id, address, hosts, ip, port = unpack_large(data)
        node = self._nodes.get(node_id)
        if node is None:
            found = await asyncio.to_thread(_living_nodes)
            self._nodes = {one.id: one for one in found}
            node = self._nodes.get(node_id)
        if node is None:
            message = f"node {node_id} is not on Ray's list of living nodes"
            raise PeerTroubleError(message)
        self._problems.pop(node.name, None)
        self._coordinator.join([self._member(node, address, tuple(hosts))])
        self._announce()
        watched = self._watched.pop(node_id, None)
        if watched is not None:
            watched.cancel()
        self._watched[node_id] = self._spawn(self._watch_node(node_id, ip, port))
        return pack(self._coordinator.view.to_data())

    def _member(self, node: RayNode, supervisor: str, hosts: tuple[str, ...]) -> Member:
        names = Counter(other.name for other in self._nodes.values())
        name = node.name if names[node.name] == 1 else f"{node.name}-{node.id[:6]}"
        cpus = node.resources.get("CPU", 0.0)
        return Member(
            id=node.id,
            name=name,
            status="up",
            supervisor=supervisor,
            hosts=hosts,
            weight=cpus,
            zone=next((node.labels[k] for k in ZONE_LABELS if k in node.labels), None),
            labels=node.labels,
            resources=node.resources,
        )

    async def _watch_node(self, node_id: str, ip: str, port: int) -> None:
        """Hold a connection to the node's supervisor; when it closes, find out what died."""
        node = self._nodes[node_id]
        while True:
            try:
                reader, writer = await streams.dial(ip, port, self._settings.token)
            except (OSError, TimeoutError):
                pass
            else:
                with contextlib.suppress(OSError):
                    await reader.read()  # ends only with the connection
                writer.close()
            if await streams.is_refused(ip, port):
                if await streams.is_refused(node.ip, node.port):
                    self._gone(node_id, "its supervisor and its raylet refuse connections")
                    return
                # It died alone: Ray restarts it, and it has to be told to begin.
                if node_id not in self._starting:
                    self._starting[node_id] = self._spawn(self._start_node(node))
            await asyncio.sleep(0.1)

    def _gone(self, node_id: str, why: str) -> None:
        member = self._coordinator.view.member(node_id)
        if member is None:
            return
        logger.warning("node %s is gone: %s", member.name, why)
        self._coordinator.leave(node_id)
        self._announce()
        watched = self._watched.pop(node_id, None)
        if watched is not None and watched is not asyncio.current_task():
            watched.cancel()

    async def replace_host(self, node_id: str, index: int, address: str) -> None:
        """A node has another process for one of its hosts."""
        await self._ready()
        self._coordinator.replace_host(node_id, index, address)
        self._announce()

    # -- what others ask

    def _announce(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def view(self, epoch: int) -> bytes:
        """The newest view when it is newer than `epoch`; waits up to 20 s, then empty."""
        await self._ready()
        try:
            async with asyncio.timeout(VIEW_WAIT):
                while self._coordinator.view.epoch <= epoch:
                    await self._changed.wait()
        except TimeoutError:
            return b""
        return pack(self._coordinator.view.to_data())

    async def state(self) -> bytes:
        """View and shipped definitions, for a node that starts."""
        await self._ready()
        return pack([self._coordinator.view.to_data(), self._code])

    async def missing(self) -> list[tuple[str, str]]:
        """Living Ray nodes that are not members yet, with the reason where one is known."""
        await self._ready()
        alive = await asyncio.to_thread(_living_nodes)
        members = self._coordinator.view
        return [
            (node.name, self._problems.get(node.name, ""))
            for node in alive
            if members.member(node.id) is None
        ]

    async def ship(self, name: str, data: bytes) -> None:
        """Give a definition of a driver to every node; the latest of a name wins.

        Raises:
            ConfigError: The cluster runs fixed modules.
        """
        await self._ready()
        if self._settings.config.modules:
            message = (
                f"{name} is defined in a driver's __main__, but this cluster runs the modules "
                f"{list(self._settings.config.modules)}; move it into one of them"
            )
            raise ConfigError(message)
        if self._definitions.get(name) == data:
            return
        self._definitions[name] = data
        version, pickles = self._code
        self._code = (version + 1, [*pickles, data])
        members = self._coordinator.view.members
        await asyncio.gather(*(self._ship_to(member.id) for member in members))

    async def _ship_to(self, node_id: str) -> None:
        try:
            handle = await self._transport.handle(node_actor(node_id))
            await call(handle.take_code.remote(*self._code), 30.0)
        except PeerTroubleError:
            logger.warning("node %s did not take a definition; it will when it is back", node_id)

    async def shutdown(self) -> None:
        """End every process of the runtime but this one, which its caller ends."""
        for task in self._tasks:
            task.cancel()
        for member in self._coordinator.view.members:
            try:
                handle = await self._transport.handle(node_actor(member.id))
                await call(handle.kill_hosts.remote(), 10.0)
                ray.kill(handle, no_restart=True)
            except PeerTroubleError:
                logger.warning("node %s did not answer while shutting down", member.name)

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> "asyncio.Task[Any]":
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: "asyncio.Task[Any]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("a task of the cluster supervisor failed", exc_info=error)


def _alive() -> list[dict[str, Any]]:
    """Ray's descriptions of the nodes that it takes for alive."""
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return [node for node in nodes if node["Alive"]]


def _living_nodes() -> list[RayNode]:
    return [
        RayNode(
            id=node["NodeID"],
            name=node.get("NodeName") or node["NodeManagerAddress"],
            ip=node["NodeManagerAddress"],
            port=node["NodeManagerPort"],
            labels=dict(node.get("Labels") or {}),
            resources=dict(node.get("Resources") or {}),
        )
        for node in _alive()
    ]


def make_supervisor(settings: Settings) -> Settings:
    """Make the cluster's supervisor if it is not there, and start it; the settings in force.

    Blocks; for a thread.
    """
    nodes = _alive()
    heads = [node for node in nodes if "node:__internal_head__" in node["Resources"]]
    head = (heads or nodes)[0]["NodeID"]
    options = actor_options(SUPERVISOR, settings.namespace, max_restarts=-1)
    options["get_if_exists"] = True
    # Hard: with soft affinity Ray 2.60 was seen to put it on a worker node, whose death it is to
    # notice. Without its head a Ray cluster has no GCS, so there is nothing to fall back to.
    options["scheduling_strategy"] = NodeAffinitySchedulingStrategy(head, soft=False)
    if settings.config.runtime_env:
        options["runtime_env"] = settings.config.runtime_env
    actor: Any = ray.remote(ClusterSupervisorActor)
    handle = actor.options(**options).remote(settings)
    try:
        found: Settings = ray.get(handle.running.remote(), timeout=START_SECONDS)
    except RayError as error:
        raise translate(error, "the cluster's supervisor") from error
    return found


def _explain(error: BaseException) -> str:
    if is_not_installed(error):
        return (
            "jido-cluster is not installed there; run 'pip install jido-cluster' on the node, or "
            "give ClusterConfig(runtime_env={'pip': ['jido-cluster']})"
        )
    return str(error)[:500]
