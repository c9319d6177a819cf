"""How long a suspected node has to contradict before it counts as unreachable.

Theory. One node's suspicion may be that node's own illness, so it waits long. Each other node that
comes to the same suspicion by itself makes illness of all of them less likely: the time left falls
from the longest to the shortest span with the logarithm of the confirmations, so that the first few
count most.
*Source*: Lifeguard (2018), section IV.B; the factors are those of hashicorp/memberlist.
"""

import math
from collections.abc import Iterable

__all__ = ["Suspicion", "suspicion_span_ms"]


def suspicion_span_ms(min_ms: int, max_ms: int, confirmations: int, expected: int) -> int:
    """How long a suspicion lasts in all, `min_ms` <= result <= `max_ms`.

    Args:
        min_ms: What is left when all expected confirmations are in.
        max_ms: What a suspicion without confirmation lasts, >= min_ms.
        confirmations: How many nodes suspect independently besides the first, >= 0.
        expected: How many confirmations are as good as certainty; 0 makes the first one so.
    """
    if expected <= 0:
        return min_ms
    share = math.log(confirmations + 1) / math.log(expected + 1)
    return max(min_ms, math.floor(max_ms - (max_ms - min_ms) * share))


class Suspicion:
    """One node under suspicion.

    Attributes:
        since_ms: When it began; moved on by time that the own loop did not run.
        accusers: Who suspects, each counted once; at most `expected` + 1 are kept.
    """

    __slots__ = ("_expected", "_max_ms", "_min_ms", "accusers", "since_ms")

    def __init__(
        self, accusers: Iterable[str], now_ms: int, *, min_ms: int, max_ms: int, expected: int
    ) -> None:
        """Begins now; for the spans see `suspicion_span_ms`."""
        self._min_ms = min_ms
        self._max_ms = max_ms
        self._expected = expected
        self.since_ms = now_ms
        self.accusers = list(accusers)[: expected + 1]

    def confirm(self, accuser: str) -> bool:
        """Whether this accuser is new and still counts; it does so from now on."""
        if accuser in self.accusers or len(self.accusers) > self._expected:
            return False
        self.accusers.append(accuser)
        return True

    def is_old(self, now_ms: int) -> bool:
        """Whether it would have ended by now if enough others confirmed it."""
        return now_ms >= self.since_ms + self._min_ms

    @property
    def ends_at_ms(self) -> int:
        """When the node counts as unreachable unless it contradicts before."""
        confirmations = len(self.accusers) - 1
        return self.since_ms + suspicion_span_ms(
            self._min_ms, self._max_ms, confirmations, self._expected
        )
