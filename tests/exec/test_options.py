"""Run options: the rule for each value, and that the nearest wins."""

from collections.abc import Iterator
from typing import Any

import pytest

from jido_cluster.errors import ConfigError, ExecutionError
from jido_cluster.exec import Action, Context, action, configure, options, run_sync
from jido_cluster.exec.action import spec_of
from jido_cluster.exec.breaker import Breaker
from jido_cluster.exec.options import (
    ResolvedOptions,
    check_options,
    dump_options,
    load_options,
    resolve,
)
from jido_cluster.exec.runner import options_of


@action(name="options.other", timeout=7.0)
async def other() -> str:
    return "other"


@action(name="options.asks", max_retries=2)
async def asks(ctx: Context) -> float | None:
    return ctx.remaining()


def plain() -> None:
    """No action."""


def test_defaults() -> None:
    """The documented ones."""
    assert resolve({}, {}, {}) == ResolvedOptions(
        timeout=30.0,
        max_retries=0,
        retry_delay=1.0,
        retry_backoff=2.0,
        retry_jitter=0.1,
        retry_max_delay=30.0,
        retry_on=(),
        fallback=None,
        breaker=None,
    )


def test_the_nearest_place_wins() -> None:
    """Call over action over configuration over default, each option by itself."""
    resolved = resolve(
        {"timeout": 1.0, "max_retries": 1, "retry_delay": 0.1},
        {"timeout": 2.0, "max_retries": 2},
        {"timeout": None},
    )
    assert (resolved.timeout, resolved.max_retries, resolved.retry_delay) == (None, 2, 0.1)
    assert resolved.retry_backoff == 2.0


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("timeout", 0),
        ("timeout", -1.0),
        ("timeout", float("nan")),
        ("timeout", float("inf")),
        ("timeout", "5"),
        ("timeout", True),
        ("max_retries", -1),
        ("max_retries", 1.0),
        ("max_retries", True),
        ("max_retries", None),
        ("retry_delay", -0.1),
        ("retry_delay", None),
        ("retry_backoff", 0.5),
        ("retry_jitter", 1.1),
        ("retry_jitter", -0.1),
        ("retry_max_delay", -1),
        ("retry_on", [ValueError]),
        ("retry_on", (ValueError(),)),
        ("retry_on", (KeyboardInterrupt,)),
        ("retry_on", (ExecutionError,)),
        ("fallback", 5),
        ("fallback", "a b"),
        ("fallback", ""),
        ("fallback", plain),
        ("fallback", Action),
        ("fallback", dict),
        ("breaker", "payments"),
        ("breaker", 5),
    ],
)
def test_ill_values_are_refused(name: str, value: Any) -> None:
    """The error names option, value and rule."""
    with pytest.raises(ConfigError, match=f"{name}=.*it must be"):
        check_options({name: value})


@pytest.mark.parametrize(
    "options",
    [
        {"timeout": None},
        {"timeout": 0.001, "max_retries": 0},
        {"retry_delay": 0, "retry_backoff": 1, "retry_jitter": 0, "retry_max_delay": 0},
        {"retry_jitter": 1.0, "retry_on": (KeyError, OSError)},
        {"fallback": other, "breaker": Breaker("options")},
        {"fallback": "options.not_here_yet"},
        {"fallback": None, "breaker": None},
    ],
)
def test_good_values_pass_as_a_copy(options: dict[str, Any]) -> None:
    """The bounds themselves are good."""
    checked = check_options(options)
    assert checked == options
    assert checked is not options


@pytest.mark.parametrize(
    ("wrong", "meant"), [("retries", "max_retries"), ("time_out", "timeout"), ("zzz", "known: ")]
)
def test_an_unknown_option_names_the_nearest(wrong: str, meant: str) -> None:
    """A slip of the pen is answered with what was meant."""
    with pytest.raises(ConfigError, match=meant):
        check_options({wrong: 1})


def test_exception_types_do_not_travel() -> None:
    """What another node may need is plain data; `retry_on` belongs to the action."""
    assert dump_options({"timeout": 1.0, "retry_on": ()}) == {"timeout": 1.0}
    with pytest.raises(ConfigError, match="declare it on the action"):
        dump_options({"retry_on": (KeyError,)})


def test_what_travels_comes_back_as_it_was() -> None:
    """Checked again on the other side; without a run around it there is no budget."""
    given: Any = {"timeout": None, "fallback": other, "breaker": Breaker("options")}
    loaded, budget = load_options(dump_options(given))
    assert loaded == {**given, "fallback": "options.other"}
    assert budget is None
    with pytest.raises(ConfigError, match="did you mean 'max_retries'"):
        load_options({"retries": 1})


# ------------------------------------------------------------------ the process's configuration


@pytest.fixture
def _unconfigured() -> Iterator[None]:
    yield
    configure()


@pytest.mark.usefixtures("_unconfigured")
def test_the_configuration_fills_what_action_and_call_leave_open() -> None:
    """Of each option the nearest place counts; a second configuration replaces the first."""
    configure(timeout=5.0, max_retries=9)
    spec = spec_of(asks)
    assert (spec.options.timeout, spec.options.max_retries) == (5.0, 2)
    assert options_of(spec, {"timeout": 3.0}).timeout == 3.0
    assert spec_of(other).options.timeout == 7.0
    left = run_sync(asks)
    assert left is not None
    assert 4.0 < left <= 5.0
    configure(retry_delay=0.5)
    assert (spec.options.timeout, spec.options.retry_delay) == (30.0, 0.5)
    configure()
    assert spec.options == ResolvedOptions(max_retries=2)


@pytest.mark.usefixtures("_unconfigured")
def test_an_ill_configuration_changes_nothing() -> None:
    """It is refused as a whole."""
    configure(timeout=5.0)
    with pytest.raises(ConfigError, match="configuration: max_retries=-1"):
        configure(timeout=6.0, max_retries=-1)
    assert options.CONFIGURED == {"timeout": 5.0}
