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

from collections.abc import Mapping, Sequence
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

    A key has one timer. Only when it was set on two sides that did not know of each other it has
    more; then the one due latest counts, and the others go with it. They are kept until then, as it
    may prove to be over itself.

    Attributes:
        by_key: At most `MAX_TIMERS` keys; the timers of a key sorted, the one that counts last.
    """

    by_key: Mapping[str, tuple[Timer, ...]] = field(default_factory=dict)

    def set(self, timer: Timer) -> Timers | TimersFull:
        """With this timer, in place of those with the same key."""
        by_key = {**self.by_key, timer.key: (timer,)}
        if len(by_key) > MAX_TIMERS:
            return TimersFull(f"{MAX_TIMERS} timers are set")
        size = sum(
            len(each.payload) + len(each.schedule) for timers in by_key.values() for each in timers
        )
        if size > MAX_TIMER_BYTES:
            return TimersFull(f"all timers would have {size} bytes, at most {MAX_TIMER_BYTES}")
        return Timers(by_key)

    def clear(self, key: str) -> Timers:
        """Without this key, if it was set."""
        return Timers({name: timers for name, timers in self.by_key.items() if name != key})

    def get(self, key: str) -> Timer | None:
        """The timer of this key."""
        timers = self.by_key.get(key)
        return timers[-1] if timers else None

    def next_due_ms(self) -> int | None:
        """When to look again; None when no timer is set."""
        return min((timers[-1].due_ms for timers in self.by_key.values()), default=None)

    def due(self, now_ms: int) -> list[Timer]:
        """Those whose planned time has come, the earliest first.

        Args:
            now_ms: Wall time.
        """
        ready = [timers[-1] for timers in self.by_key.values() if timers[-1].due_ms <= now_ms]
        return sorted(ready, key=lambda timer: (timer.due_ms, timer.key))

    def fire(self, fired: Timer, next_due_ms: int | None) -> Timers | None:
        """What a firing's commit leaves; None when it was fired, replaced or cleared before.

        Args:
            fired: The timer as it was when it was due.
            next_due_ms: When it is due again; None if never.
        """
        timer = self.get(fired.key)
        if timer is None or (timer.dot, timer.occurrence) != (fired.dot, fired.occurrence):
            return None
        if next_due_ms is None:
            return self.clear(fired.key)
        again = timer._replace(due_ms=next_due_ms, occurrence=timer.occurrence + 1)
        return Timers({**self.by_key, fired.key: (again,)})

    def join(self, seen: VersionVector, other: Timers, other_seen: VersionVector) -> Timers:
        """The timers of two copies: what one lacks and has seen is over.

        Args:
            seen: The turns that led to this copy.
            other: The other copy's timers.
            other_seen: The turns that led to it.
        """
        joined: dict[str, tuple[Timer, ...]] = {}
        for key in sorted({*self.by_key, *other.by_key}):
            mine, theirs = self.by_key.get(key, ()), other.by_key.get(key, ())
            by_dot: dict[Dot, Timer] = {}
            for timer in _left(mine, theirs, other_seen) + _left(theirs, mine, seen):
                known = by_dot.get(timer.dot, timer)
                by_dot[timer.dot] = max(known, timer, key=_preference)
            if by_dot:
                joined[key] = tuple(sorted(by_dot.values(), key=_preference))
        return Timers(joined)

    def to_data(self) -> list[Any]:
        """As lists, equal for equal timers."""
        return [
            [key, list(dot), *rest]
            for _, timers in sorted(self.by_key.items())
            for key, dot, *rest in timers
        ]

    @classmethod
    def from_data(cls, data: Sequence[Any]) -> Timers:
        """What `to_data` took apart. Raises TypeError or ValueError for anything else."""
        if not data:
            return NO_TIMERS
        by_key: dict[str, tuple[Timer, ...]] = {}
        for key, dot, *rest in data:
            by_key[key] = (*by_key.get(key, ()), Timer(key, tuple(dot), *rest))
        return cls(by_key)


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


def _left(mine: Sequence[Timer], theirs: Sequence[Timer], their_seen: VersionVector) -> list[Timer]:
    """Those of mine that the other copy has too, or has not seen."""
    known = {timer.dot for timer in theirs}
    return [timer for timer in mine if timer.dot in known or not their_seen.covers(timer.dot)]


def _preference(timer: Timer) -> tuple[Any, ...]:
    """Of one timer the later occurrence, of two timers the one due later."""
    return (timer.due_ms, len(timer.dot), timer.dot, timer.occurrence)
