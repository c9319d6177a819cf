"""Turns that nobody asked for: timers that fire, and merges of what was done apart.

Theory. The core gives them out as it gives out others, one at a time for each agent, so a timer's
turn runs on the same object, and its outbox and state are committed with the timer moved on. Nobody
waits for an answer: what fails is tried again by the core.
"""

import asyncio
import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from jido_cluster.agent import find_agent
from jido_cluster.errors import JidoError
from jido_cluster.runtime.cell import Cell, Inlet, Message
from jido_cluster.runtime.committing import Steps
from jido_cluster.runtime.conflicts import ConflictLog, folded, resolve_of
from jido_cluster.runtime.partitions import note_merged
from jido_cluster.runtime.schedules import planned
from jido_cluster.runtime.turn import encode_signal
from jido_cluster.runtime.wire import EVENT, OP_ID
from jido_cluster.signals.signal import Signal
from jido_state.merge import Merged
from jido_state.record import Record
from jido_state.requests import Commit, RunMerge, RunTurn
from jido_state.versions import Version

if TYPE_CHECKING:
    from jido_cluster.runtime.host import ShardHost

__all__ = ["OwnTurns"]

logger = logging.getLogger(__name__)

OWN_SECONDS: Final = 30.0  # what a timer's handler may take


class OwnTurns:
    """Runs what the shards of one host ask of themselves.

    Attributes:
        conflicts: Where states go that a merge did not take.
    """

    def __init__(self, host: "ShardHost") -> None:
        self._host = host
        self.conflicts = ConflictLog()

    async def run(self, shard: int, turn: RunTurn) -> None:
        """What nobody asked for: a timer fires, or actors that are over are forgotten."""
        if turn.request.kind == "fold":
            self._fold(shard, turn)
        else:
            await self._fire(shard, turn)

    def _fold(self, shard: int, turn: RunTurn) -> None:
        record = turn.record
        assert record is not None
        spec = find_agent(record.type)
        commit: Commit | None = None
        if spec is not None:
            try:
                commit = Commit(folded(spec, record, turn.request.payload), None)
            except JidoError as error:
                logger.warning("agent %s: %s", turn.request.key, error)
        self._host.replicas.end(shard, turn.request.key, turn.version, commit)

    async def _fire(self, shard: int, turn: RunTurn) -> None:
        """A timer fires: its signal is delivered in the turn that moves the timer on."""
        host = self._host
        key = turn.request.key
        record = turn.record
        assert record is not None
        spec = find_agent(record.type)
        if spec is None:
            logger.warning("timer of agent %s: its type %s is not known here", key, record.type)
            host.replicas.end(shard, key, turn.version, None)
            return
        cell = host.cells.get(key)
        if cell is None:
            cell = host.cells[key] = Cell(key, spec, shard)
            cell.is_new = False
        # One that is held waits for this turn in the core: then the holder lets go of it.
        is_ours = not cell.is_busy
        cell.is_busy = True
        commit: Commit | None = None
        try:
            host.turns.take(cell, record)
            message, signal = _own_message(host.loop, key, turn)
            done = await host.turns.perform(
                cell, message, Steps.of_signal(spec, signal), turn.version
            )
            commit = host.turns.commit_of(cell, turn, done, message)
        except JidoError as error:
            host.lifecycle.drop_object(cell)
            logger.warning("timer of agent %s: %s", key, error)
        except Exception:
            host.lifecycle.drop_object(cell)
            logger.exception("timer of agent %s", key)
        if commit is not None:
            self._fired(cell, turn, commit.record)
        host.replicas.end(shard, key, turn.version, commit)
        if is_ours:
            host.release(cell)

    def _fired(self, cell: Cell, turn: RunTurn, record: Record) -> None:
        """The cell goes by what a firing commits. If it does not, the leadership is lost."""
        left = record.timers.fire(*turn.request.payload)
        timers = record.timers if left is None else left
        version = Version(*turn.version)
        stamp = record.stamp.next(0, version)  # its dot counts; the time is the core's to tell
        cell.record = replace(record, version=version, stamp=stamp, turns=record.turns + 1)
        cell.state, cell.seq = record.state, turn.version[-1]
        cell.last_used = self._host.loop.time()
        self._host.alarms.note(cell.shard, cell.id, timers.next_due_ms())
        self._host.turns.count += 1

    async def merge(self, shard: int, merge: RunMerge) -> None:
        """What was done apart is merged, by the type's own code where it has some.

        A leader commits what comes of it. A replica that acts only looks, and keeps everything.
        """
        host = self._host
        merged: Merged | None = None
        try:
            merged = await asyncio.to_thread(merge.run, resolve_of)
            if host.replicas.leadership(shard) is not None:
                await self.conflicts.keep(merge.key, merged)
                counts = len(merged.dots), len(merged.conflicts)
                note_merged(host.node_name, merge.key, *counts, merged.failure)
        except Exception:
            merged = None
            logger.exception("the entries of agent %s could not be merged", merge.key)
        host.replicas.end_merge(shard, merge.key, merge.version, merged)


def _own_message(
    loop: asyncio.AbstractEventLoop, key: str, turn: RunTurn
) -> tuple[Message, Signal]:
    """A timer's signal, as if a client had sent it; nobody is answered."""
    assert turn.request.op is not None
    op_id = turn.request.op.text
    signal = planned(turn.request.payload.timer, op_id)
    body = encode_signal(signal, None)
    entry = [0, EVENT, key, signal.type, body, int(OWN_SECONDS * 1000), {OP_ID: op_id}]
    return Message(Inlet("", loop), entry, loop.time()), signal
