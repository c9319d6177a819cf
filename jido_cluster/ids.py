"""Ids of agents, runs and operations: how they are made and what they may contain."""

import itertools
import os
import re
import secrets
import time

from jido_cluster.errors import InvalidInputError

__all__ = ["check_id", "new_id"]

ID_RULE = "^[A-Za-z0-9._:-]{1,128}$"
_is_id = re.compile(r"[A-Za-z0-9._:-]{1,128}").fullmatch

_COUNTER_LIMIT = 1 << 32
_salt = secrets.token_hex(6)
_next_number = itertools.count().__next__


def _reseed() -> None:
    """Gives a forked child a salt of its own: it inherits the parent's salt and counter."""
    global _salt  # noqa: PLW0603 - process-wide by purpose, changed only in a new process
    _salt = secrets.token_hex(6)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reseed)


def new_id(prefix: str = "") -> str:
    """A new id: ``prefix``, then 31 characters that sort by time of creation.

    Unique across processes, forks and machines: milliseconds (11 hex digits, enough until the
    year 2527), a counter (8) and 48 random bits of the process (12). Not a secret: it can be
    guessed. Two ids of one process and one millisecond sort in the order made.
    """
    number = _next_number() % _COUNTER_LIMIT
    made = f"{prefix}{time.time_ns() // 1_000_000:011x}{number:08x}{_salt}"
    return check_id(made) if prefix else made


def check_id(value: object) -> str:
    """``value`` itself, when it may serve as an id.

    Raises:
        InvalidInputError: It breaks the rule of ids; names the value and the rule.
    """
    if isinstance(value, str) and _is_id(value) is not None:
        return value
    shown = repr(value)
    shown = shown if len(shown) <= 80 else f"{shown[:79]}…"
    message = f"{shown} is not an id: an id matches {ID_RULE}"
    raise InvalidInputError(message, value=shown, rule=ID_RULE)
