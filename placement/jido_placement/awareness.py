"""A node's doubt in itself: how much of what looks like others' silence may be its own slowness.

Theory. A node that is starved of processor time sees everybody as late. It can tell: its own probes
fail again and again, helpers that it asked do not even decline, it has to contradict suspicions,
its loop runs late. Each such sign raises a score, each probe answered in time lowers it, and the
node waits longer in proportion before it says anything of others.
*Source*: Dadgar, Phillips, Currey, Lifeguard: Local Health Awareness for More Accurate Failure
Detection (2018), section IV.A.
"""

__all__ = ["Awareness"]


class Awareness:
    """The score of one node, 0 (healthy) to `max_score`."""

    __slots__ = ("_max_score", "score")

    def __init__(self, max_score: int) -> None:
        """Starts healthy; `max_score` >= 0, where 0 never doubts."""
        self._max_score = max_score
        self.score = 0

    def add(self, signs: int) -> None:
        """Takes signs of ill health (> 0) or of health (< 0) into account."""
        self.score = min(self._max_score, max(0, self.score + signs))

    def stretch(self, span_ms: int) -> int:
        """A span of waiting, made longer by the doubt: `span_ms` x (1 + score)."""
        return span_ms * (1 + self.score)
