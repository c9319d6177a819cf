"""What a leader does for agents that nobody calls: due timers fire, signals are delivered.

Theory. Both stand in the committed record, so a new leader finds them: keys that have any are
flagged, settled first, and looked at here. A timer's firing is a turn whose commit moves it on; a
firing that comes twice finds its occurrence gone. A signal is handed to the shell until the shell
says that its receiver has it; it leaves the record with the next commit, or in a batch of its own.
Of each pair of sender and target one is on its way at a time, the oldest. What cannot be delivered
in time, and a timer whose handler fails too often, is handed over to be kept elsewhere.

What is known here is lost with the leadership; everything is then done again where it was not
committed, which receivers and records see.
*Source*: findings 29 and 30 of the replication protocol; transactional outboxes.
"""

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import replace
from heapq import heappop, heappush
from typing import Any, Final, NamedTuple

from jido_state.dots import Dot
from jido_state.leadership import FLAGGED, Leadership
from jido_state.messages import Row
from jido_state.outbox import OUTBOX_TTL_MS, Outgoing
from jido_state.record import Record
from jido_state.requests import Answer, Firing, OwnWork, Request, Status
from jido_state.timers import Timer

__all__ = ["Chores", "DeadLetter", "Deliver", "GaveUp"]

_OWNER: Final = "chores"
_PAGE: Final = 64  # flagged keys looked at per step after an election
_LAZY_MS: Final = 1_000  # delivered signals wait this long for a commit to go with
_RETRY_MS: Final = 250
_MAX_RETRY_MS: Final = 10_000  # a node that comes back is served within this
MAX_FIRINGS: Final = 8  # of one occurrence whose handler fails: about half a minute

Name = tuple[Dot, int]


class Deliver(NamedTuple):
    """Deliver this signal; then call `Service.delivered`, or `Service.undelivered`.

    Attributes:
        key: Id of the agent that sent it.
        signal: What, and to whom.
    """

    key: str
    signal: Outgoing


class DeadLetter(NamedTuple):
    """Keep this signal, which was not delivered in time; then call `Service.delivered`."""

    key: str
    signal: Outgoing


class GaveUp(NamedTuple):
    """This firing's handler has failed too often: it is left out. To be logged."""

    key: str
    timer: Timer


class _Failed(NamedTuple):
    """A firing that has failed: the agent's timers rest for a while."""

    key: str
    dot: Dot
    occurrence: int
    tries: int
    again_ms: int  # by the wall clock


class _Flight:
    """A signal on its way, or to be sent again."""

    __slots__ = ("again_ms", "name", "tries")

    def __init__(self, name: Name) -> None:
        self.name = name
        self.tries = 0
        self.again_ms: int | None = None  # None while the shell has it


class Chores:
    """Timers and outboxes of one shard, at its leader.

    Args:
        emit: Takes effects.
        submit: Takes requests to itself; their answers come to `answered`.
        next_due: When a timer that fires now is due again, by its schedule: given timer and wall
            time it returns wall time, or None. Pure; ticks that were missed are left out.
        ttl_ms: For how long receivers remember a stream of signals; a signal is given up at half
            of that.

    Attributes:
        now_ms: The time of the current step, on the node's own monotonic clock.
        wall_ms: The same on its wall clock.
    """

    def __init__(
        self,
        emit: Callable[[Any], None],
        submit: Callable[[Request], None],
        next_due: Callable[[Timer, int], int | None],
        *,
        ttl_ms: int = OUTBOX_TTL_MS,
    ) -> None:
        self._emit = emit
        self._submit = submit
        self._next_due = next_due
        self._ttl_ms = ttl_ms
        self.now_ms = 0
        self.wall_ms = 0
        self._leadership: Leadership | None = None
        self._forget()

    def _forget(self) -> None:
        self._unseen: deque[str] = deque()
        self._due: dict[str, int] = {}  # when to look at an agent's timers, by the wall clock
        self._heap: list[tuple[int, str]] = []
        self._firing: dict[str, Timer] = {}
        self._failed: dict[str, _Failed] = {}
        self._flights: dict[str, dict[str, _Flight]] = {}  # by sender and target
        self._gone: dict[str, dict[Name, None]] = {}  # delivered, and still in the record
        self._gone_since: dict[str, int] = {}
        self._tidying: set[str] = set()

    # What the group tells

    def led(self, leadership: Leadership) -> None:
        """See `Listener.led`."""
        self._forget()
        self._leadership = leadership
        self._unseen.extend(key for key, row in leadership.view.items() if row.flags & FLAGGED)

    def stopped(self) -> None:
        """See `Listener.stopped`."""
        self._leadership = None
        self._forget()

    def noticed(self, key: str, row: Row) -> None:
        """A committed row is known: notes when to fire, and delivers what is new."""
        record: Record = row.content
        self._note_due(key, record.timers.next_due_ms())
        if record.outbox.signals:
            gone = self._gone.get(key)
            if gone is not None:
                left = {signal.name for signal in record.outbox.signals}
                self._set_gone(key, {name: None for name in gone if name in left})
            self._deliver(key, record)
        elif key in self._flights or key in self._gone:
            self._flights.pop(key, None)
            self._set_gone(key, {})

    def _record(self, key: str) -> Record | None:
        """The committed record, if it may be answered from; what is not ready is made so."""
        leadership = self._leadership
        if leadership is None:
            return None
        if not leadership.is_readable(key):
            leadership.make_ready(key)
            return None
        row = leadership.view.get(key)
        return None if row is None else row.content

    def tick(self) -> int | None:
        """Looks at agents not seen yet, fires what is due, sends again, tidies.

        Returns when to look again, None for never. The wall clock, by which timers fire, may be
        set meanwhile: that is noticed with the leader's next heartbeat.
        """
        if self._leadership is None:
            return None
        for _ in range(min(_PAGE, len(self._unseen))):
            key = self._unseen.popleft()
            if self._record(key) is not None:
                self.noticed(key, self._leadership.view[key])
        self._fire_due()
        for key, flights in list(self._flights.items()):
            if any(
                flight.again_ms is not None and flight.again_ms <= self.now_ms
                for flight in flights.values()
            ):
                record = self._record(key)
                if record is not None:
                    self._deliver(key, record)
        for key, since_ms in list(self._gone_since.items()):
            if self.now_ms - since_ms >= _LAZY_MS:
                self._tidy(key)
        if self._unseen or self._flights or self._gone_since:
            return self.now_ms
        return self.now_ms + max(0, self._heap[0][0] - self.wall_ms) if self._heap else None

    def answered(self, answer: Answer) -> None:
        """Own work has ended."""
        key = answer.id.key
        if answer.id.kind == "tidy":
            self._tidying.discard(key)
            self._firing.pop(key, None)
        else:
            self._fired(key, answer)
        record = self._record(key)
        if record is not None and key not in self._due:
            self._note_due(key, record.timers.next_due_ms())

    # Timers

    def _note_due(self, key: str, due_ms: int | None) -> None:
        if due_ms is None:
            self._due.pop(key, None)
            return
        if key in self._failed:
            due_ms = max(due_ms, self._failed[key].again_ms)
        if self._due.get(key) != due_ms:
            self._due[key] = due_ms
            heappush(self._heap, (due_ms, key))

    def _fire_due(self) -> None:
        while self._heap and self._heap[0][0] <= self.wall_ms:
            due_ms, key = heappop(self._heap)
            if self._due.get(key) != due_ms:
                continue
            del self._due[key]
            record = self._record(key)
            if record is None or key in self._firing:
                continue  # looked at again when it is ready, or has fired
            due = record.timers.due(self.wall_ms)
            if due:
                self._fire(key, due[0])
            else:
                self._note_due(key, record.timers.next_due_ms())

    def _fire(self, key: str, timer: Timer) -> None:
        self._firing[key] = timer
        firing = Firing(timer, self._next_due(timer, self.wall_ms))
        self._submit(OwnWork(_OWNER, "fire", key).request(firing, timer.op_id(key)))

    def _fired(self, key: str, answer: Answer) -> None:
        timer = self._firing.pop(key, None)
        if timer is None:
            return
        if answer.status is Status.OK or answer.status is Status.NOT_FOUND:
            self._failed.pop(key, None)
            return
        if answer.status is not Status.FAILED:
            self._note_due(key, self.wall_ms + _RETRY_MS)
            return
        name = (timer.key, timer.dot, timer.occurrence)
        known = self._failed.get(key)
        tries = 1 if known is None or known[:3] != name else known.tries + 1
        if tries >= MAX_FIRINGS:
            self._failed.pop(key, None)
            self._emit(GaveUp(key, timer))
            self._firing[key] = timer
            firing = (timer, self._next_due(timer, self.wall_ms))
            work = OwnWork(_OWNER, "tidy", key)
            self._submit(work.request(lambda record: _left_out(record, *firing)))
            return
        self._failed[key] = _Failed(*name, tries, self.wall_ms + _backoff_ms(tries))

    # Signals

    def _deliver(self, key: str, record: Record) -> None:
        """Hands the shell what may be on its way now and is not."""
        flights = self._flights.setdefault(key, {})
        outbox = record.outbox.without(self._gone.get(key, ()))
        overdue = {signal.name for signal in outbox.overdue(self.wall_ms, self._ttl_ms)}
        due = {signal.target: signal for signal in outbox.due()}
        for target in [target for target in flights if target not in due]:
            del flights[target]
        for target, signal in due.items():
            flight = flights.get(target)
            if flight is None or flight.name != signal.name:
                flight = flights[target] = _Flight(signal.name)
            elif flight.again_ms is None or flight.again_ms > self.now_ms:
                continue
            flight.again_ms = None
            is_dead = signal.name in overdue
            self._emit(DeadLetter(key, signal) if is_dead else Deliver(key, signal))
        if not flights:
            del self._flights[key]

    def delivered(self, key: str, names: Iterable[Name]) -> None:
        """The receivers have these signals, or they are kept as dead letters."""
        record = self._record(key)
        if record is None:
            return
        known = {signal.name for signal in record.outbox.signals}
        gone = self._gone.get(key, {}) | {name: None for name in names if name in known}
        self._set_gone(key, gone)
        self._deliver(key, record)

    def undelivered(self, key: str, names: Iterable[Name]) -> None:
        """These signals did not get through, as far as is known: they are sent again later."""
        wanted = set(names)
        for flight in self._flights.get(key, {}).values():
            if flight.name in wanted and flight.again_ms is None:
                flight.tries += 1
                flight.again_ms = self.now_ms + _backoff_ms(flight.tries)

    def _set_gone(self, key: str, names: dict[Name, None]) -> None:
        if names:
            self._gone[key] = names
            self._gone_since.setdefault(key, self.now_ms)
        else:
            self._gone.pop(key, None)
            self._gone_since.pop(key, None)

    def trimmed(self, key: str, record: Record) -> Record:
        """The record without the signals that are delivered."""
        gone = self._gone.get(key)
        return record if gone is None else replace(record, outbox=record.outbox.without(gone))

    def _tidy(self, key: str) -> None:
        if key not in self._tidying:
            self._tidying.add(key)
            work = OwnWork(_OWNER, "tidy", key)
            self._submit(work.request(lambda record: self._without_gone(key, record)))

    def _without_gone(self, key: str, record: Record) -> Record | None:
        trimmed = self.trimmed(key, record)
        return trimmed if len(trimmed.outbox.signals) < len(record.outbox.signals) else None


def _backoff_ms(tries: int) -> int:
    """The pause after so many failures, > 0."""
    return min(_RETRY_MS << min(tries, 10), _MAX_RETRY_MS)


def _left_out(record: Record, timer: Timer, next_due_ms: int | None) -> Record | None:
    """The record without this firing; None when it has none any more."""
    timers = record.timers.fire(timer, next_due_ms)
    return None if timers is None else replace(record, timers=timers)
