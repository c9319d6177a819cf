"""Exec for long: whether a million runs leave anything behind."""

import asyncio
import gc
from collections.abc import Awaitable, Callable
from typing import Any, Final

import psutil

from benchmarks.exec_actions import Noop, Retrying, flaky, sleep, threaded
from benchmarks.here import Here
from benchmarks.report import Bar, Comparison, Samples
from jido_cluster import Breaker, InvalidInputError, run, run_many, telemetry

RUNS: Final = 1_000_000  # of a round
QUICK_RUNS: Final = 50_000
PARAMS: Final = {"name": "x", "count": 3}
GUARD: Final = Breaker("benchmark", failures=10)

COMPARISONS: Final = (
    Comparison("rss", "exec-soak", "memory after a million runs", "MB", "before", Bar("<=", 1.02)),
    Comparison("slope", "exec-soak", "growth of memory", "bytes/run", "a byte per run"),
)


class ExecSoak:
    """Runs of every kind, in turn; a round is a million of them."""

    def __init__(self, site: Here) -> None:
        self._runs = QUICK_RUNS if site.is_quick else RUNS
        # What makes a hundred runs; the last makes ten at a time.
        self._mix: tuple[tuple[Callable[[], Awaitable[object]], int], ...] = (
            (lambda: run(Noop, PARAMS), 50),
            (lambda: run(Retrying, PARAMS, {"user": "x"}, breaker=GUARD), 15),
            (lambda: run(sleep, {"seconds": 0.0}, timeout=1.0, max_retries=2), 10),
            (lambda: run(flaky), 5),
            (refused, 5),
            (cancelled, 3),
            (lambda: run(threaded, {"count": 1}), 2),
            (lambda: run_many(Noop, [PARAMS] * 10, max_concurrency=3), 1),
        )

    async def prepare(self) -> None:
        """As the protocol says."""
        telemetry.attach_many("soak", ["jido.exec.stop", "jido.exec.exception"], ignore)
        await self._work(self._runs // 10)

    async def round(self, _: int) -> Samples:
        """As the protocol says."""
        before = resident()
        await self._work(self._runs)
        after = resident()
        return {
            "rss": (after / 1e6, before / 1e6),
            "slope": ((after - before) / self._runs, 1.0),
        }

    async def _work(self, runs: int) -> None:
        for _ in range(runs // 100):
            for make, times in self._mix:
                for _ in range(times):
                    await make()


async def refused() -> None:
    """A run whose parameters do not fit."""
    try:
        await run(Noop, {"name": "x", "count": "many"})
    except InvalidInputError:
        return


async def cancelled() -> None:
    """A run that is cancelled."""
    running = asyncio.ensure_future(run(sleep, {"seconds": 60.0}))
    await asyncio.sleep(0)
    running.cancel()
    await asyncio.wait([running])


def ignore(*_: Any) -> None:
    """Listen to everything, do nothing."""


def resident() -> int:
    """Bytes of memory that this process holds, when all that can be let go is gone."""
    gc.collect()
    return int(psutil.Process().memory_info().rss)
