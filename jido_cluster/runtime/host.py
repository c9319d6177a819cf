"""The shard host: takes frames, runs turns one at a time for each agent, answers.

An agent lives at the leader of its shard. A turn begins with the committed record, which the core
gives out, and ends when the new one is on a quorum (`committing.py`); the mailbox, the object in
memory and the order of turns are kept here.

Theory. Messages of all frames go through one inbox. A lane (a task) takes them in order and runs
each turn by plain awaiting, so that a handler which never suspends costs no task of its own. When
a handler suspends, the lane stays with it, and the pump, which runs right after the lane gave way,
opens another lane for the rest of the inbox. So slow handlers hold back nobody.

The fast path, a call to an agent that is here and idle, is `_turn`; the rest of the class decides
what else a message may meet: a busy agent, one that is not here, a shard on its way.
"""

import asyncio
import logging
from collections import deque
from typing import Any, Final

from jido_cluster.config import MAX_DATA, ClusterConfig
from jido_cluster.errors import (
    CallCycleError,
    DeadlineExceededError,
    InternalError,
    InvalidInputError,
    JidoError,
    OverloadedError,
    WireError,
)
from jido_cluster.ports import PeerTroubleError, Scheduler, Transport, WallClock, Workers
from jido_cluster.runtime.alarms import Alarms
from jido_cluster.runtime.asked import Committing
from jido_cluster.runtime.cell import Cell, Inlet, Message
from jido_cluster.runtime.client import Client
from jido_cluster.runtime.committing import Turns
from jido_cluster.runtime.lifecycle import Lifecycle
from jido_cluster.runtime.operations import Operations
from jido_cluster.runtime.outbox import Outboxes
from jido_cluster.runtime.own_turns import OwnTurns
from jido_cluster.runtime.replicas import Replicas
from jido_cluster.runtime.runs import Runs
from jido_cluster.runtime.seen import Seen
from jido_cluster.runtime.streaming import Streaming
from jido_cluster.runtime.view import View, shard_of, shard_of_run
from jido_cluster.runtime.wire import (
    CALL,
    CAST,
    CHAIN,
    EVENT,
    OPERATION,
    SESSION,
    STREAM,
    VERSION,
    pack,
    remember_original,
    unpack_frame,
)
from jido_cluster.signals.handler import Declaration
from jido_state.chores import DeadLetter, Deliver
from jido_state.requests import RunMerge, RunTurn

logger = logging.getLogger(__name__)

GAP_SECONDS: Final = 1.0  # how long a frame waits for the one before it, until the link resets
# How long a client that takes a stream may be silent; while it lives, a frame comes every 20 s.
SILENT_SECONDS: Final = 60.0
INLET_SECONDS: Final = 900.0  # how long a silent client's link state is kept
MAX_SILENT: Final = 100_000  # clients whose place in the sequence is kept; some 20 MB
FrameEnd = tuple[Inlet, "asyncio.Future[None]"]


class ShardHost:
    """One process's share of the shards of a node; bound to the loop that made it.

    Args:
        address: Where frames for this host are sent.
        node: Id of the node, as in the view.
        binding: What `ctx.cluster` gives handlers; set once by the driver.
    """

    def __init__(
        self,
        address: str,
        node: str,
        view: View,
        *,
        config: ClusterConfig,
        transport: Transport,
        scheduler: Scheduler,
        workers: Workers,
        wall: WallClock,
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.address = address
        self.node = node
        self.config = config
        self.workers = workers
        self.wall = wall
        self.cells: dict[str, Cell] = {}
        self.client = Client(transport, view)
        self.client.on_view = self._take_view
        self.binding: Any = None
        self.replicas: Replicas  # set before `start`
        self.turns = Turns(self)
        self.own_turns = OwnTurns(self)
        self.outboxes = Outboxes(self)
        self.alarms = Alarms(self)
        self.lifecycle = Lifecycle(self)
        self.runs = Runs(self, scheduler)
        self.streaming = Streaming(self)
        self.operations = Operations(self)
        self.apart: set[int] = set()  # shards that this host has stood in for
        self._inlets: dict[str, Inlet] = {}
        self._silent: dict[str, tuple[int, int]] = {}
        self._inbox: deque[Message | FrameEnd] = deque()
        self._lane = 0
        self._is_pumping = False
        self._tasks: set[asyncio.Task[Any]] = set()
        self.is_closed = False

    @property
    def view(self) -> View:
        """The newest view this host has heard of."""
        return self.client.view

    @property
    def node_name(self) -> str:
        """Name of the node, for people; its id until it is in the view."""
        member = self.view.by_id(self.node)
        return member.name if member is not None else self.node

    async def start(self) -> None:
        """Take part with the replicas that are here, and begin to follow views."""
        self.replicas.start()
        self.spawn_task(self.lifecycle.keep_tidy())
        await self.client.start()

    async def close(self) -> None:
        """Stop everything at once, as a crash would; nothing is handed over."""
        self.is_closed = True
        self.replicas.close()
        await self.client.close()
        for inlet in self._inlets.values():
            inlet.release()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for cell in self.cells.values():
            if cell.worker is not None:
                cell.worker.close()

    def spawn_task(self, work: Any) -> "asyncio.Task[Any]":
        """Run a coroutine in the background for as long as the host lives."""
        task = self.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._task_ended)
        return task

    def _task_ended(self, task: "asyncio.Task[Any]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("a background task of host %s failed", self.address, exc_info=error)

    def _take_view(self, view: View) -> None:
        self.runs.follow(view)

    # -- frames

    async def frame(self, data: bytes, connection: object) -> bytes:
        """Take a frame of messages; the answer holds every reply that is ready.

        Args:
            data: The frame.
            connection: What it came by; `disconnected` is told when that ends.

        Raises:
            WireError: The frame is malformed.
            PeerTroubleError: A frame before it is missing, or it is from before a reset.
        """
        client, epoch, sequence, ack, entries = unpack_frame(data)
        inlet = self._inlets.get(client)
        if inlet is None:
            inlet = self._inlets[client] = Inlet(client, self.loop)
            inlet.epoch, inlet.expected = self._silent.pop(client, (0, 0))
        if not await inlet.wait_turn(epoch, sequence, GAP_SECONDS):
            message = f"frame {epoch}.{sequence} of {client} is out of order"
            raise PeerTroubleError(message)
        inlet.last_used = now = self.loop.time()
        inlet.connection = connection
        inlet.ack = max(inlet.ack, ack)
        try:
            messages = [Message(inlet, entry, now) for entry in entries]
            # What is sent again while it waits or runs is left out.
            fresh = [m for m in messages if m.number not in inlet.open]
            inlet.open.update(m.number for m in fresh if m.kind != CAST and m.kind != EVENT)
        except (TypeError, ValueError) as error:
            message = f"a frame of {client} holds a malformed message: {error}"
            raise WireError(message) from error
        inbox = self._inbox
        inbox.extend(fresh)
        end: asyncio.Future[None] = self.loop.create_future()
        inbox.append((inlet, end))
        if not self._is_pumping:
            self._is_pumping = True
            self._open_lane()
        await end
        replies = inlet.take_replies(MAX_DATA)
        unanswered = len(inlet.open) + len(inlet.replies)
        return pack((VERSION, int(inlet.is_holding), unanswered, replies))

    def _open_lane(self) -> None:
        self._lane += 1
        self.spawn_task(self._run_lane(self._lane))
        # Runs right after the lane's first step: whatever is in the inbox then, the lane left.
        self.loop.call_soon(self._pump)

    def _pump(self) -> None:
        if self._inbox:
            self._open_lane()
        else:
            self._is_pumping = False

    async def _run_lane(self, number: int) -> None:
        inbox = self._inbox
        while inbox:
            item = inbox.popleft()
            if isinstance(item, tuple):
                inlet, end = item
                inlet.end_frame(end)
                return  # the answer leaves before the pump opens the next lane
            try:
                if item.extra is not None and SESSION in item.extra:
                    item.seen = self.seen(item.extra[SESSION])
                await self._process(item)
            except InvalidInputError as error:
                item.fail(error)
            except Exception as error:
                logger.exception("host %s failed on %r", self.address, item.name)
                item.fail(InternalError(f"{type(error).__name__} in the host; see its log"))
            if self._lane != number or not self._is_pumping:
                return  # it was suspended, and another lane has the inbox

    def put_again(self, messages: "deque[Message] | list[Message]") -> None:
        """Process messages that had to wait, in order."""
        self._inbox.extend(messages)
        if self._inbox and not self._is_pumping:
            self._is_pumping = True
            self._open_lane()

    # -- what a message meets

    async def _process(self, message: Message) -> None:
        inlet = message.inlet
        if inlet.refused and not inlet.may_take(message.key, message.number):
            message.redirect(self.replicas.server(self.shard_of(message)))
        else:
            await self._take(message)

    async def _take(self, message: Message) -> None:
        kind = message.kind
        if kind >= OPERATION:
            if kind == OPERATION:
                await self.operations.perform(message)
                return
            if kind == STREAM:
                message.inlet.begin_stream(message)
        cell = self.cells.get(message.key)
        if cell is None:
            cell = await self.operations.find(message)
            if cell is None:
                return
        if message.extra is not None and CHAIN in message.extra:
            if cell.id in message.extra[CHAIN]:
                await self._called_back(cell, message, message.extra[CHAIN])
                return
            if cell.is_busy and cell.is_crossed(message):
                message.fail(cell.crossed(message))
                return
        is_named = kind == CALL or kind == STREAM  # a tuple would be slower
        if is_named and not cell.is_reserved and not cell.queue:
            reader = cell.spec.find_handler(message.name)
            if reader is not None and reader.read_only:
                # Beside a turn, if there is one; not past messages that came before it.
                await self._read(cell, message, reader)
                return
        if cell.is_busy:
            self.enqueue(cell, message)
            return
        cell.is_busy = is_held = True
        try:
            is_held = await self._turn(cell, message)
        finally:
            if not is_held:
                cell.is_busy = False
        if not is_held and cell.queue:
            await self.serve(cell, None)

    async def serve(self, cell: Cell, message: Message | None) -> None:
        """Run a message's turn, then those that came meanwhile; nobody else may hold the cell.

        Ends early when a turn has to be committed first: `release` goes on then.
        """
        cell.is_busy = True
        is_held = False
        try:
            if message is not None:
                is_held = True
                is_held = await self._turn(cell, message)
            while cell.queue and not is_held:
                following = cell.queue.popleft()
                if following.timer is not None:
                    following.timer.cancel()
                handler = _named(cell, following)
                if handler is not None and handler.read_only:
                    self.spawn_task(self._read(cell, following, handler))
                else:
                    is_held = True
                    is_held = await self._turn(cell, following)
        except BaseException:
            is_held = False
            raise
        finally:
            if not is_held:
                cell.is_busy = False

    def release(self, cell: Cell) -> None:
        """Nobody holds the cell any more: the next message has its turn."""
        cell.is_busy = False
        if cell.queue:
            cell.is_busy = True
            self.spawn_task(self.serve(cell, None))

    def forget(self, cell: Cell) -> None:
        """There is no such agent here any more; what waits for it looks for it again."""
        if self.cells.get(cell.id) is cell:
            del self.cells[cell.id]
        self.lifecycle.drop_object(cell)
        if cell.worker is not None:
            cell.worker.close()
            cell.worker = None
        waiting, cell.queue = list(cell.queue or ()), None
        for message in waiting:
            if message.timer is not None:
                message.timer.cancel()
        self.put_again(waiting)

    def enqueue(self, cell: Cell, message: Message) -> None:
        """Let a message wait for its turn."""
        queue = cell.queue
        if queue is None:
            queue = cell.queue = deque()
        if len(queue) >= cell.spec.max_mailbox:
            text = (
                f"agent {cell.id!r} has {len(queue)} messages waiting, its max_mailbox; send "
                "slower or raise it"
            )
            message.fail(OverloadedError(text, retry_after=0.1, agent=cell.id))
            return
        queue.append(message)
        message.timer = self.loop.call_at(message.deadline, self._expire, cell, message)

    def _expire(self, cell: Cell, message: Message) -> None:
        if cell.queue is not None and message in cell.queue:
            cell.drop_queued(message)
            message.fail(_too_late(message))

    async def _called_back(self, cell: Cell, message: Message, chain: list[str]) -> None:
        """A call from inside this agent's own turn: a read may look, anything else is refused."""
        handler = _named(cell, message)
        if handler is not None and handler.read_only and not cell.is_reserved:
            await self._read(cell, message, handler)
            return
        path = [*chain[chain.index(cell.id) :], cell.id]
        text = (
            f"call cycle {' -> '.join(path)}: {cell.id!r} waits for this call itself; use "
            "ctx.send, or make the handler read_only"
        )
        message.fail(CallCycleError(text, chain=path))

    # -- turns

    async def _turn(self, cell: Cell, message: Message) -> bool:
        """A message's turn; whether the cell is held until what it did is committed."""
        now = self.loop.time()
        if now > message.deadline:
            message.fail(_too_late(message))
            return False
        kind = message.kind
        if kind >= OPERATION:
            other = self.streaming.turn if kind == STREAM else self.operations.perform_in_turn
            await other(cell, message)
            return False
        cell.last_used = now
        return await self.turns.run(cell, message)

    async def _read(self, cell: Cell, message: Message, handler: Declaration) -> None:
        """A read-only handler, beside turns."""
        now = self.loop.time()
        if now > message.deadline:
            message.fail(_too_late(message))
            return
        cell.last_used = now
        if message.kind == STREAM:
            await self.streaming.read(cell, message)
        else:
            await self.turns.read(cell, message, handler)

    def committed(self, committing: Committing) -> None:
        """A turn's commit has ended, however."""
        self.turns.committed(committing)

    def lost(self, committing: Committing) -> None:
        """The shard is led elsewhere, while a turn of it runs here."""
        self.turns.lost(committing)

    # -- what the replicas tell

    def may_hand_over(self, shard: int) -> bool:
        """Whether nothing runs there that the next leader could not take up."""
        return not (self.streaming.runs_in(shard) or self.runs.is_tracked_here(shard))

    def led(self, shard: int) -> None:
        """The shard is led from here now: what was made of what is kept apart goes."""
        if shard in self.apart:
            self.apart.discard(shard)
            self._forget_all(shard)

    def _forget_all(self, shard: int) -> None:
        for cell in [cell for cell in self.cells.values() if cell.shard == shard]:
            self.forget(cell)

    def stopped(self, shard: int, reason: str) -> None:
        """The shard is led here no more: what was made of its records goes."""
        logger.debug("host %s leads shard %d no more: %s", self.address, shard, reason)
        self.runs.drop_shard(shard)
        self.alarms.drop_shard(shard)
        self.outboxes.drop_shard(shard)
        self._forget_all(shard)

    def run_own(self, shard: int, turn: RunTurn) -> None:
        """A timer's turn."""
        self.spawn_task(self.own_turns.run(shard, turn))

    def merge(self, shard: int, merge: RunMerge) -> None:
        """Merge what was done apart."""
        self.spawn_task(self.own_turns.merge(shard, merge))

    def deliver(self, shard: int, effect: Deliver) -> None:
        """Deliver what an agent sends."""
        self.outboxes.deliver(shard, effect)

    def dead_letter(self, shard: int, effect: DeadLetter) -> None:
        """Give up what could not be delivered."""
        self.outboxes.give_up(shard, effect)

    def seen(self, token: str) -> Seen:
        """What a session has seen.

        Raises:
            InvalidInputError: It is no token of this cluster.
        """
        view = self.view
        return Seen.read(token, self.client.session_key, view.cluster_id, view.recovery_no)

    def signed(self, cell: Cell, message: Message, error: JidoError) -> JidoError:
        """The error with the ids of where it happened."""
        for name, value in (
            ("agent", cell.id),
            ("handler", message.name),
            ("node", self.node_name),
        ):
            error.details.setdefault(name, value)
        remember_original(error)
        return error

    def shard_of(self, message: Message) -> int:
        """The shard of what a message is for: an agent, or a run."""
        shards = self.view.shards
        if message.kind == OPERATION and message.name.startswith("run."):
            return shard_of_run(message.key, shards)
        return shard_of(message.key, shards)

    # -- tidying

    def disconnected(self, connection: object) -> None:
        """A connection ended: nobody takes the items of the streams that were asked for by it."""
        for inlet in self._inlets.values():
            if inlet.connection is connection:
                inlet.close_streams()

    def is_working(self) -> bool:
        """True while anything is in flight here: a call, a turn, a run, a move."""
        return (
            bool(self._inbox or self.client.calls or self.runs.active())
            or any(cell.is_busy for cell in self.cells.values())
            or any(inlet.open for inlet in self._inlets.values())
        )

    def forget_silent_clients(self, now: float) -> None:
        """Drop the link state of clients that have sent nothing for long."""
        for client, inlet in list(self._inlets.items()):
            if inlet.outflows and now - inlet.last_used > SILENT_SECONDS:
                inlet.close_streams()
            if not inlet.open and now - inlet.last_used > INLET_SECONDS:
                del self._inlets[client]
                # Where its frames go on, or it would have to reset the link on its next call.
                self._silent[client] = (inlet.epoch, inlet.expected)
        while len(self._silent) > MAX_SILENT:
            del self._silent[next(iter(self._silent))]


def _named(cell: Cell, message: Message) -> Declaration | None:
    """The one handler that a call or a stream names."""
    if message.kind == CALL or message.kind == STREAM:
        return cell.spec.find_handler(message.name)
    return None


def _too_late(message: Message) -> DeadlineExceededError:
    text = f"{message.name!r} to {message.key!r} did not run: its deadline passed while it waited"
    return DeadlineExceededError(text)
