"""What the planner is going to do, by letting it do it to a copy; and why an agent is where it is.

The rehearsal plans and applies as the root leader does, and plays the part of the nodes: learners
make their headers and copy, joint leaders settle their keys, leaderships are handed over. So what
it shows is what is then done, as long as nothing else happens meanwhile.
"""

from dataclasses import replace
from itertools import zip_longest
from typing import NamedTuple

from jido_placement.changes import apply_all
from jido_placement.commands import Accepted, Command, Formatted
from jido_placement.digest import shard_of
from jido_placement.planner import plan
from jido_placement.record import ROOT, GroupRecord, Record
from jido_placement.steps import Limits, Order, Step, World
from jido_placement.table import Move

__all__ = ["Preview", "explain", "preview", "rehearse"]


class Preview(NamedTuple):
    """A rehearsal.

    Attributes:
        rounds: The steps of each plan, in order.
        record: What the record comes to.
        moves: Which replicas have then changed their node, and which shards prefer another leader;
            nodes by their id.
        is_complete: Whether nothing more is to be done; False when it was cut off.
    """

    rounds: tuple[tuple[Step, ...], ...]
    record: Record
    moves: tuple[Move, ...]
    is_complete: bool


def preview(
    record: Record, world: World, limits: Limits | None = None, *, max_rounds: int = 100_000
) -> Preview:
    """What repeated planning does from here on, if the world stays as it is."""
    rounds: list[tuple[Step, ...]] = []
    now, seen = rehearse(record, world, ())  # what is under way gets its nodes' part, too
    while len(rounds) < max_rounds:
        steps = plan(now, seen, limits)
        if not steps:
            return Preview(tuple(rounds), now, _moves(record, now), is_complete=True)
        rounds.append(steps)
        now, seen = rehearse(now, seen, steps)
    return Preview(tuple(rounds), now, _moves(record, now), is_complete=False)


def rehearse(record: Record, world: World, steps: tuple[Step, ...]) -> tuple[Record, World]:
    """The record and the world after the steps, when every node does its part at once.

    Raises:
        AssertionError: the record refuses a command that was planned for it.
    """
    commands: list[Command] = [step.command for step in steps if isinstance(step, Order)]
    after, answers = apply_all(record, commands)
    for command, answer in zip(commands, answers, strict=True):
        assert isinstance(answer, Accepted), (command, answer)
    leaders = dict(world.leaders)
    leaders.update({one.group: one.to for one in steps if not isinstance(one, Order)})
    staged, settled = set[tuple[int, int]](), dict[int, tuple[int, int]]()
    headers: list[Command] = []
    for number, group in enumerate((after.root, *after.shards), ROOT):
        config = group.config
        headers += [
            Formatted(number, one)
            for one in group.replicas
            if one not in group.formatted and one.node not in world.unreachable
        ]
        staged.update((number, one.node) for one in config.learners)
        if config.is_joint:
            settled[number] = (after.recovery_no, config.number)
        if number in leaders and leaders[number] not in {one.node for one in config.members}:
            leaders[number] = config.voters[0].node
    after, _ = apply_all(after, headers)
    return after, replace(world, leaders=leaders, staged=frozenset(staged), settled=settled)


def _moves(before: Record, after: Record) -> tuple[Move, ...]:
    """The differences between the voters of two records, by shard, slots first."""
    ids = {one.node: one.id for one in (*before.members, *after.members)}
    found: list[Move] = []
    if len(before.shards) == len(after.shards):
        for shard, (old, new) in enumerate(zip(before.shards, after.shards, strict=True)):
            if old.config == new.config:
                continue
            had, has = _nodes(old), _nodes(new)
            left = [ids[node] for node in had if node not in has]
            joined = [ids[node] for node in has if node not in had]
            found += [Move(shard, a, b, "replica") for a, b in zip_longest(left, joined)]
            if had[0] != has[0]:
                found.append(Move(shard, ids[had[0]], ids[has[0]], "leader"))
    return tuple(found)


def _nodes(group: GroupRecord) -> tuple[int, ...]:
    return tuple(one.node for one in group.config.voters)


def explain(record: Record, agent_id: str) -> str:
    """Why the agent is where it is, for people; several lines.

    The record does not know who leads at the moment, only who is preferred.
    """
    shard = shard_of(agent_id, record.shard_count)
    lines = [f"agent {agent_id!r} is in shard {shard} of {record.shard_count}, by its digest"]
    if not record.shards:
        up = sum(member.status.name == "UP" for member in record.members)
        lines.append(f"no shard is assigned yet: {up} of {record.expect} expected members are up")
        return "\n".join(lines)
    group, aim = record.shards[shard], record.target[shard]
    config = group.config
    names = {one.node: _title(record, one.node) for one in group.replicas}
    voters = ", ".join(names[one.node] for one in config.voters)
    lines.append(f"config {config.number} has the voters {voters}; the first is to lead")
    if config.joining:
        joining = ", ".join(names[one.node] for one in config.joining)
        lines.append(f"it is joint: {joining} decide with them and then take over")
    if config.learners:
        learners = ", ".join(names[one.node] for one in config.learners)
        lines.append(f"{learners} copy it and are to become voters")
    lines += [f"the store of {names[one.node]} is lost, to be replaced" for one in group.lost]
    if aim == _nodes(group):
        lines.append("that is where the ring, weights and zones of the members put it")
    else:
        wanted = ", ".join(_title(record, node) for node in aim)
        lines.append(f"weights and zones of the members put it on {wanted}")
    return "\n".join(lines)


def _title(record: Record, node: int) -> str:
    member = record.member(node)
    if member is None:
        return f"a removed member (node {node})"
    zone = f", zone {member.zone}" if member.zone is not None else ""
    return f"{member.name or member.id} (node {node}, {member.status.name.lower()}{zone})"
