"""Frames: what is malformed is refused as such, and disturbs nobody else."""

import asyncio
import contextlib
import math
from typing import Any

import ormsgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jido_cluster.config import MAX_DATA
from jido_cluster.errors import (
    AgentNotFoundError,
    ExecutionError,
    InvalidInputError,
    OverloadedError,
    WireError,
)
from jido_cluster.ports import PeerTroubleError
from jido_cluster.runtime.view import Lead, run_id_at, shard_of_run
from jido_cluster.runtime.wire import (
    CALL,
    MAX_FRAME,
    VERSION,
    check_size,
    decode_error,
    encode_error,
    encode_value,
    pack,
    pack_lead,
    unpack,
    unpack_answer,
    unpack_frame,
    unpack_lead,
)
from tests.runtime.agents import Tally
from tests.runtime.support import hosts_of, local, run

WORD = st.text(max_size=4)
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | WORD | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WORD, inner, max_size=3),
    max_leaves=12,
)
ENTRY = st.lists(PLAIN, min_size=7, max_size=7)
FRAME = st.tuples(
    st.just(VERSION),
    WORD,
    st.integers(0, 3),
    st.integers(0, 3),
    st.integers(0, 9),
    st.lists(ENTRY, max_size=3),
)


def frame(*messages: Any, link: str = "link", epoch: int = 0, sequence: int = 0) -> bytes:
    return pack((VERSION, link, epoch, sequence, 0, list(messages)))


def test_a_frame_comes_out_as_it_went_in() -> None:
    """Link, epoch, sequence, ack and messages; bytes stay bytes."""
    message = [1, CALL, "a", "tally.add", b'{"amount":1}', 1000, {"o": "op"}]
    assert unpack_frame(pack((VERSION, "l", 2, 3, 4, [message]))) == ("l", 2, 3, 4, [message])


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        b"\xff" * 10,
        pack(None),
        pack([]),
        pack([VERSION]),
        pack((VERSION, "l", 0, 0, 0)),
        pack((VERSION, "l", 0, 0, 0, [], 7)),
        pack((VERSION, 5, 0, 0, 0, [])),
        pack((VERSION, "l", "0", 0, 0, [])),
        pack((VERSION, "l", 0, 0, 0, {})),
        pack((VERSION, "l", 0, 0, 0, [[1, 2, 3]])),
        pack((VERSION, "l", 0, 0, 0, [None])),
        pack(("1", "l", 0, 0, 0, [])),
    ],
)
def test_malformed_frames_are_refused(data: bytes) -> None:
    """Whatever is wrong with them."""
    with pytest.raises(WireError):
        unpack_frame(data)


@pytest.mark.parametrize("version", [0, 1, 3, 99])
def test_another_version_is_named(version: int) -> None:
    """Both versions, and the remedy."""
    with pytest.raises(WireError, match=rf"version {version} .* speaks {VERSION}.*same .* release"):
        unpack_frame(pack((version, "whatever", "comes", "then")))


def test_oversized_frames_are_refused() -> None:
    """With their size and the limit; the limit itself passes."""
    rest = len(frame([1, CALL, "a", "t", b"", 1, None])) + 4
    body = b"x" * (MAX_FRAME - rest)
    largest = frame([1, CALL, "a", "t", body, 1, None])
    assert len(largest) <= MAX_FRAME
    unpack_frame(largest)
    with pytest.raises(WireError, match=str(MAX_FRAME)):
        unpack(b"x" * (MAX_FRAME + 1))


@given(st.binary(max_size=200))
def test_garbage_is_refused_as_such(data: bytes) -> None:
    """Any bytes are a frame or a `WireError`."""
    with contextlib.suppress(WireError):
        unpack_frame(data)


@settings(max_examples=60)
@given(st.lists(st.binary(max_size=60) | FRAME.map(ormsgpack.packb), min_size=1, max_size=4))
def test_a_host_survives_any_frame(frames: list[bytes]) -> None:
    """Garbage fails as `WireError` or is out of order; an honest client is served all the same."""

    async def main() -> None:
        async with local() as cluster:
            ref = await cluster.spawn(Tally, "t-1")
            (host,) = hosts_of(cluster)
            for data in frames:
                try:
                    async with asyncio.timeout(60):
                        await host.frame(data, None)
                except (WireError, PeerTroubleError):
                    pass
            assert await ref.call(Tally.add) == 1

    run(main)


@pytest.mark.parametrize(
    "entry",
    [
        ["1", CALL, "t-1", "tally.add", b"{}", 1000, None],
        [[], CALL, "t-1", "tally.add", b"{}", 1000, None],
        [1, CALL, "t-1", "tally.add", b"{}", "soon", None],
        [1, CALL, "t-1", "tally.add", b"{}", None, None],
        [1, CALL, ["t-1"], "tally.add", b"{}", 1000, None],
        [1, CALL, "t-1", 5, b"{}", 1000, None],
        [1, CALL, "t-1", "tally.add", "{}", 1000, None],
        [1, CALL, "t-1", "tally.add", None, 1000, None],
        [1, 77, "t-1", "tally.add", b"{}", 1000, None],
        [1, CALL, "t-1", "tally.add", b"{}", 1000, 5],
        [1, CALL, "t-1", "tally.add", b"{}", math.nan, None],
    ],
    ids=repr,
)
def test_a_message_of_wrong_types_is_refused(entry: list[Any]) -> None:
    """As a `WireError`, or as the answer to that message; nothing else, and nothing stays open."""

    async def main() -> None:
        async with local() as cluster:
            ref = await cluster.spawn(Tally, "t-1")
            (host,) = hosts_of(cluster)
            try:
                answer = unpack(await host.frame(frame(entry), None))
            except WireError:
                pass
            else:
                assert [status for _, status, _, _ in answer[3]] != []
            await cluster.settle()
            assert await ref.call(Tally.add) in (1, 2)

    run(main)


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"amount": 1e999}', b'{"amount": "x"}']
)
def test_a_body_that_is_no_object_is_the_senders_mistake(body: bytes) -> None:
    """Parameters are checked where they arrive; the agent's state is untouched."""

    async def main() -> None:
        async with local() as cluster:
            await cluster.spawn(Tally, "t-1")
            call = cluster._connection.client.submit(CALL, "t-1", "tally.add", body, 5.0)
            if body == b"":
                assert await call == b"1"  # no bytes mean no parameters
                return
            with pytest.raises(InvalidInputError):
                await call
            assert (await cluster.ref("t-1").info()).version == 0  # no turn

    run(main)


def test_errors_travel_whole() -> None:
    """Class, text, details and `retryable`; a note says where it happened."""
    sent = OverloadedError("too many", retry_after=0.5, agent="a-1", node="n-1")
    got = decode_error(encode_error(sent))
    assert type(got) is OverloadedError
    assert (got.message, got.retry_after, got.retryable) == ("too many", 0.5, True)
    assert got.__notes__ == ["agent a-1, node n-1"]
    plain = decode_error(encode_error(AgentNotFoundError("none")))
    assert not hasattr(plain, "__notes__")
    odd = decode_error(encode_error(ExecutionError("x", thing=object(), raw=b"\xff", far=math.inf)))
    assert set(odd.details) == {"thing", "raw", "far"}


def test_values_have_a_limit() -> None:
    """1 MiB of JSON; what is not JSON-shaped is refused too."""
    assert len(encode_value("x" * (MAX_DATA - 2))) == MAX_DATA
    with pytest.raises(InvalidInputError, match=str(MAX_DATA)):
        encode_value("x" * (MAX_DATA - 1))
    with pytest.raises(InvalidInputError, match="object"):
        encode_value(object())
    check_size(b"x" * MAX_DATA)


@given(st.integers(0, 65535), st.text("abc.-0123", min_size=1, max_size=20))
def test_a_run_id_names_its_shard(shard: int, unique: str) -> None:
    """Whatever the unique part is."""
    assert shard_of_run(run_id_at(shard, unique), 65536) == shard


@pytest.mark.parametrize("text", ["", "run", "run.", ".00aa", "run.zzzz", "run.0", "run.00aa1"])
def test_what_is_no_run_id_is_refused(text: str) -> None:
    """With the text, before anything is sent."""
    with pytest.raises(InvalidInputError, match="no run id"):
        shard_of_run(text, 256)


@pytest.mark.parametrize(
    "data",
    [
        b"garbage",
        pack(None),
        pack((VERSION, 0, 0)),
        pack((VERSION, 0, 0, [], None)),
        pack((VERSION, "0", 0, [])),
        pack((VERSION + 1, 0, 0, [])),
    ],
    ids=repr,
)
def test_malformed_answers_are_refused(data: bytes) -> None:
    """Whatever is wrong with them."""
    assert unpack_answer(pack((VERSION, 1, 2, [[3, 0, b"", None]]))) == (1, 2, [[3, 0, b"", None]])
    with pytest.raises(WireError):
        unpack_answer(data)


@pytest.mark.parametrize("body", [b"\xc1", pack(5), pack([1, 2, 3]), pack([1, 2, 3, 4, "5"])])
def test_a_malformed_lead_is_refused(body: bytes) -> None:
    """It is a ballot and a node, or nothing."""
    lead = Lead((1, 2, 3, 4), 5)
    assert unpack_lead(pack_lead(lead)) == lead
    assert unpack_lead(pack_lead(None)) is None
    with pytest.raises(WireError):
        unpack_lead(body)
