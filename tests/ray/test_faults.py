"""What a user sees when a process or a node dies with SIGKILL, on a real Ray cluster."""

import time
from concurrent.futures import Future
from typing import Any

import psutil
import pytest

from jido_cluster import (
    AgentLostError,
    AgentRef,
    Cluster,
    ExecutionError,
    OutcomeUnknownError,
    new_id,
)
from tests.contract.support import Mortal
from tests.ray.agents import Ledger, Lodger, Sleeper, Visitor
from tests.ray_support import RayNodes, complete, wait_members, within

pytestmark = pytest.mark.ray

MOVE_SECONDS = 5.0  # from the evidence until the shards of a dead node are served elsewhere


def test_a_killed_node_loses_its_agents_and_nobody_elses(
    ray_mortal: Mortal, ray_nodes: RayNodes
) -> None:
    """Survivors answer all along; the lost say so, and can be spawned again."""
    cluster = ray_mortal.cluster
    victim = ray_mortal.victims[0]
    refs = [cluster.spawn(Ledger, new_id("fault-")) for _ in range(60)]
    homes = {ref.id: ref.info().node for ref in refs}
    lost = [ref for ref in refs if homes[ref.id] == victim]
    kept = [ref for ref in refs if homes[ref.id] != victim]
    assert lost
    assert kept
    for ref in refs:
        assert ref.call(Ledger.add, 7) == 7

    ray_mortal.kill(victim)
    deadline = within(30.0)
    started = time.monotonic()
    while victim in {node.name for node in cluster.nodes()}:
        assert kept[0].call(Ledger.add, 0) == 7
        deadline.pause("the removal of the dead node")
    noticed = time.monotonic() - started

    for ref in lost:
        with pytest.raises(AgentLostError):
            ref.options(timeout=MOVE_SECONDS).call(Ledger.add, 1)
    for ref in kept:
        assert ref.call(Ledger.add, 1) == 8
    again = cluster.spawn(Ledger, lost[0].id, entries=[1])
    assert again.call(Ledger.add, 1) == 2
    assert noticed < 10.0


def test_virtual_agents_are_not_silently_created_again(ray_mortal: Mortal) -> None:
    """A virtual agent whose node died says that it is lost, until it is spawned."""
    cluster = ray_mortal.cluster
    victim = ray_mortal.victims[0]
    ids = [new_id("virtual-") for _ in range(40)]
    for id_ in ids:
        assert cluster.ref(Visitor, id_).call(Visitor.enter) == 1
    lost = [id_ for id_ in ids if cluster.ref(id_).info().node == victim]
    assert lost
    ray_mortal.kill(victim)
    wait_members(cluster, tuple(n for n in _names(cluster) if n != victim), 30.0)
    for id_ in lost:
        with pytest.raises(AgentLostError):
            cluster.ref(Visitor, id_).call(Visitor.enter)
    cluster.get_or_spawn(Visitor, lost[0])
    assert cluster.ref(Visitor, lost[0]).call(Visitor.enter) == 1


def test_calls_in_flight_to_a_killed_node_end(ray_mortal: Mortal) -> None:
    """A handler that was running when its node died: the outcome is unknown, never a hang."""
    cluster = ray_mortal.cluster
    victim = ray_mortal.victims[0]
    ref = _agent_on(cluster, Sleeper, victim)
    future: Future[Any] = ref.options(timeout=20.0).submit(Sleeper.sleep, 60.0)
    _wait_running(cluster, victim)
    ray_mortal.kill(victim)
    with pytest.raises((OutcomeUnknownError, AgentLostError)):
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
    assert name in {ref.info().node for ref in refs}
    ray_nodes.kill(name)
    complete(ray_nodes, ray_cluster)


def test_a_killed_shard_host_is_replaced(ray_nodes: RayNodes, ray_cluster: Cluster) -> None:
    """The process of a node's agents dies: they are lost, the node serves again."""
    complete(ray_nodes, ray_cluster)
    victim = ray_nodes.names[1]
    ref = _agent_on(ray_cluster, Ledger, victim)
    other = _agent_on(ray_cluster, Ledger, ray_nodes.names[0])
    _kill_one(ray_nodes, victim, "ShardHostActor")
    with pytest.raises((AgentLostError, OutcomeUnknownError)):
        ref.options(timeout=20.0).call(Ledger.add, 1)
    assert other.call(Ledger.add, 1) == 1
    with pytest.raises(AgentLostError):
        ref.call(Ledger.add, 1)
    assert ray_cluster.spawn(Ledger, ref.id).call(Ledger.add, 2) == 2
    assert victim in _names(ray_cluster)


def test_a_killed_node_supervisor_loses_nothing(ray_nodes: RayNodes, ray_cluster: Cluster) -> None:
    """Agents answer while it is away; it comes back, adopts the hosts and keeps rosters again."""
    complete(ray_nodes, ray_cluster)
    victim = ray_nodes.names[1]
    ref = _agent_on(ray_cluster, Ledger, victim)
    (host,) = ray_nodes.processes(victim, "ShardHostActor")
    old = _kill_one(ray_nodes, victim, "NodeSupervisorActor")
    for n in range(1, 21):
        assert ref.call(Ledger.add, 1) == n
    deadline = within(30.0)
    while not any(p.pid != old for p in ray_nodes.processes(victim, "NodeSupervisorActor")):
        deadline.pause("the restart of the node supervisor")
    # A spawn needs the roster of its shard, which some supervisor keeps: all must be back.
    for _ in range(30):
        ray_cluster.spawn(Ledger, new_id("after-"))
    assert ref.call(Ledger.add, 1) == 21
    assert host.is_running()


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


def test_a_killed_cluster_supervisor_is_not_missed(
    ray_nodes: RayNodes, ray_cluster: Cluster
) -> None:
    """Calls and spawns go on; it comes back with the same view and takes in a new node."""
    complete(ray_nodes, ray_cluster)
    refs = [ray_cluster.spawn(Ledger, new_id("cs-")) for _ in range(10)]
    head = ray_nodes.names[0]
    old = _kill_one(ray_nodes, head, "ClusterSupervisorActor")
    for ref in refs:
        assert ref.call(Ledger.add, 5) == 5
    assert ray_cluster.spawn(Ledger, new_id("cs-")).call(Ledger.add, 1) == 1
    deadline = within(60.0)
    while not any(p.pid != old for p in ray_nodes.processes(head, "ClusterSupervisorActor")):
        deadline.pause("the restart of the cluster supervisor")
    name = ray_nodes.add()
    wait_members(ray_cluster, ray_nodes.names)
    for ref in refs:
        assert ref.call(Ledger.add, 1) == 6
    ray_nodes.kill(name)
    complete(ray_nodes, ray_cluster)


def _names(cluster: Cluster) -> set[str]:
    return {node.name for node in cluster.nodes()}


def _agent_on(cluster: Cluster, kind: Any, node: str) -> AgentRef[Any]:
    for _ in range(500):
        ref: AgentRef[Any] = cluster.spawn(kind, new_id("on-"))
        if ref.info().node == node:
            return ref
    raise AssertionError(f"no id of 500 lives on {node}")


def _wait_running(cluster: Cluster, node: str) -> None:
    deadline = within(10.0)
    while not any(info.name == node and info.load > 0 for info in cluster.nodes()):
        deadline.pause("the start of the handler")


def _kill_one(nodes: RayNodes, name: str, title: str) -> int:
    (process,) = nodes.processes(name, title)
    process.kill()
    process.wait(10.0)
    return int(process.pid)
