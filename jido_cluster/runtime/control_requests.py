"""The control requests that a supervisor answers: of nodes that join, and of people.

who       what the process says of itself (`formation.Seen`)
join      lets a node in, or registers its start (`entry`)
nodes     one row for each member
explain   why an agent is where it is
preview   what would move if nodes came or left
drain     has a node's replicas, or only its leaderships, moved away; repeated until it is done
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from jido_cluster.errors import ConfigError, InvalidInputError, UnavailableError
from jido_cluster.runtime import control_operations as operations
from jido_cluster.runtime.control_operations import Moved
from jido_cluster.runtime.entry import Entered, Entry, Later, Refusal, to_bytes
from jido_cluster.runtime.formation import Seen, twin_error
from jido_cluster.runtime.wire import pack, unpack
from jido_placement.commands import Leave, Reason, Refused
from jido_placement.record import ROOT, Record
from jido_placement.steps import World
from jido_state.node_messages import HandOver

if TYPE_CHECKING:
    from jido_cluster.runtime.control import NodeControl

__all__ = ["Drained", "Requests"]

ORDER_SECONDS: Final = 2.0  # for the root group to say something
SHOW_SECONDS: Final = 2.0  # for the own record to show it
DRAIN_SECONDS: Final = 0.5  # between looks how far a drain has come


class Drained(NamedTuple):
    """How far a drain has come.

    Attributes:
        left: Groups that still name the node, or are led from it; 0 when it is done.
        moves: What was to move when it began.
    """

    left: int
    moves: tuple[Moved, ...]


class Requests:
    """Answers control requests for one supervisor.

    Args:
        control: The supervisor.
    """

    def __init__(self, control: "NodeControl") -> None:
        self._control = control
        self._operations: dict[str, Callable[[bytes], Awaitable[bytes]]] = {
            "who": self._who,
            "join": self._join,
            "nodes": self._nodes,
            "explain": self._explain,
            "preview": self._preview,
            "drain": self._drain,
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
                return Refusal(
                    "it was removed from the cluster; start it with an empty data directory"
                )
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
        name, is_restart = unpack(data)
        drained = await self.drain(name, is_restart=is_restart)
        return pack([drained.left, [list(move) for move in drained.moves]])

    async def preview(
        self, add: Sequence[str] = (), remove: Sequence[str] = ()
    ) -> tuple[Moved, ...]:
        """What would move if nodes of these names came, and these members left.

        Raises:
            InvalidInputError: A name is no member's.
        """
        control = self._control
        before = operations.changed(control.record, add, remove)
        after = await operations.rehearsed(before, self._world(), control.settings.limits)
        return operations.moves_between(before, after)

    async def drain(self, name: str, *, is_restart: bool = False) -> Drained:
        """Has everything moved away from a node; asked again until nothing is left.

        Args:
            name: Of the node, or its id.
            is_restart: Whether it only restarts: then its leaderships go, its replicas stay.

        Raises:
            InvalidInputError: There is no such node.
            UnavailableError: Another replica of a group of it is missing; nothing was changed.
        """
        control = self._control
        member = operations.member_named(control.record, name)
        node = member.node
        if is_restart or not member.is_retiring:
            found = operations.hindrances(control.record, control.watching.unreachable, node)
            if found:
                raise UnavailableError(
                    f"node {name!r} cannot go now: {'; '.join(found)}", retry_after=1.0
                )
        if is_restart:
            return self._hand_over(node)
        moves = () if member.is_retiring else await self.preview(remove=[member.id])
        answer = await control.root.order(Leave(node), ORDER_SECONDS)
        if answer is None:
            raise UnavailableError("the root group has no leader now", retry_after=1.0)
        return Drained(len(control.record.groups_naming(node)), moves)

    async def drain_all(self, name: str, *, is_restart: bool = False) -> Drained:
        """As `drain`, and returns when nothing is left."""
        record = self._control.record
        node = operations.member_named(record, name).node
        first = await self.drain(name, is_restart=is_restart)
        left = first.left
        while left:
            await asyncio.sleep(DRAIN_SECONDS)
            if is_restart:
                left = self._hand_over(node).left
            else:
                left = len(self._control.record.groups_naming(node))
        return Drained(0, first.moves)

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
        return Drained(len(moves) + (leads_root and bool(voters)), tuple(moves))

    def _world(self) -> World:
        control = self._control
        leads = enumerate(control.gossip.view.leads)
        return World(
            unreachable=control.watching.unreachable,
            expired=control.watching.expired,
            leaders={shard: lead.node for shard, lead in leads if lead is not None},
        )

    def _check_open(self) -> None:
        if not self._control.is_open:
            raise UnavailableError("this node is no member of a cluster yet", retry_after=1.0)


def _shows(record: Record, entry: Entry) -> bool:
    member = record.member_of_id(entry.seen.id)
    return member is not None and (member.boot, member.nonce) == entry.boot[:2]
