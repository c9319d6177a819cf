"""The view: which nodes there are, which replicas each shard has, and who leads it.

Theory. A view is a value that every process puts together from what it hears, in any order, any
number of times: a join-semilattice. Three things come from three sources, and of each the newest
stands. The record of the root group (newest by recovery and epoch) says which members exist, how
far they have come, and which nodes hold each shard. A node (newest by boot, life and announcement)
says where its own processes are. An election (newest by ballot) says who leads a shard. Nothing
rests on a view but where a message is tried first: whoever is asked in vain says so.
*Source*: Shapiro et al., Conflict-free replicated data types (2011), state-based objects.
*Departure*: `without_lead` goes back: what was found wrong is forgotten until it is heard again.
"""

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from struct import Struct
from sys import byteorder
from typing import Any, Final, Literal, NamedTuple

from jido_cluster.errors import InvalidInputError
from jido_placement import h64

MemberStatus = Literal["joining", "up", "leaving", "down", "removed"]

_LEAD: Final = Struct("<HIIHH")  # a ballot's four numbers and the node; all 0: nobody


@dataclass(frozen=True, slots=True)
class Member:
    """One node: who it is, what it offers, and the addresses of its processes.

    The record of the root group decides `node`, `id`, `name`, `status`, `weight`, `zone` and
    `labels`; the node itself announces the others. A process that was replaced has a new address.

    Attributes:
        node: Its index; never given to another one.
        id: Its uuid.
        boot: How often it has started.
        life: Counts, within a boot, changes of its addresses.
        supervisor: Address for control requests.
        hosts: Where frames go, for parts 1 and on; shard `s` is in number `s mod len(hosts)`.
        peers: Where peer frames go, for parts 0 and on.
        load: What it has to do, relative to its weight, >= 0.
        told: Counts, within a life, announcements that change no address.
    """

    node: int
    id: str
    name: str
    status: MemberStatus
    boot: int = 0
    life: int = 0
    supervisor: str = ""
    hosts: tuple[str, ...] = ()
    peers: tuple[str, ...] = ()
    weight: float = 1.0
    zone: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    resources: Mapping[str, float] = field(default_factory=dict)
    load: float = 0.0
    told: int = 0

    def announced_by(self, other: "Member") -> "Member":
        """With the addresses, resources and load of `other`, if it was announced later."""
        if other is self or _age(other) <= _age(self):
            return self
        return replace(
            self,
            boot=other.boot,
            life=other.life,
            told=other.told,
            supervisor=other.supervisor,
            hosts=other.hosts,
            peers=other.peers,
            resources=other.resources,
            load=other.load,
        )

    def to_data(self) -> list[Any]:
        """Plain data for the wire."""
        return [
            self.node,
            self.id,
            self.name,
            self.status,
            self.boot,
            self.life,
            self.supervisor,
            list(self.hosts),
            list(self.peers),
            self.weight,
            self.zone,
            dict(self.labels),
            dict(self.resources),
            self.load,
            self.told,
        ]

    @classmethod
    def from_data(cls, data: Sequence[Any]) -> "Member":
        """The member of `to_data`. Raises TypeError or ValueError for anything else."""
        (
            node,
            id_,
            name,
            status,
            boot,
            life,
            supervisor,
            hosts,
            peers,
            weight,
            zone,
            labels,
            resources,
            load,
            told,
        ) = data
        return cls(
            node,
            id_,
            name,
            status,
            boot,
            life,
            supervisor,
            tuple(hosts),
            tuple(peers),
            weight,
            zone,
            dict(labels),
            dict(resources),
            load,
            told,
        )


def _age(member: Member) -> tuple[Any, ...]:
    """Orders announcements; whatever a node gets wrong, all choose the same one."""
    return (
        member.boot,
        member.life,
        member.told,
        member.supervisor,
        member.hosts,
        member.peers,
        sorted(member.resources.items()),
        member.load,
    )


class Lead(NamedTuple):
    """Who leads a shard.

    Attributes:
        ballot: What it was elected under; the higher of two is the later.
        node: Its index.
    """

    ballot: tuple[int, int, int, int]
    node: int


class StandIn(NamedTuple):
    """Who answers for a shard while nobody leads it: as much as its strategy and type allow.

    Attributes:
        node: Its index.
    """

    node: int


class View:
    """Members, replicas and leads as far as one process has heard of them. A value.

    Two views are equal when they say the same, whatever their `source`.

    Args:
        cluster_id: Of the cluster; "" before it is known.
        recovery_no: Of the record.
        epoch: Of the record; one epoch of one recovery has one content.
        members: Of the record, in order of `node`.
        replicas: For each shard the nodes of its voters, in order of preference; one entry for each
            shard also before shards are assigned.
        leads: For each shard who leads it, as far as known; () for nobody anywhere. It may be a
            node that is no member any more, or not yet.
        source: Which version of which supervisor's view it is; "" for one that was put together.
    """

    __slots__ = (
        "_addresses",
        "_by_id",
        "_by_node",
        "_leaders",
        "cluster_id",
        "epoch",
        "leads",
        "members",
        "recovery_no",
        "replicas",
        "source",
    )
    __hash__ = None  # type: ignore[assignment]

    def __init__(
        self,
        cluster_id: str,
        recovery_no: int,
        epoch: int,
        members: tuple[Member, ...],
        replicas: tuple[tuple[int, ...], ...],
        leads: tuple[Lead | None, ...] = (),
        source: str = "",
    ) -> None:
        self.cluster_id = cluster_id
        self.recovery_no = recovery_no
        self.epoch = epoch
        self.members = members
        self.replicas = replicas
        self.leads = leads or (None,) * len(replicas)
        self.source = source
        self._by_node = {member.node: member for member in members}
        self._by_id: dict[str, Member] | None = None
        self._leaders: list[str] | None = None
        self._addresses: frozenset[str] | None = None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, View) and self._content() == other._content()

    def __repr__(self) -> str:
        led = sum(1 for host in self.leaders if host)
        return (
            f"<View {self.recovery_no}.{self.epoch}: {len(self.members)} members, "
            f"{led} of {self.shards} shards led>"
        )

    def _content(self) -> tuple[Any, ...]:
        return (
            self.cluster_id,
            self.recovery_no,
            self.epoch,
            self.members,
            self.replicas,
            self.leads,
        )

    # -- looking up

    @property
    def shards(self) -> int:
        """Number of shards."""
        return len(self.replicas)

    @property
    def leaders(self) -> list[str]:
        """Address of each shard's leading host; "" where nobody is known to lead. Do not change."""
        if self._leaders is None:
            self._leaders = [
                "" if lead is None else self.host_of(lead.node, shard)
                for shard, lead in enumerate(self.leads)
            ]
        return self._leaders

    @property
    def addresses(self) -> frozenset[str]:
        """Addresses of all hosts."""
        if self._addresses is None:
            self._addresses = frozenset(host for member in self.members for host in member.hosts)
        return self._addresses

    def member(self, node: int) -> Member | None:
        """The member of this index."""
        return self._by_node.get(node)

    def by_id(self, id_: str) -> Member | None:
        """The member of this uuid."""
        if self._by_id is None:
            self._by_id = {member.id: member for member in self.members}
        return self._by_id.get(id_)

    def host_of(self, node: int, shard: int) -> str:
        """Address of the host in which this node would have the shard; "" if none is known."""
        member = self._by_node.get(node)
        if member is None or not member.hosts:
            return ""
        return member.hosts[shard % len(member.hosts)]

    def candidates(self, shard: int) -> list[str]:
        """Hosts that may lead a shard: the known leader, then its replicas by preference."""
        hosts = [self.leaders[shard]]
        hosts += [self.host_of(node, shard) for node in self.replicas[shard]]
        return [host for host in dict.fromkeys(hosts) if host]

    # -- what was heard

    def merge(self, other: "View") -> "View":
        """What both say together: this very view when the other says nothing newer.

        Raises:
            ValueError: It is of another cluster.
        """
        mine, theirs = self.cluster_id, other.cluster_id
        if mine != theirs and mine and theirs:
            raise ValueError(f"a view of cluster {theirs} does not fit that of cluster {mine}")
        is_later = (other.recovery_no, other.epoch) > (self.recovery_no, self.epoch)
        newer, older = (other, self) if is_later else (self, other)
        members = tuple(
            member.announced_by(older._by_node.get(member.node, member)) for member in newer.members
        )
        leads = _newest(self.leads, other.leads)
        is_self = (
            not is_later
            and (mine or not theirs)
            and leads is self.leads
            and all(one is two for one, two in zip(members, self.members, strict=True))
        )
        if is_self:
            return self
        return View(mine or theirs, newer.recovery_no, newer.epoch, members, newer.replicas, leads)

    def with_lead(self, shard: int, lead: Lead) -> "View":
        """With what was heard of a shard; this very view when that is not newer."""
        return self.with_leads({shard: lead})

    def with_leads(self, news: Mapping[int, Lead]) -> "View":
        """As `with_lead`, for many shards at once."""
        newer = {}
        for shard, lead in news.items():
            known = self.leads[shard]
            if known is None or known < lead:
                newer[shard] = lead
        return self._led_by(newer)

    def without_lead(self, shard: int, lead: Lead) -> "View":
        """Without a lead that was found wrong; this very view when another one is known."""
        return self.without_leads({shard: lead})

    def without_leads(self, wrong: Mapping[int, Lead]) -> "View":
        """As `without_lead`, for many shards at once."""
        return self._led_by({s: None for s, lead in wrong.items() if self.leads[s] == lead})

    def _led_by(self, changes: Mapping[int, Lead | None]) -> "View":
        if not changes:
            return self
        leads, leaders = list(self.leads), list(self.leaders)
        for shard, lead in changes.items():
            leads[shard] = lead
            leaders[shard] = "" if lead is None else self.host_of(lead.node, shard)
        return self._copy(tuple(leads), leaders)

    def _copy(self, leads: tuple[Lead | None, ...], leaders: list[str]) -> "View":
        made = View.__new__(View)
        made.cluster_id, made.recovery_no, made.epoch = (
            self.cluster_id,
            self.recovery_no,
            self.epoch,
        )
        made.members, made.replicas = self.members, self.replicas
        made._by_node, made._by_id = self._by_node, self._by_id
        made._addresses = self._addresses
        made.leads, made._leaders = leads, leaders
        made.source = ""
        return made

    def from_source(self, source: str) -> "View":
        """The same, as this version of a supervisor's view."""
        made = self._copy(self.leads, self.leaders)
        made.source = source
        return made

    # -- travelling

    def to_data(self) -> list[Any]:
        """Plain data for the wire: 7 bytes a shard of three replicas, and 14 for who leads it."""
        nodes = array("H", [node for row in self.replicas for node in row])
        if byteorder == "big":
            nodes.byteswap()
        leads = [
            _LEAD.pack(0, 0, 0, 0, 0) if lead is None else _LEAD.pack(*lead.ballot, lead.node)
            for lead in self.leads
        ]
        return [
            self.cluster_id,
            self.recovery_no,
            self.epoch,
            [member.to_data() for member in self.members],
            bytes(map(len, self.replicas)),
            nodes.tobytes(),
            b"".join(leads),
            self.source,
        ]

    @classmethod
    def from_data(cls, data: Sequence[Any]) -> "View":
        """The view of `to_data`. Raises TypeError or ValueError for anything else."""
        cluster_id, recovery_no, epoch, members, counts, packed, led, source = data
        nodes = array("H", packed)
        if byteorder == "big":
            nodes.byteswap()
        if sum(counts) != len(nodes) or len(led) != _LEAD.size * len(counts):
            raise ValueError(f"replicas and leads of {len(counts)} shards do not fit together")
        flat = nodes.tolist()
        replicas: list[tuple[int, ...]] = []
        place = 0
        for count in counts:
            replicas.append(tuple(flat[place : place + count]))
            place += count
        leads = tuple(
            Lead(row[:4], row[4]) if any(row[:4]) else None for row in _LEAD.iter_unpack(led)
        )
        return cls(
            cluster_id,
            recovery_no,
            epoch,
            tuple(Member.from_data(member) for member in members),
            tuple(replicas),
            leads,
            source,
        )


def _newest(
    mine: tuple[Lead | None, ...], theirs: tuple[Lead | None, ...]
) -> tuple[Lead | None, ...]:
    """For each shard the later lead; `mine` itself when none of theirs is."""
    if mine == theirs:
        return mine
    merged = tuple(
        two if one is None or (two is not None and one < two) else one
        for one, two in zip_longest(mine, theirs)
    )
    return mine if merged == mine else merged


def shard_of(agent_id: str, shards: int) -> int:
    """The shard of an agent id."""
    return h64(agent_id) % shards


def shard_of_run(run_id: str, shards: int) -> int:
    """The shard of a run id: the number it ends in, so that a run lives beside its agent.

    Raises:
        InvalidInputError: It is no run id.
    """
    unique, dot, number = run_id.rpartition(".")
    if not (unique and dot and len(number) == 4):
        message = f"{run_id!r} is no run id; use the one that start() returned"
        raise InvalidInputError(message)
    try:
        return int(number, 16) % shards
    except ValueError as error:
        message = f"{run_id!r} is no run id; use the one that start() returned"
        raise InvalidInputError(message) from error


def run_id_at(shard: int, unique: str) -> str:
    """A run id that lives on the shard."""
    return f"{unique}.{shard:04x}"
