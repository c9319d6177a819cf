"""The retry budget of a run: what keeps nested retries from multiplying.

Theory. A run of 1 + 3 attempts whose action runs another one of 1 + 3 attempts would try the inner
work 4 * 4 = 16 times, and with a third level 64 times: just when a service is struggling, its
clients make it many times the usual load. So retries are paid from a budget. The outermost run that
may retry grants as many as its own ``max_retries``, and every retry below it, its own included,
takes one. However deep the nesting and whatever the runs below say, the inner work above is tried
1 + 3 times at most, and the whole tree retries 3 times at most. A run still makes no more retries
than its own ``max_retries``.

The budget travels in the context, as the deadline does. Another process gets a copy of what is left
when the run is sent there: with r left, it retries up to r times, and so may its sender.
"""

import threading

__all__ = ["RetryBudget"]


class RetryBudget:
    """Retries that a run and all runs below it may still make together; for any thread."""

    __slots__ = ("_left", "_lock")

    def __init__(self, retries: int) -> None:
        self._left = retries
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<RetryBudget {self._left} left>"

    @property
    def left(self) -> int:
        """Retries that are left, >= 0."""
        return self._left

    def take(self, retries: int = 1) -> bool:
        """Takes so many, or as many as there are; False when there were fewer."""
        with self._lock:
            taken = min(retries, self._left)
            self._left -= taken
            return taken == retries
