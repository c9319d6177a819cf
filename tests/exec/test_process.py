"""Actions in worker processes: what travels, what they are killed by, and that nothing is left."""

import asyncio
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from jido_cluster.errors import (
    ActionTimeoutError,
    ConfigError,
    DeadlineExceededError,
    ExecutionError,
    InvalidInputError,
    InvalidOutputError,
    NotRegisteredError,
    OverloadedError,
    UsageError,
)
from jido_cluster.exec import Context, action, process, run, run_named, run_sync
from jido_cluster.exec.action import spec_of
from jido_cluster.exec.process_pool import ProcessPool
from jido_cluster.exec.runner import run_spec
from tests.exec import process_actions as actions
from tests.exec.conftest import Heard

SECONDS = 20.0  # to wait for what should be there at once


@pytest.fixture
def workers(monkeypatch: pytest.MonkeyPatch) -> Iterator[ProcessPool]:
    """A small pool in place of the process's: 2 workers, 2 queued; empty when the test ends."""
    pool = ProcessPool(max_workers=2, max_queued=2)
    monkeypatch.setattr(process, "POOL", pool)
    yield pool
    pool.close()
    assert pool.statistics().workers == 0


@pytest.fixture
def notes(tmp_path: Path) -> Iterator[Path]:
    """Where processes leave their ids; whatever the test says, none of them outlives it."""
    folder = tmp_path / "notes"
    folder.mkdir()
    yield folder
    for pid in pids(folder):
        if is_there(pid):
            os.kill(pid, signal.SIGKILL)


def pids(notes: Path) -> list[int]:
    return sorted(int(entry.name) for entry in notes.iterdir() if entry.name.isdigit())


def is_there(pid: int) -> bool:
    """Whether there is such a process, be it only to be reaped."""
    return Path("/proc", str(pid)).exists()


def parent_of(pid: int) -> int:
    return int(Path("/proc", str(pid), "stat").read_text().rpartition(")")[2].split()[1])


def wait_until(condition: Callable[[], Any]) -> None:
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end, "it did not come true"
        time.sleep(0.01)


async def until(condition: Callable[[], Any]) -> None:
    await asyncio.to_thread(wait_until, condition)


def spent(pool: ProcessPool) -> tuple[int, int]:
    """Workers at work, and calls that wait."""
    found = pool.statistics()
    return found.workers - found.idle, found.queued


# ------------------------------------------------------------------ what travels


def test_a_worker_gets_what_the_action_would_get_here(workers: ProcessPool) -> None:
    """Parameters, data, run, trace and time arrive; it runs elsewhere, in the main thread."""
    found = run_sync(
        actions.echo, {"value": [1, "a"], "item": {"name": "x"}}, {"user": "ann"}, timeout=20.0
    )
    assert found["value"] == [1, "a"]
    assert found["item"] == {"name": "x", "size": 1}
    assert found["data"] == {"user": "ann"}
    assert (found["attempt"], found["thread"]) == (1, True)
    assert found["run_id"].startswith("run-")
    assert 0 < found["remaining"] <= 20.0
    assert found["pid"] != os.getpid()
    again = run_sync(actions.echo, {"value": 1})
    assert again["pid"] == found["pid"]  # it is warm
    assert workers.statistics().total_started == 1


def test_the_trace_is_the_attempts_own() -> None:
    """The worker continues the span that this process tells of, it does not open another."""

    async def main() -> None:
        context = Context(attempt=1)
        work = spec_of(actions.echo).work
        assert isinstance(work, process.ProcessWork)
        found = await work.call_in_process((), {"value": 1}, context, None, (), None)
        assert found["trace"] == context.trace
        assert found["remaining"] is None

    asyncio.run(main())


def test_results_are_of_their_declared_type() -> None:
    """A coroutine's model comes back as that model, hooks have seen it, and names run it too."""
    assert run_sync(actions.make, {"name": "abc"}) == actions.Item(name="abc", size=3)
    assert run_sync(actions.Hooked, {"n": 3}) == 40
    outcome = asyncio.run(run_named("process.make", b'{"name":"ab"}', None, {}))
    assert outcome.value == {"name": "ab", "size": 2}


def test_compensation_runs_here() -> None:
    """After the worker is done with, on the instance of this process."""
    with pytest.raises(ExecutionError, match="ValueError: negative") as raised:
        run_sync(actions.Hooked, {"n": -5})
    assert raised.value.details["undone_in"] == os.getpid()
    assert raised.value.details["compensated"] is True


@pytest.mark.parametrize(
    ("how", "error", "retryable"),
    [
        ("own", actions.DeclinedError, False),
        ("overloaded", OverloadedError, True),
        ("transient", ExecutionError, True),
        ("bug", ExecutionError, False),
        ("odd", ExecutionError, False),
        ("group", ExecutionError, False),
        ("exit", ExecutionError, False),
        ("wrong", InvalidOutputError, False),
    ],
)
def test_errors_arrive_as_what_they_are(how: str, error: type[Exception], retryable: bool) -> None:
    """Their own type, flags and details; the worker is as good as before."""
    with pytest.raises(error) as raised:
        run_sync(actions.fails, {"how": how})
    assert type(raised.value) is error
    found: Any = raised.value
    assert found.retryable is retryable
    if how == "own":
        assert found.details == {"code": 7}
    if how in {"transient", "bug", "odd", "group", "exit"}:
        assert found.error_id is not None


def test_what_the_call_declares_is_retried(heard: Heard) -> None:
    """`retry_on` is looked up among the classes of what was raised, which do not travel."""
    for declared, starts in (((actions.Odd,), 2), ((Exception,), 2), ((KeyError,), 1)):
        heard.clear()
        with pytest.raises(ExecutionError):
            run_sync(
                actions.fails, {"how": "odd"}, max_retries=1, retry_delay=0.0, retry_on=declared
            )
        assert heard.names.count("start") == starts


def test_there_is_no_cluster_in_a_worker() -> None:
    """It says so, and what to do."""
    with pytest.raises(UsageError, match="executor='process'"):
        run_sync(actions.asks)


def test_what_does_not_travel_is_refused_here(workers: ProcessPool) -> None:
    """No worker is started for it."""
    with pytest.raises(InvalidInputError, match="data go to a worker process as JSON"):
        run_sync(actions.echo, {"value": 1}, {"thing": object()})
    with pytest.raises(InvalidInputError, match="bytes of JSON exceed the limit"):
        run_sync(actions.echo, {"value": "x" * (1 << 20)})
    assert workers.statistics().total_started == 0


def test_an_action_that_the_worker_cannot_find_is_named(
    workers: ProcessPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its module was made up here; or it is there and defines no such action."""
    ghost = ModuleType("process_ghost")
    monkeypatch.setitem(sys.modules, "process_ghost", ghost)
    code = (
        "from jido_cluster import action\n@action(name='ghost', executor='process')\ndef f(): ..."
    )
    exec(code, vars(ghost))
    with pytest.raises(ConfigError, match=r"cannot import process_ghost: ModuleNotFoundError"):
        run_sync(ghost.f)
    function = _moved(lambda: None)
    lost = action(name="process.lost", executor="process")(function)
    with pytest.raises(NotRegisteredError, match=r"process\.lost"):
        run_sync(lost)
    assert spent(workers) == (0, 0)


def _moved(function: Any) -> Any:
    function.__module__, function.__qualname__ = actions.__name__, "lost"
    return function


def test_tasks_that_an_action_leaves_end_with_it(workers: ProcessPool) -> None:
    """The next action finds a loop of its own, in the same worker."""
    first = run_sync(actions.leaves_a_task)
    assert (first, run_sync(actions.leaves_a_task)) == (0, 0)
    assert workers.statistics().total_started == 1


def test_a_worker_may_have_workers(workers: ProcessPool) -> None:
    """An action in a process may run another one in a process; both are gone afterwards."""
    found = run_sync(actions.nested, {"value": 5})
    assert found["inner"]["value"] == 5
    assert len({os.getpid(), found["pid"], found["inner"]["pid"]}) == 3
    assert not is_there(found["inner"]["pid"])
    assert not is_there(found["pid"])


def test_the_retry_budget_goes_there_and_back(heard: Heard) -> None:
    """The inner run may retry once, as its outer one may; then nobody may."""
    with pytest.raises(ExecutionError, match="ConnectionError: again"):
        run_sync(actions.retries, max_retries=1, retry_delay=0.0)
    assert heard.names.count("start") == 1


# ------------------------------------------------------------------ what they are killed by


@pytest.mark.slow
@pytest.mark.parametrize("how", ["timeout", "deadline", "cancel"])
def test_a_stuck_family_dies_to_the_last(workers: ProcessPool, notes: Path, how: str) -> None:
    """Child, grandchild, a session of its own, a daemon: all are gone before the caller goes on."""

    async def outer(ctx: Context) -> Any:
        return await run(actions.family, {"notes": str(notes)}, timeout=None)

    async def main() -> None:
        await run(actions.echo, {"value": 1})  # so that the time goes to the family, not the start
        wait = action(name="process.outer", timeout=6.0)(outer)
        running = asyncio.ensure_future(
            run(wait)
            if how == "deadline"
            else run(
                actions.family, {"notes": str(notes)}, timeout=6.0 if how == "timeout" else None
            )
        )
        if how == "cancel":
            await until((notes / "ready").exists)
            running.cancel()
        with pytest.raises((ActionTimeoutError, asyncio.CancelledError)) as raised:
            await running
        assert isinstance(raised.value, asyncio.CancelledError) is (how == "cancel")
        assert len(pids(notes)) == 6
        assert [pid for pid in pids(notes) if is_there(pid)] == []
        assert workers.statistics().workers == 0

    asyncio.run(main())


@pytest.mark.slow
def test_what_an_action_leaves_behind_dies_when_it_returns(
    workers: ProcessPool, notes: Path
) -> None:
    """It succeeds; its children do not outlive it, nor does the worker that had them."""
    worker = run_sync(actions.family, {"notes": str(notes), "and_waits": False})
    assert len(pids(notes)) == 6
    assert worker in pids(notes)
    assert [pid for pid in pids(notes) if is_there(pid)] == []


@pytest.mark.parametrize(
    ("params", "words", "retryable"),
    [
        ({"number": 9}, "killed by SIGKILL, from outside, while it ran", True),
        ({"number": 15}, "killed by SIGTERM, from outside", True),
        ({"number": 11}, "killed by SIGSEGV while it ran", False),
        ({"code": 3}, "exited with code 3 while it ran", False),
        ({}, "exited with code 0 while it ran", False),
    ],
)
def test_a_worker_that_dies_is_a_typed_error(
    workers: ProcessPool, params: dict[str, int], words: str, retryable: bool
) -> None:
    """What killed it is named; a stranger's signal is worth a retry, its own fault is not."""
    with pytest.raises(ExecutionError, match=words) as raised:
        run_sync(actions.dies, params)
    assert raised.value.retryable is retryable
    assert run_sync(actions.echo, {"value": 1})["value"] == 1


def test_a_worker_killed_from_outside_is_replaced_by_a_retry(
    workers: ProcessPool, notes: Path
) -> None:
    """The second attempt runs in another one, and succeeds."""

    async def main() -> str:
        params = {"notes": str(notes)}
        running = asyncio.ensure_future(
            run(actions.sleeps_once, params, max_retries=1, retry_delay=0.0)
        )
        await until(lambda: pids(notes))
        os.kill(pids(notes)[0], signal.SIGKILL)
        return await running

    assert asyncio.run(main()) == "done"
    assert len(pids(notes)) == 2


@pytest.mark.slow
@pytest.mark.parametrize("which", ["inner", "outer"])
def test_a_guard_killed_from_outside_takes_all_along(
    workers: ProcessPool, notes: Path, which: str
) -> None:
    """The guard that is left ends the family, before the call says what happened."""

    async def main() -> None:
        running = asyncio.ensure_future(run(actions.family, {"notes": str(notes)}))
        await until((notes / "ready").exists)
        (worker,) = [pid for pid in pids(notes) if parent_of(pid) not in pids(notes)]
        inner = parent_of(worker)
        os.kill(inner if which == "inner" else parent_of(inner), signal.SIGKILL)
        with pytest.raises(ExecutionError, match="killed by SIGKILL, from outside"):
            await running
        assert [pid for pid in pids(notes) if is_there(pid)] == []

    asyncio.run(main())
    assert run_sync(actions.echo, {"value": 1})["value"] == 1


def test_a_worker_that_died_while_idle_is_not_noticed(workers: ProcessPool) -> None:
    """The call goes to another one."""
    first = run_sync(actions.echo, {"value": 1})["pid"]
    os.kill(first, signal.SIGKILL)
    second = run_sync(actions.echo, {"value": 2})
    assert second["value"] == 2
    assert second["pid"] != first


def test_idle_workers_end_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    """With nothing to do the pool becomes empty, and starts again when asked."""
    pool = ProcessPool(max_workers=2, idle_seconds=0.05)
    monkeypatch.setattr(process, "POOL", pool)
    pid = run_sync(actions.echo, {"value": 1})["pid"]
    wait_until(lambda: pool.statistics().workers == 0)
    assert not is_there(pid)
    assert run_sync(actions.echo, {"value": 1})["pid"] != pid
    pool.close()


# ------------------------------------------------------------------ bounds


@pytest.mark.slow
def test_calls_wait_for_a_worker_and_say_how_long(
    workers: ProcessPool, notes: Path, heard: Heard
) -> None:
    """Two at a time; the third begins when one is free, and its timeout counts from there."""

    async def main() -> None:
        params = {"notes": str(notes), "seconds": 0.8}
        await asyncio.gather(*(run(actions.sleeps, params, timeout=1.5) for _ in range(4)))

    asyncio.run(main())
    queues = sorted(measured["queue"] for event, measured, _ in heard if event == "stop")
    assert len(queues) == 4
    assert queues[3] > 0.79
    assert workers.statistics().total_started == 2


async def _busy(pool: ProcessPool, notes: Path) -> list[asyncio.Future[Any]]:
    """All workers of the pool, busy."""
    params = {"notes": str(notes)}
    running: list[asyncio.Future[Any]] = [
        asyncio.ensure_future(run(actions.sleeps, params, timeout=None)) for _ in range(2)
    ]
    await until(lambda: len(pids(notes)) == 2)
    return running


async def _end(running: list[asyncio.Future[Any]]) -> None:
    for one in running:
        one.cancel()
    await asyncio.gather(*running, return_exceptions=True)


def test_more_calls_than_may_wait_are_refused(workers: ProcessPool, notes: Path) -> None:
    """Those that wait are served when there is room, in turn."""

    async def main() -> None:
        running = await _busy(workers, notes)
        waiting = [asyncio.ensure_future(run(actions.echo, {"value": n})) for n in range(2)]
        await until(lambda: workers.statistics().queued == 2)
        with pytest.raises(OverloadedError, match="2 calls wait for a worker process already"):
            await run(actions.echo, {"value": 3})
        await _end(running)
        assert [one["value"] for one in await asyncio.gather(*waiting)] == [0, 1]

    asyncio.run(main())
    assert spent(workers) == (0, 0)


def test_a_deadline_that_passes_in_the_queue_starts_nothing(
    workers: ProcessPool, notes: Path, heard: Heard
) -> None:
    """It is a rejection: the action has not run, and nothing waits any more."""

    async def hurried(ctx: Context) -> Any:
        return await run(actions.sleeps, {"notes": str(notes)}, timeout=None)

    async def main() -> None:
        running = await _busy(workers, notes)
        outer = action(name="process.hurried", timeout=0.1)(hurried)
        with pytest.raises((ActionTimeoutError, DeadlineExceededError)):
            await run(outer)
        context = Context(attempt=0, deadline=time.monotonic() + 0.1)
        spec = spec_of(actions.sleeps)
        with pytest.raises(DeadlineExceededError, match="while waiting for a worker process"):
            await run_spec(spec, {"notes": str(notes)}, context, spec.options)
        assert 0.09 < heard[-1][1]["queue"] <= heard[-1][1]["duration"]
        late = Context(attempt=0, deadline=time.monotonic() - 0.1)
        with pytest.raises(DeadlineExceededError, match="deadline has passed"):
            await run_spec(spec, {"notes": str(notes)}, late, spec.options)
        assert workers.statistics().queued == 0
        await _end(running)

    asyncio.run(main())
    assert len(pids(notes)) == 2


def test_a_deadline_that_passes_while_a_worker_starts_is_a_rejection(workers: ProcessPool) -> None:
    """The action has not begun."""

    async def main() -> None:
        spec = spec_of(actions.echo)
        context = Context(attempt=0, deadline=time.monotonic() + 0.02)
        with pytest.raises(DeadlineExceededError, match="before its worker process was ready"):
            await run_spec(spec, {"value": 1}, context, spec.options)

    asyncio.run(main())
    assert workers.statistics().workers == 0


def test_a_system_without_room_for_processes_is_a_typed_error(
    workers: ProcessPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be better later; the slot is free again."""

    def full(*args: Any, **kwargs: Any) -> None:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    with monkeypatch.context() as patch:
        patch.setattr(subprocess, "Popen", full)
        with pytest.raises(ExecutionError, match="no worker process could be started") as raised:
            run_sync(actions.echo, {"value": 1})
    assert raised.value.retryable
    assert workers.statistics().workers == 0


def test_a_worker_that_cannot_be_watched_is_ended_at_once(
    workers: ProcessPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No thread is to be had: the slot is free again, and nothing has been left running."""

    def full(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", full)
        with pytest.raises(ExecutionError, match="could be watched: can't start new thread"):
            run_sync(actions.echo, {"value": 1})
    assert workers.statistics().workers == 0


def test_other_systems_are_refused(workers: ProcessPool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The guards are Linux's; the definition does no harm elsewhere."""
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(ConfigError, match="needs Linux, not darwin"):
        run_sync(actions.echo, {"value": 1})


def test_a_worker_that_cannot_start_is_a_typed_error(
    workers: ProcessPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its exit code is named; what it complained of is on standard error."""
    monkeypatch.setattr("jido_cluster.exec.process_pool._WORKER", "raise SystemExit(7)")
    with pytest.raises(ExecutionError, match="exited with code 7 before it began"):
        run_sync(actions.echo, {"value": 1})
    monkeypatch.setattr("jido_cluster.exec.process_pool._WORKER", "import time; time.sleep(100)")
    monkeypatch.setattr("jido_cluster.exec.process_pool.START_SECONDS", 0.1)
    with pytest.raises(ExecutionError, match=r"was not ready within 0\.1 s") as raised:
        run_sync(actions.echo, {"value": 1})
    assert raised.value.retryable
    assert workers.statistics().workers == 0


def test_threads_with_loops_of_their_own_share_the_pool(workers: ProcessPool) -> None:
    """Each call gets its own answer, whoever gave the worker back."""
    found: list[Any] = []

    def call(number: int) -> None:
        found.append(run_sync(actions.echo, {"value": number})["value"] == number)

    threads = [threading.Thread(target=call, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 4
    assert workers.statistics().total_started <= 2


def test_a_slot_that_is_granted_to_a_cancelled_call_goes_on(
    monkeypatch: pytest.MonkeyPatch, notes: Path
) -> None:
    """Its worker was ended, its call cancelled just as it could have started another one."""
    pool = ProcessPool(max_workers=1)
    monkeypatch.setattr(process, "POOL", pool)

    async def main() -> None:
        first = asyncio.ensure_future(run(actions.sleeps, {"notes": str(notes)}))
        await until(lambda: pids(notes))
        second = asyncio.ensure_future(run(actions.echo, {"value": 2}))
        third = asyncio.ensure_future(run(actions.echo, {"value": 3}))
        await until(lambda: pool.statistics().queued == 2)
        pool._waiting[0].event.set = second.cancel  # type: ignore[assignment, method-assign]
        first.cancel()
        assert (await third)["value"] == 3
        assert second.cancelled()

    asyncio.run(main())
    assert spent(pool) == (0, 0)
    pool.close()
    assert pool.statistics().workers == 0


def test_a_call_whose_loop_has_closed_is_passed_over(
    monkeypatch: pytest.MonkeyPatch, notes: Path
) -> None:
    """It waits for ever, and takes nothing from those that come after it."""
    pool = ProcessPool(max_workers=1)
    monkeypatch.setattr(process, "POOL", pool)
    loop = asyncio.new_event_loop()
    lost: list[Any] = []

    async def main() -> None:
        first = asyncio.ensure_future(run(actions.sleeps, {"notes": str(notes)}))
        await until(lambda: pids(notes))

        def wait_elsewhere() -> None:
            async def stop() -> None:
                lost.append(asyncio.ensure_future(run(actions.echo, {"value": 0})))
                await until(lambda: pool.statistics().queued == 1)

            loop.run_until_complete(stop())
            loop.run_until_complete(loop.shutdown_default_executor())
            loop.close()

        await asyncio.to_thread(wait_elsewhere)
        second = asyncio.ensure_future(run(actions.echo, {"value": 2}))
        await until(lambda: pool.statistics().queued == 2)
        first.cancel()
        assert (await second)["value"] == 2

    asyncio.run(main())
    assert spent(pool) == (0, 0)
    pool.close()
    lost[0]._log_destroy_pending = False


def test_a_call_that_is_closed_ends_its_worker(workers: ProcessPool, notes: Path) -> None:
    """It cannot wait for that; the pool sees it through, and lets go of the sockets."""

    async def main() -> None:
        running = run(actions.sleeps, {"notes": str(notes)}, timeout=None)
        waits_for = running.send(None)
        while not pids(notes):
            await asyncio.wait([waits_for], timeout=0.01)
            if waits_for.done():
                waits_for = running.send(None)
        running.close()
        await until(lambda: workers.statistics().workers == 0)
        waits_for.cancel()

    asyncio.run(main())
    assert not is_there(pids(notes)[0])


def test_an_end_that_takes_too_long_is_not_waited_for(
    workers: ProcessPool,
    notes: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The caller goes on and the log says so; the slot stays taken until they are gone."""
    monkeypatch.setattr("jido_cluster.exec.process_pool.END_SECONDS", 0.001)
    with pytest.raises(ActionTimeoutError):
        run_sync(actions.sleeps, {"notes": str(notes)}, timeout=0.05)
    assert "processes of process.sleeps are still not gone" in caplog.text
    wait_until(lambda: workers.statistics().workers == 0)


def test_a_worker_that_hung_up_while_idle_is_not_noticed(workers: ProcessPool) -> None:
    """Nor is one that ends in the moment in which it is given back."""
    first = run_sync(actions.echo, {"value": 1})["pid"]
    (worker,) = workers._idle
    worker.channel.shutdown(socket.SHUT_RDWR)
    assert run_sync(actions.echo, {"value": 2})["pid"] != first
    wait_until(lambda: workers.statistics().workers == 1)
    workers._give_back(worker)
    assert worker not in workers._idle


# ------------------------------------------------------------------ the ends of this process

SCRIPT = """
import sys, threading
from jido_cluster import run_sync
from tests.exec import process_actions as actions
notes, how = sys.argv[1:]
if how == "exit":
    run_sync(actions.family, {"notes": notes, "and_waits": False})
    actions.note(notes, run_sync(actions.echo, {"value": 1})["pid"])
    thread = threading.Thread(
        target=run_sync, args=(actions.sleeps, {"notes": notes}), daemon=True
    )
    thread.start()
    while len(list(__import__("pathlib").Path(notes).iterdir())) < 8:
        pass
else:
    run_sync(actions.family, {"notes": notes}, timeout=None)
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", ["kill", "exit"])
def test_when_this_process_ends_so_do_its_workers(notes: Path, how: str) -> None:
    """Killed without a word, or by the end of its program: nothing of them is left."""
    parent = subprocess.Popen([sys.executable, "-c", SCRIPT, str(notes), how])
    if how == "kill":
        wait_until((notes / "ready").exists)
        parent.kill()
    assert parent.wait(SECONDS) == (-9 if how == "kill" else 0)
    assert len(pids(notes)) >= 6
    wait_until(lambda: not any(is_there(pid) for pid in pids(notes)))


def _child(pid: int) -> None:
    fresh = process.POOL.statistics()
    found = run_sync(actions.echo, {"value": 1})
    process.POOL.close()
    os._exit(0 if fresh.workers == 0 and found["pid"] != pid else 1)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_fork_starts_with_a_pool_of_its_own(workers: ProcessPool) -> None:
    """It neither takes nor ends the workers of its parent."""
    pid = run_sync(actions.echo, {"value": 1})["pid"]
    child = multiprocessing.get_context("fork").Process(target=_child, args=(pid,))
    child.start()
    child.join(SECONDS)
    assert child.exitcode == 0
    assert run_sync(actions.echo, {"value": 2})["pid"] == pid
