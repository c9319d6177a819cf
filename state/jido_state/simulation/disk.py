"""A simulated disk, and the store that a process opens on it.

Theory. Appended batches wait in the process. One commit at a time takes all that wait: a
transaction, so that it is torn never and lost whole. A commit first is in the page cache, where the
next process finds it, and once its fsync has come back it is on the platter, where also a power cut
leaves it. Three things end differently:

- an fsync that fails leaves the commit in the cache, marked clean: no later fsync writes it. The
  process must end. The next one reads it, and everything committed after it is lost with it at a
  power cut, unless opening the store made a checkpoint, which writes everything again;
- a process that dies in a commit may have got it into the cache, or on to the platter, or not;
- a full disk rolls the commit back, and with it what was appended since, until the process hears of
  it: nothing may be durable whose forerunner is not. The process goes on.

*Source*: Rebello et al., Can applications recover from fsync failures? (ATC 2020); SQLite's
write-ahead log, whose frames after a missing one are not read.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, Generic, NamedTuple, TypeVar

from jido_state.simulation.scheduler import Scheduler
from jido_state.store import (
    Change,
    Commit,
    Listener,
    Rows,
    StoreError,
    StoreLockedError,
    StoreLostError,
    Table,
)

__all__ = ["DiskFaults", "DiskStatistics", "SimDisk", "SimStore", "flip_bit"]

D = TypeVar("D")
_Batch = tuple[int, tuple[Change[D], ...]]  # ticket and changes


def flip_bit(data: bytes, random: Random) -> bytes:
    """The bytes with one bit changed; one byte instead of none."""
    if not data:
        return b"\0"
    place = random.randrange(len(data) * 8)
    changed = bytearray(data)
    changed[place // 8] ^= 1 << place % 8
    return bytes(changed)


@dataclass(frozen=True, slots=True)
class DiskFaults:
    """How slow a disk is, and how often it fails.

    Attributes:
        latency_us: Mean time of a commit, > 0; each takes between a half and three halves of it.
        stall_rate: Probability that a commit takes up to `stall_us` more, 0 to 1.
        stall_us: The longest stall; above an election timeout it deposes leaders.
        sync_error_rate: Probability that a commit's fsync fails, 0 to 1.
    """

    latency_us: int = 400
    stall_rate: float = 0.0
    stall_us: int = 0
    sync_error_rate: float = 0.0


class DiskStatistics(NamedTuple):
    """What a disk has done: batches appended, and how many commits ended in which way."""

    batches: int
    commits: int
    full: int
    sync_errors: int
    lost: int


class _Group(Generic[D]):
    """The batches of one commit that is in the cache, and not known to be on the platter."""

    __slots__ = ("batches", "is_hole")

    def __init__(self, batches: list[_Batch[D]]) -> None:
        self.batches = batches
        self.is_hole = False  # its fsync failed: clean in the cache, not on the platter


class SimDisk(Generic[D]):
    """One store file of one node, over the lives of its processes.

    Attributes:
        faults: May be replaced at any time.
        is_full: While true, every commit is rolled back.
        fails_next_sync: The next commit's fsync, or the next checkpoint, fails.
        scheduler: Gives the time.
        node: Whose processes open the file.
        rows: The cache: what is on the platter, in the log, and appended by open stores.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        random: Random,
        node: int,
        faults: DiskFaults | None = None,
        spoil: Callable[[D, Random], D] | None = None,
    ) -> None:
        """Formats an empty file.

        Args:
            scheduler: Gives the time; the node's processes are its processes.
            random: Draws latencies and faults; used by this disk alone.
            node: Whose processes open the file.
            faults: None for a disk that is quick and sound.
            spoil: Gives what rot makes of a row's content; None for rows that are bytes.
        """
        self.faults = DiskFaults() if faults is None else faults
        self.is_full = False
        self.fails_next_sync = False
        self.scheduler = scheduler
        self.node = node
        self.rows: Rows[D] = Rows()
        self._random = random
        self._spoil = spoil
        self._is_lost = False
        self._platter: Rows[D] = Rows()
        self._log: list[_Group[D]] = []  # commits from the first that is not on the platter on
        self._stores: list[SimStore[D]] = []
        self._batches = self._commits = self._full = self._sync_errors = self._lost = 0

    # The lives of processes

    def open(
        self,
        listener: Listener,
        on_error: Callable[[], None],
        *,
        checkpoint: bool = True,
        lock: bool = True,
        process: int | None = None,
    ) -> "SimStore[D]":
        """The store, for the process that runs at this moment.

        Args:
            listener: Hears how batches end, in the process.
            on_error: Called in the process when an fsync failed; it must end it (`crash`).
            checkpoint: Whether everything is written again before anything is read. Without it a
                former fsync error may come to light at a power cut.
            lock: Whether a store that is open already is refused. Without it two processes write
                one file, each with its own idea of what is in it.
            process: The scheduler's number for the process; None for the node's own.

        Raises:
            StoreLockedError: It is open.
            StoreLostError: The file is gone.
            StoreError: The checkpoint failed; the file is as it was, the process must end.
        """
        if self._is_lost:
            raise StoreLostError(f"node {self.node}: the store file is gone")
        if lock and self._stores:
            raise StoreLockedError(f"node {self.node}: another process has the store open")
        if checkpoint:
            if self._sync_fails():
                self._punch_hole()
                raise StoreError(f"node {self.node}: the checkpoint failed")
            self._write_log(len(self._log))
        store = SimStore(self, listener, on_error, self.node if process is None else process)
        self._stores.append(store)
        return store

    def crash(self, *, power: bool = False, process: int | None = None) -> None:
        """The processes that have it open are gone; with `power` the machine's cache is as well.

        A commit that was under way is lost, or in the cache (with `power`: on the platter); the
        disk's random numbers decide. With `process` given, only that process is gone.
        """
        stores, self._stores = self._stores, []
        for store in stores:
            if process is not None and store.process != process:
                self._stores.append(store)
                continue
            running, waiting = store.close()
            self._lost += len(waiting)
            if running and self._random.random() < 0.5:
                self._log.append(_Group(running))
            else:
                self._lost += len(running)
        if power:
            self._write_log(self._sound())
            self._lost += sum(len(group.batches) for group in self._log)
            self._log = []
        self._rebuild()

    # What befalls the file

    def lose(self) -> None:
        """The file is gone, or unreadable as a whole.

        Raises:
            StoreLockedError: A process has it open; crash that first.
        """
        if self._stores:
            raise StoreLockedError(f"node {self.node}: crash the process that has the store open")
        self._is_lost = True
        self._platter, self._log, self.rows = Rows(), [], Rows()

    def format(self) -> None:
        """An empty file, sound again. Raises as `lose` does."""
        self.lose()
        self._is_lost = False

    def set_back(self, image: "SimDisk[D]") -> None:
        """What is on the platter is again what it was when this image was taken.

        Raises as `lose` does.
        """
        self.lose()
        self._is_lost = image.is_lost
        self._platter = image.rows.copy()  # nothing runs on an image
        self._rebuild()

    def clone(self, random: Random, node: int | None = None) -> "SimDisk[D]":
        """A copy of what is on the platter now: an image of the disk, for the same or another node.

        Kept, and put in the place of the disk later, it is a rollback.
        """
        other: SimDisk[D] = SimDisk(
            self.scheduler, random, self.node if node is None else node, self.faults, self._spoil
        )
        other._is_lost = self._is_lost
        other._platter = self._platter.copy()
        other._rebuild()
        return other

    def rot(self, table: Table = Table.RECORD, *, in_key: bool = False) -> tuple[int, str] | None:
        """Spoils one row of the table, drawn at random, in the cache and on the platter.

        Args:
            table: Which rows may be hit.
            in_key: Whether the row's key is spoilt instead: the row is found under a wrong key,
                and not under its own.

        Returns:
            Shard and key of the row; None when the table is empty.
        """
        names = [name for name in self._platter.names() if name[0] == table]
        if not names:
            return None
        _, shard, key = names[self._random.randrange(len(names))]
        data = self._platter.get(table, shard, key)
        assert data is not None
        changes = [Change(table, shard, key, None if in_key else self._spoilt(data))]
        if in_key:
            changes.append(Change(table, shard, key + "?", data))
        for rows in (self._platter, self.rows):
            rows.apply(rows.counter, changes)
        return shard, key

    @property
    def is_lost(self) -> bool:
        """Whether the file is gone."""
        return self._is_lost

    @property
    def is_open(self) -> bool:
        """Whether a process has the store open."""
        return bool(self._stores)

    def statistics(self) -> DiskStatistics:
        """What has been done so far."""
        return DiskStatistics(
            self._batches, self._commits, self._full, self._sync_errors, self._lost
        )

    # For the stores that are open

    def draw_latency_us(self) -> int:
        """How long the next commit takes."""
        faults = self.faults
        delay = int(faults.latency_us * (0.5 + self._random.random()))
        if faults.stall_rate and self._random.random() < faults.stall_rate:
            delay += int(faults.stall_us * self._random.random())
        return delay

    def commit(self, batches: list[_Batch[D]]) -> Commit | None:
        """Ends a commit; None for an I/O error, after which the store is of no use."""
        self._batches += len(batches)
        self._commits += 1
        if self.is_full:
            self._full += 1
            self._rebuild()
            return Commit.FULL
        self._log.append(_Group(batches))
        if self._sync_fails():
            self._punch_hole()
            return None
        self._write_log(self._sound())
        return Commit.DURABLE

    def roll_back(self, batches: list[_Batch[D]]) -> None:
        """Takes back batches that an open store no longer wants to commit."""
        self._batches += len(batches)
        self._rebuild()

    def _sync_fails(self) -> bool:
        rate = self.faults.sync_error_rate
        fails = self.fails_next_sync or (rate > 0 and self._random.random() < rate)
        self.fails_next_sync = False
        self._sync_errors += fails
        return fails

    def _punch_hole(self) -> None:
        """An fsync failed: all that was dirty is clean, in the cache only."""
        for group in self._log:
            group.is_hole = True

    def _sound(self) -> int:
        """How many commits of the log can be read from the platter once it is synced."""
        log = self._log
        return next((place for place, group in enumerate(log) if group.is_hole), len(log))

    def _write_log(self, groups: int) -> None:
        for group in self._log[:groups]:
            for ticket, changes in group.batches:
                self._platter.apply(ticket, changes)
        del self._log[:groups]

    def _rebuild(self) -> None:
        """Makes the cache anew, after something in it has been taken back."""
        self.rows = self._platter.copy()
        for group in self._log:
            for ticket, changes in group.batches:
                self.rows.apply(ticket, changes)
        for store in self._stores:
            for ticket, changes in store.unfinished():
                self.rows.apply(ticket, changes)

    def _spoilt(self, data: D) -> D:
        if self._spoil is not None:
            return self._spoil(data, self._random)
        if not isinstance(data, bytes):
            raise TypeError(f"a row of type {type(data).__name__} rots: give SimDisk a `spoil`")
        spoilt: Any = flip_bit(data, self._random)
        return spoilt  # type: ignore[no-any-return]


class SimStore(Generic[D]):
    """A `Store` on a simulated disk, opened by one process. Of no use once that has ended.

    Attributes:
        process: The scheduler's number for the process.
    """

    __slots__ = (
        "_disk",
        "_durable",
        "_is_open",
        "_is_refused",
        "_listener",
        "_on_error",
        "_running",
        "_ticket",
        "_waiting",
        "process",
    )

    def __init__(
        self,
        disk: SimDisk[D],
        listener: Listener,
        on_error: Callable[[], None],
        process: int,
    ) -> None:
        """Use `SimDisk.open`."""
        self._disk = disk
        self._listener = listener
        self._on_error = on_error
        self.process = process
        self._durable = self._ticket = disk.rows.counter
        self._running: list[_Batch[D]] = []
        self._waiting: list[_Batch[D]] = []
        self._is_open = True
        self._is_refused = False  # a commit was rolled back, and the process has not heard of it

    @property
    def durable(self) -> int:
        """As `Store.durable`."""
        return self._durable

    def append(self, changes: Sequence[Change[D]]) -> int:
        """As `Store.append`.

        Raises:
            StoreError: The process has ended, or must: an fsync failed. Nothing was appended.
        """
        if not self._is_open:
            raise StoreError(f"node {self._disk.node}: the store is closed")
        rows = self._disk.rows
        self._ticket = ticket = max(self._ticket, rows.counter) + 1
        batch = (ticket, tuple(changes))
        rows.apply(ticket, batch[1])
        self._waiting.append(batch)
        if not self._running and not self._is_refused:
            self._begin()
        return ticket

    def get(self, table: Table, shard: int, key: str) -> D | None:
        """As `Store.get`."""
        return self._disk.rows.get(table, shard, key)

    def scan(
        self, table: Table, shard: int, after: str | None = None, limit: int = 256
    ) -> list[tuple[str, D]]:
        """As `Store.scan`."""
        return self._disk.rows.scan(table, shard, after, limit)

    def shards(self) -> list[int]:
        """As `Store.shards`."""
        return self._disk.rows.shards()

    def unfinished(self) -> list[_Batch[D]]:
        """The batches that no commit has ended, oldest first."""
        return self._running + self._waiting

    def close(self) -> tuple[list[_Batch[D]], list[_Batch[D]]]:
        """The process is gone; returns the batches of the commit under way, and those waiting."""
        running, waiting = self._running, self._waiting
        self._running, self._waiting = [], []
        self._is_open = False
        return running, waiting

    def _begin(self) -> None:
        self._running, self._waiting = self._waiting, []
        # The kernel's work: it goes on while the process is paused.
        self._disk.scheduler.after(self._disk.draw_latency_us(), self._finish, self._running)

    def _finish(self, batches: list[_Batch[D]]) -> None:
        if not self._is_open:
            return
        self._running = []
        commit = self._disk.commit(batches)
        scheduler = self._disk.scheduler
        if commit is None:
            self._is_open = False
            scheduler.run_on(self.process, self._on_error)
            return
        if commit is Commit.FULL:
            self._is_refused = True
            scheduler.run_on(self.process, self._tell_full)
            return
        if self._waiting:
            self._begin()
        scheduler.run_on(self.process, self._tell_durable, batches[-1][0])

    def _tell_durable(self, ticket: int) -> None:
        self._durable = ticket
        self._listener(ticket, Commit.DURABLE)

    def _tell_full(self) -> None:
        self._is_refused = False
        waiting, self._waiting = self._waiting, []
        self._disk.roll_back(waiting)
        self._listener(self._ticket, Commit.FULL)
