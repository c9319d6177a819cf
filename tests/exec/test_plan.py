"""Plans: what is refused, when steps begin, what a failure leaves, and taking up where it ended."""

import asyncio
import json
import pickle
import sys
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, TypeAdapter

from jido_cluster.errors import (
    ActionTimeoutError,
    ConfigError,
    DeadlineExceededError,
    ExecutionError,
    InvalidInputError,
    JidoError,
    NotRegisteredError,
    PlanError,
    RunCancelledError,
)
from jido_cluster.exec import (
    Action,
    Context,
    Instruction,
    Plan,
    PlanResult,
    Workflow,
    action,
    chain,
    run,
    run_plan,
)
from tests.exec.conftest import Heard
from tests.exec.loops import now, run_virtual

LOG: list[tuple[str, str, float]] = []


@pytest.fixture(autouse=True)
def log() -> None:
    """What the steps below did: name, event, time."""
    LOG.clear()


class Probed(BaseModel):
    model_config = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")

    seconds: float
    raw: bytes = b""
    when: datetime | None = None


@action(name="plan.step")
async def step(name: str, ctx: Context, seconds: float = 1.0, error: str = "") -> str:
    LOG.append((name, "begin", now()))
    try:
        await asyncio.sleep(seconds)
    except asyncio.CancelledError:
        LOG.append((name, "cancel", now()))
        raise
    LOG.append((name, "end", now()))
    if error:
        raise ExecutionError(error, retryable=error == "again")
    return f"{name} for {ctx.get('user')} at {ctx.get('place')}"


class Probe(Action, name="plan.probe"):
    def run(self, params: dict[str, Any], ctx: Context) -> Probed:
        return Probed(
            seconds=params["seconds"], raw=b"\xff\x00", when=datetime(2024, 1, 2, tzinfo=UTC)
        )


@action(name="plan.see")
async def see(value: Any) -> Any:
    return value


@action(name="plan.hit_itself")
async def hit_itself() -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    await asyncio.sleep(0)


@action(name="plan.declined")
async def declined() -> None:
    raise RunCancelledError("it was cancelled elsewhere")


def diamond(**options: Any) -> Plan:
    """a before b and c, both before d; e on its own."""
    return (
        Plan()
        .add("a", step, {"name": "a"}, **options)
        .add("b", step, {"name": "b", "seconds": 3.0}, depends_on=["a"])
        .add("c", step, {"name": "c"}, depends_on=["a"])
        .add("d", step, {"name": "d"}, depends_on=["b", "c"])
        .add("e", step, {"name": "e"})
    )


def begun() -> list[str]:
    return [name for name, event, _ in LOG if event == "begin"]


def times(event: str) -> dict[str, float]:
    return {name: at - 1000.0 for name, what, at in LOG if what == event}


# ------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("arguments", "keywords", "error", "message"),
    [
        (("a", see), {}, ConfigError, "step 'a' is in the plan already"),
        (("", see), {}, ConfigError, "a step's name must be a text, not ''"),
        ((5, see), {}, ConfigError, "a step's name must be a text, not 5"),
        (("x", see), {"depends_on": ["x"]}, ConfigError, "step 'x' depends on itself: x -> x"),
        (("x", see), {"depends_on": "a"}, ConfigError, "step 'x': depends_on='a': it must be a li"),
        (("x", see), {"depends_on": 5}, ConfigError, "step 'x': depends_on=5: it must be a list"),
        (("x", see), {"depends_on": [see]}, ConfigError, "step 'x': depends_on=.*are texts"),
        (("x", 5), {}, ConfigError, "step 'x': 5 is no action"),
        (("x", "plan.none"), {}, NotRegisteredError, "step 'x': no action named 'plan.none'"),
        (("x", see, 5), {}, InvalidInputError, "step 'x': params must be a mapping, not 5"),
        (("x", see), {"timout": 1}, ConfigError, "step 'x': unknown option 'timout'"),
        (("x", see), {"timeout": 0}, ConfigError, "step 'x': timeout=0"),
    ],
)
def test_a_bad_step_leaves_the_plan_as_it_was(
    arguments: tuple[Any, ...],
    keywords: Mapping[str, Any],
    error: type[JidoError],
    message: str,
) -> None:
    """The error names the step, the value and the remedy."""
    plan = Plan().add("a", see)
    with pytest.raises(error, match=message):
        plan.add(*arguments, **keywords)
    assert list(plan._steps) == ["a"]


def test_async_functions_make_no_parameters() -> None:
    """They would hold up the others; the message says what to do instead."""

    async def compute(results: Mapping[str, Any]) -> Mapping[str, Any]:
        return results

    with pytest.raises(ConfigError, match="step 'a': the function of its params is async"):
        Plan().add("a", see, compute)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("edges", "message"),
    [
        ({"a": ["b"], "b": ["a"]}, "in a circle: a -> b -> a$"),
        ({"x": ["a"], "a": ["b"], "b": ["c"], "c": ["a"], "y": []}, ": a -> b -> c -> a$"),
        ({"y": [], "a": ["y", "b"], "b": ["y", "a"]}, ": a -> b -> a$"),
        ({"a": ["x"], "b": []}, "'a' depends on 'x', which the plan does not have; known: a, b"),
        ({"encode": ["prob"], "probe": []}, "did you mean 'probe'?"),
    ],
)
def test_an_impossible_plan_is_refused_as_a_whole(
    edges: Mapping[str, list[str]], message: str
) -> None:
    """Unknown steps with the nearest name, cycles with their path; nothing runs."""
    plan = Plan()
    for name, depends_on in edges.items():
        plan.add(name, step, {"name": name}, depends_on=depends_on)
    with pytest.raises(ConfigError, match=message):
        asyncio.run(run_plan(plan))
    assert LOG == []


@given(st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7)), max_size=20))
def test_a_cycle_is_found_when_there_is_one(edges: list[tuple[int, int]]) -> None:
    """The path is of real dependencies; without a cycle all steps run, each after its own."""
    depends: dict[int, set[int]] = {name: set() for name in range(8)}
    for name, other in edges:
        if name != other:
            depends[name].add(other)
    done: set[int] = set()
    while ready := [name for name in depends if name not in done and depends[name] <= done]:
        done.update(ready)
    order: list[int] = []

    @action(name="plan.note")
    async def note(name: int) -> None:
        await asyncio.sleep(0)
        assert depends[name] <= set(order)
        order.append(name)

    plan = Plan()
    for name, others in depends.items():
        plan.add(str(name), note, {"name": name}, depends_on=[str(one) for one in others])
    if len(done) == 8:
        asyncio.run(run_plan(plan, max_concurrency=1 + len(edges) % 3))
        assert sorted(order) == list(range(8))
    else:
        with pytest.raises(ConfigError, match="circle") as caught:
            asyncio.run(run_plan(plan))
        path = [int(name) for name in caught.value.details["cycle"]]
        assert path[0] == path[-1]
        assert len(path) > 2
        assert all(after in depends[before] for before, after in pairwise(path))
        assert order == []


@pytest.mark.parametrize(
    ("arguments", "keywords", "error", "message"),
    [
        ((5,), {}, InvalidInputError, "^params must be a mapping, not 5"),
        (({}, 5), {}, InvalidInputError, "context must be a mapping"),
        ((), {"max_concurrency": 0}, ConfigError, "max_concurrency=0: it must be a whole number"),
        ((), {"max_concurrency": True}, ConfigError, "max_concurrency=True"),
        ((), {"max_concurrency": 2.5}, ConfigError, "max_concurrency=2.5"),
        ((), {"timout": 1}, ConfigError, "unknown option 'timout'"),
        (
            (),
            {"resume": {"results": {}}},
            InvalidInputError,
            "resume must be a PlanResult, not dic",
        ),
        (
            (),
            {"resume": PlanResult({}, {"aa": "failed"})},
            InvalidInputError,
            "resume: the plan has no step 'aa'; did you mean 'a'",
        ),
        (
            (),
            {"resume": PlanResult({}, {"a": "succeeded"})},
            InvalidInputError,
            "resume: step 'a' succeeded, but has no result",
        ),
        (
            (),
            {"resume": PlanResult({"a": 5}, {"a": "succeeded"})},
            InvalidInputError,
            "resume: step 'a': plan.step: the result",
        ),
        (
            (),
            {"resume": PlanResult({"a": object()}, {"a": "succeeded"})},
            InvalidInputError,
            "resume: step 'a': ",
        ),
    ],
)
def test_a_bad_call_runs_nothing(
    arguments: tuple[Any, ...],
    keywords: Mapping[str, Any],
    error: type[JidoError],
    message: str,
) -> None:
    """The error says what is wrong with it."""
    plan = Plan().add("a", step, {"name": "a"})
    with pytest.raises(error, match=message):
        asyncio.run(run_plan(plan, *arguments, **keywords))
    assert LOG == []


# ------------------------------------------------------------------ when steps begin


def test_a_step_begins_as_soon_as_its_own_dependencies_are_done() -> None:
    """No waves: c does not wait for b, though both wait for a; results are by step."""
    result = run_virtual(lambda: run_plan(diamond(), None, {"user": "ann"}))
    assert times("begin") == {"a": 0.0, "e": 0.0, "b": 1.0, "c": 1.0, "d": 4.0}
    assert list(result.results) == list(result.statuses) == ["a", "b", "c", "d", "e"]
    assert result.results["d"] == "d for ann at None"
    assert set(result.statuses.values()) == {"succeeded"}


def test_an_empty_plan_is_done_at_once() -> None:
    """Nothing to run is no failure."""
    assert asyncio.run(run_plan(Plan())) == PlanResult({}, {})


@pytest.mark.parametrize("limit", [1, 2, 3])
def test_no_more_run_at_once_than_the_limit(limit: int) -> None:
    """Those that wait go in the order of the plan."""
    plan = Plan()
    for index in range(6):
        plan.add(f"s{index}", step, {"name": f"s{index}"})
    run_virtual(lambda: run_plan(plan, max_concurrency=limit))
    assert begun() == [f"s{index}" for index in range(6)]
    assert list(times("begin").values()) == [float(index // limit) for index in range(6)]


def test_a_freed_place_goes_to_the_first_in_the_plan() -> None:
    """Also when that one has become ready last."""
    plan = (
        Plan()
        .add("last", step, {"name": "last"}, depends_on=["first"])
        .add("first", step, {"name": "first"})
        .add("other", step, {"name": "other"})
    )
    run_virtual(lambda: run_plan(plan, max_concurrency=1))
    assert begun() == ["first", "last", "other"]


def test_a_wide_plan_takes_little_more_than_its_sleeps() -> None:
    """A thousand steps of one second, a hundred at once, on simulated time: ten seconds."""
    plan = Plan()
    for index in range(1000):
        plan.add(f"s{index}", step, {"name": "s"})

    async def main() -> float:
        begin = now()
        await run_plan(plan, max_concurrency=100)
        return now() - begin

    assert run_virtual(main) == 10.0


def test_a_long_plan_needs_no_deep_stack() -> None:
    """Five thousand steps, each after the one before."""
    plan = Plan().add("0", see, {"value": 0})
    for index in range(1, 5000):
        plan.add(f"{index}", see, {"value": index}, depends_on=[f"{index - 1}"])
    assert asyncio.run(run_plan(plan)).results["4999"] == 4999
    plan.add("fail", step, depends_on=["0"])
    plan.add("far", see, depends_on=["fail"])
    with pytest.raises(PlanError):
        asyncio.run(run_plan(plan))


# ------------------------------------------------------------------ what steps get


def test_parameters_come_from_the_plan_the_step_and_its_function() -> None:
    """The nearest win; a function sees the results of the dependencies, as they were returned."""
    seen: list[Mapping[str, Any]] = []

    def compute(results: Mapping[str, Any]) -> Mapping[str, Any]:
        seen.append(results)
        return {"value": results["probe"].seconds * 2}

    plan = (
        Plan()
        .add("probe", Probe)
        .add("own", see, {"value": "own"})
        .add("given", see)
        .add("double", Instruction(see, {"value": 0}), compute, depends_on=["probe", "own", "own"])
        .add("nothing", see, lambda results: None, depends_on=["own"])  # type: ignore[arg-type, return-value]
    )
    result = asyncio.run(run_plan(plan, {"value": "plan", "seconds": 2.0, "unknown": 1}))
    assert result.results == {
        "probe": Probed(seconds=2.0, raw=b"\xff\x00", when=datetime(2024, 1, 2, tzinfo=UTC)),
        "own": "own",
        "given": "plan",
        "double": 4.0,
        "nothing": "plan",
    }
    assert [dict(one) for one in seen] == [
        {"probe": result.results["probe"], "own": "own"},
    ]


def test_context_comes_from_the_plan_the_call_and_the_step() -> None:
    """The nearest win, name by name; a plan's own mapping is a copy."""
    preset = {"user": "plan", "place": "plan"}
    plan = (
        Plan(context=preset)
        .add("a", step, {"name": "a"})
        .add("b", (step, {"name": "b"}, {"place": "step"}))
    )
    preset["place"] = "changed since"
    result = run_virtual(lambda: run_plan(plan, None, {"user": "call"}))
    assert result.results == {"a": "a for call at plan", "b": "b for call at step"}


def test_options_come_from_the_call_and_the_step() -> None:
    """A step's own win over those of the call."""
    plan = (
        Plan()
        .add("slow", step, {"name": "slow", "seconds": 3.0})
        .add("allowed", step, {"name": "allowed", "seconds": 3.0}, timeout=9.0)
        .add("again", (step, {"name": "again", "error": "again"}, None, {"max_retries": 1}))
    )
    with pytest.raises(PlanError) as caught:
        run_virtual(lambda: run_plan(plan, timeout=2.0))
    assert caught.value.result.statuses == {
        "slow": "failed",
        "allowed": "succeeded",
        "again": "failed",
    }
    assert begun().count("again") == 2
    assert isinstance(caught.value.details["errors"]["slow"], ActionTimeoutError)


def test_steps_run_inside_the_run_around_the_plan() -> None:
    """They inherit trace and deadline; a spent one starts nothing."""

    @action(name="plan.look")
    async def look(ctx: Context) -> list[Any]:
        return [ctx.trace, ctx.remaining(), ctx["user"]]

    @action(name="plan.outer", timeout=9.0)
    async def outer(ctx: Context) -> list[Any]:
        result = await run_plan(Plan().add("look", look), None, ctx)
        return [ctx.trace, *result.results["look"]]

    outer_trace, trace, remaining, user = asyncio.run(run(outer, None, {"user": "ann"}))
    assert trace[:35] == outer_trace[:35]
    assert trace != outer_trace
    assert 8.0 < remaining < 9.0
    assert user == "ann"
    spent = Context(deadline=time.monotonic())
    with pytest.raises(PlanError) as caught:
        asyncio.run(run_plan(Plan().add("a", step, {"name": "a"}), None, spent))
    assert isinstance(caught.value.details["error"], DeadlineExceededError)
    assert LOG == []


# ------------------------------------------------------------------ failures


def test_a_failure_skips_what_depends_on_it_and_nothing_else() -> None:
    """However far behind; the error has the results, the statuses and the errors. It travels."""
    plan = (
        diamond()
        .add("bad", step, {"name": "bad", "error": "again"})
        .add("next", step, {"name": "next"}, depends_on=["bad", "e"])
        .add("far", step, {"name": "far"}, depends_on=["next", "d"])
    )
    with pytest.raises(PlanError) as caught:
        run_virtual(lambda: run_plan(plan))
    error = caught.value
    assert error.message == "step 'bad' (plan.step) failed: again; skipped: next, far"
    assert error.retryable
    assert error.__cause__ is error.details["error"]
    assert error.details["step"] == "bad"
    assert list(error.details["errors"]) == ["bad"]
    assert list(error.result.results) == ["a", "b", "c", "d", "e"]
    assert error.result.statuses == {
        **dict.fromkeys("abcde", "succeeded"),
        "bad": "failed",
        "next": "skipped",
        "far": "skipped",
    }
    copy = pickle.loads(pickle.dumps(error))
    assert copy.result == error.result
    assert copy.retryable
    wired = JidoError.from_dict(error.to_dict())
    assert isinstance(wired, PlanError)
    assert wired.result["statuses"]["far"] == "skipped"
    assert json.dumps(error.to_dict())


def test_several_failures_are_all_told() -> None:
    """The first one leads; together they are retryable only when each is."""
    plan = (
        Plan()
        .add("late", step, {"name": "late", "seconds": 2.0, "error": "never"})
        .add("soon", step, {"name": "soon", "error": "again"})
        .add("after", step, depends_on=["late", "soon"])
    )
    with pytest.raises(PlanError) as caught:
        run_virtual(lambda: run_plan(plan))
    assert caught.value.message == (
        "step 'soon' (plan.step) failed: again; failed too: late; skipped: after"
    )
    assert not caught.value.retryable
    assert list(caught.value.details["errors"]) == ["soon", "late"]


def test_a_step_that_ends_as_cancelled_says_so() -> None:
    """Cancelled elsewhere, or by its own doing; the others go on."""
    plan = (
        Plan()
        .add("declined", declined)
        .add("itself", hit_itself)
        .add("after", step, depends_on=["itself"])
        .add("fine", step, {"name": "fine"})
        .add("then", step, {"name": "then"}, depends_on=["fine"])
    )
    for limit in (None, 1):
        with pytest.raises(PlanError) as caught:
            run_virtual(lambda limit=limit: run_plan(plan, max_concurrency=limit))  # type: ignore[misc]
        assert caught.value.result.statuses == {
            "declined": "cancelled",
            "itself": "cancelled",
            "after": "skipped",
            "fine": "succeeded",
            "then": "succeeded",
        }
        assert "step 'itself' was cancelled" in str(caught.value.details["errors"]["itself"])


@pytest.mark.parametrize(
    ("compute", "kind", "message"),
    [
        (
            lambda r: 5,
            "validation_error",
            "step 'b': what the function of its params returned must",
        ),
        (lambda r: {"value": 1 / 0}, "execution_error", "ZeroDivisionError"),
        (lambda r: sys.exit(3), "execution_error", "SystemExit: 3"),
        (lambda r: {"value": r["c"]}, "validation_error", r"need the result of 'c': .*\['a'\]"),
        (lambda r: {"valeu": 1}, "validation_error", "valeu: unknown parameter"),
    ],
)
def test_a_bad_function_of_params_is_a_failure_of_its_step(
    compute: Callable[[Any], Any], kind: str, message: str, heard: Heard
) -> None:
    """The step does not begin; telemetry hears of it."""
    plan = Plan().add("a", see, {"value": 1}).add("b", see, compute, depends_on=["a"])
    with pytest.raises(PlanError, match=message) as caught:
        asyncio.run(run_plan(plan))
    assert caught.value.details["error"].kind == kind
    assert caught.value.result.statuses == {"a": "succeeded", "b": "failed"}
    assert heard.names == ["start", "stop", "exception"]
    assert heard[-1][1]["attempt"] == 0


@pytest.mark.parametrize("limit", [None, 1])
def test_cancelling_a_plan_leaves_nothing_behind(limit: int | None) -> None:
    """Running steps end, waiting ones never begin."""

    async def main() -> None:
        task = asyncio.create_task(run_plan(diamond(), max_concurrency=limit))
        await asyncio.sleep(1.5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run_virtual(main)
    assert begun() == (["a", "b"] if limit else ["a", "e", "b", "c"])
    assert sorted(times("cancel")) == (["b"] if limit else ["b", "c"])


@pytest.mark.parametrize("cancels", [1, 2])
def test_cancelling_at_any_point_leaves_nothing_behind(cancels: int) -> None:
    """After each number of turns of the loop; also a second time while steps clean up."""
    active: list[int] = []

    @action(name="plan.tidy")
    async def tidy() -> None:
        active.append(1)
        try:
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        finally:
            try:
                await asyncio.sleep(0)
            finally:
                active.pop()

    class Flow(Workflow, name="plan.tidy_flow"):
        steps = [tidy, Workflow.parallel(a=tidy, b=[tidy, tidy], max_concurrency=1)]

    plan = Plan().add("a", tidy).add("b", Flow, depends_on=["a"]).add("c", tidy)

    @action(name="plan.tidy_plan")
    async def tidy_plan() -> None:
        await run_plan(plan, max_concurrency=2)

    async def main(turns: int) -> bool:
        task = asyncio.create_task(chain([tidy, tidy_plan]))
        for _ in range(turns):
            await asyncio.sleep(0)
        for _ in range(cancels):
            task.cancel()
            await asyncio.sleep(0)
        await asyncio.wait([task])
        assert asyncio.all_tasks() == {asyncio.current_task()}
        assert active == []
        return task.cancelled()

    turns = 0
    while asyncio.run(main(turns)):
        turns += 1
    assert turns > 20


# ------------------------------------------------------------------ taking up the work


def failing_once() -> tuple[Plan, list[str]]:
    """A plan whose middle step fails the first time; and what ran, in order."""
    ran: list[str] = []

    @action(name="plan.note_value")
    async def note_value(name: str, value: Any = None) -> Any:
        ran.append(name)
        if name == "middle" and ran.count("middle") == 1:
            raise ExecutionError("not yet")
        return value

    @action(name="plan.raw")
    async def raw() -> tuple[bytes, float]:
        return b"\xff\x00", float("inf")

    class First(Action, name="plan.first"):
        async def run(self, params: Any, ctx: Context) -> Probed:
            ran.append("first")
            return Probed(seconds=1.0, raw=b"\xff\x00", when=datetime(2024, 1, 2, tzinfo=UTC))

    plan = (
        Plan()
        .add("first", First)
        .add("raw", raw)
        .add("side", note_value, {"name": "side", "value": {"any": [1, None]}})
        .add("middle", note_value, {"name": "middle"}, depends_on=["first"])
        .add(
            "last",
            note_value,
            lambda done: {"name": "last", "value": [done["first"], done["side"], done["raw"]]},
            depends_on=["middle", "first", "side", "raw"],
        )
    )
    return plan, ran


def through_json(result: PlanResult) -> PlanResult:
    adapter = TypeAdapter(PlanResult)
    return adapter.validate_python(json.loads(adapter.dump_json(result)))


@pytest.mark.parametrize("travel", [lambda result: result, through_json], ids=["kept", "json"])
def test_a_plan_is_taken_up_where_it_failed(travel: Callable[[PlanResult], PlanResult]) -> None:
    """What succeeded does not run again, and its results have their types, also after JSON."""
    plan, ran = failing_once()
    with pytest.raises(PlanError) as caught:
        asyncio.run(run_plan(plan))
    assert ran == ["first", "side", "middle"]
    kept = travel(caught.value.result)
    result = asyncio.run(run_plan(plan, resume=kept))
    assert ran == ["first", "side", "middle", "middle", "last"]
    first = Probed(seconds=1.0, raw=b"\xff\x00", when=datetime(2024, 1, 2, tzinfo=UTC))
    assert result.results == {
        "first": first,
        "raw": (b"\xff\x00", float("inf")),
        "side": {"any": [1, None]},
        "middle": None,
        "last": [first, {"any": [1, None]}, (b"\xff\x00", float("inf"))],
    }
    assert (result.results["first"] is kept.results["first"]) is (kept is caught.value.result)
    assert set(result.statuses.values()) == {"succeeded"}
    assert asyncio.run(run_plan(plan, resume=result)) == result
    assert len(ran) == 5


def test_a_plan_that_has_grown_is_taken_up_too() -> None:
    """New steps run; one that has succeeded stands, whatever it depends on now."""
    done = PlanResult({"b": "old b"}, {"a": "skipped", "b": "succeeded"})
    plan = (
        Plan()
        .add("a", step, {"name": "a"})
        .add("b", step, {"name": "b"}, depends_on=["a"])
        .add("c", step, {"name": "c"}, depends_on=["b"])
    )
    result = run_virtual(lambda: run_plan(plan, resume=done))
    assert sorted(begun()) == ["a", "c"]
    assert result.results["b"] == "old b"
    failing = (
        Plan()
        .add("a", step, {"name": "a", "error": "no"})
        .add("b", step, {"name": "b"}, depends_on=["a"])
    )
    with pytest.raises(PlanError) as caught:
        run_virtual(lambda: run_plan(failing, resume=done))
    assert caught.value.result.statuses == {"a": "failed", "b": "succeeded"}


def test_steps_added_to_a_running_plan_wait_for_the_next_run() -> None:
    """A run is of the plan as it was."""
    plan = Plan()

    def grow(results: Mapping[str, Any]) -> Mapping[str, Any]:
        plan.add("late", see, {"value": 2})
        return {"value": 1}

    plan.add("a", see, grow)
    assert asyncio.run(run_plan(plan)).results == {"a": 1}
    assert list(plan._steps) == ["a", "late"]


def test_a_plan_shows_its_steps() -> None:
    """Some of them when they are many."""
    assert repr(Plan()) == "<Plan steps: none>"
    assert repr(diamond()) == "<Plan steps: a, b, c, d, e>"
    plan = Plan()
    for index in range(12):
        plan.add(f"s{index}", see)
    assert repr(plan).endswith("s9 and 2 more>")
