"""Which operations an agent has done, with their results: what makes a call count once.

Theory. A record keeps, by caller, the results of the caller's operations from a *floor* on. With
each request the caller says below which number all its operations are answered; that moves the
floor, and what is below it is forgotten and never run. What is not acknowledged is kept, however
old, until its caller has not called for a whole dedupe window. Where there is no room for more, new
operations are refused: forgetting one too early would run it twice. Failed operations are not
remembered, since they changed nothing.

A caller that is an agent also has a fence. The highest is kept, so that a turn of a leader that was
deposed in the meantime calls in vain.

Time is how long the present leader has led. Ages are written down as such times, so after a change
of leaders they count from its beginning, or from where the last leader had come to: too young, and
never too old. *Source*: Lee et al., RIFL (2015).
*Departure*: no leases; a client that goes away is noticed by its silence.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from jido_state.operations import CallerFence, OpId

__all__ = [
    "DEDUPE_WINDOW_MS",
    "NO_OPERATIONS",
    "Expired",
    "Fenced",
    "Found",
    "Fresh",
    "Full",
    "Hit",
    "Operations",
    "age_of",
    "lookup",
    "remember",
    "union",
]

DEDUPE_WINDOW_MS: Final = 900_000  # a retry comes within half of it, whatever happened meanwhile

MAX_CALLERS: Final = 256
MAX_UNANSWERED: Final = 64
"""Operations of one caller that it has not acknowledged; it should not have more on their way."""

MAX_RESULTS: Final = 1024
"""Results of one caller, those of nested calls included; also the names that users gave."""

MAX_RESULT_BYTES: Final = 4096
MAX_TABLE_BYTES: Final = 131_072
"""Of all results: half of what a record may have. Beyond it they are kept as done only."""


class _Dropped:
    """Stands for the result of an operation that is done and whose result was too large."""

    def __repr__(self) -> str:
        return "DROPPED"


DROPPED: Final = _Dropped()


# The answers are no tuples: `Expired()` and `Fresh()` would be equal.


@dataclass(frozen=True, slots=True)
class Hit:
    """The operation is done.

    Attributes:
        result: What it gave; None when that was too large to keep.
        is_dropped: Whether it was.
    """

    result: Any
    is_dropped: bool = False


@dataclass(frozen=True, slots=True)
class Expired:
    """The caller has acknowledged it, or it is forgotten: it may be done, and is not to be run."""


@dataclass(frozen=True, slots=True)
class Fenced:
    """The calling agent has called under a higher fence: this caller has lost its right."""

    highest: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Full:
    """There is no room to remember it: it was not run, and may be tried later."""

    reason: str


@dataclass(frozen=True, slots=True)
class Fresh:
    """It has not been done: run it."""


Found = Hit | Expired | Fenced | Full | Fresh


class _Caller(NamedTuple):
    """What is known of one caller. `results` has by number and path what was given."""

    floor: int
    used_ms: int
    results: Mapping[int, Mapping[str, Any]]


class _Named(NamedTuple):
    used_ms: int
    result: Any


class _Right(NamedTuple):
    used_ms: int
    fence: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Operations:
    """The operations of one agent. A value: the mappings are never changed.

    Attributes:
        callers: By caller, at most `MAX_CALLERS`.
        named: By the name a user gave, at most `MAX_RESULTS`.
        fences: By calling agent the highest fence, at most `MAX_CALLERS`.
        kept_bytes: Of all results together, at most `MAX_TABLE_BYTES` but after a `union`.
    """

    callers: Mapping[str, _Caller] = field(default_factory=dict)
    named: Mapping[str, _Named] = field(default_factory=dict)
    fences: Mapping[str, _Right] = field(default_factory=dict)
    kept_bytes: int = 0

    def to_data(self) -> list[Any]:
        """As lists, equal for equal tables."""
        if not self.callers and not self.named and not self.fences:
            return []
        return [
            [
                [
                    name,
                    floor,
                    used_ms,
                    [
                        [n, path, None if result is DROPPED else [result]]
                        for n, by_path in sorted(results.items())
                        for path, result in sorted(by_path.items(), key=_first)
                    ],
                ]
                for name, (floor, used_ms, results) in sorted(self.callers.items())
            ],
            [
                [name, used_ms, None if result is DROPPED else [result]]
                for name, (used_ms, result) in sorted(self.named.items(), key=_first)
            ],
            [
                [agent, used_ms, list(fence)]
                for agent, (used_ms, fence) in sorted(self.fences.items())
            ],
        ]

    @classmethod
    def from_data(cls, data: Sequence[Any]) -> Operations:
        """What `to_data` took apart. Raises TypeError or ValueError for anything else."""
        if not data:
            return NO_OPERATIONS
        callers, named, fences = data
        by_caller = {}
        for name, floor, used_ms, rows in callers:
            results: dict[int, dict[str, Any]] = {}
            for n, path, kept in rows:
                results.setdefault(n, {})[path] = DROPPED if kept is None else kept[0]
            by_caller[name] = _Caller(floor, used_ms, results)
        by_name = {
            name: _Named(used_ms, DROPPED if kept is None else kept[0])
            for name, used_ms, kept in named
        }
        rights = {agent: _Right(used_ms, tuple(fence)) for agent, used_ms, fence in fences}
        return cls(by_caller, by_name, rights, _count(by_caller, by_name))


NO_OPERATIONS: Final = Operations()


def lookup(
    table: Operations,
    op: OpId,
    *,
    now_ms: int,
    ack: int = 0,
    fence: CallerFence | None = None,
    window_ms: int = DEDUPE_WINDOW_MS,
) -> Found:
    """What is to be done with an operation that has arrived.

    Args:
        table: Of the agent.
        op: Its name.
        now_ms: Since the leader began to lead, >= 0.
        ack: The caller says that all its operations below this number are answered.
        fence: The caller's, when the caller is an agent.
        window_ms: How long a caller that does not call is remembered, > 0.
    """
    found = _lookup(table, op, ack)
    if not isinstance(found, Fresh):
        return found
    if fence is not None and fence.agent in table.fences:
        highest = table.fences[fence.agent].fence
        if fence.fence < highest:
            return Fenced(highest)
    elif fence is not None and _is_full(table.fences, MAX_CALLERS, now_ms, window_ms):
        return Full(f"{MAX_CALLERS} agents have called it")
    reason = _lack(table, op, ack, now_ms, window_ms)
    return Full(reason) if reason else found


def _lack(table: Operations, op: OpId, ack: int, now_ms: int, window_ms: int) -> str:
    """Why there is no room for one operation more; "" when there is."""
    if op.is_named:
        is_full = op.path not in table.named and _is_full(
            table.named, MAX_RESULTS, now_ms, window_ms
        )
        return f"{MAX_RESULTS} op ids given by users are remembered" if is_full else ""
    caller = table.callers.get(op.caller)
    if caller is None:
        is_full = _is_full(table.callers, MAX_CALLERS, now_ms, window_ms)
        return f"{MAX_CALLERS} callers are remembered" if is_full else ""
    results = caller.results
    if len(results) < MAX_UNANSWERED and sum(map(len, results.values())) < MAX_RESULTS:
        return ""  # also with those that are acknowledged by now
    kept = {n: len(each) for n, each in results.items() if n >= ack}
    if op.n not in kept and len(kept) >= MAX_UNANSWERED:
        return f"{MAX_UNANSWERED} operations of its caller are not acknowledged"
    if sum(kept.values()) >= MAX_RESULTS:
        return f"{MAX_RESULTS} results of its caller are not acknowledged"
    return ""


def _lookup(table: Operations, op: OpId, ack: int) -> Hit | Expired | Fresh:
    if op.is_named:
        named = table.named.get(op.path)
        return Fresh() if named is None else _hit(named.result)
    caller = table.callers.get(op.caller)
    if caller is None:
        return Expired() if op.n < ack else Fresh()
    results = caller.results.get(op.n, {})
    if op.path in results:
        return _hit(results[op.path])
    return Expired() if op.n < max(caller.floor, ack) else Fresh()


def remember(
    table: Operations,
    op: OpId,
    result: Any,
    *,
    now_ms: int,
    ack: int = 0,
    fence: CallerFence | None = None,
    window_ms: int = DEDUPE_WINDOW_MS,
) -> Operations:
    """The table with one operation more: found `Fresh`, and run since.

    Args:
        table: Of the agent.
        op: Its name.
        result: What it gave: bytes, or anything that msgpack keeps; not looked into.
        now_ms: As for `lookup`.
        ack: As for `lookup`.
        fence: As for `lookup`.
        window_ms: As for `lookup`.
    """
    callers, named, fences = table.callers, table.named, table.fences
    if fence is not None:
        highest = fence.fence
        if fence.agent in fences:
            highest = max(highest, fences[fence.agent].fence)
        fences = _put(fences, fence.agent, _Right(now_ms, tuple(highest)), now_ms, window_ms)
    known = callers.get(op.caller)
    if op.is_named:
        result = _kept(result, table.kept_bytes)
        named = _put(named, op.path, _Named(now_ms, result), now_ms, window_ms)
        return Operations(callers, named, fences, _count(callers, named))
    if known is None:
        result = _kept(result, table.kept_bytes)
        caller = _Caller(ack, now_ms, {op.n: {op.path: result}})
        callers = _put(callers, op.caller, caller, now_ms, window_ms)
        return Operations(callers, named, fences, _count(callers, named))
    floor = max(known.floor, ack)
    results: dict[int, Mapping[str, Any]] = {}
    kept_bytes = table.kept_bytes
    for n, each in known.results.items():
        if n >= floor:
            results[n] = each
        else:
            kept_bytes -= sum(map(_size, each.values()))
    by_path = results.get(op.n, {})
    kept_bytes -= _size(by_path.get(op.path))
    result = _kept(result, kept_bytes)
    results[op.n] = {**by_path, op.path: result}
    callers = {**callers, op.caller: _Caller(floor, now_ms, results)}
    return Operations(callers, named, fences, kept_bytes + _size(result))


def union(table: Operations, others: Iterable[Operations], *, now_ms: int) -> Operations:
    """What the copies that come together have done: by caller everything from the highest floor.

    Every entry of the others counts as used now, since their time is not the leader's. The result
    may have more callers and results than a table may grow to; nothing new comes in until they are
    acknowledged or too old.
    """
    callers, named, fences = dict(table.callers), dict(table.named), dict(table.fences)
    for other in others:
        for name, caller in other.callers.items():
            mine = callers.get(name, _Caller(0, 0, {}))
            floor = max(mine.floor, caller.floor)
            results = {n: each for n, each in mine.results.items() if n >= floor}
            for n, each in caller.results.items():
                if n >= floor:
                    results[n] = _both(results.get(n, {}), each)
            callers[name] = _Caller(floor, now_ms, results)
        for name, given in other.named.items():
            result = given.result
            if name in named:
                result = _one(named[name].result, result)
            named[name] = _Named(now_ms, result)
        for agent, right in other.fences.items():
            highest = max(right.fence, fences[agent].fence if agent in fences else ())
            fences[agent] = _Right(now_ms, highest)
    return Operations(callers, named, fences, _count(callers, named))


def _both(mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> Mapping[str, Any]:
    """An operation run on both sides keeps one result, the same on whichever side one looks."""
    both = {**theirs, **mine}
    for path in sorted(theirs.keys() & mine.keys()):
        both[path] = _one(mine[path], theirs[path])
    return both


def _one(mine: Any, theirs: Any) -> Any:
    return min(mine, theirs, key=lambda result: (result is DROPPED, repr(result)))


def _put(
    entries: Mapping[str, Any], name: str, entry: Any, now_ms: int, window_ms: int
) -> dict[str, Any]:
    """The entries with this one; a new one sends away those that are too old."""
    if name in entries:
        return {**entries, name: entry}
    kept = {
        other: each for other, each in entries.items() if age_of(each.used_ms, now_ms) <= window_ms
    }
    kept[name] = entry
    return kept


def _is_full(entries: Mapping[str, Any], limit: int, now_ms: int, window_ms: int) -> bool:
    if len(entries) < limit:
        return False
    young = sum(age_of(each.used_ms, now_ms) <= window_ms for each in entries.values())
    return young >= limit


def age_of(used_ms: int, now_ms: int) -> int:
    """For how long a leader has not seen what was last used then; never more than in truth.

    A time ahead of the leader's was written by an earlier leader: all of this one's time has passed
    since. A time of an earlier leader that is not ahead makes the age too small.
    """
    return now_ms if used_ms > now_ms else now_ms - used_ms


def _hit(result: Any) -> Hit:
    return Hit(None, is_dropped=True) if result is DROPPED else Hit(result)


def _kept(result: Any, kept_bytes: int) -> Any:
    """The result as it is remembered beside `kept_bytes` of others."""
    size = _size(result)
    return DROPPED if size > MAX_RESULT_BYTES or kept_bytes + size > MAX_TABLE_BYTES else result


def _count(callers: Mapping[str, _Caller], named: Mapping[str, _Named]) -> int:
    """How many bytes the results have."""
    kept = sum(_size(each.result) for each in named.values())
    for caller in callers.values():
        kept += sum(_size(each) for by_path in caller.results.values() for each in by_path.values())
    return kept


def _size(result: Any) -> int:
    return len(result) if isinstance(result, bytes | str) else 0


def _first(pair: tuple[str, Any]) -> str:
    return pair[0]
