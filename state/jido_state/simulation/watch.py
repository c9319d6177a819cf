"""What has to hold at every step of a run, seen from outside all processes."""

from typing import Any

from jido_state.messages import Accept, Header
from jido_state.turns import Answer
from jido_state.versions import Ballot, Version

__all__ = ["UnsafeError", "Watch"]


class UnsafeError(AssertionError):
    """An invariant of the protocol did not hold. The run is over."""


class Watch:
    """Invariants that no single replica can see (protocol, section 1.15).

    Attributes:
        leaders: Node that led under each ballot of each shard.
        elections: How often a leader was made.
    """

    def __init__(self) -> None:
        self.leaders: dict[tuple[int, Ballot], int] = {}
        self.elections = 0
        self._contents: dict[tuple[int, Version], tuple[str, Any]] = {}
        self._promised: dict[tuple[int, int, int], Ballot] = {}
        self._leading: dict[tuple[int, int], Ballot] = {}

    def sent(self, node: int, shard: int, message: Any) -> None:
        """I1: one content for a version."""
        if type(message) is not Accept:
            return
        for key, row in message.rows:
            known = self._contents.setdefault((shard, row.version), (key, row.content))
            if known[0] != key or (
                known[1] is not row.content
                and known[1] != row.content
                and _content(known[1]) is not None
                and _content(row.content) is not None
            ):
                raise UnsafeError(
                    f"I1: node {node} sends {row.version} of {key!r} with another content than "
                    f"was sent before: {row.content!r} after {known!r}"
                )

    def promised(self, node: int, shard: int, header: Header) -> None:
        """I2: a promise never falls while its header lives."""
        if header.status == "pending":
            return  # it has promised nothing yet
        name = (node, shard, header.rno)
        before = self._promised.get(name)
        if before is not None and header.promised < before:
            raise UnsafeError(f"I2: replica {name} promised {before}, and then {header.promised}")
        self._promised[name] = header.promised

    def led(self, node: int, shard: int, ballot: Ballot) -> None:
        """I1: one incarnation for a ballot."""
        if (shard, ballot) in self.leaders:
            raise UnsafeError(f"I1: shard {shard} is led under {ballot} a second time, by {node}")
        self.leaders[shard, ballot] = node
        self._leading[node, shard] = ballot
        self.elections += 1

    def stopped(self, node: int, shard: int, ballot: Ballot, _: str) -> None:
        """A leader has stopped."""
        if self._leading.pop((node, shard), None) != ballot:
            raise UnsafeError(f"node {node} stops leading shard {shard}, which it did not")

    def ended(self, node: int) -> None:
        """The node's process is gone, and whatever it led."""
        for name in [name for name in self._leading if name[0] == node]:
            del self._leading[name]

    def answered(self, answer: Answer) -> None:
        """An answer leaves a leader."""


def _content(content: Any) -> Any:
    """The content itself; None for a reference to what was copied."""
    from jido_state.messages import Staged

    return None if type(content) is Staged else content
