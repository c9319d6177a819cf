"""The record of the root group: who is a member, and which replicas each group has.

Theory. One value holds everything that must have one truth in the whole cluster. The root group
keeps it as one register under the same protocol as any shard's; its leader applies commands to it
in order (`commands.py`, `changes.py`) and commits the result, so that members need no clever
reader. Every change of it raises the *epoch*, every change of a group's replicas that group's
*config number*. What is not in a committed record does not hold.
*Source*: the views of riak_ensemble's root ensemble; Vertical Paxos' auxiliary master.

A record is a value. Changing it copies what changes and shares the rest, so that a leader can keep
earlier ones to tell differences from (`differences.py`).
"""

from bisect import bisect_left
from dataclasses import dataclass
from typing import Final, NamedTuple

from jido_placement.config import GroupConfig, Replica
from jido_placement.membership import Status

__all__ = [
    "MAX_NODE",
    "MAX_TEXT",
    "ROOT",
    "GroupRecord",
    "Holder",
    "MemberRecord",
    "Record",
    "found",
    "root_size",
]

# Names the root group where a shard's number names a shard's group.
ROOT: Final = -1
# A member's index is part of every ballot and dot, in 16 bits, and is never used again.
MAX_NODE: Final = (1 << 16) - 1
# The most characters of a member's id, name, zone, and of each part of a label.
MAX_TEXT: Final = 128


class Holder(NamedTuple):
    """What a target knew of a node that may hold shards.

    Attributes:
        node: Who.
        weight: As in its member's record at that time.
        zone: As above.
    """

    node: int
    weight: float
    zone: str | None


class MemberRecord(NamedTuple):
    """A node that belongs to the cluster.

    Attributes:
        node: Its index: its name in configs, ballots and dots; never given to another one.
        id: Its uuid, from its data directory.
        boot: How often it has started, from 1; guards against a directory restored from a backup.
        nonce: Drawn by the node for this boot; tells two copies of one directory apart.
        name: For people.
        labels: Sorted pairs of key and value, keys distinct.
        weight: Capacity relative to the others, finite, >= 0; 0 holds nothing.
        zone: What it fails together with; None makes it a zone of its own.
        status: How far it has come in this boot; never REMOVED, a removed member is not here.
        is_retiring: Whether an operator wants it gone, over boots, so that groups may shrink.
    """

    node: int
    id: str
    boot: int
    nonce: int
    name: str
    labels: tuple[tuple[str, str], ...] = ()
    weight: float = 1.0
    zone: str | None = None
    status: Status = Status.JOINING
    is_retiring: bool = False


class GroupRecord(NamedTuple):
    """One group: a shard's, or the root's own.

    Attributes:
        config: What is committed.
        formatted: The replicas of the config that have made their header, sorted. One that is here
            and finds no header has lost its store.
        next_rno: The number of the next assignment; all smaller ones are used up.
        lost: The replicas of the config whose store is lost, sorted. They will never answer; their
            nodes may hold the group again under another number.
    """

    config: GroupConfig
    formatted: tuple[Replica, ...]
    next_rno: int
    lost: tuple[Replica, ...] = ()

    @property
    def replicas(self) -> tuple[Replica, ...]:
        """All that the config names: voters of both sides, then learners."""
        config = self.config
        return config.members + config.learners if config.learners else config.members

    def names(self, node: int) -> bool:
        """Whether the config names a replica on this node."""
        for replica in self.replicas:  # noqa: SIM110 - asked of every request; a third of the time
            if replica.node == node:
                return True
        return False


@dataclass(frozen=True, slots=True)
class Record:
    """What the root group has committed.

    Attributes:
        cluster_id: Drawn at founding; nodes of different clusters never exchange state.
        recovery_no: How often an operator forced a recovery; the leading part of every ballot.
        epoch: Rises by one with each command that changes something.
        shard_count: How many shards there are; never changes.
        replicas: How many replicas a shard is to have, >= 1.
        expect: How many members must be up before shards are assigned for the first time, >= 1.
        agreed: Fingerprint of the configuration that all members share.
        next_node: That of the next member; all smaller ones are used up.
        members: Sorted by node.
        root: The root group itself.
        shards: One for each shard; empty until they are assigned, together.
        target: For each shard the nodes it is to be on, in order of preference; empty with shards.
        target_for: The nodes that the target was made for, sorted; the next target moves little
            because it knows them.
    """

    cluster_id: str
    recovery_no: int
    epoch: int
    shard_count: int
    replicas: int
    expect: int
    agreed: str
    next_node: int
    members: tuple[MemberRecord, ...]
    root: GroupRecord
    shards: tuple[GroupRecord, ...] = ()
    target: tuple[tuple[int, ...], ...] = ()
    target_for: tuple[Holder, ...] = ()

    @property
    def is_serving(self) -> bool:
        """Whether users' writes may be acknowledged: formation is complete."""
        return len(self.shards) > 0

    def member(self, node: int) -> MemberRecord | None:
        """The member of this index; None when it is removed or was never there."""
        place = bisect_left(self.members, node, key=_node_of)
        if place < len(self.members) and self.members[place].node == node:
            return self.members[place]
        return None

    def member_of_id(self, id: str) -> MemberRecord | None:
        """The member of this uuid; None when there is none."""
        return next((member for member in self.members if member.id == id), None)

    def group(self, group: int) -> GroupRecord | None:
        """The group of this shard, or of `ROOT`; None when there is none (yet)."""
        if group == ROOT:
            return self.root
        return self.shards[group] if 0 <= group < len(self.shards) else None

    def groups_naming(self, node: int) -> tuple[int, ...]:
        """The groups whose committed config names this node: `ROOT` first, then shards."""
        root = (ROOT,) if self.root.names(node) else ()
        return root + tuple(shard for shard, group in enumerate(self.shards) if group.names(node))

    @property
    def flaw(self) -> str:
        """What breaks an invariant of every committed record; empty when nothing does."""
        nodes = [member.node for member in self.members]
        if nodes != sorted(set(nodes)) or any(node >= self.next_node for node in nodes):
            return f"members {nodes} of fewer than {self.next_node} are out of order"
        if len({member.id for member in self.members}) < len(nodes):
            return "two members have one id"
        if any(member.status is Status.REMOVED for member in self.members):
            return "a removed member is listed"
        if not len(self.shards) == len(self.target) in {0, self.shard_count}:
            return f"{len(self.shards)} shards and {len(self.target)} targets"
        known = frozenset(nodes)
        for number, group in enumerate((self.root, *self.shards), ROOT):
            found = _flaw_of_group(group, known)
            if found:
                return f"group {number}: {found}"
        return ""

    def check(self) -> None:
        """Asserts what holds in every committed record."""
        flaw = self.flaw
        assert not flaw, flaw


def _flaw_of_group(group: GroupRecord, known: frozenset[int]) -> str:
    config = group.config
    replicas = config.members + config.learners
    if config.number < 1 or not config.voters or (config.joining and config.learners):
        return f"config {config} is neither simple nor joint"
    for side in (config.voters, config.joining, config.learners):
        if len({replica.node for replica in side}) < len(side):
            return f"config {config} names a node twice on one side"
    if len(set(replicas)) < len(replicas):
        return f"config {config} names a voter as a learner"
    for replica in replicas:
        if replica.node not in known or not 0 < replica.rno < group.next_rno:
            return f"{replica} is no member's, or not below {group.next_rno}"
    for marked in (group.formatted, group.lost):
        if marked and list(marked) != sorted(set(marked).intersection(replicas)):
            return f"{marked} are not replicas of the config, in order"
    return ""


def root_size(members: int) -> int:
    """How many replicas the root group is to have: 1 of 1, 2 of 2, 3 of 3 and 4, 5 from 5 on.

    Two of two tolerate no failure, like one; but both hold the record. Four would tolerate no more
    than three, and five tolerate two.
    """
    return 5 if members >= 5 else min(members, 3)


def found(
    cluster_id: str,
    founder: MemberRecord,
    *,
    shards: int,
    replicas: int = 3,
    expect: int = 1,
    agreed: str = "",
) -> Record:
    """The first record of a cluster: the founder alone, no shard assigned.

    Args:
        cluster_id: Random, not empty.
        founder: Who founds; comes out as node 0, boot 1, up.
        shards: See `Record.shard_count`, >= 1.
        replicas: See `Record.replicas`.
        expect: See `Record.expect`.
        agreed: See `Record.agreed`.

    Raises:
        ValueError: a value is out of its range.
    """
    if not cluster_id:
        raise ValueError("cluster_id is empty: draw a random one")
    for name, value in (("shards", shards), ("replicas", replicas), ("expect", expect)):
        if value < 1:
            raise ValueError(f"{name}={value}: give at least 1")
    me = Replica(0, 1)
    return Record(
        cluster_id,
        recovery_no=0,
        epoch=1,
        shard_count=shards,
        replicas=replicas,
        expect=expect,
        agreed=agreed,
        next_node=1,
        members=(founder._replace(node=0, boot=1, status=Status.UP, is_retiring=False),),
        root=GroupRecord(GroupConfig(1, (me,)), (me,), 2),
    )


def _node_of(member: MemberRecord) -> int:
    return member.node
