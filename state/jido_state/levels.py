"""What a replica may do with a request here and now, by strategy, level, and what is in reach.

Theory. While a leader is in contact it serves all levels alike. Without one, the table of
`jido_placement.policies` says what becomes of a request. Who acts is not voted for, since there is
no quorum to vote: it is the first voter, in the order of preference, that is within reach. Two that
disagree about that both act; then their entries are siblings, and nothing is lost.
*Source*: design section 10; section 1.12 and finding 35 of the replication protocol.
"""

from collections.abc import Collection
from typing import NamedTuple

from jido_placement.config import GroupConfig
from jido_placement.policies import CELLS, Level, Outcome, column_of, outcome
from jido_state.dots import VersionVector
from jido_state.requests import Request
from jido_state.session import Trust
from jido_state.versions import Version

__all__ = ["Situation", "covers_session", "decide", "first_voter"]


class Situation(NamedTuple):
    """Where a replica stands.

    Attributes:
        is_admitted: Whether the request's strategy lets this node serve users at all.
        has_leader: Whether a leader of the shard is in contact, or was a moment ago.
        has_voter: Whether this replica votes, so that its copy counts.
        covers_session: Whether the copy here has all that the request's session has seen.
    """

    is_admitted: bool
    has_leader: bool
    has_voter: bool
    covers_session: bool


def decide(request: Request, situation: Situation) -> Outcome:
    """What becomes of the request: one cell of the table."""
    column = column_of(is_admitted=situation.is_admitted, has_quorum=situation.has_leader)
    return outcome(
        CELLS[request.strategy, Level(request.level), column],
        is_read=request.kind == "read",
        has_voter=situation.has_voter,
        covers_session=situation.covers_session,
        accepts_stale=request.accepts_stale,
    )


def covers_session(request: Request, shard: int, version: Version, seen: VersionVector) -> bool:
    """Whether a copy has all that the request's session has seen of its agent.

    Args:
        request: With the session's token, if it has one.
        shard: The agent's.
        version: Of the register here; `NO_VERSION` for none.
        seen: What register and entries here have seen.
    """
    if request.token is None:
        return True
    return request.token.at_acting(shard, version, request.key, seen) is Trust.SERVE


def first_voter(config: GroupConfig, reachable: Collection[int]) -> int | None:
    """The node that is to act; None when no voter is within reach.

    Those who are joining have not got the records yet, so they are not asked.
    """
    return next((one.node for one in config.voters if one.node in reachable), None)
