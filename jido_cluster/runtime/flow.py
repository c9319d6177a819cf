"""The two ends of a stream: an outflow beside the handler, an inflow beside the caller.

Theory. Credit. The caller tells how many items it has taken; the handler runs ahead of that by a
window and then stands still at its `yield`. The window is counted at the handler's end alone, in
items and in bytes, so nothing between the two has to be bounded: 64 items, and less than 1 MiB
before the last of them. (Reactive Streams calls this demand; RSocket's and Akka's windows are of
the same order.) The caller tells when it has taken half a window, so that its word arrives before
the handler stands still, and costs one small message for 32 items.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from jido_cluster.config import MAX_DATA
from jido_cluster.errors import ActionTimeoutError, JidoError
from jido_cluster.runtime.link import Call, look
from jido_cluster.runtime.wire import pack

if TYPE_CHECKING:
    from jido_cluster.runtime.client import Client

WINDOW_ITEMS: Final = 64
WINDOW_BYTES: Final = MAX_DATA

_EARLY: Final = 0.001  # seconds by which the timer of a deadline may be ahead of it, by rounding

# What a caller tells the host of its stream; bodies are msgpack: the call's number, and a count.
TAKEN: Final = "stream.taken"  # how many items it has taken since the stream began
CLOSE: Final = "stream.close"  # it wants no more


def is_word_due(items: int, size: int) -> bool:
    """Whether so many items, of `size` bytes, are enough taken ones to tell the other end."""
    return items >= WINDOW_ITEMS // 2 or size >= WINDOW_BYTES // 2


class Outflow:
    """The handler's end: passes items on, and waits while too many are not taken.

    Invariant: at most `WINDOW_ITEMS` items are not taken, and all but the last of them are smaller
    than `WINDOW_BYTES` together.

    Args:
        send: Takes each item at once, in order.
        deadline: When the stream must have ended, in seconds of the running loop.

    Attributes:
        task: The task that runs the handler, which `close` cancels.
        is_closed: Whether the caller has given the stream up.
    """

    __slots__ = (
        "_bytes",
        "_changed",
        "_deadline",
        "_loop",
        "_send",
        "_sizes",
        "_taken",
        "is_closed",
        "task",
    )

    def __init__(self, send: Callable[[bytes], None], deadline: float) -> None:
        self._send = send
        self._deadline = deadline
        self._loop = asyncio.get_running_loop()
        self._sizes: deque[int] = deque()  # of the items that are not taken, in order
        self._bytes = 0
        self._taken = 0
        self._changed: asyncio.Future[None] | None = None
        self.task: asyncio.Task[None] | None = None
        self.is_closed = False

    async def put(self, item: bytes) -> None:
        """Pass an item on, as soon as the window has room.

        Raises:
            ActionTimeoutError: The deadline has passed.
            asyncio.CancelledError: The caller has given the stream up.
        """
        if self.is_closed:
            raise asyncio.CancelledError
        if self._loop.time() >= self._deadline - _EARLY:
            raise _out_of_time()  # the handler was cancelled, and goes on regardless
        if self._is_full():
            await self._wait_while(self._is_full)
        self._sizes.append(len(item))
        self._bytes += len(item)
        self._send(item)

    async def wait_taken(self) -> None:
        """Return when the caller has taken every item.

        Raises:
            ActionTimeoutError: It has not by the deadline.
            asyncio.CancelledError: It has given the stream up.
        """
        await self._wait_while(lambda: bool(self._sizes))
        if self.is_closed:
            raise asyncio.CancelledError

    def taken(self, count: int) -> None:
        """The caller has taken so many items since the stream began; never fewer than before."""
        while self._taken < count and self._sizes:
            self._taken += 1
            self._bytes -= self._sizes.popleft()
        if self._changed is not None and not self._changed.done():
            self._changed.set_result(None)

    def close(self) -> None:
        """The caller gives the stream up: its handler is cancelled, now or before it begins."""
        self.is_closed = True
        if self.task is not None:
            self.task.cancel()

    def _is_full(self) -> bool:
        return len(self._sizes) >= WINDOW_ITEMS or self._bytes >= WINDOW_BYTES

    async def _wait_while(self, holds: Callable[[], bool]) -> None:
        try:
            async with asyncio.timeout_at(self._deadline):
                while holds():
                    self._changed = self._loop.create_future()
                    await self._changed
        except TimeoutError:
            raise _out_of_time() from None


class Inflow:
    """The caller's end: items that came and were not asked for yet.

    Not thread-safe: only the client's loop touches it.

    Attributes:
        call: The stream's call; done when nothing more comes.
    """

    __slots__ = (
        "_bytes",
        "_client",
        "_has_all",
        "_items",
        "_lent",
        "_taken",
        "_told",
        "_waiter",
        "call",
    )

    def __init__(self, client: "Client", call: Call) -> None:
        self._client = client
        self.call = call
        self._items: deque[bytes] = deque()
        self._lent = 0  # items of the latest batch, which are taken when the next one is wanted
        self._taken = 0
        self._told = 0
        self._bytes = 0  # of items that were given out since the host was told
        self._has_all = False
        self._waiter: asyncio.Future[None] | None = None
        call.add_done_callback(self._wake)
        call.add_done_callback(look)  # a stream that fails may have been dropped by its taker

    def add(self, item: bytes) -> None:
        """An item came."""
        self._items.append(item)
        self._wake()

    def end(self) -> None:
        """The handler has ended, and commits when all items are taken."""
        self._has_all = True
        self._wake()

    async def batch(self) -> list[bytes]:
        """The next items, in order: at least one, or none when the stream has ended well.

        Asking says that those of the previous batch are taken.

        Raises:
            JidoError: How the stream failed, after the items that came before.
        """
        self._taken += self._lent
        self._lent = 0
        if is_word_due(self._taken - self._told, self._bytes):
            self._tell()
        while not self._items:
            if self.call.done():
                self.call.result()
                return []
            if self._has_all and self._told < self._taken:
                self._tell()
            self._waiter = self._client.loop.create_future()
            await self._waiter
        self._lent = min(len(self._items), WINDOW_ITEMS // 2)
        batch = [self._items.popleft() for _ in range(self._lent)]
        self._bytes += sum(map(len, batch))
        return batch

    def close(self) -> None:
        """Give the stream up unless it has ended: its turn is cancelled, nothing commits."""
        call = self.call
        if call.done():
            return
        call.cancel()
        self._client.calls.pop(call.number, None)
        if call.is_sent:
            self._client.tell_host(call, CLOSE, pack((call.number,)))

    def _tell(self) -> None:
        self._told = self._taken
        self._bytes = 0
        if not self.call.done():
            self._client.tell_host(self.call, TAKEN, pack((self.call.number, self._taken)))

    def _wake(self, _: object = None) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


def _out_of_time() -> JidoError:
    return ActionTimeoutError("the stream had not ended, its items taken, when its deadline passed")
