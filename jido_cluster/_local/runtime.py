"""A cluster in one process: nodes, their hosts, and the root group, all on one loop.

The code between the ports is the one that runs on Ray. What is different: frames are handed over
instead of sent, a dedicated agent's worker is an object instead of a process, an action runs as a
task instead of on another machine (`places`), and `kill` is known to everybody at once. What nodes
know is known to all at once, but not across a cut of the network (`splits`).
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final, cast

from jido_cluster._local.clock import VirtualLoop
from jido_cluster._local.disk import MemoryDisk
from jido_cluster._local.peers import OUTSIDE, WHOLE, LocalPeers, Switchboard
from jido_cluster._local.places import LocalScheduler, LocalTransport, LocalWorkers
from jido_cluster._local.root import LocalRoot
from jido_cluster._local.splits import Splits
from jido_cluster.config import ClusterConfig
from jido_cluster.errors import InvalidInputError, NoQuorumError, UsageError
from jido_cluster.exec.context import ClusterBinding
from jido_cluster.ids import new_id
from jido_cluster.runtime.actions import import_modules
from jido_cluster.runtime.host import ShardHost
from jido_cluster.runtime.peer_messages import Leads
from jido_cluster.runtime.replicas import Replicas, part_of_shard
from jido_cluster.runtime.schedules import next_due
from jido_cluster.runtime.view import Lead, Member, MemberStatus, View
from jido_placement.changes import apply_all
from jido_placement.commands import Accepted, BecomeUp, Command, Join
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
        self.life = 1
        self.disks = [MemoryDisk() for _ in range(hosts)]
        self.peers: list[LocalPeers] = []
        self.hosts: dict[str, ShardHost] = {}
        self.transports: list[LocalTransport] = []  # of its hosts
        self.runs: set[asyncio.Task[Any]] = set()
        self.is_up = False
        self.has_left = False

    @property
    def id(self) -> str:
        """Stays its own over restarts, as its disks do."""
        return _id_of(self.index)

    @property
    def supervisor(self) -> str:
        """Where control requests go."""
        return f"supervisor/{self.name}.{self.life}"

    def addresses(self) -> tuple[str, ...]:
        """Addresses of its hosts, in this life of the node."""
        return tuple(f"host/{self.name}.{self.life}/{part}" for part in range(len(self.disks)))

    def start_over(self, index: int) -> None:
        """Be another member, with empty disks."""
        self.index = index
        self.boot = 0
        self.disks = [MemoryDisk() for _ in self.disks]
        self.has_left = False

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
            if type(message) is not Leads:
                self._runtime.root.received(node, part, message)
            elif node == self._node.index:
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
        record = _formed(count, config)
        self.root = LocalRoot(record, self)
        self.switchboard = Switchboard()
        self.outside: list[LocalTransport] = []  # of callers
        self.sending: dict[asyncio.Task[bytes], tuple[int, int]] = {}  # frames: from and to where
        self._counter = 0
        self._settings = VIRTUAL_SETTINGS if self._is_virtual() else SETTINGS
        self._make_binding = make_binding
        self._changed = asyncio.Event()
        self._preferring: asyncio.TimerHandle | None = None
        self._has_started = False
        self._epoch = record.epoch  # of views: rises with all that they show
        # By side: the newest record that is known there, and what it and its leaders come to.
        self._records = {WHOLE: record}
        self._views = {WHOLE: self._first_view(record)}
        self.splits = Splits(self)

    @property
    def view(self) -> View:
        """What callers from outside can know."""
        return self.view_at(OUTSIDE)

    def view_at(self, node: int) -> View:
        """What can be known on the side that a node is on."""
        return self._views[self.switchboard.side(node)]

    def record_at(self, node: int) -> Record:
        """The newest record that is known on the side that a node is on."""
        return self._records[self.switchboard.side(node)]

    def views_follow(self) -> None:
        """The network was cut or joined: what was known before is known on all sides."""
        known = list(self._views.values())
        whole = known[0]
        for other in known[1:]:
            whole = whole.merge(other)
        sides = {self.switchboard.side(node.index) for node in self.nodes.values()}
        sides.add(self.switchboard.side(OUTSIDE))
        is_news = any(record is not self.root.record for record in self._records.values())
        self._records = dict.fromkeys(sides, self.root.record)
        self._views = dict.fromkeys(sides, whole)
        self.root.tell_all()
        if is_news:
            self.show_record()
        else:
            self._counter += 1
            whole.source = f"local:{self._counter}"
            self._tell_changed()

    def _first_view(self, record: Record) -> View:
        for node in self.nodes.values():
            for part, disk in enumerate(node.disks, 1):
                for number, group in enumerate(record.shards):
                    mine = [one for one in group.replicas if one.node == node.index]
                    if mine and part_of_shard(number, len(node.disks)) == part:
                        disk.format(number, mine[0], group.config)
        return self._make_view(record, (None,) * len(record.shards))

    def _make_view(self, record: Record, leads: tuple[Lead | None, ...]) -> View:
        """Of a record, and of who is up."""
        members = tuple(self._member(one) for one in record.members)
        replicas = tuple(
            tuple(dict.fromkeys(one.node for one in group.config.members))
            for group in record.shards
        )
        return View(record.cluster_id, record.recovery_no, self._epoch, members, replicas, leads)

    def _member(self, member: MemberRecord) -> Member:
        node = self.node_at(member.node)
        if node is None:  # it has left, which is not known on the side that this is for
            return Member(node=member.node, id=member.id, name=member.name, status="down")
        # A node that was killed: the record still has it as it was, since nothing of it is moved.
        is_known_dead = self._has_started and not node.is_up
        status = "down" if is_known_dead else member.status.name.lower()
        return Member(
            node=node.index,
            id=node.id,
            name=node.name,
            status=cast("MemberStatus", status),
            boot=node.boot,
            life=node.life,
            supervisor=node.supervisor,
            hosts=node.addresses(),
            resources={"CPU": CORES},
        )

    async def start(self) -> None:
        """Bring all nodes up."""
        for node in self.nodes.values():
            node.is_up = True
            node.open_peers(self.switchboard, self.root.record.cluster_id)
        self._has_started = True
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
            self.record_at(node.index),
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
        if view is not self._views[side]:
            self._show(side, view)
            self.root.look_soon()

    def _prefer(self) -> None:
        """Have shards led where they are to be, a while after nodes have come or gone."""
        is_done = True
        for host in self.hosts():
            core = host.replicas.core
            for shard in host.replicas.led_shards():
                config = core.groups[shard].config
                if config.is_joint:
                    continue  # who is to lead it then is not settled yet
                able = (one.node for one in config.voters if one.node in core.reachable)
                first = next(able, None)
                if first is not None:
                    is_done = host.replicas.hand_over(shard, first) and is_done
        if not is_done:
            self.prefer_later()

    def prefer_later(self) -> None:
        """Have shards led where they are to be, in a while."""
        if self._preferring is not None:
            self._preferring.cancel()
        self._preferring = self.loop.call_later(PREFER_SECONDS, self._prefer)

    def show_record(self) -> None:
        """The record has changed, or a node has come or gone: all sides know that can."""
        if self.root.side is not None:
            self._records[self.root.side] = self.root.record
        up = {node.index for node in self.up()}
        self._epoch += 1
        for side, record in self._records.items():
            there = up.intersection(one.node for one in record.members)
            leads = tuple(
                None if lead is None or lead.node not in there else lead
                for lead in self._views[side].leads
            )
            self._show(side, self._make_view(record, leads))

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

    def up(self) -> list[LocalNode]:
        """The nodes whose processes run."""
        return [node for node in self.nodes.values() if node.is_up]

    def hosts(self) -> list[ShardHost]:
        """Those of all nodes that are up."""
        return [host for node in self.up() for host in node.hosts.values()]

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

    def node_at(self, index: int) -> LocalNode | None:
        """The node that is this member; None when none is any more."""
        return next((node for node in self.nodes.values() if node.index == index), None)

    def supervised(self, supervisor: str) -> LocalNode | None:
        """The node with this supervisor, if it is up."""
        return next(
            (n for n in self.nodes.values() if n.supervisor == supervisor and n.is_up), None
        )

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
            what = "has left the cluster" if node.has_left else "is down"
            message = f"node {name!r} {what} already"
            raise UsageError(message)
        await self._end(node)

    async def _end(self, node: LocalNode) -> None:
        node.is_up = False
        hosts, node.hosts = list(node.hosts.values()), {}
        for run in list(node.runs):
            run.cancel()
        for host in hosts:
            await host.close()
        self._disconnect(node)
        for peers in node.peers:
            peers.close()
        self.show_record()
        self.splits.look()

    def _disconnect(self, node: LocalNode) -> None:
        """What the kernel tells the others when the connections of a dead node close."""
        transports, node.transports = node.transports, []
        for other in self.nodes.values():
            for host in other.hosts.values():
                for transport in transports:
                    host.disconnected(transport)

    async def restart(self, name: str) -> None:
        """Bring a killed node back, with what its disks hold; one that has left joins anew."""
        node = self.named(name)
        if node.is_up:
            message = f"node {name!r} is up; kill it first"
            raise UsageError(message)
        if node.has_left:
            self._join_anew(node)
        node.boot += 1
        node.life += 1
        node.is_up = True
        node.open_peers(self.switchboard, self.root.record.cluster_id)
        self._introduce(node)
        self.show_record()
        self._make_hosts(node)
        self.splits.look()
        for host in node.hosts.values():
            await host.start()
        self.root.apply(BecomeUp(node.index, 1))
        self.prefer_later()

    def _join_anew(self, node: LocalNode) -> None:
        index = self.root.record.next_node
        if self.root.side != self.switchboard.side(index):
            message = f"node {node.name!r} cannot join now: no majority of the nodes is in reach"
            raise NoQuorumError(message, retry_after=1.0)
        node.start_over(index)
        joined = self.root.apply(Join(node.id, index, node.name, (), 1.0, None, ""))
        assert isinstance(joined, Accepted), joined

    async def leave(self, index: int) -> None:
        """A node is no member any more: its processes end when the runs on it have."""
        node = self.node_at(index)
        assert node is not None
        node.has_left = True
        if node.runs:
            await asyncio.wait(node.runs)
        if node.is_up and node.index == index:
            await self._end(node)

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
        self.root.close()
        for node in self.nodes.values():
            if node.is_up:
                node.is_up = False
                for run in list(node.runs):
                    run.cancel()
                for host in node.hosts.values():
                    await host.close()


MakeBinding = Callable[[Any], ClusterBinding]


def _id_of(index: int) -> str:
    """The uuid of the node with this index; of one that joins again it is another one."""
    return f"node-{index + 1}.id"


def _formed(count: int, config: ClusterConfig) -> Record:
    """The record of a cluster that has formed: all nodes up, every shard with its replicas."""
    founder = MemberRecord(0, _id_of(0), 1, 0, "node-1")
    record = found(new_id(), founder, shards=config.shards, replicas=config.replicas, expect=count)
    commands: list[Command] = []
    for node in range(1, count):
        commands.append(Join(_id_of(node), node, f"node-{node + 1}", (), 1.0, None, ""))
        commands.append(BecomeUp(node, 1))
    return preview(apply_all(record, commands)[0], World()).record


def check_local(config: ClusterConfig | None) -> ClusterConfig:
    """The configuration of a local cluster; its modules are imported here.

    Raises:
        ConfigError: A module cannot be imported.
    """
    config = config or ClusterConfig()
    import_modules(config.modules)
    return config
