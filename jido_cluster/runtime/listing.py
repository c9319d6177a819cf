"""What a host says of itself and of the agents it leads. Answers are JSON of plain data."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from pydantic_core import from_json, to_json

from jido_cluster.agent import AgentSpec, find_agent
from jido_cluster.exec.action import registered_actions
from jido_cluster.runtime.cell import Cell, Message
from jido_cluster.runtime.fence import fence_of
from jido_cluster.runtime.wire import LEADS, pack_lead, unpack
from jido_state.record import Record

if TYPE_CHECKING:
    from jido_cluster.runtime.host import ShardHost

__all__ = ["ACTIONS", "LIST", "OPERATIONS", "SIZES", "STATISTICS", "agent_row"]

LIST: Final = "agents.list"
STATISTICS: Final = "host.statistics"
SIZES: Final = "host.sizes"
ACTIONS: Final = "actions.list"

PAGE: Final = 1000  # agents in one page of a listing


def agent_row(host: "ShardHost", cell: Cell) -> list[Any]:
    """What is known of an agent that is here, and the ids of the nodes that hold its shard."""
    is_active = cell.live is not None or cell.worker is not None
    row = _row(host, cell.id, cell.spec, cell.shard, cell.version, cell.turns, is_active=is_active)
    return [row, _replicas(host, cell.shard)]


def _record_row(host: "ShardHost", spec: AgentSpec, key: str, shard: int, record: Record) -> Any:
    cell = host.cells.get(key)
    if cell is not None:
        return agent_row(host, cell)
    turns = max(record.turns - 1, 0)
    row = _row(host, key, spec, shard, record.version, turns, is_active=False)
    return [row, _replicas(host, shard)]


def _row(
    host: "ShardHost",
    id_: str,
    spec: AgentSpec,
    shard: int,
    version: Sequence[int],
    turns: int,
    *,
    is_active: bool,
) -> list[Any]:
    fence = list(fence_of(version))
    return [id_, spec.name, host.node, shard, fence, spec.consistency, turns, is_active]


def _replicas(host: "ShardHost", shard: int) -> list[str]:
    view = host.view
    members = (view.member(node) for node in view.replicas[shard])
    return [member.id for member in members if member is not None]


async def _list(host: "ShardHost", message: Message) -> None:
    """One page of the agents that are led here, in the order of their ids."""
    after, prefix, type_name = from_json(message.body)
    found: list[tuple[str, int, Record]] = []
    for shard in host.replicas.led_shards():
        found.extend(
            (key, shard, record)
            for key, record in host.replicas.records(shard)
            if key > after
            and key.startswith(prefix)
            and (type_name is None or record.type == type_name)
        )
    found.sort(key=lambda row: row[0])
    rows = [
        _record_row(host, spec, *row)
        for row in found[:PAGE]
        if (spec := find_agent(row[2].type)) is not None
    ]
    message.reply(to_json([rows, len(found) > PAGE]))


async def _leads(host: "ShardHost", message: Message) -> None:
    """Who leads a shard, as far as is known here."""
    message.reply(pack_lead(host.replicas.server(unpack(message.body))))


async def _statistics(host: "ShardHost", message: Message) -> None:
    led = host.replicas.led_shards()
    counts = {
        "agents": sum(1 for shard in led for _ in host.replicas.records(shard)),
        "active": sum(1 for cell in host.cells.values() if cell.live or cell.worker),
        "busy": sum(1 for cell in host.cells.values() if cell.is_busy),
        "shards": len(led),
        "turns": host.turns.count,
        "runs": host.runs.active(),
    }
    message.reply(to_json(counts))


async def _sizes(host: "ShardHost", message: Message) -> None:
    """How many agents are in each shard that is led here, and the bytes of their states."""
    rows = []
    for shard in host.replicas.led_shards():
        sizes = [len(record.state) for _, record in host.replicas.records(shard)]
        rows.append([shard, len(sizes), sum(sizes)])
        await asyncio.sleep(0)  # of many agents this takes long: others go on
    message.reply(to_json(rows))


async def _actions(_: "ShardHost", message: Message) -> None:
    rows = [
        [
            spec.name,
            spec.version,
            spec.description,
            list(spec.tags),
            spec.input_schema(),
            spec.output_schema(),
        ]
        for spec in registered_actions()
    ]
    message.reply(to_json(rows))


OPERATIONS: Final[Mapping[str, Callable[["ShardHost", Message], Awaitable[None]]]] = {
    LIST: _list,
    LEADS: _leads,
    STATISTICS: _statistics,
    SIZES: _sizes,
    ACTIONS: _actions,
}
