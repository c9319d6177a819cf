"""Every error of the project, in one tree; the base of an error tells whether the work ran.

    JidoError
    ├── RejectedError                       did not run, nothing changed: safe to send elsewhere
    │   ├── InvalidInputError               (ValueError)       the caller fixes the value
    │   ├── AgentNotFoundError              (LookupError)      the caller spawns the agent
    │   ├── HandlerNotFoundError            (LookupError)      a name from ``details["known"]``
    │   ├── NotRegisteredError              (LookupError)      deploy the module
    │   ├── AgentExistsError                                   ``get_or_spawn``; ``.node``
    │   ├── CallCycleError                                     ``details["chain"]``
    │   ├── AgentLostError                                     its state was in memory only
    │   ├── FencedError                                        another holds the right: stop
    │   ├── DeadlineExceededError           (TimeoutError)     waited too long, never ran
    │   └── UnavailableError                                   wait ``.retry_after`` seconds
    │       ├── OverloadedError
    │       ├── CircuitOpenError
    │       ├── NoQuorumError
    │       ├── SessionUnavailableError
    │       ├── NoCapableNodeError
    │       └── ClusterUnavailableError     (ConnectionError)  the message holds a command
    ├── ExecutionError                      ran; state unchanged, outside effects are possible
    │   ├── ActionTimeoutError              (TimeoutError)     one attempt ran out of time
    │   ├── InvalidOutputError                                 result or state does not validate
    │   ├── RunCancelledError                                  it was asked for
    │   ├── ChainError                                         ``.action .index .error .results``
    │   └── PlanError                                          ``.result``
    ├── OutcomeUnknownError                 (TimeoutError)     may have run: retry by ``.op_id``
    ├── StillRunningError                   (TimeoutError)     the work goes on: wait again
    ├── ConfigError                                            the author or the operator
    ├── UsageError                          (RuntimeError)     wrong thread, loop, process, turn
    └── InternalError                                          a bug of this library
        └── WireError

An author raises `ExecutionError`, or a subclass of it that sets its own ``kind``: it reaches the
caller as that subclass where the subclass is defined, else as an `ExecutionError` that carries the
kind. Errors cross processes as dicts (`JidoError.to_dict`) and also pickle.
"""

import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from itertools import islice, pairwise
from typing import Any, ClassVar, Generic, Self, TypeVar, overload

from pydantic_core import to_jsonable_python

__all__ = [
    "ActionTimeoutError",
    "AgentExistsError",
    "AgentLostError",
    "AgentNotFoundError",
    "CallCycleError",
    "ChainError",
    "CircuitOpenError",
    "ClusterUnavailableError",
    "ConfigError",
    "DeadlineExceededError",
    "ExecutionError",
    "FencedError",
    "HandlerNotFoundError",
    "InternalError",
    "InvalidInputError",
    "InvalidOutputError",
    "JidoError",
    "NoCapableNodeError",
    "NoQuorumError",
    "NotRegisteredError",
    "OutcomeUnknownError",
    "OverloadedError",
    "PlanError",
    "RejectedError",
    "RunCancelledError",
    "SessionUnavailableError",
    "StillRunningError",
    "UnavailableError",
    "UsageError",
    "WireError",
]

T = TypeVar("T")

# Bounds of `to_dict`: details inform a reader, they do not transport data. The whole of an error
# then stays below half of the 1 MiB limit of a message, also where JSON writes six bytes for each
# character. `MAX_VALUES` and `MAX_CHARACTERS` count over all details of one error.
MAX_DEPTH = 8
MAX_ITEMS = 100
MAX_VALUES = 2_000
MAX_CHARACTERS = 64_000
MAX_TEXT = 4_000
MAX_MESSAGE = 8_000
MAX_NAME = 200

_REDACTED = "[REDACTED]"
_SECRET_WORDS = frozenset(
    {
        "accesskey",
        "apikey",
        "authorization",
        "cookie",
        "credential",
        "credentials",
        "passphrase",
        "passwd",
        "password",
        "privatekey",
        "secret",
        "secretkey",
        "secrets",
        "signingkey",
        "token",
    }
)
_SECRET_NAMES = frozenset({"auth", "key"})  # as a whole: "routing_key" and "author" are harmless
_WORD = re.compile(r"[A-Z]?[a-z0-9]+|[A-Z]+(?![a-z])")
_INT64_MIN, _UINT64_MAX = -(2**63), 2**64 - 1

# The very class for a kind that came from the wire. Built-in kinds are fixed; of two user classes
# with one kind the later definition counts (a notebook cell run again).
_BUILT_IN: dict[str, type["JidoError"]] = {}
_BY_KIND: dict[str, type["JidoError"]] = {}


class _Detail(Generic[T]):
    """An attribute kept in ``details``, so that it travels and prints with the rest."""

    def __init__(self, default: T) -> None:
        self._default = default
        self._name = ""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, error: None, owner: type) -> Self: ...
    @overload
    def __get__(self, error: "JidoError", owner: type) -> T: ...
    def __get__(self, error: "JidoError | None", owner: type) -> Self | T:
        if error is None:
            return self
        value: T = error.details.get(self._name, self._default)
        return value

    def __set__(self, error: "JidoError", value: T) -> None:
        error.details[self._name] = value


class JidoError(Exception):
    """The root of the tree: a message, a kind that names it to machines, and details.

    Attributes:
        kind: Stable name of the class, for logs, metrics and other languages. A subclass that sets
            its own is found by it when the error arrives from another process.
        retryable: Whether the same request may succeed later without a change by the caller.
        message: One sentence for people, without secrets and remote tracebacks.
        details: What the message speaks of, as data; owned by the error.
        error_id: Names the log entry that holds the traceback, where there is one.
    """

    kind: ClassVar[str] = "error"
    retryable: bool = False
    message: str
    details: dict[str, Any]
    error_id: str | None

    def __init__(self, message: str = "", *, retryable: bool | None = None, **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.details = details
        self.error_id = None
        if retryable is not None:
            self.retryable = retryable

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        kind = cls.__dict__.get("kind")
        if cls.__module__ == __name__:
            _BUILT_IN[cls.kind] = cls
        elif kind is None:
            return
        elif kind in _BUILT_IN and not issubclass(cls, _BUILT_IN[kind]):
            # The caller would take it for an error that tells something else about whether it ran.
            message = (
                f"{cls.__qualname__}.kind: {kind!r} belongs to {_BUILT_IN[kind].__name__}; "
                f"choose another kind"
            )
            raise ConfigError(message, kind=kind)
        elif kind not in _BUILT_IN:
            _BY_KIND[kind] = cls

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.message), dict(vars(self))

    def to_dict(self) -> dict[str, Any]:
        """The error as JSON-shaped data, bounded in depth and size.

        Values under keys that name a secret ("password", "api_key", "token") are replaced.
        """
        return {
            "kind": _shorten(self.kind, MAX_NAME),
            "base": _base_of(type(self)).kind,
            "message": _shorten(str(self.message), MAX_MESSAGE),
            "retryable": bool(self.retryable),
            "error_id": self.error_id,
            "details": _Jsonable().mapping(self.details, 0),
        }

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> "JidoError":
        """The error that ``data`` describes, as its own class where that is known here.

        A kind nobody here defines gives the built-in ``base`` (`ExecutionError` when that is absent
        too) carrying the kind. Never raises for a malformed ``data``: an error report must arrive.
        What another sender left unbounded is cut here as `to_dict` would have cut it.
        """
        kind = _shorten(str(data.get("kind") or ExecutionError.kind), MAX_NAME)
        base = _BUILT_IN.get(str(data.get("base")))
        cls = _BUILT_IN.get(kind) or _BY_KIND.get(kind) or base or ExecutionError
        if base is not None and not issubclass(cls, base):
            # A stranger's class of the same kind: what `base` says about having run counts.
            cls = base
        message = _shorten(str(data.get("message") or ""), MAX_MESSAGE)
        error = _rebuild(cls, message)
        details = data.get("details")
        error_id = data.get("error_id")
        error.message = message
        # With room for the marks that `to_dict` leaves where it cuts.
        reader = _Jsonable(room=2)
        error.details = reader.mapping(details, 0) if isinstance(details, Mapping) else {}
        error.error_id = None if error_id is None else _shorten(str(error_id), MAX_NAME)
        retryable = data.get("retryable")
        if isinstance(retryable, bool) and retryable is not error.retryable:
            error.retryable = retryable
        if kind != cls.kind:
            vars(error)["kind"] = kind
        inner = error.details.get("error")
        if isinstance(error, ChainError) and isinstance(inner, Mapping):
            error.details["error"] = JidoError.from_dict(inner)
        return error


_BUILT_IN[JidoError.kind] = JidoError


def _rebuild(cls: type[JidoError], message: str) -> JidoError:
    """An error without calling ``__init__``, whose parameters a subclass is free to choose."""
    error = cls.__new__(cls, message)
    error.args = (message,)
    return error


def _base_of(cls: type[JidoError]) -> type[JidoError]:
    """The nearest ancestor (or itself) that every process knows."""
    return next(one for one in cls.__mro__ if one in _BUILT_IN.values())


def _inner_retryable(retryable: bool | None, details: Mapping[str, Any]) -> bool | None:
    inner = details.get("error")
    return inner.retryable if retryable is None and isinstance(inner, JidoError) else retryable


def _shorten(text: str, limit: int) -> str:
    if not text.isascii():
        # A lone surrogate (a file name, say) encodes to no format of the wire.
        text = text.encode("utf-8", "replace").decode()
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def is_secret(key: str) -> bool:
    """Whether a value of this name is not to be shown."""
    words = [word.lower() for word in _WORD.findall(key)]
    pairs = (first + second for first, second in pairwise(words))
    return (
        key.lower() in _SECRET_NAMES
        or not _SECRET_WORDS.isdisjoint(words)
        or not _SECRET_WORDS.isdisjoint(pairs)
    )


def redacted(value: object) -> Any:
    """The value as JSON-shaped data within the bounds, without what its keys say is secret."""
    return _Jsonable().value(value, 0)


class _Jsonable:
    """Turns details into JSON-shaped data within the bounds; one object per error.

    Args:
        room: Factor for the bounds: reading takes more than writing makes.
    """

    def __init__(self, room: int = 1) -> None:
        self._max_depth = MAX_DEPTH * room
        self._max_items = MAX_ITEMS * room
        self._values_left = MAX_VALUES * room
        self._characters_left = MAX_CHARACTERS * room

    def mapping(self, data: Mapping[Any, Any], depth: int) -> dict[str, Any]:
        """The mapping with texts as keys, and without what its keys say is secret."""
        found: dict[str, Any] = {}
        for key, value in data.items():
            if len(found) == self._max_items or self._is_spent():
                found["…"] = f"{len(data) - len(found)} more"
                break
            name = self._text(key if isinstance(key, str) else _text_of(key, str))
            found[name] = _REDACTED if is_secret(name) else self.value(value, depth + 1)
        return found

    def value(self, value: Any, depth: int) -> Any:
        """``value`` as JSON-shaped data; what has no such shape becomes its shortened text."""
        self._values_left -= 1
        if isinstance(value, str):
            return self._text(value)
        if value is None or isinstance(value, int | float | bytes | bytearray):
            return _scalar(value)
        if depth >= self._max_depth or isinstance(value, Iterator):  # an iterator may never end
            return self._text(_text_of(value, repr))
        try:
            if isinstance(value, BaseException):
                return self._error(value, depth)
            if isinstance(value, Mapping):
                return self.mapping(value, depth)
            if isinstance(value, list | tuple | set | frozenset):
                return self._items(value, depth)
            return self.value(to_jsonable_python(value), depth + 1)
        except Exception:  # noqa: BLE001 - what cannot be read must not replace the error it is in
            return self._text(_text_of(value, repr))

    def _items(self, items: Collection[Any], depth: int) -> list[Any]:
        shaped: list[Any] = []
        for item in islice(items, self._max_items):
            if self._is_spent():
                break
            shaped.append(self.value(item, depth + 1))
        return shaped if len(shaped) == len(items) else [*shaped, f"… {len(items)} in all"]

    def _error(self, error: BaseException, depth: int) -> Any:
        if isinstance(error, JidoError):
            return self.mapping(error.to_dict(), depth)
        return self._text(f"{type(error).__name__}: {_text_of(error, str)}")

    def _text(self, text: str) -> str:
        shown = _shorten(str.__str__(text), max(1, min(MAX_TEXT, self._characters_left)))
        self._characters_left -= len(shown)
        return shown

    def _is_spent(self) -> bool:
        return self._values_left <= 0 or self._characters_left <= 0


def _scalar(value: float | bytes | bytearray | None) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        if _INT64_MIN <= value <= _UINT64_MAX:
            return int(value)
        return f"a number of {value.bit_length()} bits"
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else str(value)
    return f"<{len(value)} bytes>"


def _text_of(value: object, render: Callable[[object], str]) -> str:
    try:
        return _shorten(render(value), 200)
    except Exception:  # noqa: BLE001 - a broken __repr__ must not replace the error it describes
        return f"<{type(value).__name__}>"


# ------------------------------------------------------------------ it did not run


class RejectedError(JidoError):
    """The request was refused before anything ran: nothing changed, anywhere."""

    kind = "rejected"


class InvalidInputError(RejectedError, ValueError):
    """A value does not fit: ``details["errors"]`` lists what pydantic found, where it looked."""

    kind = "validation_error"


class AgentNotFoundError(RejectedError, LookupError):
    """No agent has this id: spawn it first."""

    kind = "agent_not_found"


class HandlerNotFoundError(RejectedError, LookupError):
    """The agent's type handles no such signal; ``details["known"]`` lists what it handles."""

    kind = "handler_not_found"


class NotRegisteredError(RejectedError, LookupError):
    """The node does not know this agent type or action: its module is not deployed there."""

    kind = "not_registered"


class AgentExistsError(RejectedError):
    """The id is taken, by an agent on node ``.node``."""

    kind = "agent_exists"
    node = _Detail("")


class CallCycleError(RejectedError):
    """The call would wait for an agent that waits for it; ``details["chain"]`` lists the agents."""

    kind = "call_cycle"


class AgentLostError(RejectedError):
    """The agent was on a node that is gone, and its state with it: spawn it again."""

    kind = "agent_lost"


class FencedError(RejectedError):
    """The sender's right has passed to another, for good: it has to stop."""

    kind = "fenced"


class DeadlineExceededError(RejectedError, TimeoutError):
    """It waited past its deadline and was dropped before it began."""

    kind = "deadline_exceeded"
    retryable = True


class UnavailableError(RejectedError):
    """Cannot be served now; ``.retry_after`` is in seconds, None where nobody can tell."""

    kind = "unavailable"
    retryable = True
    retry_after: _Detail[float | None] = _Detail(None)


class OverloadedError(UnavailableError):
    """A bounded queue or pool is full."""

    kind = "overloaded"


class CircuitOpenError(UnavailableError):
    """The target failed so often that calls to it pause for a while."""

    kind = "circuit_open"


class NoQuorumError(UnavailableError):
    """Too few replicas are in reach to answer at the level asked for."""

    kind = "no_quorum"


class SessionUnavailableError(UnavailableError):
    """No reachable replica has caught up with what this session has seen."""

    kind = "session_unavailable"


class NoCapableNodeError(UnavailableError):
    """No node offers the labels, resources or actions that are needed."""

    kind = "no_capable_node"


class ClusterUnavailableError(UnavailableError, ConnectionError):
    """There is no cluster at the address; the message holds the command that starts one."""

    kind = "cluster_unavailable"


# ------------------------------------------------------------------ it ran


class ExecutionError(JidoError):
    """The action or handler ran and failed: state is unchanged, outside effects are possible."""

    kind = "execution_error"


class ActionTimeoutError(ExecutionError, TimeoutError):
    """One attempt ran out of its time."""

    kind = "timeout_error"
    retryable = True


class InvalidOutputError(ExecutionError):
    """The result, or the state left behind, does not fit its declared type."""

    kind = "invalid_output"


class RunCancelledError(ExecutionError):
    """The run was cancelled, as somebody asked."""

    kind = "cancelled"


class ChainError(ExecutionError):
    """Step ``.index`` of a chain, ``.action``, failed with ``.error``; ``.results`` came before."""

    kind = "chain_error"
    action = _Detail("")
    index = _Detail(-1)
    error: _Detail[JidoError | None] = _Detail(None)
    results: _Detail[dict[str, Any] | None] = _Detail(None)

    def __init__(self, message: str = "", *, retryable: bool | None = None, **details: Any) -> None:
        super().__init__(message, retryable=_inner_retryable(retryable, details), **details)


class PlanError(ExecutionError):
    """A step of a plan failed; ``.result`` holds the results and statuses of all steps."""

    kind = "plan_error"
    result: _Detail[Any] = _Detail(None)

    def __init__(self, message: str = "", *, retryable: bool | None = None, **details: Any) -> None:
        super().__init__(message, retryable=_inner_retryable(retryable, details), **details)


# ------------------------------------------------------------------ nobody can tell, or ours


class OutcomeUnknownError(JidoError, TimeoutError):
    """The answer is lost: it may have run. Repeat with ``options(op_id=error.op_id)``."""

    kind = "outcome_unknown"
    op_id = _Detail("")


class StillRunningError(JidoError, TimeoutError):
    """The wait ended before the work did; the work goes on."""

    kind = "still_running"
    retryable = True


class ConfigError(JidoError):
    """A definition or a setting is wrong; raised before anything is sent."""

    kind = "config_error"


class UsageError(JidoError, RuntimeError):
    """Called from the wrong thread, loop, process, or outside a turn."""

    kind = "usage_error"


class InternalError(JidoError):
    """A bug of this library; whether the work ran is unknown."""

    kind = "internal_error"


class WireError(InternalError):
    """A message that does not decode, or has an unknown version."""

    kind = "wire_error"
