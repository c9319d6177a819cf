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


@pytest.mark.slow
def test_tables_do_not_depend_on_the_hash_seed() -> None:
    """Two processes with different PYTHONHASHSEED build the same tables, byte for byte."""
    outputs = [
        subprocess.run(
            [sys.executable, "-c", CODE],
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("0", "4242")
    ]
    assert len(outputs[0].split()) == 30
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
