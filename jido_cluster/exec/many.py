"""Running one action many times: bounded concurrency, results in order, failures raised or kept."""

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from typing import Any, Literal, TypeVar, Unpack, overload

from jido_cluster.errors import ConfigError
from jido_cluster.exec.action import spec_of
from jido_cluster.exec.options import RunOptions
from jido_cluster.exec.outcome import Outcome
from jido_cluster.exec.run import AsyncRun, SyncRun
from jido_cluster.exec.runner import context_of, options_of, outcome_of, run_spec

__all__ = ["run_many"]

R = TypeVar("R")
Pm = TypeVar("Pm")

_Data = Mapping[str, Any] | None


@overload
async def run_many(
    action: type[AsyncRun[Pm, R]],
    items: Iterable[Pm | Mapping[str, Any]],
    context: _Data = None,
    *,
    max_concurrency: int | None = None,
    on_failure: Literal["raise"] = "raise",
    progress: Callable[[Outcome[R]], None] | None = None,
    **options: Unpack[RunOptions],
) -> list[R]: ...
@overload
async def run_many(
    action: type[AsyncRun[Pm, R]],
    items: Iterable[Pm | Mapping[str, Any]],
    context: _Data = None,
    *,
    max_concurrency: int | None = None,
    on_failure: Literal["collect"],
    progress: Callable[[Outcome[R]], None] | None = None,
    **options: Unpack[RunOptions],
) -> list[Outcome[R]]: ...
@overload
async def run_many(
    action: type[SyncRun[Pm, R]],
    items: Iterable[Pm | Mapping[str, Any]],
    context: _Data = None,
    *,
    max_concurrency: int | None = None,
    on_failure: Literal["raise"] = "raise",
    progress: Callable[[Outcome[R]], None] | None = None,
    **options: Unpack[RunOptions],
) -> list[R]: ...
@overload
async def run_many(
    action: type[SyncRun[Pm, R]],
    items: Iterable[Pm | Mapping[str, Any]],
    context: _Data = None,
    *,
    max_concurrency: int | None = None,
    on_failure: Literal["collect"],
    progress: Callable[[Outcome[R]], None] | None = None,
    **options: Unpack[RunOptions],
) -> list[Outcome[R]]: ...
@overload
async def run_many(
    action: Callable[..., Coroutine[Any, Any, R]],
    items: Iterable[Mapping[str, Any]],
    context: _Data = None,
    *,
    max_concurrency: int | None = None,
    on_failure: Literal["raise"] = "raise",
    progress: Callable[[Outcome[R]], None] | None = None,
    **options: Unpack[RunOptions],
) -> list[R]: ...
@overload
async def run_many(
    action: Callable[..., Coroutine[Any, Any, R]],
    items: Iterable[Mapping[str, Any]],
    context: _Data = None,
    *,
    max_concurrency: int | None = None,
    on_failure: Literal["collect"],
    progress: Callable[[Outcome[R]], None] | None = None,
    **options: Unpack[RunOptions],
) -> list[Outcome[R]]: ...
@overload
async def run_many(
    action: Callable[..., R],
    items: Iterable[Mapping[str, Any]],
    context: _Data = None,
    *,
    max_concurrency: int | None = None,
    on_failure: Literal["raise"] = "raise",
    progress: Callable[[Outcome[R]], None] | None = None,
    **options: Unpack[RunOptions],
) -> list[R]: ...
@overload
async def run_many(
    action: Callable[..., R],
    items: Iterable[Mapping[str, Any]],
    context: _Data = None,
    *,
    max_concurrency: int | None = None,
    on_failure: Literal["collect"],
    progress: Callable[[Outcome[R]], None] | None = None,
    **options: Unpack[RunOptions],
) -> list[Outcome[R]]: ...
async def run_many(
    action: Any,
    items: Iterable[Any],
    context: _Data = None,
    *,
    max_concurrency: int | None = None,
    on_failure: Literal["raise", "collect"] = "raise",
    progress: Callable[[Outcome[Any]], None] | None = None,
    **options: Unpack[RunOptions],
) -> list[Any]:
    """Runs an action once for each item, several at a time; results in the order of the items.

    Args:
        action: An `Action` class, or a function with `@action`.
        items: Parameters of each run.
        context: Data for `ctx`, the same for all.
        max_concurrency: How many may run at once, >= 1; None for no limit.
        on_failure: "raise" ends the others at the first failure and raises it; "collect" lets all
            run and returns an `Outcome` for each.
        progress: Called with each outcome, in the order they come in; quick, as it runs on the
            loop. What it raises ends the whole.
        **options: As for `run`.

    Raises:
        JidoError: The first failure, when ``on_failure`` is "raise"; the others have ended.
        ConfigError: ``action`` is none, or an option is unknown or ill; nothing ran.
    """
    spec = spec_of(action)
    resolved = options_of(spec, options)
    check_limits(max_concurrency, on_failure)
    waiting = list(enumerate(items))
    waiting.reverse()
    outcomes: list[Outcome[Any]] = [_NOT_RUN] * len(waiting)

    async def work() -> None:
        while waiting:
            index, params = waiting.pop()
            own = context_of(context)
            outcome = await outcome_of(run_spec(spec, params, own, resolved), own)
            outcomes[index] = outcome
            if progress is not None:
                progress(outcome)
            if on_failure == "raise":
                outcome.unwrap()

    width = len(waiting) if max_concurrency is None else min(max_concurrency, len(waiting))
    await _together([work() for _ in range(width)])
    if on_failure == "collect":
        return outcomes
    return [outcome.value for outcome in outcomes]


_NOT_RUN: Outcome[Any] = Outcome(run_id="", ok=False, attempts=0, seconds=0.0)


def check_limits(max_concurrency: int | None, on_failure: str) -> None:
    """Do nothing if the limits of a `run_many` are right; ConfigError names the one that is not."""
    if max_concurrency is not None and max_concurrency < 1:
        raise ConfigError(f"max_concurrency={max_concurrency!r}: it must be >= 1, or None")
    if on_failure not in {"raise", "collect"}:
        raise ConfigError(f"on_failure={on_failure!r}: it must be 'raise' or 'collect'")


async def _together(workers: Sequence[Coroutine[Any, Any, None]]) -> None:
    """Awaits all; the first failure, or a cancellation, ends the others before it passes."""
    tasks = [asyncio.create_task(worker) for worker in workers]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
