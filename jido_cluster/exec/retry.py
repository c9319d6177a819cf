"""When a failed attempt is repeated, and how long to wait before it.

The decision looks at the exception as it was raised, before it is wrapped for the caller.
"""

import asyncio
from collections.abc import Callable
from typing import Final

import pydantic

from jido_cluster.errors import JidoError, UnavailableError
from jido_cluster.exec.options import ResolvedOptions

__all__ = ["delay_before", "is_retryable"]

_Types = tuple[type[BaseException], ...]

# The first row that matches decides; what the action declares in `retry_on` stands between the two.
# `JidoError` comes first: an `OutcomeUnknownError`, say, is a `TimeoutError` too, and repeating it
# under another operation id could do the work twice.
NEVER: Final[_Types] = (pydantic.ValidationError, asyncio.CancelledError)
TRANSIENT: Final[_Types] = (ConnectionError, TimeoutError, InterruptedError)


def is_retryable(error: BaseException, retry_on: tuple[type[Exception], ...] = ()) -> bool:
    """Whether another attempt may succeed where this one raised ``error``.

    A `JidoError` says so itself; validation errors and cancellation never; what is in
    ``retry_on`` and what is transient by nature (connections, timeouts, interrupts) yes; a group
    when all its members are; anything else is a bug, which repeating does not mend.
    """
    if isinstance(error, JidoError):
        return error.retryable
    if isinstance(error, NEVER):
        return False
    if isinstance(error, (*retry_on, *TRANSIENT)):
        return True
    if isinstance(error, BaseExceptionGroup):
        return all(is_retryable(member, retry_on) for member in error.exceptions)
    return False


def delay_before(
    retry: int,
    options: ResolvedOptions,
    chance: Callable[[], float],
    error: BaseException | None = None,
) -> float:
    """Seconds to wait before retry number ``retry``, counted from 0.

    ``min(max_delay, delay * backoff**retry) * (1 ± jitter)``. An error that names its own
    ``retry_after`` is believed where that is longer, up to ``max_delay``.

    Args:
        retry: Retries already made, >= 0.
        options: Delay, factor, jitter and limit.
        chance: Uniform random numbers in [0, 1).
        error: What ended the attempt.
    """
    try:
        delay = options.retry_delay * options.retry_backoff**retry
    except OverflowError:
        delay = options.retry_max_delay if options.retry_delay else 0.0
    if isinstance(error, UnavailableError) and error.retry_after is not None:
        delay = max(delay, error.retry_after)
    return min(options.retry_max_delay, delay) * (1.0 + options.retry_jitter * (2 * chance() - 1))
