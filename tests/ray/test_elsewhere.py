"""Runs and streams that other processes use: another program, and a Ray task."""

import json
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray

from jido_cluster import Cluster, RunCancelledError, new_id
from tests.contract.actions import Double, WaitForFile
from tests.contract.support import Gate, gate_in, wait_until
from tests.contract.tapes import Tape
from tests.ray.agents import Family, Stuck
from tests.ray_support import ROOT, RayNodes

pytestmark = pytest.mark.ray

Tell = Callable[[], Any]


@contextmanager
def program(nodes: RayNodes, task: str, argument: str) -> Iterator[tuple[Tell, psutil.Process]]:
    """Another program; what it tells, line by line, and its process."""
    command = [sys.executable, "-m", "tests.ray.elsewhere", nodes.address, task, argument]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        lines = process.stdout
        try:
            yield lambda: json.loads(lines.readline()), psutil.Process(process.pid)
        finally:
            process.kill()


@pytest.fixture
def door(tmp_path: Path) -> Gate:
    return gate_in(tmp_path)


def test_another_program_asks_about_a_run_and_cancels_it(
    ray_nodes: RayNodes, ray_cluster: Cluster, door: Gate
) -> None:
    """By a pickled ref, which connects by itself; a wait that times out leaves the run alone."""
    ref = ray_cluster.start(WaitForFile, door.files)
    door.wait_begun()
    with program(ray_nodes, "ask", pickle.dumps(ref).hex()) as (tell, _):
        assert tell() == [ref.run_id, "running", "running"]
        assert tell() == "still_running"
        assert tell() == [True, "cancelled", False]
        assert tell() == "cancelled"
    assert ref.status() == "cancelled"
    with pytest.raises(RunCancelledError, match=ref.run_id):
        ref.result()


def test_another_program_reads_a_result(
    ray_nodes: RayNodes, ray_cluster: Cluster, door: Gate
) -> None:
    """Also when it asked before the run had ended, and as often as it likes."""
    ref = ray_cluster.start(WaitForFile, {**door.files, "value": 7})
    with program(ray_nodes, "read", pickle.dumps(ref).hex()) as (tell, _):
        door.wait_begun()
        door.open()
        assert tell() == ["succeeded", 7, 7]
    assert ref.result() == 7


def test_another_program_connects_while_the_supervisor_stands_still(
    ray_nodes: RayNodes, ray_cluster: Cluster, door: Gate
) -> None:
    """The cluster's supervisor may be out of reach for long; the nodes know the settings too."""
    ref = ray_cluster.start(WaitForFile, {**door.files, "value": 7})
    door.wait_begun()
    door.open()
    assert ref.result() == 7
    title = "ClusterSupervisorActor"
    (supervisor,) = (one for name in ray_nodes.names for one in ray_nodes.processes(name, title))
    supervisor.suspend()
    try:
        with program(ray_nodes, "read", pickle.dumps(ref).hex()) as (tell, _):
            assert tell() == ["succeeded", 7, 7]
        assert supervisor.status() == psutil.STATUS_STOPPED
    finally:
        supervisor.resume()


def test_a_ray_task_reads_a_result(ray_nodes: RayNodes, ray_cluster: Cluster) -> None:
    """A ref travels as an argument of the task."""

    @ray.remote(num_cpus=0)
    def result_of(ref: Any) -> list[Any]:
        return [ref.wait(30.0), ref.result(), ref.cancel()]

    ref = ray_cluster.start(Double, {"number": 4})
    assert ray.get(result_of.remote(ref), timeout=60.0) == ["succeeded", 8, False]


def test_a_ray_task_uses_an_agent(ray_nodes: RayNodes, ray_cluster: Cluster) -> None:
    """Its ref connects at its first use there; until then it only names the agent."""

    @ray.remote(num_cpus=0)
    def use(ref: Any, kind: type[Tape]) -> list[Any]:
        told = [ref.id, repr(ref), ref == pickle.loads(pickle.dumps(ref))]
        return [*told, list(ref.options(timeout=30.0).stream(kind.count, 100)), ref.call(kind.get)]

    ref = ray_cluster.spawn(Tape, new_id("task-"))
    found = ray.get(use.remote(ref, Tape), timeout=60.0)
    assert found == [ref.id, repr(ref), True, list(range(1, 101)), 100]
    assert ref.state().value == 100


def test_cancelling_ends_all_processes_of_a_run(
    ray_nodes: RayNodes, ray_cluster: Cluster, tmp_path: Path
) -> None:
    """Its children and theirs; and it is not tried again."""
    path = tmp_path / "pids"
    ref = ray_cluster.start(Family, {"path": str(path)})
    wait_until(lambda: path.exists() and path.read_text().endswith("\n"), "the children")
    pids = [int(pid) for pid in path.read_text().split()]
    family = []
    for pid in pids:
        with suppress(psutil.NoSuchProcess):
            family.append(psutil.Process(pid))
    assert len(family) == 3
    assert ref.cancel()
    _, alive = psutil.wait_procs(family, timeout=15.0)
    assert alive == []
    assert ref.status() == "cancelled"
    assert path.read_text().split() == [str(pid) for pid in pids]


def test_the_stream_of_a_program_that_is_killed_ends(
    ray_nodes: RayNodes, ray_cluster: Cluster
) -> None:
    """The agent is free at once, nothing is committed."""
    ref = ray_cluster.spawn(Tape, new_id("killed-"))
    with program(ray_nodes, "take", ref.id) as (tell, process):
        assert tell() == 1
        later = ref.options(timeout=60.0).submit(Tape.add)
        assert ref.state().value == 0
        assert not later.done()
        process.kill()
        assert later.result(10.0) == 1


def test_a_stream_whose_process_is_stuck_can_be_closed(ray_cluster: Cluster) -> None:
    """The process is ended when it does not answer; the agent gets another one."""
    ref = ray_cluster.spawn(Stuck, new_id("stuck-"))
    stream = ref.options(timeout=120.0).stream(Stuck.stream)
    assert next(stream) == 1
    stream.close()
    assert ref.options(timeout=60.0).call(Stuck.add) == 1
