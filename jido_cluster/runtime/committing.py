"""Turns of agents, from the committed record they begin with to the one they commit.

Theory. The core gives out a turn with the committed record; the handler runs on the object made of
it; what it wants is handed back and committed as one value: state, result, outbox, timers. The
caller is answered when a quorum holds it, and the agent's next turn begins then. Nobody waits for
that in a task of his own: the core's answer calls `Turns.committed`.

While nobody leads, the core gives out turns of types that go on without a quorum (`RunTurn.
is_partitioned`), and keeps what they commit apart: without a fence, and only until it is merged.

Agents with `durability="none"` have a record that only says that they live; their turns commit in
memory, here. A record without state, written by an earlier leader, is one whose agent is lost.
"""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from jido_cluster.agent import AgentSpec
from jido_cluster.errors import (
    ExecutionError,
    InvalidInputError,
    JidoError,
    OutcomeUnknownError,
    RejectedError,
)
from jido_cluster.runtime.asked import Asked, Committing, pass_on, refuse
from jido_cluster.runtime.cell import Cell, Message
from jido_cluster.runtime.dedicated import turn_in_worker
from jido_cluster.runtime.outbox import entries_of, without_run
from jido_cluster.runtime.partitions import note_acted
from jido_cluster.runtime.schedules import with_timers
from jido_cluster.runtime.turn import (
    Effect,
    TurnContext,
    commit_state,
    deliver_params,
    run_call,
    run_signal,
)
from jido_cluster.runtime.wire import (
    CALL,
    CALLER,
    CAST,
    DONE,
    EVENT,
    FENCE,
    META,
    RUN,
    SENT,
    SIGNAL,
)
from jido_cluster.signals.handler import Declaration, is_stream
from jido_cluster.signals.signal import Signal, from_wire
from jido_placement.policies import Strategy
from jido_state.operations import CallerFence, OpId
from jido_state.outbox import Outbox, Outgoing
from jido_state.record import Record
from jido_state.requests import Answer, Arrival, Commit, Request, RunTurn, Status

if TYPE_CHECKING:
    from jido_cluster.runtime.host import ShardHost

logger = logging.getLogger(__name__)

# What a handler came to: its result, the agent's new state, and the outbox.
Done = tuple[bytes, bytes, Sequence[Effect]]
_NOT_KEPT: Final = "it was done, but its result is too large to be kept for retries"


class Turns:
    """Runs the turns of one host's agents."""

    def __init__(self, host: "ShardHost") -> None:
        self._host = host
        self._strategy = Strategy(host.config.partition_strategy)
        self.count = 0

    # -- asking

    def strategy_of(self, spec: AgentSpec | None) -> Strategy:
        """What becomes of agents of this type when the network is split; None: of any other."""
        own = None if spec is None else spec.partition_strategy
        return self._strategy if own is None else Strategy(own)

    def request(
        self,
        asked: Asked,
        kind: str,
        spec: AgentSpec,
        key: str,
        message: Message,
        *,
        level: str | None = None,
        op: OpId | None = None,
        payload: Any = None,
    ) -> Request:
        """What the core is asked for a message."""
        extra = message.extra
        fence: CallerFence | None = None
        if extra is not None and FENCE in extra:
            fence = CallerFence(extra[CALLER], tuple(extra[FENCE]))
        return Request(
            asked,
            kind,
            key,
            op,
            level or spec.consistency,
            due_ms=int(message.deadline * 1000),
            payload=payload,
            ack=message.ack,
            fence=fence,
            token=None if message.seen is None else message.seen.token,
            strategy=self.strategy_of(spec),
        )

    # -- turns

    async def run(self, cell: Cell, message: Message) -> bool:
        """Run a message's turn; whether the cell is held on until the turn is committed."""
        try:
            work = self._work(cell.spec, message)
        except JidoError as error:
            message.fail(self._host.signed(cell, message, error))
            return False
        host = self._host
        if cell.is_volatile:
            if self._is_admitted(cell, message):
                await self._run_in_memory(cell, message, work)
            return False
        committing = Committing(host, cell, message)
        if message.extra is not None and SENT in message.extra:
            sender, *name, place, added_ms = message.extra[SENT]
            signal = Outgoing(tuple(name), place, cell.id, added_ms, b"")
            payload = Arrival(sender, signal)
            request = self.request(
                committing, "signal", cell.spec, cell.id, message, payload=payload
            )
        else:
            request = self.request(
                committing, "call", cell.spec, cell.id, message, op=op_of(message)
            )
        host.replicas.submit(cell.shard, request)
        turn = committing.turn or await committing.begun()
        if turn is None or committing.answer is not None:
            assert committing.answer is not None
            return await self._refused(cell, message, committing.answer)
        return await self._run_replicated(cell, message, committing, turn, work)

    def _work(self, spec: AgentSpec, message: Message) -> "Steps":
        """What is to be run, with its parameters checked.

        Raises:
            RejectedError: There is no such handler, or the parameters do not fit.
        """
        if message.kind == SIGNAL or message.kind == EVENT:
            return Steps.of_signal(spec, from_wire(message.body))
        handler = spec.handler_for(message.name)
        return Steps([(handler, handler.work.load_params(message.body))], None)

    async def _run_replicated(
        self, cell: Cell, message: Message, committing: Committing, turn: RunTurn, work: "Steps"
    ) -> bool:
        host = self._host
        assert turn.record is not None
        try:
            self.take(cell, turn.record, is_acting=turn.is_partitioned)
            result, state, effects = await self.perform(cell, message, work, turn.version)
            commit = self.commit_of(cell, turn, (result, state, effects), message)
        except JidoError as error:
            if not isinstance(error, RejectedError):
                host.lifecycle.drop_object(cell)
            self._fail(committing, turn, host.signed(cell, message, error))
            return False
        except asyncio.CancelledError:
            host.lifecycle.drop_object(cell)
            self._fail(committing, turn, None)
            raise
        if committing.answer is not None:  # the shard is led elsewhere by now
            host.lifecycle.drop_object(cell)
            return False
        committing.outcome = (result, state, effects)
        committing.version = turn.version
        host.replicas.end(cell.shard, cell.id, turn.version, commit)
        return True

    def _fail(self, committing: Committing, turn: RunTurn, error: JidoError | None) -> None:
        """The handler failed: the caller hears it from here, the core forgets the turn."""
        message = committing.message
        if error is not None and message is not None and committing.answer is None:
            message.fail(error)
        committing.is_told = True
        self._host.replicas.end(committing.cell.shard, committing.cell.id, turn.version, None)

    def _is_admitted(self, cell: Cell, message: Message) -> bool:
        """Whether an agent that is kept in memory only is served; if not, that is told."""
        strategy = self.strategy_of(cell.spec)
        if strategy in self._host.replicas.core.admitted:
            return True
        is_paused = strategy is Strategy.PAUSE_MINORITY
        refusal = Answer(None, Status.PAUSED if is_paused else Status.NO_QUORUM)
        self.ended_badly(cell, message, refusal)
        return False

    async def _run_in_memory(self, cell: Cell, message: Message, work: "Steps") -> None:
        """A turn of an agent that is kept in memory only."""
        host = self._host
        now = host.loop.time()
        op_id = message.op_id
        if cell.remembered is not None and op_id in cell.remembered:
            kept = Answer(None, Status.OK, cell.remembered[op_id][:2], cell.version, "none")
            self._answer_again(cell, message, kept)
            return
        version = cell.version.ballot.version(cell.seq + 1)
        try:
            result, state, effects = await self.perform(cell, message, work, version)
        except JidoError as error:
            if not isinstance(error, RejectedError):
                host.lifecycle.drop_object(cell)
            message.fail(host.signed(cell, message, error))
            return
        except asyncio.CancelledError:
            host.lifecycle.drop_object(cell)
            raise
        cell.state = state
        cell.seq += 1
        cell.memory_turns += 1
        self.count += 1
        cell.remember(op_id, message.fingerprint, result, now)
        if effects:
            await host.outboxes.deliver_now(cell, effects, op_id)
        if message.extra is None and message.kind == CALL:
            message.inlet.reply((message.number, DONE, result, None))
        else:
            self.reply(message, result, cell.version, "none")

    async def perform(
        self, cell: Cell, message: Message, work: "Steps", version: Sequence[int]
    ) -> Done:
        """Run the handlers; nothing is committed yet.

        Raises:
            ExecutionError: A handler failed; the object has to be dropped.
        """
        host = self._host
        context = self.context(cell, message, message.op_id, version)
        cell.turn, context.cell = context, cell
        if work.signal is not None:
            context.attach_signal(work.signal)
        if cell.spec.isolation == "dedicated":
            return await turn_in_worker(host, cell, message, context)
        before: Sequence[Effect] = ()
        agent = cell.live
        if agent is None:
            agent, before = await host.lifecycle.activate(cell, message.deadline, version)
        context.agent = agent
        result = b"null"
        if work.signal is None:
            handler, params = work.matches[0]
            result = await run_call(handler, agent, params, context)
        else:
            await run_signal(work.matches, agent, context)
        effects = context.take_effects()
        return (
            result,
            commit_state(cell.spec, agent, cell.state),
            [*before, *effects] if (before) else effects,
        )

    def take(self, cell: Cell, record: Record, *, is_acting: bool = False) -> None:
        """The cell goes by this record from now on; an object made of another one is dropped.

        Without a quorum the record that a turn left comes back only with the next turn: an object
        that has its state is kept.

        Raises:
            NotRegisteredError: It was written by newer code.
            InvalidOutputError: It was written by older code, and could not be upgraded.
        """
        if cell.goes_by(record):
            return
        before = cell.state
        cell.take(record)
        if not is_acting or cell.state != before:
            self._host.lifecycle.drop_object(cell)

    def commit_of(self, cell: Cell, turn: RunTurn, done: Done, message: Message) -> Commit:
        """What a turn wants to be committed.

        Raises:
            ExecutionError: It sends more than an agent may have undelivered.
        """
        result, state, effects = done
        record = self.record_of(cell, turn, state, effects)
        if message.extra is not None and RUN in message.extra:
            record = replace(record, outbox=without_run(record.outbox, message.extra[RUN]))
        return Commit(record, (message.fingerprint, result), cell.spec.in_memory)

    def record_of(
        self, cell: Cell, turn: RunTurn, state: bytes, effects: Sequence[Effect]
    ) -> Record:
        """The record of a turn, except for what the core fills in.

        Raises:
            ExecutionError: It sends more than an agent may have undelivered.
        """
        spec = cell.spec
        before = turn.record
        if before is None:
            before = Record(spec.name, spec.consistency, spec.version)
        outbox, timers = before.outbox, before.timers
        if effects:
            wall_ms = int(self._host.wall() * 1000)
            added = outbox.add(turn.version, entries_of(effects, cell), wall_ms)
            if not isinstance(added, Outbox):
                text = f"what {cell.id!r} sends does not fit into its outbox: {added.reason}"
                raise ExecutionError(text, retryable=True)
            outbox, timers = added, with_timers(timers, effects, turn.version)
        elif state == before.state and spec.version == before.schema:
            return before
        return before.with_turn(state=state, schema=spec.version, outbox=outbox, timers=timers)

    # -- the end of a turn

    def committed(self, committing: Committing) -> None:
        """The core says what became of a turn that was handed to it."""
        host = self._host
        cell: Cell = committing.cell
        message = committing.message
        answer = committing.answer
        assert answer is not None
        if answer.status is Status.OK:
            result, state, effects = committing.outcome
            self.settled(cell, state, answer.version)
            if answer.is_partitioned:
                note_acted(host, cell.id, answer, "turn")
            if message is not None:
                if message.extra is None and message.kind == CALL and not effects:
                    message.inlet.reply((message.number, DONE, result, None))
                else:
                    self._tell(committing, answer)
        else:
            host.lifecycle.drop_object(cell)
            if message is not None:
                self.ended_badly(cell, message, answer)
        host.release(cell)

    def _tell(self, committing: Committing, answer: Answer) -> None:
        """Answer the caller of a turn that is committed; see `Outboxes.when_ended`."""
        host, cell, message = self._host, committing.cell, committing.message
        result, _, effects = committing.outcome
        held_by = host.replicas.held_by(cell.shard, answer.durability)

        def tell() -> None:
            assert message is not None, "somebody waits for it"
            self.reply(message, result, answer.version, held_by, answer)

        host.outboxes.when_ended(cell, committing.version, effects, tell)

    def settled(self, cell: Cell, state: bytes, version: Sequence[int]) -> None:
        """The cell's turn is committed, as this version."""
        record = self._host.replicas.peek(cell.shard, cell.id)
        if isinstance(record, Record) and record.version == version:
            cell.record = record
            self._host.alarms.note(cell.shard, cell.id, record.timers.next_due_ms())
        cell.state = state
        cell.seq = version[-1]
        self.count += 1

    def made(self, cell: Cell, version: Sequence[int]) -> None:
        """The agent of the cell was made by this turn."""
        self.settled(cell, cell.state, version)

    # -- how a request ends

    def ended_badly(self, cell: Cell, message: Message, answer: Answer) -> None:
        """Tell the caller of an operation that is not done here."""
        is_crowded = answer.status is Status.OVERLOADED and not answer.is_partitioned
        if is_crowded and op_of(message) is not None:
            message.crowd()
        else:
            refuse(self._host, message, cell.shard, answer, cell)

    def lost(self, committing: Committing) -> None:
        """The shard is led elsewhere while the handler runs: its caller need not wait for that."""
        if committing.message is not None and committing.answer is not None:
            lead = self._host.replicas.server(committing.cell.shard)
            pass_on(committing.message, committing.answer, lead)

    async def _refused(self, cell: Cell, message: Message, answer: Answer) -> bool:
        """The core gave out no turn: it was done before, or it cannot be."""
        if answer.status is Status.OK:
            if answer.value is None and SENT not in (message.extra or ()):
                text = f"{message.name!r} to {cell.id!r}: {_NOT_KEPT}; read the state"
                message.fail(OutcomeUnknownError(text, op_id=message.op_id))
            elif answer.value is None:
                message.reply(b"null")
            else:
                self._answer_again(cell, message, answer)
        elif answer.status is Status.NOT_FOUND:
            self._host.forget(cell)
            await self._host.operations.missing(message, cell.shard)
        else:
            self.ended_badly(cell, message, answer)
        return False

    def _answer_again(self, cell: Cell, message: Message, answer: Answer) -> None:
        """A retry of what has been done: the same answer, or a refusal when it is another call."""
        fingerprint, result = answer.value
        if fingerprint == message.fingerprint:
            held_by = self._host.replicas.held_by(cell.shard, answer.durability)
            self.reply(message, result, answer.version, held_by, answer)
            return
        text = (
            f"op_id {message.op_id!r} was used for agent {message.key!r} with other parameters; "
            "use a new one for another operation"
        )
        message.fail(InvalidInputError(text, op_id=message.op_id))

    def reply(
        self,
        message: Message,
        result: bytes,
        version: Sequence[int],
        durability: str,
        answer: Answer | None = None,
    ) -> None:
        """Answer with a result, and what it rests on when that was asked for.

        Args:
            message: What was asked.
            result: JSON bytes.
            version: Of the state; no fence if the answer is without a quorum.
            durability: What holds it.
            answer: The core's, if it gave one.
        """
        if message.extra is None or META not in message.extra:
            message.reply(result)
        elif answer is not None and answer.is_partitioned:
            message.reply(result, [None, self._host.node, durability, answer.is_stale])
        else:
            message.reply(result, [list(version), self._host.node, durability])

    # -- reads

    async def read(self, cell: Cell, message: Message, handler: Declaration) -> None:
        """A read-only handler on a copy of the committed state; touches nothing of the cell."""
        host = self._host
        answer: Answer | None = None
        try:
            if handler.is_stream:
                raise is_stream(handler)
            params = handler.work.load_params(message.body)
            version: Sequence[int] = cell.version
            if cell.is_volatile:
                if not self._is_admitted(cell, message):
                    return
                state, durability = cell.state, "none"
            else:
                answer = await self.ask(cell, message, "read", None)
                if answer is None:
                    return
                if answer.value is None:
                    host.forget(cell)
                    await host.operations.missing(message, cell.shard)
                    return
                record = answer.value
                version = () if answer.is_partitioned else answer.version
                state = cell.spec.current_state(record.state, record.schema)
                durability = host.replicas.held_by(cell.shard, answer.durability)
            context = self.context(cell, message, message.op_id, version, read_only=True)
            if cell.spec.isolation == "dedicated" and not cell.is_busy:
                result = await self._read_in_worker(cell, message, context)
            else:
                context.agent = agent = cell.spec.load(state)
                result = await run_call(handler, agent, params, context)
        except JidoError as error:
            # The live object, perhaps in the middle of a turn, is left alone.
            message.fail(host.signed(cell, message, error))
            return
        self.reply(message, result, version, durability, answer)

    async def ask(
        self, cell: Cell, message: Message, kind: str, level: str | None
    ) -> Answer | None:
        """The core's answer to a request without a turn; None when the message is dealt with."""
        asked = Asked(message, self._host.loop)
        request = self.request(asked, kind, cell.spec, cell.id, message, level=level)
        self._host.replicas.submit(cell.shard, request)
        answer = asked.answer or await asked.ended()
        if answer.is_stale and answer.value is None:  # what may be old cannot say there is none
            answer = answer._replace(status=Status.NO_QUORUM)
        if answer.status is Status.OK:
            if answer.is_partitioned:
                note_acted(self._host, cell.id, answer, "read")
            return answer
        self.ended_badly(cell, message, answer)
        return None

    async def _read_in_worker(self, cell: Cell, message: Message, context: TurnContext) -> bytes:
        """A read in a dedicated agent's own process; it answers one request at a time."""
        cell.is_busy = True
        try:
            result, _, _ = await turn_in_worker(self._host, cell, message, context)
        finally:
            self._host.release(cell)
        return result

    def context(
        self,
        cell: Cell,
        message: Message,
        op_id: str,
        version: Sequence[int],
        *,
        read_only: bool = False,
    ) -> TurnContext:
        """The context of a turn that is about to run."""
        host = self._host
        now = host.wall()
        if now < cell.last_now:  # the clock was set back, or the agent came from a faster one
            now = cell.last_now
        cell.last_now = now
        context = TurnContext(
            cell.id,
            message.name,
            op_id,
            message.body,
            message.extra,
            message.deadline,
            version,
            now,
            cell.is_new,
            cell.shard,
            host.loop.time,
            host.binding,
            read_only=read_only,
        )
        context.seen = message.seen
        return context


def op_of(message: Message) -> OpId | None:
    """Under what a message counts once; what nobody waits for is sent once."""
    if message.kind == CAST or message.kind == EVENT:
        return None
    return message.op


class Steps:
    """What a turn does: its handlers, in order, with their checked parameters."""

    __slots__ = ("matches", "signal")

    def __init__(
        self, matches: Sequence[tuple[Declaration, dict[str, Any]]], signal: Signal | None
    ) -> None:
        self.matches = matches
        self.signal = signal

    @classmethod
    def of_signal(cls, spec: AgentSpec, signal: Signal) -> "Steps":
        """All handlers that match a delivered signal, in order."""
        found = spec.handlers_for(signal.type)
        return cls([(handler, deliver_params(handler, signal)) for handler in found], signal)
