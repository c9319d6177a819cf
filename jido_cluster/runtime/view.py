"""The view: which nodes there are, and which host serves each shard, as of one epoch.

A view is immutable. The coordinator makes the next one, hosts and clients take the newest they
hear of; a higher epoch always wins. A shard's `Tenure` says since when its leader has it and where
its agents come from, so that a host which missed some epochs still knows what to do.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final, Literal

from jido_cluster.errors import InvalidInputError
from jido_placement import h64

MemberStatus = Literal["joining", "up", "leaving", "down", "removed"]
NOBODY: Final = ""


class Source(IntEnum):
    """Where the agents of a shard come from when its leader takes over."""

    NEW = 0  # from nowhere: the shard has never been served
    HANDOFF = 1  # from the host that served it before, which is alive
    LOST = 2  # the host before is gone; the roster says which ids were there


@dataclass(frozen=True, slots=True)
class Member:
    """One node: who it is, what it offers, and the addresses of its processes.

    `hosts` are the shard hosts' addresses in order; shard `s` is served by number
    `s mod len(hosts)`. A restarted host has a new address.
    """

    id: str
    name: str
    status: MemberStatus
    supervisor: str
    hosts: tuple[str, ...]
    weight: float = 1.0
    zone: str | None = None
    labels: Mapping[str, str] = ()  # type: ignore[assignment]
    resources: Mapping[str, float] = ()  # type: ignore[assignment]

    def to_data(self) -> list[Any]:
        """Plain data for the wire."""
        return [
            self.id,
            self.name,
            self.status,
            self.supervisor,
            list(self.hosts),
            self.weight,
            self.zone,
            dict(self.labels),
            dict(self.resources),
        ]

    @classmethod
    def from_data(cls, data: list[Any]) -> "Member":
        """The member of `to_data`."""
        id_, name, status, supervisor, hosts, weight, zone, labels, resources = data
        return cls(
            id_, name, status, supervisor, tuple(hosts), weight, zone, dict(labels), dict(resources)
        )


@dataclass(frozen=True, slots=True)
class Tenure:
    """One shard: its replicas, and how its leader came to have it.

    Attributes:
        replicas: Member ids, distinct, the leader first. Empty: nobody serves the shard.
        host: Address of the serving host.
        since: Epoch at which that host got the shard.
        source: Where its agents come from.
        origin: HANDOFF: address of the host before; otherwise empty.
    """

    replicas: tuple[str, ...]
    host: str = NOBODY
    since: int = 0
    source: Source = Source.NEW
    origin: str = NOBODY


class View:
    """Members and shards as of `epoch`; look-ups are array accesses."""

    __slots__ = ("_by_id", "addresses", "epoch", "keepers", "leaders", "members", "tenures")

    def __init__(
        self, epoch: int, members: tuple[Member, ...], tenures: tuple[Tenure, ...]
    ) -> None:
        self.epoch = epoch
        self.members = members
        self.tenures = tenures
        self.leaders = [tenure.host for tenure in tenures]
        self._by_id = {member.id: member for member in members}
        self.addresses = frozenset(host for member in members for host in member.hosts)
        self.keepers = [self._keeper(tenure) for tenure in tenures]

    @property
    def shards(self) -> int:
        """Number of shards."""
        return len(self.tenures)

    def member(self, id_: str) -> Member | None:
        """The member with this id."""
        return self._by_id.get(id_)

    def _keeper(self, tenure: Tenure) -> str:
        """Supervisor that keeps the shard's roster: the first follower's, else the leader's own."""
        for id_ in (*tenure.replicas[1:], *tenure.replicas[:1]):
            member = self._by_id.get(id_)
            if member is not None:
                return member.supervisor
        return NOBODY

    def to_data(self) -> list[Any]:
        """Plain data for the wire: addresses and ids as indices, to keep it small."""
        ids = {member.id: index for index, member in enumerate(self.members)}
        texts: dict[str, int] = {NOBODY: 0}
        rows = [
            [
                [ids[id_] for id_ in tenure.replicas],
                texts.setdefault(tenure.host, len(texts)),
                tenure.since,
                int(tenure.source),
                texts.setdefault(tenure.origin, len(texts)),
            ]
            for tenure in self.tenures
        ]
        return [self.epoch, [member.to_data() for member in self.members], list(texts), rows]

    @classmethod
    def from_data(cls, data: list[Any]) -> "View":
        """The view of `to_data`."""
        epoch, members_data, texts, rows = data
        members = tuple(Member.from_data(member) for member in members_data)
        tenures = tuple(
            Tenure(
                tuple(members[index].id for index in replicas),
                texts[host],
                since,
                Source(source),
                texts[origin],
            )
            for replicas, host, since, source, origin in rows
        )
        return cls(epoch, members, tenures)


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
