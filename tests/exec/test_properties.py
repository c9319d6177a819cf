"""Promises that hold for every setting and at every moment, checked by counting."""

import asyncio
import contextlib
import threading
from collections.abc import Callable, Coroutine, Generator
from types import coroutine
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jido_cluster.errors import JidoError
from jido_cluster.exec import Action, Context, action, process, run, run_many, threads
from jido_cluster.exec.action import spec_of
from jido_cluster.exec.breaker import Breaker
from jido_cluster.exec.engine import execute
from jido_cluster.exec.options import ResolvedOptions
from jido_cluster.exec.process_pool import ProcessPool
from jido_cluster.exec.runner import run_spec
from jido_cluster.exec.work import Work
from tests.exec import process_actions as actions
from tests.exec.loops import context, now, run_virtual
from tests.exec.test_process import is_there, pids, spent, wait_until

_failures = st.sampled_from([None, ConnectionError, ValueError, TimeoutError])


@given(
    st.lists(_failures, max_size=6),
    st.integers(0, 4),
    st.floats(0.0, 20.0),
    st.floats(0.0, 3.0),
    st.floats(0.1, 5.0),
    st.booleans(),
)
def test_a_spent_deadline_never_starts_an_attempt(
    failures: list[type[Exception] | None],
    max_retries: int,
    left: float,
    seconds: float,
    timeout: float,
    with_fallback: bool,
) -> None:
    """Neither of the run nor of its fallback, whatever fails when; and each has its bound."""
    begun: list[tuple[str, float]] = []
    ahead = list(failures)

    async def work(name: str) -> None:
        begun.append((name, now()))
        await asyncio.sleep(seconds)
        failure = ahead.pop(0) if ahead else None
        if failure is not None:
            raise failure

    @action(name="properties.other", max_retries=1)
    async def other() -> None:
        await work("other")

    @action(name="properties.first", max_retries=max_retries, timeout=timeout)
    async def first() -> None:
        await work("first")

    async def main() -> None:
        end = now() + left
        spec = spec_of(first)
        run_context = context(left, attempt=0)
        options = ResolvedOptions(
            timeout=timeout,
            max_retries=max_retries,
            fallback=other if with_fallback else None,
        )
        with contextlib.suppress(JidoError):
            await run_spec(spec, None, run_context, options)
        assert all(at < end for _, at in begun)
        assert [name for name, _ in begun].count("first") <= 1 + max_retries
        assert [name for name, _ in begun].count("other") <= (2 if with_fallback else 0)
        assert len(asyncio.all_tasks()) == 1
        assert now() <= end + 1e-6 or left == 0.0

    run_virtual(main)


# ------------------------------------------------------------------ cancelled at every await

GATE = threading.Event()


@coroutine
def cancelled_at(
    step: int,
    running: Coroutine[Any, Any, Any],
    *,
    mode: str,
    counted: list[int] | None = None,
) -> Generator[Any, Any, Any]:
    """Awaits ``running``, whose task is cancelled where it suspends for the ``step``-th time.

    Early: before what it waits for has happened. Late: just after, when the task is about to go on.
    On and on: early, and wherever it suspends after that. ``counted`` gets the suspensions.
    """
    task = asyncio.current_task()
    assert task is not None
    error: BaseException | None = None
    seen = 0
    while True:
        try:
            waits_for = running.send(None) if error is None else running.throw(error)
        except StopIteration as stop:
            if counted is not None:
                counted.append(seen)
            return stop.value
        error = None
        if seen == step or (0 <= step < seen and mode == "on and on"):
            if mode == "late" and waits_for is not None:
                # `add_done_callback` of the task comes after this one.
                waits_for.add_done_callback(lambda _: task.cancel())
            else:
                task.cancel()
        seen += 1
        try:
            yield waits_for
        except BaseException as thrown:
            error = thrown


class Careful(Action, name="properties.careful", max_retries=2, retry_delay=0.001):
    async def run(self, params: Any, ctx: Context) -> str:
        await asyncio.sleep(0)
        await asyncio.sleep(0.001)
        if ctx.attempt < 3:
            raise ConnectionError("again")
        return "done"

    async def on_error(self, params: Any, error: JidoError, ctx: Context) -> None:
        await asyncio.sleep(0.001)


class Threaded(Action, name="properties.threaded", max_retries=1, retry_delay=0.001):
    def run(self, params: Any, ctx: Context) -> str:
        GATE.wait(0.01)
        if ctx.attempt < 2:
            raise ConnectionError("again")
        return "done"

    def on_error(self, params: Any, error: JidoError, ctx: Context) -> None:
        GATE.wait(0.01)


@action(name="properties.nested")
async def nested() -> list[Any]:
    return await run_many(Careful, [{}, {}, {}], max_concurrency=2)


def on_the_loop() -> Coroutine[Any, Any, Any]:
    return run(Careful, breaker=Breaker("properties", failures=1000))


def in_threads() -> Coroutine[Any, Any, Any]:
    return run(Threaded, breaker=Breaker("properties", failures=1000))


def nested_runs() -> Coroutine[Any, Any, Any]:
    return run(nested, fallback=Careful)


def falling_back() -> Coroutine[Any, Any, Any]:
    return run(Careful, max_retries=0, fallback=Threaded)


async def _cancel_each(make: Callable[[], Coroutine[Any, Any, Any]], mode: str) -> None:
    """Cancels one run at each of its suspensions, and asserts that it was."""
    counted: list[int] = []
    await _awaited(cancelled_at(-1, make(), mode=mode, counted=counted))
    assert counted[0] >= 2
    for step in range(counted[0]):
        task = asyncio.ensure_future(_awaited(cancelled_at(step, make(), mode=mode)))
        await asyncio.wait([task])
        assert task.cancelled(), step
        assert asyncio.all_tasks() == {asyncio.current_task()}


async def _awaited(running: Any) -> Any:
    return await running


@pytest.mark.parametrize("mode", ["early", "late", "on and on"])
@pytest.mark.parametrize("make", [on_the_loop, in_threads, nested_runs, falling_back])
def test_cancelled_at_any_await_it_leaves_nothing(
    pool: threads.ThreadPool, make: Callable[[], Coroutine[Any, Any, Any]], mode: str
) -> None:
    """No task, no thread, no place in a queue, no permit of a breaker, no timer."""

    async def main() -> None:
        await _cancel_each(make, mode)
        loop: Any = asyncio.get_running_loop()
        assert [timer for timer in loop._scheduled if not timer.cancelled()] == []

    asyncio.run(main())
    # A call that was withdrawn counts until a thread comes across it.
    wait_until(lambda: pool.statistics().abandoned == pool.statistics().queued == 0)
    found = pool.statistics()
    assert found.running == 0
    assert found.threads <= 2
    assert Breaker("properties", failures=1000).statistics().running == 0


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["early", "late", "on and on"])
@pytest.mark.parametrize("is_busy", [False, True], ids=["free", "busy"])
def test_cancelled_at_any_await_it_leaves_no_process(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any, is_busy: bool, mode: str
) -> None:
    """While it waits for a worker, starts one, sends, runs, or waits for its end."""
    workers = ProcessPool(max_workers=1)
    monkeypatch.setattr(process, "POOL", workers)
    folder = str(tmp_path)

    async def main() -> None:
        for step in range(1000):
            before: asyncio.Future[Any] | None = None
            if is_busy:
                before = asyncio.ensure_future(
                    run(actions.sleeps, {"notes": folder, "seconds": 0.02})
                )
                await asyncio.sleep(0)
            running = run(actions.sleeps, {"notes": folder, "seconds": 0.02})
            task = asyncio.ensure_future(_awaited(cancelled_at(step, running, mode=mode)))
            await asyncio.wait([task])
            if before is not None:
                assert await before == "slept"
            assert spent(workers) == (0, 0)
            assert asyncio.all_tasks() == {asyncio.current_task()}
            if not task.cancelled():
                assert step >= 2
                return

    asyncio.run(main())
    workers.close()
    assert workers.statistics().workers == 0
    assert [pid for pid in pids(tmp_path) if is_there(pid)] == []


def test_a_run_of_the_engine_alone_is_bounded() -> None:
    """`execute` by itself, without parameters or fallback: tried as often as it may, no more."""
    tried: list[int] = []

    async def fails() -> None:
        tried.append(1)
        raise ConnectionError("down")

    async def main() -> None:
        for retries in range(4):
            tried.clear()
            with pytest.raises(JidoError):
                await execute(
                    Work.from_signature(fails, name="fails"),
                    (),
                    {},
                    context(attempt=0),
                    ResolvedOptions(max_retries=retries),
                )
            assert len(tried) == 1 + retries

    run_virtual(main)
