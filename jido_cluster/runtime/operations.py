"""Operations: what clients ask of a host beside calling handlers.

An operation on an agent waits its turn in the mailbox like a call; the others are answered at once.
Bodies and answers are JSON or msgpack of plain data, as each says.

Here, too, is decided what a message meets that finds no agent in memory: the committed record says
whether there is one. While that has to be asked of the other replicas, all messages for the agent
wait, in order.

While nobody leads, the host that stands in gives its agents to the core, which decides by type and
strategy whether they go on. "There is no such agent" it says only of one whose end it knows.
"""

import logging
import sys
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
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
    OutcomeUnknownError,
)
from jido_cluster.runtime import listing
from jido_cluster.runtime.asked import Asked, refuse
from jido_cluster.runtime.cell import Cell, Message
from jido_cluster.runtime.replicas import NOT_READ
from jido_cluster.runtime.view import StandIn, shard_of
from jido_cluster.runtime.wire import CALL, LEVEL, OPERATION, STREAM, VIRTUAL
from jido_placement.policies import Strategy
from jido_state.dots import Dot
from jido_state.operations import OpId, agent_caller
from jido_state.record import Record
from jido_state.requests import Answer, Commit, Request, Status

if TYPE_CHECKING:
    from jido_cluster.runtime.host import ShardHost

logger = logging.getLogger(__name__)

SPAWN: Final = "agent.spawn"
ENSURE: Final = "agent.ensure"  # get_or_spawn
INFO: Final = "agent.info"
STATE: Final = "agent.state"
PASSIVATE: Final = "agent.passivate"
DELETE: Final = "agent.delete"

LEVELS: Final = {"eventual": 0, "session": 1, "strong": 2}  # the stronger, the higher
_IN_TURN: Final = frozenset({PASSIVATE, DELETE})
_CREATING: Final = frozenset({SPAWN, ENSURE})
_NOT_VIRTUAL: Final = frozenset({INFO, STATE, DELETE, PASSIVATE})  # these make no virtual agent


class Operations:
    """Performs operations on one host."""

    def __init__(self, host: "ShardHost") -> None:
        self._host = host
        self._seeking: dict[str, list[Message]] = {}
        self._at_once: dict[str, Callable[[Message], Awaitable[None]]] = {
            **{name: partial(answer, host) for name, answer in listing.OPERATIONS.items()},
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
        cell = self._host.cells.get(message.key) or await self.find(message)
        if cell is None:
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
            await self._delete(cell, message)
        elif message.name in self._on_agent:
            await self._on_agent[message.name](message, cell)
        else:
            text = f"host operation {message.name!r} is unknown to this release"
            message.fail(InvalidInputError(text))

    # -- agents that are not in memory

    async def find(self, message: Message) -> Cell | None:
        """The agent of a message, from its committed record; None when the message is dealt with.

        When that is not known yet the message comes again once it is.
        """
        host = self._host
        key = message.key
        waiting = self._seeking.get(key)
        if waiting is not None:
            waiting.append(message)
            return None
        shard = shard_of(key, host.view.shards)
        if host.replicas.leadership(shard) is None:
            return await self._find_apart(message, shard)
        record = host.replicas.peek(shard, key)
        if record is NOT_READ:
            self._seek(message, shard)
            return None
        if record is None:
            if message.kind == OPERATION and message.name in _CREATING:
                await self._spawn(message, shard)
            else:
                self._make_sure(message, shard)
            return None
        return await self._found(message, shard, record)

    async def _find_apart(self, message: Message, shard: int) -> Cell | None:
        """The shard is not led here: say who leads; if nobody does, stand in for him."""
        host = self._host
        server = host.replicas.server(shard)
        if server != StandIn(host.replicas.core.node):
            message.redirect(server)
            return None
        host.apart.add(shard)
        held = host.replicas.held(shard, message.key)
        spec = None if held is None else find_agent(held.type)
        if held is not None and not held.is_tomb:
            return self._stand_in(message, shard, held.type, spec)
        if message.kind == OPERATION and message.name in _CREATING:
            await self._spawn(message, shard)
        elif held is not None:
            self._make_sure(message, shard, spec)
        elif message.extra and VIRTUAL in message.extra and message.name not in _NOT_VIRTUAL:
            await self._make_virtual(message, shard, message.extra[VIRTUAL])
        else:
            refuse(host, message, shard, Answer(None, Status.NO_QUORUM))
        return None

    def _stand_in(
        self, message: Message, shard: int, type_name: str, spec: AgentSpec | None
    ) -> Cell | None:
        """An agent whose state the core will give out, or not, with each of its requests."""
        host = self._host
        if spec is None:
            message.fail(self._not_registered(type_name))
            return None
        cell = Cell(message.key, spec, shard)
        if cell.is_volatile:  # who held it is out of reach
            refuse(host, message, shard, Answer(None, Status.NO_QUORUM), cell)
            return None
        cell.is_new = False
        cell.last_used = host.loop.time()
        host.cells[cell.id] = cell
        return cell

    async def _found(self, message: Message, shard: int, record: Record) -> Cell | None:
        """The cell of a committed record."""
        host = self._host
        spec = find_agent(record.type)
        if spec is None:
            message.fail(self._not_registered(record.type))
            return None
        cell = Cell(message.key, spec, shard)
        try:
            cell.take(record)
        except JidoError as error:
            message.fail(error)
            return None
        if cell.is_volatile:
            # What is known of it here would be in memory.
            if message.kind == OPERATION and message.name in _CREATING:
                await self._spawn(message, shard, over=record.generation)
                return None
            text = (
                f"agent {message.key!r} ({record.type}) was lost with the process that held it; "
                "its state was in memory only; spawn it again"
            )
            message.fail(AgentLostError(text, agent=message.key))
            return None
        cell.is_new = False
        cell.last_used = host.loop.time()
        host.cells[cell.id] = cell
        return cell

    def _seek(self, message: Message, shard: int) -> None:
        """Have the record made readable; messages for the agent wait for that."""
        self._seeking[message.key] = [message]
        self._host.spawn_task(self._sought(message, shard))

    async def _sought(self, message: Message, shard: int) -> None:
        asked = Asked(message, self._host.loop)
        # Who may be served is decided by the agent's type, and only then.
        request = self._plain(asked, "read", message)
        request = request._replace(level="eventual", strategy=Strategy.CONTINUE_ALL)
        self._host.replicas.submit(shard, request)
        answer = await asked.ended()
        waiting = self._seeking.pop(message.key)
        if answer.status is not Status.OK:
            for one in waiting:
                refuse(self._host, one, shard, answer)
            return
        self._host.put_again(waiting)

    def _make_sure(self, message: Message, shard: int, spec: AgentSpec | None = None) -> None:
        """No agent is known here: it may have been done before, or another leader knows better.

        Args:
            message: That has found none.
            shard: Its agent's.
            spec: The type of an agent that has ended.
        """
        self._seeking[message.key] = [message]
        self._host.spawn_task(self._made_sure(message, shard, spec))

    async def _made_sure(self, message: Message, shard: int, spec: AgentSpec | None) -> None:
        host = self._host
        asked = Asked(message, host.loop)
        is_read = message.kind == OPERATION and message.name in (INFO, STATE)
        request = self._plain(asked, "read" if is_read else "call", message, spec)
        if is_read and host.replicas.leadership(shard) is not None:
            request = request._replace(level="strong")
        elif is_read:
            pass
        elif message.kind != STREAM:
            kind = "stop" if message.name == DELETE and message.kind == OPERATION else "call"
            request = request._replace(kind=kind, op=message.op)
        host.replicas.submit(shard, request)
        turn = await asked.begun()
        if turn is not None:  # it has been made meanwhile
            host.replicas.end(shard, message.key, turn.version, None)
            host.put_again(self._seeking.pop(message.key))
            return
        answer = asked.answer
        assert answer is not None
        if answer.is_stale:  # what may be old cannot say that there is none
            answer = answer._replace(status=Status.NO_QUORUM)
        if answer.status is Status.OK and answer.value is not None and not is_read:
            message.reply(answer.value[1])
        elif answer.status is Status.OK and answer.value is None and not is_read:
            text = f"{message.name!r} to {message.key!r} was done before; its result was not kept"
            message.fail(OutcomeUnknownError(text, op_id=message.op_id))
        elif answer.status is Status.OK and answer.value is not None:
            host.put_again([message])
        elif answer.status in (Status.OK, Status.NOT_FOUND):
            await self.missing(message, shard)
        else:
            refuse(self._host, message, shard, answer)
        host.put_again(self._seeking.pop(message.key)[1:])

    def _plain(
        self, asked: Asked, kind: str, message: Message, spec: AgentSpec | None = None
    ) -> Request:
        """A request about an agent of which nothing is known, but its type perhaps."""
        if spec is None and message.extra and VIRTUAL in message.extra:
            spec = find_agent(message.extra[VIRTUAL])
        level = "eventual" if spec is None else spec.consistency
        strategy = self._host.turns.strategy_of(spec)
        due_ms = int(message.deadline * 1000)
        ack = message.ack
        token = None if message.seen is None else message.seen.token
        return Request(
            asked,
            kind,
            message.key,
            None,
            level,
            due_ms=due_ms,
            ack=ack,
            token=token,
            strategy=strategy,
        )

    async def missing(self, message: Message, shard: int) -> None:
        """There is surely no such agent: a virtual one is made, anything else fails."""
        type_name = message.extra.get(VIRTUAL) if message.extra else None
        if type_name is not None and message.name not in _NOT_VIRTUAL:
            await self._make_virtual(message, shard, type_name)
            return
        text = f"there is no agent {message.key!r}; spawn it first"
        message.fail(AgentNotFoundError(text, agent=message.key))

    # -- making agents

    async def _spawn(self, message: Message, shard: int, over: Dot | None = None) -> None:
        """Make an agent; `over` is the lost life of its id that it takes the place of."""
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
        if spec.durability == "none" and self._host.replicas.leadership(shard) is None:
            refuse(self._host, message, shard, Answer(None, Status.NO_QUORUM))
            return
        cell = self._reserve(message, spec, shard)
        if await self._create(message, cell, data, over=over):
            message.reply(b"true")
        self._host.release(cell)

    async def _make_virtual(self, message: Message, shard: int, type_name: str) -> None:
        """Make a virtual agent from its field defaults, and give it the message."""
        try:
            spec = self._known(type_name)
            if not spec.virtual:
                text = f"there is no agent {message.key!r}, and {type_name!r} is not virtual"
                message.fail(AgentNotFoundError(text, agent=message.key))
                return
            # Looked at before anything exists: a bad first call leaves no agent behind.
            if message.kind == CALL:
                spec.handler_for(message.name).work.load_params(message.body)
            elif message.kind == STREAM:
                spec.stream_for(message.name).work.load_params(message.body)
            data = spec.new_state({})
        except JidoError as error:
            message.fail(error)
            return
        cell = self._reserve(message, spec, shard)
        is_made = await self._create(message, cell, data, is_virtual=True)
        if is_made:
            self._host.put_again([message])
        self._host.release(cell)

    def _reserve(self, message: Message, spec: AgentSpec, shard: int) -> Cell:
        """A cell that holds the id while the agent is made; what comes meanwhile waits in it."""
        cell = Cell(message.key, spec, shard)
        cell.is_busy = cell.is_reserved = True
        cell.last_used = self._host.loop.time()
        self._host.cells[cell.id] = cell
        return cell

    async def _create(
        self,
        message: Message,
        cell: Cell,
        data: bytes,
        *,
        is_virtual: bool = False,
        over: Dot | None = None,
    ) -> bool:
        """Make the agent of a reserved cell; False when it failed and the message is answered."""
        host = self._host
        asked = Asked(message, host.loop)
        op = message.op
        if is_virtual:
            op = op.nested(0, cell.id, SPAWN, b"")
        request = host.turns.request(asked, "spawn", cell.spec, cell.id, message, op=op)
        host.replicas.submit(cell.shard, request._replace(over=over))
        turn = await asked.begun()
        if turn is not None:
            cell.state = data
            try:
                state, effects = await self._first_activation(cell, message, turn.version)
                kept = b"" if cell.is_volatile else state
                record = host.turns.record_of(cell, turn, kept, effects)
            except JidoError as error:
                host.replicas.end(cell.shard, cell.id, turn.version, None)
                host.forget(cell)
                message.fail(error)
                return False
            commit = Commit(record, (message.fingerprint, b"true"), cell.spec.in_memory)
            host.replicas.end(cell.shard, cell.id, turn.version, commit)
            answer = await asked.ended()
            if answer.status is Status.OK:
                cell.is_reserved = False
                cell.state = state
                host.turns.made(cell, answer.version)
                return True
        else:
            assert asked.answer is not None
            answer = asked.answer
        host.forget(cell)
        if is_virtual and answer.status in (Status.OK, Status.EXISTS):
            host.put_again([message])  # made by another message
        elif answer.status is Status.OK:
            self._spawned_before(message, answer)
        elif answer.status is Status.EXISTS:
            host.put_again([message])  # finds the agent that there is
        else:
            refuse(self._host, message, cell.shard, answer)
        return False

    def _spawned_before(self, message: Message, answer: Answer) -> None:
        """The operation has made the agent before."""
        if answer.value is not None and answer.value[0] != message.fingerprint:
            text = f"op_id {message.op_id!r} spawned {message.key!r} with another type or state"
            message.fail(InvalidInputError(text, op_id=message.op_id))
        else:
            message.reply(b"true")

    async def _first_activation(
        self, cell: Cell, message: Message, version: Sequence[int]
    ) -> tuple[bytes, list[Any]]:
        if cell.spec.isolation == "dedicated":
            return cell.state, []
        agent, effects = await self._host.lifecycle.activate(cell, message.deadline, version)
        cell.live = agent
        return self._host.lifecycle.state_of(cell, agent), list(effects)

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
        if message.name == SPAWN:
            asked = Asked(message, self._host.loop)
            request = self._plain(asked, "spawn", message, cell.spec)._replace(op=message.op)
            self._host.replicas.submit(cell.shard, request)
            turn = await asked.begun()
            if turn is not None:  # it has just ended
                self._host.replicas.end(cell.shard, cell.id, turn.version, None)
                self._host.put_again([message])
                return
            assert asked.answer is not None
            if asked.answer.status is Status.OK:
                self._spawned_before(message, asked.answer)
                return
            if asked.answer.status is not Status.EXISTS:
                refuse(self._host, message, cell.shard, asked.answer)
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
        if not cell.is_volatile:
            answer = await self._host.turns.ask(cell, message, "read", None)
            if answer is None:
                return
            if answer.value is None:
                await self._look_again(message, cell, answer)
                return
            if cell.record is None:  # nobody leads, and this is its first request here
                cell.take(answer.value)
        message.reply(to_json(listing.agent_row(self._host, cell)))

    async def _state(self, message: Message, cell: Cell) -> None:
        level = message.extra.get(LEVEL) if message.extra else None
        own = cell.spec.consistency
        if level is not None and (level not in LEVELS or LEVELS[level] > LEVELS[own]):
            text = (
                f"consistency={level!r}: agent {cell.id!r} is {own!r}, and its state cannot be "
                "read at a stronger level; leave consistency out, or give the type that level"
            )
            message.fail(InvalidInputError(text, agent=cell.id))
            return
        if cell.is_volatile:
            message.reply(to_json([cell.spec.name, cell.state.decode()]))
            return
        answer = await self._host.turns.ask(cell, message, "read", level)
        if answer is None:
            return
        if answer.value is None:
            await self._look_again(message, cell, answer)
            return
        try:
            state = cell.spec.current_state(answer.value.state, answer.value.schema)
        except JidoError as error:
            message.fail(error)
        else:
            message.reply(to_json([cell.spec.name, state.decode()]))

    async def _look_again(self, message: Message, cell: Cell, answer: Answer) -> None:
        """The agent has ended: the message looks for another one of its id."""
        self._host.forget(cell)
        if answer.is_partitioned:
            await self.missing(message, cell.shard)
        else:
            self._host.put_again([message])

    async def _delete(self, cell: Cell, message: Message) -> None:
        """End an agent that holds its own turn: hooks, record, mailbox."""
        answer = await self.end_agent(cell, message)
        if answer.status is Status.OK:
            message.reply(b"null")
        else:
            refuse(self._host, message, cell.shard, answer)

    async def end_agent(self, cell: Cell, message: Message) -> Answer:
        """Write the agent's tombstone, after its `on_stop`; what waits looks for it again."""
        host = self._host
        asked = Asked(message, host.loop)
        request = host.turns.request(asked, "stop", cell.spec, cell.id, message, op=message.op)
        host.replicas.submit(cell.shard, request)
        turn = await asked.begun()
        if turn is not None:
            assert turn.record is not None
            effects = await host.lifecycle.last_turn(cell, turn.version)
            record = host.turns.record_of(cell, turn, turn.record.state, effects)
            commit = Commit(record, (message.fingerprint, b"null"), cell.spec.in_memory)
            host.replicas.end(cell.shard, cell.id, turn.version, commit)
            answer = await asked.ended()
        else:
            assert asked.answer is not None
            answer = asked.answer
        if answer.status in (Status.OK, Status.NOT_FOUND):
            host.forget(cell)
        return answer

    async def end_by_itself(self, shard: int, key: str, name: tuple[Any, int]) -> bool:
        """End an agent that asked for it in a turn, named by the turn's dot and a place.

        Returns:
            False if its node may not serve now, and it is to be asked again.
        """
        host = self._host
        cell = host.cells.get(key)
        if cell is None:
            record = host.replicas.peek(shard, key)
            spec = find_agent(record.type) if isinstance(record, Record) else None
            if spec is None:
                return True
            cell = Cell(key, spec, shard)
            cell.record, cell.seq = record, record.version.number  # of what state does not matter
        return await self._end_held(cell, name)

    async def _end_held(self, cell: Cell, name: tuple[Any, int]) -> bool:
        """Write the tombstone of an agent whose turn this is, or which nobody holds."""
        host = self._host
        asked = Asked(None, host.loop)
        op = OpId(agent_caller(cell.id, name[0], "delete"), name[1] + 1)
        due_ms = int((host.loop.time() + host.config.call_timeout) * 1000)
        strategy = host.turns.strategy_of(cell.spec)
        level = cell.spec.consistency
        request = Request(asked, "stop", cell.id, op, level, due_ms=due_ms, strategy=strategy)
        host.replicas.submit(cell.shard, request)
        turn = await asked.begun()
        if turn is not None:
            assert turn.record is not None
            effects = await host.lifecycle.last_turn(cell, turn.version)
            record = host.turns.record_of(cell, turn, turn.record.state, effects)
            commit = Commit(record, None, cell.spec.in_memory)
            host.replicas.end(cell.shard, cell.id, turn.version, commit)
            await asked.ended()
        assert asked.answer is not None
        status = asked.answer.status
        if status in (Status.OK, Status.NOT_FOUND):
            host.forget(cell)
        return status is not Status.PAUSED and status is not Status.NO_QUORUM
