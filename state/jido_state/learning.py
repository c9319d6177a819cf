"""A learner's copy: content that is to spare transfers when the learner comes to vote.

Theory. Pages of the leader's tree are asked for one after the other and kept aside. They are no
records: nobody counts them, and a row whose content was copied is still written by an ACCEPT, which
names it instead of carrying it.
"""

from jido_state.messages import Copied, Copy, LearnerReady
from jido_state.seat import Seat

__all__ = ["Learning"]


class Learning:
    """Copies the rows of a group to a replica that is to vote in it."""

    def __init__(self, seat: Seat) -> None:
        self._seat = seat
        self._next_leaf = 0
        self._asked_ms = seat.now_ms

    def begin(self) -> None:
        """Begins anew, with the first page."""
        self._next_leaf = 0

    @property
    def due_ms(self) -> int:
        """When to ask again."""
        return self._asked_ms + self._seat.settings.resend_ms

    def tick(self, leader: int | None) -> None:
        """Asks again for what has not come."""
        if self._seat.now_ms - self._asked_ms >= self._seat.settings.resend_ms:
            self._ask(leader)

    def _ask(self, leader: int | None) -> None:
        seat = self._seat
        self._asked_ms = seat.now_ms
        if self._next_leaf >= seat.acceptor.tree.size:
            if seat.me in seat.config.learners:
                seat.emit(LearnerReady(seat.config.number, seat.acceptor.header.rno))
        elif leader is not None:
            seat.send(leader, Copy(seat.config.number, self._next_leaf))

    def copied(self, message: Copied, leader: int | None) -> None:
        """A page has come."""
        acceptor = self._seat.acceptor
        if acceptor.header.status == "learner" and message.start == self._next_leaf:
            acceptor.staged.update(message.rows)
            self._next_leaf = message.end
            self._ask(leader)
