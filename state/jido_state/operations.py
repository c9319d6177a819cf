"""Names of operations: equal on every attempt, distinct for everything else.

Theory. An operation is named `(caller, n)`: the caller is one client process, drawn at random, and
counts. A call made by a turn is named after the turn's own operation, the place of the call within
the turn, and what it calls: a turn that runs again repeats the names, so its calls have their
effect once. However deep calls nest, the name stays short, because only a digest of the way grows.
A user may name an operation; then nobody counts, and the name holds for the dedupe window.
*Source*: Lee et al., Implementing linearizability at large scale and low latency (RIFL, 2015);
Temporal's workflow ids for names derived from the parent's.
"""

import re
from collections.abc import Sequence
from hashlib import blake2b
from typing import Final, NamedTuple

import ormsgpack

__all__ = ["MAX_NAME", "CallerFence", "OpId", "agent_caller"]

MAX_CALLER: Final = 64
"""Characters of a caller, so that the text form of every op id stays within an id's 128."""

MAX_NAME: Final = 128
"""Characters of a name that a user gave."""

_NESTED: Final = "~"  # no user's name begins so: it is no character of an id
_OWN: Final = re.compile(r"op\.(.{0,64})\.([0-9]{1,20})(?:\.([0-9a-f]{32}))?")


class CallerFence(NamedTuple):
    """The right under which an agent calls another.

    Attributes:
        agent: The calling agent's id. Fences of different agents do not compare.
        fence: Version of the turn that calls, as a tuple in version order.
    """

    agent: str
    fence: tuple[int, ...]


class OpId(NamedTuple):
    """What an operation is called in all its attempts.

    Attributes:
        caller: At most 64 characters; "" for a name that a user gave.
        n: Counted by the caller from 1, below 2**64; 0 for a name that a user gave.
        path: "" for the caller's own call; "~" and 32 hex digits for a call nested in it, at
            whatever depth; the name itself when a user gave it.
    """

    caller: str
    n: int
    path: str = ""

    @classmethod
    def named(cls, name: str) -> "OpId":
        """The operation that a user called so.

        The text of one of our own op ids gives that op id back: this is how a user repeats an
        operation whose outcome is unknown.

        Raises:
            ValueError: The name is empty, too long, or begins as no name of a user may.
        """
        own = _OWN.fullmatch(name)
        if own is not None:
            caller, n, digest = own[1], int(own[2]), own[3]
            if n < 1 << 64 and (caller or (n == 0 and digest)):
                return cls(caller, n, f"{_NESTED}{digest}" if digest else "")
        if not name or len(name) > MAX_NAME or name.startswith(_NESTED):
            raise ValueError(
                f"{name[:80]!r} is no op id: it needs 1 to {MAX_NAME} characters and may not "
                f"begin with {_NESTED!r}"
            )
        return cls("", 0, name)

    @property
    def is_named(self) -> bool:
        """Whether nobody counts: a user's name, or a call nested in an operation so named."""
        return not self.caller

    @property
    def text(self) -> str:
        """At most 128 characters; `named` gives the same op id back."""
        if self.is_named and not self.path.startswith(_NESTED):
            return self.path
        nested = f".{self.path[len(_NESTED) :]}" if self.path else ""
        return f"op.{self.caller}.{self.n}{nested}"

    def nested(self, index: int, target: str, signal: str, params: bytes) -> "OpId":
        """The name of the turn's `index`-th call: the same whenever the turn takes the same way.

        Args:
            index: Place of the call among all calls of the turn, >= 0.
            target: Id of the called agent.
            signal: Type of the signal.
            params: The encoded parameters.
        """
        way = _digest(self.path, index, target, signal, params)
        return self._replace(path=f"{_NESTED}{way}")


def agent_caller(agent: str, dot: Sequence[int], what: str = "") -> str:
    """The caller under which an agent's own deeds are counted: 33 characters.

    Args:
        agent: The agent's id.
        dot: Names one history of it: its generation, or the turn that set a timer.
        what: Tells deeds of one history apart, as by a timer's key.
    """
    return f"a{_digest(agent, list(dot), what)}"


def _digest(*parts: object) -> str:
    return blake2b(ormsgpack.packb(parts), digest_size=16).hexdigest()
