"""A register of which the last write stays."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from jido_state.crdt.values import decode, encode, pack, unpack
from jido_state.dots import Actor
from jido_state.hlc import NO_STAMP, Stamp

__all__ = ["LWWRegister"]

_NONE = encode(None)


@dataclass(frozen=True, slots=True)
class LWWRegister:
    """One value; of two that were set concurrently the one with the higher stamp. A value.

    Attributes:
        stamp: Of the last `set`; `NO_STAMP` before the first.
        content: The value's bytes.
    """

    stamp: Stamp = NO_STAMP
    content: bytes = _NONE

    NAME: ClassVar[str] = "LWWRegister"

    @property
    def value(self) -> Any:
        """The value, None before it is set; a new one each time, so changing it changes nothing."""
        return decode(self.content)

    def set(self, stamp: Stamp, value: Any) -> LWWRegister:
        """Sets the value.

        What was here before was seen and must not win, so if the stamp is not above its stamp, the
        next one above is taken, with the same dot.

        Raises:
            CrdtValueError: The value cannot be kept.
        """
        content = encode(value)
        return LWWRegister(max(stamp, self.stamp.next(stamp.wall_ms, stamp.dot)), content)

    def merge(self, other: LWWRegister) -> LWWRegister:
        """The later of both."""
        return max(self, other, key=_stamp)

    @property
    def context(self) -> Stamp:
        """How far it is known."""
        return self.stamp

    def delta_since(self, context: Stamp) -> LWWRegister:
        """What a copy with this context lacks: this one, or nothing."""
        return self if self.stamp > context else LWWRegister()

    def merge_delta(self, delta: LWWRegister) -> LWWRegister:
        """With what it lacked."""
        return self.merge(delta)

    def fold(self, _: Iterable[Actor]) -> LWWRegister:
        """This one: it names one actor only."""
        return self

    def to_data(self) -> list[Any]:
        """As a list."""
        wall_ms, counter, dot = self.stamp
        return [wall_ms, counter, list(dot), self.content]

    @classmethod
    def from_data(cls, data: Sequence[Any]) -> LWWRegister:
        """What `to_data` took apart. Raises TypeError or ValueError for anything else."""
        wall_ms, counter, dot, content = data
        return cls(Stamp(wall_ms, counter, tuple(dot)), content)

    def to_bytes(self) -> bytes:
        """As bytes, equal for equal registers."""
        return pack(self.NAME, self.to_data())

    @classmethod
    def from_bytes(cls, data: bytes) -> LWWRegister:
        """The register in these bytes. Raises CrdtFormatError if there is none."""
        return unpack(cls.NAME, data, cls.from_data)


def _stamp(register: LWWRegister) -> Stamp:
    return register.stamp
