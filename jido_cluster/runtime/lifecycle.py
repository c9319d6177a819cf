"""Activation and passivation: when an agent's object is in memory, and its hooks.

A passive agent is its committed bytes. It is activated by the next message, and made passive when
it has been idle for its type's `idle_timeout`, or when asked.
"""

import asyncio
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from jido_cluster.agent import TURN, Agent, assign
from jido_cluster.errors import JidoError
from jido_cluster.runtime.asked import Asked
from jido_cluster.runtime.cell import Cell
from jido_cluster.runtime.dedicated import ask_worker
from jido_cluster.runtime.turn import DELETE, Effect, TurnContext, commit_state, run_hook
from jido_state.operations import MAX_NAME, OpId, agent_caller
from jido_state.requests import Commit, Request, Status

if TYPE_CHECKING:
    from jido_cluster.runtime.host import ShardHost

logger = logging.getLogger(__name__)

HOOK_SECONDS: Final = 30.0  # the longest that on_stop may take
MIN_SWEEP: Final = 0.05  # seconds between looks for idle agents, at the least and at the most
MAX_SWEEP: Final = 10.0


class Lifecycle:
    """Brings the agents of one host into memory and out of it."""

    def __init__(self, host: "ShardHost") -> None:
        self._host = host

    async def activate(
        self, cell: Cell, deadline: float, version: Sequence[int]
    ) -> tuple[Agent, Sequence[Effect]]:
        """The live object of the cell, its `on_start` done.

        What `on_start` changed and sent is committed with the turn it was activated for.

        Args:
            cell: The agent; its state is the committed one.
            deadline: Of that turn, by the host's loop.
            version: Of that turn.

        Raises:
            ExecutionError: `on_start` failed; the cell has no object and its state is unchanged.
        """
        agent = cell.spec.load(cell.state)
        effects: Sequence[Effect] = ()
        if cell.spec.has_on_start:
            context = self._hook_context(cell, "on_start", deadline, version)
            context.agent = agent
            await run_hook(cell.spec, agent, context, "on_start")
            effects = context.take_effects()
        cell.live = agent
        return agent, effects

    def state_of(self, cell: Cell, agent: Agent) -> bytes:
        """The state of a live object, as it would be committed."""
        return commit_state(cell.spec, agent, cell.state)

    async def passivate(self, cell: Cell) -> None:
        """Take the object out of memory after `on_stop`; the state stays."""
        if cell.spec.has_on_stop and (cell.live is not None or cell.worker is not None):
            await self._commit_last(cell)
        self.drop_object(cell)
        if cell.worker is not None:
            cell.worker.close()
            cell.worker = None
        cell.is_new = False

    async def _commit_last(self, cell: Cell) -> None:
        """Run `on_stop` as a turn of its own."""
        host = self._host
        if cell.is_volatile:
            effects = await self.last_turn(cell, cell.version)
            await host.outboxes.deliver_now(cell, effects, f"stop.{cell.id}.{cell.seq}"[:MAX_NAME])
            return
        asked = Asked(None, host.loop)
        due_ms = int((host.loop.time() + HOOK_SECONDS) * 1000)
        request = Request(asked, "call", cell.id, None, cell.spec.consistency, due_ms=due_ms)
        host.replicas.submit(cell.shard, request)
        turn = await asked.begun()
        if turn is None or turn.record is None:
            return
        effects = await self.last_turn(cell, turn.version)
        if cell.state == turn.record.state and not effects:
            host.replicas.end(cell.shard, cell.id, turn.version, None)
            return
        record = host.turns.record_of(cell, turn, cell.state, effects)
        host.replicas.end(
            cell.shard, cell.id, turn.version, Commit(record, None, cell.spec.in_memory)
        )
        answer = await asked.ended()
        if answer.status is Status.OK:
            host.turns.settled(cell, cell.state, answer.version)

    async def last_turn(self, cell: Cell, version: Sequence[int]) -> list[Effect]:
        """Run `on_stop` where the object is; the cell then has the state it left.

        Best effort: one that fails changes nothing, and is logged.
        """
        if not cell.spec.has_on_stop or (cell.live is None and cell.worker is None):
            return []
        try:
            state, effects = await self._stop(cell, version)
        except JidoError as error:
            logger.warning("on_stop of agent %s failed: %s", cell.id, error.message)
            return []
        if state != cell.state:
            cell.state = state
            if cell.is_volatile:
                cell.seq += 1
                cell.memory_turns += 1
        # An agent that is going cannot ask to be deleted: that would never end.
        return [effect for effect in effects if effect[0] != DELETE]

    async def _stop(self, cell: Cell, version: Sequence[int]) -> tuple[bytes, Sequence[Effect]]:
        host = self._host
        deadline = host.loop.time() + HOOK_SECONDS
        context = self._hook_context(cell, "on_stop", deadline, version)
        if cell.worker is not None:
            _, state, effects = await ask_worker(host, cell, "stop", context, deadline)
            return state, effects
        assert cell.live is not None
        context.agent = cell.live
        await run_hook(cell.spec, cell.live, context, "on_stop")
        return commit_state(cell.spec, cell.live, cell.state), context.take_effects()

    def drop_object(self, cell: Cell) -> None:
        """Forget the live object; whoever still has it may not change it any more."""
        if cell.live is not None:
            assign(cell.live, TURN, None)
            cell.live = None

    async def keep_tidy(self) -> None:
        """Make idle agents passive and forget old results, for as long as the host lives."""
        while True:
            await asyncio.sleep(self._pause())
            now = self._host.loop.time()
            for cell in list(self._host.cells.values()):
                if cell.is_busy:
                    continue
                cell.forget_old(now)
                limit = cell.spec.idle_timeout
                is_active = cell.live is not None or cell.worker is not None
                if is_active and limit is not None and now - cell.last_used >= limit:
                    cell.is_busy = True
                    await self.passivate(cell)
                    self._host.release(cell)
                if not (is_active or cell.is_volatile or cell.is_busy):
                    # The record is all there is of it until the next message.
                    self._host.forget(cell)
            self._host.runs.forget_old(now)
            self._host.forget_silent_clients(now)

    def _pause(self) -> float:
        limits = {cell.spec.idle_timeout for cell in self._host.cells.values()}
        shortest = min((limit for limit in limits if limit is not None), default=MAX_SWEEP)
        return min(max(shortest / 4, MIN_SWEEP), MAX_SWEEP)

    def _hook_context(
        self, cell: Cell, hook: str, deadline: float, version: Sequence[int]
    ) -> TurnContext:
        host = self._host
        cell.last_now = now = max(cell.last_now, host.wall())
        op = OpId(agent_caller(cell.id, version, hook), 1)
        return TurnContext(
            cell.id,
            f"jido.agent.{hook}",
            op.text,
            b"{}",
            None,
            deadline,
            version,
            now,
            cell.is_new,
            cell.shard,
            host.loop.time,
            host.binding,
        )
