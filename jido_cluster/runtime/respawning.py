"""Two steps of a spawn whose id is taken: was it this one that made the agent, and its end.

An agent that is kept in memory only is lost with its host, and its record stays. Who spawns one
anew ends that record first. All of that may be repeated, at another leader, by a caller whose
answer was lost.
"""

from typing import TYPE_CHECKING

from jido_cluster.runtime.asked import Asked
from jido_state.requests import Answer, Commit, Request, Status

if TYPE_CHECKING:
    from jido_cluster.runtime.host import ShardHost

__all__ = ["end_lost", "try_again"]


async def try_again(host: "ShardHost", shard: int, asked: Asked, request: Request) -> Answer:
    """What has become of a spawn whose id is taken.

    Returns:
        OK if this very operation has made it, EXISTS if another one has, NOT_FOUND if it has ended
        by now; else why that is not known here.
    """
    host.replicas.submit(shard, request)
    turn = await asked.begun()
    if turn is not None:
        host.replicas.end(shard, request.key, turn.version, None)
        return Answer(None, Status.NOT_FOUND)
    assert asked.answer is not None
    return asked.answer


async def end_lost(host: "ShardHost", shard: int, asked: Asked, request: Request) -> Answer:
    """Writes the tombstone of the lost agent; OK or NOT_FOUND when it has ended."""
    host.replicas.submit(shard, request)
    turn = await asked.begun()
    if turn is not None:
        assert turn.record is not None
        host.replicas.end(shard, request.key, turn.version, Commit(turn.record, None))
        return await asked.ended()
    assert asked.answer is not None
    return asked.answer
