"""A replica that leads: commits, reads, stopping, repair, and tombstones."""

from typing import Any

import pytest

from jido_placement.config import GroupConfig, Replica
from jido_state.messages import (
    IS_TOMB,
    Accept,
    Accepted,
    Confirm,
    Confirmed,
    Have,
    HeartbeatAck,
    Holds,
    List,
    Listed,
    Nack,
    Persist,
    Prepare,
    Prevote,
    Read,
    ReadAnswer,
    Reap,
    Row,
    Stopped,
    Transfer,
    Whole,
)
from jido_state.versions import NO_BALLOT, Ballot, Version
from tests.simulation.replicas import NEW, NEWER, OLD, A, B, C, D, One, row_of


# Leading
def test_one_replica_leads_alone_and_commits_when_it_is_durable() -> None:
    """A quorum of one is its own disk."""
    one = One(config=GroupConfig(1, (A,)))
    one.tick(500)
    assert one.layer.leadership is not None
    one.is_stuck = True
    one.put("k", 1)
    assert one.layer.heard == []
    one.write()
    assert one.layer.heard == [("committed", "k", 1)]
    one._take(one.group.step(one.now_ms, one.leadership().confirm, "read"))
    assert one.layer.heard[-1] == ("confirmed", "read")


@pytest.mark.parametrize(("voters", "needed"), [(2, 1), (3, 1), (4, 2), (5, 2)])
def test_a_majority_commits(voters: int, needed: int) -> None:
    """With the leader's own copy: two of two, two of three, three of four and of five."""
    replicas = tuple(Replica(node, node + 1) for node in range(voters))
    one = One(replicas[0], GroupConfig(1, replicas))
    ballot = one.lead(*replicas[1:])
    row = one.put("k", 1)
    for other in replicas[1:needed]:
        one.get(other, Accepted(1, ballot, (row.version.number,)))
    assert one.layer.heard == []
    one.get(replicas[needed], Accepted(1, ballot, (row.version.number,)))
    assert one.layer.heard == [("committed", "k", 1)]


def test_two_replicas_need_both() -> None:
    """With one of two dead nothing is written, and the leader stops."""
    one = One(config=GroupConfig(1, (A, B)))
    one.lead(B)
    one.put("k", 1)
    one.tick(2_600)
    assert one.layer.heard == [("stopped", "no acks of a quorum")]


def test_the_leaders_copy_counts_when_it_is_durable() -> None:
    """Two others make a quorum without it; one other does not."""
    one = One()
    ballot = one.lead(B)
    one.is_stuck = True
    row = one.put("k", 1)
    one.get(B, Accepted(1, ballot, (row.version.number,)))
    assert one.layer.heard == []
    one.get(C, Accepted(1, ballot, (row.version.number,)))
    assert one.layer.heard == [("committed", "k", 1)]


def test_acks_of_strangers_and_other_ballots_do_not_count() -> None:
    """A learner, an earlier assignment of the node, an earlier ballot."""
    one = One()
    ballot = one.lead(B)
    row = one.put("k", 1)
    one.get(D, Accepted(1, ballot, (row.version.number,)))
    one.get(Replica(1, 9), Accepted(1, ballot, (row.version.number,)))
    one.get(B, Accepted(1, OLD, (row.version.number,)))
    one.get(B, Accepted(1, ballot, (row.version.number + 1,)))
    assert one.layer.heard == []


def test_a_key_with_a_write_on_its_way_takes_no_other() -> None:
    """Nor one that names a version of another ballot."""
    one = One()
    one.lead(B)
    one.put("k", 1)
    with pytest.raises(RuntimeError, match="cannot be written"):
        one.put("k", 2)
    with pytest.raises(RuntimeError, match="cannot be written"):
        one.leadership().write("other", row_of(OLD))


def test_a_write_is_repeated_unchanged_to_those_who_lack_it() -> None:
    """The same version, the same content; not to those who have it."""
    one = One()
    ballot = one.lead(B)
    row = one.put("k", 1)
    one.get(B, Accepted(1, ballot, (row.version.number,)))
    one.tick(300)
    assert one.messages(Accept) == [(2, Accept(1, ballot, (("k", row),)))]


def test_a_strong_read_does_not_join_a_round_that_runs() -> None:
    """It is answered by the next one, which begins when the first is over."""
    one = One()
    ballot = one.lead(B)
    step, leadership = one.group.step, one.leadership()
    one._take(step(one.now_ms, leadership.confirm, "first"))
    ((_, asked), *_) = one.messages(Confirm)
    one._take(step(one.now_ms, leadership.confirm, "second"))
    one._take(step(one.now_ms, leadership.confirm, "third"))
    assert not one.messages(Confirm)
    one.get(B, Confirmed(1, ballot, asked.round))
    assert one.layer.heard == [("confirmed", "first")]
    ((_, again), *_) = one.messages(Confirm)
    one.get(C, Confirmed(1, ballot, asked.round))
    assert len(one.layer.heard) == 1
    one.get(C, Confirmed(1, ballot, again.round))
    assert one.layer.heard[1:] == [("confirmed", "second", "third")]


def test_a_round_that_is_not_answered_is_repeated() -> None:
    """To those who did not answer."""
    one = One(config=GroupConfig(1, (A, B, C, D, Replica(4, 5))))
    ballot = one.lead(B, C)
    one._take(one.group.step(one.now_ms, one.leadership().confirm, "read"))
    number = one.messages(Confirm)[0][1].round
    one.get(B, Confirmed(1, ballot, number))
    one.tick(300)
    assert {to for to, _ in one.messages(Confirm)} == {2, 3, 4}


def test_a_leader_whose_store_is_stuck_stops() -> None:
    """Its followers still answer; it would heartbeat for ever and commit nothing."""
    one = One()
    ballot = one.lead(B)
    one.is_stuck = True
    one.put("k", 1)
    for _ in range(30):
        one.tick()
        if one.layer.leadership is None:
            break
        root = one.group.acceptor.tree.root
        one.get(B, HeartbeatAck(1, ballot, root, is_whole=True))
    assert one.layer.heard == [("stopped", "the store does not finish a write")]


def test_a_full_disk_stops_everything_until_there_is_room() -> None:
    """No leading, no promise, no ack."""
    one = One()
    one.lead(B)
    one.do("store_full")
    assert one.layer.heard == [("stopped", "the disk is full")]
    assert one.get(B, Prepare(1, NEWER)) == []
    one.tick(5_000)
    assert one.sent == []
    one.do("store_full", is_full=False)
    one.tick(5_000)
    assert one.messages(Prevote)


def test_a_higher_promise_stops_a_leader() -> None:
    """At once, and it says so to the layer above."""
    one = One()
    one.lead(B)
    one.get(C, Prepare(1, Ballot(0, 1, 9, 2)))
    assert one.layer.heard == [("stopped", "it promised a higher ballot")]
    assert any(type(effect) is Stopped for effect in one.effects)


def test_a_refused_leader_finishes_what_a_quorum_still_acks() -> None:
    """It takes nothing new, and stops when nothing is left, or soon."""
    one = One()
    ballot = one.lead(B)
    row = one.put("k", 1)
    one.get(C, Nack(1, ballot, Ballot(0, 1, 9, 2)))
    assert one.leadership().is_sealed
    one.get(B, Accepted(1, ballot, (row.version.number,)))
    assert one.layer.heard == [("committed", "k", 1)]
    one.tick()
    assert one.layer.heard[1:] == [("stopped", "a higher ballot was promised")]


def test_a_leader_that_did_not_run_asks_before_it_goes_on() -> None:
    """Somebody else may lead by now."""
    one = One()
    ballot = one.lead(B)
    assert one.leadership().is_fresh
    one.now_ms += 1_000
    one.get(B, HeartbeatAck(1, ballot, one.group.acceptor.tree.root, is_whole=True))
    assert not one.leadership().is_fresh
    one._take(one.group.step(one.now_ms, one.leadership().confirm, "k"))
    number = one.messages(Confirm)[0][1].round
    one.get(B, Confirmed(1, ballot, number))
    assert one.leadership().is_fresh


def test_handing_over_refuses_turns_for_a_moment() -> None:
    """Then the leader goes on, if the other has not been elected."""
    one = One()
    ballot = one.lead(B)
    one.do("transfer", 1)
    assert one.messages(Transfer) == [(1, Transfer(1, ballot))]
    assert one.leadership().is_sealed
    one.do("transfer", 9)
    assert not one.messages(Transfer)
    one.get(B, HeartbeatAck(1, ballot, 0, is_whole=True))
    one.tick(300)
    assert not one.leadership().is_sealed


# Settling and repair
def test_content_is_read_from_those_who_have_it_before_it_is_settled() -> None:
    """A key that only a follower holds is fetched, written again, and only then ready."""
    version = OLD.version(5)

    def listed(ballot: Ballot) -> Listed:
        return Listed(1, ballot, 0, 4, (0, 1, 2, 3), (("k", version, 0, NO_BALLOT),), is_whole=True)

    one = One()
    ballot = one.lead(B, listed={B: listed})
    assert not one.leadership().is_ready("k")
    assert one.messages(Read) == [(1, Read(1, ballot, "k", version))]
    one._take(one.group.step(one.now_ms, one.leadership().make_ready, "k"))
    one.get(B, ReadAnswer(1, ballot, "k", None))
    one.get(B, ReadAnswer(1, ballot, "k", Row(version, content="x")))
    (_, accept), *_ = one.messages(Accept)
    assert accept.rows[0][1].content == "x"
    one.get(B, Accepted(1, ballot, (accept.rows[0][1].version.number,)))
    assert one.layer.heard == [("ready", "k")]


def test_a_leader_that_cannot_get_content_stops() -> None:
    """Its holder is gone; another quorum may never have heard of it."""

    def listed(ballot: Ballot) -> Listed:
        rows = (("k", OLD.version(5), 0, NO_BALLOT),)
        return Listed(1, ballot, 0, 4, (0, 1, 2, 3), rows, is_whole=True)

    one = One()
    ballot = one.lead(B, listed={B: listed})
    for _ in range(30):
        one.tick()
        if one.layer.leadership is None:
            break
        one.get(C, HeartbeatAck(1, ballot, one.group.acceptor.tree.root, is_whole=True))
    assert one.layer.heard == [("stopped", "nobody sends the content of 'k'")]


def test_a_follower_that_differs_is_repaired_by_the_leader() -> None:
    """What it lacks is written again; what it alone holds comes true."""
    row = row_of(OLD)
    one = One(rows={"k": row})
    ballot = one.lead(B)
    for _ in range(2):
        one.get(C, HeartbeatAck(1, ballot, 1, is_whole=True))
    assert one.messages(List)
    rows = (("orphan", OLD.version(9), 0, NO_BALLOT),)
    one.get(C, Listed(1, ballot, 0, 4, (0, 1, 2, 3), rows, is_whole=True))
    written = [key for _, message in one.messages(Accept) for key, _ in message.rows]
    assert set(written) == {"k"}
    assert one.messages(Read) == [(2, Read(1, ballot, "orphan", OLD.version(9)))]
    one.get(C, ReadAnswer(1, ballot, "orphan", Row(OLD.version(9), content="y")))
    assert not one.leadership().is_clean("orphan")
    assert one.messages(Accept)


def test_a_replica_is_whole_again_when_it_equals_a_leader() -> None:
    """Rows that were spoilt are deleted then, unless they were written since."""
    one = One(bad=["a", "b"])
    ballot = NEW
    assert not one.get(B, Prepare(1, ballot))[0].is_whole
    one.get(B, Accept(1, ballot, (("a", row_of(ballot)),)))
    assert not one.group.acceptor.is_whole
    one.get(B, Whole(1, ballot, one.group.acceptor.tree.root + 1))
    assert not one.group.acceptor.is_whole
    one.get(B, Whole(1, ballot, one.group.acceptor.tree.root))
    assert one.group.acceptor.is_whole
    (persist,) = [each for each in one.effects if type(each) is Persist]
    assert dict(persist.rows) == {"b": None}


def test_a_leader_vouches_for_a_follower_that_equals_it() -> None:
    """Once everything is settled."""
    one = One(rows={"k": row_of(OLD)})
    ballot = one.lead(B)
    root = one.group.acceptor.tree.root
    one.get(C, HeartbeatAck(1, ballot, root, is_whole=False))
    assert one.messages(Whole) == [(2, Whole(1, ballot, root))]
    one.put("k", 2)
    root = one.group.acceptor.tree.root
    one.get(C, HeartbeatAck(1, ballot, root, is_whole=False))
    assert not one.messages(Whole)


# Tombstones
def _with_tomb() -> tuple[One, Ballot, Version]:
    tomb = Row(OLD.version(2), IS_TOMB, OLD, "t")
    one = One(rows={"t": tomb}, promised=OLD)
    return one, one.lead(B), tomb.version


def _pass(one: One, ballot: Ballot, ms: int) -> None:
    """Time passes, with all followers there."""
    seen: list[tuple[int, Any]] = []
    for _ in range(ms // 100):
        one.tick()
        seen += one.sent
        for other in (B, C):
            root = one.group.acceptor.tree.root
            one.get(other, HeartbeatAck(1, ballot, root, is_whole=True))
    one.sent = seen


def test_a_tombstone_goes_when_all_hold_it() -> None:
    """Not before the op ids' time is over, and not with one replica missing."""
    one, ballot, version = _with_tomb()
    _pass(one, ballot, 900)
    assert not one.messages(Have)
    _pass(one, ballot, 3_000)
    assert {to for to, _ in one.messages(Have)} == {1, 2}
    one.get(B, Holds(1, ballot, "t", version))
    assert not one.messages(Reap)
    one.get(C, Holds(1, ballot, "t", OLD.version(1)))
    assert not one.messages(Reap)
    one.get(C, Holds(1, ballot, "t", version))
    assert {to for to, _ in one.messages(Reap)} == {1, 2}
    assert one.group.acceptor.rows == {}
    assert one.leadership().is_ready("t")


def test_a_tombstone_that_came_alive_meanwhile_stays() -> None:
    """The agent was made again while the others were asked."""
    one, ballot, version = _with_tomb()
    _pass(one, ballot, 4_000)
    one.get(B, Holds(1, ballot, "t", version))
    one.put("t", "alive")
    one.get(C, Holds(1, ballot, "t", version))
    assert not one.messages(Reap)
