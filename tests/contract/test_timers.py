"""Timers: part of the agent's record, fired as turns, whichever node leads by then."""

from datetime import UTC, datetime, timedelta

import pytest

from jido_cluster import AgentRef, Cluster, ExecutionError
from tests.contract.replicated import Clock, Forgetful
from tests.contract.support import CONFIG, Mortal, spawn_on, wait_until


@pytest.fixture
def clock(cluster: Cluster, name: str) -> AgentRef[Clock]:
    return cluster.spawn(Clock, name)


def test_a_timer_fires_as_a_turn(clock: AgentRef[Clock]) -> None:
    """Not before its time; the handler sees for when it was planned; the object stays in memory."""
    before = datetime.now(UTC)
    clock.call(Clock.after, "one", 0.05)
    assert clock.state().ticks == []
    wait_until(lambda: clock.state().ticks, "the firing")
    state = clock.state()
    assert state.ticks == ["tick"]
    planned = datetime.fromisoformat(state.planned[0])
    assert before + timedelta(seconds=0.05) <= planned <= datetime.now(UTC)
    assert clock.info().version == 2
    clock.call(Clock.stop, "one")
    assert clock.state().starts == 1


def test_a_time_that_has_passed_fires_at_once(clock: AgentRef[Clock]) -> None:
    """Late, but with the time it was planned for."""
    when = datetime(2026, 1, 1, tzinfo=UTC)
    clock.call(Clock.at, "past", when)
    wait_until(lambda: clock.state().ticks, "the firing")
    assert clock.state().planned == [when.isoformat()]


def test_the_same_key_replaces_and_another_one_does_not(clock: AgentRef[Clock]) -> None:
    """An agent has one timer of each key."""
    clock.call(Clock.after, "one", 3600, "late")
    clock.call(Clock.after, "two", 0.1, "other")
    clock.call(Clock.after, "one", 0, "soon")
    wait_until(lambda: len(clock.state().ticks) == 2, "both firings")
    assert sorted(clock.state().ticks) == ["other", "soon"]


def test_an_ended_timer_does_not_fire(clock: AgentRef[Clock]) -> None:
    """Nor does one of a turn that failed; a later one of the agent shows that time has passed."""
    clock.call(Clock.after, "one", 0.1, "ended")
    clock.call(Clock.stop, "one")
    clock.call(Clock.stop, "there is none".replace(" ", "."))
    with pytest.raises(ExecutionError):
        clock.call(Clock.fail, "failed")
    clock.call(Clock.after, "two", 0.2, "mark")
    wait_until(lambda: clock.state().ticks, "the firing")
    assert clock.state().ticks == ["mark"]


def test_a_firing_may_set_its_own_timer_again(clock: AgentRef[Clock]) -> None:
    """The new one is not taken for the one that has just fired."""
    clock.call(Clock.again, 3)
    wait_until(lambda: len(clock.state().ticks) == 4, "the last firing")
    assert clock.state().ticks == ["left 3", "left 2", "left 1", "left 0"]


def test_a_cron_line_fires_again_and_again(clock: AgentRef[Clock]) -> None:
    """At whole seconds, each once."""
    clock.call(Clock.cron, "cron", "* * * * * *")
    wait_until(lambda: len(clock.state().ticks) >= 2, "two firings")
    clock.call(Clock.stop, "cron")
    planned = [datetime.fromisoformat(text) for text in clock.state().planned]
    assert all(one.microsecond == 0 for one in planned)
    assert len(set(planned)) == len(planned)


def test_timers_outlive_their_node(mortal: Mortal) -> None:
    """The next leader finds them in the record."""
    victim = mortal.victims[0]
    clock = spawn_on(mortal.cluster, victim, Clock)
    clock.call(Clock.after, "one", 1.0, "after all")
    mortal.kill(victim)
    wait_until(lambda: clock.state().ticks, "the firing")
    assert clock.state().ticks == ["after all"]
    assert clock.info().node != victim


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("none", "exactly one"),
        ("two", "exactly one"),
        ("naive", "time zone"),
        ("negative", ">= 0"),
        ("endless", ">= 0"),
        ("cron", "use a line like"),
        ("never", "day-of-month"),
        ("zone", "Europe/Paris"),
    ],
)
def test_wrong_times_are_refused_in_the_turn(clock: AgentRef[Clock], how: str, said: str) -> None:
    """The message names what is wrong; nothing is committed."""
    with pytest.raises(ExecutionError, match=said):
        clock.call(Clock.wrong, how)
    assert clock.info().version == 0


def test_what_could_never_be_delivered_is_refused(clock: AgentRef[Clock]) -> None:
    """A signal without a handler, or with data that do not fit."""
    with pytest.raises(ExecutionError, match="no handler for 'clock.nothing'"):
        clock.call(Clock.unknown)
    with pytest.raises(ExecutionError, match="text"):
        clock.call(Clock.misfit)


def test_an_agent_without_a_record_has_no_timers(cluster: Cluster, name: str) -> None:
    """It says so, instead of forgetting them."""
    with pytest.raises(ExecutionError, match='durability="none"'):
        cluster.spawn(Forgetful, name).call(Forgetful.try_it)


def test_virtual_time_meets_timers_on_the_dot(name: str) -> None:
    """However rarely the cluster looks by itself; what was missed fires once."""
    with Cluster.local(nodes=1, config=CONFIG, virtual_time=True) as cluster:
        clock = cluster.spawn(Clock, name)
        clock.call(Clock.after, "one", 5.0)
        cluster.advance(4.9)
        assert clock.state().ticks == []
        cluster.advance(0.2)
        cluster.settle()
        assert clock.state().ticks == ["tick"]
        clock.call(Clock.cron, "hourly", "0 * * * *")
        cluster.advance(3 * 3600)
        cluster.settle()
        planned = [datetime.fromisoformat(text) for text in clock.state().planned[1:]]
        assert [one.minute for one in planned] == [0, 0, 0]
        assert planned[1] - planned[0] == timedelta(hours=1)
