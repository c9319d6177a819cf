"""A record while commands are applied to it: copied once per batch, frozen at the end."""

from dataclasses import replace

from jido_placement.config import GroupConfig, Replica
from jido_placement.record import ROOT, GroupRecord, MemberRecord, Record

__all__ = ["Draft"]


class Draft:
    """The mutable twin of a record.

    Attributes:
        record: What it was made from; fields that have no twin here are read from it.
        members: By node, in ascending order.
        ids: The node of each member's id.
        root: The root group.
        shards: The shards' groups.
        changes: How many commands have changed something.
    """

    def __init__(self, record: Record) -> None:
        self.record = record
        self.members = {member.node: member for member in record.members}
        self.ids = {member.id: member.node for member in record.members}
        self.root = record.root
        self.shards = list(record.shards)
        self.target = record.target
        self.target_for = record.target_for
        self.next_node = record.next_node
        self.recovery_no = record.recovery_no
        self.agreed = record.agreed
        self.changes = 0

    @property
    def epoch(self) -> int:
        """The epoch that the record would have if it were frozen now."""
        return self.record.epoch + self.changes

    def put_member(self, member: MemberRecord) -> None:
        """Has the member as given, new or in place of what it was."""
        self.members[member.node] = member
        self.ids[member.id] = member.node

    def drop_member(self, node: int) -> None:
        """Forgets the member."""
        del self.ids[self.members.pop(node).id]

    def group(self, group: int) -> GroupRecord | None:
        """The group of this number; None when there is none (yet)."""
        if group == ROOT:
            return self.root
        return self.shards[group] if 0 <= group < len(self.shards) else None

    def put_group(self, group: int, state: GroupRecord) -> None:
        """Has the group as given."""
        if group == ROOT:
            self.root = state
        else:
            self.shards[group] = state

    def put_config(
        self,
        group: int,
        voters: tuple[Replica, ...],
        joining: tuple[Replica, ...] = (),
        learners: tuple[Replica, ...] = (),
        *,
        next_rno: int | None = None,
    ) -> int:
        """Gives the group its next config; nothing is kept of replicas that it does not name."""
        before = self.root if group == ROOT else self.shards[group]
        config = GroupConfig(before.config.number + 1, voters, joining, learners)
        named = config.members + config.learners
        formatted = tuple(replica for replica in before.formatted if replica in named)
        lost = tuple(replica for replica in before.lost if replica in named)
        rno = before.next_rno if next_rno is None else next_rno
        self.put_group(group, GroupRecord(config, formatted, rno, lost))
        return config.number

    def freeze(self) -> Record:
        """The record that has come of it; the same object when nothing has changed."""
        if not self.changes:
            return self.record
        return replace(
            self.record,
            epoch=self.epoch,
            recovery_no=self.recovery_no,
            agreed=self.agreed,
            next_node=self.next_node,
            members=tuple(self.members.values()),
            root=self.root,
            shards=tuple(self.shards),
            target=self.target,
            target_for=self.target_for,
        )
