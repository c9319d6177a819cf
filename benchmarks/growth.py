"""Growth: what a call costs, in CPU time of all processes together, as nodes are added.

CPU time stands a shared machine better than the time on the clock. The nodes come one by one, so
that sizes cannot alternate: a round's figures of the smaller sizes were taken before. Each size has
agents of its own, spread over all its nodes, and is measured against the single node.
"""

import os
from collections.abc import Sequence
from statistics import median
from typing import Any, Final

import psutil

from benchmarks.agents import Counter, EventualCounter
from benchmarks.cluster import CONFIG, SPAWNING, Site, each, far, wait_settled
from benchmarks.density import RUNTIME
from benchmarks.report import Comparison, Samples
from jido_cluster.errors import AgentLostError

SIZES: Final = (1, 2, 3, 4)
AGENTS: Final = 1000
IN_FLIGHT: Final = 256
SHARDS: Final = 32  # they move one after the other to a node that joins: 256 take over a minute
UNIT_CALLS: Final = 10_000
KINDS: Final[dict[str, Any]] = {"volatile": Counter, "durable": EventualCounter}
WORDS: Final = {"volatile": 'durability="none"', "durable": "on the disks of a majority"}

COMPARISONS: Final = tuple(
    Comparison(
        f"{kind}-{size}",
        "growth",
        f"10,000 calls, {WORDS[kind]}, {size} nodes",
        "CPU s",
        "one node",
    )
    for kind in KINDS
    for size in SIZES[1:]
)


class Growth:
    """A cluster that grows from one node to four."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._calls = 5_000 if site.is_quick else 30_000
        self._windows = 1 if site.is_quick else 3
        self._costs: dict[str, float] = {}

    async def prepare(self) -> None:
        """As the protocol says: takes the sizes below the last one."""
        config = CONFIG.model_copy(update={"shards": SHARDS})
        self._cluster = await self._site.connect(config=config)
        for size in SIZES:
            if size > 1:
                self._site.nodes.add(far(size - 1))
            await wait_settled(self._cluster, size)
            self._refs = {kind: await self._spawn(kind, size) for kind in KINDS}
            for kind in KINDS:
                await self._calling(kind, self._calls // 2)
                costs = [await self._cost(kind) for _ in range(self._windows)]
                self._costs[f"{kind}-{size}"] = median(costs)

    async def round(self, number: int) -> Samples:  # noqa: ARG002 - see the protocol
        """As the protocol says: the last size is measured again."""
        for kind in KINDS:
            self._costs[f"{kind}-{SIZES[-1]}"] = await self._cost(kind)
        return {
            f"{kind}-{size}": (self._costs[f"{kind}-{size}"], self._costs[f"{kind}-1"])
            for kind in KINDS
            for size in SIZES[1:]
        }

    async def _spawn(self, kind: str, size: int) -> Sequence[Any]:
        refs = [self._cluster.ref(KINDS[kind], f"{kind}-{size}-{n}") for n in range(AGENTS)]
        await each(SPAWNING, refs, lambda ref: self._cluster.spawn(KINDS[kind], ref.id))
        return refs

    async def _calling(self, kind: str, calls: int) -> None:
        refs, add = self._refs[kind], KINDS[kind].add

        async def ask(number: int) -> None:
            ref = refs[number % AGENTS]
            try:
                await ref.call(add, 1)
            except AgentLostError:  # its shard was elected another leader: the machine is busy
                await self._cluster.get_or_spawn(KINDS[kind], ref.id)

        await each(IN_FLIGHT, range(calls), ask)

    async def _cost(self, kind: str) -> float:
        """CPU seconds of 10,000 calls, of the client and of all processes of the runtime."""
        processes = [psutil.Process(os.getpid()), *self._site.processes(*RUNTIME)]
        before = sum(map(_seconds, processes))
        await self._calling(kind, self._calls)
        return (sum(map(_seconds, processes)) - before) / self._calls * UNIT_CALLS


def _seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)
