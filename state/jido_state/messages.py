"""What the replicas of one group say to each other, and what they ask of their driver.

Every message begins with the number of the newest committed config its sender knows. A receiver
handles only messages of its own config number; with any other, the one who is behind gets the
config first (`ConfigIs`) and the message is sent again by its sender's timer.
"""

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from jido_placement.config import GroupConfig
from jido_state.appends import NO_COUNT, Count, Told
from jido_state.versions import NO_BALLOT, Ballot, Version

__all__ = [
    "HAS_ACTED",
    "HAS_OUTBOX",
    "HAS_TIMERS",
    "IS_TOMB",
    "UNREAD",
    "Accept",
    "Accepted",
    "ConfigIs",
    "Confirm",
    "Confirmed",
    "Copied",
    "Copy",
    "Effect",
    "Have",
    "Header",
    "Heartbeat",
    "HeartbeatAck",
    "Holds",
    "JointDone",
    "LearnerReady",
    "Led",
    "List",
    "Listed",
    "Message",
    "Missing",
    "Nack",
    "Persist",
    "Prepare",
    "Prevote",
    "PrevoteAnswer",
    "Promise",
    "Read",
    "ReadAnswer",
    "Reap",
    "Row",
    "Send",
    "Staged",
    "Stopped",
    "Transfer",
    "Whole",
]

HAS_TIMERS: Final = 1
HAS_OUTBOX: Final = 2
IS_TOMB: Final = 4
HAS_ACTED: Final = 8  # turns without a quorum are named in it, whose entries may still come


class Row(NamedTuple):
    """One register: the newest content a replica knows of a key.

    Attributes:
        version: Names this content among all contents of all keys of the shard.
        flags: Sum of `HAS_TIMERS`, `HAS_OUTBOX`, `IS_TOMB`, `HAS_ACTED`: what a new leader must
            know of a key without its content.
        tomb: The ballot a tombstone was first written under; `NO_BALLOT` for anything alive.
        content: What the layer above keeps; never looked into here.
    """

    version: Version
    flags: int = 0
    tomb: Ballot = NO_BALLOT
    content: Any = None


class _Unread:
    def __repr__(self) -> str:
        return "UNREAD"


UNREAD: Final = _Unread()  # content that a leader knows of and has not fetched


class Staged(NamedTuple):
    """Stands for content that the receiver copied as a learner.

    Attributes:
        version: The version the content had when it was copied.
    """

    version: Version


class Header(NamedTuple):
    """The durable identity of a replica; without one a process is silent.

    Attributes:
        rno: The assignment it belongs to.
        status: "pending" until the root group has recorded it as formatted; "learner"; "voter";
            "lost" once its store was found to be set back: silent until it is replaced;
            "removed", for ever, once a committed config no longer names it.
        config: The newest committed config it knows.
        promised: The highest ballot it promised; never falls.
    """

    rno: int
    status: str
    config: GroupConfig
    promised: Ballot = NO_BALLOT


class Prevote(NamedTuple):
    """Would you promise this ballot? Changes nothing."""

    config: int
    ballot: Ballot
    is_certain: bool  # the candidate knows the leader's process to be gone
    leader: Ballot  # the candidate's own ballot, when it leads and goes on to a new one


class PrevoteAnswer(NamedTuple):
    """Whether it would; with the highest promise, so that the candidate's round goes above it."""

    config: int
    ballot: Ballot
    is_granted: bool
    promised: Ballot


class Prepare(NamedTuple):
    """Promise this ballot: accept nothing below it any more."""

    config: int
    ballot: Ballot
    appends: Told = ()


class Promise(NamedTuple):
    """Promised, durably. What the sender holds cannot change but by this ballot's leader."""

    config: int
    ballot: Ballot
    root: int  # of the Merkle tree over its rows
    is_whole: bool  # whether "absent" is known to be true of what it does not hold
    appends: Told = ()


class Nack(NamedTuple):
    """Refused: a higher ballot was promised, or the sender was removed."""

    config: int
    ballot: Ballot
    promised: Ballot


class List(NamedTuple):
    """Which rows do you hold in the leaves that differ from these?"""

    config: int
    ballot: Ballot
    digests: tuple[int, ...]
    start: int  # first leaf to look at
    appends: Told = ()


class Listed(NamedTuple):
    """The rows, without content, of the leaves from `start` to `end` (exclusive) that differ."""

    config: int
    ballot: Ballot
    start: int
    end: int
    differing: tuple[int, ...]
    rows: tuple[tuple[str, Version, int, Ballot], ...]
    is_whole: bool


class Read(NamedTuple):
    """Send the content of this key in this version."""

    config: int
    ballot: Ballot
    key: str
    version: Version


class ReadAnswer(NamedTuple):
    """The row it holds; None when it holds none or does not know."""

    config: int
    ballot: Ballot
    key: str
    row: Row | None


class Accept(NamedTuple):
    """Store these rows; their versions are of the ballot.

    With `in_memory` they are acked when they are in memory, and written all the same.
    """

    config: int
    ballot: Ballot
    rows: tuple[tuple[str, Row], ...]
    in_memory: bool = False


class Accepted(NamedTuple):
    """Stored, durably but for what was sent as `in_memory`: the numbers of the versions."""

    config: int
    ballot: Ballot
    numbers: tuple[int, ...]
    appended: Count = NO_COUNT  # of the sender's store


class Missing(NamedTuple):
    """These named staged content that is not there: send it whole."""

    config: int
    ballot: Ballot
    numbers: tuple[int, ...]


class Confirm(NamedTuple):
    """Do you still follow this ballot? One round serves the reads that came before it began."""

    config: int
    ballot: Ballot
    round: int


class Confirmed(NamedTuple):
    """No higher ballot has been promised."""

    config: int
    ballot: Ballot
    round: int


class Heartbeat(NamedTuple):
    """The leader lives."""

    config: int
    ballot: Ballot
    appends: Told = ()


class HeartbeatAck(NamedTuple):
    """It is followed; with what the follower holds, so that the leader can see a difference."""

    config: int
    ballot: Ballot
    root: int
    is_whole: bool
    appended: Count = NO_COUNT


class Whole(NamedTuple):
    """The follower's tree equals the leader's: what it does not hold does not exist."""

    config: int
    ballot: Ballot
    root: int


class Have(NamedTuple):
    """Do you hold this tombstone in exactly this version?"""

    config: int
    ballot: Ballot
    key: str
    version: Version


class Holds(NamedTuple):
    """It does, and has promised no other ballot."""

    config: int
    ballot: Ballot
    key: str
    version: Version


class Reap(NamedTuple):
    """All replicas hold this tombstone: forget the key."""

    config: int
    ballot: Ballot
    key: str
    version: Version


class Copy(NamedTuple):
    """A learner asks for the rows in leaves from `start` on."""

    config: int
    start: int


class Copied(NamedTuple):
    """Rows of the leaves from `start` to `end` (exclusive), with content."""

    config: int
    start: int
    end: int
    rows: tuple[tuple[str, Row], ...]


class Transfer(NamedTuple):
    """Lead in my place: campaign at once."""

    config: int
    ballot: Ballot


class ConfigIs(NamedTuple):
    """The newest committed config the sender knows; None asks for the receiver's."""

    config: int
    committed: GroupConfig | None


Message = (
    Prevote
    | PrevoteAnswer
    | Prepare
    | Promise
    | Nack
    | List
    | Listed
    | Read
    | ReadAnswer
    | Accept
    | Accepted
    | Missing
    | Confirm
    | Confirmed
    | Heartbeat
    | HeartbeatAck
    | Whole
    | Have
    | Holds
    | Reap
    | Copy
    | Copied
    | Transfer
    | ConfigIs
)


class Send(NamedTuple):
    """Send this message to that node; it may be lost, late, repeated or out of order."""

    to: int
    message: Message


class Persist(NamedTuple):
    """Make this durable, whole and after everything asked before; then call `Group.persisted`.

    Attributes:
        ticket: Names it in the call of `persisted`; rises by one.
        header: The new header; None leaves it.
        rows: New rows by key; None deletes.
        clears: Whether all rows are deleted before.
    """

    ticket: int
    header: Header | None
    rows: Mapping[str, Row | None]
    clears: bool = False


class Led(NamedTuple):
    """This replica leads and knows every key."""

    ballot: Ballot


class Stopped(NamedTuple):
    """This replica no longer leads."""

    ballot: Ballot
    reason: str


class JointDone(NamedTuple):
    """Tell the root group: every key of the joint config is settled to both sets of voters."""

    config: int
    ballot: Ballot


class LearnerReady(NamedTuple):
    """Tell the root group: this learner has copied the rows."""

    config: int
    rno: int


Effect = Send | Persist | Led | Stopped | JointDone | LearnerReady
