"""What goes between processes: every message comes out as it went in, and rubbish is refused."""

import contextlib
import types
from collections.abc import Iterator
from dataclasses import replace
from enum import Enum
from typing import Any, NamedTuple, Union, get_args, get_origin, get_type_hints

import ormsgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jido_cluster.errors import WireError
from jido_cluster.runtime import peer_messages
from jido_cluster.runtime.peer_messages import Leads, Standing
from jido_cluster.runtime.peer_wire import VERSION, Packer, join, pack_messages, unpack_messages
from jido_cluster.runtime.plain import BALLOT as BALLOT_FORM
from jido_cluster.runtime.plain import Forms
from jido_cluster.runtime.sealed import PackedRecord, Sealer, read_row, seal, unseal
from jido_placement import commands, probing
from jido_placement.record import ROOT, MemberRecord, found
from jido_placement.record import Record as RootRecord
from jido_state import entries, messages, node_messages
from jido_state.dedupe import NO_OPERATIONS, remember
from jido_state.divergence import Entry, Siblings
from jido_state.dots import NOTHING_SEEN, Acting, VersionVector
from jido_state.messages import UNREAD, Accept, Heartbeat, Row, Staged
from jido_state.node_messages import Frame, RecordIs
from jido_state.operations import OpId
from jido_state.outbox import NO_SIGNALS
from jido_state.record import Record
from jido_state.timers import NO_TIMERS, Timer, Timers
from jido_state.versions import NO_BALLOT, Ballot, Version

# Of each of some eighty classes; a form is made of few parts, which all of them share.
FOR_EACH = 20

# Strategies, out of the annotations.

WORD = st.text(st.characters(codec="utf-8"), max_size=6)
SMALL = st.integers(0, 2**16 - 1)
BALLOT = st.builds(Ballot, SMALL, st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1), SMALL)
VERSIONS = st.builds(Ballot.version, BALLOT, st.integers(0, 2**64 - 1))


def actor_of(fields: tuple[int, ...]) -> tuple[int, ...]:
    return fields


VECTORS: st.SearchStrategy[VersionVector] = st.dictionaries(
    st.tuples(SMALL, SMALL, SMALL).map(actor_of), st.integers(1, 9), min_size=1, max_size=3
).map(lambda numbers: VersionVector(numbers, {-1: (0, 0, 0, 1)}))


def root_record(name: str = "one", shards: int = 8) -> RootRecord:
    return found("cluster", MemberRecord(0, "uuid", 1, 7, name), shards=shards)


def record_of(state: bytes, version: Version, *, is_due: bool, is_tomb: bool) -> Record:
    timer = Timer("key", version, 5, 1, b"", b"signal")
    dedupe = remember(NO_OPERATIONS, OpId("caller", 3), b"result", now_ms=4)
    blank = Record.blank(state=state, type="counter")
    set_ = replace(blank, timers=Timers({"key": (timer,)}) if is_due else NO_TIMERS)
    return set_.completed(
        version=version,
        generation=version,
        born_op=OpId("caller", 1),
        dedupe=dedupe,
        tomb=version.ballot if is_tomb else None,
        wall_ms=1_700_000_000_000,
    )


RECORDS = st.builds(
    record_of, st.binary(max_size=20), VERSIONS, is_due=st.booleans(), is_tomb=st.booleans()
)


def row_of(version: Version, record: Record) -> Row:
    return Row(version, record.flags, NO_BALLOT if record.tomb is None else record.tomb, record)


ROWS = st.builds(row_of, VERSIONS, RECORDS) | st.builds(
    Row, VERSIONS, st.integers(0, 255), BALLOT, st.none() | st.just(UNREAD) | VERSIONS.map(Staged)
)
ROOT_ROWS = st.builds(Row, VERSIONS, st.just(0), st.just(NO_BALLOT), WORD.map(root_record))


def siblings_of(state: bytes, period: int) -> Siblings:
    dot = Acting(2, 1, period).dot(1)
    record = Record.blank(state=state).acted(
        dot=dot, generation=dot, born_op=None, dedupe=NO_OPERATIONS
    )
    return Siblings((Entry(dot, Version(0, 1, 2, 0, 4), record),))


GIVEN: dict[Any, st.SearchStrategy[Any]] = {
    bool: st.booleans(),
    str: WORD,
    bytes: st.binary(max_size=9),
    float: st.floats(allow_nan=False),
    Ballot: BALLOT,
    Version: VERSIONS,
    VersionVector: VECTORS | st.just(NOTHING_SEEN),
    Siblings: st.builds(siblings_of, st.binary(max_size=4), st.integers(1, 9)),
    RootRecord: WORD.map(root_record),
    type(None): st.none(),
}


def strategy(annotation: Any, *, of_root: bool = False) -> st.SearchStrategy[Any]:
    if annotation in GIVEN:
        return GIVEN[annotation]
    if annotation is int:
        return st.integers(-(2**63), 2**64 - 1)
    if annotation is Row:
        return ROOT_ROWS if of_root else ROWS
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is tuple and args[-1] is ...:
        return st.lists(strategy(args[0], of_root=of_root), max_size=3).map(tuple)
    if origin is tuple:
        return st.tuples(*[strategy(each, of_root=of_root) for each in args])
    if origin is Union or origin is types.UnionType:
        return st.one_of([strategy(each, of_root=of_root) for each in args])
    if issubclass(annotation, Enum):
        return st.sampled_from(annotation)
    hints = get_type_hints(annotation)
    fields = [strategy(hints[name], of_root=of_root) for name in annotation._fields]
    return st.builds(annotation, *fields)


GROUP_MESSAGES = {*get_args(messages.Message), *entries.MESSAGES}
NODE_MESSAGES = set(get_args(get_type_hints(node_messages.ToNode)["message"])) - {Frame}
OWN_MESSAGES = {getattr(peer_messages, name) for name in peer_messages.__all__}
OTHERS = NODE_MESSAGES | OWN_MESSAGES | set(get_args(probing.Message))


def name_of(cls: Any) -> str:
    return f"{cls.__module__}.{cls.__name__}"


def frames(cls: Any) -> st.SearchStrategy[Frame]:
    shard = st.builds(Frame, st.integers(0, 2**16 - 1), SMALL, strategy(cls))
    if cls in entries.MESSAGES:
        return shard
    return shard | st.builds(Frame, st.just(ROOT), SMALL, strategy(cls, of_root=True))


ANY = st.one_of(
    [frames(cls) for cls in sorted(GROUP_MESSAGES, key=name_of)]
    + [strategy(cls) for cls in sorted(OTHERS, key=name_of)]
)


@pytest.mark.parametrize("cls", sorted(GROUP_MESSAGES, key=name_of), ids=name_of)
def test_a_message_of_a_group_comes_out_as_it_went_in(cls: type) -> None:
    """Each of them, of shards and of the root group; a new one without a number fails here."""

    @settings(max_examples=FOR_EACH)
    @given(st.lists(frames(cls), min_size=1, max_size=2))
    def check(batch: list[Any]) -> None:
        assert unpack_messages(pack_messages(batch)) == batch

    check()


@pytest.mark.parametrize("cls", sorted(OTHERS, key=name_of), ids=name_of)
def test_a_message_of_a_process_comes_out_as_it_went_in(cls: type) -> None:
    """Each of them, with every command and answer of the root group."""

    @settings(max_examples=FOR_EACH)
    @given(strategy(cls))
    def check(message: Any) -> None:
        (found_,) = unpack_messages(pack_messages([message]))
        assert found_ == message
        assert type(found_) is cls

    check()


@pytest.mark.parametrize(
    "cls", [*get_args(commands.Command), commands.Accepted, commands.Refused], ids=name_of
)
def test_each_command_and_answer_travels(cls: type) -> None:
    """One example of each, so that none hides behind the others."""

    @settings(max_examples=FOR_EACH)
    @given(strategy(cls))
    def check(value: Any) -> None:
        is_answer = cls in {commands.Accepted, commands.Refused}
        message = (
            node_messages.RootTold(7, value, None) if is_answer else node_messages.RootAsk(7, value)
        )
        assert unpack_messages(pack_messages([message])) == [message]

    check()


def test_a_message_without_a_form_is_refused_when_its_form_is_made() -> None:
    """A field of a new type, and a class of a union without a number, cannot be forgotten."""

    class Fresh(NamedTuple):
        what: complex

    class Other(NamedTuple):
        number: int

    with pytest.raises(TypeError, match="complex.*has no form"):
        Forms({}, {}).of(Fresh)
    with pytest.raises(TypeError, match="have no number"):
        Forms({Fresh: 1}, {}).union([Other])


def test_a_value_that_is_no_message_does_not_travel() -> None:
    """It is said to who sends it, and not to who receives it."""
    with pytest.raises(TypeError, match="str does not travel"):
        pack_messages(["text"])
    with pytest.raises(TypeError, match="Leads does not travel in a frame"):
        pack_messages([Frame(1, 1, Leads(()))])  # type: ignore[arg-type]
    row = Row(Version(0, 1, 1, 0, 1), content="text")
    with pytest.raises(TypeError, match="content of row 'a' is str"):
        pack_messages([Frame(1, 1, Accept(1, NO_BALLOT, (("a", row),)))])


# Rubbish.


@given(st.binary(max_size=200))
def test_random_bytes_are_a_batch_or_a_wire_error(data: bytes) -> None:
    """Nothing else is raised, with and without the head of a batch in front."""
    for each in (data, join([data])):
        with contextlib.suppress(WireError):
            assert isinstance(unpack_messages(each), list)


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | WORD | st.binary(max_size=40),
    lambda inner: st.lists(inner, max_size=8) | st.dictionaries(WORD, inner, max_size=2),
    max_leaves=16,
)


@given(st.integers(0, 50), st.integers(0, 50), st.lists(PLAIN, max_size=8))
def test_well_formed_rubbish_is_a_batch_or_a_wire_error(code: int, inner: int, data: Any) -> None:
    """Right numbers with wrong fields: whatever comes through has fields of the right types."""
    for message in ([code, *data], [0, 1, 2, inner, *data]):
        try:
            found_ = unpack_messages(ormsgpack.packb([VERSION, message]))
        except WireError:
            continue
        assert unpack_messages(pack_messages(found_)) == found_


@given(ANY, st.data())
def test_a_damaged_batch_is_a_batch_or_a_wire_error(message: Any, data: st.DataObject) -> None:
    """Bytes flipped, cut or put in; what comes through can be sent again."""
    good = bytearray(pack_messages([message]))
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(good) - 1))
        match data.draw(st.sampled_from(["flip", "cut", "put"])):
            case "flip":
                good[place] ^= data.draw(st.integers(1, 255))
            case "cut" if len(good) > 1:
                del good[place:]
            case _:
                good[place:place] = data.draw(st.binary(min_size=1, max_size=3))
        if not good:
            break
    try:
        found_ = unpack_messages(bytes(good))
    except WireError:
        return
    assert unpack_messages(pack_messages(found_)) == found_


NO_TIME = Ballot(0, 1, 2, 3)
BEAT = Frame(1, 2, Heartbeat(1, NO_TIME))
PREVOTED = Frame(1, 2, messages.PrevoteAnswer(1, NO_TIME, is_granted=True, promised=NO_TIME))
ACCEPTED = Frame(1, 2, messages.Accepted(1, NO_TIME, (5,)))
ACCEPT = Frame(1, 2, Accept(1, NO_TIME, (("key", Row(NO_TIME.version(1), content=Record())),)))
COVER = Frame(1, 2, entries.Cover("key", VersionVector({(0, 1, 1): 1}, {})))
PUT = Frame(1, 2, entries.Put(1, "key", siblings_of(b"", 1)))
ASKED = node_messages.RootAsk(5, commands.Leave(3))
TOLD = node_messages.RootTold(5, commands.Refused(commands.Reason.FULL, "text"), None)


@pytest.mark.parametrize(
    ("message", "way", "wrong"),
    [
        (BEAT, [1], "group"),
        (BEAT, [2], None),
        (BEAT, [3], True),
        (BEAT, [3], 39),
        (BEAT, [4], "config"),
        (BEAT, [4], True),
        (BEAT, [5], BALLOT_FORM.pack(*NO_TIME)[1:]),
        (BEAT, [5], [0, 1, 2, 3]),
        (PREVOTED, [6], 1),
        (ACCEPTED, [6], 5),
        (ACCEPTED, [6, 0], "number"),
        (ACCEPTED, [6, 0], True),
        (ACCEPT, [6, 0], "row"),
        (ACCEPT, [6, 0, 0], 7),
        (ACCEPT, [6, 0, 1], "row"),
        (ACCEPT, [6, 0, 1], [b"", None]),
        (COVER, [4], 7),
        (COVER, [5, 0, 0, 0], "actor"),
        (COVER, [5, 0, 0], [1]),
        (COVER, [5], "seen"),
        (PUT, [6], "siblings"),
        (PUT, [6], b"siblings"),
        (ASKED, [0], 99),
        (ASKED, [0], None),
        (ASKED, [2], []),
        (ASKED, [2, 0], 99),
        (ASKED, [2, 1], "node"),
        (TOLD, [2, 1], "NO_REASON"),
        (TOLD, [2, 1], 3),
        (TOLD, [3], 1.0),
        (RecordIs(root_record()), [1], "record"),
        (RecordIs(root_record()), [1], b"record"),
        (Leads(((3, (0, 1, 2, 3)),)), [1, 0, 1], [0, 1, 2]),
        (Standing((0,), (), (0,), wall_skew_ok=True), [4], 1),
    ],
    ids=str,
)
def test_a_field_of_another_type_is_a_wire_error(message: Any, way: list[int], wrong: Any) -> None:
    """A core never meets one: it would fail far from whoever sent it."""
    good = ormsgpack.unpackb(pack_messages([message]))
    assert unpack_messages(ormsgpack.packb(good)) == [message]
    place = good[1]
    for step in way[:-1]:
        place = place[step]
    place[way[-1]] = wrong
    with pytest.raises(WireError, match="malformed"):
        unpack_messages(ormsgpack.packb(good))


@pytest.mark.parametrize("message", [BEAT, ASKED, RecordIs(root_record())], ids=str)
def test_a_field_too_many_or_too_few_is_a_wire_error(message: Any) -> None:
    """As from another release that did not raise the version."""
    _, good = ormsgpack.unpackb(pack_messages([message]))
    for wrong in ([*good, 0], good[:-1]):
        with pytest.raises(WireError, match="malformed"):
            unpack_messages(ormsgpack.packb([VERSION, wrong]))


@pytest.mark.parametrize("message", ["heartbeat", [], [None], [60, "difference"], [60]], ids=str)
def test_what_is_no_message_is_a_wire_error(message: Any) -> None:
    """Nor a difference between records."""
    with pytest.raises(WireError, match="malformed"):
        unpack_messages(ormsgpack.packb([VERSION, message]))


def test_another_version_names_itself_and_the_remedy() -> None:
    """Two releases in one cluster are not a mystery."""
    with pytest.raises(WireError, match=f"wire version 9 .* speaks {VERSION}; run the same"):
        unpack_messages(ormsgpack.packb([9, ["whatever"]]))


@given(VERSIONS, RECORDS, st.data())
def test_a_damaged_row_is_never_a_row(version: Version, record: Record, data: Any) -> None:
    """Each bit of it, the content that nobody reads for long included, is under a checksum."""
    sealed = bytearray(seal(3, "key", row_of(version, record)))
    bit = data.draw(st.integers(0, 8 * len(sealed) - 1))
    sealed[bit // 8] ^= 1 << bit % 8
    with pytest.raises(ValueError, match="corrupt"):
        unseal(3, "key", bytes(sealed))


def test_a_row_belongs_to_its_shard_and_key() -> None:
    """Sealed for one place, it does not open at another one."""
    row = row_of(Version(0, 1, 1, 0, 1), Record.blank())
    assert unseal(3, "key", seal(3, "key", row)) == row
    for shard, key in ((4, "key"), (3, "other"), (ROOT, "key")):
        with pytest.raises(ValueError, match="corrupt"):
            unseal(shard, key, seal(3, "key", row))
    of_root = row._replace(content=root_record())
    assert unseal(ROOT, "key", seal(ROOT, "key", of_root)) == of_root
    with pytest.raises(ValueError, match="corrupt"):
        unseal(0, "key", seal(ROOT, "key", of_root))


def test_the_bytes_on_the_wire_are_those_on_disk() -> None:
    """What `Record.to_bytes` makes for a store is what a follower gets."""
    version = Version(0, 1, 1, 0, 1)
    record = record_of(b"state", version, is_due=True, is_tomb=False)
    later = version._replace(number=5)
    assert seal(3, "key", row_of(later, record)) == record.to_bytes(3, "key", later)


# A record that is bytes.


@given(RECORDS)
def test_a_packed_record_is_the_record(record: Record) -> None:
    """Equal both ways, field by field, changed in the same way, and the same bytes again."""
    content = record.to_content()

    def packed() -> Record:
        return PackedRecord.of(content)

    assert packed() == record
    assert record == packed()
    assert packed() == packed()
    assert repr(packed()) == f"Packed{Record.from_content(content)!r}"
    for name in Record.__dataclass_fields__:
        assert getattr(packed(), name) == getattr(record, name)
    assert (packed().flags, packed().is_tomb, packed().lives) == (
        record.flags,
        record.is_tomb,
        record.lives,
    )
    assert packed().to_content() == content
    changed = replace(packed(), state=b"other", outbox=NO_SIGNALS)
    assert type(changed) is Record
    assert changed == replace(record, state=b"other", outbox=NO_SIGNALS)
    assert changed != packed()
    assert packed() != content  # type: ignore[comparison-overlap]


def test_a_follower_does_not_decode_what_it_only_keeps() -> None:
    """The content stays bytes from the wire to the store, until a field of it is read."""
    version = Version(0, 1, 1, 0, 1)
    row = row_of(version, record_of(b"state", version, is_due=True, is_tomb=False))
    (frame,) = unpack_messages(
        pack_messages([Frame(3, 1, Accept(1, version.ballot, (("a", row),)))])
    )
    content = frame.message.rows[0][1].content
    assert seal(3, "a", frame.message.rows[0][1]) == seal(3, "a", row)

    def is_read() -> bool:
        try:
            object.__getattribute__(content, "state")
        except AttributeError:
            return False
        return True

    assert not is_read()
    assert content.type == "counter"
    assert is_read()
    with pytest.raises(AttributeError, match="nothing_such"):
        _ = content.nothing_such


def test_content_of_another_release_is_a_wire_error_when_it_is_read() -> None:
    """Its checksum fits, so it was sealed like this."""
    with pytest.raises(WireError, match="a record of 3 bytes"):
        _ = PackedRecord.of(b"abc").state


# Encoded once.


class Counted(Record):
    """Counts how often it is turned into bytes."""

    __slots__ = ()
    calls = 0

    def to_content(self) -> bytes:
        type(self).calls += 1
        return super().to_content()


def test_a_row_is_encoded_once_for_all_that_get_it() -> None:
    """For two followers and the own store; anew after `forget`."""
    version = Version(0, 1, 1, 0, 1)
    row = Row(version, content=Counted("counter"))
    sealer = Sealer()
    packer = Packer(sealer)
    Counted.calls = 0
    for config in (1, 2):
        packer.pack(Frame(3, 1, Accept(config, version.ballot, (("a", row),))))
    assert read_row(3, "a", sealer.seal(3, "a", row)) == Row(version, content=Record("counter"))
    assert Counted.calls == 1
    packer.forget()
    sealer.seal(3, "a", row)
    assert Counted.calls == 2


def test_the_record_of_the_cluster_is_encoded_once_for_all_nodes() -> None:
    """It goes to everybody after each change; another one takes its place."""
    packer = Packer()
    one, two = RecordIs(root_record("one")), RecordIs(root_record("two"))
    packed = packer.pack(one)
    packer.forget()
    assert packer.pack(RecordIs(one.record)) is packed
    assert unpack_messages(join([packer.pack(two), packed])) == [two, one]


def many() -> Iterator[Any]:
    yield Frame(3, 1, Heartbeat(1, Ballot(0, 1, 2, 3)))
    yield Standing((0, 1), ("pause_minority",), (0, 1, 2), wall_skew_ok=True)
    yield RecordIs(root_record())


def test_packed_messages_are_joined_in_their_order() -> None:
    """A batch is the messages, none of them packed again."""
    packer = Packer()
    batch = list(many())
    assert unpack_messages(join([packer.pack(each) for each in batch])) == batch
    assert unpack_messages(join([])) == []
