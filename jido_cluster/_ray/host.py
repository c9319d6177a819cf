"""The Ray actor around a shard host."""

import asyncio
import gc
import time
from typing import Any

import ray

from jido_cluster._ray import process
from jido_cluster._ray.frames import FrameServer
from jido_cluster._ray.names import node_actor
from jido_cluster._ray.process import Settings
from jido_cluster._ray.tasks import RayScheduler
from jido_cluster._ray.transport import RayTransport
from jido_cluster._ray.workers import RayWorkers
from jido_cluster.connection import Connection
from jido_cluster.connections import Binding, set_process_binding
from jido_cluster.runtime.host import ShardHost
from jido_cluster.runtime.roster import unpack_large
from jido_cluster.runtime.view import View


class ShardHostActor:
    """Serves frames; everything else is `runtime.host.ShardHost`."""

    async def start(
        self,
        settings: Settings,
        name: str,
        view: bytes,
        code_version: int,
        pickles: list[bytes],
    ) -> str:
        """Begin to serve; the address for frames."""
        process.set_up(settings)
        process.CODE.take(code_version, pickles)
        node_id = process.ray_node_id()
        transport = RayTransport(settings.namespace, settings.token, node_actor(node_id))
        server = FrameServer(name, settings.token)
        address = await server.listen(process.own_ip())
        self._server = server
        self._host = ShardHost(
            address,
            node_id,
            View.from_data(unpack_large(view)),
            config=settings.config,
            transport=transport,
            scheduler=RayScheduler(settings),
            workers=RayWorkers(transport, node_actor(node_id), settings),
            wall=time.time,
        )
        from jido_cluster._ray.driver import RuntimeDriver

        driver = RuntimeDriver(settings, transport)
        connection = Connection(
            settings.cluster, self._host.client, settings.config, driver, settings.address
        )
        binding = Binding(connection, asyncio.get_running_loop())
        set_process_binding(settings.cluster, binding)
        self._host.binding = binding
        await self._host.start()
        server.open(self._host)
        # What is here now stays: frozen, no collection of garbage looks at it again. Turns make few
        # cycles, so collections may be rare: 10 to 20 % more turns a second.
        gc.freeze()
        gc.set_threshold(100_000, 50, 1000)
        return address

    async def take_code(self, version: int, pickles: list[bytes]) -> None:
        """Register definitions from a driver."""
        process.CODE.take(version, pickles)

    @ray.method(concurrency_group="control")
    async def watch(self) -> None:
        """Never returns: the call fails when this process dies."""
        await process.forever()

    @ray.method(concurrency_group="control")
    async def ping(self) -> bool:
        """True, also while handlers block the main loop."""
        return True


def make_host(options: dict[str, Any]) -> Any:
    """A new host actor; `start` it next."""
    # Ray's types do not know this option.
    declare: Any = ray.remote(concurrency_groups={"control": 100})  # type: ignore[call-overload]
    actor = declare(ShardHostActor)
    return actor.options(**options).remote()
