"""Sessions: what their calls have seen travels with them, through handlers and signals, as text."""

from collections.abc import Callable

import pytest

from jido_cluster import AgentRef, Cluster, InvalidInputError, new_id
from jido_cluster.runtime.seen import Seen, session_key
from jido_state.session import MAX_TOKEN_BYTES, Token
from jido_state.versions import Version
from tests.contract.replicated import Ledger, Note
from tests.contract.support import Mortal, wait_until

MakeNote = Callable[[], AgentRef[Note]]


@pytest.fixture
def note(cluster: Cluster) -> MakeNote:
    return lambda: cluster.spawn(Note, new_id("note-"))


def seen_in(cluster: Cluster, token: str) -> Token:
    """What a token says."""
    client = cluster._inner._connection.client
    return Token.read(token, client.session_key)


def test_a_session_sees_what_it_writes_and_reads(cluster: Cluster, note: MakeNote) -> None:
    """Its token names the version of each answer; other calls leave it alone."""
    one, two = note(), note()
    two.call(Note.write, "outside")
    with cluster.session() as session:
        empty = seen_in(cluster, session.token)
        assert (empty.versions, empty.acted, empty.is_strict) == ({}, {}, False)
        one.call(Note.write, "mine")
        written = seen_in(cluster, session.token)
        assert list(written.versions) == [one.info().shard]
        assert one.call(Note.read) == "mine"
        assert two.state().text == "outside"
    after = session.token
    assert set(seen_in(cluster, after).versions) == {one.info().shard, two.info().shard}
    one.call(Note.write, "outside")
    assert session.token == after
    assert len(after) <= MAX_TOKEN_BYTES


def test_a_request_in_a_session_tells_what_it_rests_on(cluster: Cluster, note: MakeNote) -> None:
    """The session takes the token only, and the version that is in it is the fence's."""
    one = note()
    with cluster.session() as session:
        reply = one.request(Note.write, "text")
    assert reply.value is None
    assert reply.durability == "quorum"
    version = seen_in(cluster, session.token).versions[one.info().shard]
    assert version.number == reply.fence.seq


def test_a_token_goes_on_elsewhere(cluster: Cluster, note: MakeNote) -> None:
    """As with a cookie: another process begins where the first one left off."""
    one, two = note(), note()
    with cluster.session() as first:
        one.call(Note.write, "one")
    with cluster.session(first.token) as second:
        two.call(Note.write, "two")
    shards = {one.info().shard, two.info().shard}
    assert set(seen_in(cluster, second.token).versions) == shards
    assert set(seen_in(cluster, first.token).versions) == {one.info().shard}


def test_sessions_nest_and_end(cluster: Cluster, note: MakeNote) -> None:
    """The inner one counts while it lasts; outside of all there is none."""
    one = note()
    with cluster.session() as outer:
        with cluster.session() as inner:
            one.call(Note.read)
        assert seen_in(cluster, inner.token).versions
        assert not seen_in(cluster, outer.token).versions
        one.call(Note.read)
    seen = outer.token
    assert seen_in(cluster, seen).versions
    one.call(Note.write, "later")
    assert outer.token == seen


def test_spawning_and_deleting_are_seen(cluster: Cluster) -> None:
    """They are turns like others."""
    with cluster.session() as session:
        one = cluster.spawn(Note, new_id("note-"))
        spawned = seen_in(cluster, session.token).versions
        one.delete()
        deleted = seen_in(cluster, session.token).versions
    assert len(spawned) == len(deleted) == 1
    assert max(deleted.values()) > max(spawned.values())


def test_calls_of_a_handler_belong_to_the_session(cluster: Cluster, note: MakeNote) -> None:
    """What they saw comes back with the answer."""
    one, two = note(), note()
    two.call(Note.write, "two")
    with cluster.session() as session:
        assert one.call(Note.copy_from, two.id) == "two"
    shards = {one.info().shard, two.info().shard}
    assert set(seen_in(cluster, session.token).versions) == shards


def test_signals_of_a_session_arrive(cluster: Cluster, note: MakeNote) -> None:
    """They carry the token, with the turn that sent them; without a session there is none."""
    one, two = note(), note()
    with cluster.session():
        one.call(Note.pass_on, two.id, "hello")
    wait_until(lambda: two.state().text, "the signal")
    assert two.state().text == "hello in 1"
    one.call(Note.pass_on, two.id, "again")
    wait_until(lambda: two.state().text.startswith("again"), "the signal")
    assert two.state().text == "again in 0"


def test_many_calls_at_once_share_a_session(cluster: Cluster, note: MakeNote) -> None:
    """Their answers are joined, whatever their order; so many shards do not fit in a token."""
    notes = [note() for _ in range(60)]
    with cluster.session() as session:
        for future in [one.submit(Note.write, "x") for one in notes]:
            future.result(30)
        token = seen_in(cluster, session.token)
        assert len({one.info().shard for one in notes}) > 32
        assert token.is_strict
        assert [one.call(Note.read) for one in notes] == ["x"] * len(notes)
    assert len(session.token) <= MAX_TOKEN_BYTES


def test_what_is_no_token_of_the_cluster_is_refused(cluster: Cluster) -> None:
    """Before anything is sent: garbage, a token that was changed, and one of somebody else."""
    token = cluster.session().token
    other = Seen(Token("another", 0), session_key("another"))
    foreign = Seen(Token("another", 0), cluster._inner._connection.client.session_key)
    for wrong in ("", "x", f"{token[:-2]}AA", token[1:], other.text, foreign.text):
        with pytest.raises(InvalidInputError, match="start a session without"):
            cluster.session(wrong)


def test_a_token_from_the_future_is_not_served(cluster: Cluster, note: MakeNote) -> None:
    """A leader that has not seen as much as the session does not answer it."""
    one = note()
    client = cluster._inner._connection.client
    view = client.view
    future = Token(view.cluster_id, view.recovery_no).saw(
        one.info().shard, Version(view.recovery_no, 1 << 20, 0, 0, 1)
    )
    with cluster.session(Seen(future, client.session_key).text):
        with pytest.raises(Exception, match="did not run|unknown outcome") as raised:
            one.options(timeout=0.6).call(Note.read)
        assert isinstance(raised.value, TimeoutError) or raised.value.retryable  # type: ignore[attr-defined]
    assert one.call(Note.read) == ""


def test_a_session_reads_its_writes_from_the_next_leader(mortal: Mortal) -> None:
    """The node that answered the write is gone; its successor has recovered what is seen."""
    cluster = mortal.cluster
    with cluster.session() as session:
        notes = [cluster.spawn(Note, new_id("note-")) for _ in range(6)]
        for one in notes:
            one.call(Note.write, one.id)
        mortal.kill(mortal.victims[0])
        assert [one.call(Note.read) for one in notes] == [one.id for one in notes]
    assert session.token


def test_strong_reads_take_their_turn(cluster: Cluster) -> None:
    """They are confirmed by a quorum, in a session or not."""
    ledger = cluster.spawn(Ledger, new_id("ledger-"))
    with cluster.session():
        assert [ledger.call(Ledger.add, 2) for _ in range(3)] == [2, 4, 6]
        assert ledger.call(Ledger.read) == 6
    assert ledger.call(Ledger.read) == 6
