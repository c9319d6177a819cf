"""The client of a process: calls, their deadlines, and the retries that are safe.

Theory. A call has one number for its whole life; with the client's id it makes the operation id,
which the agent remembers with the result, so that the call can be sent again, to whoever leads by
then, without running twice. The client keeps every unanswered call in `calls` until it is answered,
refused or out of time, and says with each frame below which number all are answered: an agent need
not remember more. Where calls go, and in which order, is decided in `routes`.

A call is refused only if each attempt was. Once an attempt may have run where no answer comes from,
it ends by a result, a failure of its handler, or as unknown. Who repeats an unknown one by its op
id within a minute finds out, because so long its number is not acknowledged. A stream is sent once
only: its items are kept nowhere, so a connection that breaks ends it as unknown.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Final

from jido_cluster.errors import (
    ClusterUnavailableError,
    DeadlineExceededError,
    InvalidInputError,
    JidoError,
    OutcomeUnknownError,
    OverloadedError,
    RejectedError,
    UnavailableError,
)
from jido_cluster.ids import new_id
from jido_cluster.ports import PeerTroubleError, Transport
from jido_cluster.runtime.flow import CLOSE, Inflow
from jido_cluster.runtime.link import Call, Link, look
from jido_cluster.runtime.routes import Held, Routes
from jido_cluster.runtime.view import View, shard_of, shard_of_run
from jido_cluster.runtime.wire import CAST, CROWDED, DOUBT, EVENT, OP_ID, OPERATION, STREAM, pack
from jido_state.operations import MAX_CALLER, OpId

logger = logging.getLogger(__name__)

SWEEP_INTERVAL: Final = 0.025  # seconds; how late a deadline may be noticed
HEARD_SECONDS: Final = 3.0  # after which silence may mean that a host is gone
VIEW_RETRY: Final = 0.25  # seconds between attempts to hear of a newer view
MAX_CALLS: Final = 200_000  # unanswered calls of one client; some 200 MB of memory
MAX_SHARD_CACHE: Final = 100_000  # ids whose shard is remembered; some 10 MB


# Seconds a client waits past the deadline for the host's own verdict on a call it was sent: "timed
# out, state unchanged" says more than "unknown".
GRACE: Final = 0.25
TELL_SECONDS: Final = 10.0  # how long a host is given to take a word that needs no answer

# How long the number of a call with an unknown outcome is not acknowledged, so that its result is
# kept for whoever repeats it, and for how many calls. Meanwhile agents remember more for nothing.
RETRY_SECONDS: Final = 60.0
MAX_RETRIES: Final = 1000


class Client:
    """One process's connection to a cluster; bound to the loop that made it.

    Invariants: every call in `calls` is queued on a link, sent on one, or held; the numbers in
    `calls` rise.

    Args:
        transport: Reaches hosts and the near supervisor.
        view: What is known of the cluster so far; with an entry for each shard.
        client_id: At most 64 characters, never used by another client; None makes one.

    Attributes:
        calls: The unanswered ones, by number.
        held: Keys whose calls wait for the leader of their shard.
        inflows: Of the streams among the calls.
        session_key: Signs what sessions have seen; all processes of a cluster share it.
        on_view: Told of each view that came from elsewhere and said something new.
    """

    def __init__(self, transport: Transport, view: View, client_id: str | None = None) -> None:
        self.loop = asyncio.get_running_loop()
        self.id = client_id or new_id()
        if len(self.id) > MAX_CALLER:
            message = f"client id {self.id!r} has more than {MAX_CALLER} characters"
            raise InvalidInputError(message)
        self.view = view
        self.calls: dict[int, Call] = {}
        self.inflows: dict[int, Inflow] = {}
        self.dropped_casts = 0
        self.session_key = b""
        self.on_view: Callable[[View], None] | None = None
        self._transport = transport
        self._links: dict[str, Link] = {}
        self._routes = Routes(self, view.shards)
        self._by_shard = self._routes.by_shard
        self.held: dict[str, Held] = self._routes.held
        self._shards: dict[str, int] = {}
        self._number = 0
        self._retries: dict[int, tuple[str, float]] = {}  # by number: key, and until when
        self._source = view.source
        self._sweeping: asyncio.TimerHandle | None = None
        self._watch: asyncio.Task[None] | None = None
        self._earliest = float("inf")
        self.is_closed = False

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
        if self.held and key in self.held:
            self.held[key].calls.append(call)
            return call
        link = self._by_shard[shard]
        if link is None:
            self._routes.route(call)
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
        link = self.link(host)
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
        if call.link is None or self.is_closed:
            return
        told = self.submit_to_host(call.link.host, name, call.key, body, TELL_SECONDS)
        told.add_done_callback(look)

    def op_id(self, call: Call) -> str:
        """The operation id under which the agent remembers the call."""
        given: str | None = call.extra.get(OP_ID) if call.extra else None
        return given or OpId(self.id, call.number).text

    def ack(self) -> int:
        """The number below which all calls are answered, and no answer is asked for again."""
        ack = next(iter(self.calls), self._number + 1)
        if self._retries:
            now = self.loop.time()
            for number in [n for n, (_, until) in self._retries.items() if until < now]:
                del self._retries[number]
            ack = min(ack, min(self._retries, default=ack))
        return ack

    def kept_for_retry(self, key: str) -> int:
        """The lowest number of this key that is kept for a retry, or one above all numbers."""
        kept = (number for number, (owner, _) in self._retries.items() if owner == key)
        return min(kept, default=self._number + 1)

    def give_up_retries(self, key: str) -> None:
        """The agent has no room for what is kept for retries."""
        for number in [n for n, (owner, _) in self._retries.items() if owner == key]:
            del self._retries[number]

    def _new_call(
        self,
        kind: int,
        key: str,
        name: str,
        body: bytes,
        timeout: float,
        extra: dict[str, Any] | None,
    ) -> Call:
        if self.is_closed:
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
        call.seen = None
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

    def link(self, host: str) -> Link:
        """The link to a host."""
        link = self._links.get(host)
        if link is None:
            link = self._links[host] = Link(self, host, self._transport)
        return link

    def is_gone(self, host: str) -> bool:
        """Whether the host is known to be dead."""
        link = self._links.get(host)
        return link is not None and link.is_gone

    def is_out_of_reach(self, host: str) -> bool:
        """Whether the last frames to the host have failed, and none has come through since."""
        link = self._links.get(host)
        return link is not None and link.is_troubled

    def hears_since(self, since: float) -> bool:
        """Whether some host has answered all along, from then until now."""
        now = self.loop.time()
        return any(
            link.answered_since is not None
            and link.answered_since <= since
            and now - link.heard < HEARD_SECONDS
            for link in self._links.values()
            if not link.is_gone
        )

    # -- what links report

    def finish(self, call: Call, result: Any) -> None:
        """The call ends well."""
        self.calls.pop(call.number, None)
        if not call.done():
            call.set_result(result)

    def fail(self, call: Call, error: JidoError) -> None:
        """The call ends with this error; as unknown when only this attempt was refused."""
        self.calls.pop(call.number, None)
        if call.done():
            return
        if call.is_doubtful and isinstance(error, RejectedError):
            why = f"an earlier attempt may have run; a later one was refused ({error.message})"
            error = self._unknown(call, why, error)
        call.set_exception(error)

    def refused(self, call: Call, status: int, body: bytes) -> None:
        """The host does not take the call now: hold it until somebody does."""
        if call.done():
            self.calls.pop(call.number, None)
        elif call.shard < 0:
            message = f"host {call.link.host if call.link else '?'} does not take {call.name!r} now"
            self.fail(call, UnavailableError(message, retry_after=0.1))
        elif status == CROWDED:
            self._routes.hold(call).is_crowded = True
        elif status == DOUBT and call.kind == STREAM:
            self._end_stream(call, "its host leads the agent's shard no more")
        else:
            call.is_doubtful = call.is_doubtful or status == DOUBT
            self._routes.refused(call, body)

    def doubt(self, call: Call) -> None:
        """The host it was sent to says nothing: hold the call until another one takes it."""
        if call.kind == STREAM:
            self._end_stream(call, "its host is silent, and leads the agent's shard no more")
        else:
            call.is_doubtful = True
            self._routes.hold(call)

    def look_soon(self) -> None:
        """See whether held calls may leave."""
        self._routes.look_soon()

    def unanswered(self, link: Link) -> list[Call]:
        """Calls a frame of this link carried and that have no answer yet, in order."""
        found = [c for c in self.calls.values() if c.link is link and c.is_sent and not c.done()]
        return sorted(found, key=lambda call: call.number)

    def interrupt_streams(self, link: Link) -> None:
        """Answers of this link may be lost, and items with them: its streams end, at both ends."""
        for call in self.unanswered(link):
            if call.kind == STREAM:
                self._end_stream(call, "the connection to its host broke")

    def _end_stream(self, call: Call, why: str) -> None:
        self.calls.pop(call.number, None)
        call.set_exception(self._unknown(call, why))
        self.tell_host(call, CLOSE, pack((call.number,)))

    def lost(self, link: Link) -> None:
        """The host is gone for good: its calls wait for whoever leads now."""
        self._stand_back(link, is_gone=True)

    def unreachable(self, link: Link) -> None:
        """The host may be alive: as `lost`, but it may be turned to again."""
        self._stand_back(link, is_gone=False)

    def _stand_back(self, link: Link, *, is_gone: bool) -> None:
        self.interrupt_streams(link)
        waiting = {c.number: c for c in (*self.unanswered(link), *link.take_unsent())}
        if is_gone:
            link.close()
        for call in waiting.values():
            call.is_doubtful = call.is_doubtful or call.is_sent
            if call.shard >= 0:
                self._routes.hold(call)
            elif is_gone:
                self.fail_lost(call, link.host)
            else:
                link.push(call)
        self._routes.leave_host(link)
        self.want_view()

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
        elif not self.is_closed and call.shard >= 0 and not (call.extra and OP_ID in call.extra):
            if len(self._retries) >= MAX_RETRIES:
                del self._retries[min(self._retries)]
            self._retries[call.number] = (call.key, self.loop.time() + RETRY_SECONDS)
        message = f"{call.name!r} to {call.key!r} has an unknown outcome: {why}; {remedy}"
        error = OutcomeUnknownError(message, op_id=op_id)
        error.__cause__ = cause
        return error

    # -- views

    def install(self, view: View) -> None:
        """Learn from a view; links to hosts that are no more end.

        Raises:
            ValueError: It is of another cluster.
        """
        merged = self.view.merge(view)
        if merged is self.view:
            return
        self._routes.take(merged)
        for host, link in list(self._links.items()):
            if host not in merged.addresses:
                if not link.is_gone:
                    self.lost(link)
                del self._links[host]
        if self.on_view is not None:
            self.on_view(merged)
        self._routes.look_soon()

    def want_view(self) -> None:
        """Begin to follow views in the background."""
        if self._watch is None and not self.is_closed:
            self._watch = self.loop.create_task(self._watch_views())

    async def _watch_views(self) -> None:
        while not self.is_closed:
            try:
                view = await self._transport.newer_view(self._source)
                self.install(view)
            except PeerTroubleError:
                await asyncio.sleep(VIEW_RETRY)
            except ValueError:
                logger.exception("client %s heard of another cluster", self.id)
                await asyncio.sleep(VIEW_RETRY)
            else:
                self._source = view.source

    async def ask(self, supervisor: str, operation: str, data: bytes) -> bytes:
        """The answer of a node's supervisor to a control request; see `Transport.ask`."""
        return await self._transport.ask(supervisor, operation, data)

    # -- deadlines

    def _sweep(self) -> None:
        self._sweeping = None
        now = self.loop.time()
        if now >= self._earliest:
            self._earliest = self._expire(now)
        if self.held:
            self._routes.look()
        if self.calls and not self.is_closed:
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
            if call.kind == CAST or call.kind == EVENT:
                self.dropped_casts += 1
            call.set_exception(self._out_of_time(call))
        return earliest

    def _out_of_time(self, call: Call) -> JidoError:
        if call.is_sent or call.is_doubtful:
            return self._unknown(call, "no answer came before the deadline")
        what = f"{call.name!r} to {call.key!r} did not run"
        if call.shard >= 0 and self._routes.is_leaderless(call.shard):
            return self._routes.unserved(call)
        return DeadlineExceededError(f"{what}: its deadline passed first")

    # -- ending

    async def start(self) -> None:
        """Begin to follow views."""
        self.want_view()

    async def close(self) -> None:
        """Abandon what is unanswered and forget the links."""
        self.is_closed = True
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)
        if self._sweeping is not None:
            self._sweeping.cancel()
        for link in self._links.values():
            link.close()
        for call in list(self.calls.values()):
            if not call.done():
                if call.is_sent or call.is_doubtful:
                    call.set_exception(self._unknown(call, "the connection was closed"))
                    call.exception()
                else:
                    call.cancel()
        self.calls.clear()
