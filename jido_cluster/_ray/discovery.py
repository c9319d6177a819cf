"""How supervisors find each other before there is a record: by their actors' names in the GCS.

Once a node is a member nothing of the cluster needs this any more.
"""

import asyncio
from typing import Final

import ray
from ray.exceptions import RayError
from ray.experimental import internal_kv

from jido_cluster._ray.names import NODE_PREFIX, node_actor
from jido_cluster._ray.transport import RayTransport, call
from jido_cluster.errors import JidoError
from jido_cluster.ports import PeerGoneError, PeerTroubleError
from jido_cluster.runtime.entry import seen_of
from jido_cluster.runtime.formation import Seen

__all__ = ["RayDiscovery", "node_actors"]

SEEN_SECONDS: Final = 1.0
LIST_SECONDS: Final = 10.0
_KV_SPACE: Final = b"jido"


async def node_actors(namespace: str) -> list[str]:
    """Names of the node supervisors of a runtime, sorted; some may be dead.

    Raises:
        PeerTroubleError: The GCS does not answer.
    """
    try:
        async with asyncio.timeout(LIST_SECONDS):
            found = await asyncio.to_thread(ray.util.list_named_actors, all_namespaces=True)
    except (RayError, TimeoutError) as error:
        message = f"Ray's list of actors is out of reach: {type(error).__name__}"
        raise PeerTroubleError(message) from error
    return sorted(
        entry["name"]
        for entry in found
        if entry["namespace"] == namespace and entry["name"].startswith(NODE_PREFIX)
    )


class RayDiscovery:
    """Implements `runtime.formation.Discovery` for one node.

    Args:
        namespace: Of the runtime's actors.
        ray_node: Id of the own Ray node.
        transport: Reaches the other supervisors.
    """

    def __init__(self, namespace: str, ray_node: str, transport: RayTransport) -> None:
        self._namespace = namespace
        self._own = node_actor(ray_node)
        self._transport = transport

    async def others(self) -> list[Seen]:
        """As the port says; who does not answer within a second is not in sight."""
        names = [name for name in await node_actors(self._namespace) if name != self._own]
        found = await asyncio.gather(*(self._ask(name) for name in names))
        return [seen for seen in found if seen is not None]

    async def _ask(self, name: str) -> Seen | None:
        try:
            supervisor = await self._transport.handle(name)
            data = await call(supervisor.seen.remote(), SEEN_SECONDS)
            return seen_of(data) if data else None
        except PeerGoneError:
            self._transport.forget(name)  # Ray may have started another one of this name
        except (PeerTroubleError, JidoError):
            pass
        return None

    async def claim(self, value: str) -> str:
        """As the port says."""
        try:
            async with asyncio.timeout(LIST_SECONDS):
                return await asyncio.to_thread(self._claim, value)
        except (RayError, OSError, TimeoutError) as error:
            message = f"the claim to found the cluster may stand or not: {type(error).__name__}"
            raise PeerTroubleError(message) from error

    def _claim(self, value: str) -> str:
        key = f"{self._namespace}/founder"
        internal_kv._internal_kv_put(key, value, overwrite=False, namespace=_KV_SPACE)
        standing = internal_kv._internal_kv_get(key, namespace=_KV_SPACE)
        if standing is None:
            raise OSError("Ray's key-value store has not kept the claim")
        return bytes(standing).decode()
