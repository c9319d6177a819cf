"""Rows as sealed bytes: the same bytes go to the own disk and to the other replicas.

Theory. A leader's write goes to its own store and to every follower, and a follower's store gets
what came over the wire. So a row is sealed once (`jido_state.codec`), and its content, once it is
bytes, stays bytes until somebody reads a field: replicas that only keep a row never do. The seal's
checksum covers shard, key, version and content, so bytes that were damaged on their way are
refused before anything is stored.
"""

from struct import error as struct_error
from typing import Any, Final

from jido_cluster.errors import WireError
from jido_cluster.runtime.plain import VERSION
from jido_placement.packing import record_from_bytes, record_to_bytes
from jido_placement.record import ROOT
from jido_placement.record import Record as RootRecord
from jido_state.codec import CONTENT, check_row, open_row, seal_row
from jido_state.messages import UNREAD, Row, Staged
from jido_state.record import Record
from jido_state.versions import Version

__all__ = ["PackedRecord", "Sealer", "read_row", "seal", "unseal"]

_ROOT_SHARD: Final = (1 << 32) - 1  # the seal counts shards in 32 bits without a sign
_FIELDS: Final = tuple(Record.__dataclass_fields__)


class PackedRecord(Record):
    """A record that is bytes until a field of it is read. Equal to the record it stands for.

    The fields' slots stay empty until then; Python asks `__getattr__` only for what is not there.
    The bytes are those of the whole row, as it came sealed: a replica that stores the row, or sends
    it on, takes them as they are.
    """

    __slots__ = ("_data", "_start", "_version")
    _data: bytes
    _start: int  # where the content begins in them
    _version: Version | None  # the row's very object; None when the bytes are the content alone

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        """A plain record: what is made from this one by `replace` has no bytes yet."""
        return Record(*args, **kwargs)

    @staticmethod
    def of(content: bytes) -> "PackedRecord":
        """The record whose `to_content` gave these bytes."""
        return PackedRecord.of_row(content, None, 0)

    @staticmethod
    def of_row(data: bytes, version: Version | None, start: int = CONTENT) -> "PackedRecord":
        """The record in a row's bytes; `version` is the object that stands in the row."""
        packed: PackedRecord = _new(PackedRecord)
        _set_data(packed, data)
        _set_start(packed, start)
        _set_version(packed, version)
        return packed

    def sealed(self, version: Version) -> bytes | None:
        """The row's bytes, if this is still the version it came with."""
        return self._data if self._version is version else None

    def __getattr__(self, name: str) -> Any:
        """Reads all fields.

        Raises:
            WireError: The content does not decode, though its checksum fits: whoever sealed it
                speaks another release.
        """
        if name not in _FIELDS:
            raise AttributeError(name)
        try:
            record = Record.from_content(self.to_content())
        except (ValueError, LookupError, AttributeError) as error:
            raise WireError(f"a record of {len(self.to_content())} bytes: {error}") from error
        for field in _FIELDS:
            object.__setattr__(self, field, getattr(record, field))
        return getattr(record, name)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Record):
            return NotImplemented
        if isinstance(other, PackedRecord) and self.to_content() == other.to_content():
            return True
        return all(getattr(self, field) == getattr(other, field) for field in _FIELDS)

    __hash__ = Record.__hash__

    def to_content(self) -> bytes:
        """See `Record.to_content`."""
        return self._data[self._start :]


_new: Final = object.__new__
# The slots' own descriptors: a record is frozen.
_set_data, _set_start, _set_version = (
    vars(PackedRecord)[name].__set__ for name in PackedRecord.__slots__
)


def seal(shard: int, key: str, row: Row) -> bytes:
    """The row as bytes for its place, with its content.

    Args:
        shard: Number of the shard, or `ROOT`.
        key: The row's key.
        row: Its content is an agent's record; in the root group the cluster's.

    Raises:
        TypeError: The content is neither.
    """
    content = row.content
    if type(content) is PackedRecord and (sealed := content.sealed(row.version)) is not None:
        return sealed  # a row never changes its place
    if isinstance(content, Record):
        data = content.to_content()
    elif type(content) is RootRecord:
        data = record_to_bytes(content)
    else:
        raise TypeError(f"the content of row {key!r} is {type(content).__name__}, and no record")
    return seal_row(_numbered(shard), key, row.version, row.flags, row.tomb, data)


def unseal(shard: int, key: str, data: bytes) -> Row:
    """The row in these bytes.

    Raises:
        ValueError: They are not what `seal` made for this shard and key.
    """
    version, flags, tomb = check_row(_numbered(shard), key, data)
    if shard == ROOT:
        return Row(version, flags, tomb, record_from_bytes(data[CONTENT:]))
    return Row(version, flags, tomb, PackedRecord.of_row(data, version))


def _numbered(shard: int) -> int:
    return _ROOT_SHARD if shard == ROOT else shard


class Sealer:
    """Seals each row once, wherever it goes, as long as it is on its way.

    Rows are known by identity. Whoever owns it calls `forget` when what is on its way has been
    handed on, say once in each pass of the loop.
    """

    def __init__(self) -> None:
        self._sealed: dict[int, tuple[Row, bytes]] = {}  # the row is kept: its id stays its own

    def seal(self, shard: int, key: str, row: Row) -> bytes:
        """As `seal`."""
        known = self._sealed.get(id(row))
        if known is not None:
            return known[1]
        data = seal(shard, key, row)
        self._sealed[id(row)] = (row, data)
        return data

    def write(self, shard: int, key: str, row: Row) -> Any:
        """The row as plain data; one whose content is elsewhere or unknown without content."""
        content = row.content
        if content is None or content is UNREAD or type(content) is Staged:
            head = seal_row(_numbered(shard), key, row.version, row.flags, row.tomb, b"")
            if isinstance(content, Staged):
                return [head, VERSION.pack(*content.version)]
            return [head, None if content is None else b""]
        return self.seal(shard, key, row)

    def forget(self) -> None:
        """What is sealed from now on is sealed anew."""
        self._sealed.clear()


def read_row(shard: int, key: str, data: Any) -> Row:
    """What `Sealer.write` wrote.

    Raises:
        ValueError: It is nothing of the kind.
    """
    if type(data) is bytes:
        return unseal(shard, key, data)
    if type(data) is not list or len(data) != 2 or type(data[0]) is not bytes:
        raise ValueError(f"the row of {key!r} is {type(data).__name__}")
    version, flags, tomb, _ = open_row(_numbered(shard), key, data[0])
    try:
        if data[1] is None:
            return Row(version, flags, tomb)
        content = Staged(Version._make(VERSION.unpack(data[1]))) if data[1] else UNREAD
    except (struct_error, TypeError) as error:
        raise ValueError(f"the content of {key!r} is not to be found: {error}") from error
    return Row(version, flags, tomb, content)
