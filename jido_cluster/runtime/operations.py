"""Operations: what clients ask of a host beside calling handlers.

An operation on an agent waits its turn in the mailbox like a call; the others are answered at once.
Bodies and answers are JSON or msgpack of plain data, as each says.
"""

import logging
import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final

from pydantic_core import from_json, to_json

from jido_cluster.agent import AgentSpec, find_agent, known_agents
from jido_cluster.errors import (
    AgentExistsError,
    AgentLostError,
    AgentNotFoundError,
    InvalidInputError,
    InvalidOutputError,
    JidoError,
    NotRegisteredError,
)
from jido_cluster.exec.action import registered_actions
from jido_cluster.runtime import handoff
from jido_cluster.runtime.cell import Cell, Message
from jido_cluster.runtime.shards import Shard
from jido_cluster.runtime.view import shard_of
from jido_cluster.runtime.wire import CALL, OPERATION, STREAM, VIRTUAL, unpack

if TYPE_CHECKING:
    from jido_cluster.runtime.host import ShardHost

logger = logging.getLogger(__name__)

SPAWN: Final = "agent.spawn"
ENSURE: Final = "agent.ensure"  # get_or_spawn
INFO: Final = "agent.info"
STATE: Final = "agent.state"
PASSIVATE: Final = "agent.passivate"
DELETE: Final = "agent.delete"
LIST: Final = "agents.list"
STATISTICS: Final = "host.statistics"
ACTIONS: Final = "actions.list"

PAGE: Final = 1000  # agents in one page of a listing
_IN_TURN: Final = frozenset({PASSIVATE, DELETE})


class Operations:
    """Performs operations on one host."""

    def __init__(self, host: "ShardHost") -> None:
        self._host = host
        self._at_once: dict[str, Callable[[Message], Awaitable[None]]] = {
            LIST: self._list,
            STATISTICS: self._statistics,
            ACTIONS: self._actions,
            handoff.PULL: self._pull,
            handoff.DONE: self._arrived,
            **host.runs.operations(),
            **host.streaming.operations(),
        }
        self._on_agent: dict[str, Callable[[Message, Cell], Awaitable[None]]] = {
            INFO: self._info,
            STATE: self._state,
            SPAWN: self._spawn_again,
            ENSURE: self._spawn_again,
        }

    async def perform(self, message: Message) -> None:
        """Perform an operation that has just arrived."""
        at_once = self._at_once.get(message.name)
        if at_once is not None:
            await at_once(message)
            return
        cell = self._host.cells.get(message.key)
        if cell is None:
            await self.absent(message)
            return
        if cell.is_reserved or message.name in _IN_TURN:
            if cell.is_busy:
                self._host.enqueue(cell, message)
            else:
                await self._host.serve(cell, message)
            return
        await self.perform_in_turn(cell, message)

    async def perform_in_turn(self, cell: Cell, message: Message) -> None:
        """Perform an operation on an agent that is here."""
        if message.name == PASSIVATE:
            await self._host.lifecycle.passivate(cell)
            message.reply(b"null")
        elif message.name == DELETE:
            await self.delete_cell(cell)
            message.reply(b"null")
        elif message.name in self._on_agent:
            await self._on_agent[message.name](message, cell)
        else:
            text = f"host operation {message.name!r} is unknown to this release"
            message.fail(InvalidInputError(text))

    # -- agents that are not here

    async def absent(self, message: Message) -> Cell | None:
        """What to do for a key without a cell; a cell only when a virtual agent was just made."""
        host = self._host
        number = shard_of(message.key, host.view.shards)
        shard = host.shards.get(number)
        if shard is None:
            message.redirect()
            return None
        if not shard.is_serving:
            host.shards.park(shard, message)
            return None
        if message.kind == OPERATION and message.name in (SPAWN, ENSURE):
            await self._spawn(message, shard)
            return None
        if message.key in shard.lost:
            type_ = shard.lost[message.key]
            text = (
                f"agent {message.key!r} ({type_}) was lost with the process that held it; its "
                "state was in memory only; spawn it again"
            )
            message.fail(AgentLostError(text, agent=message.key))
            return None
        type_name = message.extra.get(VIRTUAL) if message.extra else None
        if type_name is not None and message.name not in (INFO, STATE, DELETE, PASSIVATE):
            return await self._make_virtual(message, shard, type_name)
        text = f"there is no agent {message.key!r}; spawn it first"
        message.fail(AgentNotFoundError(text, agent=message.key))
        return None

    async def _spawn(self, message: Message, shard: Shard) -> None:
        try:
            type_name, state = from_json(message.body)
            spec = self._known(type_name)
            data = spec.dump(spec.load(state.encode()))
        except InvalidOutputError as error:
            message.fail(InvalidInputError(error.message, **error.details))
            return
        except JidoError as error:
            message.fail(error)
            return
        cell = await self._create(message, shard, spec, data)
        if cell is not None:
            cell.remember(message.op_id, message.fingerprint, b"true", self._host.loop.time())
            message.reply(b"true")
            await self._host.serve(cell, None)

    async def _make_virtual(self, message: Message, shard: Shard, type_name: str) -> Cell | None:
        try:
            spec = self._known(type_name)
            if not spec.virtual:
                text = f"there is no agent {message.key!r}, and {type_name!r} is not virtual"
                message.fail(AgentNotFoundError(text, agent=message.key))
                return None
            # Looked at before anything exists: a bad first call leaves no agent behind.
            if message.kind == CALL:
                spec.handler_for(message.name).work.load_params(message.body)
            elif message.kind == STREAM:
                spec.stream_for(message.name).work.load_params(message.body)
            data = spec.new_state({})
        except JidoError as error:
            message.fail(error)
            return None
        return await self._create(message, shard, spec, data)

    async def _create(
        self, message: Message, shard: Shard, spec: AgentSpec, data: bytes
    ) -> Cell | None:
        """A new cell, still busy, whose id is on the roster and whose `on_start` is done.

        Messages that come meanwhile wait in it. None when it failed; the message is answered then.
        """
        host = self._host
        cell = Cell(message.key, spec, shard.number, shard.since, data)
        cell.is_busy = cell.is_reserved = True
        host.cells[cell.id] = cell
        await host.roster.write(shard.number, shard.since, cell.id, spec.name)
        if host.cells.get(cell.id) is not cell:  # the shard moved on while the roster was written
            message.redirect()
            return None
        cell.is_reserved = False
        shard.lost.pop(cell.id, None)
        cell.last_used = host.loop.time()
        try:
            if spec.isolation != "dedicated":
                await host.lifecycle.activate(cell, message.deadline)
        except JidoError as error:
            host.lifecycle.drop_object(cell)
            await self._remove(cell)
            message.fail(error)
            return None
        return cell

    def _known(self, type_name: str) -> AgentSpec:
        spec = find_agent(type_name)
        if spec is None:
            raise self._not_registered(type_name)
        return spec

    def _not_registered(self, type_name: str) -> NotRegisteredError:
        module = type_name.rpartition(".")[0]
        text = (
            f"node {self._host.node_name} does not know agent type {type_name!r}: name its module "
            "in "
            f"ClusterConfig(modules=({module!r},)), and install it on every node or add its folder "
            f"to their PYTHONPATH; here sys.path is {sys.path[:6]}"
        )
        return NotRegisteredError(text, node=self._host.node_name, known=known_agents())

    # -- agents that are here

    async def _spawn_again(self, message: Message, cell: Cell) -> None:
        """The id is taken: fine for the same operation, and for `get_or_spawn` of the type."""
        remembered = (cell.remembered or {}).get(message.op_id)
        if remembered is not None and message.name == SPAWN:
            if remembered[0] == message.fingerprint:
                message.reply(remembered[1])
            else:
                text = f"op_id {message.op_id!r} spawned {cell.id!r} with another type or state"
                message.fail(InvalidInputError(text, op_id=message.op_id))
            return
        type_name, _ = from_json(message.body)
        if message.name == ENSURE and type_name == cell.spec.name:
            message.reply(b"false")
            return
        text = f"agent id {cell.id!r} is taken by an agent of type {cell.spec.name!r}"
        if message.name == SPAWN:
            text += "; use get_or_spawn() if either is fine, or another id"
        message.fail(AgentExistsError(text, node=self._host.node_name, agent=cell.id))

    async def _info(self, message: Message, cell: Cell) -> None:
        host = self._host
        tenure = host.view.tenures[cell.shard]
        message.reply(to_json([self._row(cell), list(tenure.replicas)]))

    def _row(self, cell: Cell) -> list[Any]:
        is_active = cell.live is not None or cell.worker is not None
        return [
            cell.id,
            cell.spec.name,
            self._host.node,
            cell.shard,
            list(self._host.fence(cell)),
            cell.spec.consistency,
            cell.seq,
            is_active,
        ]

    async def _state(self, message: Message, cell: Cell) -> None:
        message.reply(to_json([cell.spec.name, cell.state.decode()]))

    async def delete_cell(self, cell: Cell) -> None:
        """End an agent that holds its own turn: hooks, roster, mailbox."""
        await self._host.lifecycle.passivate(cell)
        await self._remove(cell)

    async def _remove(self, cell: Cell) -> None:
        host = self._host
        await host.roster.write(cell.shard, host.shards.since(cell.shard), cell.id, "")
        if host.cells.get(cell.id) is cell:
            del host.cells[cell.id]
        waiting, cell.queue = list(cell.queue or ()), None
        for message in waiting:
            if message.timer is not None:
                message.timer.cancel()
        host.put_again(waiting)

    # -- the host itself

    async def _list(self, message: Message) -> None:
        after, prefix, type_name = from_json(message.body)
        ids = sorted(
            cell.id
            for cell in self._host.cells.values()
            if cell.id > after
            and cell.id.startswith(prefix)
            and (type_name is None or cell.spec.name == type_name)
            and not cell.is_reserved
        )
        rows = [
            [
                self._row(cell := self._host.cells[id_]),
                list(self._host.view.tenures[cell.shard].replicas),
            ]
            for id_ in ids[:PAGE]
        ]
        message.reply(to_json([rows, len(ids) > PAGE]))

    async def _statistics(self, message: Message) -> None:
        host = self._host
        message.reply(
            to_json(
                {
                    "agents": len(host.cells),
                    "active": sum(1 for c in host.cells.values() if c.live or c.worker),
                    "busy": sum(1 for c in host.cells.values() if c.is_busy),
                    "shards": host.shards.count(),
                    "turns": host.turns,
                    "runs": host.runs.active(),
                }
            )
        )

    async def _actions(self, message: Message) -> None:
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

    async def _pull(self, message: Message) -> None:
        self._host.spawn_task(self._host.shards.leaving.page(message))

    async def _arrived(self, message: Message) -> None:
        self._host.shards.leaving.forget(unpack(message.body))
        message.reply(b"")
