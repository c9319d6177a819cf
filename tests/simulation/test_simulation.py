"""Whole clusters: nothing unsafe happens, everything ends, and a run is a function of its seed."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from jido_state.checking.linearizability import check_linearizable
from jido_state.simulation.cluster import Cluster, simulate
from jido_state.simulation.history import History
from jido_state.simulation.swarm import FAULTS, Swarm
from tests.simulation.__main__ import main, run

DIGESTS = """
from jido_state.simulation.cluster import simulate
for seed in (11, 12, 13):
    result = simulate(seed)
    print(result.digest, result.operations, result.failure)
"""


@pytest.mark.slow
def test_many_seeds_hold() -> None:
    """Safety at each step, linearizable histories, sessions, liveness after the last fault."""
    totals = run(range(150))
    assert totals.failures == []
    assert totals.acknowledged > 30_000
    assert totals.elections > 600
    assert totals.faults.keys() == FAULTS.keys()


@pytest.mark.slow
def test_a_run_is_a_function_of_its_seed() -> None:
    """Whatever salt `hash()` has: no order of a set has any part in it."""
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
    lines = outputs.pop().splitlines()
    assert len({line.split()[0] for line in lines}) == 3


def test_keeping_the_trace_changes_nothing() -> None:
    """A run that is watched is the same run."""
    quiet, kept = simulate(5), simulate(5, kept=50)
    assert quiet.digest == kept.digest
    assert quiet.trace == []
    assert len(kept.trace) == 50


def test_without_faults_everything_is_acknowledged() -> None:
    """What fails here is not the faults' doing."""
    swarm = replace(Swarm.draw(1), faults=(), replicas=3, nodes=3)
    swarm = replace(
        swarm,
        network=replace(swarm.network, loss=0.0, hold=0.0, mean_us=500, least_us=100),
        disk=replace(swarm.disk, latency_us=400, stall_rate=0.0, sync_error_rate=0.0),
    )
    result = simulate(1, swarm=swarm)
    assert result.failure == ""
    assert result.operations >= 200
    assert result.acknowledged == result.operations
    assert result.faults == {}


def calm(seed: int, *faults: str) -> Swarm:
    """The configuration of a seed with three replicas, a sound network, and these faults."""
    drawn = Swarm.draw(seed)
    return replace(
        drawn,
        faults=tuple((fault, 1.0) for fault in faults),
        fault_us=1_000_000,
        replicas=3,
        nodes=3,
        network=replace(drawn.network, loss=0.0, hold=0.0, mean_us=500, least_us=100),
        disk=replace(drawn.disk, latency_us=400, stall_rate=0.0, sync_error_rate=0.0),
    )


@pytest.mark.slow
def test_stores_that_are_set_back_are_lost_and_replaced() -> None:
    """Nothing that was acknowledged is forgotten, though others are cut off or late meanwhile."""
    replaced = 0
    for seed in range(12):
        cluster = Cluster(calm(seed, "set_back", "cut", "depose", "slow"))
        assert cluster.run().failure == "", seed
        replaced += len(cluster.authority.lost)
    assert replaced > 10


@pytest.mark.slow
def test_full_disks_only_make_it_slow() -> None:
    """No process ends for it, and what was refused is there in the end."""
    refused = 0
    for seed in range(12):
        cluster = Cluster(calm(seed, "disk_full"))
        assert cluster.run().failure == "", seed
        files = [f for machine in cluster.machines.values() for f in machine.directory.files]
        refused += sum(file.statistics().full for file in files)
        assert sum(file.statistics().lost for file in files) == 0
    assert refused > 50


def test_histories_can_be_judged_outside() -> None:
    """What is written is what was seen, one operation a line."""
    result = simulate(3)
    again = History.from_lines(result.history.to_lines())
    assert len(again) == len(result.history)
    strong = {key for key, _, level in Cluster(Swarm.draw(3))._keys() if level == "strong"}
    assert check_linearizable(one for one in again if one.key in strong).is_linearizable


def test_one_node_and_two_nodes_serve() -> None:
    """The smallest clusters."""
    for replicas in (1, 2):
        swarm = replace(Swarm.draw(2), replicas=replicas, nodes=replicas, faults=())
        assert simulate(2, swarm=swarm).failure == ""


def test_the_command_line_replays_and_writes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`make sim SEED=3 HISTORY=file` shows the run and writes what clients saw."""
    file = tmp_path / "history.jsonl"
    assert main(["--seed", "3", "--history", str(file)]) == 0
    said = capsys.readouterr().out
    assert "all held" in said
    lines = file.read_text().splitlines()
    assert len(History.from_lines(lines)) == simulate(3).operations


def test_the_command_line_counts(capsys: pytest.CaptureFixture[str]) -> None:
    """`make sim SEEDS=3` ends with totals."""
    assert main(["--seeds", "3"]) == 0
    assert "3 runs, 0 failed" in capsys.readouterr().out


def test_the_command_line_hunts(capsys: pytest.CaptureFixture[str]) -> None:
    """A mutant that is caught is named with its seed; one that is not ends in 1."""
    assert main(["--mutant", "read of pending state", "--seeds", "40"]) == 0
    assert "seed" in capsys.readouterr().out
    assert main(["--mutant", "header made because", "--seeds", "1"]) == 1
    assert "none of 1 seeds" in capsys.readouterr().out
