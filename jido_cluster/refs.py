"""Refs: how an agent is called. `AsyncAgentRef` does the work; `AgentRef` waits for it."""

import concurrent.futures
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Generator
from typing import Any, Concatenate, Generic, ParamSpec, Self, TypeVar, overload

from pydantic_core import from_json

from jido_cluster.agent import Agent, Consistency, agent_named
from jido_cluster.connection import Connection, Target
from jido_cluster.errors import InvalidInputError
from jido_cluster.portal import Portal
from jido_cluster.runtime.fence import Fence, fence_of
from jido_cluster.runtime.link import look
from jido_cluster.runtime.operations import DELETE, INFO, PASSIVATE, STATE
from jido_cluster.runtime.wire import CALL, CAST
from jido_cluster.signals.signal import Signal
from jido_cluster.streams import Stream
from jido_cluster.types import AgentInfo, Reply

P = ParamSpec("P")
R = TypeVar("R")
A_co = TypeVar("A_co", bound=Agent, covariant=True)


class AsyncAgentRef(Generic[A_co]):
    """An agent by its id, for code on an event loop. Cheap to make; does no I/O by itself."""

    __slots__ = ("_connection", "_target")

    def __init__(self, connection: Connection, target: Target) -> None:
        self._connection = connection
        self._target = target

    @property
    def id(self) -> str:
        """The agent's id."""
        return self._target.id

    @property
    def virtual_name(self) -> str | None:
        """Name of the agent's type, if that is virtual and the ref was made with it."""
        return self._target.virtual_name

    @overload
    async def call(
        self,
        handler: Callable[Concatenate[A_co, P], Coroutine[Any, Any, R]],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> R: ...
    @overload
    async def call(
        self, handler: Callable[Concatenate[A_co, P], R], /, *args: P.args, **kwargs: P.kwargs
    ) -> R: ...
    @overload
    async def call(self, signal: Signal, /) -> Any: ...
    @overload
    async def call(self, signal_type: str, /, **params: Any) -> Any: ...
    async def call(self, target: Any, /, *args: Any, **kwargs: Any) -> Any:
        """The result of the one handler that fits.

        Args:
            target: A handler of the agent's type, a signal type, or a whole signal.
            *args: The handler's parameters.
            **kwargs: The handler's parameters.

        Raises:
            RejectedError: It did not run.
            ExecutionError: It ran and failed; the agent's state is unchanged.
            OutcomeUnknownError: It may have run; retry with `options(op_id=error.op_id)`.
        """
        connection = self._connection
        connection.check_usable()
        if not connection.is_prepared(self._target.agent_type):
            await self._ready()
        call, load = connection.submit(CALL, self._target, target, args, kwargs)
        return load(await call)

    @overload
    async def request(
        self,
        handler: Callable[Concatenate[A_co, P], Coroutine[Any, Any, R]],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> Reply[R]: ...
    @overload
    async def request(
        self, handler: Callable[Concatenate[A_co, P], R], /, *args: P.args, **kwargs: P.kwargs
    ) -> Reply[R]: ...
    @overload
    async def request(self, signal: Signal, /) -> Reply[Any]: ...
    @overload
    async def request(self, signal_type: str, /, **params: Any) -> Reply[Any]: ...
    async def request(self, target: Any, /, *args: Any, **kwargs: Any) -> Any:
        """As `call`, with what the result rests on."""
        await self._ready()
        connection = self._connection
        call, load = connection.submit(CALL, self._target, target, args, kwargs, with_meta=True)
        body, (version, node_id, durability, *is_stale) = await call
        return Reply(
            value=load(body),
            op_id=connection.client.op_id(call),
            durability=durability,
            fence=Fence(*fence_of(version)) if version else None,  # type: ignore[arg-type]
            node=connection.node_name(node_id),
            attempts=call.attempts,
            is_partitioned=not version,
            is_stale=any(is_stale),
        )

    @overload
    async def cast(
        self, handler: Callable[Concatenate[A_co, P], Any], /, *args: P.args, **kwargs: P.kwargs
    ) -> None: ...
    @overload
    async def cast(self, signal: Signal, /) -> None: ...
    @overload
    async def cast(self, signal_type: str, /, **params: Any) -> None: ...
    async def cast(self, target: Any, /, *args: Any, **kwargs: Any) -> None:
        """Send it without waiting: it runs at most once, and nothing is heard of it.

        Raises:
            InvalidInputError: The parameters do not fit.
            OverloadedError: This process has too many unanswered calls.
        """
        await self._ready()
        call, _ = self._connection.submit(CAST, self._target, target, args, kwargs)
        call.add_done_callback(look)

    def stream(
        self,
        handler: Callable[Concatenate[A_co, P], AsyncIterator[R]],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> AsyncGenerator[R, None]:
        """The items that a handler yields, as they come; it is asked when the first one is wanted.

        The turn commits when the last item was taken and one more was wanted. Until then, closing
        the iterator (or dropping it) cancels the turn. The deadline holds for the whole stream, the
        taker's own time included. The handler runs ahead by at most 64 items.

        Args:
            handler: An async generator of the agent's type.
            *args: The handler's parameters.
            **kwargs: The handler's parameters.

        Raises:
            InvalidInputError: At once: the parameters do not fit, it is no stream, or this ref has
                an `op_id`. What follows is raised by the iterator, after the items that came.
            RejectedError: It did not run.
            ExecutionError: It ran and failed; the agent's state is unchanged.
            OutcomeUnknownError: It may have committed: the connection to its host broke.
        """
        return Stream(self._connection, self._target, handler, args, kwargs).items()

    def options(self, *, timeout: float | None = None, op_id: str | None = None) -> Self:
        """A ref with other options: seconds until the deadline, and the operation's id."""
        return type(self)(self._connection, self._target.with_options(timeout, op_id))

    async def state(self, *, consistency: Consistency | None = None) -> A_co:
        """A detached copy of the committed state.

        Args:
            consistency: The level of this read; None for the one of the agent's type. Only a weaker
                one than that can be had: what was written at a level cannot be read at a higher.

        Raises:
            InvalidInputError: The level is unknown, or stronger than the agent's.
            AgentNotFoundError: There is no such agent.
        """
        await self._ready()
        if consistency not in (None, "eventual", "session", "strong"):
            message = f"consistency is {consistency!r}; use 'eventual', 'session' or 'strong'"
            raise InvalidInputError(message)
        body = await self._connection.operate(self._target, STATE, level=consistency)
        type_name, data = from_json(body)
        return agent_named(type_name).load(data.encode())  # type: ignore[return-value]

    async def info(self) -> AgentInfo:
        """Where the agent is, and what it is."""
        await self._ready()
        row = from_json(await self._connection.operate(self._target, INFO))
        return agent_info(self._connection, row)

    async def passivate(self) -> None:
        """Take the agent out of memory now; its state is kept, the next message wakes it."""
        await self._ready()
        await self._connection.operate(self._target, PASSIVATE)

    async def delete(self) -> None:
        """End the agent: hooks run, its state is gone, its id is free.

        Raises:
            AgentNotFoundError: There is none.
        """
        await self._ready()
        await self._connection.operate(self._target, DELETE)

    async def _ready(self) -> None:
        self._connection.check_usable()
        if self._target.agent_type is not None:
            await self._connection.prepare(self._target.agent_type)

    def __repr__(self) -> str:
        return _describe(self)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AsyncAgentRef) and _key(self) == _key(other)

    def __hash__(self) -> int:
        return hash(_key(self))

    def __reduce__(self) -> tuple[Any, ...]:
        from jido_cluster.connections import load_ref

        return (load_ref, (False, *_portable(self)))


class AgentRef(Generic[A_co]):
    """An agent by its id, for synchronous code; safe to use from many threads."""

    __slots__ = ("_portal", "_ref")

    def __init__(self, ref: AsyncAgentRef[A_co], portal: Portal) -> None:
        self._ref = ref
        self._portal = portal

    @property
    def id(self) -> str:
        """The agent's id."""
        return self._ref.id

    @property
    def virtual_name(self) -> str | None:
        """As `AsyncAgentRef.virtual_name`."""
        return self._ref.virtual_name

    @overload
    def call(
        self,
        handler: Callable[Concatenate[A_co, P], Coroutine[Any, Any, R]],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> R: ...
    @overload
    def call(
        self, handler: Callable[Concatenate[A_co, P], R], /, *args: P.args, **kwargs: P.kwargs
    ) -> R: ...
    @overload
    def call(self, signal: Signal, /) -> Any: ...
    @overload
    def call(self, signal_type: str, /, **params: Any) -> Any: ...
    def call(self, target: Any, /, *args: Any, **kwargs: Any) -> Any:
        """As `AsyncAgentRef.call`; blocks until the result is there."""
        return self._portal.call(self._ref.call(target, *args, **kwargs))

    @overload
    def request(
        self,
        handler: Callable[Concatenate[A_co, P], Coroutine[Any, Any, R]],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> Reply[R]: ...
    @overload
    def request(
        self, handler: Callable[Concatenate[A_co, P], R], /, *args: P.args, **kwargs: P.kwargs
    ) -> Reply[R]: ...
    @overload
    def request(self, signal: Signal, /) -> Reply[Any]: ...
    @overload
    def request(self, signal_type: str, /, **params: Any) -> Reply[Any]: ...
    def request(self, target: Any, /, *args: Any, **kwargs: Any) -> Any:
        """As `AsyncAgentRef.request`; blocks until the result is there."""
        return self._portal.call(self._ref.request(target, *args, **kwargs))

    @overload
    def submit(
        self,
        handler: Callable[Concatenate[A_co, P], Coroutine[Any, Any, R]],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> "concurrent.futures.Future[R]": ...
    @overload
    def submit(
        self, handler: Callable[Concatenate[A_co, P], R], /, *args: P.args, **kwargs: P.kwargs
    ) -> "concurrent.futures.Future[R]": ...
    @overload
    def submit(self, signal: Signal, /) -> "concurrent.futures.Future[Any]": ...
    @overload
    def submit(self, signal_type: str, /, **params: Any) -> "concurrent.futures.Future[Any]": ...
    def submit(self, target: Any, /, *args: Any, **kwargs: Any) -> Any:
        """As `call`, without waiting: many calls can be in flight. They start in the order made."""
        return self._portal.submit(self._ref.call(target, *args, **kwargs))

    @overload
    def cast(
        self, handler: Callable[Concatenate[A_co, P], Any], /, *args: P.args, **kwargs: P.kwargs
    ) -> None: ...
    @overload
    def cast(self, signal: Signal, /) -> None: ...
    @overload
    def cast(self, signal_type: str, /, **params: Any) -> None: ...
    def cast(self, target: Any, /, *args: Any, **kwargs: Any) -> None:
        """As `AsyncAgentRef.cast`."""
        self._portal.call(self._ref.cast(target, *args, **kwargs))

    def stream(
        self,
        handler: Callable[Concatenate[A_co, P], AsyncIterator[R]],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> Generator[R, None, None]:
        """As `AsyncAgentRef.stream`; blocks while it waits for an item."""
        ref = self._ref
        return Stream(ref._connection, ref._target, handler, args, kwargs).items_in(self._portal)

    def options(self, *, timeout: float | None = None, op_id: str | None = None) -> Self:
        """A ref with other options: seconds until the deadline, and the operation's id."""
        return type(self)(self._ref.options(timeout=timeout, op_id=op_id), self._portal)

    def state(self, *, consistency: Consistency | None = None) -> A_co:
        """As `AsyncAgentRef.state`."""
        return self._portal.call(self._ref.state(consistency=consistency))

    def info(self) -> AgentInfo:
        """As `AsyncAgentRef.info`."""
        return self._portal.call(self._ref.info())

    def passivate(self) -> None:
        """As `AsyncAgentRef.passivate`."""
        self._portal.call(self._ref.passivate())

    def delete(self) -> None:
        """As `AsyncAgentRef.delete`."""
        self._portal.call(self._ref.delete())

    def __repr__(self) -> str:
        return _describe(self._ref, type(self).__name__)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AgentRef) and _key(self._ref) == _key(other._ref)

    def __hash__(self) -> int:
        return hash(_key(self._ref))

    def __reduce__(self) -> tuple[Any, ...]:
        from jido_cluster.connections import load_ref

        return (load_ref, (True, *_portable(self._ref)))


def agent_info(connection: Connection, row: list[Any]) -> AgentInfo:
    """The public form of a host's row about an agent."""
    (id_, type_, node, shard, fence, consistency, version, is_active), replicas = row
    return AgentInfo(
        id=id_,
        type=type_,
        node=connection.node_name(node),
        shard=shard,
        fence=Fence(*fence),
        replicas=tuple(connection.node_name(replica) for replica in replicas),
        consistency=consistency,
        version=version,
        is_active=is_active,
    )


def _describe(ref: AsyncAgentRef[Any], kind: str = "AsyncAgentRef") -> str:
    spec = ref._target.spec
    return f"{kind}({spec.name + ', ' if spec else ''}{ref.id!r})"


def _key(ref: AsyncAgentRef[Any]) -> tuple[str, str]:
    return (ref._connection.name, ref.id)


def _portable(ref: AsyncAgentRef[Any]) -> tuple[Any, ...]:
    target = ref._target
    connection = ref._connection
    return (
        connection.address,
        connection.name,
        target.agent_type,
        target.id,
        target.timeout,
        target.op_id,
    )


__all__ = ["AgentRef", "AsyncAgentRef", "agent_info"]
