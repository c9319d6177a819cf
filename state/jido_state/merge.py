"""Bringing together a register and what was done to its agent without a quorum.

Theory. The shard's leader does this as a turn; it is the only place where concurrent values meet.

1. What the register has seen is merged already. What has seen the register takes its place.
2. Values that remain have not seen each other. An update wins over a delete. Of different types the
   register's wins; of two lives of one id, one of which followed the other, the later stamp.
3. What is left is merged by the type: its replicated fields, or its `on_conflict`. If it has
   neither, or that fails, the value with the highest stamp is taken.
4. Values that were not taken are returned as conflicts, to be logged: nothing that was
   acknowledged disappears silently.
5. Op ids, signals and timers are never the type's affair. They are united, those of values that
   were not taken too, because their turns were acknowledged: what either side has done is done.

All of this depends on the entries only as a set, and entries may come in several rounds: the stamp
of a merged record is that of the value taken, so a later round compares as an earlier one would.
*Source*: section 12 and finding 20 of the replication protocol; Riak's siblings.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Final, NamedTuple

from jido_state.dedupe import union
from jido_state.divergence import Siblings
from jido_state.dots import NOTHING_SEEN, Dot
from jido_state.hlc import NO_STAMP, Stamp
from jido_state.record import Record
from jido_state.timers import NO_TIMERS
from jido_state.versions import Version

__all__ = ["Conflict", "Merged", "Reason", "Resolve", "merge"]

MAX_TWINS: Final = 16  # one too many is taken for another life: its value is logged, not merged

Resolve = Callable[[Sequence[Record], int], tuple[int, bytes]]
"""Merges the states of live records of one type: given these, the register's first and then by dot,
and the place of the one with the highest stamp, it returns schema version and state. Pure."""


class Reason(Enum):
    """Why a value was not taken."""

    VALUE = "value"
    """Another one had the higher stamp."""
    DELETED = "deleted"
    """It was a delete, and there was an update."""
    TYPE = "type"
    """It was of another type."""
    LIFE = "life"
    """It belonged to another life of the id: it was deleted and made again on one side."""


class Conflict(NamedTuple):
    """A value that was not taken.

    Attributes:
        reason: Why.
        dot: Of its last turn.
        record: All of it.
    """

    reason: Reason
    dot: Dot
    record: Record


@dataclass(frozen=True, slots=True)
class Merged:
    """What came of a merge.

    Attributes:
        record: To be committed under the version that `merge` was given; None when there was
            nothing to merge.
        dots: Of the entries that are now in, sorted.
        conflicts: What was not taken, the register first and then by dot.
        failure: Type name of what the type's own merge raised; "" if nothing.
    """

    record: Record | None
    dots: tuple[Dot, ...] = ()
    conflicts: tuple[Conflict, ...] = ()
    failure: str = ""


class _Value(NamedTuple):
    dot: Dot
    record: Record


def merge(
    register: Record | None,
    siblings: Siblings,
    *,
    version: Version,
    now_ms: int,
    wall_ms: int,
    resolve: Resolve | None = None,
) -> Merged:
    """Merges entries into a register.

    Args:
        register: The committed record; None when there is none.
        siblings: The entries of its agent.
        version: Of the turn that merges. A replica that acts, and merges what it finds before it
            begins, gives the register's own.
        now_ms: Since the leader began to lead.
        wall_ms: Wall time: stamps far ahead of it are not carried on.
        resolve: The type's own merge.
    """
    seen = NOTHING_SEEN if register is None else register.merged
    entries = siblings.without(seen).entries
    if not entries:
        return Merged(None)
    values = [_Value(entry.dot, entry.record) for entry in entries]
    is_superseded = register is None or any(
        value.record.merged.dominates(register.merged) for value in values
    )
    if register is not None and not is_superseded:
        values.insert(0, _Value(register.version, register))
    taken, conflicts = _select(values, register)
    state, failure = _resolve(taken, resolve)
    if resolve is None or failure:
        winner = _winner(taken)
        conflicts += [Conflict(Reason.VALUE, *value) for value in taken if value is not winner]
    records = [entry.record for entry in entries]
    if register is not None:
        records.insert(0, register)
    result = _united(state, records, taken, version, now_ms=now_ms, wall_ms=wall_ms)
    order = {value.dot: place for place, value in enumerate(values)}
    conflicts.sort(key=lambda conflict: order[conflict.dot])
    dots = tuple(entry.dot for entry in entries)
    return Merged(result, dots, tuple(conflicts), failure)


def _select(
    values: Sequence[_Value], register: Record | None
) -> tuple[list[_Value], list[Conflict]]:
    """The values that may be merged with each other, at least one, and why not the others."""
    alive = [value for value in values if not value.record.is_tomb]
    if not alive:
        return [_winner(values)], []
    conflicts = [Conflict(Reason.DELETED, *value) for value in values if value.record.is_tomb]
    # The register's type also rules where an entry has replaced its value: as if that entry had
    # come first.
    type_ = None if register is None or register.is_tomb else register.type
    if all(value.record.type != type_ for value in alive):
        type_ = _winner(alive).record.type
    same = [value for value in alive if value.record.type == type_]
    conflicts += [Conflict(Reason.TYPE, *value) for value in alive if value.record.type != type_]
    winner = _winner(same)
    taken = [value for value in same if not _is_other_life(winner.record, value.record)]
    conflicts += [
        Conflict(Reason.LIFE, *value)
        for value in same
        if _is_other_life(winner.record, value.record)
    ]
    return taken, conflicts


def _is_other_life(one: Record, other: Record) -> bool:
    """Whether one of them ended, and was followed by the other.

    Two that began apart, as virtual agents do, may be merged. Of two that followed each other both
    have values of the same actors, which count from the beginning in each.
    """
    return one.lives.isdisjoint(other.lives) and (
        one.merged.covers(other.generation) or other.merged.covers(one.generation)
    )


def _resolve(taken: Sequence[_Value], resolve: Resolve | None) -> tuple[Record, str]:
    """The record with the merged state, otherwise that of the highest stamp; and what failed."""
    winner = _winner(taken)
    if resolve is None or len(taken) == 1:
        return winner.record, ""
    try:
        schema, state = resolve([value.record for value in taken], taken.index(winner))
    except Exception as error:  # noqa: BLE001 - a user's code may raise whatever it likes
        return winner.record, type(error).__name__
    return replace(winner.record, schema=schema, state=state), ""


def _winner(values: Sequence[_Value]) -> _Value:
    return max(values, key=_stamp)


def _stamp(value: _Value) -> Stamp:
    return value.record.stamp


def _united(
    base: Record,
    records: Sequence[Record],
    taken: Sequence[_Value],
    version: Version,
    *,
    now_ms: int,
    wall_ms: int,
) -> Record:
    """The record with the op ids, signals, timers and history of all, the register's first."""
    first = records[0]
    outbox, receipts, timers = first.outbox, first.receipts, NO_TIMERS
    merged, timers_seen = NOTHING_SEEN, NOTHING_SEEN
    kept = {id(value.record) for value in taken}
    for record in records:
        if record is not first:
            outbox = outbox.join(merged, record.outbox, record.merged)
            receipts = receipts.join(record.receipts, now_ms=now_ms)
        # What a delete cleared is not over if the delete was not taken; nor do the timers of
        # another type or life begin to fire in this one.
        if id(record) in kept:
            timers = timers.join(timers_seen, record.timers, record.merged)
            timers_seen = timers_seen.join(record.merged)
        merged = merged.join(record.merged)
    lives = {dot for value in taken for dot in value.record.lives}
    return replace(
        base,
        version=version,
        tomb=version.ballot if base.is_tomb else None,
        twins=tuple(sorted(lives - {base.generation})[-MAX_TWINS:]),
        merged=merged.add(version),
        stamp=_carried(taken, wall_ms),
        dedupe=union(first.dedupe, [record.dedupe for record in records[1:]], now_ms=now_ms),
        outbox=outbox,
        receipts=receipts,
        timers=NO_TIMERS if base.is_tomb else timers,
        turns=max(value.record.turns for value in taken),
    )


def _carried(taken: Sequence[_Value], wall_ms: int) -> Stamp:
    """The stamp by which a later round compares: of what was taken, unless a clock was wrong."""
    carried = NO_STAMP
    for value in taken:
        carried = carried.adopt(value.record.stamp, wall_ms)
    return carried
