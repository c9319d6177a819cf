"""What may be served here and now, and what sessions are owed."""

from contextlib import suppress
from itertools import product

import pytest

from jido_placement.config import GroupConfig, Replica
from jido_placement.policies import Outcome, Strategy
from jido_state.dots import NOTHING_SEEN, VersionVector
from jido_state.levels import Situation, covers_session, decide, first_voter
from jido_state.messages import Confirm
from jido_state.requests import Request, Status
from jido_state.session import Token, TokenFullError
from jido_state.versions import Ballot, Version
from tests.state.acting_script import Script

OLD, NEW = Version(0, 1, 1, 0, 5), Version(0, 1, 2, 0, 1)
CASES = list(product(Strategy, ("eventual", "session", "strong")))


def request(
    kind: str = "read",
    level: str = "eventual",
    strategy: Strategy = Strategy.CONTINUE_ALL,
    *,
    token: Token | None = None,
    accepts_stale: bool = False,
) -> Request:
    return Request(
        1,
        kind,
        "k",
        None,
        level,
        due_ms=0,
        token=token,
        strategy=strategy,
        accepts_stale=accepts_stale,
    )


def at(
    *, admitted: bool = True, leader: bool = True, voter: bool = True, covered: bool = True
) -> Situation:
    return Situation(admitted, leader, voter, covered)


@pytest.mark.parametrize(("strategy", "level"), CASES)
def test_with_a_leader_all_is_served(strategy: Strategy, level: str) -> None:
    """The strategies differ only where there is none."""
    situation = at(voter=False, covered=False)
    for kind in ("read", "call"):
        assert decide(request(kind, level, strategy), situation) is Outcome.SERVE


ALONE = {
    (Strategy.PAUSE_MINORITY, "eventual"): (Outcome.NO_QUORUM, Outcome.NO_QUORUM),
    (Strategy.PAUSE_MINORITY, "session"): (Outcome.NO_QUORUM, Outcome.NO_QUORUM),
    (Strategy.PAUSE_MINORITY, "strong"): (Outcome.NO_QUORUM, Outcome.NO_QUORUM),
    (Strategy.CONTINUE_ALL, "eventual"): (Outcome.ACT, Outcome.ACT),
    (Strategy.CONTINUE_ALL, "session"): (Outcome.ACT, Outcome.ACT),
    (Strategy.CONTINUE_ALL, "strong"): (Outcome.NO_QUORUM, Outcome.NO_QUORUM),
    (Strategy.LEADER_ELECTION, "eventual"): (Outcome.STALE, Outcome.NO_QUORUM),
    (Strategy.LEADER_ELECTION, "session"): (Outcome.NO_QUORUM, Outcome.NO_QUORUM),
    (Strategy.LEADER_ELECTION, "strong"): (Outcome.NO_QUORUM, Outcome.NO_QUORUM),
}


@pytest.mark.parametrize(("strategy", "level"), CASES)
def test_without_a_leader_the_table_decides(strategy: Strategy, level: str) -> None:
    """Reads and writes of an admitted node that holds a voter."""
    situation = at(leader=False)
    found = tuple(decide(request(kind, level, strategy), situation) for kind in ("read", "call"))
    assert found == ALONE[strategy, level]


def test_without_a_copy_nobody_acts() -> None:
    """It would deny what exists, or make a twin of it."""
    situation = at(leader=False, voter=False)
    assert decide(request("spawn"), situation) is Outcome.NO_QUORUM


def test_a_session_is_refused_where_its_past_is_not() -> None:
    """Whoever acts has to hold what the session has seen."""
    situation = at(leader=False, covered=False)
    assert decide(request("call", "session"), situation) is Outcome.SESSION_UNAVAILABLE
    assert decide(request("call", "eventual"), situation) is Outcome.ACT


def test_who_is_not_admitted_is_paused() -> None:
    """Even where it leads; a read may ask for what is there."""
    situation = at(admitted=False)
    pausing = Strategy.PAUSE_MINORITY
    assert decide(request("read", strategy=pausing), situation) is Outcome.PAUSED
    stale = request("read", strategy=pausing, accepts_stale=True)
    assert decide(stale, situation) is Outcome.STALE


def test_a_token_is_covered_by_version_and_dots() -> None:
    """Both the register's version and the turns without a quorum count."""
    dot = (2, 1, 65537, 3)
    token = Token("c", 0).saw(4, NEW).saw_acting("k", dot)
    seen = VersionVector({dot[:-1]: 3}, {})
    asked = request(level="session", token=token)
    assert covers_session(asked, 4, NEW, seen)
    assert not covers_session(asked, 4, OLD, seen)
    assert not covers_session(asked, 4, NEW, NOTHING_SEEN)
    assert covers_session(asked, 5, OLD, seen), "another shard's version counts"


def test_without_a_session_any_copy_will_do() -> None:
    """Nothing is promised."""
    assert covers_session(request(), 4, OLD, NOTHING_SEEN)


def test_the_first_voter_in_reach_acts() -> None:
    """In the order of preference; who is joining has no records yet."""
    one, two, three = (Replica(node, 1) for node in (5, 3, 4))
    config = GroupConfig(2, (one, two), joining=(three, two))
    assert first_voter(config, {3, 4, 5}) == 5
    assert first_voter(config, {3, 4}) == 3
    assert first_voter(config, {4}) is None


# The same, at a replica


def cut_off(size: int = 3, level: str = "eventual") -> Script:
    script = Script(size)
    script.ok(0, "make", level=level)
    script.run(300)
    script.cut(*([node] for node in range(size)))
    return script


def test_a_stale_read_says_so() -> None:
    """Under leader_election, from the register; not where there is none."""
    script = cut_off()
    answer = script.read(1, strategy=Strategy.LEADER_ELECTION)
    assert answer.status is Status.OK
    assert answer.is_stale
    assert answer.is_partitioned
    assert answer.value == script.record(1)
    missing = script.read(1, "other", strategy=Strategy.LEADER_ELECTION)
    assert missing.status is Status.NO_QUORUM


def test_a_stale_session_read_is_remembered() -> None:
    """Its token names the register's last turn, which may never have had a quorum."""
    script = cut_off(level="session")
    service = script.nodes[1].service
    assert service is not None
    service.admitted = frozenset({Strategy.CONTINUE_ALL})
    token = Token("sim", 0)
    answer = script.read(1, level="session", strategy=Strategy.LEADER_ELECTION, token=token)
    assert answer.token is not None
    assert answer.token.acted == {"k": (tuple(script.record(1).version),)}
    full = token
    with suppress(TokenFullError):
        for number in range(999):
            full = full.saw_acting(f"agent-{number:03}", (1, 1, 1, 1))
    full_answer = script.read(1, level="session", strategy=Strategy.LEADER_ELECTION, token=full)
    assert full_answer.status is Status.SESSION_UNAVAILABLE


def test_a_stale_session_read_is_no_older_than_the_session() -> None:
    """Also where a leader is in contact, and this node is not admitted."""
    script = Script()
    script.ok(0, "make", level="session")
    script.run(300)
    service = script.nodes[1].service
    assert service is not None
    service.admitted = frozenset()
    newer = Token("sim", 0).saw(0, script.record(1).version._replace(number=99))
    strategy = Strategy.LEADER_ELECTION
    stale = script.read(1, level="session", strategy=strategy, token=Token("sim", 0))
    assert stale.is_stale
    refused = script.read(1, level="session", strategy=strategy, token=newer)
    assert refused.status is Status.SESSION_UNAVAILABLE


def test_a_node_that_is_not_admitted_serves_nobody() -> None:
    """Not even as leader, under a strategy that pauses it."""
    script = Script()
    service = script.nodes[0].service
    assert service is not None
    service.admitted = frozenset({Strategy.CONTINUE_ALL})
    assert script.call(0, "make", strategy=Strategy.PAUSE_MINORITY).status is Status.PAUSED
    assert script.call(0, "make").status is Status.OK


def test_nobody_is_refused_for_want_of_a_leader_right_after_the_start() -> None:
    """An election's time passes before a replica says that there is no quorum."""
    script = Script()
    script.network.cut([(1, 0), (0, 1), (2, 0), (0, 2), (1, 2), (2, 1)])
    script.nodes[1].crash()
    script.nodes[1].start()
    script.run(200)
    early = script.call(1, "make")
    assert early.status is Status.NOT_LEADER
    script.run(3_000)
    assert script.call(1, "make").status is Status.OK


def test_a_strict_session_is_read_with_a_round() -> None:
    """What it has forgotten of this shard may be newer than what a deposed leader has."""
    script = Script()
    script.ok(0, "make", level="session")
    strict = Token("sim", 0, is_strict=True)
    confirms: list[object] = []

    def count(_: int, __: int, message: object) -> bool:
        if isinstance(message, Confirm):
            confirms.append(message)
        return False

    script.wire.drops = count
    answer = script.read(0, level="session", token=strict)
    assert answer.status is Status.OK
    assert len(confirms) == 2
    assert answer.token is not None
    script.read(0, level="session", token=answer.token)
    assert len(confirms) == 2, "the answer's token knows the shard"


def test_a_token_of_a_later_leader_is_no_business_of_this_one() -> None:
    """Reads and writes are sent on."""
    script = Script()
    script.ok(0, "make", level="session")
    later = Token("sim", 0).saw(0, Ballot(0, 1, 99, 1).version(1))
    for answer in (
        script.read(0, level="session", token=later),
        script.call(0, level="session", token=later),
    ):
        assert answer.status is Status.NOT_LEADER
        assert answer.token == later
