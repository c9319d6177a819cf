"""The outbox: what a committed turn asked for, done after its commit."""

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from jido_cluster import telemetry
from jido_cluster.errors import JidoError
from jido_cluster.runtime.cell import Cell
from jido_cluster.runtime.turn import CANCEL, DELETE, SEND, START, Effect
from jido_cluster.runtime.wire import OP_ID, SIGNAL, VIRTUAL

if TYPE_CHECKING:
    from jido_cluster.runtime.host import ShardHost
    from jido_cluster.runtime.link import Call

logger = logging.getLogger(__name__)


async def deliver(host: "ShardHost", cell: Cell, effects: Sequence[Effect], op_id: str) -> None:
    """Do what a turn put in its outbox, in order; deliveries go on in the background.

    Operation ids derive from the turn's, so that a receiver takes each signal once.
    """
    deleted = False
    for index, effect in enumerate(effects):
        kind = effect[0]
        if kind == SEND:
            _, target, body, virtual = effect
            send(host, target, body, f"{op_id}.s{index}", virtual)
        elif kind == START:
            host.runs.start_from_turn(cell, effect)
        elif kind == CANCEL:
            host.runs.cancel_from_turn(effect[1])
        elif kind == DELETE:
            deleted = True
    if deleted:
        await host.operations.delete_cell(cell)


def send(host: "ShardHost", target: str, body: bytes, op_id: str, virtual: str | None) -> None:
    """Deliver a signal in the background; the runtime retries until the call timeout."""
    extra = {OP_ID: op_id} if virtual is None else {OP_ID: op_id, VIRTUAL: virtual}
    try:
        call = host.client.submit(SIGNAL, target, "", body, host.config.call_timeout, extra)
    except JidoError as error:
        _report(target, error)
        return
    call.add_done_callback(_delivered)


def _delivered(call: "Call") -> None:
    if not call.cancelled() and (error := call.exception()) is not None:
        _report(call.key, error)


def _report(target: str, error: BaseException) -> None:
    """Nobody waits for a delivery, so its failure is an event and a line in the log."""
    kind = getattr(error, "kind", type(error).__name__)
    telemetry.execute("jido.cluster.send.failed", {"count": 1}, {"to": target, "error": kind})
    logger.warning("a signal to agent %s was not delivered: %s", target, error)
