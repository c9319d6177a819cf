"""A handle on a run that has been started: ask, wait, read, cancel, from any task or thread."""

import asyncio
import concurrent.futures
import contextlib
from collections.abc import Callable, Coroutine, Generator
from typing import Any, Generic, Literal, TypeVar, cast

from jido_cluster.errors import JidoError, RunCancelledError, StillRunningError
from jido_cluster.exec.context import Context

__all__ = ["Handle", "RunStatus"]

R_co = TypeVar("R_co", covariant=True)
R = TypeVar("R")

RunStatus = Literal["pending", "running", "succeeded", "failed", "cancelled"]

# The loop keeps only weak references to tasks; a run goes on when nobody holds its handle.
_running: set[asyncio.Task[None]] = set()


class Handle(Generic[R_co]):
    """A started run. Awaiting it gives the result; giving up waiting leaves the run alone.

    Attributes:
        run_id: Names the run.
    """

    def __init__(self, run: Callable[[], Coroutine[Any, Any, R_co]], context: Context) -> None:
        self.run_id = context.run_id
        self._begun = False
        self._future: concurrent.futures.Future[R_co] = concurrent.futures.Future()
        # Set as running, so that nobody can cancel the future and leave the run behind.
        self._future.set_running_or_notify_cancel()
        self._loop = asyncio.get_running_loop()
        self._task = self._loop.create_task(self._work(run), name=self.run_id)
        _running.add(self._task)
        self._task.add_done_callback(self._end)

    def __await__(self) -> Generator[Any, None, R_co]:
        return self.result().__await__()

    def __repr__(self) -> str:
        return f"<Handle {self.run_id} {self.status()}>"

    def status(self) -> RunStatus:
        """How far it is, as of now."""
        if not self._future.done():
            return "running" if self._begun else "pending"
        error = self._future.exception()
        if error is None:
            return "succeeded"
        return "cancelled" if isinstance(error, RunCancelledError) else "failed"

    async def wait(self, timeout: float | None = None) -> RunStatus:
        """The status when the run has ended, or when ``timeout`` seconds have passed.

        Args:
            timeout: Seconds >= 0; None to wait until the end.
        """
        if not self._future.done():
            loop = asyncio.get_running_loop()
            ended = asyncio.Event()

            def tell(_: object) -> None:
                with contextlib.suppress(RuntimeError):  # that loop is closed: nobody waits
                    loop.call_soon_threadsafe(ended.set)

            self._future.add_done_callback(tell)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout):
                    await ended.wait()
        return self.status()

    async def result(self, timeout: float | None = None) -> R_co:
        """The result; may be asked for any number of times.

        Args:
            timeout: Seconds >= 0 to wait for it; None to wait until the end.

        Raises:
            StillRunningError: It has not ended in time; the run goes on.
            JidoError: The run failed: its error, of its own type.
        """
        if not self._future.done():
            await self.wait(timeout)
        if not self._future.done():
            raise StillRunningError(f"run {self.run_id} goes on", run_id=self.run_id)
        return self._future.result()

    async def cancel(self) -> bool:
        """Cancels the run and waits until it has ended; False when it had ended before."""
        if self._future.done():
            return False
        self._loop.call_soon_threadsafe(self._task.cancel)
        return await self.wait() == "cancelled"

    def as_future(self) -> concurrent.futures.Future[R_co]:
        """A future for threads and `concurrent.futures.as_completed`; it cannot be cancelled."""
        return self._future

    async def _work(self, run: Callable[[], Coroutine[Any, Any, R]]) -> None:
        self._begun = True
        try:
            value = await run()
        except JidoError as error:
            self._future.set_exception(error)
        else:
            # A future of R_co cannot take R_co in: covariance is for those who read it.
            cast("concurrent.futures.Future[Any]", self._future).set_result(value)

    def _end(self, task: asyncio.Task[None]) -> None:
        _running.discard(task)
        if self._future.done():
            return
        # Cancelled, by `cancel` or by the end of the loop; or a bug let something else through.
        error = None if task.cancelled() else task.exception()
        if error is None:
            error = RunCancelledError(f"run {self.run_id} was cancelled", run_id=self.run_id)
        self._future.set_exception(error)
