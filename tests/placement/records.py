"""Records of clusters in the state that a test begins with."""

from collections.abc import Sequence

from jido_placement.changes import apply, apply_all
from jido_placement.commands import Accepted, BecomeUp, Command, DeclareDown, Join, Leave
from jido_placement.record import MemberRecord, Record, found
from jido_placement.rehearsal import preview
from jido_placement.steps import World


def joined(
    size: int,
    *,
    shards: int = 16,
    replicas: int = 3,
    zones: Sequence[str | None] = (None,),
    weights: Sequence[float] = (1.0,),
) -> Record:
    """`size` members that are up, nodes 0, 1, ..., and nothing else yet."""
    founder = MemberRecord(0, "id-0", 1, 100, "n0", (), weights[0], zones[0])
    record = found("cluster", founder, shards=shards, replicas=replicas, expect=size, agreed="a")
    for node in range(1, size):
        zone, weight = zones[node % len(zones)], weights[node % len(weights)]
        record = with_node(record, f"id-{node}", zone=zone, weight=weight)
    return record


def with_node(record: Record, id: str, *, zone: str | None = None, weight: float = 1.0) -> Record:
    """The record after one more node has come up."""
    name = id.replace("id-", "n")
    record, answer = apply(record, Join(id, 100, name, (), weight, zone, "a"))
    assert isinstance(answer, Accepted)
    return done(record, BecomeUp(answer.value, 1))


def formed(size: int, **options: object) -> Record:
    """The cluster when its formation is complete."""
    rehearsal = preview(joined(size, **options), World())  # type: ignore[arg-type]
    assert rehearsal.is_complete
    assert rehearsal.record.is_serving
    return rehearsal.record


def done(record: Record, *commands: Command) -> Record:
    """The record after commands that are all accepted."""
    after, answers = apply_all(record, commands)
    for command, answer in zip(commands, answers, strict=True):
        assert isinstance(answer, Accepted), (command, answer)
    after.check()
    return after


def leading(record: Record) -> dict[int, int]:
    """Every shard led by whom it prefers."""
    return {shard: group.config.voters[0].node for shard, group in enumerate(record.shards)}


def down(record: Record, node: int) -> Record:
    member = record.member(node)
    assert member is not None
    return done(record, DeclareDown(node, member.boot))


def leaving(record: Record, node: int) -> Record:
    return done(record, Leave(node))
