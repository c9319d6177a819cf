"""Durable writes: how many a second, beside Redis and beside agents that are not replicated."""

import time
from typing import Any, Final

import psutil

from benchmarks.agents import Counter, DurableCounter, EventualCounter, MemoryCounter
from benchmarks.calls import BLOCK, Ask, durations, percentiles, rate
from benchmarks.cluster import NEAR, SPAWNING, Site, each
from benchmarks.redis_pair import Connection, RedisPair, has_library, is_installed
from benchmarks.report import Bar, Comparison, Samples
from jido_cluster import AsyncCluster, ClusterConfig

AGENTS: Final = 1000
CLIENTS: Final = 256
SHARDS: Final = 32  # of three hosts: about ten led by each; writes of one shard share messages
CONFIG: Final = ClusterConfig(
    hosts_per_node=1, warm_workers=1, shards=SHARDS, modules=("benchmarks.agents",)
)
ACTORS: Final = ("ShardHostActor", "NodeSupervisorActor", "ClusterSupervisorActor")
COUNTED: Final = 10_000  # writes whose CPU time is told
STRONG: Final = "strong, 256 clients"
LIBRARY: Final = "redis-py SET, then WAIT 1"
BARE: Final = "Redis SET, then WAIT 1"  # by bare sockets
AT_ONCE: Final = "Redis SET and WAIT 1 in one message"
VOLATILE: Final = 'durability="none"'
POINTS: Final = ("p50", "p95", "p99")
PEERS: Final = {"library": LIBRARY, "bare": BARE, "at-once": AT_ONCE}

COMPARISONS: Final = (
    Comparison("library", "replication", STRONG, "asks/s", LIBRARY, Bar(">=", 2)),
    Comparison("bare", "replication", STRONG, "asks/s", BARE, Bar(">=", 2)),
    Comparison("at-once", "replication", STRONG, "asks/s", AT_ONCE),
    *(
        Comparison(
            f"{key}-cpu", "replication", "strong, CPU time of 10,000, all processes", "s", name
        )
        for key, name in PEERS.items()
    ),
    *(
        Comparison(
            f"strong-{point}",
            "replication",
            f"strong, across nodes, one at a time, {point}",
            "ms",
            BARE,
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
    if one.peer_name == LIBRARY and is_installed():
        return "redis-py is not among the locked tools: pip install 'redis[hiredis]'"
    return "there is no redis-server on this machine; on Debian: apt-get install redis-server"


class Replication:
    """A thousand agents of each kind on three nodes, and a pair of Redis processes."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._seconds = 1.0 if site.is_quick else 3.0
        self._blocks = 3 if site.is_quick else 10
        self._redis: list[Connection] = []
        self._library: list[Any] = []
        self._pair: RedisPair | None = None

    async def prepare(self) -> None:
        """As the protocol says."""
        cluster = await self._site.connect(config=CONFIG)
        strong, across = await _place(cluster, DurableCounter, "strong")
        self._strong = _asking(strong, DurableCounter)
        self._across = _asking(across, DurableCounter)
        self._weaker = {}
        for name, kind in (
            ("disk", EventualCounter),
            ("memory", MemoryCounter),
            ("none", Counter),
        ):
            refs, _ = await _place(cluster, kind, name)
            self._weaker[name] = _asking(refs, kind)
        self._hosts = self._site.processes(*ACTORS)
        if is_installed():
            self._pair = self._site.ending.enter_context(RedisPair())
            self._redis = await self._pair.connect(CLIENTS)
            if has_library():
                self._library = await self._pair.connect_library(CLIENTS)
        for ask in self._asks().values():
            await rate(ask, CLIENTS, 1.0)

    def _asks(self) -> dict[str, Ask]:
        asks: dict[str, Ask] = {"strong": self._strong, **self._weaker}
        if self._redis:
            asks |= {"bare": self._set, "at-once": self._set_at_once}
        if self._library:
            asks["library"] = self._set_by_library
        return asks

    async def _set(self, number: int) -> None:
        _check(await self._redis[number % CLIENTS].write(*_pair(number)))

    async def _set_at_once(self, number: int) -> None:
        _check(await self._redis[number % CLIENTS].write_at_once(*_pair(number)))

    async def _set_by_library(self, number: int) -> None:
        client = self._library[number % CLIENTS]
        await client.set(*_pair(number))
        _check(await client.wait(1, 1000) > 0)

    async def round(self, number: int) -> Samples:
        """As the protocol says."""
        asks = list(self._asks().items())
        found, cost = {}, {}
        for name, ask in reversed(asks) if number % 2 else asks:
            began, cpu = time.perf_counter(), self._cpu(name)
            found[name] = await rate(ask, CLIENTS, self._seconds)
            writes = found[name] * (time.perf_counter() - began)
            cost[name] = (self._cpu(name) - cpu) * COUNTED / writes
        samples = {name: (found[name], found["none"]) for name in ("disk", "memory")}
        for name in PEERS.keys() & found.keys():
            samples[name] = (found["strong"], found[name])
            samples[f"{name}-cpu"] = (cost["strong"], cost[name])
        if not self._redis:
            return samples
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

    def _cpu(self, name: str) -> float:
        """CPU seconds so far of this process, the client, and of those that serve it."""
        serving = self._hosts
        if name in PEERS:
            serving = [] if self._pair is None else self._pair.processes()
        times = [one.cpu_times() for one in (psutil.Process(), *serving)]
        return float(sum(one.user + one.system for one in times))


def _check(is_copied: bool) -> None:
    if not is_copied:
        raise TimeoutError("Redis did not copy a write within a second")


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
