"""Messages between the processes of a cluster over TCP: one connection for each way.

Theory. A process dials those that it has something to tell, and listens for those that have
something to tell it; on a connection messages go one way only, so that no two connections are ever
made for one purpose. All messages of one pass of the loop leave as one frame. What finds no
connection, or too slow a reader, is dropped: the cores say everything again that matters.

An address names its process by a random word beside ip and port, because ports are used again: who
is dialled is asked whether it is the one that is meant. That a process is dead is certain when its
connection ended, or none was ever made, and its port refuses or belongs to another one now. (A
firewall that refuses for it would be believed; what is built on this only hurries.) Silence says
nothing; after it the connection is made anew, because TCP's own pauses between repetitions grow to
minutes, and a link that is whole again must not wait for them.
"""

import asyncio
import logging
import secrets
from dataclasses import dataclass
from typing import Any, Final

import ormsgpack

from jido_cluster._ray import peer_link, streams
from jido_cluster._ray.peer_link import Link
from jido_cluster.errors import WireError
from jido_cluster.ports import PeerListener
from jido_cluster.runtime.peer_wire import Packer, Unpacker
from jido_cluster.runtime.sealed import Sealer
from jido_state.node_messages import RecordIs

logger = logging.getLogger(__name__)

__all__ = ["PeerStatistics", "TcpPeers"]

VERSION: Final = 1  # of the greeting
MAX_RETIRED: Final = 1024

_Place = tuple[int, int]  # node and part


@dataclass(frozen=True, slots=True)
class PeerStatistics:
    """What has gone through the links of a process so far.

    Attributes:
        sent: Frames.
        received: Batches.
        dropped: Messages that found no connection, or no room.
        refused: Batches that were malformed.
    """

    sent: int = 0
    received: int = 0
    dropped: int = 0
    refused: int = 0


class TcpPeers:
    """The links of one process. Bound to the loop that made it.

    Args:
        token: The cluster's; whoever does not show it is not heard.
        sealer: Shared with whoever makes the same rows durable.
    """

    def __init__(self, token: str, sealer: Sealer | None = None) -> None:
        self._token = token
        self._packer = Packer(sealer)
        self._loop = asyncio.get_running_loop()
        self._name = secrets.token_hex(8)
        self._address = ""
        self._who: tuple[str, int, int] | None = None  # cluster, node, part
        self._listener: PeerListener | None = None
        self._links: dict[_Place, Link] = {}
        self._writing: dict[Link, None] = {}  # have something to send in this pass
        self._readers: dict[asyncio.StreamWriter, str] = {}  # who sends on it, by address
        self._retired: dict[str, None] = {}  # addresses of processes that others followed
        self._server: asyncio.Server | None = None
        self._counts = [0, 0, 0, 0]
        self._is_closed = False

    async def listen(self, ip: str) -> str:
        """Begin to accept connections; the address of this process."""
        self._server, port = await streams.listen(ip, self._token, self._serve)
        self._address = f"{self._name}@{ip}:{port}"
        return self._address

    def be(self, cluster: str, node: int, part: int) -> None:
        """This is who this process is; before, nobody is greeted and nothing goes out."""
        self._who = (cluster, node, part)

    def start(self, listener: PeerListener) -> None:
        """See `Peers.start`."""
        self._listener = listener

    def know(self, node: int, part: int, address: str, life: int) -> None:
        """See `Peers.know`."""
        link = self._links.get((node, part))
        if self._is_closed or (link is not None and link.address == address):
            return
        self._retired.pop(address, None)
        if link is not None:
            del self._links[node, part]
            self._writing.pop(link, None)
            link.close()
            self._retire(link.address)
        if address:
            self._links[node, part] = Link(self, node, part, address)
            logger.debug("node %d, part %d, life %d is at %s", node, part, life, address)

    def _retire(self, address: str) -> None:
        self._retired[address] = None
        if len(self._retired) > MAX_RETIRED:
            del self._retired[next(iter(self._retired))]
        for writer, sender in list(self._readers.items()):
            if sender == address:
                writer.transport.abort()

    def send(self, node: int, part: int, message: Any) -> None:
        """See `Peers.send`."""
        link = self._links.get((node, part))
        if link is None or self._who is None:
            self.count_dropped(1)
            return
        is_kept = link.put(self._packer.pack(message, link.base))
        if type(message) is RecordIs and is_kept:
            link.base = message.record
        if not self._writing:
            self._loop.call_soon(self._flush)
        self._writing[link] = None

    def _flush(self) -> None:
        writing, self._writing = self._writing, {}
        for link in writing:
            link.flush()
        self._packer.forget()

    def statistics(self) -> PeerStatistics:
        """What has gone through so far."""
        return PeerStatistics(*self._counts)

    def close(self) -> None:
        """See `Peers.close`."""
        self._is_closed = True
        if self._server is not None:
            self._server.close()
        for link in self._links.values():
            link.close()
        self._links.clear()
        self._writing.clear()
        for writer in list(self._readers):
            writer.transport.abort()

    # What links need

    @property
    def token(self) -> str:
        """The cluster's."""
        return self._token

    def greeting(self, name: str) -> bytes:
        """What is said first on a connection to the process of this name."""
        return ormsgpack.packb([VERSION, name, self._address, self._who])

    def count_sent(self) -> None:
        """A frame more was sent."""
        self._counts[0] += 1

    def count_dropped(self, messages: int) -> None:
        """So many messages more were dropped."""
        self._counts[2] += messages

    def tell(self, node: int, part: int, *, is_gone: bool) -> None:
        """The process is certainly dead, or there."""
        if self._listener is not None and not self._is_closed:
            (self._listener.gone if is_gone else self._listener.back)(node, part)

    # What comes in

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._readers[writer] = ""
        try:
            sender = self._welcome(await streams.read(reader), writer)
            if sender is not None:
                await self._receive(*sender, reader)
        except WireError as error:
            logger.warning("a connection from a peer ends: %s", error)
        finally:
            del self._readers[writer]

    def _welcome(self, greeting: bytes, writer: asyncio.StreamWriter) -> _Place | None:
        """Who begins to send; None when it is not to be heard, or not now."""
        try:
            data = ormsgpack.unpackb(greeting)
        except ValueError as error:
            raise WireError(f"a greeting is malformed: {error}") from error
        match data:
            case [int(version), str(name), str(address), [str(cluster), int(node), int(part)]]:
                if version != VERSION:
                    raise WireError(f"greeted in version {version}, this node speaks {VERSION}")
            case _:
                raise WireError("a greeting does not have its parts")
        if self._is_closed or self._who is None or address in self._retired:
            return None
        if name != self._name:
            streams.write(writer, peer_link.STRANGER)
            return None
        if cluster != self._who[0]:
            raise WireError(f"a process of cluster {cluster} sends, this one is of {self._who[0]}")
        streams.write(writer, peer_link.WELCOME)
        self._readers[writer] = address
        return node, part

    async def _receive(self, node: int, part: int, reader: asyncio.StreamReader) -> None:
        parts: list[bytes] = []
        unpacker = Unpacker()
        while True:
            frame = await streams.read(reader)
            if parts or frame[:1] != peer_link.WHOLE:
                parts.append(frame[1:])
                if sum(map(len, parts)) > peer_link.MAX_BATCH + streams.MAX_MESSAGE:
                    raise WireError(f"a batch of more than {peer_link.MAX_BATCH} bytes arrived")
                if frame[:1] != peer_link.WHOLE:
                    continue
                frame = peer_link.WHOLE + b"".join(parts)
                parts = []
            try:
                messages = unpacker.unpack(frame[1:])
            except WireError:
                self._counts[3] += 1
                raise
            self._counts[1] += 1
            if self._listener is not None and not self._is_closed:
                self._listener.received(node, part, messages)
