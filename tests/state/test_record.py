"""The record and its bytes: what goes in comes out, and what rotted is noticed."""

import random
import timeit
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jido_state.codec import CorruptRowError, open_row, restamp, seal_row
from jido_state.dedupe import NO_OPERATIONS, remember
from jido_state.dots import NOTHING_SEEN, Acting
from jido_state.messages import HAS_ACTED, HAS_OUTBOX, HAS_TIMERS, IS_TOMB
from jido_state.operations import OpId
from jido_state.outbox import Outbox
from jido_state.record import Record
from jido_state.timers import Timer, Timers
from jido_state.versions import NO_BALLOT, NO_VERSION, Ballot, Version
from tests.state.values import BALLOTS, U32, VERSIONS, records

BALLOT = Ballot(0, 1, 2, 3)
VERSION = BALLOT.version(7)
TIMER = Timer("t", VERSION, 5, 1, b"", b"")


def small() -> Record:
    """A record as most writes make it."""
    table = remember(NO_OPERATIONS, OpId("c" * 31, 17), b'{"value": 3}', now_ms=5, ack=17)
    return Record.blank(state=b'{"value": 3, "name": "x"}', type="m.Counter").completed(
        version=VERSION,
        generation=VERSION,
        born_op=OpId("c" * 31, 1),
        dedupe=table,
        wall_ms=1_763_700_000_000,
    )


@given(records(), U32, st.text(max_size=20), VERSIONS)
def test_a_record_survives_its_bytes(
    record: Record, shard: int, key: str, version: Version
) -> None:
    """Every field comes back, under the register's version; equal records have equal bytes."""
    data = record.to_bytes(shard, key, version)
    assert Record.from_bytes(shard, key, data) == (version, record)
    again = Record.from_content(record.to_content())
    assert again.to_bytes(shard, key, version) == data
    assert Record.from_bytes(shard, key, record.to_bytes(shard, key)) == (record.version, record)


@given(U32, st.text(), VERSIONS, st.integers(0, 255), BALLOTS, st.binary(), VERSIONS)
def test_a_row_can_be_stamped_anew(
    shard: int,
    key: str,
    version: Version,
    flags: int,
    tomb: Ballot,
    content: bytes,
    newer: Version,
) -> None:
    """Settling changes the version and nothing else, and gives the bytes of sealing it so."""
    data = seal_row(shard, key, version, flags, tomb, content)
    assert open_row(shard, key, data) == (version, flags, tomb, content)
    renewed = restamp(shard, key, data, newer)
    assert renewed == seal_row(shard, key, newer, flags, tomb, content)
    with pytest.raises(CorruptRowError, match="header"):
        restamp(shard, key + "x", data, newer)


@pytest.mark.slow
def test_no_flipped_bit_is_taken_for_a_record() -> None:
    """Of 100,000 rows with one to eight random bits flipped, none is read."""
    row = small().to_bytes(3, "c-1")
    chance = random.Random(7)
    read = 0
    for _ in range(100_000):
        data = bytearray(row)
        for bit in chance.sample(range(len(row) * 8), chance.randint(1, 8)):
            data[bit >> 3] ^= 1 << (bit & 7)
        try:
            Record.from_bytes(3, "c-1", bytes(data))
        except CorruptRowError:
            continue
        read += 1
    assert read == 0


def test_each_single_flipped_bit_is_noticed() -> None:
    """Wherever one bit flips, also in shard, key or a torn end, the row is refused."""
    row = small().to_bytes(3, "c-1")
    for bit in range(len(row) * 8):
        data = bytearray(row)
        data[bit >> 3] ^= 1 << (bit & 7)
        with pytest.raises(CorruptRowError):
            Record.from_bytes(3, "c-1", bytes(data))
    for length in range(len(row)):
        with pytest.raises(CorruptRowError):
            Record.from_bytes(3, "c-1", row[:length])
    for shard, key in ((2, "c-1"), (3, "c-2"), (3, "c-1 "), (3, "")):
        with pytest.raises(CorruptRowError):
            Record.from_bytes(shard, key, row)
    with pytest.raises(CorruptRowError):
        Record.from_bytes(3, "c-1", row + b"\0")


@given(st.binary())
def test_garbage_is_never_a_record(data: bytes) -> None:
    """Bytes that no record was made of raise the one error, sealed or not."""
    with pytest.raises(CorruptRowError):
        Record.from_bytes(0, "k", data)
    sealed = seal_row(0, "k", VERSION, 0, NO_BALLOT, data)
    with pytest.raises(CorruptRowError) as raised:
        Record.from_bytes(0, "k", sealed)
    assert (raised.value.shard, raised.value.key) == (0, "k")
    assert "row 'k' of shard 0 is corrupt" in str(raised.value)


def test_another_format_is_named() -> None:
    """A row of a later format is refused with its number, not guessed at."""
    row = bytearray(small().to_bytes(3, "c-1"))
    row[0] = 9
    with pytest.raises(CorruptRowError, match="format 9 is not 1"):
        Record.from_bytes(3, "c-1", bytes(row))


def test_flags_say_what_a_leader_must_know_without_the_content() -> None:
    """Timers, undelivered signals and tombstones, each alone and together."""
    outbox = Outbox().add(VERSION, [("b", b"x")], 1)
    timers = Timers().set(TIMER)
    assert isinstance(outbox, Outbox)
    assert isinstance(timers, Timers)
    assert Record().flags == 0
    assert Record(outbox=outbox).flags == HAS_OUTBOX
    assert Record(timers=timers).flags == HAS_TIMERS
    assert Record(tomb=NO_BALLOT).flags == IS_TOMB
    acted = Record(tomb=NO_BALLOT, merged=NOTHING_SEEN.add(VERSION).add(Acting(1, 2, 3).dot(4)))
    assert acted.flags == IS_TOMB | HAS_ACTED
    assert acted.folded([Acting(1, 2, 3)]).flags == IS_TOMB
    both = Record(outbox=outbox, timers=timers, tomb=BALLOT)
    assert both.flags == HAS_OUTBOX | HAS_TIMERS | IS_TOMB
    assert open_row(0, "k", both.to_bytes(0, "k"))[:3] == (NO_VERSION, both.flags, BALLOT)


def test_a_tombstone_keeps_what_outlives_its_agent() -> None:
    """Op ids, undelivered signals and what was seen stay, for a new life too; the rest goes."""
    outbox = Outbox().add(VERSION, [("b", b"x")], 1)
    timers = Timers().set(TIMER)
    assert isinstance(outbox, Outbox)
    assert isinstance(timers, Timers)
    alive = Record(state=b"s", outbox=outbox, timers=timers, receipts=small().receipts)
    table = remember(NO_OPERATIONS, OpId("c", 2), b"", now_ms=1)
    dead = alive.completed(
        version=VERSION, generation=VERSION, born_op=None, dedupe=table, tomb=BALLOT, wall_ms=50
    )
    assert dead.is_tomb
    assert (dead.state, dead.timers.by_key) == (b"", {})
    assert (dead.outbox, dead.dedupe) == (outbox, table)
    reborn = Record.blank(state=b"new").after(dead)
    assert (reborn.state, reborn.outbox, reborn.merged) == (b"new", outbox, dead.merged)
    assert not reborn.is_tomb
    later = reborn.completed(
        version=BALLOT.version(9), generation=BALLOT.version(9), born_op=None, dedupe=table
    )
    assert later.stamp > dead.stamp
    assert later.merged.covers(VERSION)


def test_a_turn_advances_stamp_and_history() -> None:
    """Stamps rise though the clock goes back; strong ones keep no history, new lives no twins."""
    record = small()
    later = record.completed(
        version=BALLOT.version(8), generation=VERSION, born_op=None, dedupe=record.dedupe, wall_ms=1
    )
    assert later.stamp > record.stamp
    assert later.turns == record.turns + 1
    assert Record.from_content(later.to_content()).turns == later.turns
    assert later.merged.covers(BALLOT.version(8))
    assert not record.merged.covers(BALLOT.version(8))
    strong = Record.blank(level="strong").completed(
        version=VERSION, generation=VERSION, born_op=None, dedupe=NO_OPERATIONS
    )
    assert not strong.merged.covers(VERSION)
    twin = replace(record, twins=(Acting(1, 2, 3).dot(1),))
    for generation, twins in ((VERSION, twin.twins), (BALLOT.version(8), ())):
        again = twin.completed(
            version=BALLOT.version(8), generation=generation, born_op=None, dedupe=NO_OPERATIONS
        )
        assert again.twins == twins
    dot = Acting(1, 2, 3).dot(1)
    acted = record.acted(dot=dot, generation=VERSION, born_op=None, dedupe=record.dedupe)
    assert (acted.version, acted.tomb) == (VERSION, None)
    assert acted.merged.covers(dot)
    assert record.acted(
        dot=dot, generation=VERSION, born_op=None, dedupe=NO_OPERATIONS, is_tomb=True
    ).is_tomb
    folded = later.folded([BALLOT])
    assert folded.merged.covers(BALLOT.version(99))
    assert len(folded.to_content()) <= len(later.to_content())


@pytest.mark.slow
def test_a_record_is_read_and_written_in_microseconds() -> None:
    """Encoding and decoding a small record together take under 0.2 ms on a busy machine."""
    record = small()
    row = record.to_bytes(3, "c-1")
    assert len(row) < 300

    def both() -> None:
        record.to_bytes(3, "c-1")
        Record.from_bytes(3, "c-1", row)

    assert min(timeit.repeat(both, number=2_000, repeat=5)) / 2_000 < 200e-6
