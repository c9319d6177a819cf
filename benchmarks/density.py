"""Density: the memory that one idle agent costs, and one idle raw actor.

Unique memory (USS) is what the machine gets back when a process ends. An agent's cost is the growth
of all processes of the runtime on all nodes, rosters included, divided by the number of agents; a
raw actor's is its process. Every agent and every actor has answered one call before it is idle, so
that what a first call leaves behind is counted.
"""

import asyncio
from typing import Final

import psutil
import ray

from benchmarks.agents import Profile, RawProfile
from benchmarks.cluster import Site, each
from benchmarks.report import Bar, Comparison, Samples
from jido_cluster import AsyncCluster

IN_FLIGHT: Final = 256
ACTORS: Final = 3
RUNTIME: Final = (
    "ShardHostActor",
    "NodeSupervisorActor",
    "ClusterSupervisorActor",
    "AgentWorkerActor",
)
BYTES_PER_KB: Final = 1000

COMPARISONS: Final = (
    Comparison(
        "memory",
        "density",
        "unique memory of an idle shared agent, 5 fields",
        "KB",
        "raw actor, 5 attributes",
        Bar("<=", 20, of="ours"),
    ),
)


class Density:
    """Each round has a runtime of its own: memory that was freed before would hide the growth."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._agents = 5_000 if site.is_quick else 20_000

    async def prepare(self) -> None:
        """As the protocol says; nothing is kept from round to round."""

    async def round(self, number: int) -> Samples:
        """As the protocol says."""
        if number % 2:
            actor = await self._actor_bytes()
            agent = await self._agent_bytes(number)
        else:
            agent = await self._agent_bytes(number)
            actor = await self._actor_bytes()
        return {"memory": (agent / BYTES_PER_KB, actor / BYTES_PER_KB)}

    async def _agent_bytes(self, number: int) -> float:
        cluster = await self._site.connect(f"round-{number}")
        await _add_agents(cluster, "warm", IN_FLIGHT)
        before = self._runtime_bytes()
        await _add_agents(cluster, "measured", self._agents)
        growth = self._runtime_bytes() - before
        await cluster.shutdown()
        return growth / self._agents

    def _runtime_bytes(self) -> int:
        return sum(_unique_bytes(process) for process in self._site.processes(*RUNTIME))

    async def _actor_bytes(self) -> float:
        actors = [self._site.raw(RawProfile) for _ in range(ACTORS)]
        await asyncio.gather(*(actor.visit.remote() for actor in actors))
        ids = await asyncio.gather(*(actor.process_id.remote() for actor in actors))
        total = sum(_unique_bytes(psutil.Process(id_)) for id_ in ids)
        for actor in actors:
            ray.kill(actor)
        return total / ACTORS


async def _add_agents(cluster: AsyncCluster, prefix: str, count: int) -> None:
    async def add(number: int) -> None:
        ref = await cluster.spawn(Profile, f"{prefix}-{number}")
        await ref.call(Profile.visit)

    await each(IN_FLIGHT, range(count), add)


def _unique_bytes(process: psutil.Process) -> int:
    return int(process.memory_full_info().uss)
