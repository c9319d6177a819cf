"""A set, a map and a register of several values, on a `DotMap`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from jido_state.crdt.dotmap import Delta, DotMap
from jido_state.crdt.values import decode, encode, pack, unpack
from jido_state.dots import Actor, Dot, VersionVector
from jido_state.hlc import Stamp

__all__ = ["LWWMap", "MVRegister", "ORSet"]

_ONLY = b""  # the key of a register


@dataclass(frozen=True, slots=True)
class _Container:
    """What a set, a map and a register of several values have in common. A value.

    Attributes:
        dots: Its entries.
    """

    dots: DotMap = DotMap()  # noqa: RUF009 - an immutable value

    NAME: ClassVar[str] = ""

    def merge(self, other: Self) -> Self:
        """What both have come to."""
        return type(self)(self.dots.join(other.dots))

    @property
    def context(self) -> VersionVector:
        """The changes seen."""
        return self.dots.context

    def delta_since(self, context: VersionVector) -> Delta:
        """What a copy with this context lacks; to be given to its `merge_delta`."""
        return self.dots.delta_since(context)

    def merge_delta(self, delta: Delta) -> Self:
        """With what it lacked.

        Raises:
            CrdtValueError: The delta begins after what this copy has seen. Nothing was changed.
        """
        return type(self)(self.dots.join_delta(delta))

    def fold(self, actors: Iterable[Actor]) -> Self:
        """The same value, with these actors, and those before them of their sources, forgotten.

        All copies must have seen what they did, as for `VersionVector.fold`.
        """
        return type(self)(self.dots.fold(actors))

    def to_data(self) -> list[Any]:
        """As lists, equal for equal values."""
        return self.dots.to_data()

    @classmethod
    def from_data(cls, data: Sequence[Any]) -> Self:
        """What `to_data` took apart. Raises TypeError or ValueError for anything else."""
        return cls(DotMap.from_data(data))

    def to_bytes(self) -> bytes:
        """As bytes, equal for equal values."""
        return pack(self.NAME, self.to_data())

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """The value in these bytes. Raises CrdtFormatError if there is none."""
        return unpack(cls.NAME, data, cls.from_data)


@dataclass(frozen=True, slots=True)
class ORSet(_Container):
    """A set. Of an `add` and a concurrent `discard` of one item the `add` stays."""

    NAME: ClassVar[str] = "ORSet"

    @property
    def value(self) -> list[Any]:
        """The items, distinct, in the order of their bytes; a new list each time."""
        return [decode(item) for item in sorted(self.dots.entries)]

    def has(self, item: Any) -> bool:
        """Whether the item is in. Raises CrdtValueError for what could not be."""
        return encode(item) in self.dots.entries

    def add(self, actor: Actor, item: Any) -> ORSet:
        """With the item.

        Raises:
            CrdtValueError: The item cannot be kept.
            RetiredActorError: The actor was folded.
        """
        return ORSet(self.dots.put(actor, encode(item), None))

    def discard(self, item: Any) -> ORSet:
        """Without the item, if it was in. Raises CrdtValueError for what could not be."""
        return ORSet(self.dots.drop(encode(item)))


@dataclass(frozen=True, slots=True)
class LWWMap(_Container):
    """A map. Of two concurrent values of a key the one with the higher stamp is seen.

    Of a `set` and a concurrent `discard` of one key the `set` stays.
    """

    NAME: ClassVar[str] = "LWWMap"

    @property
    def value(self) -> list[tuple[Any, Any]]:
        """Keys and values, in the order of the keys' bytes; a new list each time."""
        entries = self.dots.entries
        return [(decode(key), decode(_latest(entries[key])[2])) for key in sorted(entries)]

    def get(self, key: Any, default: Any = None) -> Any:
        """The key's value, a new one each time. Raises CrdtValueError for what is no key."""
        by_dot = self.dots.entries.get(encode(key))
        return default if by_dot is None else decode(_latest(by_dot)[2])

    def has(self, key: Any) -> bool:
        """Whether the key has a value. Raises CrdtValueError for what is no key."""
        return encode(key) in self.dots.entries

    def set(self, stamp: Stamp, key: Any, value: Any) -> LWWMap:
        """With this value of the key, above those it has here, as `LWWRegister.set`.

        Raises:
            CrdtValueError: Key or value cannot be kept.
            RetiredActorError: The stamp's actor was folded.
        """
        name, content = encode(key), encode(value)
        by_dot = self.dots.entries.get(name)
        if by_dot is not None:
            wall_ms, counter, _ = _latest(by_dot)
            stamp = max(stamp, Stamp(wall_ms, counter, ()).next(stamp.wall_ms, stamp.dot))
        entry = (stamp.wall_ms, stamp.counter, content)
        return LWWMap(self.dots.put(stamp.dot[:-1], name, entry))

    def discard(self, key: Any) -> LWWMap:
        """Without the key, if it has a value. Raises CrdtValueError for what is no key."""
        return LWWMap(self.dots.drop(encode(key)))


@dataclass(frozen=True, slots=True)
class MVRegister(_Container):
    """A register that shows all values that were set concurrently, until one is set on top."""

    NAME: ClassVar[str] = "MVRegister"

    @property
    def value(self) -> list[Any]:
        """The values, distinct, in the order of their bytes; empty before the first `set`."""
        by_dot = self.dots.entries.get(_ONLY, {})
        return [decode(content) for content in sorted(set(by_dot.values()))]

    def set(self, actor: Actor, value: Any) -> MVRegister:
        """With this value, in place of all that are seen here.

        Raises:
            CrdtValueError: The value cannot be kept.
            RetiredActorError: The actor was folded.
        """
        return MVRegister(self.dots.put(actor, _ONLY, encode(value)))


def _latest(by_dot: Mapping[Dot, tuple[int, int, bytes]]) -> tuple[int, int, bytes]:
    """The entry with the highest stamp."""
    wall_ms, counter, dot = max((each[0], each[1], dot) for dot, each in by_dot.items())
    return wall_ms, counter, by_dot[dot][2]
