"""What operators ask of a cluster, as requests to its supervisors: preview, drain, explain.

Any supervisor can answer, since each knows the record; so the next one is asked when one does not.
What agents a move takes along only the leaders of their shards know: they are asked afterwards.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

from pydantic_core import from_json, to_json

from jido_cluster.connection import Connection
from jido_cluster.errors import (
    ClusterUnavailableError,
    InvalidInputError,
    JidoError,
    NoQuorumError,
    StillRunningError,
    UnavailableError,
)
from jido_cluster.ids import check_id
from jido_cluster.ports import PeerTroubleError
from jido_cluster.runtime.listing import SIZES
from jido_cluster.runtime.wire import pack, unpack
from jido_cluster.types import Move, MovePlan

__all__ = ["drain", "explain", "preview"]

LOOK_SECONDS: Final = 0.1  # between looks how far a drain has come
SIZES_SECONDS: Final = 5.0  # for hosts to say what is in their shards


async def preview(
    connection: Connection, add: Sequence[str], remove: Sequence[str], timeout: float | None
) -> MovePlan:
    """See `AsyncCluster.preview`."""
    names = [_checked(name, "add") for name in _listed(add, "add")]
    gone = [_checked(name, "remove") for name in _listed(remove, "remove")]
    data = pack([names, gone])
    asking = _Asking(connection, timeout)
    async with asking.limited():
        moves = unpack(await asking.ask("preview", data, last=gone))
    return await _sized(connection, moves)


async def explain(connection: Connection, agent_id: str, timeout: float | None) -> str:
    """See `AsyncCluster.explain`."""
    data = pack(check_id(agent_id))
    asking = _Asking(connection, timeout)
    async with asking.limited():
        text: str = unpack(await asking.ask("explain", data))
    return text


async def drain(connection: Connection, name: str, timeout: float | None) -> MovePlan:
    """See `AsyncCluster.drain`."""
    asking = _Asking(connection, timeout)
    node, moves = await _begin(asking, _checked(name, "node"))
    plan = await _sized(connection, moves)
    least: tuple[int, bool] | None = None
    why: list[str] = []
    while True:
        try:
            count, is_member, why = unpack(await asking.ask("left", pack(node), last=[name]))
        except UnavailableError as error:
            count, is_member, why = *(least or (0, True)), [error.message]
        is_listed = any(one.node == node for one in connection.client.view.members)
        if not (count or is_member or is_listed):
            return plan
        if least is None or (count, is_member) < least:
            least = (count, is_member)
            if timeout is None:  # as long as it goes on there is no end to wait for
                asking.renew()
        if asking.is_late:
            raise _still_leaving(name, count, why)
        await asyncio.sleep(LOOK_SECONDS)


async def _begin(asking: "_Asking", name: str) -> tuple[int, list[Any]]:
    """The node's index, and what is to move; waits for what is in the way only for a while.

    Raises:
        InvalidInputError: There is no such node.
        UnavailableError: It cannot go.
    """
    while True:
        try:
            node, moves = unpack(await asking.ask("drain", pack(name), last=[name]))
        except UnavailableError as error:
            if error.retry_after is None or asking.is_late:
                raise
        else:
            return node, moves
        await asyncio.sleep(LOOK_SECONDS)


def _still_leaving(name: str, count: int, why: Sequence[str]) -> StillRunningError:
    waits = "; ".join(why) or "it is about to be forgotten"
    groups = "1 group of replicas" if count == 1 else f"{count} groups of replicas"
    return StillRunningError(
        f"node {name!r} is still leaving, with {groups} on it: {waits}. It goes on by itself, and "
        "agents are served meanwhile: bring back nodes that do not answer, end what runs there, "
        "and call drain() again to wait for the rest",
        node=name,
        left=count,
        why=list(why),
    )


class _Asking:
    """Asks supervisors, one after the other until one answers; within a time."""

    def __init__(self, connection: Connection, timeout: float | None) -> None:
        connection.check_usable()
        self._connection = connection
        self._loop = connection.client.loop
        self._seconds = timeout or connection.config.call_timeout
        self._end = self._loop.time() + self._seconds

    @asynccontextmanager
    async def limited(self) -> AsyncIterator[None]:
        """Ends what is waited for when the time is up.

        Raises:
            ClusterUnavailableError: It was.
        """
        limit = asyncio.timeout_at(self._end)
        try:
            async with limit:
                yield
        except TimeoutError as late:
            if not limit.expired():
                raise
            raise _nobody(f"within {self._seconds:.0f} s") from late

    @property
    def is_late(self) -> bool:
        """Whether the time is up."""
        return self._loop.time() >= self._end

    def renew(self) -> None:
        """Begin to count anew."""
        self._end = self._loop.time() + self._seconds

    async def ask(self, operation: str, data: bytes, last: Sequence[str] = ()) -> bytes:
        """The answer of a supervisor; those of these nodes are asked after the others.

        Raises:
            JidoError: The request is refused.
            UnavailableError: Nobody can say now.
        """
        members = self._connection.client.view.members
        able = [one for one in members if one.supervisor]
        able.sort(key=lambda one: (one.name in last or one.id in last, one.status != "up"))
        found: UnavailableError = _nobody("and none is known")
        for member in able:
            try:
                return await self._connection.client.ask(member.supervisor, operation, data)
            except PeerTroubleError as error:
                found = _nobody(f": {error}")
            except (NoQuorumError, ClusterUnavailableError) as error:
                found = error
        raise found


def _nobody(why: str) -> ClusterUnavailableError:
    return ClusterUnavailableError(f"no supervisor answers {why}", retry_after=1.0)


def _listed(names: Sequence[str], what: str) -> Sequence[str]:
    if isinstance(names, str):
        raise InvalidInputError(f"{what} is {names!r}; give a list of names")
    return names


def _checked(name: object, what: str) -> str:
    if not (isinstance(name, str) and name):
        raise InvalidInputError(f"{what} names {name!r}; use the name or the id of a node")
    return name


async def _sized(connection: Connection, moves: Sequence[Sequence[Any]]) -> MovePlan:
    """The plan, with what its shards hold, as their leaders say."""
    found = tuple(Move(shard, source, to, role) for shard, source, to, role in moves)
    copied = [one.shard for one in found if one.role == "replica" and one.to is not None]
    sizes = await _sizes(connection) if copied else {}
    return MovePlan(
        moves=found,
        agents=sum(sizes.get(shard, (0, 0))[0] for shard in set(copied)),
        bytes=sum(sizes.get(shard, (0, 0))[1] for shard in copied),
    )


async def _sizes(connection: Connection) -> dict[int, tuple[int, int]]:
    """Agents and bytes of each shard whose leader answers."""
    client = connection.client
    answers = await asyncio.gather(
        *(
            client.submit_to_host(host, SIZES, "", to_json(None), SIZES_SECONDS)
            for host in sorted(client.view.addresses)
        ),
        return_exceptions=True,
    )
    sizes: dict[int, tuple[int, int]] = {}
    for answer in answers:
        if isinstance(answer, bytes):
            sizes.update({shard: (agents, size) for shard, agents, size in from_json(answer)})
        elif not isinstance(answer, JidoError | ConnectionError):
            raise answer
    return sizes
