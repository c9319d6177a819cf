"""What callers use: run, run_sync, start, run_many, run_named."""

import asyncio
import concurrent.futures
import json
import threading
from collections.abc import Mapping
from typing import Any, ClassVar

import pytest
from pydantic import BaseModel

from jido_cluster.errors import (
    ActionTimeoutError,
    AgentNotFoundError,
    ConfigError,
    ExecutionError,
    InvalidInputError,
    InvalidOutputError,
    NotRegisteredError,
    OverloadedError,
    RunCancelledError,
    StillRunningError,
    UsageError,
)
from jido_cluster.exec import (
    Action,
    Context,
    Handle,
    Outcome,
    action,
    current_context,
    dump_outcome,
    run,
    run_many,
    run_named,
    run_sync,
    start,
)
from tests.exec.conftest import Heard
from tests.exec.loops import run_virtual


class Number(BaseModel):
    n: int


class Double(Action, name="run.double"):
    class Params(BaseModel):
        n: int

    async def run(self, params: Params, ctx: Context) -> int:
        await asyncio.sleep(0)
        return params.n * 2


class SyncDouble(Action, name="run.sync_double"):
    Params = Number

    def run(self, params: Number, ctx: Context) -> int:
        return params.n * 2


class DeclinedError(ExecutionError):
    kind = "run_declined"


@action(name="run.work")
async def work(n: int, ctx: Context, seconds: float = 0.0, fail: bool = False) -> dict[str, Any]:
    if seconds:
        await asyncio.sleep(seconds)
    if fail:
        raise DeclinedError(f"no {n}", n=n)
    return {"n": n, "user": ctx.get("user"), "run_id": ctx.run_id, "attempt": ctx.attempt}


@action(name="run.nested")
async def nested(ctx: Context) -> dict[str, Any]:
    @action(name="run.inner")
    async def inner(ctx: Context) -> dict[str, Any]:
        return {"trace": ctx.trace, "remaining": ctx.remaining(), "data": dict(ctx)}

    plain = await run(inner)
    passed = await run(inner, None, ctx)
    started = await start(inner)
    return {"trace": ctx.trace, "found": [plain, passed, started]}


# ------------------------------------------------------------------ run and run_sync


def test_run_checks_runs_and_returns() -> None:
    """A model or a mapping in, the declared result out, for each kind of action."""

    async def main() -> None:
        assert await run(Double, Double.Params(n=2)) == 4
        assert await run(Double, {"n": "2"}) == 4
        assert await run(SyncDouble, Number(n=3)) == 6
        found = await run(work, {"n": 1}, {"user": "ann"})
        assert (found["n"], found["user"], found["attempt"]) == (1, "ann", 1)

    asyncio.run(main())
    assert run_sync(Double, {"n": 2}) == 4
    assert run_sync(SyncDouble, {"n": 2}) == 4
    assert run_sync(work, {"n": 1})["n"] == 1


def test_bad_input_is_refused_and_told(heard: Heard) -> None:
    """Nothing runs; telemetry hears of it, as an attempt that never was."""
    with pytest.raises(InvalidInputError, match=r"run\.double: n: Input should be"):
        run_sync(Double, {"n": "x"}, max_retries=3)
    assert heard.names == ["exception"]
    assert heard[0][1]["attempt"] == 0
    assert heard[0][2]["error_kind"] == "validation_error"


@pytest.mark.parametrize(
    ("params", "context"), [(5, None), ([1], None), (Number(n=1), None), ({"n": 1}, 5)]
)
def test_what_is_no_mapping_is_refused(params: Any, context: Any) -> None:
    """Parameters and context are mappings, or the action's own model."""
    with pytest.raises(InvalidInputError):
        run_sync(Double, params, context)


def test_options_are_checked_before_anything_runs() -> None:
    """A slip is answered with the nearest name."""
    with pytest.raises(ConfigError, match="did you mean 'max_retries'"):
        run_sync(Double, {"n": 1}, retries=3)  # type: ignore[call-overload]


def test_call_time_options_win() -> None:
    """Here a timeout, over the action's own thirty seconds."""

    async def main() -> None:
        with pytest.raises(ActionTimeoutError, match=r"timeout of 2 s"):
            await run(work, {"n": 1, "seconds": 9.0}, timeout=2.0)

    # The runs' clock is the machine's, the loop's is simulated: the timer is what counts here.
    run_virtual(main)


def test_run_sync_refuses_to_block_a_loop() -> None:
    """Its message names what to use instead; `start` says the same the other way round."""

    async def main() -> None:
        with pytest.raises(UsageError, match=r"await run"):
            run_sync(Double, {"n": 1})

    asyncio.run(main())
    with pytest.raises(UsageError, match="run_sync"):
        start(Double, {"n": 1})


def test_runs_inside_runs_inherit() -> None:
    """Trace and deadline by themselves, data when the context is passed on."""
    found = run_sync(nested, None, {"user": "ann"}, timeout=5.0)
    assert [one["data"] for one in found["found"]] == [{}, {"user": "ann"}, {}]
    assert len({one["trace"] for one in found["found"]} | {found["trace"]}) == 4
    for one in found["found"]:
        assert one["trace"][:36] == found["trace"][:36]
        assert 0 < one["remaining"] <= 5.0


def test_sync_actions_may_run_others() -> None:
    """In the thread of a synchronous action `run_sync` works, within its deadline."""

    @action(name="run.sync_outer")
    def outer(ctx: Context) -> float | None:
        @action(name="run.sync_inner")
        def inner(ctx: Context) -> float | None:
            assert current_context() is ctx
            return ctx.remaining()

        return run_sync(inner)

    left = run_sync(outer, timeout=5.0)
    assert left is not None
    assert 0 < left <= 5.0


# ------------------------------------------------------------------ hooks

Story = list[Any]


class Hooked(Action, name="run.hooked"):
    class Params(BaseModel):
        n: int

    story: ClassVar[Story] = []

    def on_before_validate(self, params: Mapping[str, Any]) -> Mapping[str, Any]:
        self.story.append("before_validate")
        self.scratch = "kept"
        return {"n": params["number"]}

    async def on_after_validate(self, params: Params) -> Params:
        self.story.append("after_validate")
        return self.Params(n=params.n + 1)

    async def run(self, params: Params, ctx: Context) -> int:
        self.story.append(("run", self.scratch))
        if params.n > 100:
            raise ValueError("too many")
        return params.n

    async def on_before_result(self, result: int) -> Any:
        self.story.append("before_result")
        return str(result * 10)

    def on_after_run(self, result: int) -> None:
        self.story.append(("after_run", result))

    async def on_error(self, params: Params, error: Exception, ctx: Context) -> None:
        self.story.append(("error", self.scratch, params.n, type(error)))


class SyncHooked(Action, name="run.sync_hooked"):
    def run(self, params: Mapping[str, Any], ctx: Context) -> list[int]:
        return [params["n"]]

    def on_before_result(self, result: list[int]) -> list[int]:
        return [*result, 2]

    def on_after_run(self, result: list[int]) -> None:
        if len(result) > 2 or result[0] < 0:
            raise ValueError("seen")


def test_hooks_run_in_their_order_on_one_instance() -> None:
    """Each sees what the one before made of it; the result is checked between the last two."""
    Hooked.story.clear()
    assert run_sync(Hooked, {"number": "4"}) == 50
    assert Hooked.story == [
        "before_validate",
        "after_validate",
        ("run", "kept"),
        "before_result",
        ("after_run", 50),
    ]


def test_hooks_run_for_another_process_too() -> None:
    """Bytes in, the same story."""
    Hooked.story.clear()
    outcome = asyncio.run(run_named("run.hooked", b'{"number":4}', None, {}))
    assert outcome.value == 50
    assert len(Hooked.story) == 5


def test_a_failed_run_is_compensated_on_the_same_instance() -> None:
    """`on_error` gets the checked parameters and the error."""
    Hooked.story.clear()
    with pytest.raises(ExecutionError, match="too many") as raised:
        run_sync(Hooked, {"number": 200})
    assert Hooked.story[-1] == ("error", "kept", 201, ExecutionError)
    assert raised.value.details["compensated"] is True


def test_a_failed_input_hook_fails_the_run_before_it_began(heard: Heard) -> None:
    """No attempt, no compensation; it is the author's error."""
    Hooked.story.clear()
    with pytest.raises(ExecutionError, match="KeyError: 'number'"):
        run_sync(Hooked, {})
    assert Hooked.story == ["before_validate"]
    assert heard.names == ["exception"]


def test_hooks_of_sync_actions() -> None:
    """They run in the thread, and what they raise fails the attempt."""
    assert run_sync(SyncHooked, {"n": 1}) == [1, 2]
    with pytest.raises(ExecutionError, match="ValueError: seen"):
        run_sync(SyncHooked, {"n": -1})
    with pytest.raises(InvalidOutputError):
        run_sync(SyncHooked, {"n": "x"})


# ------------------------------------------------------------------ handles


def test_a_handle_tells_how_far_the_run_is() -> None:
    """Pending, running, succeeded; waiting in vain harms nothing; the result reads many times."""

    async def main() -> None:
        handle = start(work, {"n": 1, "seconds": 5.0})
        assert handle.status() == "pending"
        assert await handle.wait(1.0) == "running"
        with pytest.raises(StillRunningError) as raised:
            await handle.result(0)
        assert raised.value.details == {"run_id": handle.run_id}
        assert handle.status() == "running"
        assert (await handle)["run_id"] == handle.run_id
        assert await handle.wait() == "succeeded"
        assert await handle.result(0) == await handle == handle.as_future().result(0)
        assert not await handle.cancel()

    run_virtual(main)


def test_a_failed_run_raises_for_everyone_who_asks() -> None:
    """The very error, as often as it is asked for."""

    async def main() -> None:
        handle = start(work, {"n": 1, "fail": True})
        for _ in range(2):
            with pytest.raises(DeclinedError, match="no 1"):
                await handle
        assert handle.status() == "failed"
        refused = start(Double, {"n": "x"})
        with pytest.raises(InvalidInputError):
            await refused

    run_virtual(main)


def test_cancelling_ends_the_run() -> None:
    """`cancel` waits for the end; afterwards it is cancelled, and nothing is left."""

    async def main() -> None:
        for moment in (None, 1.0):
            handle = start(work, {"n": 1, "seconds": 5.0})
            if moment is not None:
                await handle.wait(moment)
            assert await handle.cancel()
            assert handle.status() == "cancelled"
            with pytest.raises(RunCancelledError):
                await handle
            assert not await handle.cancel()
            assert len(asyncio.all_tasks()) == 1

    run_virtual(main)


def test_giving_up_waiting_leaves_the_run_alone() -> None:
    """Cancelling the task that awaits a handle does not cancel the run."""

    async def main() -> None:
        handle = start(work, {"n": 1, "seconds": 5.0})

        async def waits() -> Any:
            return await handle

        waiting = asyncio.ensure_future(waits())
        await asyncio.sleep(1.0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert handle.status() == "running"
        assert (await handle)["n"] == 1

    run_virtual(main)


def test_handles_are_awaited_and_cancelled_from_other_threads() -> None:
    """Another thread's loop waits on them; plain threads use the future; both may cancel."""
    release = threading.Event()

    @action(name="run.released")
    async def released() -> str:
        await asyncio.to_thread(release.wait, 10)
        return "released"

    async def elsewhere(handle: Handle[str]) -> str:
        assert await handle.wait(0.01) == "running"
        release.set()
        return await handle

    async def cancels(handle: Handle[str]) -> bool:
        return await handle.cancel()

    async def main() -> None:
        handle = start(released)
        assert await asyncio.to_thread(asyncio.run, elsewhere(handle)) == "released"
        release.clear()
        second = start(released)
        future = second.as_future()
        assert not future.cancel()
        assert await asyncio.to_thread(asyncio.run, cancels(second))
        with pytest.raises(RunCancelledError):
            future.result(0)
        release.set()
        third = start(released).as_future()
        done = await asyncio.to_thread(lambda: concurrent.futures.wait([third], timeout=10).done)
        assert done == {third}

    asyncio.run(main())


def test_a_run_ends_as_cancelled_when_its_loop_does() -> None:
    """Whoever holds the handle elsewhere is told, instead of waiting for ever."""

    async def main() -> Handle[dict[str, Any]]:
        handle = start(work, {"n": 1, "seconds": 60.0})
        await asyncio.sleep(0)
        return handle

    handle = asyncio.run(main())
    assert handle.status() == "cancelled"
    with pytest.raises(RunCancelledError):
        handle.as_future().result(0)


# ------------------------------------------------------------------ run_many


def test_results_come_in_the_order_of_the_items() -> None:
    """However long each takes; no items, no results."""

    async def main() -> None:
        items = [{"n": n, "seconds": float(5 - n)} for n in range(5)]
        assert [one["n"] for one in await run_many(work, items)] == [0, 1, 2, 3, 4]
        assert await run_many(work, []) == []
        assert await run_many(Double, (Double.Params(n=n) for n in range(3))) == [0, 2, 4]

    run_virtual(main)


@pytest.mark.parametrize(("width", "most"), [(1, 1), (3, 3), (None, 10), (99, 10)])
def test_concurrency_is_bounded(width: int | None, most: int) -> None:
    """Never more than asked for, and as many as that."""
    running = [0, 0]

    @action(name=f"run.counts{width}")
    async def counts(n: int) -> int:
        running[0] += 1
        running[1] = max(running)
        await asyncio.sleep(1.0 + n % 3)
        running[0] -= 1
        return n

    async def main() -> None:
        items = [{"n": n} for n in range(10)]
        assert await run_many(counts, items, max_concurrency=width) == list(range(10))

    run_virtual(main)
    assert running == [0, most]


def test_the_first_failure_ends_the_others() -> None:
    """It is raised as itself; the rest is cancelled, and over when it is raised."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        begun = loop.time()
        items = [{"n": n, "seconds": 1.0 + n, "fail": n == 1} for n in range(5)]
        with pytest.raises(DeclinedError, match="no 1"):
            await run_many(work, items, max_concurrency=3)
        assert loop.time() - begun == 2.0
        assert len(asyncio.all_tasks()) == 1

    run_virtual(main)


def test_failures_can_be_collected() -> None:
    """An outcome for each, in order, with its typed error; progress hears them as they come."""
    heard_of: list[Outcome[dict[str, Any]]] = []

    async def main() -> None:
        items: list[dict[str, Any]] = [
            {"n": 0, "seconds": 3.0},
            {"n": 1, "seconds": 1.0, "fail": True},
            {"n": "x"},
        ]
        outcomes = await run_many(
            work, items, {"user": "u"}, on_failure="collect", progress=heard_of.append
        )
        assert [one.ok for one in outcomes] == [True, False, False]
        assert outcomes[0].unwrap()["user"] == "u"
        with pytest.raises(DeclinedError):
            outcomes[1].unwrap()
        with pytest.raises(InvalidInputError):
            outcomes[2].unwrap()
        assert [one.attempts for one in outcomes] == [1, 1, 0]
        assert heard_of == [outcomes[2], outcomes[1], outcomes[0]]
        assert len({one.run_id for one in outcomes}) == 3

    run_virtual(main)


def test_cancelling_the_whole_cancels_all() -> None:
    """Nothing is left running."""

    async def main() -> None:
        items = [{"n": n, "seconds": 60.0} for n in range(5)]
        whole = asyncio.ensure_future(run_many(work, items))
        await asyncio.sleep(1.0)
        assert len(asyncio.all_tasks()) == 7
        whole.cancel()
        with pytest.raises(asyncio.CancelledError):
            await whole
        assert len(asyncio.all_tasks()) == 1

    run_virtual(main)


def test_a_failing_progress_callback_ends_the_whole() -> None:
    """It is the caller's own bug, and comes back as it is."""

    def broken(outcome: Outcome[Any]) -> None:
        raise KeyError(outcome.run_id)

    async def main() -> None:
        with pytest.raises(KeyError):
            await run_many(work, [{"n": 1}, {"n": 2, "seconds": 60.0}], progress=broken)
        assert len(asyncio.all_tasks()) == 1

    run_virtual(main)


@pytest.mark.parametrize("keywords", [{"max_concurrency": 0}, {"on_failure": "ignore"}])
def test_run_many_checks_its_own_options(keywords: dict[str, Any]) -> None:
    """Before anything runs."""

    async def main() -> None:
        with pytest.raises(ConfigError, match="it must be"):
            await run_many(work, [{"n": 1}], **keywords)

    run_virtual(main)


# ------------------------------------------------------------------ for another process


class Binding:
    def async_view(self) -> str:
        return "the cluster"

    def sync_view(self) -> str:
        return "the cluster, in sync"


@action(name="run.looks_around")
async def looks_around(ctx: Context, raw: bytes = b"") -> dict[str, Any]:
    return {
        "data": dict(ctx),
        "raw": raw,
        "run_id": ctx.run_id,
        "trace": ctx.trace,
        "remaining": ctx.remaining(),
        "cluster": ctx.cluster,
    }


def test_a_named_run_gets_everything_from_its_caller() -> None:
    """Parameters, data, ids, trace, deadline and cluster; the value is plain JSON data."""
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    outcome = asyncio.run(
        run_named(
            "run.looks_around",
            b'{"raw":"_w=="}',
            b'{"user":"ann"}',
            {"timeout": 9.0},
            run_id="r1",
            tag="t1",
            node="n1",
            trace=trace,
            remaining=5.0,
            cluster=Binding(),
        )
    )
    assert (outcome.ok, outcome.run_id, outcome.tag, outcome.node) == (True, "r1", "t1", "n1")
    value = outcome.unwrap()
    assert (value["data"], value["raw"], value["run_id"]) == ({"user": "ann"}, "_w==", "r1")
    assert value["cluster"] == "the cluster"
    assert value["trace"][:36] == trace[:36]
    assert 0 < value["remaining"] <= 5.0
    assert (outcome.attempts, outcome.error) == (1, None)
    assert json.loads(dump_outcome(outcome))["value"] == value


@action(name="run.fails_named")
async def fails_named(how: str) -> int:
    if how == "own":
        raise DeclinedError("no", code=7)
    if how == "nested":
        raise AgentNotFoundError("c-1")
    if how == "late":
        raise OverloadedError("full", retry_after=2.5)
    if how == "wrong":
        return "many"  # type: ignore[return-value]
    raise ValueError("bug")


@pytest.mark.parametrize(
    ("name", "params", "context", "options", "error"),
    [
        ("run.nobody", b"{}", None, {}, NotRegisteredError),
        ("run.fails_named", b"{}", None, {}, InvalidInputError),
        ("run.fails_named", b'{"how":', None, {}, InvalidInputError),
        ("run.fails_named", b'{"how":"x"}', b"[]", {}, InvalidInputError),
        ("run.fails_named", b'{"how":"x"}', b"{", {}, InvalidInputError),
        ("run.fails_named", b'{"how":"x"}', None, {"retries": 1}, ConfigError),
        ("run.fails_named", b'{"how":"x"}', None, {}, ExecutionError),
        ("run.fails_named", b'{"how":"own"}', None, {}, DeclinedError),
        ("run.fails_named", b'{"how":"nested"}', None, {}, AgentNotFoundError),
        ("run.fails_named", b'{"how":"late"}', None, {}, OverloadedError),
        ("run.fails_named", b'{"how":"wrong"}', None, {}, InvalidOutputError),
    ],
)
def test_every_failure_of_a_named_run_is_in_its_outcome(
    name: str, params: bytes, context: bytes | None, options: dict[str, Any], error: type[Exception]
) -> None:
    """It raises nothing, and the caller's side rebuilds the typed error from the bytes."""
    outcome = asyncio.run(run_named(name, params, context, options))
    assert not outcome.ok
    arrived = Outcome[int].model_validate_json(dump_outcome(outcome))
    assert arrived.error == outcome.error
    for one in (outcome, arrived):
        with pytest.raises(error) as raised:
            one.unwrap()
        assert type(raised.value) is error
        if isinstance(raised.value, OverloadedError):
            assert raised.value.retry_after == 2.5


def test_an_outcome_is_a_parameter_like_any_other() -> None:
    """A handler that takes one gets the value by its declared type."""

    @action(name="run.takes_outcome")
    def takes(outcome: Outcome[Number]) -> int:
        return outcome.unwrap().n

    value = Outcome[Any](run_id="r", ok=True, value={"n": "3"}, attempts=1, seconds=0.1)
    data = b'{"outcome":' + dump_outcome(value) + b"}"
    outcome = asyncio.run(run_named("run.takes_outcome", data, None, {}))
    assert outcome.unwrap() == 3


def test_an_outcome_without_an_error_says_so() -> None:
    """A malformed one still raises something of the tree."""
    outcome = Outcome[Any](run_id="r", ok=False, attempts=0, seconds=0.0)
    with pytest.raises(ExecutionError, match="nothing is known"):
        outcome.unwrap()
