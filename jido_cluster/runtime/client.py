"""The client of a process: routing, deadlines, and the retries that are safe.

Theory. A call has one number for its whole life; with the client's id it makes the operation id,
which the agent's host remembers, so that the call can be sent again without running twice. The
client keeps every unanswered call in `calls` until it is answered, refused or out of time.

When a shard moves, calls of one agent keep their order: those the old host redirects are parked
until it has answered all calls it was sent for that agent, then leave for the new host by number.

A call ends as unknown, never as failed, when a host that may have run it is gone: also when the
next host says that the agent's state went with it. A stream is sent once only: its items are kept
nowhere, so a connection that breaks ends it as unknown.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Final

from jido_cluster.errors import (
    AgentLostError,
    AgentNotFoundError,
    ClusterUnavailableError,
    DeadlineExceededError,
    JidoError,
    OutcomeUnknownError,
    OverloadedError,
    UnavailableError,
)
from jido_cluster.ids import new_id
from jido_cluster.ports import PeerTroubleError, Transport
from jido_cluster.runtime.flow import CLOSE, Inflow
from jido_cluster.runtime.link import Call, Link, look
from jido_cluster.runtime.view import View, shard_of, shard_of_run
from jido_cluster.runtime.wire import CAST, EVENT, OP_ID, OPERATION, STREAM, pack

logger = logging.getLogger(__name__)

SWEEP_INTERVAL: Final = 0.025  # seconds; how late a deadline may be noticed
VIEW_RETRY: Final = 0.25  # seconds between attempts to hear of a newer view
MAX_CALLS: Final = 200_000  # unanswered calls of one client; some 200 MB of memory
MAX_SHARD_CACHE: Final = 100_000  # ids whose shard is remembered; some 10 MB


# Refusals of a later attempt that say nothing of an earlier one: an agent that is not there may
# have been ended by it, or been lost after it. Any other would have met the earlier one too.
_MAY_FOLLOW: Final = (
    AgentNotFoundError,
    AgentLostError,
    DeadlineExceededError,
    UnavailableError,
)

# Seconds a client waits past the deadline for the host's own verdict on a call it was sent: "timed
# out, state unchanged" says more than "unknown".
GRACE: Final = 0.25
TELL_SECONDS: Final = 10.0  # how long a host is given to take a word that needs no answer


class Client:
    """One process's connection to a cluster; bound to the loop that made it.

    Invariant: every call in `calls` is queued on a link, sent on one, or parked.
    """

    def __init__(self, transport: Transport, view: View, client_id: str | None = None) -> None:
        self.loop = asyncio.get_running_loop()
        self.id = client_id or new_id()
        self.view = view
        self.calls: dict[int, Call] = {}
        self.inflows: dict[int, Inflow] = {}  # of the streams among the calls
        self.dropped_casts = 0
        self.on_view: Callable[[View], None] | None = None
        self._transport = transport
        self._links: dict[str, Link] = {}
        self._by_shard: list[Link | None] = [None] * view.shards
        self._shards: dict[str, int] = {}
        self._number = 0
        self._parked: dict[str, list[Call]] = {}
        self._sweeping: asyncio.TimerHandle | None = None
        self._watch: asyncio.Task[None] | None = None
        self._earliest = float("inf")
        self._closed = False

    # -- making calls

    def submit(
        self,
        kind: int,
        key: str,
        name: str,
        body: bytes,
        timeout: float,
        extra: dict[str, Any] | None = None,
        *,
        shard: int | None = None,
    ) -> Call:
        """Send one message; the call is done when its answer is there.

        Args:
            kind: CALL, CAST, SIGNAL, EVENT or OPERATION.
            key: Agent id, or run id when `shard` is given.
            name: Signal type or operation.
            body: JSON bytes, at most 1 MiB.
            timeout: Seconds, > 0.
            extra: Optional parts of the envelope.
            shard: Where the key lives, when not by its hash.

        Raises:
            OverloadedError: This process has too many unanswered calls.
            ClusterUnavailableError: The client is closed.
        """
        if shard is None:
            shard = self._shards.get(key)
            if shard is None:
                shard = self._remember(key)
        call = self._new_call(kind, key, name, body, timeout, extra)
        call.shard = shard
        if self._parked and key in self._parked:
            self._parked[key].append(call)
            return call
        link = self._by_shard[shard]
        if link is None:
            self._route(call)
        else:
            link.push(call)
        return call

    def submit_to_run(self, run_id: str, name: str, body: bytes, timeout: float) -> Call:
        """Send an operation on a run.

        Raises:
            InvalidInputError: It is no run id.
        """
        shard = shard_of_run(run_id, self.view.shards)
        return self.submit(OPERATION, run_id, name, body, timeout, shard=shard)

    def submit_to_host(self, host: str, name: str, key: str, body: bytes, timeout: float) -> Call:
        """Send an operation to one host, whoever serves the key; never redirected."""
        call = self._new_call(OPERATION, key, name, body, timeout, None)
        call.shard = -1
        link = self._link(host)
        if link.is_gone:
            self.fail_lost(call, host)
        else:
            link.push(call)
        return call

    def submit_stream(
        self, key: str, name: str, body: bytes, timeout: float, extra: dict[str, Any] | None
    ) -> Inflow:
        """Ask an agent for a stream; as `submit`."""
        call = self.submit(STREAM, key, name, body, timeout, extra)
        inflow = self.inflows[call.number] = Inflow(self, call)
        call.add_done_callback(lambda done: self.inflows.pop(done.number, None))
        return inflow

    def tell_host(self, call: Call, name: str, body: bytes) -> None:
        """Tell the host that has a call something about it; no answer is waited for."""
        if call.link is None or self._closed:
            return
        told = self.submit_to_host(call.link.host, name, call.key, body, TELL_SECONDS)
        told.add_done_callback(look)

    def op_id(self, call: Call) -> str:
        """The operation id under which the agent's host remembers the call."""
        given = call.extra.get(OP_ID) if call.extra else None
        return given or f"{self.id}-{call.number}"

    def _new_call(
        self,
        kind: int,
        key: str,
        name: str,
        body: bytes,
        timeout: float,
        extra: dict[str, Any] | None,
    ) -> Call:
        if self._closed:
            message = "the connection is closed; connect again"
            raise ClusterUnavailableError(message)
        if len(self.calls) >= MAX_CALLS:
            message = f"{MAX_CALLS} calls of this process are unanswered; wait for some of them"
            raise OverloadedError(message, retry_after=0.1)
        call = Call(loop=self.loop)
        self._number = number = self._number + 1
        call.number = number
        call.kind = kind
        call.key = key
        call.name = name
        call.body = body
        call.extra = extra
        call.deadline = deadline = self.loop.time() + timeout
        call.is_sent = call.is_doubtful = False
        call.link = None
        call.attempts = 0
        self.calls[number] = call
        if deadline < self._earliest:
            self._earliest = deadline
        if self._sweeping is None:
            self._sweeping = self.loop.call_later(SWEEP_INTERVAL, self._sweep)
        return call

    def _remember(self, key: str) -> int:
        if len(self._shards) >= MAX_SHARD_CACHE:
            self._shards.clear()
        shard = self._shards[key] = shard_of(key, self.view.shards)
        return shard

    def _link(self, host: str) -> Link:
        link = self._links.get(host)
        if link is None:
            link = self._links[host] = Link(self, host, self._transport)
        return link

    def _route(self, call: Call) -> None:
        """Push the call on its shard's link, or park it until somebody serves the shard."""
        host = self.view.leaders[call.shard]
        if not host or (host in self._links and self._links[host].is_gone):
            self._park(call)
            self.want_view()
            return
        link = self._by_shard[call.shard] = self._link(host)
        link.push(call)

    def _park(self, call: Call) -> None:
        call.link = None
        self._parked.setdefault(call.key, []).append(call)

    # -- what links report

    def finish(self, call: Call, result: Any) -> None:
        """The call ends well."""
        self.calls.pop(call.number, None)
        if not call.done():
            call.set_result(result)

    def fail(self, call: Call, error: JidoError) -> None:
        """The call ends with this error, or as unknown when it may have run elsewhere before."""
        self.calls.pop(call.number, None)
        if call.done():
            return
        if call.is_doubtful and isinstance(error, _MAY_FOLLOW):
            error = self._unknown(call, "an earlier attempt may have run", error)
        call.set_exception(error)

    def redirect(self, call: Call) -> None:
        """The host does not serve the call's shard: park it, in order, until one does."""
        if call.done():
            self.calls.pop(call.number, None)
            return
        if call.shard < 0:
            message = f"host {call.link.host if call.link else '?'} does not take {call.name!r} now"
            self.fail(call, UnavailableError(message, retry_after=0.1))
            return
        call.is_sent = False
        self._park(call)
        self.want_view()
        self.loop.call_soon(self._unpark)

    def unanswered(self, link: Link) -> list[Call]:
        """Calls a frame of this link carried and that have no answer yet, in order."""
        found = [c for c in self.calls.values() if c.link is link and c.is_sent and not c.done()]
        return sorted(found, key=lambda call: call.number)

    def interrupt_streams(self, link: Link) -> None:
        """Answers of this link may be lost, and items with them: its streams end, at both ends."""
        for call in self.unanswered(link):
            if call.kind == STREAM:
                del self.calls[call.number]
                call.set_exception(self._unknown(call, "the connection to its host broke"))
                self.tell_host(call, CLOSE, pack((call.number,)))

    def lost(self, link: Link) -> None:
        """The host is gone for good: its calls wait for the view that says who serves them now."""
        self.interrupt_streams(link)
        waiting = [*self.unanswered(link), *link.take_unsent()]
        link.close()
        self._by_shard = [None if known is link else known for known in self._by_shard]
        for call in waiting:
            if call.kind == CAST or call.kind == EVENT:
                self.dropped_casts += 1
                self.finish(call, None)
            elif call.shard < 0:
                self.fail_lost(call, link.host)
            else:
                call.is_doubtful = call.is_doubtful or call.is_sent
                call.is_sent = False
                self._park(call)
        self.want_view()
        self._unpark()

    def fail_lost(self, call: Call, host: str) -> None:
        """A call that only this host could answer ends: unknown if it was sent."""
        self.calls.pop(call.number, None)
        if not call.done():
            call.set_exception(PeerTroubleError(f"host {host} is gone"))

    def broken(self, link: Link, error: JidoError) -> None:
        """The host speaks another protocol, or sends garbage: trying again would not help."""
        for call in self.unanswered(link):
            self.calls.pop(call.number, None)
            call.set_exception(error)

    def _unknown(self, call: Call, why: str, cause: BaseException | None = None) -> JidoError:
        op_id = self.op_id(call)
        remedy = f"retry with options(op_id={op_id!r}), or read the state"
        if call.kind == STREAM:
            remedy = "read the state before asking again; a stream is not deduplicated"
        message = f"{call.name!r} to {call.key!r} has an unknown outcome: {why}; {remedy}"
        error = OutcomeUnknownError(message, op_id=op_id)
        error.__cause__ = cause
        return error

    # -- views

    def install(self, view: View) -> None:
        """Take a newer view: links to hosts that are no more end, parked calls leave."""
        if view.epoch <= self.view.epoch:
            return
        self.view = view
        gone = [link for host, link in self._links.items() if host not in view.addresses]
        self._by_shard = [None] * view.shards
        for link in gone:
            if not link.is_gone:
                self.lost(link)
            del self._links[link.host]
        self._move_unsent()
        if self.on_view is not None:
            self.on_view(view)
        self._unpark()

    def _move_unsent(self) -> None:
        """Calls that no frame has carried yet follow their shard; sent ones are redirected."""
        for link in list(self._links.values()):
            for call in link.take_unsent():
                if call.shard < 0 or self.view.leaders[call.shard] == link.host:
                    link.push(call)
                else:
                    self._park(call)

    def _unpark(self) -> None:
        """Send parked calls whose shard is served, once no old host owes their agent an answer."""
        if not self._parked:
            return
        owed = {
            call.key
            for call in self.calls.values()
            if call.is_sent
            and call.shard >= 0
            and call.link is not None
            and call.link.host != self.view.leaders[call.shard]
        }
        parked, self._parked = self._parked, {}
        for key, calls in parked.items():
            live = sorted((c for c in calls if not c.done()), key=lambda call: call.number)
            if not live:
                continue
            if key in owed:
                self._parked[key] = live
                continue
            for call in live:
                self._route(call)

    def want_view(self) -> None:
        """Ask for a newer view in the background; once at a time."""
        if self._watch is None and not self._closed:
            self._watch = self.loop.create_task(self._watch_views())

    async def _watch_views(self) -> None:
        while not self._closed:
            try:
                view = await self._transport.newer_view(self.view.epoch)
            except PeerTroubleError:
                await asyncio.sleep(VIEW_RETRY)
                continue
            self.install(view)

    # -- deadlines

    def _sweep(self) -> None:
        self._sweeping = None
        now = self.loop.time()
        if now >= self._earliest:
            self._earliest = self._expire(now)
        if self._parked:
            self._unpark()
        if self.calls and not self._closed:
            self._sweeping = self.loop.call_later(SWEEP_INTERVAL, self._sweep)

    def _expire(self, now: float) -> float:
        """End the calls that are out of time; the earliest deadline of the others."""
        earliest = float("inf")
        for call in list(self.calls.values()):
            if call.done():  # abandoned by its caller
                if call.deadline < now or not call.is_sent:
                    self.calls.pop(call.number, None)
                continue
            end = call.deadline
            if call.is_sent or call.is_doubtful:
                end += GRACE
            if now < end:
                earliest = min(earliest, end)
                continue
            self.calls.pop(call.number, None)
            if call.is_sent or call.is_doubtful:
                error = self._unknown(call, "no answer came before the deadline")
            else:
                message = f"{call.name!r} to {call.key!r} did not run: its deadline passed first"
                error = DeadlineExceededError(message)
            call.set_exception(error)
        return earliest

    # -- ending

    async def start(self) -> None:
        """Begin to follow views."""
        self.want_view()

    async def close(self) -> None:
        """Abandon what is unanswered and forget the links."""
        self._closed = True
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)
        if self._sweeping is not None:
            self._sweeping.cancel()
        for link in self._links.values():
            link.close()
        for call in list(self.calls.values()):
            if not call.done():
                if call.is_sent:
                    call.set_exception(self._unknown(call, "the connection was closed"))
                    call.exception()
                else:
                    call.cancel()
        self.calls.clear()
