"""What may still be served when the network is split. Safety does not depend on it: quorums do.

Theory. A strategy says which nodes are *admitted* to serve users at all. Then, for each shard, it
counts whether its quorum is within reach. That makes three columns, and with three strategies and
three levels of consistency 27 cells, each of which says what becomes of a read and of a write.

The members that are counted are the committed ones, never those that happen to be seen; exactly
half is a minority. A node that is not admitted gives up its leaderships, and does not campaign for
others, but goes on promising, accepting and voting: pausing concerns users only. Otherwise it could
keep the lead of shards that others would have to take over.
"""

from collections.abc import Mapping
from enum import Enum
from types import MappingProxyType
from typing import Final, NamedTuple

__all__ = [
    "CELLS",
    "Admission",
    "Cell",
    "Column",
    "Duties",
    "Level",
    "Outcome",
    "Rule",
    "Strategy",
    "admitted",
    "column_of",
    "duties",
    "outcome",
]


class Strategy(Enum):
    """Who goes on when the network is split."""

    PAUSE_MINORITY = "pause_minority"
    CONTINUE_ALL = "continue_all"
    LEADER_ELECTION = "leader_election"


class Level(Enum):
    """The consistency of an agent type."""

    EVENTUAL = "eventual"
    SESSION = "session"
    STRONG = "strong"


class Column(Enum):
    """What a node is left with, for one shard."""

    QUORUM = "admitted, and the shard has a quorum"
    NO_QUORUM = "admitted, but the shard has no quorum"
    NOT_ADMITTED = "not admitted"


class Rule(Enum):
    """What becomes of a read or a write."""

    SERVE = "by the leader, as always"
    ACT = "without a quorum, kept apart until it can be merged"
    ACT_IF_COVERED = "as ACT, if what the session has seen is here"
    STALE = "from what is here, flagged stale"
    STALE_IF_COVERED = "as STALE, if what the session has seen is here"
    NO_QUORUM = "refused: no quorum"
    PAUSED = "refused: this side is paused; a read that asks for it gets STALE"


class Cell(NamedTuple):
    """The rules of one cell."""

    read: Rule
    write: Rule


class Outcome(Enum):
    """What a host does with one request."""

    SERVE = "pass it to the leader"
    ACT = "run it here and keep it apart"
    STALE = "answer from the own copy, flagged stale"
    NO_QUORUM = "refuse it: NoQuorumError"
    PAUSED = "refuse it: this side is paused"
    SESSION_UNAVAILABLE = "refuse it: what the session has seen is not here"


def _cells() -> Mapping[tuple[Strategy, Level, Column], Cell]:
    eventual, session, strong = Level
    normal = Cell(Rule.SERVE, Rule.SERVE)
    refused = Cell(Rule.NO_QUORUM, Rule.NO_QUORUM)
    paused = Cell(Rule.PAUSED, Rule.PAUSED)
    acting = {
        eventual: Cell(Rule.ACT, Rule.ACT),
        session: Cell(Rule.ACT_IF_COVERED, Rule.ACT_IF_COVERED),
        strong: refused,
    }
    rows = {
        (Strategy.PAUSE_MINORITY, Column.QUORUM): dict.fromkeys(Level, normal),
        (Strategy.PAUSE_MINORITY, Column.NO_QUORUM): dict.fromkeys(Level, refused),
        (Strategy.PAUSE_MINORITY, Column.NOT_ADMITTED): dict.fromkeys(Level, paused),
        (Strategy.CONTINUE_ALL, Column.QUORUM): dict.fromkeys(Level, normal),
        (Strategy.CONTINUE_ALL, Column.NO_QUORUM): acting,
        # Everybody is admitted: nobody comes here. Were somebody to, it would be as without quorum.
        (Strategy.CONTINUE_ALL, Column.NOT_ADMITTED): acting,
        (Strategy.LEADER_ELECTION, Column.QUORUM): dict.fromkeys(Level, normal),
        (Strategy.LEADER_ELECTION, Column.NO_QUORUM): {
            eventual: Cell(Rule.STALE, Rule.NO_QUORUM),
            session: refused,
            strong: refused,
        },
        (Strategy.LEADER_ELECTION, Column.NOT_ADMITTED): {
            eventual: Cell(Rule.STALE, Rule.NO_QUORUM),
            session: Cell(Rule.STALE_IF_COVERED, Rule.NO_QUORUM),
            strong: refused,
        },
    }
    return MappingProxyType(
        {
            (strategy, level, column): cell
            for (strategy, column), row in rows.items()
            for level, cell in row.items()
        }
    )


CELLS: Final = _cells()


def admitted(strategy: Strategy, *, contacts: int, members: int, reaches_root_quorum: bool) -> bool:
    """Whether a node may serve users.

    Args:
        strategy: Of the agent type.
        contacts: Members with which the node has contact both ways, itself included.
        members: All committed members.
        reaches_root_quorum: Whether a quorum of the root group answers this side.
    """
    match strategy:
        case Strategy.PAUSE_MINORITY:
            return 2 * contacts > members
        case Strategy.CONTINUE_ALL:
            return True
        case Strategy.LEADER_ELECTION:
            return reaches_root_quorum


def column_of(*, is_admitted: bool, has_quorum: bool) -> Column:
    """The column of a shard at a node."""
    if not is_admitted:
        return Column.NOT_ADMITTED
    return Column.QUORUM if has_quorum else Column.NO_QUORUM


def outcome(
    cell: Cell,
    *,
    is_read: bool,
    has_voter: bool,
    covers_session: bool,
    accepts_stale: bool = False,
) -> Outcome:
    """What becomes of one request.

    Args:
        cell: Of its strategy, level and column.
        is_read: Whether it changes nothing.
        has_voter: Whether a voter of the shard is on this node. Without a copy nobody acts or
            answers: that would deny what exists, or make a twin of it.
        covers_session: Whether that copy has all that the session has seen; without a session,
            true.
        accepts_stale: Whether the caller of a read asked for a stale answer rather than none.
    """
    rule = cell.read if is_read else cell.write
    match rule:
        case Rule.SERVE:
            return Outcome.SERVE
        case Rule.NO_QUORUM:
            return Outcome.NO_QUORUM
        case Rule.PAUSED:
            return Outcome.STALE if is_read and accepts_stale and has_voter else Outcome.PAUSED
        case Rule.ACT | Rule.ACT_IF_COVERED:
            granted = Outcome.ACT
        case Rule.STALE | Rule.STALE_IF_COVERED:
            granted = Outcome.STALE
    if not has_voter:
        return Outcome.NO_QUORUM
    if rule in {Rule.ACT_IF_COVERED, Rule.STALE_IF_COVERED} and not covers_session:
        return Outcome.SESSION_UNAVAILABLE
    return granted


class Duties(NamedTuple):
    """What a node does for its groups.

    Attributes:
        serves: Whether it serves users where it leads.
        may_lead: Whether it keeps its leaderships and campaigns for others; if not, it transfers
            or drops them.
        votes: Whether it promises, accepts and votes.
    """

    serves: bool
    may_lead: bool
    votes: bool


def duties(*, is_admitted: bool) -> Duties:
    """What a node does when it is admitted, and when it is not."""
    return Duties(serves=is_admitted, may_lead=is_admitted, votes=True)


class Admission:
    """Whether one node is admitted, once that is stable. Starts out paused.

    A node that has just lost or found its contacts waits, so that a link that comes and goes does
    not make it come and go. It is also paused from its start until it has seen a majority.

    Attributes:
        is_admitted: What holds now.
    """

    __slots__ = ("_differs_since_ms", "_stable_ms", "is_admitted")

    def __init__(self, stable_ms: int) -> None:
        """A change counts when it has lasted `stable_ms` milliseconds, >= 0."""
        self._stable_ms = stable_ms
        self._differs_since_ms: int | None = None
        self.is_admitted = False

    def observe(self, is_admitted: bool, now_ms: int) -> bool:
        """Takes in what `admitted` says now; whether that changed what holds."""
        if is_admitted == self.is_admitted:
            self._differs_since_ms = None
            return False
        if self._differs_since_ms is None:
            self._differs_since_ms = now_ms
        if now_ms - self._differs_since_ms < self._stable_ms:
            return False
        self.is_admitted = is_admitted
        self._differs_since_ms = None
        return True
