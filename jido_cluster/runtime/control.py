"""What a node's supervisor does, over ports: the node's part in the cluster as a whole.

Theory. A node enters the cluster (`formation`, `entry`), keeps a replica of the root group if it is
given one (`root_replica`), watches the others (`watching`), and tells where its processes are and
what they lead (`gossip`). Its hosts, which have the shards, hear from it how things stand. All of
that hangs on one thing, the committed record: whatever is newer there, each of the four goes by.

The driver's duties:

1. `start`, once; when it returns the node is a member and its start is registered: only now may
   hosts open their stores. It publishes what `seen` says where `Discovery` finds it, from before
   `start` on, and passes control requests to `answer`.
2. `serve` when the hosts run; `replace_host` for each that died and has a successor.
3. `load` now and then. `close` at the end; when `on_end` is called the node must not go on.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, Final

from jido_cluster.config import ClusterConfig
from jido_cluster.errors import ConfigError, JidoError, WireError
from jido_cluster.ports import Peers, PeerTroubleError
from jido_cluster.runtime.control_requests import Requests
from jido_cluster.runtime.control_settings import ControlSettings, Ports
from jido_cluster.runtime.entering import Entering
from jido_cluster.runtime.entry import About, removed_error, seen_of
from jido_cluster.runtime.formation import Seen, fingerprint
from jido_cluster.runtime.gossip import Gossip
from jido_cluster.runtime.identity import Boot
from jido_cluster.runtime.own_hosts import OwnHosts
from jido_cluster.runtime.peer_messages import Announce, Leads
from jido_cluster.runtime.root_replica import RootReplica
from jido_cluster.runtime.view import View
from jido_cluster.runtime.watching import Outgoing, Watching
from jido_placement import healing as heal
from jido_placement.commands import BecomeUp, Refused, RegisterBoot
from jido_placement.healing import Stage
from jido_placement.membership import Status
from jido_placement.probing import Ack, Nack, Probe, ProbeFor, Sync
from jido_placement.probing import Gossip as Gossiped
from jido_placement.record import ROOT, Record
from jido_state.node import StoredGroup
from jido_state.node_messages import HandOver

logger = logging.getLogger(__name__)

__all__ = ["ControlSettings", "NodeControl", "Ports"]

SUPERVISOR: Final = 0
ORDER_SECONDS: Final = 2.0
KEEP_SECONDS: Final = 1.0  # between writings of newer records: an old one is only a slower start
RETIRE_LOOK: Final = 0.1  # between attempts to pass the root group on
LOST_SECONDS: Final = 5.0  # out of contact with most: are we still a member?
_DETECTOR: Final = frozenset({Probe, ProbeFor, Ack, Nack, Gossiped, Sync})


class NodeControl:
    """The supervisor of one node. Bound to the loop that made it.

    Args:
        config: Of the cluster.
        settings: Of this supervisor.
        about: What the node says of itself when it joins.
        supervisor: Its own address for control requests.
        peer: Its own address for messages of the cores.
        ports: What the world gives it.
        on_end: Told, once, why the node must not go on: it was removed, or runs twice.

    Attributes:
        node: The own index; None before it is a member.
        boot: The start that was registered, or is to be.
        is_registered: Whether it was.
        cluster_id: Of the cluster that the data directory belongs to; None for a fresh one.
        peers: The links to other processes; None before the node is a member.
    """

    def __init__(
        self,
        config: ClusterConfig,
        settings: ControlSettings,
        about: About,
        *,
        supervisor: str,
        peer: str,
        ports: Ports,
        on_end: Callable[[JidoError], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self.config = config
        self.settings = settings
        self.about = about
        self.agreed = fingerprint(config)
        self.supervisor = supervisor
        self.peer = peer
        self.ports = ports
        self._on_end = on_end
        self.node: int | None = None
        self.boot: Boot = ports.identity.ask_boot(ports.draw)
        self.is_registered = False
        self.cluster_id: str | None = None
        self.peers: Peers | None = None
        self._root: RootReplica | None = None
        self._watching: Watching | None = None
        self._gossip: Gossip | None = None
        self._hosts: OwnHosts | None = None
        self._kept_at = 0.0
        self._lost_since: float | None = None
        self._is_closed = False
        self._is_returning = False
        self._is_asking = False
        self._ticking: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._record_changed = asyncio.Event()
        self.requests = Requests(self)

    # -- what the driver calls

    async def start(self) -> Record:
        """The node is a member now, and this start of it is registered; the record that shows it.

        Raises:
            ClusterUnavailableError: Directories of several clusters are in sight.
            ConfigError: The node is refused: its configuration or its directory is not right.
        """
        try:
            await Entering(self).run()
        except JidoError:
            self.close()
            raise
        return self.record

    async def serve(self, hosts: Sequence[str], peers: Sequence[str]) -> None:
        """The hosts run, at these frame and peer addresses; the node is up when it returns."""
        self.hosts.run(tuple(hosts), tuple(peers))
        command = BecomeUp(self._me, self.boot.number)
        while not self._is_closed:
            command = command._replace(boot=self.boot.number)
            answer = await self.root.order(command, ORDER_SECONDS)
            if answer is not None:
                return  # refused to one that is leaving, or has been declared down meanwhile

    def replace_host(self, part: int, host: str, peer: str) -> None:
        """The host of this part, from 1, died; its successor is at these addresses."""
        self.hosts.replace(part, host, peer)

    def load(self, load: float, resources: Mapping[str, float]) -> None:
        """How busy the node is."""
        self.gossip.load(load, resources)

    async def answer(self, operation: str, data: bytes) -> bytes:
        """The answer to a control request.

        Raises:
            JidoError: It is refused; the error is the answer.
        """
        return await self.requests.answer(operation, data)

    async def newer_view(self, source: str) -> View:
        """The first view from another `source` than this one."""
        return await self.gossip.newer_view(source)

    async def retire(self, seconds: float) -> None:
        """Pass the lead of the root group on, if it is here, because the node is about to end."""
        end = self._loop.time() + seconds
        while self.is_open and self.root.is_leading and self._loop.time() < end:
            able = frozenset(self.watching.contacts) - {self._me}
            heirs = [one.node for one in self.record.root.config.voters if one.node in able]
            if not heirs:
                return
            self.root.pass_on(self._me, HandOver(ROOT, heirs[0]))
            await asyncio.sleep(RETIRE_LOOK)

    def close(self) -> None:
        """Stop at once, as a crash would."""
        if self._is_closed:
            return
        self._is_closed = True
        if self._ticking is not None:
            self._ticking.cancel()
        for task in self._tasks:
            task.cancel()
        if self.peers is not None:
            self.peers.close()
        self.ports.disk.close()

    # -- what its parts ask

    @property
    def is_open(self) -> bool:
        """Whether the node takes part: there is a record, and an index."""
        return self._root is not None

    @property
    def is_closed(self) -> bool:
        """Whether it was stopped."""
        return self._is_closed

    @property
    def root(self) -> RootReplica:
        """The core of this process."""
        assert self._root is not None, "the node is no member yet"
        return self._root

    @property
    def gossip(self) -> Gossip:
        """Who is where."""
        assert self._gossip is not None, "the node is no member yet"
        return self._gossip

    @property
    def watching(self) -> Watching:
        """Who answers."""
        assert self._watching is not None, "the node is no member yet"
        return self._watching

    @property
    def hosts(self) -> OwnHosts:
        """The own processes."""
        assert self._hosts is not None, "the node is no member yet"
        return self._hosts

    @property
    def record(self) -> Record:
        """The newest committed record that is known here."""
        return self.root.core.record

    @property
    def seen(self) -> Seen:
        """What is to be seen of this node."""
        peer = self.peer if self.is_open else ""
        id_ = self.ports.identity.id
        return Seen(id_, self.cluster_id, self.node, self.boot.number, self.supervisor, peer)

    @property
    def _me(self) -> int:
        assert self.node is not None, "the node is no member yet"
        return self.node

    async def wait_record(self, epoch: int) -> None:
        """Return when the record is of another epoch than this one."""
        while self.record.epoch == epoch:
            await self._record_changed.wait()

    async def is_alive(self, seen: Seen) -> bool:
        """Whether this very start of a node answers."""
        try:
            found = seen_of(await self.ports.transport.ask(seen.supervisor, "who", b""))
        except (PeerTroubleError, WireError):
            return False
        return (found.id, found.boot) == (seen.id, seen.boot)

    def open(
        self,
        node: int,
        record: Record,
        stored: Mapping[int, StoredGroup],
        view: View | None = None,
    ) -> None:
        """Take part in the cluster, with this record, and what is known of where others are."""
        self.node = node
        now_ms, draw = self._now_ms(), self.ports.draw
        self.peers = self.ports.open_peers(record.cluster_id, node, self.boot.number)
        self._gossip = Gossip(
            node,
            record,
            peers=self.peers,
            instance=f"{draw(64):016x}",
            wall=self.ports.wall,
            draw=lambda below: draw(32) % below,
        )
        settings = self.settings
        self._watching = Watching(
            node,
            record,
            boot=self.boot.number,
            timings=settings.timings,
            seed=draw(62),
            now_ms=now_ms,
            down_after_ms=int(settings.down_after * 1000),
            stable_after_ms=int(settings.stable_after * 1000),
        )
        self._hosts = OwnHosts(
            node,
            supervisor=self.supervisor,
            peer=self.peer,
            resources=self.about.resources,
            peers=self.peers,
            gossip=self._gossip,
            watching=self._watching,
            record=lambda: self.record,
        )
        self._root = RootReplica(
            node,
            record,
            stored,
            peers=self.peers,
            disk=self.ports.disk,
            wall=self.ports.wall,
            nonce=draw(31),
            hosts_of=self._gossip.hosts_of,
            changed=self._adopt,
            settings=settings.group,
            limits=settings.limits,
        )
        self.peers.start(self)
        if view is not None:
            self._gossip.learn(view)
        self._tick()

    def keep(self, record: Record, node: int) -> None:
        """Have the data directory remember this record."""
        self.ports.identity.keep(record, node)
        self.cluster_id = record.cluster_id

    def registered(self) -> bool:
        """The root group has registered this start; whether the node may go on under it.

        If not, an earlier process drew it, and there is another one to be registered now.
        """
        boot, identity = self.boot, self.ports.identity
        identity.boot_registered(boot)
        if not boot.is_own:
            self.boot = identity.ask_boot(self.ports.draw)
            return False
        self.is_registered = True
        self.hosts.registered(boot.number)
        return True

    def end(self, error: JidoError) -> None:
        """The node must not go on."""
        if not self._is_closed:
            logger.error("the node ends: %s", error)
            self.close()
            self._on_end(error)

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Have something done beside what else goes on."""
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: "asyncio.Task[Any]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("a task of the supervisor failed", exc_info=error)

    # -- what others tell

    def received(self, node: int, part: int, messages: list[Any]) -> None:
        """Messages of another process have come."""
        for message in messages:
            kind = type(message)
            if self._is_closed:
                return
            if kind in _DETECTOR:
                if part == SUPERVISOR:
                    self._send_all(self.watching.receive(node, message, self._now_ms()))
            elif kind is Announce:
                self.gossip.receive(node, message)
            elif kind is Leads:
                if node == self.node:
                    self.gossip.report(part, message.rows)
            else:
                self.root.received(node, part, message)

    def gone(self, node: int, part: int) -> None:
        """The process of this address is dead, for certain."""
        if part == SUPERVISOR:
            self._send_all(self.watching.gone(node, self._now_ms()))
            self.root.certain(node, is_gone=True)
        elif node == self.node:
            self.gossip.forget_host(part)

    def back(self, node: int, part: int) -> None:
        """There is one again."""
        if part == SUPERVISOR:
            self.root.certain(node, is_gone=False)
        elif node == self.node:
            self.hosts.brief(part)

    # -- time

    def _now_ms(self) -> int:
        return int(self._loop.time() * 1000)

    def _tick(self) -> None:
        self._ticking = self._loop.call_later(self.settings.tick, self._tick)
        watching, core = self.watching, self.root.core
        now = self._loop.time()
        self._send_all(watching.tick(self._now_ms()))
        core.unreachable, core.expired = watching.unreachable, watching.expired
        core.reachable = frozenset(watching.contacts)
        core.may_rebalance = watching.may_rebalance
        self.root.tick()
        self._heal(watching.steps(self._now_ms()))
        self.hosts.tick(now)
        if self._kept_at and now >= self._kept_at:
            self._keep()
        self._notice_loss(now)

    def _send_all(self, messages: Sequence[Outgoing]) -> None:
        assert self.peers is not None
        for node, message in messages:
            self.peers.send(node, SUPERVISOR, message)

    # -- the record

    def _adopt(self) -> None:
        """There is a newer record."""
        if self._is_closed:
            return
        record = self.record
        self.gossip.adopt(record)
        self.watching.adopt(record)
        self.hosts.adopt(record)
        if not self._kept_at:
            self._kept_at = self._loop.time() + KEEP_SECONDS
        changed, self._record_changed = self._record_changed, asyncio.Event()
        changed.set()
        self._look_at_self(record)

    def _keep(self) -> None:
        self._kept_at = 0.0
        self.keep(self.record, self._me)

    def _look_at_self(self, record: Record) -> None:
        """Whether the record still has this start of this node."""
        id_ = self.ports.identity.id
        member = record.member(self._me)
        if member is None:
            self.end(removed_error(id_))
        elif (member.boot, member.nonce) == self.boot[:2]:
            if member.status is Status.DOWN and not self._is_returning:
                self._is_returning = True
                self.spawn(self._come_back())
        elif member.boot >= self.boot.number and not self._is_returning:
            self.end(
                ConfigError(
                    f"node {id_} was started once more elsewhere, as boot {member.boot}: its data "
                    "directory was copied, or is shared; run only one of the two",
                    node=id_,
                )
            )

    async def _come_back(self) -> None:
        """Declared down, yet here: register another start; its replicas are kept."""
        logger.warning("node %d was declared down, and comes back", self._me)
        self.boot = self.ports.identity.ask_boot(self.ports.draw)
        id_, boot = self.ports.identity.id, self.boot
        command = RegisterBoot(id_, *boot[:3], self.record.agreed)
        answer = None
        while answer is None:
            answer = await self.root.order(command, ORDER_SECONDS)
        self._is_returning = False
        if isinstance(answer, Refused):
            self.end(ConfigError(f"node {id_} may not come back: {answer.text}", node=id_))
        else:
            self.registered()

    def _notice_loss(self, now: float) -> None:
        """Out of contact with most for long: ask those in sight whether we still belong to them.

        Who was removed while it could not be reached hears of it in no other way, nor does it hear
        where nodes are that all have moved.
        """
        if 2 * len(self.watching.contacts) > len(self.record.members) or not self.is_registered:
            self._lost_since = None
        elif self._lost_since is None:
            self._lost_since = now
        elif now - self._lost_since >= LOST_SECONDS and not self._is_asking:
            self._lost_since = now
            self._is_asking = True
            self.spawn(self._ask_around())

    async def _ask_around(self) -> None:
        try:
            await Entering(self).ask_again()
        finally:
            self._is_asking = False

    # -- healing

    def _heal(self, steps: Sequence[heal.Do]) -> None:
        """Performs the steps of healing that are asked for, as far as they are a supervisor's.

        Entries, copies and signals are brought together by the shards' leaders as soon as they are
        in contact; nothing has to be ordered for it.
        """
        waiting = list(steps)
        while waiting:
            step = waiting.pop(0)
            if self._is_healed(step.step):
                waiting += self.watching.done(step, self._now_ms())

    def _is_healed(self, stage: Stage) -> bool:
        if stage is Stage.RECORD:
            return self.gossip.is_record_newest
        if stage is Stage.LEADERS:
            leads = (self.gossip.lead(shard) for shard in range(len(self.record.shards)))
            return all(lead is not None and self._is_in_contact(lead) for lead in leads)
        if stage is Stage.DIRECTORY:
            self.gossip.tick()
        return True

    def _is_in_contact(self, node: int) -> bool:
        return node in self.watching.contacts
