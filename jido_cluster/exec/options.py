"""Run options: what a run may set, the rule for each value, and which of three places wins."""

import difflib
import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, TypedDict, Unpack, cast

from jido_cluster.errors import ConfigError, JidoError
from jido_cluster.exec.breaker import Breaker, breaker_of
from jido_cluster.exec.budget import RetryBudget
from jido_cluster.exec.context import current_context
from jido_cluster.ids import check_id

__all__ = [
    "ResolvedOptions",
    "RunOptions",
    "action_name",
    "check_options",
    "configure",
    "dump_options",
    "load_options",
    "nearest",
    "resolve",
]

# The attribute of a class or function that says it is an action: what its author said of it.
DEFINITION: Final = "__jido_definition__"


class RunOptions(TypedDict, total=False):
    """How to run an action; set on the action, in the configuration, or for one run."""

    timeout: float | None
    max_retries: int
    retry_delay: float
    retry_backoff: float
    retry_jitter: float
    retry_max_delay: float
    retry_on: tuple[type[Exception], ...]
    fallback: Any
    breaker: Breaker | None


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
        fallback: The action that runs, with the same parameters and context, when this one has
            failed for good: its class, function or registered name; None for none.
        breaker: What each attempt must be admitted by; None for nothing.
    """

    timeout: float | None = 30.0
    max_retries: int = 0
    retry_delay: float = 1.0
    retry_backoff: float = 2.0
    retry_jitter: float = 0.1
    retry_max_delay: float = 30.0
    retry_on: tuple[type[Exception], ...] = ()
    fallback: Any = None
    breaker: Breaker | None = None


def action_name(target: object) -> str | None:
    """The registered name of an action, from its class or function, or the name; None if none."""
    if isinstance(target, str):
        return target
    definition = vars(target).get(DEFINITION) if hasattr(target, "__dict__") else None
    return None if definition is None else cast("str", definition.name)


def _is_action(value: object) -> bool:
    if not isinstance(value, str):
        return action_name(value) is not None
    try:
        return bool(check_id(value))
    except ValueError:
        return False


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
    "fallback": (
        lambda value: value is None or _is_action(value),
        "an action: a subclass of Action, a function with @action, or the name of one; or None",
    ),
    "breaker": (
        lambda value: value is None or isinstance(value, Breaker),
        "a Breaker(name), or None",
    ),
}
OPTION_NAMES: Final = tuple(_RULES)

DEFAULTS: Final = ResolvedOptions()
_BUDGET: Final = "budget"  # no option, but beside them on the wire: what may still be retried


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
    """The options as plain data for another process, with what is left of the retry budget here.

    A fallback travels by its registered name, a breaker by name and settings.

    Raises:
        ConfigError: `retry_on` is among them: exception types do not travel.
    """
    if options.get("retry_on"):
        raise ConfigError(
            "retry_on cannot be sent to another node: declare it on the action", option="retry_on"
        )
    data: dict[str, Any] = {name: value for name, value in options.items() if name != "retry_on"}
    if "fallback" in data:
        data["fallback"] = action_name(data["fallback"])
    breaker = data.get("breaker")
    if breaker is not None:
        data["breaker"] = [breaker.name, breaker.failures, breaker.reset]
    outer = current_context()
    if outer is not None and outer.budget is not None:
        data[_BUDGET] = outer.budget.left
    return data


def load_options(data: Mapping[str, Any]) -> tuple[RunOptions, RetryBudget | None]:
    """The options of `dump_options`, checked, and the retry budget that came with them.

    Raises:
        ConfigError: As `check_options`.
    """
    options = dict(data)
    retries = options.pop(_BUDGET, None)
    breaker = options.get("breaker")
    if breaker is not None:
        options["breaker"] = breaker_of(*breaker)
    return check_options(options), None if retries is None else RetryBudget(retries)


# Options of this process. Replaced as a whole and never changed in place; read it as an attribute
# of the module.
CONFIGURED: RunOptions = {}


def configure(**options: Unpack[RunOptions]) -> None:
    """From now on these are the options of all runs in this process that say nothing else.

    What an action declares wins over them, and what a call gives over both. A second call replaces
    the first: ``configure()`` brings the defaults back.

    Raises:
        ConfigError: An unknown name or an ill value; nothing changed.
    """
    global CONFIGURED  # noqa: PLW0603 - one configuration per process is the point
    CONFIGURED = check_options(options, owner="configuration")


def resolve(
    config: Mapping[str, Any], action: Mapping[str, Any], call: Mapping[str, Any]
) -> ResolvedOptions:
    """The options of a run: of each, the one set nearest to it (call, then action, then config).

    Raises:
        ConfigError: As `check_options`.
    """
    resolved = DEFAULTS
    for options, owner in ((config, "configuration"), (action, "action"), (call, "run options")):
        if options:
            resolved = replace(resolved, **check_options(options, owner=owner))
    return resolved
