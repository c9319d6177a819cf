"""The Ray actor around a shard host: its replicas, their store, and the agents they lead.

The core and the handlers share one loop: a handler that blocks it holds up heartbeats, too, and one
that blocks it for seconds has its shards led elsewhere.
"""

import asyncio
import gc
import logging
import os
import secrets
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import ray

from jido_cluster._ray import process
from jido_cluster._ray.disk import StoreDisk
from jido_cluster._ray.frames import FrameServer
from jido_cluster._ray.names import node_actor
from jido_cluster._ray.peers import TcpPeers
from jido_cluster._ray.process import Settings
from jido_cluster._ray.tasks import RayScheduler
from jido_cluster._ray.transport import RayTransport, unpack_view
from jido_cluster._ray.workers import RayWorkers
from jido_cluster.connection import Connection
from jido_cluster.connections import Binding, set_process_binding
from jido_cluster.runtime.conflicts import ConflictLog
from jido_cluster.runtime.host import ShardHost
from jido_cluster.runtime.replicas import SUPERVISOR, Replicas, part_of_shard
from jido_cluster.runtime.schedules import next_due
from jido_cluster.runtime.sealed import Sealer
from jido_cluster.runtime.seen import session_key
from jido_cluster.runtime.view import View
from jido_placement.packing import record_from_bytes
from jido_placement.record import ROOT, Record
from jido_state.node import Node
from jido_state.service import Service
from jido_state.settings import GroupSettings

logger = logging.getLogger(__name__)

GROUPS: Final = GroupSettings()


@dataclass(frozen=True, kw_only=True)
class Place:
    """Which host of which node a process is to be.

    Attributes:
        id: The node's uuid.
        node: Its index.
        boot: Number of the node's start, which is registered.
        part: Which of its processes, from 1.
        hosts: How many hosts it has.
        store: The file of this one.
    """

    id: str
    node: int
    boot: int
    part: int
    hosts: int
    store: Path


class ShardHostActor:
    """Serves frames; everything else is `runtime.host.ShardHost`."""

    def __init__(self) -> None:
        self._starting: asyncio.Task[tuple[str, str]] | None = None

    async def start(self, *arguments: Any) -> tuple[str, str]:
        """As `_start`; asked again, because the answer was lost, it waits for the same start."""
        if self._starting is None:
            self._starting = asyncio.get_running_loop().create_task(self._start(*arguments))
        return await asyncio.shield(self._starting)

    async def _start(
        self,
        settings: Settings,
        name: str,
        place: Place,
        record_data: bytes,
        view_data: bytes,
        code: tuple[int, list[bytes]],
    ) -> tuple[str, str]:
        """Begin to serve; the addresses for frames and for messages of replicas."""
        process.set_up(settings)
        process.CODE.take(*code)
        ray_node, ip = process.ray_node_id(), process.own_ip()
        record, view = record_from_bytes(record_data), unpack_view(view_data)
        sealer = Sealer()
        peers = TcpPeers(settings.token, sealer)
        peer = await peers.listen(ip)
        peers.be(record.cluster_id, place.node, place.part)
        disk = await StoreDisk.open(place.store, sealer)
        transport = RayTransport(settings.namespace, settings.token, node_actor(ray_node))
        self._server = FrameServer(name, settings.token)
        address = await self._server.listen(ip)
        host = self._host = ShardHost(
            address,
            place.id,
            view,
            config=settings.config,
            transport=transport,
            scheduler=RayScheduler(settings),
            workers=RayWorkers(transport, node_actor(ray_node), settings),
            wall=time.time,
        )
        host.own_turns.conflicts = ConflictLog(place.store.with_suffix(".conflicts"))
        guide = _Guide(place, peers, host)
        host.replicas = Replicas(
            _core(place, record, disk),
            place.part,
            peers=peers,
            disk=disk,
            wall=time.time,
            hosts_of=guide.hosts_of,
            upper=host,
        )
        self._bind(settings, transport)
        guide.follow(view)
        await host.start()
        peers.start(guide)  # hears first what is the replicas'
        self._server.open(host)
        # What is here now stays: frozen, no collection of garbage looks at it again. Turns make few
        # cycles, so collections may be rare: 10 to 20 % more turns a second.
        gc.freeze()
        gc.set_threshold(100_000, 50, 1000)
        return address, peer

    def _bind(self, settings: Settings, transport: RayTransport) -> None:
        """Give handlers their way to the cluster."""
        from jido_cluster._ray.driver import RuntimeDriver

        driver = RuntimeDriver(settings, transport)
        self._host.client.session_key = session_key(settings.token)
        connection = Connection(
            settings.cluster, self._host.client, settings.config, driver, settings.address
        )
        binding = Binding(connection, asyncio.get_running_loop())
        set_process_binding(settings.cluster, binding)
        self._host.binding = binding

    async def take_code(self, version: int, pickles: list[bytes]) -> None:
        """Register definitions from a driver."""
        process.CODE.take(version, pickles)

    @ray.method(concurrency_group="control")
    async def busy(self) -> int:
        """How many turns and runs are under way here."""
        cells = self._host.cells.values()
        return sum(cell.is_busy for cell in cells) + self._host.runs.active()

    @ray.method(concurrency_group="control")
    async def retire(self, seconds: float) -> int:
        """Pass on all that is led here; how many shards could not be within this time."""
        return await self._host.replicas.retire(seconds)

    @ray.method(concurrency_group="control")
    async def watch(self) -> None:
        """Never returns: the call fails when this process dies."""
        await process.forever()


def _core(place: Place, record: Record, disk: StoreDisk) -> Node:
    """The replicas of this process, with what its store holds."""

    def owns(group: int) -> bool:
        return group != ROOT and part_of_shard(group, place.hosts) == place.part

    def service(emit: Any, group: Any, **known: Any) -> Service:
        return Service(emit, group, boot=place.boot, settings=GROUPS, next_due=next_due, **known)

    return Node(
        place.node,
        record,
        disk.stored(),
        service,
        GROUPS,
        int(asyncio.get_running_loop().time() * 1000),
        1 + secrets.randbelow((1 << 31) - 1),
        owns=owns,
    )


class _Guide:
    """Tells the links of a host where the others are, and hears of its own supervisor's end."""

    def __init__(self, place: Place, peers: TcpPeers, host: ShardHost) -> None:
        self._place = place
        self._peers = peers
        self._host = host
        self._known: set[tuple[int, int]] = set()
        self._show = host.client.on_view
        host.client.on_view = self.follow

    def hosts_of(self, node: int) -> int:
        """Number of host processes of a node; 0 while it is not known."""
        if node == self._place.node:
            return self._place.hosts
        member = self._host.view.member(node)
        return 0 if member is None else len(member.hosts)

    def follow(self, view: View) -> None:
        """There is another view."""
        if self._show is not None:
            self._show(view)
        for member in view.members:
            for part, address in enumerate(member.peers):
                at = (member.node, part)
                if address and at != (self._place.node, self._place.part):
                    self._known.add(at)
                    self._peers.know(*at, address, member.life)
        # A node that starts again says at first only where its supervisor is: until it has hosts
        # the links to those before stay, which tell whether they are dead.
        for at in [at for at in self._known if view.member(at[0]) is None]:
            self._known.discard(at)
            self._peers.know(*at, "", 0)

    def received(self, node: int, part: int, messages: list[Any]) -> None:
        """As the port says."""
        self._host.replicas.received(node, part, messages)

    def gone(self, node: int, part: int) -> None:
        """As the port says."""
        if (node, part) == (self._place.node, SUPERVISOR):
            # Its successor registers another start of the node, to which this process does not
            # belong. It needs the store; what is durable there is all that has been answered.
            logger.warning("the node's supervisor is dead: host %s ends", self._host.address)
            os._exit(0)
        self._host.replicas.gone(node, part)

    def back(self, node: int, part: int) -> None:
        """As the port says."""
        self._host.replicas.back(node, part)


def make_host(options: dict[str, Any]) -> Any:
    """A new host actor; `start` it next."""
    # Ray's types do not know this option.
    declare: Any = ray.remote(concurrency_groups={"control": 100})  # type: ignore[call-overload]
    actor = declare(ShardHostActor)
    return actor.options(**options).remote()
