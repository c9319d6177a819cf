"""From silence to a leader that knows its keys: pre-vote, promises, recovery.

Theory. A candidate asks first whether a quorum would promise (PREVOTE), so that a replica that
hears the leader is not disturbed by one that does not. Then it makes its own promise durable, and
asks for theirs (PREPARE). With promises of a quorum nothing below the ballot can be accepted any
more by any quorum; so what that quorum lists now contains everything acknowledged so far. For each
key the highest listed version is taken. It is clean when a quorum holds exactly that version, and
must be settled (written again under the ballot) before it is used otherwise: part of a quorum
might have it, and the next election might not meet that part.
*Source*: Ongaro's thesis, 9.6 (pre-vote); Lamport, Paxos made simple; riak_ensemble.
"""

from collections.abc import Callable
from typing import Final

from jido_placement.config import Replica
from jido_state.messages import (
    UNREAD,
    Header,
    List,
    Listed,
    Nack,
    Prepare,
    Prevote,
    PrevoteAnswer,
    Promise,
    Row,
    Transfer,
)
from jido_state.seat import Seat
from jido_state.versions import NO_BALLOT, Ballot

__all__ = ["Election", "Recovered"]

PROBING: Final = "probing"  # its own store has to show that it still writes
ASKING: Final = "asking"  # pre-votes
PROMISING: Final = "promising"
LISTING: Final = "listing"


class Recovered:
    """What a new leader has learnt from a quorum that promised its ballot.

    Attributes:
        ballot: The leader's.
        view: The newest row of each key that anybody in the quorum holds; content only where the
            leader holds that version itself.
        holders: Replicas that hold exactly that version, by key.
        unclean: Keys whose newest version is not on a quorum.
    """

    __slots__ = ("ballot", "holders", "unclean", "view")

    def __init__(self, ballot: Ballot) -> None:
        self.ballot = ballot
        self.view: dict[str, Row] = {}
        self.holders: dict[str, list[Replica]] = {}
        self.unclean: list[str] = []


class _Listing:
    """The rows of one replica, as far as they differ from the candidate's own."""

    __slots__ = ("differing", "next_leaf", "rows")

    def __init__(self) -> None:
        self.next_leaf = 0
        self.differing: set[int] = set()
        self.rows: dict[str, Row] = {}


class Election:
    """The campaigns of one replica; at most one at a time.

    Args:
        seat: What the roles of the replica share.
        won: Called with what a candidate has recovered; from then on it leads.
    """

    def __init__(self, seat: Seat, won: Callable[[Recovered], None]) -> None:
        self._seat = seat
        self._won = won
        self._phase = ""
        self._ballot = NO_BALLOT
        self._is_certain = False
        self._leading = NO_BALLOT  # the ballot it leads under while it asks for another
        self._begun_ms = 0
        self._sent_ms = 0
        self._grants: set[Replica] = set()
        self._promises: dict[Replica, Promise] = {}
        self._listings: dict[Replica, _Listing] = {}
        self._jitter_ms = 0  # so that candidates do not collide for ever
        self.rest()

    @property
    def is_running(self) -> bool:
        """Whether a campaign is on."""
        return self._phase != ""

    @property
    def is_deciding(self) -> bool:
        """Whether a campaign has gone so far that this replica promised its own ballot."""
        return self._phase in {PROMISING, LISTING}

    def rest(self) -> None:
        """Ends any campaign, and waits for silence again."""
        seat = self._seat
        self._phase = ""
        self._jitter_ms = seat.jitter_ms()

    @property
    def due_ms(self) -> int:
        """When to tick, if nothing happens before."""
        seat = self._seat
        if not self.is_running:
            return seat.heard_ms + self._patience_ms()
        settings = seat.settings
        return min(self._begun_ms + settings.election_ms, self._sent_ms + settings.resend_ms)

    def tick(self) -> None:
        """Begins a campaign after silence, repeats what was not answered, gives up in time."""
        seat = self._seat
        now = seat.now_ms
        if not self.is_running:
            if now - seat.heard_ms >= self._patience_ms():
                self.begin(is_certain=seat.is_bereft)
            return
        if now - self._begun_ms >= seat.settings.election_ms:
            self.rest()
            # The wait begins now: nobody else is heard either.
            seat.heard_ms = now - seat.settings.election_ms
        elif now - self._sent_ms >= seat.settings.resend_ms:
            self._send_again()

    def _patience_ms(self) -> int:
        """How long a silence becomes a campaign."""
        seat = self._seat
        settings = seat.settings
        if seat.config.members == (seat.me,):
            return 0  # nobody else can lead
        ranked_ms = seat.rank * settings.rank_ms
        if seat.is_bereft:
            # Only the order among the candidates has to be waited for; but who has heard nobody
            # yet has to give a newer leader the time to be heard.
            listening_ms = 2 * settings.heartbeat_ms if seat.heard == NO_BALLOT else 0
            return listening_ms + ranked_ms
        if seat.followed == NO_BALLOT:
            return ranked_ms + self._jitter_ms  # nobody has ever led
        return settings.election_ms + ranked_ms + self._jitter_ms

    def begin(
        self, *, is_certain: bool = False, leading: Ballot = NO_BALLOT, is_transfer: bool = False
    ) -> None:
        """Campaigns for a ballot above all seen.

        Args:
            is_certain: The leader's process is known to be gone.
            leading: The ballot this replica leads under already, when it needs a newer one.
            is_transfer: The leader has asked for it: no pre-vote is needed.
        """
        seat = self._seat
        self._ballot = seat.next_ballot()
        self._is_certain = is_certain
        self._leading = leading
        self._begun_ms = self._sent_ms = seat.now_ms
        self._grants = {seat.me}
        self._promises = {}
        self._listings = {}
        if is_transfer:
            self._promise_itself()
            return
        self._phase = PROBING
        # A disk that does not write any more must not win: the probe is its own header again.
        seat.journal.write_header(self._header())
        seat.journal.when_durable(self._probed, self._ballot)

    def _header(self) -> Header:
        return self._seat.acceptor.header

    def _probed(self, ballot: Ballot) -> None:
        if self._phase == PROBING and ballot == self._ballot:
            self._phase = ASKING
            self._send_again()
            self._count_grants()

    def _send_again(self) -> None:
        seat = self._seat
        self._sent_ms = seat.now_ms
        number = seat.config.number
        if self._phase == ASKING:
            message = Prevote(number, self._ballot, self._is_certain, self._leading)
            seat.send_all(seat.others(self._grants), message)
        elif self._phase == PROMISING:
            # Own promise first: a candidate that forgot its ballot could use it a second time.
            if seat.me in self._promises:
                told = self._promises[seat.me].appends
                prepare = Prepare(number, self._ballot, told)
                seat.send_all(seat.others(self._promises), prepare)
        elif self._phase == LISTING:
            for replica, listing in self._listings.items():
                self._ask_list(replica, listing)

    # Answers to another candidate

    def answer_prevote(self, sender: Replica, message: Prevote, *, leads: bool) -> None:
        """Grants unless this replica leads, or has reason to believe that somebody does."""
        seat = self._seat
        seat.saw(message.ballot)
        silence = seat.now_ms - seat.heard_ms
        settings = seat.settings
        knows_better = (
            silence >= settings.election_ms
            or seat.followed == NO_BALLOT  # nobody has ever led here
            or seat.is_bereft
            or (message.is_certain and silence >= 2 * settings.heartbeat_ms)
            or (message.leader != NO_BALLOT and message.leader == seat.heard)
            or (seat.heard.node == sender.node and message.leader == NO_BALLOT)  # it has stopped
        )
        is_granted = not leads and knows_better and message.ballot > seat.acceptor.promised
        answer = PrevoteAnswer(
            seat.config.number, message.ballot, is_granted, seat.acceptor.promised
        )
        seat.send(sender.node, answer)

    def receive_transfer(self, message: Transfer) -> None:
        """The leader hands over: campaigns at once, with its permission."""
        if message.ballot >= self._seat.acceptor.promised and not self.is_deciding:
            self.begin(is_transfer=True)

    # The own campaign

    def receive_prevote_answer(self, sender: Replica, message: PrevoteAnswer) -> None:
        """Counts a grant."""
        self._seat.saw(message.promised)
        if self._phase == ASKING and message.ballot == self._ballot and message.is_granted:
            self._grants.add(sender)
            self._count_grants()

    def _count_grants(self) -> None:
        if self._phase == ASKING and self._seat.config.is_quorum(self._grants):
            self._promise_itself()

    def _promise_itself(self) -> None:
        """The ballot to be used, above every round the pre-votes told of; own promise first."""
        seat = self._seat
        self._ballot = seat.next_ballot()
        self._phase = PROMISING
        self._sent_ms = seat.now_ms
        seat.acceptor.promise(self._ballot)
        seat.journal.when_durable(self._promised_itself, self._ballot)

    def _promised_itself(self, ballot: Ballot) -> None:
        if self._phase != PROMISING or ballot != self._ballot:
            return
        seat = self._seat
        own = seat.acceptor.promise_of(ballot)
        seat.send_all(seat.others(), Prepare(seat.config.number, ballot, own.appends))
        self._count_promise(seat.me, own)

    def receive_promise(self, sender: Replica, message: Promise) -> None:
        """Counts a promise."""
        if message.ballot == self._ballot and self._phase == PROMISING:
            self._count_promise(sender, message)

    def _count_promise(self, replica: Replica, promise: Promise) -> None:
        self._promises[replica] = promise
        # Who does not know what is absent promises, but helps nobody to know the keys.
        whole = [one for one, each in self._promises.items() if each.is_whole]
        if self._seat.me in self._promises and self._seat.config.is_quorum(whole):
            self._phase = LISTING
            self._begin_listing(whole)

    def _begin_listing(self, quorum: list[Replica]) -> None:
        root = self._seat.acceptor.tree.root
        self._listings = {}
        for replica in sorted(quorum):
            if replica != self._seat.me and self._promises[replica].root != root:
                listing = self._listings[replica] = _Listing()
                self._ask_list(replica, listing)
        self._finish_listing()

    def _ask_list(self, replica: Replica, listing: _Listing) -> None:
        seat = self._seat
        tree = seat.acceptor.tree
        if listing.next_leaf < tree.size:
            number = seat.config.number
            told = self._promises[seat.me].appends
            message = List(number, self._ballot, tree.digests(), listing.next_leaf, told)
            seat.send(replica.node, message)

    def receive_listed(self, sender: Replica, message: Listed) -> None:
        """A page of another replica's rows."""
        listing = self._listings.get(sender)
        if (
            self._phase != LISTING
            or message.ballot != self._ballot
            or listing is None
            or message.start != listing.next_leaf
        ):
            return
        if not message.is_whole:
            # Spoilt since it promised: what it does not list may have been there.
            self.rest()
            return
        for key, version, flags, tomb in message.rows:
            listing.rows[key] = Row(version, flags, tomb, UNREAD)
        listing.differing.update(message.differing)
        listing.next_leaf = message.end
        self._ask_list(sender, listing)
        self._finish_listing()

    def _finish_listing(self) -> None:
        seat = self._seat
        size = seat.acceptor.tree.size
        if any(listing.next_leaf < size for listing in self._listings.values()):
            return
        self._phase = ""
        whole = [one for one, each in self._promises.items() if each.is_whole]
        self._won(self._recover(whole))

    def _recover(self, quorum: list[Replica]) -> Recovered:
        """The newest row of every key the quorum lists, and who holds it."""
        seat = self._seat
        acceptor = seat.acceptor
        found = Recovered(self._ballot)
        lists = [listing.rows for _, listing in sorted(self._listings.items(), key=_by_replica)]
        differing: set[int] = set()
        for listing in self._listings.values():
            differing |= listing.differing
        view = dict(acceptor.rows)
        for rows in lists:
            for key, row in rows.items():
                mine = view.get(key)
                if mine is None or mine.version < row.version:
                    view[key] = row
        found.view = view
        for key in [key for leaf in sorted(differing) for key in acceptor.tree.keys_in(leaf)] + [
            key for rows in lists for key in rows
        ]:
            if key in found.holders:
                continue
            version = view[key].version
            holders = [one for one in sorted(quorum) if self._held(one, key) == version]
            found.holders[key] = holders
            if not seat.config.is_quorum(holders):
                found.unclean.append(key)
        return found

    def _held(self, replica: Replica, key: str) -> object:
        """The version a replica of the quorum holds; None for none."""
        acceptor = self._seat.acceptor
        listing = self._listings.get(replica)
        if listing is None or acceptor.tree.leaf_of(key) not in listing.differing:
            row = acceptor.rows.get(key)
        else:
            row = listing.rows.get(key)
        return None if row is None else row.version

    def receive_nack(self, message: Nack) -> None:
        """Somebody promised more: gives up, and goes above it next time."""
        self._seat.saw(message.promised)
        if self.is_running and message.ballot == self._ballot:
            self.rest()


def _by_replica(item: tuple[Replica, _Listing]) -> Replica:
    return item[0]
