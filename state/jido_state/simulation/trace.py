"""What happened in a run: a digest of all of it, and the end of it in words.

Theory. Two runs are the same when their events are: kind, time, and whom they concerned. Every
event goes into the digest, as fixed bytes; nothing is formatted until somebody reads. What events
say is kept only while a run is replayed for a reader, so a digest does not depend on it.
"""

from collections import deque
from hashlib import blake2b
from struct import Struct

__all__ = ["Trace"]

_pack = Struct("<qHii").pack
_BUFFER = 1 << 16  # bytes; hashing in pieces of this size costs a third of hashing each event


class Trace:
    """The events of one run.

    Attributes:
        events: How many there were.
    """

    __slots__ = ("_buffer", "_digest", "_kept", "_kinds", "events")

    def __init__(self, kept: int = 0) -> None:
        """An empty trace.

        Args:
            kept: How many of the last events can be read afterwards; 0 for the digest alone, which
                is faster and lets go of messages at once.
        """
        self.events = 0
        self._digest = blake2b(digest_size=16)
        self._buffer = bytearray()
        self._kinds: dict[str, int] = {}
        self._kept: deque[tuple[int, str, int, int, object]] | None = (
            deque(maxlen=kept) if kept else None
        )

    def add(
        self, now_us: int, kind: str, source: int = -1, target: int = -1, detail: object = None
    ) -> None:
        """Notes an event.

        Args:
            now_us: When.
            kind: One of few words, such as "deliver".
            source: The node it came from, below 2**31; -1 for the world.
            target: The node it happened on, as `source`.
            detail: What else a reader wants to know; not part of the digest. It is formatted when
                the trace is read, so it must not change after.
        """
        self.events += 1
        code = self._kinds.get(kind)
        if code is None:
            code = self._kinds[kind] = len(self._kinds)
            self._buffer += kind.encode()
        self._buffer += _pack(now_us, code, source, target)
        if len(self._buffer) >= _BUFFER:
            self._flush()
        if self._kept is not None:
            self._kept.append((now_us, kind, source, target, detail))

    def mark(self, data: bytes) -> None:
        """Makes the bytes part of the digest: a final state, an answer."""
        self._buffer += len(data).to_bytes(8, "little") + data

    def digest(self) -> str:
        """The digest of everything so far, 32 hexadecimal digits. More may be added after."""
        self._flush()
        return self._digest.hexdigest()

    def lines(self) -> list[str]:
        """The events that were kept, oldest first, one line each: seconds, kind, whom, what."""
        return [
            f"{now_us / 1e6:12.6f} {kind:<12} {_whom(source, target):<9} "
            f"{'' if detail is None else detail}".rstrip()
            for now_us, kind, source, target, detail in self._kept or ()
        ]

    def _flush(self) -> None:
        self._digest.update(self._buffer)
        self._buffer.clear()


def _whom(source: int, target: int) -> str:
    if source < 0:
        return "" if target < 0 else str(target)
    return f"{source} -> {target}" if target >= 0 else f"{source}"
