"""The fencing token of a turn, as users see it."""

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Fence", "fence_of"]


@dataclass(frozen=True, slots=True, order=True)
class Fence:
    """The fencing token of a turn: rises with every turn of an agent, across moves and failovers.

    Give `token` to a resource that remembers the highest one seen and refuses lower ones.

    Attributes:
        config_no: Of the shard's replicas; above 2**32 after a recovery that was forced.
        round: Of elections under that config.
        node: Index of the leader in the cluster's record, five digits.
        seq: Counts the leader's turns.
    """

    config_no: int
    round: int
    node: str
    seq: int

    @property
    def token(self) -> str:
        """Fixed-width text whose order is the fence's order."""
        return f"{self.config_no:016x}.{self.round:08x}.{self.node}.{self.seq:016x}"


def fence_of(version: Sequence[int]) -> tuple[int, int, str, int]:
    """The parts of the fence that a version is."""
    recovery, config, round_, node, number = version
    return (recovery << 32 | config, round_, f"{node:05d}", number)
