"""Resources: clients, connections and models that actions share, opened when first used.

    DATABASE = Resource("database", lambda: asyncpg.create_pool(DSN))
    ENCODER = Resource("encoder", open_encoder, limit=2)

    async with ctx.use(DATABASE) as pool: ...    # in async code
    with ctx.use(ENCODER) as encoder: ...        # in sync code

Where an instance lives, and who closes it, is in `jido_cluster.exec.resource_pool`.
"""

import asyncio
import concurrent.futures
import contextlib
import math
import threading
import weakref
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, ExitStack
from types import TracebackType
from typing import Any, Generic, TypeVar

from jido_cluster.errors import ConfigError, UsageError
from jido_cluster.exec.context import Context
from jido_cluster.exec.resource_pool import Instance, Pool, ResourceStatistics, sync_loop

__all__ = ["Resource", "ResourceStatistics", "Use", "override_all"]

T = TypeVar("T")

_by_name: "weakref.WeakValueDictionary[str, Resource[Any]]" = weakref.WeakValueDictionary()


class Resource(Generic[T]):
    """Something that is opened once for many runs of this process, and closed at its end.

    Pickles by what it was made of: in a process that has one of the same name and the same ``open``
    it arrives as that one.
    """

    def __init__(
        self,
        name: str,
        open: Callable[[], AbstractAsyncContextManager[T]],
        *,
        limit: int | None = None,
        timeout: float = 10.0,
        check: Callable[[T], Awaitable[bool]] | None = None,
    ) -> None:
        """Opens nothing yet.

        Args:
            name: Names it in messages.
            open: Makes an async context manager that opens, gives and closes one instance.
            limit: None for one instance that all share at once; else how many there are at most,
                each for one user at a time, >= 1.
            timeout: Seconds to wait for an instance, opening it included, > 0.
            check: Whether an instance that has been used before still works; one that does not, or
                a check that raises, closes it and opens another.

        Raises:
            ConfigError: A value is ill; names it.
        """
        owner = f"resource {name!r}"
        if not _is(name, str) or not name:
            raise ConfigError(f"{owner}: the name must be a text that is not empty")
        if not callable(open):
            raise ConfigError(f"{owner}: open={open!r}: it must be a function without parameters")
        if limit is not None and not (_is(limit, int) and limit >= 1):
            raise ConfigError(
                f"{owner}: limit={limit!r}: it must be >= 1, or None for a shared one"
            )
        if not (_is(timeout, int | float) and 0 < timeout < math.inf):
            raise ConfigError(f"{owner}: timeout={timeout!r}: it must be seconds > 0")
        if check is not None and not callable(check):
            raise ConfigError(f"{owner}: check={check!r}: it must be an async function, or None")
        self.name = name
        self.limit = limit
        self.timeout = float(timeout)
        self._pool = Pool(name, open, limit, check)
        self._fakes: list[T] = []
        self._lock = threading.Lock()
        _by_name[name] = self

    def __repr__(self) -> str:
        return f"<Resource {self.name} limit={self.limit}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (self.name, self._pool.open, self.limit, self.timeout, self._pool.check)

    def statistics(self) -> ResourceStatistics:
        """Counts as they are now."""
        return self._pool.statistics()

    @contextlib.contextmanager
    def override(self, value: T) -> Iterator[T]:
        """As long as the block lasts, every use in this process gets ``value``: for tests."""
        with self._lock:
            self._fakes.append(value)
        try:
            yield value
        finally:
            with self._lock:
                # By identity: values may compare equal, and blocks of several threads may cross.
                last = max(at for at, fake in enumerate(self._fakes) if fake is value)
                del self._fakes[last]

    async def close(self) -> None:
        """Returns when every instance is closed: idle ones now, others when they are given back.

        Whoever uses the resource afterwards, or meanwhile, opens another.
        """
        await self._pool.close()


def override_all(resources: Mapping[Resource[Any], Any] | None) -> ExitStack:
    """Overrides each of the resources with its value until the stack is closed.

    Raises:
        ConfigError: A key is no `Resource`; nothing is overridden.
    """
    for resource in resources or ():
        if not isinstance(resource, Resource):
            raise ConfigError(f"resources: {resource!r} is no Resource: give {{resource: value}}")
    stack = ExitStack()
    for resource, value in (resources or {}).items():
        stack.enter_context(resource.override(value))
    return stack


class Use(Generic[T]):
    """One use of a resource, as a block: ``async with`` on an event loop, ``with`` elsewhere."""

    __slots__ = ("_context", "_instance", "_resource")

    def __init__(self, resource: Resource[T], context: Context) -> None:
        self._resource = resource
        self._context = context
        self._instance: Instance[T] | None = None

    async def __aenter__(self) -> T:
        """The resource, opened when it is not.

        Raises:
            OverloadedError: All were in use until its timeout, or the run's deadline.
            UnavailableError: It did not open in that time.
            Exception: Whatever opening it raised.
        """
        self._check_free()
        if self._resource._fakes:
            return self._resource._fakes[-1]
        self._instance = await self._resource._pool.take(self._seconds())
        return self._instance.value

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._leave(kind)

    def __enter__(self) -> T:
        """As ``async with``, for sync code.

        Raises:
            UsageError: It would block the event loop of this thread.
            JidoError: As ``async with``.
        """
        if asyncio._get_running_loop() is not None:  # the documented one raises instead
            raise UsageError(
                f"resource {self._resource.name!r}: `with` would block the event loop: use "
                f"`async with` in async code"
            )
        self._check_free()
        if self._resource._fakes:
            return self._resource._fakes[-1]
        taking = asyncio.run_coroutine_threadsafe(
            self._resource._pool.take(self._seconds()), sync_loop()
        )
        try:
            self._instance = taking.result()
        except Exception:
            raise
        except BaseException:  # this thread is interrupted; what it will be given, it gives back
            taking.add_done_callback(self._return)
            raise
        return self._instance.value

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._leave(kind)

    def _check_free(self) -> None:
        if self._instance is not None:
            raise UsageError(
                f"resource {self._resource.name!r}: this use is entered already; call ctx.use again"
            )

    def _seconds(self) -> float:
        left = self._context.remaining()
        return self._resource.timeout if left is None else min(left, self._resource.timeout)

    def _leave(self, kind: type[BaseException] | None) -> None:
        instance, self._instance = self._instance, None
        if instance is None:
            return
        # Cancelled in the middle of what it did, say: nobody can tell in what state that left it.
        is_torn = kind is not None and not issubclass(kind, Exception)
        self._resource._pool.give_back(
            instance, broken=is_torn and self._resource.limit is not None
        )

    def _return(self, taking: "concurrent.futures.Future[Instance[T]]") -> None:
        if not taking.cancelled() and taking.exception() is None:
            self._resource._pool.give_back(taking.result())


def _rebuild(
    name: str,
    open: Callable[[], AbstractAsyncContextManager[T]],
    limit: int | None,
    timeout: float,
    check: Callable[[T], Awaitable[bool]] | None,
) -> Resource[T]:
    known = _by_name.get(name)
    if known is not None and _home(known._pool.open) == _home(open):
        return known
    return Resource(name, open, limit=limit, timeout=timeout, check=check)


def _home(function: Callable[..., Any]) -> tuple[str | None, str]:
    return getattr(function, "__module__", None), getattr(function, "__qualname__", repr(function))


def _is(value: object, kind: Any) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)
