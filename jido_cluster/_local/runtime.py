"""A cluster in one process: nodes and their hosts, all on one loop.

The code between the ports is the one that runs on Ray. What is different: frames are handed over
instead of sent, a dedicated agent's worker is an object instead of a process, an action runs as a
task instead of on another machine, and `kill` is known to everybody at once. What nodes know is
known to all at once, but not across a cut of the network (`splits`).
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final

from jido_cluster._local.clock import VirtualLoop
from jido_cluster._local.disk import MemoryDisk
from jido_cluster._local.peers import OUTSIDE, LocalPeers, Switchboard
from jido_cluster._local.splits import Splits
from jido_cluster.config import ClusterConfig
from jido_cluster.errors import InvalidInputError, UsageError
from jido_cluster.exec.context import ClusterBinding
from jido_cluster.exec.stream import Put
from jido_cluster.ids import new_id
from jido_cluster.ports import PeerGoneError, PeerTroubleError
from jido_cluster.runtime.actions import import_modules, run_request
from jido_cluster.runtime.host import ShardHost
from jido_cluster.runtime.peer_messages import Leads
from jido_cluster.runtime.replicas import Replicas, part_of_shard
from jido_cluster.runtime.schedules import next_due
from jido_cluster.runtime.view import Lead, Member, View
from jido_cluster.runtime.wire import unpack
from jido_cluster.runtime.worker import Worker
from jido_placement.changes import apply_all
from jido_placement.commands import BecomeUp, Command, Join
from jido_placement.record import ROOT, MemberRecord, Record, found
from jido_placement.rehearsal import preview
from jido_placement.steps import World
from jido_state.node import Node
from jido_state.service import Service
from jido_state.settings import GroupSettings

MAX_NODES: Final = 64
PREFER_SECONDS: Final = 2.0  # until a node that is back leads again
TICK: Final = 0.25  # seconds
VIRTUAL_TICK: Final = 120.0  # ten hours of it, in which nothing happens, take some seconds
# Nothing is lost between nodes of one process, and whoever is killed is known to be: the times
# count only where a test cuts the network.
SETTINGS: Final = GroupSettings(
    election_ms=2_500, heartbeat_ms=600, jitter_ms=0, rank_ms=1_000, resend_ms=500, max_gap_ms=1_000
)
# A tick of all shards costs real time, and in hours there are many. What comes of a kill waits for
# none (`Replicas.hurry`).
VIRTUAL_SETTINGS: Final = replace(
    SETTINGS, election_ms=480_000, heartbeat_ms=120_000, max_gap_ms=240_000
)
CORES: Final = 4.0  # what a node claims to have; runs are tasks of one loop, so it limits nothing


class LocalNode:
    """One node: its hosts, and the disks that outlive them."""

    def __init__(self, name: str, index: int, hosts: int) -> None:
        self.name = name
        self.index = index
        self.boot = 1
        self.disks = [MemoryDisk() for _ in range(hosts)]
        self.peers: list[LocalPeers] = []
        self.hosts: dict[str, ShardHost] = {}
        self.transports: list[LocalTransport] = []  # of its hosts
        self.runs: set[asyncio.Task[Any]] = set()
        self.is_up = False

    @property
    def id(self) -> str:
        """Stays its own over restarts, as its disks do."""
        return f"{self.name}.id"

    def addresses(self) -> tuple[str, ...]:
        """Addresses of its hosts, in this life of the node."""
        return tuple(f"host/{self.name}.{self.boot}/{part}" for part in range(len(self.disks)))

    def open_peers(self, switchboard: Switchboard, cluster_id: str) -> None:
        """Links for the processes of a new life of the node; part 0 is nobody's but listens."""
        self.peers = []
        for part in range(1 + len(self.disks)):
            peers = LocalPeers(switchboard)
            peers.be(cluster_id, self.index, part)
            self.peers.append(peers)


class _Ears:
    """Where a supervisor would be: hears what a node's hosts lead."""

    def __init__(self, runtime: "LocalRuntime", node: LocalNode) -> None:
        self._runtime = runtime
        self._node = node

    def received(self, node: int, part: int, messages: list[Any]) -> None:
        """As the port says."""
        for message in messages:
            if type(message) is Leads and node == self._node.index:
                self._runtime.take_leads(node, message)

    def gone(self, node: int, part: int) -> None:
        """As the port says."""

    def back(self, node: int, part: int) -> None:
        """As the port says."""


class LocalRuntime:
    """Everything of one local cluster; bound to the loop that made it."""

    def __init__(self, count: int, config: ClusterConfig, make_binding: "MakeBinding") -> None:
        if not 1 <= count <= MAX_NODES:
            message = f"nodes is {count!r}; use 1 to {MAX_NODES}"
            raise InvalidInputError(message)
        self.config = config
        self.loop = asyncio.get_running_loop()
        hosts = config.hosts_per_node or 1
        self.nodes = {f"node-{n + 1}": LocalNode(f"node-{n + 1}", n, hosts) for n in range(count)}
        self.started = time.time() - self.loop.time()
        self.record = _formed(count, config)
        self.switchboard = Switchboard()
        self.outside: list[LocalTransport] = []  # of callers
        self.sending: dict[asyncio.Task[bytes], tuple[int, int]] = {}  # frames: from and to where
        self._counter = 0
        self._settings = VIRTUAL_SETTINGS if self._is_virtual() else SETTINGS
        self._make_binding = make_binding
        self._changed = asyncio.Event()
        self._preferring: asyncio.TimerHandle | None = None
        self._views = {self.switchboard.side(OUTSIDE): self._first_view()}
        self.splits = Splits(self)

    @property
    def view(self) -> View:
        """What callers from outside can know."""
        return self.view_at(OUTSIDE)

    def view_at(self, node: int) -> View:
        """What can be known on the side that a node is on."""
        return self._views[self.switchboard.side(node)]

    def views_follow(self) -> None:
        """The network was cut or joined: what each side knows from now on."""
        known = list(dict.fromkeys(map(id, self._views.values())))
        views = [next(one for one in self._views.values() if id(one) == which) for which in known]
        sides = {self.switchboard.side(node.index) for node in self.nodes.values()}
        whole = views[0]
        for other in views[1:]:
            whole = whole.merge(other)
        self._views = dict.fromkeys((*sides, self.switchboard.side(OUTSIDE)), whole)
        self._counter += 1
        whole.source = f"local:{self._counter}"
        self._tell_changed()

    def _first_view(self) -> View:
        members = []
        for node in self.nodes.values():
            members.append(self._member(node))
            for part, disk in enumerate(node.disks, 1):
                for number, group in enumerate(self.record.shards):
                    mine = [one for one in group.replicas if one.node == node.index]
                    if mine and part_of_shard(number, len(node.disks)) == part:
                        disk.format(number, mine[0], group.config)
        replicas = tuple(
            tuple(one.node for one in group.config.voters) for group in self.record.shards
        )
        record = self.record
        leads = (None,) * len(replicas)
        return View(
            record.cluster_id, record.recovery_no, record.epoch, tuple(members), replicas, leads
        )

    def _member(self, node: LocalNode) -> Member:
        return Member(
            node=node.index,
            id=node.id,
            name=node.name,
            status="up",
            boot=node.boot,
            life=1,
            supervisor=f"supervisor/{node.name}",
            hosts=node.addresses(),
            resources={"CPU": CORES},
        )

    async def start(self) -> None:
        """Bring all nodes up."""
        for node in self.nodes.values():
            node.is_up = True
            node.open_peers(self.switchboard, self.record.cluster_id)
        for node in self.nodes.values():
            self._introduce(node)
            self._make_hosts(node)
        self.splits.look()
        for node in self.nodes.values():
            for host in node.hosts.values():
                await host.start()
        await self._until_led()
        self.prefer_later()

    async def _until_led(self) -> None:
        """Return when every shard has a leader, which takes no time that can be told."""
        while not all(self.view.leaders):
            if self._is_virtual():
                for host in self.hosts():
                    host.replicas.tick()
                await asyncio.sleep(0)
            else:
                await self.wait_change()

    def _introduce(self, node: LocalNode) -> None:
        """Everybody knows where the processes of the node are, and they where everybody is."""
        for other in self.nodes.values():
            for mine in node.peers if other.is_up else ():
                for theirs in other.peers:
                    mine.know(other.index, theirs.part, theirs.address, other.boot)
                    theirs.know(node.index, mine.part, mine.address, node.boot)

    def _make_hosts(self, node: LocalNode) -> None:
        node.peers[0].start(_Ears(self, node))
        for part, (address, disk) in enumerate(zip(node.addresses(), node.disks, strict=True), 1):
            transport = LocalTransport(self, node.index)
            node.transports.append(transport)
            host = ShardHost(
                address,
                node.id,
                self.view_at(node.index),
                config=self.config,
                transport=transport,
                scheduler=LocalScheduler(self),
                workers=LocalWorkers(self, node),
                wall=self.wall,
            )
            host.binding = self._make_binding(host.client)
            host.replicas = Replicas(
                self._core(node, part, disk),
                part,
                peers=node.peers[part],
                disk=disk,
                wall=self.wall,
                hosts_of=lambda _: self.config.hosts_per_node or 1,
                upper=host,
                tick_seconds=VIRTUAL_TICK if self._is_virtual() else TICK,
                rank_seconds=self._settings.rank_ms / 1000,
            )
            node.hosts[address] = host

    def _core(self, node: LocalNode, part: int, disk: MemoryDisk) -> Node:
        hosts = len(node.disks)

        def owns(group: int) -> bool:
            return group != ROOT and part_of_shard(group, hosts) == part

        def service(emit: Any, group: Any, **known: Any) -> Service:
            return Service(
                emit,
                group,
                boot=node.boot,
                settings=self._settings,
                next_due=next_due,
                **known,
            )

        return Node(
            node.index,
            self.record,
            disk.stored(),
            service,
            self._settings,
            int(self.loop.time() * 1000),
            1 + node.boot,
            owns=owns,
        )

    def take_leads(self, node: int, leads: Leads) -> None:
        """A host tells which shards it leads."""
        side = self.switchboard.side(node)
        view = self._views[side]
        for shard, ballot in leads.rows:
            view = view.with_lead(shard, Lead(ballot, node))
        self._show(side, view)

    def _prefer(self) -> None:
        """Have shards led where they are to be, a while after nodes have come or gone."""
        is_done = True
        for host in self.hosts():
            reachable = host.replicas.core.reachable
            for shard in host.replicas.led_shards():
                first = next((one for one in self.view.replicas[shard] if one in reachable), None)
                if first is not None:
                    is_done = host.replicas.hand_over(shard, first) and is_done
        if not is_done:
            self.prefer_later()

    def prefer_later(self) -> None:
        """Have shards led where they are to be, in a while."""
        if self._preferring is not None:
            self._preferring.cancel()
        self._preferring = self.loop.call_later(PREFER_SECONDS, self._prefer)

    def _show_member(self, member: Member, *, is_gone: bool = False) -> None:
        """A node has come or gone: all sides know."""
        for side, view in list(self._views.items()):
            members = tuple(member if one.node == member.node else one for one in view.members)
            leads = tuple(
                None if is_gone and lead is not None and lead.node == member.node else lead
                for lead in view.leads
            )
            cluster, recovery, epoch = view.cluster_id, view.recovery_no, view.epoch + 1
            self._show(side, View(cluster, recovery, epoch, members, view.replicas, leads))

    def _show(self, side: int, view: View) -> None:
        if view is self._views[side]:
            return
        self._counter += 1
        view.source = f"local:{self._counter}"
        self._views[side] = view
        self._tell_changed()

    def _tell_changed(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def wait_change(self) -> None:
        """Return when some side has another view."""
        await self._changed.wait()

    def hosts(self) -> list[ShardHost]:
        """Those of all nodes that are up."""
        return [host for node in self.nodes.values() if node.is_up for host in node.hosts.values()]

    def wall(self) -> float:
        """Time for people: that of the loop, on a calendar."""
        return self.started + self.loop.time()

    def host(self, address: str) -> ShardHost | None:
        """The living host at an address."""
        for node in self.nodes.values():
            if node.is_up and address in node.hosts:
                return node.hosts[address]
        return None

    def place(self, address: str) -> LocalNode | None:
        """The node of the host at an address, dead or alive."""
        name = address.removeprefix("host/").rpartition(".")[0]
        return self.nodes.get(name)

    def node_by_id(self, id_: str) -> LocalNode | None:
        """The node, if it is up in the life that has this id."""
        return next((n for n in self.nodes.values() if n.id == id_ and n.is_up), None)

    def named(self, name: str) -> LocalNode:
        """The node with this name or id.

        Raises:
            InvalidInputError: There is none.
        """
        for node in self.nodes.values():
            if name in (node.name, node.id):
                return node
        message = f"there is no node {name!r}; there are {', '.join(self.nodes)}"
        raise InvalidInputError(message)

    async def kill(self, name: str) -> None:
        """End a node at once, as if its machine had lost power."""
        node = self.named(name)
        if not node.is_up:
            message = f"node {name!r} is down already"
            raise UsageError(message)
        node.is_up = False
        hosts, node.hosts = list(node.hosts.values()), {}
        for run in list(node.runs):
            run.cancel()
        for host in hosts:
            await host.close()
        self._disconnect(node)
        for peers in node.peers:
            peers.close()
        self._show_member(replace(self._member(node), status="down"), is_gone=True)
        self.splits.look()

    def _disconnect(self, node: LocalNode) -> None:
        """What the kernel tells the others when the connections of a dead node close."""
        transports, node.transports = node.transports, []
        for other in self.nodes.values():
            for host in other.hosts.values():
                for transport in transports:
                    host.disconnected(transport)

    async def restart(self, name: str) -> None:
        """Bring a killed node back, with what its disks hold."""
        node = self.named(name)
        if node.is_up:
            message = f"node {name!r} is up; kill it first"
            raise UsageError(message)
        node.boot += 1
        node.is_up = True
        node.open_peers(self.switchboard, self.record.cluster_id)
        self._introduce(node)
        self._show_member(self._member(node))
        self._make_hosts(node)
        self.splits.look()
        for host in node.hosts.values():
            await host.start()
        self.prefer_later()

    async def settle(self) -> None:
        """Return when nothing is in flight: no call, no turn, no run, no move."""
        quiet = 0
        while quiet < 3:
            # A short real pause, not only a pass of the loop: sync handlers run in threads. It
            # would not end where time passes only when it is told to.
            await asyncio.sleep(0 if self._is_virtual() else 0.001)
            quiet = 0 if self._is_busy() else quiet + 1

    def _is_virtual(self) -> bool:
        """Whether time stands still until it is told to pass, hours at a go."""
        return isinstance(self.loop, VirtualLoop)

    def _is_busy(self) -> bool:
        return any(host.is_working() for host in self.hosts())

    async def stop(self) -> None:
        """End all nodes."""
        if self._preferring is not None:
            self._preferring.cancel()
        self.splits.close()
        for node in self.nodes.values():
            if node.is_up:
                node.is_up = False
                for run in list(node.runs):
                    run.cancel()
                for host in node.hosts.values():
                    await host.close()


MakeBinding = Callable[[Any], ClusterBinding]


def _formed(count: int, config: ClusterConfig) -> Record:
    """The record of a cluster that has formed: all nodes up, every shard with its replicas."""
    founder = MemberRecord(0, "node-1.id", 1, 0, "node-1")
    record = found(new_id(), founder, shards=config.shards, replicas=config.replicas, expect=count)
    commands: list[Command] = []
    for node in range(1, count):
        commands.append(Join(f"node-{node + 1}.id", node, f"node-{node + 1}", (), 1.0, None, ""))
        commands.append(BecomeUp(node, 1))
    return preview(apply_all(record, commands)[0], World()).record


class LocalTransport:
    """Hands frames over on the loop; both sides still pack and unpack them.

    Args:
        runtime: Of the cluster.
        node: Index of the node it is on; `OUTSIDE` for that of a caller.
    """

    def __init__(self, runtime: LocalRuntime, node: int = OUTSIDE) -> None:
        self._runtime = runtime
        self.node = node
        if node == OUTSIDE:
            runtime.outside.append(self)

    def send(self, host: str, frame: bytes) -> "asyncio.Future[bytes]":
        """As the port says."""
        runtime = self._runtime
        place = runtime.place(host)
        if place is not None and not runtime.switchboard.is_joined(self.node, place.index):
            failed: asyncio.Future[bytes] = runtime.loop.create_future()
            message = f"host {host} cannot be reached"
            failed.set_exception(PeerTroubleError(message, was_sent=False))
            return failed
        task = runtime.loop.create_task(self._send(host, frame))
        if place is not None:
            runtime.sending[task] = (self.node, place.index)
            task.add_done_callback(runtime.sending.pop)
        return task

    async def _send(self, address: str, frame: bytes) -> bytes:
        host = self._runtime.host(address)
        if host is None:
            message = f"host {address} is down"
            raise PeerGoneError(message, was_sent=False)
        answer = await host.frame(frame, self)
        if host.is_closed:
            message = f"host {address} went down before it could answer"
            raise PeerGoneError(message)
        return answer

    async def ask(self, supervisor: str, operation: str, data: bytes) -> bytes:
        """As the port says; nobody is there to be asked."""
        message = f"{supervisor} answers nothing"
        raise PeerTroubleError(message)

    async def newer_view(self, source: str) -> View:
        """As the port says."""
        while (view := self._runtime.view_at(self.node)).source == source:
            await self._runtime.wait_change()
        return view


class LocalScheduler:
    """Runs actions as tasks that die with their node."""

    def __init__(self, runtime: LocalRuntime) -> None:
        self._runtime = runtime

    async def run(
        self, node: Member, request: bytes, resources: Mapping[str, float], run_id: str
    ) -> bytes:
        """As the port says."""
        place = self._runtime.node_by_id(node.id)
        if place is None:
            message = f"node {node.name} is down"
            raise PeerTroubleError(message)
        host = next(iter(place.hosts.values()))
        task = self._runtime.loop.create_task(run_request(request, node.name, host.binding))
        place.runs.add(task)
        try:
            return await task
        except asyncio.CancelledError:
            if place.is_up or self._runtime.node_by_id(node.id) is place:
                raise
            message = f"node {node.name} went down under the run"
            raise PeerTroubleError(message) from None
        finally:
            task.cancel()
            place.runs.discard(task)


class LocalWorkers:
    """Gives out workers that are objects of this process."""

    def __init__(self, runtime: LocalRuntime, node: LocalNode) -> None:
        self._runtime = runtime
        self._node = node

    async def acquire(
        self, options: Mapping[str, Any] | None, needs: list[Any] | None
    ) -> "LocalWorker":
        """As the port says; options of Ray actors mean nothing here."""
        host = next(iter(self._node.hosts.values()))
        return LocalWorker(Worker(host.binding))


class LocalWorker:
    """A worker in this process."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self.is_closed = False

    async def turn(self, request: bytes, timeout: float | None) -> bytes:
        """As the port says."""
        self._check()
        return await self._worker.turn(unpack(request))

    async def stream(self, request: bytes, timeout: float | None, put: Put) -> bytes:
        """As the port says."""
        self._check()
        return await self._worker.turn(unpack(request), put)

    def close(self) -> None:
        """As the port says."""
        self.is_closed = True

    def _check(self) -> None:
        if self.is_closed:
            message = "the worker was closed"
            raise PeerGoneError(message)


def check_local(config: ClusterConfig | None) -> ClusterConfig:
    """The configuration of a local cluster; its modules are imported here.

    Raises:
        ConfigError: A module cannot be imported.
    """
    config = config or ClusterConfig()
    import_modules(config.modules)
    return config
