"""A local cluster whose time stands still until told: deadlines, idleness, and `settle`."""

import time
from collections.abc import Iterator

import pytest

from jido_cluster import (
    ActionTimeoutError,
    AgentLostError,
    Cluster,
    DeadlineExceededError,
    NoQuorumError,
    OutcomeUnknownError,
    UsageError,
)
from jido_cluster.testing import LocalCluster
from tests.contract.agents import Boss, Inbox, Sender
from tests.contract.support import wait_until
from tests.runtime.agents import Dozing, Drowsy, Fleeting, Step, Tally

# Of a call that finds no quorum: what its last attempt met, or that its time is up.
ENDS = (NoQuorumError, DeadlineExceededError, OutcomeUnknownError)


@pytest.fixture
def cluster() -> Iterator[LocalCluster]:
    with Cluster.local(nodes=2, virtual_time=True) as cluster:
        yield cluster


def test_time_stands_still_and_advances(cluster: LocalCluster) -> None:
    """`ctx.now` is the same until `advance`, and then so many seconds later."""
    ref = cluster.spawn(Tally, "t-1")
    begun = ref.call(Tally.now)
    assert ref.call(Tally.now) == pytest.approx(begun, abs=1e-3)
    cluster.advance(60.0)
    assert ref.call(Tally.now) == pytest.approx(begun + 60.0, abs=1e-3)


def test_a_client_that_was_silent_for_long_is_served_at_once(cluster: LocalCluster) -> None:
    """Its host has forgotten the link meanwhile; the next call needs no time to pass."""
    ref = cluster.spawn(Tally, "t-1")
    begun = ref.call(Tally.now)
    cluster.advance(3600.0)
    assert ref.submit(Tally.now).result(5) == pytest.approx(begun + 3600.0, abs=1e-3)


def test_an_hour_passes_in_no_time(cluster: LocalCluster) -> None:
    """Ten hours of a cluster with agents take seconds."""
    for n in range(20):
        cluster.spawn(Drowsy, f"d-{n}")
    begun = time.monotonic()
    cluster.advance(36_000.0)
    assert time.monotonic() - begun < 20.0


def test_deadlines_pass_in_virtual_time(cluster: LocalCluster) -> None:
    """Not before, and with the error of a real deadline."""
    call = cluster.spawn(Tally, "t-1").options(timeout=10.0).submit(Tally.nap, 60.0)
    wait_until(lambda: cluster.nodes()[0].load + cluster.nodes()[1].load > 0, "the turn")
    cluster.advance(9.0)
    assert not call.done()
    cluster.advance(2.0)
    assert isinstance(call.exception(10), ActionTimeoutError)


def test_a_handler_that_waits_goes_on_in_virtual_time(cluster: LocalCluster) -> None:
    """Its sleep ends when that much time has passed."""
    call = cluster.spawn(Tally, "t-1").submit(Tally.nap, 20.0)
    wait_until(lambda: cluster.nodes()[0].load + cluster.nodes()[1].load > 0, "the turn")
    cluster.advance(19.0)
    assert not call.done()
    cluster.advance(1.5)
    assert call.result(10) == 20.0


def test_idle_agents_leave_memory(cluster: LocalCluster) -> None:
    """After their type's time, counted from their last message; the next one wakes them."""
    ref = cluster.spawn(Drowsy, "d-1")
    cluster.advance(50.0)
    ref.call(Drowsy.add)
    cluster.advance(50.0)
    assert ref.info().is_active
    cluster.advance(30.0)
    assert not ref.info().is_active
    assert ref.call(Drowsy.add) == 2
    assert ref.state().starts == 2


def test_idleness_is_noticed_in_proportion_to_its_limit(cluster: LocalCluster) -> None:
    """A type that leaves after a second has left after two, whatever others there are."""
    cluster.advance(0.5)
    ref = cluster.spawn(Dozing, "d-1")
    cluster.advance(2.0)
    assert not ref.info().is_active


def test_results_are_remembered_for_a_quarter_of_an_hour(cluster: LocalCluster) -> None:
    """Until then a retry does not run; afterwards it does, once a newer one is remembered."""
    ref = cluster.spawn(Tally, "t-1")
    once = ref.options(op_id="once")
    assert once.call(Tally.add) == 1
    cluster.advance(850.0)
    assert once.call(Tally.add) == 1
    cluster.advance(1000.0)
    assert ref.options(op_id="another").call(Tally.add) == 2
    assert once.call(Tally.add) == 3


def test_outcomes_of_runs_are_kept_for_ten_minutes(cluster: LocalCluster) -> None:
    """Until then anybody can ask; afterwards nobody knows."""
    run = cluster.start(Step, {"key": "kept"})
    assert run.result() == "kept"
    cluster.advance(590.0)
    assert run.result() == "kept"
    cluster.advance(60.0)
    with pytest.raises(OutcomeUnknownError, match=run.run_id):
        run.result()


def test_only_virtual_time_can_be_advanced() -> None:
    """A cluster on real time says how to get the other kind."""
    with Cluster.local() as real, pytest.raises(UsageError, match="virtual_time=True"):
        real.advance(1.0)


def test_settle_waits_for_all_that_is_in_flight(cluster: LocalCluster) -> None:
    """Signals that set off signals, and turns of sync handlers: all done when it returns."""
    sender, inbox = cluster.spawn(Sender, "s-1"), cluster.spawn(Inbox, "i-1")
    sender.call(Sender.many, inbox.id, 300)
    cluster.settle()
    assert inbox.state().numbers == list(range(300))


def test_settle_waits_for_runs_and_their_replies(cluster: LocalCluster) -> None:
    """The runs' outcomes are in the state of the agent that started them."""
    boss = cluster.spawn(Boss, "b-1")
    boss.call(Boss.double, [1, 2, 3])
    cluster.settle()
    assert sorted(boss.state().values) == [2, 4, 6]


def test_a_killed_node_is_succeeded_before_much_time_passes() -> None:
    """What is kept in memory is lost, the rest goes on, also what is called at that moment."""
    with Cluster.local(nodes=3, virtual_time=True) as cluster:
        refs = [cluster.spawn(Tally, f"t-{n}") for n in range(20)]
        fleeting = [cluster.spawn(Fleeting, f"f-{n}") for n in range(20)]
        homes = {ref.id: ref.info().node for ref in (*refs, *fleeting)}
        assert "node-1" in {homes[ref.id] for ref in refs}
        cluster.advance(3000.0)
        cluster.kill("node-1")
        calls = [ref.submit(Tally.add) for ref in refs]
        cluster.advance(3.0)
        assert [call.result(10) for call in calls] == [1] * 20
        for ref in fleeting:
            if homes[ref.id] == "node-1":
                with pytest.raises(AgentLostError):
                    ref.call(Tally.add)
            else:
                assert ref.call(Tally.add) == 1


def test_a_node_that_is_back_makes_a_quorum(cluster: LocalCluster) -> None:
    """Two replicas are both needed: nothing is served until both are there, and nothing lost."""
    refs = [cluster.spawn(Tally, f"t-{n}") for n in range(6)]
    assert [ref.call(Tally.add) for ref in refs] == [1] * 6
    cluster.advance(3000.0)
    cluster.kill("node-1")
    calls = [ref.options(timeout=10.0).submit(Tally.put, 1) for ref in refs]
    cluster.advance(11.0)
    for call in calls:
        assert isinstance(call.exception(10), ENDS)
    cluster.restart("node-1")
    cluster.advance(1200.0)
    assert [ref.call(Tally.add) for ref in refs] == [2] * 6
