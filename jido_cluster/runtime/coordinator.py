"""The coordinator: makes the next view when nodes come, go, or restart a process.

One at a time in a cluster, on no data path. It is a plain state machine: the driver tells it what
happened and spreads the view it returns. A new coordinator continues from the newest view that any
node has (`adopt`).
"""

from collections.abc import Sequence
from dataclasses import replace

from jido_cluster.runtime.view import NOBODY, Member, Source, Tenure, View
from jido_placement import Member as PlacedMember
from jido_placement import ShardTable, build_table

MIN_REPLICAS = 2  # a shard's roster needs a second node even while the state has one copy


class Coordinator:
    """Holds the current view; every change returns the next one.

    Args:
        shards: Number of shards, fixed for the cluster's life.
        replicas: Nodes for each shard, when there are as many.
    """

    def __init__(self, shards: int, replicas: int) -> None:
        self._replicas = max(replicas, MIN_REPLICAS)
        self._shards = shards
        self._table: ShardTable | None = None
        self.view = View(0, (), tuple(Tenure(()) for _ in range(shards)))

    def adopt(self, view: View) -> None:
        """Continue from a view of an earlier coordinator, if it is newer."""
        if view.epoch > self.view.epoch:
            self.view = view
            self._table = None

    def join(self, members: Sequence[Member]) -> View:
        """Nodes have come up, or are up again with other processes."""
        known = {member.id: member for member in self.view.members}
        known.update({member.id: member for member in members})
        return self._next(tuple(known[id_] for id_ in sorted(known)))

    def leave(self, *ids: str) -> View:
        """Nodes are gone for good."""
        gone = set(ids)
        return self._next(tuple(m for m in self.view.members if m.id not in gone))

    def replace_host(self, member_id: str, index: int, address: str) -> View:
        """A host process died and another one took its place on its node."""
        members = []
        for member in self.view.members:
            if member.id == member_id:
                hosts = list(member.hosts)
                hosts[index] = address
                member = replace(member, hosts=tuple(hosts))  # noqa: PLW2901 - the next one
            members.append(member)
        return self._next(tuple(members))

    def _next(self, members: tuple[Member, ...]) -> View:
        serving = [m for m in members if m.status == "up" and m.hosts]
        alive = {host for m in members for host in m.hosts}
        epoch = self.view.epoch + 1
        if serving:
            self._table = build_table(
                [PlacedMember(m.id, m.weight, m.zone) for m in serving],
                shards=self._shards,
                replicas=self._replicas,
                previous=self._table or self._previous_table(),
            )
        by_id = {m.id: m for m in members}
        tenures = tuple(
            self._tenure(number, old, by_id, alive, epoch, has_nodes=bool(serving))
            for number, old in enumerate(self.view.tenures)
        )
        self.view = View(epoch, members, tenures)
        return self.view

    def _tenure(
        self,
        number: int,
        old: Tenure,
        by_id: dict[str, Member],
        alive: set[str],
        epoch: int,
        *,
        has_nodes: bool,
    ) -> Tenure:
        if not has_nodes or self._table is None:
            return replace(old, replicas=(), host=NOBODY) if old.host else old
        replicas = self._table.replicas_of(number)
        hosts = by_id[replicas[0]].hosts
        host = hosts[number % len(hosts)]
        if host == old.host:
            return replace(old, replicas=replicas)
        if old.since == 0:
            return Tenure(replicas, host, epoch, Source.NEW)
        if old.host in alive:
            return Tenure(replicas, host, epoch, Source.HANDOFF, old.host)
        return Tenure(replicas, host, epoch, Source.LOST)

    def _previous_table(self) -> ShardTable | None:
        """The table of an adopted view, so that a new coordinator moves no shard needlessly."""
        rows = tuple(tenure.replicas for tenure in self.view.tenures)
        if len({len(row) for row in rows}) != 1 or not rows[0]:
            return None
        members = tuple(PlacedMember(m.id, m.weight, m.zone) for m in self.view.members)
        return ShardTable(members, self._replicas, rows)
