"""Attempts, pauses between them, what ends them, and what is done after the last."""

import asyncio
import gc
import weakref
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jido_cluster.errors import (
    ActionTimeoutError,
    DeadlineExceededError,
    ExecutionError,
    InvalidOutputError,
    JidoError,
    OverloadedError,
    RunCancelledError,
)
from jido_cluster.exec.context import Context
from jido_cluster.exec.engine import execute
from jido_cluster.exec.options import ResolvedOptions
from jido_cluster.exec.work import Work
from tests.exec.conftest import Heard
from tests.exec.loops import context, now, run_virtual

STEADY = ResolvedOptions(retry_jitter=0.0)


class Flaky:
    """Fails with the errors given, one for each attempt, then succeeds; notes when it was tried."""

    def __init__(self, *failures: BaseException | None, seconds: float = 0.0) -> None:
        self.failures = list(failures)
        self.seconds = seconds
        self.tried: list[float] = []
        self.contexts: list[Context] = []

    def work(self) -> Work:
        async def call(ctx: Context) -> str:
            self.tried.append(now())
            self.contexts.append(ctx)
            if self.seconds:
                await asyncio.sleep(self.seconds)
            failure = self.failures.pop(0) if self.failures else None
            if failure is not None:
                raise failure
            return "done"

        return Work.from_signature(call, name="flaky", version="3", with_context=True)

    @property
    def pauses(self) -> list[float]:
        return [round(b - a, 6) for a, b in zip(self.tried, self.tried[1:], strict=False)]


def compensation(calls: list[Any], failure: BaseException | None = None) -> Work:
    async def undo(self_: Any, error: JidoError, ctx: Context) -> None:
        calls.append((self_, type(error), ctx.remaining(), ctx.attempt))
        await asyncio.sleep(0.5)
        if failure is not None:
            raise failure

    return Work.from_model(undo, name="flaky.on_error", params=None, result=Any)


def test_transient_failures_are_retried_with_growing_pauses() -> None:
    """The third attempt succeeds, after one second and two."""
    flaky = Flaky(ConnectionError(), TimeoutError())

    async def main() -> None:
        run = context(attempt=0)
        options = replace(STEADY, max_retries=5)
        assert await execute(flaky.work(), (), {}, run, options) == "done"
        assert flaky.pauses == [1.0, 2.0]
        assert [own.attempt for own in flaky.contexts] == [1, 2, 3]
        assert {own.run_id for own in flaky.contexts} == {run.run_id}
        assert run.attempt == 3

    run_virtual(main)


def test_the_last_error_keeps_its_type_and_flags() -> None:
    """Retries used up: what the last attempt raised is what the caller gets."""
    last = OverloadedError("full", retry_after=0.0)
    flaky = Flaky(ConnectionError("first"), last)

    async def main() -> None:
        with pytest.raises(OverloadedError) as raised:
            await execute(flaky.work(), (), {}, context(attempt=0), replace(STEADY, max_retries=1))
        assert raised.value is last
        assert raised.value.retryable

    run_virtual(main)


def test_what_the_action_declares_is_retried() -> None:
    """`retry_on` looks at the exception as it was raised, not at what wraps it."""
    flaky = Flaky(KeyError("a"), KeyError("b"))

    async def main() -> None:
        options = replace(STEADY, max_retries=2, retry_on=(LookupError,))
        assert await execute(flaky.work(), (), {}, context(attempt=0), options) == "done"
        strict = Flaky(KeyError("a"))
        with pytest.raises(ExecutionError, match="KeyError"):
            await execute(strict.work(), (), {}, context(attempt=0), replace(STEADY, max_retries=2))
        assert len(strict.tried) == 1

    run_virtual(main)


def test_the_timeout_is_per_attempt() -> None:
    """Each attempt has it anew; the whole takes attempts and pauses together."""
    flaky = Flaky(seconds=9.0)

    async def main() -> None:
        begun = now()
        options = replace(STEADY, timeout=2.0, max_retries=2)
        with pytest.raises(ActionTimeoutError):
            await execute(flaky.work(), (), {}, context(attempt=0), options)
        assert len(flaky.tried) == 3
        assert now() - begun == pytest.approx(3 * 2 + 1 + 2)

    run_virtual(main)


def test_a_deadline_is_terminal() -> None:
    """No pause outlasts it and no attempt begins after it; the run ends early, with its error."""

    async def main() -> None:
        begun = now()
        flaky = Flaky(*[ConnectionError()] * 9)
        with pytest.raises(ExecutionError, match="ConnectionError"):
            await execute(
                flaky.work(), (), {}, context(4.0, attempt=0), replace(STEADY, max_retries=9)
            )
        assert flaky.pauses == [1.0, 2.0]
        assert now() - begun == 3.0
        slow = Flaky(seconds=9.0)
        with pytest.raises(ActionTimeoutError, match="deadline"):
            await execute(
                slow.work(), (), {}, context(4.0, attempt=0), replace(STEADY, max_retries=9)
            )
        assert len(slow.tried) == 1
        late = Flaky()
        with pytest.raises(DeadlineExceededError):
            await execute(
                late.work(), (), {}, context(0.0, attempt=0), replace(STEADY, max_retries=9)
            )
        assert late.tried == []

    run_virtual(main)


def test_an_attempts_own_limit_does_not_shorten_the_next_ones() -> None:
    """The deadline an attempt passes on is its own; the run's stays."""
    flaky = Flaky(ConnectionError())

    async def main() -> None:
        run = context(100.0, attempt=0)
        options = replace(STEADY, max_retries=1, timeout=5.0)
        await execute(flaky.work(), (), {}, run, options)
        left = [
            (own.deadline or 0.0) - at for own, at in zip(flaky.contexts, flaky.tried, strict=True)
        ]
        assert left == [5.0, 5.0]
        assert run.remaining() == 99.0

    run_virtual(main)


_failures = st.sampled_from([None, ConnectionError, ValueError, TimeoutError])


@given(
    st.lists(_failures, max_size=6),
    st.integers(0, 4),
    st.none() | st.floats(0.1, 20),
    st.floats(0, 3),
)
def test_attempts_are_bounded_whatever_happens(
    failures: list[Callable[[], Exception] | None],
    max_retries: int,
    deadline: float | None,
    seconds: float,
) -> None:
    """At most one plus the retries; none begins after the deadline; undone once, if it failed."""
    flaky = Flaky(*[one and one() for one in failures], seconds=seconds)
    undone: list[Any] = []

    async def main() -> None:
        begun = now()
        options = ResolvedOptions(max_retries=max_retries, timeout=2.0)
        run = context(deadline, attempt=0)
        undo = compensation(undone)
        work = _taking_self(flaky.work())
        try:
            await execute(work, ("me",), {}, run, options, compensation=undo)
        except JidoError:
            assert len(undone) == 1
        else:
            assert undone == []
        assert 1 <= len(flaky.tried) <= 1 + max_retries
        if deadline is not None:
            assert all(at < begun + deadline for at in flaky.tried)
        assert len(asyncio.all_tasks()) == 1

    run_virtual(main)


def _taking_self(work: Work) -> Work:
    async def call(self_: str, ctx: Context) -> Any:
        return await work.function(ctx)

    return Work.from_model(call, name=work.name, params=None, result=Any)


# ------------------------------------------------------------------ compensation


def _run_flaky(
    flaky: Flaky, undone: list[Any], failure: BaseException | None = None, **options: Any
) -> Callable[[], Any]:
    resolved = replace(STEADY, **options)
    return lambda: execute(
        _taking_self(flaky.work()),
        ("me",),
        {},
        context(5.0, attempt=0),
        resolved,
        compensation=compensation(undone, failure),
    )


def test_compensation_runs_once_after_the_last_attempt() -> None:
    """With the arguments of the run and its error, which keeps its type and says it went well."""
    undone: list[Any] = []

    async def main() -> None:
        flaky = Flaky(ConnectionError(), OverloadedError("x"))
        with pytest.raises(OverloadedError) as raised:
            await _run_flaky(flaky, undone, max_retries=1)()
        assert raised.value.details["compensated"] is True
        assert undone == [("me", OverloadedError, 30.0, 2)]

    run_virtual(main)


def test_compensation_runs_after_a_timeout_in_a_time_of_its_own() -> None:
    """The run's deadline is spent: undoing has the action's timeout to itself."""
    undone: list[Any] = []

    async def main() -> None:
        with pytest.raises(ActionTimeoutError) as raised:
            await _run_flaky(Flaky(seconds=60.0), undone, timeout=7.0)()
        assert raised.value.details["compensated"] is True
        assert undone == [("me", ActionTimeoutError, 7.0, 1)]

    run_virtual(main)


def test_a_failed_compensation_is_told_but_replaces_nothing() -> None:
    """The original error stays; the details say that undoing failed, and how."""
    undone: list[Any] = []

    async def main() -> None:
        with pytest.raises(ExecutionError, match="ValueError: first") as raised:
            await _run_flaky(Flaky(ValueError("first")), undone, KeyError("second"))()
        assert raised.value.details["compensated"] is False
        assert raised.value.details["compensation_error"] == "KeyError: 'second'"

    run_virtual(main)


def test_success_needs_no_compensation() -> None:
    """Nor does a failure that a retry mends."""
    undone: list[Any] = []

    async def main() -> None:
        assert await _run_flaky(Flaky(ConnectionError()), undone, max_retries=1)() == "done"

    run_virtual(main)
    assert undone == []


@pytest.mark.parametrize("moment", [0.5, 1.5], ids=["in an attempt", "between attempts"])
def test_a_cancelled_run_is_compensated_and_stays_cancelled(moment: float) -> None:
    """Whenever it is cancelled, what it did outside is undone, and nothing is left running."""
    undone: list[Any] = []
    flaky = Flaky(ConnectionError(), seconds=1.0)

    async def main() -> None:
        task = asyncio.ensure_future(_run_flaky(flaky, undone, max_retries=3)())
        await asyncio.sleep(moment)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert [one[1] for one in undone] == [RunCancelledError]
        assert len(asyncio.all_tasks()) == 1

    run_virtual(main)


def test_an_output_that_does_not_fit_is_not_retried() -> None:
    """The same code would make the same result."""
    tried: list[int] = []

    async def wrong() -> int:
        tried.append(1)
        return "many"  # type: ignore[return-value]

    async def main() -> None:
        work = Work.from_signature(wrong, name="wrong")
        options = replace(STEADY, max_retries=3)
        with pytest.raises(InvalidOutputError):
            await execute(work, (), {}, context(attempt=0), options, output=work.check_result)

    run_virtual(main)
    assert tried == [1]


# ------------------------------------------------------------------ telemetry


def test_events_tell_the_story_of_a_run(heard: Heard) -> None:
    """Start and end of each attempt, each retry with its pause, the compensation; nothing else."""

    async def main() -> str:
        run = context(attempt=0)
        with pytest.raises(ExecutionError):
            await execute(
                _taking_self(Flaky(ConnectionError(), ValueError("secret"), seconds=0.25).work()),
                ("secret",),
                {},
                run,
                replace(STEADY, max_retries=3),
                compensation=compensation([]),
                meta={"node": "n1"},
            )
        return run.run_id

    run_id = run_virtual(main)
    assert heard.names == ["start", "exception", "retry", "start", "exception", "compensate"]
    base = {"action": "flaky", "version": "1", "run_id": run_id, "node": "n1"}
    assert heard[0][1:] == ({"attempt": 1}, base)
    failed = base | {"error_kind": "execution_error", "retryable": True}
    assert heard[1][1:] == ({"attempt": 1, "duration": 0.25, "queue": 0.0}, failed)
    assert heard[2][1:] == ({"attempt": 1, "delay": 1.0}, failed)
    assert heard[4][1:] == (
        {"attempt": 2, "duration": 0.25, "queue": 0.0},
        failed | {"retryable": False},
    )
    undone = failed | {"retryable": False, "action": "flaky.on_error", "compensated": True}
    assert heard[5][1:] == ({"attempt": 2, "duration": 0.5}, undone)
    assert "secret" not in repr(heard)


def test_success_and_cancellation_are_told(heard: Heard) -> None:
    """A good run stops; a cancelled one ends as an exception of kind `cancelled`."""

    async def main() -> None:
        await execute(Flaky().work(), (), {}, context(attempt=0), STEADY)
        task = asyncio.ensure_future(
            execute(Flaky(seconds=5.0).work(), (), {}, context(attempt=0), STEADY)
        )
        await asyncio.sleep(1.0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run_virtual(main)
    assert heard.names == ["start", "stop", "start", "exception"]
    assert heard[1][2]["version"] == "3"
    assert heard[3][2]["error_kind"] == "cancelled"


def test_a_failed_run_keeps_nothing_alive() -> None:
    """The error that was raised does not hold the frame that raised it, in a cycle."""

    class Thing:
        pass

    async def main() -> weakref.ref[Thing]:
        thing = Thing()
        there = weakref.ref(thing)

        async def fails(ctx: Context) -> None:
            assert thing is not None
            raise ExecutionError("x")

        work = Work.from_signature(fails, name="fails", with_context=True)
        with pytest.raises(ExecutionError):
            await execute(work, (), {}, context(attempt=0), replace(STEADY, max_retries=1))
        return there

    gc.collect()
    gc.disable()
    try:
        there = run_virtual(main)
        assert there() is None
    finally:
        gc.enable()
