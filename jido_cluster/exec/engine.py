"""The one place where actions run: attempts, the pauses between them, and what comes after.

`perform` makes one attempt (see `jido_cluster.exec.attempt`). `execute` repeats attempts as the
retry table says, asks the circuit breaker before each, and compensates after the last.
"""

import asyncio
import random
from asyncio import CancelledError
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from jido_cluster.errors import JidoError, RunCancelledError
from jido_cluster.exec.attempt import attempt_of, perform
from jido_cluster.exec.breaker import Breaker
from jido_cluster.exec.budget import RetryBudget
from jido_cluster.exec.context import Context
from jido_cluster.exec.events import NO_META, tell_compensated, tell_rejected, tell_retry
from jido_cluster.exec.failures import arrived, has_started
from jido_cluster.exec.options import ResolvedOptions
from jido_cluster.exec.retry import delay_before
from jido_cluster.exec.work import Work

__all__ = ["execute", "perform"]

_Output = Callable[[Any], Any]
_Attempt = Callable[[Context], Coroutine[Any, Any, Any]]


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
    meta: Mapping[str, Any] = NO_META,
) -> Any:
    """Runs the work until an attempt succeeds or the retry table gives up.

    ``context.attempt``, 0 at first, counts the attempts. None begins once the context's deadline is
    spent, no pause outlasts it, and every retry is paid from the context's budget, which is the
    run's own when no run around it has brought one.

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
    if not options.max_retries and compensation is None and options.breaker is None:
        context.attempt = 1
        try:
            return await perform(
                work, args, kwargs, context, limit, output=output, retry_on=retry_on, meta=meta
            )
        except JidoError as error:
            arrived(error)
            raise

    def attempt(own: Context) -> Coroutine[Any, Any, Any]:
        return perform(work, args, kwargs, own, limit, output=output, retry_on=retry_on, meta=meta)

    run = _Run(work, context, options, meta)
    failure: JidoError | CancelledError
    try:
        return await run.repeat(attempt, chance)
    except JidoError as error:
        failure = arrived(error)
    except CancelledError as error:
        failure = error
    # After the handlers: what a compensation raises shall not name the failure as its context.
    if compensation is not None and run.has_started:
        reason = failure if isinstance(failure, JidoError) else _cancelled(work)
        # With time and retries of its own: the run's may be spent.
        own = context.for_attempt(context.attempt, None)
        own.budget = None
        await _compensate(compensation, (*args, reason), own, limit, meta)
    try:
        raise failure
    finally:
        del failure  # its traceback holds this frame, which would hold it


class _Run:
    """The attempts of one run.

    Attributes:
        has_started: Whether any of them began to run the work; until then there is nothing that a
            compensation could undo.
    """

    __slots__ = ("_context", "_meta", "_options", "_work", "has_started")

    def __init__(
        self, work: Work, context: Context, options: ResolvedOptions, meta: Mapping[str, Any]
    ) -> None:
        self._work = work
        self._context = context
        self._options = options
        self._meta = meta
        self.has_started = False

    async def repeat(self, attempt: _Attempt, chance: Callable[[], float]) -> Any:
        """The result of the first attempt that succeeds; raises what the last one raised."""
        context, options = self._context, self._options
        deadline = context.deadline
        if context.budget is None and options.max_retries:
            context.budget = RetryBudget(options.max_retries)
        while True:
            context.attempt += 1
            own = context.for_attempt(context.attempt, deadline)
            try:
                if options.breaker is None:
                    return await attempt(own)
                return await self._guarded(options.breaker, attempt, own)
            except JidoError as error:
                self.has_started = self.has_started or has_started(error)
                pause = self._pause_after(error, chance)
                if pause is None:
                    raise
                tell_retry(self._work, context, error, pause, self._meta)
            except CancelledError:
                self.has_started = True
                raise
            await asyncio.sleep(pause)

    async def _guarded(self, breaker: Breaker, attempt: _Attempt, own: Context) -> Any:
        """One attempt, if the breaker admits it; tells the breaker how it ended."""
        try:
            permit = breaker.admit()
        except JidoError as error:
            tell_rejected(self._work, own, error, self._meta)
            raise
        try:
            value = await attempt(own)
        except JidoError as error:
            permit.fail(error)
            raise
        except BaseException:
            permit.release()
            raise
        permit.succeed()
        return value

    def _pause_after(self, error: JidoError, chance: Callable[[], float]) -> float | None:
        """Seconds to wait before the next attempt; None when there is to be none."""
        context, options = self._context, self._options
        retries = context.attempt - 1
        if retries >= options.max_retries or not error.retryable:
            return None
        pause = delay_before(retries, options, chance, error)
        left = context.remaining()
        if left is not None and pause >= left:
            return None
        return pause if context.budget is None or context.budget.take() else None


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
        await attempt_of(compensation, args, {}, context, limit)
    except JidoError as second:
        # `wrap` has logged anything that is not of the tree, with its traceback.
        error.details["compensated"] = False
        error.details["compensation_error"] = second.message
    else:
        error.details["compensated"] = True
    tell_compensated(compensation, context, start, error, meta)


def _cancelled(work: Work) -> RunCancelledError:
    return RunCancelledError(f"{work.name} was cancelled", action=work.name)
