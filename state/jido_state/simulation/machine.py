"""One simulated node: its process, its store files, and the groups that run in it."""

from collections import deque
from collections.abc import Callable, Iterable
from random import Random
from typing import Any, NamedTuple

from jido_placement.config import GroupConfig, Replica
from jido_state.group import Group
from jido_state.messages import (
    Accepted,
    Header,
    JointDone,
    LearnerReady,
    Led,
    Persist,
    Row,
    Send,
    Stopped,
)
from jido_state.requests import Answer, Request, RunTurn, Status
from jido_state.settings import GroupSettings
from jido_state.simulation.authority import AUTHORITY, Boot, Configs, Report
from jido_state.simulation.disk import SimDisk, SimStore
from jido_state.simulation.scheduler import Scheduler
from jido_state.simulation.watch import Watch
from jido_state.store import HEADER_KEY, Change, Commit, StoreError, Table
from jido_state.turns import Turns

__all__ = ["Ask", "Directory", "Machine", "Stored", "Told", "World", "is_sound"]

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
    """A client's request.

    Attributes:
        shard: Where the agent lives.
        request: What is asked.
        called_us: When the call was made, in true time: connections do not outlive it for ever.
        left_ms: What is left of its time.
    """

    shard: int
    request: Request
    called_us: int
    left_ms: int


class Told(NamedTuple):
    """The answer to a client."""

    answer: Answer


class World(NamedTuple):
    """What a machine needs of the world around it.

    Attributes:
        scheduler: Time and processes.
        send: Sends from a process to a node, the authority or a client.
        run_turn: Runs a handler.
        watch: Sees what has to hold.
        ended: Told of each process that is gone.
        refused: Told of a process whose data directory the root group does not know.
        settings: Of all groups.
    """

    scheduler: Scheduler
    send: Callable[[int, int, object], None]
    run_turn: Callable[["Machine", int, RunTurn], None]
    watch: Watch
    ended: Callable[["Machine"], None]
    refused: Callable[["Machine"], None]
    settings: GroupSettings


class Directory:
    """A node's data directory: store files, and one small file that is written whole.

    Attributes:
        files: The store files. A shard is in file `shard % hosts`.
        hosts: How many of the files are used, fixed at the first start; 0 before it.
        registered: Boot number and nonce that the root group has confirmed last.
        intent: The pair that it was asked for, while the answer is not known.
    """

    __slots__ = ("files", "hosts", "intent", "registered")

    def __init__(self, files: list[SimDisk[Stored]]) -> None:
        self.files = files
        self.hosts = 0
        self.registered = (0, 0)
        self.intent: tuple[int, int] | None = None

    def copy(self, random: Random) -> "Directory":
        """An image of what is on the platters."""
        other = Directory([file.clone(random) for file in self.files])
        other.hosts, other.registered = self.hosts, self.registered
        other.intent = self.intent
        return other


class _Life:
    """What ends with the process."""

    __slots__ = (
        "asks",
        "boot",
        "configs",
        "groups",
        "is_registered",
        "links",
        "owed",
        "pulled_ms",
        "question",
        "stores",
        "tickets",
        "turns",
    )

    def __init__(self) -> None:
        self.groups: dict[int, Group] = {}
        self.turns: dict[int, Turns] = {}
        self.stores: list[SimStore[Stored]] = []
        self.tickets: list[deque[tuple[int, int, Group, Persist]]] = []  # by file
        self.owed: dict[int, list[tuple[int, Group, Persist]]] = {}  # by full file: to be written
        self.links: dict[int, list[int]] = {}  # call and attempt heard last of each client
        self.configs: Configs | None = None
        self.is_registered = False
        self.boot = (0, 0)  # the pair drawn in this life
        self.asks: Boot | None = None
        self.question = 0  # names this life where an answer to an earlier one would not do
        self.pulled_ms = 0


class Machine:
    """A process that runs a node's replicas; `start` and `crash` are its lives.

    Args:
        node: The node's index, as configs and ballots have it.
        directory: Outlives the process.
        world: What is around it.
        draw: Random numbers of 63 bits for nonces.
        process: Number and address of the process; the node's index but for a second process of
            the same node.
    """

    def __init__(
        self,
        node: int,
        directory: Directory,
        world: World,
        draw: Callable[[], int],
        *,
        process: int | None = None,
    ) -> None:
        self.node = node
        self.process = node if process is None else process
        self.directory = directory
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
        return self._world.scheduler.is_running(self.process)

    def now_ms(self) -> int:
        """The node's monotonic clock."""
        return self._world.scheduler.monotonic_ms(self.node)

    # Lives

    def start(self, hosts: int | None = None, *, is_supervised: bool = False) -> None:
        """A new process opens the store files and goes on from what is in them.

        Args:
            hosts: How many store files the machine would use if the directory had not fixed it.
            is_supervised: Whether the node's boot is registered already: only a host starts again.
        """
        self._world.scheduler.start(self.process)
        life = self._life = _Life()
        life.question = self._draw()
        directory = self.directory
        directory.hosts = directory.hosts or hosts or len(directory.files)
        try:
            for place in range(directory.hosts):
                self._open_file(place)
        except StoreError:
            self.crash()
            return
        self._world.scheduler.after_on(self.process, self.node * 7_000 % TICK_US, self._tick)
        if is_supervised:
            self._registered()
            return
        life.asks = self._next_boot()
        self._ask_boot()

    def _open_file(self, place: int) -> None:
        file = self.directory.files[place]

        def committed(ticket: int, commit: Commit) -> None:
            self._committed(place, ticket, commit)

        if file.is_lost:
            file.format()
        self._life.stores.append(file.open(committed, self.crash, process=self.process))
        self._life.tickets.append(deque())

    def _next_boot(self) -> Boot:
        """What to ask the root group for; first how an ask of an earlier life ended.

        Only a nonce drawn in this life lets the process answer: an image taken while an intent was
        on its way would be confirmed as well.
        """
        directory = self.directory
        if directory.intent is None:
            directory.intent = (directory.registered[0] + 1, self._draw())
            self._life.boot = directory.intent
        return Boot(*directory.intent, directory.registered[1])

    def _ask_boot(self) -> None:
        asks = self._life.asks
        if asks is not None:
            self._world.send(self.process, AUTHORITY, asks)

    def _boot_answered(self, answer: Boot) -> None:
        life = self._life
        directory = self.directory
        if life.asks is None or answer[:3] != life.asks[:3]:
            return  # to an earlier life
        pair = (answer.boot, answer.nonce)
        if not answer.is_granted:
            self._world.refused(self)  # it is an image of a directory that has gone on
            return
        directory.registered, directory.intent = pair, None
        if pair == life.boot:
            life.asks = None
            self._registered()
        else:
            life.asks = self._next_boot()
            self._ask_boot()

    def _registered(self) -> None:
        """The boot is registered: the replicas may answer."""
        life = self._life
        life.is_registered = True
        for store in life.stores:
            for shard in store.shards():
                stored = store.get(Table.HEADER, shard, HEADER_KEY)
                if stored is None or not is_sound(stored, shard, HEADER_KEY):
                    continue  # a spoilt header: that replica is lost
                if store is self._store_of(shard):
                    header, (rows, bad) = stored.content, self._scan(shard)
                    # The store was synced when it was opened.
                    self._world.watch.found(Replica(self.node, header.rno), shard, header, rows)
                    self._open(shard, header, rows, bad)
        self._pull()

    def _store_of(self, shard: int) -> SimStore[Stored]:
        stores = self._life.stores
        return stores[shard % len(stores)]

    def _scan(self, shard: int) -> tuple[dict[str, Row], list[str]]:
        store = self._store_of(shard)
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

        settings = self._world.settings
        turns = life.turns[shard] = Turns(emit, leader, window_ms=settings.dedupe_window_ms)
        life.groups[shard] = Group(
            self.node,
            shard,
            header,
            rows,
            turns,
            settings,
            self.now_ms(),
            bad=bad,
            appended=self._store_of(shard).durable,
            life=life.question,
        )

    def crash(self, *, power: bool = False) -> None:
        """The process is gone; with `power` what the operating system held as well."""
        self._world.scheduler.end(self.process)
        for file in self.directory.files:
            file.crash(power=power, process=None if power else self.process)
        self._life = _Life()
        self._world.ended(self)

    # Time and messages

    def _tick(self) -> None:
        self._world.scheduler.after_on(self.process, TICK_US, self._tick)
        now = self.now_ms()
        life = self._life
        if now - life.pulled_ms >= PULL_MS:
            self._pull()
        for place in list(life.owed):
            self._write_owed(place)
        for shard, group in list(life.groups.items()):
            if group.is_due(now):
                turns = life.turns[shard]
                turns.now_ms = now
                self.perform(shard, group.tick(now, turns.tick))

    def _pull(self) -> None:
        self._life.pulled_ms = self.now_ms()
        self._ask_boot()
        if self._life.is_registered:
            report = Report("pull", question=self._life.question)
            self._world.send(self.process, AUTHORITY, report)

    def receive(self, source: int, message: object) -> None:
        """Something has arrived for this process."""
        life = self._life
        if type(message) is Boot:
            self._boot_answered(message)
        elif not life.is_registered:
            return
        elif type(message) is Frame:
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

    def certain(self, node: int, *, is_gone: bool = True) -> None:
        """Somebody says that the process of that node is gone, or back; perhaps wrongly."""
        now = self.now_ms()
        for shard, group in list(self._life.groups.items()):
            self.perform(shard, group.certain(node, now, is_gone=is_gone))

    def _ask(self, ask: Ask) -> None:
        life = self._life
        now = self.now_ms()
        turns = life.turns.get(ask.shard)
        age_ms = (self._world.scheduler.now_us - ask.called_us) // 1000
        if age_ms > self._world.settings.dedupe_window_ms:
            return  # the connection is long gone: nothing as old as the op ids' memory arrives
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
                if group.header.status == "lost" and group.acceptor.me in config.members:
                    self._report("lost", shard, group.acceptor.me)
            mine = _named(config, self.node)
            if mine is None or (group is not None and group.header.rno >= mine.rno):
                continue
            # What the root group said to an earlier life may be older than the header that is lost.
            if message.asked == self._life.question:
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
        self._open(shard, header, {})
        # The header is reported only after a later look finds it durable: see `_take_configs`.
        self.perform(shard, self._life.groups[shard].make(self.now_ms()))

    def _report(self, kind: str, shard: int, replica: Replica) -> None:
        if kind == "formatted" and not self._life.groups[shard].is_durable:
            return
        self._world.send(self.process, AUTHORITY, Report(kind, shard, replica))

    # Effects

    def perform(self, shard: int, effects: Iterable[Any]) -> None:
        """Does what a group asked for."""
        for effect in effects:
            self._effect(shard, effect)
        group = self._life.groups.get(shard)
        if group is not None:
            group.check()

    def _effect(self, shard: int, effect: Any) -> None:
        world = self._world
        kind = type(effect)
        if kind is Send:
            group = self._life.groups[shard]
            world.watch.sent(shard, effect.message, group.config)
            if type(effect.message) is Accepted:
                world.watch.acked(group.acceptor.me, shard, effect.message.ballot)
            frame = Frame(shard, group.header.rno, effect.message)
            world.send(self.process, effect.to, frame)
        elif kind is Persist:
            self._persist(shard, effect)
        elif kind is Answer:
            self._answer(shard, effect)
        elif kind is RunTurn:
            world.run_turn(self, shard, effect)
        elif kind is Led:
            world.watch.led(self.process, shard, effect.ballot)
        elif kind is Stopped:
            world.watch.stopped(self.process, shard, effect.ballot)
        elif kind is JointDone:
            report = Report("joint", shard, config=effect.config, ballot=effect.ballot)
            world.send(self.process, AUTHORITY, report)
        elif kind is LearnerReady:
            me = Replica(self.node, effect.rno)
            world.send(self.process, AUTHORITY, Report("ready", shard, me, effect.config))

    def _answer(self, shard: int, answer: Answer) -> None:
        leadership = self._life.groups[shard].leadership
        if answer.status is Status.OK and leadership is not None:
            watch = self._world.watch
            watch.answered(shard, answer.version, leadership.config, answer.durability)
        self._world.send(self.process, answer.id[0], Told(answer))

    def _persist(self, shard: int, persist: Persist) -> None:
        life = self._life
        group = life.groups[shard]
        self._world.watch.asked(group.acceptor.me, shard, persist)
        place = shard % len(life.stores)
        if place in life.owed:
            life.owed[place].append((shard, group, persist))
            return
        try:
            ticket = life.stores[place].append(_changes(shard, persist))
        except StoreError:
            return  # an fsync failed while the process was paused: it ends as soon as it hears so
        life.tickets[place].append((ticket, shard, group, persist))

    def _committed(self, place: int, ticket: int, commit: Commit) -> None:
        life = self._life
        now = self.now_ms()
        tickets = life.tickets[place]
        if commit is Commit.FULL:
            self._refused(place)
            return
        while tickets and tickets[0][0] <= ticket:
            _, shard, group, persist = tickets.popleft()
            self._world.watch.durable(group.acceptor.me, shard, persist)
            if life.groups[shard] is group:  # else another assignment has taken its place
                life.turns[shard].now_ms = now
                self.perform(shard, group.persisted(persist.ticket, now, appended=ticket))
        if place in life.owed and not life.owed[place] and not tickets:
            del life.owed[place]
            for shard in self._shards_in(place):
                self.perform(shard, life.groups[shard].store_full(now, is_full=False))

    # A full disk

    def _shards_in(self, place: int) -> list[int]:
        life = self._life
        return [shard for shard in life.groups if shard % len(life.stores) == place]

    def _refused(self, place: int) -> None:
        """What was rolled back stays in the groups' memory: it is written again, in order."""
        life = self._life
        tickets = life.tickets[place]
        back = [(shard, group, persist) for _, shard, group, persist in tickets]
        tickets.clear()
        life.owed[place] = back + life.owed.get(place, [])
        now = self.now_ms()
        for shard in self._shards_in(place):
            life.turns[shard].now_ms = now
            self.perform(shard, life.groups[shard].store_full(now))

    def _write_owed(self, place: int) -> None:
        """Tries again, all as one: what comes later must not be durable before what came first."""
        life = self._life
        tickets, owed = life.tickets[place], life.owed[place]
        if tickets or not owed:
            return
        changes = [each for shard, _, persist in owed for each in _changes(shard, persist)]
        try:
            ticket = life.stores[place].append(changes)
        except StoreError:
            return  # as in `_persist`
        life.owed[place] = []
        tickets.extend((ticket, shard, group, persist) for shard, group, persist in owed)


def _changes(shard: int, persist: Persist) -> list[Change[Stored]]:
    """A group's write as changes of the store."""
    changes: list[Change[Stored]] = []
    if persist.clears:
        changes.append(Change(Table.RECORD, shard, None))
    if persist.header is not None:
        data = Stored(shard, HEADER_KEY, persist.header)
        changes.append(Change(Table.HEADER, shard, HEADER_KEY, data))
    for key, row in persist.rows.items():
        stored = None if row is None else Stored(shard, key, row)
        changes.append(Change(Table.RECORD, shard, key, stored))
    return changes


def _named(config: GroupConfig, node: int) -> Replica | None:
    """The newest assignment of this node in a config; None when there is none."""
    names = [one for one in (*config.members, *config.learners) if one.node == node]
    return max(names, default=None)


def is_sound(stored: object, shard: int, key: str) -> bool:
    """Whether a row is what it was written as: shard and key stand for the checksum."""
    return type(stored) is Stored and stored.shard == shard and stored.key == key
