"""Handoff: moving the agents of a shard from the host that led it to the one that leads it now.

Theory. The new leader pulls. The first answer holds the idle agents, and the ids of busy ones;
further pulls wait for those. The old host keeps everything until the new one says that it has it,
so that a lost answer loses nothing. Both sides are alive; when one dies, the shard is lost as in a
crash, which the rosters cover.
"""

import asyncio
import contextlib
import logging
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from jido_cluster.agent import find_agent
from jido_cluster.errors import JidoError, UnavailableError
from jido_cluster.ports import PeerTroubleError
from jido_cluster.runtime.cell import Cell, Message
from jido_cluster.runtime.wire import pack, unpack

if TYPE_CHECKING:
    from jido_cluster.runtime.host import ShardHost

logger = logging.getLogger(__name__)

PULL: Final = "handoff.pull"
DONE: Final = "handoff.done"
PAGE_BYTES: Final = 512 << 10
PULL_SECONDS: Final = 10.0  # of one request
WAIT_SECONDS: Final = 2.0  # how long one pull waits for a busy agent
RETRY_DELAY: Final = 0.05  # seconds until a host that is not ready is asked again
MAX_MOVED_RESULTS: Final = 256 << 10  # bytes of remembered results that move along, newest first


class Departures:
    """The old host's side: agents of sealed shards, kept until they have arrived elsewhere."""

    def __init__(self, host: "ShardHost") -> None:
        self._host = host
        self.sealed: set[int] = set()
        self._packed: dict[int, dict[str, list[Any]]] = {}
        self._changed = asyncio.Event()

    def seal(self, number: int, lost: dict[str, str]) -> None:
        """Take the shard's idle agents out of service; busy ones follow when their turn ends.

        What is known to be lost moves along, or it would be created afresh elsewhere.
        """
        self.sealed.add(number)
        packed = self._packed.setdefault(number, {})
        for id_, type_ in lost.items():
            packed[id_] = ["lost", id_, type_, number]
        for cell in [c for c in self._host.cells.values() if c.shard == number]:
            if cell.is_reserved:
                # It was never here: what waits for it goes where the shard is.
                _redirect_queue(cell)
                del self._host.cells[cell.id]
            elif cell.is_busy:
                _redirect_queue(cell)
            else:
                self._leave(cell)
        packed.update(self._host.runs.take_shard(number))

    def settled(self, cell: Cell) -> None:
        """A busy cell's turn ended."""
        is_here = self._host.cells.get(cell.id) is cell
        if is_here and cell.shard in self.sealed and self._host.shards.get(cell.shard) is None:
            self._leave(cell)
            self._changed.set()

    def _leave(self, cell: Cell) -> None:
        _redirect_queue(cell)
        self._packed[cell.shard][cell.id] = pack_cell(cell, self._host.loop.time())
        self._host.lifecycle.drop_object(cell)
        if cell.worker is not None:
            cell.worker.close()
        del self._host.cells[cell.id]

    async def page(self, message: Message) -> None:
        """Answer a pull: drop what has arrived, send more, name those still busy."""
        numbers, arrived = unpack(message.body)
        host = self._host
        for number in numbers:
            if host.shards.is_passing(number):
                text = f"shard {number} has not wholly arrived here itself"
                message.fail(UnavailableError(text, retry_after=RETRY_DELAY))
                return
            if host.shards.get(number) is not None:
                if host.view.leaders[number] == host.address:
                    host.client.want_view()
                    text = f"shard {number} has not been given up here yet"
                    message.fail(UnavailableError(text, retry_after=RETRY_DELAY))
                    return
                host.shards.give_up(number)
            packed = self._packed.setdefault(number, {})
            for id_ in arrived:
                packed.pop(id_, None)
        rows, more = self._rows(numbers)
        busy = self._busy(numbers)
        if not rows and busy:
            self._changed.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), WAIT_SECONDS)
            rows, more = self._rows(numbers)
            busy = self._busy(numbers)
        message.reply(pack((rows, busy, more)))

    def _rows(self, numbers: list[int]) -> tuple[list[Any], bool]:
        rows: list[Any] = []
        size = 0
        for number in numbers:
            for row in self._packed[number].values():
                size += 256 + (len(row[-1]) if row[0] != "lost" else 0)
                if size > PAGE_BYTES and rows:
                    return rows, True
                rows.append(row)
        return rows, False

    def _busy(self, numbers: list[int]) -> list[list[Any]]:
        wanted = set(numbers)
        return [
            [c.id, c.shard, c.spec.name] for c in self._host.cells.values() if c.shard in wanted
        ]

    def forget(self, numbers: list[int]) -> None:
        """The new host has everything."""
        for number in numbers:
            self.sealed.discard(number)
            self._packed.pop(number, None)


def _redirect_queue(cell: Cell) -> None:
    for message in cell.queue or ():
        if message.timer is not None:
            message.timer.cancel()
        message.redirect()
    cell.queue = None


def pack_cell(cell: Cell, now: float) -> list[Any]:
    """A cell as plain data; ages instead of times, because clocks differ between processes."""
    remembered: list[Any] = []
    size = 0
    for op_id, (fingerprint, result, at) in reversed((cell.remembered or {}).items()):
        size += len(result)
        if size > MAX_MOVED_RESULTS:
            break
        remembered.append([op_id, fingerprint, result, now - at])
    return [
        "agent",
        cell.id,
        cell.spec.name,
        cell.shard,
        cell.seq,
        cell.last_now,
        pack(remembered),
        cell.state,
    ]


def unpack_cell(row: list[Any], since: int, now: float) -> Cell | None:
    """The cell of `pack_cell`, passive; None when this process does not know the type."""
    _, id_, type_, shard, seq, last_now, remembered, state = row
    spec = find_agent(type_)
    if spec is None:
        return None
    cell = Cell(id_, spec, shard, since, state)
    cell.seq = seq
    cell.last_now = last_now
    cell.is_new = False
    cell.last_used = now
    for op_id, fingerprint, result, age in reversed(unpack(remembered)):
        cell.remember(op_id, fingerprint, result, now - age)
    return cell


async def pull(host: "ShardHost", numbers: list[int], origin: str) -> list[str] | None:
    """Bring the idle agents of these shards here.

    Returns:
        None when that is all; else the receipt that `pull_rest`, for the busy ones, begins with.

    Raises:
        PeerTroubleError: The origin is gone.
    """
    arrived: list[str] = []
    busy = await _pull_pages(host, numbers, origin, arrived)
    for id_, shard, type_ in busy:
        _reserve(host, id_, shard, type_)
    if busy:
        return arrived
    await _confirm(host, numbers, origin)
    return None


async def pull_rest(host: "ShardHost", numbers: list[int], origin: str, arrived: list[str]) -> None:
    """Bring the agents that were busy, each when its turn has ended.

    When the origin dies meanwhile they are lost, and said to be.
    """
    try:
        while await _pull_pages(host, numbers, origin, arrived):
            pass
        await _confirm(host, numbers, origin)
    except (PeerTroubleError, JidoError) as error:
        logger.warning("busy agents of %d shards did not arrive: %s", len(numbers), error)
        _abandon_reserved(host, numbers)


async def _pull_pages(
    host: "ShardHost", numbers: list[int], origin: str, arrived: list[str]
) -> list[list[Any]]:
    """Pull until nothing idle is left; `arrived` goes with the next request as its receipt."""
    while True:
        body = pack((numbers, arrived))
        try:
            answer = await host.client.submit_to_host(origin, PULL, "", body, PULL_SECONDS)
        except UnavailableError:
            if origin not in host.view.addresses:
                raise
            await asyncio.sleep(RETRY_DELAY)
            continue
        rows, busy, more = unpack(answer)
        arrived[:] = [row[1] for row in rows]
        for row in rows:
            arrive(host, row)
        if not more:
            result: list[list[Any]] = busy
            return result


async def _confirm(host: "ShardHost", numbers: list[int], origin: str) -> None:
    await host.client.submit_to_host(origin, DONE, "", pack(numbers), PULL_SECONDS)


def arrive(host: "ShardHost", row: list[Any]) -> None:
    """Put an agent or run that was moved in service."""
    if row[0] == "run":
        host.runs.arrive(row)
        return
    if row[0] == "lost":
        host.shards.remember_lost(row[3], row[1], row[2])
        return
    cell = unpack_cell(row, host.shards.since(row[3]), host.loop.time())
    if cell is None:
        logger.error("agent %s of unknown type %s arrived and was dropped", row[1], row[2])
        return
    known = host.cells.get(cell.id)
    if known is None:
        host.cells[cell.id] = cell
    elif known.is_reserved:
        cell.queue = known.queue
        host.cells[cell.id] = cell
        host.spawn_task(host.serve(cell, None))


def _reserve(host: "ShardHost", id_: str, shard: int, type_: str) -> None:
    spec = find_agent(type_)
    if spec is not None and id_ not in host.cells:
        cell = Cell(id_, spec, shard, host.shards.since(shard), b"")
        cell.is_busy = cell.is_reserved = True
        cell.queue = deque()
        host.cells[id_] = cell


def _abandon_reserved(host: "ShardHost", numbers: list[int]) -> None:
    """The old host died with these agents: they are lost."""
    wanted = set(numbers)
    for cell in [c for c in host.cells.values() if c.is_reserved and c.shard in wanted]:
        shard = host.shards.get(cell.shard)
        if shard is not None:
            shard.lost[cell.id] = cell.spec.name
        del host.cells[cell.id]
        waiting = list(cell.queue or ())
        for message in waiting:
            if message.timer is not None:
                message.timer.cancel()
        host.put_again(waiting)
