"""The commands that change which replicas a group has; see `changes.py`."""

from collections.abc import Sequence

from jido_placement import commands as c
from jido_placement.commands import Accepted, Answer, Reason, Refused
from jido_placement.config import GroupConfig, Replica
from jido_placement.draft import Draft
from jido_placement.membership import Status
from jido_placement.record import ROOT, GroupRecord, root_size

__all__ = [
    "abort",
    "assign",
    "begin_joint",
    "finish",
    "formatted",
    "may_format",
    "name_learners",
    "prefer",
    "retarget",
    "store_lost",
]


def assign(draft: Draft, command: c.Assign) -> Answer:
    """Gives all shards their first replicas.

    Nobody has written anything before, so that no copying is needed; each replica starts empty, and
    votes once it has made its header.
    """
    if draft.shards or draft.epoch != command.epoch:
        return Refused(Reason.STALE, f"the record is at epoch {draft.epoch}")
    up = sum(member.status is Status.UP for member in draft.members.values())
    expect = draft.record.expect
    if up < expect:
        return Refused(Reason.NOT_FORMED, f"{up} members are up, {expect} are expected")
    root = draft.root.config
    if root.is_joint or len(root.voters) < root_size(up):
        return Refused(Reason.NOT_FORMED, f"the root group has not {root_size(up)} replicas yet")
    flaw = _lists_flaw(draft, command.lists)
    if flaw:
        return Refused(Reason.INVALID, flaw)
    for nodes in command.lists:
        voters = tuple(Replica(node, rno) for rno, node in enumerate(nodes, 1))
        draft.shards.append(GroupRecord(GroupConfig(1, voters), (), len(nodes) + 1))
    draft.target, draft.target_for = command.lists, command.target_for
    return Accepted(is_change=True, value=len(command.lists))


def retarget(draft: Draft, command: c.Retarget) -> Answer:
    """Sets where the shards are to be; no group changes by it."""
    if draft.target_for == command.target_for and draft.target == command.lists:
        return Accepted(is_change=False)
    if not draft.shards or draft.epoch != command.epoch:
        return Refused(Reason.STALE, f"the record is at epoch {draft.epoch}")
    flaw = _lists_flaw(draft, command.lists)
    if flaw:
        return Refused(Reason.INVALID, flaw)
    draft.target, draft.target_for = command.lists, command.target_for
    return Accepted(is_change=True)


def name_learners(draft: Draft, command: c.NameLearners) -> Answer:
    """Has nodes begin to copy the group, each under a number that was never used."""
    found = _group(draft, command.group, command.number)
    if isinstance(found, Refused):
        return found
    config = found.config
    if config.is_joint or config.learners:
        return Refused(Reason.WRONG_CONFIG, "another change of the group is under way")
    flaw = _nodes_flaw(draft, command.nodes)
    held = {one.node for one in config.voters if one not in found.lost}
    if not flaw and not held.isdisjoint(command.nodes):
        flaw = f"nodes {list(command.nodes)}: some are voters already"
    if flaw:
        return Refused(Reason.INVALID, flaw)
    for node in command.nodes:
        member = draft.members[node]
        if member.status is not Status.UP:
            return Refused(
                Reason.WRONG_STATUS, f"member {node} is {member.status.name.lower()}, not up"
            )
    learners = tuple(Replica(node, rno) for rno, node in enumerate(command.nodes, found.next_rno))
    next_rno = found.next_rno + len(learners)
    number = draft.put_config(command.group, config.voters, learners=learners, next_rno=next_rno)
    return Accepted(is_change=True, value=number)


def may_format(draft: Draft, command: c.MayFormat) -> Answer:
    """Whether a node that finds no header for this replica may make one."""
    found = _replica(draft, command.group, command.replica)
    if isinstance(found, Refused):
        return found
    if command.replica in found.formatted:
        return Refused(Reason.ALREADY_FORMATTED, f"{command.replica} of group {command.group}")
    return Accepted(is_change=False)


def formatted(draft: Draft, command: c.Formatted) -> Answer:
    """Notes that the replica has a header; from now on a lost store is known to be one."""
    found = _replica(draft, command.group, command.replica)
    if isinstance(found, Refused):
        return found
    if command.replica in found.formatted:
        return Accepted(is_change=False)
    together = tuple(sorted((*found.formatted, command.replica)))
    draft.put_group(command.group, found._replace(formatted=together))
    return Accepted(is_change=True)


def store_lost(draft: Draft, command: c.StoreLost) -> Answer:
    """Notes that the replica will never answer again, so that it is replaced."""
    found = _replica(draft, command.group, command.replica)
    if isinstance(found, Refused):
        return found
    if command.replica in found.lost:
        return Accepted(is_change=False)
    if command.replica not in found.formatted:
        return Refused(Reason.NOT_FORMATTED, f"{command.replica} may still make its header")
    together = tuple(sorted((*found.lost, command.replica)))
    draft.put_group(command.group, found._replace(lost=together))
    return Accepted(is_change=True)


def begin_joint(draft: Draft, command: c.BeginJoint) -> Answer:
    """Has the voters and the nodes of the command decide together."""
    found = _group(draft, command.group, command.number)
    if isinstance(found, Refused):
        return found
    config = found.config
    if config.is_joint:
        return Refused(Reason.WRONG_CONFIG, "the config is joint already")
    flaw = _nodes_flaw(draft, command.nodes)
    # A learner on the node of a voter takes its place: that one's store is lost.
    by_node = {one.node: one for one in config.voters + config.learners}
    if not flaw and not by_node.keys() >= set(command.nodes):
        flaw = f"nodes {list(command.nodes)}: some are neither voters nor learners"
    if not flaw and not {one.node for one in config.learners} <= set(command.nodes):
        flaw = f"nodes {list(command.nodes)}: a learner is missing; abort to drop it"
    if flaw:
        return Refused(Reason.INVALID, flaw)
    joining = tuple(by_node[node] for node in command.nodes)
    if set(joining) == set(config.voters):
        return Refused(Reason.INVALID, "these are the voters; to reorder them, prefer")
    for replica in joining:
        if replica in config.learners and replica not in found.formatted:
            return Refused(Reason.NOT_FORMATTED, f"{replica} of group {command.group}")
    number = draft.put_config(command.group, config.voters, joining)
    return Accepted(is_change=True, value=number)


def finish(draft: Draft, command: c.Finish) -> Answer:
    """Ends a joint config in its new side."""
    found = _group(draft, command.group, command.number)
    if isinstance(found, Refused):
        return found
    if not found.config.is_joint:
        return Refused(Reason.WRONG_CONFIG, "the config is simple")
    settled_under = (command.ballot_recovery, command.ballot_config)
    if command.group != ROOT and settled_under != (draft.recovery_no, command.number):
        return Refused(
            Reason.NOT_DONE,
            f"group {command.group} settled under recovery and config {settled_under}, not "
            f"{(draft.recovery_no, command.number)}",
        )
    number = draft.put_config(command.group, found.config.joining)
    return Accepted(is_change=True, value=number)


def abort(draft: Draft, command: c.Abort) -> Answer:
    """Ends a joint config in its old side, or drops learners; allowed at any time.

    Joint quorums contain a majority of the old side, so that nothing needs copying back.
    """
    found = _group(draft, command.group, command.number)
    if isinstance(found, Refused):
        return found
    if not found.config.is_joint and not found.config.learners:
        return Refused(Reason.WRONG_CONFIG, "no change of the group is under way")
    return Accepted(is_change=True, value=draft.put_config(command.group, found.config.voters))


def prefer(draft: Draft, command: c.Prefer) -> Answer:
    """Reorders the voters; quorums stay what they are."""
    found = _group(draft, command.group, command.number)
    if isinstance(found, Refused):
        return found
    config = found.config
    if config.is_joint or config.learners:
        return Refused(Reason.WRONG_CONFIG, "another change of the group is under way")
    by_node = {one.node: one for one in config.voters}
    if sorted(by_node) != sorted(command.nodes):
        return Refused(Reason.INVALID, f"nodes {list(command.nodes)} are not the voters")
    voters = tuple(by_node[node] for node in command.nodes)
    if voters == config.voters:
        return Accepted(is_change=False, value=config.number)
    return Accepted(is_change=True, value=draft.put_config(command.group, voters))


def _group(draft: Draft, group: int, number: int) -> GroupRecord | Refused:
    """The group, if its config is the one that the command was decided on."""
    found = draft.group(group)
    if found is None:
        return Refused(Reason.UNKNOWN_GROUP, f"there is no group {group}")
    if found.config.number != number:
        return Refused(
            Reason.STALE, f"group {group} has config {found.config.number}, not {number}"
        )
    return found


def _replica(draft: Draft, group: int, replica: Replica) -> GroupRecord | Refused:
    """The group, if it names this replica."""
    found = draft.group(group)
    if found is None:
        return Refused(Reason.UNKNOWN_GROUP, f"there is no group {group}")
    if replica not in found.replicas:
        return Refused(
            Reason.STALE, f"config {found.config.number} of group {group} does not name {replica}"
        )
    return found


def _nodes_flaw(draft: Draft, nodes: Sequence[int]) -> str:
    if not nodes or len(set(nodes)) < len(nodes):
        return f"nodes {list(nodes)}: give at least one, each once"
    unknown = [node for node in nodes if node not in draft.members]
    return f"nodes {unknown} are no members" if unknown else ""


def _lists_flaw(draft: Draft, lists: Sequence[Sequence[int]]) -> str:
    if len(lists) != draft.record.shard_count:
        return f"{len(lists)} lists for {draft.record.shard_count} shards"
    return next(filter(None, (_nodes_flaw(draft, nodes) for nodes in lists)), "")
