"""Cores: how many writes the replication core handles, and how fast an agent's replicas are found.

A group of three replicas in one process: messages are handed over as calls and every write is
durable at once, so that what is measured is the core and nothing else. The leader's figure is the
CPU time of everything it does for a write (the operation, its turn, two acks); the follower's that
of storing and acking it. Contents are kept as they are: encoding is the store's.
"""

import time
from collections.abc import Iterable
from typing import Any, Final

from benchmarks.here import Here
from benchmarks.report import Bar, Comparison, Samples
from jido_placement import Member, build_table, shard_of
from jido_placement.config import GroupConfig, Replica
from jido_state.group import Group
from jido_state.messages import Header, Message, Persist, Send
from jido_state.operations import OpId
from jido_state.record import Record
from jido_state.requests import Answer, Commit, Request, RunTurn, Status
from jido_state.settings import GroupSettings
from jido_state.turns import Turns
from jido_state.versions import Version

BATCH: Final = 64  # operations that arrive together
NODES: Final = 100
SHARDS: Final = 4096
VOTERS: Final = tuple(Replica(node, node + 1) for node in range(3))

COMPARISONS: Final = (
    Comparison("leader", "cores", "writes a leader handles", "/s", "the bar", Bar(">=", 1)),
    Comparison("follower", "cores", "writes a follower stores", "/s", "the bar", Bar(">=", 1)),
    Comparison("look-up", "cores", "an id's leader and replicas", "/s", "the bar", Bar(">=", 1)),
    Comparison("table", "cores", "a first table, 1000 nodes", "s", "the bar", Bar("<=", 1)),
)
BARS: Final = {"leader": 50_000, "follower": 100_000, "look-up": 1_000_000, "table": 10.0}


class Trio:
    """Three replicas of one group, joined by calls."""

    def __init__(self) -> None:
        self.now_ms = 0
        self.seconds = [0.0] * len(VOTERS)
        self.answers: list[Answer] = []
        self._turns: list[RunTurn] = []
        self._messages: list[tuple[int, int, Message]] = []
        self._uppers: list[Turns] = []
        self._groups: list[Group] = []
        config = GroupConfig(1, VOTERS)
        for replica in VOTERS:
            upper = Turns(self._effect, lambda: 0)
            header = Header(replica.rno, "voter", config)
            group = Group(replica.node, 0, header, {}, upper, GroupSettings(), 0)
            self._uppers.append(upper)
            self._groups.append(group)
        while self._groups[0].leadership is None:
            self.tick(100)

    def _effect(self, effect: Any) -> None:
        if isinstance(effect, RunTurn):
            self._turns.append(effect)
        else:
            self.answers.append(effect)

    def _perform(self, node: int, effects: Iterable[Any]) -> None:
        for effect in effects:
            if isinstance(effect, Send):
                self._messages.append((node, effect.to, effect.message))
            elif isinstance(effect, Persist):
                self._perform(node, self._groups[node].persisted(effect.ticket, self.now_ms))

    def tick(self, duration_ms: int) -> None:
        """Lets time pass, and everybody speak."""
        self.now_ms += duration_ms
        for node, group in enumerate(self._groups):
            self._uppers[node].now_ms = self.now_ms
            self._perform(node, group.tick(self.now_ms))
        self._deliver()

    def _deliver(self) -> None:
        while self._messages:
            messages, self._messages = self._messages, []
            for sender, node, message in messages:
                begun = time.process_time()
                group = self._groups[node]
                self._perform(node, group.receive(VOTERS[sender], message, self.now_ms))
                self.seconds[node] += time.process_time() - begun

    def write(self, number: int, kind: str = "call") -> None:
        """A batch of operations, one on each of as many agents, to their answers."""
        upper, group = self._uppers[0], self._groups[0]

        def submit() -> None:
            for agent in range(BATCH):
                op = OpId("client", number * BATCH + agent + 1)
                ack = number * BATCH
                upper.submit(
                    Request(
                        agent,
                        kind,
                        f"agent-{agent}",
                        op,
                        "eventual",
                        due_ms=self.now_ms + 30_000,
                        ack=ack,
                    )
                )

        def end() -> None:
            turns, self._turns = self._turns, []
            for turn in turns:
                record = turn.record or Record.blank(state=b'{"value":1}', type="Counter")
                upper.end(turn.request.key, Version(*turn.version), Commit(record, b"7"))

        begun = time.process_time()
        self._perform(0, group.step(self.now_ms, submit))
        self._perform(0, group.step(self.now_ms, end))
        self.seconds[0] += time.process_time() - begun
        self._deliver()
        if [answer.status for answer in self.answers] != [Status.OK] * BATCH:
            raise RuntimeError(f"not every write was acknowledged: {self.answers[:3]}")
        self.answers.clear()


class Cores:
    """The cores by themselves, in this process."""

    def __init__(self, site: Here) -> None:
        self._batches = 100 if site.is_quick else 1000
        self._lookups = 100_000 if site.is_quick else 1_000_000
        self._trio = Trio()
        self._number = 0
        members = [Member(f"node-{node}") for node in range(NODES)]
        self._table = build_table(members, shards=SHARDS, replicas=3)

    async def prepare(self) -> None:
        """As the protocol says."""
        self._trio.write(0, "spawn")
        for _ in range(10):
            self._next_batch()

    def _next_batch(self) -> None:
        self._number += 1
        self._trio.write(self._number)
        if self._number % 16 == 0:
            self._trio.tick(50)

    async def round(self, _: int) -> Samples:
        """As the protocol says."""
        self._trio.seconds = [0.0] * len(VOTERS)
        for _each in range(self._batches):
            self._next_batch()
        leader, *followers = self._trio.seconds
        writes = self._batches * BATCH
        return {
            "leader": (writes / leader, BARS["leader"]),
            "follower": (writes * len(followers) / sum(followers), BARS["follower"]),
            "look-up": (self._look_up(), BARS["look-up"]),
            "table": (self._build(), BARS["table"]),
        }

    @staticmethod
    def _build() -> float:
        members = [
            Member(f"node-{node}", 1.0 + node % 13 / 4, f"z{node % 4}") for node in range(1000)
        ]
        begun = time.process_time()
        build_table(members, shards=SHARDS, replicas=3)
        return time.process_time() - begun

    def _look_up(self) -> float:
        table = self._table
        ids = [f"agent-{number}" for number in range(1000)]
        begun = time.process_time()
        for _ in range(self._lookups // len(ids)):
            for agent in ids:
                shard = shard_of(agent, SHARDS)
                table.leader(shard)
                table.replicas_of(shard)
        return self._lookups / (time.process_time() - begun)
