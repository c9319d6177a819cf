"""Worker processes under Ray: started inside its tasks, gone when the task's process is killed."""

import os
from pathlib import Path

import pytest

from jido_cluster.exec import run_sync
from tests.exec import process_actions as actions
from tests.exec.test_process import is_there, pids, wait_until

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def test_a_ray_task_may_run_an_action_in_a_process(ray_nodes: object, tmp_path: Path) -> None:
    """It gets its result; and when Ray kills the task's process, the action's are gone too."""
    import ray

    @ray.remote(max_retries=0)
    def task(notes: str) -> list[int]:
        value = run_sync(actions.make, {"name": "abc"}).size
        Path(notes, str(os.getpid())).touch()
        if notes.endswith("stuck"):
            run_sync(actions.family, {"notes": notes}, timeout=None)
        return [value, os.getpid()]

    quick, stuck = tmp_path / "quick", tmp_path / "stuck"
    quick.mkdir()
    stuck.mkdir()
    assert ray.get(task.remote(str(quick)), timeout=60.0)[0] == 3
    running = task.remote(str(stuck))
    wait_until((stuck / "ready").exists)
    assert len(pids(stuck)) == 7
    ray.cancel(running, force=True)
    with pytest.raises((ray.exceptions.WorkerCrashedError, ray.exceptions.TaskCancelledError)):
        ray.get(running, timeout=60.0)
    wait_until(lambda: not any(is_there(pid) for pid in pids(stuck)))
