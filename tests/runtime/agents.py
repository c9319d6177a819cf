"""Agents of the runtime's tests; their handlers run in the test's own process."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import ClassVar

from pydantic import BaseModel

from jido_cluster import Action, Agent, Context, Outcome, on


class Tally(Agent, name="runtime.tally"):
    """Counts, and remembers in which order."""

    value: int = 0
    items: list[int] = []
    starts: int = 0

    async def on_start(self) -> None:
        self.starts += 1

    @on("tally.add")
    async def add(self, amount: int = 1) -> int:
        self.value += amount
        return self.value

    @on("tally.put")
    async def put(self, item: int) -> int:
        self.items.append(item)
        return item

    @on("tally.get", read_only=True)
    async def get(self) -> int:
        return self.value

    @on("tally.fail")
    async def fail(self) -> None:
        raise ValueError("no")

    @on("tally.nap")
    async def nap(self, seconds: float) -> float:
        self.value += 1
        await asyncio.sleep(seconds)
        return seconds

    @on("tally.items")
    async def give(self, n: int, pause: float = 0.0) -> AsyncIterator[int]:
        for _ in range(n):
            self.value += 1
            yield self.value
            await asyncio.sleep(pause)

    @on("tally.cling")
    async def cling(self) -> AsyncIterator[int]:
        """Neither its deadline nor its caller's leaving ends it: it goes on as long as it may."""
        while True:
            self.value += 1
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(1.0)
            yield self.value

    @on("tally.end")
    async def end(self) -> str:
        self.ctx.delete()
        return "ended"

    @on("tally.now")
    async def now(self) -> float:
        return self.ctx.now.timestamp()

    @on("tally.via")
    async def via(self, other: str, seconds: float) -> float:
        return await self.ctx.cluster.ref(Tally, other).call(Tally.nap, seconds)


class Guest(Agent, name="runtime.guest", virtual=True):
    """Made by its first call."""

    visits: int = 0

    @on("guest.visit")
    async def visit(self) -> int:
        self.visits += 1
        return self.visits

    @on("guest.items")
    async def items(self, n: int) -> AsyncIterator[int]:
        for item in range(n):
            yield item


class Fleeting(Tally, name="runtime.fleeting", durability="none"):
    """Lives in memory only."""


class Hasty(Tally, name="runtime.hasty", durability="memory"):
    """Is acknowledged before it is on a disk."""


class Passerby(Guest, name="runtime.passerby", virtual=True, durability="none"):
    """Made by its first call, in memory only."""


class Drowsy(Tally, name="runtime.drowsy", idle_timeout=60.0):
    """Leaves memory after a minute."""


class Dozing(Tally, name="runtime.dozing", idle_timeout=1.0):
    """Leaves memory after a second."""


class Step(Action, name="runtime.step", timeout=None):
    """Runs for so many seconds of the loop; counts its runs by key."""

    begun: ClassVar[dict[str, int]] = {}

    class Params(BaseModel):
        key: str
        seconds: float = 0.0

    async def run(self, params: Params, ctx: Context) -> str:
        Step.begun[params.key] = Step.begun.get(params.key, 0) + 1
        await asyncio.sleep(params.seconds)
        return params.key


class Starter(Agent, name="runtime.starter"):
    """Starts runs and notes their outcomes."""

    done: list[str] = []

    @on("starter.start")
    async def start(self, key: str, seconds: float) -> str:
        params = Step.Params(key=key, seconds=seconds)
        return self.ctx.start(Step, params, reply=self.ended, tag=key)

    @on("starter.ended")
    async def ended(self, outcome: Outcome[str]) -> None:
        self.done.append(f"{outcome.tag}: {outcome.value}")
