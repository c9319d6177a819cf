"""Sessions: calls that build on each other see each other's effects, in whatever process they are.

Theory. Agents with `consistency="session"` promise this to the calls of one session: they read what
they wrote, never something older than they have read, and what they write comes after it. What the
session has seen travels in its token, a text short enough for a cookie. Reads of other processes
owe nothing to it.
*Source*: Terry et al., Session guarantees for weakly consistent replicated data (1994).
"""

from contextvars import ContextVar
from contextvars import Token as Reset
from typing import TYPE_CHECKING, Any, Final, Self

from jido_cluster.errors import UsageError
from jido_cluster.exec.context import CURRENT
from jido_cluster.runtime.seen import Seen
from jido_state.session import Token

if TYPE_CHECKING:
    from jido_cluster.runtime.client import Client

__all__ = ["Session", "current_seen", "is_in_session"]


class Session:
    """One session; `cluster.session()` makes it, and inside `with` all calls belong to it.

    It can be entered again, also in another thread or task, and by several at once.
    """

    def __init__(self, client: "Client", token: str | None) -> None:
        view = client.view
        if token is None:
            new = Token(view.cluster_id, view.recovery_no)
            self._seen = Seen(new, client.session_key)
        else:
            self._seen = Seen.read(token, client.session_key, view.cluster_id, view.recovery_no)
        self._client = client

    @property
    def token(self) -> str:
        """What the session has seen so far: at most 4096 characters that a cookie may have.

        Raises:
            SessionUnavailableError: It has seen too much for one token.
        """
        return self._seen.checked_text()

    def __enter__(self) -> Self:
        entry = _Entry(self._client, self._seen, CURRENT.get())
        entry.reset = _entered.set(entry)
        return self

    def __exit__(self, *_: object) -> None:
        entry = _entered.get()
        if entry is None or entry.seen is not self._seen or entry.reset is None:
            message = "a session was left where it had not been entered"
            raise UsageError(message)
        _entered.reset(entry.reset)


class _Entry:
    """That a session was entered: by whom, and what to go back to."""

    __slots__ = ("client", "reset", "runs_in", "seen")

    def __init__(self, client: "Client", seen: Seen, runs_in: Any) -> None:
        self.client = client
        self.seen = seen
        self.runs_in = runs_in
        self.reset: Reset[_Entry | None] | None = None


_entered: Final[ContextVar[_Entry | None]] = ContextVar("jido_session", default=None)


def is_in_session() -> bool:
    """Whether anything was entered here; `current_seen` tells what counts."""
    return _entered.get() is not None


def current_seen() -> Seen | None:
    """What the session has seen that was entered by the code that runs now; None for none.

    Tasks that a caller made for others (a turn, an action) run in a copy of its context, but what
    they run did not enter the session.
    """
    entry = _entered.get()
    return entry.seen if entry is not None and entry.runs_in is CURRENT.get() else None
