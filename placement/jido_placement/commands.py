"""What may be asked of the root group, and what it answers. All of it is data.

A command carries what it was decided on: the boot number of the node it is about, the number of
the config it changes, or the epoch. If that has moved on, it is refused, and whoever sent it looks
again. A command that a node sends may be sent again until it is answered: the second time changes
nothing and is answered like the first. Nodes are named by their index in the record.
"""

from enum import Enum
from typing import NamedTuple

from jido_placement.config import Replica
from jido_placement.record import Holder

__all__ = [
    "Abort",
    "Accepted",
    "Answer",
    "Assign",
    "BecomeUp",
    "BeginJoint",
    "Command",
    "DeclareDown",
    "Describe",
    "Finish",
    "ForceRecover",
    "Formatted",
    "Join",
    "Leave",
    "MayFormat",
    "NameLearners",
    "Prefer",
    "Reason",
    "Refused",
    "RegisterBoot",
    "Remove",
    "Retarget",
    "SetAgreed",
    "StoreLost",
]


# Members.


class Join(NamedTuple):
    """A fresh node asks to become a member, under boot 1. Answered with its index.

    Attributes:
        id: The node's uuid.
        nonce: Drawn for its first boot.
        name: For people.
        labels: Any pairs, keys distinct.
        weight: Finite, >= 0.
        zone: What it fails together with.
        agreed: Fingerprint of its configuration; must equal the cluster's.
    """

    id: str
    nonce: int
    name: str
    labels: tuple[tuple[str, str], ...]
    weight: float
    zone: str | None
    agreed: str


class RegisterBoot(NamedTuple):
    """A member starts again. Answered with its index.

    The node has made (boot, nonce) durable before it asks. The pair takes the place of
    (boot - 1, old_nonce), or is confirmed; with any other pair in the record the directory is a
    copy, or was restored from a backup, and is refused.
    """

    id: str
    boot: int
    nonce: int
    old_nonce: int
    agreed: str


class BecomeUp(NamedTuple):
    """The node serves its stores and may be given replicas."""

    node: int
    boot: int


class Leave(NamedTuple):
    """An operator wants the member gone: its replicas move off, and groups may shrink for it."""

    node: int


class DeclareDown(NamedTuple):
    """The member, in this boot, was unreachable for too long: its replicas are replaced."""

    node: int
    boot: int


class Remove(NamedTuple):
    """The member is leaving or down, and no committed config names it: it is forgotten."""

    node: int


class Describe(NamedTuple):
    """New labels, weight and zone for a member; refused unless the record is at this epoch."""

    epoch: int
    node: int
    labels: tuple[tuple[str, str], ...]
    weight: float
    zone: str | None


# Groups. A group is the number of a shard, or `record.ROOT`; `number` is that of the config which
# the command was decided on.


class Assign(NamedTuple):
    """Gives all shards their first replicas; once, when as many members are up as expected."""

    epoch: int
    lists: tuple[tuple[int, ...], ...]
    target_for: tuple[Holder, ...]


class Retarget(NamedTuple):
    """Sets where all shards are to be, now that these nodes may hold them."""

    epoch: int
    lists: tuple[tuple[int, ...], ...]
    target_for: tuple[Holder, ...]


class NameLearners(NamedTuple):
    """These nodes begin to copy the group; its config is simple and has no learners.

    Nodes without a voter of the group, or whose voter has lost its store.
    """

    group: int
    number: int
    nodes: tuple[int, ...]


class MayFormat(NamedTuple):
    """A node that finds no header asks before it makes one, whether it may.

    A node's view of the record may be old. Without this question a node that has lost the store of
    a formatted replica could make a new header, and an empty store would vote.
    """

    group: int
    replica: Replica


class Formatted(NamedTuple):
    """The header of this replica is durable; it answers from now on."""

    group: int
    replica: Replica


class StoreLost(NamedTuple):
    """A node was refused by `MayFormat` and still finds no header: the replica is no more."""

    group: int
    replica: Replica


class BeginJoint(NamedTuple):
    """From now on the voters and these nodes decide together.

    The nodes are those the group is to have, in order of preference: voters, and all the learners,
    which must have made their headers.
    """

    group: int
    number: int
    nodes: tuple[int, ...]


class Finish(NamedTuple):
    """The joint config gives way to its new side.

    Its leader has reported that it settled every key to both sides, under a ballot of this recovery
    and this config number. The root group has one key, which the write that begins its joint config
    settles to both sides; its ballot is not asked for.
    """

    group: int
    number: int
    ballot_recovery: int
    ballot_config: int


class Abort(NamedTuple):
    """The joint config gives way to its old side, or the learners of a simple one are dropped."""

    group: int
    number: int


class Prefer(NamedTuple):
    """The same voters, in this order of preference. The config is simple, without learners."""

    group: int
    number: int
    nodes: tuple[int, ...]


# The cluster.


class SetAgreed(NamedTuple):
    """Another configuration for all members, by fingerprint; needs the record at this epoch."""

    epoch: int
    agreed: str


class ForceRecover(NamedTuple):
    """An operator gives up every node but these, with whatever only they held.

    To be decided by a person, on the spot, when the root group has lost its quorum for good. The
    recovery number rises from this one, so that nothing that the others may still do counts.
    Answered with the number of shards of which no voter survives: they start empty.
    """

    recovery_no: int
    survivors: tuple[int, ...]


Command = (
    Join
    | RegisterBoot
    | BecomeUp
    | Leave
    | DeclareDown
    | Remove
    | Describe
    | Assign
    | Retarget
    | NameLearners
    | MayFormat
    | Formatted
    | StoreLost
    | BeginJoint
    | Finish
    | Abort
    | Prefer
    | SetAgreed
    | ForceRecover
)


class Reason(Enum):
    """Why a command is refused, and so what its sender can do."""

    STALE = "decided on something that has changed: look again"
    UNKNOWN_MEMBER = "no such member: it was removed, or never joined"
    UNKNOWN_GROUP = "no such group, or not yet"
    ALREADY_MEMBER = "another directory with this id is a member: it is a copy"
    WRONG_BOOT = "not the start that was registered: a copy, or restored from a backup"
    WRONG_AGREEMENT = "the node's configuration is not the cluster's"
    WRONG_STATUS = "the member's status does not allow it"
    WRONG_CONFIG = "the group's config does not allow it"
    STILL_NAMED = "a committed config names the member"
    ALREADY_FORMATTED = "the replica had a header: its store is lost, it needs a new number"
    NOT_FORMATTED = "a replica has not made its header yet"
    NOT_DONE = "no ballot of this joint config has reported that it is settled"
    NOT_FORMED = "fewer members are up than expected"
    FULL = "no index is left"
    INVALID = "a value is out of its range"


class Accepted(NamedTuple):
    """The command holds.

    Attributes:
        is_change: Whether it changed the record; False when it held before.
        value: What it is answered with: a member's index, a group's config number, a count; or 0.
    """

    is_change: bool
    value: int = 0


class Refused(NamedTuple):
    """The command changed nothing.

    Attributes:
        reason: Which kind of obstacle.
        text: What was found, for people.
    """

    reason: Reason
    text: str


Answer = Accepted | Refused
