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
from jido_cluster.runtime.cell import Cell, Message
from jido_cluster.runtime.dedicated import ask_worker
from jido_cluster.runtime.flow import CLOSE, TAKEN, Outflow
from jido_cluster.runtime.outbox import deliver
from jido_cluster.runtime.turn import Effect, commit_state, run_stream
from jido_cluster.runtime.wire import LAST, unpack

if TYPE_CHECKING:
    from jido_cluster.runtime.host import ShardHost


class Streaming:
    """Runs the streams of one host."""

    def __init__(self, host: "ShardHost") -> None:
        self._host = host

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
        await self._in_a_task(message, lambda outflow: self._turn(cell, message, outflow))

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
        try:
            state, effects = await self._run(cell, message, outflow)
            message.inlet.pass_on(message.number, LAST, b"")
            await outflow.wait_taken()
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
        host.turns += 1
        # Nothing can call it back any more: neither its caller nor a connection that breaks.
        message.inlet.end_stream(message.number)
        if effects:
            await deliver(host, cell, effects, message.op_id)
        message.reply(b"null")

    async def _run(
        self, cell: Cell, message: Message, outflow: Outflow
    ) -> tuple[bytes, Sequence[Effect]]:
        """The new state and the outbox once the handler has ended, none of it committed yet."""
        host = self._host
        spec = cell.spec
        handler = spec.stream_for(message.name)
        params = handler.work.load_params(message.body)
        context = host.context(cell, message, message.op_id)
        cell.turn, context.cell = context, cell
        if spec.isolation == "dedicated":
            _, state, effects = await ask_worker(
                host, cell, "stream", context, message.deadline, outflow.put
            )
            return state, effects
        agent = cell.live or await host.lifecycle.activate(cell, message.deadline)
        context.agent = agent
        await run_stream(handler, agent, params, context, outflow.put)
        return commit_state(spec, agent, cell.state), context.take_effects()

    async def _read(self, cell: Cell, message: Message, outflow: Outflow) -> None:
        host = self._host
        context = host.context(cell, message, message.op_id, read_only=True)
        try:
            handler = cell.spec.stream_for(message.name)
            params = handler.work.load_params(message.body)
            context.agent = agent = cell.spec.load(cell.state)
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
