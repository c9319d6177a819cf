"""The Store port: what a replica needs of durable storage, and its form in memory.

Theory. A store is one file of rows in a few tables, each row named by shard and key. A batch of
changes is appended whole: it can be read at once, and it is durable, or lost, as one. `append`
answers with a *ticket*, which the listener is told about when the batch has come to its end; many
batches share one commit. Nothing may leave the process that depends on a batch before its listener
has heard `DURABLE` (an acknowledgement, a promise).

Tickets rise for the whole life of the file, over restarts, so the ticket last committed is at the
same time the append counter by which peers notice that a disk was rolled back.
*Source*: etcd/raft's contract with its storage; SQLite's write-ahead log for what a batch is.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from enum import Enum, IntEnum
from typing import Final, Generic, NamedTuple, Protocol, TypeVar

__all__ = [
    "HEADER_KEY",
    "Change",
    "Commit",
    "Listener",
    "MemoryStore",
    "Rows",
    "Store",
    "StoreError",
    "StoreLockedError",
    "StoreLostError",
    "Table",
]

HEADER_KEY: Final = ""

D = TypeVar("D")  # what a row holds: bytes on a real disk, any immutable object in memory


class StoreError(Exception):
    """The store cannot do what it was asked; the process that owns it must end."""


class StoreLockedError(StoreError):
    """Another process has it open. Nothing was changed; wait for it, never break the lock."""


class StoreLostError(StoreError):
    """The file is not there or cannot be read at all: its replicas come back under new numbers."""


class Table(IntEnum):
    """What a row holds."""

    HEADER = 0
    """One row per shard, under `HEADER_KEY`: who this replica is and what it has promised."""
    RECORD = 1
    """The register of one agent."""
    DIVERGENCE = 2
    """What an agent's acting replica wrote beside its register."""
    STAGED = 3
    """What a learner copied: bytes that spare a transfer, never a record."""


class Change(NamedTuple, Generic[D]):
    """One row put or deleted.

    Attributes:
        table: Where.
        shard: Of which shard.
        key: The row's key; None, with `data` None, for every row of the shard in this table.
        data: What the row holds, not None: bytes on a real disk; the forms in memory keep any
            immutable object as it is. None to delete the row.
    """

    table: Table
    shard: int
    key: str | None
    data: D | None = None


class Commit(Enum):
    """How a batch ended. An I/O error is no end: it ends the process instead."""

    DURABLE = "durable"
    """It survives whatever the disk survives."""
    FULL = "full"
    """The disk had no room: the batch was rolled back, and can no longer be read.

    So was everything that was appended after it, until its process has heard of this.
    """


Listener = Callable[[int, Commit], None]
"""Hears `(ticket, commit)`: all batches up to this ticket, after the one last told, ended so."""


class Store(Protocol[D]):
    """Durable rows, for one process. Not thread-safe; a batch is atomic."""

    @property
    def durable(self) -> int:
        """The append counter: the highest ticket that is durable, over the life of the file."""
        ...

    def append(self, changes: Sequence[Change[D]]) -> int:
        """Applies the changes in order and returns their ticket, above all before it.

        They can be read at once. The listener hears the ticket later, never within this call.
        """
        ...

    def get(self, table: Table, shard: int, key: str) -> D | None:
        """What the row holds, with everything appended so far; None when there is none."""
        ...

    def scan(
        self, table: Table, shard: int, after: str | None = None, limit: int = 256
    ) -> list[tuple[str, D]]:
        """The next rows of a shard in the order of their keys, at most `limit`, which is > 0.

        Give the last key of a page as `after` for the next one; an empty page is the end. Rows may
        change between pages: versions, not the scan, say what is newest.
        """
        ...

    def shards(self) -> list[int]:
        """The shards that have a header here, sorted."""
        ...


class Rows(Generic[D]):
    """The content of a store: rows by table, shard and key, and the last ticket applied."""

    __slots__ = ("_orders", "_tables", "counter")

    def __init__(self) -> None:
        self.counter = 0
        self._tables: dict[tuple[int, int], dict[str, D]] = {}
        self._orders: dict[tuple[int, int], list[str]] = {}  # sorted keys, while they are current

    def apply(self, ticket: int, changes: Iterable[Change[D]]) -> None:
        """Applies one batch."""
        tables = self._tables
        for table, shard, key, data in changes:
            name = (table, shard)
            if data is not None:
                rows = tables.get(name)
                if rows is None:
                    rows = tables[name] = {}
                if key not in rows:
                    self._orders.pop(name, None)
                rows[HEADER_KEY if key is None else key] = data
            elif key is None:
                tables.pop(name, None)
                self._orders.pop(name, None)
            elif name in tables and tables[name].pop(key, None) is not None:
                self._orders.pop(name, None)
        self.counter = ticket

    def get(self, table: Table, shard: int, key: str) -> D | None:
        """As `Store.get`."""
        rows = self._tables.get((table, shard))
        return None if rows is None else rows.get(key)

    def scan(
        self, table: Table, shard: int, after: str | None = None, limit: int = 256
    ) -> list[tuple[str, D]]:
        """As `Store.scan`."""
        name = (table, shard)
        rows = self._tables.get(name)
        if not rows:
            return []
        order = self._orders.get(name)
        if order is None:
            order = self._orders[name] = sorted(rows)
        start = 0 if after is None else bisect_right(order, after)
        return [(key, rows[key]) for key in order[start : start + limit]]

    def shards(self) -> list[int]:
        """As `Store.shards`."""
        return sorted(
            shard for (table, shard), rows in self._tables.items() if table == Table.HEADER and rows
        )

    def names(self) -> list[tuple[Table, int, str]]:
        """Table, shard and key of every row, sorted."""
        return sorted(
            (Table(table), shard, key)
            for (table, shard), rows in self._tables.items()
            for key in rows
        )

    def copy(self) -> "Rows[D]":
        """The same content; what is changed in one of them is not changed in the other."""
        other: Rows[D] = Rows()
        other.counter = self.counter
        other._tables = {name: dict(rows) for name, rows in self._tables.items()}
        return other


class MemoryStore(Generic[D]):
    """A store that lasts as long as its process: for tests, and where nothing has to last longer.

    Batches are committed when the driver calls `commit`, so that here too nothing is durable at
    the moment it is appended.
    """

    __slots__ = ("_durable", "_listener", "_rows")

    def __init__(self, listener: Listener | None = None) -> None:
        self._rows: Rows[D] = Rows()
        self._durable = 0
        self._listener = listener

    @property
    def durable(self) -> int:
        """As `Store.durable`."""
        return self._durable

    def append(self, changes: Sequence[Change[D]]) -> int:
        """As `Store.append`."""
        ticket = self._rows.counter + 1
        self._rows.apply(ticket, changes)
        return ticket

    def commit(self) -> int:
        """Every batch so far is durable, and the listener has heard so; returns the last ticket."""
        if self._durable < self._rows.counter:
            self._durable = self._rows.counter
            if self._listener is not None:
                self._listener(self._durable, Commit.DURABLE)
        return self._durable

    def get(self, table: Table, shard: int, key: str) -> D | None:
        """As `Store.get`."""
        return self._rows.get(table, shard, key)

    def scan(
        self, table: Table, shard: int, after: str | None = None, limit: int = 256
    ) -> list[tuple[str, D]]:
        """As `Store.scan`."""
        return self._rows.scan(table, shard, after, limit)

    def shards(self) -> list[int]:
        """As `Store.shards`."""
        return self._rows.shards()
