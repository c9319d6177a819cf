"""Rosters: which agent ids live in a shard, kept on another node than the agents.

Agents' state is in one process's memory. When that process dies its agents are lost, and the next
leader has to say so, instead of "never existed", and must not create a virtual one afresh. So
before an agent is created, its id is on the roster of its shard, at the supervisor of the shard's
first follower (or of the leader's own node when it is alone: that survives a process, not a node).
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable
from typing import Any, Final

import ormsgpack

from jido_cluster.ports import PeerTroubleError, Transport
from jido_cluster.runtime.view import View
from jido_cluster.runtime.wire import pack, unpack

logger = logging.getLogger(__name__)

RETRY_DELAY: Final = 0.1  # seconds until an unreachable keeper is asked again
MAX_BATCH: Final = 5_000  # changes in one request; some 250 KB

Change = tuple[int, int, str, str]  # (shard, since, agent id, type name; empty: removed)


class RosterKeeper:
    """A supervisor's side: the rosters of shards led elsewhere.

    A leader writes under the epoch since which it leads; an older leader's writes are refused.
    """

    def __init__(self) -> None:
        self._rosters: dict[int, tuple[int, dict[str, str]]] = {}

    def put(self, changes: Iterable[Change], whole: Iterable[int] = ()) -> None:
        """Take changes in order; the rosters of shards in `whole` are begun anew first."""
        fresh = set(whole)
        for shard, since, id_, type_ in changes:
            known = self._rosters.get(shard)
            if known is not None and known[0] > since:
                continue
            if known is None or known[0] < since or shard in fresh:
                # A new leader first sends everything it has, so what an older one wrote is void.
                known = self._rosters[shard] = (since, {})
                fresh.discard(shard)
            if type_:
                known[1][id_] = type_
            elif id_:
                known[1].pop(id_, None)

    def drop(self, shard: int, since: int) -> None:
        """Forget the roster that this leader wrote: another keeper has it whole."""
        if shard in self._rosters and self._rosters[shard][0] <= since:
            del self._rosters[shard]

    def get(self, shards: Iterable[int]) -> list[list[Any]]:
        """Rows of (shard, since, {agent id: type name})."""
        return [
            [shard, self._rosters[shard][0], self._rosters[shard][1]]
            for shard in shards
            if shard in self._rosters
        ]

    def answer(self, operation: str, data: bytes) -> bytes:
        """Perform a request from a host."""
        if operation == "roster.put":
            changes, whole = unpack_large(data)
            self.put([tuple(change) for change in changes], whole)
            return b""
        if operation == "roster.drop":
            shard, since = unpack(data)
            self.drop(shard, since)
            return b""
        return pack(self.get(unpack(data)))


def unpack_large(data: bytes) -> Any:
    """Control data between our own processes: not held to the frame limit."""
    return ormsgpack.unpackb(data)


class RosterWriter:
    """A host's side: sends changes to the keepers in batches and in order."""

    def __init__(self, transport: Transport, view: Callable[[], View]) -> None:
        self._transport = transport
        self._view = view
        self._queue: list[tuple[Change, asyncio.Future[None]]] = []
        self._task: asyncio.Task[None] | None = None

    async def write(self, shard: int, since: int, id_: str, type_: str) -> None:
        """Return when the keeper has the change. An empty `type_` removes the id."""
        done = asyncio.get_running_loop().create_future()
        self._queue.append(((shard, since, id_, type_), done))
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._send_all())
        await done

    async def write_whole(self, shard: int, since: int, ids: dict[str, str]) -> None:
        """Return when the keeper's roster of the shard is exactly `ids`."""
        changes: list[Change] = [(shard, since, "", "")]
        changes += [(shard, since, id_, type_) for id_, type_ in ids.items()]
        for start in range(0, len(changes), MAX_BATCH):
            part = changes[start : start + MAX_BATCH]
            await self._put(shard, part, [shard] if start == 0 else [])

    async def _send_all(self) -> None:
        while self._queue:
            batch, self._queue = self._queue[:MAX_BATCH], self._queue[MAX_BATCH:]
            by_keeper: dict[str, list[tuple[Change, asyncio.Future[None]]]] = {}
            keepers = self._view().keepers
            for item in batch:
                by_keeper.setdefault(keepers[item[0][0]], []).append(item)
            await asyncio.gather(*(self._send(k, items) for k, items in by_keeper.items()))

    async def _send(self, keeper: str, items: list[tuple[Change, asyncio.Future[None]]]) -> None:
        try:
            changes = [change for change, _ in items]
            await self._transport.ask(keeper, "roster.put", pack((changes, [])))
        except PeerTroubleError:
            # The keeper may be gone, and another view name another one; order in a shard stays.
            await asyncio.sleep(RETRY_DELAY)
            self._queue = items + self._queue
        else:
            for _, done in items:
                if not done.done():
                    done.set_result(None)

    async def _put(self, shard: int, changes: list[Change], whole: list[int]) -> None:
        while True:
            keeper = self._view().keepers[shard]
            try:
                await self._transport.ask(keeper, "roster.put", pack((changes, whole)))
            except PeerTroubleError:
                await asyncio.sleep(RETRY_DELAY)
            else:
                return

    async def drop(self, keeper: str, shard: int, since: int) -> None:
        """Tell a former keeper that it keeps the shard's roster no more; it may be gone."""
        with contextlib.suppress(PeerTroubleError):
            await self._transport.ask(keeper, "roster.drop", pack((shard, since)))

    async def read_lost(self, shards: list[int]) -> dict[int, dict[str, str]]:
        """What reachable supervisors know to have lived in these shards, the latest word each."""
        request = pack(shards)
        supervisors = sorted({member.supervisor for member in self._view().members})
        answers = await asyncio.gather(
            *(self._transport.ask(name, "roster.get", request) for name in supervisors),
            return_exceptions=True,
        )
        latest: dict[int, tuple[int, dict[str, str]]] = {}
        for name, answer in zip(supervisors, answers, strict=True):
            if isinstance(answer, BaseException):
                logger.warning("rosters of %s are out of reach", name)
                continue
            for shard, since, ids in unpack_large(answer):
                known = latest.get(shard)
                if known is None or known[0] < since:
                    latest[shard] = (since, ids)
                elif known[0] == since:
                    # The keeper was just changing: the old one lacks the newest, the new one may
                    # not have everything yet.
                    known[1].update(ids)
        return {shard: ids for shard, (_, ids) in latest.items()}
