"""A client's link to one host: frames in order, gathered while earlier ones are under way.

Theory. Everything queued while the previous frames are in flight goes in the next one: one call at
a time costs one round trip, and thousands at once share frames. There is no timer: a frame leaves
on the next turn of the loop while fewer than two are in flight. The host may hold one frame back
until it has something to say; that one is not counted. Many calls queued at once leave as two
frames, so that client and host work at the same time.

After a frame whose fate is unknown the link opens the next epoch and sends what is unanswered
again, in order; casts of a doubtful frame are dropped and counted. A host that cannot be reached
twice in a row has to stand back: its calls go to whoever leads, be it the same host again.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from jido_cluster.config import MAX_DATA
from jido_cluster.errors import JidoError, WireError
from jido_cluster.ports import PeerGoneError, PeerTroubleError, Transport
from jido_cluster.runtime.wire import (
    CAST,
    CROWDED,
    DONE,
    DOUBT,
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
    from jido_cluster.runtime.seen import Seen

MAX_IN_FLIGHT: Final = 2  # frames; one being worked on while the next one travels
MIN_SPLIT: Final = 16  # messages; a frame costs as much as some ten of them
RETRY_DELAY: Final = 0.05  # seconds between attempts to reach a host that answers nothing
MAX_TROUBLES: Final = 2  # failed frames in a row before the calls of the host go elsewhere
_ENVELOPE: Final = 96  # bytes of a message beside its body and key, for the size of a frame


class Call(asyncio.Future[Any]):
    """One message on its way, and the future of its answer.

    `seen` hears what the answer shows, when it is a session's. `is_sent` means that a frame with it
    left, so that it may be running at `link`. `is_doubtful` means that it may have run where no
    answer will come from.
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
        "seen",
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
    seen: "Seen | None"
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

    Attributes:
        heard: When the host was last heard of, in seconds of the loop.
        answered_since: Since when all frames have been answered; None until one has.
        is_gone: Whether the host is dead for good, or the client closed.
    """

    __slots__ = (
        "_client",
        "_flying",
        "_held",
        "_in_flight",
        "_loop",
        "_queue",
        "_scheduled",
        "_sequence",
        "_transport",
        "_troubles",
        "_unanswered",
        "answered_since",
        "epoch",
        "heard",
        "host",
        "is_gone",
    )

    def __init__(self, client: "Client", host: str, transport: Transport) -> None:
        self._client = client
        self._loop = client.loop
        self._transport = transport
        self.host = host
        self.epoch = 0
        self.heard = self._loop.time()
        self.answered_since: float | None = None
        self.is_gone = False
        self._troubles = 0
        self._sequence = 0
        self._in_flight = 0
        self._held = 0
        self._unanswered = 0
        self._scheduled = False
        self._queue: deque[Call] = deque()
        self._flying: dict[asyncio.Future[bytes], list[int]] = {}  # numbers of messages, by frame

    @property
    def is_troubled(self) -> bool:
        """Whether the last frames have failed: the next one is likely to, after some seconds."""
        return self._troubles >= MAX_TROUBLES

    def push(self, call: Call) -> None:
        """Queue a call; it leaves with the next frame."""
        call.link = self
        self._queue.append(call)
        if not self._scheduled and self._in_flight < MAX_IN_FLIGHT + self._held:
            self._scheduled = True
            self._loop.call_soon(self._flush)

    def take_unsent(self) -> list[Call]:
        """Remove and return the calls that wait for a frame, in order."""
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
        ack = self._client.ack()  # before the casts of this frame count as answered
        messages = self._gather()
        if not messages and (self._in_flight or not self._unanswered):
            return
        frame = pack((VERSION, self._client.id, self.epoch, self._sequence, ack, messages))
        self._sequence += 1
        self._in_flight += 1
        epoch = self.epoch
        casts = sum(1 for message in messages if message[1] == CAST or message[1] == EVENT)
        answer = self._transport.send(self.host, frame)
        self._flying[answer] = [message[0] for message in messages]
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
        numbers = self._flying.pop(answer)
        if epoch != self.epoch or self.is_gone:
            self._client.dropped_casts += casts
            if not answer.cancelled():
                answer.exception()  # looked at, so that asyncio does not report it as lost
            return
        self._in_flight -= 1
        try:
            self._held, self._unanswered, replies = unpack_answer(answer.result())
            self.heard = self._loop.time()
            self._troubles = 0
            if self.answered_since is None:
                self.answered_since = self.heard
            self._deliver(replies)
        except PeerTroubleError as error:
            self._client.dropped_casts += casts
            if not error.was_sent:
                self._take_back([*numbers, *self._unsent_too()])
            if isinstance(error, PeerGoneError):
                self._client.lost(self)
            else:
                self._reset()
            return
        except asyncio.CancelledError:
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
                rest = meta if call.seen is None or meta is None else call.seen.heard(meta)
                if not call.done():
                    call.set_result(body if rest is None else (body, rest))
            elif status == ITEM:
                self._client.inflows[number].add(body)
            elif status == FAILED:
                self._client.fail(call, decode_error(body))
            elif status == LAST:
                self._client.inflows[number].end()
            elif status in (REDIRECT, DOUBT, CROWDED):
                self._client.refused(call, status, body)
            else:
                message = f"host {self.host} sent a reply of unknown status {status!r}"
                self._client.fail(call, WireError(message))
        if self._client.held:
            self._client.look_soon()

    def _unsent_too(self) -> list[int]:
        """The messages of the other frames that have failed in the same way by now, in order."""
        found: list[int] = []
        for answer, numbers in self._flying.items():
            error = answer.exception() if answer.done() and not answer.cancelled() else None
            if isinstance(error, PeerTroubleError) and not error.was_sent:
                found += numbers
        return found

    def _take_back(self, numbers: Sequence[int]) -> None:
        """The messages of a frame have not left: their calls wait for another one."""
        calls = [call for number in numbers if (call := self._client.calls.get(number)) is not None]
        mine = [call for call in calls if call.link is self and not call.done()]
        for call in mine:
            call.is_sent = False
        self._queue.extendleft(reversed(mine))

    def _reset(self) -> None:
        """Open the next epoch and send what is unanswered again, after a pause."""
        self.epoch += 1
        self._sequence = 0
        self._in_flight = 0
        self._held = 0
        self._unanswered = 0
        self._troubles += 1
        self.answered_since = None
        self._scheduled = True
        self._loop.call_later(RETRY_DELAY, self._flush)
        if self._troubles >= MAX_TROUBLES:
            self._client.unreachable(self)
            return
        self._client.interrupt_streams(self)
        again = {call.number: call for call in self._client.unanswered(self)}
        for call in again.values():
            call.is_doubtful = True
        waiting = [call for call in self._queue if call.number not in again]
        self._queue = deque([*again.values(), *waiting])
