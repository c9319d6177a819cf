"""What only connections have: ports that are used again, slow readers, frames with a limit."""

import asyncio
import contextlib
import signal
import sys
from typing import Any

import ormsgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jido_cluster._ray import peer_link, streams
from jido_cluster._ray.peer_link import MAX_BATCH, frames_of
from jido_cluster._ray.peers import VERSION
from jido_cluster.runtime.peer_messages import Announce
from jido_cluster.runtime.peer_wire import Packer, unpack_messages
from tests.runtime.peer_support import (
    CLUSTER,
    DEADLINE_SECONDS,
    TOKEN,
    Net,
    beat,
    run_net,
)


def large(size: int, number: int = 1) -> Announce:
    return Announce(1, 1, number, b"x" * size, ())


def place_of(address: str) -> tuple[str, str, int]:
    name, _, place = address.partition("@")
    ip, _, port = place.rpartition(":")
    return name, ip, int(port)


async def greet(address: str, who: list[Any], own: str = "raw@127.0.0.1:1") -> Any:
    """A connection that has been welcomed, as reader and writer."""
    name, ip, port = place_of(address)
    reader, writer = await streams.dial(ip, port, TOKEN)
    streams.write(writer, ormsgpack.packb([VERSION, name, own, who]))
    assert await streams.read(reader) == b"\1"
    return reader, writer


# Frames.


@settings(max_examples=25)
@given(st.lists(st.integers(0, 60), max_size=40))
def test_frames_have_all_messages_in_order_and_are_not_too_large(sizes: list[int]) -> None:
    """Whatever their sizes, one larger than any frame included."""
    batch = [large(5 * size, number) for number, size in enumerate(sizes)]
    packer = Packer()
    found: list[Any] = []
    rest = b""
    for frame in frames_of([packer.pack(each) for each in batch], 100):
        assert len(frame) <= 100 + streams.MAX_MESSAGE - peer_link._ROOM
        rest += frame[1:]
        if frame[:1] == peer_link.WHOLE:
            found += unpack_messages(rest)
            rest = b""
    assert found == batch
    assert rest == b""


def test_a_message_of_several_frames_arrives_whole() -> None:
    """Between others, in order; the limit of a frame is no limit of a message."""

    async def story(net: Net) -> None:
        one, two = await net.pair()
        one.send(two, 1)
        one.peers.send(2, 0, large(2 * streams.MAX_MESSAGE + 5))
        one.send(two, 2)
        await two.ear.until(lambda: len(two.ear.messages) == 3)
        assert two.ear.messages == [beat(1), large(2 * streams.MAX_MESSAGE + 5), beat(2)]
        assert one.peers.statistics().sent > 3

    run_net("asyncio", story)


def test_a_message_beyond_all_limits_is_dropped_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """What stands beside it arrives, and the drop is counted."""
    monkeypatch.setattr(peer_link, "MAX_BATCH", 1000)

    async def story(net: Net) -> None:
        one, two = await net.pair()
        one.send(two, 1)
        one.peers.send(2, 0, large(1000))
        one.send(two, 2)
        await two.hears(1, 2)
        assert one.peers.statistics().dropped == 1

    assert MAX_BATCH > streams.MAX_MESSAGE
    run_net("asyncio", story)


# Who is who.


def test_a_port_that_another_process_has_now_means_death() -> None:
    """It says that it is not the one that is meant; nothing is delivered to it."""

    async def story(net: Net) -> None:
        one, other = await net.process(1), await net.process(2)
        _, ip, port = place_of(other.address)
        one.peers.know(2, 0, f"earlier@{ip}:{port}", 1)
        one.send(other, 1)
        await one.ear.until(lambda: one.ear.told == [("gone", 2, 0)])
        one.know(other, life=2)
        one.send(other, 2)
        await other.hears(2)

    run_net("asyncio", story)


@pytest.mark.parametrize("flaw", ["token", "cluster", "nameless", "version", "rubbish"])
def test_who_is_not_one_of_us_is_not_heard(flaw: str) -> None:
    """Its connection is closed without a welcome, and others are served on."""

    async def story(net: Net) -> None:
        two = await net.process(2, cluster=None if flaw == "nameless" else CLUSTER)
        name, ip, port = place_of(two.address)
        token = "cd" * 32 if flaw == "token" else TOKEN
        cluster = "another" if flaw == "cluster" else CLUSTER
        version = 99 if flaw == "version" else VERSION
        greeting = ormsgpack.packb([version, name, "raw@127.0.0.1:1", [cluster, 1, 0]])
        reader, writer = await streams.dial(ip, port, token)
        streams.write(writer, b"\xc1" if flaw == "rubbish" else greeting)
        with contextlib.suppress(ConnectionError):  # when it was closed before it had read all
            assert await reader.read() == b""
        writer.close()
        two.peers.be(CLUSTER, 2, 0)
        one = await net.process(1)
        one.know(two)
        one.send(two, 1)
        await two.hears(1)

    run_net("asyncio", story)


def test_a_listener_of_another_cluster_is_not_taken_for_dead() -> None:
    """It is out of reach, whatever is tried."""

    async def story(net: Net) -> None:
        one, two = await net.process(1), await net.process(2, cluster="another")
        one.know(two)
        async with asyncio.timeout(DEADLINE_SECONDS):
            while one.peers.statistics().dropped == 0:
                one.send(two, 1)
                await asyncio.sleep(0.001)
        assert one.ear.told == []
        assert two.ear.batches == []

    run_net("asyncio", story)


def test_a_process_that_was_followed_by_another_is_not_heard_any_more() -> None:
    """What it sent on is cut, and what it dials again is not welcomed."""

    async def story(net: Net) -> None:
        old, new, two = await net.process(1), await net.process(1), await net.process(2)
        for each in (old, new):
            each.know(two)
        two.know(old)
        old.send(two, 1)
        await two.hears(1)
        two.know(new, life=2)
        async with asyncio.timeout(DEADLINE_SECONDS):
            while old.peers.statistics().dropped == 0:  # until it has no connection any more
                old.send(two, 2)
                await asyncio.sleep(0.001)
        new.send(two, 3)
        await two.hears(1, 3)
        assert ("gone", 2, 0) not in old.ear.told

    run_net("asyncio", story)


def test_a_connection_that_breaks_is_made_again() -> None:
    """Its process lives, so nobody is told that it is dead; it is there again."""

    async def story(net: Net) -> None:
        one, two = await net.pair()
        one.send(two, 1)
        await two.hears(1)
        for writer in list(two.peers._readers):
            writer.transport.abort()
        await one.ear.until(lambda: len(one.ear.told) == 2)
        one.send(two, 2)
        await two.hears(1, 2)
        assert one.ear.told == [("back", 2, 0)] * 2

    run_net("asyncio", story)


def test_a_malformed_batch_ends_its_connection_and_nothing_else() -> None:
    """It is counted; the other messages of the same process come on a new one."""

    async def story(net: Net) -> None:
        one, two = await net.pair()
        reader, writer = await greet(two.address, [CLUSTER, 1, 0])
        streams.write(writer, b"\0\xc1")
        assert await reader.read() == b""
        writer.close()
        assert two.peers.statistics().refused == 1
        one.send(two, 1)
        await two.hears(1)

    run_net("asyncio", story)


def test_a_batch_that_does_not_end_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sender that always says that more comes is cut off."""
    monkeypatch.setattr(peer_link, "MAX_BATCH", 0)

    async def story(net: Net) -> None:
        two = await net.process(2)
        reader, writer = await greet(two.address, [CLUSTER, 1, 0])
        for _ in range(3):
            streams.write(writer, b"\1" + b"x" * (streams.MAX_MESSAGE // 2))
        with pytest.raises((ConnectionError, AssertionError)):
            assert await reader.read() != b""
        writer.close()
        assert two.peers.statistics().received == 0

    run_net("asyncio", story)


# Slow readers.


@pytest.mark.parametrize("kind", ["asyncio", "uvloop"])
@pytest.mark.parametrize("limit", ["size", "time"])
def test_what_a_slow_reader_is_to_get_is_bounded(
    kind: str, limit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By bytes and by time; it is told nothing, and gets what is sent once it reads again."""
    if limit == "size":
        monkeypatch.setattr(peer_link, "MAX_QUEUED", 4 << 20)
    else:
        monkeypatch.setattr(peer_link, "STALL_SECONDS", 0.05)

    async def story(net: Net) -> None:
        one = await net.process(1)
        may_read = asyncio.Event()
        got: list[Any] = []
        arrived = asyncio.Event()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await streams.read(reader)
            streams.write(writer, b"\1")
            await may_read.wait()
            while True:
                got.extend(unpack_messages((await streams.read(reader))[1:]))
                if got[-1] == beat(2):
                    arrived.set()

        server, port = await streams.listen("127.0.0.1", TOKEN, serve)
        one.peers.know(2, 0, f"slow@127.0.0.1:{port}", 1)
        async with asyncio.timeout(DEADLINE_SECONDS):
            number = 0
            while one.peers.statistics().dropped == 0:
                if number < 24:  # fewer than the limit by bytes, when time is the limit
                    one.peers.send(2, 0, large(1 << 20, number))
                    number += 1
                link = one.peers._links[2, 0]
                assert link._size <= 4 << 20 or limit == "time"
                await asyncio.sleep(0.001)
            may_read.set()
            while not arrived.is_set():
                one.peers.send(2, 0, beat(2))
                await asyncio.sleep(0.001)
        assert one.ear.told == [("back", 2, 0)]
        assert got[0] == large(1 << 20, 0)
        assert one.peers.statistics().dropped > 0
        one.peers.close()
        server.close()

    run_net(kind, story)


def test_what_waited_for_a_slow_reader_goes_once_it_reads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without anything more being sent."""
    monkeypatch.setattr(peer_link, "MAX_BUFFERED", 1 << 16)

    async def story(net: Net) -> None:
        one = await net.process(1)
        may_read, has_all = asyncio.Event(), asyncio.Event()
        got: list[Any] = []

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await streams.read(reader)
            streams.write(writer, b"\1")
            await may_read.wait()
            while len(got) < 16:
                got.extend(unpack_messages((await streams.read(reader))[1:]))
            has_all.set()

        server, port = await streams.listen("127.0.0.1", TOKEN, serve)
        one.peers.know(2, 0, f"slow@127.0.0.1:{port}", 1)
        async with asyncio.timeout(DEADLINE_SECONDS):
            for number in range(8):
                one.peers.send(2, 0, large(1 << 20, number))
            await one.ear.until(lambda: one.ear.told == [("back", 2, 0)])
            assert one.peers._links[2, 0]._draining is not None
            for number in range(8, 16):
                one.peers.send(2, 0, large(1 << 20, number))
            await asyncio.sleep(0)
            may_read.set()
            await has_all.wait()
        assert [each.life for each in got] == list(range(16))
        one.peers.close()
        server.close()

    run_net("asyncio", story)


def test_each_death_is_told_once() -> None:
    """However often it is tried again; and anew when somebody was there again in between."""

    async def story(net: Net) -> None:
        one = await net.process(1)

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readexactly(streams.TOKEN_BYTES)
            await streams.read(reader)
            streams.write(writer, b"\1")
            writers.append(writer)

        writers: list[asyncio.StreamWriter] = []
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        one.peers.know(2, 0, f"name@127.0.0.1:{port}", 1)

        async def send_until(told: list[str]) -> None:
            async with asyncio.timeout(DEADLINE_SECONDS):
                while [what for what, _, _ in one.ear.told] != told:
                    one.peers.send(2, 0, beat(1))
                    await asyncio.sleep(0.001)

        async def end() -> None:
            server.close()
            for writer in writers:
                writer.transport.abort()
            writers.clear()

        await send_until(["back"])
        await end()
        await send_until(["back", "gone"])
        before = one.peers.statistics().dropped
        async with asyncio.timeout(DEADLINE_SECONDS):
            for _ in range(2):  # attempts that fail
                while one.peers.statistics().dropped == before:
                    one.peers.send(2, 0, beat(1))
                    await asyncio.sleep(0.001)
                before = one.peers.statistics().dropped
        server = await asyncio.start_server(serve, "127.0.0.1", port)
        await send_until(["back", "gone", "back"])
        await end()
        await send_until(["back", "gone", "back", "gone"])

    run_net("asyncio", story)


# Real processes.

CHILD = """
import asyncio, sys
from jido_cluster._ray.peers import TcpPeers

async def main():
    peers = TcpPeers(sys.argv[1])
    print(await peers.listen("127.0.0.1"), flush=True)
    peers.be("cluster", 2, 0)
    await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.mark.slow
def test_a_process_that_is_killed_is_gone_by_the_kernels_word() -> None:
    """Nothing is sent to it meanwhile: the end of its connection says so."""

    async def story(net: Net) -> None:
        one = await net.process(1)
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-c", CHILD, TOKEN, stdout=asyncio.subprocess.PIPE
        )
        try:
            assert child.stdout is not None
            address = (await child.stdout.readline()).decode().strip()
            one.peers.know(2, 0, address, 1)
            one.peers.send(2, 0, beat(1))
            await one.ear.until(lambda: one.ear.told == [("back", 2, 0)])
            child.send_signal(signal.SIGKILL)
            await one.ear.until(lambda: one.ear.told == [("back", 2, 0), ("gone", 2, 0)])
        finally:
            with contextlib.suppress(ProcessLookupError):
                child.kill()
            await child.wait()

    run_net("asyncio", story)
