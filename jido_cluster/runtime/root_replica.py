"""The root group's replica of a node: drives its core, and asks the root group on others' behalf.

Theory. The supervisor of a node runs a core that owns one group, the root's. Effects are performed
in the order in which they were asked for. Commands of users and of nodes that join are put to
whoever leads the root group, under numbers of their own, so that each of them hears its answer: the
core itself keeps one command of a kind under way, which is right for a node's own questions.
"""

import asyncio
import logging
import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from jido_cluster.ports import Disk, Peers, WallClock
from jido_placement.commands import Answer, Command
from jido_placement.record import ROOT, Record
from jido_placement.steps import Limits
from jido_state.entries import PersistEntries
from jido_state.messages import Led, Persist, Stopped
from jido_state.node import Node, StoredGroup
from jido_state.node_messages import (
    Frame,
    GroupEffect,
    HandOver,
    RecordIs,
    RootAsk,
    RootTold,
    ToNode,
)
from jido_state.root_group import ROOT_KEY, founding
from jido_state.settings import GroupSettings

logger = logging.getLogger(__name__)

__all__ = ["RootReplica", "found_durably", "part_address", "stored_record"]

SUPERVISOR: Final = 0  # the part of a node that has its root replica
_PART_BITS: Final = 16  # of an address, above the node's index
_OWN_ASKER: Final = 0xFFFF  # the part of answers to questions that `order` puts to the own core
RETRY_SECONDS: Final = 0.2  # between repetitions of a question


def part_address(node: int, part: int) -> int:
    """The core's name for a process: the node's index for its supervisor."""
    return node | part << _PART_BITS


def stored_record(stored: Mapping[int, StoredGroup]) -> Record | None:
    """The record that the own root replica holds; it may not be committed."""
    held = stored.get(ROOT)
    row = None if held is None else held.rows.get(ROOT_KEY)
    found: Record | None = None if row is None else row.content
    return found


def found_durably(disk: Disk, record: Record) -> "asyncio.Future[dict[int, StoredGroup]]":
    """Writes what the founder of a cluster has before it starts; done when it is durable."""
    header, rows = founding(record)
    done: asyncio.Future[dict[int, StoredGroup]] = asyncio.get_running_loop().create_future()
    disk.start(_Founding(done, StoredGroup(header, rows)))
    disk.write(ROOT, header.rno, Persist(0, header, rows))
    return done


class _Founding:
    """Hears of the one write of a founding."""

    def __init__(self, done: "asyncio.Future[dict[int, StoredGroup]]", stored: StoredGroup) -> None:
        self._done = done
        self._stored = stored

    def durable(
        self, written: Sequence[tuple[int, int, Persist | PersistEntries]], appended: int
    ) -> None:
        """The one write is."""
        if written and not self._done.done():
            self._done.set_result({ROOT: self._stored._replace(appended=appended)})

    def full(self, *, is_full: bool) -> None:
        """The disk waits for room; so does the founder."""
        if is_full:
            logger.error("the disk is full: the cluster cannot be founded until it has room")


class _Question:
    """A command under way to the root group."""

    __slots__ = ("answer", "ask", "is_passed_on")

    def __init__(self, ask: RootAsk, answer: "asyncio.Future[Answer]") -> None:
        self.ask = ask
        self.answer = answer
        self.is_passed_on = False  # since it was repeated last


class RootReplica:
    """Drives the core of a node's supervisor. Bound to the loop that made it.

    Args:
        node: The own index.
        record: The newest committed record that is known.
        stored: What the disk holds.
        peers: Carries messages to other processes; not started here.
        disk: Makes writes durable.
        wall: Time for people.
        nonce: Drawn for this process, 0 to 2**31 - 1.
        hosts_of: Number of host processes of a node; 0 while it is not known.
        changed: Called when a newer record is known.
        settings: Of the group.
        limits: Of the planner.
    """

    def __init__(
        self,
        node: int,
        record: Record,
        stored: Mapping[int, StoredGroup],
        *,
        peers: Peers,
        disk: Disk,
        wall: WallClock,
        nonce: int,
        hosts_of: Callable[[int], int],
        changed: Callable[[], None],
        settings: GroupSettings,
        limits: Limits | None = None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._peers = peers
        self._disk = disk
        self._wall = wall
        self._hosts_of = hosts_of
        self._changed = changed
        self._known = record
        self._waiting: deque[ToNode | GroupEffect] = deque()
        self._is_performing = False
        self._asked: dict[int, _Question] = {}
        # The core numbers its own questions above `nonce << 32`: these are beside them.
        self._next_id = (nonce ^ 1) << 32
        self._leader: int | None = None
        self.core = Node(
            node,
            record,
            {group: held for group, held in stored.items() if group == ROOT},
            _no_service,
            settings,
            int(self._loop.time() * 1000),
            nonce,
            limits,
            owns=_is_root,
        )
        disk.start(self)

    @property
    def is_leading(self) -> bool:
        """Whether the root group is led from here."""
        group = self.core.groups.get(ROOT)
        return group is not None and group.leadership is not None

    def tick(self) -> None:
        """Let time pass."""
        self._perform(self.core.tick(self._now()))

    def received(self, node: int, part: int, message: Any) -> None:
        """A message of another process, for the root group's replica, has come."""
        if type(message) is RootTold and message.id in self._asked:
            self._told(node, message)
        else:
            self._perform(self.core.receive(part_address(node, part), message, self._now()))

    def certain(self, node: int, *, is_gone: bool) -> None:
        """The process of another root replica is dead, for certain; or there is one again."""
        group = self.core.groups.get(ROOT)
        if group is not None:
            self._perform(self.core.certain(ROOT, node, self._now(), is_gone=is_gone))

    @property
    def leader(self) -> int | None:
        """The node that leads the root group, as far as the replica here has heard."""
        group = self.core.groups.get(ROOT)
        return None if group is None else group.leader

    def adopt(self, record: Record) -> None:
        """Go by this committed record, if it is newer."""
        self._perform(self.core.receive(self.core.node, RecordIs(record), self._now()))

    def pass_on(self, node: int, message: HandOver) -> None:
        """Ask a node to hand over the lead of a group."""
        if node == self.core.node and message.group == ROOT:
            self._perform(self.core.receive(node, message, self._now()))
        else:
            self._send(node, message)

    # -- what the disk tells

    def durable(
        self, written: Sequence[tuple[int, int, Persist | PersistEntries]], appended: int
    ) -> None:
        """These writes are durable; in their order."""
        now = self._now()
        for group, rno, effect in written:
            done = self.core.persisted(group, rno, effect.ticket, now, appended=appended)
            self._perform(done)

    def full(self, *, is_full: bool) -> None:
        """The disk is full, or has room again."""
        self._perform(self.core.store_full(self._now(), is_full=is_full))

    # -- questions

    async def order(self, command: Command, timeout: float) -> Answer | None:
        """What the root group says to the command; None when it said nothing within `timeout`.

        The command is repeated until then: it may still be applied later.
        """
        self._next_id += 1
        question = _Question(RootAsk(self._next_id, command), self._loop.create_future())
        self._asked[question.ask.id] = question
        try:
            for _ in range(math.ceil(timeout / RETRY_SECONDS)):
                question.is_passed_on = False
                self._ask(question.ask)
                await asyncio.wait([question.answer], timeout=RETRY_SECONDS)
                if question.answer.done():
                    return question.answer.result()
            return None
        finally:
            del self._asked[question.ask.id]

    def _ask(self, ask: RootAsk) -> None:
        core = self.core
        if self.is_leading:
            asker = part_address(core.node, _OWN_ASKER)
            self._perform(core.receive(asker, ask, self._now()))
            return
        # Who does not answer is not asked again: the next look at the hint finds somebody else.
        to, self._leader = self._leader, None
        if to is None or to == core.node:
            members = core.record.root.config.members
            others = [one.node for one in members if one.node != core.node]
            if not others:
                return
            to = others[int(self._loop.time() / RETRY_SECONDS) % len(others)]
        self._peers.send(to, SUPERVISOR, ask)

    def _told(self, node: int, told: RootTold) -> None:
        question = self._asked.get(told.id)
        if question is None:
            return
        if told.answer is None:
            self._leader = told.leader
            # At once, but once: two nodes may each name the other.
            if told.leader is not None and not question.is_passed_on:
                question.is_passed_on = True
                self._ask(question.ask)
        else:
            self._leader = node
            if not question.answer.done():
                question.answer.set_result(told.answer)

    # -- effects

    def _now(self) -> int:
        self.core.wall_ms = int(self._wall() * 1000)
        return int(self._loop.time() * 1000)

    def _perform(self, effects: list[ToNode | GroupEffect]) -> None:
        waiting = self._waiting
        waiting.extend(effects)
        if self._is_performing:
            return
        self._is_performing = True
        try:
            while waiting:
                effect = waiting.popleft()
                if isinstance(effect, GroupEffect):
                    self._group_effect(effect)
                else:
                    self._send(effect.to, effect.message)
        finally:
            self._is_performing = False
        if self.core.record is not self._known:
            self._known = self.core.record
            self._changed()

    def _group_effect(self, effect: GroupEffect) -> None:
        what = effect.effect
        match what:
            case Persist():
                self._disk.write(effect.group, effect.rno, what)
            case Led():
                logger.info("the root group is led from here, under %s", tuple(what.ballot))
            case Stopped():
                logger.info("the root group is not led from here any more: %s", what.reason)

    def _send(self, address: int, message: Any) -> None:
        node, part = address & (1 << _PART_BITS) - 1, address >> _PART_BITS
        if part == _OWN_ASKER:
            self._told(node, message)
            return
        kind = type(message)
        if (kind is Frame or kind is HandOver) and message.group != ROOT:
            hosts = self._hosts_of(node)
            if not hosts:
                return
            part = 1 + message.group % hosts
        # To itself nothing goes: what is meant for the own hosts, they get by way of `changed`.
        self._peers.send(node, part, message)


def _is_root(group: int) -> bool:
    return group == ROOT


def _no_service(*_: Any, **__: Any) -> Any:
    raise AssertionError("a supervisor owns no shard")
