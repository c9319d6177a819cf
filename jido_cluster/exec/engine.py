"""The one place where actions and handlers run.

`perform` makes one attempt: it calls the work on the loop or in a thread, keeps to the time limit,
turns what was raised into an error of the tree, and tells telemetry. `execute` repeats attempts as
the retry table says and compensates after the last.

Theory. Most coroutines of handlers finish without ever suspending. So the first step is taken by
hand: ``coroutine.send(None)`` in the current task. Only a coroutine that suspends gets a timer (an
`asyncio.timeout` around the rest of it, so the semantics of cancellation are asyncio's own), and
none gets a task. A handler that never suspends cannot be stopped by any timer, with or without.
"""

import asyncio
import random
from asyncio import CancelledError
from collections.abc import Callable, Coroutine, Generator, Mapping
from contextvars import copy_context
from inspect import iscoroutine
from types import coroutine
from typing import Any, Final

from jido_cluster import telemetry
from jido_cluster.errors import (
    ActionTimeoutError,
    DeadlineExceededError,
    JidoError,
    RunCancelledError,
)
from jido_cluster.exec import threads
from jido_cluster.exec.context import CURRENT, Context
from jido_cluster.exec.failures import never_started, wrap
from jido_cluster.exec.options import ResolvedOptions
from jido_cluster.exec.retry import delay_before, is_retryable
from jido_cluster.exec.work import Work

__all__ = ["execute", "perform", "tell_rejected"]

START: Final = "jido.exec.start"
STOP: Final = "jido.exec.stop"
EXCEPTION: Final = "jido.exec.exception"
RETRY: Final = "jido.exec.retry"
COMPENSATE: Final = "jido.exec.compensate"

_Types = tuple[type[Exception], ...]
_Output = Callable[[Any], Any]
_NO_META: Final[Mapping[str, Any]] = {}


def perform(
    work: Work,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    context: Context,
    timeout: float | None,
    *,
    output: _Output | None = None,
    retry_on: _Types = (),
    meta: Mapping[str, Any] = _NO_META,
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
    attempt = _attempt(work, args, kwargs, context, timeout, output, retry_on)
    return _observed(attempt, work, context, meta) if telemetry.LISTENERS else attempt


async def _attempt(  # positional: keywords cost time on the hottest path
    work: Work,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    context: Context,
    limit: float | None,
    output: _Output | None = None,
    retry_on: _Types = (),
) -> Any:
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
        else:
            value = await _call_in_thread(work, args, kwargs, context, limit)
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
        return await threads.POOL.call(call, limit=limit, deadline=deadline, clock=clock)
    except threads.OutOfTime:
        by_deadline = deadline is not None and clock() >= deadline
        raise _timed_out(work, None if by_deadline else limit) from None


async def _observed(
    running: Coroutine[Any, Any, Any], work: Work, context: Context, meta: Mapping[str, Any]
) -> Any:
    metadata = _metadata(work, context, meta)
    attempt = context.attempt
    start = context.clock()
    telemetry.execute(START, {"attempt": attempt}, metadata)
    try:
        value = await running
    except BaseException as error:
        spent = {"duration": context.clock() - start, "attempt": attempt}
        telemetry.execute(EXCEPTION, spent, {**metadata, **_kind_of(error)})
        raise
    telemetry.execute(STOP, {"duration": context.clock() - start, "attempt": attempt}, metadata)
    return value


async def execute(
    work: Work,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    context: Context,
    options: ResolvedOptions,
    *,
    output: _Output | None = None,
    compensation: Work | None = None,
    chance: Callable[[], float] = random.random,
    meta: Mapping[str, Any] = _NO_META,
) -> Any:
    """Runs the work until an attempt succeeds or the retry table gives up.

    ``context.attempt``, 0 at first, counts the attempts begun. None begins once the context's
    deadline is spent, and no pause outlasts it.

    Args:
        work: What to run.
        args: Positional arguments of each attempt.
        kwargs: Keyword arguments of each attempt.
        context: The context of the run, owned by it; each attempt gets one of its own.
        options: Time limit of each attempt, number of retries, and pauses between them.
        output: As for `perform`.
        compensation: Called once when the run has failed for good or is cancelled, with ``args``,
            the error and a context; ``details["compensated"]`` of the error says how that went.
        chance: Uniform random numbers in [0, 1), for the jitter.
        meta: As for `perform`.

    Raises:
        JidoError: What the last attempt raised, as `perform` does.
        asyncio.CancelledError: The task was cancelled.
    """
    limit, retry_on = options.timeout, options.retry_on
    if not options.max_retries and compensation is None:
        context.attempt = 1
        return await perform(
            work, args, kwargs, context, limit, output=output, retry_on=retry_on, meta=meta
        )

    def attempt(own: Context) -> Coroutine[Any, Any, Any]:
        return perform(work, args, kwargs, own, limit, output=output, retry_on=retry_on, meta=meta)

    failure: JidoError | CancelledError
    try:
        return await _repeat(attempt, work, context, options, chance, meta)
    except (JidoError, CancelledError) as error:
        failure = error
    # After the handler: what a compensation raises shall not name the failure as its context.
    if compensation is not None:
        reason = failure if isinstance(failure, JidoError) else _cancelled(work)
        own = context.for_attempt(context.attempt, None)  # its own time: the run's may be spent
        await _compensate(compensation, (*args, reason), own, limit, meta)
    try:
        raise failure
    finally:
        del failure  # its traceback holds this frame, which would hold it


async def _repeat(
    attempt: Callable[[Context], Coroutine[Any, Any, Any]],
    work: Work,
    context: Context,
    options: ResolvedOptions,
    chance: Callable[[], float],
    meta: Mapping[str, Any],
) -> Any:
    """The result of the first attempt that succeeds; raises what the last one raised."""
    deadline = context.deadline
    while True:
        context.attempt += 1
        try:
            return await attempt(context.for_attempt(context.attempt, deadline))
        except JidoError as error:
            pause = _pause_after(error, context, options, chance)
            if pause is None:
                raise
            _tell_retry(work, context, error, pause, meta)
        await asyncio.sleep(pause)


def _pause_after(
    error: JidoError,
    context: Context,
    options: ResolvedOptions,
    chance: Callable[[], float],
) -> float | None:
    """Seconds to wait before the next attempt; None when there is to be none."""
    retries = context.attempt - 1
    if retries >= options.max_retries or not error.retryable:
        return None
    pause = delay_before(retries, options, chance, error)
    left = context.remaining()
    return pause if left is None or pause < left else None


async def _compensate(
    compensation: Work,
    args: tuple[Any, ...],
    context: Context,
    limit: float | None,
    meta: Mapping[str, Any],
) -> None:
    """Undoes what a failed run left behind; its error, the last of ``args``, tells how it went."""
    error: JidoError = args[-1]
    start = context.clock()
    try:
        await _attempt(compensation, args, {}, context, limit)
    except JidoError as second:
        # `wrap` has logged anything that is not of the tree, with its traceback.
        error.details["compensated"] = False
        error.details["compensation_error"] = second.message
    else:
        error.details["compensated"] = True
    if telemetry.LISTENERS:
        metadata = {**_metadata(compensation, context, meta), **_kind_of(error)}
        metadata["compensated"] = error.details["compensated"]
        spent = {"duration": context.clock() - start, "attempt": context.attempt}
        telemetry.execute(COMPENSATE, spent, metadata)


def tell_rejected(
    work: Work, context: Context, error: JidoError, meta: Mapping[str, Any] = _NO_META
) -> None:
    """Tells telemetry of a run that was refused before its first attempt."""
    if telemetry.LISTENERS:
        metadata = {**_metadata(work, context, meta), **_kind_of(error)}
        telemetry.execute(EXCEPTION, {"duration": 0.0, "attempt": 0}, metadata)


def _tell_retry(
    work: Work, context: Context, error: BaseException, pause: float, meta: Mapping[str, Any]
) -> None:
    if telemetry.LISTENERS:
        metadata = {**_metadata(work, context, meta), **_kind_of(error)}
        telemetry.execute(RETRY, {"delay": pause, "attempt": context.attempt}, metadata)


def _metadata(work: Work, context: Context, meta: Mapping[str, Any]) -> dict[str, Any]:
    return {"action": work.name, "version": work.version, "run_id": context.run_id, **meta}


def _kind_of(error: BaseException) -> dict[str, Any]:
    if isinstance(error, JidoError):
        return {"error_kind": error.kind, "retryable": error.retryable}
    return {"error_kind": RunCancelledError.kind, "retryable": False}


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


def _timed_out(work: Work, timeout: float | None) -> ActionTimeoutError:
    if timeout is None:
        message = f"{work.name} had not ended when its deadline passed"
    else:
        message = f"{work.name} did not end within its timeout of {timeout:g} s"
    return ActionTimeoutError(message, action=work.name, timeout=timeout)


def _cancelled(work: Work) -> RunCancelledError:
    return RunCancelledError(f"{work.name} was cancelled", action=work.name)
