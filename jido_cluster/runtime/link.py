"""A client's link to one host: frames in order, gathered while earlier ones are under way.

Theory. Everything queued while the previous frames are in flight goes in the next one: one call at
a time costs one round trip, and thousands at once share frames. There is no timer: a frame leaves
on the next turn of the loop while fewer than two are in flight. The host may hold one frame back
until it has something to say; that one is not counted. Many calls queued at once leave as two
frames, so that client and host work at the same time.

After a frame whose fate is unknown the link opens the next epoch and sends what is unanswered
again, in order; casts of a doubtful frame are dropped and counted.
"""

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from jido_cluster.config import MAX_DATA
from jido_cluster.errors import JidoError, WireError
from jido_cluster.ports import PeerGoneError, PeerTroubleError, Transport
from jido_cluster.runtime.view import View
from jido_cluster.runtime.wire import (
    CAST,
    DONE,
    EVENT,
    FAILED,
    ITEM,
    LAST,
    REDIRECT,
    VERSION,
    decode_error,
    pack,
    unpack_answer,
)

if TYPE_CHECKING:
    from jido_cluster.runtime.client import Client

MAX_IN_FLIGHT: Final = 2  # frames; one being worked on while the next one travels
MIN_SPLIT: Final = 16  # messages; a frame costs as much as some ten of them
RETRY_DELAY: Final = 0.05  # seconds between attempts to reach a host that answers nothing
_ENVELOPE: Final = 96  # bytes of a message beside its body and key, for the size of a frame


class Call(asyncio.Future[Any]):
    """One message on its way, and the future of its answer.

    `is_sent` means that a frame with it left at least once, so that it may have run. `is_doubtful`
    means that a host it was sent to is gone, and its answer with it.
    """

    __slots__ = (
        "attempts",
        "body",
        "deadline",
        "extra",
        "is_doubtful",
        "is_sent",
        "key",
        "kind",
        "link",
        "name",
        "number",
        "shard",
    )

    attempts: int
    number: int
    kind: int
    key: str
    name: str
    body: bytes
    deadline: float
    extra: dict[str, Any] | None
    shard: int
    link: "Link | None"
    is_sent: bool
    is_doubtful: bool


def look(call: Call) -> None:
    """Nobody waits for this one: looking at its failure keeps asyncio quiet."""
    if not call.cancelled():
        call.exception()


class Link:
    """The ordered stream of frames from one client to one host.

    Not thread-safe: only the client's loop touches it.
    """

    __slots__ = (
        "_client",
        "_held",
        "_in_flight",
        "_loop",
        "_queue",
        "_scheduled",
        "_sequence",
        "_transport",
        "_unanswered",
        "epoch",
        "host",
        "is_gone",
    )

    def __init__(self, client: "Client", host: str, transport: Transport) -> None:
        self._client = client
        self._loop = client.loop
        self._transport = transport
        self.host = host
        self.epoch = 0
        self.is_gone = False
        self._sequence = 0
        self._in_flight = 0
        self._held = 0
        self._unanswered = 0
        self._scheduled = False
        self._queue: deque[Call] = deque()

    def push(self, call: Call) -> None:
        """Queue a call; it leaves with the next frame."""
        call.link = self
        self._queue.append(call)
        if not self._scheduled and self._in_flight < MAX_IN_FLIGHT + self._held:
            self._scheduled = True
            self._loop.call_soon(self._flush)

    def take_unsent(self) -> list[Call]:
        """Remove and return the calls that no frame has carried yet, in order."""
        calls = [call for call in self._queue if not call.done()]
        self._queue.clear()
        return calls

    def close(self) -> None:
        """Send nothing more; answers that still come are ignored."""
        self.is_gone = True
        self._queue.clear()

    def _flush(self) -> None:
        self._scheduled = False
        if self.is_gone or self._in_flight >= MAX_IN_FLIGHT + self._held:
            return
        messages = self._gather()
        if not messages and (self._in_flight or not self._unanswered):
            return
        frame = pack(
            (
                VERSION,
                self._client.id,
                self.epoch,
                self._sequence,
                self._client.view.epoch,
                messages,
            )
        )
        self._sequence += 1
        self._in_flight += 1
        epoch = self.epoch
        casts = sum(1 for message in messages if message[1] == CAST or message[1] == EVENT)
        answer = self._transport.send(self.host, frame)
        answer.add_done_callback(lambda done: self._answered(done, epoch, casts))
        if self._queue and self._in_flight < MAX_IN_FLIGHT + self._held:
            self._scheduled = True
            self._loop.call_soon(self._flush)

    def _gather(self) -> list[tuple[Any, ...]]:
        messages: list[tuple[Any, ...]] = []
        queue = self._queue
        now = self._loop.time()
        size = 0
        # Many at once go as two frames: while the host works on one, this side takes the answers
        # of the other. As one they would take turns, and one core would always be idle.
        count = len(queue) if self._in_flight else max((len(queue) + 1) // 2, MIN_SPLIT)
        while queue and len(messages) < count:
            call = queue[0]
            size += len(call.body) + len(call.key) + len(call.name) + _ENVELOPE
            if call.extra is not None:
                size += len(pack(call.extra))
            if size > MAX_DATA and messages:
                break
            queue.popleft()
            if call.done():
                continue
            call.is_sent = True
            call.attempts += 1
            left = int((call.deadline - now) * 1000)
            messages.append(
                (call.number, call.kind, call.key, call.name, call.body, left, call.extra)
            )
            if call.kind == CAST or call.kind == EVENT:
                self._client.finish(call, None)
        return messages

    def _answered(self, answer: "asyncio.Future[bytes]", epoch: int, casts: int) -> None:
        if epoch != self.epoch or self.is_gone:
            self._client.dropped_casts += casts
            if not answer.cancelled():
                answer.exception()  # looked at, so that asyncio does not report it as lost
            return
        self._in_flight -= 1
        try:
            view_epoch, self._held, self._unanswered, replies, view = unpack_answer(answer.result())
            if view is not None:
                self._client.install(View.from_data(view))
            elif view_epoch > self._client.view.epoch:
                self._client.want_view()
            self._deliver(replies)
        except PeerGoneError:
            self._client.dropped_casts += casts
            self._client.lost(self)
            return
        except (PeerTroubleError, asyncio.CancelledError):
            self._client.dropped_casts += casts
            self._reset()
            return
        except JidoError as error:
            self._client.broken(self, error)
            return
        except (ValueError, TypeError, LookupError) as error:
            message = f"host {self.host} sent a malformed answer: {error}"
            self._client.broken(self, WireError(message))
            return
        # Also with an empty queue: unanswered calls need a frame for their replies to come in.
        wants_frame = self._queue or (self._unanswered and self._in_flight == 0)
        if wants_frame and not self._scheduled and not self.is_gone:
            self._scheduled = True
            self._loop.call_soon(self._flush)

    def _deliver(self, replies: list[list[Any]]) -> None:
        calls = self._client.calls
        for number, status, body, meta in replies:
            call = calls.get(number)
            if call is None or call.link is not self:
                continue
            if status == DONE:
                del calls[number]
                if not call.done():
                    call.set_result(body if meta is None else (body, meta))
            elif status == ITEM:
                self._client.inflows[number].add(body)
            elif status == FAILED:
                self._client.fail(call, decode_error(body))
            elif status == LAST:
                self._client.inflows[number].end()
            elif status == REDIRECT:
                self._client.redirect(call)
            else:
                message = f"host {self.host} sent a reply of unknown status {status!r}"
                self._client.fail(call, WireError(message))

    def _reset(self) -> None:
        """Open the next epoch and send what is unanswered again, after a pause."""
        self.epoch += 1
        self._sequence = 0
        self._in_flight = 0
        self._held = 0
        self._scheduled = True
        self._client.interrupt_streams(self)
        again = self._client.unanswered(self)
        for call in again:
            call.is_doubtful = True
        self._queue.extendleft(reversed(again))
        self._client.want_view()
        self._loop.call_later(RETRY_DELAY, self._flush)
