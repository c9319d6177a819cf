"""The bytes of what goes between the processes of a cluster: msgpack lists of short lists.

Theory. A batch is one msgpack array: the version of this format, then the messages of one pass of
the sender's loop. A message is a number and its fields (`plain.py`); that of a group is in its
frame, without a list of its own. Rows travel sealed (`sealed.py`), as they lie on disk. Messages
are packed one by one, so that one that goes to many processes is packed once and batches are
nothing but joined.

The record of the cluster goes to every process after every change of it, and is large where there
are many shards. Who knows which one its link has carried last passes it as the *base*: then only
the difference travels. A difference whose base is not there is dropped, like anything may be.

Whatever the bytes are, reading them gives messages with fields of the right types, or `WireError`.
"""

import struct
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, NamedTuple, get_type_hints

import ormsgpack

from jido_cluster.errors import WireError
from jido_cluster.runtime.peer_numbers import OF_GROUPS, OF_NODES, OF_ROOT
from jido_cluster.runtime.plain import Form, Forms
from jido_cluster.runtime.sealed import Sealer, read_row
from jido_placement.differences import (
    RecordDiff,
    apply_diff,
    diff,
    diff_from_bytes,
    diff_to_bytes,
)
from jido_placement.packing import record_from_bytes, record_to_bytes
from jido_placement.record import Record
from jido_state import node_messages
from jido_state.divergence import Siblings
from jido_state.messages import Row

__all__ = ["VERSION", "Packer", "Unpacker", "join", "pack_messages", "unpack_messages"]

VERSION: Final = 1

_FRAME: Final = 0
_DIFF: Final = 60  # `RecordIs`, as a difference
_HEAD: Final = struct.Struct(">BIB")  # an array of so many elements; the version, below 128
_ARRAY: Final = 0xDD

# What has to know its group and key, or is packed once for everybody, is left to the code below.
_LEFT: Final = Form(None, lambda data: data)
_ROWS: Final = tuple[tuple[str, Row], ...]
_FORMS: Final = Forms(
    OF_NODES | OF_ROOT, {_ROWS: _LEFT, Row | None: _LEFT, Siblings: _LEFT, Record: _LEFT}
)


class _Kind(NamedTuple):
    """How a message of a group is packed.

    Attributes:
        code: Its number.
        form: Of all fields but the one that is left.
        place: Where that field is; -1 for none.
        key_place: Where its key is.
        write: Packs what was left, given the sealer, the group and the key.
        read: The reverse, given the group and the key.
    """

    code: int
    form: Form
    place: int = -1
    key_place: int = 0
    write: Callable[[Sealer, int, Any, Any], Any] | None = None
    read: Callable[[int, Any, Any], Any] | None = None


def _write_rows(sealer: Sealer, group: int, _: Any, rows: Iterable[tuple[str, Row]]) -> list[Any]:
    return [[key, sealer.write(group, key, row)] for key, row in rows]


def _read_rows(group: int, _: Any, data: Any) -> tuple[tuple[str, Row], ...]:
    return tuple([(_text(key), read_row(group, key, row)) for key, row in data])


def _write_row(sealer: Sealer, group: int, key: str, row: Row | None) -> Any:
    return None if row is None else sealer.write(group, key, row)


def _read_row(group: int, key: str, data: Any) -> Row | None:
    return None if data is None else read_row(group, key, data)


def _write_siblings(_: Sealer, group: int, key: str, siblings: Siblings) -> bytes:
    return siblings.to_bytes(group, key)


def _read_siblings(group: int, key: str, data: Any) -> Siblings:
    if type(data) is not bytes:
        raise TypeError(f"{type(data).__name__} instead of divergence entries")
    return Siblings.from_bytes(group, key, data)


def _text(data: Any) -> str:
    if type(data) is not str:
        raise TypeError(f"{type(data).__name__} instead of a key")
    return data


_LEFT_KINDS: Final[dict[Any, tuple[Any, Any]]] = {
    _ROWS: (_write_rows, _read_rows),
    Row | None: (_write_row, _read_row),
    Siblings: (_write_siblings, _read_siblings),
}


def _kind(cls: Any, code: int) -> _Kind:
    hints = get_type_hints(cls)
    form = _FORMS.of(cls)
    for place, name in enumerate(cls._fields):
        found = _LEFT_KINDS.get(hints[name])
        if found is not None:
            key_place = cls._fields.index("key") if "key" in cls._fields else 0
            return _Kind(code, form, place, key_place, *found)
    return _Kind(code, form)


_KINDS: Final = {cls: _kind(cls, code) for cls, code in OF_GROUPS.items()}
_KINDS_READ: Final = {kind.code: (cls, kind) for cls, kind in _KINDS.items()}
_NODES: Final = _FORMS.union(OF_NODES)
_write_of_nodes: Final[Callable[[Any], list[Any]]] = _NODES.write  # type: ignore[assignment]


class Packer:
    """Packs messages; what goes to many processes is encoded once.

    Args:
        sealer: Shared with whoever makes the same rows durable.
    """

    def __init__(self, sealer: Sealer | None = None) -> None:
        self.sealer = Sealer() if sealer is None else sealer
        # The last record, whole and as a difference: it goes to everybody.
        self._records: dict[bool, tuple[Record, Record | None, bytes]] = {}
        self._last: tuple[node_messages.Frame, bytes] | None = None  # it may go to others, too

    def pack(self, message: Any, base: Record | None = None) -> bytes:
        """One message, as a part of a batch.

        Args:
            message: What is to travel.
            base: The record that its receiver got last, over a link that keeps the order.

        Raises:
            TypeError: It is none of those that travel.
        """
        kind = type(message)
        if kind is node_messages.Frame:
            last = self._last
            if last is not None and last[0].message is message.message and last[0] == message:
                return last[1]
            packed = ormsgpack.packb(self._frame(*message))
            self._last = (message, packed)
            return packed
        if kind is node_messages.RecordIs:
            return self._pack_record(message.record, base)
        if kind not in OF_NODES:
            raise TypeError(f"{kind.__name__} does not travel between processes")
        return ormsgpack.packb(_write_of_nodes(message))

    def forget(self) -> None:
        """What is packed from now on is packed anew, but for the record of the cluster."""
        self._last = None
        self.sealer.forget()

    def _frame(self, group: int, rno: int, message: Any) -> list[Any]:
        kind = _KINDS.get(type(message))
        if kind is None:
            raise TypeError(f"{type(message).__name__} does not travel in a frame")
        code, form, place, key_place, write, _ = kind
        data = form.write(message)  # type: ignore[misc]
        if write is not None:
            data[place] = write(self.sealer, group, message[key_place], data[place])
        return [_FRAME, group, rno, code, *data]

    def _pack_record(self, record: Record, base: Record | None) -> bytes:
        if base is not None and not _follows(record, base):
            base = None
        known = self._records.get(base is None)
        if known is not None and known[0] is record and known[1] is base:
            return known[2]
        if base is None:
            data = ormsgpack.packb([OF_NODES[node_messages.RecordIs], record_to_bytes(record)])
        else:
            data = ormsgpack.packb([_DIFF, diff_to_bytes(diff(base, record))])
        self._records[base is None] = (record, base, data)
        return data


def _follows(record: Record, base: Record) -> bool:
    """Whether a difference leads from the base to the record."""
    same = (record.cluster_id, record.recovery_no) == (base.cluster_id, base.recovery_no)
    return same and record.epoch > base.epoch


def join(packed: Sequence[bytes]) -> bytes:
    """The batch of these packed messages."""
    return _HEAD.pack(_ARRAY, len(packed) + 1, VERSION) + b"".join(packed)


def pack_messages(batch: Iterable[Any]) -> bytes:
    """The bytes of these messages.

    Raises:
        TypeError: One of them is none of those that travel.
    """
    packer = Packer()
    return join([packer.pack(message) for message in batch])


def unpack_messages(data: bytes) -> list[Any]:
    """The messages of a batch that was packed without a base.

    Raises:
        WireError: The bytes are no batch, or of another version.
    """
    return Unpacker().unpack(data)


class Unpacker:
    """Reads the batches of one link, in their order."""

    def __init__(self) -> None:
        self._base: Record | None = None  # the record that came last

    def unpack(self, data: bytes) -> list[Any]:
        """The messages of a batch.

        Raises:
            WireError: The bytes are no batch, or of another version.
        """
        found = []
        for message in _batch(data):
            kind = type(message)
            if kind is node_messages.RecordIs:
                self._base = message.record
            elif kind is RecordDiff:
                record = None if self._base is None else apply_diff(self._base, message)
                if record is None:
                    continue
                self._base = record
                message = node_messages.RecordIs(record)  # noqa: PLW2901 - what it stands for
            found.append(message)
        return found


def _batch(data: bytes) -> list[Any]:
    try:
        batch = ormsgpack.unpackb(data)
        if type(batch) is not list or not batch:
            raise WireError("a batch that is no list arrived from a peer; it was dropped")
        if batch[0] != VERSION:
            raise WireError(
                f"a batch of peer wire version {batch[0]!r} arrived, this node speaks {VERSION}; "
                "run the same jido-cluster release everywhere"
            )
        return [_read(each) for each in batch[1:]]
    except (
        ValueError,
        TypeError,
        LookupError,
        ArithmeticError,
        AttributeError,
        struct.error,
    ) as error:
        raise WireError(
            f"a batch of {len(data)} bytes from a peer is malformed; it was dropped: {error}"
        ) from error


def _read(data: Any) -> Any:
    if type(data) is not list:
        raise TypeError(f"a message is {type(data).__name__}")
    code = data[0]
    if type(code) is not int:
        raise TypeError("a message has no number")
    if code == _DIFF:
        return diff_from_bytes(_bytes(data[1]))
    if code != _FRAME:
        message = _NODES.read(data)
        if type(message) is node_messages.RecordIs:
            return node_messages.RecordIs(record_from_bytes(_bytes(message.record)))
        return message
    _, group, rno, number, *fields = data
    if type(group) is not int or type(rno) is not int or type(number) is not int:
        raise TypeError("a frame does not begin with three numbers")
    cls, kind = _KINDS_READ[number]
    message = kind.form.read(fields)
    if kind.read is not None:
        parts = list(message)
        parts[kind.place] = kind.read(group, parts[kind.key_place], parts[kind.place])
        message = tuple.__new__(cls, parts)
    return node_messages.Frame(group, rno, message)


def _bytes(data: Any) -> bytes:
    if type(data) is not bytes:
        raise TypeError(f"{type(data).__name__} instead of a record")
    return data
