"""Operations at the leader: how each of them may end, one agent, one turn at a time."""

from typing import Any

import pytest

from jido_state.messages import Accepted, Confirm, Confirmed, HeartbeatAck, Nack
from jido_state.operations import CallerFence, OpId
from jido_state.record import Record
from jido_state.requests import Answer, Commit, Request, RunTurn, Status
from jido_state.session import Token
from jido_state.turns import Turns
from jido_state.versions import Ballot, Version
from tests.simulation.replicas import B, One


class Shard:
    """A leader of three with its operations; B acks what it is asked to.

    Attributes:
        said: Answers and turns, in order.
    """

    def __init__(self, **options: Any) -> None:
        self.said: list[Any] = []
        self.one = One()
        self.turns = Turns(self.said.append, lambda: 2, **options)
        self.one.group._listener = self.turns
        self.turns.now_ms = self.one.now_ms
        self.ballot = self.one.lead(B)

    def submit(self, kind: str, n: int = 0, **fields: Any) -> int:
        """Asks; returns the number of the request."""
        op = None if kind == "read" else OpId("c", n)
        due_ms = self.one.now_ms + 1_000
        request = Request(n, kind, "k", op, "strong", due_ms=due_ms)
        request = request._replace(**fields)
        self.one._take(self.one.group.step(self.one.now_ms, self.turns.submit, request))
        return n

    def confirm(self) -> None:
        """B answers the round that runs, if one does."""
        for _, message in self.one.messages(Confirm)[:1]:
            self.one.get(B, Confirmed(1, self.ballot, message.round))

    def end(self, state: Any = b"x", *, fails: bool = False) -> None:
        """The handler that runs comes to its end."""
        turn = next(each for each in reversed(self.said) if type(each) is RunTurn)
        record = turn.record or Record.blank(state=state)
        commit = None if fails else Commit(record, "done")
        one = self.one
        one._take(one.group.step(one.now_ms, self.turns.end, "k", turn.version, commit))

    def ack(self) -> None:
        """B has what was sent last."""
        number = self.one.leadership_number()
        self.one.get(B, Accepted(1, self.ballot, (number,)))

    def spawn(self, n: int = 1) -> None:
        """Makes the agent."""
        self.submit("spawn", n)
        self.end()
        self.ack()

    @property
    def record(self) -> Record:
        """What is committed."""
        leadership = self.one.group.leadership
        assert leadership is not None
        record: Record = leadership.view["k"].content
        return record

    @property
    def answers(self) -> list[tuple[Any, Status]]:
        """Number and end of each request that has ended."""
        return [(each.id, each.status) for each in self.said if type(each) is Answer]


def test_an_agent_is_made_called_and_ended() -> None:
    """Each answer comes when a quorum has the record, and rests on its version."""
    shard = Shard()
    shard.submit("spawn", 1)
    shard.end()
    assert shard.answers == []
    shard.ack()
    assert shard.answers == [(1, Status.OK)]
    shard.submit("call", 2)
    shard.end()
    shard.ack()
    shard.submit("stop", 3)
    shard.end()
    shard.ack()
    assert [status for _, status in shard.answers] == [Status.OK] * 3
    versions = [each.version for each in shard.said if type(each) is Answer]
    assert versions == sorted(set(versions))


def test_one_turn_at_a_time_in_the_order_of_arrival() -> None:
    """The second begins when the first is committed, and not when its handler has ended."""
    shard = Shard()
    shard.spawn()
    shard.submit("call", 2)
    shard.submit("call", 3)
    running = [each.request.id for each in shard.said if type(each) is RunTurn]
    assert running == [1, 2]
    shard.end()
    assert len([each for each in shard.said if type(each) is RunTurn]) == 2
    shard.ack()
    assert [each.request.id for each in shard.said if type(each) is RunTurn] == [1, 2, 3]


def test_a_handler_that_raises_changes_nothing() -> None:
    """Its number is used up, its op id is not: it may run again."""
    shard = Shard()
    shard.spawn()
    shard.submit("call", 2)
    shard.end(fails=True)
    assert shard.answers[-1] == (2, Status.FAILED)
    shard.submit("call", 2)
    shard.end()
    shard.ack()
    assert shard.answers[-1] == (2, Status.OK)
    fences = [each.version for each in shard.said if type(each) is RunTurn]
    assert fences == sorted(set(fences))


def test_a_new_life_takes_the_place_of_a_lost_one_in_one_write() -> None:
    """There is no moment without an agent; a life that is not the named one stays; it counts once.

    What the id has done, as a tombstone keeps it, goes over to the new life.
    """
    shard = Shard()
    shard.spawn()
    lost = shard.said[-1].version
    shard.submit("call", 2)
    shard.end()
    shard.ack()
    shard.submit("spawn", 3, over=lost)
    turn = shard.said[-1]
    assert (type(turn), turn.record) == (RunTurn, None)
    shard.end(state=b"new")
    record = shard.record
    assert (record.state, record.generation) == (b"x", lost)  # until it is committed
    shard.ack()
    assert shard.answers[-1] == (3, Status.OK)
    record = shard.record
    assert (record.state, record.is_tomb) == (b"new", False)
    assert record.generation == record.version > lost
    shard.submit("spawn", 4, over=lost)
    shard.confirm()
    assert shard.answers[-1] == (4, Status.EXISTS)
    for n in (2, 3):  # repeated
        shard.submit("spawn" if n == 3 else "call", n, over=lost if n == 3 else None)
        assert shard.answers[-1] == (n, Status.OK)
    assert shard.record == record


def test_a_turn_that_ends_twice_or_late_is_forgotten() -> None:
    """Only the turn that runs can end."""
    shard = Shard()
    shard.spawn()
    shard.submit("call", 2)
    one = shard.one
    wrong = shard.ballot.version(99)
    commit = Commit(Record.blank(), None)
    one._take(one.group.step(one.now_ms, shard.turns.end, "k", wrong, commit))
    one._take(one.group.step(one.now_ms, shard.turns.end, "other", wrong, commit))
    assert shard.answers == [(1, Status.OK)]
    shard.end()
    sent = len(one.sent)
    shard.end()
    assert sent > 0
    assert one.sent == []


def test_a_full_mailbox_refuses() -> None:
    """What was taken before stays."""
    shard = Shard(max_mailbox=1)
    shard.spawn()
    for n in (2, 3, 4):
        shard.submit("call", n)
    assert shard.answers[1:] == [(4, Status.OVERLOADED)]


def test_what_waits_too_long_is_late() -> None:
    """It surely did not run; the one that runs goes on."""
    shard = Shard()
    shard.spawn()
    shard.submit("call", 2)
    shard.submit("call", 3, due_ms=shard.one.now_ms + 5)
    shard.submit("call", 4)
    shard.turns.now_ms = shard.one.now_ms + 10
    shard.one._take(shard.one.group.step(shard.one.now_ms, shard.turns.tick))
    assert shard.answers[1:] == [(3, Status.LATE)]


@pytest.mark.parametrize(
    ("is_there", "kind", "status"),
    [
        (False, "call", Status.NOT_FOUND),
        (False, "stop", Status.NOT_FOUND),
        (True, "spawn", Status.EXISTS),
    ],
)
def test_what_is_refused_for_what_is_there_is_a_read(
    is_there: bool, kind: str, status: Status
) -> None:
    """So it is said after a round only: another leader may have changed it."""
    shard = Shard()
    if is_there:
        shard.spawn()
    before = len(shard.answers)
    shard.submit(kind, 7)
    assert len(shard.answers) == before
    shard.confirm()
    assert shard.answers[before:] == [(7, status)]


def test_a_repeated_operation_gets_its_answer_again() -> None:
    """Without another turn, and with the version of the row."""
    shard = Shard()
    shard.spawn()
    shard.submit("spawn", 1)
    assert shard.answers == [(1, Status.OK), (1, Status.OK)]
    assert shard.said[-1].value == "done"
    assert shard.said[-1].version == shard.one.leadership().view["k"].version


def test_an_acknowledged_operation_is_never_run_again() -> None:
    """It may have been done: nobody remembers."""
    shard = Shard()
    shard.spawn(1)
    shard.submit("call", 5, ack=5)
    shard.end()
    shard.ack()
    shard.submit("call", 2)
    shard.confirm()
    assert shard.answers[-1] == (2, Status.EXPIRED)


def test_a_fenced_caller_is_refused() -> None:
    """A deposed leader of the calling agent has lost its right."""
    shard = Shard()
    shard.spawn()
    shard.submit("call", 2, fence=CallerFence("a", (2,)), op=OpId("a2", 1))
    shard.end()
    shard.ack()
    shard.submit("call", 3, fence=CallerFence("a", (1,)), op=OpId("a1", 1))
    shard.confirm()
    assert shard.answers[-1] == (3, Status.FENCED)


def test_who_does_not_lead_says_who_does() -> None:
    """Before it leads, while it hands over, and after it has stopped."""
    said: list[Any] = []
    turns = Turns(said.append, lambda: 2)
    op = OpId("c", 1)
    turns.submit(Request(1, "call", "k", op, "strong", due_ms=0))
    assert (said[0].status, said[0].value) == (Status.NOT_LEADER, 2)
    shard = Shard()
    shard.one.do("transfer", 1)
    shard.submit("call", 1)
    assert (shard.said[-1].status, shard.said[-1].value) == (Status.NOT_LEADER, 1)


def test_when_it_stops_what_waits_did_not_run_and_what_is_written_is_unknown() -> None:
    """A handler that still runs will not be committed here."""
    shard = Shard()
    shard.spawn()
    shard.submit("call", 2)
    shard.end()
    shard.submit("call", 3)
    shard.one.get(B, Nack(1, shard.ballot, Ballot(0, 1, 99, 1)))
    shard.one.tick(300)
    assert sorted(shard.answers[1:], key=str) == [(2, Status.UNKNOWN), (3, Status.NOT_LEADER)]
    running = Shard()
    running.spawn()
    running.submit("call", 2)
    running.one.do("store_full")
    assert running.answers[-1] == (2, Status.NOT_LEADER)
    running.end()
    assert running.one.sent == []


def test_a_session_that_has_seen_more_goes_elsewhere() -> None:
    """Reads and writes; at level "eventual" the leader's state will do for reads."""
    shard = Shard()
    newer = Token("sim", 0).saw(0, Version(0, 1, 99, 1, 1))
    shard.submit("read", 1, level="session", token=newer)
    shard.submit("call", 2, level="session", token=newer)
    shard.submit("read", 3, level="eventual", token=newer)
    assert shard.answers == [(1, Status.NOT_LEADER), (2, Status.NOT_LEADER), (3, Status.OK)]


def test_a_strong_read_waits_for_its_round() -> None:
    """And sees what is committed, not what is on its way."""
    shard = Shard()
    shard.spawn()
    shard.submit("call", 2)
    shard.end()
    shard.submit("read", 3)
    assert shard.answers == [(1, Status.OK)]
    shard.confirm()
    assert shard.answers[1:] == [(3, Status.OK)]
    assert shard.said[-1].version.number == 1


def test_a_leader_out_of_touch_asks_before_it_begins_a_turn() -> None:
    """Half of T_e without a quorum's answer: somebody else may lead."""
    shard = Shard()
    shard.spawn()
    for _ in range(13):
        shard.one.tick()
    shard.submit("call", 2)
    assert [each.request.id for each in shard.said if type(each) is RunTurn] == [1]
    shard.confirm()
    assert [each.request.id for each in shard.said if type(each) is RunTurn] == [1, 2]
    root = shard.one.group.acceptor.tree.root
    shard.one.get(B, HeartbeatAck(1, shard.ballot, root, is_whole=True))
