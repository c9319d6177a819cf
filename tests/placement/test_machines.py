"""One table on every machine, in time."""

import subprocess
import sys

import pytest

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
