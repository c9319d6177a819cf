"""Machines with supervisors and small hosts, in one process on virtual time: fakes of the ports.

Messages are packed, and handed over on the loop. A machine has a data directory (identity and
disks) that stays when it is killed, and a process that does not. Hosts run real cores for their
shards, and nothing of a runtime above them.
"""

import asyncio
import random
from collections.abc import Callable, Coroutine, Iterable
from functools import partial
from typing import Any, TypeVar

from jido_cluster._local.clock import VirtualLoop
from jido_cluster.config import ClusterConfig
from jido_cluster.errors import JidoError
from jido_cluster.ports import PeerTroubleError
from jido_cluster.runtime.control import ControlSettings, NodeControl, Ports
from jido_cluster.runtime.entry import About
from jido_cluster.runtime.formation import Seen
from jido_cluster.runtime.identity import MemoryIdentity
from jido_cluster.runtime.peer_messages import Leads, Standing
from jido_cluster.runtime.peer_wire import pack_messages, unpack_messages
from jido_placement.policies import Strategy
from jido_placement.record import ROOT, Record
from jido_placement.timings import Timings
from jido_state.entries import PersistEntries
from jido_state.messages import Persist
from jido_state.node import Node, StoredGroup
from jido_state.node_messages import Frame, GroupEffect, HandOver, ToNode
from jido_state.service import Service
from jido_state.settings import GroupSettings

T = TypeVar("T")

WALL = 1_700_000_000.0
TICK = 0.1


def run(main: Callable[["World"], Coroutine[Any, Any, T]], **options: Any) -> T:
    """The result of `main` on virtual time; fails on errors that nobody has looked at."""
    unseen: list[str] = []

    async def body() -> T:
        world = World(**options)
        try:
            return await main(world)
        finally:
            world.close()

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        loop = runner.get_loop()
        loop.set_exception_handler(
            lambda _, context: unseen.append(f"{context['message']}: {context.get('exception')!r}")
        )
        result = runner.run(body())
    assert not unseen, unseen
    return result


async def until(holds: Callable[[], Any], what: str, seconds: float = 60.0) -> float:
    """Lets virtual time pass until it holds; the seconds that took."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    start = loop.time()
    while not holds():
        assert loop.time() - start < seconds, f"not within {seconds} s: {what}"
        await loop.advance(0.05)
    return loop.time() - start


class MemoryDisk:
    """A disk whose content stays when its process ends."""

    def __init__(self) -> None:
        self.stored: dict[int, StoredGroup] = {}
        self.appended = 0
        self._generation = 0

    def opened(self) -> "OpenDisk":
        """For one process; an earlier one can write no more."""
        self._generation += 1
        return OpenDisk(self, self._generation)

    def copy(self) -> "MemoryDisk":
        """As the file was at this moment."""
        other = MemoryDisk()
        other.stored, other.appended = dict(self.stored), self.appended
        return other

    def put(self, group: int, effect: Persist | PersistEntries) -> None:
        held = self.stored.get(group, StoredGroup(None))
        self.appended += 1
        if isinstance(effect, Persist):
            rows = {} if effect.clears else dict(held.rows)
            for key, row in effect.rows.items():
                if row is None:
                    rows.pop(key, None)
                else:
                    rows[key] = row
            held = held._replace(header=effect.header or held.header, rows=rows)
        self.stored[group] = held._replace(appended=self.appended)


class OpenDisk:
    """The port `Disk`."""

    def __init__(self, disk: MemoryDisk, generation: int) -> None:
        self._disk = disk
        self._generation = generation
        self._listener: Any = None
        self._waiting: list[tuple[int, int, Persist | PersistEntries]] = []

    def start(self, listener: Any) -> None:
        self._listener = listener

    def write(self, group: int, rno: int, effect: Persist | PersistEntries) -> None:
        if not self._waiting:
            asyncio.get_running_loop().call_soon(self._commit)
        self._waiting.append((group, rno, effect))

    def _commit(self) -> None:
        if self._generation == self._disk._generation:
            written, self._waiting = self._waiting, []
            for group, _, effect in written:
                self._disk.put(group, effect)
            self._listener.durable(written, self._disk.appended)

    def close(self) -> None:
        self._disk._generation += 1


class FakePeers:
    """The port `Peers`: hands messages over, unless a side is dead or the link is cut."""

    def __init__(self, world: "World", address: str, node: int, part: int) -> None:
        self._world = world
        self.address = address
        self.node = node
        self.part = part
        self.listener: Any = None
        self.known: dict[tuple[int, int], str] = {}

    def start(self, listener: Any) -> None:
        self.listener = listener
        self._world.links[self.address] = self

    def know(self, node: int, part: int, address: str, life: int) -> None:
        self.known[node, part] = address

    def send(self, node: int, part: int, message: Any) -> None:
        address = self.known.get((node, part), "")
        if address:
            self._world.loop.call_soon(self._arrive, address, pack_messages([message]))

    def _arrive(self, address: str, data: bytes) -> None:
        other = self._world.links.get(address)
        if other is not None and self._world.is_linked(self.address, address):
            other.listener.received(self.node, self.part, unpack_messages(data))

    def close(self) -> None:
        if self._world.links.get(self.address) is self:
            del self._world.links[self.address]
            for other in list(self._world.links.values()):
                for (node, part), address in list(other.known.items()):
                    if address == self.address and self._world.is_linked(address, other.address):
                        self._world.loop.call_soon(other.listener.gone, node, part)


class SmallHost:
    """A host process: real replicas, and nobody who uses them."""

    def __init__(self, machine: "Machine", part: int, record: Record, node: int, boot: int) -> None:
        self._world = world = machine.world
        self._machine = machine
        self.part = part
        self.record = record
        settings = world.settings.group
        service = partial(Service, boot=boot, settings=settings, next_due=lambda *_: None)
        self.peers = FakePeers(world, f"{machine.name}/{world.number()}", node, part)
        self.disk = machine.host_disks.setdefault(part, MemoryDisk())
        hosts = world.hosts
        self.core = Node(
            node,
            record,
            self.disk.stored,
            service,
            settings,
            int(world.loop.time() * 1000),
            world.random.getrandbits(31),
            owns=lambda group: group != ROOT and 1 + group % hosts == part,
        )
        self._open = self.disk.opened()
        self.standing: Standing | None = None
        self.told: list[Standing] = []
        self._ticking: asyncio.TimerHandle | None = None
        self._open.start(self)
        self.peers.start(self)

    def start(self) -> None:
        for member in self._machine.control.gossip.view.members:
            for part, address in enumerate(member.peers):
                self.peers.know(member.node, part, address, 0)
        self._tick()

    def close(self) -> None:
        if self._ticking is not None:
            self._ticking.cancel()
        self._open.close()
        self.peers.close()

    def _now(self) -> int:
        return int(self._world.loop.time() * 1000)

    def _tick(self) -> None:
        self._ticking = self._world.loop.call_later(TICK, self._tick)
        self.start_links()
        self._perform(self.core.tick(self._now()))
        rows = tuple(
            (shard, tuple(group.leadership.ballot))
            for shard, group in sorted(self.core.groups.items())
            if group.leadership is not None
        )
        self.peers.send(self.core.node, 0, Leads(rows))

    def start_links(self) -> None:
        """As a host of the runtime does: goes by the newest view of its supervisor."""
        for member in self._machine.control.gossip.view.members:
            for part, address in enumerate(member.peers):
                if self.peers.known.get((member.node, part)) != address:
                    self.peers.know(member.node, part, address, 0)

    def received(self, node: int, part: int, messages: list[Any]) -> None:
        for message in messages:
            if isinstance(message, Standing):
                self.standing = message
                self.told.append(message)
                self.core.reachable = frozenset(message.reachable)
                self.core.admitted = frozenset(Strategy(name) for name in message.admitted)
            else:
                self._perform(self.core.receive(node, message, self._now()))

    def gone(self, node: int, part: int) -> None:
        pass

    def back(self, node: int, part: int) -> None:
        pass

    def durable(self, written: Iterable[tuple[int, int, Any]], appended: int) -> None:
        for group, rno, effect in written:
            if isinstance(effect, Persist):
                self._perform(self.core.persisted(group, rno, effect.ticket, self._now()))

    def full(self, *, is_full: bool) -> None:
        raise AssertionError

    def _perform(self, effects: list[ToNode | GroupEffect]) -> None:
        for effect in effects:
            if isinstance(effect, ToNode):
                message = effect.message
                part = 0
                if isinstance(message, Frame | HandOver):
                    part = 1 + message.group % self._world.hosts
                self.peers.send(effect.to, part, message)
            elif isinstance(effect.effect, Persist):
                self._open.write(effect.group, effect.rno, effect.effect)


class Machine:
    """A data directory, and the processes that run on it."""

    def __init__(self, world: "World", name: str, config: ClusterConfig) -> None:
        self.world = world
        self.name = name
        self.config = config
        self.identity = MemoryIdentity(f"id-{name}")
        self.root_disk = MemoryDisk()
        self.host_disks: dict[int, MemoryDisk] = {}
        self.hosts: list[SmallHost] = []
        self.is_up = False
        self.ended: list[JidoError] = []
        self._control: NodeControl | None = None

    @property
    def control(self) -> NodeControl:
        assert self._control is not None
        return self._control

    @property
    def record(self) -> Record:
        return self.control.record

    @property
    def node(self) -> int:
        assert self.control.node is not None
        return self.control.node

    def begin(self) -> "asyncio.Task[None]":
        """Starts its processes."""
        world = self.world
        number = world.number()
        self.identity = self.identity.copy()
        self.is_up = True
        self.ended = []
        supervisor = f"{self.name}/supervisor/{number}"

        def open_peers(cluster_id: str, node: int, boot: int) -> FakePeers:
            return FakePeers(world, f"{self.name}/peer/{number}", node, 0)

        self._control = NodeControl(
            self.config,
            world.settings,
            About(self.name, resources={"CPU": 1.0}),
            supervisor=supervisor,
            peer=f"{self.name}/peer/{number}",
            ports=Ports(
                identity=self.identity,
                discovery=FakeDiscovery(world, self),
                transport=FakeTransport(world, self),
                disk=self.root_disk.opened(),
                stored=dict(self.root_disk.stored),
                open_peers=open_peers,
                wall=lambda: WALL + world.loop.time() + world.skews.get(self.name, 0.0),
                draw=world.random.getrandbits,
            ),
            on_end=self.ended.append,
        )
        self.starting = world.loop.create_task(self._run())
        return self.starting

    async def _run(self) -> None:
        record = await self.control.start()
        count = self.world.hosts
        boot = self.control.boot.number
        self.hosts = [
            SmallHost(self, part, record, self.node, boot) for part in range(1, count + 1)
        ]
        for host in self.hosts:
            host.start()
        await self.control.serve(
            [f"frames/{host.peers.address}" for host in self.hosts],
            [host.peers.address for host in self.hosts],
        )

    def replace_host(self, place: int) -> None:
        """Another process takes the place of a host that died."""
        node, boot = self.node, self.control.boot.number
        host = self.hosts[place] = SmallHost(self, place + 1, self.record, node, boot)
        host.start()
        address = host.peers.address
        self.control.replace_host(place + 1, f"frames/{address}", address)

    def kill(self) -> None:
        """As if the machine had lost power."""
        self.is_up = False
        self.starting.cancel()
        for host in self.hosts:
            host.close()
        self.hosts = []
        self.control.close()

    def copy(self, name: str) -> "Machine":
        """Another machine with a copy of the data directory."""
        other = self.world.add(name)
        other.identity = self.identity.copy()
        other.root_disk = self.root_disk.copy()
        return other


class FakeDiscovery:
    """The port `Discovery`."""

    def __init__(self, world: "World", machine: Machine) -> None:
        self._world = world
        self._machine = machine

    async def others(self) -> list[Seen]:
        await asyncio.sleep(0.001)
        machines = self._world.machines.values()
        return [
            one.control.seen
            for one in machines
            if one is not self._machine
            and one.is_up
            and self._world.is_linked(self._machine.name, one.name)
        ]

    async def claim(self, value: str) -> str:
        await asyncio.sleep(0.001)
        self._world.claims += 1
        self._world.claimed = self._world.claimed or value
        return self._world.claimed


class FakeTransport:
    """The part of the port `Transport` that supervisors use."""

    def __init__(self, world: "World", machine: Machine) -> None:
        self._world = world
        self._machine = machine

    def send(self, host: str, frame: bytes) -> "asyncio.Future[bytes]":
        raise AssertionError

    async def ask(self, supervisor: str, operation: str, data: bytes) -> bytes:
        await asyncio.sleep(0.001)
        for one in self._world.machines.values():
            is_there = one.is_up and one.control.supervisor == supervisor
            if is_there and self._world.is_linked(self._machine.name, one.name):
                return await one.control.answer(operation, data)
        raise PeerTroubleError(f"{supervisor} does not answer")

    async def newer_view(self, source: str) -> Any:
        raise AssertionError


class World:
    """All machines, and what connects them."""

    def __init__(
        self, *, expect: int = 3, shards: int = 8, replicas: int = 3, hosts: int = 1, **options: Any
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.random = random.Random(1)
        self.config = ClusterConfig(shards=shards, replicas=replicas)
        self.settings = ControlSettings(
            expect=expect, timings=Timings.local(), group=GroupSettings(), **options
        )
        self.hosts = hosts
        self.machines: dict[str, Machine] = {}
        self.links: dict[str, FakePeers] = {}
        self.skews: dict[str, float] = {}
        self.sides: tuple[frozenset[str], ...] = ()
        self.claimed: str | None = None
        self.claims = 0
        self._count = 0

    def number(self) -> int:
        self._count += 1
        return self._count

    def add(self, name: str, **config: Any) -> Machine:
        """A machine with an empty data directory, switched off."""
        chosen = self.config.model_copy(update=config)
        machine = self.machines[name] = Machine(self, name, chosen)
        return machine

    def split(self, *sides: str) -> None:
        """Machines named in different sides, one letter each, do not hear each other."""
        self.sides = tuple(frozenset(side) for side in sides)

    def is_linked(self, one: str, two: str) -> bool:
        first, second = one.split("/", maxsplit=1)[0], two.split("/", maxsplit=1)[0]
        return all((first in side) == (second in side) for side in self.sides)

    async def form(self, names: str) -> list[Machine]:
        """Machines of these names, one letter each, which have formed a cluster that serves."""
        machines = [self.add(name) for name in names]
        for machine in machines:
            machine.begin()
        await until(lambda: all(one.starting.done() for one in machines), "all started")
        for machine in machines:
            machine.starting.result()
        await until(lambda: all(one.record.shards for one in machines), "shards are assigned")
        return machines

    def close(self) -> None:
        for machine in self.machines.values():
            if machine.is_up:
                machine.kill()


def is_led(machines: list[Machine]) -> bool:
    """Whether all of them know who leads each shard, and it is one of them."""
    nodes = {one.node for one in machines}
    return all(
        lead is not None and lead.node in nodes
        for one in machines
        for lead in one.control.gossip.view.leads
    )


def is_settled(machines: list[Machine]) -> bool:
    """Whether the records agree, and every replica is there and stays where it is."""
    records = [one.record for one in machines]
    return len({record.epoch for record in records}) == 1 and all(
        not (group.config.joining or group.config.learners)
        and len(group.formatted) == len(group.replicas)
        for record in records
        for group in (record.root, *record.shards)
    )
