"""Other systems under the load of our calls, between two processes: each ask timed; a fan-out.

One process asks and another one answers, over the loopback interface; with AutoGen a third one, its
host, is between them. Each system is asked by its own client: the Python ones and ours by the same
code (`load`), each on its own event loop, Erlang by as many processes as asks in flight.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple

from benchmarks.agents import Counter, RawCounter
from benchmarks.cluster import Site
from benchmarks.load import Ask, Load, fan, load, turned
from benchmarks.peers.lines import PeerError
from benchmarks.peers.starting import PEERS, MissingError, Peer, Program
from benchmarks.report import Bar, Comparison, Samples

AGENTS: Final = 1000  # that a load is spread over
FAN: Final = 10_000  # that are asked at once
WARM_FAN: Final = 1000
WIDTHS: Final = (1, 64, 256, 2048)
QUICK_WIDTHS: Final = (1, 64, 2048)
POINTS: Final = ("rate", "p50", "p95", "p99")
RAW: Final = "raw Ray actor"
NAMES: Final = {"raw": RAW} | {peer.key: peer.name for peer in PEERS}
BARS: Final = {
    "rate-2048-raw": Bar(">=", 30),
    "rate-2048-erlang": Bar(">=", 0.5),
    "rate-2048-xoscar": Bar(">=", 10),
    "rate-2048-autogen": Bar(">=", 10),
    "p50-1-raw": Bar("<=", 1.25),
}
QUICK_SKIPPED: Final = 256
SHOWN: Final = frozenset({"p50-1", "rate-64", "rate-2048"})  # in a terminal; JSON has all

_missing: dict[str, str] = {}  # a peer's key -> why it is left out


def _comparison(point: str, width: int, peer: str) -> Comparison:
    key = f"{point}-{width}-{peer}"
    metric = "asks per second" if point == "rate" else point
    return Comparison(
        key,
        "peers",
        f"{metric}, {width} in flight",
        "asks/s" if point == "rate" else "ms",
        NAMES[peer],
        BARS.get(key),
        is_detail=f"{point}-{width}" not in SHOWN and key not in BARS,
    )


COMPARISONS: Final = (
    *(_comparison(point, width, peer) for width in WIDTHS for point in POINTS for peer in NAMES),
    *(
        Comparison(f"fan-{peer.key}", "peers", f"{FAN:,} agents, all asked at once", "s", peer.name)
        for peer in PEERS
        if peer.can_fan
    ),
)


def left_out(one: Comparison) -> str:
    """Why a comparison was not measured."""
    if one.metric.endswith(f", {QUICK_SKIPPED} in flight"):
        return f"{QUICK_SKIPPED} in flight is not in short rounds"
    key = next(key for key, name in NAMES.items() if name == one.peer_name)
    return f"{one.peer_name}: {_missing.get(key, 'it gave no answer')}"


class System(NamedTuple):
    """Something to load.

    Attributes:
        fan: None: it cannot hold so many agents.
    """

    load: Callable[[int, float], Awaitable[Load]]
    fan: Callable[[int], Awaitable[float]] | None = None


def _asked_here(ask: Ask) -> Callable[[int, float], Awaitable[Load]]:
    return lambda width, seconds: load(lambda number: ask(number % AGENTS), width, seconds)


async def _start(site: Site, peer: Peer) -> dict[str, System]:
    """The peer's system by its key; nothing when this machine lacks it. It ends with the site."""
    try:
        program = await Program.start(peer)
    except (MissingError, PeerError) as error:
        _missing[peer.key] = str(error)
        return {}
    site.closing.push_async_callback(program.close)
    site.versions.update(program.versions)
    return {peer.key: System(program.load, program.fan if peer.can_fan else None)}


class Peers:
    """Ten thousand agents on the far node, one raw actor there, and the peers' programs."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._seconds = 0.5 if site.is_quick else 3.0
        self._widths = QUICK_WIDTHS if site.is_quick else WIDTHS

    async def prepare(self) -> None:
        """As the protocol says."""
        cluster = await self._site.connect()
        refs = await self._site.place(cluster, Counter, FAN, "shared")
        actor = self._site.raw(RawCounter)

        async def ask(number: int) -> object:
            return await refs[number].call(Counter.add, 1)

        async def fan_out(count: int) -> float:
            return await fan(ask, count)

        self._systems = {
            "ours": System(_asked_here(ask), fan_out),
            "raw": System(_asked_here(lambda _: actor.add.remote(1))),
        }
        for found in await asyncio.gather(*(_start(self._site, peer) for peer in PEERS)):
            self._systems |= found
        for system in self._systems.values():
            for width in self._widths:
                await system.load(width, self._seconds / 2)
            if system.fan is not None:
                await system.fan(WARM_FAN)

    async def round(self, number: int) -> Samples:
        """As the protocol says."""
        samples: dict[str, tuple[float, float]] = {}
        order = turned(list(self._systems), number)
        for width in self._widths:
            found = {key: await self._systems[key].load(width, self._seconds) for key in order}
            ours = found.pop("ours")
            for key, theirs in found.items():
                for point in POINTS:
                    pair = (getattr(ours, point), getattr(theirs, point))
                    samples[f"{point}-{width}-{key}"] = pair
        seconds: dict[str, float] = {}
        for key in order:
            fan_out = self._systems[key].fan
            if fan_out is not None:
                seconds[key] = await fan_out(FAN)
        mine = seconds.pop("ours")
        return samples | {f"fan-{key}": (mine, theirs) for key, theirs in seconds.items()}
