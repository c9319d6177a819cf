"""A replica that wants to lead, and what it learns before it does."""

from jido_state.messages import (
    Accept,
    Heartbeat,
    List,
    Listed,
    Nack,
    Prepare,
    Prevote,
    PrevoteAnswer,
    Promise,
    Transfer,
)
from jido_state.settings import GroupSettings
from jido_state.versions import NO_BALLOT, Ballot
from tests.simulation.replicas import NEW, OLD, A, B, C, One, following, row_of


def test_a_stuck_store_does_not_campaign() -> None:
    """The probe write comes before the first question; after T_e it waits again."""
    one = One()
    one.is_stuck = True
    one.tick(8_000)
    assert one.sent == []


def test_a_follower_of_a_new_group_waits_as_any_other() -> None:
    """While nobody has led there is no silence to wait for; after the first heartbeat there is."""
    first = Ballot(0, 1, 1, 0)
    one = One(B)
    one.tick()
    assert one.sent == []
    one.get(A, Prepare(1, first))
    one.get(A, Heartbeat(1, first))
    one.tick(2_700)
    assert one.sent == []
    one.tick(200)
    assert one.messages(Prevote)


def test_prepare_follows_the_own_promise() -> None:
    """With a quorum of grants, and the store not done, nobody is asked for promises."""
    one = One()
    while not one.messages(Prevote):
        one.tick()
    one.is_stuck = True
    asked = one.messages(Prevote)[0][1].ballot
    one.get(B, PrevoteAnswer(1, asked, is_granted=True, promised=NO_BALLOT))
    assert one.sent == []
    one.tick(500)
    assert not one.messages(Prepare)
    one.write()
    assert {to for to, _ in one.messages(Prepare)} == {1, 2}


def test_the_round_is_above_all_that_voters_told() -> None:
    """Else the promise would be refused."""
    one = One()
    while not one.messages(Prevote):
        one.tick()
    asked = one.messages(Prevote)[0][1].ballot
    one.get(C, PrevoteAnswer(1, asked, is_granted=False, promised=Ballot(0, 1, 41, 2)))
    one.get(B, PrevoteAnswer(1, asked, is_granted=True, promised=Ballot(0, 1, 40, 2)))
    assert one.messages(Prepare)[0][1].ballot.round > 41


def test_a_candidate_gives_up_when_refused() -> None:
    """And comes back above the ballot that it was told of."""
    one = One()
    while not one.messages(Prevote):
        one.tick()
    asked = one.messages(Prevote)[0][1].ballot
    one.get(B, PrevoteAnswer(1, asked, is_granted=True, promised=NO_BALLOT))
    ballot = one.messages(Prepare)[0][1].ballot
    one.get(C, Nack(1, ballot, Ballot(0, 1, 50, 2)))
    one.tick(2_000)
    assert not one.messages(Prepare)
    one.tick(1_000)
    assert one.messages(Prevote)[0][1].ballot.round > 50


def test_questions_are_repeated_to_those_who_did_not_answer() -> None:
    """Messages may be lost."""
    one = One()
    while not one.messages(Prevote):
        one.tick()
    one.tick(300)
    assert {to for to, _ in one.messages(Prevote)} == {1, 2}


def test_a_transfer_needs_no_prevote() -> None:
    """The leader itself has asked."""
    one = following()
    one.get(B, Transfer(1, OLD))
    assert not one.messages(Prepare)
    one.get(B, Transfer(1, NEW))
    assert {to for to, _ in one.messages(Prepare)} == {1, 2}


def test_recovery_takes_the_newest_of_a_quorum_page_by_page() -> None:
    """And settles what a quorum does not hold."""
    rows = {f"k{n}": row_of(OLD, n + 1) for n in range(8)}
    one = One(rows=rows, settings=GroupSettings(leaves=4, jitter_ms=0, list_rows=1))
    while not one.messages(Prevote):
        one.tick()
    asked = one.messages(Prevote)[0][1].ballot
    one.get(B, PrevoteAnswer(1, asked, is_granted=True, promised=NO_BALLOT))
    ballot = one.messages(Prepare)[0][1].ballot
    one.get(B, Promise(1, ballot, 1, is_whole=True))
    leaves = set()
    while one.messages(List):
        (_, ask), *_ = one.messages(List)
        leaves.add(ask.start)
        keys = one.group.acceptor.tree.keys_in(ask.start)
        held = tuple((key, rows[key].version, 0, NO_BALLOT) for key in keys if key != "k3")
        one.get(B, Listed(1, ballot, ask.start, ask.start + 1, (ask.start,), held, is_whole=True))
    assert leaves == {0, 1, 2, 3}
    leadership = one.leadership()
    assert {key for key in rows if not leadership.is_clean(key)} == {"k3"}
    assert {to for to, _ in one.messages(Accept)} == {1, 2}


def test_a_page_that_was_not_asked_for_is_passed_over() -> None:
    """Late, repeated, or of another ballot."""
    one = One(rows={"k": row_of(OLD)})
    one.get(B, Listed(1, NEW, 0, 4, (), (), is_whole=True))
    one.get(B, Promise(1, NEW, 0, is_whole=True))
    one.get(B, PrevoteAnswer(1, NEW, is_granted=True, promised=NO_BALLOT))
    assert one.layer.leadership is None


def test_who_does_not_know_what_is_absent_does_not_count() -> None:
    """Its promise alone makes no leader; a whole one does."""
    one = One()
    while not one.messages(Prevote):
        one.tick()
    asked = one.messages(Prevote)[0][1].ballot
    one.get(B, PrevoteAnswer(1, asked, is_granted=True, promised=NO_BALLOT))
    ballot = one.messages(Prepare)[0][1].ballot
    root = one.group.acceptor.tree.root
    one.get(B, Promise(1, ballot, root, is_whole=False))
    assert one.layer.leadership is None
    one.get(C, Promise(1, ballot, root, is_whole=True))
    assert one.layer.leadership is not None
