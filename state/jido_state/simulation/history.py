"""What clients saw: operations with the times between which they took effect, as JSON lines.

Each line is `{client, key, op, arg, ret, call_ns, return_ns}`, the form that outside checkers are
fed with. `return_ns` is null for an operation whose outcome is unknown: it may have taken effect at
any time after its call, or never. What is known not to have run is not in a history at all.
"""

import json
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

__all__ = ["History", "Operation", "parse_operation"]

_FIELDS = ("client", "key", "op", "arg", "ret", "call_ns", "return_ns")


class Operation(NamedTuple):
    """One call of one client.

    Attributes:
        client: Who called.
        key: The agent it was for.
        op: What was asked; a word that the model knows.
        arg: With what, as JSON has it: None, numbers, text, lists.
        ret: What came back; None while nothing has.
        call_ns: When it was called, in nanoseconds by a clock that all clients share.
        return_ns: When the answer came, >= `call_ns`; None when the outcome is unknown.
    """

    client: int
    key: str
    op: str
    arg: Any
    ret: Any
    call_ns: int
    return_ns: int | None


class History:
    """The operations of one run, in the order of their calls. Grows by `call` and `answer`."""

    __slots__ = ("_next", "_operations")

    def __init__(self, operations: Iterable[Operation] = ()) -> None:
        self._operations: dict[int, Operation] = dict(enumerate(operations))
        self._next = len(self._operations)

    def call(self, client: int, key: str, op: str, arg: object, now_us: int) -> int:
        """Notes a call and returns its number, for `answer` and `drop`; unknown until then."""
        number = self._next
        self._next += 1
        self._operations[number] = Operation(client, key, op, arg, None, now_us * 1000, None)
        return number

    def answer(self, number: int, ret: object, now_us: int) -> None:
        """Notes what came back."""
        operation = self._operations[number]
        self._operations[number] = operation._replace(ret=ret, return_ns=now_us * 1000)

    def drop(self, number: int) -> None:
        """The operation is known not to have run: it leaves the history."""
        del self._operations[number]

    def __iter__(self) -> Iterator[Operation]:
        return iter(self._operations.values())

    def __len__(self) -> int:
        return len(self._operations)

    def by_key(self) -> dict[str, list[Operation]]:
        """The operations of each key, keys in the order of their first call."""
        keys: dict[str, list[Operation]] = {}
        for operation in self:
            keys.setdefault(operation.key, []).append(operation)
        return keys

    def to_lines(self) -> Iterator[str]:
        """One JSON object per operation, without line ends."""
        for operation in self:
            yield json.dumps(operation._asdict(), separators=(",", ":"))

    @classmethod
    def from_lines(cls, lines: Iterable[str]) -> "History":
        """Reads what `to_lines` wrote. Blank lines, and lines that begin with `#`, are skipped.

        Raises:
            ValueError: A line is no operation; it says which line and why.
        """
        operations = []
        for number, line in enumerate(lines, 1):
            text = line.strip()
            if text and not text.startswith("#"):
                try:
                    operations.append(parse_operation(json.loads(text)))
                except ValueError as error:
                    raise ValueError(f"line {number}: {error}") from error
        return cls(sorted(operations, key=lambda operation: operation.call_ns))


def parse_operation(data: object) -> Operation:
    """The operation that decoded JSON stands for.

    Raises:
        ValueError: It is none; nothing is corrected.
    """
    if not isinstance(data, dict) or sorted(data) != sorted(_FIELDS):
        raise ValueError(f"{data!r} must be an object with exactly the fields {', '.join(_FIELDS)}")
    operation = Operation(**data)
    for name, kind in (("client", int), ("key", str), ("op", str), ("call_ns", int)):
        if type(value := data[name]) is not kind:
            raise ValueError(f"{name}={value!r} must be of type {kind.__name__}")
    returned = data["return_ns"]
    if returned is not None and (type(returned) is not int or returned < data["call_ns"]):
        raise ValueError(f"return_ns={returned!r} must be null or an integer >= call_ns")
    return operation
