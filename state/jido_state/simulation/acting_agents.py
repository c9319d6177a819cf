"""The agents of the simulation of splits: what their turns do, and what can be told of it later.

Every turn leaves a mark in the agent's state: of an agent of type "bag", whose fields are
replicated types, in a counter and in a set; of one of type "line", which has no merge of its own,
at the end of a list. So the states of the end, together with the conflict log, tell which turns
took effect, and how often.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from random import Random
from typing import Any, Final, NamedTuple

import ormsgpack

from jido_state.checking.sessions import Sight
from jido_state.crdt import ORSet, PNCounter
from jido_state.divergence import Entry, Siblings
from jido_state.dots import Actor, Dot, VersionVector
from jido_state.merge import Conflict, Resolve
from jido_state.outbox import OutboxFull
from jido_state.record import Record
from jido_state.requests import Arrival, Commit, Firing, RunTurn
from jido_state.timers import Timer, TimersFull, next_on_grid

__all__ = [
    "BAG",
    "LINE",
    "MORTAL",
    "Bag",
    "Ledger",
    "Work",
    "line_of",
    "names_of",
    "next_due",
    "resolve_of",
    "run_turn",
]

BAG: Final = "bag"
LINE: Final = "line"
MORTAL: Final = "mortal"  # the agent that clients end and make again
_EVERY_MS: Final = 300
_TICKS: Final = 3  # how often a repeating timer fires


class Work(NamedTuple):
    """What a client asks for: "make", "mark", "put", "take", "timer", "ticks" or "emit".

    Attributes:
        what: Which.
        name: Of the operation, equal on all its attempts.
        arg: An item, a delay in milliseconds, or an agent.
        type: Of an agent that is made.
    """

    what: str
    name: str
    arg: Any = None
    type: str = BAG


class Bag(NamedTuple):
    """The state of an agent of type "bag"."""

    counter: PNCounter = PNCounter()
    items: ORSet = ORSet()

    @classmethod
    def of(cls, record: Record) -> "Bag":
        """The state in a record."""
        if not record.state:
            return cls()
        count, items = ormsgpack.unpackb(record.state)
        return cls(PNCounter.from_bytes(count), ORSet.from_bytes(items))

    def to_bytes(self) -> bytes:
        """As a record keeps it."""
        return ormsgpack.packb((self.counter.to_bytes(), self.items.to_bytes()))

    def marked(self, actor: Actor, mark: str) -> "Bag":
        """With one mark more."""
        return Bag(self.counter.increment(actor), self.items.add(actor, mark))

    def marks(self) -> list[str]:
        """What turns left, each with its dot behind the "@"."""
        return [item for item in self.items.value if "@" in item]


def line_of(record: Record) -> list[str]:
    """The state of an agent of type "line"."""
    return list(ormsgpack.unpackb(record.state)) if record.state else []


def _merge_bags(records: Sequence[Record], winner: int) -> tuple[int, bytes]:
    count, items = PNCounter(), ORSet()
    for record in records:
        bag = Bag.of(record)
        count, items = count.merge(bag.counter), items.merge(bag.items)
    return records[winner].schema, Bag(count, items).to_bytes()


def resolve_of(type_: str) -> Resolve | None:
    """The own merge of a type."""
    return _merge_bags if type_ == BAG else None


def next_due(timer: Timer, wall_ms: int) -> int | None:
    """See `Chores`."""
    if not timer.schedule or timer.occurrence >= _TICKS:
        return None
    return next_on_grid(timer.due_ms, _EVERY_MS, wall_ms)


class Ledger:
    """What happened in a run.

    Attributes:
        dots: By agent the dots of all turns that ran, committed or not.
        seen: By agent and dot what that turn had seen, itself included.
        committed: Agents and dots of the turns that a quorum is known to have.
        timers: Timers that turns set, committed or not, by name and dot.
        conflicts: What was not taken when values came together.
        kept: By agent the entries that were durable somewhere, with the node.
        sights: What sessions saw.
        problems: What must not happen.
    """

    def __init__(self) -> None:
        self.dots: dict[str, list[Dot]] = {}
        self.seen: dict[tuple[str, Dot], VersionVector] = {}
        self.committed: set[tuple[str, Dot]] = set()
        self.timers: dict[str, list[Timer]] = {}
        self.conflicts: dict[str, list[Conflict]] = {}
        self.kept: dict[str, list[tuple[int, Entry]]] = {}
        self.sights: list[Sight] = []
        self.problems: list[str] = []

    def turn(self, key: str, dot: Dot, record: Record) -> None:
        """A turn ran on this record."""
        self.dots.setdefault(key, []).append(tuple(dot))
        self.seen[key, tuple(dot)] = record.merged.add(dot)

    def sight(self, session: int, key: str, op: str, merged: VersionVector) -> None:
        """A session was shown what these turns led to, or was told of the last of them."""
        dots = frozenset(dot for dot in self.dots.get(key, ()) if merged.covers(dot))
        self.sights.append(Sight(session, key, op, (), dots))

    def keep(self, node: int, entries: Mapping[str, Siblings | None]) -> None:
        """These entries are durable on a node."""
        for key, siblings in entries.items():
            for entry in siblings.entries if siblings is not None else ():
                self.kept.setdefault(key, []).append((node, entry))

    def holders(self, key: str, dot: Dot) -> set[int]:
        """The nodes where an entry was durable that has seen this turn."""
        return {node for node, one in self.kept.get(key, ()) if one.record.merged.covers(dot)}


def run_turn(
    turn: RunTurn, ledger: Ledger, random: Random, wall_ms: int, failures: float
) -> Commit | None:
    """Runs a handler; None when it fails."""
    request, dot = turn.request, tuple(turn.version)
    record = turn.record
    if request.kind == "fold":
        assert record is not None
        return Commit(_folded(record, request.payload), None)
    if random.random() < failures:
        return None
    if request.kind == "spawn":
        record = Record.blank(type=request.payload.type, level=request.level)
    assert record is not None
    work = _work_of(turn, ledger, wall_ms)
    ledger.turn(request.key, dot, record)
    if request.kind == "stop":
        return Commit(record, (True, dot))
    mark = f"{work.name}@{'.'.join(map(str, dot))}"
    if record.type == LINE:
        record = replace(record, state=ormsgpack.packb([*line_of(record), mark]))
        return Commit(record, (True, dot))
    bag = Bag.of(record).marked(dot[:-1], mark)
    value = True
    if work.what == "put":
        bag = bag._replace(items=bag.items.add(dot[:-1], work.arg))
    elif work.what == "take":
        value = bag.items.has(work.arg)
        bag = bag._replace(items=bag.items.discard(work.arg))
    record = replace(record, state=bag.to_bytes())
    changed = _effects(record, work, dot, wall_ms, ledger)
    return None if changed is None else Commit(changed, (value, dot))


def _work_of(turn: RunTurn, ledger: Ledger, wall_ms: int) -> Work:
    payload = turn.request.payload
    if isinstance(payload, Firing):
        timer = payload.timer
        if turn.is_partitioned:
            ledger.problems.append(f"{timer.key} fires without a quorum")
        if wall_ms < timer.due_ms:
            ledger.problems.append(f"{timer.key} fires {timer.due_ms - wall_ms} ms early")
        return Work("mark", f"fire:{timer.key}:{timer.occurrence}")
    if isinstance(payload, Arrival):
        return Work("mark", payload.signal.payload.decode())
    work: Work = payload
    return work


def _effects(record: Record, work: Work, dot: Dot, wall_ms: int, ledger: Ledger) -> Record | None:
    """With the timer or signal that the work asks for; None when there is no room."""
    if work.what in {"timer", "ticks"}:
        schedule = b"ticks" if work.what == "ticks" else b""
        timer = Timer(f"{work.name}:{dot}", dot, wall_ms + work.arg, 1, schedule, b"")
        timers = record.timers.set(timer)
        if isinstance(timers, TimersFull):
            return None
        ledger.timers.setdefault(work.name, []).append(timer)
        return replace(record, timers=timers)
    if work.what == "emit":
        payload = f"signal:{work.name}:{dot}".encode()
        outbox = record.outbox.add(dot, [(work.arg, payload)], wall_ms)
        return None if isinstance(outbox, OutboxFull) else replace(record, outbox=outbox)
    return record


def _folded(record: Record, actors: Iterable[Actor]) -> Record:
    if record.type == LINE:
        return record
    bag, over = Bag.of(record), list(actors)
    return replace(record, state=Bag(bag.counter.fold(over), bag.items.fold(over)).to_bytes())


def names_of(marks: Iterable[str]) -> Mapping[str, list[Dot]]:
    """The dots of the turns in which each operation left a mark."""
    names: dict[str, list[Dot]] = {}
    for mark in marks:
        name, _, dot = mark.rpartition("@")
        names.setdefault(name, []).append(tuple(map(int, dot.split("."))))
    return names
