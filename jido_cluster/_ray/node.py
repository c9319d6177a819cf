"""The node supervisor: keeps a node's shard hosts alive, keeps rosters, passes views on.

Runs no user code. Ray restarts it on its node when it dies; it then adopts the hosts that live.
"""

import asyncio
import logging
import os
from collections.abc import Coroutine
from typing import Any, Final

import ray
from ray.exceptions import ActorDiedError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from jido_cluster._ray import process, streams
from jido_cluster._ray.frames import actor_of_host
from jido_cluster._ray.host import make_host
from jido_cluster._ray.names import SUPERVISOR, actor_options, node_actor
from jido_cluster._ray.process import Settings
from jido_cluster._ray.transport import RayTransport, call
from jido_cluster._ray.workers import CodeStore, Pool
from jido_cluster.errors import JidoError
from jido_cluster.ids import new_id
from jido_cluster.ports import PeerGoneError, PeerTroubleError
from jido_cluster.runtime.roster import RosterKeeper, unpack_large
from jido_cluster.runtime.view import View
from jido_cluster.runtime.wire import pack, unpack

logger = logging.getLogger(__name__)

MAX_HOSTS: Final = 8  # by default; more host processes than cores only wait for each other
HOST_SECONDS: Final = 60.0  # for a host process to start
VIEW_WAIT: Final = 20.0  # how long a poll for a newer view is held
RETRY_DELAY: Final = 0.3


class NodeSupervisorActor:
    """The Ray actor that supervises one node."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._address = ""  # of no life yet: `start` has not got that far
        self._starting: asyncio.Task[None] | None = None
        self._view = View(-1, (), ())
        self._view_data = b""
        self._changed = asyncio.Event()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._hosts: dict[str, Any] = {}

    async def start(self) -> None:
        """Bring this node up and announce it; returns when it is part of the view.

        Raises:
            ConfigError: A module of the configuration cannot be imported on this node.
        """
        if self._starting is not None:  # asked twice: both wait for the same start
            await asyncio.shield(self._starting)
            return
        starting = self._starting = asyncio.get_running_loop().create_task(self._start())
        try:
            await asyncio.shield(starting)
        except BaseException:
            if starting.done() and starting.exception() is not None:
                self._starting = None
            raise

    async def _start(self) -> None:
        settings = self._settings
        process.set_up(settings)
        self._node_id = process.ray_node_id()
        self._transport = RayTransport(settings.namespace)
        self._keeper = RosterKeeper()
        self._code = CodeStore()
        self._pool = Pool(settings, self._code)
        # A life of its own: rosters are in this process's memory, so a restarted one is another.
        self._address = f"{node_actor(self._node_id)}#{new_id()}"
        self._server, self._port = await streams.listen(
            process.own_ip(), settings.token, self._stay_connected
        )
        await self._join()
        self._spawn(self._follow_views())
        self._pool.fill()

    async def _join(self) -> None:
        """Adopt or start the hosts, and tell the cluster's supervisor."""
        supervisor = await self._supervisor()
        state = unpack_large(await call(supervisor.state.remote(), HOST_SECONDS))
        self._install(View.from_data(state[0]))
        self._code.version, self._code.pickles = state[1]
        known = self._view.member(self._node_id)
        count = self._settings.config.hosts_per_node or min(os.cpu_count() or 1, MAX_HOSTS)
        names = list(known.hosts) if known is not None else [""] * count
        addresses = await asyncio.gather(
            *(self._adopt_or_start(name, index) for index, name in enumerate(names))
        )
        data = pack([self._node_id, self._address, list(addresses), process.own_ip(), self._port])
        view = await call(supervisor.register.remote(data), HOST_SECONDS)
        self._install(View.from_data(unpack_large(view)))

    async def _adopt_or_start(self, address: str, index: int) -> str:
        if address:
            name = actor_of_host(address)
            try:
                handle = await self._transport.handle(name)
                await call(handle.ping.remote(), 5.0)
            except PeerTroubleError:
                self._transport.forget(name)
            else:
                self._keep(address, handle, index)
                return address
        return await self._start_host(index)

    async def _start_host(self, index: int) -> str:
        name = f"host-{self._node_id[:12]}-{index}-{new_id()}"
        options = actor_options(name, self._settings.namespace, max_restarts=0)
        options["scheduling_strategy"] = NodeAffinitySchedulingStrategy(self._node_id, soft=False)
        if self._settings.config.runtime_env:
            options["runtime_env"] = self._settings.config.runtime_env
        handle = make_host(options)
        version, pickles = self._code.current()
        view = pack(self._view.to_data())
        starting = handle.start.remote(self._settings, name, view, version, pickles)
        address: str = await call(starting, HOST_SECONDS)
        self._keep(address, handle, index)
        return address

    def _keep(self, address: str, handle: Any, index: int) -> None:
        self._hosts[address] = handle
        self._spawn(self._watch_host(address, handle, index))

    async def _watch_host(self, address: str, handle: Any, index: int) -> None:
        """Wait for a host's death, then put another one in its place."""
        while True:
            try:
                await handle.watch.remote()
            except ActorDiedError:
                break
            except RayError:
                await asyncio.sleep(RETRY_DELAY)
        logger.warning("shard host %s died; starting another one", address)
        self._hosts.pop(address, None)
        while True:
            try:
                successor = await self._start_host(index)
                await self._replace(index, successor)
            except (RayError, PeerTroubleError, JidoError):
                logger.exception("shard host %d of node %s did not start", index, self._node_id)
                await asyncio.sleep(1.0)
            else:
                return

    async def _replace(self, index: int, successor: str) -> None:
        while True:
            try:
                supervisor = await self._supervisor()
                await call(
                    supervisor.replace_host.remote(self._node_id, index, successor), HOST_SECONDS
                )
            except PeerTroubleError:
                await asyncio.sleep(RETRY_DELAY)
            else:
                return

    # -- views

    async def _follow_views(self) -> None:
        while True:
            try:
                supervisor = await self._supervisor()
                data = await call(supervisor.view.remote(self._view.epoch), VIEW_WAIT + 5)
            except PeerTroubleError:
                await asyncio.sleep(RETRY_DELAY)
                continue
            if data:
                self._install(View.from_data(unpack_large(data)))
            own = self._view.member(self._node_id)
            if own is None or own.supervisor != self._address:
                # Declared gone, yet here: come back as a new member, the agents are lost already.
                logger.warning("node %s was taken for dead; it joins again", self._node_id)
                await self._rejoin()

    async def _rejoin(self) -> None:
        for handle in self._hosts.values():
            ray.kill(handle, no_restart=True)
        self._hosts.clear()
        try:
            await self._join()
        except (PeerTroubleError, JidoError):
            logger.exception("node %s could not join again", self._node_id)
            await asyncio.sleep(1.0)

    def _install(self, view: View) -> None:
        if view.epoch > self._view.epoch:
            self._view = view
            self._view_data = pack(view.to_data())
            changed, self._changed = self._changed, asyncio.Event()
            changed.set()

    async def view(self, epoch: int) -> bytes:
        """The newest view when it is newer than `epoch`; waits up to 20 s, then empty."""
        try:
            async with asyncio.timeout(VIEW_WAIT):
                while self._view.epoch <= epoch:
                    await self._changed.wait()
        except TimeoutError:
            return b""
        return self._view_data

    async def latest_view(self) -> bytes:
        """The newest view this node has; for a supervisor that starts again."""
        return self._view_data

    async def _supervisor(self) -> Any:
        try:
            return await self._transport.handle(SUPERVISOR)
        except PeerGoneError:
            # Killed for good, not only restarted: any node may make it again.
            from jido_cluster._ray.supervisor import make_supervisor

            await asyncio.to_thread(make_supervisor, self._settings)
            return await self._transport.handle(SUPERVISOR)

    # -- requests

    async def ask(self, supervisor: str, operation: str, data: bytes) -> bytes:
        """Perform a request of a host.

        Raises:
            PeerTroubleError: It is meant for an earlier life of this supervisor.
        """
        if supervisor != self._address:
            message = f"{supervisor} is not this life of the node's supervisor"
            raise PeerTroubleError(message)
        return self._keeper.answer(operation, data)

    async def acquire_worker(self, request: bytes) -> bytes:
        """Give out a process for a dedicated agent; its address."""
        options, needs = unpack(request)
        if needs is not None:
            options = {**(options or {}), "jido_needs": needs}
        return pack(await self._pool.take(options))

    async def take_code(self, version: int, pickles: list[bytes]) -> None:
        """Keep definitions from a driver, and give them to the hosts."""
        if version <= self._code.version:
            return
        self._code.version, self._code.pickles = version, pickles
        process.CODE.take(version, pickles)
        await asyncio.gather(
            *(call(h.take_code.remote(version, pickles), 30.0) for h in self._hosts.values())
        )

    async def code(self) -> tuple[int, list[bytes]]:
        """The definitions from drivers that this node has."""
        return self._code.current()

    async def kill_hosts(self) -> None:
        """End this node's hosts; the runtime is being shut down."""
        for task in self._tasks:
            task.cancel()
        for handle in self._hosts.values():
            ray.kill(handle, no_restart=True)

    async def _stay_connected(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Hold a connection open: when this process dies, the kernel closes it."""
        await reader.read()

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
