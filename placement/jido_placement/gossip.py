"""What a node hands on to others, each piece a bounded number of times.

Theory. If every node repeats what it hears to a few random others, all have it after a number of
rounds that grows with the logarithm of their number; repeating longer than that adds nothing but
load. Pieces that were sent least go first, so that fresh news does not wait behind old.
*Source*: SWIM (2002), section 4.1 (piggybacking); the limit is that of hashicorp/memberlist.
"""

import heapq
import math
from typing import Final, Generic, TypeVar

__all__ = ["Spread", "retransmit_limit"]

T = TypeVar("T")

# What a piece costs besides its text: numbers, and the frame around them.
OVERHEAD_BYTES: Final = 24


def retransmit_limit(factor: int, nodes: int) -> int:
    """How often one node sends one piece: factor x ceil(log10(nodes + 1)); `nodes` >= 1."""
    return factor * math.ceil(math.log10(nodes + 1))


class Spread(Generic[T]):
    """Pieces on their way, at most one for each subject: a newer one takes the place of the older.

    Bounded by the number of subjects, which the caller bounds.
    """

    __slots__ = ("_order", "_pieces")

    def __init__(self) -> None:
        self._pieces: dict[str, tuple[int, int, T, int]] = {}
        self._order = 0

    def __len__(self) -> int:
        return len(self._pieces)

    def put(self, subject: str, piece: T, text_bytes: int) -> None:
        """Has the piece sent from now on instead of what there was of this subject."""
        self._order += 1
        self._pieces[subject] = (0, -self._order, piece, text_bytes + OVERHEAD_BYTES)

    def drop(self, subject: str) -> None:
        """Sends nothing of this subject any more."""
        self._pieces.pop(subject, None)

    def take(self, budget_bytes: int, limit: int) -> tuple[T, ...]:
        """What goes with the next message: least sent first, among equals the latest.

        Args:
            budget_bytes: What they may take together; the first that does not fit ends it.
            limit: How often a piece is sent in all; it is dropped with its last time.
        """
        if not self._pieces:
            return ()
        most = budget_bytes // OVERHEAD_BYTES
        picked = heapq.nsmallest(most, self._pieces, key=lambda subject: self._pieces[subject][:2])
        taken: list[T] = []
        for subject in picked:
            sent, order, piece, size = self._pieces[subject]
            budget_bytes -= size
            if budget_bytes < 0:
                break
            taken.append(piece)
            if sent + 1 >= limit:
                del self._pieces[subject]
            else:
                self._pieces[subject] = (sent + 1, order, piece, size)
        return tuple(taken)
