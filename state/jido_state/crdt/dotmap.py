"""Entries by key, each under the dot of the change that put it: what the containers are built on.

Theory. A change to a key replaces the entries of that key that it has seen. Of two copies, an entry
that only one has is new if the other has not seen its dot, and was removed if it has. So removal
leaves nothing behind, and of a removal and a concurrent change the change stays.
*Source*: Bieniusa et al., An optimized conflict-free replicated set (2012); Almeida, Shoker,
Baquero, Delta state replicated data types (2018), section 7.
*Departure*: a delta names the entries that its receiver should still have, instead of carrying the
dots that were removed: nobody has to keep those.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jido_state.crdt.values import CrdtValueError, RetiredActorError, pack, unpack
from jido_state.dots import NOTHING_SEEN, Actor, Dot, VersionVector

__all__ = ["Delta", "DotMap"]

_Entries = Mapping[bytes, Mapping[Dot, Any]]


@dataclass(frozen=True, slots=True)
class DotMap:
    """Entries by key and dot, and all dots that were ever seen. A value.

    Invariants: every entry's dot is covered by the context; no key is without entries.

    Attributes:
        entries: By key, and by dot what was put.
        context: The dots seen.
    """

    entries: _Entries = field(default_factory=dict)
    context: VersionVector = NOTHING_SEEN

    def put(self, actor: Actor, key: bytes, entry: Any) -> DotMap:
        """The key has this entry alone.

        Raises:
            RetiredActorError: The actor was folded.
        """
        if self.context.is_folded(actor):
            raise RetiredActorError(f"{actor} is folded: it changes nothing any more")
        dot = (*actor, self.context.last(actor) + 1)
        return DotMap({**self.entries, key: {dot: entry}}, self.context.add(dot))

    def drop(self, key: bytes) -> DotMap:
        """The key has no entry that was seen here."""
        if key not in self.entries:
            return self
        return DotMap({k: each for k, each in self.entries.items() if k != key}, self.context)

    def join(self, other: DotMap) -> DotMap:
        """What both have come to."""
        entries = dict(_joined(self.entries, self.context, other.entries, other.context))
        return DotMap(entries, self.context.join(other.context))

    def delta_since(self, since: VersionVector) -> Delta:
        """What a copy that has seen `since` lacks."""
        new: dict[bytes, dict[Dot, Any]] = {}
        known: list[Dot] = []
        for key, by_dot in sorted(self.entries.items()):
            for dot, entry in sorted(by_dot.items(), key=_dot):
                if since.covers(dot):
                    known.append(dot)
                else:
                    new.setdefault(key, {})[dot] = entry
        return Delta(new, tuple(known), since, self.context)

    def join_delta(self, delta: Delta) -> DotMap:
        """With what it lacked.

        Raises:
            CrdtValueError: The delta begins after what this copy has seen. Nothing was changed.
        """
        if not self.context.dominates(delta.since):
            raise CrdtValueError("the delta begins after what this copy has seen: ask again")
        known = frozenset(delta.known)
        entries = dict(_joined(self.entries, self.context, delta.new, delta.context, known))
        return DotMap(entries, self.context.join(delta.context))

    def fold(self, actors: Iterable[Actor]) -> DotMap:
        """The same entries, with actors that are over named no more in the context."""
        return DotMap(self.entries, self.context.fold(actors))

    def to_data(self) -> list[Any]:
        """As lists, equal for equal maps."""
        return [_entries_to_data(self.entries), self.context.to_data()]

    @classmethod
    def from_data(cls, data: Sequence[Any]) -> DotMap:
        """What `to_data` took apart. Raises TypeError or ValueError for anything else."""
        entries, context = data
        return cls(_entries_from_data(entries), VersionVector.from_data(context))


@dataclass(frozen=True, slots=True)
class Delta:
    """What a copy lacks of another one. A value.

    Attributes:
        new: Entries it has not seen.
        known: Dots of the entries that it has seen and that are still there, sorted by key.
        since: What it must have seen.
        context: What it will have seen.
    """

    new: _Entries
    known: tuple[Dot, ...]
    since: VersionVector
    context: VersionVector

    def to_bytes(self) -> bytes:
        """As bytes, equal for equal deltas."""
        known = [list(dot) for dot in self.known]
        data = [_entries_to_data(self.new), known, self.since.to_data(), self.context.to_data()]
        return pack("Delta", data)

    @classmethod
    def from_bytes(cls, data: bytes) -> Delta:
        """The delta in these bytes. Raises CrdtFormatError if there is none."""
        return unpack("Delta", data, cls._from_data)

    @classmethod
    def _from_data(cls, data: Sequence[Any]) -> Delta:
        new, known, since, context = data
        return cls(
            _entries_from_data(new),
            tuple(tuple(dot) for dot in known),
            VersionVector.from_data(since),
            VersionVector.from_data(context),
        )


def _joined(
    mine: _Entries,
    my_seen: VersionVector,
    theirs: _Entries,
    their_seen: VersionVector,
    known: frozenset[Dot] = frozenset(),
) -> Iterator[tuple[bytes, Mapping[Dot, Any]]]:
    """The entries that neither removed; `known` are entries of mine that they have too."""
    for key, by_dot in mine.items():
        other = theirs.get(key, {})
        kept = {
            dot: entry
            for dot, entry in by_dot.items()
            if dot in other or dot in known or not their_seen.covers(dot)
        }
        kept.update(_unseen(other, my_seen))
        if kept:
            yield key, kept
    for key, other in theirs.items():
        if key not in mine and (kept := _unseen(other, my_seen)):
            yield key, kept


def _unseen(by_dot: Mapping[Dot, Any], seen: VersionVector) -> dict[Dot, Any]:
    return {dot: entry for dot, entry in by_dot.items() if not seen.covers(dot)}


def _entries_to_data(entries: _Entries) -> list[Any]:
    return [
        [key, [[list(dot), entry] for dot, entry in sorted(by_dot.items(), key=_dot)]]
        for key, by_dot in sorted(entries.items())
    ]


def _entries_from_data(data: Sequence[Any]) -> _Entries:
    return {
        key: {
            tuple(dot): tuple(entry) if isinstance(entry, list) else entry for dot, entry in by_dot
        }
        for key, by_dot in data
    }


def _dot(pair: tuple[Dot, Any]) -> Dot:
    return pair[0]
