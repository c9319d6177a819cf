"""Where everybody is and who leads what: what supervisors tell each other, made into a view.

Theory. The record says who is a member and which replicas a shard has; it says neither where the
processes of a node are nor who leads. Those two change often and are wrong for a moment without
harm, so they are gossip: a supervisor announces its own node to all when something changes, and to
one at random each second, with a few others' announcements, so that what was lost comes again. A
node that starts is told everything as soon as it announces itself. Of two announcements of a node
the newer start, then the newer life of its processes holds; of two leads the higher ballot.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple, cast

from jido_cluster.errors import WireError
from jido_cluster.ports import Peers, WallClock
from jido_cluster.runtime.formation import Seen
from jido_cluster.runtime.peer_messages import Announce
from jido_cluster.runtime.view import Lead, Member, MemberStatus, View
from jido_cluster.runtime.wire import pack, unpack
from jido_placement.record import MemberRecord, Record

logger = logging.getLogger(__name__)

__all__ = ["Gossip", "Place"]

Row = tuple[int, tuple[int, int, int, int]]  # a shard and the ballot under which it is led

SUPERVISOR: Final = 0  # the part of a node that gossips
PAGE: Final = 16  # other nodes' announcements that go with the own one
MAX_SKEW_MS: Final = 60_000  # clocks that are further apart are wrong (protocol, clocks)


class Place(NamedTuple):
    """Where the processes of a node are, and what it offers.

    Attributes:
        boot: How often the node has started.
        life: How often its processes were replaced in that boot, from 1; 0 while none is known.
        told: Counts, within a life, announcements that change no address.
        supervisor: Address for control requests.
        hosts: Frame addresses of parts 1 to K.
        peers: Peer addresses of parts 0 to K.
        resources: What it has in all, by name.
        load: How busy it is, >= 0.
    """

    boot: int
    life: int
    told: int = 0
    supervisor: str = ""
    hosts: tuple[str, ...] = ()
    peers: tuple[str, ...] = ()
    resources: Mapping[str, float] = {}
    load: float = 0.0

    def to_data(self) -> list[Any]:
        """As plain data, without boot and life."""
        return [*self[2:6], dict(self.resources), self.load]


class _Aside(NamedTuple):
    """What goes with an announcement, of the one who sends it."""

    wall_ms: int
    recovery_no: int
    epoch: int


def _read(announce: Announce) -> tuple[Place, _Aside]:
    """The place that was announced, and what went with it.

    Raises:
        WireError: It is none.
    """
    try:
        told, supervisor, hosts, peers, resources, load, *aside = unpack(announce.data)
        place = Place(
            announce.boot,
            announce.life,
            told,
            supervisor,
            tuple(hosts),
            tuple(peers),
            dict(resources),
            float(load),
        )
        return place, _Aside(*aside)
    except (TypeError, ValueError) as error:
        raise WireError(f"an announcement of node {announce.node}: {error}") from error


class Gossip:
    """What one supervisor knows of all, and the view that it makes of it.

    Args:
        node: The own index.
        record: The committed record as of now.
        peers: Carries announcements, and learns from them where to.
        instance: Names this supervisor's process, for `View.source`.
        wall: Time for people.
        draw: A random number below this one.

    Attributes:
        view: The newest; its `source` is another one with each change.
    """

    def __init__(
        self,
        node: int,
        record: Record,
        *,
        peers: Peers,
        instance: str,
        wall: WallClock,
        draw: Callable[[int], int],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._node = node
        self._record = record
        self._peers = peers
        self._instance = instance
        self._wall = wall
        self._draw = draw
        self._places: dict[int, Place] = {}
        self._leads: dict[int, Lead] = {}
        self._own_rows: dict[int, tuple[Row, ...]] = {}  # by part
        self._skews_ms: dict[int, int] = {}
        self._epochs: dict[int, tuple[int, int]] = {}  # of the records that others go by
        self._turn = 0
        self._count = 0
        self._is_dirty = False
        self._changed = asyncio.Event()
        self.view = self._make_view()

    # -- what is asked

    async def newer_view(self, source: str) -> View:
        """The first view from another `source` than this one."""
        while self.view.source == source:
            await self._changed.wait()
        return self.view

    def hosts_of(self, node: int) -> int:
        """Number of host processes of a node; 0 while it is not known."""
        place = self._places.get(node)
        return 0 if place is None else len(place.hosts)

    def place(self, node: int) -> Place | None:
        """Where the node's processes are; None while that is not known."""
        return self._places.get(node)

    def lead(self, shard: int) -> int | None:
        """The node that leads the shard, as far as that has come here."""
        lead = self._leads.get(shard)
        return None if lead is None else lead.node

    @property
    def is_wall_sound(self) -> bool:
        """Whether most others' wall clocks agree with the own one."""
        wrong = sum(skew > MAX_SKEW_MS for skew in self._skews_ms.values())
        return 2 * wrong <= len(self._skews_ms)

    @property
    def is_record_newest(self) -> bool:
        """Whether nobody is known to go by a newer record than this node."""
        mine = (self._record.recovery_no, self._record.epoch)
        return all(theirs <= mine for theirs in self._epochs.values())

    # -- what has changed

    def adopt(self, record: Record) -> None:
        """Go by a newer record."""
        self._record = record
        members = {one.node for one in record.members}
        for node in [node for node in self._places if node not in members]:
            if node < record.next_node:  # of one that has only just joined there is no record yet
                place = self._places.pop(node)
                for part in range(len(place.peers)):
                    self._peers.know(node, part, "", place.life)
                self._skews_ms.pop(node, None)
                self._epochs.pop(node, None)
        self._leads = {shard: lead for shard, lead in self._leads.items() if lead.node in members}
        self._touch()

    def settle(self, place: Place) -> None:
        """This is where the own processes are now; everybody is told."""
        self._take(self._node, place)
        self._tell_all(self._own_announce(self._all_rows()))

    def load(self, load: float, resources: Mapping[str, float]) -> None:
        """How busy this node is now; others hear of it within some seconds."""
        mine = self._places.get(self._node)
        if mine is not None and (mine.load, mine.resources) != (load, resources):
            told = mine.told + 1
            self._take(self._node, mine._replace(told=told, load=load, resources=resources))

    def report(self, part: int, rows: Sequence[Row]) -> None:
        """A host of this node says which shards it leads."""
        before, now = self._own_rows.get(part, ()), tuple(rows)
        if now == before:
            return
        self._own_rows[part] = now
        news = tuple(sorted(set(now).difference(before)))
        self._lead(self._node, news)
        if news and self._node in self._places:
            self._tell_all(self._own_announce(news))

    def forget_host(self, part: int) -> None:
        """That process of this node is gone: it leads nothing."""
        self._own_rows.pop(part, None)

    def receive(self, sender: int, announce: Announce) -> None:
        """What another supervisor says of itself or of a third one."""
        node = announce.node
        if node == self._node:
            return
        try:
            place, aside = _read(announce)
        except WireError as error:
            logger.warning("an announcement from node %d is dropped: %s", sender, error)
            return
        if node == sender:
            self._skews_ms[node] = abs(aside.wall_ms - self._wall_ms())
            self._epochs[node] = (aside.recovery_no, aside.epoch)
        known = self._places.get(node)
        if known is None or place[:3] > known[:3]:
            self._take(node, place)
            if sender == node and (known is None or place[:2] != known[:2]):
                self._welcome(node)
        self._lead(node, announce.leads)

    def introduce(self, seen: Seen) -> None:
        """A node that is only starting is at this address; what it announces itself holds more.

        The supervisor that is known stays: whether it is dead is asked before another one is let
        in under its id.
        """
        node = seen.node
        if node is None or node == self._node or not seen.peer:
            return
        known = self._places.get(node)
        if known is None or known.boot < seen.boot:
            supervisor = seen.supervisor if known is None else known.supervisor
            self._take(node, Place(seen.boot, 0, 0, supervisor, (), (seen.peer,)))

    def learn(self, view: View) -> None:
        """Take over where others are from a view of theirs."""
        for member in view.members:
            if not member.peers:
                continue  # a member of which they know nothing more: to believe it would cut it off
            known = self._places.get(member.node)
            place = Place(
                member.boot,
                member.life,
                member.told,
                member.supervisor,
                member.hosts,
                member.peers,
                member.resources,
                member.load,
            )
            if member.node != self._node and (known is None or place[:3] > known[:3]):
                self._take(member.node, place)
        for shard, lead in enumerate(view.leads):
            if lead is not None:
                self._lead(lead.node, [(shard, lead.ballot)])

    def tick(self) -> None:
        """Tell one member at random everything of this node, and something of others."""
        others = [one.node for one in self._record.members if one.node != self._node]
        if not others or self._node not in self._places:
            return
        to = others[self._draw(len(others))]
        self._peers.send(to, SUPERVISOR, self._own_announce(self._all_rows()))
        known = [node for node in sorted(self._places) if node not in {self._node, to}]
        self._turn = self._turn + PAGE if self._turn + PAGE < len(known) else 0
        self._pass_on(to, known[self._turn : self._turn + PAGE])

    # -- small things

    def _wall_ms(self) -> int:
        return int(self._wall() * 1000)

    def _take(self, node: int, place: Place) -> None:
        before = self._places.get(node)
        self._places[node] = place
        old = () if before is None else before.peers
        for part in range(max(len(old), len(place.peers))):
            address = place.peers[part] if part < len(place.peers) else ""
            is_self = (node, part) == (self._node, SUPERVISOR)
            if not is_self and (part >= len(old) or old[part] != address):
                self._peers.know(node, part, address, place.life)
        self._touch()

    def _lead(self, node: int, rows: Iterable[Row]) -> None:
        for shard, ballot in rows:
            known = self._leads.get(shard)
            if known is None or tuple(ballot) > known.ballot:
                self._leads[shard] = Lead(ballot=_ballot(ballot), node=node)
                self._touch()

    def _all_rows(self) -> tuple[Row, ...]:
        return tuple(sorted(row for rows in self._own_rows.values() for row in rows))

    def _own_announce(self, rows: tuple[Row, ...]) -> Announce:
        return self._announce(self._node, rows)

    def _announce(self, node: int, rows: tuple[Row, ...]) -> Announce:
        """What is known of a node, with the own clock and record beside it."""
        place, record = self._places[node], self._record
        aside = _Aside(self._wall_ms(), record.recovery_no, record.epoch)
        return Announce(node, place.boot, place.life, pack([*place.to_data(), *aside]), rows)

    def _tell_all(self, announce: Announce) -> None:
        for member in self._record.members:
            if member.node != self._node:
                self._peers.send(member.node, SUPERVISOR, announce)

    def _welcome(self, to: int) -> None:
        """Who has just started is told everything."""
        if self._node in self._places:
            self._peers.send(to, SUPERVISOR, self._own_announce(self._all_rows()))
        self._pass_on(to, [node for node in sorted(self._places) if node not in {self._node, to}])

    def _pass_on(self, to: int, nodes: Sequence[int]) -> None:
        wanted = frozenset(nodes)
        rows: dict[int, list[Row]] = {node: [] for node in nodes}
        for shard, lead in self._leads.items():
            if lead.node in wanted:
                rows[lead.node].append((shard, lead.ballot))
        for node in nodes:
            self._peers.send(to, SUPERVISOR, self._announce(node, tuple(rows[node])))

    def _touch(self) -> None:
        """Another view is due; changes of one pass of the loop make one."""
        if not self._is_dirty:
            self._is_dirty = True
            self._loop.call_soon(self._publish)

    def _publish(self) -> None:
        self._is_dirty = False
        self.view = self._make_view()
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def _make_view(self) -> View:
        record = self._record
        self._count += 1
        return View(
            cluster_id=record.cluster_id,
            recovery_no=record.recovery_no,
            epoch=record.epoch,
            members=tuple(self._member(one) for one in record.members),
            replicas=tuple(
                tuple(dict.fromkeys(replica.node for replica in group.config.members))
                for group in record.shards
            )
            or ((),) * record.shard_count,
            leads=tuple(self._leads.get(shard) for shard in range(record.shard_count)),
            source=f"{self._instance}:{self._count}",
        )

    def _member(self, member: MemberRecord) -> Member:
        place = self._places.get(member.node) or Place(0, 0)
        return Member(
            node=member.node,
            id=member.id,
            name=member.name,
            status=cast("MemberStatus", member.status.name.lower()),
            boot=place.boot,
            life=place.life,
            supervisor=place.supervisor,
            hosts=place.hosts,
            peers=place.peers,
            weight=member.weight,
            zone=member.zone,
            labels=dict(member.labels),
            resources=place.resources,
            load=place.load,
            told=place.told,
        )


def _ballot(data: Any) -> tuple[int, int, int, int]:
    recovery, config, round_, node = data
    return recovery, config, round_, node
