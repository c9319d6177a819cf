"""The Store port on SQLite: one file, one connection, one thread that commits.

Theory. Batches wait in the process while a commit runs; the next commit takes all of them, so a
slow disk makes larger commits and not more of them. Within a commit only the last content of each
row counts, since all of it becomes visible at once: most commits are a single statement, which is
a transaction by itself. The append counter is one more row of the same transaction.

What can fail ends in one of three ways. A full disk: the commit and everything behind it are rolled
back, and nothing more is written until the owner says `try_again`, so that no batch is ever durable
without those before it. An I/O error: nobody knows what is on the disk, so the process ends; the
next one begins with a checkpoint, which writes and syncs again whatever the log still holds. A
malformed file: the process ends as well, and the next one finds that the store is lost.

A process that has a store open must not fork and go on in the child: the child's copy of the
connection would believe that it holds the file. The guard makes every use in a child fail, and
keeps the connection there from ever being closed. Start children by exec: spawn, or subprocess.
*Source*: sqlite.org/howtocorrupt.html; Rebello et al., Can applications recover from fsync
failures? (ATC 2020).
"""

import logging
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import Final, NamedTuple, Self

from jido_cluster.storage.files import FileLock
from jido_cluster.storage.sqlite_file import (
    COUNTER_KEY,
    MAX_PUTS,
    PAGE,
    counter_bytes,
    error_of,
    is_full,
    keep_open,
    key_of,
    open_file,
    put_statement,
    row_key,
    shard_of_key,
    shard_prefix,
)
from jido_state.store import (
    HEADER_KEY,
    Change,
    Commit,
    Listener,
    StoreError,
    StoreLockedError,
    Table,
)

__all__ = ["EXIT_CODE", "SqliteStore", "StoreStatistics", "end_process"]

EXIT_CODE: Final = 74
"""Of a process whose disk failed; EX_IOERR of sysexits.h."""

CHECKPOINT_BYTES: Final = 4 << 20
"""Log, about, after which an idle store makes a checkpoint; SQLite's own default is 1000 pages."""

MAX_LOG_BYTES: Final = 16 << 20
"""Log, about, after which a busy one does too, between two commits."""

MAX_COMMIT_BYTES: Final = 8 << 20
"""Of one commit, unless a single batch has more: a page of a large transfer is not held up."""

SCAN_S: Final = 0.002

_FROM: Final = "SELECT key, data FROM row WHERE key >= ? AND key < ? ORDER BY key"
_AFTER: Final = "SELECT key, data FROM row WHERE key > ? AND key < ? ORDER BY key"

_logger = logging.getLogger(__name__)
_Batch = tuple[int, tuple[Change[bytes], ...]]

_open_stores: set["SqliteStore"] = set()


def end_process(error: StoreError) -> None:
    """Ends this process at once, without any clean-up: what it believes is written may not be."""
    _logger.critical("the store has failed, this process ends: %s", error)
    os._exit(EXIT_CODE)


class StoreStatistics(NamedTuple):
    """What a store has done since it was opened.

    Attributes:
        batches: Appended.
        waiting: Appended, and no commit has ended them.
        commits: Durable ones.
        rows: Put and deleted by those, each once per commit.
        full: Commits that found no room.
        checkpoints: Made.
        commit_s: Seconds spent in commits.
        slowest_s: Seconds of the slowest of them.
    """

    batches: int
    waiting: int
    commits: int
    rows: int
    full: int
    checkpoints: int
    commit_s: float
    slowest_s: float


class SqliteStore:
    """A `Store` of bytes in one file. Made by `open`; for one thread, beside its own.

    After `Commit.FULL` every batch ends so until `try_again`: stricter than the port asks for.
    """

    def __init__(
        self,
        path: Path,
        lock: FileLock,
        connection: sqlite3.Connection,
        counter: int,
        listener: Listener,
        fatal: Callable[[StoreError], None],
    ) -> None:
        """Use `open`."""
        self.path = path
        self._lock = lock
        self._connection = connection
        self._listener = listener
        self._fatal = fatal
        self._durable = self._ticket = counter
        self._failure: StoreError | None = None
        self._running: list[_Batch] = []
        self._waiting: list[_Batch] = []
        self._is_full = False
        self._is_closing = self._is_closed = False
        self._log_bytes = 0
        self._batches = self._commits = self._rows = self._fulls = self._checkpoints = 0
        self._commit_s = self._slowest_s = 0.0
        self._mutex = threading.Lock()  # what waits and runs; never held over I/O
        self._work = threading.Condition(self._mutex)
        self._file = threading.Lock()  # the connection
        self._turnstile = threading.Lock()  # whoever waits for the connection is next
        self._thread = threading.Thread(target=self._run, name=f"store {path.name}", daemon=True)

    @classmethod
    def open(
        cls,
        path: Path,
        listener: Listener,
        *,
        fatal: Callable[[StoreError], None] = end_process,
    ) -> Self:
        """The store in this file, which is made if it is not there; its folder must be.

        Args:
            path: The file; the lock and the log stand beside it.
            listener: Called on the store's own thread, in the order of tickets: hand over, as with
                `loop.call_soon_threadsafe`, and return.
            fatal: Called on any thread when the store can no longer be trusted, once. It must end
                the process; afterwards every use of the store raises the same error.

        Raises:
            StoreLockedError: Another process has it, or this one has opened it before.
            StoreLostError: It is malformed.
            StoreError: The disk failed, or this SQLite will not do. The process must end.
        """
        lock_path = path.with_name(path.name + ".lock")
        try:
            lock = FileLock.take(lock_path)
        except OSError as error:
            raise StoreError(f"{lock_path} cannot be opened: {error.strerror}") from error
        if lock is None:
            owner = FileLock.owner(lock_path)
            raise StoreLockedError(f"{path} is open in {owner}; end that process, or wait for it")
        try:
            store = cls(path, lock, *open_file(path), listener, fatal)
        except StoreError:
            lock.release()
            raise
        _open_stores.add(store)
        store._thread.start()
        return store

    # The port

    @property
    def durable(self) -> int:
        """As `Store.durable`."""
        return self._durable

    def append(self, changes: Sequence[Change[bytes]]) -> int:
        """As `Store.append`.

        Raises:
            StoreError: The store is closed or has failed; nothing was appended.
        """
        self._check()
        with self._work:
            if self._is_closing:
                raise StoreError(f"{self.path} is closed")
            self._ticket = ticket = self._ticket + 1
            self._waiting.append((ticket, tuple(changes)))
            self._batches += 1
            self._work.notify()
        return ticket

    def get(self, table: Table, shard: int, key: str) -> bytes | None:
        """As `Store.get`. Waits for the commit that runs, at most.

        Raises:
            StoreError: As `append`, or the file could not be read.
        """
        with self._reading():
            is_cleared, changed = self._overlay(table, shard)
            if is_cleared or key in changed:
                return changed.get(key)
            name = row_key(table, shard, key)
            found = self._connection.execute("SELECT data FROM row WHERE key = ?", (name,))
            row = found.fetchone()
        return None if row is None else _as_bytes(row[0])

    def scan(
        self, table: Table, shard: int, after: str | None = None, limit: int = 256
    ) -> list[tuple[str, bytes]]:
        """As `Store.scan`; a page also ends after about two milliseconds. Raises as `get`."""
        with self._reading():
            is_cleared, changed = self._overlay(table, shard)
            rows: dict[str, bytes] = {}
            end: str | None = None  # nothing is known of the file behind it
            if not is_cleared:
                rows, end = self._page(table, shard, after, limit, changed)
        for key, data in changed.items():
            is_inside = (after is None or key > after) and (end is None or key <= end)
            if data is not None and is_inside:
                rows[key] = data
        return sorted(rows.items())[:limit]

    def shards(self) -> list[int]:
        """As `Store.shards`. Raises as `get`."""
        with self._reading():
            query = "SELECT key FROM row WHERE key >= ? AND key < ?"
            names = self._connection.execute(query, (bytes((0,)), bytes((1,)))).fetchall()
            found = {name for (name,) in names}
            for table, shard, key, data in self._unfinished():
                if table != Table.HEADER:
                    continue
                if key is None and data is None:
                    prefix = shard_prefix(table, shard)
                    found = {name for name in found if not name.startswith(prefix)}
                elif data is None:
                    found.discard(row_key(table, shard, key or HEADER_KEY))
                else:
                    found.add(row_key(table, shard, key or HEADER_KEY))
        return sorted({shard_of_key(name) for name in found})

    # Beside the port

    def try_again(self) -> None:
        """Writes again after a full disk; what was rolled back has to be appended again.

        Call it when every batch so far has ended, or one that waits goes before those.
        """
        self._check()
        with self._work:
            self._is_full = False

    def statistics(self) -> StoreStatistics:
        """What has been done so far."""
        self._check()
        with self._mutex:
            return StoreStatistics(
                self._batches,
                len(self._running) + len(self._waiting),
                self._commits,
                self._rows,
                self._fulls,
                self._checkpoints,
                self._commit_s,
                self._slowest_s,
            )

    def close(self) -> None:
        """Commits what waits, tells the listener, and gives the file back; twice does nothing.

        Raises:
            StoreError: The store has failed: it stays locked until its process ends.
        """
        if self._is_closed:
            return
        self._check()
        with self._work:
            self._is_closing = True
            self._work.notify()
        self._thread.join()
        self._check()
        with self._reading():
            self._checkpoint("TRUNCATE")
            self._connection.close()
        self._is_closed = True
        self._failure = StoreError(f"{self.path} is closed")
        _open_stores.discard(self)
        self._lock.release()

    # Reading

    @contextmanager
    def _turn(self) -> Iterator[None]:
        with self._turnstile:
            self._file.acquire()
        try:
            yield
        finally:
            self._file.release()

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """Between two commits; so what is `_running` is not in the file."""
        self._check()
        try:
            with self._turn():
                yield
        except sqlite3.Error as error:
            failure = error_of(error, self.path)
            self._fail(failure)
            raise failure from error

    def _unfinished(self) -> list[Change[bytes]]:
        """What was appended and is in the file not yet, in order."""
        with self._mutex:
            batches = self._running + self._waiting
        return [change for _, changes in batches for change in changes]

    def _overlay(self, table: Table, shard: int) -> tuple[bool, dict[str, bytes | None]]:
        """Whether the shard's rows were deleted, and what was written since, by no commit yet."""
        is_cleared = False
        changed: dict[str, bytes | None] = {}
        for change in self._unfinished():
            if change.shard != shard or change.table != table:
                continue
            if change.key is None and change.data is None:
                is_cleared = True
                changed.clear()
            else:
                changed[HEADER_KEY if change.key is None else change.key] = change.data
        return is_cleared, changed

    def _page(
        self,
        table: Table,
        shard: int,
        after: str | None,
        limit: int,
        changed: dict[str, bytes | None],
    ) -> tuple[dict[str, bytes], str | None]:
        """Rows of the file that are not changed since, and how far they reach; None: to the end."""
        first = shard_prefix(table, shard) if after is None else row_key(table, shard, after)
        query = _FROM if after is None else _AFTER
        bounds = (first, shard_prefix(table, shard + 1))
        rows: dict[str, bytes] = {}
        end_s = perf_counter() + SCAN_S
        cursor = self._connection.execute(query, bounds)
        try:
            for name, data in cursor:
                key = key_of(name)
                if key not in changed:
                    rows[key] = _as_bytes(data)
                if rows and (len(rows) >= limit or perf_counter() > end_s):
                    return rows, key
        finally:
            cursor.close()
        return rows, None

    # Writing, on the store's own thread

    def _run(self) -> None:
        try:
            while batches := self._next():
                self._write(batches)
        except sqlite3.Error as error:
            self._fail(error_of(error, self.path))
        except Exception as error:
            _logger.exception("the store's thread met something unexpected")
            self._fail(StoreError(f"{self.path}: {error!r}"))

    def _next(self) -> list[_Batch]:
        """What the next commit is to write; empty when the store closes."""
        with self._work:
            while not self._waiting and not self._is_closing:
                if self._log_bytes >= CHECKPOINT_BYTES:
                    break
                self._work.wait()
            is_idle = not self._waiting
        if self._log_bytes >= (CHECKPOINT_BYTES if is_idle else MAX_LOG_BYTES):
            with self._turn():
                self._checkpoint("PASSIVE")
            return self._next()
        with self._mutex:
            size = count = 0
            for _, changes in self._waiting:
                size += sum(len(change.data) for change in changes if change.data is not None)
                if count and size > MAX_COMMIT_BYTES:
                    break
                count += 1
            self._running, self._waiting = self._waiting[:count], self._waiting[count:]
            return self._running

    def _write(self, batches: list[_Batch]) -> None:
        ticket = batches[-1][0]
        clears, puts, deletes = _collapse(batches)
        puts[COUNTER_KEY] = counter_bytes(ticket)
        begun_s = perf_counter()
        with self._turn():
            is_durable = not self._is_full and self._commit(clears, puts, deletes)
            taken_s = perf_counter() - begun_s
            with self._mutex:
                self._running = []
                if is_durable:
                    self._durable = ticket
                    self._commits += 1
                    self._rows += len(puts) + len(deletes) - 1
                    self._commit_s += taken_s
                    self._slowest_s = max(self._slowest_s, taken_s)
                else:
                    self._is_full = True
                    self._fulls += 1
        self._log_bytes += sum(PAGE + len(data) for data in puts.values()) + PAGE * len(deletes)
        try:
            self._listener(ticket, Commit.DURABLE if is_durable else Commit.FULL)
        except Exception:
            # Its owner is going; what is durable stays so, and nobody is told more than is true.
            _logger.exception("the listener of %s failed", self.path)

    def _commit(self, clears: set[bytes], puts: dict[bytes, bytes], deletes: list[bytes]) -> bool:
        """Whether it is on the disk; False when there is no room, and then nothing has changed."""
        execute = self._connection.execute
        try:
            if not clears and not deletes and len(puts) <= MAX_PUTS:
                execute(put_statement(len(puts)), _flat(list(puts.items())))
                return True
            execute("BEGIN IMMEDIATE")
            for prefix in sorted(clears):
                end = (int.from_bytes(prefix, "big") + 1).to_bytes(len(prefix), "big")
                execute("DELETE FROM row WHERE key >= ? AND key < ?", (prefix, end))
            for name in deletes:
                execute("DELETE FROM row WHERE key = ?", (name,))
            rows = list(puts.items())
            for start in range(0, len(rows), MAX_PUTS):
                part = rows[start : start + MAX_PUTS]
                execute(put_statement(len(part)), _flat(part))
            execute("COMMIT")
        except sqlite3.Error as error:
            if not is_full(error):
                raise
            if self._connection.in_transaction:
                execute("ROLLBACK")
            return False
        return True

    def _checkpoint(self, mode: str) -> None:
        """Writes the log's content to its place, so that the log begins anew."""
        self._log_bytes = 0
        try:
            self._connection.execute(f"PRAGMA wal_checkpoint({mode})").fetchone()
        except sqlite3.Error as error:
            if not is_full(error):
                raise
            return  # the log keeps what there is no room for; the next commits will find out
        self._checkpoints += 1

    # The end

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _fail(self, failure: StoreError) -> None:
        """The store can no longer be trusted."""
        with self._mutex:
            if self._failure is not None:
                return
            self._failure = failure
        keep_open(self._connection)
        self._fatal(failure)

    def _forked(self) -> None:
        """In a child: the store belongs to the parent."""
        self._failure = StoreError(
            f"{self.path} was opened before a fork: the child must not use it; spawn instead"
        )
        keep_open(self._connection)


def _as_bytes(data: object) -> bytes:
    return data if type(data) is bytes else b""  # a number: rot, which no row's checksum lets pass


def _flat(rows: list[tuple[bytes, bytes]]) -> list[bytes]:
    return [value for row in rows for value in row]


def _collapse(batches: list[_Batch]) -> tuple[set[bytes], dict[bytes, bytes], list[bytes]]:
    """What batches come to together: shards emptied first, then rows put, and rows deleted."""
    clears: set[bytes] = set()
    last: dict[bytes, bytes | None] = {}
    prefixes: dict[tuple[Table, int], bytes] = {}
    for _, changes in batches:
        for table, shard, key, data in changes:
            prefix = prefixes.get((table, shard))
            if prefix is None:
                prefix = prefixes[table, shard] = shard_prefix(table, shard)
            if key is None and data is None:
                clears.add(prefix)
                for name in [name for name in last if name.startswith(prefix)]:
                    del last[name]
            else:
                text = HEADER_KEY if key is None else key
                last[prefix + text.encode("utf-8", "surrogateescape")] = data
    puts = {name: data for name, data in last.items() if data is not None}
    return clears, puts, [name for name, data in last.items() if data is None]


def _guard_child() -> None:
    for store in list(_open_stores):
        store._forked()


os.register_at_fork(after_in_child=_guard_child)
