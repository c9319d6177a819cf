"""What agents do without a quorum, and what has become of it when the network is whole again.

In virtual time: an election's silence is eight minutes there, and passes in an instant.
"""

from collections import Counter as Count
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

import pytest
from prometheus_client import CollectorRegistry

from jido_cluster import (
    AgentNotFoundError,
    AgentRef,
    ClusterConfig,
    ExecutionError,
    NoQuorumError,
    OutcomeUnknownError,
    RejectedError,
    Reply,
    metrics,
    new_id,
    telemetry,
)
from jido_cluster.sync_cluster import Cluster
from jido_cluster.testing import LocalCluster
from tests.contract.split import Basket, Bell, Door, Fleeting, Lamp, Votes
from tests.contract.support import wait_until

CONFIG = ClusterConfig(shards=8, partition_strategy="continue_all")
ONE, TWO, THREE = (("node-1",), ("node-2",), ("node-3",))
SILENCE = 1_200.0  # virtual seconds: leaders are given up, and somebody stands in
STEP = 5.0
T = TypeVar("T")

EVENTS = ["acted", "admission", "conflict", "healing", "merged", "refused"]
Heard = list[tuple[str, dict[str, Any]]]


@pytest.fixture
def cluster() -> Iterator[LocalCluster]:
    """Three nodes that each have a replica of everything."""
    with Cluster.local(nodes=3, config=CONFIG, virtual_time=True) as local:
        yield local


@pytest.fixture
def heard() -> Iterator[Heard]:
    """The events of splits, without their prefix, and what they say."""
    events: Heard = []

    def listen(event: str, numbers: Any, metadata: Any) -> None:
        events.append((event.removeprefix("jido.cluster."), {**metadata, **numbers}))

    name = new_id("test-")
    telemetry.attach_many(name, [f"jido.cluster.{event}" for event in EVENTS], listen)
    yield events
    telemetry.detach(name)


def until(cluster: LocalCluster, condition: Callable[[], T], what: str) -> T:
    """The first true value of the condition, while time passes."""

    def look() -> T:
        cluster.advance(STEP)
        return condition()

    return wait_until(look, what)


def wait_for(cluster: LocalCluster, call: "Future[T]") -> T:
    """The result of a call that needs time to pass."""
    until(cluster, call.done, "the answer")
    return call.result()


def ask(cluster: LocalCluster, ref: AgentRef[Any], handler: Any, *args: Any) -> Any:
    """A call's result."""
    return wait_for(cluster, ref.options(timeout=SILENCE).submit(handler, *args))


def request(cluster: LocalCluster, ref: AgentRef[Any], handler: Any, *args: Any) -> Reply[Any]:
    """A call's reply; somebody serves already, so no time has to pass."""
    ask(cluster, ref, handler, *args)
    return ref.request(handler, *args)


@contextmanager
def split(cluster: LocalCluster, *sides: tuple[str, ...]) -> Iterator[None]:
    """The network is cut for long, and then whole again for long."""
    cluster.partition(*sides)
    cluster.advance(SILENCE)
    yield
    cluster.heal()
    cluster.advance(SILENCE)


def test_a_counter_counts_exactly_on_three_sides(cluster: LocalCluster, heard: Heard) -> None:
    """Whatever was acknowledged anywhere is in the sum, and nothing twice."""
    votes = cluster.spawn(Votes, new_id("votes-"))
    assert votes.call(Votes.add, 1) == 1
    by = 1
    for sides in ([ONE, TWO, THREE], [TWO, THREE, ONE], [THREE, ONE, TWO]):
        cluster.partition(*sides)
        cluster.advance(SILENCE)
        by *= 10
        assert ask(cluster, votes, Votes.add, by)
    cluster.heal()
    until(cluster, lambda: votes.state().count.value == 1111, "the sum of all sides")
    assert votes.request(Votes.add, 1).durability == "quorum"
    assert votes.state().count.value == 1112
    merged = [data for event, data in heard if event == "merged"]
    assert sum(data["entries"] for data in merged) >= 3
    assert not [data for event, data in heard if event == "conflict"]


def test_a_turn_without_a_quorum_says_so(cluster: LocalCluster) -> None:
    """By its reply, and to its handler, which has no fence; afterwards it has one again."""
    votes = cluster.spawn(Votes, new_id("votes-"))
    assert votes.call(Votes.fenced) is True
    with split(cluster, ONE, TWO, THREE):
        reply = request(cluster, votes, Votes.fenced)
        assert reply.value is False
        assert (reply.durability, reply.fence, reply.node) == ("local", None, "node-1")
        assert reply.is_partitioned
        assert not reply.is_stale
    assert until(cluster, lambda: votes.request(Votes.fenced).value, "a fence")


def test_two_replicas_of_a_side_hold_a_turn() -> None:
    """Of five there are two in reach: that is no quorum, and one more than one."""
    config = ClusterConfig(shards=4, replicas=5, partition_strategy="continue_all")
    with Cluster.local(nodes=5, config=config, virtual_time=True) as cluster:
        spawned = (cluster.spawn(Votes, new_id("votes-")) for _ in range(40))
        by_shard = {votes.info().shard: votes for votes in spawned}
        assert len(by_shard) == config.shards  # so that silent replicas are asked first for some
        cluster.partition(["node-1", "node-2"])
        cluster.advance(SILENCE)
        for votes in by_shard.values():
            reply = request(cluster, votes, Votes.add)
            assert (reply.value, reply.durability, reply.fence) == (2, "two", None)
        cluster.heal()
        for votes in by_shard.values():
            until(cluster, lambda: votes.state().count.value == 2, "the merged count")  # noqa: B023


def test_an_object_stays_in_memory_and_a_failed_turn_leaves_nothing(cluster: LocalCluster) -> None:
    """As with a quorum: `on_start` runs once, and what a handler raises reaches its caller."""
    votes = cluster.spawn(Votes, new_id("votes-"))
    with split(cluster, ONE, TWO, THREE):
        ask(cluster, votes, Votes.add)
        starts = votes.state().starts
        assert votes.call(Votes.add) == 2
        with pytest.raises(ExecutionError, match="not this time"):
            votes.call(Votes.fail)
        assert votes.call(Votes.add) == 3
        # Once when the replica took it up, and once after the object was dropped.
        assert votes.state().starts == starts + 1


def test_an_op_id_counts_once_on_its_side(cluster: LocalCluster) -> None:
    """Also when it was given to the leader before the cut, and over the merge."""
    votes = cluster.spawn(Votes, new_id("votes-"))
    first, second = new_id("op-"), new_id("op-")
    assert votes.options(op_id=first).call(Votes.add) == 1
    with split(cluster, ONE, TWO, THREE):
        ask(cluster, votes, Votes.fenced)
        assert votes.options(op_id=first).call(Votes.add) == 1
        reply = votes.options(op_id=second).request(Votes.add)
        assert (reply.value, reply.durability) == (2, "local")
        assert votes.options(op_id=second).request(Votes.add).value == 2
    until(cluster, lambda: votes.state().count.value == 2, "the merged count")
    assert votes.options(op_id=second).call(Votes.add) == 2
    assert votes.state().count.value == 2


def test_of_plain_states_the_last_wins_and_the_other_is_in_the_log(
    cluster: LocalCluster, heard: Heard
) -> None:
    """Whole, so that somebody can look what was lost."""
    lamp = cluster.spawn(Lamp, new_id("lamp-"))
    cluster.partition(ONE, TWO, THREE)
    cluster.advance(SILENCE)
    ask(cluster, lamp, Lamp.set, "red")
    cluster.partition(TWO, ONE, THREE)
    cluster.advance(SILENCE)
    ask(cluster, lamp, Lamp.set, "blue")
    cluster.heal()
    until(cluster, lambda: [event for event, _ in heard if event == "conflict"], "a conflict")
    until(cluster, lambda: lamp.state().colour == "blue", "the last state")
    lost = [data for event, data in heard if event == "conflict"]
    assert {(one["agent"], one["reason"]) for one in lost} == {(lamp.id, "value")}
    assert {one["state"]["colour"] for one in lost} >= {"red"}
    assert all(one["type"] == "split.lamp" and one["at"] for one in lost)


def test_a_type_merges_by_its_own_code(cluster: LocalCluster, heard: Heard) -> None:
    """What `on_conflict` returns is the state; nothing is lost, so nothing is reported."""
    basket = cluster.spawn(Basket, new_id("basket-"), things=["a"])
    for thing, sides in (("b", [ONE, TWO, THREE]), ("c", [THREE, ONE, TWO])):
        cluster.partition(*sides)
        cluster.advance(SILENCE)
        assert ask(cluster, basket, Basket.put, thing) == 2
    cluster.heal()
    until(cluster, lambda: basket.state().things == ["a", "b", "c"], "all things")
    assert not [data for event, data in heard if event == "conflict"]


def test_timers_and_signals_wait_for_a_leader(cluster: LocalCluster) -> None:
    """Those set before the cut as well as those set without a quorum; then each comes once."""
    bell, other = (cluster.spawn(Bell, new_id("bell-")) for _ in range(2))
    bell.call(Bell.wind, 300.0)
    cluster.partition(ONE, TWO, THREE)
    cluster.advance(SILENCE)
    ask(cluster, bell, Bell.tell, other.id, "dong")
    ask(cluster, other, Bell.wind, 10.0)
    cluster.advance(SILENCE)
    assert (bell.state().rung, other.state().rung, other.state().heard) == (0, 0, [])
    cluster.heal()
    until(cluster, lambda: bell.state().rung and other.state().rung, "the timers")
    until(cluster, lambda: other.state().heard, "the signal")
    cluster.advance(SILENCE)
    assert (bell.state().rung, other.state().rung, other.state().heard) == (1, 1, ["dong"])


def test_agents_are_made_and_ended_without_a_quorum(cluster: LocalCluster) -> None:
    """What is not known is not denied: it may be known elsewhere."""
    ended = cluster.spawn(Votes, new_id("votes-"))
    with split(cluster, ONE, TWO, THREE):
        ask(cluster, ended, Votes.add)
        with ThreadPoolExecutor(1) as pool:  # finding who stands in takes time
            made = wait_for(cluster, pool.submit(cluster.spawn, Votes, new_id("votes-")))
        assert made.call(Votes.add) == 1
        assert made.info().node == "node-1"
        assert [ask(cluster, cluster.ref(Door, "door-1"), Door.open) for _ in range(2)] == [1, 2]
        ended.delete()
        with pytest.raises(AgentNotFoundError):
            ended.call(Votes.add)
        with pytest.raises(NoQuorumError, match="too few replicas"):
            ask(cluster, cluster.ref(Votes, "nobody-knows"), Votes.add)
        with pytest.raises(NoQuorumError):
            wait_for(cluster, cluster.ref(Votes, "nobody-knows").submit(Votes.add))
    until(cluster, lambda: made.request(Votes.add).durability == "quorum", "a leader")
    assert until(cluster, lambda: made.state().count.value >= 2, "what it counted")
    assert cluster.ref(Door, "door-1").call(Door.open) == 3
    with pytest.raises(AgentNotFoundError):
        ended.call(Votes.add)


def test_what_is_in_memory_only_is_not_served_elsewhere(cluster: LocalCluster) -> None:
    """Nobody on this side has it, and nobody may make a twin of it."""
    refs = [cluster.spawn(Fleeting, new_id("fleeting-")) for _ in range(20)]
    far = next(ref for ref in refs if ref.info().node != "node-1")
    with split(cluster, ONE, TWO, THREE), pytest.raises((RejectedError, OutcomeUnknownError)):
        ask(cluster, far, Fleeting.ping)


def test_decisions_are_events_and_metrics(heard: Heard) -> None:
    """Who may serve, what was refused, what acted, and each stage of the healing."""
    registry = CollectorRegistry()
    metrics.attach(registry)
    try:
        with Cluster.local(nodes=3, config=CONFIG, virtual_time=True) as cluster:
            votes = cluster.spawn(Votes, new_id("votes-"))
            with split(cluster, ONE, TWO, THREE):
                ask(cluster, votes, Votes.add)
                with pytest.raises(NoQuorumError):
                    ask(cluster, cluster.ref("nobody"), "nothing")
            until(cluster, lambda: [one for one, _ in heard if one == "merged"], "a merge")
            healed = ("healing", "whole")
            until(cluster, lambda: Count(_stages(heard))[healed] == 3, "the end of healing")
    finally:
        metrics.detach(registry)
    admitted = [data for event, data in heard if event == "admission"]
    assert Count((one["strategy"], one["admitted"]) for one in admitted) == {
        ("pause_minority", False): 3,
        ("pause_minority", True): 3,
        ("leader_election", False): 3,
        ("leader_election", True): 3,
    }
    stages = [stage for _, stage in _stages([one for one in heard if one[1]["node"] == "node-1"])]
    names = "split settling record leaders entries copies signals directory report resting whole"
    assert stages == names.split()
    value = registry.get_sample_value
    assert value("jido_cluster_acted_total", {"what": "turn"}) == 1
    assert value("jido_cluster_refused_total", {"reason": "no_quorum"}) == 1
    assert value("jido_cluster_merged_total", {"outcome": "merged"}) >= 1
    assert value("jido_cluster_admissions_total", {"strategy": "pause_minority", "admitted": "no"})
    assert value("jido_cluster_healing_total", {"stage": "whole"}) == 3


def _stages(heard: Heard) -> list[tuple[str, str]]:
    return [(event, data["stage"]) for event, data in heard if event == "healing"]
