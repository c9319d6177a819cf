"""Timers of agents: when they are due, what a turn does to them, and the signal of a firing.

Theory. A turn's timers are part of what it commits, so a handler only says what it wants: the
record gets it (`with_timers`), and the leader's core fires what is due. A cron line is read in a
time zone; its times are a grid of their own, so a firing that is late, or several that were
missed, leave it where it was.

Cron lines are read by `cronsim`, which treats the hours that a change to summer time skips or
repeats as Debian's cron does: a daily job runs once on such a day.
"""

import logging
import math
from collections.abc import Sequence
from datetime import UTC, datetime, tzinfo
from typing import Any, Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import ormsgpack
from cronsim import CronSim, CronSimError

from jido_cluster.errors import ExecutionError, InvalidInputError
from jido_cluster.signals.signal import Signal, from_wire
from jido_state.dots import Dot
from jido_state.timers import Timer, Timers

__all__ = ["PLANNED", "SCHEDULE", "UNSCHEDULE", "next_due", "planned", "when", "with_timers"]

# Kinds of effects in a turn's outbox; `turn` has the others.
SCHEDULE: Final = 4  # (SCHEDULE, key, due in milliseconds of wall time, schedule, signal bytes)
UNSCHEDULE: Final = 5  # (UNSCHEDULE, key)

PLANNED: Final = "jidoplanned"  # the extension that holds the planned time of a firing
MAX_SECONDS: Final = 100 * 366 * 86400.0  # a timer beyond a century is a mistake

logger = logging.getLogger(__name__)


def when(
    now: float, after: float | None, at: datetime | None, cron: str | None, tz: str
) -> tuple[int, bytes]:
    """When a timer is due first, in milliseconds of wall time, and what its next times come from.

    Args:
        now: Wall time, in seconds.
        after: Seconds from now, >= 0.
        at: A point in time; one that has passed is due at once.
        cron: A cron line of five fields, or six with seconds first.
        tz: Name of the time zone of `cron`.

    Raises:
        InvalidInputError: Not exactly one of the three is given, or it makes no sense.
    """
    if sum(given is not None for given in (after, at, cron)) != 1:
        message = "schedule() takes exactly one of after=, at= and cron="
        raise InvalidInputError(message)
    if cron is not None:
        return _first_tick(now, cron, tz)
    if after is not None:
        if isinstance(after, bool) or not isinstance(after, int | float):
            message = f"after is {after!r}; use seconds >= 0"
            raise InvalidInputError(message)
        if not 0 <= after <= MAX_SECONDS:
            message = f"after is {after!r}; use seconds >= 0, at most {MAX_SECONDS:.0f}"
            raise InvalidInputError(message)
        return math.ceil((now + after) * 1000), b""
    assert at is not None
    if getattr(at, "tzinfo", None) is None:
        message = f"at is {at!r}; use a datetime with a time zone, as datetime.now(timezone.utc)"
        raise InvalidInputError(message)
    if at.timestamp() > now + MAX_SECONDS:
        message = f"at is {at.isoformat()}, more than a century from now"
        raise InvalidInputError(message)
    return math.ceil(at.timestamp() * 1000), b""


def _first_tick(now: float, cron: str, tz: str) -> tuple[int, bytes]:
    try:
        zone = _zone(tz)
    except (ZoneInfoNotFoundError, ValueError, TypeError, OSError) as error:
        message = f"tz is {tz!r}; use a name of the time zone database, as 'Europe/Paris'"
        raise InvalidInputError(message) from error
    try:
        due_ms = _tick_after(int(now * 1000), cron, zone)
    except (CronSimError, AttributeError) as error:
        message = f"cron is {cron!r}: {error}; use a line like '30 8 * * MON-FRI'"
        raise InvalidInputError(message) from error
    if due_ms is None:
        message = f"cron is {cron!r}, which never comes"
        raise InvalidInputError(message)
    return due_ms, ormsgpack.packb((cron, tz))


def _zone(tz: str) -> tzinfo:
    return UTC if tz == "UTC" else ZoneInfo(tz)


def _tick_after(wall_ms: int, cron: str, zone: tzinfo) -> int | None:
    """The first time of a cron line after this one; None when there is none within 50 years."""
    found = next(CronSim(cron, datetime.fromtimestamp(wall_ms / 1000, zone)), None)
    return None if found is None else int(found.timestamp() * 1000)


def next_due(timer: Timer, wall_ms: int) -> int | None:
    """When a timer that fires now is due again, in wall time; None when it fires once.

    Args:
        timer: Whose schedule; empty for one that fires once.
        wall_ms: Now; ticks that it has passed are left out.
    """
    if not timer.schedule:
        return None
    cron, tz = ormsgpack.unpackb(timer.schedule)
    try:
        zone = _zone(tz)
    except (ZoneInfoNotFoundError, OSError):
        logger.exception("no time zone %s here: timer %r goes by UTC once", tz, timer.key)
        zone = UTC
    return _tick_after(max(timer.due_ms, wall_ms), cron, zone)


def planned(timer: Timer, op_id: str) -> Signal:
    """The signal of a firing: it tells for when it was planned; each tick is a signal of its own.

    Args:
        timer: Which fires.
        op_id: Of the firing.
    """
    event = from_wire(timer.payload).to_dict()
    event[PLANNED] = datetime.fromtimestamp(timer.due_ms / 1000, UTC).isoformat()
    if timer.schedule:
        event["id"] = op_id
    return Signal.from_dict(event)


def with_timers(timers: Timers, effects: Sequence[tuple[Any, ...]], dot: Sequence[int]) -> Timers:
    """The timers after a turn with these effects; others than its timers' are left out.

    Args:
        timers: Before it.
        effects: Its outbox.
        dot: The turn's.

    Raises:
        ExecutionError: They do not fit.
    """
    set_by: Dot = tuple(dot)
    for effect in effects:
        if effect[0] == UNSCHEDULE:
            timers = timers.clear(effect[1])
        elif effect[0] == SCHEDULE:
            _, key, due_ms, schedule, payload = effect
            changed = timers.set(Timer(key, set_by, due_ms, 1, schedule, payload))
            if not isinstance(changed, Timers):
                message = f"timer {key!r} does not fit: {changed.reason}"
                raise ExecutionError(message)
            timers = changed
    return timers
