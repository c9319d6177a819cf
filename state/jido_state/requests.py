"""What is asked of an agent, what its shell is to run for it, and what is answered.

The same words serve a leader (`turns.py`) and a replica that acts without a quorum (`acting.py`).
A turn is named by its dot: for a leader the version it will write, which is the fence; for a
replica that acts a dot of its acting period, which is none.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from enum import Enum
from typing import Any, Final, NamedTuple

from jido_placement.policies import Strategy
from jido_state.dedupe import NO_OPERATIONS, Expired, Fenced, Full, Operations, remember
from jido_state.divergence import Siblings
from jido_state.dots import Dot
from jido_state.merge import Merged, Resolve, merge
from jido_state.operations import CallerFence, OpId
from jido_state.outbox import Outgoing, Receipts
from jido_state.record import Record
from jido_state.session import Token
from jido_state.timers import Timer
from jido_state.versions import NO_VERSION, Version

__all__ = [
    "REFUSED",
    "Answer",
    "Arrival",
    "Commit",
    "Completed",
    "Firing",
    "OwnWork",
    "Request",
    "RunMerge",
    "RunTurn",
    "Status",
    "completed",
    "signal_refusal",
    "with_token",
]

NEVER_MS: Final = 1 << 62  # when time is up for what a leader asks of itself

_REMEMBERED: Final = ("call", "spawn", "stop")


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
    NO_QUORUM = "no quorum"  # not run: the shard has none here, and may not do without
    PAUSED = "paused"  # not run: this side of a split serves nobody
    SESSION_UNAVAILABLE = "session unavailable"  # not run: what the session has seen is not here


class Request(NamedTuple):
    """An operation on one agent.

    Attributes:
        id: The driver's name for it; comes back in the answer.
        kind: "call", "spawn", "stop", "read", or "signal" for one from another agent's outbox. A
            leader asks itself for "fire" (a timer), "merge", "fold" and "tidy".
        key: The agent's id.
        op: Names the operation over all its attempts; None for reads.
        level: "eventual", "session" or "strong": how a read is checked.
        due_ms: When its time is up, on the node's clock.
        payload: What the shell needs for the turn, not looked into. Of a "signal" an `Arrival`, of
            a "fire" a `Firing`, of a "merge" the entries, of a "fold" the actors, of a "tidy" what
            changes the record.
        ack: All operations of the caller below this number are answered.
        fence: The caller's right to call, when the caller is an agent.
        token: What the session has seen; comes back with the answer added. None for no session.
        strategy: Of the agent's type: what becomes of it when the network is split.
        accepts_stale: Whether a read had rather a stale answer than none.
        over: Of a spawn: the generation of the life that the new one takes the place of, in one
            write; beside any other life it ends as `EXISTS`. None where there is to be none.
    """

    id: Any
    kind: str
    key: str
    op: OpId | None
    level: str
    due_ms: int
    payload: Any = None
    ack: int = 0
    fence: CallerFence | None = None
    token: Token | None = None
    strategy: Strategy = Strategy.PAUSE_MINORITY
    accepts_stale: bool = False
    over: Dot | None = None


class Arrival(NamedTuple):
    """A signal from another agent's outbox, as the payload of a request of kind "signal"."""

    sender: str
    signal: Outgoing


class Firing(NamedTuple):
    """A timer that is due, as the payload of a request of kind "fire".

    Attributes:
        timer: As it was when it was due.
        next_due_ms: When it is due again; None if never.
    """

    timer: Timer
    next_due_ms: int | None


class OwnWork(NamedTuple):
    """What a leader asks of itself, as the id of a request; its answer stays in the core.

    Attributes:
        owner: Who is told: "healing" or "chores".
        kind: The request's.
        key: The agent's id.
        what: For the owner.
    """

    owner: str
    kind: str
    key: str
    what: Any = None

    def request(self, payload: Any, op: OpId | None = None) -> Request:
        """The request of this name."""
        return Request(
            self,
            self.kind,
            self.key,
            op,
            "eventual",
            due_ms=NEVER_MS,
            payload=payload,
        )


class RunTurn(NamedTuple):
    """Run the handler on a copy of the record's state, then call `end` with this turn.

    Attributes:
        request: What is to be run.
        version: The turn's dot. Its actor (all but the number) is the actor of replicated fields.
            At a leader it is the turn's fence.
        record: The committed record; None when a new agent is made.
        is_partitioned: Whether the turn runs without a quorum: then it has no fence.
    """

    request: Request
    version: Version | Dot
    record: Record | None
    is_partitioned: bool = False


class RunMerge(NamedTuple):
    """Merge what was done apart, then call `end_merge` with key, version and what `run` returns.

    `run` may call the type's own code, so it may be slow. What it returns as conflicts has to be
    in the conflict log, durably, before `end_merge`: it is in no record any more after that.

    Attributes:
        key: The agent's id.
        version: Of the turn; at a replica that acts, of the register.
        record: The register's, which may be a tombstone; None when there is none.
        siblings: What was done without a quorum.
        now_ms: Since the leader began to lead.
        wall_ms: Wall time.
    """

    key: str
    version: Version
    record: Record | None
    siblings: Siblings
    now_ms: int
    wall_ms: int

    def run(self, resolve: Callable[[str], Resolve | None]) -> Merged:
        """Merges.

        Args:
            resolve: Gives the own merge of a type by its name, None if it has none.
        """
        plain = self._merge(None)
        own = None if plain.record is None else resolve(plain.record.type)
        return plain if own is None else self._merge(own)

    def _merge(self, resolve: Resolve | None) -> Merged:
        return merge(
            self.record,
            self.siblings,
            version=self.version,
            now_ms=self.now_ms,
            wall_ms=self.wall_ms,
            resolve=resolve,
        )


class Commit(NamedTuple):
    """What a turn wants to be committed.

    Attributes:
        record: The new record, except for version, op ids and tombstone, which are filled in. Of a
            "fold" the record with the actors folded in its replicated fields.
        result: What the caller gets, and gets again if it repeats the op id.
        in_memory: Whether it is enough that a quorum has it in memory; written it is all the same.
            Counts for nothing at level "strong", and without a quorum.
    """

    record: Record
    result: Any
    in_memory: bool = False


class Answer(NamedTuple):
    """How a request ended.

    Attributes:
        id: The request's.
        status: How.
        value: The result; the record of a read, None when there is no agent; the node to ask of a
            `NOT_LEADER`, None when nobody knows.
        version: What the answer rests on: the session has seen it.
        durability: What holds it: a "quorum"; the "memory" of a quorum, whose disks may not have
            it yet; "two" replicas on this side of a split; or "local", one disk.
        is_partitioned: Whether it was done, or read, without a quorum.
        is_stale: Whether it was read from a copy that may be old.
        token: The session's, with this answer; None when the request had none.
    """

    id: Any
    status: Status
    value: Any = None
    version: Version = NO_VERSION
    durability: str = "quorum"
    is_partitioned: bool = False
    is_stale: bool = False
    token: Token | None = None


class Completed(NamedTuple):
    """What a turn's record gets beside what its handler decides."""

    record: Record
    generation: Dot
    born_op: OpId | None
    dedupe: Operations


def completed(
    request: Request,
    commit: Commit,
    before: Record | None,
    dot: Dot,
    *,
    now_ms: int,
    window_ms: int,
) -> Completed:
    """The record that a turn wants, with what its request did to it.

    Args:
        request: What was run.
        commit: What its handler wants.
        before: The record it began from, a tombstone too.
        dot: The turn's.
        now_ms: Time by which op ids age.
        window_ms: How long they are remembered.
    """
    record = commit.record
    is_birth = request.kind == "spawn"
    if is_birth and before is not None:
        record = record.after(before)
    if request.kind == "fire":
        left = record.timers.fire(*request.payload)
        record = record if left is None else replace(record, timers=left)
    elif request.kind == "signal":
        record = _received(record, request.payload, now_ms)
    table = NO_OPERATIONS if before is None else before.dedupe
    if request.op is not None and request.kind in _REMEMBERED:
        table = remember(
            table,
            request.op,
            commit.result,
            now_ms=now_ms,
            ack=request.ack,
            fence=request.fence,
            window_ms=window_ms,
        )
    is_first = is_birth or before is None
    generation = dot if is_first or before is None else before.generation
    born_op = request.op if is_first or before is None else before.born_op
    return Completed(record, generation, born_op, table)


def _received(record: Record, arrival: Arrival, now_ms: int) -> Record:
    signal = arrival.signal
    receipts = record.receipts.add(arrival.sender, signal.dot, signal.place, now_ms=now_ms)
    assert isinstance(receipts, Receipts)  # `signal_refusal` saw to it
    return replace(record, receipts=receipts)


def with_token(answer: Answer, token: Token | None, shard: int, key: str, record: Any) -> Answer:
    """The answer, with the session's token of after it, if it has one.

    Args:
        answer: Of a leader.
        token: The request's.
        shard: The agent's.
        key: The agent's id.
        record: The committed record that the answer rests on; None for none.
    """
    if token is None:
        return answer
    if answer.version != NO_VERSION:
        token = token.saw(shard, answer.version)
        if record is not None:
            token = token.merged(key, record.merged)
    return answer._replace(token=token)


def signal_refusal(request: Request, record: Record, now_ms: int) -> Answer | None:
    """Why a signal is not to be run: it was taken before, or there is no room to remember it."""
    sender, signal = request.payload
    if record.receipts.has(sender, signal.dot, signal.place):
        return Answer(request.id, Status.OK)
    room = record.receipts.add(sender, signal.dot, signal.place, now_ms=now_ms)
    return None if isinstance(room, Receipts) else Answer(request.id, Status.OVERLOADED)


REFUSED: Final[Mapping[type, Status]] = {
    Expired: Status.EXPIRED,
    Full: Status.OVERLOADED,
    Fenced: Status.FENCED,
}
