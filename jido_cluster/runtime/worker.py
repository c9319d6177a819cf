"""A worker: the process of one dedicated agent. It runs turns; it decides nothing.

Ordering, dedupe and the commit stay with the agent's host, which sends the committed state along
whenever the worker does not have it. So when the worker dies, only the turn it was running is
lost, and that had not been committed.
"""

import asyncio
from typing import Any

from jido_cluster.agent import Agent, AgentSpec, agent_named
from jido_cluster.errors import JidoError
from jido_cluster.exec.context import ClusterBinding
from jido_cluster.exec.stream import Put
from jido_cluster.runtime.turn import (
    TurnContext,
    commit_state,
    deliver_params,
    run_call,
    run_hook,
    run_signal,
    run_stream,
)
from jido_cluster.runtime.wire import encode_error, pack
from jido_cluster.signals.signal import from_wire


class Worker:
    """Runs the turns of one agent, one at a time.

    Request: (mode, type name, state or None, milliseconds left, the turn's data); the mode is
    "call", "signal", "read", "stream" or "stop". Answer: (True, result, new state, effects), or
    (False, error).
    """

    def __init__(self, binding: ClusterBinding | None) -> None:
        self._binding = binding
        self._agent: Agent | None = None
        self._state = b""
        self._loop = asyncio.get_running_loop()

    async def turn(self, request: list[Any], put: Put | None = None) -> bytes:
        """Run one turn; failures are part of the answer. `put` takes the items of a stream."""
        mode, type_name, state, left, data = request
        try:
            spec = agent_named(type_name)
            if state is not None:
                self._agent, self._state = None, state
            context = TurnContext.from_data(
                data,
                self._loop.time() + left / 1000,
                self._loop.time,
                self._binding,
                read_only=mode == "read",
            )
            result, effects = await self._run(spec, context, mode, put)
        except JidoError as error:
            if mode != "read":
                self._agent = None
            return pack((False, encode_error(error)))
        except asyncio.CancelledError:
            self._agent = None
            raise
        return pack((True, result, self._state, effects))

    async def _run(
        self, spec: AgentSpec, context: TurnContext, mode: str, put: Put | None
    ) -> tuple[bytes, list[Any]]:
        if mode == "read":
            context.agent = agent = spec.load(self._state)
            handler = spec.handler_for(context.type)
            params = handler.work.load_params(context.body)
            return await run_call(handler, agent, params, context), []
        effects: list[Any] = []
        agent = self._agent or await self._activate(spec, context, effects)
        context.agent = agent
        result = b"null"
        if mode == "stop":
            await run_hook(spec, agent, context, "on_stop")
        elif mode == "signal":
            signal = from_wire(context.body)
            context.attach_signal(signal)
            matches = [(h, deliver_params(h, signal)) for h in spec.handlers_for(signal.type)]
            await run_signal(matches, agent, context)
        elif mode == "stream":
            assert put is not None
            handler = spec.stream_for(context.type)
            params = handler.work.load_params(context.body)
            await run_stream(handler, agent, params, context, put)
        else:
            handler = spec.handler_for(context.type)
            params = handler.work.load_params(context.body)
            result = await run_call(handler, agent, params, context)
        self._state = commit_state(spec, agent, self._state)
        self._agent = agent
        effects.extend(context.take_effects())
        return result, effects

    async def _activate(self, spec: AgentSpec, turn: TurnContext, effects: list[Any]) -> Agent:
        """The agent's object; what `on_start` did commits together with the turn."""
        agent = spec.load(self._state)
        if spec.has_on_start:
            assert turn.deadline is not None
            context = TurnContext.from_data(
                turn.to_data(), turn.deadline, turn.clock, self._binding, read_only=False
            )
            context.agent = agent
            await run_hook(spec, agent, context, "on_start")
            effects.extend(context.take_effects())
        return agent
