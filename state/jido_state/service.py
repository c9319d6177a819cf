"""What one replica does for users: as leader, as the one that acts without a quorum, or not at all.

Theory. The layer above a group. Each request goes one of few ways, by `levels.py`: to the leader's
operations, to those of a replica that acts, to a stale copy, or back. Beside that it does what
nobody asks for: it offers entries and merges them, fires timers, delivers signals.

The driver's duties, beside those of `Group`; `Node` does the first, the third and the last:

1. Every call is made within `Group.step`, after `at` has told the time; also those of messages.
2. `PersistEntries` effects become durable in the order of their tickets, each whole; then
   `persisted` is called. What is durable of them is given to the next process's `Service`.
3. `SendEntries` goes to `receive` of the replica on that node; a node without one that is asked by
   `AskEntries` answers `NoEntries` if none of the shard's entries are in its stores.
4. `RunTurn`, `RunMerge`, `Deliver` and `DeadLetter` are each followed by what they ask for, some
   time, or by the end of the process.
5. `reachable` and `admitted` are kept as the failure detector has them: safety does not depend on
   them.
6. `members` and `epoch` are those of the newest committed record that the node knows.
"""

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from jido_placement.config import Replica
from jido_placement.policies import Outcome, Strategy
from jido_state.acting import ActingReplica, token_after
from jido_state.chores import Chores
from jido_state.divergence import Siblings
from jido_state.dots import Dot
from jido_state.entries import (
    AskEntries,
    Cover,
    Entries,
    Message,
    NoEntries,
    Offer,
    Put,
    PutAck,
    SendEntries,
)
from jido_state.group import Group
from jido_state.healing_entries import Healing
from jido_state.leadership import Leadership
from jido_state.levels import Situation, covers_session, decide, first_voter
from jido_state.merge import Merged
from jido_state.messages import Row
from jido_state.outbox import OUTBOX_TTL_MS
from jido_state.requests import Answer, Commit, OwnWork, Request, Status
from jido_state.settings import GroupSettings
from jido_state.timers import Timer
from jido_state.turns import Turns
from jido_state.versions import Version

__all__ = ["Service"]

_VERSION_FIELDS: Final = 5  # a dot of so many is a version: its turn is a leader's
_REFUSED: Final = {
    Outcome.NO_QUORUM: Status.NO_QUORUM,
    Outcome.PAUSED: Status.PAUSED,
    Outcome.SESSION_UNAVAILABLE: Status.SESSION_UNAVAILABLE,
}


class Service:
    """The layer above one group. A `Listener` of it.

    Args:
        emit: Takes effects, `Answer`s among them.
        group: The replica; not asked for before the first call.
        shard: Names the group in session tokens.
        boot: The node's boot number.
        settings: Of the group.
        next_due: See `Chores`.
        siblings: The durable entries, by key.
        period: The durable number of the last acting period; 0 for none.
        max_mailbox: Operations that may wait for one agent.
        max_keys: Of how many agents entries are held.
        signal_ttl_ms: For how long receivers remember a stream of signals.

    Attributes:
        reachable: Nodes with which this one has contact both ways.
        members: See `Healing.members`; nothing is heard of anybody else.
        epoch: See `Healing.epoch`.
        admitted: The strategies under which this node may serve users now.
        was_led: Whether it has heard of a leader of the group, or has been it, since it began.
    """

    def __init__(
        self,
        emit: Callable[[Any], None],
        group: Callable[[], Group],
        *,
        shard: int,
        boot: int,
        settings: GroupSettings,
        next_due: Callable[[Timer, int], int | None],
        siblings: Mapping[str, Siblings] | None = None,
        period: int = 0,
        max_mailbox: int = 1000,
        max_keys: int = 65_536,
        signal_ttl_ms: int = OUTBOX_TTL_MS,
    ) -> None:
        self._driver = emit
        self._group = group
        self._shard = shard
        self._settings = settings
        self._depth = 0
        self._told: deque[Answer] = deque()
        self._since_ms: int | None = None
        self._due_ms: int | None = None
        self._is_led = False  # at the last step
        self._led_ms = 0  # of the first step without a leader, once there was one
        self._offered_ms = 0
        self.was_led = False
        self.now_ms = 0
        self.reachable: frozenset[int] = frozenset()
        self.members: tuple[int, ...] = ()
        self.epoch = (0, 0)
        self.admitted: frozenset[Strategy] = frozenset(Strategy)
        self.entries = Entries(
            emit,
            siblings or {},
            period,
            resend_ms=settings.resend_ms,
            max_keys=max_keys,
            copied=self._copied,
        )
        self.chores = Chores(emit, self._own_work, next_due, ttl_ms=signal_ttl_ms)
        self.turns = Turns(
            self._emit,
            self._leader,
            max_mailbox=max_mailbox,
            window_ms=settings.dedupe_window_ms,
            shard=shard,
            trimmed=self.chores.trimmed,
        )
        self.acting = ActingReplica(
            emit,
            group,
            self.entries,
            shard=shard,
            boot=boot,
            copy_ms=settings.resend_ms,
            max_mailbox=max_mailbox,
            window_ms=settings.dedupe_window_ms,
        )
        self.healing = Healing(
            emit,
            group,
            self.entries,
            submit=self._own_work,
            own_covered=self.acting.covered,
            round_ms=settings.election_ms,
        )

    def at(self, now_ms: int, wall_ms: int) -> None:
        """Sets the time of the calls that follow, by the node's monotonic and wall clocks."""
        if self._since_ms is None:
            self._since_ms = self._led_ms = now_ms
        elif now_ms == self.now_ms and wall_ms == self.chores.wall_ms:
            return
        self.now_ms = now_ms
        self.turns.now_ms = self.acting.now_ms = self.healing.now_ms = now_ms
        self.chores.now_ms = self.entries.now_ms = now_ms
        self.turns.wall_ms = self.acting.wall_ms = self.chores.wall_ms = wall_ms
        group = self._group()
        is_led = group.leadership is not None or group.leader is not None
        if is_led or self._is_led:
            self.was_led = True
            self._led_ms = now_ms
        self._is_led = is_led

    # Steps

    def _do(self, action: Callable[..., object], *args: Any) -> None:
        """Does something, then what follows from the answers to own work; then writes."""
        self._depth += 1
        try:
            action(*args)
            while self._told and self._depth == 1:
                answer = self._told.popleft()
                owner = self.healing if answer.id.owner == "healing" else self.chores
                owner.answered(answer)
            if self._depth == 1 and self.entries.is_asking:
                self.entries.flush()  # within: what becomes durable at once may call back
        finally:
            self._depth -= 1

    def _emit(self, effect: Any) -> None:
        """Answers to own work stay here."""
        if type(effect) is Answer and type(effect.id) is OwnWork:
            self._told.append(effect)
        else:
            self._driver(effect)

    def _own_work(self, request: Request) -> None:
        self.turns.submit(request)

    def _copied(self, key: str, number: int, node: int) -> None:
        self.acting.copied(key, number, node)

    def _leader(self) -> int | None:
        return self._group().leader

    # Requests

    def submit(self, request: Request) -> None:
        """Takes an operation; its `Answer` comes in this step or a later one."""
        self._do(self._submit, request)

    @property
    def is_cut_off(self) -> bool:
        """Whether no leader has been in contact for an election's time."""
        group = self._group()
        if group.leader is not None or self._since_ms is None:
            return False
        return self.now_ms - self._since_ms >= self._settings.election_ms

    @property
    def leaderless_ms(self) -> int:
        """How long ago the last leader was given up, to a step; 0 while one is in contact.

        A replica that campaigns in vain begins its own silence anew each time; this goes on.
        """
        group = self._group()
        if group.leader is not None or self._is_led:  # given up since the last step at the earliest
            return 0
        return group.now_ms - self._led_ms

    def _submit(self, request: Request) -> None:
        is_admitted = request.strategy in self.admitted
        if is_admitted and self._group().leadership is not None:
            self.turns.submit(request)  # a leader that may serve serves all levels alike
            return
        has_leader = not self.is_cut_off
        situation = Situation(
            is_admitted=is_admitted,
            has_leader=has_leader,
            has_voter=self._may_act,
            # The leader itself looks at what it serves.
            covers_session=(has_leader and is_admitted) or self._covers(request),
        )
        outcome = decide(request, situation)
        if outcome is Outcome.SERVE:
            self.turns.submit(request)
        elif outcome is Outcome.ACT:
            first = self._first()
            if first == self._group().node:
                self._look_around()
                self.acting.submit(request)
            else:
                self._refuse(request, Status.NOT_LEADER, first)
        elif outcome is Outcome.STALE:
            self._read_stale(request)
        else:
            self._refuse(request, _REFUSED[outcome])

    def _refuse(self, request: Request, status: Status, value: Any = None) -> None:
        self._driver(Answer(request.id, status, value, token=request.token))

    @property
    def _may_act(self) -> bool:
        """Whether it votes, and has had the records for longer than a joint config lasts."""
        acceptor = self._group().acceptor
        return acceptor.is_voter() and acceptor.me in acceptor.config.voters

    def _first(self) -> int | None:
        group = self._group()
        return first_voter(group.config, self.reachable | {group.node})

    def _covers(self, request: Request) -> bool:
        version, seen = self.acting.seen(request.key)
        return covers_session(request, self._shard, version, seen)

    def _read_stale(self, request: Request) -> None:
        """Answers from the register here, which may be old, or never have had a quorum."""
        row = self._group().acceptor.rows.get(request.key)
        if row is None:
            self._refuse(request, Status.NO_QUORUM)
            return
        token = token_after(request, (row.content.version,))
        record = None if row.content.is_tomb else row.content
        answer = Answer(request.id, Status.OK, record, row.version, "local", token=token)
        self._driver(answer._replace(is_partitioned=True, is_stale=True))

    def end(self, key: str, version: Version | Dot, commit: Commit | None) -> None:
        """A `RunTurn` has run: commits what it wants; None when its handler failed."""
        if len(version) == _VERSION_FIELDS:
            self._do(self.turns.end, key, version, commit)
        else:
            self._do(self.acting.end, key, version, commit)

    def end_all(self, ended: Iterable[tuple[str, Version | Dot, Commit | None]]) -> None:
        """`end` for each of several turns: in one step they share a write and its messages."""
        for key, version, commit in ended:
            self.end(key, version, commit)

    def end_merge(self, key: str, version: Version, merged: Merged | None) -> None:
        """A `RunMerge` has run; None when it could not be."""
        self._do(self._end_merge, key, version, merged)

    def _end_merge(self, key: str, version: Version, merged: Merged | None) -> None:
        if not self.acting.end_merge(key, version, merged):
            self.turns.end_merge(key, version, merged)

    def delivered(self, key: str, names: Iterable[tuple[Dot, int]]) -> None:
        """See `Chores.delivered`."""
        self._do(self.chores.delivered, key, names)

    def undelivered(self, key: str, names: Iterable[tuple[Dot, int]]) -> None:
        """See `Chores.undelivered`."""
        self._do(self.chores.undelivered, key, names)

    # Messages

    def receive(self, sender: Replica, message: Message) -> None:
        """Handles what another replica of the shard says of entries."""
        self._do(self._receive, sender, message)

    def _receive(self, sender: Replica, message: Message) -> None:
        node = sender.node
        if self.members and node not in self.members:
            return  # what it holds was given up: actors may have been folded without it
        if isinstance(message, Put):
            if self._group().acceptor.is_voter():
                self.entries.receive_put(node, message)
        elif isinstance(message, PutAck):
            self.entries.receive_ack(node, message)
        elif isinstance(message, Offer):
            self.healing.receive_offer(node, message)
        elif isinstance(message, Cover):
            if self.entries.cover(message.key, message.merged):
                self.acting.covered()
        elif isinstance(message, AskEntries):
            is_known = message.epoch <= self.epoch
            if is_known and not self.acting.is_acting and self.healing.holds(message.rows):
                self._driver(SendEntries(node, NoEntries(message.ballot, message.number)))
        else:
            self.healing.receive_none(node, message)

    def persisted(self, ticket: int) -> None:
        """The entries up to this ticket are durable."""
        self._do(self.entries.persisted, ticket)

    def tick(self) -> int | None:
        """Lets time pass; when to let it again at the latest, None for no such time."""
        self._do(self._tick)
        return self._due_ms

    @property
    def _has_entries(self) -> bool:
        """Whether there is, or is to be, anything that was done without a quorum."""
        return bool(self.entries.held) or self.acting.is_acting or self.acting.is_waiting

    def _look_around(self) -> None:
        group = self._group()
        voters = group.config.voters
        others = [one.node for one in voters if one.node in self.reachable]
        self.acting.others = tuple(node for node in others if node != group.node)

    def _tick(self) -> None:
        group = self._group()
        due = self.turns.tick()
        self.healing.members, self.healing.epoch = self.members, self.epoch
        if self._has_entries:
            self._look_around()
        if not self.is_cut_off:
            if self.acting.is_acting:
                self.acting.stop(group.leader)
            if group.leadership is None and group.leader is not None:
                self.entries.offer([group.leader])
        elif not self._may_act:
            if self.acting.is_acting:
                self.acting.stop(None)
            # Nobody tells a replica that was removed who leads.
            members = group.config.members
            self.entries.offer(one.node for one in members if one.node != group.node)
        else:
            first = self._first()
            if first != group.node and self.acting.is_acting:
                self.acting.stop(first)
            self.entries.spread(self.acting.others)
        self.acting.tick()
        self.healing.tick()
        chores_due = self.chores.tick()
        is_busy = self._has_entries or not self.healing.is_idle
        dues = (due, chores_due, self.now_ms if is_busy else None)
        self._due_ms = min((one for one in dues if one is not None), default=None)

    # What the group tells

    def led(self, leadership: Leadership) -> None:
        """See `Listener.led`."""
        self._do(self._led, leadership)

    def _led(self, leadership: Leadership) -> None:
        if self.acting.is_acting:
            self.acting.stop(self._group().node)
        self.turns.led(leadership)
        self.healing.led(leadership)
        self.chores.led(leadership)

    def stopped(self, reason: str) -> None:
        """See `Listener.stopped`."""
        self._do(self._stopped, reason)

    def _stopped(self, reason: str) -> None:
        self.healing.stopped()
        self.chores.stopped()
        self.turns.stopped(reason)

    def ready(self, key: str) -> None:
        """See `Listener.ready`."""
        self._do(self._ready, key)

    def _ready(self, key: str) -> None:
        leadership = self._group().leadership
        row = None if leadership is None else leadership.view.get(key)
        if row is not None:
            self._noticed(key, row)
        self.turns.ready(key)

    def _noticed(self, key: str, row: Row) -> None:
        self.healing.noticed(key, row)
        self.chores.noticed(key, row)

    def committed(self, key: str, row: Row) -> None:
        """See `Listener.committed`."""
        self._do(self._committed, key, row)

    def _committed(self, key: str, row: Row) -> None:
        self._noticed(key, row)
        self.turns.committed(key, row)

    def confirmed(self, reads: list[Any]) -> None:
        """See `Listener.confirmed`."""
        self._do(self.turns.confirmed, reads)
