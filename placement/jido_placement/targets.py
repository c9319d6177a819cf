"""Where the groups are to be: what the planner works towards.

A target is made from the target before it, so that it moves little, and is committed, so that every
root leader works towards the same one and a half-done rebalance goes on where it was. What a target
cannot know is which moves were still open when its node died; their shards stay where they are.
"""

from collections.abc import Collection, Sequence
from typing import NamedTuple

from jido_placement.members import Member
from jido_placement.membership import Status
from jido_placement.record import GroupRecord, Holder, MemberRecord, Record, root_size
from jido_placement.table import ShardTable, build_table

__all__ = ["Target", "holders_of", "root_goal", "shard_goals", "target_of"]


class Target(NamedTuple):
    """What a record's target is to be.

    Attributes:
        lists: For each shard its nodes, in order of preference.
        made_for: The nodes that may hold shards, sorted.
    """

    lists: tuple[tuple[int, ...], ...]
    made_for: tuple[Holder, ...]


def holders_of(record: Record) -> tuple[Holder, ...]:
    """The members that may be given shards: those that are up and not to be retired."""
    return tuple(
        Holder(member.node, member.weight, member.zone)
        for member in record.members
        if member.status is Status.UP and not member.is_retiring
    )


def target_of(record: Record) -> Target:
    """The target for the members as they are now; there must be a holder."""
    made_for = holders_of(record)
    table = build_table(
        _members(made_for),
        shards=record.shard_count,
        replicas=record.replicas,
        previous=_previous(record, frozenset(one.node for one in made_for)),
    )
    return Target(tuple(tuple(map(int, nodes)) for nodes in table.lists), made_for)


def _previous(record: Record, able: Collection[int]) -> ShardTable | None:
    """The target before, with those who hold a shard now in the places of those who cannot."""
    if not record.target:
        return None
    lists = []
    for group, aim in zip(record.shards, record.target, strict=True):
        kept = [node for node in aim if node in able]
        spare = [one.node for one in group.config.voters]
        kept += [node for node in spare if node in able and node not in kept]
        lists.append(tuple(map(_name, kept[: len(aim)] or aim)))
    return ShardTable(_members(record.target_for), record.replicas, tuple(lists))


def _members(holders: Sequence[Holder]) -> tuple[Member, ...]:
    return tuple(Member(_name(one.node), one.weight, one.zone) for one in holders)


def _name(node: int) -> str:
    """The node as an id that sorts like its number."""
    return f"{node:05}"


def shard_goals(record: Record) -> list[tuple[int, ...]]:
    """The nodes that each shard is to be on now, in order of preference.

    The target, and beside it those who are down: a group gives up a dead replica for a living one,
    never for nothing, since that would tolerate no more failures than before and forget where data
    are. Only an operator who retires a member makes groups smaller.
    """
    members = {member.node: member for member in record.members}
    return [
        _goal(aim, group, members) for aim, group in zip(record.target, record.shards, strict=True)
    ]


def _goal(
    aim: tuple[int, ...], group: GroupRecord, members: dict[int, MemberRecord]
) -> tuple[int, ...]:
    nodes = tuple(one.node for one in group.config.voters)
    if aim == nodes:
        return aim
    goal = [node for node in aim if node in members]
    for node in nodes:
        if len(goal) >= len(nodes):
            break
        member = members[node]
        if node not in goal and member.status is Status.DOWN and not member.is_retiring:
            goal.append(node)
    return tuple(goal)


def root_goal(record: Record, unreachable: Collection[int]) -> tuple[int, ...]:
    """The members that the root group is to be made of, in order of preference.

    As many as `root_size` says of all members that are to stay, in as many zones as there are;
    those who are in it stay before others come. A member that is down stays until another can take
    its place.
    """
    voters = [one.node for one in record.root.config.voters]
    staying = [one for one in record.members if not one.is_retiring]
    size = root_size(sum(one.status in {Status.UP, Status.DOWN} for one in staying))
    able = {
        one.node: one
        for one in staying
        if one.status is Status.UP and (one.node in voters or one.node not in unreachable)
    }
    chosen: list[int] = []
    used: dict[str, int] = {}
    while able and len(chosen) < size:
        node = min(able, key=lambda one: (used.get(_zone(able[one]), 0), one not in voters, one))
        zone = _zone(able.pop(node))
        used[zone] = used.get(zone, 0) + 1
        chosen.append(node)
    down = {one.node for one in staying if one.status is Status.DOWN}
    chosen += [node for node in voters if node in down][: size - len(chosen)]
    # Those who are in it keep their order: preference changes nothing in a group of one key.
    return tuple(
        [node for node in voters if node in chosen] + [n for n in chosen if n not in voters]
    )


def _zone(member: MemberRecord) -> str:
    return f"node/{member.node}" if member.zone is None else f"zone/{member.zone}"
