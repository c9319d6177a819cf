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

__all__ = [
    "CONTENT",
    "CorruptRowError",
    "SealedRow",
    "check_row",
    "open_row",
    "restamp",
    "seal_row",
]

FORMAT: Final = 1
_new = tuple.__new__  # what `Version(*fields)` calls, at a third of its time
_HEAD = Struct(">BBHIIHQHIIHI")  # format, flags, version, tomb, checksum of the content
_SUM = Struct(">I")
_WHOLE = Struct(_HEAD.format + "I")  # with the checksum of all before it
_HEAD_SIZE: Final = _HEAD.size
CONTENT: Final = _WHOLE.size
"""Where the content begins in a row's bytes."""


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
    return head + _SUM.pack(crc32(head, crc32(key.encode(), shard))) + content


def open_row(shard: int, key: str, data: bytes) -> SealedRow:
    """The row in these bytes.

    Raises:
        CorruptRowError: They are not what `seal_row` made for this shard and key.
    """
    version, flags, tomb = check_row(shard, key, data)
    return SealedRow(version, flags, tomb, data[CONTENT:])


def check_row(shard: int, key: str, data: bytes) -> tuple[Version, int, Ballot]:
    """Version, flags and tomb of the row in these bytes, whose content is whole too.

    Raises:
        CorruptRowError: As `open_row`.
    """
    head = _checked_head(shard, key, data)
    if head[11] != crc32(memoryview(data)[CONTENT:]):
        raise CorruptRowError(shard, key, "the content does not fit its checksum")
    tomb = head[7:11]
    version: Version = _new(Version, head[2:7])
    return version, head[1], NO_BALLOT if tomb == NO_BALLOT else Ballot(*tomb)


def restamp(shard: int, key: str, data: bytes, version: Version) -> bytes:
    """The same row under another version; the content is neither read nor checked.

    Raises:
        CorruptRowError: The header is not what `seal_row` made for this shard and key.
    """
    head = _checked_head(shard, key, data)
    renewed = _HEAD.pack(*head[:2], *version, *head[7:12])
    return renewed + _SUM.pack(crc32(renewed, crc32(key.encode(), shard))) + data[CONTENT:]


def _checked_head(shard: int, key: str, data: bytes) -> tuple[int, ...]:
    if len(data) < CONTENT:
        raise CorruptRowError(shard, key, f"{len(data)} bytes are less than a header")
    if data[0] != FORMAT:
        raise CorruptRowError(shard, key, f"format {data[0]} is not {FORMAT}, the one known here")
    head = _WHOLE.unpack_from(data)
    if head[12] != crc32(data[:_HEAD_SIZE], crc32(key.encode(), shard)):
        raise CorruptRowError(shard, key, "the header does not fit its checksum")
    return head
