"""What a user sees when a process or a node dies with SIGKILL, on a real Ray cluster."""

import time
from concurrent.futures import Future
from typing import Any

import psutil
import pytest

from jido_cluster import (
    ActionTimeoutError,
    AgentExistsError,
    Cluster,
    ExecutionError,
    OutcomeUnknownError,
    new_id,
)
from tests.contract.support import Mortal, spawn_on
from tests.ray.agents import Ledger, Lodger, Sleeper, Visitor
from tests.ray_support import RayNodes, complete, wait_members, within

pytestmark = pytest.mark.ray

MOVE_SECONDS = 5.0  # from the end of a process until all its agents have answered elsewhere


def test_a_killed_node_loses_nothing(ray_mortal: Mortal) -> None:
    """What was acknowledged is there at once elsewhere; survivors answer all along."""
    cluster = ray_mortal.cluster
    victim = ray_mortal.victims[0]
    refs = [cluster.spawn(Ledger, new_id("fault-")) for _ in range(60)]
    homes = {ref.id: ref.info().node for ref in refs}
    moved = [ref for ref in refs if homes[ref.id] == victim]
    kept = [ref for ref in refs if homes[ref.id] != victim]
    assert moved
    assert kept
    for ref in refs:
        assert ref.call(Ledger.add, 7) == 7

    ray_mortal.kill(victim)
    started = time.monotonic()
    for ref in moved:
        assert ref.options(timeout=30.0).call(Ledger.add, 1) == 8
    taken = time.monotonic() - started
    for ref in kept:
        assert ref.call(Ledger.add, 1) == 8
    for ref in moved:
        assert ref.info().node != victim
        with pytest.raises(AgentExistsError):
            cluster.spawn(Ledger, ref.id)
    assert taken < MOVE_SECONDS


def test_virtual_agents_are_not_silently_created_again(ray_mortal: Mortal) -> None:
    """A virtual agent whose node died is the same one elsewhere."""
    cluster = ray_mortal.cluster
    victim = ray_mortal.victims[0]
    ids = [new_id("virtual-") for _ in range(40)]
    for id_ in ids:
        assert cluster.ref(Visitor, id_).call(Visitor.enter) == 1
    moved = [id_ for id_ in ids if cluster.ref(id_).info().node == victim]
    assert moved
    ray_mortal.kill(victim)
    for id_ in moved:
        assert cluster.ref(Visitor, id_).options(timeout=30.0).call(Visitor.enter) == 2


def test_calls_in_flight_to_a_killed_node_end(ray_mortal: Mortal) -> None:
    """The handler begins again elsewhere, and has the deadline it had."""
    cluster = ray_mortal.cluster
    victim = ray_mortal.victims[0]
    ref = spawn_on(cluster, victim, Sleeper)
    future: Future[Any] = ref.options(timeout=20.0).submit(Sleeper.sleep, 60.0)
    again: Future[Any] = spawn_on(cluster, victim, Sleeper).submit(Sleeper.sleep, 3.0)
    _wait_running(cluster, victim)
    ray_mortal.kill(victim)
    assert again.result(timeout=25.0) is None
    with pytest.raises((ActionTimeoutError, OutcomeUnknownError)):
        future.result(timeout=25.0)


def test_a_node_that_joins_later_is_used_and_agents_move_with_their_state(
    ray_nodes: RayNodes, ray_cluster: Cluster
) -> None:
    """`ray start` on one more machine: it leads shards within seconds, and no call fails."""
    complete(ray_nodes, ray_cluster)
    refs = [ray_cluster.spawn(Ledger, new_id("join-")) for _ in range(60)]
    for ref in refs:
        ref.call(Ledger.add, 1)
    name = ray_nodes.add()
    deadline = within(60.0)
    rounds = 1
    while name not in {n.name for n in ray_cluster.nodes() if n.shards_led > 0}:
        rounds += 1
        assert [ref.call(Ledger.add, 1) for ref in refs] == [rounds] * len(refs)
        deadline.pause("the use of the new node")
    rounds += 1
    assert [ref.call(Ledger.add, 1) for ref in refs] == [rounds] * len(refs)


def test_a_killed_shard_host_is_replaced(ray_nodes: RayNodes, ray_cluster: Cluster) -> None:
    """Its shards are led elsewhere at once; its successor has what its store holds."""
    complete(ray_nodes, ray_cluster)
    victim = ray_nodes.names[1]
    ref = spawn_on(ray_cluster, victim, Ledger)
    assert ref.call(Ledger.add, 3) == 3
    old = _kill_one(ray_nodes, victim, "ShardHostActor")
    started = time.monotonic()
    assert ref.options(timeout=20.0).call(Ledger.add, 1) == 4
    assert time.monotonic() - started < MOVE_SECONDS
    _wait_successor(ray_nodes, victim, "ShardHostActor", old)
    wait_members(ray_cluster, ray_nodes.names)
    assert ref.call(Ledger.add, 1) == 5


def test_a_killed_node_supervisor_loses_nothing(ray_nodes: RayNodes, ray_cluster: Cluster) -> None:
    """Its hosts end with it; agents answer elsewhere, and the node comes back as itself."""
    complete(ray_nodes, ray_cluster)
    victim = ray_nodes.names[1]
    ids = {info.name: info.id for info in ray_cluster.nodes()}
    ref = spawn_on(ray_cluster, victim, Ledger)
    (host,) = ray_nodes.processes(victim, "ShardHostActor")
    _kill_one(ray_nodes, victim, "NodeSupervisorActor")
    for n in range(1, 21):
        assert ref.options(timeout=20.0).call(Ledger.add, 1) == n
    host.wait(10.0)
    _wait_successor(ray_nodes, victim, "ShardHostActor", host.pid)
    wait_members(ray_cluster, ray_nodes.names)
    assert {info.name: info.id for info in ray_cluster.nodes() if info.name == victim} == {
        victim: ids[victim]
    }
    for _ in range(30):
        ray_cluster.spawn(Ledger, new_id("after-"))
    assert ref.call(Ledger.add, 1) == 21


def test_what_was_acknowledged_survives_the_end_of_every_process(
    ray_nodes: RayNodes, ray_cluster: Cluster
) -> None:
    """All hosts and supervisors are killed at once: their stores hold what they answered."""
    complete(ray_nodes, ray_cluster)
    refs = [ray_cluster.spawn(Ledger, new_id("all-")) for _ in range(40)]
    for n, ref in enumerate(refs):
        assert ref.call(Ledger.add, n) == n
    victims = [
        process
        for name in ray_nodes.names
        for title in ("NodeSupervisorActor", "ShardHostActor")
        for process in ray_nodes.processes(name, title)
    ]
    assert len(victims) == 2 * len(ray_nodes.names)
    for process in victims:
        process.kill()
    for n, ref in enumerate(refs):
        assert ref.options(timeout=60.0).call(Ledger.add, 1) == n + 1
    wait_members(ray_cluster, ray_nodes.names)


def test_a_killed_agent_worker_costs_one_turn(ray_nodes: RayNodes, ray_cluster: Cluster) -> None:
    """The process of a dedicated agent dies in a turn: that turn failed, the state is unchanged."""
    complete(ray_nodes, ray_cluster)
    ref = ray_cluster.spawn(Lodger, new_id("lodger-"))
    assert ref.call(Lodger.add, 3) == 3
    pid = ref.call(Lodger.pid)
    future: Future[Any] = ref.submit(Lodger.add_slowly, 60.0)
    psutil.Process(pid).kill()
    with pytest.raises(ExecutionError):
        future.result(timeout=30.0)
    assert ref.options(timeout=60.0).call(Lodger.add, 1) == 4
    assert ref.call(Lodger.pid) != pid


def test_a_node_that_ray_drains_hands_over_and_ends(
    ray_nodes: RayNodes, ray_cluster: Cluster
) -> None:
    """Ray itself would let its processes run; all calls meanwhile are answered, once each."""
    complete(ray_nodes, ray_cluster)
    victim = ray_nodes.names[-1]
    refs = [ray_cluster.spawn(Ledger, new_id("drain-")) for _ in range(40)]
    moved = [ref for ref in refs if ref.info().node == victim]
    assert moved
    hosts = ray_nodes.processes(victim, "ShardHostActor")
    assert hosts
    ray_nodes.drain(victim)
    deadline, rounds = within(60.0), 0
    while any(host.is_running() for host in hosts):
        rounds += 1
        assert [ref.call(Ledger.add, 1) for ref in refs] == [rounds] * len(refs)
        deadline.pause("the end of the hosts")
    assert [ref.call(Ledger.add, 1) for ref in refs] == [rounds + 1] * len(refs)
    assert victim not in {ref.info().node for ref in moved}
    ray_nodes.kill(victim)
    complete(ray_nodes, ray_cluster)


def test_a_killed_cluster_supervisor_is_not_missed(
    ray_nodes: RayNodes, ray_cluster: Cluster
) -> None:
    """Calls and spawns go on; it comes back and takes in a machine that returns."""
    complete(ray_nodes, ray_cluster)
    refs = [ray_cluster.spawn(Ledger, new_id("cs-")) for _ in range(10)]
    head = ray_nodes.names[0]
    old = _kill_one(ray_nodes, head, "ClusterSupervisorActor")
    for ref in refs:
        assert ref.call(Ledger.add, 5) == 5
    assert ray_cluster.spawn(Ledger, new_id("cs-")).call(Ledger.add, 1) == 1
    _wait_successor(ray_nodes, head, "ClusterSupervisorActor", old)
    ray_nodes.kill(ray_nodes.names[-1])
    complete(ray_nodes, ray_cluster)
    for ref in refs:
        assert ref.call(Ledger.add, 1) == 6


def _wait_running(cluster: Cluster, node: str) -> None:
    deadline = within(10.0)
    while not any(info.name == node and info.load > 0 for info in cluster.nodes()):
        deadline.pause("the start of the handler")


def _wait_successor(nodes: RayNodes, name: str, title: str, old: int) -> None:
    deadline = within(30.0)
    while not any(process.pid != old for process in nodes.processes(name, title)):
        deadline.pause(f"the successor of {title} {old}")


def _kill_one(nodes: RayNodes, name: str, title: str) -> int:
    (process,) = nodes.processes(name, title)
    process.kill()
    process.wait(10.0)
    return int(process.pid)
