"""The bytes of a row: a header that can be renewed alone, and content that is not looked into.

Theory. A row that rotted must never be taken for a row, nor for another key's. The content has a
checksum of its own; the header's checksum covers shard, key, version and the content's checksum. So
a row whose version changes while its content stays (settling) is sealed again without reading the
content, and every flipped bit, swapped row and torn end is found.
*Source*: Alagappan et al., Protocol-aware recovery for consensus-based storage (2018), for why.
"""

from struct import Struct
from typing import Final, NamedTuple
from zlib import crc32

from jido_state.versions import NO_BALLOT, Ballot, Version

__all__ = ["CorruptRowError", "SealedRow", "open_row", "restamp", "seal_row"]

FORMAT: Final = 1
_HEAD = Struct(">BBHIIHQHIIHI")  # format, flags, version, tomb, checksum of the content
_SUM = Struct(">I")
_START: Final = _HEAD.size + _SUM.size


class CorruptRowError(ValueError):
    """These bytes are not the row they should be. Its holder does not know this key.

    Attributes:
        shard: Where it was read.
        key: Under which key.
        reason: What does not fit.
    """

    def __init__(self, shard: int, key: str, reason: str) -> None:
        super().__init__(shard, key, reason)
        self.shard = shard
        self.key = key
        self.reason = reason

    def __str__(self) -> str:
        return (
            f"row {self.key!r} of shard {self.shard} is corrupt: {self.reason}; "
            "its replica must learn it from the others"
        )


class SealedRow(NamedTuple):
    """What a row's bytes hold.

    Attributes:
        version: The register's.
        flags: What a new leader must know without the content, 0 to 255.
        tomb: The ballot a tombstone was first written under; `NO_BALLOT` for anything alive.
        content: The bytes that `seal_row` was given.
    """

    version: Version
    flags: int
    tomb: Ballot
    content: bytes


def seal_row(  # noqa: D417 - the fields are those of `SealedRow`
    shard: int, key: str, version: Version, flags: int, tomb: Ballot, content: bytes
) -> bytes:
    """The row as bytes that only `open_row` with this shard and key accepts.

    Args:
        shard: Number of the shard, 0 to 2**32 - 1.
        key: The row's key.
    """
    head = _HEAD.pack(FORMAT, flags, *version, *tomb, crc32(content))
    return head + _SUM.pack(_head_sum(shard, key, head)) + content


def open_row(shard: int, key: str, data: bytes) -> SealedRow:
    """The row in these bytes.

    Raises:
        CorruptRowError: They are not what `seal_row` made for this shard and key.
    """
    head = _checked_head(shard, key, data)
    content = data[_START:]
    if head[-1] != crc32(content):
        raise CorruptRowError(shard, key, "the content does not fit its checksum")
    _, flags, recovery, config, round_, node, number, *tomb = head[:-1]
    version = Version(recovery, config, round_, node, number)
    return SealedRow(version, flags, Ballot(*tomb) if any(tomb) else NO_BALLOT, content)


def restamp(shard: int, key: str, data: bytes, version: Version) -> bytes:
    """The same row under another version; the content is neither read nor checked.

    Raises:
        CorruptRowError: The header is not what `seal_row` made for this shard and key.
    """
    head = _checked_head(shard, key, data)
    renewed = _HEAD.pack(*head[:2], *version, *head[7:])
    return renewed + _SUM.pack(_head_sum(shard, key, renewed)) + data[_START:]


def _checked_head(shard: int, key: str, data: bytes) -> tuple[int, ...]:
    if len(data) < _START:
        raise CorruptRowError(shard, key, f"{len(data)} bytes are less than a header")
    if data[0] != FORMAT:
        raise CorruptRowError(shard, key, f"format {data[0]} is not {FORMAT}, the one known here")
    head = data[: _HEAD.size]
    if _SUM.unpack_from(data, _HEAD.size)[0] != _head_sum(shard, key, head):
        raise CorruptRowError(shard, key, "the header does not fit its checksum")
    return _HEAD.unpack(head)


def _head_sum(shard: int, key: str, head: bytes) -> int:
    return crc32(head, crc32(key.encode(), shard))
