"""Threads for synchronous actions and handlers, which cannot be stopped from outside.

A call whose time is up is abandoned: its caller gets the timeout at once, its thread is replaced,
and whatever it returns later is dropped. Abandoned threads are counted; when too many are stuck at
once, new work is refused (`OverloadedError`) before the process drowns. All threads are daemons, so
that a stuck one does not keep the interpreter from ending.

States of a call: queued -> running -> finished, or queued -> withdrawn (it never ran), or
running -> abandoned. The lock guards them and all counts.
"""

import asyncio
import contextlib
import os
import threading
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass
from enum import Enum
from queue import SimpleQueue
from typing import Any, Final

from jido_cluster.errors import DeadlineExceededError, OverloadedError
from jido_cluster.exec.failures import never_started

__all__ = ["OutOfTime", "ThreadPool", "ThreadStatistics"]

# As many blocking calls as a process may sensibly wait in at once (gRPC's and Java's servers choose
# tens to a few hundred): a thread costs about 40 KB here, and they mostly wait.
MAX_THREADS: Final = 64
MAX_ABANDONED: Final = 64
MAX_QUEUED: Final = 10_000


class OutOfTime(Exception):  # noqa: N818 - a message to the engine, which raises the public error
    """The call ran and did not finish in time; its thread is abandoned."""


class _State(Enum):
    QUEUED = "queued"
    RUNNING = "running"
    FINISHED = "finished"
    WITHDRAWN = "withdrawn"
    ABANDONED = "abandoned"


class _Job:
    """One call: what to run, where to tell the result, and how far it is."""

    __slots__ = ("call", "clock", "error", "loop", "started", "state", "value", "waiter")

    def __init__(self, call: Callable[[], Any], clock: Callable[[], float]) -> None:
        self.call = call
        self.clock = clock
        self.loop = asyncio.get_running_loop()
        self.waiter: asyncio.Future[None] = self.loop.create_future()
        self.state = _State.QUEUED
        self.started = 0.0
        self.value: Any = None
        self.error: BaseException | None = None

    def wake(self) -> None:
        if not self.waiter.done():
            self.waiter.set_result(None)


@dataclass(frozen=True, slots=True)
class ThreadStatistics:
    """Counts of a pool at one moment; ``total`` counts since it was made."""

    threads: int
    idle: int
    queued: int
    running: int
    abandoned: int
    total: int
    total_abandoned: int


class ThreadPool:
    """A bounded pool of daemon threads, started on demand; idle ones stay.

    Invariants: ``threads`` never exceeds ``max_threads`` (abandoned ones are not among them);
    an abandoned call is counted until it returns.
    """

    def __init__(
        self,
        *,
        max_threads: int = MAX_THREADS,
        max_abandoned: int = MAX_ABANDONED,
        max_queued: int = MAX_QUEUED,
    ) -> None:
        self._max_threads = max_threads
        self._max_abandoned = max_abandoned
        self._max_queued = max_queued
        self._lock = threading.Lock()
        self._jobs: SimpleQueue[_Job] = SimpleQueue()
        self._threads = 0
        self._queued = 0
        self._running = 0
        self._abandoned = 0
        self._total = 0
        self._total_abandoned = 0

    def statistics(self) -> ThreadStatistics:
        """Counts as they are now."""
        with self._lock:
            return ThreadStatistics(
                threads=self._threads,
                idle=self._threads - self._running,
                queued=self._queued,
                running=self._running,
                abandoned=self._abandoned,
                total=self._total,
                total_abandoned=self._total_abandoned,
            )

    async def call(
        self,
        function: Callable[[], Any],
        *,
        limit: float | None,
        deadline: float | None,
        clock: Callable[[], float],
        told: MutableMapping[str, float] | None = None,
    ) -> Any:
        """The result of ``function()``, run in a thread; what it raises is raised here.

        Args:
            function: Takes nothing.
            limit: Seconds it may run, from the moment a thread takes it; None for no limit.
            deadline: When it must have ended, on ``clock``, waiting for a thread included.
            clock: Seconds; may be called in the thread.
            told: Gets ``queue``, the seconds it waited for a thread.

        Raises:
            OutOfTime: It ran and did not end in time.
            DeadlineExceededError: The deadline passed before a thread was free: it never ran.
            OverloadedError: Too many calls are stuck or queued: it never ran.
        """
        job = _Job(function, clock)
        asked = 0.0 if told is None else clock()
        self._submit(job)
        watch = _Watch(job, limit, deadline)
        try:
            await job.waiter
        finally:
            watch.cancel()
            state = self._leave(job)
            if told is not None:
                told["queue"] = (clock() if state is _State.WITHDRAWN else job.started) - asked
        if state is _State.ABANDONED:
            raise OutOfTime
        if state is _State.WITHDRAWN:
            raise never_started(
                DeadlineExceededError(
                    "the deadline passed while waiting for a free thread",
                    threads=self._max_threads,
                )
            )
        if job.error is None:
            return job.value
        if not isinstance(job.error, Exception):
            # Raised on the loop, a SystemExit would end the process, a GeneratorExit look like a
            # close: in a thread of the pool either is just a failed call.
            kind = type(job.error).__name__
            raise RuntimeError(f"{kind} raised in a thread") from job.error  # noqa: TRY004
        raise job.error

    def _submit(self, job: _Job) -> None:
        with self._lock:
            if self._abandoned >= self._max_abandoned:
                raise never_started(
                    OverloadedError(
                        f"{self._abandoned} timed-out calls are still stuck in their threads; no "
                        f"new synchronous work until some return",
                        abandoned=self._abandoned,
                    )
                )
            if self._queued >= self._max_queued:
                raise never_started(
                    OverloadedError(
                        f"{self._queued} calls wait for a thread already", queued=self._queued
                    )
                )
            self._queued += 1
            self._total += 1
            self._add_thread()
        self._jobs.put(job)

    def _add_thread(self) -> None:
        """Starts a thread when there is more queued than idle ones will take; under the lock."""
        idle = self._threads - self._running
        if self._queued > idle and self._threads < self._max_threads:
            self._threads += 1
            threading.Thread(target=self._work, name="jido-sync", daemon=True).start()

    def _leave(self, job: _Job) -> _State:
        """The caller stops waiting: a call that has not finished is withdrawn or abandoned."""
        with self._lock:
            if job.state is _State.QUEUED:
                job.state = _State.WITHDRAWN
            elif job.state is _State.RUNNING:
                job.state = _State.ABANDONED
                self._running -= 1
                self._threads -= 1
                self._abandoned += 1
                self._total_abandoned += 1
                self._add_thread()
            return job.state

    def _begin(self, job: _Job) -> bool:
        with self._lock:
            self._queued -= 1
            if job.state is not _State.QUEUED:
                return False
            job.state = _State.RUNNING
            job.started = job.clock()
            self._running += 1
            return True

    def _end(self, job: _Job) -> bool:
        """Notes that a call returned; False when its thread has been replaced meanwhile."""
        with self._lock:
            if job.state is _State.ABANDONED:
                self._abandoned -= 1
                return False
            job.state = _State.FINISHED
            self._running -= 1
            return True

    def _work(self) -> None:
        while True:
            job = self._jobs.get()
            if not self._begin(job):
                continue
            try:
                job.value = job.call()
            except BaseException as error:  # noqa: BLE001 - raised again where it is waited for
                job.error = error
            if not self._end(job):
                return
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
                job.loop.call_soon_threadsafe(job.wake)
            del job  # an idle thread must not keep the last call's objects alive


class _Watch:
    """Wakes the caller of a job when its time is up.

    The time it may run counts from its start in the thread. The thread does not report that start,
    which would cost every call a second wake-up of the loop: the timer looks when it fires, and
    sets itself again for what is left.
    """

    __slots__ = ("_deadline", "_job", "_limit", "_timer")

    def __init__(self, job: _Job, limit: float | None, deadline: float | None) -> None:
        self._job = job
        self._limit = limit
        self._deadline = deadline
        self._timer: asyncio.TimerHandle | None = None
        if limit is not None or deadline is not None:
            self._set(job.clock())

    def cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _set(self, now: float) -> None:
        job = self._job
        ends = [] if self._deadline is None else [self._deadline]
        if self._limit is not None:
            ends.append((now if job.state is _State.QUEUED else job.started) + self._limit)
        self._timer = job.loop.call_later(max(0.0, min(ends) - now), self._look)

    def _look(self) -> None:
        job = self._job
        now = job.clock()
        overdue = self._deadline is not None and now >= self._deadline
        if self._limit is not None and job.state is _State.RUNNING:
            overdue = overdue or now >= job.started + self._limit
        if overdue:
            job.wake()
        else:
            self._set(now)


# The process's pool. Tests put their own here.
POOL = ThreadPool()


def _renew() -> None:
    """A forked child has none of its parent's threads, and maybe its lock held."""
    global POOL  # noqa: PLW0603 - one pool per process is the point
    POOL = ThreadPool()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)
