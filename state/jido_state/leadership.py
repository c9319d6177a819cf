"""What a replica does while it leads: writes, reads, settling, and the end of it.

Theory. Under one ballot one process orders the contents of each key: it keeps at most one content
of a key un-acked, and begins the next only from the committed one. A write is committed once a
quorum has it durably; the leader's own copy counts like any other. Whether a quorum still follows
it, which strong reads rest on, is seen in `rounds`.
*Source*: CASPaxos (arXiv 1802.07000); riak_ensemble.
*Departure*: a turn may be content with a quorum that has it in memory. It survives any one crash,
since whoever is elected next hears of it from the others; not two before it is written, nor one
and the return of that replica. What a leader writes again is durable in any case, and so is
everything while replicas change: what was safe is not put at risk again by a move. So is what a
single replica holds: its memory would survive nothing.
*Source*: finding 44 of the replication protocol.
"""

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from jido_placement.config import GroupConfig, Replica
from jido_state.election import Recovered
from jido_state.messages import (
    HAS_OUTBOX,
    HAS_TIMERS,
    UNREAD,
    Accept,
    Heartbeat,
    JointDone,
    Read,
    ReadAnswer,
    Row,
    Staged,
    Transfer,
)
from jido_state.pending import Listener, Pending
from jido_state.rounds import Rounds
from jido_state.seat import Seat
from jido_state.versions import Ballot, Version

__all__ = ["Leadership"]

FLAGGED: Final = HAS_TIMERS | HAS_OUTBOX


class Leadership:
    """One ballot's leader, from the end of recovery until it stops. Kept in memory only.

    Invariants: per key at most one row is on its way and not committed, and the numbers rise (I5).
    Nothing is answered from a key that is not clean under the ballot (I4). Only acks of voters
    count, and but for turns that are kept in memory only durable ones (I6, I7).

    Attributes:
        ballot: What it leads under.
        config: Whose quorums count: the newest one that this ballot may use.
        view: The newest row of each key; content may be `UNREAD`.
        began_ms: When it began.
        other_config: The config in the root group's record, when it is not the one this leader was
            elected under: it must be elected again.
    """

    def __init__(self, seat: Seat, found: Recovered, listener: Listener) -> None:
        self.ballot: Ballot = found.ballot
        self.config: GroupConfig = seat.config
        self.view: dict[str, Row] = found.view
        self.began_ms = seat.now_ms
        self.successor: int | None = None
        self.other_config: GroupConfig | None = None
        self._seat = seat
        self._listener = listener
        self._holders = found.holders
        self._unclean: set[str] = set(found.unclean)
        self._pending: dict[str, Pending] = {}
        self._sent: dict[int, Pending] = {}  # by number: everything somebody has not acked
        self._number = 0
        self._durable = 0  # the highest own number that its own store has written
        self._fresh: list[tuple[str, Pending]] = []  # of this step, to go out together
        self._reading: dict[str, tuple[int, int]] = {}  # content asked for: first, last
        self._turns: set[str] = set()  # keys on which a turn runs
        self._in_memory: set[str] = set()  # keys whose last commit rested on memory
        self._lagging: set[str] = set()  # clean keys that some replica has not got
        self._wanted: set[str] = set()  # keys the layer above waits for
        self._rounds = Rounds(seat, found.ballot, listener.confirmed)
        self._contact = self._rounds.contact
        self._heartbeat_ms = seat.now_ms - seat.settings.heartbeat_ms
        self._contact_ms = seat.now_ms  # as of the last tick
        self._reported_ms = seat.now_ms - seat.settings.election_ms
        self._sealed_until_ms = -1
        self._queue = self._order_settling()
        for row in self.view.values():
            self.has_other_config(row)

    def _order_settling(self) -> deque[str]:
        """What must be settled, flagged keys first: nobody asks for a timer."""
        rows = self._seat.acceptor.rows
        own = (
            key
            for key in self._holders
            if key not in self._unclean
            and ((mine := rows.get(key)) is None or mine.version != self.view[key].version)
        )
        keys = [*sorted(self._unclean), *sorted(own)]
        keys.sort(key=lambda key: not self.view[key].flags & FLAGGED)
        return deque(keys)

    # Writes

    @property
    def is_sealed(self) -> bool:
        """Whether new turns are refused, because it hands over."""
        return self._sealed_until_ms >= self._seat.now_ms

    @property
    def is_idle(self) -> bool:
        """Whether nothing is on its way that is not committed."""
        return not self._pending

    def is_clean(self, key: str) -> bool:
        """Whether a quorum holds exactly the newest version of the key."""
        return key not in self._unclean

    def is_ready(self, key: str) -> bool:
        """Whether the key is clean, its content is here, and nothing of it is on its way."""
        if key in self._unclean or key in self._pending:
            return False
        row = self.view.get(key)
        return row is None or row.content is not UNREAD

    def has_turn(self, key: str) -> bool:
        """Whether a turn runs on the key."""
        return key in self._turns

    def is_readable(self, key: str) -> bool:
        """Whether the committed content is here; something newer may be on its way."""
        if key in self._unclean:
            return False
        row = self.view.get(key)
        return row is None or row.content is not UNREAD

    def make_ready(self, key: str) -> None:
        """Settles the key, or fetches its content; `Listener.ready` tells when that is done."""
        self._wanted.add(key)
        self._settle(key)

    def begin(self, key: str) -> Version:
        """The version of the turn that begins now on a ready key, committed or not.

        Until `write` or `abandon` nothing else is written to the key.
        """
        self._turns.add(key)
        return self._next_version()

    def abandon(self, key: str) -> None:
        """The turn on this key ends without a write."""
        self._turns.discard(key)

    def _next_version(self) -> Version:
        self._number += 1
        return self.ballot.version(self._number)

    def rests_on_memory(self, key: str) -> bool:
        """Whether what is committed of the key may not be durable on a quorum yet."""
        return key in self._in_memory

    def write(self, key: str, row: Row, *, in_memory: bool = False) -> None:
        """Sends the row of a turn to all replicas; `Listener.committed` tells the end.

        Args:
            key: Of which.
            row: Of the version that `begin` gave.
            in_memory: Whether it is enough that a quorum has it in memory; never for an agent of
                level "strong". Where that would not survive a crash it is made durable first.

        Raises:
            RuntimeError: The key is not ready, or the version is not of this ballot: it would
                overwrite what was acknowledged.
        """
        if not self.is_ready(key) or row.version[:4] != self.ballot:
            raise RuntimeError(f"{key!r} cannot be written as {row.version} now")
        self._turns.discard(key)
        self._propose(key, row, None, in_memory=in_memory and self._has_second())

    def _has_second(self) -> bool:
        """Whether every quorum has two replicas, and none is about to be dropped."""
        config = self._seat.config
        is_changing = config.is_joint or self.config.is_joint
        is_one = len(config.voters) == 1 or len(self.config.voters) == 1
        return not is_changing and not is_one and self._seat.config_of is None

    def _propose(self, key: str, row: Row, old: Version | None, *, in_memory: bool = False) -> None:
        pending = Pending(key, row, old, self._seat.now_ms, in_memory=in_memory)
        if self._seat.config_of is not None:
            pending.config = self._seat.config_of(row.content)
        self._pending[key] = pending
        self._sent[row.version.number] = pending
        self._fresh.append((key, pending))

    def flush(self) -> None:
        """Sends this step's rows to all replicas, each in one message; itself included."""
        if not self._fresh:
            return
        fresh, self._fresh = self._fresh, []
        seat = self._seat
        self._send_fresh([pending for _, pending in fresh])
        if seat.me in seat.config.members or seat.me in self.config.members:
            # Not `Acceptor.accept`: its answer would be a message to itself.
            numbers, _ = seat.acceptor.store((key, pending.row) for key, pending in fresh)
            seat.journal.when_durable(self._own_ack, self.ballot, tuple(numbers))
            if held := [each.row.version.number for _, each in fresh if each.in_memory]:
                self.accepted(seat.me, held)  # alone no quorum: nothing is committed here

    def _others(self) -> list[int]:
        """The nodes of all voters whose acks count now, or will."""
        seat, config = self._seat, self.config
        if config is seat.acceptor.header.config:
            return seat.others()
        nodes = dict.fromkeys(seat.others())
        nodes.update((one.node, None) for one in config.members if one.node != seat.node)
        return list(nodes)

    def _send_fresh(self, sent: list[Pending]) -> None:
        number, others = self._seat.config.number, self._others()
        if any(pending.old is not None for pending in sent):  # some nodes may get references
            for node in others:
                self._send_rows(node, sent)
            return
        for in_memory in (False, True):
            if rows := tuple([(one.key, one.row) for one in sent if one.in_memory is in_memory]):
                self._seat.send_all(others, Accept(number, self.ballot, rows, in_memory))

    def _send_rows(self, node: int, sent: Iterable[Pending]) -> None:
        by_kind: dict[bool, list[tuple[str, Row]]] = {}
        for pending in sent:
            rows = by_kind.setdefault(pending.in_memory, [])
            rows.append((pending.key, self._row_for(node, pending)))
        number = self._seat.config.number
        for in_memory, rows in by_kind.items():
            self._seat.send(node, Accept(number, self.ballot, tuple(rows), in_memory))

    def _row_for(self, node: int, pending: Pending) -> Row:
        """The row; with a reference where a voter to be has copied the same content before."""
        if pending.old is None or node in pending.whole:
            return pending.row
        config = self.config
        is_joining = self._seat.config_of is None and any(
            one.node == node and one not in config.voters for one in config.joining
        )
        if not is_joining:
            return pending.row
        return pending.row._replace(content=Staged(pending.old))

    def _own_ack(self, ballot: Ballot, numbers: tuple[int, ...]) -> None:
        if ballot == self.ballot:
            self._durable = max(self._durable, *numbers)
            self.accepted(self._seat.me, numbers)

    def has_durably(self, version: Version) -> bool:
        """Whether what the leader itself holds in this version is durable here."""
        return version[:4] != self.ballot or version.number <= self._durable

    def accepted(self, replica: Replica, numbers: Iterable[int]) -> None:
        """Counts a replica's acks."""
        self._contact[replica] = self._seat.now_ms
        everyone = len(self._seat.config.members)
        for number in numbers:
            pending = self._sent.get(number)
            if pending is None:
                continue
            acks = pending.acks
            acks.add(replica)
            if not pending.is_committed and self._is_enough(pending):
                self._commit(pending)
            if pending.is_committed and len(acks) >= everyone:
                self._sent.pop(number, None)

    def missing(self, node: int, numbers: Iterable[int]) -> None:
        """A replica has not got the content it was referred to."""
        again = [self._sent[number] for number in numbers if number in self._sent]
        for pending in again:
            pending.whole.add(node)
        if again:
            self._send_rows(node, again)

    def _is_enough(self, pending: Pending) -> bool:
        """Whether a quorum has it; of both configs, for a record that changes the root group."""
        config = pending.config
        return self.config.is_quorum(pending.acks) and (
            config is None or config.is_quorum(pending.acks)
        )

    def _commit(self, pending: Pending) -> None:
        pending.is_committed = True
        if pending.config is not None:
            self._use(pending.config)
        key = pending.key
        del self._pending[key]
        self.view[key] = pending.row
        self._unclean.discard(key)
        self._holders.pop(key, None)
        if pending.in_memory:
            self._in_memory.add(key)
        else:
            self._in_memory.discard(key)
        if pending.old is None:
            self._listener.committed(key, pending.row)
        elif key in self._wanted:
            self._wanted.discard(key)
            self._listener.ready(key)
        self._settle_more()

    # Settling

    def _settle(self, key: str) -> None:
        """Moves a key one step towards ready: fetches its content, writes it again."""
        if key in self._pending or key in self._turns:
            return
        row = self.view.get(key)
        if row is None:
            self._tell_ready(key)
        elif row.content is UNREAD:
            self._fetch(key, row)
        elif key in self._unclean or key in self._lagging or self._lags_itself(key, row):
            self._lagging.discard(key)
            self._propose(key, row._replace(version=self._next_version()), row.version)
        else:
            self._tell_ready(key)

    def _lags_itself(self, key: str, row: Row) -> bool:
        mine = self._seat.acceptor.rows.get(key)
        return mine is None or mine.version != row.version

    def _tell_ready(self, key: str) -> None:
        if key in self._wanted:
            self._wanted.discard(key)
            self._listener.ready(key)

    def _fetch(self, key: str, row: Row) -> None:
        mine = self._seat.acceptor.rows.get(key)
        if mine is not None and mine.version == row.version:
            self._fetched(key, mine)
            return
        self._ask(key, row.version, self._holders.get(key, ()))

    def _ask(self, key: str, version: Version, holders: Iterable[Replica]) -> None:
        now = self._seat.now_ms
        first, last = self._reading.get(key, (now, -self._seat.settings.resend_ms))
        if now - last < self._seat.settings.resend_ms:
            return
        self._reading[key] = (first, now)
        message = Read(self._seat.config.number, self.ballot, key, version)
        nodes = (one.node for one in holders if one.node != self._seat.node)
        self._seat.send_all(nodes, message)

    def read_answered(self, message: ReadAnswer) -> None:
        """Content that was asked for."""
        key, answer = message.key, message.row
        if answer is None or key not in self._reading:
            return
        row = self.view.get(key)
        if row is None:
            if key in self._turns or key in self._pending:
                return  # something newer is being made
            # What a follower alone holds is an outcome that nobody was told: it comes true.
            self._unclean.add(key)
            self._fetched(key, answer)
        elif row.content is UNREAD and answer.version == row.version:
            self._fetched(key, answer)

    def _fetched(self, key: str, row: Row) -> None:
        self._reading.pop(key, None)
        self.view[key] = row
        if not self.has_other_config(row):
            self._settle(key)

    def has_other_config(self, row: Row) -> bool:
        """Whether this is a record of the root group that it was not elected under.

        Then it must not be written again under this ballot: the quorum that elected this leader
        may be none of the record's config.
        """
        config_of = self._seat.config_of
        if config_of is not None and row.content is not UNREAD:
            config = config_of(row.content)
            if config != self.config:
                self.other_config = config
        return self.other_config is not None

    def _settle_more(self) -> None:
        """Keeps a bounded number of background settlings going."""
        if not self._queue:
            return
        room = self._seat.settings.max_settling - len(self._pending) - len(self._reading)
        while self._queue and room > 0:
            key = self._queue.popleft()
            row = self.view.get(key)
            if row is None or key in self._pending:
                continue
            room -= 1
            self._settle(key)

    def repair(self, replica: Replica, held: Mapping[str, Version], keys: Iterable[str]) -> None:
        """A follower differs: what it lacks is written again; what it alone holds comes true.

        Args:
            replica: The follower.
            held: What it holds in the leaves that differ.
            keys: What the leader itself holds there.
        """
        coming = {each.key for each in self._sent.values() if replica not in each.acks}
        for key in keys:
            row = self.view.get(key)
            if row is None or key in coming or key in self._pending or key in self._turns:
                continue
            if held.get(key) != row.version:
                self._lagging.add(key)
                self._queue.append(key)
        for key, version in held.items():
            if key not in self.view and key not in self._pending and key not in self._turns:
                self._ask(key, version, [replica])
        self._settle_more()

    def forget(self, key: str) -> None:
        """The key's tombstone is being reaped: it is absent, and clean."""
        del self.view[key]
        self._in_memory.discard(key)

    # Reads

    def confirm(self, read: Any) -> None:
        """`Listener.confirmed` gets this back after a round that begins from now on."""
        self._rounds.confirm(read)

    def confirmed(self, replica: Replica, number: int) -> None:
        """Counts an answer to the running round."""
        self._rounds.answered(replica, number)

    @property
    def is_fresh(self) -> bool:
        """Whether a turn may begin: a quorum was in contact lately, and the own loop ran."""
        return self._rounds.is_fresh

    def doubt(self) -> None:
        """The own loop did not run for a while: somebody else may lead by now."""
        self._rounds.doubt()

    # Time

    @property
    def due_ms(self) -> int:
        """When to tick, if nothing happens before; after a tick."""
        seat = self._seat
        settings = seat.settings
        is_settling = self._reading or self._queue or self.config.is_joint
        if is_settling or self.config != seat.config or not seat.acceptor.is_whole:
            return seat.now_ms
        dues = [self._heartbeat_ms + settings.heartbeat_ms, self._contact_ms + settings.election_ms]
        oldest_ms = seat.journal.oldest_ms
        if oldest_ms is not None:
            dues.append(oldest_ms + settings.election_ms)
        if self._sent:
            dues.append(min(one.sent_ms for one in self._sent.values()) + settings.resend_ms)
        asked_ms = self._rounds.due_ms
        if asked_ms is not None:
            dues.append(asked_ms)
        return min(dues)

    def tick(self) -> str:
        """Heartbeats, repetitions, reports. Returns why it must stop, "" to go on."""
        seat = self._seat
        settings = seat.settings
        now = seat.now_ms
        self._contact_ms = self._rounds.quorum_contact_ms()
        if now - self._contact_ms >= settings.election_ms:
            return "no acks of a quorum"
        oldest_ms = seat.journal.oldest_ms
        if oldest_ms is not None and now - oldest_ms >= settings.election_ms:
            return "the store does not finish a write"
        if now - self._heartbeat_ms >= settings.heartbeat_ms:
            # All leaders of a node at the same tick, so that their heartbeats share frames.
            self._heartbeat_ms = now - now % settings.heartbeat_ms
            told = seat.acceptor.appends.known(seat.me, seat.config.members)
            message = Heartbeat(seat.config.number, self.ballot, told)
            seat.send_all(self._others(), message)
            seat.send_all((one.node for one in seat.config.learners), message)
        self._resend()
        self._settle_more()
        self._report_joint()
        return self._read_again()

    def _read_again(self) -> str:
        now = self._seat.now_ms
        for key, (first_ms, _) in sorted(self._reading.items()):
            row = self.view.get(key)
            if row is None or row.content is not UNREAD:
                del self._reading[key]  # asked for by `repair`: it will ask again
            elif now - first_ms >= self._seat.settings.election_ms:
                # Its holder is gone. Another quorum may never have heard of that content.
                return f"nobody sends the content of {key!r}"
            else:
                self._settle(key)
        return ""

    def _resend(self) -> None:
        seat = self._seat
        resend_ms = seat.settings.resend_ms
        self._send_again([p for p in self._sent.values() if seat.now_ms - p.sent_ms >= resend_ms])
        while len(self._sent) > seat.settings.max_trailing:
            number = next(iter(self._sent))
            if not self._sent[number].is_committed:
                break
            del self._sent[number]
        self._rounds.resend(seat.settings.resend_ms)

    def _send_again(self, late: Sequence[Pending]) -> None:
        seat = self._seat
        for pending in late:
            pending.sent_ms = seat.now_ms
        everyone = dict.fromkeys((*seat.config.members, *self.config.members))
        for replica in everyone:
            rows = [pending for pending in late if replica not in pending.acks]
            if rows and replica != seat.me and self._rounds.is_near(replica):
                self._send_rows(replica.node, rows)

    def heard(self, replica: Replica) -> None:
        """A replica follows."""
        self._contact[replica] = self._seat.now_ms

    def is_settled(self) -> bool:
        """Whether every key is clean, and the leader itself holds what it knows."""
        return not (self._unclean or self._queue or self._sent or self._reading)

    def holds_all(self) -> bool:
        """Whether the leader's own store holds every key it knows of, clean."""
        if self._unclean or self._reading or self._pending:
            return False
        return not any(self._lags_itself(key, row) for key, row in self.view.items())

    # Configs and handing over

    def _report_joint(self) -> None:
        config = self.config
        now = self._seat.now_ms
        if (
            config.is_joint
            and self.ballot.config == config.number
            and not self._unclean
            and now - self._reported_ms >= self._seat.settings.resend_ms
        ):
            self._reported_ms = now
            self._seat.emit(JointDone(config.number, self.ballot))

    def adopt(self, config: GroupConfig) -> bool:
        """Whether this ballot may go on under a newer committed config; if so it does.

        Only the leader of a joint config goes on, into what ends it: its quorums contained a
        majority of the old voters and one of the new. Any other needs a new ballot, and serves
        with the quorums it had until that deposes it.
        """
        self._reported_ms = self._seat.now_ms - self._seat.settings.election_ms
        is_end = self.config.is_joint and self.ballot.config == self.config.number
        is_end = is_end and config.number == self.config.number + 1 and not config.is_joint
        # Where only learners differ the quorums are the same.
        is_same = not (self.config.is_joint or config.is_joint) and (
            sorted(config.voters) == sorted(self.config.voters)
        )
        goes_on = is_end or is_same
        if goes_on:
            self._use(config)
            for pending in list(self._sent.values()):
                if not pending.is_committed and config.is_quorum(pending.acks):
                    self._commit(pending)
            self._rounds.count()
        # What went out under the older config is not taken by those who knew the newer one.
        self._send_again([one for one in self._sent.values() if not one.is_committed])
        self._rounds.resend(0)
        return goes_on

    def _use(self, config: GroupConfig) -> None:
        self.config = config
        self._rounds.use(config)

    def seal(self) -> None:
        """Refuses turns from now on, until it stops or the seal is over."""
        self._sealed_until_ms = self._seat.now_ms + self._seat.settings.seal_ms

    def check(self) -> None:
        """Raises AssertionError when an invariant does not hold: a bug of this package."""
        for key, pending in self._pending.items():
            if pending.is_committed or pending.key != key:
                raise AssertionError(f"{key!r} is pending and committed")
            if pending.row.version[:4] != self.ballot:
                raise AssertionError(f"{key!r} is written under another ballot")
        for key in self._unclean:
            if key not in self.view:
                raise AssertionError(f"{key!r} is unclean and absent")

    def transfer(self, target: int) -> None:
        """Asks a follower to lead; refuses turns for a moment so that it can."""
        self.successor = target
        self._sealed_until_ms = self._seat.now_ms + self._seat.settings.seal_ms
        self._seat.send(target, Transfer(self._seat.config.number, self.ballot))
