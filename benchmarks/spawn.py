"""Spawning: how many agents a second, and how soon a new dedicated one has answered."""

import asyncio
import time
from typing import Any, Final

import psutil
import ray

from benchmarks.agents import Counter, DedicatedCounter, RawCounter
from benchmarks.cluster import CONFIG, Site, each
from benchmarks.report import Bar, Comparison, Samples

IN_FLIGHT: Final = 256
NODES: Final = 2
QUIET_SECONDS: Final = 0.3  # over which a process's share of a core is taken
QUIET_SHARE: Final = 0.1
WAIT_SECONDS: Final = 60.0

COMPARISONS: Final = (
    Comparison(
        "rate",
        "spawn",
        f"shared, {IN_FLIGHT} in flight",
        "agents/s",
        "raw actors made together, with first call",
        Bar(">=", 1000),
    ),
    Comparison(
        "first-call",
        "spawn",
        "dedicated, warm pool, spawn and first call",
        "ms",
        "raw actor, creation and first call",
        Bar("<=", 0.1),
    ),
)


class Spawn:
    """New agents and new raw actors; each round's are gone before the next one begins."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._agents = 2_000 if site.is_quick else 10_000
        self._actors = 4 if site.is_quick else 8
        self._firsts = 2 if site.is_quick else 5

    async def prepare(self) -> None:
        """As the protocol says."""
        self._cluster = await self._site.connect()
        await self._spawn_shared(IN_FLIGHT, "warm")
        await self._make_raw(1)
        # Ids that live on the far node are known once an agent of that id was there.
        refs = await self._site.place(self._cluster, Counter, self._firsts, "first")
        await each(IN_FLIGHT, refs, lambda ref: ref.delete())
        self._ids = [ref.id for ref in refs]

    async def round(self, number: int) -> Samples:
        """As the protocol says."""
        peer_first = number % 2 == 1
        if peer_first:
            raw = await self._make_raw(self._actors)
        shared = await self._spawn_shared(self._agents, f"round-{number}")
        if not peer_first:
            raw = await self._make_raw(self._actors)
        ours: list[float] = []
        peer: list[float] = []
        for id_ in self._ids:
            ours.append(await self._first_call(id_))
            await self._wait_quiet()
            peer.append(1000 / await self._make_raw(1))
        middle = len(ours) // 2
        return {
            "rate": (shared, raw),
            "first-call": (sorted(ours)[middle], sorted(peer)[middle]),
        }

    async def _spawn_shared(self, count: int, prefix: str) -> float:
        """Agents spawned per second."""
        cluster = self._cluster
        ids = [f"{prefix}-{number}" for number in range(count)]
        start = time.perf_counter()
        await each(IN_FLIGHT, ids, lambda id_: cluster.spawn(Counter, id_))
        seconds = time.perf_counter() - start
        await each(IN_FLIGHT, ids, lambda id_: cluster.ref(id_).delete())
        return count / seconds

    async def _make_raw(self, count: int) -> float:
        """Actors per second that were made, and had answered one call."""
        start = time.perf_counter()
        actors = [self._site.raw(RawCounter) for _ in range(count)]
        await asyncio.gather(*(actor.add.remote(1) for actor in actors))
        seconds = time.perf_counter() - start
        for actor in actors:
            ray.kill(actor)
        await self._wait_quiet()
        return count / seconds

    async def _first_call(self, id_: str) -> float:
        """Milliseconds until a new dedicated agent has answered."""
        await self._wait_quiet()
        start = time.perf_counter()
        ref = await self._cluster.spawn(DedicatedCounter, id_)
        await ref.call(DedicatedCounter.add, 1)
        milliseconds = (time.perf_counter() - start) * 1000
        await ref.delete()
        return milliseconds

    async def _wait_quiet(self) -> None:
        """Wait until the warm pools are full, killed actors are gone, and nobody is starting."""
        end = time.monotonic() + WAIT_SECONDS
        while time.monotonic() < end:
            workers = self._site.processes("AgentWorkerActor")
            raw = self._site.processes("RawCounter")
            if len(workers) == NODES * CONFIG.warm_workers and not raw and await _are_idle(workers):
                return
            await asyncio.sleep(0.05)
        raise TimeoutError("the cluster did not come to rest")


async def _are_idle(processes: list[Any]) -> bool:
    """True if none of them has used a core for the last moment."""
    try:
        before = [sum(process.cpu_times()[:2]) for process in processes]
        await asyncio.sleep(QUIET_SECONDS)
        after = [sum(process.cpu_times()[:2]) for process in processes]
    except psutil.NoSuchProcess:
        return False
    return all(
        late - early < QUIET_SHARE * QUIET_SECONDS
        for early, late in zip(before, after, strict=True)
    )
