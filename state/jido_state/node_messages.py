"""What nodes say to each other beside what their replicas say, and what a `Node` asks its driver.

An address is a number that the driver gives meaning. A node's index is the address of whatever
process of it a message is for: that with the group of a `Frame` or `HandOver`; that with the root
group, for `RecordPull`, `RootAsk`, `Done` and `Leads`; all of them, for `RecordIs`. Where a node
has several processes, the driver puts the one that asks into the sender of `RecordPull` and
`RootAsk`, say with its number in the bits above the index, and the answer goes to that address.
"""

from typing import Any, NamedTuple

from jido_placement.commands import Answer, Command
from jido_placement.record import Record
from jido_state import entries
from jido_state.messages import Message

__all__ = [
    "Done",
    "Frame",
    "GroupEffect",
    "HandOver",
    "Leads",
    "RecordIs",
    "RecordPull",
    "RootAsk",
    "RootTold",
    "ToNode",
]


class Frame(NamedTuple):
    """A message of a group, with the assignment in its sender's header; 0 where it has none."""

    group: int
    rno: int
    message: Message | entries.Message


class RecordPull(NamedTuple):
    """Is there a record newer than this?"""

    recovery_no: int
    epoch: int


class RecordIs(NamedTuple):
    """The newest committed record the sender knows."""

    record: Record


class RootAsk(NamedTuple):
    """A command for the root group's leader."""

    id: int
    command: Command


class RootTold(NamedTuple):
    """What became of it; None when the asked node does not lead, with who does if known."""

    id: int
    answer: Answer | None
    leader: int | None


class Done(NamedTuple):
    """What the root leader plans by: a learner has copied, or a joint config is settled.

    Attributes:
        group: Which group.
        config: The number of the config it is said of.
        node: The learner's; -1 for a joint config.
        ballot: Recovery and config number of the joint leader's ballot; zeros for a learner.
    """

    group: int
    config: int
    node: int
    ballot: tuple[int, int]


class Leads(NamedTuple):
    """What the root leader plans by, too: the groups that a process of this node leads now."""

    node: int
    groups: tuple[int, ...]


class HandOver(NamedTuple):
    """The leader of the group is asked to pass it on."""

    group: int
    to: int


class ToNode(NamedTuple):
    """Send this to an address; delivery is not needed."""

    to: int
    message: Frame | RecordPull | RecordIs | RootAsk | RootTold | Done | Leads | HandOver


class GroupEffect(NamedTuple):
    """An effect of one group or of the layer above it.

    Attributes:
        group: Which.
        rno: The assignment in its replica's header; 0 where it has none. Tickets of a `Persist`
            are its own: `Node.persisted` wants to know whose.
        effect: `Persist`, `Led`, `Stopped`, or one of those in the driver's duties of `Service`.
    """

    group: int
    rno: int
    effect: Any
