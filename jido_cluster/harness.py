"""`AgentHarness`: whole turns of one agent in memory, for unit tests."""

import asyncio
import math
import time
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Callable,
    Coroutine,
    Generator,
    Mapping,
)
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, overload

from pydantic_core import from_json

from jido_cluster.agent import TURN, Agent, assign, spec_of
from jido_cluster.errors import ActionTimeoutError, AgentNotFoundError, JidoError
from jido_cluster.exec.action import find_action
from jido_cluster.exec.instruction import Instruction
from jido_cluster.exec.options import load_options
from jido_cluster.exec.resource import Resource, override_all
from jido_cluster.ids import check_id, new_id
from jido_cluster.runtime.flow import Outflow
from jido_cluster.runtime.schedules import next_due, planned, with_timers
from jido_cluster.runtime.turn import (
    CANCEL,
    DELETE,
    SEND,
    START,
    Effect,
    TurnContext,
    commit_state,
    deliver_params,
    encode_signal,
    run_call,
    run_hook,
    run_signal,
    run_stream,
)
from jido_cluster.signals.handler import Declaration, declaration_of, name_arguments
from jido_cluster.signals.signal import Signal, from_wire
from jido_state.timers import NO_TIMERS, Timer

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")
A = TypeVar("A", bound=Agent)

TURN_SECONDS = 30.0  # the deadline of a turn, on virtual time


class AgentHarness(Generic[A]):
    """Runs whole turns of one agent: validation, atomicity, outbox, hooks; no cluster, no waiting.

    Args:
        agent: The agent; the harness works on a copy of its state.
        agent_id: Its id.
        resources: What `ctx.use` gives in place of these resources while a turn runs.

    Attributes:
        emitted: Signals the agent published.
        sent: Signals it sent, with the receiver's id, in order.
        started: Actions it started, in order, as instructions.
    """

    def __init__(
        self,
        agent: A,
        agent_id: str = "test",
        *,
        resources: Mapping[Resource[Any], Any] | None = None,
    ) -> None:
        override_all(resources).close()  # names what is no resource here, not in a turn
        self._resources = dict(resources or {})
        self._spec = spec_of(type(agent))
        self._id = check_id(agent_id)
        self._state = self._spec.dump(agent)
        self._live: Agent | None = None
        self._seq = 0
        self._clock = time.monotonic()
        self._wall = time.time()
        self._binding = _StubBinding()
        self._timers = NO_TIMERS
        self.emitted: list[Signal] = []
        self.sent: list[tuple[str, Signal]] = []
        self.started: list[Instruction] = []
        self.cancelled: list[str] = []
        self.is_deleted = False
        self._running: list[tuple[TurnContext, asyncio.Timeout]] = []

    @property
    def state(self) -> A:
        """A detached copy of the committed state."""
        return self._spec.load(self._state)  # type: ignore[return-value]

    @overload
    async def call(
        self,
        handler: Callable[Concatenate[A, P], Coroutine[Any, Any, R]],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> R: ...
    @overload
    async def call(
        self, handler: Callable[Concatenate[A, P], R], /, *args: P.args, **kwargs: P.kwargs
    ) -> R: ...
    async def call(self, handler: Any, /, *args: Any, **kwargs: Any) -> Any:
        """The result of a turn with one handler; a failure leaves the state as it was.

        Raises:
            JidoError: As a caller of the agent would get it; a handler's own exception is its
                cause.
        """
        declaration = declaration_of(handler)
        work = declaration.work
        body = work.dump_params(name_arguments(declaration, args, kwargs))
        found = self._spec.handler_for(declaration.type)
        params = found.work.load_params(body)
        if found.read_only:
            context = self._context(declaration.type, body, read_only=True)
            context.agent = agent = self._spec.load(self._state)
            running = run_call(found, agent, params, context)
            return work.load_result(await self._bounded(context, running))
        agent = await self._activate()
        context = self._context(declaration.type, body)
        context.agent = agent
        try:
            result = await self._bounded(context, run_call(found, agent, params, context))
            self._commit(agent, context)
        except JidoError:
            self._drop()
            raise
        return work.load_result(result)

    def stream(
        self,
        handler: Callable[Concatenate[A, P], AsyncIterator[R]],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> AsyncGenerator[R, None]:
        """The items of a turn with a stream, as `AgentRef.stream` gives them.

        The turn commits when one more than the last item is asked for; closing it before changes
        nothing.
        """
        declaration = declaration_of(handler)
        found = self._spec.stream_for(declaration.type)
        body = found.work.dump_params(name_arguments(declaration, args, kwargs))
        return self._items(found, body)

    async def _items(self, handler: Declaration, body: bytes) -> AsyncGenerator[Any, None]:
        read_only = handler.read_only
        context = self._context(handler.type, body, read_only=read_only)
        agent = self._spec.load(self._state) if read_only else await self._activate()
        context.agent = agent
        items: asyncio.Queue[bytes | None] = asyncio.Queue()
        outflow = Outflow(items.put_nowait, math.inf)
        params = handler.work.load_params(body)
        running = run_stream(handler, agent, params, context, outflow.put)
        turn = asyncio.create_task(self._bounded(context, running))
        turn.add_done_callback(lambda _: items.put_nowait(None))
        count = 0
        try:
            while (item := await items.get()) is not None:
                yield handler.work.load_result(item)
                count += 1
                outflow.taken(count)
            turn.result()
            if not read_only:
                self._commit(agent, context)
        except BaseException:  # a failure, or that the stream was closed
            turn.cancel()
            await asyncio.wait((turn,))
            if not read_only:
                self._drop()
            raise

    async def deliver(self, signal: Signal, /) -> Any:
        """Run all handlers that match a signal, as one turn.

        Raises:
            HandlerNotFoundError: None matches.
        """
        await self._deliver(from_wire(encode_signal(signal, None)))

    async def _deliver(self, signal: Signal, fired: Timer | None = None) -> None:
        handlers = self._spec.handlers_for(signal.type)
        matches = [(handler, deliver_params(handler, signal)) for handler in handlers]
        agent = await self._activate()
        context = self._context(signal.type, b"{}")
        context.attach_signal(signal)
        context.agent = agent
        try:
            await self._bounded(context, run_signal(matches, agent, context))
            self._commit(agent, context, fired)
        except JidoError:
            self._drop()
            raise

    async def advance(self, seconds: float) -> None:
        """Let virtual time pass: what `ctx.now`, `ctx.remaining` and the agent's timers go by.

        Each timer fires at its own time, as a turn. One whose turn fails raises here, with time
        standing still where it is; it is due again in the next `advance`. While a turn runs, no
        timer fires: an agent has one turn at a time.
        """
        end = self._wall + seconds
        while not self._running and (fired := self._next_timer(end)) is not None:
            self._pass(max(fired.due_ms / 1000 - self._wall, 0.0))
            await self._deliver(planned(fired, fired.op_id(self._id).text), fired)
        self._pass(end - self._wall)
        now = asyncio.get_running_loop().time()
        for context, limit in self._running:
            if context.deadline is not None and context.deadline <= self._clock:
                limit.reschedule(now)
        await asyncio.sleep(0)

    def _pass(self, seconds: float) -> None:
        self._clock += seconds
        self._wall += seconds

    def _next_timer(self, end: float) -> Timer | None:
        """The timer to fire first until then, by the wall clock, in seconds."""
        due = self._timers.due(math.floor(end * 1000))
        return due[0] if due else None

    async def _bounded(self, context: TurnContext, work: Coroutine[Any, Any, T]) -> T:
        """The result of a turn, unless `advance` passes its deadline first."""
        limit = asyncio.timeout(None)
        entry = (context, limit)
        self._running.append(entry)
        try:
            with override_all(self._resources):
                async with limit:
                    return await work
        except TimeoutError as error:
            if isinstance(error, JidoError):
                raise
            message = f"{context.type} had not ended when its deadline passed"
            raise ActionTimeoutError(message) from None
        finally:
            self._running.remove(entry)

    def stub(
        self,
        agent_id: str,
        handler: Callable[..., Any],
        /,
        *,
        returns: Any = None,
        raises: Exception | None = None,
    ) -> None:
        """Answer calls of this handler on another agent, made through `ctx.cluster`.

        Of a stream, `returns` are the items, and `raises` comes after them.
        """
        type_ = declaration_of(handler).type
        self._binding.answers[check_id(agent_id), type_] = (returns, raises)

    async def _activate(self) -> Agent:
        if self._live is None:
            agent = self._spec.load(self._state)
            if self._spec.has_on_start:
                context = self._context("jido.agent.on_start", b"{}")
                context.agent = agent
                await run_hook(self._spec, agent, context, "on_start")
                self._commit(agent, context)
            self._live = agent
        return self._live

    def _drop(self) -> None:
        if self._live is not None:
            assign(self._live, TURN, None)
            self._live = None

    def _commit(self, agent: Agent, context: TurnContext, fired: Timer | None = None) -> None:
        effects = context.take_effects()
        timers = with_timers(self._timers, effects, context.version)
        if fired is not None:
            left = timers.fire(fired, next_due(fired, int(self._wall * 1000)))
            timers = timers if left is None else left
        self._state = commit_state(self._spec, agent, self._state)
        self._timers = timers
        self._seq += 1
        for effect in effects:
            self._record(effect)

    def _record(self, effect: Effect) -> None:
        kind = effect[0]
        if kind == SEND:
            self.sent.append((effect[1], from_wire(effect[2])))
        elif kind == START:
            _, _, action, params, options, _, _, _, _ = effect
            spec = find_action(action)
            given, _ = load_options(options)
            self.started.append(Instruction(spec.target, params=from_json(params), options=given))
        elif kind == CANCEL:
            self.cancelled.append(effect[1])
        elif kind == DELETE:
            self.is_deleted = True

    def _context(self, type_: str, body: bytes, *, read_only: bool = False) -> TurnContext:
        return TurnContext(
            self._id,
            type_,
            new_id("op-"),
            body,
            None,
            self._clock + TURN_SECONDS,
            (0, 1, 0, 0, self._seq + 1),
            self._wall,
            self._seq == 0,
            0,
            self._time,
            self._binding,
            read_only=read_only,
        )

    def _time(self) -> float:
        return self._clock


class _StubBinding:
    """What `ctx.cluster` is in a harness: refs whose calls are answered by stubs."""

    def __init__(self) -> None:
        self.answers: dict[tuple[str, str], tuple[Any, Exception | None]] = {}

    def async_view(self) -> "_StubCluster":
        return _StubCluster(self.answers)

    def sync_view(self) -> "_SyncStubCluster":
        return _SyncStubCluster(self.answers)


_Answers = Mapping[tuple[str, str], tuple[Any, Exception | None]]


class _StubCluster:
    def __init__(self, answers: _Answers) -> None:
        self._answers = answers

    def ref(self, agent_type: Any, agent_id: str | None = None, /) -> "_StubRef":
        return _StubRef(self._answers, agent_id if agent_id is not None else agent_type)


class _StubRef:
    def __init__(self, answers: _Answers, agent_id: str) -> None:
        self._answers = answers
        self.id = check_id(agent_id)

    def options(self, **_: Any) -> "_StubRef":
        return self

    async def call(self, target: Any, /, *_: Any, **__: Any) -> Any:
        return _answer(self._answers, self.id, target)

    async def cast(self, target: Any, /, *_: Any, **__: Any) -> None:
        _answer(self._answers, self.id, target)

    async def stream(self, target: Any, /, *_: Any, **__: Any) -> AsyncGenerator[Any, None]:
        for item in _stubbed_items(self._answers, self.id, target):
            yield item


class _SyncStubCluster:
    def __init__(self, answers: _Answers) -> None:
        self._answers = answers

    def ref(self, agent_type: Any, agent_id: str | None = None, /) -> "_SyncStubRef":
        return _SyncStubRef(self._answers, agent_id if agent_id is not None else agent_type)


class _SyncStubRef(_StubRef):
    def call(self, target: Any, /, *_: Any, **__: Any) -> Any:
        return _answer(self._answers, self.id, target)

    def cast(self, target: Any, /, *_: Any, **__: Any) -> None:  # type: ignore[override]
        _answer(self._answers, self.id, target)

    def stream(self, target: Any, /, *_: Any, **__: Any) -> Generator[Any, None, None]:  # type: ignore[override]
        yield from _stubbed_items(self._answers, self.id, target)


def _answer(answers: _Answers, agent_id: str, target: Any) -> Any:
    returns, raises = _stubbed(answers, agent_id, target)
    if raises is not None:
        raise raises
    return returns


def _stubbed_items(answers: _Answers, agent_id: str, target: Any) -> Generator[Any, None, None]:
    returns, raises = _stubbed(answers, agent_id, target)
    yield from returns or ()
    if raises is not None:
        raise raises


def _stubbed(answers: _Answers, agent_id: str, target: Any) -> tuple[Any, Exception | None]:
    type_ = target if isinstance(target, str) else getattr(target, "type", None)
    if type_ is None:
        type_ = declaration_of(target).type
    if (agent_id, type_) not in answers:
        message = f"no stub for {type_!r} of agent {agent_id!r}; use harness.stub(...)"
        raise AgentNotFoundError(message)
    return answers[agent_id, type_]


__all__ = ["AgentHarness"]
