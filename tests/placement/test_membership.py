"""Status goes forward, opinions merge to the same in any order."""

from itertools import permutations, product

from hypothesis import given
from hypothesis import strategies as st

from jido_placement.membership import (
    INCARNATIONS_PER_BOOT,
    STATUS_TRANSITIONS,
    Opinion,
    Reachability,
    Status,
    first_incarnation,
    may_become,
    newer_opinion,
)

OPINIONS = st.builds(Opinion, st.integers(0, 3), st.sampled_from(Reachability))


def test_status_goes_forward_only() -> None:
    """No transition leads back, and every status but the last leads on."""
    assert all(before < after for before, after in STATUS_TRANSITIONS)
    assert {before for before, _ in STATUS_TRANSITIONS} == set(Status) - {Status.REMOVED}
    allowed = {pair for pair in product(Status, Status) if may_become(*pair)}
    assert allowed == set(STATUS_TRANSITIONS)


def test_nobody_is_removed_who_still_serves() -> None:
    """A member is forgotten only after it was told to leave, or given up."""
    before = {one for one, after in STATUS_TRANSITIONS if after is Status.REMOVED}
    assert before == {Status.LEAVING, Status.DOWN}


def test_only_the_node_itself_outdoes_what_is_said_against_it() -> None:
    """In one incarnation the worse opinion stands; the next incarnation outdoes them all."""
    reachable, suspect, unreachable = (Opinion(7, one) for one in Reachability)
    assert newer_opinion(reachable, suspect) == suspect
    assert newer_opinion(unreachable, suspect) == unreachable
    assert newer_opinion(unreachable, Opinion(8, Reachability.REACHABLE)).incarnation == 8


@given(st.lists(OPINIONS, min_size=1, max_size=4))
def test_opinions_merge_in_any_order(opinions: list[Opinion]) -> None:
    """Whatever comes first, and however often, the same opinion stands."""
    results = set()
    for order in permutations(opinions):
        stands = order[0]
        for one in (*order, *order):
            stands = newer_opinion(stands, one)
        results.add(stands)
    assert len(results) == 1


def test_a_boot_begins_above_all_incarnations_of_the_one_before() -> None:
    """A node that restarts is not taken for what was said of it before."""
    assert first_incarnation(2) == first_incarnation(1) + INCARNATIONS_PER_BOOT
    assert first_incarnation(1) > 0
