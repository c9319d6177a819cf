"""A system that is no part of the cluster: values in SQLite, of the newest turn only."""

import sqlite3
from contextlib import closing
from pathlib import Path

from jido_cluster import FencedError

_TABLE = "CREATE TABLE IF NOT EXISTS shown (name TEXT PRIMARY KEY, value INTEGER, token TEXT)"
# One statement, so nothing comes between the comparison and the write. Tokens are compared as text.
_WRITE = """
    INSERT INTO shown (name, value, token) VALUES (?, ?, ?)
    ON CONFLICT (name) DO UPDATE SET value = excluded.value, token = excluded.token
    WHERE excluded.token >= shown.token
"""


class Store:
    """Values by name. Keeps the newest token that each name was written with."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with closing(self._connect()) as database:
            database.execute(_TABLE)

    def write(self, name: str, value: int, token: str) -> None:
        """Set a value, durably.

        Args:
            name: Belongs to one agent: tokens of different agents have no order.
            value: What to keep.
            token: `ctx.fence.token` of the turn that writes. The same one may write again.

        Raises:
            FencedError: A later turn has written.
        """
        with closing(self._connect()) as database:
            if database.execute(_WRITE, (name, value, token)).rowcount == 0:
                message = (
                    f"{name!r} was written by a later turn than {token}: read, and begin again"
                )
                raise FencedError(message)

    def read(self, name: str) -> int | None:
        """The value, or None."""
        with closing(self._connect()) as database:
            row = database.execute("SELECT value FROM shown WHERE name = ?", (name,)).fetchone()
        return None if row is None else int(row[0])

    def _connect(self) -> sqlite3.Connection:
        # Each statement commits by itself. Others may write at the same time.
        return sqlite3.connect(self._path, timeout=30.0, isolation_level=None)
