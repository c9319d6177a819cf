"""An agent whose replicas lose sight of each other: the world that divergence tests play in.

One register, which a quorum changes, and replicas that hold copies of it, act apart and come back.
Every turn does four things that can be told afterwards: it adds itself to the state, sends a
signal, sets a timer and has an op id.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import ormsgpack

from jido_state.crdt import GCounter
from jido_state.dedupe import remember
from jido_state.divergence import NO_SIBLINGS, Entry, Siblings
from jido_state.dots import Acting, Actor, Dot
from jido_state.merge import Conflict, Merged, Resolve, merge
from jido_state.operations import OpId
from jido_state.outbox import NO_RECEIPTS, Outbox, Receipts
from jido_state.record import Record
from jido_state.timers import Timer, Timers
from jido_state.versions import Ballot, Version

NODES = 3


class Turn(NamedTuple):
    """What a turn did, for the judgement at the end."""

    dot: Dot
    op: OpId
    is_acked: bool
    ended: Dot | None  # the timer it cleared


def count(record: Record) -> GCounter:
    return GCounter.from_bytes(record.state) if record.state else GCounter()


def line(record: Record) -> list[tuple[int, ...]]:
    """The turns that led to a state of no replicated type."""
    return [tuple(dot) for dot in ormsgpack.unpackb(record.state)] if record.state else []


def merge_counts(records: Sequence[Record], _: int) -> tuple[int, bytes]:
    merged = GCounter()
    for record in records:
        merged = merged.merge(count(record))
    return 1, merged.to_bytes()


def fail(records: Sequence[Record], winner: int) -> tuple[int, bytes]:
    raise KeyError(records[winner].type)


class Partition:
    """The register, its replicas, and everything that happened.

    Args:
        resolve: The type's merge; None for a type that has none.
    """

    def __init__(self, resolve: Resolve | None) -> None:
        self.resolve = resolve
        self.ballot = Ballot(0, 1, 1, 0)
        self.number = 0
        self.version = self.ballot.version(0)
        self.register: Record | None = None
        self.copies: list[tuple[Version, Record | None]] = [(self.version, None)] * NODES
        self.siblings = [NO_SIBLINGS] * NODES
        self.periods = [1] * NODES
        self.turns: list[Turn] = []
        self.conflicts: list[Conflict] = []
        self.receipts = NO_RECEIPTS
        self.taken: list[Dot] = []
        self.delivered: list[tuple[Dot, int]] = []
        self.wall_ms = 0

    # The register's side

    def next_version(self) -> Version:
        self.number += 1
        return self.ballot.version(self.number)

    def elect(self) -> None:
        self.ballot = self.ballot._replace(round=self.ballot.round + 1)
        self.number = 0

    def turn(self, wall_ms: int = 0, *, clears: bool = False) -> None:
        """A turn with a quorum."""
        self.version = self.next_version()
        self.register = self.made(self.register, self.version, wall_ms, clears=clears)

    def settle(self) -> None:
        """Written again unchanged: another version, the same record."""
        self.version = self.next_version()

    def orphan(self, node: int) -> None:
        """A turn that reaches one replica, and then its leader is deposed."""
        version = self.next_version()
        record = self.made(self.register, version, 0, is_acked=False)
        self.copies[node] = (version, record)
        self.elect()

    def replicate(self, node: int) -> None:
        self.copies[node] = (self.version, self.register)

    # The replicas' side

    def act(self, node: int, wall_ms: int = 0, *, clears: bool = False) -> None:
        """A turn without a quorum."""
        version, record = self.copies[node]
        found = merge(
            record,
            self.siblings[node],
            version=version,
            now_ms=0,
            wall_ms=wall_ms,
            resolve=self.resolve,
        )
        self.conflicts += found.conflicts
        start = record if found.record is None else found.record
        actor = Acting(node, 1, self.periods[node])
        done = [turn.dot for turn in self.turns if turn.dot[:-1] == actor]
        dot = actor.dot(len(done) + 1)
        made = self.made(start, dot, wall_ms, clears=clears)
        siblings = self.siblings[node].add(Entry(dot, version, made))
        assert isinstance(siblings, Siblings)
        row = siblings.to_bytes(0, "k")
        self.siblings[node] = Siblings.from_bytes(0, "k", row)
        assert self.siblings[node] == siblings

    def exchange(self, one: int, two: int) -> None:
        both = self.siblings[one].sync(self.siblings[two])
        assert both == self.siblings[two].sync(self.siblings[one])
        self.siblings[one] = self.siblings[two] = both

    def restart(self, node: int) -> None:
        self.periods[node] += 1

    # Coming back

    def heal(self, siblings: Siblings) -> Merged:
        """The leader merges what a replica sends."""
        version = self.next_version()
        merged = merge(
            self.register,
            siblings,
            version=version,
            now_ms=0,
            wall_ms=self.wall_ms,
            resolve=self.resolve,
        )
        if merged.record is not None:
            self.conflicts += merged.conflicts
            self.version, self.register = version, merged.record
        return merged

    def cover(self, node: int) -> None:
        if self.register is not None:
            self.siblings[node] = self.siblings[node].without(self.register.merged)
            self.restart(node)

    def is_whole(self) -> bool:
        """Whether every replica holds the register and no entries: actors may be folded."""
        return self.register is not None and all(
            copy == (self.version, self.register) and siblings == NO_SIBLINGS
            for copy, siblings in zip(self.copies, self.siblings, strict=True)
        )

    def fold(self) -> None:
        assert self.register is not None
        self.elect()
        self.periods = [period + 1 for period in self.periods]
        actors: list[Actor] = [turn.dot[:-1] for turn in self.turns]
        record = self.register.folded(actors)
        if self.resolve is merge_counts:
            record = replace(record, state=count(record).fold(actors).to_bytes())
        self.version, self.register = self.next_version(), record

    def deliver(self) -> None:
        """The receiver takes what is due; the sender hears of it at its next turn."""
        if self.register is not None:
            for signal in self.register.outbox.due():
                self.take(signal.dot, signal.place)

    def take(self, dot: Dot, place: int) -> None:
        if not self.receipts.has("k", dot, place):
            receipts = self.receipts.add("k", dot, place, now_ms=0)
            assert isinstance(receipts, Receipts)
            self.receipts = receipts
            self.taken.append(dot)
        self.delivered.append((dot, place))

    # Turns

    def made(
        self,
        before: Record | None,
        dot: Dot,
        wall_ms: int,
        *,
        clears: bool = False,
        is_acked: bool = True,
    ) -> Record:
        """What a turn makes of a record."""
        self.wall_ms = max(self.wall_ms, wall_ms)
        is_birth = before is None
        start = Record.blank(type="t") if before is None else before
        if self.resolve is merge_counts:
            state = count(start).increment(dot[:-1]).to_bytes()
        else:
            state = ormsgpack.packb([*line(start), tuple(dot)])
        outbox = start.outbox.without(self.delivered).add(dot, [("b", b"")], 0)
        assert isinstance(outbox, Outbox)
        timers, ended = start.timers, None
        if clears and timers.by_key:
            key = min(timers.by_key)
            due = timers.get(key)
            assert due is not None
            timers, ended = timers.clear(key), due.dot
        set_ = timers.set(Timer(repr(tuple(dot)), dot, 5, 1, b"", b""))
        assert isinstance(set_, Timers)
        op = OpId(f"c{len(self.turns)}", 1)
        self.turns.append(Turn(tuple(dot), op, is_acked, ended))
        record = replace(start, state=state, outbox=outbox, timers=set_)
        dedupe = remember(record.dedupe, op, b"", now_ms=0)
        generation = dot if is_birth else start.generation
        born_op = op if is_birth else start.born_op
        if isinstance(dot, Version):
            return record.completed(
                version=dot, generation=generation, born_op=born_op, dedupe=dedupe, wall_ms=wall_ms
            )
        return record.acted(
            dot=dot, generation=generation, born_op=born_op, dedupe=dedupe, wall_ms=wall_ms
        )
