"""Append counters: who remembers how much a store had written, and what comes of it."""

from typing import Any

import pytest

from jido_placement.config import GroupConfig
from jido_state.appends import Appends, Count
from jido_state.group import Group
from jido_state.messages import (
    Accept,
    Accepted,
    Confirm,
    Confirmed,
    Heartbeat,
    HeartbeatAck,
    List,
    Persist,
    Prepare,
    Promise,
    Read,
    Send,
)
from tests.simulation.replicas import (
    NEW,
    NEWER,
    OLD,
    SETTINGS,
    THREE,
    A,
    B,
    C,
    Layer,
    One,
    row_of,
)

LIFE, EARLIER = 11, 10


def test_the_highest_count_is_remembered() -> None:
    """In whatever order they come; each is told to others, those who are no members are not."""
    one = Appends(5, LIFE)
    for appended in (3, 9, 7):
        one.heard(B, Count(appended, 1, 0))
    one.heard(C, Count(4, 2, 0))
    assert one.known(A, (A, B)) == ((A, Count(5, LIFE, 5)), (B, Count(9, 1, 0)))
    assert dict(one.known(A, (A, B, C))).keys() == {A, B}


def test_the_own_count_rises() -> None:
    """With what is durable, which is told in order."""
    one = Appends(5, LIFE)
    one.durable(8)
    one.durable(7)
    assert one.own == Count(8, LIFE, 5)


def test_a_store_that_has_what_it_had_is_whole() -> None:
    """What an earlier process said is in it; what this one said needs no proof."""
    one = Appends(5, LIFE)
    assert one.holds(A, ((A, Count(5, EARLIER, 2)), (B, Count(70, 1, 0))))
    assert one.holds(A, ((A, Count(9, LIFE, 5)),))
    assert not one.holds(A, ((A, Count(6, EARLIER, 2)),))
    one.durable(100)
    assert not one.holds(A, ((A, Count(6, EARLIER, 2)),)), "it counts on, and has not got it back"


def test_a_new_process_takes_the_place_of_the_old_one() -> None:
    """Unless it began with less: then what was said before is what has to be told."""
    one = Appends(0, LIFE)
    one.heard(B, Count(9, 1, 0))
    one.heard(B, Count(12, 2, 9))
    assert dict(one.known(A, (B,)))[B] == Count(12, 2, 9)
    one.heard(B, Count(10, 1, 0))
    one.heard(B, Count(40, 3, 11))
    assert dict(one.known(A, (B,)))[B] == Count(12, 2, 9)
    assert not Appends(11, 3).holds(B, one.known(A, (B,)))


def test_a_driver_that_does_not_tell_is_not_asked() -> None:
    """Nothing is said, and nobody has to be heard first."""
    assert Appends(0, 0).known(A, (A, B)) == ()
    assert One().get(B, Accept(1, NEW, (("k", row_of(NEW)),)))


class Watched(One):
    """A replica whose store had written ten batches when its process was started."""

    def __init__(self, status: str = "voter") -> None:
        super().__init__(status=status, promised=OLD)
        header = self.group.header
        layer: Any = Layer()
        self.layer = layer
        self.group = Group(
            A.node, 7, header, {}, layer, SETTINGS, self.now_ms, appended=10, life=LIFE
        )

    def _take(self, effects: list[Any]) -> None:
        self.sent, self.effects = [], []
        while effects:
            self.sent += [(each.to, each.message) for each in effects if type(each) is Send]
            tickets = [each.ticket for each in effects if type(each) is Persist]
            self.effects += [each for each in effects if type(each) is not Send]
            effects = []
            for ticket in tickets:
                effects += self.group.persisted(ticket, self.now_ms, appended=10 + ticket)

    @property
    def status(self) -> str:
        """Of its header."""
        return self.group.header.status


MORE = ((A, Count(11, EARLIER, 0)),)


@pytest.mark.parametrize(
    "message",
    [
        Prepare(1, NEW, MORE),
        Promise(1, NEW, 0, is_whole=True, appends=MORE),
        List(1, NEW, (1, 2, 3, 4), 0, MORE),
        Heartbeat(1, NEW, MORE),
        Heartbeat(1, OLD._replace(round=1), MORE),
    ],
)
def test_who_is_told_of_more_is_silent_for_ever(message: Any) -> None:
    """Durably, whoever says so; until a config no longer names it."""
    one = Watched()
    assert one.get(B, message) == []
    (persist,) = [each for each in one.effects if type(each) is Persist]
    assert persist.header is not None
    assert persist.header.status == one.status == "lost"
    for later in (Prepare(1, NEWER), Heartbeat(1, NEWER), Confirm(1, NEWER, 1)):
        assert one.get(B, later) == []
    one.tick(20_000)
    assert one.sent == []
    one.do("adopt", GroupConfig(2, (A, B)))
    assert one.status == "lost"
    one.do("adopt", GroupConfig(3, (B, C)))
    assert one.status == "removed"


def test_a_leader_that_is_told_of_more_stops() -> None:
    """What it knows may be less than what was acknowledged."""
    one = Watched()
    ballot = one.lead(B)
    one.get(C, Promise(1, ballot, 0, is_whole=True, appends=MORE))
    assert one.layer.heard == [("stopped", "its store was set back")]
    assert one.status == "lost"


def test_after_a_restart_somebody_who_may_remember_is_heard_first() -> None:
    """Only then are answers given that rest on what the store held before."""
    one = Watched()
    early = [
        Accept(1, NEW, (("k", row_of(NEW)),)),
        Confirm(1, NEW, 1),
        Read(1, NEW, "k", NEW.version(1)),
    ]
    for message in early:
        assert one.get(B, message) == []
    assert one.get(B, Heartbeat(1, NEW, ((A, Count(10, EARLIER, 0)),)))
    assert all(one.get(B, message) for message in early)


def test_acks_and_promises_say_what_is_durable() -> None:
    """An ack is counted with what it acknowledges."""
    one = Watched()
    (promise,) = one.get(B, Prepare(1, NEW, ((C, Count(3, 1, 0)),)))
    assert dict(promise.appends) == {A: Count(10, LIFE, 10), C: Count(3, 1, 0)}
    (accepted,) = one.get(B, Accept(1, NEW, (("k", row_of(NEW)),)))
    assert type(accepted) is Accepted
    assert accepted.appended == Count(12, LIFE, 10)
    (confirmed,) = one.get(B, Confirm(1, NEW, 1))
    assert type(confirmed) is Confirmed
    (ack,) = one.get(B, Heartbeat(1, NEW))
    assert type(ack) is HeartbeatAck
    assert ack.appended == Count(12, LIFE, 10)


def test_a_leader_passes_on_what_it_has_heard() -> None:
    """With its heartbeats, to followers that may have to tell it one day."""
    one = Watched()
    ballot = one.lead(B)
    one.get(B, HeartbeatAck(1, ballot, 0, is_whole=True, appended=Count(4, 1, 0)))
    one.get(C, Accepted(1, ballot, (1,), Count(6, 2, 0)))
    one.tick(SETTINGS.heartbeat_ms)
    (heartbeat, *_) = [message for _, message in one.messages(Heartbeat)]
    assert dict(heartbeat.appends).keys() == set(THREE.voters)
    assert dict(heartbeat.appends)[B] == Count(4, 1, 0)
    assert dict(heartbeat.appends)[C] == Count(6, 2, 0)
