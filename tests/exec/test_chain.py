"""Chains: how values flow, what an interrupt may do, and what a failure leaves."""

import asyncio
import pickle
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import pytest
from pydantic import AliasChoices, AliasPath, BaseModel, ConfigDict, Field

from jido_cluster.errors import (
    ActionTimeoutError,
    AgentNotFoundError,
    ChainError,
    ConfigError,
    DeadlineExceededError,
    ExecutionError,
    InvalidInputError,
    InvalidOutputError,
    JidoError,
    NotRegisteredError,
)
from jido_cluster.exec import (
    Action,
    Context,
    Continue,
    Halt,
    Instruction,
    action,
    chain,
    current_context,
    run,
)
from tests.exec.conftest import Heard
from tests.exec.loops import run_virtual

CALLS: list[str] = []


@pytest.fixture(autouse=True)
def calls() -> list[str]:
    """What the actions below did, in order."""
    CALLS.clear()
    return CALLS


class Order(BaseModel):
    id: int
    note: str = ""


class Validate(Action, name="chain.validate"):
    class Params(BaseModel):
        data: str

    def run(self, params: Params, ctx: Context) -> dict[str, Any]:
        CALLS.append("validate")
        return {"is_valid": bool(params.data)}


@action(name="chain.process")
async def process(data: str, format: str = "text") -> dict[str, Any]:
    CALLS.append("process")
    return {"data": f"{format}:{data}"}


@action(name="chain.save")
async def save(data: str, is_valid: bool, ctx: Context) -> dict[str, Any]:
    CALLS.append("save")
    return {"saved": data, "user": ctx.get("user"), "place": ctx.get("place")}


@action(name="chain.echo")
async def echo(ctx: Context, **values: Any) -> dict[str, Any]:
    CALLS.append("echo")
    return {"seen": sorted(values), "user": ctx.get("user")}


@action(name="chain.fail")
async def fail(ctx: Context, retryable: bool = False) -> None:
    CALLS.append("fail")
    raise ExecutionError(f"no, attempt {ctx.attempt}", retryable=retryable)


@action(name="chain.give")
async def give(kind: str) -> Any:
    CALLS.append("give")
    return RESULTS[kind]


@action(name="chain.doze")
async def doze(seconds: float = 1.0) -> None:
    CALLS.append("doze")
    await asyncio.sleep(seconds)
    CALLS.append("dozed")


@action(name="chain.count")
async def count() -> int:
    return 1


@dataclass
class Point:
    x: int
    order: Order


ORDER = Order(id=7)
RESULTS: dict[str, Any] = {
    "dict": {"x": 1},
    "ordered": OrderedDict(x=1),
    "mapping": MappingProxyType({"x": 1}),
    "model": Order(id=7),
    "dataclass": Point(1, ORDER),
    "none": None,
    "number": 5,
    "list": [1],
    "class": Point,
}


# ------------------------------------------------------------------ how values flow


def test_results_flow_into_the_next_step() -> None:
    """A class, a function with parameters of its own, a name: the values have what each added."""
    values = asyncio.run(
        chain(
            [Validate, (process, {"format": "json"}), "chain.save"],
            {"data": "input"},
            {"user": "ann"},
        )
    )
    assert CALLS == ["validate", "process", "save"]
    assert values == {
        "data": "json:input",
        "is_valid": True,
        "saved": "json:input",
        "user": "ann",
        "place": None,
    }


def test_parameters_of_a_step_are_its_own_and_win() -> None:
    """They hide the values for that step, and no later one sees them."""
    steps = [(process, {"data": "mine", "format": "xml"}), echo]
    values = asyncio.run(chain(steps, {"data": "given", "x": 1}))
    assert values["data"] == "xml:mine"
    assert values["seen"] == ["data", "x"]


def test_no_steps_give_the_parameters_back() -> None:
    """As a dict of the caller's own; of a model those that were set."""
    params = {"x": 1}
    values = asyncio.run(chain([], params))
    assert values == {"x": 1}
    assert values is not params
    assert asyncio.run(chain((), None)) == {}
    assert asyncio.run(chain((), Order(id=1))) == {"id": 1}  # type: ignore[arg-type]


def test_the_caller_s_mapping_is_left_alone() -> None:
    """Also by an action that changes the parameters it is given."""

    class Greedy(Action, name="chain.greedy"):
        async def on_before_validate(self, params: Any) -> Any:
            params.clear()
            return params

        async def run(self, params: Any, ctx: Context) -> None:
            return None

    params = {"x": 1}
    assert asyncio.run(chain([Greedy, echo], params))["seen"] == ["x"]
    assert params == {"x": 1}


@pytest.mark.parametrize(
    ("kind", "added"),
    [
        ("dict", {"x": 1}),
        ("ordered", {"x": 1}),
        ("mapping", {"x": 1}),
        ("model", {"id": 7, "note": ""}),
        ("dataclass", {"x": 1, "order": ORDER}),
        ("none", {}),
    ],
)
def test_what_has_names_is_merged(kind: str, added: Mapping[str, Any]) -> None:
    """Mappings, fields of models and dataclasses as they are; None adds nothing."""
    values = asyncio.run(chain([give], {"kind": kind}))
    assert values == {"kind": kind, **added}
    assert values.get("order", ORDER) is ORDER


@pytest.mark.parametrize(
    ("kind", "shown"), [("number", "int"), ("list", "list"), ("class", "type")]
)
def test_what_has_no_names_is_an_error(kind: str, shown: str) -> None:
    """It names the step, the type and the remedy; the values are as before."""
    with pytest.raises(ChainError) as caught:
        asyncio.run(chain([echo, give, echo], {"kind": kind}))
    error = caught.value
    assert isinstance(error.error, InvalidOutputError)
    assert error.error.message == (
        f"chain.give: its result, of type {shown}, cannot be merged into the next step's input; "
        f"return a mapping or a model"
    )
    assert error.error.details["type"] == shown
    assert (error.action, error.index) == ("chain.give", 1)
    assert error.results == {"kind": kind, "seen": ["kind"], "user": None}
    assert CALLS == ["echo", "give"]


def test_a_step_gets_of_the_values_what_it_knows() -> None:
    """Functions and strict models; aliases count; a slip in its own parameters is refused still."""

    class Strict(Action, name="chain.strict"):
        class Params(BaseModel):
            model_config = ConfigDict(extra="forbid")
            data: str
            size: int = Field(default=0, validation_alias="Size")
            path: int = Field(default=0, validation_alias=AliasPath("deep", "path"))
            either: int = Field(
                default=0, validation_alias=AliasChoices("one", AliasPath("two", 0))
            )

        async def run(self, params: Params, ctx: Context) -> dict[str, Any]:
            return {"strict": [params.size, params.path, params.either]}

    class ByName(Action, name="chain.by_name"):
        class Params(BaseModel):
            model_config = ConfigDict(extra="forbid", populate_by_name=True)
            size: int = Field(default=0, alias="Size")

        async def run(self, params: Params, ctx: Context) -> dict[str, Any]:
            return {"by_name": params.size}

    params = {"data": "x", "Size": 1, "deep": {"path": 2}, "two": [3], "size": 4, "noise": 0}
    values = asyncio.run(chain([Strict], params))
    assert values["strict"] == [1, 2, 3]
    assert asyncio.run(chain([ByName], {"size": 4, "noise": 0}))["by_name"] == 4
    assert asyncio.run(chain([(process, {"data": "x"})], params))["data"] == "text:x"
    with pytest.raises(ChainError, match=r"step 0 \(chain.process\) failed: .*foramt") as caught:
        asyncio.run(chain([(process, {"foramt": "json"})], params))
    assert isinstance(caught.value.error, InvalidInputError)


def test_a_step_s_context_and_options_win() -> None:
    """Over those of the chain, which hold where the step says nothing."""
    steps = [
        Instruction(save, context={"user": "bob"}),
        (fail, {}, {}, {"max_retries": 1}),
    ]
    params = {"data": "x", "is_valid": True, "retryable": True}
    with pytest.raises(ChainError) as caught:
        run_virtual(lambda: chain(steps, params, {"user": "ann", "place": "here"}, max_retries=4))
    assert caught.value.results is not None
    assert (caught.value.results["user"], caught.value.results["place"]) == ("bob", "here")
    assert CALLS == ["save", "fail", "fail"]


@pytest.mark.parametrize("step", [fail, (fail, {}), Instruction(fail)])
def test_the_chain_s_options_win_over_the_action_s(step: Any) -> None:
    """For every step, bare or in parts."""
    with pytest.raises(ChainError):
        run_virtual(lambda: chain([step], {"retryable": True}, max_retries=2))
    assert CALLS == ["fail"] * 3


def test_a_redefined_action_counts() -> None:
    """A notebook cell run again: the class of today runs, not one kept from before."""
    for version in (1, 2):

        @action(name="chain.again")
        async def again(version: int = version) -> dict[str, Any]:
            return {"version": version}

        assert asyncio.run(chain([again])) == {"version": version}
        assert asyncio.run(chain(["chain.again"])) == {"version": version}


# ------------------------------------------------------------------ what is refused before


@pytest.mark.parametrize(
    ("keywords", "error", "message"),
    [
        ({"steps": [echo, 5]}, ConfigError, "step 1: 5 is no action"),
        ({"steps": [echo, [echo]]}, ConfigError, "step 1: .* is no action"),
        ({"steps": [echo, "none"]}, NotRegisteredError, "step 1: no action named 'none'"),
        ({"steps": (echo, {"x": 1})}, ConfigError, "step 1: {'x': 1} is no action"),
        ({"steps": {echo}}, ConfigError, "steps must be a list of actions, not {<function echo"),
        ({"steps": echo}, ConfigError, "steps must be a list of actions, not <function echo"),
        ({"steps": "chain.echo"}, ConfigError, "steps must be a list of actions, not 'chain.echo'"),
        ({"steps": [echo], "timout": 1}, ConfigError, "unknown option 'timout'"),
        ({"steps": [], "timeout": -1}, ConfigError, "timeout=-1"),
        ({"steps": [echo, (echo, {}, {}, {"timeout": 0})]}, ConfigError, "step 1: timeout=0"),
        (
            {"steps": [echo, count]},
            ConfigError,
            "step 1: chain.count: its result, of type int, can",
        ),
        ({"steps": [echo], "params": 5}, InvalidInputError, "^params must be a mapping, not 5"),
        ({"steps": [echo], "context": 5}, InvalidInputError, "context must be a mapping"),
    ],
)
def test_all_is_checked_before_anything_runs(
    keywords: Mapping[str, Any], error: type[JidoError], message: str
) -> None:
    """However far behind the fault is; the error says where."""
    with pytest.raises(error, match=message):
        asyncio.run(chain(**keywords))
    assert CALLS == []


# ------------------------------------------------------------------ interrupts


async def later(verdict: Continue | Halt) -> Continue | Halt:
    await asyncio.sleep(0)
    return verdict


@pytest.mark.parametrize("wrapped", [lambda verdict: verdict, later], ids=["sync", "async"])
def test_an_interrupt_decides_after_each_step(
    wrapped: Callable[[Continue | Halt], Continue | Halt | Awaitable[Continue | Halt]],
) -> None:
    """Continue goes on with other values, Halt ends with what it holds, whatever that is."""
    seen: list[dict[str, Any]] = []

    def interrupt(values: dict[str, Any], ctx: Context) -> Any:
        seen.append(dict(values))
        return wrapped(Continue({"kind": "model"}) if len(seen) < 3 else Halt("blocked"))

    found: Any = asyncio.run(chain([give, give, give, give], {"kind": "dict"}, interrupt=interrupt))
    assert found == "blocked"
    assert seen == [
        {"kind": "dict", "x": 1},
        {"kind": "model", "id": 7, "note": ""},
        {"kind": "model", "id": 7, "note": ""},
    ]


def test_an_interrupt_follows_the_last_step_too() -> None:
    """Its values are the chain's."""
    found = asyncio.run(chain([echo], interrupt=lambda values, ctx: Continue(ORDER)))
    assert found == {"id": 7, "note": ""}


def test_an_interrupt_cannot_change_values_in_passing() -> None:
    """It has a copy: what counts is what it returns."""

    def interrupt(values: dict[str, Any], ctx: Context) -> Continue:
        kept = dict(values)
        values.clear()
        return Continue(kept)

    assert asyncio.run(chain([echo, echo], {"x": 1}, interrupt=interrupt))["x"] == 1


def test_an_interrupt_runs_inside_the_chain() -> None:
    """Its context has the chain's data, trace and deadline; what it runs inherits them."""
    found: dict[str, Any] = {}

    @action(name="chain.inner")
    async def inner(ctx: Context) -> dict[str, Any]:
        return {"trace": ctx.trace, "remaining": ctx.remaining()}

    async def interrupt(values: dict[str, Any], ctx: Context) -> Continue:
        assert current_context() is ctx
        nested = await run(inner)
        found.update(
            trace=ctx.trace, inner=nested, step=values, user=ctx["user"], attempt=ctx.attempt
        )
        return Continue(values)

    @action(name="chain.outer", timeout=9.0)
    async def outer(ctx: Context) -> str:
        await chain([inner], None, {"user": "ann"}, interrupt=interrupt)
        assert current_context() is ctx
        return ctx.trace

    trace = asyncio.run(run(outer))
    ids = [one["trace"].split("-") for one in (found, found["inner"], found["step"])]
    assert {one[1] for one in ids} == {trace.split("-")[1]}
    assert len({one[2] for one in ids}) == 3
    assert found["user"] == "ann"
    assert found["attempt"] == 1
    assert 8.0 < found["inner"]["remaining"] < 9.0
    assert 8.0 < found["step"]["remaining"] < 9.0


def test_outside_an_interrupt_no_context_is_left() -> None:
    """Not after a failing one either."""

    async def main() -> None:
        await chain([echo], interrupt=lambda values, ctx: Continue(values))
        assert current_context() is None
        with pytest.raises(ChainError):
            await chain([echo], interrupt=lambda values, ctx: 1 / 0)  # type: ignore[arg-type, return-value]
        assert current_context() is None

    asyncio.run(main())


@pytest.mark.parametrize(
    ("answer", "kind", "message"),
    [
        (None, "config_error", r"interrupt must return Continue\(x\) or Halt\(x\), not NoneType"),
        ({"x": 1}, "config_error", r"interrupt must return Continue\(x\) or Halt\(x\), not dict"),
        (Continue(5), "config_error", "Continue takes the values to go on with, .* not int"),
        (Continue(None), "config_error", "Continue takes the values .* not NoneType"),
        (ValueError("odd"), "execution_error", "ValueError: odd"),
        (ConnectionError("gone"), "execution_error", "ConnectionError: gone"),
        (SystemExit(3), "execution_error", "SystemExit: 3"),
        (AgentNotFoundError("nobody"), "agent_not_found", "nobody"),
    ],
)
def test_a_failing_interrupt_is_an_error_of_its_step(answer: Any, kind: str, message: str) -> None:
    """Nothing is lost: the step's own result is among the values."""

    def interrupt(values: dict[str, Any], ctx: Context) -> Any:
        if isinstance(answer, BaseException):
            raise answer
        return answer

    with pytest.raises(ChainError, match=rf"^step 0 \(chain.echo\) failed: {message}") as caught:
        asyncio.run(chain([echo, echo], {"x": 1}, interrupt=interrupt))
    error = caught.value
    assert error.error is not None
    assert error.error.kind == kind
    assert error.retryable is isinstance(answer, ConnectionError)
    assert error.results == {"x": 1, "seen": ["x"], "user": None}
    assert CALLS == ["echo"]
    if kind == "execution_error":
        assert error.error.details["action"] == "interrupt"
        assert error.error.__cause__ is answer


# ------------------------------------------------------------------ failures


@pytest.mark.parametrize("retryable", [True, False])
def test_a_failure_says_where_and_what_was_done(*, retryable: bool) -> None:
    """Action, index, error and the values so far; as retryable as what failed. It travels."""
    params = {"data": "x", "retryable": retryable}
    with pytest.raises(ChainError) as caught:
        asyncio.run(chain([Validate, process, fail, save], params))
    error = caught.value
    assert CALLS == ["validate", "process", "fail"]
    assert error.message == "step 2 (chain.fail) failed: no, attempt 1"
    assert (error.action, error.index, error.retryable) == ("chain.fail", 2, retryable)
    assert error.error is error.__cause__
    assert isinstance(error.error, ExecutionError)
    assert error.results == {"data": "text:x", "retryable": retryable, "is_valid": True}
    for copy in (JidoError.from_dict(error.to_dict()), pickle.loads(pickle.dumps(error))):
        assert isinstance(copy, ChainError)
        assert (copy.action, copy.index, copy.results) == (error.action, 2, error.results)
        assert isinstance(copy.error, ExecutionError)
        assert copy.retryable is retryable


def test_a_chain_is_taken_up_where_it_failed() -> None:
    """The remaining steps with the results so far give what the whole would have given."""
    steps = [Validate, process, save]
    whole = asyncio.run(chain(steps, {"data": "x"}))
    with pytest.raises(ChainError) as caught:
        asyncio.run(chain([Validate, process, fail], {"data": "x"}))
    rest = asyncio.run(chain(steps[caught.value.index :], caught.value.results))
    assert rest == whole


def test_input_that_does_not_fit_is_a_failure_of_its_step(heard: Heard) -> None:
    """Telemetry hears of each step as of any other run."""
    with pytest.raises(ChainError) as caught:
        asyncio.run(chain([process, save], {"data": "x"}))
    assert caught.value.index == 1
    assert isinstance(caught.value.error, InvalidInputError)
    assert heard.names == ["start", "stop", "exception"]
    assert [metadata["action"] for _, _, metadata in heard] == [
        "chain.process",
        "chain.process",
        "chain.save",
    ]


def test_a_timeout_is_for_each_attempt_of_each_step() -> None:
    """Two steps may take longer together than one may."""

    async def main() -> None:
        begun = asyncio.get_running_loop().time()
        await chain([doze, doze], timeout=1.5)
        assert asyncio.get_running_loop().time() - begun == 2.0
        with pytest.raises(ChainError) as caught:
            await chain([doze, (doze, {"seconds": 2.0})], timeout=1.5)
        assert caught.value.index == 1
        assert isinstance(caught.value.error, ActionTimeoutError)
        assert caught.value.retryable

    run_virtual(main)


def test_a_spent_deadline_starts_no_further_step() -> None:
    """The deadline of the run around it caps the chain."""

    async def main() -> ChainError:
        spent = Context(deadline=time.monotonic())
        with pytest.raises(ChainError) as caught:
            await chain([process], {"data": "x"}, spent)
        return caught.value

    error = asyncio.run(main())
    assert isinstance(error.error, DeadlineExceededError)
    assert CALLS == []


def test_a_context_passed_on_keeps_its_data() -> None:
    """`ctx` itself as the context of the chain."""

    @action(name="chain.passing")
    async def passing(ctx: Context) -> dict[str, Any]:
        return await chain([echo], None, ctx)

    assert asyncio.run(run(passing, None, {"user": "ann"}))["user"] == "ann"


def test_the_data_of_a_chain_are_shared_with_its_steps() -> None:
    """Not copied for each, unless a step adds some of its own."""
    seen: list[Mapping[str, Any]] = []

    @action(name="chain.sharing")
    async def sharing(ctx: Context) -> None:
        seen.append(ctx.data)

    data = {"user": "ann"}
    asyncio.run(chain([sharing, Instruction(sharing, context={"place": "here"})], None, data))
    assert seen[0] is data
    assert seen[1] == {"user": "ann", "place": "here"}
    assert data == {"user": "ann"}


def test_cancelling_ends_the_running_step_and_all_that_follow() -> None:
    """As itself, not as an error of the chain."""

    async def main() -> None:
        task = asyncio.create_task(chain([process, doze, process], {"data": "x"}))
        await asyncio.sleep(0.5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run_virtual(main)
    assert CALLS == ["process", "doze"]
