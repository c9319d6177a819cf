"""Start-up: from nothing to three nodes that serve, with Ray running already.

Ours is measured to the answer of a durable agent, and until all three nodes are up and each leads
shards; the peer is one raw actor on each node, to their first answers. Each round has a runtime of
its own.
"""

import asyncio
import time
from typing import Final

import ray

from benchmarks.agents import DurableCounter, RawCounter
from benchmarks.cluster import Site, on_node, wait_serving
from benchmarks.report import Comparison, Samples

NODES: Final = 3
PEER: Final = "three raw actors, first calls"

COMPARISONS: Final = (
    Comparison("answer", "startup", "three nodes, to the first durable answer", "s", PEER),
    Comparison("serving", "startup", "three nodes, until each leads shards", "s", PEER),
)


class StartUp:
    """Nothing is kept from round to round but Ray's nodes."""

    def __init__(self, site: Site) -> None:
        self._site = site

    async def prepare(self) -> None:
        """As the protocol says; a runtime is started once, so that files are in memory."""
        await self._ours("warm")
        await self._peer()

    async def round(self, number: int) -> Samples:
        """As the protocol says."""
        if number % 2:
            peer = await self._peer()
            ours = await self._ours(f"round-{number}")
        else:
            ours = await self._ours(f"round-{number}")
            peer = await self._peer()
        return {"answer": (ours[0], peer), "serving": (ours[1], peer)}

    async def _ours(self, name: str) -> tuple[float, float]:
        """Seconds to the first answer, and until all nodes serve."""
        start = time.perf_counter()
        cluster = await self._site.connect(name, is_settled=False)
        ref = await cluster.spawn(DurableCounter, "first")
        await ref.call(DurableCounter.add, 1)
        answer = time.perf_counter() - start
        await wait_serving(cluster, NODES)
        serving = time.perf_counter() - start
        await cluster.shutdown()
        return answer, serving

    async def _peer(self) -> float:
        start = time.perf_counter()
        actors = [
            self._site.raw(RawCounter, scheduling_strategy=on_node(node))
            for node in self._site.nodes.ids.values()
        ]
        await asyncio.gather(*(actor.add.remote(1) for actor in actors))
        seconds = time.perf_counter() - start
        for actor in actors:
            ray.kill(actor)
        return seconds
