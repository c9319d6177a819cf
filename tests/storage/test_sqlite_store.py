"""The store on SQLite, by examples: what is read, what is told, and who may open it."""

import os
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from jido_cluster.storage.sqlite_file import error_of, flaw_of_library, log_of, set_aside
from jido_cluster.storage.sqlite_store import MAX_LOG_BYTES, SqliteStore
from jido_state.store import (
    HEADER_KEY,
    Change,
    Commit,
    StoreError,
    StoreLockedError,
    StoreLostError,
    Table,
)
from tests.storage.support import Ear, contents, opened, put

ROOT = Path(__file__).resolve().parents[2]


def test_what_is_durable_is_there_after_a_restart(tmp_path: Path) -> None:
    """Rows of all tables and shards come back, and tickets go on where they stood."""
    ear = Ear()
    rows = [
        Change(Table.HEADER, -1, HEADER_KEY, b"root"),
        Change(Table.HEADER, 3, HEADER_KEY, b"three"),
        Change(Table.DIVERGENCE, 3, "k", b"entries"),
        put("k", b"one"),
        put("k", b"two"),
        put("gone", b"x"),
        put("gone", b""),
        Change(Table.RECORD, 1, "gone", None),
    ]
    with opened(tmp_path / "s.db", ear) as store:
        assert store.durable == 0
        tickets = [store.append([row]) for row in rows]
        assert tickets == list(range(1, len(rows) + 1))
        assert ear.wait(tickets[-1]) is Commit.DURABLE
        assert store.durable == len(rows)
    with opened(tmp_path / "s.db") as store:
        assert store.durable == len(rows)
        assert store.shards() == [-1, 3]
        assert store.get(Table.HEADER, -1, HEADER_KEY) == b"root"
        assert store.get(Table.DIVERGENCE, 3, "k") == b"entries"
        assert store.get(Table.DIVERGENCE, 1, "k") is None
        assert contents(store) == {"k": b"two"}
        assert store.append([]) == len(rows) + 1


def test_a_batch_can_be_read_before_it_is_durable(tmp_path: Path) -> None:
    """Reads see what waits: rows put, deleted, and shards emptied."""
    ear = Ear()
    with opened(tmp_path / "s.db", ear) as store:
        ear.wait(store.append([put("a", b"1"), put("b", b"1"), put("z", b"1", shard=2)]))
        with store._turn():  # no commit begins meanwhile
            store.append([put("b", b"2"), put("c", b"2"), Change(Table.RECORD, 1, "a", None)])
            store.append([Change(Table.HEADER, 5, HEADER_KEY, b"h")])
            seen: list[object] = []

            def read() -> None:
                seen.extend((store.scan(Table.RECORD, 1), store.get(Table.RECORD, 1, "a")))
                seen.append(store.shards())

            reader = threading.Thread(target=read)
            reader.start()
        reader.join()
        assert seen == [[("b", b"2"), ("c", b"2")], None, [5]]
        ear.wait(store.append([Change(Table.RECORD, 1, None, None), put("d", b"3")]))
        assert contents(store) == {"d": b"3"}
        assert contents(store, 2) == {"z": b"1"}


def test_the_settings_that_durability_rests_on(tmp_path: Path) -> None:
    """Each commit is synced, nobody can share the file, and nothing but log and lock is beside."""
    with opened(tmp_path / "s.db") as store:
        store.append([put("k", b"x")])
        for pragma, answer in (("synchronous", 2), ("wal_autocheckpoint", 0), ("mmap_size", 0)):
            assert store._connection.execute(f"PRAGMA {pragma}").fetchone() == (answer,)
        for pragma, name in (("journal_mode", b"wal"), ("locking_mode", b"exclusive")):
            assert store._connection.execute(f"PRAGMA {pragma}").fetchone() == (name,)
        names = sorted(path.name for path in tmp_path.iterdir())
        assert names == ["s.db", "s.db-wal", "s.db.lock"]


def test_batches_that_wait_share_a_commit(tmp_path: Path) -> None:
    """While one commit runs, the next gathers; the listener hears of all of it at once."""
    ear = Ear()
    with opened(tmp_path / "s.db", ear) as store:
        with store._turn():
            last = [store.append([put(f"k{number}", b"x")]) for number in range(500)][-1]
        assert ear.wait(last) is Commit.DURABLE
        told = [ticket for ticket, _ in ear.heard]
        assert told == sorted(set(told))
        assert store.statistics().commits == len(told) <= 3
        assert len(contents(store)) == store.statistics().rows == 500


def test_a_full_disk_takes_nothing_that_came_later(tmp_path: Path) -> None:
    """What had no room is rolled back with all behind it, until it is tried again."""
    ear = Ear()
    with opened(tmp_path / "s.db", ear) as store:
        ear.wait(store.append([put("kept", b"x")]))
        (pages,) = store._connection.execute("PRAGMA page_count").fetchone()
        store._connection.execute(f"PRAGMA max_page_count={pages + 4}").fetchone()
        large = store.append([put("large", b"x" * 100_000), put("kept", b"y")])
        assert ear.wait(large) is Commit.FULL
        small = store.append([put("small", b"x")])
        assert ear.wait(small) is Commit.FULL
        assert contents(store) == {"kept": b"x"}
        assert store.durable == 1
        store.try_again()
        assert ear.wait(store.append([put("large", b"x" * 100_000)])) is Commit.FULL
        store._connection.execute("PRAGMA max_page_count=1000000").fetchone()
        store.try_again()
        last = store.append([put("large", b"x" * 100_000)])
        assert ear.wait(last) is Commit.DURABLE
        assert store.durable == last
        assert sorted(contents(store)) == ["kept", "large"]
        assert store.statistics().full >= 3


def test_a_store_has_one_owner(tmp_path: Path) -> None:
    """Neither this process nor another may open it a second time, until it is closed."""
    path = tmp_path / "s.db"
    command = [sys.executable, "-m", "tests.storage.writer", str(path), "hold"]
    with opened(path) as store:
        with pytest.raises(StoreLockedError, match=f"open in this process, {os.getpid()}"):
            SqliteStore.open(path, lambda *_: None)
        refused = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert f"StoreLockedError: {path} is open in process {os.getpid()}" in refused.stderr
        store.append([put("k", b"1")])
    child = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == b"1\n"
        with pytest.raises(StoreLockedError, match=f"open in process {child.pid}"):
            SqliteStore.open(path, lambda *_: None)
    finally:
        child.kill()
        child.communicate()
    with opened(path) as store:
        assert contents(store) == {"k": b"1"}


def test_another_program_that_reads_is_noticed(tmp_path: Path) -> None:
    """Somebody without our lock, such as the sqlite3 shell, keeps the store from opening."""
    path = tmp_path / "s.db"
    with opened(path):
        pass
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    other.execute("INSERT INTO row VALUES (x'01', x'02')")
    with pytest.raises(StoreLockedError, match="locked by another process"):
        SqliteStore.open(path, lambda *_: None)
    other.execute("ROLLBACK")
    other.close()
    with opened(path) as store:
        assert store.shards() == []


def test_a_forked_child_cannot_use_the_store(tmp_path: Path) -> None:
    """Every use in the child fails, and nothing it does or leaves harms the parent's file."""
    path = tmp_path / "s.db"
    code = f"""
import gc, os, sys
from pathlib import Path
from jido_cluster.storage.sqlite_store import SqliteStore
from jido_state.store import Change, StoreError, Table
path = Path({str(path)!r})
store = SqliteStore.open(path, lambda *_: None)
store.append([Change(Table.RECORD, 1, "k", b"before")])
pid = os.fork()
if pid == 0:
    uses = [
        lambda: store.append([Change(Table.RECORD, 1, "k", b"child")]),
        lambda: store.get(Table.RECORD, 1, "k"),
        lambda: store.scan(Table.RECORD, 1),
        store.shards, store.close, store.try_again, store.statistics,
        lambda: SqliteStore.open(path, lambda *_: None),
    ]
    refused = 0
    for use in uses:
        try:
            use()
        except StoreError:
            refused += 1
    store.__dict__.clear()  # the last that the child has of the connection
    gc.collect()
    sys.exit(refused - len(uses))
assert os.waitpid(pid, 0)[1] == 0
last = store.append([Change(Table.RECORD, 1, "l", b"after")])
while store.durable < last:
    os.sched_yield()
os._exit(0)  # as if killed: what is in the log has to be there
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)
    with opened(path) as store:
        assert contents(store) == {"k": b"before", "l": b"after"}


def test_a_closed_store_is_of_no_use(tmp_path: Path) -> None:
    """What was appended is durable when `close` returns, and nothing can be appended behind it."""
    ear = Ear()
    store = SqliteStore.open(tmp_path / "s.db", ear.hear)
    last = store.append([put("k", b"x")])
    store.close()
    store.close()
    assert ear.heard == [(last, Commit.DURABLE)]
    assert not log_of(store.path).exists()
    with pytest.raises(StoreError, match="is closed"):
        store.append([])
    with pytest.raises(StoreError):
        store.get(Table.RECORD, 1, "k")


def test_the_log_does_not_grow_without_bound(tmp_path: Path) -> None:
    """However much is written, idle or busy, the log is written back and begun anew."""
    ear = Ear()
    with opened(tmp_path / "s.db", ear) as store:
        data = os.urandom(60_000)
        for number in range(20):
            with store._turn():
                last = [store.append([put(f"k{each}", data)]) for each in range(40)][-1]
            ear.wait(last)
            assert log_of(store.path).stat().st_size <= 2 * MAX_LOG_BYTES, number
        assert store.statistics().checkpoints >= 3
        assert store.statistics().rows == 800


def test_a_listener_that_fails_does_not_stop_the_store(tmp_path: Path) -> None:
    """As when the loop it hands over to is closed: what comes later is still written."""

    def fail(_: int, __: Commit) -> None:
        raise RuntimeError("the loop is closed")

    store = SqliteStore.open(tmp_path / "s.db", fail)
    store.append([put("k", b"x")])
    store.close()
    with opened(tmp_path / "s.db") as again:
        assert contents(again) == {"k": b"x"}


def test_something_unforeseen_ends_the_store(tmp_path: Path) -> None:
    """An error that nobody thought of is handled as a disk that failed."""
    ear = Ear()
    with opened(tmp_path / "s.db", ear) as store:
        store.append([Change(Table.RECORD, 1, 5, b"")])  # type: ignore[arg-type]
        assert "AttributeError" in str(ear.wait_failed())
        for use in (store.shards, store.close, lambda: store.append([])):
            with pytest.raises(StoreError, match="AttributeError"):
                use()
    store._lock.release()  # its process would have ended


def test_a_lost_store_is_set_aside(tmp_path: Path) -> None:
    """A file that is no database is refused, kept for salvage, and makes room for a new one."""
    path = tmp_path / "s.db"
    for number in (1, 2):
        path.write_bytes(b"no database " * 1000)
        log_of(path).write_bytes(b"no log")
        with pytest.raises(StoreLostError, match="malformed"):
            SqliteStore.open(path, lambda *_: None)
        log_of(path).write_bytes(b"no log")  # SQLite may have removed it
        aside = set_aside(path)
        assert aside.name == f"s.db.lost-{number}"
        assert aside.read_bytes().startswith(b"no database")
        assert log_of(aside).read_bytes() == b"no log"
    with opened(path) as store:
        assert store.shards() == []


def test_a_newer_format_is_not_touched(tmp_path: Path) -> None:
    """A file of a later release is refused, and not taken for lost."""
    path = tmp_path / "s.db"
    with opened(path):
        pass
    with sqlite3.connect(path, isolation_level=None) as other:
        other.execute("PRAGMA user_version=2")
    other.close()
    with pytest.raises(StoreError, match="has format 2, and this release knows 1") as caught:
        SqliteStore.open(path, lambda *_: None)
    assert type(caught.value) is StoreError


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    """The error says what is missing, and the lock is free again."""
    with pytest.raises(StoreError, match="No such file"):
        SqliteStore.open(tmp_path / "missing" / "s.db", lambda *_: None)


@pytest.mark.parametrize(
    ("code", "kind", "remedy"),
    [
        (sqlite3.SQLITE_CORRUPT, StoreLostError, "set it aside"),
        (sqlite3.SQLITE_NOTADB, StoreLostError, "set it aside"),
        (sqlite3.SQLITE_BUSY, StoreLockedError, "another process"),
        (sqlite3.SQLITE_FULL, StoreError, "free some and start again"),
        (sqlite3.SQLITE_IOERR_FSYNC, StoreError, "its process must end"),
        (sqlite3.SQLITE_CANTOPEN, StoreError, "its process must end"),
    ],
)
def test_an_error_says_what_to_do(code: int, kind: type[StoreError], remedy: str) -> None:
    """Lost, locked, full and failed are told apart, with the file's name."""
    error = sqlite3.OperationalError("it is so")
    error.sqlite_errorcode = code
    found = error_of(error, Path("some.db"))
    assert type(found) is kind
    assert remedy in str(found)
    assert "some.db" in str(found)


@pytest.mark.parametrize(
    ("version", "threadsafety", "options", "flaw"),
    [
        ((3, 40, 1), 3, ["THREADSAFE=1"], ""),
        ((3, 24, 0), 1, [], ""),
        ((3, 23, 1), 3, [], "3.23.1 is older than 3.24"),
        ((3, 51, 3), 0, [], "for one thread"),
        ((3, 51, 3), 3, ["NO_SYNC"], "SQLITE_NO_SYNC"),
        ((3, 51, 3), 3, ["OMIT_WAL"], "SQLITE_OMIT_WAL"),
    ],
)
def test_a_library_that_cannot_keep_its_word_is_refused(
    version: tuple[int, ...], threadsafety: int, options: list[str], flaw: str
) -> None:
    """The check says why; a sound library has no flaw."""
    found = flaw_of_library(version, threadsafety, options)
    assert flaw in found
    assert bool(found) == bool(flaw)
