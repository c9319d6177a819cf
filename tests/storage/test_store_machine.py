"""The store on SQLite against the store in memory: the same calls, the same answers."""

import shutil
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from jido_cluster.storage.sqlite_store import SqliteStore
from jido_state.store import HEADER_KEY, Change, Commit, MemoryStore, Table
from tests.storage.support import Ear, image

SHARDS = st.sampled_from((-1, 0, 7, 4095))
TABLES = st.sampled_from(Table)
KEYS = st.sampled_from((HEADER_KEY, "a", "b", "agent-10", "agent-9", "ü", "\U0001f600", "\uffff"))
PUTS = st.builds(Change, TABLES, SHARDS, KEYS, st.binary(max_size=9000))
DELETES = st.builds(Change, TABLES, SHARDS, KEYS, st.none())
CLEARS = st.builds(Change, TABLES, SHARDS, st.none(), st.none())
BATCHES = st.lists(PUTS | PUTS | DELETES | CLEARS, max_size=6)


class StoreMachine(RuleBasedStateMachine):
    """Appends, reads at any time, restarts; the model is the port's own form in memory."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.lives = 0
        self.model: MemoryStore[bytes] = MemoryStore()
        self.open(self.folder / "s.db")

    def open(self, path: Path) -> None:
        self.ear = Ear()
        self.store = SqliteStore.open(path, self.ear.hear, fatal=self.ear.fail)

    def teardown(self) -> None:
        self.store.close()
        shutil.rmtree(self.folder)

    @rule(batch=BATCHES)
    def append(self, batch: list[Change[bytes]]) -> None:
        assert self.store.append(batch) == self.model.append(batch)

    @rule(batches=st.lists(BATCHES, min_size=2, max_size=4))
    def append_while_a_commit_waits(self, batches: list[list[Change[bytes]]]) -> None:
        with self.store._turn():
            for batch in batches:
                self.append(batch)

    @rule()
    def settle(self) -> None:
        last = self.model.commit()
        if last > self.store.durable:
            assert self.ear.wait(last) is Commit.DURABLE
        assert self.store.durable == last

    @rule()
    def restart(self) -> None:
        self.model.commit()
        path = self.store.path
        self.store.close()
        self.open(path)
        assert self.store.durable == self.model.durable

    @rule()
    def crash(self) -> None:
        """Goes on from what a killed process leaves, once everything is durable."""
        self.settle()
        self.lives += 1
        path = image(self.store.path, self.folder / f"life-{self.lives}")
        self.store.close()
        self.open(path)
        assert self.store.durable == self.model.durable

    @rule(table=TABLES, shard=SHARDS, key=KEYS)
    def get(self, table: Table, shard: int, key: str) -> None:
        assert self.store.get(table, shard, key) == self.model.get(table, shard, key)

    @rule(table=TABLES, shard=SHARDS, limit=st.integers(1, 5))
    def scan(self, table: Table, shard: int, limit: int) -> None:
        """Page by page, whatever their lengths, the rows are the same, in the same order."""
        found: list[tuple[str, bytes]] = []
        after: str | None = None
        while page := self.store.scan(table, shard, after, limit):
            assert len(page) <= limit
            found += page
            after = page[-1][0]
        assert found == self.model.scan(table, shard)

    @invariant()
    def shards_are_those_with_a_header(self) -> None:
        assert self.store.shards() == self.model.shards()


TestStoreMachine = StoreMachine.TestCase
TestStoreMachine.settings = settings(max_examples=25, stateful_step_count=15, deadline=None)
