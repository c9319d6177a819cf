"""Fallbacks: when another action takes over, what it gets, and what its failure says."""

import asyncio
import json
import time
from typing import Any

import pytest
from pydantic import BaseModel, Field

from jido_cluster.errors import (
    ActionTimeoutError,
    ChainError,
    CircuitOpenError,
    ConfigError,
    DeadlineExceededError,
    ExecutionError,
    FencedError,
    InvalidInputError,
    InvalidOutputError,
    JidoError,
    OutcomeUnknownError,
    OverloadedError,
    RunCancelledError,
    UsageError,
)
from jido_cluster.exec import Action, Context, action, run, run_named, run_sync, start
from jido_cluster.exec.action import spec_of
from jido_cluster.exec.breaker import Breaker
from jido_cluster.exec.options import dump_options
from jido_cluster.exec.runner import run_spec
from tests.exec.conftest import Heard
from tests.exec.loops import run_virtual


@action(name="fallback.cached")
async def cached(symbol: str, ctx: Context, days: int = 1) -> dict[str, Any]:
    return {
        "cached": symbol,
        "days": days,
        "data": dict(ctx),
        "run_id": ctx.run_id,
        "attempt": ctx.attempt,
        "left": ctx.remaining(),
    }


RAISES: dict[str, BaseException] = {}


@action(name="fallback.price", fallback=cached)
async def price(symbol: str, days: int = 5) -> Any:
    if symbol in RAISES:
        raise RAISES[symbol]
    return {"fresh": symbol, "days": days}


@pytest.fixture(autouse=True)
def _clean() -> None:
    RAISES.clear()


def test_it_takes_over_with_the_same_parameters_and_context() -> None:
    """Its own defaults fill what was not given; a run that succeeds needs none."""
    assert run_sync(price, {"symbol": "x"}) == {"fresh": "x", "days": 5}
    RAISES["x"] = ConnectionError("down")
    found = run_sync(price, {"symbol": "x"}, {"user": "ann"})
    assert (found["cached"], found["days"], found["data"]) == ("x", 1, {"user": "ann"})
    assert found["attempt"] == 1


@pytest.mark.parametrize(
    ("error", "applies"),
    [
        (ValueError("bug"), True),
        (ExecutionError("x"), True),
        (ActionTimeoutError("x"), True),
        (InvalidOutputError("x"), True),
        (ChainError("x"), True),
        (OverloadedError("x"), True),
        (CircuitOpenError("x"), True),
        (OutcomeUnknownError("x"), True),
        (InvalidInputError("x"), False),
        (ConfigError("x"), False),
        (UsageError("x"), False),
        (RunCancelledError("x"), False),
        (FencedError("x"), False),
    ],
    ids=repr,
)
def test_it_mends_what_can_be_mended(error: Exception, applies: bool) -> None:
    """Failures, lateness and what is not available; not what somebody has to put right."""
    RAISES["x"] = error
    if applies:
        assert run_sync(price, {"symbol": "x"})["cached"] == "x"
    else:
        with pytest.raises(type(error)) as raised:
            run_sync(price, {"symbol": "x"})
        assert raised.value is error


def test_ill_parameters_are_the_callers_to_mend() -> None:
    """They would be as ill for the fallback."""
    with pytest.raises(InvalidInputError, match=r"fallback\.price"):
        run_sync(price, {"symbol": 5, "days": "x"})


class Slow(Action, name="fallback.slow"):
    class Params(BaseModel):
        n: int = Field(alias="N")
        more: int = 3

    undone: list[str] = []

    async def run(self, params: Params, ctx: Context) -> str:
        await asyncio.sleep(100)
        return "slow"

    def on_error(self, params: Params, error: JidoError, ctx: Context) -> None:
        self.undone.append(error.kind)


@action(name="fallback.quick")
def quick(N: int) -> str:  # noqa: N803 - the alias of the model
    return f"quick {N}"


class SameModel(Action, name="fallback.same"):
    Params = Slow.Params

    async def run(self, params: Slow.Params, ctx: Context) -> int:
        return params.more


def test_it_comes_after_retries_and_compensation(heard: Heard) -> None:
    """Once, when the run has failed for good; its events name what it stands in for."""
    Slow.undone.clear()

    async def main() -> None:
        options: Any = {"timeout": 2.0, "max_retries": 1, "fallback": quick}
        assert await run(Slow, {"N": 4}, **options) == "quick 4"

    run_virtual(main)
    assert Slow.undone == ["timeout_error"]
    assert heard.names == [
        *("start", "exception", "retry", "start", "exception", "compensate", "start", "stop")
    ]
    assert heard[-1][2]["action"] == "fallback.quick"
    assert heard[-1][2]["fallback_of"] == "fallback.slow"
    assert {metadata["run_id"] for _, _, metadata in heard} == {heard[0][2]["run_id"]}


@pytest.mark.parametrize(("fallback", "value"), [(quick, "quick 4"), (SameModel, 3)])
def test_a_model_is_given_on_in_a_form_that_fits(fallback: Any, value: Any) -> None:
    """The same model as it is; to another action what was set of it, by the names it came under."""

    async def main() -> None:
        assert await run(Slow, Slow.Params(N=4), timeout=0.01, fallback=fallback) == value

    asyncio.run(main())


def test_the_call_wins_over_the_action() -> None:
    """Another one for this call, by class or by name; or none."""
    RAISES["x"] = ConnectionError("down")

    @action(name="fallback.other")
    async def other(symbol: str) -> str:
        return f"other {symbol}"

    assert run_sync(price, {"symbol": "x"}, fallback=other) == "other x"
    assert run_sync(price, {"symbol": "x"}, fallback="fallback.other") == "other x"
    with pytest.raises(ExecutionError, match="down"):
        run_sync(price, {"symbol": "x"}, fallback=None)


def test_a_fallback_may_have_one_of_its_own() -> None:
    """They are tried in turn; a circle is gone round once."""

    @action(name="fallback.second", fallback="fallback.third")
    async def second(symbol: str) -> str:
        raise ValueError("second")

    @action(name="fallback.third", fallback="fallback.second")
    async def third(symbol: str) -> str:
        if symbol == "x":
            raise ValueError("third")
        return "third"

    for symbol in "xy":
        RAISES[symbol] = ConnectionError("first")
    assert run_sync(price, {"symbol": "y"}, fallback=second) == "third"
    with pytest.raises(ExecutionError, match="ValueError: third") as raised:
        run_sync(price, {"symbol": "x"}, fallback=second)
    before = raised.value.details["fallback_of"]
    assert before["message"] == "ValueError: second"
    assert before["details"]["fallback_of"]["message"] == "ConnectionError: first"


class NoStockError(ExecutionError):
    kind = "fallback_no_stock"


def test_its_failure_carries_the_one_before() -> None:
    """As the cause where it has none of its own, and as data, which travel."""
    RAISES["x"] = ConnectionError("down")

    @action(name="fallback.typed")
    async def typed(symbol: str) -> str:
        raise NoStockError("none left", retryable=True)

    with pytest.raises(NoStockError) as raised:
        run_sync(price, {"symbol": "x"}, fallback=typed)
    first = raised.value.__cause__
    assert isinstance(first, ExecutionError)
    assert first.message == "ConnectionError: down"
    assert isinstance(first.__cause__, ConnectionError)
    assert raised.value.details["fallback_of"]["kind"] == "execution_error"
    assert raised.value.retryable
    assert json.loads(json.dumps(raised.value.to_dict()))["details"]["fallback_of"]


@pytest.mark.parametrize("fallback", ["fallback.nobody", "refuses"])
def test_one_that_did_not_begin_leaves_the_failure_as_it_is(fallback: str) -> None:
    """To say that nothing ran would be wrong: the first action did. The details tell the rest."""
    RAISES["x"] = ConnectionError("down")

    @action(name="refuses")
    async def refuses(other: int) -> None: ...

    with pytest.raises(ExecutionError, match="ConnectionError: down") as raised:
        run_sync(price, {"symbol": "x"}, fallback=fallback)
    found = raised.value.details["fallback_error"]
    assert found["kind"] == ("validation_error" if fallback == "refuses" else "not_registered")
    assert isinstance(raised.value.__cause__, ConnectionError)


def test_one_that_is_not_available_goes_on_to_its_own() -> None:
    """Its breaker is open: what stands in for it is tried, and has the first failure to tell of."""
    RAISES["x"] = ConnectionError("down")
    guard = Breaker("fallback.middle", failures=1)
    guard.admit().fail(ExecutionError("x", retryable=True))

    @action(name="fallback.last")
    async def last(symbol: str) -> str:
        if symbol == "x":
            raise NoStockError("none left")
        return "last"

    @action(name="fallback.middle", fallback=last, breaker=guard)
    async def middle(symbol: str) -> str:
        return "middle"

    RAISES["y"] = ConnectionError("down")
    assert run_sync(price, {"symbol": "y"}, fallback=middle) == "last"
    with pytest.raises(NoStockError) as raised:
        run_sync(price, {"symbol": "x"}, fallback=middle)
    before = raised.value.details["fallback_of"]
    assert before["message"] == "ConnectionError: down"
    assert before["details"]["fallback_error"]["kind"] == "circuit_open"


def test_it_inherits_the_deadline_and_not_the_timeout() -> None:
    """It has its own timeout, within what the run has left; a spent deadline starts none."""

    @action(name="fallback.fails")
    async def fails(symbol: str, ctx: Context) -> None:
        raise ConnectionError("down")

    async def main() -> None:
        spec = spec_of(fails)
        options: Any = {"fallback": cached, "timeout": 0.001}
        from jido_cluster.exec.runner import options_of

        context = Context(attempt=0, deadline=time.monotonic() + 5.0)
        found = await run_spec(spec, {"symbol": "x"}, context, options_of(spec, options))
        assert 1.0 < found["left"] <= 5.0
        unlimited = Context(attempt=0)
        found = await run_spec(spec, {"symbol": "x"}, unlimited, options_of(spec, options))
        assert 29.0 < found["left"] <= 30.0

    asyncio.run(main())


def test_a_spent_deadline_starts_no_fallback(heard: Heard) -> None:
    """There is nobody left to wait for it."""

    async def main() -> None:
        spec = spec_of(Slow)
        from jido_cluster.exec.runner import options_of

        options = options_of(spec, {"fallback": quick})
        for left, error in ((0.01, ActionTimeoutError), (-1.0, DeadlineExceededError)):
            context = Context(attempt=0, deadline=time.monotonic() + left)
            with pytest.raises(error):
                await run_spec(spec, {"N": 1}, context, options)

    asyncio.run(main())
    assert "fallback.quick" not in {metadata["action"] for _, _, metadata in heard}


def test_a_cancelled_run_has_no_fallback(heard: Heard) -> None:
    """Nor does a fallback that is cancelled go on to another one."""

    async def main() -> None:
        handle = start(Slow, {"N": 1}, timeout=None, fallback=quick)
        assert await handle.wait(0.5) == "running"
        assert await handle.cancel()

    run_virtual(main)
    assert "fallback.quick" not in {metadata["action"] for _, _, metadata in heard}


def test_it_stands_in_for_an_open_breaker() -> None:
    """At once, without an attempt."""
    guard = Breaker("fallback.guard", failures=1)
    guard.admit().fail(ExecutionError("x", retryable=True))
    assert run_sync(price, {"symbol": "x"}, breaker=guard)["cached"] == "x"


def test_it_has_retries_of_its_own() -> None:
    """The run before it may have spent all of its own; an outer run's are shared as ever."""
    tried: list[int] = []

    @action(name="fallback.flaky", max_retries=2, retry_delay=0.0)
    async def flaky(symbol: str) -> str:
        tried.append(1)
        if len(tried) < 3:
            raise ConnectionError("again")
        return "done"

    RAISES["x"] = ConnectionError("down")
    options: Any = {"max_retries": 2, "retry_delay": 0.0, "fallback": flaky}
    assert run_sync(price, {"symbol": "x"}, **options) == "done"

    @action(name="fallback.outer", max_retries=3, retry_delay=0.0)
    async def outer() -> Any:
        return await run(price, {"symbol": "x"}, **options)

    tried.clear()
    with pytest.raises(ExecutionError, match="again"):
        run_sync(outer)
    assert len(tried) == 2  # three retries in all, two of which the first action took


def test_it_travels_by_name_and_a_breaker_by_name_and_settings() -> None:
    """On the other side the same happens, and the value is plain data."""
    RAISES["x"] = ConnectionError("down")
    guard = Breaker("fallback.travels", failures=7, reset=3.0)
    data = dump_options({"timeout": 5.0, "fallback": cached, "breaker": guard})
    assert json.loads(json.dumps(data)) == {
        "timeout": 5.0,
        "fallback": "fallback.cached",
        "breaker": ["fallback.travels", 7, 3.0],
    }
    outcome = asyncio.run(run_named("fallback.price", b'{"symbol":"x"}', None, data))
    assert outcome.ok
    assert outcome.unwrap()["cached"] == "x"
    assert guard.statistics().total_failed == 1
    assert dump_options({"fallback": None, "breaker": None}) == {"fallback": None, "breaker": None}
    off = dump_options({"fallback": None, "breaker": None})
    outcome = asyncio.run(run_named("fallback.price", b'{"symbol":"x"}', None, off, node="n1"))
    assert not outcome.ok
    assert outcome.node == "n1"
