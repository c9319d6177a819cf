"""Random splits: what was acknowledged apart is there when all has come together."""

import pytest

from jido_state.simulation.acting import simulate_split


@pytest.mark.parametrize("first", range(0, 40, 10))
def test_random_splits_lose_nothing(first: int) -> None:
    """Replicas end equal and hold every acknowledged turn once; sessions never see less."""
    for seed in range(first, first + 10):
        assert simulate_split(seed).problems == [], f"seed {seed}"


def test_a_seed_is_one_run() -> None:
    """Equal seeds are equal runs; others are not."""
    one, same, other = (simulate_split(seed) for seed in (7, 7, 8))
    assert (one.counts, one.virtual_us) == (same.counts, same.virtual_us)
    assert one.counts != other.counts
    assert one.counts["turns apart"] > 0
