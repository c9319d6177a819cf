"""Instances of a resource: who opens them, on which loop they live, whose turn it is.

Theory. What asyncio opens on one event loop works on no other, so an instance lives on a loop:
async code gets one of its own loop, sync code one of a loop that runs in a thread of its own, for
all sync code of the process. A process with one loop, which is the rule, thus has one instance for
async code and one for sync code of what is shared. A pool is exclusive, and its limit holds over
all loops: an idle instance of another loop is closed when one is wanted here.

An instance is entered and left by one task, its owner, on its loop: `asyncio.run` cancels that task
at its end, which closes the instance in time. Nothing is opened in the task of a user, so that no
timeout or cancellation of one breaks what another is given.

One lock guards all counts and lists. It is never held while anything is awaited, and is reentrant,
as a callback of a future that is done runs at once.
"""

import asyncio
import atexit
import concurrent.futures
import contextlib
import contextvars
import logging
import os
import threading
import weakref
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from jido_cluster.errors import ConfigError, OverloadedError, UnavailableError

__all__ = ["Instance", "Pool", "ResourceStatistics", "sync_loop"]

T = TypeVar("T")

RETRY_AFTER: Final = 1.0  # seconds; what a pool that is full tells its users to wait
EXIT_SECONDS: Final = 5.0  # what closing everything may take when the interpreter ends

_logger = logging.getLogger(__name__)
_lock = threading.RLock()
_pools: "weakref.WeakSet[Pool[Any]]" = weakref.WeakSet()


@dataclass(frozen=True, slots=True)
class ResourceStatistics:
    """Counts of a resource at one moment; ``opened`` counts since the process began."""

    instances: int
    users: int
    waiting: int
    opened: int


class Pool(Generic[T]):
    """The instances of one resource in this process.

    Invariants: with a limit, there are never more instances than that, and each has one user; turns
    given and turns free are ``limit`` together, and an instance that is closing keeps its turn.
    """

    def __init__(
        self,
        name: str,
        open: Callable[[], AbstractAsyncContextManager[T]],
        limit: int | None,
        check: Callable[[T], Awaitable[bool]] | None,
    ) -> None:
        self.name = name
        self.open = open
        self.limit = limit
        self.check = check
        self.opened = 0
        self.renew()
        _pools.add(self)

    def renew(self) -> None:
        """Starts with no instance: in the beginning, and in a forked child."""
        self.instances: list[Instance[T]] = []
        self._free = self.limit or 0
        self._waiting: deque[_Waiter] = deque()

    def statistics(self) -> ResourceStatistics:
        """Counts as they are now."""
        with _lock:
            return ResourceStatistics(
                instances=len(self.instances),
                users=sum(one.users for one in self.instances),
                waiting=len(self._waiting),
                opened=self.opened,
            )

    async def close(self) -> None:
        """Returns when every instance of now is closed, those in use when they are given back."""
        with _lock:
            found = list(self.instances)
            for one in found:
                self._retire(one)
        for one in found:
            await asyncio.wrap_future(one.ended)

    async def take(self, seconds: float) -> "Instance[T]":
        """An instance of this loop, for this user.

        Raises:
            OverloadedError: All are in use, and none was given back in time.
            UnavailableError: It did not open in time.
        """
        limit = asyncio.timeout(seconds)
        has_turn = False
        try:
            async with limit:
                if self.limit is None:
                    has_turn = True
                    return await self._join()
                await self._wait_for_turn()
                has_turn = True
                return await self._take_turn()
        except TimeoutError:
            if not limit.expired():
                raise  # it comes from opening it
            details: dict[str, Any] = {"resource": self.name, "retry_after": RETRY_AFTER}
            if has_turn:
                raise UnavailableError(
                    f"resource {self.name!r} did not open within {seconds:g} s", **details
                ) from None
            raise OverloadedError(
                f"all {self.limit} of resource {self.name!r} were in use for {seconds:g} s",
                **details,
            ) from None

    async def _join(self) -> "Instance[T]":
        """The one instance of this loop; opens it when there is none that works."""
        loop = asyncio.get_running_loop()
        while True:
            with _lock:
                here = [one for one in self.instances if one.loop is loop and not one.is_retired]
                instance = here[0] if here else Instance(self, loop)
                instance.users += 1
            try:
                if await self._is_fit(instance):
                    return instance
            except BaseException:
                self.give_back(instance)
                raise
            self.give_back(instance, broken=True)

    async def _wait_for_turn(self) -> None:
        """Waits until fewer than ``limit`` have an instance, first come, first served."""
        with _lock:
            if self._free and not self._waiting:
                self._free -= 1
                return
            waiter = _Waiter(asyncio.get_running_loop())
            self._waiting.append(waiter)
        try:
            await waiter.future
        except BaseException:
            with _lock:
                if waiter in self._waiting:
                    self._waiting.remove(waiter)
                elif waiter.is_called:
                    self._call_next()  # the turn came too late for this one
            raise

    async def _take_turn(self) -> "Instance[T]":
        """An instance for this user alone; the turn passes on when there is none."""
        loop = asyncio.get_running_loop()
        while True:
            with _lock:
                instance = self._idle_or_new(loop)
                instance.users += 1
            try:
                if instance.loop is loop and await self._is_fit(instance):
                    return instance
                instance.end()
                await asyncio.wrap_future(instance.ended)
            except BaseException:
                self.give_back(instance, broken=True)
                raise

    def _idle_or_new(self, loop: asyncio.AbstractEventLoop) -> "Instance[T]":
        """One that nobody uses: of this loop, or new, or else one to be closed; under the lock."""
        idle = [one for one in self.instances if not (one.users or one.is_retired)]
        here = [one for one in idle if one.loop is loop]
        if here:
            return here[-1]
        if idle and len(self.instances) == self.limit:
            return idle[0]
        return Instance(self, loop)

    async def _is_fit(self, instance: "Instance[T]") -> bool:
        """Whether it is open, and works if it was open before."""
        was_open = instance.ready.done()
        await asyncio.shield(instance.ready)
        if not was_open or self.check is None:
            return True
        try:
            return bool(await self.check(instance.value))
        except Exception:
            _logger.warning("resource %r: its check failed", self.name, exc_info=True)
            return False

    def give_back(self, instance: "Instance[T]", *, broken: bool = False) -> None:
        """Ends the use of an instance; any thread may do it."""
        with _lock:
            instance.users -= 1
            is_idle = not instance.users
            if broken or instance.is_retired or (is_idle and not instance.ready.done()):
                self._retire(instance)  # also when nobody waits any more for what is being opened
            if self.limit is None:
                return
            if instance.is_retired and not instance.ended.done():
                instance.ended.add_done_callback(self._turn_ended)
            else:
                self._call_next()

    def _turn_ended(self, _: object) -> None:
        with _lock:
            self._call_next()

    def _call_next(self) -> None:
        """Gives a turn to whoever has waited longest; under the lock."""
        while self._waiting:
            if self._waiting.popleft().call():
                return
        self._free += 1

    def _retire(self, instance: "Instance[T]") -> None:
        """Nobody new gets it, and the last who has it closes it; under the lock."""
        instance.is_retired = True
        if not instance.users:
            instance.end()


class _Waiter:
    """A user who waits for a turn."""

    __slots__ = ("_loop", "future", "is_called")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.future: asyncio.Future[None] = loop.create_future()
        self.is_called = False

    def call(self) -> bool:
        """Wakes the user; False when its loop is gone, and the user with it."""
        try:
            self._loop.call_soon_threadsafe(self._wake)
        except RuntimeError:
            return False
        self.is_called = True
        return True

    def _wake(self) -> None:
        if not self.future.done():
            self.future.set_result(None)


class Instance(Generic[T]):
    """One opened instance and the task that owns it.

    Attributes:
        loop: Where it lives.
        ready: Done when it is open, or has failed to.
        ended: Done when it is closed; for any thread.
        users: How many have it, or wait for it to open.
        is_retired: Nobody new gets it.
    """

    def __init__(self, pool: Pool[T], loop: asyncio.AbstractEventLoop) -> None:
        """Begins to open it; on the loop, and under the lock."""
        self._pool = pool
        self.loop = loop
        self.ready: asyncio.Future[None] = loop.create_future()
        self.ended: concurrent.futures.Future[None] = concurrent.futures.Future()
        self.ended.set_running_or_notify_cancel()  # whoever waits for it cannot cancel it
        self.users = 0
        self.is_retired = False
        self.value: T
        self._closing = asyncio.Event()
        pool.instances.append(self)
        pool.opened += 1
        # In a context of its own: it outlives the run that happened to come first.
        self._owner = loop.create_task(
            self._live(), name=f"resource {pool.name}", context=contextvars.Context()
        )

    def end(self) -> None:
        """Closes it soon, whoever has it; any thread may do it, and more than once."""
        try:
            self.loop.call_soon_threadsafe(self._end)
        except RuntimeError:  # the loop was closed without an end for its tasks
            _logger.warning("resource %r was not closed: its loop is", self._pool.name)
            self._forget()

    def _end(self) -> None:
        if self.ready.done():
            self._closing.set()
        else:
            self._owner.cancel()

    async def _live(self) -> None:
        try:
            async with self._manager() as self.value:
                self.ready.set_result(None)
                await self._wait_for_end()
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - told to its users
            self._tell(error)
        finally:
            self._forget()

    def _manager(self) -> AbstractAsyncContextManager[T]:
        manager = self._pool.open()
        if not hasattr(type(manager), "__aenter__"):
            raise ConfigError(
                f"resource {self._pool.name!r}: open() must give an async context manager, "
                f"not {type(manager).__name__}"
            )
        return manager

    async def _wait_for_end(self) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await self._closing.wait()
            return
        # The loop is ending, and cancels the users, too: they leave first.
        with _lock:
            self.is_retired = True
            is_used = self.users > 0
        if is_used:
            with contextlib.suppress(asyncio.CancelledError):
                await self._closing.wait()

    def _tell(self, error: BaseException) -> None:
        name = self._pool.name
        if self.ready.done():
            _logger.error("resource %r did not close well", name, exc_info=error)
            return
        if not isinstance(error, Exception):
            error = UnavailableError(
                f"resource {name!r} was closed while it was opening", resource=name
            )
        elif isinstance(error, StopIteration):  # which no future takes
            error = RuntimeError(f"resource {name!r}: open() raised StopIteration")
        self.ready.set_exception(error)
        self.ready.exception()  # looked at, also when nobody waits any more

    def _forget(self) -> None:
        with _lock:
            if self in self._pool.instances:
                self._pool.instances.remove(self)
        if not self.ended.done():
            self.ended.set_result(None)


_background: asyncio.AbstractEventLoop | None = None
_thread: threading.Thread | None = None


def sync_loop() -> asyncio.AbstractEventLoop:
    """The loop on which what sync code uses lives; started when first asked for."""
    global _background, _thread  # noqa: PLW0603 - one for each process is the point
    with _lock:
        if _background is None:
            _background = asyncio.new_event_loop()
            _thread = threading.Thread(
                target=_background.run_forever, name="jido-resources", daemon=True
            )
            _thread.start()
        return _background


def _close_all() -> None:
    """Closes everything when the interpreter ends, in bounded time."""
    global _background
    with _lock:
        found = [one for pool in _pools for one in pool.instances]
        loop, _background = _background, None
    for one in found:
        one.end()
    concurrent.futures.wait([one.ended for one in found], EXIT_SECONDS)
    if loop is not None and _thread is not None:
        loop.call_soon_threadsafe(loop.stop)
        _thread.join(EXIT_SECONDS)
        if not loop.is_running():
            loop.close()


def _after_fork() -> None:
    """A forked child has none of its parent's loops and threads, and maybe its lock held."""
    global _lock, _background  # noqa: PLW0603 - see above
    _lock = threading.RLock()
    _background = None
    for pool in _pools:
        pool.renew()


atexit.register(_close_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
