"""Operations on agents at the leader: one turn at a time per agent, reads by level.

Theory. A turn begins from committed state, runs outside (its handler is the shell's), and ends as
one write: new state, result under the op id, outbox and timers together. Between, nothing else
happens to the agent. An operation is refused only while it has surely had no effect; once its
write is on its way its outcome is unknown until it is committed.
*Source*: section 1.7 and 1.8 of the replication protocol; Terry et al., Session guarantees (1994).
"""

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Final

from jido_state.dedupe import DEDUPE_WINDOW_MS, Fresh, Hit, lookup
from jido_state.dots import NOTHING_SEEN, Dot
from jido_state.leadership import Leadership
from jido_state.merge import Merged
from jido_state.messages import Row
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
    with_token,
)
from jido_state.session import Trust
from jido_state.versions import NO_BALLOT, Version

__all__ = ["Turns"]

_OWN: Final = ("merge", "tidy", "fold")  # a leader's own work: it changes what no handler decides


class _Running:
    """The turn of one agent, from its beginning to its commit."""

    __slots__ = ("is_written", "request", "result", "version")

    def __init__(self, request: Request, version: Version) -> None:
        self.request = request
        self.version = version
        self.result: Any = None
        self.is_written = False


class _Vouch:
    """A round for the turns of one agent, and the requests that were waiting when it was asked."""

    __slots__ = ("key", "requests")

    def __init__(self, key: str, requests: tuple[Request, ...]) -> None:
        self.key = key
        self.requests = requests


class Turns:
    """The operations of one shard on one replica. A `Listener` of its group.

    Args:
        emit: Takes the `RunTurn` and `Answer` effects of the step.
        leader: Tells who leads, when this replica does not.
        max_mailbox: Operations that may wait for one agent.
        window_ms: How long op ids are remembered, in leading time.
        shard: Names the group in session tokens.
        trimmed: Gives a record of this agent without the signals that are delivered.

    Attributes:
        now_ms: The time of the current step, on the node's own monotonic clock.
        wall_ms: The same on its wall clock.
    """

    def __init__(
        self,
        emit: Callable[[Any], None],
        leader: Callable[[], int | None],
        *,
        max_mailbox: int = 1000,
        window_ms: int = DEDUPE_WINDOW_MS,
        shard: int = 0,
        trimmed: Callable[[str, Record], Record] | None = None,
    ) -> None:
        self._emit = emit
        self._leader = leader
        self._max_mailbox = max_mailbox
        self._window_ms = window_ms
        self._shard = shard
        self._trimmed = trimmed
        self._leadership: Leadership | None = None
        self._queues: dict[str, deque[Request]] = {}
        self._running: dict[str, _Running] = {}
        self._reads: dict[str, list[Request]] = {}  # confirmed, waiting for the key
        self._asked: set[str] = set()  # keys whose turn waits for a round
        self._vouched: dict[str, tuple[Request, ...]] = {}  # those that its round came after
        self._behind: dict[str, list[Request]] = {}  # their sessions have seen what is not merged
        self.now_ms = 0
        self.wall_ms = 0

    def submit(self, request: Request) -> None:
        """Takes an operation; its `Answer` comes in this step or a later one."""
        leadership = self._leadership
        if leadership is None or leadership.is_sealed:
            self._answer(request, Status.NOT_LEADER, self._successor())
        elif request.kind == "read":
            self._submit_read(leadership, request)
        else:
            queue = self._queues.setdefault(request.key, deque())
            if request.kind in _OWN:
                queue.appendleft(request)  # a full mailbox must not keep it out for ever
            elif len(queue) >= self._max_mailbox:
                self._answer(request, Status.OVERLOADED)
                return
            else:
                queue.append(request)
            self._next_turn(request.key)

    def _successor(self) -> int | None:
        leadership = self._leadership
        return self._leader() if leadership is None else leadership.successor

    def _answer(self, request: Request, status: Status, value: Any = None) -> None:
        self._emit(Answer(request.id, status, value, token=request.token))

    def _answer_ok(self, request: Request, value: Any, version: Version, row: Row | None) -> None:
        answer = Answer(request.id, Status.OK, value, version)
        self._emit_ok(answer, request, row)

    def _emit_ok(self, answer: Answer, request: Request, row: Row | None) -> None:
        """Emits an answer that rests on what is committed of the key."""
        leadership, key = self._leadership, request.key
        if leadership is not None and leadership.rests_on_memory(key):
            answer = answer._replace(durability="memory")
        record = None if row is None else row.content
        self._emit(with_token(answer, request.token, self._shard, key, record))

    def _trust(self, leadership: Leadership, request: Request, row: Row | None) -> Trust:
        """What is owed to the request's session."""
        token = request.token
        if token is None or request.level == "eventual":
            return Trust.SERVE
        seen = NOTHING_SEEN if row is None else row.content.merged
        return token.at_leader(self._shard, leadership.ballot, request.key, seen)

    def _must_wait(self, request: Request, trust: Trust) -> bool:
        """Whether the session has seen more than this leader; then the request is dealt with."""
        if trust is Trust.NOT_HERE:
            self._answer(request, Status.NOT_LEADER)
        elif trust is Trust.WAIT:
            self._behind.setdefault(request.key, []).append(request)
        return trust is Trust.NOT_HERE or trust is Trust.WAIT

    # Reads

    def _submit_read(self, leadership: Leadership, request: Request) -> None:
        if request.level == "strong":
            leadership.confirm(request)
        else:
            self._read(leadership, request)

    def _read(
        self, leadership: Leadership, request: Request, *, is_confirmed: bool = False
    ) -> None:
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
        trust = self._trust(leadership, request, row)
        if trust is Trust.CONFIRM and not is_confirmed:
            leadership.confirm(request)
        elif not self._must_wait(request, trust):
            version = max(version, leadership.ballot.version(0))
            self._answer_ok(request, record, version, row)

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
            row = leadership.view.get(key)
            if request.token is not None and self._must_wait(
                request, self._trust(leadership, request, row)
            ):
                queue.popleft()
                continue
            refusal = self._refusal(leadership, request, row)
            if refusal is None:
                queue.popleft()
                self._begin(leadership, request, row)
            elif refusal.status is Status.OK or self._is_vouched(request):
                queue.popleft()
                self._emit_ok(refusal, request, row)
            else:
                # "There is no such agent" is a read: another leader may have made it by now.
                self._confirm_first(leadership, key)
                return
        self._vouched.pop(key, None)
        if not queue:
            self._queues.pop(key, None)

    def _begin(self, leadership: Leadership, request: Request, row: Row | None) -> None:
        """Begins the turn of a request; what needs no shell ends at once."""
        key = request.key
        before: Record | None = None if row is None else row.content
        is_over = before is None or before.is_tomb or request.over is not None
        changed: Record | None = None
        if request.kind == "tidy" or (request.kind == "fold" and is_over):
            if before is not None:
                tidied = request.kind == "tidy"
                changed = request.payload(before) if tidied else before.folded(request.payload)
            if changed is None:
                self._answer(request, Status.OK)
                return
        turn = self._running[key] = _Running(request, leadership.begin(key))
        if changed is not None:
            self._write(leadership, turn, changed)
        elif request.kind == "merge":
            now_ms = self._leading_ms()
            siblings = request.payload
            self._emit(RunMerge(key, turn.version, before, siblings, now_ms, self.wall_ms))
        else:
            self._emit(RunTurn(request, turn.version, None if is_over else before))

    def _confirm_first(self, leadership: Leadership, key: str) -> None:
        """Asks for a round, which says nothing about what comes after it has begun."""
        if key not in self._asked:
            self._asked.add(key)
            leadership.confirm(_Vouch(key, tuple(self._queues.get(key, ()))))

    def _is_vouched(self, request: Request) -> bool:
        """Whether a round that began after the request came has ended."""
        return any(one is request for one in self._vouched.get(request.key, ()))

    def _refusal(self, leadership: Leadership, request: Request, row: Row | None) -> Answer | None:
        """Why the turn is not to be run: it has been, or it cannot be."""
        record: Record | None = None if row is None else row.content
        if request.kind in _OWN:
            return None
        if request.kind == "fire":
            return self._fire_refusal(request, record)
        if request.kind == "signal" and record is not None and not record.is_tomb:
            return signal_refusal(request, record, self._leading_ms())
        if row is not None and record is not None and request.op is not None:
            found = lookup(
                record.dedupe,
                request.op,
                now_ms=self._leading_ms(),
                ack=request.ack,
                fence=request.fence,
                window_ms=self._window_ms,
            )
            if isinstance(found, Hit):
                # Not the record's version: leaders between it and the row's never saw it. And
                # at least of this ballot: the one that wrote the row may not know it committed.
                seen = max(row.version, leadership.ballot.version(0))
                return Answer(request.id, Status.OK, found.result, seen)
            if not isinstance(found, Fresh):
                return Answer(request.id, REFUSED[type(found)])
        is_alive = record is not None and not record.is_tomb
        if request.kind == "spawn" and is_alive:
            assert record is not None
            is_replaced = request.over is not None and record.lives == {request.over}
            return None if is_replaced else Answer(request.id, Status.EXISTS)
        if request.kind != "spawn" and not is_alive:
            return Answer(request.id, Status.NOT_FOUND)
        return None

    @staticmethod
    def _fire_refusal(request: Request, record: Record | None) -> Answer | None:
        """A timer that has fired, or was changed, is not to fire."""
        fired = request.payload.timer
        timer = None if record is None else record.timers.get(fired.key)
        if timer is not None and (timer.dot, timer.occurrence) == (fired.dot, fired.occurrence):
            return None
        return Answer(request.id, Status.NOT_FOUND)

    def end_merge(self, key: str, version: Dot, merged: Merged | None) -> None:
        """A merge has been made: commits it; None when it could not be made."""
        record = None if merged is None else merged.record
        self.end(key, version, None if record is None else Commit(record, merged))

    def end(self, key: str, version: Dot, commit: Commit | None) -> None:
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
        turn.result = commit.result
        row = leadership.view.get(key)
        before = None if row is None else row.content
        completed = self._completed(turn, commit, before)
        self._write(leadership, turn, completed, in_memory=commit.in_memory)

    def _write(
        self, leadership: Leadership, turn: _Running, record: Record, *, in_memory: bool = False
    ) -> None:
        turn.is_written = True
        tomb = NO_BALLOT if record.tomb is None else record.tomb
        row = Row(turn.version, record.flags, tomb, record)
        in_memory = in_memory and record.level != "strong"
        leadership.write(turn.request.key, row, in_memory=in_memory)

    def _completed(self, turn: _Running, commit: Commit, before: Record | None) -> Record:
        """The record as it is committed: with generation, op ids, and what ends an agent."""
        request = turn.request
        if request.kind == "merge":
            return commit.record
        if request.kind == "fold":
            return commit.record.folded(request.payload)
        record, generation, born_op, dedupe = completed(
            request,
            commit,
            before,
            turn.version,
            now_ms=self._leading_ms(),
            window_ms=self._window_ms,
        )
        if self._trimmed is not None:
            record = self._trimmed(request.key, record)
        return record.completed(
            version=turn.version,
            generation=generation,
            born_op=born_op,
            dedupe=dedupe,
            tomb=turn.version.ballot if request.kind == "stop" else None,
            wall_ms=self.wall_ms,
        )

    def _leading_ms(self) -> int:
        leadership = self._leadership
        return 0 if leadership is None else self.now_ms - leadership.began_ms

    def tick(self) -> int | None:
        """Ends the waiting of operations whose time is up; when to look again, None for never."""
        for key, queue in list(self._queues.items()):
            if any(request.due_ms <= self.now_ms for request in queue):
                for request in queue:
                    if request.due_ms <= self.now_ms:
                        self._answer(request, Status.LATE)
                self._queues[key] = deque(r for r in queue if r.due_ms > self.now_ms)
            if not self._queues[key]:
                del self._queues[key]
        for key, waiting in list(self._behind.items()):
            for request in waiting:
                if request.due_ms <= self.now_ms:
                    self._answer(request, Status.SESSION_UNAVAILABLE)
            self._behind[key] = [r for r in waiting if r.due_ms > self.now_ms]
            if not self._behind[key]:
                del self._behind[key]
        return self.now_ms if self._queues or self._behind else None

    # What the group tells

    def led(self, leadership: Leadership) -> None:
        """See `Listener.led`."""
        self._leadership = leadership

    def stopped(self, _: str) -> None:
        """See `Listener.stopped`. What waits did not run; what runs will not be committed here."""
        self._leadership = None
        leader = self._leader()
        waiting: list[Request] = [r for queue in self._queues.values() for r in queue]
        waiting += [r for reads in (*self._reads.values(), *self._behind.values()) for r in reads]
        running = list(self._running.values())
        self._queues, self._reads, self._running, self._behind = {}, {}, {}, {}
        self._asked, self._vouched = set(), {}
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
            self._answer_ok(turn.request, turn.result, row.version, row)
        for request in self._behind.pop(key, ()):
            self.submit(request)
        self._serve_reads(key)
        self._next_turn(key)

    def confirmed(self, reads: "Iterable[Request | _Vouch]") -> None:
        """See `Listener.confirmed`."""
        for read in reads:
            leadership = self._leadership
            if leadership is None:
                return
            if isinstance(read, _Vouch):
                self._asked.discard(read.key)
                self._vouched[read.key] = read.requests
                self._next_turn(read.key)
            else:
                self._read(leadership, read, is_confirmed=True)
