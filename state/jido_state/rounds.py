"""Whether a quorum still follows a leader: rounds of CONFIRMs, and who was heard when.

Theory. A strong read is answered from committed content after a round of CONFIRMs that began when
the read was already there: a quorum had then promised nothing higher, so no other leader had
committed anything. One round serves all reads that came before it; what comes while it runs waits
for the next. Acks of any kind are contact as well: a leader that was not heard by a quorum for
half an election timeout, or whose own loop stood still, makes a round before it begins a turn.
*Source*: riak_ensemble; Ongaro's thesis, 6.4 (reads).
"""

from collections.abc import Callable
from typing import Any

from jido_placement.config import GroupConfig, Replica
from jido_state.messages import Confirm
from jido_state.seat import Seat
from jido_state.versions import Ballot

__all__ = ["Rounds"]


class _Round:
    __slots__ = ("acks", "number", "reads", "sent_ms")

    def __init__(self, number: int, reads: list[Any], me: Replica, sent_ms: int) -> None:
        self.number = number
        self.reads = reads
        self.acks = {me}
        self.sent_ms = sent_ms


class Rounds:
    """One leader's contact with its quorum.

    Args:
        seat: What the roles of the replica share.
        ballot: What it leads under.
        confirmed: Called with the reads of a round when a quorum has answered it.

    Attributes:
        contact: When each replica was heard last, or when that was first asked.
    """

    __slots__ = (
        "_ballot",
        "_began_ms",
        "_config",
        "_confirmed",
        "_fresh_until_ms",
        "_must_confirm",
        "_next_reads",
        "_number",
        "_round",
        "_seat",
        "contact",
    )

    def __init__(self, seat: Seat, ballot: Ballot, confirmed: Callable[[list[Any]], None]) -> None:
        self.contact: dict[Replica, int] = dict.fromkeys(seat.config.members, seat.now_ms)
        self._seat = seat
        self._ballot = ballot
        self._confirmed = confirmed
        self._config: GroupConfig = seat.config
        self._began_ms = seat.now_ms
        self._round: _Round | None = None
        self._number = 0
        self._next_reads: list[Any] = []
        self._must_confirm = False
        self._fresh_until_ms = seat.now_ms - 1

    def use(self, config: GroupConfig) -> None:
        """Quorums are this config's from now on."""
        self._config = config
        self._fresh_until_ms = self._seat.now_ms - 1

    # Rounds

    def confirm(self, read: Any) -> None:
        """`confirmed` gets this back after a round that begins from now on."""
        self._next_reads.append(read)
        self._start()

    def _start(self) -> None:
        if self._round is not None or not self._next_reads:
            return
        seat = self._seat
        reads, self._next_reads = self._next_reads, []
        self._number += 1
        self._round = _Round(self._number, reads, seat.me, seat.now_ms)
        message = Confirm(seat.config.number, self._ballot, self._number)
        seat.send_all(seat.others(), message)
        self.count()

    def answered(self, replica: Replica, number: int) -> None:
        """Counts an answer to the running round."""
        self.contact[replica] = self._seat.now_ms
        if self._round is not None and self._round.number == number:
            self._round.acks.add(replica)
            self.count()

    def count(self) -> None:
        """Ends the running round if a quorum has answered it."""
        current = self._round
        if current is None or not self._config.is_quorum(current.acks):
            return
        self._round = None
        self._must_confirm = False
        self._confirmed(current.reads)
        self._start()

    @property
    def due_ms(self) -> int | None:
        """When to ask again; None while nothing is asked."""
        return None if self._round is None else self._round.sent_ms + self._seat.settings.resend_ms

    def resend(self, pause_ms: int) -> None:
        """Asks again who has not answered within this time."""
        seat = self._seat
        current = self._round
        if current is not None and seat.now_ms - current.sent_ms >= pause_ms:
            current.sent_ms = seat.now_ms
            message = Confirm(seat.config.number, self._ballot, current.number)
            seat.send_all(seat.others(current.acks), message)

    # Contact

    @property
    def is_fresh(self) -> bool:
        """Whether a turn may begin: a quorum was in contact lately, and the own loop ran."""
        if self._must_confirm:
            return False
        now = self._seat.now_ms
        if now > self._fresh_until_ms:
            # Contact only grows, so that this need not be counted again before then.
            half = self._seat.settings.election_ms // 2
            self._fresh_until_ms = self.quorum_contact_ms() + half
        return now <= self._fresh_until_ms

    def doubt(self) -> None:
        """The own loop did not run for a while: somebody else may lead by now."""
        self._must_confirm = True

    def quorum_contact_ms(self) -> int:
        """The latest time since which a quorum has been heard."""
        now = self._seat.now_ms
        times = sorted(set(self.contact.values()), reverse=True)
        own = self._seat.me
        if self._config.is_quorum({own}):
            return now
        for time in times:
            if self._config.is_quorum(
                {own, *(one for one, at in self.contact.items() if at >= time)}
            ):
                return time
        return self._began_ms - self._seat.settings.election_ms

    def is_near(self, replica: Replica) -> bool:
        """Whether it was heard lately, or has not had the time to be."""
        since_ms = self.contact.setdefault(replica, self._seat.now_ms)
        return self._seat.now_ms - since_ms < self._seat.settings.election_ms
