"""One attempt: time limits, cancellation, what errors become, and where the work runs.

The time limit must behave as `asyncio.timeout` does, so the scenarios run under both and must tell
the same story.
"""

import asyncio
import gc
import logging
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import ContextVar
from typing import Any

import pydantic
import pytest
import uvloop

from jido_cluster.errors import (
    ActionTimeoutError,
    AgentNotFoundError,
    DeadlineExceededError,
    ExecutionError,
    InvalidOutputError,
    OverloadedError,
)
from jido_cluster.exec import threads
from jido_cluster.exec.context import Context, current_context
from jido_cluster.exec.engine import perform
from jido_cluster.exec.work import Work
from tests.exec.loops import VirtualLoop, context, now, run_virtual

Story = list[Any]
Scenario = Callable[[Story], Coroutine[Any, Any, Any]]


def work_of(function: Callable[..., Any], name: str = "test.work") -> Work:
    return Work.from_signature(function, name=name, with_context=True)


async def under_perform(scenario: Scenario, story: Story, seconds: float | None) -> Any:
    async def call() -> Any:
        return await scenario(story)

    return await perform(work_of(call), (), {}, context(), seconds)


async def under_asyncio(scenario: Scenario, story: Story, seconds: float | None) -> Any:
    async with asyncio.timeout(seconds):
        return await scenario(story)


# ------------------------------------------------------------------ as asyncio.timeout


async def quick(story: Story) -> str:
    story.append("ran")
    return "done"


async def slow(story: Story) -> str:
    try:
        await asyncio.sleep(5)
    finally:
        story.append(("left", now()))
    return "done"


async def in_steps(story: Story) -> str:
    for step in range(20):
        await asyncio.sleep(0.1)
        story.append(step)
    return "done"


async def swallows_and_returns(story: Story) -> str:
    try:
        await asyncio.sleep(5)
    except asyncio.CancelledError:
        story.append(("swallowed", now()))
    await asyncio.sleep(0.25)
    return "late"


async def goes_on_and_raises_it_late(story: Story) -> str:
    try:
        await asyncio.sleep(5)
    except asyncio.CancelledError:
        await asyncio.sleep(2)
        story.append(now())
        raise
    return "done"


async def turns_it_into_an_error(story: Story) -> None:
    try:
        await asyncio.sleep(5)
    except asyncio.CancelledError:
        story.append("caught")
        raise KeyError("other") from None


async def inner_limit_first(story: Story) -> str:
    try:
        async with asyncio.timeout(0.5):
            await asyncio.sleep(5)
    except TimeoutError:
        story.append(("inner", now()))
    return "went on"


async def inner_limit_same(story: Story) -> str:
    try:
        async with asyncio.timeout(1.0):
            await asyncio.sleep(5)
    except TimeoutError:
        story.append("inner")
    return "went on"


async def inner_limit_later(story: Story) -> str:
    try:
        async with asyncio.timeout(3.0):
            await asyncio.sleep(5)
    except TimeoutError:
        story.append("inner")
    return "went on"


async def in_a_task_group(story: Story) -> str:
    async with asyncio.TaskGroup() as group:
        for number in range(3):
            group.create_task(slow(story), name=str(number))
    return "done"


async def in_a_gather(story: Story) -> str:
    await asyncio.gather(slow(story), in_steps(story))
    return "done"


async def shields(story: Story) -> None:
    inner = asyncio.ensure_future(slow(story))
    try:
        await asyncio.shield(inner)
    finally:
        inner.cancel()


async def cancels_itself(story: Story) -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    story.append("before")
    await asyncio.sleep(0)
    story.append("never")


async def same_task(story: Story) -> bool:
    before = asyncio.current_task()
    await asyncio.sleep(0.1)
    story.append(before is not None)
    return asyncio.current_task() is before


async def raises_timeout_itself(story: Story) -> None:
    story.append("own")
    await asyncio.sleep(0.1)
    raise TimeoutError("the service did not answer")


async def waits_in_finally(story: Story) -> None:
    try:
        await asyncio.sleep(5)
    finally:
        await asyncio.sleep(0.5)
        story.append(("cleaned", now()))


SCENARIOS: list[Scenario] = [
    quick,
    slow,
    in_steps,
    swallows_and_returns,
    goes_on_and_raises_it_late,
    turns_it_into_an_error,
    inner_limit_first,
    inner_limit_same,
    inner_limit_later,
    in_a_task_group,
    in_a_gather,
    shields,
    cancels_itself,
    same_task,
    raises_timeout_itself,
    waits_in_finally,
]


def ending(error: BaseException) -> str:
    """The kind of end, in words that fit both."""
    if isinstance(error, ActionTimeoutError):
        return "timed out"
    if isinstance(error, TimeoutError):
        return (
            "timed out" if isinstance(error.__cause__, asyncio.CancelledError) else "TimeoutError"
        )
    if isinstance(error, ExecutionError):
        return type(error.__cause__).__name__
    return type(error).__name__


async def tell(
    under: Callable[..., Awaitable[Any]],
    scenario: Scenario,
    seconds: float | None,
    cancel_at: tuple[float, ...],
) -> tuple[Any, ...]:
    """How the scenario ends, when, what it noted, and what it leaves of the task's state."""
    story: Story = []
    begun = now()

    async def main() -> Any:
        try:
            return ("returned", await under(scenario, story, seconds))
        except Exception as error:
            return ("raised", ending(error))
        finally:
            task = asyncio.current_task()
            assert task is not None
            story.append(("cancelling", task.cancelling()))

    task = asyncio.ensure_future(main())
    for moment in cancel_at:
        asyncio.get_running_loop().call_later(moment, task.cancel)
    await asyncio.wait([task])
    ended = "cancelled" if task.cancelled() else task.result()
    return ended, now() - begun, [_relative(note, begun) for note in story]


def _relative(note: Any, begun: float) -> Any:
    if isinstance(note, tuple):
        return tuple(_relative(part, begun) for part in note)
    return round(note - begun, 6) if isinstance(note, float) else note


@pytest.mark.parametrize("cancel_at", [(), (0.4,), (1.0,), (1.1,), (0.4, 0.6)], ids=str)
@pytest.mark.parametrize("seconds", [None, 1.0, 10.0])
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda one: one.__name__)
def test_a_time_limit_behaves_as_asyncio_timeout(
    scenario: Scenario, seconds: float | None, cancel_at: tuple[float, ...]
) -> None:
    """Result or kind of error, time, notes and the task's cancel count are the same."""

    async def both() -> tuple[Any, Any]:
        expected = await tell(under_asyncio, scenario, seconds, cancel_at)
        return expected, await tell(under_perform, scenario, seconds, cancel_at)

    expected, found = run_virtual(both)
    assert found == expected


@pytest.mark.parametrize("factory", [asyncio.new_event_loop, uvloop.new_event_loop, VirtualLoop])
def test_every_loop_times_out_and_goes_on(
    factory: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    """The limit ends the wait, nested limits too, and the task is fit for more."""

    async def forever() -> None:
        await asyncio.Event().wait()

    async def nested() -> None:
        await perform(work_of(forever, "inner"), (), {}, context(), 0.01)

    async def main() -> str:
        for work, name in ((forever, "outer"), (nested, "inner")):
            with pytest.raises(ActionTimeoutError, match=name):
                await perform(work_of(work, "outer"), (), {}, context(), 0.02)
        await asyncio.sleep(0)
        return "fit"

    with asyncio.Runner(loop_factory=factory) as runner:
        assert runner.run(main()) == "fit"


def test_a_coroutine_that_does_not_suspend_costs_no_timer_and_no_task() -> None:
    """Nothing is scheduled on the loop and no task is made."""

    async def quick_work(ctx: Context) -> float | None:
        return ctx.remaining()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        before = len(loop._scheduled), len(loop._ready)  # type: ignore[attr-defined]
        assert await perform(work_of(quick_work), (), {}, context(), 5.0) == 5.0
        assert (len(loop._scheduled), len(loop._ready)) == before  # type: ignore[attr-defined]
        assert len(asyncio.all_tasks()) == 1

    run_virtual(main)


def test_a_finished_attempt_leaves_no_timer() -> None:
    """The timer of a coroutine that did suspend is cancelled with it."""

    async def suspends() -> None:
        await asyncio.sleep(0.1)

    async def main() -> None:
        await perform(work_of(suspends), (), {}, context(), 5.0)
        timers: list[asyncio.TimerHandle] = asyncio.get_running_loop()._scheduled  # type: ignore[attr-defined]
        assert [timer for timer in timers if not timer.cancelled()] == []

    run_virtual(main)


def test_closing_the_attempt_closes_the_work() -> None:
    """A coroutine that is dropped half-way runs its `finally`, and complains of nothing."""
    left: list[str] = []

    async def waits() -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            left.append("closed")

    async def main() -> None:
        attempt = perform(work_of(waits), (), {}, context(), None)
        attempt.send(None)
        attempt.close()
        with pytest.raises(RuntimeError):
            attempt.send(None)

    run_virtual(main)
    assert left == ["closed"]


def test_without_a_task_a_limit_cannot_be_kept_and_the_work_is_closed() -> None:
    """Driven by hand, outside of any task, the attempt fails and leaves nothing open."""
    left: list[str] = []

    async def waits() -> None:
        try:
            await asyncio.sleep(1)
        finally:
            left.append("closed")

    loop = VirtualLoop()
    attempt: Coroutine[Any, Any, Any] | None = None

    def by_hand() -> None:
        nonlocal attempt
        attempt = perform(work_of(waits), (), {}, context(), 5.0)
        try:
            with pytest.raises(ExecutionError, match="inside a task"):
                attempt.send(None)
        finally:
            loop.stop()

    loop.call_soon(by_hand)
    loop.run_forever()
    loop.close()
    del attempt
    gc.collect()
    assert left == ["closed"]


# ------------------------------------------------------------------ deadlines


def test_the_contexts_deadline_caps_the_timeout_and_the_timeout_the_deadline() -> None:
    """The nearer one counts, and what runs below inherits it."""

    async def left(ctx: Context) -> float | None:
        return ctx.remaining()

    async def main() -> list[float | None]:
        work = work_of(left)
        return [
            await perform(work, (), {}, context(left_over), timeout)
            for left_over, timeout in (
                (None, None),
                (None, 2.0),
                (1.0, 2.0),
                (3.0, 2.0),
                (3.0, None),
            )
        ]

    assert run_virtual(main) == [None, 2.0, 1.0, 2.0, 3.0]


def test_the_error_says_which_limit_it_was() -> None:
    """The action's own timeout is named; a deadline of the run is called that."""

    async def forever() -> None:
        await asyncio.Event().wait()

    async def main() -> None:
        with pytest.raises(ActionTimeoutError, match=r"a\.b .* timeout of 2 s") as raised:
            await perform(work_of(forever, "a.b"), (), {}, context(9.0), 2.0)
        assert raised.value.details == {"action": "a.b", "timeout": 2.0}
        with pytest.raises(ActionTimeoutError, match="its deadline passed") as raised:
            await perform(work_of(forever), (), {}, context(1.0), 2.0)
        assert raised.value.details["timeout"] is None

    run_virtual(main)


@pytest.mark.parametrize("is_async", [True, False])
def test_a_spent_deadline_starts_nothing(is_async: bool) -> None:
    """It is a rejection: the work has not run."""
    ran: list[str] = []

    async def on_loop() -> None:
        ran.append("loop")

    def in_thread() -> None:
        ran.append("thread")

    async def main() -> None:
        work = work_of(on_loop if is_async else in_thread)
        with pytest.raises(DeadlineExceededError):
            await perform(work, (), {}, context(0.0), None)

    run_virtual(main)
    assert ran == []


# ------------------------------------------------------------------ errors


class UnprintableError(Exception):
    def __str__(self) -> str:
        raise RuntimeError


@pytest.mark.parametrize(
    ("error", "message", "retryable"),
    [
        (ValueError("no good"), "ValueError: no good", False),
        (KeyError(), "KeyError", False),
        (ConnectionResetError("gone"), "ConnectionResetError: gone", True),
        (TimeoutError("slow"), "TimeoutError: slow", True),
        (SystemExit(3), "SystemExit: 3", False),
        (UnprintableError(), "UnprintableError", False),
        (OSError("password=hunter2 at x"), "OSError: password=[REDACTED] at x", False),
        (OSError("https://me:hunter2@host/"), "OSError: https://[REDACTED]@host/", False),
        (OSError("Authorization: Bearer abc"), "OSError: Authorization: [REDACTED]", False),
        (ExceptionGroup("two", [ValueError()]), "ExceptionGroup: two (1 sub-exception)", False),
    ],
    ids=lambda one: repr(one)[:30],
)
@pytest.mark.parametrize("is_async", [True, False])
def test_any_exception_becomes_an_execution_error(
    is_async: bool,
    error: BaseException,
    message: str,
    retryable: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Type and text, no secrets; the traceback is in the log under the error's id."""

    async def on_loop() -> None:
        raise error

    def in_thread() -> None:
        raise error

    async def main() -> None:
        work = work_of(on_loop if is_async else in_thread, "a.b")
        with caplog.at_level(logging.ERROR), pytest.raises(ExecutionError) as raised:
            await perform(work, (), {}, context(), None)
        found = raised.value
        if isinstance(error, Exception) or is_async:
            assert (found.message, found.retryable) == (message, retryable)
            assert found.__cause__ is error
        else:
            assert found.message == "RuntimeError: SystemExit raised in a thread"
        assert found.error_id is not None
        assert [record.error_id for record in caplog.records] == [found.error_id]  # type: ignore[attr-defined]
        assert caplog.records[0].exc_info is not None

    run_virtual(main)


def test_a_long_text_is_shortened() -> None:
    """A message is one sentence, not a dump."""

    async def talks() -> None:
        raise ValueError("x" * 10_000)

    async def main() -> None:
        with pytest.raises(ExecutionError) as raised:
            await perform(work_of(talks), (), {}, context(), None)
        assert len(raised.value.message) < 520

    run_virtual(main)


def test_an_error_of_the_tree_passes_as_it_is() -> None:
    """Neither copied nor wrapped nor logged."""
    error = AgentNotFoundError("c-1")

    async def fails() -> None:
        raise error

    async def main() -> None:
        with pytest.raises(AgentNotFoundError) as raised:
            await perform(work_of(fails), (), {}, context(), None)
        assert raised.value is error

    run_virtual(main)


def test_a_validation_error_inside_is_a_failure_of_the_action() -> None:
    """Never `InvalidInputError`; and its values, which may be secret, do not show."""

    async def validates() -> None:
        pydantic.TypeAdapter(list[int]).validate_python([1, "hunter2"])

    async def main() -> None:
        with pytest.raises(
            ExecutionError, match=r"ValidationError: list\[int\]: \[1\]: "
        ) as raised:
            await perform(work_of(validates), (), {}, context(), None)
        assert raised.value.kind == "execution_error"
        assert "hunter2" not in raised.value.message
        assert not raised.value.retryable

    run_virtual(main)


@pytest.mark.parametrize("is_async", [True, False])
def test_a_stray_cancellation_is_a_failure(is_async: bool) -> None:
    """Nobody cancelled this run: something it awaited was cancelled, and it let that pass."""

    async def on_loop() -> None:
        other = asyncio.ensure_future(asyncio.sleep(9))
        other.cancel()
        await other

    def in_thread() -> None:
        raise asyncio.CancelledError

    async def main() -> None:
        work = work_of(on_loop if is_async else in_thread)
        with pytest.raises(ExecutionError, match="CancelledError"):
            await perform(work, (), {}, context(), None)

    run_virtual(main)


def test_output_belongs_to_the_attempt() -> None:
    """A result that does not fit fails the attempt, with the work's own error."""

    async def wrong() -> int:
        return "many"  # type: ignore[return-value]

    async def main() -> None:
        work = work_of(wrong)
        with pytest.raises(InvalidOutputError):
            await perform(work, (), {}, context(), None, output=work.dump_result)

    run_virtual(main)


# ------------------------------------------------------------------ where it runs

variable: ContextVar[str] = ContextVar("variable", default="outside")


def test_sync_work_runs_in_a_thread_with_the_callers_variables() -> None:
    """Context variables come along, changes do not come back, and the run's context is current."""

    def in_thread(ctx: Context) -> tuple[bool, str, bool]:
        inherited = variable.get()
        variable.set("inside")
        elsewhere = threading.current_thread() is not threading.main_thread()
        return elsewhere, inherited, current_context() is ctx

    async def main() -> None:
        variable.set("caller")
        found = await perform(work_of(in_thread), (), {}, context(), None)
        assert found == (True, "caller", True)
        assert variable.get() == "caller"

    asyncio.run(main())


def test_the_current_context_follows_the_calls() -> None:
    """Inside it is the run's, nested runs have theirs, afterwards it is what it was."""
    seen: list[bool] = []

    async def inner(ctx: Context) -> None:
        seen.append(current_context() is ctx)
        await asyncio.sleep(0)
        seen.append(current_context() is ctx)

    async def outer(ctx: Context) -> None:
        await perform(work_of(inner), (), {}, context(), None)
        seen.append(current_context() is ctx)
        raise ValueError

    async def main() -> None:
        with pytest.raises(ExecutionError):
            await perform(work_of(outer), (), {}, context(), None)
        seen.append(current_context() is None)

    run_virtual(main)
    assert seen == [True] * 4


def test_a_plain_function_that_returns_a_coroutine_says_what_to_do() -> None:
    """It was meant to be awaited; nobody would."""

    async def inner() -> None: ...

    def forgot() -> Any:
        return inner()

    async def main() -> None:
        with pytest.raises(ExecutionError, match="async def"):
            await perform(work_of(forgot), (), {}, context(), None)

    asyncio.run(main())


# ------------------------------------------------------------------ threads that do not return


def wait_for(condition: Callable[[], bool]) -> Coroutine[Any, Any, None]:
    async def poll() -> None:
        async with asyncio.timeout(10):
            while not condition():  # noqa: ASYNC110 - a thread cannot set an event of this loop
                await asyncio.sleep(0.001)

    return poll()


def test_a_stuck_thread_is_abandoned_and_replaced(pool: threads.ThreadPool) -> None:
    """The caller gets its timeout, others their turn; the late result is dropped and uncounted."""
    release = threading.Event()

    def stuck() -> str:
        release.wait()
        return "late"

    def quick_work(number: int) -> int:
        return number

    async def main() -> None:
        for _ in range(2):
            with pytest.raises(ActionTimeoutError, match=r"timeout of 0\.01 s"):
                await perform(work_of(stuck), (), {}, Context(), 0.01)
        assert pool.statistics().abandoned == 2
        release.set()
        await wait_for(lambda: pool.statistics().abandoned == 0)
        assert await perform(work_of(quick_work), (), {"number": 3}, Context(), None) == 3
        counts = pool.statistics()
        assert (counts.running, counts.queued, counts.total_abandoned) == (0, 0, 2)
        assert counts.threads == counts.idle == 1

    asyncio.run(main())


def test_too_many_stuck_threads_refuse_new_work(pool: threads.ThreadPool) -> None:
    """At the limit new synchronous work is refused, and accepted again when one returns."""
    releases = [threading.Event(), threading.Event()]

    def stuck(which: int) -> None:
        releases[which].wait()

    def quick_work() -> str:
        return "ok"

    async def main() -> None:
        for which in range(2):
            with pytest.raises(ActionTimeoutError):
                await perform(work_of(stuck), (), {"which": which}, Context(), 0.01)
        with pytest.raises(OverloadedError, match="still stuck"):
            await perform(work_of(quick_work), (), {}, Context(), None)
        releases[0].set()
        await wait_for(lambda: pool.statistics().abandoned == 1)
        assert await perform(work_of(quick_work), (), {}, Context(), None) == "ok"
        releases[1].set()
        await wait_for(lambda: pool.statistics().abandoned == 0)

    asyncio.run(main())


def test_cancelling_sync_work_abandons_its_thread(pool: threads.ThreadPool) -> None:
    """The task ends at once; the thread is counted until it returns."""
    release = threading.Event()

    def stuck() -> None:
        release.wait()

    async def main() -> None:
        task = asyncio.ensure_future(perform(work_of(stuck), (), {}, Context(), None))
        await wait_for(lambda: pool.statistics().running == 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert pool.statistics().abandoned == 1
        release.set()
        await wait_for(lambda: pool.statistics().abandoned == 0)

    asyncio.run(main())


def test_the_limit_counts_from_the_start_in_the_thread(pool: threads.ThreadPool) -> None:
    """Waiting for a free thread uses up the deadline, not the timeout; full queues refuse."""
    release = threading.Event()
    ran: list[str] = []

    def stuck() -> None:
        release.wait()

    def quick_work(name: str, ctx: Context) -> float:
        ran.append(name)
        return ctx.remaining() or 0.0

    async def main() -> None:
        hogs = [
            asyncio.ensure_future(perform(work_of(stuck), (), {}, Context(), None))
            for _ in range(2)
        ]
        await wait_for(lambda: pool.statistics().running == 2)
        soon = Context(deadline=Context().clock() + 0.02)
        patient = asyncio.ensure_future(
            perform(work_of(quick_work), (), {"name": "patient"}, Context(), 0.01)
        )
        with pytest.raises(DeadlineExceededError, match="waiting for a free thread"):
            await perform(work_of(quick_work), (), {"name": "hasty"}, soon, 5.0)
        more = asyncio.ensure_future(
            perform(work_of(quick_work), (), {"name": "more"}, Context(), 5.0)
        )
        await wait_for(lambda: pool.statistics().queued == 3)
        with pytest.raises(OverloadedError, match="wait for a thread"):
            await perform(work_of(quick_work), (), {"name": "one too many"}, Context(), None)
        assert not patient.done()
        release.set()
        assert 0 < await patient <= 0.01
        await asyncio.gather(*hogs, more)
        assert sorted(ran) == ["more", "patient"]
        await wait_for(lambda: pool.statistics().queued == 0)

    asyncio.run(main())


def test_threads_are_bounded_and_reused(pool: threads.ThreadPool) -> None:
    """Two threads serve many calls; results reach their own callers."""

    def same(number: int) -> int:
        return number

    async def main() -> None:
        work = work_of(same)
        for _ in range(20):
            found = await asyncio.gather(
                *[perform(work, (), {"number": n}, Context(), 5.0) for n in range(3)]
            )
            assert found == [0, 1, 2]
        counts = pool.statistics()
        assert counts.threads <= 2
        assert counts.total == 60

    asyncio.run(main())


def test_a_result_after_the_loop_is_closed_is_dropped(pool: threads.ThreadPool) -> None:
    """The thread finds nobody waiting and goes on to serve the next loop."""
    release = threading.Event()

    def stuck() -> None:
        release.wait()

    def quick_work() -> str:
        return "ok"

    async def leaves() -> None:
        with pytest.raises(ActionTimeoutError):
            await perform(work_of(stuck), (), {}, Context(), 0.01)

    async def comes() -> str:
        result: str = await perform(work_of(quick_work), (), {}, Context(), None)
        return result

    asyncio.run(leaves())
    release.set()
    assert asyncio.run(comes()) == "ok"


def test_a_forked_child_has_a_pool_of_its_own() -> None:
    """The parent's threads do not exist there."""
    before = threads.POOL
    threads._renew()
    try:
        assert threads.POOL is not before
    finally:
        threads.POOL = before


STUCK = """
import asyncio, time
from jido_cluster.errors import ActionTimeoutError
from jido_cluster.exec import action, run
@action(name="stuck", timeout=0.01)
def stuck() -> None:
    time.sleep(600)
try:
    asyncio.run(run(stuck))
except ActionTimeoutError:
    print("timed out")
"""


def test_the_interpreter_ends_with_a_stuck_thread() -> None:
    """Nothing waits for a call that was abandoned."""
    done = subprocess.run(
        [sys.executable, "-c", STUCK], capture_output=True, text=True, timeout=60, check=True
    )
    assert (done.stdout, done.stderr) == ("timed out\n", "")
