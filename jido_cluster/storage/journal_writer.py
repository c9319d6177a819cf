"""Between the groups of a process and its store: what they want written, and the word that it is.

Theory. Each group counts its own tickets, and so does the layer above it for entries; the store
counts batches of all of them. Batches of all groups share commits; when a commit ends, each group
hears its highest ticket once. A group that is replaced by another assignment begins again at ticket
1, and must not be told about tickets of the one before it: what was asked before a ticket 1 is
written and reported to nobody.

On a full disk nothing may be left out: a group's writes are durable in their order or not at all.
So what was rolled back is kept here, in order, and appended again by `retry`; until all of it is
durable, no group hears anything of what came later. Groups that are told of the full disk
(`Group.store_full`) ask for next to nothing meanwhile, which bounds what is kept.

Not thread-safe: for the thread that runs the groups. The store's listener hands `committed` over.
"""

from collections import deque
from collections.abc import Callable
from typing import Final, NamedTuple

from jido_cluster.storage.rows import header_to_bytes, period_to_bytes, row_to_bytes
from jido_cluster.storage.sqlite_store import SqliteStore
from jido_state.entries import PersistEntries
from jido_state.messages import Persist, Row
from jido_state.store import HEADER_KEY, Change, Commit, Table

__all__ = ["JournalWriter"]

_FIRST: Final = 1  # the ticket a journal begins with

_Stream = tuple[int, bool]  # group, and whether of its entries
_Told = Callable[[int, int], None]


class _Asked(NamedTuple):
    """A batch that is not durable.

    Attributes:
        store_ticket: Under which the store has it, 0 while it waits for room.
        stream: Whose it is.
        life: Which journal of the stream asked.
        ticket: That journal's.
        changes: What is to be written.
    """

    store_ticket: int
    stream: _Stream
    life: int
    ticket: int
    changes: list[Change[bytes]]


class JournalWriter:
    """Writes for all groups of one process.

    Args:
        store: Where to.
        persisted: Told group and ticket: everything the group asked up to there is durable.
        entries_persisted: The same for `PersistEntries`.
        full: Told when the disk is full, and when everything that was held back is durable.
        seal: Makes a row's bytes; shared with whoever sends the same rows.
    """

    def __init__(
        self,
        store: SqliteStore,
        persisted: _Told,
        entries_persisted: _Told,
        full: Callable[[bool], None],
        seal: Callable[[int, str, Row], bytes] = row_to_bytes,
    ) -> None:
        self._store = store
        self._persisted = persisted
        self._entries_persisted = entries_persisted
        self._full = full
        self._seal = seal
        self._written: deque[_Asked] = deque()  # the store has them
        self._held: deque[_Asked] = deque()  # rolled back, and what was asked since
        self._lives: dict[_Stream, int] = {}
        self.is_full = False

    @property
    def waiting(self) -> int:
        """How many of the writes that were asked for are not durable."""
        return len(self._written) + len(self._held)

    def persist(self, group: int, effect: Persist) -> None:
        """Writes what a group asks for."""
        changes: list[Change[bytes]] = []
        if effect.clears:
            changes.append(Change(Table.RECORD, group, None))
        if effect.header is not None:
            data = header_to_bytes(group, effect.header)
            changes.append(Change(Table.HEADER, group, HEADER_KEY, data))
        for key, row in effect.rows.items():
            content = None if row is None else self._seal(group, key, row)
            changes.append(Change(Table.RECORD, group, key, content))
        self._append((group, False), effect.ticket, changes)

    def persist_entries(self, group: int, effect: PersistEntries) -> None:
        """Writes what the layer above a group asks for."""
        changes: list[Change[bytes]] = [
            Change(
                Table.DIVERGENCE,
                group,
                key,
                None if siblings is None else siblings.to_bytes(group, key),
            )
            for key, siblings in effect.entries.items()
        ]
        if effect.period is not None:
            data = period_to_bytes(group, effect.period)
            changes.append(Change(Table.DIVERGENCE, group, HEADER_KEY, data))
        self._append((group, True), effect.ticket, changes)

    def _append(self, stream: _Stream, ticket: int, changes: list[Change[bytes]]) -> None:
        life = self._lives.get(stream, 0)
        if ticket == _FIRST:
            life = self._lives[stream] = life + 1
        if self.is_full:
            self._held.append(_Asked(0, stream, life, ticket, changes))
        else:
            self._written.append(_Asked(self._store.append(changes), stream, life, ticket, changes))

    def committed(self, ticket: int, commit: Commit) -> None:
        """The store's listener, on the thread of the groups."""
        ended = []
        while self._written and self._written[0].store_ticket <= ticket:
            ended.append(self._written.popleft())
        if commit is Commit.FULL:
            self._held.extendleft(reversed(ended))
            if not self.is_full:
                self.is_full = True
                self._full(True)  # noqa: FBT003 - says what it is called
            return
        highest = {
            asked.stream: asked.ticket
            for asked in ended
            if asked.life == self._lives.get(asked.stream)
        }
        if self.is_full and not self._written and not self._held:
            self.is_full = False
            self._full(False)  # noqa: FBT003 - as above
        for (group, is_of_entries), last in highest.items():
            (self._entries_persisted if is_of_entries else self._persisted)(group, last)

    def retry(self) -> None:
        """Writes again what a full disk has held back; call it every second or so."""
        if not self.is_full or self._written:
            return
        self._store.try_again()
        held, self._held = self._held, deque()
        for asked in held:
            ticket = self._store.append(asked.changes)
            self._written.append(asked._replace(store_ticket=ticket))
