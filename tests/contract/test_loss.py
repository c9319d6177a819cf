"""A node is lost: what lived there is said to be lost, nothing hangs, the rest goes on."""

import time
from collections.abc import Callable

import pytest

from jido_cluster import AgentLostError, JidoError, Needs, OutcomeUnknownError
from tests.contract.actions import WaitForFile
from tests.contract.agents import Counter, Queue, Room
from tests.contract.support import Gate, Mortal, spawn_on, wait_until

MakeGate = Callable[[], Gate]
WITHIN = 5.0  # seconds from the evidence until the shards are served again, at most


def test_a_lost_agent_is_said_to_be_lost(mortal: Mortal, gate: MakeGate) -> None:
    """Calls raise `AgentLostError`, those in flight end, the id is free again, others live."""
    cluster = mortal.cluster
    victim = mortal.victims[0]
    lost = [spawn_on(cluster, victim, Counter, value=n) for n in range(5)]
    busy = spawn_on(cluster, victim, Queue)
    nodes = [node.name for node in cluster.nodes() if node.name != victim]
    others = [spawn_on(cluster, node, Counter, value=n) for n, node in enumerate(nodes)]
    in_flight = busy.submit(Queue.hold, **gate().files)
    behind = busy.submit(Queue.put, 1)
    assert [other.call(Counter.get) for other in others] == list(range(len(others)))

    mortal.kill(victim)
    begun = time.monotonic()
    for ref in lost:
        with pytest.raises((AgentLostError, OutcomeUnknownError)):
            ref.options(timeout=20).call(Counter.get)
        with pytest.raises(AgentLostError, match=ref.id):
            ref.call(Counter.get)
    assert time.monotonic() - begun < WITHIN * 3
    for call in (in_flight, behind):
        assert isinstance(call.exception(30), AgentLostError | OutcomeUnknownError)

    assert [other.call(Counter.add) for other in others] == [n + 1 for n in range(len(others))]
    again = cluster.spawn(Counter, lost[0].id, value=70)
    assert again.call(Counter.add) == 71
    assert again.info().node != victim
    assert lost[0].call(Counter.get) == 71
    wait_until(lambda: victim not in {n.name for n in cluster.nodes()}, "the node's removal")


def test_a_lost_virtual_agent_is_not_made_anew(mortal: Mortal) -> None:
    """It has lost its state: only a spawn, or a new id, begins afresh."""
    cluster = mortal.cluster
    victim = mortal.victims[-1]
    room = spawn_on(cluster, victim, Room)
    assert room.call(Room.enter, "anna") == 1
    mortal.kill(victim)
    with pytest.raises((AgentLostError, OutcomeUnknownError)):
        room.options(timeout=20).call(Room.count)
    with pytest.raises(AgentLostError):
        room.call(Room.enter, "bert")
    assert cluster.get_or_spawn(Room, room.id).call(Room.enter, "carl") == 1


def test_runs_of_a_lost_node_go_to_another(mortal: Mortal, gate: MakeGate) -> None:
    """They begin again elsewhere and end; a run that was tracked there is unknown, not hanging."""
    cluster = mortal.cluster
    victim = mortal.victims[0]
    doors = [gate() for _ in range(9)]
    little = Needs(resources={"CPU": 0.1})  # all nine run at once, wherever they go
    runs = [
        cluster.start(WaitForFile, {**door.files, "value": n}, needs=little)
        for n, door in enumerate(doors)
    ]
    for door in doors:
        door.wait_begun()
    mortal.kill(victim)
    for door in doors:
        door.open()
    ended: dict[int, int | JidoError] = {}
    for n, run in enumerate(runs):
        try:
            ended[n] = run.result(60)
        except OutcomeUnknownError as error:
            ended[n] = error
    results = {n: value for n, value in ended.items() if isinstance(value, int)}
    assert all(n == value for n, value in results.items())
    # A third of the runs were tracked by the victim, and a third of the others ran there.
    assert len(results) >= 3
