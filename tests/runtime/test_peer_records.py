"""The record of the cluster on a link: whole at first, then only what has changed."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jido_cluster._ray import peer_link
from jido_cluster.runtime.peer_wire import Packer, Unpacker, join, pack_messages
from jido_placement.changes import apply
from jido_placement.commands import Join
from jido_placement.record import MemberRecord, Record, found
from jido_state.node_messages import RecordIs
from tests.runtime.peer_support import Net, beat, run_net


def records(count: int) -> list[Record]:
    """Records that follow each other: members join one by one."""
    record = found("cluster", MemberRecord(0, "uuid", 1, 7, "node"), shards=64)
    made = [record]
    for number in range(1, count):
        join_ = Join(f"uuid {number}", number, f"node {number}", (), 1.0, None, "")
        record, _ = apply(record, join_)
        made.append(record)
    return made


@given(st.lists(st.tuples(st.integers(0, 7), st.booleans(), st.booleans()), max_size=12))
def test_what_is_read_is_what_was_sent_or_nothing(sent: list[tuple[int, bool, bool]]) -> None:
    """In any order of records, with and without the right base, whatever is lost on the way."""
    made = records(8)
    made[5:] = [replace(record, recovery_no=1) for record in made[5:]]
    packer, unpacker = Packer(), Unpacker()
    base: Record | None = None
    for place, with_base, is_lost in sent:
        packed = packer.pack(RecordIs(made[place]), base if with_base else None)
        base = made[place]
        if not is_lost:
            got = unpacker.unpack(join([packed]))
            assert got in ([RecordIs(made[place])], [])
            assert got or with_base


def test_a_difference_is_small_and_made_once() -> None:
    """For all links that carried the same record before; the whole one is kept beside it."""
    one, two = records(2)
    packer = Packer()
    whole = packer.pack(RecordIs(two))
    change = packer.pack(RecordIs(two), one)
    assert packer.pack(RecordIs(two), one) is change
    assert packer.pack(RecordIs(two)) is whole
    assert len(change) < len(whole)


def test_no_difference_leads_back_or_over_a_recovery() -> None:
    """Then the record goes whole."""
    one, two = records(2)
    packer = Packer()
    for record, base in ((one, two), (two, two), (replace(two, recovery_no=1), one)):
        packed = packer.pack(RecordIs(record), base)
        assert Unpacker().unpack(join([packed])) == [RecordIs(record)]


def test_a_difference_without_its_base_is_dropped() -> None:
    """The messages beside it are read."""
    one, two = records(2)
    packed = [Packer().pack(RecordIs(two), one), Packer().pack(beat(1))]
    assert Unpacker().unpack(join(packed)) == [beat(1)]
    unpacker = Unpacker()
    assert unpacker.unpack(pack_messages([RecordIs(one)])) == [RecordIs(one)]
    assert unpacker.unpack(join(packed)) == [RecordIs(two), beat(1)]


@pytest.mark.parametrize("flaw", ["", "connection", "queue"])
def test_every_record_arrives_whatever_was_lost_before(
    flaw: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a broken connection, or a queue that was dropped, the next one goes whole."""

    async def story(net: Net) -> None:
        one, two = await net.pair()
        made = records(6)

        async def hears(record: Record) -> None:
            await two.ear.until(lambda: RecordIs(record) in two.ear.messages)

        for record in made[:2]:
            one.peers.send(2, 0, RecordIs(record))
        await hears(made[1])
        if flaw == "connection":
            for writer in list(two.peers._readers):
                writer.transport.abort()
            await one.ear.until(lambda: len(one.ear.told) == 2)
        if flaw == "queue":
            monkeypatch.setattr(peer_link, "MAX_QUEUED", 0)
            for record in made[2:4]:
                one.peers.send(2, 0, RecordIs(record))
            monkeypatch.undo()
            assert one.peers.statistics().dropped == 1
        for record in made[4:]:
            one.peers.send(2, 0, RecordIs(record))
            await hears(record)
        wanted: list[Any] = [RecordIs(each) for each in made]
        assert [wanted.index(each) for each in two.ear.messages][-2:] == [4, 5]

    run_net("asyncio", story)
