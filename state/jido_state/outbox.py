"""Signals that a turn sends: kept in the sender's record until the receiver has them in its own.

Theory. A turn's commit decides that its signals are sent; they are then delivered at least once,
and the receiver takes each once. A signal is named by its turn's dot and its place in the turn. The
turns of one actor follow each other, so what an actor sends to one target is a *stream*: delivered
in order, one on its way at a time, and of each stream the receiver only has to keep the last name.
Receivers remember a stream for `OUTBOX_TTL_MS`, senders give a signal up at half of that.
*Source*: finding 29 of the replication protocol; transactional outboxes as databases have them.
*Departure*: names grow along a stream and may have gaps; that order suffices, and it saves a
counter per target.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from jido_state.dedupe import age_of
from jido_state.dots import Actor, Dot, VersionVector, source_of

__all__ = [
    "NO_RECEIPTS",
    "NO_SIGNALS",
    "OUTBOX_TTL_MS",
    "Outbox",
    "OutboxFull",
    "Outgoing",
    "Receipts",
    "ReceiptsFull",
]

OUTBOX_TTL_MS: Final = 86_400_000  # a day: a target may be away that long without loss or repeat
MAX_SIGNALS: Final = 1024
MAX_SIGNAL_BYTES: Final = 131_072  # of all payloads: half of what a record may have
MAX_STREAMS: Final = 1024


class Outgoing(NamedTuple):
    """A signal on its way.

    Attributes:
        dot: Of the turn that sent it.
        place: Its place among the turn's signals, from 0.
        target: Id of the agent it goes to.
        added_ms: Wall time of the turn.
        payload: The encoded signal.
    """

    dot: Dot
    place: int
    target: str
    added_ms: int
    payload: bytes

    @property
    def name(self) -> tuple[Dot, int]:
        """What the receiver remembers of it."""
        return self.dot, self.place


class OutboxFull(NamedTuple):
    """The signals do not fit: none of them was added, and the turn is to fail."""

    reason: str


@dataclass(frozen=True, slots=True)
class Outbox:
    """The undelivered signals of one agent. A value.

    Attributes:
        signals: In the order of their streams: those sent with a quorum first.
    """

    signals: tuple[Outgoing, ...] = ()

    def add(self, dot: Dot, sent: Sequence[tuple[str, bytes]], now_ms: int) -> Outbox | OutboxFull:
        """With a turn's signals, as (target, payload) in the order they were sent.

        Args:
            dot: Of the turn, above all turns of its actor before.
            sent: What it sends.
            now_ms: Wall time.
        """
        if len(self.signals) + len(sent) > MAX_SIGNALS:
            return OutboxFull(f"{len(self.signals)} of {MAX_SIGNALS} signals are undelivered")
        held = sum(len(signal.payload) for signal in self.signals)
        size = sum(len(payload) for _, payload in sent)
        if held + size > MAX_SIGNAL_BYTES:
            return OutboxFull(
                f"{size} bytes do not fit: {held} of {MAX_SIGNAL_BYTES} are undelivered"
            )
        added = [
            Outgoing(dot, place, target, now_ms, payload)
            for place, (target, payload) in enumerate(sent)
        ]
        return Outbox(_sorted((*self.signals, *added)))

    def due(self, actor: Actor | None = None) -> list[Outgoing]:
        """What may be on its way now: for each target the first, in order.

        Args:
            actor: Only what this one sent. A replica that acts without a quorum delivers its own:
                what was sent with a quorum may be delivered on the other side already.
        """
        first: dict[str, Outgoing] = {}
        for signal in self.signals:
            if actor is None or signal.dot[:-1] == actor:
                first.setdefault(signal.target, signal)
        return list(first.values())

    def without(self, names: Iterable[tuple[Dot, int]]) -> Outbox:
        """Less those that have been delivered, or given up."""
        gone = set(names)
        return Outbox(tuple(signal for signal in self.signals if signal.name not in gone))

    def overdue(self, now_ms: int, ttl_ms: int = OUTBOX_TTL_MS) -> list[Outgoing]:
        """Those to give up: a receiver may forget the stream before they could be repeated."""
        return [signal for signal in self.signals if now_ms - signal.added_ms > ttl_ms // 2]

    def join(self, seen: VersionVector, other: Outbox, other_seen: VersionVector) -> Outbox:
        """The undelivered signals of two copies: what one lacks and has seen is delivered.

        Args:
            seen: The turns that led to this copy.
            other: The other copy's signals.
            other_seen: The turns that led to it.
        """
        mine = {signal.name for signal in self.signals}
        theirs = {signal.name for signal in other.signals}
        kept = [
            signal
            for signal in self.signals
            if signal.name in theirs or not other_seen.covers(signal.dot)
        ]
        kept += [
            signal
            for signal in other.signals
            if signal.name not in mine and not seen.covers(signal.dot)
        ]
        return Outbox(_sorted(kept))

    def to_data(self) -> list[Any]:
        """As lists."""
        return [[list(dot), *rest] for dot, *rest in self.signals]

    @classmethod
    def from_data(cls, data: Sequence[Any]) -> Outbox:
        """What `to_data` took apart. Raises TypeError or ValueError for anything else."""
        if not data:
            return NO_SIGNALS
        return cls(tuple(Outgoing(tuple(dot), *rest) for dot, *rest in data))


NO_SIGNALS: Final = Outbox()


def _sorted(signals: Iterable[Outgoing]) -> tuple[Outgoing, ...]:
    return tuple(sorted(signals, key=lambda one: (source_of(one.dot[:-1]), one.dot, one.place)))


class ReceiptsFull(NamedTuple):
    """There is no room to remember another stream: the signal was not taken."""

    reason: str


class _Last(NamedTuple):
    number: int  # of the dot
    place: int
    used_ms: int


@dataclass(frozen=True, slots=True)
class Receipts:
    """Which signals an agent has taken. A value; the mapping is never changed.

    Attributes:
        last: By stream, which is the sender's id and the actor that sent, the last one taken.
    """

    last: Mapping[tuple[str, Actor], _Last] = field(default_factory=dict)

    def has(self, sender: str, dot: Dot, place: int) -> bool:
        """Whether the signal has been taken, so that it is to be acknowledged and not run."""
        last = self.last.get((sender, dot[:-1]))
        return last is not None and (dot[-1], place) <= last[:2]

    def add(
        self, sender: str, dot: Dot, place: int, *, now_ms: int, ttl_ms: int = OUTBOX_TTL_MS
    ) -> Receipts | ReceiptsFull:
        """With a signal that this turn takes.

        Args:
            sender: Id of the agent it is from.
            dot: Of the turn that sent it.
            place: Its place in that turn.
            now_ms: Since the leader began to lead.
            ttl_ms: For how long a stream is remembered in which nothing comes.
        """
        stream = (sender, tuple(dot[:-1]))
        last = dict(self.last)
        if stream not in last:
            last = {
                known: each
                for known, each in last.items()
                if age_of(each.used_ms, now_ms) <= ttl_ms
            }
            if len(last) >= MAX_STREAMS:
                return ReceiptsFull(f"{MAX_STREAMS} streams of signals are remembered")
        last[stream] = _Last(dot[-1], place, now_ms)
        return Receipts(last)

    def join(self, other: Receipts, *, now_ms: int) -> Receipts:
        """What either copy has taken; the other's streams count as used now."""
        last = dict(self.last)
        for stream, each in other.last.items():
            number, place, _ = max(each, last.get(stream, each))
            last[stream] = _Last(number, place, now_ms)
        return Receipts(last)

    def to_data(self) -> list[Any]:
        """As lists, equal for equal receipts."""
        return [[sender, list(actor), *last] for (sender, actor), last in sorted(self.last.items())]

    @classmethod
    def from_data(cls, data: Sequence[Any]) -> Receipts:
        """What `to_data` took apart. Raises TypeError or ValueError for anything else."""
        if not data:
            return NO_RECEIPTS
        return cls({(sender, tuple(actor)): _Last(*last) for sender, actor, *last in data})


NO_RECEIPTS: Final = Receipts()
