"""The root group's record as bytes, for its row and for the copy that every node keeps.

Theory. A record of a large cluster is mostly one number after the other: which replicas each shard
has. It is written as lists of such numbers, packed, in the order of the fields; the first element
is the form's number, so that a later release can tell.
"""

from collections.abc import Sequence
from typing import Any, Final

import ormsgpack

from jido_placement.config import GroupConfig, Replica
from jido_placement.membership import Status
from jido_placement.record import GroupRecord, Holder, MemberRecord, Record

__all__ = ["config_from_data", "config_to_data", "record_from_bytes", "record_to_bytes"]

FORM: Final = 1
_STATUSES: Final = tuple(Status)


def record_to_bytes(record: Record) -> bytes:
    """The record without a checksum; equal for equal records."""
    return ormsgpack.packb(
        [
            FORM,
            record.cluster_id,
            record.recovery_no,
            record.epoch,
            record.shard_count,
            record.replicas,
            record.expect,
            record.agreed,
            record.next_node,
            [_member_to_data(member) for member in record.members],
            _group_to_data(record.root),
            [_group_to_data(group) for group in record.shards],
            [list(nodes) for nodes in record.target],
            [list(holder) for holder in record.target_for],
        ]
    )


def record_from_bytes(data: bytes) -> Record:
    """What `record_to_bytes` made.

    Raises:
        ValueError: It is something else.
    """
    try:
        form, *fields, members, root, shards, target, target_for = ormsgpack.unpackb(data)
        fields += [
            tuple(_member_from_data(member) for member in members),
            _group_from_data(root),
            tuple(_group_from_data(group) for group in shards),
            tuple(tuple(nodes) for nodes in target),
            tuple(Holder(*holder) for holder in target_for),
        ]
        record = Record(*fields)
    except (TypeError, ValueError, IndexError) as error:
        raise ValueError(f"{len(data)} bytes are no record of a cluster: {error}") from error
    if form != FORM:
        raise ValueError(f"a record of form {form}, and {FORM} is the one known here")
    return record


def config_to_data(config: GroupConfig) -> list[Any]:
    """A group's config as lists of numbers."""
    number, *sides = config
    return [number, *(_flat(side) for side in sides)]


def config_from_data(data: Sequence[Any]) -> GroupConfig:
    """What `config_to_data` took apart. Raises TypeError or ValueError for other data."""
    number, voters, joining, learners = data
    return GroupConfig(number, _replicas(voters), _replicas(joining), _replicas(learners))


def _flat(replicas: Sequence[Replica]) -> list[int]:
    return [number for replica in replicas for number in replica]


def _replicas(numbers: Sequence[int]) -> tuple[Replica, ...]:
    return tuple(map(Replica, numbers[::2], numbers[1::2]))


def _group_to_data(group: GroupRecord) -> list[Any]:
    config, formatted, next_rno, lost = group
    return [config_to_data(config), _flat(formatted), next_rno, _flat(lost)]


def _group_from_data(data: Sequence[Any]) -> GroupRecord:
    config, formatted, next_rno, lost = data
    return GroupRecord(config_from_data(config), _replicas(formatted), next_rno, _replicas(lost))


def _member_to_data(member: MemberRecord) -> list[Any]:
    status = _STATUSES.index(member.status)
    labels = [list(pair) for pair in member.labels]
    return list(member._replace(labels=labels, status=status))  # type: ignore[arg-type]


def _member_from_data(data: Sequence[Any]) -> MemberRecord:
    member = MemberRecord(*data)
    labels = tuple((key, value) for key, value in member.labels)
    status: Any = member.status  # a number until here
    return member._replace(labels=labels, status=_STATUSES[status])
