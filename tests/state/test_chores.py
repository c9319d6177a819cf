"""Timers and outboxes at a leader: what is asked of the shell, and when."""

from dataclasses import replace
from typing import Any, cast

import pytest

from jido_state.chores import MAX_FIRINGS, Chores, DeadLetter, Deliver, GaveUp
from jido_state.leadership import Leadership
from jido_state.messages import UNREAD, Row
from jido_state.outbox import OUTBOX_TTL_MS, Outbox
from jido_state.record import Record
from jido_state.requests import Answer, Request, Status
from jido_state.timers import Timer, Timers, next_on_grid
from jido_state.versions import Version

KEY = "k"
WALL_MS = 1_000_000


class Leading:
    """What chores need of a leadership."""

    def __init__(self) -> None:
        self.view: dict[str, Row] = {}
        self.unclean: set[str] = set()
        self.wanted: list[str] = []

    def is_readable(self, key: str) -> bool:
        row = self.view.get(key)
        return key not in self.unclean and (row is None or row.content is not UNREAD)

    def make_ready(self, key: str) -> None:
        self.wanted.append(key)


def every(timer: Timer, wall_ms: int) -> int | None:
    return next_on_grid(timer.due_ms, 100, wall_ms) if timer.schedule else None


class Desk:
    """Chores with what they ask for, and a register that the test commits to."""

    def __init__(self) -> None:
        self.effects: list[Any] = []
        self.requests: list[Request] = []
        self.leading = Leading()
        self.number = 0
        self.chores = Chores(self.effects.append, self.requests.append, every)
        self.chores.wall_ms = WALL_MS

    def lead(self) -> None:
        self.chores.led(cast("Leadership", self.leading))

    def put(self, record: Record) -> None:
        self.number += 1
        version = Version(0, 1, 1, 0, self.number)
        self.leading.view[KEY] = Row(version, record.flags, content=record)

    def commit(self, record: Record) -> None:
        self.put(record)
        self.chores.noticed(KEY, self.leading.view[KEY])

    @property
    def record(self) -> Record:
        return cast("Record", self.leading.view[KEY].content)

    def pass_ms(self, ms: int) -> None:
        self.chores.now_ms += ms
        self.chores.wall_ms += ms
        self.chores.tick()

    def take(self) -> list[Any]:
        taken = self.effects[:]
        self.effects.clear()
        return taken

    def end(self, status: Status, record: Record | None = None) -> Request:
        """The oldest request of its own ends, with this record committed."""
        request = self.requests.pop(0)
        if record is not None:
            self.commit(record)
        self.chores.answered(Answer(request.id, status))
        return request


def with_timer(due_ms: int, schedule: bytes = b"", key: str = "t") -> Record:
    timers = Timers().set(Timer(key, Version(0, 1, 1, 0, 1), due_ms, 1, schedule, b"x"))
    assert isinstance(timers, Timers)
    return Record(type="t", timers=timers)


def with_signals(*targets: str, added_ms: int = WALL_MS) -> Record:
    outbox = Outbox().add(Version(0, 1, 1, 0, 1), [(to, b"x") for to in targets], added_ms)
    assert isinstance(outbox, Outbox)
    return Record(type="t", outbox=outbox)


def test_a_timer_fires_when_it_is_due_and_not_before() -> None:
    """The wall clock of the leader decides, also when it goes back."""
    desk = Desk()
    desk.lead()
    desk.commit(with_timer(WALL_MS + 500, b"every"))
    desk.pass_ms(499)
    assert desk.requests == []
    desk.chores.wall_ms -= 300
    desk.pass_ms(300)
    assert desk.requests == []
    desk.pass_ms(1)
    (request,) = desk.requests
    assert request.kind == "fire"
    assert request.op == request.payload.timer.op_id(KEY)
    assert request.payload.next_due_ms == WALL_MS + 600
    desk.pass_ms(50)
    assert len(desk.requests) == 1, "it fires while it fires"


def test_ticks_that_were_missed_fire_once() -> None:
    """A leader that comes late fires once, and goes on with the grid."""
    desk = Desk()
    desk.put(with_timer(WALL_MS - 950, b"every"))
    desk.lead()
    desk.chores.tick()
    firing = desk.requests[0].payload
    assert firing.next_due_ms == WALL_MS + 50
    timers = desk.record.timers.fire(*firing)
    assert timers is not None
    desk.end(Status.OK, replace(desk.record, timers=timers))
    desk.chores.tick()
    assert desk.requests == []
    desk.pass_ms(50)
    assert desk.requests[0].payload.timer.occurrence == 2


def test_a_new_leader_finds_flagged_keys_and_waits_until_they_are_ready() -> None:
    """Nobody asks for an agent that has a timer."""
    desk = Desk()
    desk.put(with_timer(WALL_MS - 1))
    desk.leading.unclean.add(KEY)
    desk.lead()
    desk.chores.tick()
    assert desk.leading.wanted == [KEY]
    assert desk.requests == []
    desk.leading.unclean.clear()
    desk.chores.noticed(KEY, desk.leading.view[KEY])
    desk.chores.tick()
    assert [request.kind for request in desk.requests] == ["fire"]


def test_a_firing_that_fails_is_tried_again_later_and_then_given_up() -> None:
    """Each pause is longer; commits in between do not shorten it; at last it is left out."""
    desk = Desk()
    desk.lead()
    desk.commit(with_timer(WALL_MS, b"every"))
    pauses = []
    for _ in range(MAX_FIRINGS - 1):
        desk.chores.tick()
        waited = 0
        while not desk.requests:
            desk.pass_ms(50)
            waited += 50
        pauses.append(waited)
        desk.end(Status.FAILED)
        desk.commit(desk.record)
    assert pauses == sorted(pauses)
    assert pauses[1] >= 500
    while not desk.requests:
        desk.pass_ms(50)
    fired = desk.requests[0].payload.timer
    desk.end(Status.FAILED)
    assert desk.take() == [GaveUp(KEY, fired)]
    tidy = desk.requests[0]
    assert tidy.kind == "tidy"
    left = tidy.payload(desk.record)
    assert left.timers.get("t").occurrence == 2
    assert tidy.payload(left) is None, "it would leave out the next one as well"
    desk.end(Status.OK, left)
    desk.pass_ms(1_000)
    assert desk.requests[0].payload.timer.occurrence == 2


@pytest.mark.parametrize("status", [Status.NOT_LEADER, Status.OVERLOADED])
def test_a_firing_that_was_not_run_does_not_count_as_failed(status: Status) -> None:
    """It comes again, however often."""
    desk = Desk()
    desk.lead()
    desk.commit(with_timer(WALL_MS))
    for _ in range(3 * MAX_FIRINGS):
        desk.pass_ms(300)
        assert desk.end(status).kind == "fire"
    assert desk.take() == []


def test_a_timer_that_is_cleared_does_not_fire() -> None:
    """It was due, and is gone when its turn would begin."""
    desk = Desk()
    desk.lead()
    desk.commit(with_timer(WALL_MS + 10))
    desk.commit(Record(type="t"))
    desk.pass_ms(20)
    assert desk.requests == []
    desk.commit(with_timer(WALL_MS + 10))
    desk.leading.view[KEY] = Row(Version(0, 1, 1, 0, 99), content=with_timer(WALL_MS + 10**6))
    desk.pass_ms(20)
    assert desk.requests == []


def test_one_signal_of_a_target_is_on_its_way_at_a_time() -> None:
    """The next one follows when it has arrived; other targets do not wait."""
    desk = Desk()
    desk.lead()
    desk.commit(with_signals("a", "a", "b"))
    first, other = desk.take()
    assert [type(each) for each in (first, other)] == [Deliver, Deliver]
    assert (first.signal.target, first.signal.place) == ("a", 0)
    assert other.signal.target == "b"
    desk.commit(desk.record)
    desk.pass_ms(900)
    assert desk.take() == [], "it was handed over twice"
    desk.chores.delivered(KEY, [first.signal.name])
    (second,) = desk.take()
    assert (second.signal.target, second.signal.place) == ("a", 1)


def test_delivered_signals_leave_with_the_next_commit_or_in_a_batch() -> None:
    """A turn's record is trimmed; without one, a turn of its own comes after a while."""
    desk = Desk()
    desk.lead()
    desk.commit(with_signals("a", "b", "c"))
    names = [each.signal.name for each in desk.take()]
    desk.chores.delivered(KEY, names[:1])
    trimmed = desk.chores.trimmed(KEY, desk.record)
    assert [signal.target for signal in trimmed.outbox.signals] == ["b", "c"]
    desk.commit(trimmed)
    assert desk.chores.trimmed(KEY, desk.record) is desk.record
    desk.chores.delivered(KEY, names)
    desk.pass_ms(999)
    assert desk.requests == []
    desk.pass_ms(1)
    desk.pass_ms(1)
    (request,) = desk.requests
    tidied = request.payload(desk.record)
    assert tidied.outbox.signals == ()
    desk.end(Status.OK, tidied)
    assert request.payload(desk.record) is None
    desk.pass_ms(5_000)
    assert desk.requests == []


def test_a_signal_that_does_not_get_through_is_sent_again_later() -> None:
    """Each pause is longer, up to a limit; what was sent for nothing known is not touched."""
    desk = Desk()
    desk.lead()
    desk.commit(with_signals("a"))
    (sent,) = desk.take()
    pauses = []
    for _ in range(8):
        desk.chores.undelivered(KEY, [sent.signal.name])
        desk.chores.undelivered(KEY, [sent.signal.name])
        waited = 0
        while not desk.effects:
            desk.pass_ms(250)
            waited += 250
        assert desk.take() == [sent]
        pauses.append(waited)
    assert pauses[:3] == [500, 1_000, 2_000]
    assert pauses[-1] == 10_000


def test_an_overdue_signal_becomes_a_dead_letter() -> None:
    """A receiver may forget its stream before it could be repeated."""
    desk = Desk()
    desk.lead()
    desk.commit(with_signals("a", added_ms=WALL_MS - OUTBOX_TTL_MS // 2 - 1))
    (dead,) = desk.take()
    assert isinstance(dead, DeadLetter)
    desk.chores.delivered(KEY, [dead.signal.name])
    desk.pass_ms(1_000)
    assert desk.requests[0].payload(desk.record).outbox.signals == ()


def test_a_leader_that_stopped_does_nothing() -> None:
    """What comes late from the shell finds nobody who is responsible."""
    desk = Desk()
    desk.lead()
    desk.commit(with_signals("a"))
    (sent,) = desk.take()
    desk.chores.stopped()
    desk.chores.delivered(KEY, [sent.signal.name])
    desk.chores.undelivered(KEY, [sent.signal.name])
    desk.pass_ms(10_000)
    assert desk.take() == []
    assert desk.requests == []
    desk.lead()
    desk.chores.tick()
    assert desk.take() == [sent], "the next leader begins again"
