"""One connection to one process, its frames, and what becomes of it.

Theory. A link dials when there is something to send, and once more when a connection has ended,
to learn whether the process has ended too. Whoever does not read for long loses what it was to get:
no queue grows without bound, and nothing that is sent late enough is of use to anybody.
"""

import asyncio
import logging
from collections.abc import Iterator
from typing import Final, Protocol

from jido_cluster._ray import streams
from jido_cluster.errors import WireError
from jido_cluster.runtime.peer_wire import join
from jido_placement.record import Record

logger = logging.getLogger(__name__)

__all__ = ["Link", "Owner", "frames_of"]

WELCOME_SECONDS: Final = 2.0  # for the first word, the connection included
FIRST_PAUSE: Final = 0.05  # between attempts; doubled up to the longest
LONGEST_PAUSE: Final = 1.0
STALL_SECONDS: Final = 5.0  # for so long what a slow reader is to get is kept
MAX_BUFFERED: Final = 1 << 20  # bytes handed to the kernel's side; beyond it they wait here
MAX_QUEUED: Final = 32 << 20  # bytes that wait for one process
MAX_BATCH: Final = 128 << 20  # bytes of one message; frames are smaller, it goes in several

_ROOM: Final = streams.MAX_MESSAGE - 64  # of a frame, for messages
_HEADS: Final = 16  # more than the heads of a batch and a frame
WHOLE: Final = b"\0"
MORE: Final = b"\1"  # the batch goes on in the next frame
WELCOME: Final = b"\1"
STRANGER: Final = b"\2"  # the process that was meant does not listen here


class Owner(Protocol):
    """What a link needs of the process that has it."""

    @property
    def token(self) -> str:
        """The cluster's."""
        ...

    def greeting(self, name: str) -> bytes:
        """What is said first on a connection to the process of this name."""
        ...

    def count_sent(self) -> None:
        """A frame more was sent."""
        ...

    def count_dropped(self, messages: int) -> None:
        """So many messages more were dropped."""
        ...

    def tell(self, node: int, part: int, *, is_gone: bool) -> None:
        """The process is certainly dead, or there."""
        ...


def frames_of(packed: list[bytes], room: int = _ROOM) -> Iterator[bytes]:
    """The frames of these packed messages: batches, each as large as a frame may be.

    A message that is larger alone goes in several frames, of which all but the last say so.
    """
    batch: list[bytes] = []
    size = 0
    for each in packed:
        if batch and size + len(each) > room:
            yield from _split(join(batch), room)
            batch, size = [], 0
        batch.append(each)
        size += len(each)
    if batch:
        yield from _split(join(batch), room)


def _split(data: bytes, room: int) -> Iterator[bytes]:
    start = 0
    while len(data) - start > room + _HEADS:
        yield MORE + data[start : start + room]
        start += room
    yield WHOLE + data[start:]


class Link:
    """The way to one process.

    It dials when there is something to send, and once more when a connection has ended, to learn
    whether the process has ended too.

    Attributes:
        address: Of the process.
        base: The record of the cluster that was put last, if all since then goes over one
            connection; None when that is not so.
    """

    def __init__(self, peers: Owner, node: int, part: int, address: str) -> None:
        self.address = address
        self.base: Record | None = None
        self._peers = peers
        self._node = node
        self._part = part
        self._name, _, place = address.partition("@")
        self._ip, _, port = place.rpartition(":")
        self._port = int(port)
        self._loop = asyncio.get_running_loop()
        self._queue: list[bytes] = []
        self._size = 0
        self._writer: asyncio.StreamWriter | None = None
        self._running: asyncio.Task[None] | None = None
        self._draining: asyncio.Task[None] | None = None
        self._waiting: asyncio.TimerHandle | None = None
        self._pause = FIRST_PAUSE
        self._is_gone = False

    def put(self, packed: bytes) -> bool:
        """Queue a packed message; whether it and all that was queued before is still there."""
        is_kept = True
        if self._queue and self._size + len(packed) > MAX_QUEUED:
            self._drop()
            is_kept = False
        if len(packed) > MAX_BATCH:
            logger.error("a message of %d bytes for %s is too large", len(packed), self.address)
            self._peers.count_dropped(1)
            return False
        self._queue.append(packed)
        self._size += len(packed)
        return is_kept

    def flush(self) -> None:
        """Send what is queued, or see to it that it can be sent."""
        writer = self._writer
        if writer is None:
            if self._running is None and self._waiting is None:
                self._running = self._loop.create_task(self._run())
            return
        if self._draining is not None or not self._queue:
            return
        queue, self._queue, self._size = self._queue, [], 0
        for frame in frames_of(queue):
            streams.write(writer, frame)
            self._peers.count_sent()
        if writer.transport.get_write_buffer_size() > MAX_BUFFERED:
            self._draining = self._loop.create_task(self._drain(writer))

    def close(self) -> None:
        """End the link; nothing is told of it any more."""
        for task in (self._running, self._draining):
            if task is not None:
                task.cancel()
        if self._waiting is not None:
            self._waiting.cancel()
        if self._writer is not None:
            self._writer.transport.abort()
        self._drop()

    def _drop(self) -> None:
        self._peers.count_dropped(len(self._queue))
        self._queue, self._size = [], 0
        self.base = None

    async def _drain(self, writer: asyncio.StreamWriter) -> None:
        """Wait for a slow reader; what it is to get does not wait for ever."""
        while self._writer is writer:
            try:
                async with asyncio.timeout(STALL_SECONDS):
                    await writer.drain()
                break
            except TimeoutError:
                self._drop()
            except OSError:
                break  # the connection has ended, which its reader notices
        self._draining = None
        if self._writer is not None:
            self.flush()

    async def _run(self) -> None:
        """Connections, one after the other, until one cannot be made.

        After one that ended the next is tried without anything to send: it tells whether the
        process is dead.
        """
        while (lasted := await self._connect()) is not None:
            if lasted < LONGEST_PAUSE:
                await asyncio.sleep(self._next_pause())
            else:
                self._pause = FIRST_PAUSE
        self._running = None
        self._drop()
        self._waiting = self._loop.call_later(self._next_pause(), self._retry)

    def _next_pause(self) -> float:
        pause, self._pause = self._pause, min(2 * self._pause, LONGEST_PAUSE)
        return pause

    def _retry(self) -> None:
        self._waiting = None
        if self._queue:
            self.flush()

    async def _connect(self) -> float | None:
        """For how many seconds there was a connection; None when none could be made."""
        writer: asyncio.StreamWriter | None = None
        answer = b""
        try:
            async with asyncio.timeout(WELCOME_SECONDS):
                reader, writer = await streams.dial(self._ip, self._port, self._peers.token)
                streams.write(writer, self._peers.greeting(self._name))
                answer = await streams.read(reader)
            if answer == WELCOME:
                return await self._use(reader, writer)
        except ConnectionRefusedError:
            answer = STRANGER
        except (OSError, EOFError, WireError) as error:  # among them TimeoutError
            logger.debug("no connection to %s: %r", self.address, error)
        finally:
            if writer is not None:
                writer.transport.abort()
        if answer == STRANGER and not self._is_gone:
            self._is_gone = True
            self._peers.tell(self._node, self._part, is_gone=True)
        return None

    async def _use(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> float:
        """Sends until the connection ends; how many seconds that took."""
        began = self._loop.time()
        writer.transport.set_write_buffer_limits(high=MAX_BUFFERED)
        self._writer = writer
        self._is_gone = False
        self._peers.tell(self._node, self._part, is_gone=False)
        self.flush()
        try:
            await reader.read(1)  # nothing comes on it but its end
        except OSError:
            pass
        finally:
            self._writer = None
            self.base = None
        return self._loop.time() - began
