"""Messages that go by a config that is not known here yet.

Theory. Replicas hear of a new config one after the other. Who hears of it first goes by it at once,
and the others ask what it is. Were its message dropped until then, it would come again only after
a while, and turns would stand still for that long. So it is kept, and taken when the config is
known: to the sender it is as if it had been on its way for longer.
"""

from typing import Final

from jido_placement.config import Replica
from jido_state.messages import Message

__all__ = ["Early"]

_MAX_KEPT: Final = 16  # a round of each kind, of some senders; what is dropped is sent again


class Early:
    """The first messages of newer configs, in the order in which they came."""

    def __init__(self) -> None:
        self._kept: list[tuple[Replica, Message]] = []

    def keep(self, sender: Replica, message: Message) -> None:
        """One has come; it is dropped when there are many."""
        if len(self._kept) < _MAX_KEPT:
            self._kept.append((sender, message))

    def take(self) -> list[tuple[Replica, Message]]:
        """All of them; they are kept no longer."""
        kept, self._kept = self._kept, []
        return kept
