"""Timers of an agent, as data: what is due, and why it fires once.

Theory. A timer is named by its key and the dot of the turn that set it. Its firing is a turn whose
commit moves it to the next occurrence or removes it, so a firing that comes twice finds the
occurrence gone: its effect on the state is exactly once, its handler may run more often. The next
time is counted from the last planned one and never from now, so a clock that jumps does not shift
the grid; ticks that were missed fire once, late.
*Source*: finding 30 of the replication protocol; Orleans' reminders for timers that outlive their
agent's activation.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from jido_state.dots import Dot, VersionVector
from jido_state.operations import OpId, agent_caller

__all__ = ["NO_TIMERS", "Timer", "Timers", "TimersFull", "next_on_grid"]

MAX_TIMERS: Final = 1024
MAX_TIMER_BYTES: Final = 65_536  # of all payloads and schedules: a quarter of a record


class Timer(NamedTuple):
    """One timer.

    Attributes:
        key: What the agent calls it; setting the same key replaces it.
        dot: Of the turn that set it.
        due_ms: Planned wall time of the next firing.
        occurrence: Which firing that is, from 1.
        schedule: What the times after it are computed from; empty for a timer that fires once.
        payload: The encoded signal.
    """

    key: str
    dot: Dot
    due_ms: int
    occurrence: int
    schedule: bytes
    payload: bytes

    def op_id(self, agent: str) -> OpId:
        """The operation of this firing, the same whoever fires it."""
        return OpId(agent_caller(agent, self.dot, self.key), self.occurrence)


class TimersFull(NamedTuple):
    """The timer does not fit: nothing was changed, and the turn is to fail."""

    reason: str


@dataclass(frozen=True, slots=True)
class Timers:
    """The timers of one agent. A value; the mapping is never changed.

    Attributes:
        by_key: At most `MAX_TIMERS`.
    """

    by_key: Mapping[str, Timer] = field(default_factory=dict)

    def set(self, timer: Timer) -> Timers | TimersFull:
        """With this timer, in place of one with the same key."""
        by_key = {**self.by_key, timer.key: timer}
        if len(by_key) > MAX_TIMERS:
            return TimersFull(f"{MAX_TIMERS} timers are set")
        size = sum(len(each.payload) + len(each.schedule) for each in by_key.values())
        if size > MAX_TIMER_BYTES:
            return TimersFull(f"all timers would have {size} bytes, at most {MAX_TIMER_BYTES}")
        return Timers(by_key)

    def clear(self, key: str) -> Timers:
        """Without this one, if it was set."""
        return Timers({name: timer for name, timer in self.by_key.items() if name != key})

    def next_due_ms(self) -> int | None:
        """When to look again; None when no timer is set."""
        return min((timer.due_ms for timer in self.by_key.values()), default=None)

    def due(self, now_ms: int) -> list[Timer]:
        """Those whose planned time has come, the earliest first.

        Args:
            now_ms: Wall time.
        """
        ready = [timer for timer in self.by_key.values() if timer.due_ms <= now_ms]
        return sorted(ready, key=lambda timer: (timer.due_ms, timer.key))

    def fire(self, fired: Timer, next_due_ms: int | None) -> Timers | None:
        """What a firing's commit leaves; None when it was fired, replaced or cleared before.

        Args:
            fired: The timer as it was when it was due.
            next_due_ms: When it is due again; None if never.
        """
        timer = self.by_key.get(fired.key)
        if timer is None or (timer.dot, timer.occurrence) != (fired.dot, fired.occurrence):
            return None
        if next_due_ms is None:
            return self.clear(fired.key)
        again = timer._replace(due_ms=next_due_ms, occurrence=timer.occurrence + 1)
        return Timers({**self.by_key, fired.key: again})

    def join(self, seen: VersionVector, other: Timers, other_seen: VersionVector) -> Timers:
        """The timers of two copies: what one lacks and has seen is over.

        A key that was set on both sides keeps the timer that is due later: it fires once.

        Args:
            seen: The turns that led to this copy.
            other: The other copy's timers.
            other_seen: The turns that led to it.
        """
        kept: dict[str, Timer] = {}
        for timer in _left(self, other, other_seen) + _left(other, self, seen):
            known = kept.get(timer.key, timer)
            kept[timer.key] = max(known, timer, key=_preference)
        return Timers(kept)

    def to_data(self) -> list[Any]:
        """As lists, equal for equal timers."""
        return [[key, list(dot), *rest] for key, dot, *rest in sorted(self.by_key.values())]

    @classmethod
    def from_data(cls, data: Sequence[Any]) -> Timers:
        """What `to_data` took apart. Raises TypeError or ValueError for anything else."""
        if not data:
            return NO_TIMERS
        return cls({key: Timer(key, tuple(dot), *rest) for key, dot, *rest in data})


NO_TIMERS: Final = Timers()


def next_on_grid(due_ms: int, every_ms: int, now_ms: int) -> int:
    """The first of the times `due_ms + n x every_ms`, n > 0, that is still to come.

    Args:
        due_ms: When it was due.
        every_ms: Distance of the grid, > 0.
        now_ms: Wall time; ticks that it has passed are left out.
    """
    missed = max(0, now_ms - due_ms) // every_ms
    return due_ms + (missed + 1) * every_ms


def _left(mine: Timers, other: Timers, other_seen: VersionVector) -> list[Timer]:
    """Those of mine that the other copy has too, or has not seen."""

    def is_left(timer: Timer) -> bool:
        known = other.by_key.get(timer.key)
        return (known is not None and known.dot == timer.dot) or not other_seen.covers(timer.dot)

    return [timer for timer in _in_order(mine.by_key.values()) if is_left(timer)]


def _preference(timer: Timer) -> tuple[Any, ...]:
    """Of one timer the later occurrence, of two timers the one due later."""
    return (timer.due_ms, len(timer.dot), timer.dot, timer.occurrence)


def _in_order(timers: Iterable[Timer]) -> list[Timer]:
    return sorted(timers, key=lambda timer: timer.key)
