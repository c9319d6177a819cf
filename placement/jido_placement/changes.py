"""How commands change the record: in order, whole or not at all, the same everywhere.

Each command is met by one function that says what stands against it, or does it. The rules that
keep acknowledged writes safe are refused here, whatever a planner or an operator asks for: a member
is forgotten only when no config names it; a joint config ends in its new side only after its leader
has settled every key; a new voter has made its header before it counts; numbers are never used
again.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, Final

from jido_placement import commands as c
from jido_placement.commands import Accepted, Answer, Command, Reason, Refused
from jido_placement.config import Replica
from jido_placement.draft import Draft
from jido_placement.group_changes import (
    abort,
    assign,
    begin_joint,
    finish,
    formatted,
    may_format,
    name_learners,
    prefer,
    retarget,
    store_lost,
)
from jido_placement.membership import Status, may_become
from jido_placement.record import MAX_NODE, MAX_TEXT, ROOT, MemberRecord, Record

__all__ = ["apply", "apply_all"]

MAX_LABELS: Final = 64


def apply(record: Record, command: Command) -> tuple[Record, Answer]:
    """The record after the command, and its answer; the same object when nothing changed."""
    after, (answer,) = apply_all(record, (command,))
    return after, answer


def apply_all(record: Record, commands: Iterable[Command]) -> tuple[Record, tuple[Answer, ...]]:
    """As `apply` one after the other; copies the record once."""
    draft = Draft(record)
    answers = []
    for command in commands:
        answer = _RULES[type(command)](draft, command)
        if isinstance(answer, Accepted) and answer.is_change:
            draft.changes += 1
        answers.append(answer)
    return draft.freeze(), tuple(answers)


def _join(draft: Draft, command: c.Join) -> Answer:
    known = draft.members.get(draft.ids.get(command.id, -1))
    if known is not None:
        if (known.boot, known.nonce) == (1, command.nonce):
            return Accepted(is_change=False, value=known.node)
        return Refused(Reason.ALREADY_MEMBER, f"{command.id!r} is member {known.node}")
    if command.agreed != draft.agreed:
        return _other_agreement(draft, command.agreed)
    node = draft.next_node
    if node > MAX_NODE:
        return Refused(Reason.FULL, f"{node} nodes have joined since the cluster was founded")
    member = MemberRecord(
        node,
        command.id,
        1,
        command.nonce,
        command.name,
        tuple(sorted(command.labels)),
        command.weight,
        command.zone,
    )
    flaw = _flaw(member)
    if flaw:
        return Refused(Reason.INVALID, flaw)
    draft.next_node += 1
    draft.put_member(member)
    return Accepted(is_change=True, value=node)


def _register_boot(draft: Draft, command: c.RegisterBoot) -> Answer:
    member = draft.members.get(draft.ids.get(command.id, -1))
    if member is None:
        return Refused(Reason.UNKNOWN_MEMBER, f"nobody has the id {command.id!r}")
    if (member.boot, member.nonce) == (command.boot, command.nonce):
        return Accepted(is_change=False, value=member.node)
    if (member.boot, member.nonce) != (command.boot - 1, command.old_nonce):
        return Refused(
            Reason.WRONG_BOOT,
            f"member {member.node} is registered with boot {member.boot}, asked for boot "
            f"{command.boot}",
        )
    if command.agreed != draft.agreed:
        return _other_agreement(draft, command.agreed)
    status = member.status
    if status is Status.DOWN:
        # What was given up comes back with its identity; the order of status begins anew.
        status = Status.LEAVING if member.is_retiring else Status.UP
    draft.put_member(member._replace(boot=command.boot, nonce=command.nonce, status=status))
    return Accepted(is_change=True, value=member.node)


def _become_up(draft: Draft, command: c.BecomeUp) -> Answer:
    return _move_on(draft, command.node, command.boot, Status.UP)


def _declare_down(draft: Draft, command: c.DeclareDown) -> Answer:
    return _move_on(draft, command.node, command.boot, Status.DOWN)


def _move_on(draft: Draft, node: int, boot: int, status: Status) -> Answer:
    member = draft.members.get(node)
    if member is None:
        return _unknown(node)
    if member.boot != boot:
        return Refused(Reason.STALE, f"member {node} is in boot {member.boot}, not {boot}")
    if member.status is status:
        return Accepted(is_change=False, value=node)
    if not may_become(member.status, status):
        return _wrong_status(member, status)
    draft.put_member(member._replace(status=status))
    return Accepted(is_change=True, value=node)


def _leave(draft: Draft, command: c.Leave) -> Answer:
    member = draft.members.get(command.node)
    if member is None:
        return _gone_or_unknown(draft, command.node)
    if member.is_retiring:
        return Accepted(is_change=False, value=member.node)
    others = (one for one in draft.members.values() if one.node != member.node)
    if not any(one.status is Status.UP and not one.is_retiring for one in others):
        text = f"no other member is up that could take over from member {member.node}"
        return Refused(Reason.WRONG_STATUS, text)
    status = Status.LEAVING if may_become(member.status, Status.LEAVING) else member.status
    draft.put_member(member._replace(status=status, is_retiring=True))
    return Accepted(is_change=True, value=member.node)


def _remove(draft: Draft, command: c.Remove) -> Answer:
    member = draft.members.get(command.node)
    if member is None:
        return _gone_or_unknown(draft, command.node)
    if not may_become(member.status, Status.REMOVED):
        return _wrong_status(member, Status.REMOVED)
    naming = [
        number
        for number, group in enumerate((draft.root, *draft.shards), ROOT)
        if group.names(command.node)
    ]
    if naming:
        groups = ", ".join("root" if one == ROOT else str(one) for one in naming[:8])
        more = " and more" if len(naming) > 8 else ""
        return Refused(Reason.STILL_NAMED, f"member {command.node} is named by {groups}{more}")
    draft.drop_member(command.node)
    return Accepted(is_change=True, value=command.node)


def _describe(draft: Draft, command: c.Describe) -> Answer:
    member = draft.members.get(command.node)
    if member is None:
        return _unknown(command.node)
    changed = member._replace(
        labels=tuple(sorted(command.labels)), weight=command.weight, zone=command.zone
    )
    if changed == member:
        return Accepted(is_change=False, value=member.node)
    if draft.epoch != command.epoch:
        return Refused(Reason.STALE, f"the record is at epoch {draft.epoch}")
    flaw = _flaw(changed)
    if flaw:
        return Refused(Reason.INVALID, flaw)
    draft.put_member(changed)
    return Accepted(is_change=True, value=member.node)


def _set_agreed(draft: Draft, command: c.SetAgreed) -> Answer:
    if draft.agreed == command.agreed:
        return Accepted(is_change=False)
    if draft.epoch != command.epoch:
        return Refused(Reason.STALE, f"the record is at epoch {draft.epoch}")
    draft.agreed = command.agreed
    return Accepted(is_change=True)


def _force_recover(draft: Draft, command: c.ForceRecover) -> Answer:
    left = frozenset(command.survivors)
    unknown = sorted(left - draft.members.keys())
    if unknown or not left:
        return Refused(Reason.UNKNOWN_MEMBER, f"survivors {list(command.survivors)} are no members")
    if command.recovery_no != draft.recovery_no:
        return Refused(Reason.STALE, f"recovery {draft.recovery_no} has already been forced")
    draft.recovery_no += 1
    lost = 0
    for number, group in list(enumerate((draft.root, *draft.shards), ROOT)):
        voters = tuple(one for one in group.config.members if one.node in left)
        if voters:
            draft.put_config(number, voters)
        else:
            lost += number != ROOT
            fresh = Replica(min(left), group.next_rno)
            draft.put_config(number, (fresh,), next_rno=group.next_rno + 1)
    for node in sorted(draft.members.keys() - left):
        draft.drop_member(node)
    return Accepted(is_change=True, value=lost)


_RULES: Final[Mapping[type, Callable[[Draft, Any], Answer]]] = MappingProxyType(
    {
        c.Join: _join,
        c.RegisterBoot: _register_boot,
        c.BecomeUp: _become_up,
        c.Leave: _leave,
        c.DeclareDown: _declare_down,
        c.Remove: _remove,
        c.Describe: _describe,
        c.Assign: assign,
        c.Retarget: retarget,
        c.NameLearners: name_learners,
        c.MayFormat: may_format,
        c.Formatted: formatted,
        c.StoreLost: store_lost,
        c.BeginJoint: begin_joint,
        c.Finish: finish,
        c.Abort: abort,
        c.Prefer: prefer,
        c.SetAgreed: _set_agreed,
        c.ForceRecover: _force_recover,
    }
)


def _flaw(member: MemberRecord) -> str:
    """What is wrong with a description; empty when nothing is."""
    if not (math.isfinite(member.weight) and member.weight >= 0):
        return f"weight {member.weight!r}: give a finite number >= 0"
    if len(member.labels) > MAX_LABELS:
        return f"{len(member.labels)} labels: give at most {MAX_LABELS}"
    keys = [key for key, _ in member.labels]
    if len(set(keys)) < len(keys):
        return f"labels {keys}: give each key once"
    if not member.id or member.zone == "":
        return "id or zone is empty: give a text, or no zone at all"
    texts = [
        member.id,
        member.name,
        member.zone or "",
        *(part for one in member.labels for part in one),
    ]
    longest = max(texts, key=len)
    if len(longest) > MAX_TEXT:
        return f"{longest[:20]!r}... has {len(longest)} characters: give at most {MAX_TEXT}"
    return ""


def _unknown(node: int) -> Refused:
    return Refused(Reason.UNKNOWN_MEMBER, f"nobody has index {node}")


def _gone_or_unknown(draft: Draft, node: int) -> Answer:
    """What was asked for is so already when the member was there once."""
    return Accepted(is_change=False, value=node) if 0 <= node < draft.next_node else _unknown(node)


def _wrong_status(member: MemberRecord, wanted: Status) -> Refused:
    return Refused(
        Reason.WRONG_STATUS,
        f"member {member.node} is {member.status.name.lower()} and cannot become "
        f"{wanted.name.lower()} in this boot",
    )


def _other_agreement(draft: Draft, agreed: str) -> Refused:
    return Refused(
        Reason.WRONG_AGREEMENT,
        f"the node has {agreed!r}, the cluster was founded with {draft.agreed!r}: start it with "
        "these settings, or with an empty data directory",
    )
