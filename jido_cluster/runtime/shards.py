"""The shards of one host: which it serves, and how they come and go.

Theory. A view that gives this host a shard also says where its agents come from (`Source`). Until
they are here, messages for the shard wait. NEW: nothing to wait for. HANDOFF: pull the agents from
the host before, the idle ones at once, each busy one when its turn ends. LOST: read from the
rosters which ids were there, so that calls to them say so. The roster is written anew before the
shard is served, because its keeper may have changed.
"""

import asyncio
import logging
from collections import defaultdict
from typing import TYPE_CHECKING, Final

from jido_cluster import telemetry
from jido_cluster.errors import JidoError, OverloadedError
from jido_cluster.ports import PeerTroubleError
from jido_cluster.runtime import handoff
from jido_cluster.runtime.cell import Message
from jido_cluster.runtime.view import Source, View

if TYPE_CHECKING:
    from jido_cluster.runtime.host import ShardHost

logger = logging.getLogger(__name__)

RETRY_DELAY: Final = 0.1  # seconds until a shard that comes back while it leaves is looked at
MAX_PARKED: Final = 10_000  # messages that may wait for one shard to arrive


class Shard:
    """One shard on its host.

    `is_serving` is False while its agents are on their way here. `lost` holds the ids (and types)
    whose state went with an earlier host. `keeper` is where the roster was last written whole.
    `is_complete` is False while some of its agents are still on their way, and `is_leaving` True
    when the shard has to be passed on as soon as they are here.
    """

    __slots__ = (
        "is_complete",
        "is_leaving",
        "is_serving",
        "keeper",
        "lost",
        "number",
        "parked",
        "since",
    )

    def __init__(self, number: int, since: int) -> None:
        self.number = number
        self.since = since
        self.is_serving = False
        self.is_complete = False
        self.is_leaving = False
        self.lost: dict[str, str] = {}
        self.parked: list[Message] = []
        self.keeper = ""


class Shards:
    """Follows the views and knows what this host may serve."""

    def __init__(self, host: "ShardHost") -> None:
        self._host = host
        self._shards: dict[int, Shard] = {}
        self.leaving = handoff.Departures(host)

    def get(self, number: int) -> Shard | None:
        """The shard, if it is this host's to serve."""
        shard = self._shards.get(number)
        return None if shard is None or shard.is_leaving else shard

    def is_passing(self, number: int) -> bool:
        """True while the shard is to be passed on but has not wholly arrived itself."""
        shard = self._shards.get(number)
        return shard is not None and not shard.is_complete

    def since(self, number: int) -> int:
        """Epoch since which this host leads the shard."""
        shard = self._shards.get(number)
        return shard.since if shard is not None else 0

    def count(self) -> int:
        """Number of shards led here."""
        return len(self._shards)

    def follow(self, view: View) -> None:
        """Give up shards the view gives to others, and begin to take those it gives to us."""
        host = self._host
        coming: dict[tuple[Source, str], list[Shard]] = defaultdict(list)
        for number, tenure in enumerate(view.tenures):
            known = self._shards.get(number)
            if tenure.host != host.address:
                if known is not None and not known.is_leaving:
                    self.give_up(number)
            elif known is not None and known.is_leaving:
                # On its way here, passed on and given back meanwhile: it takes the newest tenure
                # once it has been given up, as its agents are then where that one says.
                host.loop.call_later(RETRY_DELAY, self._follow_again)
            elif known is None or known.since < tenure.since:
                if known is not None:
                    self.give_up(number)
                    if self._shards.get(number) is known:
                        host.loop.call_later(RETRY_DELAY, self._follow_again)
                        continue
                shard = self._shards[number] = Shard(number, tenure.since)
                coming[tenure.source, tenure.origin].append(shard)
            elif known.is_serving and known.keeper != view.keepers[number]:
                host.spawn_task(self._write_roster(known))
        host.runs.follow(view)
        for (source, origin), shards in coming.items():
            if source is Source.NEW:
                for shard in shards:
                    shard.keeper = view.keepers[shard.number]
                    shard.is_complete = True
                    self._serve(shard)
            else:
                host.spawn_task(self._take_over(shards, source, origin))

    def _follow_again(self) -> None:
        if not self._host.is_closed:
            self.follow(self._host.view)

    def give_up(self, number: int) -> None:
        """Serve the shard no more: its agents wait to be pulled, its messages are sent on.

        One that has not wholly arrived is given up when it has.
        """
        shard = self._shards[number]
        parked, shard.parked = shard.parked, []
        for message in parked:
            message.redirect()
        if shard.is_complete:
            del self._shards[number]
            self.leaving.seal(number, shard.lost)
        else:
            shard.is_leaving = True

    def remember_lost(self, number: int, id_: str, type_: str) -> None:
        """An agent that was lost before the shard moved here."""
        shard = self._shards.get(number)
        if shard is not None:
            shard.lost[id_] = type_

    def is_moving(self) -> bool:
        """True while a shard is on its way here."""
        return any(not shard.is_complete for shard in self._shards.values())

    def park(self, shard: Shard, message: Message) -> None:
        """Let a message wait until the shard is here."""
        if len(shard.parked) >= MAX_PARKED:
            text = f"shard {shard.number} is moving and {MAX_PARKED} messages wait for it"
            message.fail(OverloadedError(text, retry_after=0.5))
        else:
            shard.parked.append(message)

    async def _take_over(self, shards: list[Shard], source: Source, origin: str) -> None:
        numbers = [shard.number for shard in shards]
        receipt: list[str] | None = None
        if source is Source.HANDOFF:
            try:
                receipt = await handoff.pull(self._host, numbers, origin)
            except (PeerTroubleError, JidoError) as error:
                logger.warning("handoff of %d shards from %s: %s", len(numbers), origin, error)
                source = Source.LOST
        if source is Source.LOST:
            await self._read_lost(shards, origin)
        await asyncio.gather(*(self._write_roster(shard) for shard in shards))
        for shard in shards:
            self._serve(shard)
        if receipt is not None:
            await handoff.pull_rest(self._host, numbers, origin, receipt)
        for shard in shards:
            shard.is_complete = True
            if shard.is_leaving:
                self.give_up(shard.number)

    async def _read_lost(self, shards: list[Shard], origin: str) -> None:
        """Learn which agents lived in the shards of a host that is gone."""
        lost = await self._host.roster.read_lost([shard.number for shard in shards])
        for shard in shards:
            ids = lost.get(shard.number, {})
            shard.lost.update(
                {id_: type_ for id_, type_ in ids.items() if id_ not in self._host.cells}
            )
        count = sum(len(shard.lost) for shard in shards)
        telemetry.execute("jido.cluster.agents.lost", {"count": count}, {"origin": origin})
        if count:
            logger.warning("%d agents of %d shards were lost", count, len(shards))

    async def _write_roster(self, shard: Shard) -> None:
        keeper = self._host.view.keepers[shard.number]
        ids = dict(shard.lost)
        for cell in self._host.cells.values():
            if cell.shard == shard.number:
                ids[cell.id] = cell.spec.name
        before, shard.keeper = shard.keeper, keeper
        await self._host.roster.write_whole(shard.number, shard.since, ids)
        if before not in ("", keeper):
            await self._host.roster.drop(before, shard.number, shard.since)

    def _serve(self, shard: Shard) -> None:
        shard.is_serving = True
        parked, shard.parked = shard.parked, []
        self._host.put_again(parked)
