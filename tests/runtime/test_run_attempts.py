"""How often a run was tried, when nodes have died under it."""

import threading
import time

from jido_cluster import Cluster, Needs, Outcome, action
from jido_cluster.errors import OutcomeUnknownError
from jido_cluster.exec.outcome import dump_outcome, load_outcome
from jido_cluster.runtime.runs import _counted


def test_attempts_of_lost_nodes_are_added() -> None:
    """What the last node tells stays as it is otherwise."""
    outcome = Outcome[int](run_id="r", ok=True, value=5, attempts=2, seconds=0.5, node="n")
    data = dump_outcome(outcome)
    assert _counted(data, 0) is data
    assert load_outcome(_counted(data, 2)) == outcome.model_copy(update={"attempts": 4})


OPEN = threading.Event()
BEGUN: list[str] = []


@action(name="attempts.waits", timeout=None)
def waits(number: int) -> int:
    BEGUN.append("one")
    OPEN.wait()
    return number


def test_a_run_that_moves_to_another_node_tells_of_both() -> None:
    """Twice begun is two attempts; where nothing happened it is one."""
    with Cluster.local(nodes=3) as cluster:
        needs = Needs(resources={"CPU": 0.1})
        runs = [cluster.start(waits, {"number": number}, needs=needs) for number in range(9)]
        end = time.monotonic() + 20.0
        while len(BEGUN) < 9:
            assert time.monotonic() < end
            time.sleep(0.01)
        cluster.kill(cluster.nodes()[-1].name)
        OPEN.set()
        found = []
        for run in runs:
            try:
                found.append(cluster._portal.call(run._ref.outcome(20.0)))
            except OutcomeUnknownError:
                continue  # its host died too
    assert {outcome.attempts for outcome in found} == {1, 2}
    assert all(outcome.ok for outcome in found)
