"""Calls: how many a second with many in flight, and how long one takes by itself."""

from typing import Final

from benchmarks.agents import Counter, DedicatedCounter, RawCounter
from benchmarks.cluster import Site
from benchmarks.load import Ask, durations, percentiles, rate
from benchmarks.report import Bar, Comparison, Samples

__all__ = ["BLOCK", "COMPARISONS", "Ask", "Calls", "durations", "percentiles", "rate"]

AGENTS: Final = 1000
WIDTHS: Final = {64: 12, 256: 20, 2048: 30}  # asks in flight -> the bar
PEER: Final = "raw async actor"
BLOCK: Final = 100  # asks of one side in a row, where sides alternate within a round

COMPARISONS: Final = (
    *(
        Comparison(f"rate-{n}", "calls", f"shared, {n} in flight", "asks/s", PEER, Bar(">=", limit))
        for n, limit in WIDTHS.items()
    ),
    *(
        Comparison(
            f"{kind}-{point}",
            "calls",
            f"{kind}, one at a time, {point}",
            "ms",
            PEER,
            Bar("<=", limit) if point == "p50" else None,
        )
        for kind, limit in (("shared", 1.25), ("dedicated", 1.35))
        for point in ("p50", "p95", "p99")
    ),
)


class Calls:
    """A thousand shared agents, one dedicated agent, and one raw actor; all on the far node."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._seconds = 0.5 if site.is_quick else 3.0
        self._blocks = 3 if site.is_quick else 10

    async def prepare(self) -> None:
        """As the protocol says."""
        site = self._site
        cluster = await site.connect()
        shared = await site.place(cluster, Counter, AGENTS, "shared")
        (dedicated,) = await site.place(cluster, DedicatedCounter, 1, "dedicated")
        actor = site.raw(RawCounter)
        self._shared: Ask = lambda index: shared[index % AGENTS].call(Counter.add, 1)
        self._dedicated: Ask = lambda _: dedicated.call(DedicatedCounter.add, 1)
        self._raw: Ask = lambda _: actor.add.remote(1)
        for ask in (self._shared, self._raw):
            await rate(ask, max(WIDTHS), 0.5)
        for ask in (self._shared, self._dedicated, self._raw):
            await durations(ask, BLOCK)

    async def round(self, number: int) -> Samples:
        """As the protocol says."""
        samples: dict[str, tuple[float, float]] = {}
        for width in WIDTHS:
            found = {}
            for ask in self._order(number, self._shared, self._raw):
                found[ask] = await rate(ask, width, self._seconds)
            samples[f"rate-{width}"] = (found[self._shared], found[self._raw])
        for kind, ours in (("shared", self._shared), ("dedicated", self._dedicated)):
            times: dict[Ask, list[float]] = {ours: [], self._raw: []}
            for _ in range(self._blocks):
                for ask in self._order(number, ours, self._raw):
                    times[ask] += await durations(ask, BLOCK)
            points = zip(percentiles(times[ours]), percentiles(times[self._raw]), strict=True)
            for point, pair in zip(("p50", "p95", "p99"), points, strict=True):
                samples[f"{kind}-{point}"] = pair
        return samples

    @staticmethod
    def _order(number: int, ours: Ask, peer: Ask) -> tuple[Ask, Ask]:
        return (peer, ours) if number % 2 else (ours, peer)
