"""The record as bytes: what the root group keeps as the content of its register.

Theory. Nearly all of a record is the table of shards, and nearly all shards are in one of two
plain states. All nodes of all shards stand in one column of 16-bit numbers, six bytes per shard of
three replicas; a shard that nobody has ever moved needs nothing else. One that was moved adds its
numbers, one that is being moved is written out.

The first bytes say the format, and carry a checksum: a damaged record is refused, never half read.
"""

import struct
from collections.abc import Sequence
from typing import Any, Final
from zlib import crc32

import ormsgpack

from jido_placement.config import GroupConfig, Replica
from jido_placement.membership import Status
from jido_placement.record import GroupRecord, Holder, MemberRecord, Record

__all__ = [
    "DamagedRecordError",
    "group_from_data",
    "group_to_data",
    "member_from_data",
    "member_to_data",
    "open_frame",
    "record_from_bytes",
    "record_to_bytes",
    "seal_frame",
]

_RECORD: Final = b"jr1"
_HEAD: Final = struct.Struct(">3sI")


class DamagedRecordError(ValueError):
    """The bytes are no record, or not all of one, or of a format that this version cannot read."""


def seal_frame(kind: bytes, data: Any) -> bytes:
    """The data as bytes, with their kind (three bytes) and a checksum in front."""
    body = ormsgpack.packb(data)
    return _HEAD.pack(kind, crc32(body)) + body


def open_frame(kind: bytes, frame: bytes) -> Any:
    """The data that `seal_frame` packed; DamagedRecordError for anything else."""
    if len(frame) < _HEAD.size:
        raise DamagedRecordError(f"{len(frame)} bytes are too few")
    found, crc = _HEAD.unpack_from(frame)
    if found != kind:
        raise DamagedRecordError(f"the bytes are {found!r}: this version reads {kind!r}")
    body = frame[_HEAD.size :]
    if crc32(body) != crc:
        raise DamagedRecordError(f"the checksum of {len(body)} bytes does not fit them")
    try:
        return ormsgpack.unpackb(body)
    except ValueError as error:
        raise DamagedRecordError(f"{len(body)} bytes are no message pack") from error


def record_to_bytes(record: Record) -> bytes:
    """The record, in the same bytes on every machine."""
    width = max((len(group.config.voters) for group in record.shards), default=0)
    column: list[int] = []
    moved: list[list[int]] = []
    moving: list[list[Any]] = []
    for shard, group in enumerate(record.shards):
        _, voters, joining, learners = group.config
        if joining or learners or group.lost or len(voters) != width:
            column += [0] * width
            moving.append([shard, group_to_data(group)])
            continue
        column += [replica.node for replica in voters]
        if group != _plain(voters):
            rnos = [replica.rno for replica in voters]
            mask = _mask(voters, group.formatted)
            moved.append([shard, group.config.number, group.next_rno, mask, *rnos])
    aims = [
        [shard, *nodes]
        for shard, (nodes, group) in enumerate(zip(record.target, record.shards, strict=True))
        if nodes != tuple(replica.node for replica in group.config.voters)
    ]
    return seal_frame(
        _RECORD,
        [
            [
                record.cluster_id,
                record.recovery_no,
                record.epoch,
                record.shard_count,
                record.replicas,
                record.expect,
                record.agreed,
                record.next_node,
            ],
            [member_to_data(member) for member in record.members],
            group_to_data(record.root),
            [width, struct.pack(f">{len(column)}H", *column), len(record.shards), moved, moving],
            aims,
            _holders_to_data(record),
        ],
    )


def record_from_bytes(frame: bytes) -> Record:
    """The record that `record_to_bytes` packed.

    Raises:
        DamagedRecordError: the bytes are damaged, of another format, or break an invariant.
    """
    data = open_frame(_RECORD, frame)
    try:
        record = _from_data(data)
    except (IndexError, KeyError, TypeError, ValueError, struct.error) as error:
        raise DamagedRecordError("the data have not the shape of a record") from error
    if record.flaw:
        raise DamagedRecordError(record.flaw)
    return record


def _from_data(data: Any) -> Record:
    head, members, root, (width, column, count, moved, moving), aims, holders = data
    nodes = struct.unpack(f">{width * count}H", column)
    rows = [nodes[shard * width : (shard + 1) * width] for shard in range(count)]
    shards = [_plain(tuple(Replica(node, rno) for rno, node in enumerate(row, 1))) for row in rows]
    for shard, number, next_rno, mask, *rnos in moved:
        voters = _replicas(rows[shard], rnos)
        shards[shard] = GroupRecord(GroupConfig(number, voters), _marked(voters, mask), next_rno)
    for shard, group in moving:
        shards[shard] = group_from_data(group)
    target = [tuple(replica.node for replica in group.config.voters) for group in shards]
    for shard, *aim in aims:
        target[shard] = tuple(aim)
    cluster_id, recovery_no, epoch, shard_count, replicas, expect, agreed, next_node = head
    everybody = tuple(map(member_from_data, members))
    return Record(
        cluster_id,
        recovery_no,
        epoch,
        shard_count,
        replicas,
        expect,
        agreed,
        next_node,
        everybody,
        group_from_data(root),
        tuple(shards),
        tuple(target),
        _holders_from_data(everybody, holders),
    )


def _holders_to_data(record: Record) -> list[Any]:
    """The holders that are as their members are by their numbers, the others in full."""
    now = {
        member.node: Holder(member.node, member.weight, member.zone) for member in record.members
    }
    same = [holder.node for holder in record.target_for if now.get(holder.node) == holder]
    other = [list(holder) for holder in record.target_for if now.get(holder.node) != holder]
    return [struct.pack(f">{len(same)}H", *same), other]


def _holders_from_data(members: Sequence[MemberRecord], data: Sequence[Any]) -> tuple[Holder, ...]:
    column, other = data
    now = {member.node: Holder(member.node, member.weight, member.zone) for member in members}
    same = [now[node] for (node,) in struct.iter_unpack(">H", column)]
    return tuple(sorted([*same, *(Holder(*one) for one in other)], key=_node_of))


def member_to_data(member: MemberRecord) -> list[Any]:
    """The member as a list of plain values."""
    return [*member[:8], int(member.status), member.is_retiring]


def member_from_data(data: Sequence[Any]) -> MemberRecord:
    """The member that `member_to_data` took apart."""
    member = MemberRecord(*data)
    labels = tuple((key, value) for key, value in member.labels)
    return member._replace(labels=labels, status=Status(member.status))


def group_to_data(group: GroupRecord) -> list[Any]:
    """The group as lists of numbers."""
    config = group.config
    sides = [
        [number for replica in side for number in replica]
        for side in (config.voters, config.joining, config.learners)
    ]
    named = group.replicas
    masks = [_mask(named, group.formatted), _mask(named, group.lost)]
    return [config.number, *sides, *masks, group.next_rno]


def group_from_data(data: Sequence[Any]) -> GroupRecord:
    """The group that `group_to_data` took apart."""
    number, *sides, formatted, lost, next_rno = data
    config = GroupConfig(number, *(_replicas(side[::2], side[1::2]) for side in sides))
    named = config.members + config.learners
    return GroupRecord(config, _marked(named, formatted), next_rno, _marked(named, lost))


def _plain(voters: tuple[Replica, ...]) -> GroupRecord:
    """What a shard is after formation, if these are its voters and all are formatted."""
    numbered = tuple(Replica(replica.node, rno) for rno, replica in enumerate(voters, 1))
    return GroupRecord(GroupConfig(1, numbered), tuple(sorted(numbered)), len(voters) + 1)


def _replicas(nodes: Sequence[int], rnos: Sequence[int]) -> tuple[Replica, ...]:
    return tuple(Replica(node, rno) for node, rno in zip(nodes, rnos, strict=True))


def _node_of(holder: Holder) -> int:
    return holder.node


def _mask(replicas: Sequence[Replica], marked: Sequence[Replica]) -> int:
    return sum(1 << place for place, replica in enumerate(replicas) if replica in marked)


def _marked(replicas: Sequence[Replica], mask: int) -> tuple[Replica, ...]:
    return tuple(sorted(one for place, one in enumerate(replicas) if mask >> place & 1))
