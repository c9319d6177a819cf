"""Asking: as many workers as asks in flight, each with one under way, and how long each took.

Needs nothing but the standard library: the peers' programs ask with this code too, in an
environment of their own.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from statistics import quantiles
from typing import NamedTuple

Ask = Callable[[int], Awaitable[object]]


class Load(NamedTuple):
    """What a system did under a load: asks answered per second, and milliseconds of one ask."""

    rate: float
    p50: float
    p95: float
    p99: float


async def load(ask: Ask, in_flight: int, seconds: float) -> Load:
    """Asks for so long, every ask timed; those under way at the end are waited for."""
    times: list[float] = []
    start = time.perf_counter()
    end = start + seconds

    async def work(number: int) -> None:
        while (begun := time.perf_counter()) < end:
            await ask(number)
            times.append((time.perf_counter() - begun) * 1000)
            number += in_flight

    await asyncio.gather(*(work(number) for number in range(in_flight)))
    return Load(len(times) / (time.perf_counter() - start), *percentiles(times))


async def fan(ask: Ask, agents: int) -> float:
    """Seconds until as many agents have answered one ask each, all asked at once."""
    start = time.perf_counter()
    await asyncio.gather(*(ask(number) for number in range(agents)))
    return time.perf_counter() - start


async def rate(ask: Ask, in_flight: int, seconds: float) -> float:
    """Asks answered per second while each of `in_flight` workers always has one under way."""
    done = 0
    start = time.perf_counter()
    end = start + seconds

    async def work(number: int) -> None:
        nonlocal done
        while time.perf_counter() < end:
            await ask(number)
            number += in_flight
            done += 1

    await asyncio.gather(*(work(number) for number in range(in_flight)))
    return done / (time.perf_counter() - start)


async def durations(ask: Ask, count: int) -> list[float]:
    """Milliseconds of each of `count` asks, one after the other."""
    times = []
    for number in range(count):
        start = time.perf_counter()
        await ask(number)
        times.append((time.perf_counter() - start) * 1000)
    return times


def percentiles(times: list[float]) -> tuple[float, float, float]:
    """The 50th, 95th and 99th; of a single time, that time."""
    if len(times) == 1:
        return times[0], times[0], times[0]
    cuts = quantiles(times, n=100, method="inclusive")
    return cuts[49], cuts[94], cuts[98]


def turned(keys: Sequence[str], number: int) -> list[str]:
    """The order of a round: each begins with another one, every other round goes backwards."""
    first = number % len(keys)
    order = [*keys[first:], *keys[:first]]
    return order[::-1] if number % 2 else order
