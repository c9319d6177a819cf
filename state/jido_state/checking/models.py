"""What one agent may answer when its operations run one after another.

A model is a state and a step. The state must be hashable and is never changed in place.
"""

from collections.abc import Hashable
from typing import Any, Final, Protocol

__all__ = ["UNKNOWN", "Model", "Register", "frozen"]


class _Unknown:
    def __repr__(self) -> str:
        return "UNKNOWN"


UNKNOWN: Final = _Unknown()
"""Stands for the answer of an operation that none came back from."""


class Model(Protocol):
    """A sequential specification."""

    @property
    def initial(self) -> Hashable:
        """The state before the first operation."""
        ...

    @property
    def forgets(self) -> bool:
        """Whether an operation whose answer is known leaves nothing of the state before it.

        That is: it leaves the state as it is, or its argument and its answer decide the new one.
        A register is so: what a write found is gone, and the sum that an addition answers is the
        state. A queue is not. False is always right; True makes histories with operations of
        unknown outcome much quicker to check.
        """
        ...

    def step(self, state: Any, op: str, arg: Any, ret: Any) -> tuple[bool, Hashable]:
        """Whether `op(arg)` may answer `ret` in this state, and the state after it.

        With `ret` being `UNKNOWN` any answer will do; one that changes nothing is an answer too.
        The state after a refused answer means nothing.
        """
        ...


class Register:
    """One agent with one value: absent (None), or any JSON value.

    | op | arg | answer while it exists | while absent |
    | --- | --- | --- | --- |
    | read | None | the value | None |
    | write | the value | "ok" | "absent" |
    | cas | [expected, value] | whether it was as expected | "absent" |
    | add | a number | the sum | "absent" |
    | spawn | the value | "exists" | "ok" |
    | respawn | [lost, value] | "ok" if it has the lost value, else "exists" | "ok" |
    | delete | None | "ok" | "absent" |
    """

    def __init__(self, initial: Any = None) -> None:
        self._initial = frozen(initial)

    @property
    def initial(self) -> Hashable:
        """As `Model.initial`."""
        return self._initial

    @property
    def forgets(self) -> bool:
        """As `Model.forgets`."""
        return True

    def step(self, state: Any, op: str, arg: Any, ret: Any) -> tuple[bool, Hashable]:
        """As `Model.step`.

        Raises:
            ValueError: The operation is none of the table.
        """
        answer: Hashable
        after: Hashable = state
        if op == "read":
            answer = state
        elif op == "spawn":
            answer, after = ("ok", frozen(arg)) if state is None else ("exists", state)
        elif op == "respawn":
            is_free = state is None or frozen(arg[0]) == state
            answer, after = ("ok", frozen(arg[1])) if is_free else ("exists", state)
        elif op not in {"write", "cas", "add", "delete"}:
            message = f"operation {op!r} is none of read, write, cas, add, spawn, respawn, delete"
            raise ValueError(message)
        elif state is None:
            answer = "absent"
        elif op == "write":
            answer, after = "ok", frozen(arg)
        elif op == "delete":
            answer, after = "ok", None
        elif op == "cas":
            is_expected = frozen(arg[0]) == state
            answer, after = frozen(is_expected), frozen(arg[1]) if is_expected else state
        elif isinstance(state, int | float):
            answer = after = state + arg
        else:
            return ret is UNKNOWN, state  # there is no sum, so there is no answer that is right
        return ret is UNKNOWN or frozen(ret) == answer, after


def frozen(value: Any) -> Hashable:
    """A JSON value as one that can be hashed; equal exactly for equal values.

    Python takes True for 1, which JSON does not, so truth values get a form of their own.
    """
    kind = type(value)
    if kind is bool:
        return ("bool", int(value))
    if kind is list or kind is tuple:
        return ("list", *map(frozen, value))
    if kind is dict:
        return ("object", *sorted((name, frozen(item)) for name, item in value.items()))
    return value  # type: ignore[no-any-return]
