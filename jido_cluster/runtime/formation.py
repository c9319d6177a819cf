"""How a node that starts finds the cluster it belongs to, or founds it.

Theory. The rules are `jido_placement.formation`'s; here they are asked again until they say
something else than to wait. Finding needs a place where nodes see each other and where one claim
stands for all; nothing else of the cluster depends on it.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, NamedTuple, Protocol

from jido_cluster.config import ClusterConfig
from jido_cluster.errors import ClusterUnavailableError, ConfigError
from jido_cluster.ports import PeerTroubleError
from jido_placement import formation as rules

logger = logging.getLogger(__name__)

__all__ = ["Discovery", "Seen", "Sight", "fingerprint", "look_around", "twin_error"]

LOOK_SECONDS: Final = 0.1  # between looks; a look asks every node in sight one question at most


class Seen(NamedTuple):
    """What is seen of another node's process.

    Attributes:
        id: The node's uuid.
        cluster_id: Of the cluster that its directory belongs to; None when it is fresh.
        node: Its index there; None while it has none.
        boot: How often it has started; 0 before its first start is intended.
        supervisor: Its address for control requests.
        peer: Its address for messages of the cores; empty while it has none.
    """

    id: str
    cluster_id: str | None
    node: int | None
    boot: int
    supervisor: str
    peer: str = ""


class Discovery(Protocol):
    """Where nodes that do not know each other meet."""

    async def others(self) -> list[Seen]:
        """The living processes of other nodes that are in sight.

        Raises:
            PeerTroubleError: Nobody can say now.
        """
        ...

    async def claim(self, value: str) -> str:
        """Put the value where all see it, unless one stands there; the one that stands.

        Raises:
            PeerTroubleError: It is not known whether it was put.
        """
        ...


class Sight(NamedTuple):
    """How it ended: found the cluster (`cluster_id` None), or ask one of the others to let us in.

    Attributes:
        cluster_id: Of the cluster to join.
        others: Who is in sight.
    """

    cluster_id: str | None
    others: tuple[Seen, ...]


async def look_around(
    me: rules.Candidate,
    discovery: Discovery,
    expect: int,
    is_alive: Callable[[Seen], Awaitable[bool]],
) -> Sight:
    """Waits until it is clear what this node has to do.

    Args:
        me: This node.
        discovery: Where others are seen.
        expect: How many fresh nodes must be in sight to found.
        is_alive: Whether a process answers.

    Raises:
        ClusterUnavailableError: Directories of several clusters are in sight.
        ConfigError: Another process is this very node.
    """
    said = ""
    while True:
        try:
            others = await discovery.others()
            await _refuse_twins(me, others, is_alive)
            candidates = [rules.Candidate(one.id, one.cluster_id) for one in others]
            decision = rules.decide(me, candidates, expect, None)
            if isinstance(decision, rules.Claim):
                standing = await discovery.claim(me.id)
                decision = rules.decide(me, candidates, expect, standing)
        except PeerTroubleError as error:
            decision = rules.Wait(f"nobody can say who is there: {error}")
        match decision:
            case rules.Found():
                return Sight(None, tuple(others))
            case rules.JoinCluster(cluster_id):
                return Sight(cluster_id, tuple(others))
            case rules.Conflict():
                raise _conflict(me, others)
            case rules.Wait(reason):
                if reason != said:
                    logger.info("waiting for the cluster to form: %s", reason)
                    said = reason
        await asyncio.sleep(LOOK_SECONDS)


async def _refuse_twins(
    me: rules.Candidate, others: Sequence[Seen], is_alive: Callable[[Seen], Awaitable[bool]]
) -> None:
    """A twin that answers is this node, from a copy of its directory or the original of it."""
    for one in others:
        if one.id == me.id and await is_alive(one):
            raise twin_error(me.id, one.supervisor)


def twin_error(id: str, supervisor: str) -> ConfigError:
    """What a node is told that runs somewhere else already."""
    return ConfigError(
        f"node {id} runs already, at {supervisor}: its data directory was copied; give this "
        "machine an empty one",
        node=id,
        supervisor=supervisor,
    )


def _conflict(me: rules.Candidate, others: Sequence[Seen]) -> ClusterUnavailableError:
    by_cluster: dict[str, list[str]] = {}
    for id_, cluster_id in sorted({(me.id, me.cluster_id)} | {one[:2] for one in others}):
        if cluster_id is not None:
            by_cluster.setdefault(cluster_id, []).append(id_)
    found = "; ".join(f"{cluster}: {', '.join(ids)}" for cluster, ids in sorted(by_cluster.items()))
    return ClusterUnavailableError(
        f"the data directories of these nodes belong to different clusters ({found}); start the "
        "nodes of one of them, or give the others empty directories",
        clusters=by_cluster,
    )


def fingerprint(config: ClusterConfig) -> str:
    """What all nodes of a cluster agree on for good, as people read it.

    Not the modules: a runtime that is started again on its directories may have others.
    """
    agreed = config.agreed()
    return " ".join(f"{name}={agreed[name]}" for name in sorted(agreed) if name != "modules")
