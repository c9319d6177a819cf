"""Durable writes: how many a second, beside Redis and beside agents that are not replicated."""

from typing import Any, Final

from benchmarks.agents import Counter, DurableCounter, EventualCounter
from benchmarks.calls import BLOCK, Ask, durations, percentiles, rate
from benchmarks.cluster import NEAR, SPAWNING, Site, each
from benchmarks.redis_pair import Connection, RedisPair, is_installed
from benchmarks.report import Bar, Comparison, Samples
from jido_cluster import AsyncCluster, ClusterConfig

AGENTS: Final = 1000
CLIENTS: Final = 256
SHARDS: Final = 32  # of three hosts: about ten led by each; writes of one shard share messages
CONFIG: Final = ClusterConfig(
    hosts_per_node=1, warm_workers=1, shards=SHARDS, modules=("benchmarks.agents",)
)
REDIS: Final = "Redis SET, then WAIT 1"
AT_ONCE: Final = "Redis SET and WAIT 1 in one message"
VOLATILE: Final = 'durability="none"'
POINTS: Final = ("p50", "p95", "p99")

COMPARISONS: Final = (
    Comparison("writes", "replication", "strong, 256 clients", "asks/s", REDIS, Bar(">=", 2)),
    Comparison("at-once", "replication", "strong, 256 clients", "asks/s", AT_ONCE),
    *(
        Comparison(
            f"strong-{point}",
            "replication",
            f"strong, across nodes, one at a time, {point}",
            "ms",
            REDIS,
            Bar("<=", 10, of="ours") if point == "p95" else None,
        )
        for point in POINTS
    ),
    Comparison(
        "disk", "replication", "eventual, disk, 256 clients", "asks/s", VOLATILE, Bar(">=", 0.3)
    ),
    Comparison(
        "memory", "replication", "eventual, memory, 256 clients", "asks/s", VOLATILE, Bar(">=", 0.6)
    ),
)


def left_out(one: Comparison) -> str:
    """Why a comparison was not measured."""
    if one.key == "memory":
        return 'durability="memory" is kept as "disk" in this release'
    return "there is no redis-server on this machine; on Debian: apt-get install redis-server"


class Replication:
    """A thousand agents of each kind on three nodes, and a pair of Redis processes."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._seconds = 1.0 if site.is_quick else 3.0
        self._blocks = 3 if site.is_quick else 10
        self._redis: list[Connection] = []

    async def prepare(self) -> None:
        """As the protocol says."""
        cluster = await self._site.connect(config=CONFIG)
        strong, across = await _place(cluster, DurableCounter, "strong")
        eventual, _ = await _place(cluster, EventualCounter, "eventual")
        volatile, _ = await _place(cluster, Counter, "volatile")
        self._strong = _asking(strong, DurableCounter)
        self._across = _asking(across, DurableCounter)
        self._eventual = _asking(eventual, EventualCounter)
        self._volatile = _asking(volatile, Counter)
        if is_installed():
            pair = self._site.ending.enter_context(RedisPair())
            self._redis = await pair.connect(CLIENTS)
        for ask in self._asks().values():
            await rate(ask, CLIENTS, 1.0)

    def _asks(self) -> dict[str, Ask]:
        asks = {"writes": self._strong, "disk": self._eventual, "none": self._volatile}
        return asks | {"redis": self._set, "at-once": self._set_at_once} if self._redis else asks

    async def _set(self, number: int) -> None:
        if not await self._redis[number % CLIENTS].write(*_pair(number)):
            raise TimeoutError("Redis did not copy a write within a second")

    async def _set_at_once(self, number: int) -> None:
        if not await self._redis[number % CLIENTS].write_at_once(*_pair(number)):
            raise TimeoutError("Redis did not copy a write within a second")

    async def round(self, number: int) -> Samples:
        """As the protocol says."""
        asks = list(self._asks().items())
        found = {}
        for name, ask in reversed(asks) if number % 2 else asks:
            found[name] = await rate(ask, CLIENTS, self._seconds)
        samples = {"disk": (found["disk"], found["none"])}
        if not self._redis:
            return samples
        samples["writes"] = (found["writes"], found["redis"])
        samples["at-once"] = (found["writes"], found["at-once"])
        ours: list[float] = []
        peer: list[float] = []
        for _ in range(self._blocks):
            ours += await durations(self._across, BLOCK)
            peer += await durations(self._set, BLOCK)
        for point, pair in zip(
            POINTS, zip(percentiles(ours), percentiles(peer), strict=True), strict=True
        ):
            samples[f"strong-{point}"] = pair
        return samples


async def _place(cluster: AsyncCluster, kind: Any, prefix: str) -> tuple[list[Any], list[Any]]:
    """New agents wherever their shards are led; and those of them that are not on this node."""
    found: list[Any] = []
    across: list[Any] = []

    async def spawn(number: int) -> None:
        ref = await cluster.spawn(kind, f"{prefix}-{number}")
        found.append(ref)
        if (await ref.info()).node != NEAR:
            across.append(ref)

    await each(SPAWNING, range(AGENTS), spawn)
    return found, across


def _asking(refs: list[Any], kind: Any) -> Ask:
    return lambda index: refs[index % len(refs)].call(kind.add, 1)


def _pair(number: int) -> tuple[bytes, bytes]:
    return b"agent-%d" % (number % AGENTS), b'{"value":%d}' % number
