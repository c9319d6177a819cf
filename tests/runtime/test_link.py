"""Links and inlets: order, loss, resets; a call is applied once whatever the network does."""

import asyncio
import contextlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jido_cluster import (
    AgentExistsError,
    ExecutionError,
    JidoError,
    OutcomeUnknownError,
    new_id,
)
from jido_cluster.errors import InternalError, NoQuorumError, WireError
from jido_cluster.ports import PeerTroubleError
from jido_cluster.runtime.cell import Inlet
from jido_cluster.runtime.client import Client
from jido_cluster.runtime.view import Lead, View
from jido_cluster.runtime.wire import CALL, CAST, DONE, MAX_FRAME, VERSION, pack, unpack
from tests.runtime.agents import Tally
from tests.runtime.support import local, member, over, run

FATES = st.lists(st.sampled_from(["ok", "lost", "deaf", "late"]), max_size=12)


# -- inlets


async def taken(inlet: Inlet, order: list[tuple[int, int]], patience: float = 5.0) -> list[Any]:
    """Frames (epoch, sequence) in the order in which an inlet lets them in."""
    let_in: list[Any] = []

    async def one(epoch: int, sequence: int) -> None:
        if await inlet.wait_turn(epoch, sequence, patience):
            let_in.append((epoch, sequence))

    async with asyncio.TaskGroup() as group:
        for epoch, sequence in order:
            group.create_task(one(epoch, sequence))
    return let_in


@given(st.permutations(range(8)))
def test_an_inlet_restores_the_order(order: list[int]) -> None:
    """Frames that come in any order are let in as they were sent."""

    async def main() -> list[Any]:
        inlet = Inlet("c", asyncio.get_running_loop())
        return await taken(inlet, [(0, sequence) for sequence in order])

    assert run(main) == [(0, sequence) for sequence in range(8)]


def test_a_gap_is_waited_for_so_long_and_no_longer() -> None:
    """What comes after a missing frame is refused, and so is a frame that came before."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        inlet = Inlet("c", loop)
        begun = loop.time()
        assert await taken(inlet, [(0, 0), (0, 2), (0, 3)], patience=1.0) == [(0, 0)]
        assert loop.time() - begun == pytest.approx(1.0)
        assert not await inlet.wait_turn(0, 0, 1.0)
        assert await inlet.wait_turn(0, 1, 1.0)
        assert await inlet.wait_turn(0, 2, 1.0)

    run(main)


def test_a_reset_makes_older_frames_void() -> None:
    """Those that wait, and those that come later; the new epoch begins at 0."""

    async def main() -> None:
        inlet = Inlet("c", asyncio.get_running_loop())
        waiting = asyncio.create_task(inlet.wait_turn(0, 1, 100.0))
        await asyncio.sleep(0.1)
        assert await inlet.wait_turn(1, 0, 1.0)
        assert await waiting is False
        assert not await inlet.wait_turn(0, 0, 1.0)
        assert await inlet.wait_turn(1, 1, 1.0)

    run(main)


def test_a_reset_also_voids_a_frame_that_was_just_about_to_enter() -> None:
    """A frame released by its predecessor, but overtaken by a new epoch, is not let in."""

    async def main() -> None:
        inlet = Inlet("c", asyncio.get_running_loop())
        waiting = asyncio.create_task(inlet.wait_turn(0, 1, 100.0))
        await asyncio.sleep(0.1)
        assert await inlet.wait_turn(0, 0, 1.0)  # frees the waiting one, which has not run yet
        assert await inlet.wait_turn(1, 0, 1.0)
        assert await waiting is False
        assert inlet.expected == 1
        assert await inlet.wait_turn(1, 1, 1.0)

    run(main)


def test_replies_are_taken_in_portions_of_a_frame() -> None:
    """In order, none lost; one that is larger than the limit goes alone."""

    async def main() -> None:
        inlet = Inlet("c", asyncio.get_running_loop())
        sizes = [10, 400, 900, 2000, 5, 5]
        for number, size in enumerate(sizes):
            inlet.open.add(number)
            inlet.reply((number, DONE, b"x" * size, None))
        portions = []
        while inlet.replies:
            portions.append([reply[0] for reply in inlet.take_replies(1000)])
        assert portions == [[0, 1], [2], [3], [4, 5]]
        assert inlet.open == set()

    run(main)


def test_an_answer_never_exceeds_the_limit() -> None:
    """Also when every reply says where it comes from."""

    async def main() -> None:
        inlet = Inlet("c", asyncio.get_running_loop())
        meta = (1, 0, "node-" + "f" * 50, 123456, "node-" + "f" * 50, "memory")
        for number in range(60_000):
            inlet.reply((number, DONE, b"1", meta))
        while inlet.replies:
            replies = inlet.take_replies(MAX_FRAME)
            assert len(pack((VERSION, 1, 60_000, replies))) <= MAX_FRAME

    run(main)


# -- links


class Silent:
    """A transport whose frames go nowhere."""

    def __init__(self) -> None:
        self.frames: list[bytes] = []
        self.answers: list[asyncio.Future[bytes]] = []

    def send(self, host: str, frame: bytes) -> "asyncio.Future[bytes]":
        self.frames.append(frame)
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self.answers.append(answer)
        return answer

    async def ask(self, supervisor: str, operation: str, data: bytes) -> bytes:
        raise PeerTroubleError(supervisor)

    async def newer_view(self, source: str) -> View:
        await asyncio.Event().wait()
        raise AssertionError


def one_node_view(shards: int = 16) -> View:
    leads = (Lead((0, 1, 1, 0), 0),) * shards
    return View("c", 0, 1, (member("a"),), ((0,),) * shards, leads)


def numbers(frame: bytes) -> list[int]:
    return [message[0] for message in unpack(frame)[5]]


def test_a_link_gathers_what_is_queued_while_frames_are_under_way() -> None:
    """The first call leaves at once; two frames are in flight; all else shares the third."""

    async def main() -> None:
        transport = Silent()
        client = Client(transport, one_node_view(), "c")
        for round_ in range(4):
            for n in range(5):
                client.submit(CALL, f"a-{n}", "t", b"{}", 10.0)
            await asyncio.sleep(0.001)
            assert len(transport.frames) == min(round_ + 1, 2)
        transport.answers[0].set_result(pack((VERSION, 0, 0, [])))
        await asyncio.sleep(0.001)
        assert [len(numbers(frame)) for frame in transport.frames] == [5, 5, 10]
        assert [unpack(frame)[2:4] for frame in transport.frames] == [[0, 0], [0, 1], [0, 2]]
        await client.close()

    run(main)


def test_a_frame_says_what_is_answered() -> None:
    """Below the lowest unanswered number; a cast of the same frame is not answered yet."""

    async def main() -> None:
        transport = Silent()
        client = Client(transport, one_node_view(), "c")
        acks = []

        async def answer(*done: int) -> None:
            await asyncio.sleep(0.001)
            acks.append(unpack(transport.frames[-1])[4])
            replies = [(number, DONE, b"1", None) for number in done]
            transport.answers[-1].set_result(pack((VERSION, 0, 0, replies)))
            await asyncio.sleep(0.001)

        for kind in (CAST, CALL, CALL):
            client.submit(kind, "a", "t", b"{}", 10.0)
        await answer(3)
        client.submit(CALL, "b", "t", b"{}", 10.0)
        await answer(2)
        client.submit(CALL, "c", "t", b"{}", 10.0)
        await answer(4, 5)
        client.submit(CAST, "a", "t", b"{}", 10.0)
        await answer()
        assert acks == [1, 2, 4, 6]
        assert client.ack() == 7
        await client.close()

    run(main)


def test_no_frame_exceeds_the_limit() -> None:
    """Also when envelopes outweigh bodies: operation ids, callers, chains."""

    async def main() -> None:
        transport = Silent()
        client = Client(transport, one_node_view(), "c")
        extra = {"o": "o" * 128, "c": "c" * 128, "n": ["n" * 128] * 3, "t": "t" * 55, "m": 1}
        for n in range(9_000):
            client.submit(CALL, f"a-{n}", "t" * 200, b"{}", 10.0, dict(extra))
        for _ in range(20):
            await asyncio.sleep(0.001)
            for answer in transport.answers:
                if not answer.done():
                    answer.set_result(pack((VERSION, 0, 0, [])))
        assert sum(len(numbers(frame)) for frame in transport.frames) == 9_000
        assert max(len(frame) for frame in transport.frames) <= MAX_FRAME
        await client.close()

    run(main)


@settings(max_examples=60)
@given(FATES)
def test_whatever_the_network_does_a_call_is_applied_once(script: list[str]) -> None:
    """All calls succeed within their time, in the order made, each one once."""

    async def main() -> None:
        async with local() as cluster, over(cluster, script) as (other, _):
            ref = await other.spawn(Tally, "t-1")
            calls = [asyncio.ensure_future(ref.call(Tally.put, n)) for n in range(8)]
            await asyncio.sleep(0.02)
            calls += [asyncio.ensure_future(ref.call(Tally.put, n)) for n in range(8, 16)]
            assert await asyncio.gather(*calls) == list(range(16))
            assert (await cluster.ref(Tally, "t-1").state()).items == list(range(16))

    run(main)


def test_a_lost_answer_is_asked_for_again() -> None:
    """The call is sent twice and applied once; the reply counts the attempts."""

    async def main() -> None:
        async with local() as cluster:
            await cluster.spawn(Tally, "t-1")
            async with over(cluster, ["deaf"]) as (other, network):
                reply = await other.ref(Tally, "t-1").request(Tally.add)
                assert (reply.value, reply.attempts) == (1, 2)
                assert len(network.frames) >= 2
            assert await cluster.ref(Tally, "t-1").call(Tally.get) == 1

    run(main)


def test_a_failure_with_a_lost_answer_is_a_failure() -> None:
    """It may run again, as failures are not remembered, and its error arrives."""

    async def main() -> None:
        async with local() as cluster:
            await cluster.spawn(Tally, "t-1")
            async with over(cluster, ["deaf"]) as (other, _):
                with pytest.raises(ExecutionError, match="ValueError: no"):
                    await other.ref(Tally, "t-1").call(Tally.fail)

    run(main)


def test_a_spawn_with_a_lost_answer_is_a_spawn() -> None:
    """Not `AgentExistsError`: the agent is this operation's own."""

    async def main() -> None:
        async with local() as cluster, over(cluster, ["deaf"]) as (other, _):
            ref = await other.spawn(Tally, "t-1", value=4)
            assert await ref.call(Tally.get) == 4
            with pytest.raises(AgentExistsError):
                await other.spawn(Tally, "t-1", value=4)

    run(main)


@pytest.mark.parametrize("how", ["delete", "turn"])
def test_an_end_with_a_lost_answer_did_happen(how: str) -> None:
    """Not `AgentNotFoundError`, which would say that nothing has changed."""

    async def main() -> None:
        async with local() as cluster:
            await cluster.spawn(Tally, "t-1")
            async with over(cluster, ["deaf"]) as (other, _):
                ref = other.ref(Tally, "t-1")
                with contextlib.suppress(OutcomeUnknownError):
                    await (ref.delete() if how == "delete" else ref.call(Tally.end))
            assert [info.id async for info in cluster.agents()] == []

    run(main)


def test_casts_of_a_doubtful_frame_are_dropped_and_counted() -> None:
    """They are never sent again: at most once is what a cast promises."""

    async def main() -> None:
        async with local() as cluster:
            ref = await cluster.spawn(Tally, "t-1")
            async with over(cluster, ["lost"]) as (other, _):
                mine = other.ref(Tally, "t-1")
                await mine.cast(Tally.add, 100)
                await mine.cast(Tally.add, 100)
                assert await mine.call(Tally.add, 1) == 1
                assert other._connection.client.dropped_casts == 2
            assert await ref.call(Tally.get) == 1

    run(main)


def test_a_call_that_never_arrives_ends_at_its_deadline() -> None:
    """It was sent, so nobody can say that it did not run; the error names the operation id."""

    async def main() -> None:
        async with local() as cluster:
            await cluster.spawn(Tally, "t-1")
            async with over(cluster, ["lost"] * 1000) as (other, _):
                begun = asyncio.get_running_loop().time()
                ref = other.ref(Tally, "t-1").options(timeout=2.0, op_id="op-1")
                with pytest.raises(OutcomeUnknownError, match="op-1") as raised:
                    await ref.call(Tally.add)
                assert raised.value.op_id == "op-1"
                assert 2.0 <= asyncio.get_running_loop().time() - begun < 3.0

    run(main)


def test_a_call_that_never_left_did_not_run() -> None:
    """With nobody to send to, its end says so."""

    async def main() -> None:
        client = Client(Silent(), View("", 0, 0, (), ((),) * 4), "c")
        with pytest.raises(NoQuorumError):
            await client.submit(CALL, "a-1", "t", b"{}", 2.0)
        await client.close()

    run(main)


def test_a_question_to_a_host_known_to_be_dead_fails_at_once() -> None:
    """Nobody else could answer it, and its time need not pass."""

    async def main() -> None:
        async with local(2) as cluster:
            client = cluster._connection.client
            host = min(client.view.addresses)
            client.lost(client.link(host))
            begun = client.loop.time()
            with pytest.raises(PeerTroubleError, match="gone"):
                await client.submit_to_host(host, "host.statistics", "", b"null", 30.0)
            assert client.loop.time() == begun

    run(main)


def test_a_host_that_is_gone_leaves_the_outcome_unknown_or_the_call_unsent() -> None:
    """A frame that was given to a dead host is not sent elsewhere as if nothing had been."""

    async def main() -> None:
        async with local() as cluster:
            await cluster.spawn(Tally, "t-1")
            async with over(cluster, ["gone"]) as (other, _):
                ref = other.ref(Tally, "t-1").options(timeout=2.0)
                with pytest.raises(OutcomeUnknownError):
                    await ref.call(Tally.add)

    run(main)


@pytest.mark.parametrize(
    "answer",
    [
        b"garbage",
        pack(None),
        pack([1, 2]),
        pack((VERSION, 0, 0, [[1]])),
        pack((VERSION, 0, 0, [[1, 77, b"", None]])),
        pack((VERSION, 0, 0, 5)),
        pack((VERSION, 0, 0, [], None)),
        pack((VERSION - 1, 0, 0, [])),
    ],
    ids=repr,
)
def test_a_malformed_answer_ends_its_calls(answer: bytes) -> None:
    """As our bug or as unknown, at once or at the deadline; nothing escapes into the loop."""

    async def main() -> None:
        transport = Silent()
        client = Client(transport, one_node_view(), "c")
        call = client.submit(CALL, "a-1", "t", b"{}", 2.0)
        await asyncio.sleep(0.001)
        transport.answers[0].set_result(answer)
        with pytest.raises((InternalError, OutcomeUnknownError)):
            await call
        await client.close()

    run(main)


def test_a_refused_frame_does_not_end_the_link() -> None:
    """The host's `WireError` reaches the calls of that frame; the next call is served."""

    async def main() -> None:
        async with local() as cluster:
            await cluster.spawn(Tally, "t-1")
            async with over(cluster, []) as (other, _):
                ref = other.ref(Tally, "t-1")
                client = other._connection.client
                huge = client.submit(CALL, "t-1", "tally.add", b"x" * (MAX_FRAME + 1), 5.0)
                with pytest.raises(WireError, match=str(MAX_FRAME)):
                    await huge
                assert await ref.call(Tally.add) == 1
                assert await ref.call(Tally.add) == 2

    run(main)


def test_calls_end_when_their_client_closes() -> None:
    """Sent ones as unknown, others as cancelled; afterwards nothing can be sent."""

    async def main() -> None:
        transport = Silent()
        client = Client(transport, one_node_view(), "c")
        sent = client.submit(CALL, "a-1", "t", b"{}", 9.0)
        await asyncio.sleep(0.001)
        queued = [client.submit(CALL, "a-1", "t", b"{}", 9.0) for _ in range(3)]
        await client.close()
        with pytest.raises(OutcomeUnknownError):
            await sent
        for call in queued:
            with pytest.raises((asyncio.CancelledError, JidoError)):
                await call
        with pytest.raises(JidoError, match="closed"):
            client.submit(CALL, "a-1", "t", b"{}", 9.0)

    run(main)


def test_a_cast_is_done_when_it_has_left() -> None:
    """Nobody waits for it, so nothing is kept."""

    async def main() -> None:
        client = Client(Silent(), one_node_view(), new_id())
        call = client.submit(CAST, "a-1", "t", b"{}", 9.0)
        assert await call is None
        assert client.calls == {}
        await client.close()

    run(main)
