"""What a host keeps: one `Cell` for each agent, one `Inlet` for each client that sends to it."""

import asyncio
import zlib
from collections import deque
from functools import partial
from math import isfinite
from typing import TYPE_CHECKING, Any, Final

from jido_cluster.errors import CallCycleError, JidoError
from jido_cluster.runtime.flow import Outflow
from jido_cluster.runtime.seen import Seen
from jido_cluster.runtime.wire import (
    ACK,
    AGE,
    CAST,
    CHAIN,
    CROWDED,
    DONE,
    DOUBT,
    EVENT,
    FAILED,
    ITEM,
    OP_ID,
    REDIRECT,
    STREAM,
    encode_error,
    pack_lead,
)
from jido_state.operations import OpId
from jido_state.record import Record
from jido_state.session import MAX_TOKEN_BYTES
from jido_state.versions import NO_VERSION, Version

if TYPE_CHECKING:
    from jido_cluster.agent import Agent, AgentSpec
    from jido_cluster.ports import WorkerLink
    from jido_cluster.runtime.turn import TurnContext
    from jido_cluster.runtime.view import Lead, StandIn

MAX_REMEMBERED: Final = 1024  # results kept for each agent, so that retries do not run again
MAX_REMEMBERED_BYTES: Final = 4 << 20
REMEMBER_SECONDS: Final = 600.0
# A held frame is answered empty after this, so that both ends know the other is there.
HOLD_SECONDS: Final = 20.0
REFUSED_SECONDS: Final = 1.0  # a client sends again what was not taken, or gives it up


# Bytes of a reply beside its body, at the most: number, status, and where it comes from.
_REPLY: Final = 32
_REPLY_META: Final = 512 + MAX_TOKEN_BYTES


class Message:
    """One message as a host handles it.

    `deadline` is in seconds of the host's loop.
    """

    __slots__ = (
        "body",
        "deadline",
        "extra",
        "inlet",
        "key",
        "kind",
        "name",
        "number",
        "seen",
        "timer",
    )

    def __init__(self, inlet: "Inlet", entry: list[Any], now: float) -> None:
        self.inlet = inlet
        self.number, self.kind, self.key, self.name, self.body, left, self.extra = entry
        if (
            type(self.number) is not int
            or type(self.key) is not str
            or type(self.name) is not str
            or type(self.body) is not bytes
            or not (self.extra is None or type(self.extra) is dict)
            or not isfinite(left)
        ):
            # The core would fail on them in the middle of a step, and its shard stay as it is then.
            text = f"its fields are of wrong types: {entry[:4]!r}"
            raise TypeError(text)
        self.deadline = now + left / 1000
        self.timer: asyncio.TimerHandle | None = None
        self.seen: Seen | None = None  # by its session, if it has one

    @property
    def op(self) -> OpId:
        """Name of the operation, given by the user or made of client and number."""
        extra = self.extra
        if extra is not None and OP_ID in extra:
            return OpId.named(extra[OP_ID])
        return OpId(self.inlet.client, self.number)

    @property
    def op_id(self) -> str:
        """The operation's name as text."""
        extra = self.extra
        return (extra and extra.get(OP_ID)) or f"op.{self.inlet.client}.{self.number}"

    @property
    def fingerprint(self) -> int:
        """Tells apart two uses of one operation id; collisions are one in four billion."""
        return zlib.crc32(self.body, zlib.crc32(self.name.encode()))

    def reply(self, body: bytes, meta: Any = None) -> None:
        """Answer with a result."""
        if self.kind != CAST and self.kind != EVENT:
            if self.seen is not None:
                meta = (meta, self.seen.text)
            self.inlet.reply((self.number, DONE, body, meta))

    def fail(self, error: JidoError) -> None:
        """Answer with an error."""
        if self.kind == STREAM:
            self.inlet.end_stream(self.number)
        if self.kind != CAST and self.kind != EVENT:
            self.inlet.reply((self.number, FAILED, encode_error(error), None))

    def redirect(self, lead: "Lead | StandIn | None") -> None:
        """Answer that the key is served elsewhere, where known; nothing has run."""
        self._pass_on(REDIRECT, lead)

    def doubt(self, lead: "Lead | StandIn | None") -> None:
        """Answer that it may take effect: whoever leads next knows."""
        self._pass_on(DOUBT, lead)

    def crowd(self) -> None:
        """Answer that nothing has run: the client is to say first which results it has."""
        self._pass_on(CROWDED, None)

    def _pass_on(self, status: int, lead: "Lead | StandIn | None") -> None:
        if self.kind == STREAM:
            self.inlet.end_stream(self.number)
        if self.kind != CAST and self.kind != EVENT:
            self.inlet.refuse(self.key, self.number)
            self.inlet.reply((self.number, status, pack_lead(lead), None))

    @property
    def ack(self) -> int:
        """Below which all operations of the op id's caller are answered; 0 when nobody says."""
        extra = self.extra
        if extra is None:
            return self.inlet.ack
        if OP_ID in extra:
            return 0  # counted by somebody else
        acked: int = extra.get(ACK, 0)
        return max(self.inlet.ack, acked)


class Cell:
    """One agent at the leader of its shard: live object, mailbox, and what was last committed.

    Invariants: `is_busy` while a turn, an activation or a commit holds the agent, and only then may
    `queue` be non-empty; `live`, when set, equals `state`.

    Attributes:
        record: The committed record that `state` is of.
        is_volatile: Whether its turns are not replicated: `state` then is newer than `record`.
    """

    __slots__ = (
        "id",
        "is_busy",
        "is_new",
        "is_reserved",
        "is_volatile",
        "last_now",
        "last_used",
        "live",
        "memory_turns",
        "queue",
        "record",
        "remembered",
        "remembered_bytes",
        "seq",
        "shard",
        "spec",
        "state",
        "turn",
        "worker",
        "worker_seq",
    )

    def __init__(self, id_: str, spec: "AgentSpec", shard: int) -> None:
        self.id = id_
        self.spec = spec
        self.shard = shard
        self.record: Record | None = None
        self.state = b""
        self.seq = 0
        self.memory_turns = 0  # not in the record
        self.is_volatile = spec.durability == "none"
        self.live: Agent | None = None
        self.turn: TurnContext | None = None  # the latest; whether it still runs it says itself
        self.worker: WorkerLink | None = None
        self.worker_seq = -1  # version of the state that the worker has
        self.is_busy = False
        self.is_new = True
        # A reserved cell holds the id while the agent is made; it has no state.
        self.is_reserved = False
        self.queue: deque[Message] | None = None
        self.remembered: dict[str, tuple[int, bytes, float]] | None = None
        self.remembered_bytes = 0
        self.last_used = 0.0
        self.last_now = 0.0

    @property
    def version(self) -> Version:
        """Of the last commit; that of one that is not replicated counts on under its ballot."""
        record = self.record
        if record is None:
            return NO_VERSION
        return record.version.ballot.version(self.seq) if self.is_volatile else record.version

    @property
    def turns(self) -> int:
        """How many turns have been committed since the agent was made."""
        record = self.record
        made = 0 if record is None else max(record.turns - 1, 0)
        return made + self.memory_turns

    def goes_by(self, record: Record) -> bool:
        """Whether state and object are those of this record.

        Of turns without a quorum, which all begin from one version, the stamps' dots tell.
        """
        mine = self.record
        return mine is record or (
            mine is not None
            and mine.version == record.version
            and mine.stamp.dot == record.stamp.dot
        )

    def take(self, record: Record) -> None:
        """This record is committed: what was made from another one is over.

        Raises:
            NotRegisteredError: It was written by newer code.
            InvalidOutputError: It was written by older code, and could not be upgraded.
        """
        if not self.goes_by(record):
            state = self.spec.current_state(record.state, record.schema)
            self.record = record
            self.state = state
            self.seq = record.version.number

    def is_crossed(self, message: Message) -> bool:
        """True for a younger call that waits for a turn here which waits for one of its callers.

        Neither would end before its deadline. Of two such calls exactly one is younger, and it is
        refused wherever it is noticed: when it comes, or when the turn here begins to wait
        (wait-die, Rosenkrantz, Stearns and Lewis 1978, kept to calls that are known to cross).
        """
        turn, extra = self.turn, message.extra
        if turn is None or not turn.is_running or not extra or AGE not in extra:
            return False
        began, op_id = extra[AGE]
        return turn.age < (began, op_id) and any(turn.awaits(id_) for id_ in extra[CHAIN])

    def refuse_crossed(self, turn: "TurnContext") -> None:
        """The turn has begun to wait: refuse queued calls that cross it."""
        for message in [m for m in self.queue or () if self.turn is turn and self.is_crossed(m)]:
            self.drop_queued(message)
            message.fail(self.crossed(message))

    def drop_queued(self, message: Message) -> None:
        """Take a message out of the mailbox."""
        assert self.queue is not None
        self.queue.remove(message)
        if message.timer is not None:
            message.timer.cancel()

    def crossed(self, message: Message) -> CallCycleError:
        """What a call that `is_crossed` gets."""
        chain = [*(message.extra or {})[CHAIN], self.id]
        text = (
            f"crossed calls: {' -> '.join(chain)}, while {self.id!r} waits for a call the other "
            "way; the younger one ends; use ctx.send for one of them"
        )
        return CallCycleError(text, chain=chain)

    def remember(self, op_id: str, fingerprint: int, result: bytes, now: float) -> None:
        """Keep a result, so that the operation does not run twice."""
        remembered = self.remembered
        if remembered is None:
            remembered = self.remembered = {}
        self.remembered_bytes += len(result)
        if len(remembered) < MAX_REMEMBERED and self.remembered_bytes <= MAX_REMEMBERED_BYTES:
            remembered[op_id] = (fingerprint, result, now)
            return
        while remembered and (
            len(remembered) >= MAX_REMEMBERED or self.remembered_bytes > MAX_REMEMBERED_BYTES
        ):
            self.remembered_bytes -= len(remembered.pop(next(iter(remembered)))[1])
        remembered[op_id] = (fingerprint, result, now)

    def forget_old(self, now: float) -> None:
        """Drop results older than 600 s; they are in order of age."""
        remembered = self.remembered
        if remembered is None:
            return
        while remembered:
            first = next(iter(remembered))
            if now - remembered[first][2] < REMEMBER_SECONDS:
                return
            self.remembered_bytes -= len(remembered.pop(first)[1])
        self.remembered = None


class Inlet:
    """A host's end of one client's link: restores the order of frames, gathers replies.

    A frame is answered as soon as its messages have been started, with every reply that is ready.
    When there is none, one frame is held until there is one.
    """

    __slots__ = (
        "_held",
        "_hold_timer",
        "_loop",
        "_scheduled",
        "_stash",
        "ack",
        "client",
        "connection",
        "epoch",
        "expected",
        "last_used",
        "open",
        "outflows",
        "refused",
        "replies",
    )

    def __init__(self, client: str, loop: asyncio.AbstractEventLoop) -> None:
        self.client = client
        self.ack = 0  # all operations of the client below this number are answered
        self.epoch = 0
        self.expected = 0
        self.open: set[int] = set()
        # By key the first number that was sent elsewhere, and when.
        self.refused: dict[str, tuple[int, float]] = {}
        self.outflows: dict[int, Outflow] = {}  # of the streams among the open ones
        self.connection: object = None  # what the latest frame came by
        self.replies: list[tuple[Any, ...]] = []
        self.last_used = loop.time()
        self._loop = loop
        self._held: asyncio.Future[None] | None = None
        self._hold_timer: asyncio.TimerHandle | None = None
        self._scheduled = False
        self._stash: dict[int, asyncio.Future[None]] = {}

    @property
    def is_holding(self) -> bool:
        """True while a frame waits here for something to say."""
        return self._held is not None

    def reply(self, reply: tuple[Any, ...]) -> None:
        """Queue a reply; it leaves with the next answer."""
        self.open.discard(reply[0])
        self.replies.append(reply)
        if self._held is not None and not self._scheduled:
            # On the next turn of the loop, so that replies made together leave together.
            self._scheduled = True
            self._loop.call_soon(self.release)

    def refuse(self, key: str, number: int) -> None:
        """This message was not taken: later ones of the key are not either, until it comes again.

        Else a host that comes to lead between two frames would run them out of order. It may have
        been given up, so later ones do not wait for it for long.
        """
        known = self.refused.get(key)
        if known is None or number < known[0]:
            self.refused[key] = (number, self._loop.time())

    def may_take(self, key: str, number: int) -> bool:
        """Whether nothing that came before this message is still to come again."""
        known = self.refused.get(key)
        if known is None or number < known[0]:
            return True
        first, since = known
        if first == number or first < self.ack or self._loop.time() - since > REFUSED_SECONDS:
            del self.refused[key]
            return True
        return False

    def begin_stream(self, message: Message) -> None:
        """From now on the stream can be closed, also while it waits for its turn."""
        number = message.number
        if number not in self.outflows:
            self.outflows[number] = Outflow(partial(self.pass_on, number, ITEM), message.deadline)

    def pass_on(self, number: int, status: int, body: bytes) -> None:
        """Queue a part of a stream."""
        self.reply((number, status, body, None))
        self.open.add(number)  # this was not its reply

    def end_stream(self, number: int) -> None:
        """Forget a stream that is about to be answered."""
        self.outflows.pop(number, None)

    def forget_items(self, number: int) -> None:
        """Drop the parts of a stream that have not left; nobody wants them any more."""
        self.replies = [reply for reply in self.replies if reply[0] != number]

    def close_streams(self) -> None:
        """The client cannot be reached: its streams are cancelled."""
        for outflow in list(self.outflows.values()):
            outflow.close()

    def release(self) -> None:
        """Let the held frame, if any, be answered."""
        self._scheduled = False
        held, self._held = self._held, None
        if self._hold_timer is not None:
            self._hold_timer.cancel()
            self._hold_timer = None
        if held is not None and not held.done():
            held.set_result(None)

    def end_frame(self, frame: "asyncio.Future[None]") -> None:
        """All messages of a frame have been started: answer it, or hold it."""
        if self.replies or not self.open or self._held is not None:
            if not frame.done():
                frame.set_result(None)
        else:
            self._held = frame
            self._hold_timer = self._loop.call_later(HOLD_SECONDS, self.release)

    def take_replies(self, limit: int) -> list[tuple[Any, ...]]:
        """Remove and return replies of together about `limit` bytes, in order."""
        replies = self.replies
        size = 0
        for index, reply in enumerate(replies):
            size += len(reply[2]) + (_REPLY_META if reply[3] is not None else _REPLY)
            if size > limit and index:
                self.replies = replies[index:]
                return replies[:index]
        self.replies = []
        return replies

    async def wait_turn(self, epoch: int, sequence: int, patience: float) -> bool:
        """Wait until all earlier frames of the epoch are in; False if they do not come.

        A newer epoch makes this one's frames void.
        """
        if epoch < self.epoch:
            return False
        if epoch > self.epoch:
            self.epoch = epoch
            self.expected = 0
            self.release()
            self.close_streams()
            stash, self._stash = self._stash, {}
            for waiting in stash.values():
                waiting.cancel()
        if sequence != self.expected:
            if sequence < self.expected:
                return False
            turn = self._stash[sequence] = self._loop.create_future()
            try:
                await asyncio.wait_for(turn, patience)
            except (TimeoutError, asyncio.CancelledError):
                self._stash.pop(sequence, None)
                return False
            if epoch != self.epoch:  # reset between its release and this moment
                return False
        self.expected += 1
        following = self._stash.pop(self.expected, None)
        if following is not None and not following.done():
            following.set_result(None)
        return True
