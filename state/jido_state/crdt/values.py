"""What may be put into a replicated type, and the bytes of both.

Items and values are kept as their msgpack bytes: immutable, comparable by equality of content, and
in one order on every machine. So 1, 1.0 and True are three different items, and a tuple comes back
as a list.
"""

from collections.abc import Callable
from typing import Any, Final, TypeVar

import ormsgpack

__all__ = [
    "CrdtFormatError",
    "CrdtValueError",
    "RetiredActorError",
    "decode",
    "encode",
    "pack",
    "unpack",
]

R = TypeVar("R")

# What msgpack would silently turn into something else is refused.
_OPTIONS: Final = (
    ormsgpack.OPT_SORT_KEYS
    | ormsgpack.OPT_PASSTHROUGH_DATACLASS
    | ormsgpack.OPT_PASSTHROUGH_DATETIME
    | ormsgpack.OPT_PASSTHROUGH_ENUM
    | ormsgpack.OPT_PASSTHROUGH_SUBCLASS
    | ormsgpack.OPT_PASSTHROUGH_UUID
)


class CrdtValueError(ValueError):
    """The value cannot be kept. Nothing was changed."""


class CrdtFormatError(ValueError):
    """The bytes are not those of this type."""


class RetiredActorError(ValueError):
    """The actor was folded: all its changes are done. Nothing was changed."""


def encode(value: Any) -> bytes:
    """The value's bytes, equal for equal values.

    Raises:
        CrdtValueError: It is not made of None, booleans, integers of 64 bits, floats, strings,
            bytes, lists, tuples, and dicts whose keys are strings.
    """
    try:
        return ormsgpack.packb(value, option=_OPTIONS)
    except (TypeError, ValueError) as error:
        raise CrdtValueError(
            f"{repr(value)[:80]} of type {type(value).__name__} cannot be kept ({error}): use "
            "None, bool, int, float, str, bytes, lists of these, or dicts by string"
        ) from error


def decode(data: bytes) -> Any:
    """The value that `encode` was given, with lists for tuples; a new one each time."""
    return ormsgpack.unpackb(data)


def pack(name: str, data: Any) -> bytes:
    """Data under the name of its type."""
    return ormsgpack.packb((name, data))


def unpack(name: str, data: bytes, make: Callable[[Any], R]) -> R:
    """What `make` makes of the data that `pack` was given under this name.

    Raises:
        CrdtFormatError: It was not, or `make` finds the data wrong.
    """
    try:
        found, content = ormsgpack.unpackb(data)
        made = make(content) if found == name else None
    except (TypeError, ValueError, IndexError, KeyError, AttributeError) as error:
        raise CrdtFormatError(f"{len(data)} bytes are no {name}: {error}") from error
    if made is None:
        raise CrdtFormatError(f"these are the bytes of {found!r:.40}, not of a {name}")
    return made
