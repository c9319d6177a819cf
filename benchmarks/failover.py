"""Failover: kill -9 of all processes of a node at once; how soon do its agents answer.

Each of the agents that the node led is asked once, as soon as the node is dead: a caller's wait is
the call's duration. The peer is Ray by itself, in the same death: an actor with `max_restarts` on
the same node, asked until it answers, having lost its state. The node comes back in its directory
before the next round.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import ray

from benchmarks.agents import DurableCounter, RawProfile
from benchmarks.cluster import CONFIG, Site, each, far, wait_settled
from benchmarks.load import percentiles
from benchmarks.report import Bar, Comparison, Samples
from jido_cluster.errors import JidoError

NODES: Final = 3
SHARDS: Final = 64  # leadership comes back to a node shard by shard: 256 take over a minute
AGENTS: Final = 300
SPAWNING: Final = 64
MOST_ACTORS: Final = 20
LIMIT_S: Final = 120.0
PEER: Final = "Ray's restart of an actor"

COMPARISONS: Final = (
    Comparison("p50", "failover", "kill -9 of a node to an agent's first answer, p50", "s", PEER),
    Comparison(
        "p99",
        "failover",
        "kill -9 of a node to an agent's first answer, p99",
        "s",
        PEER,
        Bar("<=", 3, of="ours"),
    ),
)


class Failover:
    """Durable agents on three nodes; the client's own node is never killed."""

    def __init__(self, site: Site) -> None:
        self._site = site

    async def prepare(self) -> None:
        """As the protocol says."""
        # A node that is started again is the one it was: else it would be one more, and the next
        # death the second one of the shards that the dead node still holds.
        self._folder = TemporaryDirectory(prefix="jido-failover-")
        kept = {"shards": SHARDS, "data_dir": Path(self._folder.name)}
        config = CONFIG.model_copy(update=kept)
        self._cluster = await self._site.connect(config=config)
        self._refs = [self._cluster.ref(DurableCounter, f"kept-{n}") for n in range(AGENTS)]
        await each(SPAWNING, self._refs, lambda ref: self._cluster.spawn(DurableCounter, ref.id))

    async def round(self, number: int) -> Samples:
        """As the protocol says; the nodes beside the client's take turns."""
        victim = far(1 + number % (NODES - 1))
        actor = await self._actor_on(victim)
        led = [ref for ref in self._refs if (await ref.info()).node == victim]
        before = [await ref.call(DurableCounter.add, 1) for ref in led]
        self._site.nodes.kill(victim)
        answers, (peer, _) = await asyncio.gather(
            asyncio.gather(*(_answered(ref.call, JidoError, DurableCounter.add, 1) for ref in led)),
            _answered(actor.visit.remote, ray.exceptions.RayError),
        )
        ray.kill(actor)
        ours = [seconds for seconds, _ in answers]
        if any(value <= old for (_, value), old in zip(answers, before, strict=True)):
            raise RuntimeError("an agent has lost what it had answered before its node died")
        if any([(await ref.info()).node == victim for ref in led]):
            raise RuntimeError(f"{victim} still serves after its death")
        self._site.nodes.add(victim)  # Ray starts nodes in the main thread only
        await wait_settled(self._cluster, NODES)
        p50, _, p99 = percentiles(ours)
        return {"p50": (p50, peer), "p99": (p99, peer)}

    async def _actor_on(self, node: str) -> Any:
        """A raw actor that happens to be on this node: one bound to it could not leave it."""
        for _ in range(MOST_ACTORS):
            actor = self._site.raw(RawProfile, scheduling_strategy="SPREAD", max_restarts=-1)
            process = await actor.process_id.remote()
            if process in self._site.nodes.processes(node):
                return actor
            ray.kill(actor)
        raise RuntimeError(f"Ray put none of {MOST_ACTORS} actors on {node}")


async def _answered(
    ask: Callable[..., Awaitable[object]], refusal: type[Exception], *arguments: Any
) -> tuple[float, Any]:
    """Seconds from now to the first answer, and that answer."""
    start = time.perf_counter()
    last: Exception | None = None
    while time.perf_counter() - start < LIMIT_S:
        try:
            answer = await ask(*arguments)
        except refusal as error:
            last = error
        else:
            return time.perf_counter() - start, answer
        await asyncio.sleep(0.01)
    raise TimeoutError(f"no answer within {LIMIT_S:g} s of the node's death: {last}") from last
