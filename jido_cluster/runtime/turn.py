"""One turn: the context a handler sees, its outbox, and running handlers on an agent.

The same code runs turns on a shard host, in a dedicated worker and in the test harness. It knows
nothing of mailboxes, shards or commits: it takes an object and says what came of it.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, TypeVar, Unpack, cast

from jido_cluster.agent import (
    TURN,
    Agent,
    AgentSpec,
    assign,
    current_turn,
    replace_fields,
    spec_of,
)
from jido_cluster.errors import ExecutionError, InvalidInputError, JidoError, UsageError
from jido_cluster.exec.action import spec_of as action_spec_of
from jido_cluster.exec.context import ClusterBinding, Context
from jido_cluster.exec.engine import perform
from jido_cluster.exec.failures import has_started
from jido_cluster.exec.needs import Needs, needs_to_data
from jido_cluster.exec.options import RunOptions, check_options, dump_options
from jido_cluster.exec.outcome import Outcome
from jido_cluster.exec.stream import Put
from jido_cluster.exec.work import Work
from jido_cluster.ids import check_id
from jido_cluster.runtime.fence import Fence, fence_of
from jido_cluster.runtime.schedules import SCHEDULE, UNSCHEDULE, when
from jido_cluster.runtime.view import run_id_at
from jido_cluster.runtime.wire import AGE, CALLER, CHAIN, EVENT_BYTES, SESSION, TRACE, encode_value
from jido_cluster.signals.handler import Declaration, declaration_of, is_stream
from jido_cluster.signals.signal import Signal, from_wire
from jido_state.operations import OpId
from jido_state.versions import NO_VERSION

if TYPE_CHECKING:
    import asyncio

    from jido_cluster.cluster import AsyncCluster
    from jido_cluster.refs import AgentRef, AsyncAgentRef
    from jido_cluster.runtime.cell import Cell
    from jido_cluster.runtime.seen import Seen
    from jido_cluster.sync_cluster import Cluster

R = TypeVar("R")

# Kinds of effects in an outbox; those of timers are in `schedules`.
SEND: Final = 0  # (SEND, agent id, signal bytes, type name of a virtual agent or None, session)
START: Final = 1  # (START, run id, action, params, options, needs, reply or None, tag, trace)
CANCEL: Final = 2  # (CANCEL, run id)
DELETE: Final = 3  # (DELETE,)
Effect = tuple[Any, ...]

MAX_EFFECTS: Final = 10_000  # of one turn; a loop that forgets to end should fail its own turn


class TurnContext(Context):
    """What a handler may ask and do: `self.ctx`.

    `send`, `start`, `cancel` and `delete` form the outbox: nothing of it happens unless the turn
    commits. One is made for each message on the hottest path, so it keeps what the message brought
    and works out the rest when asked.

    Attributes:
        agent_id: Id of the agent whose turn this is.
        type: Signal type of the turn.
        op_id: Id of the operation; the same on every retry of it.
        is_new: True in the first activation of an agent's life.
        read_only: Whether the handler may only look.
        agent: The object the turn runs on.
        cell: The agent on its host, when the turn runs there.
        seen: What the session has seen in which the turn was called; its own calls add to it.
        version: What the turn commits as; the fence of its calls. Without a quorum it is none.
    """

    __slots__ = (
        "_awaited",
        "_body",
        "_effects",
        "_extra",
        "_nested",
        "_now",
        "_shard",
        "_signal",
        "agent",
        "agent_id",
        "cell",
        "is_new",
        "op_id",
        "read_only",
        "seen",
        "type",
        "version",
    )

    def __init__(
        self,
        agent_id: str,
        type_: str,
        op_id: str,
        body: bytes,
        extra: Mapping[str, Any] | None,
        deadline: float,
        version: Sequence[int],
        now: float,
        is_new: bool,
        shard: int,
        clock: Callable[[], float],
        binding: ClusterBinding | None,
        *,
        read_only: bool = False,
    ) -> None:
        # The fields of Context, set here: a second constructor call for each message costs 0.3 us.
        self.data = _NOTHING
        self.attempt = 1
        self.clock = clock
        self.deadline = deadline
        self.budget = None
        self._run_id = op_id
        self._parent = extra.get(TRACE) if extra else None
        self._span = ""
        self._cluster = binding
        self.agent_id = agent_id
        self.type = type_
        self.op_id = op_id
        self.is_new = is_new
        self.read_only = read_only
        self.agent: Agent | None = None
        self._body = body
        self._extra = extra
        self.version = version
        self._now = now
        self._shard = shard
        self._signal: Signal | None = None
        self._effects: list[Effect] | None = None
        self._nested = 0
        self._awaited: Counter[str] | None = None
        self.cell: Cell | None = None
        self.seen: Seen | None = None

    @property
    def is_running(self) -> bool:
        """False once the turn has ended, also for tasks it left behind."""
        return getattr(self.agent, TURN, None) is self

    @property
    def caller(self) -> str | None:
        """Id of the agent that called, None when no agent did."""
        return self._extra.get(CALLER) if self._extra else None

    @property
    def chain(self) -> tuple[str, ...]:
        """Ids of the agents that wait for this turn, outermost first."""
        return tuple(self._extra.get(CHAIN, ())) if self._extra else ()

    @property
    def age(self) -> tuple[float, str]:
        """When the outermost call of the chain began, and its operation: smaller is older."""
        if self._extra and AGE in self._extra:
            began, op_id = self._extra[AGE]
            return began, op_id
        return self._now, self.op_id

    def session_text(self) -> str | None:
        """The token of the session in which the turn was called, with what its own calls saw."""
        if self.seen is not None:
            return self.seen.checked_text()
        return self._extra.get(SESSION) if self._extra else None

    def awaits(self, agent_id: str) -> bool:
        """True while the turn waits for a call to that agent."""
        return self._awaited is not None and self._awaited[agent_id] > 0

    def begin_await(self, call: "asyncio.Future[Any]", agent_id: str) -> None:
        """The turn waits for this call to an agent until it is done."""
        if self._awaited is None:
            self._awaited = Counter()
        awaited = self._awaited
        awaited[agent_id] += 1
        call.add_done_callback(lambda _: awaited.subtract((agent_id,)))
        if self.cell is not None:
            self.cell.refuse_crossed(self)

    @property
    def signal(self) -> Signal:
        """The signal this turn answers; a call is seen as one whose data are its parameters."""
        if self._signal is None:
            extra = self._extra
            if extra and EVENT_BYTES in extra:
                self._signal = from_wire(extra[EVENT_BYTES])
            else:
                self._signal = Signal(
                    self.type,
                    Work.plain(self._body),
                    id=self.op_id,
                    source=self.caller,
                    time=self.now,
                )
        return self._signal

    def attach_signal(self, signal: Signal) -> None:
        """Make this the signal that `signal` gives."""
        self._signal = signal

    @property
    def is_fenced(self) -> bool:
        """Whether it has a fence: not without a quorum."""
        return len(self.version) == len(NO_VERSION)

    @property
    def fence(self) -> Fence:
        """Fencing token of this turn; None without a quorum (only under "continue_all")."""
        return Fence(*fence_of(self.version)) if self.is_fenced else None  # type: ignore[return-value]

    @property
    def now(self) -> datetime:
        """Time of the turn; never earlier than in a previous turn of this agent."""
        return datetime.fromtimestamp(self._now, UTC)

    def send(self, to: "str | AgentRef[Any] | AsyncAgentRef[Any]", signal: Signal, /) -> None:
        """Deliver a signal to an agent after this turn commits.

        Raises:
            InvalidInputError: The id or the signal's data cannot travel.
            UsageError: The turn is over or read-only.
        """
        target = check_id(to if isinstance(to, str) else to.id)
        virtual = None if isinstance(to, str) else to.virtual_name
        if not isinstance(signal, Signal):
            message = f"send() takes a Signal, not {signal!r}; use Signal.of(Handler, ...)"  # type: ignore[unreachable]
            raise InvalidInputError(message)
        session = self.session_text() if self._extra else None
        self._add((SEND, target, encode_signal(signal, self.agent_id), virtual, session))

    def start(
        self,
        action: Any,
        params: Any,
        /,
        *,
        reply: Callable[[Outcome[R]], Any] | None = None,
        tag: str = "",
        needs: Needs | None = None,
        **options: Unpack[RunOptions],
    ) -> str:
        """Run an action on a fit node after this turn commits.

        Args:
            action: A registered `Action`, or a function with `@action`.
            params: Its parameters.
            reply: A handler of this agent; gets the `Outcome` as a later turn.
            tag: Comes back in the outcome.
            needs: What the node must have, beyond what the action itself says.
            **options: As for `jido_cluster.run`.

        Returns:
            The run's id.

        Raises:
            InvalidInputError: The parameters do not validate.
            UsageError: `reply` is no handler of this agent, or the turn is over or read-only.
            ConfigError: An option is unknown or ill.
        """
        spec = action_spec_of(action)
        checked, answer = dump_options(check_options(options)), self._reply_handler(reply)
        dumped = spec.dump_params(params)
        unique = self.nested_op(self.agent_id, spec.name, dumped).path.removeprefix("~")
        run_id = run_id_at(self._shard, unique)
        self._add(
            (
                START,
                run_id,
                spec.name,
                dumped,
                checked,
                needs_to_data(needs if needs is not None else spec.needs),
                answer,
                tag,
                self.trace,
            )
        )
        return run_id

    def cancel(self, run_id: str, /) -> None:
        """Cancel a run after this turn commits; one that has finished is left alone."""
        self._add((CANCEL, run_id))

    def schedule(
        self,
        signal: Signal,
        /,
        *,
        key: str,
        after: float | None = None,
        at: datetime | None = None,
        cron: str | None = None,
        tz: str = "UTC",
    ) -> None:
        """Deliver a signal to this agent later, once or again and again, if this turn commits.

        The timer is part of the agent's record, so it outlives nodes. Its firing is a turn. What
        was missed fires once, late; `signal.extensions["jidoplanned"]` tells for when it was
        planned. A handler that fails is tried again some times, then that firing is left out.

        Args:
            signal: What this agent gets.
            key: Name of the timer; setting the same one replaces it.
            after: Seconds from now, >= 0.
            at: A point in time with a time zone.
            cron: A cron line of five fields, or six with seconds first.
            tz: Time zone of `cron`.

        Raises:
            InvalidInputError: Not exactly one of `after`, `at` and `cron` is given, or it is
                malformed, or the signal's data do not fit its handler.
            HandlerNotFoundError: This agent has no handler for the signal.
            UsageError: The turn is over or read-only, or the agent is kept in memory only.
        """
        spec = spec_of(type(self.agent))
        if spec.durability == "none":
            message = (
                f'{spec.name!r} has durability="none" and no record that could keep a timer; send '
                "it the signal from an agent that has one"
            )
            raise UsageError(message)
        due_ms, schedule = when(self._now, after, at, cron, tz)
        body = encode_signal(signal, self.agent_id)
        for handler in spec.handlers_for(signal.type):
            deliver_params(handler, signal)
        self._add((SCHEDULE, check_id(key), due_ms, schedule, body))

    def unschedule(self, key: str, /) -> None:
        """End the timer of this key, if there is one and this turn commits."""
        self._add((UNSCHEDULE, check_id(key)))

    def delete(self) -> None:
        """End this agent with this turn: its hooks run, its state goes, its id is free."""
        self._add((DELETE,))

    def nested_op(self, target: str, what: str, body: bytes) -> OpId:
        """The name of the turn's next call, the same when the turn takes the same way again.

        Args:
            target: Whom it calls.
            what: Signal type, or name of the action.
            body: The parameters.
        """
        self._nested += 1
        return OpId.named(self.op_id).nested(self._nested, target, what, body)

    def to_data(self) -> list[Any]:
        """The turn's coordinates as plain data, for a worker; it sets its own deadline."""
        return [
            self.agent_id,
            self.type,
            self.op_id,
            self._body,
            self._extra,
            list(self.version),
            self._now,
            self.is_new,
            self._shard,
        ]

    @classmethod
    def from_data(
        cls,
        data: Sequence[Any],
        deadline: float,
        clock: Callable[[], float],
        binding: ClusterBinding | None,
        *,
        read_only: bool,
    ) -> "TurnContext":
        """The context of `to_data`, in the worker's process."""
        agent_id, type_, op_id, body, extra, version, now, is_new, shard = data
        return cls(
            agent_id,
            type_,
            op_id,
            body,
            extra,
            deadline,
            version,
            now,
            is_new,
            shard,
            clock,
            binding,
            read_only=read_only,
        )

    @property
    def body(self) -> bytes:
        """The parameters, or the signal, as they came."""
        return self._body

    def take_effects(self) -> Sequence[Effect]:
        """The outbox, in order."""
        return self._effects or ()

    def _add(self, effect: Effect) -> None:
        if current_turn.get() is not self or not self.is_running:
            message = "ctx was used after its turn had ended; await what a handler starts"
            raise UsageError(message)
        if self.read_only:
            message = "a read_only handler has no outbox; drop read_only=True to send or start"
            raise UsageError(message)
        if self._effects is None:
            self._effects = []
        elif len(self._effects) >= MAX_EFFECTS:
            message = f"this turn has {MAX_EFFECTS} outgoing signals and runs, which is the limit"
            raise UsageError(message)
        self._effects.append(effect)

    def _reply_handler(self, reply: Callable[..., Any] | None) -> list[str] | None:
        """Type and first parameter of the handler that gets the outcome."""
        if reply is None:
            return None
        declaration = declaration_of(reply)
        if getattr(reply, "__self__", None) is not self.agent:
            message = f"reply={declaration.name} is not a handler of this agent; pass self.<name>"
            raise UsageError(message)
        if declaration.is_stream:
            raise is_stream(declaration)
        if not declaration.positional:
            message = f"reply={declaration.name} takes no parameter; it needs one for the Outcome"
            raise UsageError(message)
        return [declaration.type, declaration.positional[0]]

    if TYPE_CHECKING:

        @property
        def cluster(self) -> AsyncCluster: ...  # noqa: D102
        @property
        def sync_cluster(self) -> Cluster: ...  # noqa: D102


_NOTHING: Final[Mapping[str, Any]] = {}


def encode_signal(signal: Signal, sender: str | None) -> bytes:
    """The signal as JSON bytes; one without a source gets the sender's id."""
    event = signal.to_dict()
    if sender is not None and signal.source == "/":
        event["source"] = sender
    return encode_value(event)


def deliver_params(declaration: Declaration, signal: Signal) -> dict[str, Any]:
    """Parameters a delivered signal gives a handler: the names it knows, of an object's data.

    Raises:
        InvalidInputError: A known name does not validate, or a required one is missing.
    """
    data = signal.data if isinstance(signal.data, Mapping) else {}
    params: dict[str, Any] = declaration.work.load_params(encode_value(data), ignore_unknown=True)
    return params


async def run_call(
    declaration: Declaration, agent: Agent, params: dict[str, Any], context: TurnContext
) -> bytes:
    """Run the one handler of a call on the agent.

    Returns:
        The result as JSON bytes.

    Raises:
        ExecutionError: The handler failed; the object is spoilt and has to be dropped.
    """
    assign(agent, TURN, context)
    current_turn.set(context)
    work = declaration.work
    try:
        output = work.dump_result
        return cast("bytes", await perform(work, (agent,), params, context, None, output=output))
    except JidoError as error:
        raise turn_error(error) from error.__cause__
    finally:
        assign(agent, TURN, None)


async def run_stream(
    declaration: Declaration,
    agent: Agent,
    params: dict[str, Any],
    context: TurnContext,
    put: Put,
) -> None:
    """Run a stream's handler on the agent to its end.

    Args:
        declaration: The handler.
        agent: The object the turn runs on.
        params: Its checked parameters.
        context: The turn.
        put: Awaited with each item as JSON bytes, while the handler stands still at its `yield`.

    Raises:
        ExecutionError: The handler failed; the object is spoilt and has to be dropped.
        asyncio.CancelledError: The stream was given up, and so is the object.
    """
    assign(agent, TURN, context)
    current_turn.set(context)
    work = declaration.work

    async def give(item: Any) -> None:
        await put(work.dump_result(item))

    try:
        await perform(work, (agent, give), params, context, None)
    except JidoError as error:
        raise turn_error(error) from error.__cause__
    finally:
        assign(agent, TURN, None)


async def run_signal(
    matches: Sequence[tuple[Declaration, dict[str, Any]]], agent: Agent, context: TurnContext
) -> None:
    """Run all handlers of a delivered signal, in order, as one turn.

    Raises:
        ExecutionError: One failed; the object is spoilt and has to be dropped.
    """
    assign(agent, TURN, context)
    current_turn.set(context)
    try:
        for declaration, params in matches:
            await perform(declaration.work, (agent,), params, context, None)
    except JidoError as error:
        raise turn_error(error) from error.__cause__
    finally:
        assign(agent, TURN, None)


def turn_error(error: JidoError) -> JidoError:
    """What the caller of a handler gets for an error that the handler let through.

    The error of a nested call says "did not run" or "unknown" of that call. Of this turn it is
    known that it ran and changed nothing, unless the engine never started it.
    """
    if isinstance(error, ExecutionError) or not has_started(error):
        return error
    return ExecutionError(
        f"{type(error).__name__}: {error.message}",
        retryable=error.retryable,
        cause=error.to_dict(),
    )


async def run_hook(spec: AgentSpec, agent: Agent, context: TurnContext, hook: str) -> None:
    """Run `on_start` or `on_stop` on the agent.

    Raises:
        ExecutionError: It failed; the object is spoilt and has to be dropped.
    """
    assign(agent, TURN, context)
    current_turn.set(context)
    try:
        await perform(_hook_work(spec, hook), (agent,), {}, context, None)
    except JidoError as error:
        raise turn_error(error) from error.__cause__
    finally:
        assign(agent, TURN, None)


def _hook_work(spec: AgentSpec, hook: str) -> Work:
    key = (spec.agent_type, hook)
    work = _hooks.get(key)
    if work is None:
        function = getattr(spec.agent_type, hook)
        work = Work.from_model(function, name=f"{spec.name}.{hook}", params=None, result=Any)
        work.takes_context_last = False
        _hooks[key] = work
    return work


_hooks: dict[tuple[type, str], Work] = {}


def commit_state(spec: AgentSpec, agent: Agent, before: bytes) -> bytes:
    """The new state of the agent after a turn, proven to load; the object then equals it.

    Raises:
        InvalidOutputError: The state does not encode or load; the object has to be dropped.
    """
    data = spec.dump(agent)
    if data != before:
        # The loaded fields replace the live ones: what "3" in an int field loads as is what the
        # next turn sees, and nothing left behind by this turn shares a list with it.
        replace_fields(agent, spec.load(data))
    return data
