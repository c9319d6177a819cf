"""Streams over a network that loses things, hosts that move, and callers that vanish."""

import asyncio
from contextlib import aclosing
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jido_cluster import (
    ActionTimeoutError,
    AgentNotFoundError,
    AsyncCluster,
    DeadlineExceededError,
    OutcomeUnknownError,
    RunCancelledError,
    new_id,
)
from jido_cluster._local.runtime import PREFER_SECONDS
from jido_cluster.errors import ClusterUnavailableError, WireError
from jido_cluster.runtime.flow import CLOSE, TAKEN
from jido_cluster.runtime.host import SILENT_SECONDS
from jido_cluster.runtime.wire import (
    CALL,
    FAILED,
    ITEM,
    LAST,
    OPERATION,
    STREAM,
    VERSION,
    decode_error,
    pack,
    unpack,
)
from tests.runtime.agents import Guest, Tally
from tests.runtime.support import hosts_of, local, over, run, runtime_of

FATES = st.lists(st.sampled_from(["ok", "ok", "lost", "deaf", "late"]), max_size=14)


async def items_of(stream: Any) -> tuple[list[int], BaseException | None]:
    """The items that came, and how the stream failed, if it did."""
    items = []
    try:
        async for item in stream:
            items.append(item)  # noqa: PERF401 - those before a failure count
    except OutcomeUnknownError as error:
        return items, error
    return items, None


@settings(max_examples=120)
@given(FATES, st.sampled_from([0, 1, 3, 200]), st.sampled_from([0.0, 0.002]))
def test_whatever_the_network_does_a_stream_is_whole_or_unknown(
    script: list[str], count: int, pause: float
) -> None:
    """Items have no gap, a good end has committed; afterwards agent and memory are free."""

    async def main() -> None:
        async with local() as cluster, over(cluster, script) as (other, _):
            mine = await cluster.spawn(Tally, "t-1")
            items, error = await items_of(other.ref(Tally, "t-1").stream(Tally.give, count, pause))
            value = await mine.call(Tally.add, 0)
            assert items == list(range(1, len(items) + 1))
            if error is None:
                assert len(items) == count == value
            else:
                assert value in (0, count)
                assert "not deduplicated" in str(error)
            await asyncio.sleep(30.0)
            assert other._connection.client.inflows == {}
            assert other._connection.client.calls == {}
            (host,) = hosts_of(cluster)
            assert all(not inlet.outflows for inlet in host._inlets.values())

    run(main)


def test_a_broken_connection_frees_the_agent() -> None:
    """Client and host both give the stream up, and the next one of the same client is served."""

    async def main() -> None:
        async with local() as cluster, over(cluster, []) as (other, network):
            mine = await cluster.spawn(Tally, "t-1")
            ref = other.ref(Tally, "t-1").options(timeout=1000.0)
            stream = ref.stream(Tally.give, 10_000, 0.01)
            assert await anext(stream) == 1
            network.script += ["ok", "deaf"]
            with pytest.raises(OutcomeUnknownError):
                async for _ in stream:
                    pass
            assert await mine.call(Tally.add, 0) == 0
            assert [item async for item in ref.stream(Tally.give, 3)] == [1, 2, 3]

    run(main)


def test_a_connection_that_ends_without_a_word_frees_the_agent() -> None:
    """Between two frames the client notices nothing: it hears of the end by the next one."""

    async def main() -> None:
        async with local() as cluster, over(cluster, []) as (other, network):
            await cluster.spawn(Tally, "t-1")
            stream = other.ref(Tally, "t-1").stream(Tally.give, 10_000, 0.01)
            assert await anext(stream) == 1
            (host,) = hosts_of(cluster)
            host.disconnected(object())
            assert await anext(stream) == 2
            host.disconnected(network._inner)
            with pytest.raises(RunCancelledError, match="nothing was committed"):
                async for _ in stream:
                    pass
            assert (await cluster.ref(Tally, "t-1").state()).value == 0

    run(main)


def test_the_stream_of_a_silent_client_is_given_up() -> None:
    """Its machine is gone without a word: a frame comes every 20 s as long as it lives."""

    async def main() -> None:
        async with local() as cluster:
            mine = await cluster.spawn(Tally, "t-1")
            async with over(cluster, []) as (other, network):
                ref = other.ref(Tally, "t-1").options(timeout=86_000.0)
                stream = ref.stream(Tally.give, 10_000, 1.0)
                assert await anext(stream) == 1
                await asyncio.sleep(3 * SILENT_SECONDS)
                assert await anext(stream) == 2  # a taker that is slow is not silent
                network.script = ["lost"] * 1_000_000
                begun = asyncio.get_running_loop().time()
                assert await mine.options(timeout=1000.0).call(Tally.add) == 1
                assert asyncio.get_running_loop().time() - begun < SILENT_SECONDS + 40.0
                network.script = []
                with pytest.raises(OutcomeUnknownError):
                    async for _ in stream:
                        pass

    run(main)


def test_a_stream_whose_caller_closes_its_connection_is_cancelled() -> None:
    """As the kernel closes it, the host hears of it."""

    async def main() -> None:
        async with local() as cluster:
            mine = await cluster.spawn(Tally, "t-1")
            async with over(cluster, []) as (other, network):
                stream = other.ref(Tally, "t-1").stream(Tally.give, 1000, 0.1)
                assert await anext(stream) == 1
            (host,) = hosts_of(cluster)
            host.disconnected(network._inner)
            assert await mine.call(Tally.add) == 1
            with pytest.raises((ClusterUnavailableError, OutcomeUnknownError)):
                async for _ in stream:
                    pass

    run(main)


def test_a_handler_that_clings_is_parted_from_its_stream() -> None:
    """One that ignores its deadline, or its caller's leaving, ends at its next `yield`."""

    async def main() -> None:
        async with local() as cluster:
            ref = await cluster.spawn(Tally, "t-1")
            stream = ref.options(timeout=5.5).stream(Tally.cling)
            begun = asyncio.get_running_loop().time()
            with pytest.raises(ActionTimeoutError):
                async for _ in stream:
                    pass
            assert asyncio.get_running_loop().time() - begun == pytest.approx(5.5, abs=0.1)
            async with aclosing(ref.stream(Tally.cling)) as closed:
                assert await anext(closed) == 1
            assert await ref.options(timeout=1.0).call(Tally.add) == 1

    run(main)


def test_streams_end_where_they_began_while_shards_move() -> None:
    """A node is back: agents move when their streams have ended, none of which fails."""

    async def main() -> None:
        async with local(3) as cluster:
            await cluster.kill("node-2")
            ids = [f"t-{n}" for n in range(40)]
            for id_ in ids:
                await cluster.spawn(Tally, id_)
            taking = [
                asyncio.ensure_future(
                    items_of(cluster.ref(Tally, id_).stream(Tally.give, 50, 0.05))
                )
                for id_ in ids
            ]
            await asyncio.sleep(0.5)
            await cluster.restart("node-2")
            await asyncio.sleep(0.5)
            late = [
                asyncio.ensure_future(items_of(cluster.ref(Tally, id_).stream(Tally.give, 2)))
                for id_ in ids
            ]
            assert await asyncio.gather(*taking) == [(list(range(1, 51)), None)] * 40
            assert await asyncio.gather(*late) == [([51, 52], None)] * 40
            await asyncio.sleep(2 * PREFER_SECONDS)
            homes = {(await cluster.ref(id_).info()).node for id_ in ids}
            assert homes == {"node-1", "node-2", "node-3"}

    run(main)


def test_a_stream_that_was_not_sent_did_not_run() -> None:
    """The shard's host is away until after the deadline."""

    async def main() -> None:
        async with local(2) as cluster:
            await cluster.spawn(Tally, "t-1")
            home = (await cluster.ref("t-1").info()).node
            client = cluster._connection.client
            client._by_shard[:] = [None] * client.view.shards
            link = client.link(next(h for h in client.view.addresses if home in h))
            link.is_gone = True
            stream = cluster.ref(Tally, "t-1").options(timeout=2.0).stream(Tally.give, 1)
            with pytest.raises(DeadlineExceededError):
                await anext(stream)

    run(main)


def test_a_stream_makes_a_virtual_agent_only_if_it_can_run() -> None:
    """Ill parameters, or a handler that is no stream, leave nobody behind."""

    async def main() -> None:
        async with local() as cluster:
            (host,) = hosts_of(cluster)
            for name, body in (("guest.items", b'{"n":"many"}'), ("guest.visit", b"{}")):
                entry = [1, STREAM, "g-1", name, body, 5000, {"v": "runtime.guest"}]
                frame = pack((VERSION, new_id(), 0, 0, 0, [entry]))
                (reply,) = unpack(await host.frame(frame, None))[3]
                assert reply[:2] == [1, FAILED]
                assert decode_error(reply[2]).kind == "validation_error"
            with pytest.raises(AgentNotFoundError):
                await cluster.ref("g-1").info()
            ref = cluster.ref(Guest, "g-1")
            assert [item async for item in ref.stream(Guest.items, 2)] == [0, 1]

    run(main)


def test_words_about_streams_that_are_over_are_harmless() -> None:
    """Late ones, and ones about calls that never were streams."""

    async def main() -> None:
        async with local() as cluster:
            ref = await cluster.spawn(Tally, "t-1")
            (host,) = hosts_of(cluster)
            entries = [
                [1, CALL, "t-1", "tally.add", b"{}", 5000, None],
                [2, OPERATION, "t-1", TAKEN, pack((1, 5)), 5000, None],
                [3, OPERATION, "t-1", CLOSE, pack((1,)), 5000, None],
                [4, OPERATION, "t-1", CLOSE, pack((99,)), 5000, None],
            ]
            client = new_id()
            replies = unpack(await host.frame(pack((VERSION, client, 0, 0, 0, entries)), None))[3]
            if len(replies) < len(entries):  # the turn is committed after the frame has ended
                held = pack((VERSION, client, 0, 1, 0, []))
                replies += unpack(await host.frame(held, None))[3]
            assert sorted(reply[:3] for reply in replies) == [
                [1, 0, b"1"],
                [2, 0, b""],
                [3, 0, b""],
                [4, 0, b""],
            ]
            assert await ref.call(Tally.get) == 1

    run(main)


@pytest.mark.parametrize("status", [ITEM, LAST])
def test_items_of_no_stream_are_a_broken_host(status: int) -> None:
    """A call that gets parts of a stream fails, and says whose fault it is."""

    class Wrong:
        def send(self, host: str, frame: bytes) -> "asyncio.Future[bytes]":
            answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
            number = unpack(frame)[5][0][0]
            answer.set_result(pack((VERSION, 0, 0, [(number, status, b"1", None)])))
            return answer

    async def main() -> None:
        async with local() as cluster, over(cluster, []) as (other, network):
            await cluster.spawn(Tally, "t-1")
            network.send = Wrong().send  # type: ignore[method-assign]
            with pytest.raises(WireError, match="malformed answer"):
                await other.ref(Tally, "t-1").call(Tally.add)

    run(main)


def test_a_killed_node_takes_its_callers_along() -> None:
    """Streams that its agents took from others are cancelled at once."""

    async def main() -> None:
        async with local(3) as cluster:
            refs = [await cluster.spawn(Tally, f"t-{n}") for n in range(20)]
            homes = {ref.id: (await ref.info()).node for ref in refs}
            other = next(ref for ref in refs if homes[ref.id] == "node-2")
            host = runtime_of(cluster).named("node-1").hosts["host/node-1.1/0"]
            view: AsyncCluster = host.binding.async_view()
            stream = view.ref(Tally, other.id).options(timeout=500.0).stream(Tally.give, 1000, 0.1)
            assert await anext(stream) == 1
            await cluster.kill("node-1")
            assert await other.options(timeout=1.0).call(Tally.add) == 1

    run(main)
