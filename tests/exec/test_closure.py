"""Closures: presets, what a call adds, and which of them wins."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from pydantic import BaseModel

from jido_cluster.errors import ConfigError, ExecutionError, InvalidInputError, NotRegisteredError
from jido_cluster.exec import (
    Action,
    Closure,
    Context,
    Handle,
    action,
    async_closure,
    closure,
    run,
)
from tests.exec.loops import run_virtual

CALLS: list[int] = []


class Input(BaseModel):
    data: str
    format: str = "text"
    validate_first: bool = False


class Process(Action, name="closure.process"):
    Params = Input

    def run(self, params: Input, ctx: Context) -> dict[str, Any]:
        return {**dict(params), "user": ctx.get("user"), "place": ctx.get("place")}


@action(name="closure.fail", max_retries=1, retry_delay=0.0)
async def fail() -> None:
    CALLS.append(1)
    raise ExecutionError("no", retryable=True)


@action(name="closure.look")
async def look(ctx: Context) -> dict[str, Any]:
    return {"data": dict(ctx), "trace": ctx.trace[:35], "remaining": ctx.remaining()}


def test_a_call_completes_the_presets_and_wins() -> None:
    """Parameters and context by name; the closure stays as it was, call by call."""
    preset = {"format": "json", "validate_first": True}
    process = closure(Process, preset, {"user": "ann", "place": "here"})
    preset["format"] = "changed since"

    async def main() -> None:
        found = await process({"data": "x"})
        assert found == {
            "data": "x",
            "format": "json",
            "validate_first": True,
            "user": "ann",
            "place": "here",
        }
        found = await process({"data": "y", "format": "xml"}, {"user": "bob"})
        assert (found["format"], found["user"], found["place"]) == ("xml", "bob", "here")
        assert (await process({"data": "z"}))["format"] == "json"

    asyncio.run(main())


def test_a_model_in_the_call_wins_with_what_was_set() -> None:
    """Its defaults hide no preset; without presets it is the input itself."""
    given: Any = Input(data="x")
    assert asyncio.run(closure(Process, {"format": "json"})(given))["format"] == "json"
    assert asyncio.run(closure(Process)(given))["format"] == "text"
    preset: Any = Input(data="preset")
    assert asyncio.run(closure(Process, preset)())["data"] == "preset"


def test_options_of_the_call_win_over_the_preset_ones() -> None:
    """And those over the action's own."""
    stubborn: Closure[Any] = closure(fail, max_retries=2)
    for call, attempts in ((stubborn(), 3), (stubborn(max_retries=0), 1)):
        CALLS.clear()
        with pytest.raises(ExecutionError):
            asyncio.run(call)
        assert len(CALLS) == attempts


def test_a_closure_starts_runs_in_the_background() -> None:
    """`start`, and `async_closure`, whose calls are `start`."""

    async def main() -> None:
        process = closure(Process, {"format": "json"}, {"user": "ann"})
        handles = [process.start({"data": "x"}), process.start({"data": "y"}, {"user": "bob"})]
        assert all(isinstance(handle, Handle) for handle in handles)
        assert [(await one)["data"] for one in handles] == ["x", "y"]
        assert (await handles[1])["user"] == "bob"
        begin: Callable[..., Handle[Any]] = async_closure(Process, {"format": "json"})
        assert (await begin({"data": "z"}))["format"] == "json"
        CALLS.clear()
        begin = async_closure(fail, max_retries=5)
        assert await begin(max_retries=0).wait() == "failed"
        assert len(CALLS) == 1

    run_virtual(main)


def test_a_context_passed_on_keeps_its_limits() -> None:
    """`ctx` in the call: its data win over presets, its trace and deadline go on."""

    @action(name="closure.passing", timeout=9.0)
    async def passing(ctx: Context) -> list[Any]:
        looking = closure(look, None, {"user": "preset", "place": "here"})
        return [
            ctx.trace[:35],
            await looking(None, ctx),
            await looking(),
            await closure(look)(None, ctx),
        ]

    trace, passed, inside, bare = asyncio.run(run(passing, None, {"user": "ann"}))
    assert passed["data"] == {"user": "ann", "place": "here"}
    assert inside["data"] == {"user": "preset", "place": "here"}
    assert bare["data"] == {"user": "ann"}
    for found in (passed, inside, bare):
        assert found["trace"] == trace
        assert 8.0 < found["remaining"] < 9.0


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((5,), {}, ConfigError, "closure: 5 is no action"),
        (("closure.none",), {}, NotRegisteredError, "closure: no action named 'closure.none'"),
        ((Process, 5), {}, InvalidInputError, "closure: params must be a mapping, not 5"),
        ((Process, {}, 5), {}, InvalidInputError, "closure: context must be a mapping, not 5"),
        ((Process,), {"timout": 1}, ConfigError, "closure: unknown option 'timout'"),
    ],
)
def test_bad_presets_are_refused_when_the_closure_is_made(
    arguments: tuple[Any, ...],
    options: Mapping[str, Any],
    error: type[Exception],
    message: str,
) -> None:
    """Not when it is called."""
    for make in (closure, async_closure):
        with pytest.raises(error, match=message):
            make(*arguments, **options)


@pytest.mark.parametrize("presets", [{}, {"params": {"data": "x"}, "context": {"user": "ann"}}])
def test_a_bad_call_is_refused(presets: Mapping[str, Any]) -> None:
    """As by `run`, with presets or without."""
    process: Closure[Any] = closure(Process, **presets)
    bad: list[Any] = [(5,), ({"data": "x"}, 5)]
    for arguments in bad:
        with pytest.raises(InvalidInputError, match="mapping|dictionary"):
            asyncio.run(process(*arguments))
    with pytest.raises(ConfigError, match="unknown option 'timout'"):
        asyncio.run(process({"data": "x"}, timout=1))  # type: ignore[call-arg]


def test_a_closure_shows_no_values() -> None:
    """They may be secret."""
    named: Any = "closure.process"
    shown = repr(closure(named, {"format": "s3cret"}, {"user": "s3cret"}))
    assert shown == "<Closure Process params=['format']>"
