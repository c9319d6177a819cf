"""A process's disk: its store file, as the port that its replicas write to.

Theory. What replicas ask for in one pass of the loop is handed to the store at once; the store's
thread commits what has come while the commit before was running, and its word comes back to the
loop. A row is sealed once, for the file and for the other replicas (`runtime.sealed`).

On a full disk nothing is left out: it is asked again every second, in order, until there is room.
An I/O error ends the process (`storage.sqlite_store`); whoever started it starts another one.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Final, Self

from jido_cluster.ports import DiskListener
from jido_cluster.runtime.sealed import Sealer
from jido_cluster.storage.journal_writer import JournalWriter
from jido_cluster.storage.reading import read_store
from jido_cluster.storage.sqlite_store import SqliteStore, end_process
from jido_state.entries import PersistEntries
from jido_state.messages import Persist
from jido_state.node import StoredGroup
from jido_state.store import Commit, StoreError, StoreLockedError

logger = logging.getLogger(__name__)

__all__ = ["LOCK_SECONDS", "StoreDisk"]

LOCK_SECONDS: Final = 30.0  # for the process that had the file before to be gone
LOOK_SECONDS: Final = 0.05
FULL_SECONDS: Final = 1.0  # between attempts on a full disk

_Write = tuple[int, int, Persist | PersistEntries]


class StoreDisk:
    """Implements `ports.Disk` over one store file. Bound to the loop that made it.

    Args:
        path: The file; its folder must be there.
        sealer: Shared with whoever sends the same rows.
        fatal: Ends the process: the store cannot be trusted any more.

    Raises:
        StoreLockedError: Another process has the file.
        StoreError: It cannot be used.
    """

    def __init__(
        self,
        path: Path,
        sealer: Sealer,
        *,
        fatal: Callable[[StoreError], None] = end_process,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._listener: DiskListener | None = None
        self._asked: deque[_Write] = deque()  # not durable, in order
        self._is_full = False
        self._retrying: asyncio.TimerHandle | None = None
        self._is_closed = False
        self._sealer = sealer
        self._is_forgetting = False
        self._store = SqliteStore.open(path, self._ended, fatal=fatal)
        self._writer = JournalWriter(self._store, _ignore, _ignore, self._full, sealer.seal)

    @classmethod
    async def open(cls, path: Path, sealer: Sealer, *, timeout: float = LOCK_SECONDS) -> Self:
        """The disk; waits for a process that has the file and is about to end.

        Raises:
            StoreLockedError: It did not end in time.
            StoreError: The file cannot be used.
        """
        loop = asyncio.get_running_loop()
        end = loop.time() + timeout
        while True:
            try:
                return cls(path, sealer)
            except StoreLockedError as error:
                if loop.time() >= end:
                    raise
                logger.info("waiting: %s", error)
            await asyncio.sleep(LOOK_SECONDS)

    def stored(self) -> dict[int, StoredGroup]:
        """What the file holds, for the core that starts with it; nothing may be asked before."""
        appended = self._store.durable
        found = read_store(self._store)
        stored = {
            number: StoredGroup(
                group.header, group.rows, group.spoilt, group.siblings, group.period, appended
            )
            for number, group in found.groups.items()
        }
        for number in found.lost:
            stored[number] = StoredGroup(None, appended=appended)
        return stored

    def start(self, listener: DiskListener) -> None:
        """As the port says."""
        self._listener = listener

    def write(self, group: int, rno: int, effect: Persist | PersistEntries) -> None:
        """As the port says."""
        if not self._is_forgetting:  # rows that go nowhere else are to be let go, too
            self._is_forgetting = True
            self._loop.call_soon(self._forget)
        self._asked.append((group, rno, effect))
        if isinstance(effect, Persist):
            self._writer.persist(group, effect)
        else:
            self._writer.persist_entries(group, effect)

    def _forget(self) -> None:
        self._is_forgetting = False
        self._sealer.forget()

    def close(self) -> None:
        """As the port says; what was asked for may be written, and nobody hears of it."""
        if self._is_closed:
            return
        self._is_closed = True
        self._listener = None
        if self._retrying is not None:
            self._retrying.cancel()
        self._store.close()

    # -- what the store tells

    def _ended(self, ticket: int, commit: Commit) -> None:
        """On the store's thread."""
        if not self._is_closed:
            self._loop.call_soon_threadsafe(self._committed, ticket, commit)

    def _committed(self, ticket: int, commit: Commit) -> None:
        if self._is_closed:
            return
        was_full = self._is_full
        self._writer.committed(ticket, commit)
        written = [self._asked.popleft() for _ in range(len(self._asked) - self._writer.waiting)]
        listener = self._listener
        if listener is None:
            return
        if written:
            listener.durable(written, ticket)
        if self._is_full != was_full:
            listener.full(is_full=self._is_full)

    def _full(self, is_full: bool) -> None:
        self._is_full = is_full
        if is_full:
            logger.error("the disk of %s is full; nothing is lost, and nothing goes on", self.path)
            self._retrying = self._loop.call_later(FULL_SECONDS, self._retry)

    def _retry(self) -> None:
        self._retrying = None
        if self._is_full:
            self._writer.retry()
            self._retrying = self._loop.call_later(FULL_SECONDS, self._retry)

    @property
    def path(self) -> Path:
        """The file."""
        return self._store.path


def _ignore(group: int, ticket: int) -> None:
    """What is durable is told by the write, not by the group's ticket."""
