"""Resources: opened once, shared or one at a time, given back and closed whatever happens."""

import asyncio
import concurrent.futures
import gc
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jido_cluster.agent import Agent
from jido_cluster.errors import (
    ActionTimeoutError,
    ConfigError,
    ExecutionError,
    OverloadedError,
    UnavailableError,
    UsageError,
)
from jido_cluster.exec import Context, action, resource_pool, run, run_sync
from jido_cluster.exec.resource import Resource
from jido_cluster.signals.handler import on
from jido_cluster.testing import LocalCluster
from tests.exec.loops import run_virtual

T = TypeVar("T")


class Thing:
    """What is opened: remembers what became of it."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.thread = threading.get_ident()
        self.is_closed = False
        self.is_broken = False
        self.users = 0


class Maker:
    """Opens things, and holds all it has opened."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds
        self.begun = 0
        self.made: list[Thing] = []
        self.fail: BaseException | None = None

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Thing]:
        self.begun += 1
        await asyncio.sleep(self.seconds)
        if self.fail is not None:
            raise self.fail
        thing = Thing(len(self.made))
        self.made.append(thing)
        try:
            yield thing
        finally:
            await asyncio.sleep(0)
            assert thing.users == 0 or thing.number < 0
            thing.is_closed = True

    @property
    def open_now(self) -> list[int]:
        """Numbers of those that are open."""
        return [thing.number for thing in self.made if not thing.is_closed]


async def is_fine(thing: Thing) -> bool:
    await asyncio.sleep(0)
    return not thing.is_broken


def go(main: Callable[[], Coroutine[Any, Any, T]]) -> T:
    return asyncio.run(main())


async def hold(
    resource: Resource[Any], begun: asyncio.Event | None = None, seconds: float = 3600.0
) -> None:
    async with Context().use(resource):
        if begun is not None:
            begun.set()
        await asyncio.sleep(seconds)


async def until(condition: Callable[[], Any]) -> None:
    """Returns when the condition is true; fails the test when that takes too long."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - what happens in another thread sets no event
            await asyncio.sleep(0.001)


async def settle() -> None:
    """Lets everything that is ready happen."""
    for _ in range(20):
        await asyncio.sleep(0)


# ------------------------------------------------------------------ sharing


def test_a_shared_one_is_opened_once() -> None:
    """However many ask at once; it stays open between uses, and is closed when the loop ends."""
    maker = Maker(0.01)
    resource = Resource("shared", maker.open)
    seen = set()

    async def use() -> None:
        async with Context().use(resource) as thing:
            assert not thing.is_closed
            seen.add(thing.number)

    async def main() -> None:
        assert resource.statistics().opened == 0
        await asyncio.gather(*(use() for _ in range(50)))
        await use()
        assert resource.statistics() == resource_pool.ResourceStatistics(1, 0, 0, 1)

    go(main)
    assert seen == {0}
    assert maker.open_now == []
    assert resource.statistics().instances == 0


def test_each_loop_has_its_own() -> None:
    """What asyncio opens on one loop works on no other; two loops run at the same time."""
    maker = Maker()
    resource = Resource("loops", maker.open)
    together = threading.Barrier(2)

    async def main() -> int:
        async with Context().use(resource) as thing:
            await asyncio.to_thread(together.wait, 10)
            assert thing.thread == threading.get_ident()
            return thing.number

    with ThreadPoolExecutor(2) as threads:
        numbers = list(threads.map(lambda _: go(main), range(2)))
    assert sorted(numbers) == [0, 1]
    assert maker.open_now == []


def test_sync_code_shares_one_for_the_process() -> None:
    """In every thread, and in one run after another."""
    maker = Maker(0.01)
    resource = Resource("sync", maker.open, check=is_fine)

    @action(name="resource.sync")
    def use(ctx: Context) -> int:
        with ctx.use(resource) as thing:
            assert thing.thread != threading.get_ident()
            return thing.number

    assert [run_sync(use) for _ in range(3)] == [0, 0, 0]
    with ThreadPoolExecutor(8) as threads:
        assert set(threads.map(lambda _: run_sync(use), range(16))) == {0}
    go(resource.close)
    assert maker.open_now == []
    assert run_sync(use) == 1
    go(resource.close)


def test_an_async_action_uses_it() -> None:
    """Through the engine, with the context it is given."""
    maker = Maker()
    resource = Resource("async", maker.open)

    @action(name="resource.async")
    async def use(ctx: Context) -> int:
        async with ctx.use(resource) as thing:
            return thing.number

    async def main() -> list[int]:
        return [await run(use), await run(use)]

    assert go(main) == [0, 0]


class Teller(Agent, name="resource.teller"):
    @on("resource.ask")
    async def ask(self) -> int:
        async with self.ctx.use(TILL) as thing:
            return thing.number

    @on("resource.ask_sync")
    def ask_sync(self) -> int:
        with self.ctx.use(TILL) as thing:
            return thing.number


MAKER = Maker()
TILL = Resource("till", MAKER.open)


def test_handlers_use_it() -> None:
    """All agents of a process share one; it is closed with the loop of the runtime."""
    with LocalCluster.local(nodes=2) as cluster:
        refs = [cluster.spawn(Teller, f"t-{number}") for number in range(4)]
        assert {ref.call(Teller.ask) for ref in refs} == {0}
        assert {ref.call(Teller.ask_sync) for ref in refs} == {1}
        with TILL.override(Thing(-1)):
            assert {ref.call(Teller.ask) for ref in refs} == {-1}
    assert MAKER.open_now == [1]
    go(TILL.close)
    assert MAKER.open_now == []


# ------------------------------------------------------------------ a pool


def test_a_pool_is_exclusive() -> None:
    """Never more than the limit, never two users of one; everybody gets a turn, in order."""
    maker = Maker(0.001)
    resource = Resource("pool", maker.open, limit=3)
    order = []

    async def use(number: int) -> None:
        async with Context().use(resource) as thing:
            thing.users += 1
            order.append(number)
            assert thing.users == 1
            await asyncio.sleep(0.001)
            thing.users -= 1

    async def main() -> None:
        await asyncio.gather(*(use(number) for number in range(30)))

    run_virtual(main)
    assert order == list(range(30))
    assert len(maker.made) == 3
    assert maker.open_now == []


def test_the_one_used_last_is_used_next() -> None:
    """What a burst opened beyond need stays idle, and one is enough for what follows."""
    maker = Maker()
    resource = Resource("lifo", maker.open, limit=2)

    async def main() -> list[int]:
        numbers = []
        for _ in range(3):
            async with Context().use(resource) as thing:
                numbers.append(thing.number)
        return numbers

    assert go(main) == [0, 0, 0]


def test_the_limit_holds_over_all_loops() -> None:
    """An idle one of another loop is closed before one is opened here."""
    maker = Maker()
    resource = Resource("over", maker.open, limit=1)

    async def main() -> None:
        for _ in range(2):
            async with Context().use(resource) as thing:
                assert maker.open_now == [thing.number]
            await asyncio.to_thread(use)

    def use() -> None:
        with Context().use(resource) as thing:
            assert maker.open_now == [thing.number]

    go(main)
    assert len(maker.made) == 4
    go(resource.close)
    assert maker.open_now == []


def test_a_turn_passes_from_loop_to_loop() -> None:
    """Whoever waits longest is next, wherever it runs."""
    maker = Maker()
    resource = Resource("passes", maker.open, limit=1)
    got = threading.Event()

    def use() -> None:
        with Context().use(resource):
            got.set()

    async def main() -> None:
        async with Context().use(resource):
            waiting = asyncio.create_task(asyncio.to_thread(use))
            await until(lambda: resource.statistics().waiting)
            assert not got.is_set()
        await waiting
        await resource.close()

    go(main)
    assert got.is_set()


def test_waiting_too_long_is_overload() -> None:
    """After the timeout, with the time to wait; the place in the queue is gone."""
    maker = Maker()
    resource = Resource("full", maker.open, limit=2, timeout=5.0)

    async def main() -> None:
        holders = [asyncio.create_task(hold(resource)) for _ in range(2)]
        await settle()
        start = asyncio.get_running_loop().time()
        with pytest.raises(OverloadedError, match="all 2 of resource 'full'.*5 s") as caught:
            await hold(resource)
        assert asyncio.get_running_loop().time() - start == pytest.approx(5.0)
        assert caught.value.retry_after == 1.0
        assert caught.value.details["resource"] == "full"
        assert resource.statistics().waiting == 0
        for holder in holders:
            holder.cancel()

    run_virtual(main)
    assert maker.open_now == []


def test_a_run_waits_no_longer_than_its_deadline() -> None:
    """In a thread too, which would be stuck otherwise."""
    maker = Maker()
    resource = Resource("deadline", maker.open, limit=1, timeout=1000.0)
    told: list[BaseException] = []

    @action(name="resource.waits", timeout=0.05)
    def waits(ctx: Context) -> None:
        try:
            with ctx.use(resource):
                raise AssertionError("it was free")
        except OverloadedError as error:
            told.append(error)
            raise

    async def main() -> None:
        async with Context().use(resource):
            with pytest.raises((ActionTimeoutError, OverloadedError)):
                await run(waits)
            await until(lambda: told)

    go(main)
    assert isinstance(told[0], OverloadedError)


# ------------------------------------------------------------------ opening and checking


@pytest.mark.parametrize("limit", [None, 1])
def test_what_opening_raises_reaches_the_user(limit: int | None) -> None:
    """As it is; nothing is kept, no turn is lost, and the next use tries again."""
    maker = Maker(0.001)
    resource = Resource("fails", maker.open, limit=limit)
    maker.fail = ConnectionRefusedError("down")

    async def main() -> None:
        for _ in range(3):
            with pytest.raises(ConnectionRefusedError, match="down"):
                await hold(resource)
        together = await asyncio.gather(*(hold(resource) for _ in range(3)), return_exceptions=True)
        assert [type(one) for one in together] == [ConnectionRefusedError] * 3
        maker.fail = None
        await hold(resource, seconds=0)
        assert resource.statistics().instances == 1

    go(main)
    assert maker.open_now == []


@pytest.mark.parametrize("limit", [None, 1])
def test_an_error_of_opening_keeps_its_type(limit: int | None) -> None:
    """A TimeoutError of its own is not taken for the end of the wait, nor StopIteration for one."""
    maker = Maker()
    resource = Resource("types", maker.open, limit=limit)

    def stops() -> Any:
        raise StopIteration

    async def main() -> None:
        maker.fail = TimeoutError("its own")
        with pytest.raises(TimeoutError, match="its own"):
            await hold(resource)
        with pytest.raises(RuntimeError, match="StopIteration"):
            await hold(Resource("stops", stops, limit=limit))
        with pytest.raises(ConfigError, match="async context manager, not Thing"):
            await hold(Resource("none", lambda: Thing(0), limit=limit))  # type: ignore[arg-type, return-value]

    go(main)


@pytest.mark.parametrize("limit", [None, 1])
def test_opening_that_hangs_ends_with_the_timeout(limit: int | None) -> None:
    """And is cancelled when nobody waits for it any more."""
    maker = Maker(1e6)
    resource = Resource("hangs", maker.open, limit=limit, timeout=3.0)

    async def main() -> None:
        for _ in range(2):
            with pytest.raises(UnavailableError, match="did not open within 3 s") as caught:
                await hold(resource)
            assert caught.value.retry_after == 1.0
            await settle()
            assert resource.statistics().instances == 0
        maker.seconds = 0.0
        await hold(resource, seconds=0)

    run_virtual(main)


def test_opening_goes_on_as_long_as_somebody_waits() -> None:
    """The first user's end does not take it from the second."""
    maker = Maker(2.0)
    resource = Resource("second", maker.open, timeout=3.0)

    async def main() -> None:
        first = asyncio.create_task(hold(resource))
        await asyncio.sleep(1.0)
        second = asyncio.create_task(hold(resource, seconds=0))
        await settle()
        first.cancel()
        await second
        assert maker.begun == 1

    run_virtual(main)


@pytest.mark.parametrize("limit", [None, 1])
@pytest.mark.parametrize("raises", [False, True])
def test_one_that_does_not_work_is_replaced(
    limit: int | None, raises: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Before it is used again; the old one is closed. A check that raises says no, in the log."""
    maker = Maker()

    async def check(thing: Thing) -> bool:
        if raises and thing.is_broken:
            raise OSError("gone")
        return await is_fine(thing)

    resource = Resource("checked", maker.open, limit=limit, check=check)

    async def main() -> None:
        async with Context().use(resource) as thing:
            thing.is_broken = True
        async with Context().use(resource) as thing:
            assert thing.number == 1
        await settle()
        assert maker.open_now == [1]
        async with Context().use(resource) as thing:
            assert thing.number == 1

    go(main)
    assert ("its check failed" in caplog.text) is raises


def test_a_shared_one_is_closed_when_its_last_user_leaves() -> None:
    """Those who have it keep it; new ones get another."""
    maker = Maker()
    resource = Resource("last", maker.open, check=is_fine)

    async def main() -> None:
        async with Context().use(resource) as old:
            old.is_broken = True
            async with Context().use(resource) as new:
                assert (old.number, new.number) == (0, 1)
                await settle()
                assert maker.open_now == [0, 1]
        await settle()
        assert maker.open_now == [1]

    go(main)


def test_a_check_that_hangs_ends_with_the_timeout() -> None:
    """What cannot be told to work is closed."""
    maker = Maker()

    async def check(thing: Thing) -> bool:
        await asyncio.sleep(1e6)
        return True

    resource = Resource("hanging", maker.open, limit=1, check=check, timeout=3.0)

    async def main() -> None:
        await hold(resource, seconds=0)
        with pytest.raises(UnavailableError):
            await hold(resource, seconds=0)
        await settle()
        await hold(resource, seconds=0)
        assert maker.open_now == [1]

    run_virtual(main)


# ------------------------------------------------------------------ cancellation, failure, the end


@pytest.mark.parametrize("limit", [None, 2])
def test_what_fails_in_the_block_keeps_the_resource(limit: int | None) -> None:
    """An exception is the user's own."""
    maker = Maker()
    resource = Resource("keeps", maker.open, limit=limit)

    @action(name="resource.fails")
    async def fails(ctx: Context) -> None:
        async with ctx.use(resource):
            raise ValueError("mine")

    async def main() -> None:
        for _ in range(2):
            with pytest.raises(ExecutionError, match="mine"):
                await run(fails)
        assert maker.open_now == [0]

    go(main)


def test_one_that_was_left_by_cancellation_is_not_used_again() -> None:
    """A pooled one may be in the middle of an answer; its turn passes on when it is closed."""
    maker = Maker()
    resource = Resource("torn", maker.open, limit=1)

    async def main() -> None:
        begun = asyncio.Event()
        task = asyncio.create_task(hold(resource, begun))
        await begun.wait()
        task.cancel()
        async with Context().use(resource) as thing:
            assert maker.open_now == [1] == [thing.number]

    go(main)
    assert maker.open_now == []


class Counted:
    """Cancels a coroutine at its step number ``at``, and tells whether it got that far."""

    def __init__(self, at: int) -> None:
        self.at = at

    def __call__(self, main: Coroutine[Any, Any, T]) -> "asyncio.Task[T | None]":
        return asyncio.create_task(self._run(main))

    async def _run(self, main: Coroutine[Any, Any, T]) -> T | None:
        task = asyncio.ensure_future(main)
        for _ in range(self.at):
            await asyncio.sleep(0)
            if task.done():
                break
        task.cancel()
        try:
            return await task
        except asyncio.CancelledError:
            return None


@pytest.mark.parametrize("limit", [None, 1])
@pytest.mark.parametrize("is_open", [False, True])
def test_cancelling_at_any_step_leaks_nothing(limit: int | None, is_open: bool) -> None:
    """Waiting, opening, checking, using, leaving: the next user gets a turn, all is closed."""
    for step in range(40):
        maker = Maker()
        resource = Resource("steps", maker.open, limit=limit, check=is_fine)

        async def use(resource: Resource[Thing] = resource) -> None:
            for _ in range(2):
                async with Context().use(resource) as thing:
                    await asyncio.sleep(0)
                    thing.is_broken = True

        async def main(
            resource: Resource[Thing] = resource, maker: Maker = maker, step: int = step
        ) -> None:
            if is_open:
                await use()
            await asyncio.gather(Counted(step)(use()), use(), Counted(step + 1)(use()))
            await asyncio.wait_for(use(), 10)
            found = resource.statistics()
            assert (found.users, found.waiting) == (0, 0)
            await resource.close()
            assert resource.statistics().instances == 0
            assert maker.open_now == []
            assert len(asyncio.all_tasks()) == 1

        go(main)


@given(
    st.integers(1, 3),
    st.lists(
        st.tuples(
            st.integers(0, 20),  # when it comes
            st.integers(0, 10),  # how long it uses it
            st.none() | st.integers(0, 30),  # when it is cancelled
            st.booleans(),  # whether it leaves it broken
        ),
        max_size=12,
    ),
    st.integers(0, 5),
)
def test_a_pool_keeps_its_promises_whoever_comes_and_goes(
    limit: int, users: list[tuple[int, int, int | None, bool]], opening: int
) -> None:
    """Never over the limit, one user each, nobody forgotten, nothing left open."""
    maker = Maker(float(opening))
    resource = Resource("promises", maker.open, limit=limit, check=is_fine, timeout=1e4)
    served = []

    async def use(number: int, seconds: int, breaks: bool) -> None:
        async with Context().use(resource) as thing:
            assert len(maker.open_now) <= limit
            assert not thing.is_closed
            assert not thing.is_broken
            thing.users += 1
            assert thing.users == 1
            try:
                await asyncio.sleep(seconds)
            finally:
                thing.users -= 1
            thing.is_broken = breaks
            served.append(number)

    async def visit(number: int, start: int, seconds: int, end: int | None, breaks: bool) -> None:
        await asyncio.sleep(start)
        task = asyncio.create_task(use(number, seconds, breaks))
        if end is not None:
            asyncio.get_running_loop().call_later(end, task.cancel)
        await asyncio.wait([task])
        assert task.cancelled() or task.exception() is None

    async def main() -> None:
        await asyncio.gather(*(visit(number, *user) for number, user in enumerate(users)))
        found = resource.statistics()
        assert (found.users, found.waiting) == (0, 0)
        await resource.close()
        assert maker.open_now == []

    run_virtual(main)
    assert set(served) >= {number for number, user in enumerate(users) if user[2] is None}
    assert resource.statistics().instances == 0


def test_closing_waits_for_those_in_use() -> None:
    """Idle ones go at once; who comes meanwhile opens another."""
    maker = Maker()
    resource = Resource("closing", maker.open, limit=2)

    async def main() -> None:
        begun = asyncio.Event()
        user = asyncio.create_task(hold(resource, begun))
        await begun.wait()
        await hold(resource, seconds=0)
        closing = asyncio.create_task(resource.close())
        await settle()
        assert maker.open_now == [0]
        assert not closing.done()
        await hold(resource, seconds=0)
        user.cancel()
        await closing
        assert maker.open_now == [2]

    go(main)


def test_when_the_loop_ends_users_leave_first() -> None:
    """Their cleanup still finds it open."""
    maker = Maker()
    resource = Resource("first", maker.open)
    found = []

    async def use(thing: Thing) -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            await settle()
            found.append(thing.is_closed)

    async def user(begun: asyncio.Event) -> None:
        async with Context().use(resource) as thing:
            begun.set()
            await use(thing)

    async def main() -> None:
        begun = asyncio.Event()
        main.task = asyncio.create_task(user(begun))  # type: ignore[attr-defined]
        await begun.wait()

    go(main)
    assert found == [False]
    assert maker.open_now == []


def test_closing_that_fails_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Nobody is there to hear it; the turn is free again."""

    @asynccontextmanager
    async def opens() -> AsyncIterator[int]:
        yield 1
        raise OSError("stuck")

    resource = Resource("ill", opens, limit=1)

    async def main() -> None:
        for _ in range(2):
            async with Context().use(resource) as value:
                assert value == 1
            await resource.close()

    go(main)
    assert caplog.text.count("did not close well") == 2
    assert "stuck" in caplog.text


def test_a_loop_that_is_closed_under_it_loses_only_its_own(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Nobody can close what lives there; its turn is not lost, and neither is its waiter's."""
    resource = Resource("closed", Quiet, limit=1)
    first, second = asyncio.new_event_loop(), asyncio.new_event_loop()
    first.run_until_complete(hold(resource, seconds=0))
    abandon(first)
    assert resource.statistics().instances == 1

    def wait() -> None:
        second.create_task(hold(resource))
        second.run_until_complete(settle())

    async def main() -> None:
        async with Context().use(resource):
            await asyncio.to_thread(wait)
            assert resource.statistics().waiting == 1
            abandon(second)
        async with Context().use(resource):
            assert resource.statistics() == resource_pool.ResourceStatistics(1, 1, 0, 2)

    go(main)
    gc.collect()
    assert "resource 'closed' was not closed" in caplog.text
    go(lambda: asyncio.wait_for(hold(resource, seconds=0), 10))


class Quiet:
    """Opens and closes without a word."""

    async def __aenter__(self) -> None: ...

    async def __aexit__(self, *_: object) -> None: ...


def abandon(loop: asyncio.AbstractEventLoop) -> None:
    """Closes a loop without an end for its tasks."""
    for task in asyncio.all_tasks(loop):
        task._log_destroy_pending = False  # type: ignore[attr-defined]
    loop.close()


# ------------------------------------------------------------------ processes


def test_it_pickles_as_what_it_is_here() -> None:
    """By name and `open`; another one of the name, or none, is made anew."""
    resource = Resource("pickled", opens_text, limit=2, timeout=3.0)
    data = pickle.dumps(resource)
    assert pickle.loads(data) is resource
    other = Resource("pickled", opens_other)
    back = pickle.loads(data)
    assert back not in (resource, other)
    assert (back.name, back.limit, back.timeout) == ("pickled", 2, 3.0)
    assert repr(back) == "<Resource pickled limit=2>"


@asynccontextmanager
async def opens_text() -> AsyncIterator[str]:
    yield "text"


@asynccontextmanager
async def opens_other() -> AsyncIterator[str]:
    yield "other"


def test_a_forked_child_opens_its_own() -> None:
    """The parent's instances and threads are not there."""
    maker = Maker()
    resource = Resource("forked", maker.open, limit=1)
    with Context().use(resource):
        pass
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            with Context().use(resource) as thing:
                os.write(writing, b"%d" % thing.number)
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert os.read(reading, 10) == b"1"
    os.close(reading)
    os.close(writing)
    go(resource.close)
    assert maker.open_now == []


PROGRAM = """
import asyncio, contextlib, os, sys, threading
from jido_cluster.exec import Context
from jido_cluster.exec.resource import Resource

@contextlib.asynccontextmanager
async def opens():
    yield 1
    os.write(1, b"closed\\n")

shared, pool = Resource("a", opens), Resource("b", opens, limit=2)

async def use():
    async with Context().use(shared):
        await asyncio.sleep(3600 if sys.argv[1] == "used" else 0)

with Context().use(shared), Context().use(pool):
    pass
loop = asyncio.new_event_loop()
threading.Thread(target=loop.run_forever, daemon=True).start()
future = asyncio.run_coroutine_threadsafe(use(), loop)
if sys.argv[1] == "idle":
    future.result()
else:
    while shared.statistics().users == 0:
        pass
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", ["idle", "used"])
def test_everything_is_closed_when_the_interpreter_ends(how: str) -> None:
    """On each loop, in use or not; silently, and at once."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-X", "dev", "-c", PROGRAM, how],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout.splitlines() == ["closed"] * 3
    assert done.returncode == 0
    assert [line for line in done.stderr.splitlines() if "resource" in line.lower()] == []


def test_after_everything_was_closed_it_opens_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit handlers of others may still use it; the thread for sync code comes back, too."""
    maker = Maker()
    resource = Resource("again", maker.open)
    monkeypatch.setattr(resource_pool, "_pools", {resource._pool})
    for number in range(2):
        with Context().use(resource) as thing:
            assert thing.number == number
        resource_pool._close_all()
        assert maker.open_now == []
    resource_pool._close_all()


# ------------------------------------------------------------------ tests' own, and misuse


def test_tests_override_it() -> None:
    """Everywhere in the process, innermost first; nothing is opened, no limit holds."""
    maker = Maker()
    resource = Resource("faked", maker.open, limit=1)
    first, second = Thing(-1), Thing(-2)

    def sync() -> int:
        with Context().use(resource) as thing:
            return thing.number

    async def main() -> None:
        with resource.override(first) as given_back:
            assert given_back is first
            async with Context().use(resource) as one, Context().use(resource) as two:
                assert one is two is first
            with resource.override(second):
                assert await asyncio.to_thread(sync) == -2
            assert await asyncio.to_thread(sync) == -1
        assert maker.begun == 0
        async with Context().use(resource) as thing:
            assert thing.number == 0

    go(main)


def test_blocks_that_cross_remove_their_own() -> None:
    """Two tests in two threads may end in either order."""
    resource = Resource("crossing", Maker().open)
    first, second = resource.override(Thing(1)), resource.override(Thing(2))
    one = first.__enter__()
    two = second.__enter__()
    first.__exit__(None, None, None)
    with Context().use(resource) as thing:
        assert thing is two is not one
    second.__exit__(None, None, None)


def test_misuse_is_told() -> None:
    """Blocking a loop, entering twice, and what is no resource."""
    resource = Resource("misused", Maker().open)

    async def main() -> None:
        with pytest.raises(UsageError, match="async with"), Context().use(resource):
            pass
        use = Context().use(resource)
        async with use:
            with pytest.raises(UsageError, match="entered already"):
                await use.__aenter__()
        async with use as thing:
            assert thing.number == 0

    go(main)
    with pytest.raises(UsageError, match="not 'x'"):
        Context().use("x")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"name": ""}, "text that is not empty"),
        ({"name": 3}, "text that is not empty"),
        ({"open": None}, "open=None"),
        ({"limit": 0}, "limit=0"),
        ({"limit": True}, "limit=True"),
        ({"limit": 1.5}, "limit=1.5"),
        ({"timeout": 0}, "timeout=0"),
        ({"timeout": float("inf")}, "timeout=inf"),
        ({"timeout": None}, "timeout=None"),
        ({"check": 3}, "check=3"),
    ],
)
def test_ill_values_are_refused(arguments: dict[str, Any], says: str) -> None:
    """When it is made, by name."""
    given_values: dict[str, Any] = {"name": "x", "open": Maker().open} | arguments
    with pytest.raises(ConfigError, match=says):
        Resource(**given_values)


def test_an_interrupted_thread_gives_back_what_it_will_be_given() -> None:
    """KeyboardInterrupt while it waits: the turn is not lost."""
    maker = Maker()
    resource = Resource("interrupted", maker.open, limit=1)
    use = Context().use(resource)

    wait = concurrent.futures.Future.result
    interrupts = [KeyboardInterrupt]

    def interrupt(future: Any, timeout: float | None = None) -> Any:
        if interrupts:
            raise interrupts.pop()
        return wait(future, timeout)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(concurrent.futures.Future, "result", interrupt)
        with pytest.raises(KeyboardInterrupt):
            use.__enter__()
    with Context().use(resource) as thing:
        assert thing.number == 0
    go(resource.close)
