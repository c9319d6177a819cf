"""Streams on a host: turns whose handler gives items before it ends.

Theory. Such a turn runs in a task of its own, because it can be cancelled: by its caller, or when
its caller cannot be reached. It commits when the handler has ended and the caller has asked for
more than the last item, so that whoever closes a stream early can be sure that nothing commits, and
whoever reaches its end, that it has. A read-only stream has nothing to commit and ends at once.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from jido_cluster.errors import JidoError, RejectedError, RunCancelledError
from jido_cluster.runtime.asked import Asked
from jido_cluster.runtime.cell import Cell, Message
from jido_cluster.runtime.dedicated import ask_worker
from jido_cluster.runtime.flow import CLOSE, TAKEN, Outflow
from jido_cluster.runtime.partitions import note_acted
from jido_cluster.runtime.turn import Effect, commit_state, run_stream
from jido_cluster.runtime.wire import LAST, unpack
from jido_state.requests import Commit, Status

if TYPE_CHECKING:
    from jido_cluster.runtime.host import ShardHost


class Streaming:
    """Runs the streams of one host."""

    def __init__(self, host: "ShardHost") -> None:
        self._host = host
        self._turns: dict[int, int] = {}  # how many run, by shard

    def runs_in(self, shard: int) -> bool:
        """Whether a stream's turn runs in the shard."""
        return shard in self._turns

    def operations(self) -> Mapping[str, Callable[[Message], Awaitable[None]]]:
        """What the callers of streams may tell."""
        return {TAKEN: self._taken, CLOSE: self._close}

    async def _taken(self, message: Message) -> None:
        number, count = unpack(message.body)
        outflow = message.inlet.outflows.get(number)
        if outflow is not None:
            outflow.taken(count)
        message.reply(b"")

    async def _close(self, message: Message) -> None:
        (number,) = unpack(message.body)
        outflow = message.inlet.outflows.get(number)
        if outflow is not None:
            outflow.close()
        message.reply(b"")

    async def turn(self, cell: Cell, message: Message) -> None:
        """Run a stream whose turn it is; returns when it has ended, however."""
        running = self._turns
        running[cell.shard] = running.get(cell.shard, 0) + 1
        try:
            await self._in_a_task(message, lambda outflow: self._turn(cell, message, outflow))
        finally:
            running[cell.shard] -= 1
            if not running[cell.shard]:
                del running[cell.shard]

    async def read(self, cell: Cell, message: Message) -> None:
        """Run a read-only stream on a copy of the committed state, beside turns.

        That of a dedicated agent runs here too: it would keep the worker from the agent's turns.
        """
        await self._in_a_task(message, lambda outflow: self._read(cell, message, outflow))

    async def _in_a_task(
        self, message: Message, work: Callable[[Outflow], Awaitable[None]]
    ) -> None:
        outflow = message.inlet.outflows[message.number]
        if outflow.is_closed:
            message.fail(_closed(message))
            return
        task = outflow.task = self._host.spawn_task(self._guarded(message, work, outflow))
        await asyncio.wait((task,))
        if not task.cancelled():
            task.result()

    async def _guarded(
        self, message: Message, work: Callable[[Outflow], Awaitable[None]], outflow: Outflow
    ) -> None:
        try:
            await work(outflow)
        except asyncio.CancelledError:
            if not outflow.is_closed:
                raise  # the host ends
            message.inlet.forget_items(message.number)
            message.fail(_closed(message))

    async def _turn(self, cell: Cell, message: Message, outflow: Outflow) -> None:
        host = self._host
        cell.last_used = host.loop.time()
        if cell.is_volatile:
            version = cell.version.ballot.version(cell.seq + 1)
            done = await self._finish(cell, message, outflow, version)
            if done is not None:
                cell.state, effects = done
                cell.seq += 1
                cell.memory_turns += 1
                await host.outboxes.deliver_now(cell, effects, message.op_id)
                message.reply(b"null")
            return
        asked = Asked(message, host.loop)
        request = host.turns.request(asked, "call", cell.spec, cell.id, message)
        host.replicas.submit(cell.shard, request)
        turn = await asked.begun()
        if turn is None or turn.record is None:
            assert asked.answer is not None
            host.turns.ended_badly(cell, message, asked.answer)
            return
        host.turns.take(cell, turn.record, is_acting=turn.is_partitioned)
        try:
            done = await self._finish(cell, message, outflow, turn.version)
        except asyncio.CancelledError:
            host.replicas.end(cell.shard, cell.id, turn.version, None)
            raise
        if done is None:
            host.replicas.end(cell.shard, cell.id, turn.version, None)
            return
        state, effects = done
        try:
            record = host.turns.record_of(cell, turn, state, effects)
        except JidoError as error:
            host.lifecycle.drop_object(cell)
            host.replicas.end(cell.shard, cell.id, turn.version, None)
            message.fail(host.signed(cell, message, error))
            return
        host.replicas.end(
            cell.shard, cell.id, turn.version, Commit(record, None, cell.spec.in_memory)
        )
        answer = await asked.ended()
        if answer.status is Status.OK:
            host.turns.settled(cell, state, answer.version)
            if answer.is_partitioned:
                note_acted(host, cell.id, answer, "turn")
            host.outboxes.when_ended(cell, turn.version, effects, lambda: message.reply(b"null"))
        else:
            host.lifecycle.drop_object(cell)
            host.turns.ended_badly(cell, message, answer)

    async def _finish(
        self, cell: Cell, message: Message, outflow: Outflow, version: Sequence[int]
    ) -> tuple[bytes, Sequence[Effect]] | None:
        """What the stream's turn came to, its items taken; None when it failed and that is told."""
        host = self._host
        try:
            done = await self._run(cell, message, outflow, version)
            message.inlet.pass_on(message.number, LAST, b"")
            await outflow.wait_taken()
        except JidoError as error:
            if not isinstance(error, RejectedError):
                host.lifecycle.drop_object(cell)
            message.fail(host.signed(cell, message, error))
            return None
        except asyncio.CancelledError:
            host.lifecycle.drop_object(cell)
            raise
        # Nothing can call it back any more: neither its caller nor a connection that breaks.
        message.inlet.end_stream(message.number)
        return done

    async def _run(
        self, cell: Cell, message: Message, outflow: Outflow, version: Sequence[int]
    ) -> tuple[bytes, Sequence[Effect]]:
        """The new state and the outbox once the handler has ended, none of it committed yet."""
        host = self._host
        spec = cell.spec
        handler = spec.stream_for(message.name)
        params = handler.work.load_params(message.body)
        context = host.turns.context(cell, message, message.op_id, version)
        cell.turn, context.cell = context, cell
        if spec.isolation == "dedicated":
            _, state, effects = await ask_worker(
                host, cell, "stream", context, message.deadline, outflow.put
            )
            return state, effects
        before: Sequence[Effect] = ()
        agent = cell.live
        if agent is None:
            agent, before = await host.lifecycle.activate(cell, message.deadline, version)
        context.agent = agent
        await run_stream(handler, agent, params, context, outflow.put)
        return commit_state(spec, agent, cell.state), [*before, *context.take_effects()]

    async def _read(self, cell: Cell, message: Message, outflow: Outflow) -> None:
        host = self._host
        state, schema = cell.state, cell.spec.version
        version: Sequence[int] = cell.version
        if not cell.is_volatile:
            answer = await host.turns.ask(cell, message, "read", None)
            if answer is None:
                return
            if answer.value is None:
                host.forget(cell)
                await host.operations.missing(message, cell.shard)
                return
            record = answer.value
            version = () if answer.is_partitioned else answer.version
            state, schema = record.state, record.schema
        context = host.turns.context(cell, message, message.op_id, version, read_only=True)
        try:
            handler = cell.spec.stream_for(message.name)
            params = handler.work.load_params(message.body)
            context.agent = agent = cell.spec.load(cell.spec.current_state(state, schema))
            await run_stream(handler, agent, params, context, outflow.put)
        except JidoError as error:
            message.fail(host.signed(cell, message, error))
            return
        message.inlet.end_stream(message.number)
        message.reply(b"null")


def _closed(message: Message) -> RunCancelledError:
    text = (
        f"the stream {message.name!r} of {message.key!r} was closed by its caller, or its caller "
        "is gone; nothing was committed"
    )
    return RunCancelledError(text)
