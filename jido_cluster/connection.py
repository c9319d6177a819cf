"""A process's connection to one cluster: what every ref and view of that cluster shares.

It builds messages out of calls and results out of answers. Two things come from the running turn,
when there is one: who calls (with the whole chain of callers), and the deadline that caps the call.
"""

import os
from collections.abc import Callable, Mapping
from threading import get_ident
from typing import Any, Final, Protocol

from pydantic_core import from_json

from jido_cluster.agent import AgentSpec, current_turn, spec_of
from jido_cluster.config import ClusterConfig
from jido_cluster.errors import (
    ClusterUnavailableError,
    DeadlineExceededError,
    InvalidInputError,
    UsageError,
)
from jido_cluster.exec.context import CURRENT, current_context
from jido_cluster.ids import check_id, new_id
from jido_cluster.runtime.client import Client
from jido_cluster.runtime.flow import Inflow
from jido_cluster.runtime.link import Call
from jido_cluster.runtime.seen import Seen
from jido_cluster.runtime.turn import encode_signal
from jido_cluster.runtime.wire import (
    AGE,
    CALL,
    CALLER,
    CHAIN,
    EVENT_BYTES,
    FENCE,
    LEVEL,
    META,
    OP_ID,
    OPERATION,
    SESSION,
    TRACE,
    VIRTUAL,
    encode_value,
)
from jido_cluster.session import current_seen, is_in_session
from jido_cluster.signals.handler import (
    ON,
    Declaration,
    declaration_of,
    is_no_stream,
    is_stream,
    name_arguments,
)
from jido_cluster.signals.signal import Signal

Load = Callable[[bytes], Any]
NO_EXTRA: Final[dict[str, Any]] = {}


class Driver(Protocol):
    """What a connection asks of the driver that made it."""

    async def ship(self, definition: type) -> None:
        """Make a type of this process's `__main__` known to the cluster; others are left alone."""
        ...

    async def disconnect(self) -> None:
        """Give up this process's part; the cluster goes on unless it is local."""
        ...

    async def shutdown(self) -> None:
        """End the runtime for everyone."""
        ...


class Connection:
    """Shared by all `Cluster` views of a process; closed when the last one is."""

    def __init__(
        self, name: str, client: Client, config: ClusterConfig, driver: Driver, address: str
    ) -> None:
        self.name = name
        self.address = address
        self.client = client
        self.config = config
        self.driver = driver
        self.users = 1
        self.is_closed = False
        # None stands for a ref made without a type: there is nothing to ship.
        self._shipped: set[Any] = {None}
        self._pid = os.getpid()
        self._thread = get_ident()

    def check_usable(self) -> None:
        """Do nothing on the loop that connected.

        Raises:
            UsageError: This is another loop, or a forked process.
            ClusterUnavailableError: The connection was closed.
        """
        # Not by asking asyncio for the running loop: that asks the kernel for the process id.
        if get_ident() != self._thread or not self.client.loop.is_running():
            if os.getpid() != self._pid:
                message = "this connection belongs to the parent process; connect in each worker"
            else:
                message = (
                    "AsyncCluster is bound to the event loop that connected it; connect on this "
                    "one, or use Cluster"
                )
            raise UsageError(message)
        if self.is_closed:
            message = "this connection is closed; connect again"
            raise ClusterUnavailableError(message)

    async def prepare(self, definition: Any) -> None:
        """See that the cluster knows a type, before its first use through this connection."""
        if definition not in self._shipped:
            await self.driver.ship(definition)
            self._shipped.add(definition)

    def is_prepared(self, definition: Any) -> bool:
        """True if `prepare` has nothing to do."""
        return definition in self._shipped

    # -- building messages

    def submit(
        self,
        kind: int,
        ref: "Target",
        target: object,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        *,
        with_meta: bool = False,
    ) -> tuple[Call, Load]:
        """Send a call, by handler, signal or type name; the call and how to read its result.

        Raises:
            InvalidInputError: The parameters do not fit, or are too large.
            HandlerNotFoundError: The function has no `@on`.
        """
        extra: dict[str, Any] | None = None
        declaration: Declaration | None = getattr(target, ON, None)
        if declaration is not None:
            if not declaration.is_callable:
                raise _not_callable(declaration)
            work = declaration.work
            name = declaration.type
            body = work.dump_params(name_arguments(declaration, args, kwargs) if args else kwargs)
            load: Load = work.load_result
            seconds = ref.timeout or declaration.timeout or self.config.call_timeout
        else:
            name, body, extra = _untyped(target, args, kwargs)
            load = from_json
            seconds = ref.timeout or self.config.call_timeout
        if ref.virtual_name is not None:
            extra = {**(extra or NO_EXTRA), VIRTUAL: ref.virtual_name}
        if with_meta:
            extra = {**(extra or NO_EXTRA), META: 1}
            if ref.op_id is None and current_turn.get() is None:
                # The caller is told its id, and may use it again: nobody acknowledges such a one.
                extra[OP_ID] = new_id("request-")
        if CURRENT.get() is None and ref.op_id is None and not is_in_session():
            return self.client.submit(kind, ref.id, name, body, seconds, extra), load
        seconds, extra = self.envelope(seconds, extra, ref.op_id, (ref.id, name, body))
        seen, extra = self._in_session(extra)
        call = self.client.submit(kind, ref.id, name, body, seconds, extra)
        call.seen = seen
        turn = current_turn.get()
        if kind == CALL and turn is not None and turn.is_running:
            turn.begin_await(call, ref.id)
        return call, load

    def stream_request(
        self, ref: "Target", handler: object, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Declaration, bytes]:
        """The handler of a stream and its parameters, checked; nothing is sent.

        Raises:
            InvalidInputError: It is no stream, the ref has an `op_id`, or a parameter does not fit.
            HandlerNotFoundError: The function has no `@on`.
        """
        declaration = declaration_of(handler)
        if not declaration.is_stream:
            raise is_no_stream(declaration)
        if ref.op_id is not None:
            message = (
                f"a stream is not deduplicated, because its items are not kept: ask for "
                f"{declaration.name!r} without op_id={ref.op_id!r}"
            )
            raise InvalidInputError(message)
        params = name_arguments(declaration, args, kwargs)
        return declaration, declaration.work.dump_params(params)

    def open_stream(self, ref: "Target", declaration: Declaration, body: bytes) -> Inflow:
        """Ask for a stream."""
        seconds = ref.timeout or declaration.timeout or self.config.call_timeout
        extra = {VIRTUAL: ref.virtual_name} if ref.virtual_name is not None else None
        called = (ref.id, declaration.type, body)
        seconds, extra = self.envelope(seconds, extra, None, called)
        seen, extra = self._in_session(extra)
        inflow = self.client.submit_stream(ref.id, declaration.type, body, seconds, extra)
        inflow.call.seen = seen
        turn = current_turn.get()
        if turn is not None and turn.is_running:
            turn.begin_await(inflow.call, ref.id)
        return inflow

    def envelope(
        self,
        seconds: float,
        extra: dict[str, Any] | None,
        op_id: str | None,
        called: tuple[str, str, bytes],
    ) -> tuple[float, dict[str, Any] | None]:
        """The time a message gets and its extra parts, given what runs here.

        Args:
            seconds: What it would get.
            extra: What it has.
            op_id: Given by the user.
            called: Target, signal type or operation, and parameters: they name a nested call.

        Raises:
            DeadlineExceededError: The running turn or action has no time left.
        """
        context = current_context()
        if context is not None:
            remaining = context.remaining()
            if remaining is not None:
                if remaining <= 0:
                    message = "the time of the running turn is up; nothing was sent"
                    raise DeadlineExceededError(message)
                seconds = min(seconds, remaining)
        turn = current_turn.get()
        if turn is not None and turn.is_running:
            extra = {
                **(extra or NO_EXTRA),
                CALLER: turn.agent_id,
                CHAIN: [*turn.chain, turn.agent_id],
                AGE: turn.age,
                TRACE: turn.trace,
                OP_ID: op_id or turn.nested_op(*called).text,
            }
            if turn.is_fenced:
                extra[FENCE] = list(turn.version)
        elif context is not None:
            extra = {**(extra or NO_EXTRA), TRACE: context.trace}
            if op_id is not None:
                extra[OP_ID] = op_id
        elif op_id is not None:
            extra = {**(extra or NO_EXTRA), OP_ID: op_id}
        return seconds, extra

    def _in_session(
        self, extra: dict[str, Any] | None
    ) -> tuple[Seen | None, dict[str, Any] | None]:
        """The session of what runs here, and the extra parts of a message of it.

        Raises:
            SessionUnavailableError: The session has seen too much for one token.
        """
        seen = current_seen()
        turn = current_turn.get()
        if seen is None and turn is not None and turn.is_running:
            text = turn.session_text()
            if turn.seen is None and text is not None:  # in a worker: nobody has read it yet
                view, key = self.client.view, self.client.session_key
                turn.seen = Seen.read(text, key, view.cluster_id, view.recovery_no)
            seen = turn.seen
        if seen is None:
            return None, extra
        return seen, {**(extra or NO_EXTRA), SESSION: seen.checked_text()}

    def operate(
        self, ref: "Target", operation: str, body: bytes = b"null", *, level: str | None = None
    ) -> Call:
        """Ask an agent's host for something.

        Args:
            ref: The agent.
            operation: What.
            body: Its parameters.
            level: Of a read; None for that of the agent.
        """
        seconds = ref.timeout or self.config.call_timeout
        extra = None if level is None else {LEVEL: level}
        called = (ref.id, operation, body)
        seconds, extra = self.envelope(seconds, extra, ref.op_id, called)
        seen, extra = self._in_session(extra)
        call = self.client.submit(OPERATION, ref.id, operation, body, seconds, extra)
        call.seen = seen
        return call

    def node_name(self, node_id: str) -> str:
        """Name of a node, or its id when the node is no more."""
        member = self.client.view.by_id(node_id)
        return member.name if member is not None else node_id


class Target:
    """Whom a message is for and how: the immutable part of a ref."""

    __slots__ = ("agent_type", "id", "op_id", "spec", "timeout", "virtual_name")

    def __init__(
        self,
        id_: str,
        spec: AgentSpec | None,
        timeout: float | None = None,
        op_id: str | None = None,
    ) -> None:
        self.id = id_
        self.spec = spec
        self.timeout = timeout
        self.op_id = op_id
        self.agent_type = spec.agent_type if spec is not None else None
        self.virtual_name = spec.name if spec is not None and spec.virtual else None

    def with_options(self, timeout: float | None, op_id: str | None) -> "Target":
        """A copy with other options; None leaves one as it is."""
        return Target(
            self.id, self.spec, check_timeout(timeout, self.timeout), check_op(op_id, self.op_id)
        )


def check_timeout(timeout: float | None, default: float | None) -> float | None:
    """The timeout of `options`, in seconds.

    Raises:
        InvalidInputError: It is not > 0 and finite.
    """
    if timeout is None:
        return default
    if isinstance(timeout, bool) or not isinstance(timeout, int | float):
        message = f"timeout is {timeout!r}; use seconds > 0"
        raise InvalidInputError(message)
    if not 0 < timeout <= MAX_TIMEOUT:
        message = f"timeout is {timeout!r}; use seconds > 0, at most {MAX_TIMEOUT:.0f}"
        raise InvalidInputError(message)
    return float(timeout)


MAX_TIMEOUT: Final = 7 * 86400.0


def check_op(op_id: str | None, default: str | None) -> str | None:
    """The operation id of `options`.

    Raises:
        InvalidInputError: It is no valid id.
    """
    return default if op_id is None else check_id(op_id)


def target_of(agent_type: Any, agent_id: Any) -> Target:
    """The target of `ref([agent_type,] agent_id)`.

    Raises:
        InvalidInputError: The id is malformed.
        ConfigError: The type is no agent type.
    """
    if agent_id is None:
        agent_type, agent_id = None, agent_type
    spec = spec_of(agent_type) if agent_type is not None else None
    return Target(check_id(agent_id), spec)


def _not_callable(declaration: Declaration) -> InvalidInputError:
    if declaration.is_stream:
        return is_stream(declaration)
    message = (
        f"handler {declaration.name!r} listens to the pattern {declaration.type!r}; call it with a "
        "Signal of one literal type"
    )
    return InvalidInputError(message)


def _untyped(
    target: object, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[str, bytes, dict[str, Any] | None]:
    """Type, parameters and extra of a call by type name or by signal.

    Raises:
        InvalidInputError: Positional parameters, or data that does not travel.
        HandlerNotFoundError: It is neither.
    """
    if isinstance(target, str):
        if args:
            message = f"call {target!r} by string takes its parameters by name"
            raise InvalidInputError(message)
        return target, encode_value(kwargs), None
    if isinstance(target, Signal):
        body = encode_value(target.data if isinstance(target.data, Mapping) else {})
        return target.type, body, {EVENT_BYTES: encode_signal(target, _caller())}
    declaration_of(target)  # raises: a function without @on, or something else
    raise AssertionError


def _caller() -> str | None:
    turn = current_turn.get()
    return turn.agent_id if turn is not None else None
