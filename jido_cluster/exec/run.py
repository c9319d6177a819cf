"""Running an action in this process: `run`, `run_sync`, `start`; `run_named` for another one."""

import asyncio
import time
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Protocol, TypeVar, Unpack, overload

from pydantic_core import from_json

from jido_cluster.errors import InvalidInputError, UsageError
from jido_cluster.exec.action import find_action, spec_of
from jido_cluster.exec.context import ClusterBinding, Context
from jido_cluster.exec.events import NO_META
from jido_cluster.exec.handle import Handle, RunStatus
from jido_cluster.exec.options import RunOptions, load_options
from jido_cluster.exec.outcome import Outcome
from jido_cluster.exec.runner import context_of, options_of, outcome_of, run_spec
from jido_cluster.exec.work import Work

__all__ = ["AsyncRun", "RunStatus", "SyncRun", "run", "run_named", "run_sync", "start"]

R = TypeVar("R")
Pm = TypeVar("Pm")
Pm_contra = TypeVar("Pm_contra", contravariant=True)
R_co = TypeVar("R_co", covariant=True)

_Data = Mapping[str, Any] | None


class AsyncRun(Protocol[Pm_contra, R_co]):
    """An action class whose `run` is a coroutine function; tells type checkers its result."""

    async def run(self, params: Pm_contra, ctx: Context, /) -> R_co:
        """See `Action.run`."""


class SyncRun(Protocol[Pm_contra, R_co]):
    """An action class whose `run` is a plain method; tells type checkers its result."""

    def run(self, params: Pm_contra, ctx: Context, /) -> R_co:
        """See `Action.run`."""


@overload
async def run(
    action: type[AsyncRun[Pm, R]],
    params: Pm | Mapping[str, Any] | None = None,
    context: _Data = None,
    **options: Unpack[RunOptions],
) -> R: ...
@overload
async def run(
    action: type[SyncRun[Pm, R]],
    params: Pm | Mapping[str, Any] | None = None,
    context: _Data = None,
    **options: Unpack[RunOptions],
) -> R: ...
@overload
async def run(
    action: Callable[..., Coroutine[Any, Any, R]],
    params: Mapping[str, Any] | None = None,
    context: _Data = None,
    **options: Unpack[RunOptions],
) -> R: ...
@overload
async def run(
    action: Callable[..., R],
    params: Mapping[str, Any] | None = None,
    context: _Data = None,
    **options: Unpack[RunOptions],
) -> R: ...
async def run(
    action: Any, params: Any = None, context: _Data = None, **options: Unpack[RunOptions]
) -> Any:
    """Runs an action and returns its result.

    Inside another run it inherits that one's deadline, retry budget, trace and cluster.

    Args:
        action: An `Action` class, or a function with `@action`.
        params: The action's parameters: its model, or a mapping that is checked against it.
        context: Data for `ctx`; shared, not copied.
        **options: Time limit of each attempt, retries, fallback and breaker; nearest wins: these,
            then the action's.

    Raises:
        InvalidInputError: ``params`` do not fit; nothing ran.
        ConfigError: ``action`` is none, or an option is unknown or ill; nothing ran.
        ExecutionError: The last attempt failed; any further `JidoError` it raised comes as it is.
        ActionTimeoutError: The last attempt ran out of time.
        CircuitOpenError: The breaker admitted no attempt; nothing ran.
    """
    spec = spec_of(action)
    return await run_spec(spec, params, context_of(context), options_of(spec, options))


@overload
def run_sync(
    action: type[AsyncRun[Pm, R]],
    params: Pm | Mapping[str, Any] | None = None,
    context: _Data = None,
    **options: Unpack[RunOptions],
) -> R: ...
@overload
def run_sync(
    action: type[SyncRun[Pm, R]],
    params: Pm | Mapping[str, Any] | None = None,
    context: _Data = None,
    **options: Unpack[RunOptions],
) -> R: ...
@overload
def run_sync(
    action: Callable[..., Coroutine[Any, Any, R]],
    params: Mapping[str, Any] | None = None,
    context: _Data = None,
    **options: Unpack[RunOptions],
) -> R: ...
@overload
def run_sync(
    action: Callable[..., R],
    params: Mapping[str, Any] | None = None,
    context: _Data = None,
    **options: Unpack[RunOptions],
) -> R: ...
def run_sync(
    action: Any, params: Any = None, context: _Data = None, **options: Unpack[RunOptions]
) -> Any:
    """`run`, from synchronous code; blocks this thread until the action has ended.

    Raises:
        UsageError: An event loop runs in this thread, which it would block.
        JidoError: As `run`.
    """
    if asyncio._get_running_loop() is not None:  # the documented one raises instead
        raise UsageError("run_sync would block the event loop of this thread: await run(...)")
    spec = spec_of(action)
    return asyncio.run(run_spec(spec, params, context_of(context), options_of(spec, options)))


@overload
def start(
    action: type[AsyncRun[Pm, R]],
    params: Pm | Mapping[str, Any] | None = None,
    context: _Data = None,
    **options: Unpack[RunOptions],
) -> Handle[R]: ...
@overload
def start(
    action: type[SyncRun[Pm, R]],
    params: Pm | Mapping[str, Any] | None = None,
    context: _Data = None,
    **options: Unpack[RunOptions],
) -> Handle[R]: ...
@overload
def start(
    action: Callable[..., Coroutine[Any, Any, R]],
    params: Mapping[str, Any] | None = None,
    context: _Data = None,
    **options: Unpack[RunOptions],
) -> Handle[R]: ...
@overload
def start(
    action: Callable[..., R],
    params: Mapping[str, Any] | None = None,
    context: _Data = None,
    **options: Unpack[RunOptions],
) -> Handle[R]: ...
def start(
    action: Any, params: Any = None, context: _Data = None, **options: Unpack[RunOptions]
) -> Handle[Any]:
    """Starts an action in the background of the running loop; it goes on without its handle.

    Raises:
        UsageError: No event loop runs here.
        ConfigError: ``action`` is none, or an option is unknown or ill; nothing was started.
    """
    if asyncio._get_running_loop() is None:  # the documented one raises instead
        raise UsageError(
            "start needs a running event loop: use run_sync, or call it in a coroutine"
        )
    spec = spec_of(action)
    resolved = options_of(spec, options)
    own = context_of(context)
    return Handle(lambda: run_spec(spec, params, own, resolved), own)


async def run_named(
    name: str,
    params: bytes,
    context: bytes | None,
    options: Mapping[str, Any],
    *,
    run_id: str = "",
    tag: str = "",
    node: str | None = None,
    trace: str | None = None,
    remaining: float | None = None,
    cluster: ClusterBinding | None = None,
) -> Outcome[Any]:
    """Runs the action of this name and gives its outcome; the value is plain JSON-shaped data.

    Args:
        name: The action's registered name.
        params: Its parameters, a JSON object; empty for none.
        context: Data for `ctx`, a JSON object; None for none.
        options: Run options as plain data, as `dump_options` makes them.
        run_id: Names the run; empty for a new id.
        tag: Comes back in the outcome.
        node: Name of this node, for the outcome.
        trace: W3C traceparent of the caller.
        remaining: Seconds left of the caller's deadline; None for no limit.
        cluster: What ``ctx.cluster`` and ``ctx.sync_cluster`` give.

    Raises:
        asyncio.CancelledError: The task was cancelled. Every failure is in the outcome.
    """
    own = Context(
        run_id=run_id,
        attempt=0,
        trace=trace,
        deadline=None if remaining is None else time.monotonic() + remaining,
        cluster=cluster,
    )
    running = _run_named(name, params, context, options, own, node)
    return await outcome_of(running, own, tag=tag, node=node)


async def _run_named(
    name: str,
    params: bytes,
    data: bytes | None,
    options: Mapping[str, Any],
    context: Context,
    node: str | None,
) -> Any:
    spec = find_action(name)
    given, context.budget = load_options(options)
    resolved = options_of(spec, given)
    context.data = _object(data)
    meta = NO_META if node is None else {"node": node}
    return from_json(await run_spec(spec, params, context, resolved, as_json=True, meta=meta))


def _object(data: bytes | None) -> Mapping[str, Any]:
    found = Work.plain(data)
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise InvalidInputError(f"context must be a JSON object, not {type(found).__name__}")
    return found
