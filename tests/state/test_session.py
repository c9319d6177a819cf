"""Session tokens: never an older answer, never more than a cookie, never believed unsigned."""

import hmac
from base64 import urlsafe_b64encode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jido_state.dots import NOTHING_SEEN, Acting, VersionVector
from jido_state.session import (
    MAX_TOKEN_BYTES,
    OldTokenError,
    Token,
    TokenError,
    TokenFullError,
    Trust,
)
from jido_state.versions import NO_VERSION, Ballot, Version
from tests.state.values import NEAR_BALLOTS, PERIODS, VERSIONS

KEY = b"k" * 32
B1, B2 = Ballot(0, 1, 1, 0), Ballot(0, 1, 2, 1)
EMPTY = Token("c1", 0)
SHARDS = st.integers(0, 5)
NEAR = st.builds(lambda ballot, n: ballot.version(n), NEAR_BALLOTS, st.integers(1, 3))
AGENTS = st.sampled_from(("a", "b"))


@st.composite
def tokens(draw: st.DrawFn) -> Token:
    token = EMPTY
    for shard, version in draw(st.lists(st.tuples(SHARDS, NEAR), max_size=5)):
        token = token.saw(shard, version)
    for agent, actor in draw(st.lists(st.tuples(AGENTS, PERIODS), max_size=3)):
        token = token.saw_acting(agent, actor.dot(draw(st.integers(1, 3))))
    return token


def content(token: Token) -> tuple[object, ...]:
    """What a token has seen, without the order in which it was seen."""
    return (dict(token.versions), dict(token.acted), token.is_strict)


# What may be answered


def test_a_leader_answers_whoever_saw_nothing_above_its_ballot() -> None:
    """It has recovered everything below; of what is above, somebody else is the leader."""
    token = EMPTY.saw(7, B1.version(5))
    assert token.at_leader(7, B1, "a", NOTHING_SEEN) is Trust.SERVE
    assert token.at_leader(7, B2, "a", NOTHING_SEEN) is Trust.SERVE
    later = token.saw(7, B2.version(1))
    assert later.at_leader(7, B1, "a", NOTHING_SEEN) is Trust.NOT_HERE
    assert later.at_leader(8, B1, "a", NOTHING_SEEN) is Trust.SERVE
    assert Token("c1", 1).at_leader(7, B2, "a", NOTHING_SEEN) is Trust.NOT_HERE


def test_a_leader_waits_for_turns_without_a_quorum() -> None:
    """Until the committed record of that agent has them; other agents do not wait."""
    dot = Acting(1, 1, 1).dot(2)
    token = EMPTY.saw_acting("a", dot)
    assert token.at_leader(7, B1, "a", NOTHING_SEEN) is Trust.WAIT
    assert token.at_leader(7, B1, "a", NOTHING_SEEN.add((1, 1, 1, 1))) is Trust.WAIT
    assert token.at_leader(7, B1, "a", NOTHING_SEEN.add(dot)) is Trust.SERVE
    assert token.at_leader(7, B1, "b", NOTHING_SEEN) is Trust.SERVE


def test_an_acting_replica_answers_what_it_holds() -> None:
    """Its register must be as new as the token's version, its entries must have the dots."""
    dot = Acting(1, 1, 1).dot(1)
    token = EMPTY.saw(7, B1.version(5)).saw_acting("a", dot)
    seen = NOTHING_SEEN.add(dot)
    assert token.at_acting(7, B1.version(5), "a", seen) is Trust.SERVE
    assert token.at_acting(7, B2.version(1), "a", seen) is Trust.SERVE
    assert token.at_acting(7, B1.version(4), "a", seen) is Trust.NOT_HERE
    assert token.at_acting(7, B1.version(5), "a", NOTHING_SEEN) is Trust.NOT_HERE
    assert token.at_acting(8, NO_VERSION, "b", NOTHING_SEEN) is Trust.SERVE
    assert Token("c1", 1).at_acting(8, B1.version(5), "b", seen) is Trust.NOT_HERE


def test_a_merge_makes_dots_needless() -> None:
    """Once the register has them its version stands for them."""
    one, two = Acting(1, 1, 1).dot(1), Acting(2, 1, 1).dot(1)
    token = EMPTY.saw_acting("a", one).saw_acting("a", two).saw_acting("b", one)
    left = token.merged("a", NOTHING_SEEN.add(one))
    assert dict(left.acted) == {"a": (two,), "b": (one,)}
    assert dict(left.merged("a", NOTHING_SEEN.add(two)).acted) == {"b": (one,)}
    assert token.merged("c", NOTHING_SEEN) == token


def test_only_the_last_turn_of_an_actor_is_kept() -> None:
    """It has seen those before it; older news changes nothing."""
    actor = Acting(1, 1, 1)
    token = EMPTY.saw_acting("a", actor.dot(2)).saw_acting("a", actor.dot(5))
    assert token.saw_acting("a", actor.dot(3)) == token
    assert token.acted["a"] == (actor.dot(5),)
    assert EMPTY.saw(1, B2.version(1)).saw(1, B1.version(9)).versions[1] == B2.version(1)


# Bounds


def test_a_session_over_many_shards_turns_strict() -> None:
    """The 33rd shard replaces the oldest by one bit: then the unlisted are confirmed."""
    token = EMPTY
    for shard in range(32):
        token = token.saw(shard, B1.version(1))
    assert not token.is_strict
    token = token.saw(0, B1.version(2)).saw(99, B1.version(1))
    assert token.is_strict
    assert (0 in token.versions, 1 in token.versions, len(token.versions)) == (True, False, 32)
    assert token.at_leader(1, B1, "a", NOTHING_SEEN) is Trust.CONFIRM
    assert token.at_leader(0, B1, "a", NOTHING_SEEN) is Trust.SERVE
    assert token.at_acting(1, B1.version(9), "a", NOTHING_SEEN) is Trust.NOT_HERE
    assert token.at_acting(0, B1.version(9), "a", NOTHING_SEEN) is Trust.SERVE
    assert EMPTY.join(token).is_strict


def test_a_session_that_acted_too_much_is_refused_before() -> None:
    """The replica is told that it may not serve; the token refuses too, and is unchanged."""
    token, served = EMPTY, 0
    actor = Acting(1, 1, 1)
    while token.at_acting(7, NO_VERSION, f"{served:0128}", NOTHING_SEEN) is Trust.SERVE:
        token = token.saw_acting(f"{served:0128}", actor.dot(1))
        served += 1
    assert 10 < served < 20
    with pytest.raises(TokenFullError, match=f"of {served} agents"):
        token.saw_acting(f"{served:0128}", actor.dot(1))
    assert token.saw_acting(f"{0:0128}", actor.dot(2)) != token
    assert (
        token.merged(f"{0:0128}", NOTHING_SEEN.add(actor.dot(1))).at_acting(
            7, NO_VERSION, "new", NOTHING_SEEN
        )
        is Trust.SERVE
    )


@given(
    st.lists(st.tuples(st.integers(0, 2**16), VERSIONS), max_size=40),
    st.lists(st.tuples(st.text(max_size=128), st.integers(0, 2**16 - 1)), max_size=40),
)
def test_a_token_is_never_larger_than_a_cookie(
    seen: list[tuple[int, Version]], acted: list[tuple[str, int]]
) -> None:
    """Whatever a session sees; turns without a quorum are refused, never forgotten."""
    token = Token("c" * 64, 0)
    for shard, version in seen:
        token = token.saw(shard, version)
        assert shard in token.versions
    kept = set()
    for agent, node in acted:
        dot = Acting(node, (1 << 32) - 1, (1 << 32) - 1).dot((1 << 64) - 1)
        may = token.at_acting(2**17, NO_VERSION, agent, NOTHING_SEEN.join(_all(token, agent)))
        try:
            token = token.saw_acting(agent, dot)
        except TokenFullError:
            assert may is Trust.NOT_HERE
        else:
            kept.add((agent, dot))
    assert {(agent, dot) for agent, dots in token.acted.items() for dot in dots} == kept
    text = token.sign(KEY)
    assert len(text) <= MAX_TOKEN_BYTES
    assert Token.read(text, KEY) == token


def _all(token: Token, agent: str) -> VersionVector:
    seen = NOTHING_SEEN
    for dot in token.acted.get(agent, ()):
        seen = seen.add(dot)
    return seen


# Joining


@given(tokens(), tokens(), tokens())
def test_tokens_join_to_what_either_has_seen(one: Token, two: Token, three: Token) -> None:
    """Commutative, associative and idempotent, as long as there is room."""
    assert content(one.join(two)) == content(two.join(one))
    assert content(one.join(two).join(three)) == content(one.join(two.join(three)))
    assert content(one.join(one)) == content(one)
    both = one.join(two)
    for shard in range(6):
        seen = [token.versions.get(shard, NO_VERSION) for token in (one, two)]
        assert both.versions.get(shard, NO_VERSION) == max(seen)


def test_sessions_of_different_clusters_do_not_join() -> None:
    """Nor those from before and after a forced recovery, whichever comes first."""
    with pytest.raises(TokenError, match="of cluster 'c2', this is 'c1'"):
        EMPTY.join(Token("c2", 0))
    for one, two in ((EMPTY, Token("c1", 1)), (Token("c1", 1), EMPTY)):
        with pytest.raises(OldTokenError, match="start a new session"):
            one.join(two)
    with pytest.raises(OldTokenError):
        EMPTY.check("c1", 1)
    EMPTY.check("c1", 0)
    Token("c1", 1).check("c1", 0)  # this process has not heard of the recovery yet


# Text


@given(tokens())
def test_a_token_survives_its_text(token: Token) -> None:
    """Order of what was seen included, so that the oldest goes first on the next node too."""
    read = Token.read(token.sign(KEY), KEY)
    assert read == token
    assert list(read.versions) == list(token.versions)


def test_no_changed_token_is_believed() -> None:
    """Each character replaced, cut or added, and another key."""
    text = EMPTY.saw(7, B1.version(5)).sign(KEY)
    for place in range(len(text)):
        other = "A" if text[place] != "A" else "g"
        for forged in (text[:place] + other + text[place + 1 :], text[:place], text + "A"):
            with pytest.raises(TokenError):
                Token.read(forged, KEY)
    with pytest.raises(TokenError, match="not signed by this cluster"):
        Token.read(text, b"x" * 32)


@given(st.text() | st.binary().map(lambda data: urlsafe_b64encode(data).decode()))
def test_garbage_is_no_token(text: str) -> None:
    """Whatever is sent in place of a token raises the one error."""
    with pytest.raises(TokenError):
        Token.read(text, KEY)


def test_refusals_name_what_is_wrong() -> None:
    """Too long, another format, and a key that would be guessed."""
    with pytest.raises(TokenError, match="4097 characters"):
        Token.read("A" * 4097, KEY)
    later = b"\x09" + b"\x90"
    text = urlsafe_b64encode(later + hmac.digest(KEY, later, "sha256")).rstrip(b"=").decode()
    with pytest.raises(TokenError, match="format 9, known is 1"):
        Token.read(text, KEY)
    with pytest.raises(ValueError, match="at least 16"):
        EMPTY.sign(b"short")
