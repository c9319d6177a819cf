"""Turns what went wrong into errors of the tree, with messages fit for strangers.

A message names the parameter, the value and what was expected. It holds no traceback, no value of a
parameter named like a secret, and no text that looks like one. The traceback stays in this
process's log, under the error's id.
"""

import logging
import re
from collections.abc import Iterable, Sequence
from typing import Any, Final, TypeVar

import pydantic

from jido_cluster.errors import (
    ExecutionError,
    InvalidInputError,
    InvalidOutputError,
    JidoError,
    is_secret,
)
from jido_cluster.ids import new_id

E = TypeVar("E", bound=JidoError)

__all__ = ["MAX_DATA", "check_size", "invalid_input", "invalid_output", "wrap"]

_logger = logging.getLogger(__name__)

MAX_DATA: Final = 1 << 20  # bytes of JSON; parameters, results, states and signal data alike

_MAX_TEXT = 500
_MAX_INPUT = 80
_MAX_NAMED = 3  # errors spelled out in a message; all of them are in the details
_MAX_LISTED = 20
_SECRET_TEXT = re.compile(
    r"(?i)\b(password|passwd|secret|token|api[_-]?key|authorization)(['\"]?\s*[=:]\s*)"
    r"(bearer\s+)?[^\s,;&'\"]+"
)
_URL_CREDENTIALS = re.compile(r"(?<=://)[^/\s:@]+:[^/\s@]+(?=@)")


def check_size(data: bytes, what: str, error: type[InvalidInputError | InvalidOutputError]) -> None:
    """Raises ``error`` when ``data`` is larger than one message may carry."""
    if len(data) > MAX_DATA:
        message = (
            f"{what}: {len(data)} bytes of JSON exceed the limit of {MAX_DATA}; "
            f"pass large data by path, URL or key"
        )
        raise error(message, size=len(data), limit=MAX_DATA)


def invalid_input(name: str, cause: Exception, known: Sequence[str]) -> InvalidInputError:
    """The error of parameters that ``cause`` says do not fit the action or handler ``name``."""
    if not isinstance(cause, pydantic.ValidationError):
        message = f"{name}: {_describe(cause)}"
        return InvalidInputError(message, known=list(known))
    listed = [_listed(one) for one in cause.errors(include_url=False, include_context=False)]
    message = f"{name}: {_in_words(listed, with_input=True)}"
    if known and any(one["type"] == "extra_forbidden" for one in listed):
        message += f"; known parameters: {', '.join(known)}"
    return InvalidInputError(message, errors=listed[:_MAX_LISTED], known=list(known))


def invalid_output(name: str, value: object, cause: Exception) -> InvalidOutputError:
    """The error of a result that does not fit; names its type and the path, never the value."""
    kind = type(value).__name__
    if isinstance(cause, pydantic.ValidationError):
        listed = [
            {key: item for key, item in _listed(one).items() if key != "input"}
            for one in cause.errors(include_url=False, include_context=False)
        ]
        message = f"{name}: the result, of type {kind}: {_in_words(listed, with_input=False)}"
        return InvalidOutputError(message, type=kind, errors=listed[:_MAX_LISTED])
    message = f"{name}: the result, of type {kind}, is not JSON-shaped: {_describe(cause)}"
    return InvalidOutputError(message, type=kind)


def wrap(name: str, cause: BaseException, *, retryable: bool) -> ExecutionError:
    """An execution error for any other exception; logs the traceback under its ``error_id``."""
    error = ExecutionError(
        f"{_describe(cause)}", retryable=retryable, action=name, exception=type(cause).__name__
    )
    error.error_id = new_id("err-")
    _logger.error(
        "%s failed with %s [%s]",
        name,
        type(cause).__name__,
        error.error_id,
        exc_info=cause,
        extra={"action": name, "error_id": error.error_id},
    )
    return error


def _describe(cause: BaseException) -> str:
    """The exception's type and text, shortened, without what looks like a secret."""
    kind = type(cause).__name__
    if isinstance(cause, pydantic.ValidationError):
        # Its own text repeats the input values.
        listed = [_listed(one) for one in cause.errors(include_url=False, include_context=False)]
        return f"{kind}: {cause.title}: {_in_words(listed, with_input=False)}"
    try:
        text = str(cause)
    except Exception:  # noqa: BLE001 - a broken __str__ must not replace the error it describes
        text = ""
    text = _SECRET_TEXT.sub(r"\1\2[REDACTED]", text)
    text = _URL_CREDENTIALS.sub("[REDACTED]", text)
    text = text if len(text) <= _MAX_TEXT else f"{text[: _MAX_TEXT - 1]}…"
    return f"{kind}: {text}" if text else kind


def _listed(error: Any) -> dict[str, Any]:
    """One of pydantic's errors as JSON-shaped data, its input shortened."""
    location = list(error["loc"])
    found = {"type": error["type"], "loc": location, "msg": error["msg"]}
    if any(isinstance(part, str) and is_secret(part) for part in location):
        found["input"] = "[REDACTED]"
    else:
        found["input"] = _shown(error.get("input"))
    return found


def _shown(value: object) -> str | int | float | bool | None:
    if value is None or isinstance(value, bool | float):
        return value
    if isinstance(value, int):
        # The text of a longer number takes long to make, and Python refuses to from 4300 digits on.
        return value if value.bit_length() <= 64 else f"<a number of {value.bit_length()} bits>"
    if isinstance(value, dict):
        # A whole mapping (a missing key, say) may hold secrets under other keys.
        return f"<mapping with {', '.join(map(str, list(value)[:10])) or 'no names'}>"[:_MAX_INPUT]
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= _MAX_INPUT else f"{text[: _MAX_INPUT - 1]}…"


def _in_words(listed: Sequence[dict[str, Any]], *, with_input: bool) -> str:
    words = [_one_in_words(one, with_input=with_input) for one in listed[:_MAX_NAMED]]
    if len(listed) > _MAX_NAMED:
        words.append(f"and {len(listed) - _MAX_NAMED} more")
    return "; ".join(words)


def _one_in_words(error: dict[str, Any], *, with_input: bool) -> str:
    path = _path(error["loc"])
    place = f"{path}: " if path else ""
    if error["type"] == "extra_forbidden":
        return f"{place}unknown parameter" if with_input else f"{place}unknown name"
    if not with_input or error["type"] in {"missing", "json_invalid"}:
        return f"{place}{error['msg']}"
    return f"{place}{error['msg']}, not {error['input']!r}"


def _path(location: Iterable[str | int]) -> str:
    path = ""
    for part in location:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else part
    return path


_NEVER_STARTED: Final = "_jido_never_started"


def never_started(error: E) -> E:
    """The error itself, marked: the engine refused the work before any of it ran.

    The mark is not data: an error of the same type that a handler lets through from a call of its
    own has arrived as data, and has none.
    """
    setattr(error, _NEVER_STARTED, True)
    return error


def has_started(error: JidoError) -> bool:
    """False for errors marked by `never_started`."""
    return not getattr(error, _NEVER_STARTED, False)


def arrived(error: E) -> E:
    """The error itself, without the mark: whoever awaited the refused work has itself begun."""
    vars(error).pop(_NEVER_STARTED, None)
    return error
