"""The cluster supervisor: keeps a node supervisor on every living Ray node.

One per runtime, and on no path of data: what it knows is what Ray says is alive, and what drivers
have shipped. Ray restarts it when its process dies; any node supervisor makes it again when it is
gone for good. Two of them would be harmless: all that it does is done once however often it is
asked for.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Coroutine
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, Final

import ray
from ray._private import state as ray_state
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from jido_cluster._ray import process
from jido_cluster._ray.discovery import node_actors
from jido_cluster._ray.names import SUPERVISOR, actor_options, node_actor
from jido_cluster._ray.node import make_node_supervisor
from jido_cluster._ray.process import Settings
from jido_cluster._ray.transport import (
    RayTransport,
    call,
    call_again,
    is_not_installed,
)
from jido_cluster.errors import ConfigError, JidoError
from jido_cluster.ports import PeerTroubleError
from jido_cluster.runtime.entry import About

logger = logging.getLogger(__name__)

RETIRE_SECONDS: Final = 20.0
WATCH_SECONDS: Final = 0.5  # between looks at Ray's list of nodes
START_SECONDS: Final = 90.0
CODE_SECONDS: Final = 30.0
RETRY_SECONDS: Final = 1.0
ZONE_LABELS: Final = ("jido.zone", "ray.io/availability-zone")
# Of one Ray node, which is another one at each start of the machine's; the record stays.
PASSING_LABELS: Final = frozenset({"ray.io/node-id"})


@dataclass(frozen=True)
class RayNode:
    """A living Ray node."""

    id: str
    name: str
    labels: dict[str, str]
    resources: dict[str, float]


class ClusterSupervisorActor:
    """The Ray actor that keeps the nodes of one runtime."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._has_started = False

    async def running(self) -> Settings:
        """The settings in force: those of whoever made this actor."""
        await self._ready()
        return self._settings

    async def watch(self) -> None:
        """Never returns: the call fails when this process dies."""
        await self._ready()
        await process.forever()

    async def _ready(self) -> None:
        """Begin to supervise, on the first call after a start or restart."""
        if not self._has_started:
            self._has_started = True
            self._begin()
        await asyncio.shield(self._recovered)

    def _begin(self) -> None:
        self._transport = RayTransport(self._settings.namespace)
        self._nodes: dict[str, RayNode] = {}
        self._tended: dict[str, asyncio.Task[None]] = {}
        self._serving: set[str] = set()
        self._served: set[str] = set()  # at some time; the runtime deals with their failures
        self._left: set[str] = set()  # drained by an operator, and living on as Ray nodes
        self._retiring: set[str] = set()  # drained by Ray, which ends them soon
        self._problems: dict[str, str] = {}
        self._code: tuple[int, list[bytes]] = (0, [])
        self._definitions: dict[str, bytes] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._recovered = asyncio.get_running_loop().create_task(self._recover())
        self._spawn(self._watch_nodes())

    async def _recover(self) -> None:
        """What drivers have shipped in an earlier life, from any node."""
        try:
            names = await node_actors(self._settings.namespace)
        except PeerTroubleError:
            return
        for name in names:
            try:
                handle = await self._transport.handle(name)
                version, pickles = await call_again(handle.code.remote, 5.0)
            except (PeerTroubleError, JidoError):
                continue
            if version > self._code[0]:
                self._code = (version, list(pickles))

    # -- nodes

    async def _watch_nodes(self) -> None:
        await self._recovered
        while True:
            try:
                alive = await asyncio.to_thread(_living_nodes)
                draining = await asyncio.to_thread(_draining_nodes)
            except Exception:  # the GCS is restarting; what runs goes on without it
                logger.warning("Ray's list of nodes is out of reach", exc_info=True)
            else:
                self._compare({node.id: node for node in alive if node.id not in draining})
                for node_id in self._retiring - draining:
                    self._retiring.discard(node_id)
                for node_id in draining - self._retiring:
                    self._retiring.add(node_id)
                    self._spawn(self._retire(node_id))
            await asyncio.sleep(WATCH_SECONDS)

    def _compare(self, alive: dict[str, RayNode]) -> None:
        """Tend the nodes that there are, and no others."""
        self._nodes = alive
        for node_id in self._tended.keys() - alive.keys():
            self._tended.pop(node_id).cancel()
            self._serving.discard(node_id)
            self._served.discard(node_id)
        for node_id in alive.keys() - self._tended.keys():
            self._tended[node_id] = self._spawn(self._tend(alive[node_id]))

    async def _retire(self, node_id: str) -> None:
        """Ray is about to end the node: have what is led there led elsewhere before that."""
        try:
            handle = await self._transport.handle(node_actor(node_id))
            await call(handle.retire.remote(), RETIRE_SECONDS)
            # Ray waits for a node that it drains until nothing runs there: not for this actor.
            ray.kill(handle, no_restart=True)
        except (RayError, PeerTroubleError, JidoError) as error:
            logger.warning("node %s is drained by Ray, and did not hand over: %s", node_id, error)

    async def _tend(self, node: RayNode) -> None:
        """Have a supervisor on the node, again whenever it has died."""
        while node.id not in self._left:
            try:
                handle = await asyncio.to_thread(make_node_supervisor, self._settings, node.id)
                start = partial(handle.start.remote, self._about(node), *self._code)
                await call_again(start, START_SECONDS)
                self._problems.pop(node.name, None)
                self._serving.add(node.id)
                self._served.add(node.id)
                await handle.watch.remote()
            except (RayError, PeerTroubleError, JidoError) as error:
                if isinstance(error, JidoError) and error.details.get("has_left"):
                    logger.info("node %s has left the cluster", node.name)
                    self._left.add(node.id)
                elif node.id not in self._serving:
                    self._problems[node.name] = _explain(error)
                    logger.warning("node %s could not be started: %s", node.name, error)
                    await asyncio.sleep(RETRY_SECONDS)
                else:
                    # Ray starts its process again, and it has to be told to begin.
                    logger.warning("the supervisor of node %s is gone: %s", node.name, error)
                    self._serving.discard(node.id)
                    await asyncio.sleep(WATCH_SECONDS)

    def _about(self, node: RayNode) -> About:
        names = Counter(other.name for other in self._nodes.values())
        labels = {name: text for name, text in node.labels.items() if name not in PASSING_LABELS}
        return About(
            name=node.name if names[node.name] == 1 else f"{node.name}-{node.id[:6]}",
            labels=labels,
            weight=node.resources.get("CPU", 0.0),
            zone=next((labels[name] for name in ZONE_LABELS if name in labels), None),
            resources=node.resources,
        )

    # -- what others ask

    async def missing(self) -> list[tuple[str, str]]:
        """Living Ray nodes that have never served, with the reason where one is known.

        One that has served and fails now is not waited for: Ray may take it for alive for long.
        Those that were drained, and those that Ray is about to end, are not to serve.
        """
        await self._ready()
        alive = await asyncio.to_thread(_living_nodes)
        others = self._served | self._left | self._retiring
        return [
            (node.name, self._problems.get(node.name, ""))
            for node in alive
            if node.id not in others
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
        await asyncio.gather(*(self._ship_to(node_id) for node_id in self._nodes))

    async def _ship_to(self, node_id: str) -> None:
        try:
            handle = await self._transport.handle(node_actor(node_id))
            await call_again(lambda: handle.take_code.remote(*self._code), CODE_SECONDS)
        except PeerTroubleError:
            logger.warning("node %s did not take a definition; it will when it is back", node_id)

    async def shutdown(self) -> None:
        """End every process of the runtime but this one, which its caller ends."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*(self._shut_down(node_id) for node_id in self._nodes))

    async def _shut_down(self, node_id: str) -> None:
        try:
            handle = await self._transport.handle(node_actor(node_id))
            await call_again(handle.kill_hosts.remote, 10.0)
            ray.kill(handle, no_restart=True)
        except (PeerTroubleError, RayError):
            logger.warning("node %s did not answer while shutting down", node_id)

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
            labels=dict(node.get("Labels") or {}),
            resources=dict(node.get("Resources") or {}),
        )
        for node in _alive()
    ]


def _draining_nodes() -> frozenset[str]:
    """The Ray nodes that are to end: `ray start --block` was told to (SIGTERM), or a scaler did."""
    # Ray has no public way to know, and its own libraries ask here; see decision 0020.
    try:
        ask = ray_state.state.get_draining_nodes
    except AttributeError:
        _warn_once("this Ray does not tell which nodes it drains: they end as if they had died")
        return frozenset()
    return frozenset(ask())


@cache
def _warn_once(message: str) -> None:
    logger.warning(message)


def count_nodes() -> int:
    """How many Ray nodes are alive; blocks."""
    return len(_alive())


async def make_supervisor(settings: Settings) -> Settings:
    """Make the cluster's supervisor if it is not there, and start it; the settings in force.

    Raises:
        RayError: Ray did not take the actor.
        PeerTroubleError: It did not start.
    """
    handle = await asyncio.to_thread(_make, settings)
    found: Settings = await call_again(handle.running.remote, START_SECONDS)
    return found


def _make(settings: Settings) -> Any:
    """The actor's handle, whether it was there before or not; blocks."""
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
    return actor.options(**options).remote(settings)


def _explain(error: BaseException) -> str:
    if is_not_installed(error):
        return (
            "jido-cluster is not installed there; run 'pip install jido-cluster' on the node, or "
            "give ClusterConfig(runtime_env={'pip': ['jido-cluster']})"
        )
    return str(error)[:500]
