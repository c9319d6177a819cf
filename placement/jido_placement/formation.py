"""Who founds the cluster, so that it is founded once.

Theory. Two sets of nodes that start at the same time must not become two clusters, and nodes whose
disks hold a cluster must not be joined by an empty one of the same name. So only a fresh directory
may found; only when as many fresh nodes are in sight as the operator expects; only when nobody in
sight belongs to a cluster; and only for the winner of one put-if-absent of a random value in a
place that all of them see. The founder makes a root group of itself alone; all others join it.

The claim decides among nodes that are in sight at once, nothing else: it may be lost later without
harm, since by then somebody carries a cluster id.
"""

from collections.abc import Iterable
from typing import NamedTuple

__all__ = ["Candidate", "Claim", "Conflict", "Decision", "Found", "JoinCluster", "Wait", "decide"]


class Candidate(NamedTuple):
    """What is seen of a node before there is a record.

    Attributes:
        id: Its uuid.
        cluster_id: Of the cluster that its directory belongs to; None when it is fresh.
    """

    id: str
    cluster_id: str | None


class Wait(NamedTuple):
    """Look again later; the reason is for people who wonder why nothing happens."""

    reason: str


class Claim(NamedTuple):
    """Put the own id where all see it, unless there is one; then read it and decide again."""


class Found(NamedTuple):
    """Found the cluster: draw its id, make it durable, with this node as the root group."""


class JoinCluster(NamedTuple):
    """Ask the root group of this cluster: to join when fresh, else to register the boot."""

    cluster_id: str


class Conflict(NamedTuple):
    """Directories of different clusters are in sight under one name: a person must say which."""

    cluster_ids: tuple[str, ...]


Decision = Wait | Claim | Found | JoinCluster | Conflict


def decide(
    me: Candidate, others: Iterable[Candidate], expect: int, claimed: str | None
) -> Decision:
    """What a node that has no record does next.

    Args:
        me: This node.
        others: The nodes in sight; this one among them does no harm.
        expect: How many fresh nodes must be in sight to found, >= 1.
        claimed: The id that stands where all see it; None when there is none.
    """
    seen = {one.id: one for one in others} | {me.id: me}
    clusters = sorted({one.cluster_id for one in seen.values() if one.cluster_id is not None})
    if len(clusters) > 1:
        return Conflict(tuple(clusters))
    if clusters:
        return JoinCluster(clusters[0])
    if len(seen) < expect:
        return Wait(f"{len(seen)} of {expect} expected nodes are in sight")
    if claimed is None:
        return Claim()
    if claimed == me.id:
        return Found()
    if claimed in seen:
        return Wait(f"node {claimed} founds the cluster")
    return Wait(
        f"node {claimed} claimed to found the cluster and is not in sight: start it, or remove the "
        "claim if it is gone for good"
    )
