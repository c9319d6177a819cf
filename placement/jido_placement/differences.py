"""What has changed from one record to a later one, so that nodes need not pull all of it.

A node asks the root leader for what is newer than the epoch it has. The leader keeps a number of
earlier records, which share what did not change, and compares; who is further behind, or of another
recovery, gets the whole record.
"""

from collections import deque
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from jido_placement.packing import (
    DamagedRecordError,
    group_from_data,
    group_to_data,
    member_from_data,
    member_to_data,
    open_frame,
    seal_frame,
)
from jido_placement.record import ROOT, GroupRecord, Holder, MemberRecord, Record

__all__ = ["RecordDiff", "RecordHistory", "apply_diff", "diff", "diff_from_bytes", "diff_to_bytes"]

_DIFF: Final = b"jd1"


class RecordDiff(NamedTuple):
    """How to come from one epoch to a later one.

    Attributes:
        cluster_id: Of both records.
        recovery_no: Of both records.
        from_epoch: Of the earlier record.
        to_epoch: Of the later one.
        agreed: As in the later record, like all that follows.
        next_node: As above.
        target_for: As above.
        members: Those that are new or changed, sorted by node.
        removed: The nodes that are members no more, sorted.
        groups: Those that are new or changed, by their number, `ROOT` first.
        target: The nodes of the shards whose target is new or changed, by shard.
    """

    cluster_id: str
    recovery_no: int
    from_epoch: int
    to_epoch: int
    agreed: str
    next_node: int
    target_for: tuple[Holder, ...]
    members: tuple[MemberRecord, ...]
    removed: tuple[int, ...]
    groups: Mapping[int, GroupRecord]
    target: Mapping[int, tuple[int, ...]]


def diff(old: Record, new: Record) -> RecordDiff:
    """What leads from the old record to the new one, of the same cluster and recovery."""
    before = {member.node: member for member in old.members}
    left = sorted(before.keys() - {member.node for member in new.members})
    groups = {} if old.root == new.root else {ROOT: new.root}
    had = dict(enumerate(old.shards))
    groups.update({n: one for n, one in enumerate(new.shards) if had.get(n) != one})
    aims = dict(enumerate(old.target))
    return RecordDiff(
        new.cluster_id,
        new.recovery_no,
        old.epoch,
        new.epoch,
        new.agreed,
        new.next_node,
        new.target_for,
        tuple(member for member in new.members if before.get(member.node) != member),
        tuple(left),
        MappingProxyType(groups),
        MappingProxyType({n: one for n, one in enumerate(new.target) if aims.get(n) != one}),
    )


def apply_diff(old: Record, change: RecordDiff) -> Record | None:
    """The later record; None when the difference does not begin at the old one."""
    begins_at = (change.cluster_id, change.recovery_no, change.from_epoch)
    if begins_at != (old.cluster_id, old.recovery_no, old.epoch):
        return None
    members = {member.node: member for member in old.members}
    for node in change.removed:
        members.pop(node, None)
    members.update({member.node: member for member in change.members})
    shards, target = dict(enumerate(old.shards)), dict(enumerate(old.target))
    shards.update({n: one for n, one in change.groups.items() if n != ROOT})
    target.update(change.target)
    return replace(
        old,
        epoch=change.to_epoch,
        agreed=change.agreed,
        next_node=change.next_node,
        target_for=change.target_for,
        members=tuple(members[node] for node in sorted(members)),
        root=change.groups.get(ROOT, old.root),
        shards=tuple(shards[number] for number in sorted(shards)),
        target=tuple(target[number] for number in sorted(target)),
    )


def diff_to_bytes(change: RecordDiff) -> bytes:
    """The difference as bytes, checksummed like a record."""
    holders = [list(holder) for holder in change.target_for]
    members = [member_to_data(member) for member in change.members]
    groups = [[number, group_to_data(group)] for number, group in change.groups.items()]
    target = [[shard, *nodes] for shard, nodes in change.target.items()]
    return seal_frame(_DIFF, [*change[:6], holders, members, change.removed, groups, target])


def diff_from_bytes(frame: bytes) -> RecordDiff:
    """The difference that `diff_to_bytes` packed; DamagedRecordError for anything else."""
    data = open_frame(_DIFF, frame)
    try:
        return _from_data(data)
    except (IndexError, KeyError, TypeError, ValueError) as error:
        raise DamagedRecordError("the data have not the shape of a difference") from error


def _from_data(data: Any) -> RecordDiff:
    cluster_id, recovery_no, from_epoch, to_epoch, agreed, next_node, *lists = data
    holders, members, removed, groups, target = lists
    return RecordDiff(
        cluster_id,
        recovery_no,
        from_epoch,
        to_epoch,
        agreed,
        next_node,
        tuple(Holder(*holder) for holder in holders),
        tuple(map(member_from_data, members)),
        tuple(removed),
        MappingProxyType({number: group_from_data(group) for number, group in groups}),
        MappingProxyType({shard: tuple(nodes) for shard, *nodes in target}),
    )


class RecordHistory:
    """The last records that were committed, to tell differences from.

    Attributes:
        newest: The last one.
    """

    def __init__(self, record: Record, *, limit: int = 64) -> None:
        """Begins with this record; keeps `limit` earlier ones, the oldest goes first."""
        self.newest = record
        self._earlier: deque[Record] = deque(maxlen=limit)

    def keep(self, record: Record) -> None:
        """The record is committed; one that is not newer is ignored."""
        newest = self.newest
        if record.recovery_no > newest.recovery_no:
            # No difference leads from before a recovery to after it.
            self._earlier.clear()
            self.newest = record
        elif record.recovery_no == newest.recovery_no and record.epoch > newest.epoch:
            self._earlier.append(newest)
            self.newest = record

    def since(self, recovery_no: int, epoch: int) -> RecordDiff | Record | None:
        """What a node at this epoch lacks: nothing, a difference, or else everything."""
        newest = self.newest
        if recovery_no == newest.recovery_no:
            if epoch == newest.epoch:
                return None
            for record in self._earlier:
                if record.epoch == epoch:
                    return diff(record, newest)
        return newest
