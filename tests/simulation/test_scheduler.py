"""Virtual time: order, cancelling, processes that end, pause and lag, and clocks that differ."""

from collections.abc import Callable

import pytest

from jido_state.simulation import Scheduler
from jido_state.simulation.scheduler import WALL_EPOCH_MS


class Log(list[tuple[int, object]]):
    """What happened when."""

    def __init__(self, scheduler: Scheduler) -> None:
        super().__init__()
        self.scheduler = scheduler

    def note(self, what: object) -> None:
        self.append((self.scheduler.now_us, what))


@pytest.fixture
def scheduler() -> Scheduler:
    return Scheduler()


@pytest.fixture
def log(scheduler: Scheduler) -> Log:
    return Log(scheduler)


def test_events_happen_in_the_order_of_time_and_then_of_asking(
    scheduler: Scheduler, log: Log
) -> None:
    """Ties are broken by who asked first, whoever that was."""
    scheduler.start(1)
    scheduler.after(20, log.note, "c")
    scheduler.after(10, log.note, "a")
    scheduler.after_on(1, 10, log.note, "b")
    assert scheduler.waiting == 3
    assert scheduler.run(100) == 3
    assert log == [(10, "a"), (10, "b"), (20, "c")]
    assert scheduler.now_us == 100


def test_a_run_ends_at_its_time_or_when_told(scheduler: Scheduler, log: Log) -> None:
    """Events at the end still happen; later ones wait for the next run."""
    for delay in (10, 20, 30):
        scheduler.after(delay, log.note, delay)
    scheduler.run(20)
    assert log == [(10, 10), (20, 20)]
    scheduler.after(50, log.note, 70)
    assert scheduler.run(1000, stop=lambda: len(log) == 3) == 1
    assert scheduler.now_us == 30
    assert scheduler.step()
    assert not scheduler.step()
    assert log[-1] == (70, 70)


def test_an_event_that_is_cancelled_does_not_happen(scheduler: Scheduler, log: Log) -> None:
    """Cancelling twice, or too late, has no effect."""
    first, second = scheduler.after(10, log.note, 1), scheduler.after(20, log.note, 2)
    scheduler.cancel(first)
    assert scheduler.step()
    scheduler.cancel(first)
    scheduler.cancel(second)
    assert not scheduler.step()
    assert log == [(20, 2)]


def test_events_may_ask_for_others(scheduler: Scheduler, log: Log) -> None:
    """An event at the same moment comes after those that were asked for before."""

    def again(left: int) -> None:
        log.note(left)
        if left:
            scheduler.after(0, again, left - 1)

    scheduler.after(5, again, 2)
    scheduler.after(5, log.note, "other")
    scheduler.run(10)
    assert log == [(5, 2), (5, "other"), (5, 1), (5, 0)]


def test_a_process_takes_its_events_with_it(scheduler: Scheduler, log: Log) -> None:
    """What a process asked for does not happen to the next one; the world's events do."""
    scheduler.start(1)
    scheduler.after_on(1, 10, log.note, "timer of the first")
    scheduler.after(10, log.note, "of the world")
    scheduler.end(1)
    assert not scheduler.is_running(1)
    assert not scheduler.run_on(1, log.note, "nobody there")
    scheduler.after_on(1, 5, log.note, "asked of nobody")
    scheduler.start(1)
    scheduler.after_on(1, 10, log.note, "timer of the second")
    assert scheduler.run_on(1, log.note, "now")
    scheduler.start(1)
    scheduler.run(100)
    assert log == [(0, "now"), (10, "of the world")]


def test_a_paused_process_gets_everything_late_and_in_order(scheduler: Scheduler, log: Log) -> None:
    """Timers and arrivals wait, and happen in their old order; other nodes go on."""
    scheduler.start(1)
    scheduler.start(2)
    scheduler.after_on(1, 10, log.note, "timer")
    scheduler.after(15, scheduler.run_on, 1, log.note, "arrival")
    scheduler.after_on(2, 12, log.note, "other node")
    scheduler.pause(1)
    scheduler.pause(1)
    assert scheduler.is_paused(1)
    scheduler.run(50)
    assert log == [(12, "other node")]
    scheduler.resume(1)
    scheduler.after_on(1, 0, log.note, "after")
    scheduler.run(60)
    assert log[1:] == [(50, "timer"), (50, "arrival"), (50, "after")]
    scheduler.resume(1)


def test_a_process_that_is_killed_in_a_pause_loses_what_waited(
    scheduler: Scheduler, log: Log
) -> None:
    """The next one starts awake, and empty."""
    scheduler.start(1)
    scheduler.pause(1)
    scheduler.run_on(1, log.note, "waiting")
    scheduler.start(1)
    assert not scheduler.is_paused(1)
    scheduler.pause(2)
    assert not scheduler.is_paused(2)
    scheduler.resume(1)
    scheduler.run(10)
    assert log == []


def test_a_lag_ends_by_itself(scheduler: Scheduler, log: Log) -> None:
    """A loop that is blocked goes on after its time, with all that waited."""
    scheduler.start(1)
    scheduler.after_on(1, 5, log.note, "timer")
    scheduler.lag(1, 30)
    scheduler.lag(1, 1)
    scheduler.run(100)
    assert log == [(30, "timer")]


@pytest.mark.parametrize(
    ("meanwhile", "expected"),
    [
        (lambda s: s.pause(1), []),
        (lambda s: s.resume(1), [(5, "timer")]),
        (lambda s: s.start(1), []),
    ],
    ids=["paused", "resumed", "restarted"],
)
def test_a_lag_gives_way(
    scheduler: Scheduler,
    log: Log,
    meanwhile: Callable[[Scheduler], None],
    expected: list[tuple[int, object]],
) -> None:
    """A pause outlasts it, a resume ends it, and it does not wake the next process's pause."""
    scheduler.start(1)
    scheduler.after_on(1, 5, log.note, "timer")
    scheduler.lag(1, 30)
    scheduler.run(3)
    meanwhile(scheduler)
    scheduler.run(4)
    scheduler.after(2, scheduler.pause, 1)
    scheduler.run(100)
    assert log == expected
    assert scheduler.is_paused(1)


def test_clocks_differ_and_wall_clocks_jump(scheduler: Scheduler) -> None:
    """Offsets move wall clocks alone, drift moves both, and no two monotonic clocks compare."""
    scheduler.set_clock(1, offset_ms=60_000)
    scheduler.set_clock(2, offset_ms=-5, drift_ppm=500)
    started = [scheduler.monotonic_ms(node) for node in range(3)]
    assert len(set(started)) == 3
    scheduler.run(10_000_000)
    passed = [scheduler.monotonic_ms(node) - started[node] for node in range(3)]
    assert passed == [10_000, 10_000, 10_005]
    assert scheduler.wall_ms(0) == WALL_EPOCH_MS + 10_000
    assert scheduler.wall_ms(1) == WALL_EPOCH_MS + 70_000
    assert scheduler.wall_ms(2) == WALL_EPOCH_MS + 10_000
    for node in (1, 2):
        scheduler.set_clock(node, offset_ms=0)
    assert scheduler.wall_ms(1) == WALL_EPOCH_MS + 10_000
    assert [scheduler.monotonic_ms(node) - started[node] for node in range(3)] == passed
