"""Run options: the rule for each value, and that the nearest wins."""

from typing import Any

import pytest

from jido_cluster.errors import ConfigError, ExecutionError
from jido_cluster.exec.options import ResolvedOptions, check_options, dump_options, resolve


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
