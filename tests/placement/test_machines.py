"""One table on every machine, in time."""

import subprocess
import sys
import time
import timeit

import pytest

from jido_placement import Member, build_table

CODE = """
import hashlib
from tests.placement.tables import churn
for seed in range(6):
    for table in churn(seed, changes=4):
        print(hashlib.sha256(repr(table.to_data()).encode()).hexdigest())
"""

# The whole of placement in trouble, and a cluster of detectors that loses messages.
TROUBLE = """
import hashlib
from jido_placement import record_to_bytes
from tests.placement.detectors import DetectorCluster
from tests.placement.test_planner_promises import run
for seed in range(4):
    record = run(seed, size=4, shards=5, steps=30).record
    print(hashlib.sha256(record_to_bytes(record)).hexdigest())
    cluster = DetectorCluster(5, seed=seed, loss=0.1)
    cluster.detectors["n0"].advertise(b"x")
    cluster.run(20_000)
    print(hashlib.sha256(repr(cluster.log).encode()).hexdigest())
"""


@pytest.mark.slow
@pytest.mark.parametrize(("code", "lines"), [(CODE, 30), (TROUBLE, 8)])
def test_nothing_depends_on_the_hash_seed(code: str, lines: int) -> None:
    """Two processes with different PYTHONHASHSEED come to the same, byte for byte."""
    outputs = [
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("0", "4242")
    ]
    assert len(outputs[0].split()) == lines
    assert outputs[0] == outputs[1]


@pytest.mark.slow
@pytest.mark.parametrize("zones", [3, 4, 40, 1_000])
def test_a_table_for_a_thousand_nodes_is_quick(zones: int) -> None:
    """1000 nodes and 4096 shards take under 10 s to build, and to rebuild without one node."""
    nodes = [
        Member(f"n{number}", 1.0 + number % 13 / 4, f"z{number % zones}") for number in range(1_000)
    ]
    started = time.perf_counter()
    table = build_table(nodes, shards=4_096, replicas=3)
    built = time.perf_counter()
    build_table(nodes[1:], shards=4_096, replicas=3, previous=table)
    rebuilt = time.perf_counter()
    assert built - started < 10
    assert rebuilt - built < 10


@pytest.mark.slow
def test_look_ups_exceed_a_million_per_second() -> None:
    """Asking for the leader of a shard is one access, whatever the size of the cluster."""
    nodes = [Member(f"n{number}") for number in range(1_000)]
    look_up = build_table(nodes, shards=4_096, replicas=3).leader
    seconds = min(
        timeit.repeat(lambda: [look_up(shard) for shard in range(4_096)], number=20, repeat=5)
    )
    assert 20 * 4_096 / seconds > 1_000_000
