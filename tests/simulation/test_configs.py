"""A replica and its config: behind, ahead, removed, learning, joining."""

import pytest

from jido_placement.config import GroupConfig
from jido_state.messages import (
    Accept,
    Accepted,
    ConfigIs,
    Copied,
    Copy,
    Heartbeat,
    LearnerReady,
    Listed,
    Missing,
    Persist,
    Prepare,
    Promise,
    Row,
    Staged,
)
from jido_state.settings import GroupSettings
from jido_state.versions import Ballot
from tests.simulation.replicas import NEW, OLD, A, B, C, D, One, row_of


def test_who_is_behind_gets_the_config_first() -> None:
    """And who is ahead is asked for its own."""
    newer = GroupConfig(2, (A, B, D))
    one = One(config=newer)
    assert one.get(B, Prepare(1, NEW)) == [ConfigIs(2, newer)]
    assert one.get(B, Prepare(3, NEW)) == [ConfigIs(2, None)]
    assert one.get(B, ConfigIs(1, None)) == [ConfigIs(2, newer)]
    assert one.get(B, ConfigIs(2, None)) == []
    newest = GroupConfig(3, (A, B))
    one.get(B, ConfigIs(3, newest))
    assert one.group.config == newest
    one.do("adopt", newer)
    assert one.group.config == newest


def test_what_comes_before_its_config_is_taken_with_it() -> None:
    """A candidate of a new config is not kept waiting until it asks again."""
    newest = GroupConfig(3, (A, B), (C, D))
    ballot = Ballot(0, 3, 5, 1)
    one = One(config=GroupConfig(2, (A, B)))
    assert one.get(B, Prepare(3, ballot)) == [ConfigIs(2, None)]
    assert ballot in [each.ballot for each in one.get(B, ConfigIs(3, newest))]
    assert one.messages(Promise)
    other = One(config=GroupConfig(2, (A, B)))
    for _ in range(100):
        other.get(B, Prepare(3, ballot))
    other.do("adopt", newest)
    assert 0 < len(other.messages(Promise)) < 100
    late = One(config=GroupConfig(2, (A, B)))
    late.get(B, Prepare(3, ballot))
    late.do("adopt", GroupConfig(4, (A, B)))
    assert not late.messages(Promise)
    assert late.messages(ConfigIs) == [(1, ConfigIs(4, GroupConfig(4, (A, B))))]


def test_a_promise_tells_of_the_row_that_is_stored_in_its_step() -> None:
    """Both are in one write; the promise is above the row's ballot. *Found by* seed 1939."""
    newest = GroupConfig(2, (A, B, C))
    low, high = Ballot(0, 2, 6, 1), Ballot(0, 2, 8, 2)
    one, other = One(), One()
    row = Row(low.version(1), content=1)
    one.get(B, Accept(2, low, (("k", row),)))
    for each in (one, other):
        each.get(C, Prepare(2, high))
        each.do("adopt", newest)
    ((_, promise),) = one.messages(Promise)
    ((_, empty),) = other.messages(Promise)
    assert promise.root == one.group.acceptor.tree.root != empty.root


def test_a_leader_repeats_under_a_new_config_what_went_out_under_the_old() -> None:
    """Those who knew the new one first did not take it."""
    one = One()
    ballot = one.lead(B)
    row = one.put("k", 1)
    one.do("adopt", GroupConfig(2, (A, B, C), (), (D,)))
    assert [to for to, _ in one.messages(Accept)] == [1, 2]
    assert {message.config for _, message in one.messages(Accept)} == {2}
    one.get(B, Accepted(2, ballot, (row.version.number,)))
    assert one.layer.heard == [("committed", "k", 1)]
    one.do("adopt", GroupConfig(3, (A, B, C)))
    assert one.messages(Accept) == []  # what is committed comes with the trailing ones


def test_a_removed_replica_keeps_its_promise_and_nothing_else() -> None:
    """Its rows are deleted with the same write; a later config does not bring it back."""
    one = One(promised=NEW, rows={"k": row_of(OLD)})
    one.do("adopt", GroupConfig(2, (B, C, D)))
    (persist,) = [each for each in one.effects if type(each) is Persist]
    assert persist.clears
    assert one.group.header[:2] == (1, "removed")
    assert one.group.header.promised == NEW
    assert one.group.acceptor.rows == {}
    one.do("adopt", GroupConfig(3, (A, B, C)))
    assert one.group.header.status == "removed"


def test_a_learner_copies_and_becomes_an_empty_voter() -> None:
    """What it copied is named by ACCEPTs, when the version is the same."""
    config = GroupConfig(2, (B, C, D), (), (A,))
    one = One(config=config, status="learner")
    one.get(B, Heartbeat(2, NEW))
    one.tick(300)
    assert one.messages(Copy) == [(1, Copy(2, 0))]
    one.get(B, Copied(2, 0, 2, (("k", row_of(NEW, 1, "copied")),)))
    one.get(B, Copied(2, 0, 2, (("k", row_of(NEW, 1, "twice")),)))
    one.get(B, Copied(2, 2, 4, ()))
    assert LearnerReady(2, 1) in one.effects
    one.do("adopt", GroupConfig(3, (B, C, D), (A, C, D)))
    assert one.group.header.status == "voter"
    assert one.group.acceptor.rows == {}
    ballot = Ballot(0, 3, 9, 1)
    staged = [
        ("k", Row(ballot.version(1), content=Staged(NEW.version(1)))),
        ("other", Row(ballot.version(2), content=Staged(NEW.version(1)))),
        ("k", Row(ballot.version(3), content=Staged(NEW.version(7)))),
    ]
    answers = one.get(B, Accept(3, ballot, tuple(staged)))
    assert sorted(answers, key=str) == [Accepted(3, ballot, (1,)), Missing(3, ballot, (2, 3))]
    assert one.group.acceptor.rows["k"].content == "copied"


def test_missing_content_is_sent_whole() -> None:
    """To the one who lacks it, and for good."""
    joint = GroupConfig(2, (A, B, C), (A, B, D))

    def listed(ballot: Ballot) -> Listed:
        return Listed(2, ballot, 0, 4, (0, 1, 2, 3), (), is_whole=True)

    one = One(config=joint, rows={"k": row_of(OLD)})
    ballot = one.lead(B, D, listed={B: listed, D: listed})
    ((_, accept),) = [each for each in one.messages(Accept) if each[0] == 3]
    number = accept.rows[0][1].version.number
    assert accept.rows[0][1].content == Staged(OLD.version(1))
    one.get(D, Missing(2, ballot, (number, 99)))
    ((to, whole),) = one.messages(Accept)
    assert (to, whole.rows[0][1].content) == (3, "x")


def test_settings_that_depose_leaders_are_refused() -> None:
    """A lost heartbeat must not be an election."""
    with pytest.raises(ValueError, match="election_ms=1000"):
        GroupSettings(election_ms=1_000, heartbeat_ms=300)
