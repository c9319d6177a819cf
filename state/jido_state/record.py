"""The record: everything that one turn of an agent commits, as one value.

Theory. State, result, outbox and timers change together or not at all, so they are one value under
one version. The register has a version of its own: when a new leader writes a record again
unchanged (settling) only the register's version moves on, and the record, with the version of the
turn that made it, is not touched. `to_bytes` and `from_bytes` are the durable form; `codec` seals
it, so that a row that rotted or belongs elsewhere is never taken for a record.

What outlives an agent: a tombstone keeps the op ids (a repeated `stop` or `spawn` is answered as
before), the signals that are not delivered, and what it has seen; state and timers go.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import ormsgpack

from jido_state.codec import CorruptRowError, open_row, seal_row
from jido_state.dedupe import NO_OPERATIONS, Operations
from jido_state.dots import NOTHING_SEEN, Acting, Actor, Dot, VersionVector
from jido_state.hlc import NO_STAMP, Stamp
from jido_state.messages import HAS_ACTED, HAS_OUTBOX, HAS_TIMERS, IS_TOMB
from jido_state.operations import OpId
from jido_state.outbox import NO_RECEIPTS, NO_SIGNALS, Outbox, Receipts
from jido_state.timers import NO_TIMERS, Timers
from jido_state.versions import NO_BALLOT, NO_VERSION, Ballot, Version

__all__ = ["Record"]

_LEVELS: Final = ("eventual", "session", "strong")
_ACTING_FIELDS: Final = len(Acting._fields)


@dataclass(frozen=True, slots=True)
class Record:
    """One agent, or the tombstone of one. A value.

    Attributes:
        type: Name of the agent's type.
        level: "eventual", "session" or "strong".
        schema: Version of the state's shape, as the type counts it.
        state: The agent's fields, encoded; never looked into here.
        version: Of the turn that made the record; the register's is the same or newer.
        generation: Dot of the turn that made the agent: tells lives of one id apart.
        twins: Of agents that were made apart under this id and merged into this one; sorted.
        born_op: The operation that made it, kept as long as it lives.
        tomb: What a tombstone was first written under, `NO_BALLOT` when that was no leader; None
            for anything alive.
        merged: The turns that led here, those of divergence entries included. Not kept at level
            "strong", which never diverges.
        stamp: Of the last turn; decides between concurrent values.
        dedupe: The operations it has done.
        outbox: Signals to be delivered.
        receipts: Signals it has taken.
        timers: What is to fire.
        turns: How many turns have made it what it is, in this life; of lines that were merged the
            longest counts.
    """

    type: str = ""
    level: str = "eventual"
    schema: int = 1
    state: Any = b""
    version: Version = NO_VERSION
    generation: Dot = NO_VERSION
    twins: tuple[Dot, ...] = ()
    born_op: OpId | None = None
    tomb: Ballot | None = None
    merged: VersionVector = NOTHING_SEEN
    stamp: Stamp = NO_STAMP
    dedupe: Operations = NO_OPERATIONS
    outbox: Outbox = NO_SIGNALS
    receipts: Receipts = NO_RECEIPTS
    timers: Timers = NO_TIMERS
    turns: int = 0

    @classmethod
    def blank(cls, *, state: Any = b"", type: str = "", level: str = "eventual") -> Record:
        """A record that no turn has made yet."""
        return cls(type=type, level=level, state=state)

    @property
    def is_tomb(self) -> bool:
        """Whether it says that there is no agent."""
        return self.tomb is not None

    @property
    def lives(self) -> frozenset[Dot]:
        """The dots of all turns that made the agent: one, unless it has twins."""
        return frozenset((self.generation, *self.twins))

    @property
    def flags(self) -> int:
        """Sum of `HAS_TIMERS`, `HAS_OUTBOX`, `IS_TOMB` and `HAS_ACTED`, as they apply."""
        flags = IS_TOMB if self.tomb is not None else 0
        if self.timers.by_key:
            flags |= HAS_TIMERS
        if self.outbox.signals:
            flags |= HAS_OUTBOX
        for actor in self.merged.numbers:
            if len(actor) == _ACTING_FIELDS:
                return flags | HAS_ACTED
        return flags

    def with_turn(self, *, state: Any, schema: int, outbox: Outbox, timers: Timers) -> Record:
        """The record with what a handler leaves: `replace` in a third of its time.

        Args:
            state: The agent's fields, encoded.
            schema: Version of the state's shape.
            outbox: Signals to be delivered.
            timers: What is to fire.
        """
        return Record(
            self.type,
            self.level,
            schema,
            state,
            self.version,
            self.generation,
            self.twins,
            self.born_op,
            self.tomb,
            self.merged,
            self.stamp,
            self.dedupe,
            outbox,
            self.receipts,
            timers,
            self.turns,
        )

    def completed(
        self,
        *,
        version: Version,
        generation: Dot,
        born_op: OpId | None,
        dedupe: Operations,
        tomb: Ballot | None = None,
        wall_ms: int = 0,
    ) -> Record:
        """The record as a leader's turn commits it: what a handler does not decide is filled in.

        Args:
            version: The turn's.
            generation: Of the agent.
            born_op: What made the agent.
            dedupe: With the turn's own operation.
            tomb: What the turn ran under, when it ends the agent.
            wall_ms: When the turn ran.
        """
        return self._ended(version, version, generation, born_op, dedupe, tomb, wall_ms)

    def acted(
        self,
        *,
        dot: Dot,
        generation: Dot,
        born_op: OpId | None,
        dedupe: Operations,
        is_tomb: bool = False,
        wall_ms: int = 0,
    ) -> Record:
        """The record as a turn without a quorum leaves it, for a divergence entry.

        The version stays that of the record it began from. As for `completed`, except:

        Args:
            dot: The turn's.
            generation: As for `completed`.
            born_op: As for `completed`.
            dedupe: As for `completed`.
            is_tomb: Whether the turn ends the agent.
            wall_ms: As for `completed`.
        """
        tomb = NO_BALLOT if is_tomb else None
        return self._ended(self.version, dot, generation, born_op, dedupe, tomb, wall_ms)

    def _ended(
        self,
        version: Version,
        dot: Dot,
        generation: Dot,
        born_op: OpId | None,
        dedupe: Operations,
        tomb: Ballot | None,
        wall_ms: int,
    ) -> Record:
        return Record(
            self.type,
            self.level,
            self.schema,
            self.state if tomb is None else b"",
            version,
            generation,
            self.twins if generation == self.generation else (),
            born_op,
            tomb,
            self.merged.add(dot) if self.level != "strong" else self.merged,
            self.stamp.next(wall_ms, dot),
            dedupe,
            self.outbox,
            self.receipts,
            self.timers if tomb is None else NO_TIMERS,
            self.turns + 1,
        )

    def after(self, before: Record) -> Record:
        """The first record of a new life, with what outlived the life before it.

        Args:
            before: The tombstone of that life; its last record, when the new one takes its place.
        """
        return replace(
            self,
            merged=before.merged.join(self.merged),
            stamp=max(before.stamp, self.stamp),
            outbox=Outbox(before.outbox.signals + self.outbox.signals),
            receipts=before.receipts,
        )

    def folded(self, actors: Iterable[Actor]) -> Record:
        """Without the names of actors that are over: all members hold what they did."""
        return replace(self, merged=self.merged.fold(actors))

    def to_content(self) -> bytes:
        """As bytes without a checksum; `from_content` reads them."""
        return ormsgpack.packb(self.to_data())

    def to_data(self) -> list[Any]:
        """As lists, bytes, strings and numbers."""
        tomb, stamp = self.tomb, self.stamp
        return [
            self.type,
            _LEVELS.index(self.level),
            self.schema,
            self.state,
            tuple(self.version),
            tuple(self.generation),
            [tuple(dot) for dot in self.twins],
            None if self.born_op is None else tuple(self.born_op),
            None if tomb is None else tuple(tomb),
            self.merged.to_data(),
            (stamp.wall_ms, stamp.counter, tuple(stamp.dot)),
            self.dedupe.to_data(),
            self.outbox.to_data(),
            self.receipts.to_data(),
            self.timers.to_data(),
            self.turns,
        ]

    @classmethod
    def from_content(cls, content: bytes) -> Record:
        """The record in these bytes.

        Raises:
            ValueError: They are not what `to_content` makes.
        """
        try:
            return cls.from_data(ormsgpack.unpackb(content))
        except (TypeError, ValueError, IndexError) as error:
            raise ValueError(f"{len(content)} bytes are no record: {error}") from error

    @classmethod
    def from_data(cls, data: Sequence[Any]) -> Record:
        """What `to_data` took apart. Raises TypeError, ValueError or IndexError for other data."""
        (
            type_,
            level,
            schema,
            state,
            version,
            generation,
            twins,
            born_op,
            tomb,
            merged,
            stamp,
            dedupe,
            outbox,
            receipts,
            timers,
            turns,
        ) = data
        return cls(
            type_,
            _LEVELS[level],
            schema,
            state,
            Version(*version),
            tuple(generation),
            tuple(tuple(dot) for dot in twins) if twins else (),
            None if born_op is None else OpId(*born_op),
            None if tomb is None else Ballot(*tomb),
            VersionVector.from_data(merged),
            Stamp(stamp[0], stamp[1], tuple(stamp[2])),
            Operations.from_data(dedupe),
            Outbox.from_data(outbox),
            Receipts.from_data(receipts),
            Timers.from_data(timers),
            turns,
        )

    def to_bytes(self, shard: int, key: str, version: Version | None = None) -> bytes:
        """The row of this record, sealed for its place.

        Args:
            shard: Number of the shard.
            key: The agent's id.
            version: The register's, when it is newer than the record's.
        """
        tomb = NO_BALLOT if self.tomb is None else self.tomb
        row = self.version if version is None else version
        return seal_row(shard, key, row, self.flags, tomb, self.to_content())

    @classmethod
    def from_bytes(cls, shard: int, key: str, data: bytes) -> tuple[Version, Record]:
        """The register's version, and the record.

        Raises:
            CorruptRowError: The bytes are not what `to_bytes` made for this shard and key.
        """
        row = open_row(shard, key, data)
        try:
            return row.version, cls.from_content(row.content)
        except ValueError as error:
            raise CorruptRowError(shard, key, str(error)) from error
