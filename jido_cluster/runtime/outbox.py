"""Outboxes: what a committed turn sends, and how it comes to be delivered.

Theory. What a turn sends is part of its record, so it happens if and only if the turn commits. The
leader hands each signal out until its receiver has it; a new leader finds what is left in the
record. A run that a turn started is kept the same way, from its start until the commit of the turn
that takes its outcome: when the leader dies before, the next one starts it again.

A turn that asks for its agent's end is answered after that end, so that whoever has the answer
finds no agent. If the leadership is lost before, it is answered then: the next leader sees to the
end.

The outbox of an agent that is kept in memory only is delivered at once, and retried until the call
timeout.
*Source*: transactional outboxes; the order and the giving up are `jido_state.chores`'s.
"""

import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from jido_cluster import telemetry
from jido_cluster.errors import InvalidInputError, JidoError, OutcomeUnknownError, RejectedError
from jido_cluster.runtime.cell import Cell
from jido_cluster.runtime.schedules import SCHEDULE, UNSCHEDULE
from jido_cluster.runtime.turn import CANCEL, DELETE, SEND, START, Effect
from jido_cluster.runtime.wire import OP_ID, SENT, SESSION, SIGNAL, VIRTUAL, pack, unpack
from jido_state.chores import DeadLetter, Deliver
from jido_state.dots import Dot
from jido_state.operations import OpId, agent_caller
from jido_state.outbox import Outbox
from jido_state.session import TokenFullError
from jido_state.versions import NO_VERSION, Version

if TYPE_CHECKING:
    from jido_cluster.runtime.host import ShardHost
    from jido_cluster.runtime.link import Call

logger = logging.getLogger(__name__)


def entries_of(effects: Sequence[Effect], cell: Cell) -> list[tuple[str, bytes]]:
    """What a turn sends, as targets and payloads of the record's outbox.

    Signals to one target keep their order; a run is a target of its own.
    """
    entries: list[tuple[str, bytes]] = []
    for effect in effects:
        kind = effect[0]
        if kind in {SCHEDULE, UNSCHEDULE}:
            continue  # kept among the record's timers
        target = cell.id if kind == DELETE else effect[1]
        if kind == CANCEL:
            target = f"cancel {target}"  # not behind the run itself
        entries.append((target, pack(effect)))
    return entries


def without_run(outbox: Outbox, run_id: str) -> Outbox:
    """Less the start of this run, whose outcome the agent takes: it is not to begin again."""
    return outbox.without(
        signal.name
        for signal in outbox.signals
        if signal.target == run_id and unpack(signal.payload)[0] == START
    )


class Outboxes:
    """Delivers what the agents of one host send."""

    def __init__(self, host: "ShardHost") -> None:
        self._host = host
        # Who hears of the end of an agent, by shard, agent, and the turn that asked for it.
        self._ending: dict[tuple[int, str, Dot], Callable[[], None]] = {}

    def when_ended(
        self, cell: Cell, dot: Dot, effects: Sequence[Effect], tell: Callable[[], None]
    ) -> None:
        """Call `tell` when the agent has ended, if the turn of this dot asked for that; else now.

        The turn has been committed just now. Without a leadership nobody here sees to the end.
        """
        is_led = self._host.replicas.leadership(cell.shard) is not None
        if is_led and any(effect[0] == DELETE for effect in effects):
            self._ending[cell.shard, cell.id, dot] = tell
        else:
            tell()

    def drop_shard(self, shard: int) -> None:
        """The shard is led here no more."""
        for key in [key for key in self._ending if key[0] == shard]:
            self._ending.pop(key)()

    def _has_ended(self, shard: int, effect: Deliver | DeadLetter) -> None:
        tell = self._ending.pop((shard, effect.key, effect.signal.dot), None)
        if tell is not None:
            tell()

    def deliver(self, shard: int, effect: Deliver) -> None:
        """Deliver one entry of a record's outbox; the core is told how that ended."""
        kind, *rest = unpack(effect.signal.payload)
        host = self._host
        if kind == SEND:
            self._send(shard, effect, *rest)
        elif kind == START:
            host.runs.start_from_turn(shard, effect, (kind, *rest))
        elif kind == CANCEL:
            host.runs.cancel_from_turn(rest[0])
            host.replicas.delivered(shard, effect, is_done=True)
        else:
            host.spawn_task(self._delete(shard, effect))

    def _send(
        self,
        shard: int,
        effect: Deliver,
        target: str,
        body: bytes,
        virtual: str | None,
        session: str | None,
    ) -> None:
        signal = effect.signal
        name = OpId(agent_caller(effect.key, signal.dot), signal.place + 1)
        sent = [effect.key, *signal.dot, signal.place, signal.added_ms]
        extra: dict[str, Any] = {OP_ID: name.text, SENT: sent}
        if virtual is not None:
            extra[VIRTUAL] = virtual
        if session is not None:
            extra |= self._session(session, shard, effect)
        timeout = self._host.config.call_timeout

        def ended(call: "Call") -> None:
            error = None if call.cancelled() else call.exception()
            is_done = not call.cancelled() and not _is_open(error)
            if error is not None and is_done:
                _report(target, error)
            self._host.replicas.delivered(shard, effect, is_done=is_done)

        try:
            call = self._host.client.submit(SIGNAL, target, "", body, timeout, extra)
        except JidoError:
            self._host.replicas.delivered(shard, effect, is_done=False)
            return
        call.add_done_callback(ended)

    def _session(self, session: str, shard: int, effect: Deliver) -> dict[str, Any]:
        """The session of the turn that sent a signal, which has seen that turn by now."""
        try:
            seen = self._host.seen(session)
        except InvalidInputError:  # recovered by force since: nobody is left who could follow it
            return {}
        dot = effect.signal.dot
        if len(dot) == len(NO_VERSION):
            seen.add(seen.token.saw(shard, Version(*dot)))
        else:
            with suppress(TokenFullError):  # nothing is lost: it is merged, or it would not be sent
                seen.add(seen.token.saw_acting(effect.key, dot))
        return {SESSION: seen.text}

    async def _delete(self, shard: int, effect: Deliver) -> None:
        """The agent asked to end."""
        name = effect.signal.name
        has_ended = await self._host.operations.end_by_itself(shard, effect.key, name)
        if has_ended:
            self._has_ended(shard, effect)
        self._host.replicas.delivered(shard, effect, is_done=has_ended)

    def give_up(self, shard: int, effect: DeadLetter) -> None:
        """What could not be delivered for too long is counted and logged."""
        target = effect.signal.target
        metadata = {"to": target, "error": "expired"}
        telemetry.execute("jido.cluster.send.failed", {"count": 1}, metadata)
        logger.error("a signal of agent %s to %s is given up", effect.key, target)
        self._has_ended(shard, effect)
        self._host.replicas.delivered(shard, effect, is_done=True)

    # -- agents that are kept in memory only

    async def deliver_now(self, cell: Cell, effects: Sequence[Effect], op_id: str) -> None:
        """Do what a turn put in its outbox, in order; deliveries go on in the background."""
        deleted = False
        for index, effect in enumerate(effects):
            kind = effect[0]
            if kind == SEND:
                _, target, body, virtual, session = effect
                extra = {OP_ID: OpId.named(op_id).nested(index, target, "", b"").text}
                if virtual is not None:
                    extra[VIRTUAL] = virtual
                if session is not None:
                    extra[SESSION] = session
                self._send_now(target, body, extra)
            elif kind == START:
                self._host.runs.start_at_once(cell, effect)
            elif kind == CANCEL:
                self._host.runs.cancel_from_turn(effect[1])
            elif kind == DELETE:
                deleted = True
        if deleted:
            turn = (tuple(cell.version), 0)
            await self._host.operations.end_by_itself(cell.shard, cell.id, turn)

    def _send_now(self, target: str, body: bytes, extra: dict[str, Any]) -> None:
        timeout = self._host.config.call_timeout
        try:
            call = self._host.client.submit(SIGNAL, target, "", body, timeout, extra)
        except JidoError as error:
            _report(target, error)
            return
        call.add_done_callback(_delivered)


def _is_open(error: BaseException | None) -> bool:
    """Whether a delivery may still succeed, or has and nobody knows."""
    if isinstance(error, OutcomeUnknownError):
        return True
    return isinstance(error, RejectedError) and error.retryable


def _delivered(call: "Call") -> None:
    if not call.cancelled() and (error := call.exception()) is not None:
        _report(call.key, error)


def _report(target: str, error: BaseException) -> None:
    """Nobody waits for a delivery, so its failure is an event and a line in the log."""
    kind = getattr(error, "kind", type(error).__name__)
    telemetry.execute("jido.cluster.send.failed", {"count": 1}, {"to": target, "error": kind})
    logger.warning("a signal to agent %s was not delivered: %s", target, error)
