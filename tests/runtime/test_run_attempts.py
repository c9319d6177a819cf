"""How often a run was tried, when nodes have died under it."""

import asyncio
import threading
import time
from collections import Counter

from jido_cluster import Agent, Cluster, Needs, Outcome, action, on
from jido_cluster.errors import OutcomeUnknownError
from jido_cluster.exec.outcome import dump_outcome, load_outcome
from jido_cluster.runtime.runs import _counted
from jido_cluster.testing import LocalCluster
from tests.runtime.support import hosts_of


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


@action(name="attempts.doubles")
def doubles(number: int) -> int:
    return 2 * number


def test_runs_do_not_go_to_nodes_that_seem_gone() -> None:
    """Neither to a silent one nor to one with a dead process, although both are members."""
    with Cluster.local(nodes=3) as cluster:
        hosts = hosts_of(cluster._inner)
        cluster._portal.soon(lambda: [host.replicas.gone(1, 1) for host in hosts])
        cluster.settle()
        assert nodes_of_runs(cluster) == {"node-1", "node-3"}
        cluster._portal.soon(lambda: [host.replicas.back(1, 1) for host in hosts])
        cluster.settle()
        assert nodes_of_runs(cluster) == {"node-1", "node-2", "node-3"}
        for host in hosts:
            host.replicas.core.reachable = frozenset({1, 2})
        assert nodes_of_runs(cluster) == {"node-2", "node-3"}
        for host in hosts:
            host.replicas.core.reachable = frozenset({7})
        assert len(nodes_of_runs(cluster)) == 3


def nodes_of_runs(cluster: LocalCluster) -> set[str | None]:
    runs = [cluster.start(doubles, {"number": number}) for number in range(30)]
    return {cluster._portal.call(run._ref.outcome(20.0)).node for run in runs}


LET_GO = threading.Event()
TRIED: list[int] = []


@action(name="attempts.polls", timeout=None)
async def polls(number: int) -> int:
    TRIED.append(number)
    try:
        while not LET_GO.is_set():  # noqa: ASYNC110 - another thread sets it
            await asyncio.sleep(0.005)
    finally:
        for _ in range(100):  # it takes its time to end, as one that ends a process does
            await asyncio.sleep(0)
    return number


class Starter(Agent, name="attempts.starter"):
    numbers: list[int] = []

    @on("starter.start")
    async def start(self, count: int) -> None:
        for number in range(count):
            needs = Needs(resources={"CPU": 0.1})
            self.ctx.start(polls, {"number": number}, reply=self.ended, needs=needs)

    @on("starter.ended")
    async def ended(self, outcome: Outcome[int]) -> None:
        self.numbers.append(outcome.unwrap())


def test_a_dead_host_hands_out_no_runs() -> None:
    """What it tracked, and what died with its node, begins again at the next leader, once."""
    with Cluster.local(nodes=3) as cluster:
        starter = cluster.spawn(Starter, "starter")
        starter.call(Starter.start, 9)
        end = time.monotonic() + 20.0
        while len(TRIED) < 9:
            assert time.monotonic() < end
            time.sleep(0.01)
        watchdog = threading.Timer(10.0, LET_GO.set)
        watchdog.start()
        cluster.kill(starter.info().node)
        assert not LET_GO.is_set(), "the kill waited for runs"
        while len(TRIED) < 18:
            assert time.monotonic() < end
            time.sleep(0.01)
        LET_GO.set()
        watchdog.cancel()
        cluster.settle()
        assert sorted(starter.state().numbers) == list(range(9))
        assert Counter(TRIED) == dict.fromkeys(range(9), 2)
