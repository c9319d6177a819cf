"""Calls of Ray actors that Ray loses, and the connections between processes; without a cluster."""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from ray.exceptions import ActorDiedError, ActorUnavailableError

from jido_cluster._ray import streams
from jido_cluster._ray.transport import call_again
from jido_cluster.ports import PeerGoneError, PeerTroubleError

TOKEN = "0" * streams.TOKEN_BYTES


def answering(*answers: Any) -> tuple[Callable[[], Awaitable[Any]], list[Any]]:
    """An actor's method that gives these answers in turn, and then the last one; what it gave."""
    given: list[Any] = []

    async def method() -> Any:
        given.append(answers[min(len(given), len(answers) - 1)])
        if isinstance(given[-1], BaseException):
            raise given[-1]
        return given[-1]

    return method, given


def lost() -> ActorUnavailableError:
    return ActorUnavailableError("it was lost", actor_id=b"0" * 16)


def test_a_lost_call_is_made_again() -> None:
    """As often as it takes, within its time."""

    async def main() -> None:
        method, given = answering(lost(), lost(), 7)
        assert await call_again(method, 10.0) == 7
        assert len(given) == 3

    asyncio.run(main())


def test_a_call_is_not_lost_for_longer_than_its_time() -> None:
    """Then it is as one that cannot reach its actor."""

    async def main() -> None:
        method, given = answering(lost())
        with pytest.raises(PeerTroubleError, match="out of reach"):
            await call_again(method, 0.35)
        assert 2 <= len(given) <= 4

    asyncio.run(main())


def test_nothing_else_is_asked_again() -> None:
    """A dead actor stays dead, and an error of the method is an answer."""

    async def main() -> None:
        for error, raised in ((ActorDiedError(), PeerGoneError), (ValueError("no"), ValueError)):
            method, given = answering(error)
            with pytest.raises(raised):
                await call_again(method, 10.0)
            assert len(given) == 1

    asyncio.run(main())


def test_both_ends_of_a_connection_give_up_a_silent_machine() -> None:
    """The kernel ends them; by itself it would go on trying for a quarter of an hour."""

    async def main() -> None:
        accepted: asyncio.Future[asyncio.StreamWriter] = asyncio.get_running_loop().create_future()
        done = asyncio.Event()

        async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            accepted.set_result(writer)
            await done.wait()

        server, port = await streams.listen("127.0.0.1", TOKEN, serve)
        _, dialled = await streams.dial("127.0.0.1", port, TOKEN)
        for writer in (dialled, await accepted):
            sock = writer.get_extra_info("socket")
            limit = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
            assert limit == streams.SILENCE_SECONDS * 1000
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        done.set()
        dialled.close()
        server.close()

    asyncio.run(main())
