"""The agents of the tests of streams; workers of a real cluster import this module."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from jido_cluster import Agent, Signal, on
from tests.contract.actions import Book, OutOfStock, wait_for_file, write_line
from tests.contract.agents import Inbox


class Tape(Agent, name="contract.tape"):
    """Gives items, in many ways."""

    value: int = 0

    @on("tape.count")
    async def count(self, n: int, how: str = "") -> AsyncIterator[int]:
        for _ in range(n):
            self.value += 1
            yield self.value
        if how == "value":
            raise ValueError("the tape is torn")
        if how == "stock":
            raise OutOfStock("no tape left", shelf=7)
        if how == "spoil":
            self.value = "many"  # type: ignore[assignment]

    @on("tape.books")
    async def books(self, titles: list[str]) -> AsyncIterator[Book]:
        for title in titles:
            yield Book(title=title, pages=len(title))

    @on("tape.loose")
    async def loose(self, items: list[Any]) -> Any:
        for item in items:
            yield item

    @on("tape.number")
    async def number(self, items: list[Any]) -> AsyncIterator[int]:
        for item in items:
            self.value += 1
            yield item

    @on("tape.text")
    async def text(self, path: str, sizes: list[int]) -> AsyncIterator[str]:
        for size in sizes:
            write_line(path, "made")
            yield "x" * size

    @on("tape.log")
    async def log(self, path: str, n: int) -> AsyncIterator[int]:
        """Leaves a line for each item it makes, and one for its end."""
        try:
            for number in range(n):
                self.value += 1
                write_line(path, "made")
                yield number
            write_line(path, "last")
        finally:
            await asyncio.sleep(0)  # an end may await something
            write_line(path, "end")

    @on("tape.stubborn")
    async def stubborn(self, path: str) -> AsyncIterator[int]:
        """Wants to go on when it is cancelled."""
        with suppress(asyncio.CancelledError):
            self.value += 1000
            yield 1
            write_line(path, "waits")
            await asyncio.sleep(30)
        write_line(path, "goes on")
        yield 2

    @on("tape.hold")
    async def hold(self, begun: str, go_on: str) -> AsyncIterator[int]:
        self.value += 1
        yield 1
        Path(begun).touch()  # noqa: ASYNC240 - a file in memory's cache
        await wait_for_file(go_on)
        yield 2

    @on("tape.watch", read_only=True)
    async def watch(self, begun: str, go_on: str) -> AsyncIterator[int]:
        yield self.value
        Path(begun).touch()  # noqa: ASYNC240 - a file in memory's cache
        await wait_for_file(go_on)
        yield self.value

    @on("tape.assign", read_only=True)
    async def assign(self) -> AsyncIterator[int]:
        yield self.value
        self.value = 99
        yield self.value

    @on("tape.brief", timeout=1.0)
    async def brief(self) -> AsyncIterator[int]:
        self.value += 1000
        yield 1
        await asyncio.sleep(30)
        yield 2

    @on("tape.send")
    async def send(self, to: str, n: int) -> AsyncIterator[int]:
        for number in range(n):
            self.ctx.send(to, Signal.of(Inbox.number, number))
            yield number

    @on("tape.copy")
    async def copy_of(self, other: str, n: int) -> AsyncIterator[int]:
        """The items of another tape, as they come."""
        async for item in self.ctx.cluster.ref(Tape, other).stream(Tape.count, n):
            self.value += 1
            yield item

    @on("tape.sum")
    def sum(self, other: str, n: int) -> int:
        """All items of another tape, taken by a handler in a thread."""
        self.value = sum(self.ctx.sync_cluster.ref(Tape, other).stream(Tape.count, n))
        return self.value

    @on("tape.seen")
    async def seen(self, other: str) -> AsyncIterator[list[str | None]]:
        """What another tape's stream sees of this turn."""
        yield [self.ctx.caller, self.ctx.trace[3:35], str((self.ctx.remaining() or 99) < 5)]
        if other:
            async for item in self.ctx.cluster.ref(Tape, other).stream(Tape.seen, ""):
                yield item

    @on("tape.self")
    async def of_itself(self) -> AsyncIterator[int]:
        async for item in self.ctx.cluster.ref(Tape, self.ctx.agent_id).stream(Tape.count, 1):
            yield item

    @on("tape.look_back")
    async def look_back(self) -> AsyncIterator[int]:
        """What a read-only stream of this very agent gives while its turn has changed it."""
        self.value += 1000
        async for item in self.ctx.cluster.ref(Tape, self.ctx.agent_id).stream(Tape.now):
            yield item

    @on("tape.now", read_only=True)
    async def now(self) -> AsyncIterator[int]:
        yield self.value

    @on("tape.add")
    async def add(self, amount: int = 1) -> int:
        self.value += amount
        return self.value

    @on("tape.get", read_only=True)
    async def get(self) -> int:
        return self.value

    @on("tape.end")
    async def end(self) -> AsyncIterator[str]:
        self.ctx.delete()
        yield "ending"


class LoneTape(Tape, name="contract.lone_tape", isolation="dedicated"):
    """The same in a process of its own."""


class FoundTape(Tape, name="contract.found_tape", virtual=True):
    """Made by its first message."""
