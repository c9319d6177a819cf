"""What people ask of a cluster: who is there, why something is where it is, what would move.

Functions of a record, a view and what the detector believes. What changes anything goes through the
root group (`draining`).
"""

import asyncio
from collections.abc import Collection, Mapping, Sequence
from statistics import median
from typing import Any, Final

from jido_cluster.errors import InvalidInputError
from jido_cluster.runtime.view import View
from jido_placement.changes import apply_all
from jido_placement.commands import BecomeUp, Command, Join, Leave, Refused
from jido_placement.config import Replica
from jido_placement.digest import shard_of
from jido_placement.membership import Status
from jido_placement.planner import plan
from jido_placement.record import ROOT, GroupRecord, MemberRecord, Record
from jido_placement.rehearsal import explain as explain_placement
from jido_placement.rehearsal import rehearse
from jido_placement.steps import Limits, World
from jido_placement.table import ShardTable, moves

__all__ = [
    "NOBODY",
    "Moved",
    "changed",
    "explain",
    "hindrances",
    "is_changing",
    "list_nodes",
    "member_named",
    "moves_between",
    "rehearsed",
    "remaining",
]

NOBODY: Final = "no other node is up that could take over"  # why the last one must stay
# A shard, from which node, to which (by name; None where there is none), "replica" or "leader".
Moved = tuple[int, str | None, str | None, str]

MAX_ROUNDS: Final = 100_000  # of a rehearsal, so that it ends; none has been seen to come near

MAX_NAMED: Final = 8  # shards that a refusal names; the count of the others is given


def member_named(record: Record, name: str) -> MemberRecord:
    """The member with this id or name.

    Raises:
        InvalidInputError: There is none, or several have the name.
    """
    found = [one for one in record.members if one.id == name]
    found = found or [one for one in record.members if one.name == name]
    if len(found) == 1:
        return found[0]
    names = ", ".join(sorted(one.name for one in record.members))
    what = "there is no node" if not found else f"{len(found)} nodes are named"
    raise InvalidInputError(f"{what} {name!r}; use an id, or one of {names}")


def list_nodes(record: Record, view: View, reachable: Collection[int]) -> list[dict[str, Any]]:
    """One row for each member, by index, as `NodeInfo` has it; without the agents on it."""
    led = [lead.node for lead in view.leads if lead is not None]
    return [
        {
            "id": one.id,
            "name": one.name,
            "status": one.status,
            "is_reachable": one.node in reachable,
            "zone": one.zone,
            "labels": dict(one.labels),
            "shards_led": led.count(one.node),
            "load": one.load,
        }
        for one in view.members
        if record.member(one.node) is not None
    ]


def explain(record: Record, view: View, reachable: Collection[int], agent_id: str) -> str:
    """Why the agent is where it is, and who serves it now; several lines for people."""
    lines = [explain_placement(record, agent_id)]
    if not record.shards:
        return lines[0]
    shard = shard_of(agent_id, record.shard_count)
    lead = view.leads[shard] if shard < len(view.leads) else None
    member = None if lead is None else record.member(lead.node)
    if lead is None or member is None:
        lines.append("nobody is known to lead it now")
    else:
        title = f"{member.name or member.id} (node {member.node})"
        lines.append(f"{title} leads it now, under ballot {tuple(lead.ballot)}")
    silent = {one.node for one in record.shards[shard].replicas}.difference(reachable)
    lines += [f"node {one} is not reachable from the node that was asked" for one in sorted(silent)]
    return "\n".join(lines)


def changed(record: Record, add: Sequence[str], remove: Sequence[str]) -> Record:
    """The record, if nodes of these names had come, and these members were to leave.

    A node that comes is taken to be as large as the members are in the middle, and to have a zone
    of its own.

    Raises:
        InvalidInputError: A name is no member's, is one's already, or nobody would be left.
    """
    taken = {one.name for one in record.members}
    for name in add:
        if name in taken:
            raise InvalidInputError(f"a node {name!r} is there already; add it under another name")
        taken.add(name)
    weight = median(one.weight for one in record.members)
    commands: list[Command] = []
    for place, name in enumerate(add):
        commands.append(Join(f"new:{name}", 0, name, (), weight, None, record.agreed))
        commands.append(BecomeUp(record.next_node + place, 1))
    leaving = [member_named(record, name).node for name in remove]
    if not add and leaving and not _heirs(record, leaving):
        raise InvalidInputError(
            f"nobody would be left that could take over from {', '.join(remove)}; name fewer nodes"
        )
    commands += [Leave(node) for node in leaving]
    after, answers = apply_all(record, commands)
    for answer in answers:
        if isinstance(answer, Refused):
            raise InvalidInputError(f"nodes {list(add)} cannot be added: {answer.text}")
    return after


async def rehearsed(record: Record, world: World, limits: Limits) -> Record:
    """What the record comes to when all is done that is planned from here on.

    As `jido_placement.preview`, but a round at a time: the rehearsal of a large cluster takes
    seconds, and a supervisor that says nothing for seconds is taken for dead.
    """
    record, world = rehearse(record, world, ())  # what is under way gets its nodes' part, too
    for _ in range(MAX_ROUNDS):
        steps = plan(record, world, limits)
        if not steps:
            break
        record, world = rehearse(record, world, steps)
        await asyncio.sleep(0)
    return record


def moves_between(before: Record, after: Record) -> tuple[Moved, ...]:
    """What is somewhere else in the second record, by shard; nodes by name."""
    if not before.shards:
        return ()
    members = (*after.members, *before.members)
    names = {f"{one.node:05}": one.name or one.id for one in members}
    return tuple(
        (move.shard, _name(names, move.from_), _name(names, move.to), move.role)
        for move in moves(_table(before), _table(after))
    )


def _name(names: Mapping[str, str], node: str | None) -> str | None:
    return None if node is None else names[node]


def _table(record: Record) -> ShardTable:
    """Where the voters are, in order of preference."""
    lists = [[f"{one.node:05}" for one in group.config.voters] for group in record.shards]
    return ShardTable((), record.replicas, tuple(map(tuple, lists)))


def _heirs(record: Record, leaving: Collection[int]) -> list[MemberRecord]:
    """The members that could take over from these."""
    return [
        one
        for one in record.members
        if one.node not in leaving and one.status is Status.UP and not one.is_retiring
    ]


def hindrances(record: Record, unreachable: Collection[int], node: int) -> list[str]:
    """Why the node must not go now, in words; empty when it may.

    While another replica of a group of it is missing, taking this one away as well could leave the
    group without a quorum, or with a single copy.
    """
    if not _heirs(record, [node]):
        return [NOBODY]
    found = {}
    for number in record.groups_naming(node):
        group = record.group(number)
        assert group is not None
        missing = _missing(record, group, node, unreachable)
        if missing:
            found[number] = missing
    return _by_reason(found)


def is_changing(record: Record, node: int) -> bool:
    """Whether replicas of the node's groups are on their way, so that it may go in a while."""
    groups = [record.group(number) for number in record.groups_naming(node)]
    return any(one is not None and (one.config.is_joint or one.config.learners) for one in groups)


def remaining(
    record: Record, leaders: Mapping[int, int], unreachable: Collection[int], node: int
) -> list[str]:
    """What of a node that is leaving is still on it, and what that waits for, in words."""
    found = {}
    for number in record.groups_naming(node):
        group = record.group(number)
        assert group is not None
        missing = _missing(record, group, node, unreachable, is_moving=True)
        if missing:
            why = missing
        elif group.config.learners:
            nodes = ", ".join(_name_of(record, one) for one in group.config.learners)
            why = f"{nodes} copies it"
        elif leaders.get(number) == node:
            why = "led there still, which streams and runs that are tracked there prolong"
        elif group.config.is_joint:
            why = "its replicas are changing"
        else:
            why = "it waits for its turn"
        found[number] = why
    return _by_reason(found)


def _by_reason(found: Mapping[int, str]) -> list[str]:
    """Each reason once, with the groups that it holds for; some of them when there are many."""
    groups: dict[str, list[int]] = {}
    for number, why in found.items():
        groups.setdefault(why, []).append(number)
    return [f"{why} ({_listed(numbers)})" for why, numbers in groups.items()]


def _listed(numbers: Sequence[int]) -> str:
    named = ["the root group" if one == ROOT else f"shard {one}" for one in numbers[:MAX_NAMED]]
    more = len(numbers) - len(named)
    return ", ".join(named) + (f" and {more} more" if more else "")


def _name_of(record: Record, replica: Replica) -> str:
    member = record.member(replica.node)
    return f"node {replica.node}" if member is None else f"node {member.name or member.id}"


def _missing(
    record: Record,
    group: GroupRecord,
    node: int,
    unreachable: Collection[int],
    *,
    is_moving: bool = False,
) -> str:
    """Which other replica cannot be counted on; empty when all can."""
    config = group.config
    if not is_moving and (config.is_joint or config.learners):
        return "its replicas are changing"
    for replica in config.voters:
        other = record.member(replica.node)
        if replica.node == node or other is None:
            continue
        name = _name_of(record, replica)
        if replica in group.lost:
            return f"the store of {name} is lost"
        if replica not in group.formatted:
            return f"{name} has not made its replica yet"
        if replica.node in unreachable or other.status is Status.DOWN:
            return f"{name} does not answer"
    return ""
