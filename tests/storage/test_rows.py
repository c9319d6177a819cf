"""Rows as bytes: what goes in comes out, and nothing is taken for anything else."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jido_cluster.errors import WireError
from jido_cluster.storage.reading import read_store
from jido_cluster.storage.rows import (
    header_from_bytes,
    header_to_bytes,
    period_from_bytes,
    period_to_bytes,
    row_from_bytes,
    row_to_bytes,
)
from jido_placement.config import GroupConfig, Replica
from jido_placement.packing import record_from_bytes, record_to_bytes
from jido_placement.record import ROOT
from jido_state.codec import CorruptRowError, seal_row
from jido_state.divergence import Entry, Siblings
from jido_state.dots import NOTHING_SEEN
from jido_state.messages import Header, Row
from jido_state.record import Record
from jido_state.root_group import ROOT_KEY, founding
from jido_state.store import HEADER_KEY, Change, MemoryStore, Table
from jido_state.versions import NO_BALLOT, NO_VERSION, Ballot, Version
from tests.placement.records import formed, leaving, with_node
from tests.state.values import BALLOTS, U32, VERSIONS, records
from tests.storage.support import HEADER

REPLICAS = st.lists(st.builds(Replica, st.integers(0, 65535), st.integers(1, 99)), max_size=5)
CONFIGS = st.builds(GroupConfig, U32, *[REPLICAS.map(tuple)] * 3)
STATUSES = st.sampled_from(("pending", "learner", "voter", "removed"))
HEADERS = st.builds(Header, st.integers(1, 999), STATUSES, CONFIGS, BALLOTS)
SHARDS = st.integers(-1, 65535)


@given(SHARDS, HEADERS, st.integers(0, 1 << 40))
def test_headers_and_periods_survive_their_bytes(shard: int, header: Header, period: int) -> None:
    """Every field comes back, for this shard only."""
    data = header_to_bytes(shard, header)
    assert header_from_bytes(shard, data) == header
    assert header_to_bytes(shard, header_from_bytes(shard, data)) == data
    numbered = period_to_bytes(shard, period)
    assert period_from_bytes(shard, numbered) == period
    for wrong in (data, numbered):
        with pytest.raises(CorruptRowError):
            header_from_bytes(shard + 1, wrong)
        with pytest.raises(CorruptRowError):
            period_from_bytes(shard + 1, wrong)


@given(
    st.integers(0, 65535), st.text(max_size=9), VERSIONS, st.integers(0, 255), BALLOTS, records()
)
def test_a_register_survives_its_bytes(
    shard: int, key: str, version: Version, flags: int, tomb: Ballot, record: Record
) -> None:
    """The row comes back under this key of this shard, and under no other."""
    row = Row(version, flags, tomb, record)
    data = row_to_bytes(shard, key, row)
    assert row_from_bytes(shard, key, data) == row
    for other in ((shard + 1, key), (shard, key + "?")):
        with pytest.raises(CorruptRowError):
            row_from_bytes(*other, data)


def test_no_row_is_taken_for_one_of_another_kind() -> None:
    """A header, a period, a register and entries of one shard and key do not open as each other."""
    register = row_to_bytes(1, HEADER_KEY, Row(NO_VERSION, content=Record.blank()))
    header = header_to_bytes(1, HEADER)
    period = period_to_bytes(1, 5)
    entries = Siblings().to_bytes(1, HEADER_KEY)
    readers: list[tuple[bytes, Callable[[bytes], object]]] = [
        (header, lambda data: header_from_bytes(1, data)),
        (period, lambda data: period_from_bytes(1, data)),
        (register, lambda data: row_from_bytes(1, HEADER_KEY, data)),
        (entries, lambda data: Siblings.from_bytes(1, HEADER_KEY, data)),
    ]
    for own, read in readers:
        read(own)
        for data in {header, period, register, entries, b""} - {own}:
            with pytest.raises(CorruptRowError):
                read(data)


def test_sealed_nonsense_is_corrupt() -> None:
    """Bytes with a right checksum that hold something else are refused as rot is."""
    for name, read in (("\0header 1", header_from_bytes), ("\0period 1", period_from_bytes)):
        for content in (b"", b"\xc1", b"\x93\x01\x02\x03", b"\xa1x"):
            with pytest.raises(CorruptRowError):
                read(1, seal_row(1, name, NO_VERSION, 0, NO_BALLOT, content))
    with pytest.raises(CorruptRowError):
        row_from_bytes(ROOT, "k", seal_row(ROOT, "k", NO_VERSION, 0, NO_BALLOT, b"\x01"))
    unread = row_from_bytes(1, "k", seal_row(1, "k", NO_VERSION, 0, NO_BALLOT, b"\x01"))
    with pytest.raises(WireError, match="a record of 1 bytes"):
        assert unread.content.state
    with pytest.raises(CorruptRowError):
        row_from_bytes(1, "\udcff", b"x" * 100)


def test_the_cluster_s_record_survives_its_bytes() -> None:
    """Also of a cluster with members of every status, changes under way, and labels."""
    record = formed(5, shards=16, zones=("a", None, "b"), weights=(1.0, 2.5))
    record = leaving(with_node(record, "id-9", zone="c"), 2)
    for each in (record, formed(1, shards=1, replicas=1)):
        row = Row(Ballot(0, 1, 0, 0).version(1), content=each)
        assert row_from_bytes(ROOT, ROOT_KEY, row_to_bytes(ROOT, ROOT_KEY, row)) == row
    for wrong in (b"", b"\x01", record_to_bytes(record)[:-1]):
        data = seal_row(ROOT, ROOT_KEY, NO_VERSION, 0, NO_BALLOT, wrong)
        with pytest.raises(CorruptRowError, match="root"):
            row_from_bytes(ROOT, ROOT_KEY, data)


def test_a_later_form_of_the_record_is_named() -> None:
    """A record that a later release wrote is refused, saying so."""
    data = bytearray(record_to_bytes(formed(1, shards=1, replicas=1)))
    assert data[:3] == b"jr1"
    data[2] += 1
    with pytest.raises(ValueError, match="jr2"):
        record_from_bytes(bytes(data))


def entry(number: int) -> Siblings:
    dot = (4, 1, 1, number)
    merged = NOTHING_SEEN.add(dot)
    return Siblings((Entry(dot, NO_VERSION, Record(state=b"%d" % number, merged=merged)),))


def full_store() -> tuple[MemoryStore[bytes], dict[str, Row]]:
    store: MemoryStore[bytes] = MemoryStore()
    rows = {
        f"k{n}": Row(Version(0, 3, 2, 1, n), content=Record.blank(state=b"x")) for n in range(1, 9)
    }
    header, root_rows = founding(formed(1, shards=4, replicas=1))
    changes = [
        Change(Table.HEADER, 1, HEADER_KEY, header_to_bytes(1, HEADER)),
        Change(Table.HEADER, 2, HEADER_KEY, header_to_bytes(2, HEADER)),
        Change(Table.HEADER, ROOT, HEADER_KEY, header_to_bytes(ROOT, header)),
        Change(Table.DIVERGENCE, 1, HEADER_KEY, period_to_bytes(1, 65537)),
        Change(Table.DIVERGENCE, 1, "k1", entry(1).to_bytes(1, "k1")),
        Change(Table.DIVERGENCE, 1, "k2", entry(2).to_bytes(1, "k2")),
    ]
    changes += [Change(Table.RECORD, 1, k, row_to_bytes(1, k, row)) for k, row in rows.items()]
    changes += [
        Change(Table.RECORD, ROOT, k, row_to_bytes(ROOT, k, row)) for k, row in root_rows.items()
    ]
    store.append(changes)
    return store, rows


def test_everything_of_a_store_is_read() -> None:
    """Headers, registers, entries and the acting period, of shards and of the root group."""
    store, rows = full_store()
    groups, lost = read_store(store)
    assert lost == {}
    assert sorted(groups) == [ROOT, 1, 2]
    one = groups[1]
    assert one.for_node == (HEADER, rows, ())
    assert one[3:] == ({"k1": entry(1), "k2": entry(2)}, (), 65537)
    assert groups[2] == (HEADER, {}, (), {}, (), 0)
    assert groups[ROOT].rows[ROOT_KEY].content == formed(1, shards=4, replicas=1)


def test_rows_that_rotted_are_named() -> None:
    """A register or a key of it is spoilt, entries are gone, and nobody else is touched."""
    store, rows = full_store()
    row = store.get(Table.RECORD, 1, "k1")
    assert row is not None
    store.append(
        [
            Change(Table.RECORD, 1, "k3", b"rot"),
            Change(Table.RECORD, 1, "k\udcff", row),
            Change(Table.DIVERGENCE, 1, "k2", b"rot"),
        ]
    )
    groups, lost = read_store(store)
    assert lost == {}
    assert groups[1].spoilt == ("k3", "k\udcff")
    assert groups[1].lost_entries == ("k2",)
    assert groups[1].siblings == {"k1": entry(1)}
    assert sorted(groups[1].rows) == sorted(rows.keys() - {"k3"})


@pytest.mark.parametrize("table", [Table.HEADER, Table.DIVERGENCE])
def test_a_replica_without_header_or_period_is_lost(table: Table) -> None:
    """It is not among those that may answer; the others are."""
    store, _ = full_store()
    store.append([Change(table, 1, HEADER_KEY, b"rot")])
    groups, lost = read_store(store)
    assert sorted(groups) == [ROOT, 2]
    assert list(lost) == [1]
    assert "shard 1 is corrupt" in lost[1]
