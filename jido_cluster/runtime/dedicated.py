"""The host's side of a dedicated agent: its turns run in a worker, its commits here."""

import asyncio
from typing import TYPE_CHECKING, Any

from jido_cluster.errors import ExecutionError, JidoError, UnavailableError
from jido_cluster.exec.needs import needs_to_data
from jido_cluster.exec.stream import Put
from jido_cluster.ports import PeerGoneError, PeerTroubleError
from jido_cluster.runtime.cell import Cell, Message
from jido_cluster.runtime.turn import TurnContext
from jido_cluster.runtime.wire import EVENT, SIGNAL, decode_error, pack, unpack

if TYPE_CHECKING:
    from jido_cluster.runtime.host import ShardHost


async def turn_in_worker(
    host: "ShardHost", cell: Cell, message: Message, context: TurnContext
) -> tuple[bytes, bytes, list[Any]]:
    """Run a turn in the agent's worker.

    Returns:
        The result, the new state and the outbox, none of it committed yet.

    Raises:
        ExecutionError: The handler failed, or its process died: the state is unchanged.
        UnavailableError: No process could be had; the handler did not run.
    """
    mode = "signal" if message.kind in (SIGNAL, EVENT) else "call"
    if context.read_only:
        mode = "read"
    return await ask_worker(host, cell, mode, context, message.deadline)


async def ask_worker(
    host: "ShardHost",
    cell: Cell,
    mode: str,
    context: TurnContext,
    deadline: float,
    put: Put | None = None,
) -> tuple[bytes, bytes, list[Any]]:
    """As `turn_in_worker`, for any mode of the worker; `put` takes the items of a stream."""
    spec = cell.spec
    fresh = cell.worker is None
    if cell.worker is None:
        try:
            needs = needs_to_data(spec.needs)
            cell.worker = await host.workers.acquire(spec.ray_options, needs)
        except PeerTroubleError as error:
            text = f"no process for the dedicated agent {cell.id!r} could be started: {error}"
            raise UnavailableError(text, retry_after=1.0) from error
    left = max(deadline - host.loop.time(), 0.0)
    state = cell.state if fresh or cell.worker_seq != cell.seq else None
    request = pack((mode, spec.name, state, int(left * 1000), context.to_data()))
    worker = cell.worker
    try:
        work = worker.turn(request, left) if put is None else worker.stream(request, left, put)
        answer = unpack(await work)
    except (asyncio.CancelledError, JidoError):  # the taker of a stream's items left, or is slow
        cell.worker_seq = -1
        if worker.is_closed:
            cell.worker = None
        raise
    except PeerGoneError as error:
        worker.close()
        cell.worker = None
        text = f"the process of agent {cell.id!r} ended in the middle of {context.type!r}"
        raise ExecutionError(text, retryable=True, reason=str(error)) from error
    if not answer[0]:
        cell.worker_seq = cell.seq if mode == "read" else -1
        raise decode_error(answer[1])
    _, result, new_state, effects = answer
    cell.worker_seq = cell.seq if mode == "read" else cell.seq + 1
    return result, new_state, [tuple(effect) for effect in effects]
