"""The record as bytes, whole and in differences."""

import dataclasses

import ormsgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jido_placement.commands import (
    BeginJoint,
    Describe,
    ForceRecover,
    Formatted,
    Join,
    NameLearners,
    StoreLost,
)
from jido_placement.differences import (
    RecordDiff,
    RecordHistory,
    apply_diff,
    diff,
    diff_from_bytes,
    diff_to_bytes,
)
from jido_placement.membership import Status
from jido_placement.packing import (
    DamagedRecordError,
    open_frame,
    record_from_bytes,
    record_to_bytes,
    seal_frame,
)
from jido_placement.planner import plan
from jido_placement.record import Record
from jido_placement.rehearsal import rehearse
from jido_placement.steps import World
from tests.placement.records import done, down, formed, joined, leading, leaving, with_node


def states() -> list[Record]:
    """Records in all kinds of states, each later than the one before."""
    found = [joined(1), joined(3), formed(3)]
    record = with_node(found[-1], "id-3", zone="z")
    found.append(record)
    first = record.shards[0].config.voters[0]
    record = done(record, StoreLost(0, first), NameLearners(1, 1, (3,)))
    found.append(record)
    record = done(record, Formatted(1, record.shards[1].config.learners[0]))
    rest = [one.node for one in record.shards[1].config.voters[1:]]
    record = done(record, BeginJoint(1, 2, (3, *rest)))
    found.append(record)
    world = World(leaders=leading(record))
    for _ in range(12):
        record, world = rehearse(record, world, plan(record, world))
        found.append(record)
    found.append(leaving(record, 0))
    found.append(done(found[-1], Describe(found[-1].epoch, 1, (("a", "b"),), 2.5, "y")))
    found.append(down(found[-1], 2))
    found.append(done(found[-1], ForceRecover(0, (1, 3))))
    return found


STATES = states()


@pytest.mark.parametrize("number", range(len(STATES)))
def test_a_record_comes_back_as_it_was(number: int) -> None:
    """In every state: the equal record, and from it the equal bytes."""
    record = STATES[number]
    frame = record_to_bytes(record)
    again = record_from_bytes(frame)
    assert again == record
    assert record_to_bytes(again) == frame
    assert all(isinstance(member.status, Status) for member in again.members)


def test_a_shard_takes_six_bytes() -> None:
    """Three replicas of two bytes each, as long as nobody has moved it; fifteen or so after."""
    record = formed(5, shards=4096)
    without = dataclasses.replace(record, shards=(), target=())
    table = len(record_to_bytes(record)) - len(record_to_bytes(without))
    assert table / 4096 < 6.01
    moved = [group._replace(config=group.config._replace(number=60_000)) for group in record.shards]
    after = dataclasses.replace(record, shards=tuple(moved))
    assert (len(record_to_bytes(after)) - len(record_to_bytes(without))) / 4096 < 18


@given(st.data())
def test_no_damaged_byte_goes_unnoticed(data: st.DataObject) -> None:
    """A flipped bit anywhere, and a missing end, are refused with a typed error."""
    frame = bytearray(record_to_bytes(STATES[5]))
    place = data.draw(st.integers(0, len(frame) - 1))
    frame[place] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(DamagedRecordError):
        record_from_bytes(bytes(frame))
    with pytest.raises(DamagedRecordError):
        record_from_bytes(record_to_bytes(STATES[5])[:place])


@pytest.mark.parametrize("content", [None, [], [1, 2, 3], {"a": 1}, [[1], [], [1], [0, b"", 0], 0]])
def test_what_is_no_record_is_refused(content: object) -> None:
    """A right checksum around anything else helps nothing."""
    with pytest.raises(DamagedRecordError, match="shape of a record"):
        record_from_bytes(seal_frame(b"jr1", content))
    with pytest.raises(DamagedRecordError, match="shape of a difference"):
        diff_from_bytes(seal_frame(b"jd1", content))
    with pytest.raises(DamagedRecordError, match="this version reads"):
        record_from_bytes(seal_frame(b"jr9", content))


def test_bytes_that_are_no_message_pack_are_refused() -> None:
    """Also when their checksum fits."""
    sealed = seal_frame(b"abc", 7)
    assert open_frame(b"abc", sealed) == 7
    garbage = b"\xc1"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ormsgpack, "packb", lambda _: garbage)
        sealed = seal_frame(b"abc", None)
    with pytest.raises(DamagedRecordError, match="no message pack"):
        open_frame(b"abc", sealed)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"next_node": 2}, "out of order"),
        ({"target": ()}, "16 shards and 0 targets"),
        ({"shard_count": 17}, "16 shards"),
        ({"members": formed(2).members}, "no member's"),
    ],
)
def test_a_record_that_breaks_an_invariant_is_refused(
    changes: dict[str, object], message: str
) -> None:
    """What no sequence of commands can have led to is not believed."""
    broken = dataclasses.replace(formed(3), **changes)  # type: ignore[arg-type]
    assert message in broken.flaw
    with pytest.raises(AssertionError, match=message):
        broken.check()


def test_bytes_of_a_broken_record_are_refused() -> None:
    """They are whole and have the right shape, and still are not believed."""
    broken = dataclasses.replace(formed(3), next_node=2)
    with pytest.raises(DamagedRecordError, match="out of order"):
        record_from_bytes(record_to_bytes(broken))


def test_invariants_of_groups_and_members_are_checked() -> None:
    """One broken record for each."""
    record = formed(3)
    group, first = record.shards[0], record.shards[0].config.voters[0]
    config = group.config
    members = record.members
    for broken in (
        group._replace(config=config._replace(number=0)),
        group._replace(config=config._replace(voters=())),
        group._replace(config=config._replace(voters=(first, first))),
        group._replace(config=config._replace(learners=(first,))),
        group._replace(next_rno=3),
        group._replace(formatted=tuple(reversed(group.formatted))),
        group._replace(lost=(first._replace(rno=2, node=7),)),
    ):
        shards = (broken, *record.shards[1:])
        assert dataclasses.replace(record, shards=shards).flaw.startswith("group 0: ")
    twins = (*members[:2], members[2]._replace(id=members[0].id))
    assert dataclasses.replace(record, members=twins).flaw == "two members have one id"
    ghost = (*members[:2], members[2]._replace(status=Status.REMOVED))
    assert dataclasses.replace(record, members=ghost).flaw == "a removed member is listed"


@pytest.mark.parametrize("later", range(1, len(STATES) - 1))
@pytest.mark.parametrize("steps", [1, 3, 30])
def test_a_difference_leads_to_the_later_record(later: int, steps: int) -> None:
    """From any earlier epoch of a recovery, as bytes too; and from no other record."""
    earlier = STATES[max(1, later - steps)]
    now = STATES[later]
    change = diff(earlier, now)
    again = diff_from_bytes(diff_to_bytes(change))
    assert again == change
    assert apply_diff(earlier, again) == now
    assert apply_diff(now, again) == (now if now is earlier else None)


def test_differences_are_small() -> None:
    """One member more is no new table."""
    record = formed(5, shards=4096)
    after = done(record, Join("b", 1, "b", (), 1.0, None, "a"))
    assert len(diff_to_bytes(diff(record, after))) < 500


def test_a_history_tells_what_somebody_lacks() -> None:
    """Nothing, a difference, or all: to who is too far behind, or of another recovery."""
    *earlier, recovered = STATES[1:]
    history = RecordHistory(earlier[0], limit=4)
    for record in earlier:
        history.keep(record)
    history.keep(earlier[0])
    newest = earlier[-1]
    assert history.newest is newest
    assert history.since(0, newest.epoch) is None
    change = history.since(0, earlier[-3].epoch)
    assert isinstance(change, RecordDiff)
    assert apply_diff(earlier[-3], change) == newest
    assert history.since(0, earlier[0].epoch) is newest
    assert history.since(7, newest.epoch) is newest
    history.keep(recovered)
    assert history.since(0, newest.epoch) is recovered
