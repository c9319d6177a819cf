"""One request of a message on its way through the core, and what its answer means to the caller.

Theory. The core answers in its own words (`Status`); a caller knows four ends: a result, surely not
run, ran and changed nothing, unknown. Here one becomes the other. What the core says of an
operation that may take effect later is never said to be a failure: the client asks the next leader
with the same operation id.
"""

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from jido_cluster.errors import (
    AgentNotFoundError,
    DeadlineExceededError,
    FencedError,
    InternalError,
    JidoError,
    NoQuorumError,
    OutcomeUnknownError,
    OverloadedError,
    SessionUnavailableError,
)
from jido_cluster.runtime.cell import Cell, Message
from jido_cluster.runtime.partitions import REFUSED_BY_STRATEGY, note_refused
from jido_cluster.runtime.view import Lead, StandIn
from jido_state.requests import Answer, RunTurn, Status

if TYPE_CHECKING:
    from jido_cluster.runtime.host import ShardHost


class Asked:
    """The driver's name of a request: hears when its turn is to be run, and how it ended.

    Attributes:
        message: What it is asked for; None for the host's own work.
        turn: The turn to be run, from when it is until it has ended.
        answer: How it ended, once it has; without the id.
    """

    __slots__ = ("_loop", "_waiter", "answer", "message", "turn")

    def __init__(self, message: Message | None, loop: asyncio.AbstractEventLoop) -> None:
        self.message = message
        self.turn: RunTurn | None = None
        self.answer: Answer | None = None
        self._loop = loop
        self._waiter: asyncio.Future[None] | None = None

    def run(self, turn: RunTurn) -> None:
        """Its turn is to be run."""
        self.turn = turn
        self._wake()

    def answered(self, answer: Answer) -> None:
        """It has ended.

        The request's id is this object: with it, answer and turn would be cycles, left to the
        collector of garbage with the record that they hold.
        """
        self.answer = Answer(None, *answer[1:])
        self.turn = None
        if answer.token is not None and self.message is not None and self.message.seen is not None:
            self.message.seen.add(answer.token)
        self._wake()

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    async def begun(self) -> RunTurn | None:
        """The turn, once it may be run; None when it ended without one."""
        while self.turn is None and self.answer is None:
            await self._wait()
        return self.turn if self.answer is None else None

    async def ended(self) -> Answer:
        """How it ended."""
        while self.answer is None:
            await self._wait()
        return self.answer

    async def _wait(self) -> None:
        self._waiter = self._loop.create_future()
        await self._waiter


class Committing(Asked):
    """A turn's request; the host hears of its end by a call, so that nobody has to wait for it.

    Attributes:
        cell: The agent.
        outcome: Result, state and outbox, once the handler has ended well and the core has them.
        version: Of the turn, once it is handed to the core.
        is_told: Whether the caller has been answered: the handler failed.
    """

    __slots__ = ("_host", "cell", "is_told", "outcome", "version")

    def __init__(self, host: "ShardHost", cell: Cell, message: Message | None) -> None:
        super().__init__(message, host.loop)
        self._host = host
        self.cell = cell
        self.outcome: Any = None
        self.version: tuple[int, ...] = ()
        self.is_told = False

    def answered(self, answer: Answer) -> None:
        """As `Asked.answered`; a turn that runs, or is to be committed, is over."""
        is_begun = self.turn is not None
        super().answered(answer)
        if self.outcome is not None:
            self._host.committed(self)
        elif is_begun and not self.is_told:
            self._host.lost(self)


_TOO_FEW: Final = (
    "too few replicas of its shard are in reach, and what is here does not go on without; retry "
    'when they are back, or give types that may be merged partition_strategy="continue_all"'
)
_PAUSED: Final = (
    "its node is on a side of a split network that serves nobody; call from the other side, or "
    "retry when the network is whole"
)
_REFUSALS: Final[Mapping[Status, tuple[type[JidoError], str, float | None]]] = {
    Status.LATE: (DeadlineExceededError, "its deadline passed while it waited", None),
    Status.OVERLOADED: (
        OverloadedError,
        "the agent has no room for more operations that are not acknowledged",
        0.1,
    ),
    Status.FENCED: (FencedError, "a later turn of the calling agent has called already", None),
    Status.NO_QUORUM: (NoQuorumError, _TOO_FEW, 1.0),
    Status.PAUSED: (NoQuorumError, _PAUSED, 1.0),
    Status.SESSION_UNAVAILABLE: (
        SessionUnavailableError,
        "what the session has seen is not here yet",
        0.5,
    ),
}


def not_run(answer: Answer, message: Message) -> JidoError | None:
    """The error of an operation that was refused; None when the client is to ask somebody else.

    Args:
        answer: Not OK.
        message: What was asked.
    """
    status = answer.status
    key = message.key
    if status is Status.NOT_LEADER or status is Status.UNKNOWN:
        return None
    if status is Status.NOT_FOUND:
        return AgentNotFoundError(f"there is no agent {key!r}; spawn it first", agent=key)
    what = f"{message.name!r} to {key!r}"
    if status is Status.EXPIRED:
        text = f"{what} comes too late to know whether it was done; read the state"
        return OutcomeUnknownError(text, op_id=message.op_id)
    if status not in _REFUSALS:
        return InternalError(f"{what} ended as {status}")
    kind, why, retry_after = _REFUSALS[status]
    details: dict[str, Any] = {} if retry_after is None else {"retry_after": retry_after}
    return kind(f"{what} did not run: {why}", agent=key, **details)


def refuse(
    host: "ShardHost", message: Message, shard: int, answer: Answer, cell: Cell | None = None
) -> None:
    """Tell the caller of an operation that was not done here: why, or whom to ask.

    Args:
        host: This one.
        message: What was asked.
        shard: The agent's.
        answer: Not OK.
        cell: The agent, if it is here.
    """
    replicas, status = host.replicas, answer.status
    if status in REFUSED_BY_STRATEGY and replicas.leadership(shard) is None:
        server = replicas.server(shard)
        # A leader knows better; and while one may be in the making, there is nothing to refuse.
        is_paused = status is Status.PAUSED
        may_come = replicas.is_starting(shard) if is_paused else replicas.may_be_led(shard)
        if type(server) is Lead or may_come:
            message.redirect(server)
            return
    error = not_run(answer, message)
    if error is None:
        pass_on(message, answer, replicas.server(shard))
        return
    note_refused(host, message, status)
    message.fail(error if cell is None else host.signed(cell, message, error))


def pass_on(message: Message, answer: Answer, lead: Lead | StandIn | None) -> None:
    """Send the client to the shard's leader; what may take effect is marked as such."""
    if answer.status is Status.UNKNOWN:
        message.doubt(lead)
    else:
        message.redirect(lead)
