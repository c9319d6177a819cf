"""One replica alone: a group, a store, and what it says to the others."""

from collections.abc import Iterable
from typing import Any

from jido_placement.config import GroupConfig, Replica
from jido_state.group import Group
from jido_state.leadership import Leadership
from jido_state.messages import (
    IS_TOMB,
    Header,
    Heartbeat,
    Led,
    Persist,
    Prepare,
    Prevote,
    PrevoteAnswer,
    Promise,
    Row,
    Send,
)
from jido_state.settings import GroupSettings
from jido_state.versions import NO_BALLOT, Ballot

A, B, C, D = (Replica(node, node + 1) for node in range(4))
THREE = GroupConfig(1, (A, B, C))
SETTINGS = GroupSettings(leaves=4, jitter_ms=0, dedupe_window_ms=1_000)
OLD, NEW, NEWER = Ballot(0, 1, 3, 1), Ballot(0, 1, 4, 1), Ballot(0, 1, 5, 2)


class Layer:
    """A layer above that notes what it hears."""

    def __init__(self) -> None:
        self.leadership: Leadership | None = None
        self.heard: list[Any] = []

    def led(self, leadership: Leadership) -> None:
        self.leadership = leadership

    def stopped(self, reason: str, /) -> None:
        self.leadership = None
        self.heard.append(("stopped", reason))

    def ready(self, key: str) -> None:
        self.heard.append(("ready", key))

    def committed(self, key: str, row: Row) -> None:
        self.heard.append(("committed", key, row.content))

    def confirmed(self, reads: list[Any]) -> None:
        self.heard.append(("confirmed", *reads))


class One:
    """A replica with a store that writes at once, unless it is told to wait.

    Attributes:
        sent: What it has sent in the last step, as pairs of node and message.
        effects: What else it asked for in that step.
    """

    def __init__(
        self,
        me: Replica = A,
        config: GroupConfig = THREE,
        *,
        status: str = "voter",
        promised: Ballot = NO_BALLOT,
        rows: dict[str, Row] | None = None,
        bad: Iterable[str] = (),
        settings: GroupSettings = SETTINGS,
    ) -> None:
        self.layer = Layer()
        self.now_ms = 1_000
        self.me = me
        self.is_stuck = False
        self.tickets: list[int] = []
        header = Header(me.rno, status, config, promised)
        self.group = Group(
            me.node, 7, header, rows or {}, self.layer, settings, self.now_ms, bad=bad
        )
        self.sent: list[tuple[int, Any]] = []
        self.effects: list[Any] = []

    def _take(self, effects: list[Any]) -> None:
        self.sent, self.effects = [], []
        while effects:
            self.sent += [(each.to, each.message) for each in effects if type(each) is Send]
            self.effects += [each for each in effects if type(each) is not Send]
            tickets = [each.ticket for each in effects if type(each) is Persist]
            self.tickets += tickets
            effects = []
            if tickets and not self.is_stuck:
                effects = self.group.persisted(tickets[-1], self.now_ms)
            self.group.check()

    def get(self, sender: Replica, message: Any) -> list[Any]:
        """Receives a message; returns what is sent back to its sender."""
        self._take(self.group.receive(sender, message, self.now_ms))
        return [message for to, message in self.sent if to == sender.node]

    def write(self) -> None:
        """Everything asked for so far is durable now."""
        self._take(self.group.persisted(self.tickets[-1], self.now_ms))

    def tick(self, ms: int = 100) -> None:
        """Time passes, seen at each tenth of a second."""
        sent, effects = [], []
        for _ in range(max(1, ms // 100)):
            self.now_ms += min(ms, 100)
            self._take(self.group.tick(self.now_ms))
            sent += self.sent
            effects += self.effects
        self.sent, self.effects = sent, effects

    def do(self, name: str, *args: Any, **kwargs: Any) -> None:
        """Calls a method of the group, at its time."""
        self._take(getattr(self.group, name)(*args, self.now_ms, **kwargs))

    def messages(self, kind: type) -> list[tuple[int, Any]]:
        """What it has sent of this kind."""
        return [(to, message) for to, message in self.sent if type(message) is kind]

    def lead(self, *others: Replica, listed: dict[Replica, Any] | None = None) -> Ballot:
        """Is elected by these, who hold what it holds unless `listed` says otherwise."""
        while not self.messages(Prevote):
            self.tick()
        number = self.group.config.number
        asked = self.messages(Prevote)[0][1].ballot
        for one in others:
            self.get(one, PrevoteAnswer(number, asked, is_granted=True, promised=NO_BALLOT))
            if self.messages(Prepare):
                break
        ballot: Ballot = self.messages(Prepare)[0][1].ballot
        for one in others:
            root = self.group.acceptor.tree.root + (one in (listed or {}))
            self.get(one, Promise(number, ballot, root, is_whole=True))
            if Led(ballot) in self.effects:
                return ballot
        for one, answer in (listed or {}).items():
            self.get(one, answer(ballot))
            if Led(ballot) in self.effects:
                return ballot
        raise AssertionError(f"{self.me} does not lead")

    def leadership(self) -> Leadership:
        """What it does as a leader."""
        assert self.group.leadership is not None
        return self.group.leadership

    def leadership_number(self) -> int:
        """Of the version that it has given out last."""
        return self.leadership()._number

    def put(self, key: str, content: Any, *, tomb: Ballot = NO_BALLOT) -> Row:
        """Runs a turn on the key and writes what came of it."""
        leadership = self.leadership()
        row = Row(leadership.begin(key), IS_TOMB if tomb != NO_BALLOT else 0, tomb, content)
        self._take(self.group.step(self.now_ms, leadership.write, key, row))
        return row


def row_of(ballot: Ballot, number: int = 1, content: Any = "x", flags: int = 0) -> Row:
    """A row of something alive."""
    return Row(ballot.version(number), flags, NO_BALLOT, content)


def following(since_ms: int = 0) -> One:
    """A replica that heard a leader on B so long ago."""
    one = One()
    one.get(B, Prepare(1, NEW))
    one.get(B, Heartbeat(1, NEW))
    if since_ms:
        one.tick(since_ms)
    return one
