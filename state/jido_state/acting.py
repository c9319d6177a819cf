"""A replica that goes on without a quorum: operations as at a leader, kept apart as entries.

Theory. It begins from what it holds itself, register and entries together, runs one turn at a time
per agent, and writes what comes of it as an entry; the register is never touched. An answer says
so: held by two replicas of this side or by one, and without a fence. Op ids count within the side.
Timers do not fire and signals are not delivered until a leader has merged. "There is no such agent"
is not for it to say: another replica may hold what this one was never sent.

What it does it does as one actor, whose deeds are counted. The actor is over when the replica stops
acting, and also when entries are covered meanwhile: the next turn could begin from a register that
lacks them, and count on from there.

A session that reads here has seen the register's last turn, which may prove to be one that no
quorum ever had: its token names that turn, so that no leader that lacks it serves the session.
*Source*: section 1.12 and findings 18 to 23 of the replication protocol.
"""

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, NamedTuple

from jido_state.dedupe import DEDUPE_WINDOW_MS, Fresh, Hit, lookup
from jido_state.divergence import NO_SIBLINGS, Entry, Siblings
from jido_state.dots import NOTHING_SEEN, Acting, Dot, VersionVector
from jido_state.entries import Entries
from jido_state.group import Group
from jido_state.levels import covers_session
from jido_state.merge import Merged
from jido_state.operations import OpId
from jido_state.record import Record
from jido_state.requests import (
    REFUSED,
    Answer,
    Commit,
    Request,
    RunMerge,
    RunTurn,
    Status,
    completed,
    signal_refusal,
)
from jido_state.session import Token, TokenFullError
from jido_state.versions import NO_VERSION, Version

__all__ = ["ActingReplica", "token_after"]


class _View(NamedTuple):
    """What is known here of an agent: the register with the entries beside it."""

    record: Record | None
    version: Version  # of the register
    siblings: Siblings
    dots: tuple[Dot, ...]  # what a session has seen that reads it
    is_bare: bool  # the register's last turn is in no entry: no quorum may ever have had it


class _Turn:
    __slots__ = ("dot", "is_written", "request", "view")

    def __init__(self, request: Request, dot: Dot, view: _View) -> None:
        self.request = request
        self.dot = dot
        self.view = view
        self.is_written = False


class _Agent:
    """One agent while this replica acts for it."""

    __slots__ = ("merging", "queue", "reads", "turn", "view")

    def __init__(self) -> None:
        self.queue: deque[Request] = deque()
        self.reads: list[Request] = []
        self.turn: _Turn | None = None
        self.view: _View | None = None
        self.merging: _View | None = None  # without record: what is being merged


class _Waiting:
    """An answer that waits for a second copy."""

    __slots__ = ("answer", "is_copied", "is_durable", "key", "number", "since_ms")

    def __init__(self, key: str, number: int, answer: Answer, since_ms: int) -> None:
        self.key = key
        self.number = number
        self.answer = answer
        self.since_ms = since_ms
        self.is_durable = False
        self.is_copied = False


class ActingReplica:
    """The operations of one shard on a replica that acts.

    Args:
        emit: Takes effects.
        group: Its replica.
        entries: What it holds.
        shard: Names the group in session tokens.
        boot: Its node's boot number.
        copy_ms: How long a second copy is waited for.
        max_mailbox: Operations that may wait for one agent.
        window_ms: How long op ids are remembered.

    Attributes:
        others: Nodes of the other voters within reach, in order of preference.
        now_ms: The time of the current step, on the node's own monotonic clock.
        wall_ms: The same on its wall clock.
    """

    def __init__(
        self,
        emit: Callable[[Any], None],
        group: Callable[[], Group],
        entries: Entries,
        *,
        shard: int,
        boot: int,
        copy_ms: int,
        max_mailbox: int = 1000,
        window_ms: int = DEDUPE_WINDOW_MS,
    ) -> None:
        self._emit = emit
        self._group = group
        self._entries = entries
        self._shard = shard
        self._boot = boot
        self._copy_ms = copy_ms
        self._max_mailbox = max_mailbox
        self._window_ms = window_ms
        self.others: tuple[int, ...] = ()
        self.now_ms = 0
        self.wall_ms = 0
        self._began_ms = 0
        self._actor: Acting | None = None
        self._reserved: Acting | None = None  # not durable yet
        self._count = 0
        self._agents: dict[str, _Agent] = {}
        self._waiting: dict[str, list[_Waiting]] = {}  # by key, in the order of their numbers

    @property
    def is_acting(self) -> bool:
        """Whether there is anything that `stop` would end."""
        return bool(self._agents) or self._actor is not None or self._reserved is not None

    @property
    def is_waiting(self) -> bool:
        """Whether answers wait for second copies."""
        return bool(self._waiting)

    def seen(self, key: str) -> tuple[Version, VersionVector]:
        """The register's version here, and all turns that register and entries have seen."""
        row = self._group().acceptor.rows.get(key)
        siblings = self._entries.durable.get(key)
        version, seen = (NO_VERSION, NOTHING_SEEN)
        if row is not None:
            version, seen = row.version, row.content.merged
        return version, seen if siblings is None else seen.join(siblings.seen())

    # Operations

    def submit(self, request: Request) -> None:
        """Takes an operation; its `Answer` comes in this step or a later one."""
        agent = self._agents.setdefault(request.key, _Agent())
        if request.kind == "read":
            agent.reads.append(request)
        elif len(agent.queue) >= self._max_mailbox:
            self._answer(request, Status.OVERLOADED)
        else:
            agent.queue.append(request)
            self._reserve()
        self._advance(request.key)

    def _answer(self, request: Request, status: Status, value: Any = None) -> None:
        self._emit(self._refused(request, status)._replace(value=value))

    def _reserve(self) -> None:
        """Begins an acting period, once its number is durable."""
        if self._actor is None and self._reserved is None:
            group = self._group()
            period = self._entries.new_period(group.header.rno)
            self._reserved = Acting(group.node, self._boot, period)
            self._entries.when_durable(self._begin_period, self._reserved)

    def _begin_period(self, reserved: Acting) -> None:
        if reserved == self._reserved:
            self._actor, self._reserved = reserved, None
            self._count = 0
            self._began_ms = self.now_ms
            for key in list(self._agents):
                self._advance(key)

    def _advance(self, key: str) -> None:
        """Answers reads and begins the next turn of an agent, if it may."""
        agent = self._agents.get(key)
        while agent is not None and (agent.reads or (agent.queue and agent.turn is None)):
            view = self._view(key, agent)
            if view is None:
                return
            reads, agent.reads = agent.reads, []
            for request in reads:
                if self._is_behind(request):
                    self._answer(request, Status.SESSION_UNAVAILABLE)
                else:
                    self._read(request, view)
            if not agent.queue or agent.turn is not None or self._actor is None:
                break
            request = agent.queue.popleft()
            refusal = self._refusal(request, view)
            if refusal is None:
                self._begin(agent, request, view, self._actor)
            elif refusal.status is Status.OK and view.is_bare:
                self._pin(agent, request, view, self._actor, refusal.value)
            else:
                self._emit(refusal)
        if agent is not None and not agent.reads and not agent.queue and agent.turn is None:
            del self._agents[key]

    # What is known here

    def _view(self, key: str, agent: _Agent) -> _View | None:
        """Register and entries together; None while the shell merges them."""
        if agent.merging is not None:
            return None
        row = self._group().acceptor.rows.get(key)
        register: Record | None = None if row is None else row.content
        version = NO_VERSION if row is None else row.version
        siblings = self._entries.durable.get(key, NO_SIBLINGS)
        known = agent.view
        if known is not None and known.version == version and known.siblings is siblings:
            return known
        left = siblings if register is None else siblings.without(register.merged)
        dots = tuple(entry.dot for entry in left.entries)
        is_bare = register is not None and not any(
            entry.record.merged.covers(register.version) for entry in left.entries
        )
        if register is not None and is_bare:
            dots = (*dots, register.version)
        view = _View(register, version, siblings, dots, is_bare)
        if len(left.entries) == 1 and left.entries[0].base == version:
            view = view._replace(record=left.entries[0].record)
        elif left.entries:
            agent.merging = view
            age_ms = self._acting_ms()
            self._emit(RunMerge(key, version, register, siblings, age_ms, self.wall_ms))
            return None
        agent.view = view
        return view

    def end_merge(self, key: str, version: Version, merged: Merged | None) -> bool:
        """The shell has merged, or could not (None); False when it was not for this replica."""
        agent = self._agents.get(key)
        if agent is None or agent.merging is None or agent.merging.version != version:
            return False
        view, agent.merging = agent.merging, None
        if merged is None:
            for request in (*agent.reads, *agent.queue):
                self._answer(request, Status.NO_QUORUM)
            agent.reads = []
            agent.queue.clear()
        else:
            record = view.record if merged.record is None else merged.record
            agent.view = view._replace(record=record)
        self._advance(key)
        return True

    def _acting_ms(self) -> int:
        return self.now_ms - self._began_ms

    # Reads

    def _read(self, request: Request, view: _View) -> None:
        """Answers from what is durable here. What is not there may be somewhere else."""
        record = view.record
        if record is None:
            self._answer(request, Status.NO_QUORUM)
            return
        self._emit(self._found(request, view, None if record.is_tomb else record))

    def _found(self, request: Request, view: _View, value: Any) -> Answer:
        """The answer to who is shown, or told of, what is here; if its session can know that."""
        answer = self._refused(request, Status.OK)
        try:
            token = token_after(request, view.dots)
        except TokenFullError:
            return answer._replace(status=Status.SESSION_UNAVAILABLE)
        return answer._replace(value=value, version=view.version, token=token)

    def _is_behind(self, request: Request) -> bool:
        """Whether the session has seen more than is here; entries may have gone since it came."""
        if request.level != "session":
            return False
        version, seen = self.seen(request.key)
        return not covers_session(request, self._shard, version, seen)

    # Turns

    def _refusal(self, request: Request, view: _View) -> Answer | None:
        """Why the turn is not to be run: it has been on this side, or it cannot be."""
        record = view.record
        if self._is_behind(request):
            return self._refused(request, Status.SESSION_UNAVAILABLE)
        if record is None:
            # Nothing is known of it. It may be made here; more cannot be said.
            if request.kind == "spawn" and self._group().acceptor.is_whole:
                return None
            return self._refused(request, Status.NO_QUORUM)
        if request.op is not None and request.kind != "signal":
            refusal = self._remembered(request, request.op, record, view)
            if refusal is not None:
                return refusal
        if request.kind == "spawn":
            return None if record.is_tomb else self._refused(request, Status.EXISTS)
        if record.is_tomb:
            return self._refused(request, Status.NOT_FOUND)
        if request.kind == "signal":
            taken = signal_refusal(request, record, self._acting_ms())
            return None if taken is None else self._refused(request, taken.status)
        return None

    def _remembered(self, request: Request, op: OpId, record: Record, view: _View) -> Answer | None:
        """What is known of an operation that has been done before, on this side or before it."""
        found = lookup(
            record.dedupe,
            op,
            now_ms=self._acting_ms(),
            ack=request.ack,
            fence=request.fence,
            window_ms=self._window_ms,
        )
        if isinstance(found, Hit):
            return self._found(request, view, found.result)
        if isinstance(found, Fresh):
            return None
        return self._refused(request, REFUSED[type(found)])

    @staticmethod
    def _refused(request: Request, status: Status) -> Answer:
        return Answer(
            request.id, status, durability="local", is_partitioned=True, token=request.token
        )

    def _begin(self, agent: _Agent, request: Request, view: _View, actor: Acting) -> None:
        self._count += 1
        agent.turn = _Turn(request, actor.dot(self._count), view)
        record = view.record
        alive = None if record is None or record.is_tomb else record
        self._emit(RunTurn(request, agent.turn.dot, alive, is_partitioned=True))

    def end(self, key: str, dot: Dot, commit: Commit | None) -> None:
        """The turn has run: keeps what it wants; None when its handler failed."""
        agent = self._agents.get(key)
        turn = None if agent is None else agent.turn
        if agent is None or turn is None or turn.dot != dot or turn.is_written:
            return
        refused = Status.FAILED if commit is None else Status.OVERLOADED
        siblings = None if commit is None else self._with_entry(key, turn, commit)
        if commit is None or siblings is None:
            agent.turn = None
            self._answer(turn.request, refused)
            self._advance(key)
            return
        self._keep(key, turn, siblings, commit.result)

    def _pin(
        self, agent: _Agent, request: Request, view: _View, actor: Acting, result: Any
    ) -> None:
        """Puts what is answered again into an entry: what it rests on may be lost otherwise.

        The leader that did it may not have had a quorum. It keeps its stamp: nothing is newer.
        """
        record = view.record
        assert record is not None
        self._count += 1
        turn = agent.turn = _Turn(request, actor.dot(self._count), view)
        entry = Entry(turn.dot, view.version, replace(record, merged=record.merged.add(turn.dot)))
        added = self._entries.get(request.key).add(entry)
        if isinstance(added, Siblings) and self._entries.has_room(request.key):
            self._keep(request.key, turn, added, result)
        else:
            agent.turn = None
            self._answer(request, Status.OVERLOADED)

    def _keep(self, key: str, turn: _Turn, siblings: Siblings, result: Any) -> None:
        """Holds the entries of a turn, and answers it once they are held well enough."""
        turn.is_written = True
        number = self._entries.put(key, siblings)
        self._entries.send_copies(key, self.others)
        token = token_after(turn.request, (turn.dot,))
        answer = self._refused(turn.request, Status.OK)._replace(
            value=result, version=turn.view.version, token=token
        )
        waiting = _Waiting(key, number, answer, self.now_ms)
        self._waiting.setdefault(key, []).append(waiting)
        self._entries.when_durable(self._durable, turn, waiting)

    def _with_entry(self, key: str, turn: _Turn, commit: Commit) -> Siblings | None:
        """The agent's entries with this turn's; None when there is no room for it."""
        record, generation, born_op, dedupe = completed(
            turn.request,
            commit,
            turn.view.record,
            turn.dot,
            now_ms=self._acting_ms(),
            window_ms=self._window_ms,
        )
        acted = record.acted(
            dot=turn.dot,
            generation=generation,
            born_op=born_op,
            dedupe=dedupe,
            is_tomb=turn.request.kind == "stop",
            wall_ms=self.wall_ms,
        )
        added = self._entries.get(key).add(Entry(turn.dot, turn.view.version, acted))
        has_room = isinstance(added, Siblings) and self._entries.has_room(key)
        return added if has_room and isinstance(added, Siblings) else None

    def _durable(self, turn: _Turn, waiting: _Waiting) -> None:
        waiting.is_durable = True
        self._answer_waiting(waiting)
        agent = self._agents.get(waiting.key)
        if agent is not None and agent.turn is turn:
            agent.turn = None
            self._advance(waiting.key)

    # Second copies

    def copied(self, key: str, number: int, _: int) -> None:
        """Another replica holds the entries that had this number."""
        for waiting in self._waiting.get(key, [])[:]:
            if waiting.number <= number:
                waiting.is_copied = True
                self._answer_waiting(waiting)

    def _answer_waiting(self, waiting: _Waiting) -> None:
        """Answers what is durable here, and somewhere else or for long enough nowhere else."""
        late = self.now_ms - waiting.since_ms >= self._copy_ms
        if waiting.is_durable and (waiting.is_copied or late or not self.others):
            left = self._waiting[waiting.key]
            left.remove(waiting)
            if not left:
                del self._waiting[waiting.key]
            durability = "two" if waiting.is_copied else "local"
            self._emit(waiting.answer._replace(durability=durability))

    # Time, and the end of it

    def tick(self) -> None:
        """Ends the waiting for time and for second copies."""
        for all_of_key in list(self._waiting.values()):
            for waiting in all_of_key[:]:
                self._answer_waiting(waiting)
        for key, agent in list(self._agents.items()):
            for request in (*agent.reads, *agent.queue):
                if request.due_ms <= self.now_ms:
                    self._answer(request, Status.LATE)
            agent.reads = [one for one in agent.reads if one.due_ms > self.now_ms]
            agent.queue = deque(one for one in agent.queue if one.due_ms > self.now_ms)
            self._advance(key)

    def covered(self) -> None:
        """Entries are covered: turns that run begin again, as the deeds of another actor."""
        if self._actor is None and self._reserved is None:
            return
        self._actor = self._reserved = None
        for agent in self._agents.values():
            turn = agent.turn
            if turn is not None and not turn.is_written:
                agent.turn = None
                agent.queue.appendleft(turn.request)
        if any(agent.queue for agent in self._agents.values()):
            self._reserve()

    def stop(self, leader: int | None) -> None:
        """A leader is in contact, or another replica is to act: what has no entry did not run.

        Args:
            leader: The node to ask, as far as it is known.
        """
        agents, self._agents = self._agents, {}
        self._actor = self._reserved = None
        for agent in agents.values():
            turn = agent.turn
            running = [] if turn is None or turn.is_written else [turn.request]
            for request in (*running, *agent.reads, *agent.queue):
                self._answer(request, Status.NOT_LEADER, leader)


def token_after(request: Request, dots: Iterable[Dot]) -> Token | None:
    """The request's token with these turns seen, where its level makes it count.

    Raises:
        TokenFullError: There is no room for them.
    """
    token = request.token
    if token is not None and request.level == "session":
        for dot in dots:
            token = token.saw_acting(request.key, dot)
    return token
