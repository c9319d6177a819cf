"""What happens because the network is split, told as events: the decisions, and the healing.

Every decision of a partition strategy is an event, so that an operator can see what a split does
while it lasts, and what it did. Agent ids are in the events, and never in the labels of metrics.
"""

import logging
from typing import TYPE_CHECKING, Any, Final

from jido_cluster import telemetry
from jido_placement.healing import Noted
from jido_placement.policies import Strategy
from jido_state.requests import Answer, Status

if TYPE_CHECKING:
    from jido_cluster.runtime.cell import Message
    from jido_cluster.runtime.host import ShardHost

__all__ = [
    "ACTED",
    "ADMISSION",
    "HEALING",
    "MERGED",
    "REFUSED",
    "REFUSED_BY_STRATEGY",
    "note_acted",
    "note_admission",
    "note_healing",
    "note_merged",
    "note_refused",
]

logger = logging.getLogger(__name__)

REFUSED: Final = "jido.cluster.refused"
ACTED: Final = "jido.cluster.acted"
ADMISSION: Final = "jido.cluster.admission"
MERGED: Final = "jido.cluster.merged"
HEALING: Final = "jido.cluster.healing"

# How a request ends that a partition strategy does not let be served, and the reason in its event.
REFUSED_BY_STRATEGY: Final = {
    Status.NO_QUORUM: "no_quorum",
    Status.PAUSED: "paused",
    Status.SESSION_UNAVAILABLE: "session_unavailable",
}


def note_refused(host: "ShardHost", message: "Message", status: Status) -> None:
    """A request was refused for want of a quorum, if that is what the status says."""
    reason = REFUSED_BY_STRATEGY.get(status)
    if reason is not None and telemetry.LISTENERS:
        metadata = {"agent": message.key, "node": host.node_name, "reason": reason}
        telemetry.execute(REFUSED, {"count": 1}, metadata)


def note_acted(host: "ShardHost", key: str, answer: Answer, what: str) -> None:
    """A turn ran, or a read was answered, without a quorum.

    Args:
        host: Where.
        key: The agent's id.
        answer: Of the core.
        what: "turn" or "read"; a read of what may be old is "stale".
    """
    if telemetry.LISTENERS:
        metadata: dict[str, Any] = {
            "agent": key,
            "node": host.node_name,
            "what": "stale" if answer.is_stale else what,
            "durability": answer.durability,
        }
        telemetry.execute(ACTED, {"count": 1}, metadata)


def note_admission(node: str, strategy: Strategy, *, is_admitted: bool) -> None:
    """A node may serve users under a strategy from now on, or may not."""
    served = "" if is_admitted else " not"
    logger.info("%s: users are%s served by %s", strategy.value, served, node)
    metadata = {"node": node, "strategy": strategy.value, "admitted": is_admitted}
    telemetry.execute(ADMISSION, {"count": 1}, metadata)


def note_merged(node: str, key: str, entries: int, conflicts: int, failure: str) -> None:
    """A leader merged what was done apart.

    Args:
        node: Where.
        key: The agent's id.
        entries: How many states of it were merged into the committed one.
        conflicts: How many of all states were not taken.
        failure: Name of the error of the type's `on_conflict`; "" for none.
    """
    metadata = {"agent": key, "node": node, "failure": failure}
    telemetry.execute(MERGED, {"entries": entries, "conflicts": conflicts}, metadata)


def note_healing(node: str, noted: Noted) -> None:
    """A node has come to another stage of a split, or of the healing after it."""
    seconds = noted.lasted_ms / 1000
    logger.info("split %d: %s, after %.1f s", noted.episode, noted.after.value, seconds)
    metadata = {
        "node": node,
        "episode": noted.episode,
        "before": noted.before.name.lower(),
        "stage": noted.after.name.lower(),
    }
    telemetry.execute(HEALING, {"seconds": seconds}, metadata)
