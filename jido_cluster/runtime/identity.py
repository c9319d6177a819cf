"""Who a node is, over all its starts: what a supervisor needs of a data directory.

Theory. A start becomes known to the cluster by a pair of numbers that is durable before anybody
hears of it. A pair that is found in the directory, not registered as far as it says, may be in a
copy of it too: it is settled first, and the process draws one of its own, under which it goes on.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import NamedTuple, Protocol

from jido_cluster.storage.directory import DataDirectory
from jido_placement.record import Record

__all__ = ["Boot", "DirectoryIdentity", "Identity", "MemoryIdentity"]


class Boot(NamedTuple):
    """One start of a node.

    Attributes:
        number: The first is 1.
        nonce: Drawn for this start.
        old_nonce: That of the start before; 0 for the first.
        is_own: Whether this process drew it.
    """

    number: int
    nonce: int
    old_nonce: int
    is_own: bool


class Identity(Protocol):
    """What a data directory says of its node. Each write is durable when it returns."""

    @property
    def id(self) -> str:
        """The node's uuid."""
        ...

    def record(self) -> Record | None:
        """The newest committed record that was kept; None before the node is a member."""
        ...

    def ask_boot(self, draw: Callable[[int], int]) -> Boot:
        """The start to have registered next, given a random number of so many bits."""
        ...

    def boot_registered(self, boot: Boot) -> None:
        """The root group has registered it."""
        ...

    def keep(self, record: Record, node: int) -> None:
        """Keep a newer record, in which the node has this index."""
        ...


@dataclass
class MemoryIdentity:
    """An identity that lasts as long as its object. `copy` is what a copied directory is."""

    id: str
    registered: tuple[int, int] = (0, 0)
    intent: tuple[int, int] | None = None
    kept: Record | None = field(default=None, repr=False)
    own: tuple[int, int] | None = None
    node: int = -1

    def record(self) -> Record | None:
        """As the protocol says."""
        return self.kept

    def ask_boot(self, draw: Callable[[int], int]) -> Boot:
        """As the protocol says."""
        if self.intent is None:
            self.intent = self.own = (self.registered[0] + 1, 1 + draw(62))
        return Boot(*self.intent, self.registered[1], is_own=self.intent == self.own)

    def boot_registered(self, boot: Boot) -> None:
        """As the protocol says."""
        if boot[:2] == self.intent:
            self.registered, self.intent = self.intent, None

    def keep(self, record: Record, node: int) -> None:
        """As the protocol says."""
        self.kept, self.node = record, node

    def copy(self) -> "MemoryIdentity":
        """As another process finds it, here or in a copy."""
        return replace(self, own=None)


class DirectoryIdentity:
    """An identity in a data directory.

    Args:
        directory: The slot that this process owns.
        name: Of the cluster.
    """

    def __init__(self, directory: DataDirectory, name: str) -> None:
        self._directory = directory
        self._name = name

    @property
    def id(self) -> str:
        """As the protocol says."""
        return self._directory.identity.uuid

    def record(self) -> Record | None:
        """As the protocol says."""
        return self._directory.read_record()

    def ask_boot(self, draw: Callable[[int], int]) -> Boot:
        """As the protocol says."""
        return Boot(*self._directory.ask_boot(draw))

    def boot_registered(self, boot: Boot) -> None:
        """As the protocol says."""
        self._directory.boot_registered(boot.number, boot.nonce)

    def keep(self, record: Record, node: int) -> None:
        """As the protocol says."""
        self._directory.joined(
            record.cluster_id,
            self._name,
            node=node,
            recovery_no=record.recovery_no,
            agreed=record.agreed,
        )
        self._directory.save_record(record)
