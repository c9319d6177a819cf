"""A leader's quiet work: making followers equal, and forgetting tombstones everywhere.

Theory. Followers never take records from each other: a copy that no ballot's leader wrote could be
counted as part of a quorum that it never was in. So when a follower's tree differs the leader lists
the leaves that differ, and writes again. A tombstone may go once no late message can bring back
what it hides: when every replica of a simple config holds exactly it, and has promised a ballot
later than the one it was written under. Then late ACCEPTs of the key's earlier life are refused
everywhere, by promise and not by clock. It also has to be done with: no signal of its agent is left
to deliver, and no turn without a quorum is named in it whose entry might still come from somewhere,
find nothing that has seen it, and bring the agent back.
*Source*: riak_ensemble (trees); Riak's note on reaping while fallbacks are in use.
"""

from jido_placement.config import Replica
from jido_state.leadership import Leadership
from jido_state.messages import IS_TOMB, Have, HeartbeatAck, Holds, List, Listed, Reap, Whole
from jido_state.seat import Seat
from jido_state.versions import Version

__all__ = ["AntiEntropy", "Reaping"]

QUIET_ROUNDS = 2  # differing heartbeats before a follower is listed while nothing is on its way
BUSY_ROUNDS = 20  # and while writes go on, during which trees differ all the time


class AntiEntropy:
    """Compares followers with the leader and lets it repair what differs."""

    def __init__(self, seat: Seat, leadership: Leadership) -> None:
        self._seat = seat
        self._leadership = leadership
        self._differed: dict[Replica, int] = {}
        self._lives: dict[Replica, int] = {}

    def heartbeat_acked(self, replica: Replica, message: HeartbeatAck) -> None:
        """Sees whether a follower differs, and asks it in what when it does for a while."""
        leadership = self._leadership
        leadership.heard(replica)
        tree = self._seat.acceptor.tree
        if message.root == tree.root:
            self._differed.pop(replica, None)
            self._lives[replica] = message.appended.life
            if not message.is_whole and self._seat.acceptor.is_whole and leadership.holds_all():
                whole = Whole(self._seat.config.number, leadership.ballot, tree.root)
                self._seat.send(replica.node, whole)
            return
        life = message.appended.life
        is_new = self._lives.setdefault(replica, life) != life
        self._lives[replica] = life
        rounds = self._differed[replica] = self._differed.get(replica, 0) + 1
        if is_new:
            self._ask(replica, 0)  # it may have forgotten what it acked from memory
        elif rounds % (QUIET_ROUNDS if leadership.is_settled() else BUSY_ROUNDS) == 0:
            self._ask(replica, 0)

    def tick(self) -> None:
        """A leader whose own rows were spoilt has learnt from a quorum what there is."""
        acceptor = self._seat.acceptor
        if not acceptor.is_whole and self._leadership.holds_all():
            acceptor.become_whole()

    def _ask(self, replica: Replica, start: int) -> None:
        digests = self._seat.acceptor.tree.digests()
        message = List(self._seat.config.number, self._leadership.ballot, digests, start)
        self._seat.send(replica.node, message)

    def listed(self, replica: Replica, message: Listed) -> None:
        """A page of what a follower holds."""
        tree = self._seat.acceptor.tree
        keys = [key for leaf in message.differing for key in tree.keys_in(leaf)]
        held: dict[str, Version] = {key: version for key, version, _, _ in message.rows}
        self._leadership.repair(replica, held, keys)
        if message.end < tree.size:
            self._ask(replica, message.end)


class Reaping:
    """Forgets tombstones, each once all replicas hold it and nothing can bring the key back."""

    def __init__(self, seat: Seat, leadership: Leadership) -> None:
        self._seat = seat
        self._leadership = leadership
        self._holders: dict[str, tuple[Version, set[Replica]]] = {}
        self._looked_ms = leadership.began_ms

    def tick(self) -> None:
        """Asks all replicas for the tombstones that are old enough."""
        seat, leadership = self._seat, self._leadership
        settings = seat.settings
        now = seat.now_ms
        if (
            now - leadership.began_ms < settings.dedupe_window_ms
            or now - self._looked_ms < settings.election_ms
            or seat.config.is_joint
            or leadership.config != seat.config
        ):
            return
        self._looked_ms = now
        self._holders = {
            key: (row.version, set()) for key, row in leadership.view.items() if self._may_go(key)
        }
        for key, (version, _) in list(self._holders.items()):
            message = Have(seat.config.number, leadership.ballot, key, version)
            seat.send_all(seat.others(), message)
            self._count(key, seat.me)

    def _may_go(self, key: str) -> bool:
        row = self._leadership.view[key]
        return (
            row.flags == IS_TOMB
            and row.tomb < self._leadership.ballot
            and self._leadership.is_ready(key)
            and not self._leadership.has_turn(key)
        )

    def holds(self, replica: Replica, message: Holds) -> None:
        """A replica holds exactly this tombstone."""
        asked = self._holders.get(message.key)
        if asked is not None and asked[0] == message.version:
            self._count(message.key, replica)

    def _count(self, key: str, replica: Replica) -> None:
        seat, leadership = self._seat, self._leadership
        version, holders = self._holders[key]
        mine = seat.acceptor.rows.get(key)
        # Its own row, too, has to be durable: it would come back with what it held before.
        is_mine = mine is not None and mine.version == version and leadership.has_durably(version)
        if replica != seat.me or is_mine:
            holders.add(replica)
        if any(one not in holders for one in seat.config.members):
            return
        del self._holders[key]
        row = leadership.view.get(key)
        if seat.config.is_joint or row is None or row.version != version or not self._may_go(key):
            return
        message = Reap(seat.config.number, leadership.ballot, key, version)
        seat.send_all(seat.others(), message)
        seat.acceptor.reap(message)
        leadership.forget(key)
