"""Messages between the processes of a cluster that are objects of one loop.

Theory. Everything is packed and unpacked as between real processes. What a network and an operating
system do, a switchboard does as it is told: it ends processes, which all that can hear it do at
once, and it cuts the network, which nobody hears of.
"""

import asyncio
from collections.abc import Collection
from typing import Any, Final

from jido_cluster.ports import PeerListener
from jido_cluster.runtime.peer_wire import Packer, join, unpack_messages
from jido_cluster.runtime.sealed import Sealer

__all__ = ["OUTSIDE", "WHOLE", "LocalPeers", "Switchboard"]

OUTSIDE: Final = -1  # whoever calls from no node, as a node
WHOLE: Final = -1  # the side of all nodes while there is no cut, and then of those not named
_Place = tuple[int, int]  # node and part


class Switchboard:
    """What stands between the processes of one loop."""

    def __init__(self) -> None:
        self._living: dict[str, LocalPeers] = {}
        self._made = 0
        self._side: dict[int, int] = {}

    def add(self, peers: "LocalPeers") -> str:
        """The address of a new process."""
        self._made += 1
        address = f"peer/{self._made}"
        self._living[address] = peers
        return address

    def remove(self, peers: "LocalPeers") -> None:
        """The process is dead: all that know of it hear so, but across a cut."""
        self._living.pop(peers.address, None)
        for other in list(self._living.values()):
            if self.is_joined(peers.node, other.node):
                other.heard_end(peers.address)

    def kill(self, node: int, part: int | None = None) -> None:
        """End the processes of a node, or one of them, without a word."""
        for peers in list(self._living.values()):
            if peers.node == node and part in {None, peers.part}:
                peers.close()

    def partition(self, *sides: Collection[int]) -> None:
        """Cut the network between these sets of nodes; those in none of them are one more side.

        Callers from outside the nodes (`OUTSIDE`) are on the first side.
        """
        self._side = {node: number for number, side in enumerate(sides) for node in side}
        self._side[OUTSIDE] = 0

    def heal(self) -> None:
        """Join the network again."""
        self._side = {}

    def side(self, node: int) -> int:
        """Names the side that a node is on."""
        return self._side.get(node, WHOLE)

    def is_joined(self, one: int | None, other: int | None) -> bool:
        """Whether messages pass between these nodes."""
        return one == other or self._side.get(one, WHOLE) == self._side.get(other, WHOLE)  # type: ignore[arg-type]

    def find(self, address: str) -> "LocalPeers | None":
        """The process at the address, while it lives."""
        return self._living.get(address)


class _Link:
    """What one process knows of another, and has for it."""

    __slots__ = ("address", "is_gone", "is_there", "queue")

    def __init__(self, address: str) -> None:
        self.address = address
        self.queue: list[bytes] = []
        self.is_gone = False
        self.is_there = False


class LocalPeers:
    """The links of one process. Bound to the loop that made it.

    Args:
        switchboard: Of all processes.
        sealer: Shared with whoever makes the same rows durable.

    Attributes:
        address: Of this process.
        node: Its node's index; None before `be`.
        part: Which process of its node it is.
    """

    def __init__(self, switchboard: Switchboard, sealer: Sealer | None = None) -> None:
        self._switchboard = switchboard
        self._packer = Packer(sealer)
        self._loop = asyncio.get_running_loop()
        self._listener: PeerListener | None = None
        self._links: dict[_Place, _Link] = {}
        self._writing: dict[_Place, None] = {}
        self._is_closed = False
        self.node: int | None = None
        self.part = 0
        self.address = switchboard.add(self)

    def be(self, cluster: str, node: int, part: int) -> None:
        """This is who this process is; before, nothing goes out."""
        self.node, self.part = node, part

    def start(self, listener: PeerListener) -> None:
        """See `Peers.start`."""
        self._listener = listener

    def know(self, node: int, part: int, address: str, life: int) -> None:
        """See `Peers.know`."""
        link = self._links.get((node, part))
        if link is not None and link.address == address:
            return
        self._links.pop((node, part), None)
        if address:
            self._links[node, part] = _Link(address)

    def send(self, node: int, part: int, message: Any) -> None:
        """See `Peers.send`."""
        link = self._links.get((node, part))
        if link is None or self.node is None or self._is_closed:
            return
        link.queue.append(self._packer.pack(message))
        if not self._writing:
            self._loop.call_soon(self._flush)
        self._writing[node, part] = None

    def close(self) -> None:
        """See `Peers.close`."""
        if not self._is_closed:
            self._is_closed = True
            self._switchboard.remove(self)

    def heard_end(self, address: str) -> None:
        """The process at this address is dead, if it is one that is known."""
        for place, link in self._links.items():
            if link.address == address:
                self._end(place, link)

    def _flush(self) -> None:
        writing, self._writing = self._writing, {}
        self._packer.forget()
        if self._is_closed:
            return
        for place in writing:
            link = self._links.get(place)
            if link is not None:
                self._deliver(place, link)

    def _deliver(self, place: _Place, link: _Link) -> None:
        queue, link.queue = link.queue, []
        if not queue or not self._switchboard.is_joined(self.node, place[0]):
            return
        other = self._switchboard.find(link.address)
        if other is None:
            self._end(place, link)
            return
        if not link.is_there:
            link.is_there, link.is_gone = True, False
            self._loop.call_soon(self._tell, place, link)
        self._loop.call_soon(other.receive, self, join(queue))

    def _end(self, place: _Place, link: _Link) -> None:
        if not link.is_gone:
            link.is_there, link.is_gone = False, True
            self._loop.call_soon(self._tell, place, link)

    def _tell(self, place: _Place, link: _Link) -> None:
        """What the link is by now; nothing if another process has taken its place."""
        if self._listener is None or self._is_closed or self._links.get(place) is not link:
            return
        if link.is_gone:
            self._listener.gone(*place)
        else:
            self._listener.back(*place)

    def receive(self, sender: "LocalPeers", data: bytes) -> None:
        """A batch of another process."""
        node = sender.node
        if node is None or self._listener is None or self._is_closed:
            return
        if self._switchboard.is_joined(self.node, node):
            self._listener.received(node, sender.part, unpack_messages(data))
