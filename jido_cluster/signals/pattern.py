"""Patterns over signal types.

Theory. A signal type is dot-separated segments, `order.line.added`. In a pattern `*` stands for
exactly one segment and `**` for zero or more; the whole type must match. Among several matches the
order is: higher priority first, then the more specific pattern, then the one registered earlier.

Specificity compares segment by segment from the left: a literal beats `*`, which beats `**`, and a
longer pattern beats its own prefix. So `a.b.c` > `a.b.*` > `a.*.c` > `a.**`.
"""

import re
from typing import Final

from jido_cluster.errors import ConfigError

_SEGMENT: Final = re.compile(r"[A-Za-z0-9_-]+")
_TYPE: Final = re.compile(rf"{_SEGMENT.pattern}(?:\.{_SEGMENT.pattern})*")
_RANK: Final = {"**": 0, "*": 1}
MAX_TYPE_LENGTH: Final = 256  # characters; a type is a routing key, not a document


class Pattern:
    """A compiled pattern; a type without `*` is a pattern that matches itself only.

    Args:
        text: The pattern, 1 to 256 characters.

    Raises:
        ConfigError: A segment is empty or has a character outside `[A-Za-z0-9_-]`, or two `**`
            follow each other.
    """

    __slots__ = ("_segments", "is_exact", "specificity", "text")

    def __init__(self, text: str, /) -> None:
        segments = _segments(text)
        self.text = text
        self.is_exact = not any(segment in _RANK for segment in segments)
        self.specificity = tuple(_RANK.get(segment, 2) for segment in segments)
        self._segments = segments

    def matches(self, type_: str, /) -> bool:
        """True if the whole type matches."""
        if self.is_exact:
            return type_ == self.text
        return _TYPE.fullmatch(type_) is not None and _match(self._segments, type_.split("."))

    def __reduce__(self) -> tuple[type["Pattern"], tuple[str]]:
        return Pattern, (self.text,)

    def __repr__(self) -> str:
        return f"Pattern({self.text!r})"


def check_type(text: object, /) -> str:
    """The text, if it is a literal signal type.

    Raises:
        ConfigError: As `Pattern`, or the text holds a wildcard.
    """
    if not isinstance(text, str):
        message = f"a signal type is a string, not {text!r}"
        raise ConfigError(message)
    if any(segment in _RANK for segment in _segments(text)):
        message = f"signal type {text!r} is a pattern; a signal needs one literal type"
        raise ConfigError(message)
    return text


def _segments(text: object) -> list[str]:
    if not isinstance(text, str) or not 0 < len(text) <= MAX_TYPE_LENGTH:
        message = f"a signal type is a string of 1 to {MAX_TYPE_LENGTH} characters, not {text!r}"
        raise ConfigError(message)
    segments = text.split(".")
    previous = ""
    for segment in segments:
        if segment not in _RANK and not _SEGMENT.fullmatch(segment):
            message = (
                f"segment {segment!r} of signal type {text!r}: use letters, digits, '_' and '-' "
                "between dots, '*' for one segment, '**' for any number"
            )
            raise ConfigError(message)
        if segment == previous == "**":
            message = f"signal type {text!r}: '**.**' means the same as '**'; write one"
            raise ConfigError(message)
        previous = segment
    return segments


def _match(pattern: list[str], segments: list[str]) -> bool:
    """Greedy matching with one point to go back to: the latest `**`, which takes one more.

    Time is the product of the lengths at worst; a regular expression with several `**` takes
    exponential time on types made for it.
    """
    at = taken = 0
    star, resume = -1, 0
    while taken < len(segments):
        if at < len(pattern) and pattern[at] == "**":
            star, resume = at, taken
            at += 1
        elif at < len(pattern) and pattern[at] in {"*", segments[taken]}:
            at += 1
            taken += 1
        elif star >= 0:
            at = star + 1
            resume += 1
            taken = resume
        else:
            return False
    return all(rest == "**" for rest in pattern[at:])
