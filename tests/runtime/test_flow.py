"""Outflows and inflows: order, credit, and ends, whatever the delays between the two."""

import asyncio
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jido_cluster.errors import ActionTimeoutError, ExecutionError
from jido_cluster.runtime.flow import CLOSE, TAKEN, WINDOW_BYTES, WINDOW_ITEMS, Inflow, Outflow
from jido_cluster.runtime.link import Call
from jido_cluster.runtime.wire import unpack
from tests.runtime.support import run

SIZES = st.lists(
    st.sampled_from([0, 1, 1000, WINDOW_BYTES // 2 - 1, WINDOW_BYTES // 2, WINDOW_BYTES]),
    max_size=12,
) | st.integers(0, 300).map(lambda n: [3] * n)
DELAYS = st.sampled_from([0.0, 0.001, 0.5])


class Pipe:
    """Carries words one way, in order, each as late as the delay says."""

    def __init__(self, delay: float) -> None:
        self._delay = delay
        self._words: deque[Callable[[], object]] = deque()

    def send(self, word: Callable[..., object], *args: Any) -> None:
        self._words.append(partial(word, *args))
        # Timers of one moment fire in any order: each takes the oldest word.
        asyncio.get_running_loop().call_later(self._delay, self._arrive)

    def _arrive(self) -> None:
        self._words.popleft()()


class Line:
    """An outflow and an inflow with a pipe each way: client and host of one stream."""

    def __init__(self, delay: float = 0.0, back: float = 0.0) -> None:
        self.loop = asyncio.get_running_loop()
        self.call = Call(loop=self.loop)
        self.call.number = 7
        self.call.is_sent = True
        self.calls = {7: self.call}
        self.told: list[tuple[str, list[int]]] = []
        self.untaken: deque[int] = deque()  # sizes, as the handler's end should know them
        self.most = 0
        self.forth, self.back = Pipe(delay), Pipe(back)
        self.outflow = Outflow(self._carry, 1e9)
        self.inflow = Inflow(self, self.call)  # type: ignore[arg-type]
        self._taken = 0

    def _carry(self, item: bytes) -> None:
        assert sum(self.untaken) < WINDOW_BYTES
        self.untaken.append(len(item))
        self.most = max(self.most, len(self.untaken))
        self.forth.send(self.inflow.add, item)

    def tell_host(self, call: Call, name: str, body: bytes) -> None:
        self.told.append((name, unpack(body)))
        if name == TAKEN:
            self.back.send(self._hear, unpack(body)[1])

    def _hear(self, count: int) -> None:
        for _ in range(count - self._taken):
            self.untaken.popleft()
        self._taken = count
        self.outflow.taken(count)

    async def produce(self, items: list[bytes]) -> None:
        """What a host does with a handler that yields these."""
        for item in items:
            await self.outflow.put(item)
        self.forth.send(self.inflow.end)
        await self.outflow.wait_taken()
        assert not self.untaken
        self.forth.send(self.call.set_result, b"null")


@settings(max_examples=150)
@given(SIZES, DELAYS, DELAYS, DELAYS)
def test_all_items_arrive_in_order(
    sizes: list[int], delay: float, back: float, pause: float
) -> None:
    """Within the window, which neither end ever waits for in vain."""

    async def main() -> None:
        line = Line(delay, back)
        items = [bytes([n % 256]) * size for n, size in enumerate(sizes)]
        got = []
        async with asyncio.timeout(1000.0), asyncio.TaskGroup() as group:
            group.create_task(line.produce(items))
            while batch := await line.inflow.batch():
                assert len(batch) <= WINDOW_ITEMS // 2
                got += batch
                await asyncio.sleep(pause)
        assert got == items
        assert line.most <= WINDOW_ITEMS
        assert (
            len(line.told)
            <= len(items) // (WINDOW_ITEMS // 2)
            + sum(1 for size in sizes if size >= WINDOW_BYTES // 2 - 1)
            + 1
        )

    run(main)


def test_the_handler_stands_still_when_the_window_is_full() -> None:
    """It goes on as soon as there is room, and word of more than was sent does no harm."""

    async def main() -> None:
        given_: list[bytes] = []
        outflow = Outflow(given_.append, asyncio.get_running_loop().time() + 60.0)

        async def produce() -> None:
            for _ in range(200):
                await outflow.put(b"x")

        task = asyncio.create_task(produce())
        await asyncio.sleep(1.0)
        assert len(given_) == WINDOW_ITEMS
        outflow.taken(0)
        await asyncio.sleep(1.0)
        assert len(given_) == WINDOW_ITEMS
        outflow.taken(10)
        outflow.taken(5)  # older word that comes late
        await asyncio.sleep(1.0)
        assert len(given_) == WINDOW_ITEMS + 10
        outflow.taken(10**9)
        outflow.taken(WINDOW_ITEMS + 10)
        await asyncio.sleep(1.0)
        assert len(given_) == 2 * WINDOW_ITEMS + 10
        outflow.taken(10**9)
        await task
        outflow.taken(10**9)
        await outflow.wait_taken()

    run(main)


def test_an_outflow_ends_at_its_deadline() -> None:
    """While it waits for room, while the last items are not taken, and when asked later."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        outflow = Outflow(lambda _: None, loop.time() + 5.0)
        begun = loop.time()
        for _ in range(WINDOW_ITEMS):
            await outflow.put(b"x")
        with pytest.raises(ActionTimeoutError):
            await outflow.put(b"x")
        assert loop.time() - begun == pytest.approx(5.0)
        with pytest.raises(ActionTimeoutError):
            await outflow.wait_taken()
        await asyncio.sleep(0.1)
        outflow.taken(1000)
        with pytest.raises(ActionTimeoutError):
            await outflow.put(b"x")

    run(main)


def test_a_closed_outflow_takes_nothing() -> None:
    """Closed before its handler has begun, or while it runs; also by a handler that goes on."""

    async def main() -> None:
        early = Outflow(lambda _: None, 1e9)
        early.close()
        for work in (early.put(b"x"), early.wait_taken()):
            with pytest.raises(asyncio.CancelledError):
                await work
        outflow = Outflow(lambda _: None, 1e9)
        ends: list[str] = []

        async def produce() -> None:
            try:
                while True:
                    await outflow.put(b"x")
            except asyncio.CancelledError:
                ends.append("cancelled")
            await outflow.put(b"y")

        outflow.task = asyncio.create_task(produce())
        await asyncio.sleep(1.0)
        outflow.close()
        await asyncio.wait((outflow.task,))
        assert outflow.task.cancelled()
        assert ends == ["cancelled"]

    run(main)


def test_an_inflow_gives_what_came_before_a_failure() -> None:
    """And fails once more when it is asked again."""

    async def main() -> None:
        line = Line()
        line.inflow.add(b"1")
        line.call.set_exception(ExecutionError("torn"))
        await asyncio.sleep(1.0)
        assert await line.inflow.batch() == [b"1"]
        for _ in range(2):
            with pytest.raises(ExecutionError):
                await line.inflow.batch()
        line.inflow.close()
        assert line.told == []

    run(main)


def test_a_failure_that_nobody_asks_for_is_no_noise() -> None:
    """A stream may be dropped at any time."""

    async def main() -> None:
        line = Line()
        line.call.set_exception(ExecutionError("torn"))
        await asyncio.sleep(1.0)

    run(main)


def test_closing_an_inflow_tells_the_host_once() -> None:
    """If the host was asked at all; whoever waits for items is cancelled."""

    async def main() -> None:
        line = Line()
        waiting: asyncio.Task[Any] = asyncio.create_task(line.inflow.batch())
        await asyncio.sleep(1.0)
        line.inflow.close()
        line.inflow.close()
        assert line.told == [(CLOSE, [7])]
        assert line.calls == {}
        with pytest.raises(asyncio.CancelledError):
            await waiting
        unsent = Line()
        unsent.inflow.call.is_sent = False
        unsent.inflow.close()
        assert unsent.told == []
        assert unsent.calls == {}

    run(main)
