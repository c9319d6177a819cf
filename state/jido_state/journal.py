"""What one step of a replica wants done, and what has to wait until it is durable.

A step (one message, one tick, one call) collects sends, writes and things to be done once the
writes are durable. At its end the writes become one `Persist`; the rest waits under its ticket.
Anything that has to be durable waits for every write asked before it, also those of earlier steps:
the store is ordered.
"""

from collections.abc import Callable
from typing import Any

from jido_state.messages import Effect, Header, Message, Persist, Row, Send

__all__ = ["Journal"]

_Later = tuple[Callable[..., None], tuple[Any, ...]]


class Journal:
    """Effects and writes of the current step. Not thread-safe.

    Attributes:
        effects: Of the step so far, in order.
    """

    __slots__ = (
        "_clears",
        "_header",
        "_header_ticket",
        "_last",
        "_later",
        "_now_ms",
        "_rows",
        "_waiting",
        "effects",
    )

    def __init__(self) -> None:
        self.effects: list[Effect] = []
        self._header: Header | None = None
        self._header_ticket = 0  # of the last write that had a header
        self._rows: dict[str, Row | None] = {}
        self._clears = False
        self._later: list[_Later] = []
        self._last = 0
        self._waiting: dict[int, tuple[int, list[_Later]]] = {}  # by ticket, in order
        self._now_ms = 0

    def begin(self, now_ms: int) -> None:
        """Starts a step."""
        self._now_ms = now_ms

    @property
    def oldest_ms(self) -> int | None:
        """When the oldest write that is not durable was asked for; None when all are."""
        for asked_ms, _ in self._waiting.values():
            return asked_ms
        return None

    def has_promise(self, within_ms: int) -> bool:
        """Whether the header is durable, and every write that is not was asked for so lately."""
        if self._header is not None or self._header_ticket in self._waiting:
            return False
        oldest_ms = self.oldest_ms
        return oldest_ms is None or self._now_ms - oldest_ms < within_ms

    def add(self, effect: Effect) -> None:
        """Asks for something that need not wait."""
        self.effects.append(effect)

    def send(self, to: int, message: Message) -> None:
        """Sends without waiting for anything."""
        self.effects.append(Send(to, message))

    def send_when_durable(self, to: int, message: Message) -> None:
        """Sends once everything written so far is durable."""
        self._later.append((self.send, (to, message)))

    def when_durable(self, action: Callable[..., None], *args: Any) -> None:
        """Calls once everything written so far is durable."""
        self._later.append((action, args))

    def write_header(self, header: Header) -> None:
        """Writes the header with this step's rows."""
        self._header = header

    def write_row(self, key: str, row: Row | None) -> None:
        """Writes a row; None deletes it."""
        self._rows[key] = row

    def clear_rows(self) -> None:
        """Deletes all rows."""
        self._rows = {}
        self._clears = True

    def finish(self) -> list[Effect]:
        """Ends the step: its effects, in order; the write first of those that depend on it."""
        if self._header is not None or self._rows or self._clears:
            self._last += 1
            self.add(Persist(self._last, self._header, self._rows, self._clears))
            self._waiting[self._last] = (self._now_ms, self._later)
            if self._header is not None:
                self._header_ticket = self._last
            self._header, self._rows, self._clears, self._later = None, {}, False, []
        elif self._later:
            later, self._later = self._later, []
            if self._waiting:
                self._waiting[next(reversed(self._waiting))][1].extend(later)
            else:
                for action, args in later:
                    action(*args)
                if self._later or self._rows or self._header is not None:
                    return self.finish()
        effects, self.effects = self.effects, []
        return effects

    def durable(self, ticket: int) -> None:
        """Everything up to this ticket is durable: does what waited for it, within the step."""
        while self._waiting and (first := next(iter(self._waiting))) <= ticket:
            for action, args in self._waiting.pop(first)[1]:
                action(*args)
