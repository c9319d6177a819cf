"""How a node is emptied, and what would move: asked of whoever oversees the cluster's record.

Theory. A drain is one command to the root group, `Leave`. What follows is the planner's: replicas
are copied elsewhere one step at a time, leaderships are passed on, and when no config names the
node it is forgotten. So nobody has to stay for it: who asked looks how far it has come, and may
leave and ask again. It cannot be taken back; the machine joins again as a new node.

It is refused before it begins where it would leave a group without a majority. What stands in its
way only for a while (replicas that are moving already) is told apart by `retry_after`.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple, Protocol

from jido_cluster.errors import NoQuorumError, UnavailableError
from jido_cluster.runtime import control_operations as operations
from jido_cluster.runtime.control_operations import NOBODY, Moved
from jido_cluster.runtime.view import View
from jido_placement.commands import Answer, Command, Leave, Reason, Refused
from jido_placement.record import Record
from jido_placement.steps import Limits, World

__all__ = ["Drained", "Left", "Overseer", "drain", "left_of", "preview", "refuse", "world_of"]

RETRY_SECONDS: Final = 1.0  # what passes by itself is to be asked for again after that


class Overseer(Protocol):
    """Who knows the record and can have it changed."""

    @property
    def record(self) -> Record:
        """The newest committed record that is known."""
        ...

    @property
    def view(self) -> View:
        """Who leads."""
        ...

    @property
    def unreachable(self) -> frozenset[int]:
        """The nodes that are not to be counted on."""
        ...

    @property
    def limits(self) -> Limits:
        """Of the planner."""
        ...

    async def order(self, command: Command) -> Answer | None:
        """What the root group says; None when it says nothing for a while."""
        ...


class Drained(NamedTuple):
    """A drain has begun, or goes on.

    Attributes:
        node: Index of the node.
        left: Groups that still name it, or are led from it when it only restarts; 0 when done.
        moves: What was to move from then on.
    """

    node: int
    left: int
    moves: tuple[Moved, ...]


class Left(NamedTuple):
    """How far a drain has come.

    Attributes:
        groups: How many still name the node.
        is_member: Whether it is still one; the last step is that it is forgotten.
        why: What the groups wait for, in words; some of them when there are many.
    """

    groups: int
    is_member: bool
    why: tuple[str, ...]


async def preview(
    overseer: Overseer, add: Sequence[str] = (), remove: Sequence[str] = ()
) -> tuple[Moved, ...]:
    """What would move if nodes of these names came, and these members left.

    Raises:
        InvalidInputError: A name is no member's, is one's already, or nobody would be left.
    """
    before = operations.changed(overseer.record, add, remove)
    after = await operations.rehearsed(before, world_of(overseer), overseer.limits)
    return operations.moves_between(before, after)


async def drain(overseer: Overseer, name: str) -> Drained:
    """Has everything moved away from a node, from now on; asked twice it is one drain.

    Args:
        overseer: Who is asked.
        name: Of the node, or its id.

    Raises:
        InvalidInputError: There is no such node.
        UnavailableError: It would leave a group without a majority, or its replicas are moving
            already; nothing was changed. Where time may mend it, `retry_after` says when to ask
            again.
        NoQuorumError: The root group has no leader; it may do it later.
    """
    member = operations.member_named(overseer.record, name)
    if not member.is_retiring:
        refuse(overseer, member.node, name)
    moves = await preview(overseer, remove=[member.id])
    answer = await overseer.order(Leave(member.node))
    if answer is None:
        raise NoQuorumError(
            f"the root group has no leader now: whether node {name!r} is leaving is not known; "
            "ask again",
            retry_after=RETRY_SECONDS,
        )
    if isinstance(answer, Refused) and answer.reason is not Reason.UNKNOWN_MEMBER:
        # Others began to leave since it was looked; they cannot be called back.
        raise _refused(name, [NOBODY], is_passing=False)
    return Drained(member.node, len(overseer.record.groups_naming(member.node)), moves)


def refuse(overseer: Overseer, node: int, name: str) -> None:
    """Do nothing if the node may go.

    Raises:
        UnavailableError: It may not; the message says what is missing.
    """
    record = overseer.record
    found = operations.hindrances(record, overseer.unreachable, node)
    if found:
        raise _refused(name, found, is_passing=operations.is_changing(record, node))


def _refused(name: str, why: Sequence[str], *, is_passing: bool) -> UnavailableError:
    return UnavailableError(
        f"node {name!r} cannot go now, since too few replicas would be left: {'; '.join(why)}. "
        "Nothing was changed; bring back what does not answer, or add a node, and drain again",
        retry_after=RETRY_SECONDS if is_passing else None,
    )


def left_of(overseer: Overseer, node: int) -> Left:
    """What is still on a node that is leaving."""
    record = overseer.record
    if record.member(node) is None:
        # A node that this record has not heard of yet is not one that has left.
        return Left(0, node >= record.next_node, ())
    leaders = world_of(overseer).leaders
    why = operations.remaining(record, leaders, overseer.unreachable, node)
    return Left(len(record.groups_naming(node)), is_member=True, why=tuple(why))


def world_of(overseer: Overseer) -> World:
    """What the planner looks at, as far as it is known here."""
    leads = enumerate(overseer.view.leads)
    return World(
        unreachable=overseer.unreachable,
        leaders={shard: lead.node for shard, lead in leads if lead is not None},
    )
