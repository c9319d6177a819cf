"""What a leader has on its way, and who hears of it."""

from typing import TYPE_CHECKING, Any, Protocol

from jido_placement.config import GroupConfig, Replica
from jido_state.messages import Row
from jido_state.versions import Version

if TYPE_CHECKING:
    from jido_state.leadership import Leadership

__all__ = ["Listener", "Pending"]


class Listener(Protocol):
    """The layer above: what it hears while its replica leads."""

    def led(self, leadership: "Leadership") -> None:
        """This replica leads."""

    def stopped(self, reason: str, /) -> None:
        """It no longer does; what was not committed is in the hands of the next leader."""

    def ready(self, key: str) -> None:
        """The key is clean and its content is there."""

    def committed(self, key: str, row: Row) -> None:
        """The row that was written is on a quorum; durably, if it was not to be kept in memory."""

    def confirmed(self, reads: list[Any]) -> None:
        """A quorum followed this leader at some time after these reads came."""


class Pending:
    """A row on its way to the replicas."""

    __slots__ = (
        "acks",
        "config",
        "in_memory",
        "is_committed",
        "key",
        "old",
        "row",
        "sent_ms",
        "whole",
    )

    def __init__(
        self, key: str, row: Row, old: Version | None, sent_ms: int, *, in_memory: bool = False
    ) -> None:
        self.key = key
        self.row = row
        self.in_memory = in_memory  # whether acks count that are given before it is durable
        self.config: GroupConfig | None = None  # what it makes of the root group's own config
        self.old = old  # the version whose content this is, when it is settled unchanged
        self.acks: set[Replica] = set()
        self.whole: set[int] = set()  # nodes that lack the staged content
        self.is_committed = False
        self.sent_ms = sent_ms
