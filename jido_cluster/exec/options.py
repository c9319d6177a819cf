"""Run options: what a run may set, the rule for each value, and which of three places wins."""

import difflib
import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, TypedDict, cast

from jido_cluster.errors import ConfigError, JidoError

__all__ = ["ResolvedOptions", "RunOptions", "check_options", "dump_options", "nearest", "resolve"]


class RunOptions(TypedDict, total=False):
    """How to run an action; set on the action, in the configuration, or for one run."""

    timeout: float | None
    max_retries: int
    retry_delay: float
    retry_backoff: float
    retry_jitter: float
    retry_max_delay: float
    retry_on: tuple[type[Exception], ...]


@dataclass(frozen=True, slots=True)
class ResolvedOptions:
    """Run options with every value decided.

    Attributes:
        timeout: Seconds each attempt may take, > 0; None for no limit.
        max_retries: Further attempts after the first, >= 0.
        retry_delay: Seconds before the first retry, >= 0.
        retry_backoff: What the delay is multiplied by for each further retry, >= 1. Larger spares a
            struggling service, smaller notices its recovery sooner.
        retry_jitter: Part of the delay that chance adds or takes away, 0 to 1. Without it, clients
            that failed together retry together.
        retry_max_delay: Seconds no delay (before jitter) exceeds, >= 0.
        retry_on: Exceptions to retry besides the transient ones of `jido_cluster.exec.retry`.
    """

    timeout: float | None = 30.0
    max_retries: int = 0
    retry_delay: float = 1.0
    retry_backoff: float = 2.0
    retry_jitter: float = 0.1
    retry_max_delay: float = 30.0
    retry_on: tuple[type[Exception], ...] = ()


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_exceptions(value: object) -> bool:
    return isinstance(value, tuple) and all(
        isinstance(one, type) and issubclass(one, Exception) and not issubclass(one, JidoError)
        for one in value
    )


_Rule = tuple[Callable[[Any], bool], str]
_RULES: Final[Mapping[str, _Rule]] = {
    "timeout": (
        lambda value: value is None or (_is_number(value) and value > 0),
        "seconds > 0, or None for no limit",
    ),
    "max_retries": (
        lambda value: isinstance(value, int) and not isinstance(value, bool) and value >= 0,
        "a whole number >= 0",
    ),
    "retry_delay": (lambda value: _is_number(value) and value >= 0, "seconds >= 0"),
    "retry_backoff": (lambda value: _is_number(value) and value >= 1, "a factor >= 1"),
    "retry_jitter": (lambda value: _is_number(value) and 0 <= value <= 1, "a part from 0 to 1"),
    "retry_max_delay": (lambda value: _is_number(value) and value >= 0, "seconds >= 0"),
    "retry_on": (
        _is_exceptions,
        "a tuple of exception types (errors of jido_cluster carry their own `retryable`)",
    ),
}
OPTION_NAMES: Final = tuple(_RULES)

_DEFAULTS: Final = ResolvedOptions()


def nearest(name: str, known: Collection[str]) -> str:
    """The end of an error message about an unknown name: the nearest known one, or all."""
    close = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(sorted(known))}"


def check_options(options: Mapping[str, Any], *, owner: str = "run options") -> RunOptions:
    """The options themselves, as a copy, when names and values are right.

    Raises:
        ConfigError: An unknown name (with the nearest known one) or an ill value (with its rule).
    """
    for name, value in options.items():
        rule = _RULES.get(name)
        if rule is None:
            message = f"{owner}: unknown option {name!r}; {nearest(name, OPTION_NAMES)}"
            raise ConfigError(message, option=name)
        is_right, text = rule
        if not is_right(value):
            message = f"{owner}: {name}={value!r}: it must be {text}"
            raise ConfigError(message, option=name)
    return cast("RunOptions", dict(options))


def dump_options(options: RunOptions) -> dict[str, Any]:
    """The options as plain data for another process.

    Raises:
        ConfigError: `retry_on` is among them: exception types do not travel.
    """
    if options.get("retry_on"):
        raise ConfigError(
            "retry_on cannot be sent to another node: declare it on the action", option="retry_on"
        )
    return {name: value for name, value in options.items() if name != "retry_on"}


def resolve(
    config: Mapping[str, Any], action: Mapping[str, Any], call: Mapping[str, Any]
) -> ResolvedOptions:
    """The options of a run: of each, the one set nearest to it (call, then action, then config).

    Raises:
        ConfigError: As `check_options`.
    """
    resolved = _DEFAULTS
    for options, owner in ((config, "configuration"), (action, "action"), (call, "run options")):
        if options:
            resolved = replace(resolved, **check_options(options, owner=owner))
    return resolved
