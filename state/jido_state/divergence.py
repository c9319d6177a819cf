"""What was done to an agent without a quorum: entries beside its register, until they are merged.

Theory. A replica that acts never touches the register. Each of its turns makes an *entry*: the
whole record as that turn left it, under a dot of its own, with all turns it has seen. An entry
takes the place of those that it has seen; entries that have not seen each other are *siblings* and
stay side by side, so nothing is decided before the shard's leader can decide it. Holders keep an
entry until a committed record has seen its dot.
*Source*: Preguiça et al., Dotted version vectors: efficient causality tracking for distributed
key-value stores (2012), the sets.
*Departure*: an entry carries outbox, timers and op ids as well as the value, and each sibling has
its own vector, which its record needs anyway.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import ormsgpack

from jido_state.codec import CorruptRowError, open_row, seal_row
from jido_state.dots import Dot, VersionVector
from jido_state.record import Record
from jido_state.versions import NO_BALLOT, NO_VERSION, Version

__all__ = ["NO_SIBLINGS", "Entry", "Siblings", "SiblingsFull"]

MAX_SIBLINGS: Final = 64
"""Acting periods that did not see each other; of five replicas, each would have to begin twelve."""

_MARK: Final = "\0divergence"  # so that the row is never taken for the key's record


@dataclass(frozen=True, slots=True)
class Entry:
    """One turn without a quorum. A value.

    Invariant: `record.merged` covers `dot`.

    Attributes:
        dot: Of the turn.
        base: Version of the register that its replica held. Where it is the register's still, the
            entry takes its place; the record's vector says so too, and through settling.
        record: As the turn left it; its `merged` are the turns seen, this one included.
    """

    dot: Dot
    base: Version
    record: Record

    def has_seen(self, other: Entry) -> bool:
        """Whether the other is part of what led to this one."""
        return self.record.merged.covers(other.dot)


class SiblingsFull(NamedTuple):
    """There are too many siblings: the turn is to fail."""

    reason: str


@dataclass(frozen=True, slots=True)
class Siblings:
    """The entries of one agent that have not seen each other. A value.

    Attributes:
        entries: Sorted by dot, distinct.
    """

    entries: tuple[Entry, ...] = ()

    def add(self, entry: Entry) -> Siblings | SiblingsFull:
        """With a turn's entry, in place of those it has seen."""
        joined = self.sync(Siblings((entry,)))
        if len(joined.entries) > max(MAX_SIBLINGS, len(self.entries)):
            return SiblingsFull(f"{len(self.entries)} replicas acted apart: let a leader merge")
        return joined

    def sync(self, other: Siblings) -> Siblings:
        """The entries of both that no entry of either has seen; what is acked is never refused."""
        by_dot = {entry.dot: entry for entry in (*self.entries, *other.entries)}
        entries = [by_dot[dot] for dot in sorted(by_dot)]
        return Siblings(
            tuple(
                entry
                for entry in entries
                if not any(one is not entry and one.has_seen(entry) for one in entries)
            )
        )

    def without(self, merged: VersionVector) -> Siblings:
        """Those that a committed record which has seen `merged` does not contain.

        The acting period of a replica that drops entries is over: what it does next may not begin
        from them any more, so it must not count on from their dots.
        """
        left = tuple(entry for entry in self.entries if not merged.covers(entry.dot))
        return self if len(left) == len(self.entries) else Siblings(left)

    def seen(self) -> VersionVector:
        """What all of them together have seen."""
        return _seen(self.entries)

    def to_bytes(self, shard: int, key: str) -> bytes:
        """As a row, sealed for its place beside the register."""
        data = [
            [list(entry.dot), list(entry.base), entry.record.to_data()] for entry in self.entries
        ]
        content = ormsgpack.packb(data)
        return seal_row(shard, key + _MARK, NO_VERSION, 0, NO_BALLOT, content)

    @classmethod
    def from_bytes(cls, shard: int, key: str, data: bytes) -> Siblings:
        """The entries in this row.

        Raises:
            CorruptRowError: It is not what `to_bytes` made for this shard and key.
        """
        content = open_row(shard, key + _MARK, data).content
        try:
            return cls._from_data(ormsgpack.unpackb(content))
        except (TypeError, ValueError, IndexError) as error:
            raise CorruptRowError(shard, key, f"no divergence entries: {error}") from error

    @classmethod
    def _from_data(cls, data: Sequence[Any]) -> Siblings:
        return cls(
            tuple(
                Entry(tuple(dot), Version(*base), Record.from_data(record))
                for dot, base, record in data
            )
        )


NO_SIBLINGS: Final = Siblings()


def _seen(entries: Iterable[Entry]) -> VersionVector:
    seen = VersionVector({}, {})
    for entry in entries:
        seen = seen.join(entry.record.merged)
    return seen
