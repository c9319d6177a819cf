"""Store: what a commit costs on this disk, alone and shared, and what a row costs in bytes.

One store file in a temporary folder of the working directory. Alone: a record is appended when the
one before it is durable. Shared: 64 groups do so at the same time. The peer is the disk by itself:
the same bytes appended to a plain file and synced, once for each commit.
"""

import os
import shutil
import tempfile
import threading
import time
from pathlib import Path
from statistics import median
from typing import Final

from benchmarks.here import Here
from benchmarks.report import Bar, Comparison, Samples
from jido_cluster.storage.rows import row_from_bytes, row_to_bytes
from jido_cluster.storage.sqlite_store import SqliteStore
from jido_state.dedupe import NO_OPERATIONS, remember
from jido_state.messages import Row
from jido_state.operations import OpId
from jido_state.record import Record
from jido_state.store import Change, Commit, Table
from jido_state.versions import NO_VERSION, Ballot

BATCH: Final = 64
AGENTS: Final = 5_000
DEADLINE_S: Final = 60.0

COMPARISONS: Final = (
    Comparison("alone", "store", "commits of one record", "/s", "the disk itself"),
    Comparison("alone latency", "store", "one record to durable, median", "ms", "the disk itself"),
    Comparison("alone late", "store", "one record to durable, p99", "ms", "the disk itself"),
    Comparison("shared", "store", "records, 64 to a commit", "/s", "the disk itself"),
    Comparison("shared latency", "store", "64 records to durable", "ms", "the disk itself"),
    Comparison("encode", "store", "one record to bytes", "us", "the bar", Bar("<=", 1)),
    Comparison("decode", "store", "one record from bytes", "us", "the bar", Bar("<=", 1)),
)
BARS: Final = {"encode": 15.0, "decode": 30.0}


class Store:
    """One file, written by this process."""

    def __init__(self, site: Here) -> None:
        self._commits = 200 if site.is_quick else 1000
        self._folder = Path(tempfile.mkdtemp(prefix=".bench-store-", dir=Path.cwd()))
        self._told = threading.Condition()
        self._durable = 0
        self._next = 0
        table = remember(NO_OPERATIONS, OpId("c" * 31, 17), b'{"value": 3}', now_ms=5, ack=17)
        version = Ballot(0, 1, 2, 3).version(7)
        record = Record.blank(state=b'{"value": 3}' * 20, type="m.Counter").completed(
            version=version,
            generation=version,
            born_op=OpId("c" * 31, 1),
            dedupe=table,
            wall_ms=1_763_700_000_000,
        )
        self._row = Row(version, content=record)
        self._data = row_to_bytes(1, "agent-1", self._row)

    def _hear(self, ticket: int, commit: Commit) -> None:
        with self._told:
            if commit is Commit.DURABLE:
                self._durable = ticket
            self._told.notify_all()

    def _change(self) -> Change[bytes]:
        self._next += 7919
        agent = self._next % AGENTS
        return Change(Table.RECORD, agent % 256, f"agent-{agent}", self._data)

    def _write(self, store: SqliteStore, batches: int) -> float:
        """Milliseconds until so many batches of one record are durable."""
        begun = time.perf_counter()
        last = [store.append([self._change()]) for _ in range(batches)][-1]
        with self._told:
            if not self._told.wait_for(lambda: self._durable >= last, DEADLINE_S):
                raise RuntimeError(f"the disk took over {DEADLINE_S} s for a commit, or is full")
        return (time.perf_counter() - begun) * 1e3

    async def prepare(self) -> None:
        """As the protocol says."""

    async def round(self, number: int) -> Samples:
        """As the protocol says."""
        folder = self._folder / str(number)
        folder.mkdir(parents=True)
        try:
            self._durable = 0
            store = SqliteStore.open(folder / "store.db", self._hear)
            for _ in range(AGENTS // BATCH):
                self._write(store, BATCH)
            alone = sorted(self._write(store, 1) for _ in range(self._commits))
            shared = sorted(self._write(store, BATCH) for _ in range(self._commits // 4))
            store.close()
            disk = self._disk(folder / "plain", len(self._data), self._commits)
            disk_shared = self._disk(folder / "plain", len(self._data) * BATCH, self._commits // 4)
        finally:
            shutil.rmtree(self._folder)
        late, disk_late = (each[int(len(each) * 0.99)] for each in (alone, disk))
        return {
            "alone": (_rate(alone), _rate(disk)),
            "alone latency": (median(alone), median(disk)),
            "alone late": (late, disk_late),
            "shared": (BATCH * _rate(shared), BATCH * _rate(disk_shared)),
            "shared latency": (median(shared), median(disk_shared)),
            "encode": (self._encode(), BARS["encode"]),
            "decode": (self._decode(), BARS["decode"]),
        }

    @staticmethod
    def _disk(path: Path, size: int, commits: int) -> list[float]:
        """Milliseconds of each of so many appends to a file, sorted."""
        taken = []
        with path.open("wb", buffering=0) as file:
            for _ in range(commits):
                begun = time.perf_counter()
                file.write(bytes(size))
                os.fdatasync(file.fileno())
                taken.append((time.perf_counter() - begun) * 1e3)
        return sorted(taken)

    def _encode(self) -> float:
        begun = time.process_time()
        for _ in range(10 * self._commits):
            row_to_bytes(1, "agent-1", self._row)
        return (time.process_time() - begun) / (10 * self._commits) * 1e6

    def _decode(self) -> float:
        begun = time.process_time()
        for _ in range(10 * self._commits):
            if row_from_bytes(1, "agent-1", self._data).version == NO_VERSION:
                raise RuntimeError("the row came back as another")
        return (time.process_time() - begun) / (10 * self._commits) * 1e6


def _rate(taken_ms: list[float]) -> float:
    return 1e3 * len(taken_ms) / sum(taken_ms)
