"""What the tests of the storage share: an ear for stores, and images of their files."""

import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jido_cluster.storage.sqlite_file import log_of
from jido_cluster.storage.sqlite_store import SqliteStore
from jido_placement.config import GroupConfig, Replica
from jido_state.messages import Header
from jido_state.store import Change, Commit, StoreError, Table
from jido_state.versions import Ballot

DEADLINE_S = 20.0
CONFIG = GroupConfig(3, (Replica(0, 1), Replica(1, 7)), (Replica(2, 9),), (Replica(4, 12),))
HEADER = Header(7, "voter", CONFIG, Ballot(0, 3, 2, 1))


class Ear:
    """A listener that keeps what it heard, and can be waited for."""

    def __init__(self) -> None:
        self.heard: list[tuple[int, Commit]] = []
        self.failures: list[StoreError] = []
        self._changed = threading.Condition()

    def hear(self, ticket: int, commit: Commit) -> None:
        with self._changed:
            self.heard.append((ticket, commit))
            self._changed.notify_all()

    def fail(self, error: StoreError) -> None:
        with self._changed:
            self.failures.append(error)
            self._changed.notify_all()

    def wait(self, ticket: int) -> Commit:
        """How the batch of this ticket ended."""
        with self._changed:
            assert self._changed.wait_for(
                lambda: self.failures or (self.heard and self.heard[-1][0] >= ticket), DEADLINE_S
            )
            assert not self.failures, self.failures
            return next(commit for last, commit in self.heard if last >= ticket)

    def wait_failed(self) -> StoreError:
        with self._changed:
            assert self._changed.wait_for(lambda: self.failures, DEADLINE_S)
            return self.failures[0]


@contextmanager
def opened(path: Path, ear: Ear | None = None) -> Iterator[SqliteStore]:
    ear = Ear() if ear is None else ear
    store = SqliteStore.open(path, ear.hear, fatal=ear.fail)
    try:
        yield store
    finally:
        if not ear.failures:
            store.close()


def put(key: str, data: bytes, shard: int = 1) -> Change[bytes]:
    return Change(Table.RECORD, shard, key, data)


def image(path: Path, folder: Path) -> Path:
    """What a process that dies now leaves on the disk; its store has nothing to write."""
    folder.mkdir(exist_ok=True)
    copy = folder / path.name
    shutil.copyfile(path, copy)
    if log_of(path).exists():
        shutil.copyfile(log_of(path), log_of(copy))
    return copy


def flip(path: Path, place: int, bit: int = 0) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1 << bit
    path.write_bytes(data)


def contents(store: SqliteStore, shard: int = 1) -> dict[str, bytes]:
    """All records of a shard, page by page."""
    rows: dict[str, bytes] = {}
    after: str | None = None
    while page := store.scan(Table.RECORD, shard, after, 7):
        rows.update(page)
        after = page[-1][0]
    return rows
