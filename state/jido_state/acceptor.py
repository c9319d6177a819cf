"""What a replica holds and promises: the part that outlives its process.

Theory. A register changes by ACCEPT from a ballot's leader, and is forgotten by REAP from it; by
nothing else. A replica that promised a ballot accepts nothing lower, so that whoever gathers the
promises of a quorum knows every content that could have been acknowledged before. Whatever an
answer rests on is durable before the answer leaves, except for rows that are to be acked from
memory: their ack says that the row is here, and that it is lost with this process until it is
written. The promise it is given under is durable in any case, and so is everything that a
candidate, or a leader who looks at what is held, is told.
*Source*: Lamport, Paxos made simple, section 2.2; riak_ensemble's peers.
*Departure*: one promise covers all registers of a shard.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from jido_placement.config import GroupConfig, Replica
from jido_state.appends import Appends
from jido_state.journal import Journal
from jido_state.merkle import MerkleTree
from jido_state.messages import (
    IS_TOMB,
    Accept,
    Accepted,
    Confirm,
    Confirmed,
    Copied,
    Copy,
    Have,
    Header,
    Holds,
    List,
    Listed,
    Missing,
    Nack,
    Prepare,
    Promise,
    Read,
    ReadAnswer,
    Reap,
    Row,
    Staged,
    Whole,
)
from jido_state.versions import Ballot

__all__ = ["Acceptor"]


class Acceptor:
    """The header and the rows of one replica, and its answers to those who lead.

    Invariants: `header.promised` never falls (I2). A row is written under a ballot only when that
    ballot is not below the promise, in the same durable write (I3).

    Attributes:
        appends: How much the stores of the group have written.
        header: The replica's identity and promise, as of the last step, durable or on its way.
        me: Node and assignment: how this replica is named in configs. Both are fixed.
        rows: What it holds, by key; read by others, changed here only.
        staged: Copied as a learner; spares a transfer, proves nothing.
        is_whole: Whether what is absent here is known to be absent: false after a bad row.
    """

    __slots__ = (
        "_bad",
        "_config_of",
        "_journal",
        "_list_rows",
        "_unwritten_ms",
        "appends",
        "header",
        "is_whole",
        "me",
        "node",
        "rows",
        "staged",
        "tree",
    )

    def __init__(
        self,
        node: int,
        header: Header,
        journal: Journal,
        *,
        rows: Mapping[str, Row],
        bad: Iterable[str],
        config_of: Callable[[Any], GroupConfig] | None = None,
        leaves: int,
        list_rows: int,
        appended: int,
        life: int,
        unwritten_ms: int = 0,
    ) -> None:
        self.appends = Appends(appended, life)
        self.node = node
        self.header = header
        self.me = Replica(node, header.rno)
        self.rows = dict(rows)
        self.staged: dict[str, Row] = {}
        self._config_of = config_of
        self._bad = tuple(sorted(bad))
        self.is_whole = not self._bad
        self.tree = MerkleTree(leaves)
        for key, row in self.rows.items():
            self.tree.put(key, row.version, row.flags)
        self._journal = journal
        self._list_rows = list_rows
        self._unwritten_ms = unwritten_ms  # a disk that is later than this has its acks waited for

    @property
    def promised(self) -> Ballot:
        """The highest ballot it promised."""
        return self.header.promised

    @property
    def config(self) -> GroupConfig:
        """The newest committed config it knows."""
        return self.header.config

    def is_voter(self) -> bool:
        """Whether it may answer those who elect, lead and read (R0)."""
        header = self.header
        if header.status != "voter":
            return False
        return self.me in header.config.members

    def adopt(self, config: GroupConfig) -> None:
        """Makes a newer committed config its own; one that no longer names it ends it.

        A voter to be starts without records: what it copied stays aside.
        """
        if self.me in config.members:
            status = "voter"
        elif self.me in config.learners:
            status = "learner"
        else:
            status = "removed"
        before = self.header.status
        if before == "pending" and status != "removed":
            status = "pending"  # until the root group has recorded that it is formatted
        elif before == "removed" or (before == "lost" and status != "removed"):
            status = before
        elif before == "voter" and self._config_of is not None:
            # The record that removes it may yet come to nothing: it goes on answering, for ever.
            status = "voter"
        self.header = self.header._replace(config=config, status=status)
        self._journal.write_header(self.header)
        if status == "removed" and (self.rows or self.staged):
            self._clear()

    def formatted(self) -> None:
        """The root group has recorded that this replica has a header: it may answer."""
        if self.header.status == "pending":
            self.header = self.header._replace(status="learner")
            self.adopt(self.header.config)

    def lose(self) -> None:
        """Its store has forgotten what it said: it says nothing more, and keeps what is left."""
        self.header = self.header._replace(status="lost")
        self._journal.write_header(self.header)

    def _clear(self) -> None:
        for key in self.rows:
            self.tree.drop(key)
        self.rows.clear()
        self.staged.clear()
        self._journal.clear_rows()

    def promise(self, ballot: Ballot) -> None:
        """Raises the promise; durable with this step's write."""
        if ballot > self.header.promised:
            self.header = self.header._replace(promised=ballot)
            self._journal.write_header(self.header)

    def put(self, key: str, row: Row) -> None:
        """Stores a row; durable with this step's write."""
        self.rows[key] = row
        self.tree.put(key, row.version, row.flags)
        self._journal.write_row(key, row)
        if self._config_of is not None:
            self.use(self._config_of(row.content))

    def use(self, config: GroupConfig) -> None:
        """Goes by this config, be its number higher or lower: the root group's own."""
        if config != self.header.config:
            self.adopt(config)

    def forget(self, key: str) -> None:
        """Drops a row; durable with this step's write."""
        del self.rows[key]
        self.tree.drop(key)
        self._journal.write_row(key, None)

    def refuses(self, sender: Replica, ballot: Ballot) -> bool:
        """Whether a higher ballot was promised; tells the sender so, once that is durable."""
        if ballot >= self.header.promised:
            return False
        nack = Nack(self.config.number, ballot, self.header.promised)
        self._journal.send_when_durable(sender.node, nack)
        return True

    def prepare(self, sender: Replica, message: Prepare) -> None:
        """PROMISE, also when asked again: the candidate may have lost the answer."""
        if self.refuses(sender, message.ballot):
            return
        self.promise(message.ballot)
        self._journal.send_when_durable(sender.node, self.promise_of(message.ballot))

    def promise_of(self, ballot: Ballot) -> Promise:
        """What it says to the candidate it promised."""
        told = self.appends.known(self.me, self.config.members)
        return Promise(self.config.number, ballot, self.tree.root, self.is_whole, told)

    def list_rows(self, sender: Replica, message: List) -> None:
        """The rows of the leaves that differ from the candidate's, from the asked leaf on."""
        if self.refuses(sender, message.ballot):
            return
        self.promise(message.ballot)
        start, own = message.start, self.tree.digests()
        rows: list[tuple[str, Row]] = []
        differing = []
        leaf = start
        while leaf < len(own) and len(rows) < self._list_rows:
            if message.digests[leaf] != own[leaf]:
                differing.append(leaf)
                rows.extend((key, self.rows[key]) for key in self.tree.keys_in(leaf))
            leaf += 1
        listed = tuple((key, row.version, row.flags, row.tomb) for key, row in rows)
        answer = Listed(
            self.config.number, message.ballot, start, leaf, tuple(differing), listed, self.is_whole
        )
        self._journal.send_when_durable(sender.node, answer)

    def read(self, sender: Replica, message: Read) -> None:
        """The row of a key."""
        if self.refuses(sender, message.ballot):
            return
        self.promise(message.ballot)
        answer = ReadAnswer(
            self.config.number, message.ballot, message.key, self.rows.get(message.key)
        )
        self._journal.send_when_durable(sender.node, answer)

    def accept(self, sender: Replica, message: Accept) -> None:
        """Stores what is newer than what it has, and acks all of it once durable, or at once.

        At once what is sent as `in_memory`, if the disk keeps up and the promise is durable.
        """
        ballot = message.ballot
        if self.refuses(sender, ballot):
            return
        self.promise(ballot)
        numbers, missing = self.store(message.rows)
        config = self.header.config.number
        if numbers and message.in_memory and self._journal.has_promise(self._unwritten_ms):
            self._ack(sender.node, config, ballot, tuple(numbers))
        elif numbers:
            self._journal.when_durable(self._ack, sender.node, config, ballot, tuple(numbers))
        if missing:
            self._journal.send(sender.node, Missing(config, ballot, tuple(missing)))

    def _ack(self, node: int, config: int, ballot: Ballot, numbers: tuple[int, ...]) -> None:
        self._journal.send(node, Accepted(config, ballot, numbers, self.appends.own))

    def store(self, rows: Iterable[tuple[str, Row]]) -> tuple[list[int], list[int]]:
        """Stores what is newer; the numbers stored (or held already), and those without content."""
        numbers: list[int] = []
        missing: list[int] = []
        held = self.rows
        for key, row in rows:
            mine = held.get(key)
            if mine is None or mine.version < row.version:
                if type(row.content) is Staged:
                    copied = self.staged.get(key)
                    if copied is None or copied.version != row.content.version:
                        missing.append(row.version.number)
                        continue
                    row = row._replace(content=copied.content)  # noqa: PLW2901
                self.put(key, row)
            numbers.append(row.version.number)
        return numbers, missing

    def confirm(self, sender: Replica, message: Confirm) -> None:
        """Whether the leader's ballot is still the highest it promised."""
        if self.refuses(sender, message.ballot):
            return
        self.promise(message.ballot)
        answer = Confirmed(self.config.number, message.ballot, message.round)
        self._journal.send_when_durable(sender.node, answer)

    def have(self, sender: Replica, message: Have) -> None:
        """Whether it holds exactly this tombstone, under a promise of exactly this ballot."""
        if self.refuses(sender, message.ballot):
            return
        self.promise(message.ballot)
        row = self.rows.get(message.key)
        if row is not None and row.version == message.version:
            answer = Holds(self.config.number, message.ballot, message.key, message.version)
            self._journal.send_when_durable(sender.node, answer)

    def reap(self, message: Reap) -> None:
        """Forgets a tombstone; anything else it holds of the key stays."""
        row = self.rows.get(message.key)
        if (
            self.promised == message.ballot
            and row is not None
            and row.version == message.version
            and row.flags & IS_TOMB
        ):
            self.forget(message.key)

    def whole(self, message: Whole) -> None:
        """The leader holds what this replica holds, so that nothing is missing here any more."""
        if self.promised == message.ballot and self.tree.root == message.root:
            self.become_whole()

    def become_whole(self) -> None:
        """It holds whatever there is to be held: the spoilt rows can go."""
        self.is_whole = True
        for key in self._bad:
            if key not in self.rows:
                self._journal.write_row(key, None)
        self._bad = ()

    def copy(self, sender: Replica, message: Copy) -> None:
        """A page of rows for a learner."""
        rows: list[tuple[str, Row]] = []
        leaf = message.start
        while leaf < self.tree.size and len(rows) < self._list_rows:
            rows.extend((key, self.rows[key]) for key in self.tree.keys_in(leaf))
            leaf += 1
        page = Copied(self.config.number, message.start, leaf, tuple(rows))
        self._journal.send(sender.node, page)
