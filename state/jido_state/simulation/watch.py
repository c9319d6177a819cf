"""What has to hold at every step of a run, seen from outside all processes.

A single replica cannot see whether its answer rests on a quorum, or whether another one leads under
the same ballot. The watch sees every message, every write that became durable and every answer, and
raises at the first one that must not be. What it checks are the invariants of the protocol that are
about more than one process (section 1.15 of the protocol); I11 and I12 show in what clients see.
"""

from collections.abc import Collection, Mapping
from typing import Any

from jido_placement.config import GroupConfig, Replica
from jido_state.messages import Accept, Header, Persist, Reap, Row, Staged
from jido_state.simulation.in_memory import AgentsInMemory
from jido_state.versions import NO_BALLOT, Ballot, Version

__all__ = ["UnsafeError", "Watch"]


class UnsafeError(AssertionError):
    """An invariant of the protocol did not hold. The run is over."""


class Watch:
    """Invariants that no single replica can see.

    Attributes:
        leaders: Process that led under each ballot of each shard.
        elections: How often a leader was made.
        in_memory: Looks after what was acknowledged from memory.
    """

    def __init__(self) -> None:
        self.in_memory = AgentsInMemory(lambda _: ())
        self.leaders: dict[tuple[int, Ballot], int] = {}
        self.elections = 0
        self._rows: dict[tuple[int, Version], tuple[str, Row]] = {}
        self._promised: dict[tuple[int, int, int], Ballot] = {}  # durably
        self._asked: dict[tuple[int, int, int], Ballot] = {}  # or on the way to the disk
        self._leading: dict[tuple[int, int], Ballot] = {}
        self._durable: dict[tuple[int, Version], set[Replica]] = {}
        self._held: dict[tuple[int, Version], set[Replica]] = {}  # in memory at least, some time

    def sent(self, shard: int, message: Any, config: GroupConfig) -> None:
        """I1: one content for a version; I10: what is reaped was a tombstone everywhere."""
        if type(message) is Accept:
            for key, row in message.rows:
                self._is_one_content(shard, key, row)
                if row.version[:4] != message.ballot:
                    raise UnsafeError(
                        f"I3: {key!r} is sent as {row.version} under {message.ballot}"
                    )
        elif type(message) is Reap:
            self._may_be_reaped(shard, message, config)

    def acked(self, replica: Replica, shard: int, ballot: Ballot) -> None:
        """I2: who acks under a ballot has promised it durably, whatever becomes of the rows."""
        promised = self._promised.get((shard, replica.node, replica.rno))
        if promised is not None and promised < ballot:
            raise UnsafeError(
                f"I2: {replica} of shard {shard} acks under {ballot}, and has durably promised "
                f"{promised}"
            )

    def _is_one_content(self, shard: int, key: str, row: Row) -> None:
        known = self._rows.get((shard, row.version))
        if known is None:
            self._rows[shard, row.version] = (key, row)
            return
        before = known[1]
        is_same = (
            before.content is row.content
            or type(row.content) is Staged
            or type(before.content) is Staged
            or before.content == row.content
        )
        if known[0] != key or not is_same:
            raise UnsafeError(
                f"I1: {row.version} of {key!r} is sent with another content than before: "
                f"{row.content!r} after {known!r}"
            )

    def _may_be_reaped(self, shard: int, reap: Reap, config: GroupConfig) -> None:
        known = self._rows.get((shard, reap.version))
        holders = self._durable.get((shard, reap.version), set())
        if known is None or known[1].tomb in {NO_BALLOT, reap.ballot} or config.is_joint:
            raise UnsafeError(f"I10: {reap.key!r} is reaped by {reap.ballot} as {known}")
        if any(one not in holders for one in config.voters):
            raise UnsafeError(
                f"I10: {reap.key!r} is reaped; of {config.voters} only {sorted(holders)} have "
                f"held its tombstone"
            )

    def asked(self, replica: Replica, shard: int, persist: Persist) -> None:
        """I3: what is written under a ballot is written under no higher promise.

        A promise of the same write may be higher: of messages that are taken in one step, as those
        that came before their config are, an earlier one may have had the row stored, of which the
        promise then tells.
        """
        name = shard, replica.node, replica.rno
        promised = self._asked.get(name, NO_BALLOT)
        if persist.header is not None:
            self._asked[name] = persist.header.promised
        for key, row in persist.rows.items():
            if row is not None:
                self._held.setdefault((shard, row.version), set()).add(replica)
            if row is not None and row.version[:4] < promised:
                raise UnsafeError(
                    f"I3: {replica} of shard {shard} writes {key!r} as {row.version} and has "
                    f"promised {promised}"
                )

    def durable(self, replica: Replica, shard: int, persist: Persist) -> None:
        """I2: a promise never falls while its header lives; and who holds what."""
        for row in persist.rows.values():
            if row is not None:
                self._durable.setdefault((shard, row.version), set()).add(replica)
        if persist.header is not None:
            self._promises(replica, shard, persist.header)

    def found(self, replica: Replica, shard: int, header: Header, rows: Mapping[str, Row]) -> None:
        """I2, and who holds what, of a replica that begins again."""
        self.in_memory.returned(replica, shard, rows, header.config)
        self._asked[shard, replica.node, replica.rno] = header.promised
        for row in rows.values():
            self._durable.setdefault((shard, row.version), set()).add(replica)
        self._promises(replica, shard, header)

    def set_back(self, node: int) -> None:
        """The node's disk has forgotten: whether it notices shows in what clients see."""
        for name in [name for name in self._promised if name[1] == node]:
            del self._promised[name]

    def _promises(self, replica: Replica, shard: int, header: Header) -> None:
        if header.status == "pending":
            return  # it has promised nothing yet
        name = (shard, replica.node, header.rno)
        before = self._promised.get(name)
        if before is not None and header.promised < before:
            raise UnsafeError(f"I2: {name} promised {before}, and then {header.promised}")
        self._promised[name] = header.promised

    def led(self, process: int, shard: int, ballot: Ballot) -> None:
        """I1: one incarnation for a ballot."""
        if (shard, ballot) in self.leaders:
            raise UnsafeError(
                f"I1: shard {shard} is led under {ballot} a second time, by {process}"
            )
        self.leaders[shard, ballot] = process
        self._leading[process, shard] = ballot
        self.elections += 1

    def stopped(self, process: int, shard: int, ballot: Ballot) -> None:
        """A leader has stopped."""
        if self._leading.pop((process, shard), None) != ballot:
            raise UnsafeError(f"process {process} stops leading shard {shard}, which it did not")

    def ended(self, process: int) -> None:
        """The process is gone, and whatever it led."""
        for name in [name for name in self._leading if name[0] == process]:
            del self._leading[name]

    def answered(
        self, shard: int, version: Version, config: GroupConfig, durability: str = "quorum"
    ) -> None:
        """I6: what an answer rests on has been durable on a quorum, or in its memory if it says so.

        Of "memory" too many holders are counted: those that have lost it since, as well.
        """
        if version.number == 0:
            return  # the absence of a record
        held = self._durable if durability == "quorum" else self._held
        holders: Collection[Replica] = held.get((shard, version), ())
        sent = self._rows.get((shard, version))
        if durability == "memory" and sent is not None:
            self.in_memory.answered(shard, sent[0], version, config)
        if not config.is_quorum(holders):
            raise UnsafeError(
                f"I6: an answer rests on {version} of shard {shard}, which only "
                f"{sorted(holders)} have held, of {config}"
            )
