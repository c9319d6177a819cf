"""The host processes of a supervisor's own node: where they are, and what they are told.

Hosts have the shards, and no detector: they hear from their supervisor whom the node reaches and
whether it may serve, on each change and each second, and every newer record at once.
"""

from collections.abc import Callable, Mapping
from typing import Final

from jido_cluster.ports import Peers
from jido_cluster.runtime.gossip import Gossip, Place
from jido_cluster.runtime.peer_messages import Standing
from jido_cluster.runtime.watching import Watching
from jido_placement.record import Record
from jido_state.node_messages import RecordIs

__all__ = ["OwnHosts"]

SUPERVISOR: Final = 0
TELL_SECONDS: Final = 1.0  # between tellings of what has not changed, too


class OwnHosts:
    """The processes of one node, part 0, the supervisor, among them.

    Args:
        node: The own index.
        supervisor: The supervisor's address for control requests.
        peer: The supervisor's address for messages of the cores.
        resources: What the node has in all, by name.
        peers: Carries what they are told.
        gossip: Tells others where they are.
        watching: Knows who answers.
        record: The newest committed record.
    """

    def __init__(
        self,
        node: int,
        *,
        supervisor: str,
        peer: str,
        resources: Mapping[str, float],
        peers: Peers,
        gossip: Gossip,
        watching: Watching,
        record: Callable[[], Record],
    ) -> None:
        self._node = node
        self._peers = peers
        self._gossip = gossip
        self._watching = watching
        self._record = record
        self._place = Place(0, 0, 0, supervisor, (), (peer,), resources)
        self._told: Standing | None = None
        self._told_at = 0.0

    def registered(self, boot: int) -> None:
        """This start of the node is registered: others may hear of it."""
        life = self._place.life + 1 if self._place.boot == boot else 1
        self._place = self._place._replace(boot=boot, life=life)
        self._gossip.settle(self._place)

    def run(self, hosts: tuple[str, ...], peers: tuple[str, ...]) -> None:
        """All hosts run, at these frame and peer addresses, for parts 1 and on."""
        before = self._place.peers
        all_peers = (before[SUPERVISOR], *peers)
        self._place = self._place._replace(hosts=hosts, peers=all_peers)
        self.registered(self._place.boot)
        for part in range(1, len(all_peers)):
            if part >= len(before) or before[part] != all_peers[part]:
                self.brief(part)

    def replace(self, part: int, host: str, peer: str) -> None:
        """The host of this part, from 1, died; its successor is at these addresses."""
        hosts, peers = list(self._place.hosts), list(self._place.peers[1:])
        hosts[part - 1], peers[part - 1] = host, peer
        self._gossip.forget_host(part)
        self.run(tuple(hosts), tuple(peers))

    def brief(self, part: int) -> None:
        """Tell one of them everything."""
        self._peers.send(self._node, part, RecordIs(self._record()))
        self._peers.send(self._node, part, self._standing())

    def adopt(self, record: Record) -> None:
        """Tell all of them of a newer record."""
        self._tell(RecordIs(record))

    def tick(self, now: float) -> None:
        """Tell all of them how things stand, and others where they are, if it is time."""
        standing = self._standing()
        is_due = now - self._told_at >= TELL_SECONDS
        if is_due or standing != self._told:
            self._told = standing
            self._tell(standing)
        if is_due:
            self._told_at = now
            self._gossip.tick()

    def _standing(self) -> Standing:
        watching = self._watching
        members = tuple(one.node for one in self._record().members)
        sound = self._gossip.is_wall_sound
        return Standing(watching.contacts, watching.admitted, members, sound)

    def _tell(self, message: Standing | RecordIs) -> None:
        for part in range(1, len(self._place.peers)):
            self._peers.send(self._node, part, message)
