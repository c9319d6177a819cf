"""The shard hosts of one node, as its supervisor keeps them: started, watched, replaced."""

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

import ray
from ray.exceptions import ActorDiedError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from jido_cluster._ray.discovery import LIST_SECONDS
from jido_cluster._ray.host import Place, make_host
from jido_cluster._ray.names import actor_options, host_prefix
from jido_cluster._ray.process import Settings
from jido_cluster._ray.transport import RayTransport, call, call_again, pack_view
from jido_cluster._ray.workers import CodeStore
from jido_cluster.errors import JidoError
from jido_cluster.ids import new_id
from jido_cluster.ports import PeerTroubleError
from jido_cluster.runtime.control import NodeControl
from jido_placement.packing import record_to_bytes

logger = logging.getLogger(__name__)

__all__ = ["Hosts"]

HOST_SECONDS: Final = 60.0  # for a host process to start
RETRY_SECONDS: Final = 0.3
CODE_SECONDS: Final = 30.0
BUSY_SECONDS: Final = 2.0
RETIRE_MARGIN: Final = 1.0


class Hosts:
    """Bound to the loop of the node's supervisor.

    Args:
        settings: Of the cluster.
        ray_node: Id of the Ray node.
        count: How many there are.
        store: The file of the host of each part.
        code: What drivers have shipped.
    """

    def __init__(
        self,
        settings: Settings,
        ray_node: str,
        count: int,
        store: Callable[[int], Path],
        code: CodeStore,
    ) -> None:
        self._settings = settings
        self._ray_node = ray_node
        self._count = count
        self._store = store
        self._code = code
        self._actors: dict[int, tuple[str, Any]] = {}  # name and handle, by part
        self._watching: list[asyncio.Task[None]] = []
        self._is_ended = False

    async def prepare(self, transport: RayTransport) -> None:
        """Begin to start processes, and end those that an earlier supervisor has left."""
        await self._end_earlier(transport)
        for part in range(1, self._count + 1):
            self._make(part)

    async def start(self, control: NodeControl) -> tuple[list[str], list[str]]:
        """Have them serve as the node that `control` has become; frame and peer addresses."""
        parts = range(1, self._count + 1)
        addresses = await asyncio.gather(*(self._start(part, control) for part in parts))
        loop = asyncio.get_running_loop()
        self._watching = [loop.create_task(self._watch(part, control)) for part in parts]
        return [host for host, _ in addresses], [peer for _, peer in addresses]

    async def take_code(self) -> None:
        """Give the hosts what drivers have shipped since they were started."""
        version, pickles = self._code.current()
        handles = [handle for _, handle in self._actors.values()]
        await asyncio.gather(
            *(
                call_again(partial(one.take_code.remote, version, pickles), CODE_SECONDS)
                for one in handles
            ),
            return_exceptions=True,  # one that died gets it at its next start
        )

    async def busy(self) -> int:
        """How many turns and runs are under way in those that answer."""
        counts = await asyncio.gather(
            *(call(handle.busy.remote(), BUSY_SECONDS) for _, handle in self._actors.values()),
            return_exceptions=True,
        )
        return sum(count for count in counts if isinstance(count, int))

    async def retire(self, seconds: float) -> int:
        """Have them pass on what they lead; how many shards are led here after this time."""
        left = await asyncio.gather(
            *(
                call(handle.retire.remote(seconds), seconds + RETIRE_MARGIN)
                for _, handle in self._actors.values()
            ),
            return_exceptions=True,  # one that is dead leads nothing
        )
        return sum(count for count in left if isinstance(count, int))

    def end(self) -> None:
        """End their processes."""
        self._is_ended = True
        for task in self._watching:
            task.cancel()
        for _, handle in self._actors.values():
            ray.kill(handle, no_restart=True)
        self._actors.clear()

    async def _end_earlier(self, transport: RayTransport) -> None:
        prefix = host_prefix(self._ray_node)
        async with asyncio.timeout(LIST_SECONDS):
            found = await asyncio.to_thread(ray.util.list_named_actors, all_namespaces=True)
        for entry in found:
            is_ours = entry["namespace"] == self._settings.namespace
            if is_ours and entry["name"].startswith(prefix):
                try:
                    ray.kill(await transport.handle(entry["name"]), no_restart=True)
                except (PeerTroubleError, RayError):
                    continue  # it has ended by itself, as it does when its supervisor is gone

    def _make(self, part: int) -> None:
        name = f"{host_prefix(self._ray_node)}{part}-{new_id()}"
        options = actor_options(name, self._settings.namespace, max_restarts=0)
        options["scheduling_strategy"] = NodeAffinitySchedulingStrategy(self._ray_node, soft=False)
        if self._settings.config.runtime_env:
            options["runtime_env"] = self._settings.config.runtime_env
        self._actors[part] = (name, make_host(options))

    async def _start(self, part: int, control: NodeControl) -> tuple[str, str]:
        name, handle = self._actors[part]
        assert control.node is not None, "the node is no member yet"
        place = Place(
            id=control.ports.identity.id,
            node=control.node,
            boot=control.boot.number,
            part=part,
            hosts=self._count,
            store=self._store(part),
        )
        record, view = record_to_bytes(control.record), pack_view(control.gossip.view)
        code = self._code.current()
        start = partial(handle.start.remote, self._settings, name, place, record, view, code)
        host, peer = await call_again(start, HOST_SECONDS)
        return host, peer

    async def _watch(self, part: int, control: NodeControl) -> None:
        """Put another host in the place of each that dies."""
        while not self._is_ended:
            _, handle = self._actors[part]
            try:
                await handle.watch.remote()
            except ActorDiedError:
                logger.warning("host %d of node %s died; starting another", part, self._ray_node)
                await self._replace(part, control)
            except RayError:
                await asyncio.sleep(RETRY_SECONDS)

    async def _replace(self, part: int, control: NodeControl) -> None:
        while not self._is_ended:
            try:
                self._make(part)
                host, peer = await self._start(part, control)
            except (RayError, PeerTroubleError, JidoError):
                logger.exception("host %d of node %s did not start", part, self._ray_node)
                ray.kill(self._actors[part][1], no_restart=True)
                await asyncio.sleep(RETRY_SECONDS)
            else:
                control.replace_host(part, host, peer)
                return
