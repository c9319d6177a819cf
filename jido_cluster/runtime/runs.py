"""Runs: actions on the nodes of the cluster, tracked by the host of the run's shard.

Theory. A run id names its shard, so any process can ask the shard's leader about it, and a run that
a turn started is beside its agent. The leader picks a fit node, hands the action to the scheduler
port and keeps the outcome for 600 s. When the node dies the run begins again elsewhere: an action
may run more than once, but one outcome is told.

A run that a turn started stands in its agent's outbox until the agent has the outcome, so a new
leader begins it again. One that a client started is known to its leader only: when that is gone,
nobody knows it any more, which its caller is told.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from pydantic_core import to_json

from jido_cluster import telemetry
from jido_cluster.errors import (
    AgentNotFoundError,
    ExecutionError,
    JidoError,
    NoCapableNodeError,
    NoQuorumError,
    OutcomeUnknownError,
    RunCancelledError,
    UnavailableError,
)
from jido_cluster.exec.action import registered_actions
from jido_cluster.exec.needs import Needs, needs_from_data
from jido_cluster.exec.outcome import Outcome, dump_outcome, load_outcome
from jido_cluster.ports import PeerTroubleError, Scheduler
from jido_cluster.runtime.cell import Cell, Message
from jido_cluster.runtime.turn import Effect
from jido_cluster.runtime.view import Member, View, shard_of_run
from jido_cluster.runtime.wire import CALL, OP_ID, RUN, pack, unpack
from jido_placement import h64
from jido_state.chores import Deliver

if TYPE_CHECKING:
    from jido_cluster.runtime.host import ShardHost

logger = logging.getLogger(__name__)

START: Final = "run.start"
WAIT: Final = "run.wait"
CANCEL: Final = "run.cancel"

KEPT_SECONDS: Final = 600.0  # how long an outcome can be asked for
MAX_DISPATCHES: Final = 10  # nodes that may die under one run before it fails
DISPATCH_DELAY: Final = 0.2  # seconds before a run goes to another node
REPLY_SECONDS: Final = 600.0  # how long an agent that is overloaded or moving is given its outcome
ENDED: Final = frozenset({"succeeded", "failed", "cancelled"})


class Run:
    """One run: what to do, for whom, how far it is."""

    __slots__ = (
        "agent_id",
        "dispatches",
        "ended_at",
        "entry",
        "id",
        "is_replying",
        "node",
        "outcome",
        "reply",
        "request",
        "shard",
        "status",
        "tag",
        "task",
        "waiting",
    )

    def __init__(self, id_: str, shard: int, request: list[Any], tag: str) -> None:
        self.id = id_
        self.shard = shard
        # [action, params, context, options, needs, trace]: what a node is sent, and what it needs.
        self.request = request
        self.tag = tag
        self.agent_id: str | None = None
        self.reply: list[str] | None = None
        self.status = "pending"
        self.outcome = b""
        self.node: str | None = None
        self.dispatches = 0
        self.ended_at = 0.0
        self.task: asyncio.Task[None] | None = None
        self.waiting: list[Message] = []
        self.entry: Deliver | None = None  # in the agent's outbox
        self.is_replying = False


class Runs:
    """The runs of one host's shards."""

    def __init__(self, host: "ShardHost", scheduler: Scheduler) -> None:
        self._host = host
        self._scheduler = scheduler
        self._runs: dict[str, Run] = {}
        self._load: Counter[str] = Counter()
        self._at_work: dict[str, tuple[str, asyncio.Task[bytes]]] = {}

    def operations(self) -> Mapping[str, Callable[[Message], Awaitable[None]]]:
        """What clients may ask."""
        return {START: self._start, WAIT: self._wait, CANCEL: self._cancel}

    def active(self) -> int:
        """Number of runs that have not ended."""
        return sum(1 for run in self._runs.values() if run.status not in ENDED)

    def is_tracked_here(self, shard: int) -> bool:
        """Whether a run of the shard is under way that stands in no record, but here alone."""
        return any(
            run.shard == shard and run.entry is None and run.status not in ENDED
            for run in self._runs.values()
        )

    # -- from clients

    async def _start(self, message: Message) -> None:
        if self._refuse(message) or message.key in self._runs:  # sent again: it is under way
            if message.key in self._runs:
                message.reply(b"null")
            return
        request = unpack(message.body)
        shard = shard_of_run(message.key, self._host.view.shards)
        self._begin(Run(message.key, shard, request, ""))
        message.reply(b"null")

    async def _wait(self, message: Message) -> None:
        run = self._find(message)
        if run is None:
            return
        (patience,) = unpack(message.body)
        if run.status in ENDED or patience <= 0:
            message.reply(self._status(run))
            return
        run.waiting.append(message)
        end = min(message.deadline, self._host.loop.time() + patience)
        message.timer = self._host.loop.call_at(end, self._wait_ended, run, message)

    def _wait_ended(self, run: Run, message: Message) -> None:
        if message in run.waiting:
            run.waiting.remove(message)
            message.reply(self._status(run))

    async def _cancel(self, message: Message) -> None:
        run = self._find(message)
        if run is not None:
            message.reply(b"true" if self._stop(run) else b"false")

    def _find(self, message: Message) -> Run | None:
        if self._refuse(message):
            return None
        run = self._runs.get(message.key)
        if run is None:
            text = f"there is no run {message.key!r}; outcomes are kept for {KEPT_SECONDS:.0f} s"
            message.fail(AgentNotFoundError(text, run_id=message.key))
        return run

    def _refuse(self, message: Message) -> bool:
        """True if the run's shard is not led here; the message is sent on then."""
        number = shard_of_run(message.key, self._host.view.shards)
        if self._host.replicas.leadership(number) is not None:
            return False
        if not self._host.replicas.may_be_led(number):
            text = (
                f"{message.name!r} to run {message.key!r}: nobody leads its shard {number}; retry"
            )
            message.fail(NoQuorumError(text, retry_after=1.0, run_id=message.key))
        else:
            message.redirect(self._host.replicas.server(number))
        return True

    def _status(self, run: Run) -> bytes:
        return pack((run.status, run.outcome))

    # -- from turns

    def start_from_turn(self, shard: int, entry: Deliver, effect: Effect) -> None:
        """Begin a run that stands in an agent's outbox, unless it has begun here.

        Its entry is delivered when the agent has the outcome.
        """
        run_id = effect[1]
        known = self._runs.get(run_id)
        if known is not None:
            known.entry = entry
            if known.status in ENDED and not known.is_replying:
                self._replied(known)
            return
        run = self._run_of(effect, shard, entry.key)
        run.entry = entry
        self._begin(run)

    def start_at_once(self, cell: Cell, effect: Effect) -> None:
        """Begin a run for an agent that is kept in memory only."""
        self._begin(self._run_of(effect, cell.shard, cell.id))

    @staticmethod
    def _run_of(effect: Effect, shard: int, agent_id: str) -> Run:
        _, run_id, action, params, options, needs, reply, tag, trace = effect
        run = Run(run_id, shard, [action, params, b"{}", options, needs, trace], tag)
        run.agent_id = agent_id
        run.reply = reply
        return run

    def cancel_from_turn(self, run_id: str) -> None:
        """Cancel a run that a committed turn named, wherever it is."""
        run = self._runs.get(run_id)
        if run is not None:
            self._stop(run)
            return
        try:
            call = self._host.client.submit_to_run(run_id, CANCEL, b"", 30.0)
        except JidoError as error:
            logger.warning("run %s could not be cancelled: %s", run_id, error.message)
        else:
            call.add_done_callback(lambda done: done.cancelled() or done.exception())

    # -- running

    def _begin(self, run: Run) -> None:
        self._runs[run.id] = run
        run.task = self._host.spawn_task(self._execute(run))

    def _stop(self, run: Run) -> bool:
        if run.status in ENDED or run.task is None:
            return False
        return run.task.cancel()

    async def _execute(self, run: Run) -> None:
        started = self._host.loop.time()
        try:
            outcome = _counted(await self._dispatch(run), run.dispatches - 1)
        except asyncio.CancelledError:
            if self._host.is_closed or self._runs.get(run.id) is not run:
                raise  # the host ends, or the run has moved to another one
            error = RunCancelledError(f"run {run.id} was cancelled")
            outcome = self._failure(run, error, started)
        except JidoError as error:
            outcome = self._failure(run, error, started)
        self._end(run, outcome)

    async def _dispatch(self, run: Run) -> bytes:
        """The outcome, from the first node that lives long enough to tell."""
        failed: set[str] = set()
        action, params, context, options, needs_data, trace = run.request
        needs = needs_from_data(needs_data)
        resources = _resources(needs)
        request = pack((action, params, context, options, run.id, run.tag, trace))
        while True:
            node = self._choose(run.id, needs, resources, failed)
            run.dispatches += 1
            run.node = node.name
            run.status = "running"
            self._load[node.id] += 1
            work = self._host.loop.create_task(
                self._scheduler.run(node, request, resources, run.id)
            )
            self._at_work[run.id] = (node.id, work)
            try:
                return await work
            except PeerTroubleError as error:
                if _is_cancelled():  # as the node went down: nobody tracks the run here any more
                    raise asyncio.CancelledError from error
                trouble: BaseException = error
            except asyncio.CancelledError as error:
                if not work.cancelled() or _is_cancelled():
                    raise
                trouble = error  # `follow` gave this node up
            finally:
                self._load[node.id] -= 1
                self._at_work.pop(run.id, None)
                work.cancel()
            failed.add(node.id)
            metadata = {"action": action, "node": node.name, "error": str(trouble)}
            telemetry.execute("jido.cluster.run.redispatched", {"count": 1}, metadata)
            if run.dispatches >= MAX_DISPATCHES:
                text = f"{action} did not survive on {run.dispatches} nodes: {trouble}"
                raise ExecutionError(text, retryable=True) from trouble
            await asyncio.sleep(DISPATCH_DELAY)

    def follow(self, view: View) -> None:
        """Runs on nodes that are no more end there, and go to others."""
        for node_id, work in list(self._at_work.values()):
            if view.by_id(node_id) is None and not work.done():
                work.get_loop().call_soon(_give_up, work, node_id)

    def _choose(
        self, run_id: str, needs: Needs | None, resources: Mapping[str, float], failed: set[str]
    ) -> Member:
        """The least loaded node that fits.

        Nodes that seem to be gone, or that the run has died on, only where there are no others.
        """
        members = [m for m in self._host.view.members if m.status == "up"]
        fit = [m for m in members if _fits(m, needs, resources)]
        unknown = [
            name for name in (needs.actions if needs else ()) if name not in _known_actions()
        ]
        if not fit or unknown:
            labels = dict(needs.labels) if needs else {}
            text = f"none of {len(members)} nodes has labels {labels} and resources "
            text += f"{dict(resources)}" + (f" and actions {unknown}" if unknown else "")
            raise NoCapableNodeError(text, retry_after=1.0)
        there = [m for m in fit if not self._host.replicas.seems_gone(m.node)] or fit
        chosen = [m for m in there if m.id not in failed] or there
        return min(
            chosen,
            key=lambda m: (self._load[m.id] / max(m.weight, 0.1), h64(f"{run_id}/{m.id}")),
        )

    def _failure(self, run: Run, error: JidoError, started: float) -> bytes:
        outcome: Outcome[Any] = Outcome.failed(
            error,
            run_id=run.id,
            tag=run.tag,
            attempts=run.dispatches,
            seconds=self._host.loop.time() - started,
            node=run.node,
        )
        return dump_outcome(outcome)

    def _end(self, run: Run, outcome: bytes) -> None:
        parsed = load_outcome(outcome)
        kind = parsed.error.kind if parsed.error else ""
        run.status = "succeeded" if parsed.ok else "cancelled" if kind == "cancelled" else "failed"
        run.outcome = outcome
        run.task = None
        run.ended_at = self._host.loop.time()
        waiting, run.waiting = run.waiting, []
        for message in waiting:
            if message.timer is not None:
                message.timer.cancel()
            message.reply(self._status(run))
        if run.reply is not None and run.agent_id is not None:
            run.is_replying = True
            self._host.spawn_task(self._reply(run, run.agent_id, run.reply))
        else:
            self._replied(run)

    def _replied(self, run: Run) -> None:
        """Nobody needs the run any more: it leaves its agent's outbox."""
        entry, run.entry = run.entry, None
        if entry is not None:
            self._host.replicas.delivered(run.shard, entry, is_done=True)

    async def _reply(self, run: Run, agent_id: str, reply: list[str]) -> None:
        """Give the outcome to the agent, as a later turn; an agent that is gone gets nothing."""
        try:
            await self._give(run, agent_id, reply)
        finally:
            run.is_replying = False
        self._replied(run)

    async def _give(self, run: Run, agent_id: str, reply: list[str]) -> None:
        type_, parameter = reply
        body = b"{" + to_json(parameter) + b":" + run.outcome + b"}"
        extra = {OP_ID: f"{run.id}.reply", RUN: run.id}
        end = self._host.loop.time() + REPLY_SECONDS
        while True:
            timeout = self._host.config.call_timeout
            try:
                await self._host.client.submit(CALL, agent_id, type_, body, timeout, extra)
            except (UnavailableError, OutcomeUnknownError) as error:
                if self._host.loop.time() < end:
                    await asyncio.sleep(getattr(error, "retry_after", None) or DISPATCH_DELAY)
                    continue
                logger.warning("agent %s never took the outcome of run %s", agent_id, run.id)
            except JidoError as error:
                metadata = {"agent": agent_id, "run_id": run.id, "error": error.kind}
                telemetry.execute("jido.cluster.reply.failed", {"count": 1}, metadata)
                logger.warning("reply of run %s to %s: %s", run.id, agent_id, error.message)
            return

    # -- forgetting

    def drop_shard(self, number: int) -> None:
        """The shard is led elsewhere: its runs end here; who waits for one asks there."""
        lead = self._host.replicas.server(number)
        for run in [run for run in self._runs.values() if run.shard == number]:
            del self._runs[run.id]
            if run.task is not None:
                run.task.cancel()
            for message in run.waiting:
                if message.timer is not None:
                    message.timer.cancel()
                message.redirect(lead)

    def forget_old(self, now: float) -> None:
        """Drop outcomes older than 600 s."""
        for run in list(self._runs.values()):
            if run.status in ENDED and now - run.ended_at > KEPT_SECONDS:
                del self._runs[run.id]


def _known_actions() -> set[str]:
    return {spec.name for spec in registered_actions()}


def _counted(outcome: bytes, lost: int) -> bytes:
    """The outcome with the attempts added that ended with their nodes, one for each."""
    if not lost:
        return outcome
    found = load_outcome(outcome)
    return dump_outcome(found.model_copy(update={"attempts": found.attempts + lost}))


def _is_cancelled() -> bool:
    """Whether somebody has cancelled this task, whatever came of it."""
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0


def _give_up(work: "asyncio.Task[bytes]", node_id: str) -> None:
    if not work.done():
        work.cancel(node_id)


def _resources(needs: Needs | None) -> dict[str, float]:
    """What a run takes of its node: one core, unless it says otherwise."""
    return {"CPU": 1.0, **(dict(needs.resources) if needs else {})}


def _fits(member: Member, needs: Needs | None, resources: Mapping[str, float]) -> bool:
    has = member.resources
    if any(has.get(name, 0.0) < amount for name, amount in resources.items()):
        return False
    return needs is None or all(member.labels.get(k) == v for k, v in needs.labels.items())
