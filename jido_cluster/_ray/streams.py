"""Framed TCP between two processes of the runtime: a token, then length-prefixed messages.

Used where a Ray call is too slow (a dedicated agent's worker) and where the kernel's own word is
wanted: a connection that closes says at once that a process died.
"""

import asyncio
import hmac
import socket
import struct
from collections.abc import Awaitable, Callable
from typing import Final

from jido_cluster.errors import WireError

_HEADER: Final = struct.Struct(">I")
MAX_MESSAGE: Final = 8 << 20
TOKEN_BYTES: Final = 64  # characters of the cluster's token, hexadecimal
HANDSHAKE_SECONDS: Final = 5.0
DIAL_SECONDS: Final = 2.0  # two attempts of the kernel's
SILENCE_SECONDS: Final = 5.0  # without a word from the other machine a connection is given up

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def listen(ip: str, token: str, serve: Serve) -> tuple[asyncio.Server, int]:
    """A server on a free port of the address; connections without the token are closed."""

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            _give_up_silent(writer)
            async with asyncio.timeout(HANDSHAKE_SECONDS):
                given = await reader.readexactly(TOKEN_BYTES)
            if hmac.compare_digest(given, token.encode()):
                await serve(reader, writer)
        except (OSError, EOFError, TimeoutError):
            pass  # the other side is gone, or was never one of us
        finally:
            writer.close()

    server = await asyncio.start_server(accept, ip, 0)
    return server, server.sockets[0].getsockname()[1]


async def dial(ip: str, port: int, token: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection that has shown the token.

    Raises:
        OSError: Nobody listens there, or it took too long.
    """
    async with asyncio.timeout(DIAL_SECONDS):
        reader, writer = await asyncio.open_connection(ip, port)
    _give_up_silent(writer)
    writer.write(token.encode())
    return reader, writer


def _give_up_silent(writer: asyncio.StreamWriter) -> None:
    """Let the kernel end the connection when the other machine is not heard of for some seconds.

    It would else try for a quarter of an hour, less and less often: half a minute after a cut has
    healed nothing might have come through yet.
    """
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    # Absent on other systems than Linux; there the kernel's own, longer times hold.
    for option, value in (
        ("TCP_KEEPIDLE", int(SILENCE_SECONDS)),
        ("TCP_KEEPINTVL", 1),
        ("TCP_KEEPCNT", 5),
        ("TCP_USER_TIMEOUT", int(SILENCE_SECONDS * 1000)),
    ):
        number = getattr(socket, option, None)
        if number is not None:
            sock.setsockopt(socket.IPPROTO_TCP, number, value)


async def read(reader: asyncio.StreamReader) -> bytes:
    """The next message.

    Raises:
        EOFError: The other side closed.
        WireError: It announces too large a message.
    """
    return await reader.readexactly(await _read_size(reader))


async def _read_size(reader: asyncio.StreamReader) -> int:
    (size,) = _HEADER.unpack(await reader.readexactly(_HEADER.size))
    if size > MAX_MESSAGE:
        message = f"a message of {size} bytes was announced, the limit is {MAX_MESSAGE}"
        raise WireError(message)
    return int(size)


class Incoming:
    """The messages of a connection, for a reader that may be cancelled: nothing is lost by that."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self._reader = reader
        self._size: int | None = None  # of the message whose header has been read

    async def read(self) -> bytes:
        """As `read`."""
        if self._size is None:
            self._size = await _read_size(self._reader)
        message = await self._reader.readexactly(self._size)
        self._size = None
        return message


def write(writer: asyncio.StreamWriter, data: bytes) -> None:
    """Send one message; nothing on a connection that has ended, as whoever reads it finds out."""
    if not writer.is_closing():  # uvloop raises, where asyncio's own loop says nothing
        writer.write(_HEADER.pack(len(data)) + data)


async def is_refused(ip: str, port: int) -> bool:
    """True if the machine answers that nobody listens; False on silence, or when somebody does."""
    try:
        async with asyncio.timeout(1.0):
            _, writer = await asyncio.open_connection(ip, port)
    except ConnectionRefusedError:
        return True
    except (OSError, TimeoutError):
        return False
    writer.close()
    return False
