"""Finds commits that SQLite would drop without a word, because the log before them has rotted.

Theory. SQLite reads its write-ahead log up to the first frame whose checksum does not fit, which it
takes for the end. After a crash this is right: the commit under way was not finished. But one bit
that flips in the middle makes all commits behind it vanish, and they were acknowledged. A commit
begins only after the one before it is on the disk. So when two commits of the log's present
generation stand behind the place where it breaks off, the first of them was finished once: that is
rot, and the store is lost. Rot in the very last commit looks like a crash; only peers that remember
the append counter can tell.
*Source*: "The WAL file format", sqlite.org/fileformat2.html#walformat.
"""

from pathlib import Path
from struct import Struct, unpack
from typing import Final

__all__ = ["count_lost_commits"]

_HEADER: Final = Struct(">8I")  # magic, format, page size, checkpoint, salts, checksum
_FRAME: Final = Struct(">6I")  # page, pages after commit (0: no commit), salts, checksum
_MAGIC: Final = (0x377F0682, 0x377F0683)  # the last bit: checksums read big-endian words
_WORD: Final = 0xFFFFFFFF


def count_lost_commits(log: Path) -> int:
    """How many finished commits lie behind a place where this log is broken; 0 for a sound one.

    Args:
        log: The file beside the database, which no process has open. It may be missing.
    """
    try:
        data = log.read_bytes()
    except FileNotFoundError:
        return 0
    if len(data) < _HEADER.size + _FRAME.size:
        return 0
    magic, _, page, _, *salts, first, second = _HEADER.unpack_from(data)
    size = _FRAME.size + page
    is_header_sound = (
        magic in _MAGIC
        and 512 <= page <= 65536
        and _checksum(data[:24], magic, 0, 0) == (first, second)
    )
    if not is_header_sound:
        return _count_without_header(data)
    sums = (first, second)
    place = _HEADER.size
    while place + size <= len(data):
        head = data[place : place + 8]
        _, _, *frame_salts, first, second = _FRAME.unpack_from(data, place)
        content = data[place + _FRAME.size : place + size]
        sums = _checksum(content, magic, *_checksum(head, magic, *sums))
        if frame_salts != salts or sums != (first, second):
            break
        place += size
    return max(0, _commits(data, place, size, salts) - 1)


def _count_without_header(data: bytes) -> int:
    """The header has rotted: any commit may be lost. Its frames still name their generation."""
    for page in (512 << shift for shift in range(8)):
        size = _FRAME.size + page
        if len(data) < _HEADER.size + 2 * size:
            continue
        salts = list(_FRAME.unpack_from(data, _HEADER.size)[2:4])
        if any(salts) and list(_FRAME.unpack_from(data, _HEADER.size + size)[2:4]) == salts:
            return max(0, _commits(data, _HEADER.size, size, salts) - 1)
    return 0


def _commits(data: bytes, start: int, size: int, salts: list[int]) -> int:
    """Frames from `start` on that end a commit of this generation."""
    found = 0
    for place in range(start, len(data) - size + 1, size):
        _, pages, *frame_salts, _, _ = _FRAME.unpack_from(data, place)
        found += pages > 0 and frame_salts == salts
    return found


def _checksum(data: bytes, magic: int, first: int, second: int) -> tuple[int, int]:
    words = unpack(f"{'>' if magic & 1 else '<'}{len(data) // 4}I", data)
    for even, odd in zip(words[::2], words[1::2], strict=True):
        first = (first + even + second) & _WORD
        second = (second + odd + first) & _WORD
    return first, second
