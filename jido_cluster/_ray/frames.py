"""Frames over TCP: the host's server, and a client's channel to it.

A frame as a Ray call costs some 0.4 ms of the host's core, whatever is in it; over TCP a tenth. Ray
still starts, names and watches the processes. A connection that closes, to a port that then
refuses, is the kernel's word that the process is dead, in milliseconds.

Message: number (4 bytes), then the frame; answered by number, status (1 byte), then the body. The
first message of a connection names the host it is meant for, because ports are used again.
"""

import asyncio
import itertools
from typing import Final

from jido_cluster._ray import streams
from jido_cluster.errors import JidoError, WireError
from jido_cluster.ports import PeerGoneError, PeerTroubleError
from jido_cluster.runtime.host import ShardHost
from jido_cluster.runtime.wire import decode_error, encode_error

FRAME_SECONDS: Final = 40.0  # a held frame is answered after 20
_NUMBER: Final = 4
_DONE: Final = 0
_FAILED: Final = 1
_OUT_OF_ORDER: Final = 2


def address_of(actor: str, ip: str, port: int) -> str:
    """Where frames for a host are sent."""
    return f"{actor}@{ip}:{port}"


def actor_of_host(address: str) -> str:
    """Name of the actor behind a host's address."""
    return address.partition("@")[0]


class FrameServer:
    """Takes frames for one host."""

    def __init__(self, actor: str, token: str) -> None:
        self._actor = actor.encode()
        self._token = token
        self._host: ShardHost | None = None
        self._answering: set[asyncio.Task[None]] = set()

    async def listen(self, ip: str) -> str:
        """Begin to accept connections; the host's address."""
        self._server, port = await streams.listen(ip, self._token, self._serve)
        return address_of(self._actor.decode(), ip, port)

    def open(self, host: ShardHost) -> None:
        """Begin to answer, by this host."""
        self._host = host

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host = self._host
        if await streams.read(reader) != self._actor or host is None:
            return
        try:
            while True:
                message = await streams.read(reader)
                work = self._answer(host, message, writer)
                task = asyncio.get_running_loop().create_task(work)
                self._answering.add(task)
                task.add_done_callback(self._answering.discard)
        except WireError:
            return
        finally:
            host.disconnected(writer)

    async def _answer(self, host: ShardHost, message: bytes, writer: asyncio.StreamWriter) -> None:
        status = _DONE
        try:
            body = await host.frame(message[_NUMBER:], writer)
        except PeerTroubleError as error:
            status, body = _OUT_OF_ORDER, str(error).encode()
        except JidoError as error:
            status, body = _FAILED, encode_error(error)
        if not writer.is_closing():
            streams.write(writer, b"%b%c%b" % (message[:_NUMBER], status, body))


class Channel:
    """One client's connection to one host: opened by the first frame, and again after it broke."""

    def __init__(self, address: str, token: str) -> None:
        actor, _, place = address.partition("@")
        ip, _, port = place.rpartition(":")
        self._address = address
        self._actor = actor.encode()
        self._ip = ip
        self._port = int(port)
        self._token = token
        self._loop = asyncio.get_running_loop()
        self._numbers = itertools.count()
        self._writer: asyncio.StreamWriter | None = None
        self._running: asyncio.Task[None] | None = None
        self._unsent: list[bytes] = []
        self._waiting: dict[bytes, asyncio.Future[bytes]] = {}

    def send(self, frame: bytes) -> "asyncio.Future[bytes]":
        """Send a frame; the future holds the answer, PeerTroubleError or PeerGoneError."""
        number = (next(self._numbers) & 0xFFFFFFFF).to_bytes(_NUMBER, "big")
        answer: asyncio.Future[bytes] = self._loop.create_future()
        self._waiting[number] = answer
        timer = self._loop.call_later(FRAME_SECONDS, self._time_out, number)
        answer.add_done_callback(lambda _: timer.cancel())
        if self._writer is not None:
            streams.write(self._writer, number + frame)
        else:
            self._unsent.append(number + frame)
            if self._running is None:
                self._running = self._loop.create_task(self._run())
        return answer

    def close(self) -> None:
        """Close the connection; what waits is out of luck."""
        if self._running is not None:
            self._running.cancel()

    async def _run(self) -> None:
        error: PeerTroubleError
        is_open = False
        try:
            reader, writer = await streams.dial(self._ip, self._port, self._token)
            is_open = True
            streams.write(writer, self._actor)
            for message in self._unsent:
                streams.write(writer, message)
            self._unsent.clear()
            self._writer = writer
            try:
                while True:
                    self._take(await streams.read(reader))
            finally:
                self._writer = None
                writer.close()
        except ConnectionRefusedError:
            error = PeerGoneError(f"host {self._address} refuses connections", was_sent=is_open)
        except (OSError, EOFError, TimeoutError, WireError) as cause:
            error = await self._judge(cause)
            error.was_sent = is_open
        except asyncio.CancelledError:
            self._fail(PeerTroubleError("the connection was closed"))
            raise
        self._fail(error)

    async def _judge(self, cause: BaseException) -> PeerTroubleError:
        """Dead, when the machine answers that nobody listens any more; else only out of reach."""
        if await streams.is_refused(self._ip, self._port):
            return PeerGoneError(f"the process of host {self._address} is dead")
        return PeerTroubleError(f"host {self._address} is out of reach: {cause!r}")

    def _take(self, message: bytes) -> None:
        answer = self._waiting.pop(message[:_NUMBER], None)
        if answer is None or answer.done():
            return
        status, body = message[_NUMBER], message[_NUMBER + 1 :]
        if status == _DONE:
            answer.set_result(body)
        elif status == _FAILED:
            answer.set_exception(decode_error(body))
        else:
            answer.set_exception(PeerTroubleError(body.decode(errors="replace")))

    def _fail(self, error: PeerTroubleError) -> None:
        self._running = None
        self._unsent.clear()
        waiting, self._waiting = self._waiting, {}
        for answer in waiting.values():
            if not answer.done():
                answer.set_exception(error)

    def _time_out(self, number: bytes) -> None:
        answer = self._waiting.pop(number, None)
        if answer is not None and not answer.done():
            message = f"host {self._address} answered nothing for {FRAME_SECONDS} s"
            answer.set_exception(PeerTroubleError(message))
