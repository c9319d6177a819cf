"""Exec: what a run costs, against the stack a user would put together and against nothing."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Final

from pydantic import validate_call
from tenacity import (
    AsyncRetrying,
    retry_if_exception_type,
    stop_after_attempt,
    wait_exponential_jitter,
)

from benchmarks.exec_actions import (
    Noop,
    Retrying,
    Step,
    ThreeFields,
    in_process,
    sleep,
    threaded,
)
from benchmarks.here import Here
from benchmarks.report import Bar, Comparison, Samples
from jido_cluster import Plan, chain, run, run_plan

STEPS: Final = 10  # of the chain
SLEEPS: Final = 1000  # steps of the plan
WIDTH: Final = 100  # of them at once
SLEEP_SECONDS: Final = 0.1
PARAMS: Final = {"name": "x", "count": 3, "weight": 0.5}
BLOCKS: Final = 50  # each side's turns within a round: short ones, of which the fastest counts

Make = Callable[[], Awaitable[object]]

COMPARISONS: Final = (
    Comparison(
        "stack",
        "exec",
        "a run that may be retried",
        "us",
        "tenacity + asyncio.timeout + pydantic.validate_call",
        Bar("<=", 1),
    ),
    Comparison("bare", "exec", "a run", "us", "Params(...) and await fn(...)", Bar("<=", 12)),
    Comparison("chain", "exec", f"a chain of {STEPS}", "us", "a run of its step", Bar("<=", 11)),
    Comparison(
        "plan",
        "exec",
        f"a plan of {SLEEPS} sleeps, {WIDTH} at once",
        "s",
        "the sleeps by themselves",
        Bar("<=", 1.2),
    ),
    Comparison("thread", "exec", "a run in a thread", "us", "asyncio.to_thread"),
    Comparison("process", "exec", "a run in a process", "us", "a spawned ProcessPoolExecutor"),
)


@validate_call
async def validated(name: str, count: int, weight: float = 1.0) -> int:  # noqa: ARG001 - as Noop
    """What the stack calls."""
    return count


async def timed(name: str, count: int, weight: float) -> int:
    """The same within a time limit."""
    async with asyncio.timeout(30.0):
        return await validated(name=name, count=count, weight=weight)


async def bare(params: ThreeFields) -> int:
    """The same without anything around it."""
    return params.count


def plain(count: int) -> int:
    """What thread and process of the peers run."""
    return count


class Exec:
    """Both sides in this process, on one loop, one call after the other."""

    def __init__(self, site: Here) -> None:
        self._calls = 500 if site.is_quick else 5000
        retrying = AsyncRetrying(
            stop=stop_after_attempt(4),
            wait=wait_exponential_jitter(initial=1.0, max=30.0),
            retry=retry_if_exception_type((ConnectionError, TimeoutError)),
            reraise=True,
        )
        self._pool = ProcessPoolExecutor(1, mp_context=get_context("spawn"))
        self._chained = [Step] * STEPS
        self._pairs: dict[str, tuple[Make, Make, int]] = {
            "stack": (lambda: run(Retrying, PARAMS), lambda: retrying(timed, **PARAMS), 1),
            "bare": (lambda: run(Noop, PARAMS), lambda: bare(ThreeFields(**PARAMS)), 1),  # type: ignore[arg-type]
            "chain": (
                lambda: chain(self._chained, PARAMS),
                lambda: run(Step, PARAMS),
                5,
            ),
            "thread": (
                lambda: run(threaded, {"count": 3}),
                lambda: asyncio.to_thread(plain, 3),
                5,
            ),
            "process": (lambda: run(in_process, {"count": 3}), self._in_pool, 10),
        }

    async def prepare(self) -> None:
        """As the protocol says."""
        for ours, peer, share in self._pairs.values():
            await seconds_of(ours, self._calls // share)
            await seconds_of(peer, self._calls // share)

    async def round(self, number: int) -> Samples:
        """As the protocol says."""
        samples: dict[str, tuple[float, float]] = {}
        for key, (ours, peer, share) in self._pairs.items():
            calls = self._calls // share // BLOCKS
            best = {ours: float("inf"), peer: float("inf")}
            for _ in range(BLOCKS):
                for make in (peer, ours) if number % 2 else (ours, peer):
                    best[make] = min(best[make], await seconds_of(make, calls) / calls)
            samples[key] = (best[ours] * 1e6, best[peer] * 1e6)
        samples["plan"] = await self._plan(), SLEEPS / WIDTH * SLEEP_SECONDS
        return samples

    async def _plan(self) -> float:
        plan = Plan()
        for index in range(SLEEPS):
            plan.add(f"s{index}", sleep, {"seconds": SLEEP_SECONDS})
        begun = time.perf_counter()
        await run_plan(plan, max_concurrency=WIDTH)
        return time.perf_counter() - begun

    def _in_pool(self) -> Awaitable[object]:
        return asyncio.get_running_loop().run_in_executor(self._pool, plain, 3)


async def seconds_of(make: Make, calls: int) -> float:
    """Seconds that so many calls take, one after the other."""
    begun = time.perf_counter()
    for _ in range(calls):
        await make()
    return time.perf_counter() - begun
