"""What is said of a node: how far its life has come, and whether it answers.

Theory. Two things that are often kept in one word are apart here. The *status* of a member is
decided by the root group and committed with the record; within one boot of the node it goes forward
only, so that what is decided on an older view is seen to be late. The *reachability* is the
detector's opinion and flips; it belongs to an incarnation of the node, a number that only the node
itself raises, to contradict what is said of it. Opinions merge in any order, any number of times,
to the same: of two, the greater in a total order stands.
*Source*: Das, Gupta, Motivala, SWIM (2002), section 4.2 (the order of opinions); the status of
members as in Akka and swift-distributed-actors.
*Departures*: a member that was declared down comes back under its next boot number, with its
identity and its replicas; it is forgotten only when no committed config names it.
"""

from enum import IntEnum
from types import MappingProxyType
from typing import Final, NamedTuple

__all__ = [
    "INCARNATIONS_PER_BOOT",
    "STATUS_TRANSITIONS",
    "Opinion",
    "Reachability",
    "Status",
    "first_incarnation",
    "may_become",
    "newer_opinion",
]

# A node contradicts a suspicion by raising its incarnation by one: no boot lasts long enough for
# four billion of them, so that the first incarnation of the next boot is above all of this one.
INCARNATIONS_PER_BOOT: Final = 1 << 32


class Status(IntEnum):
    """How far the life of a member has come, in the order in which it goes."""

    JOINING = 0
    UP = 1
    LEAVING = 2
    DOWN = 3
    REMOVED = 4


# What each status may turn into within one boot, and what for. `docs` draws its diagram from here.
STATUS_TRANSITIONS: Final = MappingProxyType(
    {
        (Status.JOINING, Status.UP): "serves its stores",
        (Status.JOINING, Status.LEAVING): "an operator drains it",
        (Status.JOINING, Status.DOWN): "unreachable for too long",
        (Status.UP, Status.LEAVING): "an operator drains it",
        (Status.UP, Status.DOWN): "unreachable for too long",
        (Status.LEAVING, Status.DOWN): "unreachable for too long",
        (Status.LEAVING, Status.REMOVED): "no committed config names it",
        (Status.DOWN, Status.REMOVED): "no committed config names it",
    }
)


class Reachability(IntEnum):
    """What the detector believes of a node, the worse the greater."""

    REACHABLE = 0
    SUSPECT = 1
    UNREACHABLE = 2


class Opinion(NamedTuple):
    """What is believed of one incarnation of a node. The greater of two stands.

    Attributes:
        incarnation: Which one; 0 for a node that has not been heard of.
        reachability: What is believed of it.
    """

    incarnation: int
    reachability: Reachability


def may_become(before: Status, after: Status) -> bool:
    """Whether a member may go from one status to the other within one boot."""
    return (before, after) in STATUS_TRANSITIONS


def newer_opinion(mine: Opinion, theirs: Opinion) -> Opinion:
    """The one that stands: of the higher incarnation, and within one the worse."""
    return max(mine, theirs)


def first_incarnation(boot: int) -> int:
    """The incarnation with which a node starts under this boot number, above all earlier ones."""
    return boot * INCARNATIONS_PER_BOOT
