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
from jido_cluster.runtime.cell import Cell
from jido_cluster.runtime.dedicated import ask_worker
from jido_cluster.runtime.outbox import deliver
from jido_cluster.runtime.turn import DELETE, Effect, TurnContext, commit_state, run_hook

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

    async def activate(self, cell: Cell, deadline: float) -> Agent:
        """The live object of the cell, its `on_start` done and committed.

        Raises:
            ExecutionError: `on_start` failed; the cell has no object and its state is unchanged.
        """
        agent = cell.spec.load(cell.state)
        if cell.spec.has_on_start:
            op_id = f"start:{cell.id}.{cell.seq}"
            context = self._hook_context(cell, "on_start", deadline, op_id)
            context.agent = agent
            await run_hook(cell.spec, agent, context, "on_start")
            state = commit_state(cell.spec, agent, cell.state)
            if state != cell.state or context.take_effects():
                cell.state = state
                cell.seq += 1
                await deliver(self._host, cell, context.take_effects(), op_id)
        cell.live = agent
        return agent

    async def passivate(self, cell: Cell) -> None:
        """Take the object out of memory after `on_stop`; the state stays."""
        if cell.spec.has_on_stop and (cell.live is not None or cell.worker is not None):
            try:
                await self._stop(cell)
            except JidoError as error:
                logger.warning("on_stop of agent %s failed: %s", cell.id, error.message)
        self.drop_object(cell)
        if cell.worker is not None:
            cell.worker.close()
            cell.worker = None
        cell.is_new = False

    async def _stop(self, cell: Cell) -> None:
        """Run `on_stop` where the object is, and commit what it did."""
        host = self._host
        deadline = host.loop.time() + HOOK_SECONDS
        op_id = f"stop:{cell.id}.{cell.seq}"
        context = self._hook_context(cell, "on_stop", deadline, op_id)
        effects: Sequence[Effect]
        if cell.worker is not None:
            _, state, effects = await ask_worker(host, cell, "stop", context, deadline)
        else:
            assert cell.live is not None
            context.agent = cell.live
            await run_hook(cell.spec, cell.live, context, "on_stop")
            state = commit_state(cell.spec, cell.live, cell.state)
            effects = context.take_effects()
        if state != cell.state or effects:
            cell.state = state
            cell.seq += 1
            # An agent that is going cannot ask to be deleted: that would never end.
            await deliver(host, cell, [e for e in effects if e[0] != DELETE], op_id)

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
                    await self._host.serve(cell, None)
            self._host.runs.forget_old(now)
            self._host.forget_silent_clients(now)

    def _pause(self) -> float:
        limits = {cell.spec.idle_timeout for cell in self._host.cells.values()}
        shortest = min((limit for limit in limits if limit is not None), default=MAX_SWEEP)
        return min(max(shortest / 4, MIN_SWEEP), MAX_SWEEP)

    def _hook_context(self, cell: Cell, hook: str, deadline: float, op_id: str) -> TurnContext:
        host = self._host
        cell.last_now = now = max(cell.last_now, host.wall())
        return TurnContext(
            cell.id,
            f"jido.agent.{hook}",
            op_id,
            b"{}",
            None,
            deadline,
            (cell.since, 0, host.node, cell.seq + 1),
            now,
            cell.is_new,
            cell.shard,
            host.loop.time,
            host.binding,
        )
