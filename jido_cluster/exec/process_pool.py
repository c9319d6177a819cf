"""Worker processes for actions with ``executor="process"``: work that must be killable.

A call takes an idle worker, or starts one, or waits for one. Whatever ends it early (its timeout,
its deadline, cancellation) ends the worker, and with it every process that the action has started;
the slot is free again when all of them are gone, not before. A call that ends by itself gives its
worker back, unless the action has left processes behind: then that worker ends too.

Each worker has guards, processes of which this one starts and waits for the outer (see
`process_guard`). When this process ends, in whatever way, they see it and end their worker.

States of a worker: starting -> idle -> busy -> idle ..., and from each -> ending -> gone. It counts
against ``max_workers`` until it is gone. The lock guards states and counts; the channel belongs to
the call that has the worker.
"""

import asyncio
import concurrent.futures
import contextlib
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from jido_cluster.errors import DeadlineExceededError, ExecutionError, OverloadedError
from jido_cluster.exec.failures import never_started
from jido_cluster.exec.process_frames import SIZES, Frame, split
from jido_cluster.exec.threads import OutOfTime

__all__ = ["ProcessPool", "ProcessStatistics"]

_logger = logging.getLogger(__name__)

# At least a few, as such work mostly waits for a program of its own (ffmpeg, say). A worker takes
# some 26 MB for itself and its guards 9 MB.
MAX_WORKERS: Final = max(4, os.cpu_count() or 1)
MAX_QUEUED: Final = 10_000
IDLE_SECONDS: Final = 60.0  # an idle worker ends after so long
START_SECONDS: Final = 60.0  # from the request to the action's begin: imports may be large
END_SECONDS: Final = 10.0  # how long a caller waits for its processes to die
DEATH_SECONDS: Final = 2.0  # the same, when a worker has closed its channel by itself
EXIT_SECONDS: Final = 5.0  # the same, for the end of the interpreter

_GUARD: Final = str(Path(__file__).with_name("process_guard.py"))
_WORKER: Final = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from jido_cluster.exec.process_worker import main; main(sys.argv[2:])"
)
# Signals that a program brings upon itself; any other one came from outside.
_OWN_FAULTS: Final = frozenset(
    {signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGSYS}
)


@dataclass(frozen=True, slots=True)
class ProcessStatistics:
    """Counts of a pool at one moment; ``total_...`` count since it was made.

    Attributes:
        workers: Workers that are not gone: starting, idle, busy or ending.
        idle: Those that wait for a call.
        queued: Calls that wait for a worker.
    """

    workers: int
    idle: int
    queued: int
    total_started: int


class _GoneError(Exception):
    """The worker has closed its channel."""


class _Worker:
    """A worker with its guards, as this process sees them."""

    def __init__(self, idle_seconds: float) -> None:
        """Starts them.

        Raises:
            OSError: The system has no room for another process.
        """
        with contextlib.ExitStack() as here, contextlib.ExitStack() as there:
            self.channel, channel = socket.socketpair()
            here.callback(self.channel.close)
            there.callback(channel.close)
            self._control, control = socket.socketpair()
            here.callback(self._control.close)
            there.callback(control.close)
            fds = (control.fileno(), channel.fileno())
            path = json.dumps([entry or os.getcwd() for entry in sys.path])  # noqa: PTH109 - as text
            command = [sys.executable, "-c", _WORKER, path, str(fds[1]), str(idle_seconds)]
            self.guard = subprocess.Popen(  # noqa: S603 - this interpreter, and files of ours
                [
                    sys.executable,
                    "-I",
                    "-S",
                    _GUARD,
                    *map(str, (os.getpid(), fds[0], *fds)),
                    *command,
                ],
                stdin=subprocess.DEVNULL,
                pass_fds=fds,
                start_new_session=True,  # the terminal's signals are for this process to answer
            )
            here.pop_all()
        self.channel.setblocking(False)  # noqa: FBT003 - the library's own signature
        self.ended: concurrent.futures.Future[int] = concurrent.futures.Future()
        self.ended.set_running_or_notify_cancel()  # whoever waits for it cannot cancel it
        self.is_new = True

    def end(self) -> None:
        """Has the guards end the worker and all below it; returns at once."""
        with contextlib.suppress(OSError):
            # Said, not closed: a fork of this process may hold the socket open.
            self._control.send(b"end")

    def hang_up(self) -> None:
        """Closes the channel, which the running loop may still be reading."""
        with contextlib.suppress(RuntimeError):  # a coroutine may be closed without a loop
            asyncio.get_running_loop().remove_reader(self.channel)
        self.channel.close()

    def wait(self) -> int:
        """How the worker ended, when nothing of it is left; blocks."""
        code = self.guard.wait()
        # The inner guard holds the other end too, and goes on when the outer one is killed.
        self._control.settimeout(END_SECONDS)
        with contextlib.suppress(OSError):
            self._control.recv(1)
        self._control.close()
        return code

    def forget(self) -> None:
        """Lets go of the sockets, which are another process's."""
        self.channel.close()
        self._control.close()


class _Waiter:
    """A call that waits for a worker; granted one, or the right to start one (None)."""

    __slots__ = ("event", "granted", "loop", "worker")

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.event = asyncio.Event()
        self.granted = False
        self.worker: _Worker | None = None


class ProcessPool:
    """A bounded pool of worker processes, started on demand; idle ones end after a while."""

    def __init__(
        self,
        *,
        max_workers: int = MAX_WORKERS,
        max_queued: int = MAX_QUEUED,
        idle_seconds: float = IDLE_SECONDS,
    ) -> None:
        self._max_workers = max_workers
        self._max_queued = max_queued
        self._idle_seconds = idle_seconds
        self._lock = threading.Lock()
        self._workers: set[_Worker] = set()
        self._reserved = 0  # slots of workers that are about to be started
        self._idle: list[_Worker] = []
        self._waiting: deque[_Waiter] = deque()
        self._total_started = 0

    def statistics(self) -> ProcessStatistics:
        """Counts as they are now."""
        with self._lock:
            return ProcessStatistics(
                workers=len(self._workers) + self._reserved,
                idle=len(self._idle),
                queued=len(self._waiting),
                total_started=self._total_started,
            )

    async def call(
        self,
        name: str,
        request: Callable[[], bytes],
        *,
        limit: float | None,
        deadline: float | None,
        clock: Callable[[], float],
        told: MutableMapping[str, float] | None = None,
    ) -> Frame:
        """The answer of a worker to a request.

        Args:
            name: The action, for errors.
            request: Makes the frame, when a worker is there to take it.
            limit: Seconds the action may run, from its begin; None for no limit.
            deadline: When it must have ended, on ``clock``, waiting and starting included.
            clock: Seconds.
            told: Gets ``queue``, the seconds from here to the begin.

        Raises:
            OutOfTime: It ran and did not end in time; all its processes have been killed.
            DeadlineExceededError: The deadline passed before it began: it never ran.
            OverloadedError: Too many calls wait already: it never ran.
            ExecutionError: The worker died, or could not be started.
        """
        asked = clock()
        while True:
            try:
                worker = await self._take(name, deadline, clock)
            finally:
                if told is not None:
                    told["queue"] = clock() - asked
            was_new, worker.is_new = worker.is_new, False
            is_fit = False
            try:
                try:
                    begun = await _until_begun(name, worker, request(), deadline, clock)
                except _GoneError:
                    if was_new:
                        raise never_started(await _death(name, worker, "before it began")) from None
                    continue  # it ended while idle, as they do after a while
                if told is not None:
                    told["queue"] = clock() - asked
                answer = begun or await _until_ended(worker, limit, deadline, clock)
                is_fit = not answer[0].get("has_children")
            except _GoneError:
                raise await _death(name, worker, "while it ran") from None
            finally:
                if is_fit:
                    self._give_back(worker)
                else:
                    await self._end(name, worker)
            return answer

    def close(self, seconds: float = EXIT_SECONDS) -> None:
        """Ends all workers, and waits so long for them to be gone."""
        with self._lock:
            workers = list(self._workers)
        for worker in workers:
            worker.end()
        concurrent.futures.wait([worker.ended for worker in workers], seconds)

    def forget(self) -> None:
        """Lets go of workers that are another process's: this one is a fork of it."""
        for worker in self._workers:
            worker.forget()

    async def _take(self, name: str, deadline: float | None, clock: Callable[[], float]) -> _Worker:
        """A worker that is the caller's until it is given back or ended."""
        with self._lock:
            if self._idle:
                return self._idle.pop()
            if len(self._workers) + self._reserved < self._max_workers:
                self._reserved += 1
                waiter = None
            elif len(self._waiting) >= self._max_queued:
                raise never_started(
                    OverloadedError(
                        f"{len(self._waiting)} calls wait for a worker process already",
                        queued=len(self._waiting),
                    )
                )
            else:
                waiter = _Waiter()
                self._waiting.append(waiter)
        if waiter is None:
            return self._start(name)
        try:
            async with asyncio.timeout(None if deadline is None else max(0.0, deadline - clock())):
                await waiter.event.wait()
        except BaseException as error:
            self._withdraw(waiter)
            if isinstance(error, TimeoutError):
                raise _too_late(name, "while waiting for a worker process") from None
            raise
        return self._start(name) if waiter.worker is None else waiter.worker

    def _start(self, name: str) -> _Worker:
        """A new worker, in the slot that is reserved for it."""
        worker = None
        try:
            worker = _Worker(self._idle_seconds)
        except OSError as error:
            text = f"{name}: no worker process could be started: {error}"
            raise never_started(ExecutionError(text, retryable=True, action=name)) from error
        finally:
            with self._lock:
                self._reserved -= 1
                if worker is None:
                    self._grant(None)
                else:
                    self._workers.add(worker)
                    self._total_started += 1
        keeper = threading.Thread(
            target=self._keep, args=(worker,), name="jido-process", daemon=True
        )
        try:
            keeper.start()
        except RuntimeError as error:
            worker.end()
            self._keep(worker)  # here, then: it takes some milliseconds
            worker.hang_up()
            text = f"{name}: no worker process could be watched: {error}"
            raise never_started(ExecutionError(text, retryable=True, action=name)) from error
        return worker

    def _keep(self, worker: _Worker) -> None:
        """Waits until a worker and all it started are gone, then frees its slot."""
        code = worker.wait()
        with self._lock:
            self._workers.discard(worker)
            if worker in self._idle:
                self._idle.remove(worker)
                worker.channel.close()
            self._grant(None)
        worker.ended.set_result(code)

    def _give_back(self, worker: _Worker) -> None:
        with self._lock:
            if worker in self._workers:
                self._idle.append(worker)
                self._grant(worker)
                return
        worker.channel.close()  # it died at the last moment

    def _grant(self, worker: _Worker | None) -> None:
        """Gives an idle worker, or a free slot, to the call that waits longest; under the lock."""
        while self._waiting:
            waiter = self._waiting.popleft()
            waiter.granted, waiter.worker = True, worker
            try:
                waiter.loop.call_soon_threadsafe(waiter.event.set)
            except RuntimeError:  # its loop is closed: nobody waits
                continue
            if worker is None:
                self._reserved += 1
            else:
                self._idle.remove(worker)
            return

    def _withdraw(self, waiter: _Waiter) -> None:
        """The call waits no more; what it was granted meanwhile goes on to the next."""
        with self._lock:
            if not waiter.granted:
                self._waiting.remove(waiter)
            elif waiter.worker is None:
                self._reserved -= 1
                self._grant(None)
        if waiter.worker is not None:
            self._give_back(waiter.worker)

    async def _end(self, name: str, worker: _Worker) -> None:
        """Ends a worker and waits until nothing of it is left; cancellation does not cut it short.

        A coroutine that is being closed cannot wait: then it is ended all the same.
        """
        worker.end()
        if isinstance(sys.exception(), GeneratorExit):
            worker.hang_up()
            return
        cancelled: asyncio.CancelledError | None = None
        gone = asyncio.wrap_future(worker.ended)
        loop = asyncio.get_running_loop()
        end = loop.time() + END_SECONDS
        while not gone.done() and loop.time() < end:
            try:
                await asyncio.wait([gone], timeout=end - loop.time())
            except asyncio.CancelledError as error:
                cancelled = error
        worker.hang_up()
        if not gone.done():
            _logger.error("processes of %s are still not gone after %s s", name, END_SECONDS)
        if cancelled is not None:
            raise cancelled


async def _until_begun(
    name: str,
    worker: _Worker,
    request: bytes,
    deadline: float | None,
    clock: Callable[[], float],
) -> Frame | None:
    """None when the action begins; the answer when that comes first, as it cannot begin."""
    left = None if deadline is None else deadline - clock()
    is_short = left is not None and left < START_SECONDS
    try:
        async with asyncio.timeout(
            max(0.0, left) if left is not None and is_short else START_SECONDS
        ):
            try:
                await asyncio.get_running_loop().sock_sendall(worker.channel, request)
            except OSError:
                raise _GoneError from None
            answer = await _read_frame(worker.channel)
    except TimeoutError:
        if is_short:
            raise _too_late(name, "before its worker process was ready") from None
        text = f"{name}: its worker process was not ready within {START_SECONDS:g} s"
        raise never_started(ExecutionError(text, retryable=True, action=name)) from None
    return None if "begin" in answer[0] else answer


async def _until_ended(
    worker: _Worker, limit: float | None, deadline: float | None, clock: Callable[[], float]
) -> Frame:
    left = None if deadline is None else max(0.0, deadline - clock())
    limits = [one for one in (limit, left) if one is not None]
    try:
        async with asyncio.timeout(min(limits, default=None)):
            return await _read_frame(worker.channel)
    except TimeoutError:
        raise OutOfTime from None


async def _read_frame(channel: socket.socket) -> Frame:
    sizes = await _read(channel, SIZES.size)
    return split(sizes, await _read(channel, sum(SIZES.unpack(sizes))))


async def _read(channel: socket.socket, count: int) -> bytes:
    loop = asyncio.get_running_loop()
    data = bytearray()
    while len(data) < count:
        try:
            part = await loop.sock_recv(channel, count - len(data))
        except OSError:
            part = b""
        if not part:
            raise _GoneError
        data += part
    return bytes(data)


async def _death(name: str, worker: _Worker, when: str) -> ExecutionError:
    """The error of a worker that ended by itself, or by a stranger's hand."""
    # Not told to end: then the guard could not say how it ended by itself.
    gone = asyncio.wrap_future(worker.ended)
    await asyncio.wait([gone], timeout=DEATH_SECONDS)
    code = gone.result() if gone.done() else 0
    number = -code if code < 0 else code - 128
    if number <= 0:
        text = f"{name}: its worker process exited with code {code} {when}"
        return ExecutionError(text, retryable=False, action=name, exit_code=code)
    killer = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
    is_own = number in _OWN_FAULTS
    text = f"{name}: its worker process was killed by {killer}" + (
        "" if is_own else ", from outside,"
    )
    return ExecutionError(f"{text} {when}", retryable=not is_own, action=name, signal=killer)


def _too_late(name: str, when: str) -> DeadlineExceededError:
    return never_started(DeadlineExceededError(f"{name}: the deadline passed {when}", action=name))
