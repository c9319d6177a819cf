"""Operations on agents at the leader: one turn at a time per agent, reads by level.

Theory. A turn begins from committed state, runs outside (its handler is the shell's), and ends as
one write: new state, result under the op id, outbox and timers together. Between, nothing else
happens to the agent. An operation is refused only while it has surely had no effect; once its
write is on its way its outcome is unknown until it is committed.
*Source*: section 1.7 and 1.8 of the replication protocol; Terry et al., Session guarantees (1994).
"""

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from enum import Enum
from typing import Any, Final, NamedTuple

from jido_state.dedupe import (
    DEDUPE_WINDOW_MS,
    NO_OPERATIONS,
    Expired,
    Fenced,
    Fresh,
    Full,
    Hit,
    lookup,
    remember,
)
from jido_state.leadership import Leadership
from jido_state.messages import Row
from jido_state.operations import CallerFence, OpId
from jido_state.record import Record
from jido_state.versions import NO_BALLOT, NO_VERSION, Version

__all__ = ["Answer", "Commit", "Request", "RunTurn", "Status", "Turns"]


class Status(Enum):
    """How an operation ended."""

    OK = "ok"
    FAILED = "failed"  # the handler raised; nothing changed
    NOT_FOUND = "not found"
    EXISTS = "exists"
    NOT_LEADER = "not leader"  # surely not run here: ask another replica
    LATE = "late"  # its time was up before it began
    OVERLOADED = "overloaded"
    EXPIRED = "expired"  # its op id is older than what is remembered: it may have been applied
    UNKNOWN = "unknown"  # it may take effect, now or later
    FENCED = "fenced"  # the caller has lost its right to call


class Request(NamedTuple):
    """An operation on one agent.

    Attributes:
        id: The driver's name for it; comes back in the answer.
        kind: "call", "spawn", "stop" or "read".
        key: The agent's id.
        op: Names the operation over all its attempts; None for reads.
        level: "eventual", "session" or "strong": how a read is checked.
        seen: The session's version of this shard; `NO_VERSION` for none.
        is_strict: The session forgot versions: it has to be read as strong.
        due_ms: When its time is up, on the node's clock.
        payload: What the shell needs for the turn; never looked into.
        ack: All operations of the caller below this number are answered.
        fence: The caller's right to call, when the caller is an agent.
    """

    id: Any
    kind: str
    key: str
    op: OpId | None
    level: str
    seen: Version
    is_strict: bool
    due_ms: int
    payload: Any = None
    ack: int = 0
    fence: CallerFence | None = None


class RunTurn(NamedTuple):
    """Run the handler on a copy of the record's state, then call `Turns.end` with this turn.

    Attributes:
        request: What is to be run.
        version: The turn's fence.
        record: The committed record; None when a new agent is made.
    """

    request: Request
    version: Version
    record: Record | None


class Commit(NamedTuple):
    """What a turn wants to be committed.

    Attributes:
        record: The new record, except for version, op ids and tombstone, which are filled in.
        result: What the caller gets, and gets again if it repeats the op id.
    """

    record: Record
    result: Any


class Answer(NamedTuple):
    """How a request ended.

    Attributes:
        id: The request's.
        status: How.
        value: The result; the record of a read, None when there is no agent; the node to ask of a
            `NOT_LEADER`, None when nobody knows.
        version: What the answer rests on: the session has seen it.
    """

    id: Any
    status: Status
    value: Any = None
    version: Version = NO_VERSION


class _Running:
    """The turn of one agent, from its beginning to its commit."""

    __slots__ = ("is_written", "request", "result", "version")

    def __init__(self, request: Request, version: Version) -> None:
        self.request = request
        self.version = version
        self.result: Any = None
        self.is_written = False


class Turns:
    """The operations of one shard on one replica. A `Listener` of its group.

    Args:
        emit: Takes the `RunTurn` and `Answer` effects of the step.
        leader: Tells who leads, when this replica does not.
        max_mailbox: Operations that may wait for one agent.
        window_ms: How long op ids are remembered, in leading time.
    """

    def __init__(
        self,
        emit: Callable[[Any], None],
        leader: Callable[[], int | None],
        *,
        max_mailbox: int = 1000,
        window_ms: int = DEDUPE_WINDOW_MS,
    ) -> None:
        self._emit = emit
        self._leader = leader
        self._max_mailbox = max_mailbox
        self._window_ms = window_ms
        self._leadership: Leadership | None = None
        self._queues: dict[str, deque[Request]] = {}
        self._running: dict[str, _Running] = {}
        self._reads: dict[str, list[Request]] = {}  # confirmed, waiting for the key
        self._asked: set[str] = set()  # keys whose turn waits for a round
        self._vouched: set[str] = set()  # keys for which the round has just ended
        self.now_ms = 0

    def submit(self, request: Request) -> None:
        """Takes an operation; its `Answer` comes in this step or a later one."""
        leadership = self._leadership
        if leadership is None or leadership.is_sealed:
            self._answer(request, Status.NOT_LEADER, self._successor())
        elif request.kind == "read":
            self._submit_read(leadership, request)
        else:
            queue = self._queues.setdefault(request.key, deque())
            if len(queue) >= self._max_mailbox:
                self._answer(request, Status.OVERLOADED)
                return
            queue.append(request)
            self._next_turn(request.key)

    def _successor(self) -> int | None:
        leadership = self._leadership
        return self._leader() if leadership is None else leadership.successor

    def _answer(
        self, request: Request, status: Status, value: Any = None, version: Version = NO_VERSION
    ) -> None:
        self._emit(Answer(request.id, status, value, version))

    # Reads

    def _submit_read(self, leadership: Leadership, request: Request) -> None:
        if request.level == "strong" or request.is_strict:
            leadership.confirm(request)
        elif request.seen[:4] > leadership.ballot and request.level == "session":
            # It has seen what this leader has not: somebody else leads.
            self._answer(request, Status.NOT_LEADER)
        else:
            self._read(leadership, request)

    def _read(self, leadership: Leadership, request: Request) -> None:
        """Answers from committed content, when it is there; else once it is."""
        key = request.key
        if not leadership.is_readable(key):
            self._reads.setdefault(key, []).append(request)
            leadership.make_ready(key)
            return
        row = leadership.view.get(key)
        # Absence, too, is something to have seen: nothing below this ballot can come back.
        version = leadership.ballot.version(0) if row is None else row.version
        record = None if row is None or row.content.is_tomb else row.content
        self._answer(request, Status.OK, record, max(version, leadership.ballot.version(0)))

    # Turns

    def _next_turn(self, key: str) -> None:
        """Begins the next turn of an agent, if it may."""
        leadership = self._leadership
        queue = self._queues.get(key)
        while leadership is not None and queue and key not in self._running:
            if not leadership.is_fresh:
                self._confirm_first(leadership, key)
                return
            if not leadership.is_ready(key):
                leadership.make_ready(key)
                return
            request = queue[0]
            if request.seen[:4] > leadership.ballot:
                queue.popleft()
                self._answer(request, Status.NOT_LEADER)
                continue
            row = leadership.view.get(key)
            record = None if row is None else row.content
            refusal = self._refusal(request, record)
            if refusal is None:
                queue.popleft()
                turn = _Running(request, leadership.begin(key))
                self._running[key] = turn
                alive = None if record is None or record.is_tomb else record
                self._emit(RunTurn(request, turn.version, alive))
            elif refusal.status is Status.OK or key in self._vouched:
                queue.popleft()
                self._emit(refusal)
            else:
                # "There is no such agent" is a read: another leader may have made it by now.
                self._confirm_first(leadership, key)
                return
        self._vouched.discard(key)
        if not queue:
            self._queues.pop(key, None)

    def _confirm_first(self, leadership: Leadership, key: str) -> None:
        if key not in self._asked:
            self._asked.add(key)
            leadership.confirm(key)

    def _refusal(self, request: Request, record: Record | None) -> Answer | None:
        """Why the turn is not to be run: it has been, or it cannot be."""
        if record is not None and request.op is not None:
            found = lookup(
                record.dedupe,
                request.op,
                now_ms=self._leading_ms(),
                ack=request.ack,
                fence=request.fence,
                window_ms=self._window_ms,
            )
            if isinstance(found, Hit):
                return Answer(request.id, Status.OK, found.result, record.version)
            if not isinstance(found, Fresh):
                return Answer(request.id, _REFUSED[type(found)])
        is_alive = record is not None and not record.is_tomb
        if request.kind == "spawn" and is_alive:
            return Answer(request.id, Status.EXISTS)
        if request.kind != "spawn" and not is_alive:
            return Answer(request.id, Status.NOT_FOUND)
        return None

    def end(self, key: str, version: Version, commit: Commit | None) -> None:
        """The turn has run: commits what it wants; None when its handler failed.

        A turn that this replica no longer leads for is forgotten: its caller was told.
        """
        leadership = self._leadership
        turn = self._running.get(key)
        if leadership is None or turn is None or turn.version != version or turn.is_written:
            return
        if commit is None:
            del self._running[key]
            leadership.abandon(key)
            self._answer(turn.request, Status.FAILED)
            self._next_turn(key)
            return
        turn.is_written = True
        turn.result = commit.result
        row = leadership.view.get(key)
        before = None if row is None else row.content
        record = self._completed(turn, commit, before)
        tomb = leadership.ballot if record.is_tomb else NO_BALLOT
        leadership.write(key, Row(version, record.flags, tomb, record))

    def _completed(self, turn: _Running, commit: Commit, before: Record | None) -> Record:
        """The record as it is committed: with generation, op ids, and what ends an agent."""
        request = turn.request
        is_birth = request.kind == "spawn"
        generation = turn.version if is_birth or before is None else before.generation
        born_op = request.op if is_birth or before is None else before.born_op
        table = NO_OPERATIONS if before is None else before.dedupe
        if request.op is not None:
            table = remember(
                table,
                request.op,
                commit.result,
                now_ms=self._leading_ms(),
                ack=request.ack,
                fence=request.fence,
                window_ms=self._window_ms,
            )
        return commit.record.completed(
            version=turn.version,
            generation=generation,
            born_op=born_op,
            dedupe=table,
            tomb=turn.version.ballot if request.kind == "stop" else None,
        )

    def _leading_ms(self) -> int:
        leadership = self._leadership
        return 0 if leadership is None else self.now_ms - leadership.began_ms

    def tick(self) -> None:
        """Ends the waiting of operations whose time is up."""
        for key, queue in list(self._queues.items()):
            if any(request.due_ms <= self.now_ms for request in queue):
                for request in queue:
                    if request.due_ms <= self.now_ms:
                        self._answer(request, Status.LATE)
                self._queues[key] = deque(r for r in queue if r.due_ms > self.now_ms)

    # What the group tells

    def led(self, leadership: Leadership) -> None:
        """See `Listener.led`."""
        self._leadership = leadership

    def stopped(self, _: str) -> None:
        """See `Listener.stopped`. What waits did not run; what runs will not be committed here."""
        self._leadership = None
        leader = self._leader()
        waiting: list[Request] = [r for queue in self._queues.values() for r in queue]
        waiting += [r for reads in self._reads.values() for r in reads]
        running = list(self._running.values())
        self._queues, self._reads, self._running = {}, {}, {}
        self._asked, self._vouched = set(), set()
        for request in waiting:
            self._answer(request, Status.NOT_LEADER, leader)
        for turn in running:
            # Once its write is out, only the next leader knows what became of it.
            status = Status.UNKNOWN if turn.is_written else Status.NOT_LEADER
            self._answer(turn.request, status, leader)

    def ready(self, key: str) -> None:
        """See `Listener.ready`."""
        self._serve_reads(key)
        self._next_turn(key)

    def _serve_reads(self, key: str) -> None:
        leadership = self._leadership
        if leadership is not None:
            for request in self._reads.pop(key, ()):
                self._read(leadership, request)

    def committed(self, key: str, row: Row) -> None:
        """See `Listener.committed`."""
        turn = self._running.pop(key, None)
        if turn is not None:
            self._answer(turn.request, Status.OK, turn.result, row.version)
        self._serve_reads(key)
        self._next_turn(key)

    def confirmed(self, reads: Iterable[Request | str]) -> None:
        """See `Listener.confirmed`."""
        for read in reads:
            leadership = self._leadership
            if leadership is None:
                return
            if isinstance(read, str):
                self._asked.discard(read)
                self._vouched.add(read)
                self._next_turn(read)
            else:
                self._read(leadership, read)


_REFUSED: Final[Mapping[type, Status]] = {
    Expired: Status.EXPIRED,
    Full: Status.OVERLOADED,
    Fenced: Status.FENCED,
}
