"""Routes: which host the calls for a shard go to, and what waits until that is known.

Theory. A shard's calls go to the host that leads it by the client's view. Where that host is not
known, or has just refused, the calls wait here, and the shard's replicas are asked one after the
other who leads, while the client also waits for a newer view. A host is not turned to again within
50 ms of having refused, so that two hosts which name each other are no reason to hurry.

When nobody leads for long, hosts name one that stands in: calls go there until a leader is heard
of, and it says of each whether it is served. When nobody names anybody, held calls end refused.

The order of one agent's calls. A key is *held* from when one of its calls was refused, or its shard
has got another leader while a call is on its way. What is submitted for a held key waits behind.
The key is let go, lowest number first, when no other host than the one to be sent to owes it an
answer. A host that says nothing for a second owes nothing any more: its calls become doubtful, and
the op id keeps them from counting twice.

What a host has to add: once it has refused number n of a key, it refuses the key's later numbers of
that client until n has come again or is acknowledged. Otherwise a host which becomes the leader
between two frames would take the second one's call first.
"""

import math
from typing import TYPE_CHECKING, Any, Final

from jido_cluster.errors import JidoError, NoQuorumError, WireError
from jido_cluster.runtime.link import Call, Link
from jido_cluster.runtime.view import Lead, StandIn, View
from jido_cluster.runtime.wire import ACK, LEADS, pack, unpack_lead

if TYPE_CHECKING:
    from jido_cluster.runtime.client import Client

PAUSE: Final = 0.05  # seconds between two attempts at one host for one shard
QUESTION_SECONDS: Final = 0.5  # how long a host is given to say who leads
SILENCE: Final = 1.0  # seconds; an answer comes in a few milliseconds, or never
LEADERLESS: Final = 2.0  # seconds of "nobody leads" that make it the reason why a call failed
STAND_IN_PAUSE: Final = 0.5  # at most, and a tenth of the time that who stands in takes nothing
UNSERVED: Final = 10.0  # seconds of that, or of silence, after which calls need not wait for more
STARTING: Final = 30.0  # the same when nobody answers: all nodes may be starting again


class Held:
    """The calls of one key that wait, in any order.

    Attributes:
        since: When it was first held, in seconds of the loop.
        is_crowded: Whether a call of it came back as CROWDED.
    """

    __slots__ = ("calls", "is_crowded", "shard", "since")

    def __init__(self, shard: int, since: float) -> None:
        self.shard = shard
        self.since = since
        self.is_crowded = False
        self.calls: list[Call] = []


class Search:
    """What was tried lately to find the leader of one shard.

    Attributes:
        tried: When each host refused, or was asked in vain; later for one that is to be left alone.
        question: The one that is on its way.
        leaderless: Since when no host has named anybody.
        lost: The lead whose host could not be reached, until somebody names a leader.
        unserved: Since when those that stand in take nothing, until somebody names a leader.
    """

    __slots__ = ("leaderless", "lost", "question", "tried", "unserved")

    def __init__(self) -> None:
        self.tried: dict[str, float] = {}
        self.question: Call | None = None
        self.leaderless: float | None = None
        self.lost: Lead | None = None
        self.unserved: float | None = None


class Routes:
    """Part of one client, and as little thread-safe.

    Invariants: the unanswered calls of a key that is not held are all on the link of its shard;
    `by_shard` has a link only to the host that stands in, else leads by the client's view.

    Attributes:
        by_shard: Where calls go without a further thought; None: ask `route`.
        held: By key.
    """

    def __init__(self, client: "Client", shards: int) -> None:
        self._client = client
        self.by_shard: list[Link | None] = [None] * shards
        self.held: dict[str, Held] = {}
        self._searches: dict[int, Search] = {}
        self._refusals: dict[int, tuple[str, bytes]] = {}  # by shard: who refused, and its reason
        self._news: dict[int, Lead] = {}
        self._stand_ins: dict[int, str] = {}  # by shard the host that answers while nobody leads
        self._is_looking = False

    # -- sending

    def route(self, call: Call) -> None:
        """Push the call on its shard's link, or hold it until somebody leads the shard."""
        link = self._target(call.shard)
        if link is None:
            self.hold(call)
            self._client.want_view()
        else:
            link.push(call)

    def hold(self, call: Call) -> Held:
        """Keep the call until it may leave; it is on no link any more."""
        call.link = None
        call.is_sent = False
        held = self._hold_key(call.key, call.shard)
        held.calls.append(call)
        return held

    def _hold_key(self, key: str, shard: int) -> Held:
        held = self.held.get(key)
        if held is None:
            held = self.held[key] = Held(shard, self._client.loop.time())
        return held

    def look_soon(self) -> None:
        """See, once in this pass of the loop, what may leave."""
        if not self._is_looking:
            self._is_looking = True
            self._client.loop.call_soon(self.look)

    def look(self) -> None:
        """Learn what hosts have said, then let go of the keys that may leave."""
        self._is_looking = False
        self._learn()
        if not self.held or self._client.is_closed:
            return
        owing, lowest = self._survey()
        for key, held in list(self.held.items()):
            held.calls = [call for call in held.calls if not call.done()]
            if not held.calls and key not in owing:
                del self.held[key]
                continue
            link = self._target(held.shard)
            if link is None and self._is_unserved(held.shard):
                del self.held[key]
                self._give_up(held)
                continue
            if link is None or not self._is_free(held, link, owing.get(key, ())):
                continue
            if held.is_crowded and not self._acknowledge(key, held, lowest[key]):
                continue
            del self.held[key]
            for call in sorted(held.calls, key=lambda call: call.number):
                if call.shard == held.shard:
                    link.push(call)
                else:  # an agent and a run of one name
                    self.route(call)

    def _give_up(self, held: Held) -> None:
        """Nobody is there to take these calls; what may have run ends as unknown."""
        for call in sorted(held.calls, key=lambda call: call.number):
            self._client.fail(call, self.unserved(call))

    @staticmethod
    def unserved(call: Call) -> NoQuorumError:
        """Why a call was not taken by anybody."""
        message = (
            f"{call.name!r} to {call.key!r} did not run: too few replicas of shard {call.shard} "
            "are in reach to elect a leader, or to go on without; retry when their nodes are back"
        )
        return NoQuorumError(message, retry_after=1.0, shard=call.shard)

    def _survey(self) -> tuple[dict[str, list[Call]], dict[str, int]]:
        """By held key: calls that a host owes an answer to, and the lowest unanswered number."""
        owing: dict[str, list[Call]] = {}
        lowest: dict[str, int] = {}
        held = self.held
        for call in self._client.calls.values():
            if call.key in held and call.shard >= 0:
                lowest.setdefault(call.key, call.number)
                if call.is_sent and call.link is not None and not call.done():
                    owing.setdefault(call.key, []).append(call)
        return owing, lowest

    def _is_free(self, held: Held, link: Link, owing: "list[Call] | tuple[()]") -> bool:
        """Whether no other host owes an answer; those that have been silent for long do not."""
        others = [call for call in owing if call.link is not link]
        now = self._client.loop.time()
        for call in others:
            assert call.link is not None
            if now - max(held.since, call.link.heard) < SILENCE:
                return False
        for call in others:
            self._client.doubt(call)
        return True

    def _acknowledge(self, key: str, held: Held, lowest: int) -> bool:
        """Say to which number the key is answered; False if that is what was said before."""
        ack = min(lowest, self._client.kept_for_retry(key))
        if all((call.extra or {}).get(ACK) == ack for call in held.calls):
            self._client.give_up_retries(key)
            if self._client.loop.time() - held.since < PAUSE:
                return False
        for call in held.calls:
            call.extra = {**(call.extra or {}), ACK: ack}
        return True

    # -- who leads

    def _target(self, shard: int) -> Link | None:
        """The link to the shard's leader; None, and a question is on its way, if unknown."""
        link = self.by_shard[shard]
        if link is not None:
            return link
        view = self._client.view
        stand_in = self._stand_ins.get(shard)
        host = stand_in or view.leaders[shard]
        # One that is out of reach gets questions, which are short, until it has answered one.
        is_open = host and self._is_open(shard, host) and not self._client.is_out_of_reach(host)
        if is_open:
            search = self._searches.get(shard)
            if search is not None and (stand_in or view.leads[shard] != search.lost):
                search.leaderless = None
            link = self.by_shard[shard] = self._client.link(host)
            return link
        self._ask(shard)
        return None

    def _is_open(self, shard: int, host: str) -> bool:
        """Whether the host lives, and was not tried for this shard just now."""
        if self._client.is_gone(host):
            return False
        search = self._searches.get(shard)
        tried = search.tried.get(host) if search is not None else None
        return tried is None or self._client.loop.time() - tried >= PAUSE

    def _search(self, shard: int) -> Search:
        search = self._searches.get(shard)
        if search is None:
            search = self._searches[shard] = Search()
        return search

    def _ask(self, shard: int) -> None:
        """Ask a host who leads, the one that was tried longest ago; one at a time.

        Not simply the first that may be tried: two silent ones would be asked in turn for ever.
        """
        search = self._search(shard)
        if search.question is not None:
            return
        hosts = self._client.view.candidates(shard)
        tried = search.tried
        open_hosts = (host for host in hosts if self._is_open(shard, host))
        host = min(open_hosts, key=lambda host: tried.get(host, -math.inf), default=None)
        if host is None:
            if all(self._client.is_gone(host) for host in hosts):
                self._nobody_named(search)
            return
        body = pack(shard)
        try:
            question = self._client.submit_to_host(host, LEADS, "", body, QUESTION_SECONDS)
        except JidoError:  # too many calls; the next sweep asks again
            return
        search.question = question
        question.add_done_callback(lambda call: self._told(shard, host, call))

    def _told(self, shard: int, host: str, question: Call) -> None:
        search = self._search(shard)
        search.question = None
        search.tried[host] = self._client.loop.time()
        if question.cancelled() or question.exception() is not None:
            self._nobody_named(search)
            self.look_soon()
            return
        server = self._server_of(shard, question.result())
        if server is not None:
            if isinstance(server, Lead):
                self._news[shard] = server
            if self._client.view.host_of(server.node, shard) == host:
                del search.tried[host]
        self.look_soon()

    def _server_of(self, shard: int, body: Any) -> Lead | StandIn | None:
        """Whom a host names for a shard; remembers since when nobody has been named."""
        try:
            server = unpack_lead(body)
        except WireError:
            return None
        search = self._search(shard)
        if server is None:
            self._nobody_named(search)
            return None
        search.leaderless = None
        host = self._client.view.host_of(server.node, shard)
        if isinstance(server, Lead):
            search.lost = search.unserved = None
            self._end_stand_in(shard)
        elif self._stand_ins.get(shard) != host:
            self._end_stand_in(shard)
            self.leave({shard})
            self._stand_ins[shard] = host
        return server

    def _nobody_named(self, search: Search) -> None:
        if search.leaderless is None:
            search.leaderless = self._client.loop.time()

    def _end_stand_in(self, shard: int) -> None:
        """Somebody leads: what is with who stood in is held, until that one has answered it."""
        if self._stand_ins.pop(shard, None) is not None:
            self.leave({shard})

    def refused(self, call: Call, body: bytes) -> None:
        """The host on the call's link does not lead its shard."""
        assert call.link is not None
        self._refusals[call.shard] = (call.link.host, body)
        self.hold(call)
        self.look_soon()

    def _learn(self) -> None:
        """Bring what was said into the view."""
        refusals, self._refusals = self._refusals, {}
        news, self._news = self._news, {}
        view = self._client.view
        now = self._client.loop.time()
        wrong: dict[int, Lead] = {}
        left: set[int] = set()
        for shard, (host, body) in refusals.items():
            self._search(shard).tried[host] = now
            known, link = view.leads[shard], self.by_shard[shard]
            if known is not None and view.leaders[shard] == host:
                wrong[shard] = known
            if link is not None and link.host == host:
                left.add(shard)
            server = self._server_of(shard, body)
            if isinstance(server, Lead) and view.host_of(server.node, shard) != host:
                news[shard] = server
            elif isinstance(server, StandIn) and self._stand_ins.get(shard) == host:
                self._refused_by_stand_in(self._search(shard), host, now)
            elif server is None and self._stand_ins.get(shard) == host:
                del self._stand_ins[shard]
        self.leave(left)
        self.take(view.without_leads(wrong).with_leads(news))

    @staticmethod
    def _refused_by_stand_in(search: Search, host: str, now: float) -> None:
        """It waits for a leader: ask it again, the later the longer that lasts."""
        if search.unserved is None:
            search.unserved = now
        search.tried[host] = now + min(STAND_IN_PAUSE, 0.1 * (now - search.unserved))

    def take(self, view: View) -> None:
        """Make this the client's view: calls go where it says from now on."""
        before, self._client.view = self._client.view, view
        if view is before:
            return
        if len(self.by_shard) < view.shards:
            self.by_shard += [None] * (view.shards - len(self.by_shard))
        for shard, host in list(self._stand_ins.items()):
            lead = view.leads[shard]
            if host not in view.addresses or (lead is not None and lead != before.leads[shard]):
                self._end_stand_in(shard)
        if before.leaders != view.leaders:
            leaders, stand_ins = view.leaders, self._stand_ins
            self.leave(
                {
                    shard
                    for shard, link in enumerate(self.by_shard)
                    if link is not None and link.host != stand_ins.get(shard, leaders[shard])
                }
            )
            self.look_soon()

    def leave(self, shards: set[int]) -> None:
        """Send nothing more for these shards to where it went: hold what is on its way."""
        if not shards:
            return
        for link in {id(link): link for shard in shards if (link := self.by_shard[shard])}.values():
            for call in link.take_unsent():
                if call.shard in shards:
                    call.is_doubtful = call.is_doubtful or call.is_sent
                    self.hold(call)
                else:
                    link.push(call)
        for shard in shards:
            self.by_shard[shard] = None
        for call in self._client.calls.values():
            if call.shard in shards and call.is_sent and not call.done():
                self._hold_key(call.key, call.shard)

    def leave_host(self, link: Link) -> None:
        """The host cannot be reached: look for others before it is turned to again."""
        shards = {shard for shard, known in enumerate(self.by_shard) if known is link}
        now = self._client.loop.time()
        for shard in shards:
            search = self._search(shard)
            search.tried[link.host] = now
            if self._stand_ins.get(shard) == link.host:
                del self._stand_ins[shard]
            else:
                search.lost = self._client.view.leads[shard]
            if search.leaderless is not None and search.leaderless < link.heard:
                search.leaderless = None
        self.leave(shards)
        self.look_soon()

    def _is_unserved(self, shard: int) -> bool:
        """Whether calls need not wait for a leader any more: only its replicas are gone, or all."""
        search = self._searches.get(shard)
        if search is None or search.leaderless is None or not self.is_leaderless(shard, UNSERVED):
            return False
        if self.is_leaderless(shard, STARTING):
            return True
        return self._client.hears_since(search.leaderless)

    def is_leaderless(self, shard: int, seconds: float = LEADERLESS) -> bool:
        """Whether nobody has been named for so long as the shard's leader, or to stand in."""
        search = self._searches.get(shard)
        if search is None or search.leaderless is None:
            return False
        return self._client.loop.time() - search.leaderless >= seconds
