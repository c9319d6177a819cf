"""Everything that a store holds, read and checked once, before a process answers anybody.

Theory. A process goes on from what is durable and from nothing else, and whatever rotted has to be
known before the first answer: a key that cannot be read, or a header. What a lost replica leaves
behind stays in the file. Its rows are cleared when the replica is made anew; its divergence entries
are not its own but copies that may have counted, so whoever holds the shard next offers them.
"""

import logging
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

from jido_cluster.storage.rows import header_from_bytes, period_from_bytes, row_from_bytes
from jido_state.codec import CorruptRowError
from jido_state.divergence import Siblings
from jido_state.messages import Header, Row
from jido_state.store import HEADER_KEY, Store, Table

__all__ = ["StoredGroup", "Stores", "read_store"]

_PAGE: Final = 1024
_logger = logging.getLogger(__name__)


class StoredGroup(NamedTuple):
    """What is durable of one replica.

    Attributes:
        header: Who it is and what it has promised.
        rows: Its registers, by key.
        spoilt: Keys whose registers rotted, sorted: while there are any, absent is unknown.
        siblings: Its divergence entries, by key.
        lost_entries: Keys whose entries rotted, sorted: another holder may have them.
        period: The number of its last acting period; 0 for none.
    """

    header: Header
    rows: Mapping[str, Row]
    spoilt: tuple[str, ...]
    siblings: Mapping[str, Siblings]
    lost_entries: tuple[str, ...]
    period: int

    @property
    def for_node(self) -> tuple[Header, Mapping[str, Row], tuple[str, ...]]:
        """As `jido_state.node.Node` takes it."""
        return self.header, self.rows, self.spoilt


class Stores(NamedTuple):
    """What was found.

    Attributes:
        groups: By number, those that may answer.
        lost: By number, why a replica whose header or period rotted may not: it is silent, and
            comes back under a new number.
    """

    groups: Mapping[int, StoredGroup]
    lost: Mapping[int, str]


def read_store(store: Store[bytes]) -> Stores:
    """Reads and checks every row of every replica in this store."""
    groups: dict[int, StoredGroup] = {}
    lost: dict[int, str] = {}
    for shard in store.shards():
        try:
            groups[shard] = _read_group(store, shard)
        except CorruptRowError as error:
            _logger.warning("the replica of group %d here is lost: %s", shard, error)
            lost[shard] = str(error)
    return Stores(groups, lost)


def _read_group(store: Store[bytes], shard: int) -> StoredGroup:
    header = header_from_bytes(shard, store.get(Table.HEADER, shard, HEADER_KEY) or b"")
    rows: dict[str, Row] = {}
    spoilt: list[str] = []
    for key, data in _scan(store, Table.RECORD, shard):
        try:
            rows[key] = row_from_bytes(shard, key, data)
        except CorruptRowError as error:
            _logger.warning("%s", error)
            spoilt.append(key)
    siblings: dict[str, Siblings] = {}
    lost_entries: list[str] = []
    period = 0
    for key, data in _scan(store, Table.DIVERGENCE, shard):
        if key == HEADER_KEY:
            period = period_from_bytes(shard, data)
            continue
        try:
            siblings[key] = Siblings.from_bytes(shard, key, data)
        except ValueError as error:  # `CorruptRowError`, or a key that is no text
            _logger.warning("%s", error)
            lost_entries.append(key)
    return StoredGroup(header, rows, tuple(spoilt), siblings, tuple(lost_entries), period)


def _scan(store: Store[bytes], table: Table, shard: int) -> Iterator[tuple[str, bytes]]:
    after: str | None = None
    while page := store.scan(table, shard, after, _PAGE):
        yield from page
        after = page[-1][0]
