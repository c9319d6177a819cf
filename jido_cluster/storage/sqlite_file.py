"""The file of a store: how it is opened, what is in it, and what its errors mean.

Theory. One table, named by one key of bytes: table and shard as fixed-width numbers, then the row's
own key. So a shard's rows lie side by side, in the order of their keys. The rows stand in a table
of their own beside the index on the keys, because a record may have 256 KiB and an index over whole
records is deep; and so every key is there twice.

Opening is where a former failure must come to light: the log is checked before SQLite looks at it,
the checkpoint writes and syncs everything that the log holds, and the structure is checked whole,
each key against its second copy. What rots inside a row is found by the row's own checksum.
*Source*: section 1.14 and findings 41 and 42 of the replication protocol; sqlite.org/pragma.html.
"""

import ctypes
import os
import sqlite3
from collections.abc import Collection
from pathlib import Path
from typing import Any, Final, NamedTuple
from zlib import crc32

from jido_cluster.storage.files import sync_folder
from jido_cluster.storage.log_check import count_lost_commits
from jido_state.store import StoreError, StoreLockedError, StoreLostError, Table

__all__ = [
    "COUNTER_KEY",
    "MAX_PUTS",
    "PAGE",
    "counter_bytes",
    "error_of",
    "flaw_of_library",
    "is_full",
    "keep_open",
    "key_of",
    "log_of",
    "open_file",
    "put_statement",
    "row_key",
    "set_aside",
    "shard_of_key",
    "shard_prefix",
]

PAGE: Final = 4096
FORMAT: Final = 1
COUNTER_KEY: Final = b"\xff"  # behind every row
_APPLICATION: Final = 0x4A69646F  # "Jido", in the file's header
_BIAS: Final = 1 << 31  # the root group's number is negative
_PREFIX: Final = 5  # bytes of table and shard
_CACHE_KIB: Final = 16_384
_LOG_LIMIT: Final = 16 << 20  # bytes; a log that one huge commit made larger is cut back to it
_OLDEST: Final = (3, 24, 0)  # knows ON CONFLICT DO UPDATE
MAX_PUTS: Final = 64  # rows of one statement; more gain nothing

_CREATE: Final = "CREATE TABLE row (key BLOB PRIMARY KEY, data BLOB NOT NULL)"
_LOST: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_LOCKED: Final = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})


class _Setting(NamedTuple):
    """A pragma that durability rests on, and what SQLite must answer."""

    pragma: str
    answer: Any
    remedy: str


_SETTINGS: Final = (
    # Before the log is touched: SQLite then keeps its index in memory, not in a shared file.
    _Setting("locking_mode=EXCLUSIVE", b"exclusive", "use SQLite's own unix VFS"),
    _Setting("journal_mode=WAL", b"wal", "put the data directory on a local file system"),
)


def flaw_of_library(version: tuple[int, ...], threadsafety: int, options: Collection[str]) -> str:
    """Why this SQLite cannot keep what it acknowledges; empty when it can.

    Releases before 3.51.3 may damage a file when two connections reset its log at once. A store has
    one connection and a lock that keeps others out, so they will do.

    Args:
        version: As `sqlite3.sqlite_version_info` has it.
        threadsafety: As `sqlite3.threadsafety` has it.
        options: What it was compiled with, as `PRAGMA compile_options` lists it.
    """
    if version < _OLDEST:
        return f"SQLite {'.'.join(map(str, version))} is older than 3.24"
    if threadsafety == 0:
        return "this SQLite was built for one thread (SQLITE_THREADSAFE=0)"
    for option in ("NO_SYNC", "OMIT_WAL"):
        if option in options:
            return f"this SQLite was built with SQLITE_{option}"
    return ""


def error_of(error: sqlite3.Error, path: Path) -> StoreError:
    """What an error of SQLite means for the store in this file."""
    code = _code_of(error)
    name = getattr(error, "sqlite_errorname", type(error).__name__)
    if code in _LOST:
        return StoreLostError(f"{path} is malformed ({name}: {error}); set it aside")
    if code in _LOCKED:
        return StoreLockedError(f"{path} is locked by another process ({name})")
    if code == sqlite3.SQLITE_FULL:
        return StoreError(f"{path}: there is no room ({name}); free some and start again")
    return StoreError(f"{path}: {name}: {error}; its process must end")


def is_full(error: sqlite3.Error) -> bool:
    """Whether there was no room; nothing else is wrong."""
    return _code_of(error) == sqlite3.SQLITE_FULL


def _code_of(error: sqlite3.Error) -> int:
    code: int = getattr(error, "sqlite_errorcode", 0)
    return code & 0xFF


def log_of(path: Path) -> Path:
    """SQLite's write-ahead log of this file."""
    return path.with_name(path.name + "-wal")


def set_aside(path: Path) -> Path:
    """Renames a lost store and its log, for salvage; a new one may be made in its place.

    Returns:
        Where the file is now: the first of `<name>.lost-1`, `<name>.lost-2`, ... not in use.
    """
    number = 1
    while (aside := path.with_name(f"{path.name}.lost-{number}")).exists():
        number += 1
    log = log_of(path)
    if log.exists():
        log.replace(log_of(aside))
    path.replace(aside)
    sync_folder(path.parent)
    return aside


def keep_open(connection: sqlite3.Connection) -> None:
    """Sees to it that this connection is never closed, not even at the interpreter's end.

    Closing makes a checkpoint and removes the log: after a failed sync, or in a forked child, that
    would destroy the only sound copy.
    """
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(connection))


def open_file(path: Path) -> tuple[sqlite3.Connection, int]:
    """A connection to a file that is sound and synced, and its append counter.

    The file is made if it is not there.

    The caller holds the store's lock. Nothing else may open the file.

    Raises:
        StoreLostError: It is malformed, or finished commits are missing.
        StoreLockedError: A process without our lock has it open.
        StoreError: It cannot be opened, or the disk fails; see the message.
    """
    lost = count_lost_commits(log_of(path))
    if lost:
        message = f"{log_of(path)} has rotted: {lost} finished commits behind it would be dropped"
        raise StoreLostError(f"{message}; set the store aside")
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        sync_folder(path.parent)
    except OSError as error:
        raise StoreError(f"{path} cannot be opened: {error.strerror}") from error
    connection = sqlite3.connect(
        path,
        timeout=0,
        isolation_level=None,
        check_same_thread=False,
        cached_statements=2 * MAX_PUTS,
    )
    connection.text_factory = bytes  # what rot made of a type is for the row's checksum to judge
    try:
        _prepare(connection, path)
        _check(connection, path)
        counter = _read_counter(connection, path)
    except sqlite3.Error as error:
        found = error_of(error, path)
        if getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_ERROR:
            # These statements are right, so the file is wrong.
            found = StoreLostError(f"{path} is malformed ({error}); set it aside")
        if _code_of(error) == sqlite3.SQLITE_IOERR:
            keep_open(connection)
        else:
            connection.close()
        raise found from error
    except StoreError:
        connection.close()
        raise
    return connection, counter


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    options = [option.decode() for (option,) in connection.execute("PRAGMA compile_options")]
    flaw = flaw_of_library(sqlite3.sqlite_version_info, sqlite3.threadsafety, options)
    if flaw:
        raise StoreError(f"{path} cannot be kept: {flaw}; install another SQLite")
    for pragma in (f"page_size={PAGE}", "mmap_size=0", "cell_size_check=1", "trusted_schema=0"):
        connection.execute(f"PRAGMA {pragma}")
    for pragma, answer, remedy in _SETTINGS:
        found = connection.execute(f"PRAGMA {pragma}").fetchone()[0]
        if found != answer:
            raise StoreError(f"{path}: PRAGMA {pragma} gave {found!r}; {remedy}")
    for pragma in (
        "synchronous=FULL",
        "wal_autocheckpoint=0",  # the store's thread does it, after it has told its listener
        f"journal_size_limit={_LOG_LIMIT}",
        f"cache_size=-{_CACHE_KIB}",
        "temp_store=MEMORY",
    ):
        connection.execute(f"PRAGMA {pragma}").fetchall()
    is_busy, _, _ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    if is_busy:
        raise StoreLockedError(f"{path}: another process reads it, so its log cannot be written")


def _check(connection: sqlite3.Connection, path: Path) -> None:
    """Makes the table in an empty file; else checks that the file is a store, and whole."""
    tables = connection.execute("SELECT sql FROM sqlite_master WHERE type = 'table'").fetchall()
    (found,) = connection.execute("PRAGMA user_version").fetchone()
    if not tables and not found:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute(_CREATE)
        connection.execute(put_statement(1), (COUNTER_KEY, counter_bytes(0)))
        connection.execute(f"PRAGMA application_id={_APPLICATION}")
        connection.execute(f"PRAGMA user_version={FORMAT}")
        connection.execute("COMMIT")
    elif found != FORMAT:
        raise StoreError(f"{path} has format {found}, and this release knows {FORMAT}: upgrade it")
    # Not `quick_check`: that would not see a key that rotted in the index, and its row would seem
    # absent. This compares every key with its second copy.
    (verdict,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
    if verdict != b"ok" or tables not in ([], [(_CREATE.encode(),)]):
        verdict = verdict.decode(errors="replace")
        raise StoreLostError(f"{path} is malformed ({verdict}); set it aside")


# Rows


def shard_prefix(table: Table, shard: int) -> bytes:
    """What the keys of these rows begin with, and no others."""
    return bytes((table,)) + (shard + _BIAS).to_bytes(4, "big")


def row_key(table: Table, shard: int, key: str) -> bytes:
    """A row's name as bytes, in the same order as the keys."""
    return shard_prefix(table, shard) + key.encode("utf-8", "surrogateescape")


def key_of(name: bytes) -> str:
    """The row's own key; one that rotted comes out so that `row_key` finds the row again."""
    return name[_PREFIX:].decode("utf-8", "surrogateescape")


def shard_of_key(name: bytes) -> int:
    """The shard of a row."""
    return int.from_bytes(name[1:_PREFIX], "big") - _BIAS


def put_statement(rows: int) -> str:
    """Writes so many rows; takes key and data of each."""
    values = ",".join(["(?,?)"] * rows)
    return (
        f"INSERT INTO row (key, data) VALUES {values} "  # noqa: S608 - question marks only
        "ON CONFLICT (key) DO UPDATE SET data = excluded.data"
    )


def counter_bytes(ticket: int) -> bytes:
    """The append counter as a row."""
    data = ticket.to_bytes(8, "big")
    return data + crc32(data).to_bytes(4, "big")


def _read_counter(connection: sqlite3.Connection, path: Path) -> int:
    """The append counter.

    Raises:
        StoreLostError: It cannot be read: tickets would be given twice.
    """
    found = connection.execute("SELECT data FROM row WHERE key = ?", (COUNTER_KEY,)).fetchone()
    data = b"" if found is None else found[0]
    if type(data) is not bytes or counter_bytes(int.from_bytes(data[:8], "big")) != data:
        raise StoreLostError(f"{path} has lost its append counter; set it aside")
    return int.from_bytes(data[:8], "big")
