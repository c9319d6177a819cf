"""What a planner looks at beside the record, what it may do at a time, and what it asks for."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from jido_placement.commands import Command

__all__ = ["Limits", "Order", "Step", "Transfer", "World"]


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """What the root leader sees now, and no record tells. A group is a shard's number or `ROOT`.

    Attributes:
        unreachable: The nodes its detector believes to be so.
        expired: Those of them that have been so for too long and are to be replaced.
        leaders: Who leads each group, as far as that is known.
        staged: The learners that have copied their group, as pairs of group and node.
        settled: For each group whose joint leader has reported that it settled every key, under
            which ballot: its recovery number and its config number.
        may_rebalance: Whether shards may be moved for balance; not while a split heals.
    """

    unreachable: frozenset[int] = frozenset()
    expired: frozenset[int] = frozenset()
    leaders: Mapping[int, int] = field(default_factory=dict)
    staged: frozenset[tuple[int, int]] = frozenset()
    settled: Mapping[int, tuple[int, int]] = field(default_factory=dict)
    may_rebalance: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much may be under way at a time. More is quicker and takes more from users.

    Attributes:
        max_moves: Shards whose replicas are changing, > 0. Between any two nodes there is one at
            most, whatever this says.
        max_transfers: Leaderships passed on at once, > 0.
    """

    max_moves: int = 16
    max_transfers: int = 16

    def __post_init__(self) -> None:
        """Refuses limits with which nothing would ever move (ValueError)."""
        for name in self.__slots__:
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: give at least 1")


class Order(NamedTuple):
    """Apply this command to the record.

    Attributes:
        command: Decided on the record that was planned for.
        why: For people.
    """

    command: Command
    why: str


class Transfer(NamedTuple):
    """Have the leader of the group hand over to another of its voters.

    Attributes:
        group: Which.
        leader: Who leads it.
        to: Who is to lead it.
        why: For people.
    """

    group: int
    leader: int
    to: int
    why: str


Step = Order | Transfer
