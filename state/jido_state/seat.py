"""What all roles of one replica share: who it is, what it holds, and what time it is."""

from collections.abc import Callable, Collection, Iterable
from typing import Any

from jido_placement.config import GroupConfig, Replica
from jido_placement.digest import h64
from jido_state.acceptor import Acceptor
from jido_state.journal import Journal
from jido_state.messages import Effect, Message
from jido_state.settings import GroupSettings
from jido_state.versions import NO_BALLOT, Ballot

__all__ = ["Seat"]


class Seat:
    """One replica's place in its group. Changed by the roles of that replica only.

    Attributes:
        node: Index of the node.
        shard: Names the group.
        recovery: How often recovery was forced; leads every ballot.
        settings: As given.
        acceptor: What the replica holds and promises.
        journal: What the current step wants done.
        now_ms: The time of the current step, on the node's own clock.
        heard: The ballot of the leader heard last; `NO_BALLOT` for none.
        heard_ms: When that was, moved on by the time in which the own loop did not run.
        gone: Nodes whose process is known to be gone, without another in its place as yet.
        dead: The ballot whose process is known to be gone; `NO_BALLOT` for none. That stays true
            when its node is back: the process there is another one.
        dead_ms: Since when that is known.
        due_ms: When something is to be done at the latest, if nothing happens; 0 after a step that
            may have changed that.
        config_of: Gives the root group's own config in a content; None in any other group.
        highest_round: Of all ballots seen.
        highest_config: As well: in the root group numbers of configs may go back.
    """

    __slots__ = (
        "_draws",
        "_others",
        "_others_of",
        "acceptor",
        "config_of",
        "dead",
        "dead_ms",
        "due_ms",
        "gone",
        "heard",
        "heard_ms",
        "highest_config",
        "highest_round",
        "journal",
        "node",
        "now_ms",
        "recovery",
        "settings",
        "shard",
    )

    def __init__(
        self,
        node: int,
        shard: int,
        acceptor: Acceptor,
        journal: Journal,
        settings: GroupSettings,
        *,
        recovery: int,
        now_ms: int,
        config_of: Callable[[Any], GroupConfig] | None = None,
    ) -> None:
        self.node = node
        self.shard = shard
        self.recovery = recovery
        self.config_of = config_of
        self.settings = settings
        self.acceptor = acceptor
        self.journal = journal
        self.now_ms = now_ms
        self.heard: Ballot = NO_BALLOT
        self.heard_ms = now_ms
        self.gone: set[int] = set()
        # A process begins without a leadership: one of its own node's has ended.
        promised = acceptor.promised
        self.dead: Ballot = promised if promised.node == node else NO_BALLOT
        self.dead_ms = now_ms
        self.due_ms = 0
        self.highest_round = acceptor.promised.round
        self.highest_config = acceptor.promised.config
        self._draws = 0
        self._others_of: GroupConfig | None = None  # the config that `_others` is of
        self._others: list[int] = []

    def lags(self, now_ms: int) -> bool:
        """A step begins; whether the own loop did not run for a while: nobody else was silent."""
        gap = now_ms - self.now_ms
        self.now_ms = now_ms
        self.due_ms = 0
        is_lag = gap > self.settings.max_gap_ms
        if is_lag:
            self.heard_ms += gap - self.settings.max_gap_ms // 2
        return is_lag

    def is_due(self, now_ms: int) -> bool:
        """Whether something is to be done at this time; else the time is noted, without a step."""
        if now_ms >= self.due_ms or now_ms - self.now_ms > self.settings.max_gap_ms:
            return True
        self.now_ms = now_ms
        return False

    @property
    def config(self) -> GroupConfig:
        """The newest committed config it knows."""
        return self.acceptor.header.config

    @property
    def rank(self) -> int:
        """Place in the order of preference, from 0, among those not known to be gone.

        Whose process led is not counted either when it is back: it has to listen first.
        """
        rank = 0
        for replica in self.config.members:
            if replica == self.me:
                break
            node = replica.node
            rank += node not in self.gone and not (self.is_bereft and node == self.dead.node)
        return rank

    @property
    def me(self) -> Replica:
        """This replica, as configs name it."""
        return self.acceptor.me

    @property
    def followed(self) -> Ballot:
        """The newest leader's ballot, as far as it is known: heard, or at least promised."""
        return self.acceptor.promised if self.heard == NO_BALLOT else self.heard

    @property
    def is_bereft(self) -> bool:
        """Whether the process of that leader is known to be gone."""
        return self.followed == self.dead != NO_BALLOT

    @property
    def leader(self) -> int | None:
        """The node of the leader heard last; None when none is heard."""
        silence = self.now_ms - self.heard_ms
        is_silent = self.heard == NO_BALLOT or silence >= self.settings.election_ms
        return None if is_silent else self.heard.node

    def certain(self, node: int, *, is_gone: bool) -> None:
        """The process on that node is known to be gone, with what it led; or one is there now."""
        if not is_gone:
            self.gone.discard(node)
            return
        self.gone.add(node)
        followed = self.followed
        if followed.node == node and followed != NO_BALLOT:
            self.dead, self.dead_ms = followed, self.now_ms

    def is_late(self, ballot: Ballot) -> bool:
        """Whether a heartbeat of this ballot was sent before its process was known to be gone.

        One that comes a whole pause later shows that the evidence was wrong.
        """
        return ballot == self.dead and self.now_ms - self.dead_ms < self.settings.heartbeat_ms

    def hear(self, ballot: Ballot) -> None:
        """The leader of this ballot has been heard now."""
        self.heard, self.heard_ms = ballot, self.now_ms
        self.gone.discard(ballot.node)
        if ballot == self.dead:
            self.dead = NO_BALLOT

    def others(self, without: Collection[Replica] = ()) -> list[int]:
        """The nodes of the other voters, in order of preference, each once.

        Args:
            without: Replicas to leave out.
        """
        config = self.acceptor.header.config
        if not without and config is self._others_of:
            return list(self._others)
        nodes = {
            replica.node: None
            for replica in config.members
            if replica.node != self.node and replica not in without
        }
        if not without:
            self._others_of, self._others = config, list(nodes)
        return list(nodes)

    def send(self, to: int, message: Message) -> None:
        """Sends at once."""
        self.journal.send(to, message)

    def send_all(self, nodes: Iterable[int], message: Message) -> None:
        """Sends the same to each."""
        for node in nodes:
            self.journal.send(node, message)

    def emit(self, effect: Effect) -> None:
        """Asks the driver for something."""
        self.journal.add(effect)

    def saw(self, ballot: Ballot) -> None:
        """Remembers the highest round, so that the next candidate goes above it."""
        if ballot.round > self.highest_round:
            self.highest_round = ballot.round
        if ballot.config > self.highest_config:
            self.highest_config = ballot.config

    def next_ballot(self) -> Ballot:
        """A ballot above all seen, of the config known now."""
        self.highest_round += 1
        self.highest_config = max(self.highest_config, self.config.number)
        return Ballot(self.recovery, self.highest_config, self.highest_round, self.node)

    def jitter_ms(self) -> int:
        """A number in [0, jitter_ms], other at each call and on each replica."""
        self._draws += 1
        seed = f"{self.node}:{self.shard}:{self.highest_round}:{self._draws}"
        return h64(seed) % (self.settings.jitter_ms + 1)
