"""The control requests that a supervisor answers: of nodes that join, and of people.

who       what the process says of itself (`formation.Seen`)
join      lets a node in, or registers its start (`entry`)
nodes     one row for each member
explain   why an agent is where it is
preview   what would move if nodes came or left
drain     has a node's replicas moved away, from now on
left      what is still on a node that is leaving
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Final

from jido_cluster.errors import ClusterUnavailableError, ConfigError, InvalidInputError
from jido_cluster.runtime import control_operations as operations
from jido_cluster.runtime import draining
from jido_cluster.runtime.control_operations import Moved
from jido_cluster.runtime.draining import Drained
from jido_cluster.runtime.entry import REMOVED, Entered, Entry, Later, Refusal, to_bytes
from jido_cluster.runtime.formation import Seen, twin_error
from jido_cluster.runtime.view import View
from jido_cluster.runtime.wire import pack, unpack
from jido_placement.commands import Answer, Command, Reason, Refused
from jido_placement.record import ROOT, Record
from jido_placement.steps import Limits
from jido_state.node_messages import HandOver

if TYPE_CHECKING:
    from jido_cluster.runtime.control import NodeControl

__all__ = ["Requests"]

ORDER_SECONDS: Final = 2.0  # for the root group to say something
SHOW_SECONDS: Final = 2.0  # for the own record to show it
DRAIN_SECONDS: Final = 0.5  # between looks how far a drain has come


class _Overseer:
    """A supervisor, as `draining` sees it."""

    def __init__(self, control: "NodeControl") -> None:
        self._control = control

    @property
    def record(self) -> Record:
        """As the protocol says."""
        return self._control.record

    @property
    def view(self) -> View:
        """As the protocol says."""
        return self._control.gossip.view

    @property
    def unreachable(self) -> frozenset[int]:
        """As the protocol says."""
        return self._control.watching.unreachable

    @property
    def limits(self) -> Limits:
        """As the protocol says."""
        return self._control.settings.limits

    async def order(self, command: Command) -> Answer | None:
        """As the protocol says."""
        return await self._control.root.order(command, ORDER_SECONDS)


class Requests:
    """Answers control requests for one supervisor.

    Args:
        control: The supervisor.
    """

    def __init__(self, control: "NodeControl") -> None:
        self._control = control
        self._overseer = _Overseer(control)
        self._operations: dict[str, Callable[[bytes], Awaitable[bytes]]] = {
            "who": self._who,
            "join": self._join,
            "nodes": self._nodes,
            "explain": self._explain,
            "preview": self._preview,
            "drain": self._drain,
            "left": self._left,
        }

    async def answer(self, operation: str, data: bytes) -> bytes:
        """See `NodeControl.answer`."""
        handler = self._operations.get(operation)
        if handler is None:
            known = ", ".join(self._operations)
            raise InvalidInputError(f"there is no control request {operation!r}; known: {known}")
        return await handler(data)

    # -- nodes

    async def _who(self, _: bytes) -> bytes:
        return pack(list(self._control.seen))

    async def _join(self, data: bytes) -> bytes:
        return to_bytes(await self.let_in(Entry.from_bytes(data)))

    async def let_in(self, entry: Entry) -> Entered | Refusal | Later:
        """Puts the request of a node that starts to the root group."""
        control = self._control
        if not control.is_open or control.is_closed:
            return Later("this node is no member yet itself")
        try:
            control.config.check_agrees(dict(entry.agreed))
        except ConfigError as error:
            return Refusal(str(error))
        twin = self._twin(entry.seen)
        if twin is not None and await control.is_alive(twin):
            return Refusal(str(twin_error(twin.id, twin.supervisor)))
        answer = await control.root.order(entry.command(control.agreed), ORDER_SECONDS)
        if answer is None:
            # It may lack this very vote: whoever asks is answered at its new address from now on.
            control.gossip.introduce(entry.seen)
            return Later("the root group has no leader now")
        if isinstance(answer, Refused):
            if answer.reason is Reason.UNKNOWN_MEMBER:
                return Refusal(REMOVED)
            return Refusal(answer.text)
        try:
            async with asyncio.timeout(SHOW_SECONDS):
                while not _shows(control.record, entry):
                    await control.wait_record(control.record.epoch)
        except TimeoutError:
            return Later("the record that shows the node has not come here yet")
        return Entered(answer.value, control.record, control.gossip.view)

    def _twin(self, seen: Seen) -> Seen | None:
        """The process of this id that is known at another address; it may be dead by now."""
        control = self._control
        member = control.record.member_of_id(seen.id)
        place = None if member is None else control.gossip.place(member.node)
        if member is None or place is None or place.supervisor in {"", seen.supervisor}:
            return None
        return Seen(seen.id, seen.cluster_id, member.node, place.boot, place.supervisor)

    # -- people

    async def _nodes(self, _: bytes) -> bytes:
        control = self._control
        self._check_open()
        contacts = control.watching.contacts
        return pack(operations.list_nodes(control.record, control.gossip.view, contacts))

    async def _explain(self, data: bytes) -> bytes:
        control = self._control
        self._check_open()
        agent_id = unpack(data)
        view, contacts = control.gossip.view, control.watching.contacts
        return pack(operations.explain(control.record, view, contacts, agent_id))

    async def _preview(self, data: bytes) -> bytes:
        self._check_open()
        add, remove = unpack(data)
        return pack([list(move) for move in await self.preview(add, remove)])

    async def _drain(self, data: bytes) -> bytes:
        self._check_open()
        drained = await self.drain(unpack(data))
        return pack([drained.node, [list(move) for move in drained.moves]])

    async def _left(self, data: bytes) -> bytes:
        self._check_open()
        left = draining.left_of(self._overseer, unpack(data))
        return pack([left.groups, left.is_member, list(left.why)])

    async def preview(
        self, add: Sequence[str] = (), remove: Sequence[str] = ()
    ) -> tuple[Moved, ...]:
        """See `draining.preview`."""
        return await draining.preview(self._overseer, add, remove)

    async def drain(self, name: str, *, is_restart: bool = False) -> Drained:
        """See `draining.drain`.

        Args:
            name: Of the node, or its id.
            is_restart: Whether it only restarts: then its leaderships go, its replicas stay; asked
                again until nothing is left.
        """
        if not is_restart:
            return await draining.drain(self._overseer, name)
        node = operations.member_named(self._control.record, name).node
        draining.refuse(self._overseer, node, name)
        return self._hand_over(node)

    async def drain_all(self, name: str, *, is_restart: bool = False) -> Drained:
        """As `drain`, and returns when nothing is left."""
        first = await self.drain(name, is_restart=is_restart)
        node, left = first.node, first.left
        while left:
            await asyncio.sleep(DRAIN_SECONDS)
            if is_restart:
                left = self._hand_over(node).left
            else:
                left = len(self._control.record.groups_naming(node))
        return first._replace(left=0)

    def _hand_over(self, node: int) -> Drained:
        """Asks the node to pass on what it leads, each group to the first of its other voters."""
        control = self._control
        record, view = control.record, control.gossip.view
        names = {one.node: one.name or one.id for one in record.members}
        moves: list[Moved] = []
        for shard, lead in enumerate(view.leads[: len(record.shards)]):
            others = [one.node for one in record.shards[shard].config.voters if one.node != node]
            if lead is not None and lead.node == node and others:
                control.root.pass_on(node, HandOver(shard, others[0]))
                moves.append((shard, names[node], names[others[0]], "leader"))
        voters = [one.node for one in record.root.config.voters if one.node != node]
        leads_root = control.root.leader == node
        if leads_root and voters:
            control.root.pass_on(node, HandOver(ROOT, voters[0]))
        return Drained(node, len(moves) + (leads_root and bool(voters)), tuple(moves))

    def _check_open(self) -> None:
        if not self._control.is_open:
            message = "this node is no member of a cluster yet"
            raise ClusterUnavailableError(message, retry_after=1.0)


def _shows(record: Record, entry: Entry) -> bool:
    member = record.member_of_id(entry.seen.id)
    return member is not None and (member.boot, member.nonce) == entry.boot[:2]
