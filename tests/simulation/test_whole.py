"""Whole clusters of both cores: root group, planner, shards, and everything that befalls them."""

import os
import subprocess
import sys
from collections import Counter

import pytest

from jido_state.simulation.whole import simulate_whole

DIGESTS = """
from jido_state.simulation.acting import simulate_split
from jido_state.simulation.whole import simulate_whole

for seed in (3, 7):
    print(simulate_whole(seed).digest)
    split = simulate_split(seed)
    print(sorted(split.counts.items()), split.virtual_us)
"""


@pytest.mark.parametrize("first", range(0, 40, 10))
def test_a_whole_cluster_is_safe_and_comes_to_rest(first: int) -> None:
    """Members leave, are distrusted, lose stores; users go on apart: nothing acknowledged is lost.

    In the end all replicas are equal, and nothing is left to be merged, delivered or fired.
    """
    counts: Counter[str] = Counter()
    for seed in range(first, first + 10):
        result = simulate_whole(seed)
        assert result.failure == "", f"seed {seed}: {result.failure}"
        assert result.operations > 0
        counts.update(result.counts)
    for kind in ("turns", "turns apart", "answers two", "answers local", "merges", "conflicts"):
        assert counts[kind] > 0, f"these seeds have no {kind}"


# Each of these once found a fault of the root group or of the node, when there were fewer users.
# Their clusters, networks, disks and kinds of faults are drawn as they were then.
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
    """Every event and answer is the same the second time, whatever salt `hash()` has."""
    outputs = {
        subprocess.run(
            [sys.executable, "-c", DIGESTS],
            env={**os.environ, "PYTHONHASHSEED": salt},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for salt in ("1", "2")
    }
    assert len(outputs) == 1
    assert len(set(outputs.pop().splitlines())) == 4


def test_keeping_the_trace_changes_nothing() -> None:
    """A run that is watched is the same run."""
    quiet, kept = simulate_whole(5), simulate_whole(5, kept=50)
    assert quiet.digest == kept.digest
    assert (len(quiet.trace), len(kept.trace)) == (0, 50)
