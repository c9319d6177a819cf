"""The replicas of one host process: runs the core for its shards, and performs what it asks for.

Theory. The core (`jido_state.node`) decides, this carries out. Effects are performed in the order
in which they were asked for, whatever performing one of them asks for in turn: else a later write
could reach the disk before an earlier one. Writes of all groups in one pass of the loop share a
commit of the store, messages to one process share a frame; so one slow disk or peer costs one wait
for everybody, and not one for each agent.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, Protocol

from jido_cluster.ports import Disk, Peers, WallClock
from jido_cluster.runtime.peer_messages import Leads, Standing
from jido_cluster.runtime.view import Lead, StandIn
from jido_placement.policies import Strategy
from jido_placement.record import ROOT, Record
from jido_state.chores import DeadLetter, Deliver, GaveUp
from jido_state.entries import PersistEntries
from jido_state.leadership import Leadership
from jido_state.levels import first_voter
from jido_state.messages import UNREAD, Led, Persist, Stopped
from jido_state.node import Node
from jido_state.node_messages import Frame, GroupEffect, HandOver, ToNode
from jido_state.record import Record as AgentRecord
from jido_state.requests import Answer, Commit, Request, RunMerge, RunTurn
from jido_state.service import Service
from jido_state.versions import Version

logger = logging.getLogger(__name__)

TICK_SECONDS: Final = 0.1
RANK_SECONDS: Final = 0.3
# For how long a turn that has ended waits, at most, for those before it to be committed. A commit
# takes about as long on a busy host, and a tenth of it on an idle one.
GATHER_SECONDS: Final = 0.010
# How long nobody has been heard to lead, an election's time not counted, until somebody stands in.
# Elections that only just take place are awaited.
STAND_IN_SECONDS: Final = 2.0
# Without a leader until callers are told so, beyond the 2.5 s after which one is given up: time for
# two elections and more, when too few voters are within reach to elect one.
NO_QUORUM_SECONDS: Final = 6.0
# When enough are, and the machine is busy; or none was heard of yet, since all nodes are starting.
ELECTING_SECONDS: Final = 30.0
REPORT_SECONDS: Final = 1.0  # between reports of what has not changed
# Addresses of the core: a node's index, with the part of the process above it (`node_messages`).
_INDEX_BITS: Final = 16
_INDEX: Final = (1 << _INDEX_BITS) - 1
RETIRE_LOOK: Final = 0.01  # seconds between looks at what is still led
AGAIN_SECONDS: Final = 0.3  # a leader that hands over refuses turns for 0.25 s, then goes on
HANDED_AT_ONCE: Final = 16  # leaderships on their way: each waits for those before it at its heir
HURRIED: Final = 5  # places in the order of candidates: of a group moving from 3 replicas to 3
SUPERVISOR: Final = 0  # the part of a node that holds the root group's replica
NOT_READ: Final = object()  # a record that has to be settled or fetched first


class Asking(Protocol):
    """Who asked for something; the id of its request."""

    def run(self, turn: RunTurn) -> None:
        """Its turn is to be run."""
        ...

    def answered(self, answer: Answer) -> None:
        """It has ended."""
        ...


class Upper(Protocol):
    """What the host does for its replicas."""

    def run_own(self, shard: int, turn: RunTurn) -> None:
        """Run a turn that nobody asked for: a timer's."""
        ...

    def merge(self, shard: int, merge: RunMerge) -> None:
        """Merge what was done apart."""
        ...

    def deliver(self, shard: int, effect: Deliver) -> None:
        """Deliver a signal from an agent's outbox."""
        ...

    def dead_letter(self, shard: int, effect: DeadLetter) -> None:
        """Keep a signal that could not be delivered."""
        ...

    def may_hand_over(self, shard: int) -> bool:
        """Whether nothing runs there that the next leader could not take up."""
        ...

    def led(self, shard: int) -> None:
        """The shard is led from here now."""
        ...

    def stopped(self, shard: int, reason: str) -> None:
        """It is not any more."""
        ...


def part_of_shard(shard: int, hosts: int) -> int:
    """Which process of a node with so many hosts has the replicas of a shard."""
    return SUPERVISOR if shard == ROOT else 1 + shard % hosts


class Replicas:
    """Drives the core of one host process. Bound to the loop that made it.

    Args:
        core: The process's replicas.
        part: Of the node: which of its host processes this is, from 1.
        peers: Carries messages to the other processes.
        disk: Makes writes durable.
        wall: Time for people.
        hosts_of: Number of host processes of a node; 0 while it is not known.
        upper: The host.
        tick_seconds: Pause between ticks.
        rank_seconds: How long each candidate lets the one before it begin first: `rank_ms` of
            the groups, or more.
    """

    def __init__(
        self,
        core: Node,
        part: int,
        *,
        peers: Peers,
        disk: Disk,
        wall: WallClock,
        hosts_of: Callable[[int], int],
        upper: Upper,
        tick_seconds: float = TICK_SECONDS,
        rank_seconds: float = RANK_SECONDS,
    ) -> None:
        self.core = core
        self.part = part
        self._peers = peers
        self._disk = disk
        self._wall = wall
        self._hosts_of = hosts_of
        self._gone: set[tuple[int, int]] = set()  # processes, by node and part
        self._upper = upper
        self._tick_seconds = tick_seconds
        self._rank_seconds = rank_seconds
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[ToNode | GroupEffect] = deque()
        self._is_performing = False
        # Turns that have run, by shard: key, version and what they want; not handed on yet.
        self._ended: dict[int, list[tuple[str, Any, Commit]]] = {}
        self._committing: list[int] = []  # shards of those that were handed on last
        self._gathering: asyncio.TimerHandle | None = None
        self._gather_until = 0.0
        self._ticking: asyncio.TimerHandle | None = None
        self._hurrying: asyncio.TimerHandle | None = None
        self._hurried = 0
        self._reported: Leads | None = None
        self._reported_at = 0.0
        self._kinds: dict[type, Callable[[int, Any], None]] = {
            RunTurn: self._run_turn,
            Answer: self._answer,
            RunMerge: upper.merge,
            Deliver: upper.deliver,
            DeadLetter: upper.dead_letter,
            GaveUp: self._gave_up,
            Led: self._led,
            Stopped: self._stopped,
        }

    def start(self) -> None:
        """Begin to take part."""
        self._disk.start(self)
        self._peers.start(self)
        # Later in this pass of the loop: processes that start together hear each other.
        self._ticking = self._loop.call_later(0, self._tick)
        self.hurry()

    def close(self) -> None:
        """Stop at once, as a crash would."""
        for timer in (self._ticking, self._hurrying, self._gathering):
            if timer is not None:
                timer.cancel()
        self._ended.clear()
        self._peers.close()
        self._disk.close()

    def _now(self) -> int:
        self.core.wall_ms = int(self._wall() * 1000)
        return int(self._loop.time() * 1000)

    def _tick(self) -> None:
        self._ticking = self._loop.call_later(self._tick_seconds, self._tick)
        self.tick()
        self._report(is_again=True)

    def tick(self) -> None:
        """Let time pass in all replicas."""
        self._perform(self.core.tick(self._now()))

    def look(self, shard: int) -> None:
        """Let time pass in one replica: a timer of it is due."""
        if shard in self.core.groups:
            self._perform(self.core.step(shard, self._now(), Service.tick))

    def hurry(self) -> None:
        """Let candidates begin when it is their turn, whenever the next tick may be."""
        if self._hurrying is not None:
            self._hurrying.cancel()
        self._hurried = 0
        self._hurrying = self._loop.call_later(0, self._hurry)

    def _hurry(self) -> None:
        self._hurrying = None
        if self._hurried < HURRIED:
            self._hurried += 1
            self._hurrying = self._loop.call_later(self._rank_seconds, self._hurry)
        self.tick()

    # -- what the host asks

    @property
    def record(self) -> Record:
        """The newest committed record of the cluster that this process knows."""
        return self.core.record

    def leadership(self, shard: int) -> Leadership | None:
        """The shard's leadership, when it is led here."""
        group = self.core.groups.get(shard)
        return None if group is None else group.leadership

    def lead(self, shard: int) -> Lead | None:
        """Who leads the shard, as far as its replica here has heard; None when nobody is heard."""
        group = self.core.groups.get(shard)
        if group is None or group.leader is None:
            return None
        leadership = group.leadership
        if leadership is None and group.leader == self.core.node:
            return None
        recovery, config, round_, node = group.heard if leadership is None else leadership.ballot
        return Lead((recovery, config, round_, node), group.leader)

    def silence(self, shard: int) -> float:
        """Seconds since the shard's leader was given up by its replica here; 0 while one leads."""
        service = self.core.services.get(shard)
        if service is None or shard not in self.core.groups:
            return 0.0
        return service.leaderless_ms / 1000

    def may_be_led(self, shard: int) -> bool:
        """Whether a leader is to be expected: what needs one had rather wait than be refused."""
        silence = self.silence(shard)
        if silence < NO_QUORUM_SECONDS or self.is_starting(shard):
            return True
        core = self.core
        near = core.reachable - {node for node, _ in self._gone} | {core.node}
        config = core.groups[shard].config
        is_electing = config.is_quorum([one for one in config.members if one.node in near])
        return is_electing and silence < ELECTING_SECONDS

    def is_starting(self, shard: int) -> bool:
        """Whether no leader was heard of yet, nor could have been if all nodes start again."""
        service = self.core.services.get(shard)
        is_new = service is not None and not service.was_led
        return is_new and self.silence(shard) < ELECTING_SECONDS

    def server(self, shard: int) -> Lead | StandIn | None:
        """Whom to ask about the shard: its leader, or who stands in; None while that is not clear.

        Who stands in is the first voter within reach, in the order of preference.
        """
        lead = self.lead(shard)
        if lead is not None or self.silence(shard) < STAND_IN_SECONDS:
            return lead
        core = self.core
        first = first_voter(core.groups[shard].config, core.reachable | {core.node})
        return None if first is None else StandIn(first)

    def held(self, shard: int, key: str) -> AgentRecord | None:
        """One record that is held here of an agent, by nobody's order: its type is what counts.

        One that lives before a tombstone; what was done without a quorum before the register.
        """
        group, service = self.core.groups.get(shard), self.core.services.get(shard)
        if group is None or service is None:
            return None
        row = group.acceptor.rows.get(key)
        entries = service.entries.get(key).entries
        records: list[AgentRecord] = [entry.record for entry in entries]
        if row is not None and not any(entry.base == row.version for entry in entries):
            records.append(row.content)
        return next((one for one in records if not one.is_tomb), records[0] if records else None)

    def held_by(self, shard: int, durability: str) -> str:
        """What an answer rests on: a quorum of one is one disk."""
        group = self.core.groups.get(shard)
        if durability == "quorum" and group is not None and len(group.config.voters) == 1:
            return "local"
        return durability

    def led_shards(self) -> list[int]:
        """The shards that are led here, sorted."""
        groups = self.core.groups.items()
        return sorted(number for number, group in groups if group.leadership is not None)

    def peek(self, shard: int, key: str) -> Any:
        """The committed record of an agent here; None for no agent, `NOT_READ` when unknown yet."""
        leadership = self.leadership(shard)
        if leadership is None or not leadership.is_readable(key):
            return NOT_READ
        row = leadership.view.get(key)
        return None if row is None or row.content.is_tomb else row.content

    def records(self, shard: int) -> Iterable[tuple[str, AgentRecord]]:
        """The agents of a shard led here, whose records are here already."""
        leadership = self.leadership(shard)
        if leadership is not None:
            for key, row in leadership.view.items():
                if row.content is not UNREAD and not row.content.is_tomb:
                    yield key, row.content

    def submit(self, shard: int, request: Request) -> None:
        """Ask for an operation; the request's id hears what becomes of it, now or later.

        Without a replica of the shard here the request is answered `NOT_LEADER`.
        """
        self._perform(self.core.submit_request(shard, request, self._now()))

    def end(self, shard: int, key: str, version: Any, commit: Commit | None) -> None:
        """A turn has run: commit what it wants; None when its handler failed.

        Turns that end in one pass of the loop are handed on together, after it: those of a shard
        share a write and a message to each follower. While some are on their way, those that end
        meanwhile wait for them, but not for long: under load there are fewer and larger messages.
        """
        if commit is None:
            step = self.core.step(shard, self._now(), Service.end, key, version, commit)
            self._perform(step)
            return
        if not self._ended:
            self._loop.call_soon(self._end_all)
            self._gather_until = self._loop.time() + GATHER_SECONDS
        self._ended.setdefault(shard, []).append((key, version, commit))

    def _end_all(self) -> None:
        """Hand on the turns that have ended, if none before them is on its way or it is time."""
        if not self._ended:
            return
        if self._are_committing() and self._loop.time() < self._gather_until:
            if self._gathering is None:
                self._gathering = self._loop.call_at(self._gather_until, self._end_late)
            return
        ended, self._ended = self._ended, {}
        self._committing = list(ended)
        now = self._now()
        for shard, turns in ended.items():
            self._perform(self.core.step(shard, now, Service.end_all, turns))

    def _end_late(self) -> None:
        self._gathering = None
        self._end_all()

    def _are_committing(self) -> bool:
        """Whether a turn of those that were handed on last is not committed yet."""
        shards = self._committing
        while shards:
            leadership = self.leadership(shards[-1])
            if leadership is not None and not leadership.is_idle:
                return True
            shards.pop()
        return False

    def end_merge(self, shard: int, key: str, version: Version, merged: Any) -> None:
        """A merge has run; None when it could not be made."""
        step = self.core.step(shard, self._now(), Service.end_merge, key, version, merged)
        self._perform(step)

    def hand_over(self, shard: int, to: int) -> bool:
        """Pass the shard's leadership to another node; False when it is to be asked again later."""
        if self.leadership(shard) is None or to == self.core.node:
            return True
        return self._hand_over(HandOver(shard, to))

    def _hand_over(self, message: HandOver) -> bool:
        if not self._upper.may_hand_over(message.group):
            return False  # who plans asks for as long as the shard is led here
        self._perform(self.core.receive(self.core.node, message, self._now()))
        return True

    async def retire(self, seconds: float) -> int:
        """Pass on all that is led here, because the process is about to end.

        What runs there that the next leader cannot take up has half of the time to end.

        Args:
            seconds: How long that may take, > 0.

        Returns:
            How many shards are still led: those without another voter in reach, too.
        """
        start, asked = self._loop.time(), dict[int, float]()
        handed: dict[int, None] = {}
        # Until the heirs are heard to lead: what they learn before may have to come from here.
        while (led := self.led_shards()) or any(self.lead(one) is None for one in handed):
            handed.update(dict.fromkeys(led))
            passed = self._loop.time() - start
            if passed >= seconds:
                break
            asked = {
                one: at for one, at in asked.items() if one in led and passed - at < AGAIN_SECONDS
            }
            for shard in led:
                if len(asked) >= HANDED_AT_ONCE:
                    break
                may = passed > seconds / 2 or self._upper.may_hand_over(shard)
                heir = self._heir(shard) if may and shard not in asked else None
                if heir is not None:
                    asked[shard] = passed
                    message = HandOver(shard, heir)
                    self._perform(self.core.receive(self.core.node, message, self._now()))
            await asyncio.sleep(RETIRE_LOOK)
        return len(led)

    def _heir(self, shard: int) -> int | None:
        """Who is to lead a shard after this process: the first in order that can."""
        config = self.core.groups[shard].config
        able = self.core.reachable - {self.core.node}
        return next((one.node for one in config.joining or config.voters if one.node in able), None)

    def delivered(self, shard: int, effect: Deliver | DeadLetter, *, is_done: bool) -> None:
        """A signal has been taken, or not."""
        tell = Service.delivered if is_done else Service.undelivered
        names = [effect.signal.name]
        self._perform(self.core.step(shard, self._now(), tell, effect.key, names))

    # -- what others tell

    def received(self, node: int, part: int, messages: list[Any]) -> None:
        """Messages of another process have come."""
        now = self._now()
        for message in messages:
            if type(message) is Standing:
                self._stand(message)
            elif type(message) is HandOver:
                self._hand_over(message)
            else:
                sender = node if type(message) is Frame else node | part << _INDEX_BITS
                self._perform(self.core.receive(sender, message, now))
        self._end_all()

    def _stand(self, standing: Standing) -> None:
        core = self.core
        core.reachable = frozenset(standing.reachable)
        core.admitted = frozenset(Strategy(name) for name in standing.admitted)

    def gone(self, node: int, part: int) -> None:
        """The process that holds the other replicas of some shards is dead, for certain."""
        self._gone.add((node, part))
        self._certain(node, part, is_gone=True)

    def back(self, node: int, part: int) -> None:
        """There is one again."""
        self._gone.discard((node, part))
        self._certain(node, part, is_gone=False)

    def seems_gone(self, node: int) -> bool:
        """Whether the node is silent, or one of its processes is dead; a guess."""
        reachable = self.core.reachable  # empty until the supervisor has told
        is_silent = bool(reachable) and node not in reachable
        return is_silent or any(node == one for one, _ in self._gone)

    def _certain(self, node: int, part: int, *, is_gone: bool) -> None:
        hosts = self._hosts_of(node)
        if part == SUPERVISOR or not hosts:
            return
        now = self._now()
        for number in list(self.core.groups):
            if part_of_shard(number, hosts) == part:
                self._perform(self.core.certain(number, node, now, is_gone=is_gone))
        # Who is gone is succeeded at once; who is back is asked again at once.
        self.hurry()

    def durable(
        self, written: Sequence[tuple[int, int, Persist | PersistEntries]], appended: int
    ) -> None:
        """These writes are durable; in their order."""
        now = self._now()
        last: dict[tuple[int, int, type], int] = {}
        for group, rno, effect in written:
            last[group, rno, type(effect)] = effect.ticket
        core = self.core
        for (group, rno, kind), ticket in last.items():
            if kind is Persist:
                self._perform(core.persisted(group, rno, ticket, now, appended=appended))
            else:
                self._perform(core.entries_persisted(group, ticket, now))
        self._end_all()

    def full(self, *, is_full: bool) -> None:
        """The disk is full, or has room again."""
        self._perform(self.core.store_full(self._now(), is_full=is_full))

    # -- effects

    def _perform(self, effects: list[ToNode | GroupEffect]) -> None:
        waiting = self._waiting
        waiting.extend(effects)
        if self._is_performing:
            return
        self._is_performing = True
        try:
            while waiting:
                effect = waiting.popleft()
                if type(effect) is GroupEffect:
                    group, rno, what = effect
                    kind = type(what)
                    if kind is Persist or kind is PersistEntries:
                        self._disk.write(group, rno, what)
                    else:
                        self._kinds[kind](group, what)
                else:
                    self._send(effect)  # type: ignore[arg-type]
        finally:
            self._is_performing = False

    def _send(self, effect: ToNode) -> None:
        message = effect.message
        node, part = effect.to & _INDEX, effect.to >> _INDEX_BITS
        if isinstance(message, Frame | HandOver):
            hosts = self._hosts_of(node)
            if hosts:
                self._peers.send(node, part_of_shard(message.group, hosts), message)
        else:
            self._peers.send(node, part, message)

    def _run_turn(self, shard: int, turn: RunTurn) -> None:
        asking = turn.request.id
        if isinstance(asking, tuple):  # the core's own work
            self._upper.run_own(shard, turn)
        else:
            asking.run(turn)

    def _answer(self, _: int, answer: Answer) -> None:
        answer.id.answered(answer)

    def _gave_up(self, _: int, effect: GaveUp) -> None:
        logger.error("timer %r of agent %s failed too often", effect.timer.key, effect.key)

    def _led(self, shard: int, _: Led) -> None:
        self._upper.led(shard)
        self._report()

    def _stopped(self, shard: int, effect: Stopped) -> None:
        self._upper.stopped(shard, effect.reason)
        self._report()

    def _report(self, *, is_again: bool = False) -> None:
        """Tell the node's supervisor what is led here."""
        rows = []
        for number, group in sorted(self.core.groups.items()):
            if group.leadership is not None:
                recovery, config, round_, node = group.leadership.ballot
                rows.append((number, (recovery, config, round_, node)))
        leads = Leads(tuple(rows))
        now = self._loop.time()
        is_due = is_again and now - self._reported_at >= REPORT_SECONDS
        if is_due or leads != self._reported:
            self._reported, self._reported_at = leads, now
            self._peers.send(self.core.node, SUPERVISOR, leads)
