"""The Ray actor that supervises one node: the node's part in the cluster, and its hosts.

Runs no user code. What it decides is `runtime.control`; this gives it a data directory, links and
processes. Ray restarts it on its node when it dies. The hosts then end, too, since they belong to
the start of the node that it had registered; its next life registers another one, and their
successors go on from what their stores hold.
"""

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Coroutine
from typing import Any, Final

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from jido_cluster._ray import home, process
from jido_cluster._ray.discovery import RayDiscovery
from jido_cluster._ray.disk import StoreDisk
from jido_cluster._ray.hosts import Hosts
from jido_cluster._ray.names import SUPERVISOR, actor_options, node_actor
from jido_cluster._ray.peers import TcpPeers
from jido_cluster._ray.process import Settings
from jido_cluster._ray.transport import RayTransport, pack_view
from jido_cluster._ray.workers import CodeStore, Pool
from jido_cluster.errors import JidoError
from jido_cluster.ids import new_id
from jido_cluster.ports import PeerGoneError, PeerTroubleError
from jido_cluster.runtime.control import ControlSettings, NodeControl, Ports
from jido_cluster.runtime.entry import About
from jido_cluster.runtime.identity import DirectoryIdentity
from jido_cluster.runtime.sealed import Sealer
from jido_cluster.runtime.wire import pack, unpack
from jido_cluster.storage.directory import DataDirectory

logger = logging.getLogger(__name__)

MAX_HOSTS: Final = 8  # by default; more host processes than cores only wait for each other
VIEW_WAIT: Final = 20.0  # how long a poll for a newer view is held
RETRY_DELAY: Final = 0.3
ADMITTED_SECONDS: Final = 10.0  # after that the hosts start all the same: their disks have a vote
LOOK_SECONDS: Final = 0.05
RETIRE_SECONDS: Final = 5.0  # of the 30 that Ray gives a node it drains, to hand over
LOAD_SECONDS: Final = 2.0  # between looks at how busy the hosts are


class NodeSupervisorActor:
    """Bound to its actor's loop; `start` it first."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._address = ""  # of no life yet: `start` has not got that far
        self._starting: asyncio.Task[None] | None = None
        self._control: NodeControl | None = None
        self._hosts: Hosts | None = None
        self._is_member = asyncio.Event()
        self._has_left = False  # it was drained: there is nothing for it to do any more
        self._is_retiring = False
        self._code = CodeStore()
        self._tasks: set[asyncio.Task[Any]] = set()

    async def start(self, about: About, version: int, pickles: list[bytes]) -> None:
        """Bring this node up; returns when it is a member and its hosts serve.

        Raises:
            ConfigError: It may not be a member, or a module of the configuration cannot be
                imported on this node.
        """
        self._code.take(version, pickles)
        if self._starting is None:
            self._starting = asyncio.get_running_loop().create_task(self._start(about))
        starting = self._starting  # asked twice: both wait for the same start
        try:
            await asyncio.shield(starting)
        except BaseException as error:
            self._has_left = isinstance(error, JidoError) and bool(error.details.get("has_left"))
            if starting.done():
                self._starting = None
            raise

    async def _start(self, about: About) -> None:
        settings = self._settings
        process.set_up(settings)
        ray_node = process.ray_node_id()
        transport = self._transport = RayTransport(settings.namespace)
        self._pool = Pool(settings, self._code)
        slot = about.labels.get(home.SLOT_LABEL)
        default_hosts = min(os.cpu_count() or 1, MAX_HOSTS)
        directory = await asyncio.to_thread(
            home.take_directory, settings, ray_node, slot, default_hosts
        )
        hosts = self._hosts = Hosts(
            settings,
            ray_node,
            directory.identity.hosts,
            lambda part: directory.store_path(part - 1),
            self._code,
        )
        sealer = Sealer()
        peers = TcpPeers(settings.token, sealer)
        disk: StoreDisk | None = None
        try:
            await hosts.prepare(transport)
            peer = await peers.listen(process.own_ip())
            disk = await StoreDisk.open(directory.store_path(None), sealer)
            await self._enter(about, ray_node, directory, peers, peer, disk)
        except BaseException:
            # The next `start` finds everything as this one did.
            hosts.end()
            peers.close()
            if disk is not None:
                disk.close()
            directory.release()
            raise
        self._spawn(self._keep_cluster_supervisor())
        self._pool.fill()

    async def _enter(
        self,
        about: About,
        ray_node: str,
        directory: DataDirectory,
        peers: TcpPeers,
        peer: str,
        disk: StoreDisk,
    ) -> None:
        settings = self._settings
        # A life of its own: what was meant for an earlier one is refused.
        self._address = f"{node_actor(ray_node)}#{new_id()}"

        def open_peers(cluster_id: str, node: int, _: int) -> TcpPeers:
            peers.be(cluster_id, node, 0)
            return peers

        ports = Ports(
            identity=DirectoryIdentity(directory, settings.cluster),
            discovery=RayDiscovery(settings.namespace, ray_node, self._transport),
            transport=self._transport,
            disk=disk,
            stored=disk.stored(),
            open_peers=open_peers,
            wall=time.time,
        )
        control = self._control = NodeControl(
            settings.config,
            ControlSettings(expect=settings.expect),
            about,
            supervisor=self._address,
            peer=peer,
            ports=ports,
            on_end=self._end,
        )
        assert self._hosts is not None, "made by the caller"
        await control.start()
        self._is_member.set()
        await self._wait_admitted(control)
        await control.serve(*await self._hosts.start(control))
        self._spawn(self._tell_load(control, self._hosts, about))

    async def _tell_load(self, control: NodeControl, hosts: Hosts, about: About) -> None:
        """Say how busy the node is, for each core, for as long as it lives."""
        while True:
            await asyncio.sleep(LOAD_SECONDS)
            control.load(await hosts.busy() / max(about.weight, 1.0), about.resources)

    async def _wait_admitted(self, control: NodeControl) -> None:
        """Return when the node has been in contact with the others for long enough to serve users.

        Until then its hosts would take the lead of shards, and refuse every call for them.
        """
        strategy = self._settings.config.partition_strategy
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ADMITTED_SECONDS):
                while strategy not in control.watching.admitted:  # noqa: ASYNC110 - no event for it
                    await asyncio.sleep(LOOK_SECONDS)

    def _end(self, error: JidoError) -> None:
        """The node must not go on; Ray starts this process anew, and `start` says the same."""
        if self._hosts is not None:
            self._hosts.end()
        logger.error("the supervisor ends: %s", error)
        os._exit(0 if error.details.get("has_left") else 1)

    # -- requests

    async def seen(self) -> bytes:
        """What is to be seen of this node; empty before its directory is its own."""
        return b"" if self._control is None else pack(list(self._control.seen))

    async def view(self, source: str) -> bytes:
        """The newest view when it is another than the `source`; waits up to 20 s, then empty.

        Raises:
            PeerTroubleError: This node is no member, and will not be one: others know.
        """
        if self._has_left:
            message = "this node has left the cluster"
            raise PeerTroubleError(message)
        try:
            async with asyncio.timeout(VIEW_WAIT):
                await self._is_member.wait()
                assert self._control is not None, "a member has it"
                return pack_view(await self._control.newer_view(source))
        except TimeoutError:
            return b""

    async def ask(self, supervisor: str, operation: str, data: bytes) -> bytes:
        """The answer to a control request.

        Raises:
            PeerTroubleError: It is meant for an earlier life of this supervisor.
            JidoError: It is refused.
        """
        if supervisor != self._address or self._control is None:
            message = f"{supervisor} is not this life of the node's supervisor"
            raise PeerTroubleError(message)
        return await self._control.answer(operation, data)

    async def acquire_worker(self, request: bytes) -> bytes:
        """Give out a process for a dedicated agent; its address."""
        options, needs = unpack(request)
        if needs is not None:
            options = {**(options or {}), "jido_needs": needs}
        return pack(await self._pool.take(options))

    async def take_code(self, version: int, pickles: list[bytes]) -> None:
        """Keep definitions from a driver, and give them to the hosts."""
        if self._code.take(version, pickles) and self._hosts is not None:
            await self._hosts.take_code()

    async def code(self) -> tuple[int, list[bytes]]:
        """The definitions from drivers that this node has."""
        return self._code.current()

    async def retire(self) -> None:
        """Ray is about to end this node: its leaderships go elsewhere, then its processes end.

        Its replicas stay in its directory, for when it comes back. The caller ends this process
        then, and sees that no other supervisor is made meanwhile.
        """
        if self._is_retiring:
            return
        self._is_retiring = True
        logger.info("Ray drains this node: it hands over what it leads")
        began, left = time.monotonic(), 0
        if self._hosts is not None and self._control is not None:
            left, _ = await asyncio.gather(
                self._hosts.retire(RETIRE_SECONDS), self._control.retire(RETIRE_SECONDS)
            )
        logger.info("%d shards are still led here after %.2f s", left, time.monotonic() - began)
        await self.kill_hosts()
        if self._control is not None:
            self._control.close()

    async def running(self) -> Settings | None:
        """The settings in force; None when this node does not serve."""
        return self._settings if self._is_member.is_set() else None

    async def watch(self) -> None:
        """Never returns: the call fails when this process dies."""
        await process.forever()

    async def kill_hosts(self) -> None:
        """End this node's hosts; the runtime is being shut down."""
        for task in self._tasks:
            task.cancel()
        if self._hosts is not None:
            self._hosts.end()
            self._pool.close()

    async def _keep_cluster_supervisor(self) -> None:
        """Make the cluster's supervisor again when it was killed for good: any node may."""
        from jido_cluster._ray.supervisor import make_supervisor

        while True:
            try:
                handle = await self._transport.handle(SUPERVISOR)
                await handle.watch.remote()
            except PeerGoneError:
                try:
                    await make_supervisor(self._settings)
                except (RayError, PeerTroubleError) as error:
                    logger.warning("the cluster's supervisor was not made again: %s", error)
            except (RayError, PeerTroubleError):
                self._transport.forget(SUPERVISOR)
            await asyncio.sleep(RETRY_DELAY)

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: "asyncio.Task[Any]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("a task of the node supervisor failed", exc_info=error)


def make_node_supervisor(settings: Settings, ray_node_id: str) -> Any:
    """The supervisor of a node, made if it is not there; `start` it next."""
    options = actor_options(node_actor(ray_node_id), settings.namespace, max_restarts=-1)
    options["get_if_exists"] = True
    options["scheduling_strategy"] = NodeAffinitySchedulingStrategy(ray_node_id, soft=False)
    if settings.config.runtime_env:
        options["runtime_env"] = settings.config.runtime_env
    actor: Any = ray.remote(NodeSupervisorActor)
    return actor.options(**options).remote(settings)
