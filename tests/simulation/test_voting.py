"""A replica that answers: promises, pre-votes, and who is silent."""

from typing import Any

import pytest

from jido_placement.config import GroupConfig, Replica
from jido_state.messages import (
    IS_TOMB,
    Accept,
    Confirm,
    Copy,
    Have,
    Heartbeat,
    Holds,
    List,
    Nack,
    Prepare,
    Prevote,
    Promise,
    Read,
    Reap,
    Row,
    Whole,
)
from jido_state.versions import NO_BALLOT, Ballot
from tests.simulation.replicas import NEW, NEWER, OLD, THREE, A, B, C, D, One, following, row_of


# Voting
def test_a_promise_is_sent_again_and_never_taken_back() -> None:
    """PREPARE of the promised ballot is answered again; a lower one is told of the higher."""
    one = One()
    assert one.get(B, Prepare(1, NEW)) == [
        Promise(1, NEW, one.group.acceptor.tree.root, is_whole=True)
    ]
    assert len(one.get(B, Prepare(1, NEW))) == 1
    assert one.get(B, Prepare(1, OLD)) == [Nack(1, OLD, NEW)]
    assert one.group.header.promised == NEW


@pytest.mark.parametrize(
    "message",
    [
        Prepare(1, NEW),
        Accept(1, NEW, (("k", row_of(NEW)),)),
        Confirm(1, NEW, 1),
        Have(1, NEW, "t", OLD.version(1)),
        Read(1, NEW, "t", OLD.version(1)),
        List(1, NEW, (1, 2, 3, 4), 0),
    ],
)
def test_what_rests_on_a_promise_waits_for_the_disk(message: Any) -> None:
    """No answer leaves while the store has not written the promise."""
    one = One(rows={"t": row_of(OLD)})
    one.is_stuck = True
    assert one.get(B, message) == []
    one.write()
    assert len(one.sent) == 1


@pytest.mark.parametrize(
    "message",
    [
        Accept(1, OLD, (("k", row_of(OLD)),)),
        Confirm(1, OLD, 1),
        Have(1, OLD, "t", OLD.version(1)),
        Read(1, OLD, "t", OLD.version(1)),
        List(1, OLD, (1, 2, 3, 4), 0),
        Heartbeat(1, OLD),
    ],
)
def test_below_the_promise_everything_is_refused(message: Any) -> None:
    """And nothing changes."""
    one = One(promised=NEW, rows={"t": row_of(OLD)})
    assert one.get(B, message) == [Nack(1, OLD, NEW)]
    assert set(one.group.acceptor.rows) == {"t"}


def test_reap_and_whole_below_the_promise_are_passed_over() -> None:
    """A late REAP of an older ballot must not delete; a late WHOLE must not vouch."""
    tomb = Row(OLD.version(1), IS_TOMB, OLD, "t")
    one = One(promised=NEW, rows={"t": tomb}, bad=["x"])
    one.get(B, Reap(1, OLD, "t", tomb.version))
    one.get(B, Whole(1, OLD, one.group.acceptor.tree.root))
    assert set(one.group.acceptor.rows) == {"t"}
    assert not one.group.acceptor.is_whole


def test_reap_takes_exactly_this_tombstone() -> None:
    """Another version, or something alive, stays."""
    tomb = Row(OLD.version(2), IS_TOMB, OLD, "t")
    one = One(promised=NEW, rows={"t": tomb, "k": row_of(OLD, 3)})
    one.get(B, Reap(1, NEW, "t", OLD.version(1)))
    one.get(B, Reap(1, NEW, "k", OLD.version(3)))
    one.get(B, Reap(1, NEW, "gone", OLD.version(3)))
    assert set(one.group.acceptor.rows) == {"t", "k"}
    one.get(B, Reap(1, NEW, "t", OLD.version(2)))
    assert set(one.group.acceptor.rows) == {"k"}


def test_have_is_answered_for_exactly_this_version() -> None:
    """Silence for any other."""
    one = One(rows={"t": Row(OLD.version(2), IS_TOMB, OLD, "t")})
    assert one.get(B, Have(1, NEW, "t", OLD.version(1))) == []
    assert one.get(B, Have(1, NEW, "t", OLD.version(2))) == [Holds(1, NEW, "t", OLD.version(2))]


@pytest.mark.parametrize("status", ["learner", "pending", "removed"])
def test_only_voters_vote(status: str) -> None:
    """A learner and a replica without a recorded header are silent; a removed one only refuses."""
    config = GroupConfig(1, (B, C, D), (), (A,)) if status == "learner" else THREE
    config = GroupConfig(1, (B, C, D)) if status == "removed" else config
    one = One(status=status, config=config)
    for message in (
        Prevote(1, NEW, is_certain=True, leader=NO_BALLOT),
        Prepare(1, NEW),
        List(1, NEW, (0, 0, 0, 0), 0),
        Read(1, NEW, "k", NEW.version(1)),
        Accept(1, NEW, (("k", row_of(NEW)),)),
        Confirm(1, NEW, 1),
        Have(1, NEW, "k", NEW.version(1)),
        Copy(1, 0),
    ):
        answers = one.get(B, message)
        if status == "removed" and type(message) in {Prepare, Accept, Confirm}:
            assert answers == [Nack(1, NEW, NO_BALLOT)]
        else:
            assert answers == []
    assert one.group.header.promised == NO_BALLOT
    one.tick(10_000)
    assert not one.messages(Prevote)


def test_who_is_in_no_config_is_not_heard() -> None:
    """Also under the node of a voter: another assignment is another replica."""
    one = One()
    assert one.get(D, Prepare(1, NEW)) == []
    assert one.get(Replica(1, 9), Prepare(1, NEW)) == []


# Pre-votes
def _asks(one: One, *, is_certain: bool = False, leader: Ballot = NO_BALLOT) -> bool:
    (answer,) = one.get(C, Prevote(1, NEWER, is_certain, leader))
    assert answer.promised == one.group.header.promised
    granted: bool = answer.is_granted
    return granted


def test_a_prevote_is_granted_after_silence_only() -> None:
    """Who hears the leader does not help to depose it."""
    assert not _asks(following())
    assert not _asks(following(2_400))
    assert _asks(following(2_500))


def test_a_certain_candidate_needs_two_missed_heartbeats() -> None:
    """It may be wrong about the leader, whom this replica has just heard."""
    assert not _asks(following(500), is_certain=True)
    assert _asks(following(600), is_certain=True)


def test_own_evidence_grants_at_once() -> None:
    """Also when there is a process of that node again: it does not lead."""
    one = following()
    one.do("certain", 1)
    assert _asks(one)
    one.do("certain", 1, is_gone=False)
    assert _asks(one)


def test_own_evidence_is_of_the_ballot_that_was_followed() -> None:
    """A later leader on the same node is another process; evidence against others says nothing."""
    one = following()
    one.do("certain", 2)
    assert not _asks(one)
    one.do("certain", 1)
    one.get(B, Heartbeat(1, NEW._replace(round=NEW.round + 1)))
    assert not _asks(one)


def test_own_evidence_is_wrong_if_the_leader_goes_on() -> None:
    """A heartbeat that was on its way changes nothing; one that comes a pause later does."""
    one = following()
    one.do("certain", 1)
    assert one.get(B, Heartbeat(1, NEW)) == []
    assert _asks(one)
    one.tick(300)
    one.get(B, Heartbeat(1, NEW))
    assert not _asks(one)


def test_a_process_knows_that_the_one_before_it_is_gone() -> None:
    """What it promised to itself is led by nobody; a newer leader is listened for first."""
    one = One(B, promised=NEW)
    assert _asks(one)
    one.tick(800)
    assert not one.messages(Prevote)
    one.tick(100)
    assert one.messages(Prevote)[0][1].is_certain
    other = One(A, promised=NEW)
    assert not _asks(other)


def test_a_leader_that_goes_on_to_a_new_ballot_is_helped() -> None:
    """Its followers hear it, and know that it is the one who asks."""
    one = following()
    (answer,) = one.get(B, Prevote(1, NEWER, is_certain=False, leader=NEW))
    assert answer.is_granted
    assert not _asks(one, leader=OLD)


def test_no_prevote_for_a_ballot_that_could_not_be_promised() -> None:
    """The answer tells how high the next one has to be."""
    one = One(promised=NEWER)
    one.tick(3_000)
    (answer,) = one.get(B, Prevote(1, NEW, is_certain=False, leader=NO_BALLOT))
    assert (answer.is_granted, answer.promised) == (False, NEWER)


def test_a_leader_grants_nothing() -> None:
    """Whatever is said about it."""
    one = One()
    one.lead(B)
    assert not _asks(one, is_certain=True)


def test_own_lag_is_not_the_silence_of_the_leader() -> None:
    """A loop that stood still for ten seconds first listens."""
    one = following()
    one.now_ms += 10_000
    one.tick()
    assert not one.messages(Prevote)
    assert not _asks(one)
    one.tick(2_600)
    assert one.messages(Prevote)


def test_with_evidence_a_candidate_waits_for_its_rank_only() -> None:
    """The first in the order of preference at once, the second a little later."""
    first = One(A)
    first.get(C, Heartbeat(1, NEWER))
    first.do("certain", 2)
    first.tick()
    assert first.messages(Prevote)
    second = One(B)
    second.get(C, Heartbeat(1, NEWER))
    second.do("certain", 2)
    second.tick()
    assert not second.messages(Prevote)
    second.tick(300)
    assert second.messages(Prevote)[0][1].is_certain


def test_who_is_known_to_be_gone_is_not_let_begin_first() -> None:
    """The second in the order of preference is the first when the first led, and is gone."""
    second = One(B)
    second.get(A, Heartbeat(1, NEWER._replace(node=0)))
    second.do("certain", 0)
    second.do("certain", 0, is_gone=False)
    second.tick()
    assert second.messages(Prevote)
    third = One(C)
    third.get(A, Heartbeat(1, NEWER._replace(node=0)))
    third.do("certain", 0)
    third.tick(200)
    assert not third.messages(Prevote), "the second may be there"
    third.do("certain", 1)
    third.tick()
    assert third.messages(Prevote)


def test_who_is_gone_is_not_waited_for_after_silence_either() -> None:
    """Until there is a process of its node again."""
    one = One(B)
    one.get(C, Heartbeat(1, NEWER))
    one.do("certain", 0)
    one.tick(2_500)
    assert one.messages(Prevote)
    other = One(B)
    other.get(C, Heartbeat(1, NEWER))
    other.do("certain", 0)
    other.do("certain", 0, is_gone=False)
    other.tick(2_700)
    assert not other.messages(Prevote)
    other.tick()
    assert other.messages(Prevote)
