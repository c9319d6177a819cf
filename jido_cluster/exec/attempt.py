"""One attempt: calls the work where it belongs, keeps to the time limit, and types what it raises.

Theory. Most coroutines of handlers finish without ever suspending. So the first step is taken by
hand: ``coroutine.send(None)`` in the current task. Only a coroutine that suspends gets a timer (an
`asyncio.timeout` around the rest of it, so the semantics of cancellation are asyncio's own), and
none gets a task. A handler that never suspends cannot be stopped by any timer, with or without.
"""

import asyncio
from asyncio import CancelledError
from collections.abc import Callable, Coroutine, Generator, Mapping, MutableMapping
from contextvars import copy_context
from inspect import iscoroutine
from types import coroutine
from typing import Any

from jido_cluster import telemetry
from jido_cluster.errors import ActionTimeoutError, DeadlineExceededError, JidoError
from jido_cluster.exec import threads
from jido_cluster.exec.context import CURRENT, Context
from jido_cluster.exec.events import (
    NO_META,
    metadata_of,
    tell_ended,
    tell_params,
    tell_result,
    tell_start,
)
from jido_cluster.exec.failures import never_started, wrap
from jido_cluster.exec.process import ProcessWork
from jido_cluster.exec.retry import is_retryable
from jido_cluster.exec.work import Work

__all__ = ["attempt_of", "perform"]

_Types = tuple[type[Exception], ...]
_Output = Callable[[Any], Any]


def perform(
    work: Work,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    context: Context,
    timeout: float | None,
    *,
    output: _Output | None = None,
    retry_on: _Types = (),
    meta: Mapping[str, Any] = NO_META,
) -> Coroutine[Any, Any, Any]:
    """One attempt; await it in the task that shall run the work.

    The context's deadline caps ``timeout``, and is moved closer by it: what the work runs below
    inherits what is left.

    Args:
        work: What to run.
        args: Positional arguments; the context is added where the work takes one.
        kwargs: Keyword arguments.
        context: The context of this attempt, owned by it.
        timeout: Seconds it may run, > 0; None for no limit of its own.
        output: Applied to the result within the attempt (``work.dump_result``, say).
        retry_on: Exceptions to be marked retryable besides those the table has.
        meta: More metadata for telemetry; never parameters or results.

    Raises:
        JidoError: As the work raised it, or:
        ActionTimeoutError: The time was up before it ended; outside effects are possible.
        DeadlineExceededError: The deadline had passed; nothing was run.
        ExecutionError: The work raised anything else, which is the cause.
        asyncio.CancelledError: The task was cancelled.
    """
    if telemetry.LISTENERS:
        return _observed(work, args, kwargs, context, timeout, output, retry_on, meta)
    return attempt_of(work, args, kwargs, context, timeout, output, retry_on)


async def attempt_of(  # positional: keywords cost time on the hottest path
    work: Work,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    context: Context,
    limit: float | None,
    output: _Output | None = None,
    retry_on: _Types = (),
    told: MutableMapping[str, float] | None = None,
) -> Any:
    """`perform` without telemetry; ``told`` gets ``queue``, the seconds it waited for its place."""
    if work.takes_context_last:
        args = (*args, context)
    elif work.context_name is not None:
        kwargs = {**kwargs, work.context_name: context}
    outer = CURRENT.get()
    CURRENT.set(context)
    try:
        if work.is_async:
            cap = _set_deadline(work, context, limit)
            running = work.function(*args, **kwargs)
            try:
                suspended = running.send(None)
            except StopIteration as stop:
                value = stop.value
            else:
                value = await _finish(work, running, suspended, context, cap)
        elif isinstance(work, ProcessWork):
            value = await _call_in_process(work, args, kwargs, context, limit, retry_on, told)
        else:
            value = await _call_in_thread(work, args, kwargs, context, limit, told)
        return value if output is None else output(value)
    except JidoError:
        raise
    except CancelledError as error:
        if _is_asked_for():
            raise
        # Something it awaited was cancelled, and it let that pass: nobody cancelled this run.
        raise wrap(work.name, error, retryable=False) from error
    except (Exception, SystemExit) as error:
        raise wrap(work.name, error, retryable=is_retryable(error, retry_on)) from error
    finally:
        # Not by the token of `set`: a coroutine closed from another context could not reset it.
        CURRENT.set(outer)


def _set_deadline(work: Work, context: Context, timeout: float | None) -> float | None:
    """Moves the context's deadline to what the attempt may take; the timeout when it is nearer."""
    deadline = context.deadline
    if timeout is None and deadline is None:
        return None
    now = context.clock()
    if deadline is not None and deadline <= now:
        raise _too_late(work)
    if timeout is not None and (deadline is None or now + timeout < deadline):
        context.deadline = now + timeout
        return timeout
    return None


async def _finish(
    work: Work,
    running: Coroutine[Any, Any, Any],
    suspended: Any,
    context: Context,
    cap: float | None,
) -> Any:
    """The result of a coroutine that has suspended, within the context's deadline."""
    if context.deadline is None:
        return await _resume(running, suspended)
    limit = asyncio.timeout(max(0.0, context.deadline - context.clock()))
    try:
        async with limit:
            return await _resume(running, suspended)
    except TimeoutError as error:
        # Its own TimeoutError, from whatever it called, is a failure like any other.
        if limit.expired() and isinstance(error.__cause__, CancelledError):
            raise _timed_out(work, cap) from None
        raise
    finally:
        running.close()  # does nothing unless the timeout could not be entered: there is no task


@coroutine
def _resume(running: Coroutine[Any, Any, Any], suspended: Any) -> Generator[Any, Any, Any]:
    """Awaits the rest of a coroutine that has already yielded ``suspended``."""
    while True:
        try:
            yield suspended
        except GeneratorExit:
            running.close()
            raise
        except BaseException as error:  # noqa: BLE001 - delivered where it belongs
            try:
                suspended = running.throw(error)
            except StopIteration as stop:
                return stop.value
        else:
            # asyncio resumes with None only, which is what `yield from` starts with.
            return (yield from running.__await__())


async def _call_in_thread(
    work: Work,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    context: Context,
    limit: float | None,
    told: MutableMapping[str, float] | None,
) -> Any:
    clock = context.clock
    if context.deadline is not None and context.deadline <= clock():
        raise _too_late(work)
    variables = copy_context()

    def call() -> Any:
        if limit is not None:
            context.narrow(clock() + limit)
        value = variables.run(work.function, *args, **kwargs)
        if iscoroutine(value):
            value.close()
            raise TypeError("it returned a coroutine: declare it with `async def`")
        return value

    deadline = context.deadline
    try:
        return await threads.POOL.call(call, limit=limit, deadline=deadline, clock=clock, told=told)
    except threads.OutOfTime:
        raise _out_of_time(work, deadline, limit, clock) from None


async def _call_in_process(
    work: ProcessWork,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    context: Context,
    limit: float | None,
    retry_on: _Types,
    told: MutableMapping[str, float] | None,
) -> Any:
    deadline, clock = context.deadline, context.clock
    if deadline is not None and deadline <= clock():
        raise _too_late(work)
    try:
        return await work.call_in_process(args, kwargs, context, limit, retry_on, told)
    except threads.OutOfTime:
        raise _out_of_time(work, deadline, limit, clock) from None


async def _observed(
    work: Work,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    context: Context,
    limit: float | None,
    output: _Output | None,
    retry_on: _Types,
    meta: Mapping[str, Any],
) -> Any:
    """`attempt_of`, told to telemetry."""
    metadata = metadata_of(work, context, meta)
    told = {"queue": 0.0}
    begun = context.clock()
    tell_start(context, metadata)
    tell_params(work, args, kwargs, context, metadata)
    try:
        value = await attempt_of(work, args, kwargs, context, limit, output, retry_on, told)
    except BaseException as error:
        tell_ended(context, begun, told["queue"], metadata, error)
        raise
    tell_ended(context, begun, told["queue"], metadata)
    tell_result(value, output, context, metadata)
    return value


def _is_asked_for() -> bool:
    """Whether a `CancelledError` that passes here comes from a request to cancel this task."""
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0


def _too_late(work: Work) -> DeadlineExceededError:
    return never_started(
        DeadlineExceededError(
            f"{work.name} was not started: its deadline has passed", action=work.name
        )
    )


def _out_of_time(
    work: Work, deadline: float | None, limit: float | None, clock: Callable[[], float]
) -> ActionTimeoutError:
    """The error of work elsewhere that had to be given up."""
    by_deadline = deadline is not None and clock() >= deadline
    return _timed_out(work, None if by_deadline else limit)


def _timed_out(work: Work, timeout: float | None) -> ActionTimeoutError:
    if timeout is None:
        message = f"{work.name} had not ended when its deadline passed"
    else:
        message = f"{work.name} did not end within its timeout of {timeout:g} s"
    return ActionTimeoutError(message, action=work.name, timeout=timeout)
