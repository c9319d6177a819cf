"""Whole clusters of both cores: root group, planner, shards, and everything that befalls them."""

import pytest

from jido_state.simulation.whole import simulate_whole


@pytest.mark.parametrize("first", range(0, 40, 10))
def test_a_whole_cluster_is_safe_and_comes_to_rest(first: int) -> None:
    """Members leave, are distrusted, lose stores: nothing acknowledged is lost, all of it ends."""
    for seed in range(first, first + 10):
        result = simulate_whole(seed)
        assert result.failure == "", f"seed {seed}: {result.failure}"
        assert result.operations > 0


# Each of these once found a fault of the root group or of the node.
@pytest.mark.parametrize(
    ("seed", "fault"),
    [
        (5, "a joining voter was never given the record, because it acked no heartbeat"),
        (60, "a root leader outside its own newest config stopped ticking, and led for ever"),
        (208, "learners did not answer the candidate whose record had made them voters"),
        (258, "a learner that was sent two records took the older one and removed itself"),
        (281, "a follower with a spoilt row stayed so while any other replica lagged"),
        (324, "a member that was declared down by mistake asked only once to come back"),
        (594, "the record was sent as a reference to a copy"),
    ],
)
def test_what_a_seed_found_stays_mended(seed: int, fault: str) -> None:
    """Seeds that failed once."""
    result = simulate_whole(seed)
    assert result.failure == "", f"{fault}: {result.failure}"


def test_a_run_is_a_function_of_its_seed() -> None:
    """Every event and answer is the same the second time."""
    assert simulate_whole(7).digest == simulate_whole(7).digest
