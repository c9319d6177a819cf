"""One simulated node: its process, its store files, and the groups that run in it."""

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from jido_placement.config import GroupConfig, Replica
from jido_state.group import Group
from jido_state.messages import (
    Header,
    JointDone,
    LearnerReady,
    Led,
    Persist,
    Row,
    Send,
    Stopped,
)
from jido_state.settings import GroupSettings
from jido_state.simulation.authority import AUTHORITY, Configs, Report
from jido_state.simulation.disk import SimDisk, SimStore
from jido_state.simulation.scheduler import Scheduler
from jido_state.store import HEADER_KEY, Change, Commit, StoreError, StoreLostError, Table
from jido_state.turns import Answer, Request, RunTurn, Turns

__all__ = ["Ask", "Machine", "Stored", "Told", "World", "is_sound"]

TICK_US = 100_000
PULL_MS = 500


class Stored(NamedTuple):
    """What a store row holds: its own name beside the content, as a checksum covers it."""

    shard: int
    key: str
    content: Any


class Frame(NamedTuple):
    """A group message between two nodes."""

    shard: int
    rno: int
    message: Any


class Ask(NamedTuple):
    """A client's request; `left_ms` is what is left of its time."""

    shard: int
    request: Request
    left_ms: int


class Told(NamedTuple):
    """The answer to a client."""

    answer: Answer


class World(NamedTuple):
    """What a machine needs of the world around it."""

    scheduler: Scheduler
    send: Callable[[int, int, object], None]
    run_turn: Callable[["Machine", int, RunTurn], None]
    watch: Any  # `Watch`: sees what has to hold
    settings: GroupSettings
    shards: int


class _Life:
    """What ends with the process."""

    __slots__ = (
        "configs",
        "groups",
        "is_registered",
        "links",
        "pulled_ms",
        "store",
        "tickets",
        "turns",
    )

    def __init__(self) -> None:
        self.groups: dict[int, Group] = {}
        self.turns: dict[int, Turns] = {}
        self.store: SimStore[Stored] | None = None
        self.tickets: deque[tuple[int, int, Persist]] = deque()  # store ticket, shard, what
        self.links: dict[int, list[int]] = {}  # call and attempt heard last of each client
        self.configs: Configs | None = None
        self.is_registered = False
        self.pulled_ms = 0


class Machine:
    """A node with one store file. `start` and `crash` are its lives.

    Args:
        node: Its index and address.
        disk: Its store file, which outlives the process.
        world: What is around it.
        draw: Random numbers of 63 bits for nonces.
    """

    def __init__(
        self, node: int, disk: SimDisk[Stored], world: World, draw: Callable[[], int]
    ) -> None:
        self.node = node
        self.disk = disk
        self._world = world
        self._draw = draw
        self._life = _Life()

    @property
    def groups(self) -> dict[int, Group]:
        """The replicas of the present process, by shard."""
        return self._life.groups

    @property
    def turns(self) -> dict[int, Turns]:
        """Their operations."""
        return self._life.turns

    @property
    def is_up(self) -> bool:
        """Whether a process runs here, be it paused."""
        return self._world.scheduler.is_running(self.node)

    def now_ms(self) -> int:
        """The node's monotonic clock."""
        return self._world.scheduler.monotonic_ms(self.node)

    # Lives

    def start(self) -> None:
        """A new process opens the store and goes on from what is in it."""
        scheduler = self._world.scheduler
        scheduler.start(self.node)
        life = self._life = _Life()
        try:
            life.store = self.disk.open(self._committed, self.crash)
        except StoreLostError:
            self.disk.format()
            life.store = self.disk.open(self._committed, self.crash)
        except StoreError:
            self.crash()
            return
        for shard in life.store.shards():
            stored = life.store.get(Table.HEADER, shard, HEADER_KEY)
            if stored is None or not is_sound(stored, shard, HEADER_KEY):
                continue  # a spoilt header: that replica is lost
            rows, bad = self._scan(shard)
            self._open(shard, stored.content, rows, bad)
        scheduler.after_on(self.node, self.node * 7_000 % TICK_US, self._tick)
        self._pull()

    def _scan(self, shard: int) -> tuple[dict[str, Row], list[str]]:
        store = self._life.store
        assert store is not None
        rows: dict[str, Row] = {}
        bad: list[str] = []
        after: str | None = None
        while page := store.scan(Table.RECORD, shard, after):
            for key, stored in page:
                if is_sound(stored, shard, key):
                    rows[key] = stored.content
                else:
                    bad.append(key)
            after = page[-1][0]
        return rows, bad

    def _open(
        self, shard: int, header: Header, rows: dict[str, Row], bad: Iterable[str] = ()
    ) -> None:
        life = self._life
        group_of = life.groups.get

        def leader() -> int | None:
            group = group_of(shard)
            return None if group is None else group.leader

        def emit(effect: Any) -> None:
            self._effect(shard, effect)

        turns = life.turns[shard] = Turns(
            emit, leader, window_ms=self._world.settings.dedupe_window_ms
        )
        life.groups[shard] = Group(
            self.node,
            shard,
            header,
            rows,
            turns,
            self._world.settings,
            self.now_ms(),
            bad=bad,
        )

    def crash(self, *, power: bool = False) -> None:
        """The process is gone; with `power` what the operating system held as well."""
        self._world.scheduler.end(self.node)
        self.disk.crash(power=power)
        self._world.watch.ended(self.node)
        self._life = _Life()

    # Time and messages

    def _tick(self) -> None:
        self._world.scheduler.after_on(self.node, TICK_US, self._tick)
        now = self.now_ms()
        life = self._life
        if now - life.pulled_ms >= PULL_MS:
            self._pull()
        for shard, group in list(life.groups.items()):
            turns = life.turns[shard]
            turns.now_ms = now
            self.perform(shard, group.tick(now))
            self.perform(shard, group.step(now, turns.tick))

    def _pull(self) -> None:
        self._life.pulled_ms = self.now_ms()
        self._world.send(self.node, AUTHORITY, Report("pull"))

    def receive(self, source: int, message: object) -> None:
        """Something has arrived for this process."""
        life = self._life
        if type(message) is Frame:
            group = life.groups.get(message.shard)
            if group is not None:
                sender = Replica(source, message.rno)
                now = self.now_ms()
                life.turns[message.shard].now_ms = now
                self.perform(message.shard, group.receive(sender, message.message, now))
        elif type(message) is Ask:
            self._ask(message)
        elif type(message) is Configs:
            self._take_configs(message)

    def _ask(self, ask: Ask) -> None:
        life = self._life
        now = self.now_ms()
        turns = life.turns.get(ask.shard)
        address, *attempt = ask.request.id
        if attempt <= life.links.get(address, []):
            return  # a link has numbers: it delivers nothing twice, and nothing that is overtaken
        life.links[address] = attempt
        request = ask.request._replace(due_ms=now + ask.left_ms)
        if turns is not None:
            turns.now_ms = now
            effects = life.groups[ask.shard].step(now, turns.submit, request)
            self.perform(ask.shard, effects)

    def end_turn(self, shard: int, key: str, version: Any, commit: Any) -> None:
        """A handler has come to its end in this process."""
        life = self._life
        turns = life.turns.get(shard)
        if turns is not None:
            now = self.now_ms()
            turns.now_ms = now
            self.perform(shard, life.groups[shard].step(now, turns.end, key, version, commit))

    # Configs

    def _take_configs(self, message: Configs) -> None:
        now = self.now_ms()
        for shard, config in sorted(message.configs.items()):
            group = self._life.groups.get(shard)
            if group is not None:
                self.perform(shard, group.adopt(config, now))
                if group.header.status == "pending":
                    if (shard, group.acceptor.me) in message.formatted:
                        self.perform(shard, group.formatted(now))
                    else:
                        self._report("formatted", shard, group.acceptor.me)
                    continue
            mine = _named(config, self.node)
            if mine is not None and (group is None or group.header.rno < mine.rno):
                self._assigned(shard, config, mine, message.formatted)

    def _assigned(
        self,
        shard: int,
        config: GroupConfig,
        mine: Replica,
        formatted: frozenset[tuple[int, Replica]],
    ) -> None:
        """A config names a replica of this node that has no header here."""
        if (shard, mine) in formatted:
            # It had one: the store is lost. Never make a second.
            self._report("lost", shard, mine)
            return
        group = self._life.groups.get(shard)
        promised = None if group is None else group.header.promised
        header = Header(mine.rno, "pending", config)
        if promised is not None:
            header = header._replace(promised=promised)
        store = self._life.store
        assert store is not None
        store.append(
            [
                Change(Table.RECORD, shard, None),
                Change(Table.HEADER, shard, HEADER_KEY, Stored(shard, HEADER_KEY, header)),
            ]
        )
        # The header is reported only after a later look finds it durable: see `_take_configs`.
        self._open(shard, header, {})

    def _report(self, kind: str, shard: int, replica: Replica) -> None:
        store = self._life.store
        if kind == "formatted" and (store is None or store.unfinished()):
            return  # the header may not be durable yet
        self._world.send(self.node, AUTHORITY, Report(kind, shard, replica))

    # Effects

    def perform(self, shard: int, effects: Iterable[Any]) -> None:
        """Does what a group asked for."""
        for effect in effects:
            self._effect(shard, effect)

    def _effect(self, shard: int, effect: Any) -> None:
        world = self._world
        kind = type(effect)
        if kind is Send:
            rno = self._life.groups[shard].header.rno
            world.watch.sent(self.node, shard, effect.message)
            world.send(self.node, effect.to, Frame(shard, rno, effect.message))
        elif kind is Persist:
            self._persist(shard, effect)
        elif kind is Answer:
            world.watch.answered(effect)
            world.send(self.node, effect.id[0], Told(effect))
        elif kind is RunTurn:
            world.run_turn(self, shard, effect)
        elif kind is Led:
            world.watch.led(self.node, shard, effect.ballot)
        elif kind is Stopped:
            world.watch.stopped(self.node, shard, effect.ballot, effect.reason)
        elif kind is JointDone:
            report = Report("joint", shard, config=effect.config, ballot=effect.ballot)
            world.send(self.node, AUTHORITY, report)
        elif kind is LearnerReady:
            me = Replica(self.node, effect.rno)
            world.send(self.node, AUTHORITY, Report("ready", shard, me, effect.config))

    def _persist(self, shard: int, persist: Persist) -> None:
        life = self._life
        store = life.store
        assert store is not None
        changes: list[Change[Stored]] = []
        if persist.clears:
            changes.append(Change(Table.RECORD, shard, None))
        if persist.header is not None:
            data = Stored(shard, HEADER_KEY, persist.header)
            changes.append(Change(Table.HEADER, shard, HEADER_KEY, data))
        for key, row in persist.rows.items():
            stored = None if row is None else Stored(shard, key, row)
            changes.append(Change(Table.RECORD, shard, key, stored))
        life.tickets.append((store.append(changes), shard, persist))

    def _committed(self, ticket: int, commit: Commit) -> None:
        life = self._life
        now = self.now_ms()
        if commit is Commit.FULL:
            # What was rolled back is gone from the file, and not from the groups' memory.
            self.crash()
            return
        while life.tickets and life.tickets[0][0] <= ticket:
            _, shard, persist = life.tickets.popleft()
            if persist.header is not None:
                self._world.watch.promised(self.node, shard, persist.header)
            life.turns[shard].now_ms = now
            self.perform(shard, life.groups[shard].persisted(persist.ticket, now))


def _named(config: GroupConfig, node: int) -> Replica | None:
    """The newest assignment of this node in a config; None when there is none."""
    names = [one for one in (*config.members, *config.learners) if one.node == node]
    return max(names, default=None)


def is_sound(stored: object, shard: int, key: str) -> bool:
    """Whether a row is what it was written as: shard and key stand for the checksum."""
    return type(stored) is Stored and stored.shard == shard and stored.key == key
