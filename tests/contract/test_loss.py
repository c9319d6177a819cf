"""A node is lost: what was acknowledged lives on, nothing hangs, the rest goes on."""

import time
from collections.abc import Callable

import pytest

from jido_cluster import (
    AgentExistsError,
    AgentLostError,
    JidoError,
    Needs,
    OutcomeUnknownError,
)
from tests.contract.actions import WaitForFile
from tests.contract.agents import Boss, Counter, Fleeting, Hasty, Queue, Room
from tests.contract.support import Gate, Mortal, spawn_on, wait_until

MakeGate = Callable[[], Gate]
WITHIN = 5.0  # seconds from the evidence until the shards are served again, at most


def test_agents_survive_their_node(mortal: Mortal, gate: MakeGate) -> None:
    """All that was acknowledged is there; a call in flight ends, and counts at most once."""
    cluster = mortal.cluster
    victim = mortal.victims[0]
    agents = [spawn_on(cluster, victim, Counter, value=n) for n in range(5)]
    busy = spawn_on(cluster, victim, Queue)
    assert busy.call(Queue.put, 7) == 7
    nodes = [node.name for node in cluster.nodes() if node.name != victim]
    others = [spawn_on(cluster, node, Counter, value=n) for n, node in enumerate(nodes)]
    door = gate()
    in_flight = busy.options(timeout=60).submit(Queue.hold, **door.files)
    door.wait_begun()
    behind = busy.options(timeout=60).submit(Queue.put, 1)

    mortal.kill(victim)
    door.open()
    begun = time.monotonic()
    for n, ref in enumerate(agents):
        assert ref.options(timeout=30).call(Counter.add) == n + 1
    assert time.monotonic() - begun < WITHIN * 3
    assert in_flight.result(60) == -1
    assert behind.result(60) == 1
    assert busy.state().items == [7, -1, 1]
    assert [other.call(Counter.add) for other in others] == [n + 1 for n in range(len(others))]
    with pytest.raises(AgentExistsError):
        cluster.spawn(Counter, agents[0].id)
    assert agents[0].info().node != victim
    wait_until(lambda: victim not in {n.name for n in cluster.nodes() if n.is_reachable}, "its end")


def test_an_agent_in_memory_survives_its_node(mortal: Mortal) -> None:
    """What was acknowledged from the memory of a majority outlives any one of them."""
    cluster = mortal.cluster
    victim = mortal.victims[0]
    agents = [spawn_on(cluster, victim, Hasty, value=n) for n in range(5)]
    told = [ref.request(Hasty.add) for ref in agents]
    mortal.kill(victim)
    assert [reply.durability for reply in told] == ["memory"] * 5
    assert [reply.value for reply in told] == [n + 1 for n in range(5)]
    for n, ref in enumerate(agents):
        assert ref.options(timeout=30).call(Hasty.add) == n + 2


def test_a_virtual_agent_survives_its_node(mortal: Mortal) -> None:
    """It is the same one, not made anew."""
    cluster = mortal.cluster
    victim = mortal.victims[-1]
    room = spawn_on(cluster, victim, Room)
    assert room.call(Room.enter, "anna") == 1
    mortal.kill(victim)
    assert room.options(timeout=30).call(Room.enter, "bert") == 2


def test_an_operation_counts_once_across_a_failover(mortal: Mortal) -> None:
    """What is repeated under its id after the node is lost is answered as before."""
    cluster = mortal.cluster
    victim = mortal.victims[0]
    counter = spawn_on(cluster, victim, Counter)
    once = counter.options(op_id="one-deposit", timeout=30)
    assert once.call(Counter.add, 5) == 5
    mortal.kill(victim)
    assert once.call(Counter.add, 5) == 5
    assert counter.call(Counter.get) == 5


def test_an_agent_in_memory_only_is_said_to_be_lost(mortal: Mortal) -> None:
    """Calls raise `AgentLostError`, and its id is free again."""
    cluster = mortal.cluster
    victim = mortal.victims[0]
    lost = [spawn_on(cluster, victim, Fleeting) for _ in range(5)]
    assert [ref.call(Fleeting.add) for ref in lost] == [1] * 5
    mortal.kill(victim)
    for ref in lost:
        with pytest.raises((AgentLostError, OutcomeUnknownError)):
            ref.options(timeout=20).call(Fleeting.add)
        with pytest.raises(AgentLostError, match=ref.id):
            ref.options(timeout=20).call(Fleeting.add)
    again = cluster.spawn(Fleeting, lost[0].id, value=70)
    assert again.call(Fleeting.add) == 71


def test_a_run_is_not_begun_again_once_its_agent_has_the_outcome(
    mortal: Mortal, gate: MakeGate
) -> None:
    """It leaves the outbox with the commit that takes the outcome; what is under way stays."""
    cluster = mortal.cluster
    victim = mortal.victims[0]
    boss = spawn_on(cluster, victim, Boss)
    first, second = gate(), gate()
    for door in (first, second):
        boss.call(Boss.wait, **door.files)
        door.wait_begun()
    first.open()
    wait_until(lambda: len(boss.state().done) == 1, "the first outcome")
    mortal.kill(victim)
    # Both stood in one outbox: where the second is begun again, the first would be as well.
    wait_until(lambda: len(second.begun.read_text().split()) > 1, "the second run, again")
    second.open()
    wait_until(lambda: len(boss.options(timeout=30).state().done) == 2, "the second outcome")
    assert first.begun.read_text().split() == ["begun"]


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
