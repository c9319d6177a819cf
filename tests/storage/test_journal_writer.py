"""Groups are told what is durable: once, in their order, and never too early."""

import asyncio
from pathlib import Path

import pytest

from jido_cluster.storage.journal_writer import JournalWriter
from jido_cluster.storage.reading import read_store
from jido_cluster.storage.sqlite_store import SqliteStore
from jido_state.divergence import Entry, Siblings
from jido_state.dots import NOTHING_SEEN
from jido_state.entries import PersistEntries
from jido_state.messages import Persist, Row
from jido_state.record import Record
from jido_state.store import Commit
from jido_state.versions import NO_VERSION, Version
from tests.storage.support import DEADLINE_S, HEADER, Ear, opened


def row(number: int, size: int = 10) -> Row:
    return Row(Version(0, 3, 2, 1, number), content=Record.blank(state=b"x" * size))


class Groups:
    """Hears what groups would hear; passes on what the store says only when told to."""

    def __init__(self, path: Path) -> None:
        self.ear = Ear()
        self.store = SqliteStore.open(path, self.ear.hear, fatal=self.ear.fail)
        self.told: list[tuple[str, int, int]] = []
        self.room: list[bool] = []  # what was told of it
        self.writer = JournalWriter(
            self.store,
            lambda group, ticket: self.told.append(("rows", group, ticket)),
            lambda group, ticket: self.told.append(("entries", group, ticket)),
            lambda is_full: self.room.append(not is_full),
        )
        self._passed = 0

    def pass_on(self) -> list[tuple[str, int, int]]:
        """Everything the store has to say by now; returns what groups heard of it."""
        self.told.clear()
        self.ear.wait(self.store._ticket)
        heard = self.ear.heard[self._passed :]
        self._passed += len(heard)
        for ticket, commit in heard:
            self.writer.committed(ticket, commit)
        return list(self.told)

    def limit(self, pages: int) -> None:
        """How many more pages the file may have."""
        (now,) = self.store._connection.execute("PRAGMA page_count").fetchone()
        self.store._connection.execute(f"PRAGMA max_page_count={now + pages}").fetchone()


def test_many_groups_share_a_commit_and_hear_their_last_ticket(tmp_path: Path) -> None:
    """Each group, and each group's entries, hear once per commit, with their own tickets."""
    groups = Groups(tmp_path / "s.db")
    dot = (1, 1, 1, 1)
    merged = NOTHING_SEEN.add(dot)
    siblings = Siblings((Entry(dot, NO_VERSION, Record(merged=merged)),))
    with groups.store._turn():
        for group in (1, 2):
            groups.writer.persist(group, Persist(1, HEADER, {}))
        for ticket in (2, 3):
            groups.writer.persist(1, Persist(ticket, None, {"k": row(ticket), "l": row(1)}))
        groups.writer.persist(1, Persist(4, None, {"l": None}))
        groups.writer.persist_entries(1, PersistEntries(1, {"k": siblings}, 65537))
        groups.writer.persist_entries(1, PersistEntries(2, {"gone": siblings}))
        groups.writer.persist_entries(1, PersistEntries(3, {"gone": None}))
    heard = groups.pass_on()
    assert len(heard) <= 6  # of two commits at most, the first of which may have begun early
    assert {each[:2]: each[2] for each in heard} == {
        ("rows", 1): 4,
        ("rows", 2): 1,
        ("entries", 1): 3,
    }
    groups.store.close()
    with opened(tmp_path / "s.db") as store:
        found, lost = read_store(store)
    assert lost == {}
    assert found[1].for_node == (HEADER, {"k": row(3)}, ())
    assert found[1].siblings == {"k": siblings}
    assert found[1].period == 65537
    assert found[2].for_node == (HEADER, {}, ())


def test_a_replica_made_anew_begins_without_rows(tmp_path: Path) -> None:
    """`clears` empties the registers in the same write, before its own rows."""
    groups = Groups(tmp_path / "s.db")
    groups.writer.persist(1, Persist(1, HEADER, {"old": row(1)}))
    groups.writer.persist(1, Persist(2, HEADER, {"new": row(2)}, clears=True))
    groups.pass_on()
    assert read_store(groups.store).groups[1].rows == {"new": row(2)}
    groups.store.close()


def test_a_group_hears_nothing_of_the_assignment_before_it(tmp_path: Path) -> None:
    """Tickets of a journal that was replaced are written, and told to nobody."""
    groups = Groups(tmp_path / "s.db")
    for ticket in range(1, 8):
        groups.writer.persist(1, Persist(ticket, HEADER, {}))
    groups.writer.persist(2, Persist(1, HEADER, {}))
    assert groups.ear.wait(8) is Commit.DURABLE  # and the groups have not been told
    groups.writer.persist(1, Persist(1, HEADER._replace(rno=9), {}, clears=True))
    heard = groups.pass_on()
    assert sorted(heard) == [("rows", 1, 1), ("rows", 2, 1)]
    assert read_store(groups.store).groups[1].header.rno == 9
    groups.store.close()


def test_a_full_disk_holds_back_everything_in_order(tmp_path: Path) -> None:
    """No group hears of a later ticket while an earlier one is not on the disk."""
    groups = Groups(tmp_path / "s.db")
    groups.writer.persist(1, Persist(1, HEADER, {}))
    assert groups.pass_on() == [("rows", 1, 1)]
    groups.limit(6)
    groups.writer.persist(1, Persist(2, None, {"large": row(2, 200_000)}))
    assert groups.ear.wait(2) is Commit.FULL
    groups.writer.persist(2, Persist(1, HEADER, {}))  # not known here yet
    assert groups.pass_on() == []
    assert groups.room == [False]
    groups.writer.persist(1, Persist(3, None, {"small": row(3)}))
    groups.writer.retry()
    groups.writer.retry()  # while the first is under way: nothing
    assert groups.pass_on() == []
    assert read_store(groups.store).groups.keys() == {1}
    groups.limit(1000)
    groups.writer.retry()
    groups.writer.persist(2, Persist(2, HEADER, {"late": row(4)}))
    heard = groups.pass_on()
    assert {each[1]: each[2] for each in heard} == {1: 3, 2: 1}
    assert groups.room == [False]  # group 2's last write is still held back
    groups.writer.retry()
    assert groups.pass_on() == [("rows", 2, 2)]
    assert groups.room == [False, True]
    found = read_store(groups.store).groups
    assert found[1].rows == {"large": row(2, 200_000), "small": row(3)}
    assert found[2].rows == {"late": row(4)}
    groups.store.close()


@pytest.mark.parametrize("count", [1, 200])
def test_an_event_loop_drives_it(tmp_path: Path, count: int) -> None:
    """The way it is meant to be joined: the listener hands over to the loop of the groups."""

    async def run() -> list[tuple[int, int]]:
        loop = asyncio.get_running_loop()
        told: list[tuple[int, int]] = []
        done = asyncio.Event()

        def persisted(group: int, ticket: int) -> None:
            told.append((group, ticket))
            if ticket == count:
                done.set()

        def hear(ticket: int, commit: Commit) -> None:
            loop.call_soon_threadsafe(writer.committed, ticket, commit)

        store = SqliteStore.open(tmp_path / "s.db", hear)
        writer = JournalWriter(store, persisted, persisted, lambda _: None)
        for ticket in range(1, count + 1):
            writer.persist(5, Persist(ticket, HEADER if ticket == 1 else None, {"k": row(ticket)}))
            await asyncio.sleep(0)
        await asyncio.wait_for(done.wait(), DEADLINE_S)
        await asyncio.to_thread(store.close)
        return told

    told = asyncio.run(run())
    assert told == sorted(set(told))
    assert told[-1] == (5, count)
