"""The shard host: takes frames, runs turns one at a time for each agent, answers.

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
from collections.abc import Sequence
from typing import Any, Final

from jido_cluster.config import MAX_DATA, ClusterConfig
from jido_cluster.errors import (
    CallCycleError,
    DeadlineExceededError,
    InternalError,
    InvalidInputError,
    JidoError,
    OverloadedError,
    RejectedError,
    WireError,
)
from jido_cluster.ports import PeerTroubleError, Scheduler, Transport, WallClock, Workers
from jido_cluster.runtime.cell import Cell, Inlet, Message
from jido_cluster.runtime.client import Client
from jido_cluster.runtime.dedicated import turn_in_worker
from jido_cluster.runtime.lifecycle import Lifecycle
from jido_cluster.runtime.operations import Operations
from jido_cluster.runtime.outbox import deliver
from jido_cluster.runtime.roster import RosterWriter
from jido_cluster.runtime.runs import Runs
from jido_cluster.runtime.shards import Shards
from jido_cluster.runtime.streaming import Streaming
from jido_cluster.runtime.turn import (
    Effect,
    TurnContext,
    commit_state,
    deliver_params,
    run_call,
    run_signal,
)
from jido_cluster.runtime.view import View
from jido_cluster.runtime.wire import (
    CALL,
    CAST,
    CHAIN,
    DONE,
    EVENT,
    META,
    OPERATION,
    SIGNAL,
    STREAM,
    VERSION,
    pack,
    remember_original,
    unpack_frame,
)
from jido_cluster.signals.handler import Declaration, is_stream
from jido_cluster.signals.signal import from_wire

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
        self.roster = RosterWriter(transport, lambda: self.view)
        self.lifecycle = Lifecycle(self)
        self.runs = Runs(self, scheduler)
        self.shards = Shards(self)
        self.streaming = Streaming(self)
        self.operations = Operations(self)
        self._inlets: dict[str, Inlet] = {}
        self._silent: dict[str, tuple[int, int]] = {}
        self._inbox: deque[Message | FrameEnd] = deque()
        self._lane = 0
        self._is_pumping = False
        self._tasks: set[asyncio.Task[Any]] = set()
        self.is_closed = False
        self.turns = 0

    @property
    def view(self) -> View:
        """The newest view this host has heard of."""
        return self.client.view

    @property
    def node_name(self) -> str:
        """Name of the node, for people; its id until it is in the view."""
        member = self.view.member(self.node)
        return member.name if member is not None else self.node

    async def start(self) -> None:
        """Take the shards the view gives this host, and begin to follow views."""
        self.shards.follow(self.view)
        self.spawn_task(self.lifecycle.keep_tidy())
        await self.client.start()

    async def close(self) -> None:
        """Stop everything at once, as a crash would; nothing is handed over."""
        self.is_closed = True
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
        self.shards.follow(view)

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
        client, epoch, sequence, view_epoch, entries = unpack_frame(data)
        inlet = self._inlets.get(client)
        if inlet is None:
            inlet = self._inlets[client] = Inlet(client, self.loop)
            inlet.epoch, inlet.expected = self._silent.pop(client, (0, 0))
        if not await inlet.wait_turn(epoch, sequence, GAP_SECONDS):
            message = f"frame {epoch}.{sequence} of {client} is out of order"
            raise PeerTroubleError(message)
        inlet.last_used = now = self.loop.time()
        inlet.connection = connection
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
        if view_epoch > self.view.epoch:
            self.client.want_view()
        end: asyncio.Future[None] = self.loop.create_future()
        inbox.append((inlet, end))
        if not self._is_pumping:
            self._is_pumping = True
            self._open_lane()
        await end
        replies = inlet.take_replies(MAX_DATA)
        view = self.view
        news = view.to_data() if view_epoch < view.epoch else None
        unanswered = len(inlet.open) + len(inlet.replies)
        return pack((VERSION, view.epoch, int(inlet.is_holding), unanswered, replies, news))

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
                await self._process(item)
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
        kind = message.kind
        if kind >= OPERATION:
            if kind == OPERATION:
                await self.operations.perform(message)
                return
            if kind == STREAM:
                message.inlet.begin_stream(message)
        cell = self.cells.get(message.key)
        if cell is None:
            cell = await self.operations.absent(message)
            if cell is not None:  # a virtual agent, made by this very message
                await self.serve(cell, message)
            return
        if message.extra is not None and CHAIN in message.extra:
            chain = message.extra[CHAIN]
            if cell.id in chain:
                await self._called_back(cell, message, chain)
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
        cell.is_busy = True
        try:
            await self._turn(cell, message)
        finally:
            cell.is_busy = False
        if cell.queue:
            await self.serve(cell, None)
        elif self.shards.leaving.sealed:
            self.shards.leaving.settled(cell)

    async def serve(self, cell: Cell, message: Message | None) -> None:
        """Run a message's turn, then those that came meanwhile; nobody else may hold the cell."""
        cell.is_busy = True
        try:
            if message is not None:
                await self._turn(cell, message)
            while cell.queue:
                following = cell.queue.popleft()
                if following.timer is not None:
                    following.timer.cancel()
                handler = _named(cell, following)
                if handler is not None and handler.read_only:
                    self.spawn_task(self._read(cell, following, handler))
                else:
                    await self._turn(cell, following)
        finally:
            cell.is_busy = False
        self.shards.leaving.settled(cell)

    def enqueue(self, cell: Cell, message: Message) -> None:
        """Let a message wait for its turn."""
        if self.shards.get(cell.shard) is None:  # the agent is leaving; its turn here is the last
            message.redirect()
            return
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

    async def _turn(self, cell: Cell, message: Message) -> None:
        now = self.loop.time()
        if now > message.deadline:
            message.fail(_too_late(message))
            return
        kind = message.kind
        if kind >= OPERATION:
            other = self.streaming.turn if kind == STREAM else self.operations.perform_in_turn
            await other(cell, message)
            return
        spec = cell.spec
        op_id = message.op_id
        cell.last_used = now
        remembered = cell.remembered
        if remembered is not None and op_id in remembered:
            self._answer_again(cell, message, op_id)
            return
        try:
            if kind == SIGNAL or kind == EVENT:  # noqa: SIM109 - a tuple would be slower
                result, state, effects = await self._signal_turn(cell, message, op_id)
            else:
                handler = spec.handler_for(message.name)
                params = handler.work.load_params(message.body)
                context = self.context(cell, message, op_id)
                cell.turn, context.cell = context, cell
                if spec.isolation == "dedicated":
                    result, state, effects = await turn_in_worker(self, cell, message, context)
                else:
                    agent = cell.live
                    if agent is None:
                        agent = await self.lifecycle.activate(cell, message.deadline)
                    context.agent = agent
                    result = await run_call(handler, agent, params, context)
                    state = commit_state(spec, agent, cell.state)
                    effects = context.take_effects()
        except JidoError as error:
            if not isinstance(error, RejectedError):
                self.lifecycle.drop_object(cell)
            message.fail(self.signed(cell, message, error))
            return
        except asyncio.CancelledError:
            self.lifecycle.drop_object(cell)
            raise
        cell.state = state
        cell.seq += 1
        self.turns += 1
        cell.remember(op_id, message.fingerprint, result, now)
        if effects:
            await deliver(self, cell, effects, op_id)
        if message.extra is None and kind == CALL:
            message.inlet.reply((message.number, DONE, result, None))
        else:
            self._reply(cell, message, result)

    async def _signal_turn(
        self, cell: Cell, message: Message, op_id: str
    ) -> tuple[bytes, bytes, Sequence[Effect]]:
        """All handlers that match a delivered signal, in order, as one turn."""
        signal = from_wire(message.body)
        found = cell.spec.handlers_for(signal.type)
        matches = [(handler, deliver_params(handler, signal)) for handler in found]
        context = self.context(cell, message, op_id)
        cell.turn, context.cell = context, cell
        context.attach_signal(signal)
        if cell.spec.isolation == "dedicated":
            return await turn_in_worker(self, cell, message, context)
        agent = cell.live or await self.lifecycle.activate(cell, message.deadline)
        context.agent = agent
        await run_signal(matches, agent, context)
        return b"null", commit_state(cell.spec, agent, cell.state), context.take_effects()

    async def _read(self, cell: Cell, message: Message, handler: Declaration) -> None:
        """A read-only handler on a copy of the committed state; touches nothing of the cell."""
        now = self.loop.time()
        if now > message.deadline:
            message.fail(_too_late(message))
            return
        cell.last_used = now
        if message.kind == STREAM:
            await self.streaming.read(cell, message)
            return
        context = self.context(cell, message, message.op_id, read_only=True)
        try:
            if handler.is_stream:
                raise is_stream(handler)
            params = handler.work.load_params(message.body)
            if cell.spec.isolation == "dedicated" and not cell.is_busy:
                result = await self._read_in_worker(cell, message, context)
            else:
                context.agent = agent = cell.spec.load(cell.state)
                result = await run_call(handler, agent, params, context)
        except JidoError as error:
            # The live object, perhaps in the middle of a turn, is left alone.
            message.fail(self.signed(cell, message, error))
            return
        self._reply(cell, message, result)

    async def _read_in_worker(self, cell: Cell, message: Message, context: TurnContext) -> bytes:
        """A read in a dedicated agent's own process; it answers one request at a time."""
        cell.is_busy = True
        try:
            result, _, _ = await turn_in_worker(self, cell, message, context)
        finally:
            cell.is_busy = False
            if cell.queue:
                self.spawn_task(self.serve(cell, None))
        return result

    def context(
        self, cell: Cell, message: Message, op_id: str, *, read_only: bool = False
    ) -> TurnContext:
        """The context of a turn that is about to run."""
        now = self.wall()
        if now < cell.last_now:  # the clock was set back, or the agent came from a faster one
            now = cell.last_now
        cell.last_now = now
        return TurnContext(
            cell.id,
            message.name,
            op_id,
            message.body,
            message.extra,
            message.deadline,
            (cell.since, 0, self.node, cell.seq + 1),
            now,
            cell.is_new,
            cell.shard,
            self.loop.time,
            self.binding,
            read_only=read_only,
        )

    def _reply(self, cell: Cell, message: Message, result: bytes) -> None:
        if message.extra is not None and META in message.extra:
            message.reply(result, [*self.fence(cell), self.node, "memory"])
        else:
            message.reply(result)

    def fence(self, cell: Cell) -> tuple[int, int, str, int]:
        """The fence of the cell's last commit."""
        return (cell.since, 0, self.node, cell.seq)

    def _answer_again(self, cell: Cell, message: Message, op_id: str) -> None:
        """A retry of what has been done: the same answer, or a refusal when it is another call."""
        fingerprint, result, _ = (cell.remembered or {})[op_id]
        if fingerprint == message.fingerprint:
            self._reply(cell, message, result)
            return
        text = (
            f"op_id {op_id!r} was used for agent {cell.id!r} with other parameters; use a new "
            "one for another operation"
        )
        message.fail(InvalidInputError(text, op_id=op_id))

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
            or self.shards.is_moving()
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
