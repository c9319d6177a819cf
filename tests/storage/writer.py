"""A process that writes to a store, and says on standard output what is durable.

`python -m tests.storage.writer PATH hold|write|SYNC_FAILS`: the last makes every sync fail from the
hundredth batch on.
"""

import os
import sys
from pathlib import Path

from jido_cluster.storage.sqlite_file import log_of
from jido_cluster.storage.sqlite_store import SqliteStore
from jido_state.store import Change, Commit, Table

SIZE = 20_000
FAILS_AT = 100


def batch(number: int) -> list[Change[bytes]]:
    """Rows that belong together: two that change, and one of its own."""
    data = number.to_bytes(8, "big") * (SIZE // 8)
    return [Change(Table.RECORD, 1, key, data) for key in ("a", "b", f"own-{number:06}")]


def break_syncs(path: Path) -> None:
    """Puts a device that takes everything, and cannot be synced, in the place of the log."""
    null = os.open(os.devnull, os.O_RDWR)
    log = log_of(path).resolve()
    for link in list(Path("/proc/self/fd").iterdir()):
        if os.path.realpath(link) == str(log):
            os.dup2(null, int(link.name))


def main(path: Path, mode: str) -> None:
    def say(ticket: int, commit: Commit) -> None:
        assert commit is Commit.DURABLE
        os.write(1, b"%d\n" % ticket)

    store = SqliteStore.open(path, say)
    os.write(1, b"%d\n" % store.durable)
    if mode == "hold":
        sys.stdin.read()
        return
    number = store.durable
    while True:
        number += 1
        if mode == "SYNC_FAILS" and number == FAILS_AT:
            break_syncs(path)
        store.append(batch(number))
        while store.statistics().waiting > 3:
            os.sched_yield()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
