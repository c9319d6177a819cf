"""Streams in `AgentHarness`: the contract of a cluster's, without a cluster."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import aclosing
from typing import Any

import pytest

from jido_cluster import (
    ActionTimeoutError,
    Agent,
    AgentNotFoundError,
    ExecutionError,
    HandlerNotFoundError,
    InvalidInputError,
    InvalidOutputError,
    Signal,
    on,
)
from jido_cluster.testing import AgentHarness


class Feed(Agent, name="harness.feed"):
    value: int = 0
    starts: int = 0

    async def on_start(self) -> None:
        self.starts += 1

    @on("feed.count")
    async def count(self, n: int, how: str = "") -> AsyncIterator[int]:
        for _ in range(n):
            self.value += 1
            self.ctx.send("log", Signal("counted", {"value": self.value}))
            yield self.value
        if how == "fail":
            raise ValueError("no more")
        if how == "spoil":
            self.value = "many"  # type: ignore[assignment]
        if how == "wait":
            await asyncio.sleep(3600)

    @on("feed.look", read_only=True)
    async def look(self) -> AsyncIterator[int]:
        yield self.value
        self.value = 5

    @on("feed.wrong")
    async def wrong(self) -> AsyncIterator[int]:
        yield "many"  # type: ignore[misc]

    @on("feed.pass_on")
    async def pass_on(self, other: str) -> AsyncIterator[int]:
        async for item in self.ctx.cluster.ref(Feed, other).stream(Feed.count, 3):
            self.value += item
            yield item

    @on("feed.sum")
    def sum(self, other: str) -> int:
        return sum(self.ctx.sync_cluster.ref(Feed, other).stream(Feed.count, 3))

    @on("feed.add")
    async def add(self) -> int:
        self.value += 1
        return self.value


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(main())


def test_items_come_and_the_end_commits() -> None:
    """State and outbox change when one more than the last item is wanted, and not before."""

    async def main() -> None:
        harness = AgentHarness(Feed())
        stream = harness.stream(Feed.count, 200)
        assert [await anext(stream) for _ in range(200)] == list(range(1, 201))
        assert (harness.state.value, harness.sent) == (0, [])
        with pytest.raises(StopAsyncIteration):
            await anext(stream)
        assert (harness.state.value, harness.state.starts) == (200, 1)
        assert [signal.data["value"] for _, signal in harness.sent] == list(range(1, 201))
        assert [item async for item in harness.stream(Feed.count, n=0)] == []

    run(main)


def test_closing_early_changes_nothing() -> None:
    """The next turn begins from what was committed."""

    async def main() -> None:
        harness = AgentHarness(Feed())
        async with aclosing(harness.stream(Feed.count, 10_000)) as stream:
            assert [await anext(stream), await anext(stream)] == [1, 2]
        async with aclosing(harness.stream(Feed.count, 2)) as stream:
            assert [await anext(stream), await anext(stream)] == [1, 2]
        assert await harness.call(Feed.add) == 1
        assert harness.sent == []

    run(main)


def test_a_failure_comes_after_the_items() -> None:
    """Of the handler, of an item, of the state; nothing changes."""

    async def main() -> None:
        harness = AgentHarness(Feed())
        torn = harness.stream(Feed.count, 2, "fail")
        assert [await anext(torn), await anext(torn)] == [1, 2]
        with pytest.raises(ExecutionError, match="ValueError: no more"):
            await anext(torn)
        spoilt = harness.stream(Feed.count, 1, "spoil")
        assert await anext(spoilt) == 1
        for bad in (spoilt, harness.stream(Feed.wrong)):
            with pytest.raises(InvalidOutputError):
                await anext(bad)
        assert await harness.call(Feed.add) == 1

    run(main)


def test_a_read_only_stream_gets_a_copy() -> None:
    """What it assigns is an error; a turn may run meanwhile."""

    async def main() -> None:
        harness = AgentHarness(Feed(value=7))
        stream = harness.stream(Feed.look)
        assert await anext(stream) == 7
        assert await harness.call(Feed.add) == 8
        with pytest.raises(ExecutionError, match="UsageError"):
            await anext(stream)
        assert harness.state.value == 8

    run(main)


def test_a_stream_has_a_deadline_on_virtual_time() -> None:
    """Whatever it waits for."""

    async def main() -> None:
        harness = AgentHarness(Feed())
        stream = harness.stream(Feed.count, 1, "wait")
        assert await anext(stream) == 1
        await harness.advance(60.0)
        with pytest.raises(ActionTimeoutError):
            await anext(stream)
        lagging = harness.stream(Feed.count, 1000)
        assert await anext(lagging) == 1
        await harness.advance(60.0)
        with pytest.raises(ActionTimeoutError):
            async for _ in lagging:
                pass
        assert await harness.call(Feed.add) == 1

    run(main)


def test_streams_of_other_agents_are_stubs() -> None:
    """They give what the stub returns, then raise what it raises; in async and sync handlers."""

    async def main() -> None:
        harness = AgentHarness(Feed())
        harness.stub("shop", Feed.count, returns=[4, 5])
        assert [item async for item in harness.stream(Feed.pass_on, "shop")] == [4, 5]
        assert harness.state.value == 9
        assert await harness.call(Feed.sum, "shop") == 9
        harness.stub("shop", Feed.count, returns=[4], raises=AgentNotFoundError("closed"))
        stream = harness.stream(Feed.pass_on, "shop")
        assert await anext(stream) == 4
        with pytest.raises(ExecutionError, match="AgentNotFoundError: closed"):
            await anext(stream)
        with pytest.raises(ExecutionError, match=r"no stub .*feed\.count"):
            await harness.call(Feed.sum, "elsewhere")

    run(main)


def test_a_stream_is_asked_for_well() -> None:
    """At once, by the call of `stream`; a call is no stream, nor is a signal."""

    async def main() -> None:
        harness = AgentHarness(Feed())
        with pytest.raises(InvalidInputError, match=r"ref\.call"):
            harness.stream(Feed.add)  # type: ignore[arg-type]
        with pytest.raises(InvalidInputError, match="'many'"):
            harness.stream(Feed.count, "many")  # type: ignore[arg-type]
        with pytest.raises(HandlerNotFoundError):
            harness.stream(len)  # type: ignore[arg-type]
        for attempt in (harness.call(Feed.count, 1), harness.deliver(Signal("feed.count"))):
            with pytest.raises(InvalidInputError, match=r"ref\.stream"):
                await attempt

    run(main)
