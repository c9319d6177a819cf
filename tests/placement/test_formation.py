"""Who founds a cluster, and that it is never founded twice."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jido_placement.formation import (
    Candidate,
    Claim,
    Conflict,
    Decision,
    Found,
    JoinCluster,
    Wait,
    decide,
)

ME, B, C = (Candidate(name, None) for name in "abc")
OLD = Candidate("old", "cluster-1")


@pytest.mark.parametrize(
    ("me", "others", "claimed", "decision"),
    [
        (ME, [B], None, Wait("2 of 3 expected nodes are in sight")),
        (ME, [B, B, ME], "a", Wait("2 of 3 expected nodes are in sight")),
        (ME, [B, C], None, Claim()),
        (ME, [B, C], "a", Found()),
        (ME, [B, C], "b", Wait("node b founds the cluster")),
        (ME, [B, OLD], None, JoinCluster("cluster-1")),
        (ME, [B, C, OLD], "a", JoinCluster("cluster-1")),
        (OLD, [], None, JoinCluster("cluster-1")),
        (OLD, [ME, B, C], "a", JoinCluster("cluster-1")),
        (OLD, [Candidate("x", "cluster-0")], None, Conflict(("cluster-0", "cluster-1"))),
    ],
)
def test_decisions(
    me: Candidate, others: list[Candidate], claimed: str | None, decision: Decision
) -> None:
    """Only fresh nodes found, only when all expected ones are in sight, only one of them."""
    assert decide(me, others, 3, claimed) == decision


def test_a_founder_that_is_gone_is_named() -> None:
    """Nobody else takes its place, since it may be about to found; a person can tell."""
    decision = decide(ME, [B, C], 3, "gone")
    assert isinstance(decision, Wait)
    assert "node gone claimed" in decision.reason


@given(st.integers(1, 6), st.integers(1, 6), st.data())
def test_two_root_groups_never_come_into_being(
    nodes: int, expect: int, data: st.DataObject
) -> None:
    """Whatever each node sees, in whatever order they look: at most one founds."""
    names = [f"n{number}" for number in range(nodes)]
    cluster: dict[str, str | None] = dict.fromkeys(names)
    claimed: str | None = None
    founders = 0
    for _ in range(4 * nodes):
        name = data.draw(st.sampled_from(names))
        if cluster[name] is not None:
            continue
        seen = data.draw(st.sets(st.sampled_from(names)))
        others = [Candidate(one, cluster[one]) for one in sorted(seen)]
        match decide(Candidate(name, None), others, expect, claimed):
            case Claim():
                claimed = claimed or name
            case Found():
                founders += 1
                cluster[name] = f"of {name}"
            case JoinCluster(cluster_id):
                cluster[name] = cluster_id
            case Conflict():
                raise AssertionError
    assert founders <= 1
