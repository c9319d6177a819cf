"""Circuit breakers: what opens them, what closes them, what counts, and who shares them."""

import asyncio
import gc
import multiprocessing
import os
import pickle
import threading
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jido_cluster import telemetry
from jido_cluster.errors import (
    ActionTimeoutError,
    AgentNotFoundError,
    CircuitOpenError,
    ConfigError,
    DeadlineExceededError,
    ExecutionError,
    InvalidInputError,
    JidoError,
    NoQuorumError,
    OutcomeUnknownError,
    OverloadedError,
    RunCancelledError,
)
from jido_cluster.exec import Action, Context, action, breaker, run
from jido_cluster.exec.breaker import Breaker, Permit, breaker_of
from jido_cluster.exec.failures import never_started
from tests.exec.conftest import Heard


class Clock:
    """The breakers' clock: it stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """A clock for the breakers, and no breaker known before or after."""
    standing = Clock()
    monkeypatch.setattr(breaker, "monotonic", standing)
    monkeypatch.setattr(breaker, "_circuits", {})
    return standing


TROUBLE = ExecutionError("down", retryable=True)


def fail(target: Breaker, times: int = 1, error: JidoError = TROUBLE) -> None:
    for _ in range(times):
        target.admit().fail(error)


# ------------------------------------------------------------------ the states


def test_failures_in_a_row_open_it() -> None:
    """So many and no fewer; a success in between starts the count anew."""
    guard = Breaker("a", failures=3)
    fail(guard, 2)
    guard.admit().succeed()
    fail(guard, 2)
    assert str(guard.state) == "closed"
    fail(guard)
    assert str(guard.state) == "open"


def test_an_open_breaker_refuses_until_its_time_is_up(clock: Clock) -> None:
    """The error says how long; refusals are counted and prolong nothing."""
    guard = Breaker("a", failures=1, reset=10.0)
    fail(guard)
    clock.now += 4.0
    with pytest.raises(CircuitOpenError, match=r"'a' is open: not tried for 6 s") as raised:
        guard.admit()
    assert raised.value.retry_after == pytest.approx(6.0)
    assert raised.value.retryable
    assert guard.statistics().retry_after == pytest.approx(6.0)
    clock.now += 6.0
    guard.admit().succeed()
    assert str(guard.state) == "closed"
    found = guard.statistics()
    assert (found.total_failed, found.total_succeeded, found.total_refused) == (1, 1, 1)
    assert (found.total_opened, found.running, found.retry_after) == (1, 0, 0.0)


def test_half_open_admits_one_probe(clock: Clock) -> None:
    """The others are refused until it has ended; its failure opens for a whole reset again."""
    guard = Breaker("a", failures=2, reset=10.0)
    fail(guard, 2)
    clock.now += 10.0
    probe = guard.admit()
    assert str(guard.state) == "half-open"
    for _ in range(3):
        with pytest.raises(CircuitOpenError, match="is half-open") as raised:
            guard.admit()
        assert raised.value.retry_after == 1.0
    probe.fail(TROUBLE)
    assert str(guard.state) == "open"
    with pytest.raises(CircuitOpenError) as raised:
        guard.admit()
    assert raised.value.retry_after == pytest.approx(10.0)
    clock.now += 10.0
    guard.admit().succeed()
    fail(guard)
    assert str(guard.state) == "closed"  # the count has begun anew


@pytest.mark.parametrize("end", [Permit.release, lambda one: one.fail(InvalidInputError("x"))])
def test_a_probe_that_says_nothing_makes_room_for_the_next(
    clock: Clock, end: Callable[[Permit], None]
) -> None:
    """Cancelled, or refused by the service: neither closes nor opens."""
    guard = Breaker("a", failures=1)
    fail(guard)
    clock.now += 30.0
    end(guard.admit())
    assert str(guard.state) == "half-open"
    guard.admit().succeed()
    assert str(guard.state) == "closed"


def test_a_probe_that_never_ends_is_given_up(clock: Clock) -> None:
    """After as long as a reset another one may try; what the first says then counts no more."""
    guard = Breaker("a", failures=1, reset=5.0)
    fail(guard)
    clock.now += 5.0
    lost = guard.admit()
    clock.now += 4.5
    with pytest.raises(CircuitOpenError) as raised:
        guard.admit()
    assert raised.value.retry_after == pytest.approx(0.5)
    clock.now += 0.5
    second = guard.admit()
    lost.fail(TROUBLE)
    assert str(guard.state) == "half-open"
    second.succeed()
    assert str(guard.state) == "closed"


def test_what_began_before_a_change_says_nothing_after_it(clock: Clock) -> None:
    """A slow success closes no open breaker, a slow failure opens no closed one."""
    guard = Breaker("a", failures=1)
    slow = [guard.admit() for _ in range(3)]
    fail(guard)
    slow[0].succeed()
    slow[1].fail(TROUBLE)
    assert str(guard.state) == "open"
    clock.now += 30.0
    guard.admit().succeed()
    slow[2].fail(TROUBLE)
    found = guard.statistics()
    assert (found.state, found.failures, found.running) == ("closed", 0, 0)


def test_a_step_of_the_wall_clock_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine underneath reads the wall clock; nobody asks it what it found."""
    import pybreaker

    guard = Breaker("a", failures=1)
    fail(guard)

    class Later(pybreaker.datetime):  # type: ignore[misc,name-defined]
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return super().now(tz).replace(year=2090)

    monkeypatch.setattr(pybreaker, "datetime", Later)
    with pytest.raises(CircuitOpenError):
        guard.admit()


_steps = st.lists(
    st.sampled_from(["admit", "succeed", "fail", "release", "refuse", "wait"]), max_size=60
)


@given(_steps, st.integers(1, 4))
def test_it_is_the_obvious_machine(steps: list[str], failures: int) -> None:
    """Against a few lines that do the same, one attempt at a time and several overlapping."""
    breaker._circuits.clear()
    clock = Clock()
    vars(breaker)["monotonic"] = clock
    guard = Breaker("model", failures=failures, reset=10.0)
    state, count, since, period = "closed", 0, 0.0, 0
    open_permits: list[tuple[Permit, int, bool]] = []
    probing = False
    for step in steps:
        if step == "wait":
            clock.now += 4.0
        elif step == "admit":
            if state == "open" and clock.now >= since + 10.0:
                state, probing, period = "half-open", False, period + 1
            allowed = state == "closed" or (
                state == "half-open" and (not probing or clock.now >= since + 10.0)
            )
            if not allowed:
                with pytest.raises(CircuitOpenError):
                    guard.admit()
                continue
            if state == "half-open":
                open_permits = [(one, at, False) for one, at, _ in open_permits]
                probing, since = True, clock.now
            open_permits.append((guard.admit(), period, state == "half-open"))
        elif open_permits:
            permit, at, is_probe = open_permits.pop(0)
            error: JidoError = TROUBLE if step == "fail" else InvalidInputError("x")
            {
                "succeed": permit.succeed,
                "release": permit.release,
            }.get(step, lambda permit=permit, error=error: permit.fail(error))()
            if at == period and (state == "closed" or is_probe):
                probing = False
                if step == "succeed":
                    count = 0
                    if state == "half-open":
                        state, period = "closed", period + 1
                elif step == "fail":
                    count += 1
                    if state == "half-open" or count >= failures:
                        state, since, count, period = "open", clock.now, 0, period + 1
        assert guard.state == state
        assert guard.statistics().running == len(open_permits)


# ------------------------------------------------------------------ what counts


@pytest.mark.parametrize(
    ("error", "counts"),
    [
        (ExecutionError("x", retryable=True), True),
        (ActionTimeoutError("x"), True),
        (OutcomeUnknownError("x"), True),
        (OverloadedError("x"), True),
        (NoQuorumError("x"), True),
        (ExecutionError("declined"), False),
        (InvalidInputError("x"), False),
        (AgentNotFoundError("x"), False),
        (ConfigError("x"), False),
        (RunCancelledError("x"), False),
        (CircuitOpenError("another one's"), False),
        (never_started(OverloadedError("our own pool")), False),
        (never_started(DeadlineExceededError("ours")), False),
    ],
    ids=repr,
)
def test_only_trouble_counts(error: JidoError, counts: bool) -> None:
    """Not what validation, business, cancellation or a fast refusal say."""
    guard = Breaker("a", failures=2)
    fail(guard, error=error)
    assert guard.statistics().failures == int(counts)
    assert guard.statistics().total_failed == int(counts)


def test_a_refusal_in_between_does_not_reset_the_count() -> None:
    """A service that says no to one caller may fail the others all the same."""
    guard = Breaker("a", failures=2)
    fail(guard)
    fail(guard, error=InvalidInputError("x"))
    fail(guard)
    assert str(guard.state) == "open"


# ------------------------------------------------------------------ around runs


@action(name="breaker.call")
async def call(how: str = "ok", seconds: float = 0.0) -> str:
    if seconds:
        await asyncio.sleep(seconds)
    if how == "down":
        raise ConnectionError("down")
    if how == "bug":
        raise KeyError("bug")
    if how == "no":
        raise ExecutionError("declined")
    return how


class Undone(Action, name="breaker.undone"):
    calls: list[int] = []

    async def run(self, params: Any, ctx: Context) -> None:
        raise ConnectionError("down")

    def on_error(self, params: Any, error: JidoError, ctx: Context) -> None:
        self.calls.append(ctx.attempt)


def test_a_run_is_refused_at_once_while_open(heard: Heard) -> None:
    """Nothing starts; telemetry hears of a refusal; nothing is undone, as nothing was done."""
    guard = Breaker("a", failures=2)
    Undone.calls.clear()

    async def main() -> None:
        for _ in range(2):
            with pytest.raises(ExecutionError):
                await run(Undone, breaker=guard)
        assert Undone.calls == [1, 1]
        heard.clear()
        with pytest.raises(CircuitOpenError) as raised:
            await run(Undone, breaker=guard)
        assert "compensated" not in raised.value.details

    asyncio.run(main())
    assert Undone.calls == [1, 1]
    assert heard.names == ["exception"]
    assert heard[0][1] == {"duration": 0.0, "queue": 0.0, "attempt": 1}
    assert heard[0][2]["error_kind"] == "circuit_open"


def test_each_attempt_is_admitted_by_itself(clock: Clock) -> None:
    """Retries fail it open, and the next attempt of the same run is refused."""
    guard = Breaker("a", failures=2)

    async def main() -> None:
        with pytest.raises(CircuitOpenError):
            await run(
                call,
                {"how": "down"},
                breaker=guard,
                max_retries=5,
                retry_delay=0,
                retry_max_delay=0,
            )

    asyncio.run(main())
    found = guard.statistics()
    assert (found.total_failed, found.total_refused, found.running) == (2, 4, 0)


@pytest.mark.parametrize(("how", "failed"), [("ok", 0), ("no", 0), ("bug", 1), ("down", 1)])
def test_the_outcome_of_a_run_is_recorded(how: str, failed: int) -> None:
    """An exception out of the blue is trouble; an error raised on purpose is an answer."""
    guard = Breaker("a")

    async def main() -> None:
        try:
            await run(call, {"how": how}, breaker=guard)
        except JidoError:
            assert how != "ok"

    asyncio.run(main())
    found = guard.statistics()
    assert (found.total_failed, found.total_succeeded) == (failed, int(how == "ok"))
    assert found.running == 0


def test_runs_through_one_breaker_overlap() -> None:
    """It admits and records; it does not hold a lock around what it guards."""
    guard = Breaker("a")

    async def main() -> None:
        running = [asyncio.ensure_future(run(call, {"seconds": 5.0}, breaker=guard)) for _ in "abc"]
        await asyncio.sleep(0.01)
        assert guard.statistics().running == 3
        for one in running:
            one.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        found = guard.statistics()
        assert (found.running, found.total_failed) == (0, 0)

    asyncio.run(main())


def test_an_inner_refusal_is_the_outer_actions_trouble() -> None:
    """What an action lets through from a call of its own has happened to it."""
    inner, outer = Breaker("inner", failures=1), Breaker("outer")

    @action(name="breaker.outer")
    async def calls() -> None:
        raise OverloadedError("a pool below")

    @action(name="breaker.outermost")
    async def passes() -> str:
        return await run(call, {"how": "ok"}, breaker=inner)

    async def main() -> None:
        with pytest.raises(OverloadedError):
            await run(calls, breaker=outer)
        assert outer.statistics().total_failed == 1
        fail(inner)
        with pytest.raises(CircuitOpenError):
            await run(passes, breaker=outer)
        assert outer.statistics().total_failed == 1  # a refusal by another breaker

    asyncio.run(main())


def test_changes_are_told(clock: Clock) -> None:
    """Each change of state, with the one before; nothing else."""
    told: list[Any] = []
    telemetry.attach("changes", "jido.exec.breaker", lambda *event: told.append(event))
    guard = Breaker("a", failures=1)
    fail(guard, 1)
    clock.now += 30.0
    fail(guard, 1)
    clock.now += 30.0
    guard.admit().succeed()
    guard.admit().succeed()
    telemetry.detach("changes")
    changes = [(metadata["previous"], metadata["state"]) for _, _, metadata in told]
    assert changes == [
        ("closed", "open"),
        ("open", "half-open"),
        ("half-open", "open"),
        ("open", "half-open"),
        ("half-open", "closed"),
    ]
    assert told[2] == (
        "jido.exec.breaker",
        {"opened": 2},
        {"breaker": "a", "state": "open", "previous": "half-open"},
    )


# ------------------------------------------------------------------ who shares it


def test_one_name_is_one_breaker() -> None:
    """Also by pickle, and after nobody holds it."""
    fail(Breaker("a", failures=2))
    gc.collect()
    copy = pickle.loads(pickle.dumps(Breaker("a", failures=2)))
    assert copy == Breaker("a", failures=2)
    assert len({copy, Breaker("a", failures=2)}) == 1
    assert copy != "a"
    fail(copy)
    assert Breaker("a", failures=2).state == "open"
    assert repr(copy) == "Breaker('a', failures=2, reset=30)"


def test_one_name_has_one_setting_here() -> None:
    """A second definition that differs is refused; one that comes from elsewhere is newer."""
    Breaker("a", failures=2)
    with pytest.raises(ConfigError, match=r"'a' exists with failures=2, reset=30"):
        Breaker("a", failures=3)
    newer = breaker_of("a", 3, 1.0)
    assert (newer.failures, newer.reset) == (3, 1.0)
    assert Breaker("a", failures=3, reset=1.0) == newer
    assert breaker_of("fresh", 3, 1.0).state == "closed"


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("", {}, "name='' is not an id"),
        (None, {}, "name=None is not an id"),
        ("a b", {}, "name='a b' is not an id"),
        ("a", {"failures": 0}, "failures=0: it must be a number >= 1"),
        ("a", {"failures": 1.5}, "failures=1.5"),
        ("a", {"failures": True}, "failures=True"),
        ("a", {"reset": 0}, "reset=0: it must be seconds > 0"),
        ("a", {"reset": float("inf")}, "reset=inf"),
        ("a", {"reset": float("nan")}, "reset=nan"),
        ("a", {"reset": "5"}, "reset='5'"),
        ("a", {"reset": True}, "reset=True"),
    ],
)
def test_ill_settings_are_refused(name: Any, settings: dict[str, Any], words: str) -> None:
    """Nothing is registered."""
    with pytest.raises(ConfigError, match=words):
        Breaker(name, **settings)
    assert breaker._circuits == {}


def test_names_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Room is made by those that are as new; when none is, the name is refused with the reason."""
    monkeypatch.setattr(breaker, "MAX_BREAKERS", 3)
    for name in "abc":
        Breaker(name, failures=1)
    fail(Breaker("a", failures=1))
    Breaker("d", failures=1)
    assert sorted(breaker._circuits) == ["a", "d"]
    for name in "de":
        fail(Breaker(name, failures=1))
    with pytest.raises(ConfigError, match="3 breakers are open or in use"):
        Breaker("f")
    assert Breaker("a", failures=1).state == "open"


def test_threads_share_it() -> None:
    """No count is lost between them."""
    guard = Breaker("a", failures=10_000)

    def work() -> None:
        for _ in range(1000):
            fail(guard)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert guard.statistics().failures == 4000
    assert guard.statistics().running == 0


def _child() -> None:
    os._exit(0 if Breaker("a", failures=1).state == "closed" else 1)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_fork_starts_afresh() -> None:
    """Also when it was made while another thread held the lock."""
    fail(Breaker("a", failures=1))
    child = multiprocessing.get_context("fork").Process(target=_child)
    with breaker._lock:
        child.start()
    child.join(20.0)
    assert child.exitcode == 0
