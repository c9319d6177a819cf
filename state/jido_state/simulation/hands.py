"""What a simulated process does for its services beside messages and writes.

It runs turns and merges, which take a while, and delivers signals: it asks some node to take each,
until it is told that one has.
"""

from collections import Counter
from collections.abc import Callable
from random import Random
from typing import Any, Final

from jido_placement.policies import Strategy
from jido_state.chores import DeadLetter, Deliver, GaveUp
from jido_state.messages import Row
from jido_state.requests import Answer, Arrival, Commit, Request, RunMerge, RunTurn, Status
from jido_state.service import Service
from jido_state.simulation.acting_agents import Ledger, resolve_of
from jido_state.simulation.machine import Ask
from jido_state.simulation.scheduler import Scheduler

__all__ = ["Hands", "WatchedService"]

_SIGNAL_US: Final = 400_000
_RUN_US: Final = 3_000


class WatchedService(Service):
    """Notes what its leader learns to be on a quorum."""

    ledger: Ledger

    def committed(self, key: str, row: Row) -> None:
        """See `Listener.committed`."""
        self.ledger.committed.add((key, tuple(row.content.version)))
        super().committed(key, row)


class Hands:
    """The hands of one node.

    Args:
        node: Its index.
        nodes: How many there are.
        scheduler: Gives the time; what waits is lost with the process.
        random: Its own random numbers.
        ledger: What happened.
        counts: How often what happened.
        shard_of: Where an agent lives.
        send: Sends to a node.
        step: Calls a method of a shard's `Service`, within a step.
        run: Runs a handler.
    """

    def __init__(
        self,
        node: int,
        nodes: int,
        scheduler: Scheduler,
        random: Random,
        ledger: Ledger,
        counts: Counter[str],
        *,
        shard_of: Callable[[str], int],
        send: Callable[[int, object], None],
        step: Callable[..., None],
        run: Callable[[RunTurn], Commit | None],
    ) -> None:
        self._node = node
        self._nodes = nodes
        self._scheduler = scheduler
        self._random = random
        self._ledger = ledger
        self._counts = counts
        self._shard_of = shard_of
        self._send = send
        self._step = step
        self._run = run
        self._signals: dict[tuple[Any, ...], tuple[int, Deliver]] = {}
        self._hints: dict[int, int] = {}  # who led a shard
        self._number = 0

    def drop(self) -> None:
        """The process is gone. Its successor's signals have other numbers."""
        self._signals = {}

    def do(self, shard: int, effect: object) -> None:
        """Does what a service asks for, if it is of these."""
        kind = type(effect)
        if kind is RunTurn:
            is_apart = effect.is_partitioned  # type: ignore[attr-defined]
            self._counts["turns apart" if is_apart else "turns"] += 1
            self._later(self._run_turn, shard, effect)
        elif kind is RunMerge:
            self._counts["merges"] += 1
            self._later(self._run_merge, shard, effect)
        elif kind is Deliver:
            self._deliver(shard, effect)  # type: ignore[arg-type]
        elif kind is DeadLetter or kind is GaveUp:
            self._ledger.problems.append(f"given up: {effect}")

    def _later(self, action: Callable[[int, Any], None], shard: int, effect: object) -> None:
        delay_us = 1 + int(self._random.expovariate(1 / _RUN_US))
        self._scheduler.after_on(self._node, delay_us, action, shard, effect)

    def _run_turn(self, shard: int, turn: RunTurn) -> None:
        commit = self._run(turn)
        self._step(shard, Service.end, turn.request.key, turn.version, commit)

    def _run_merge(self, shard: int, effect: RunMerge) -> None:
        merged = effect.run(resolve_of)
        # The log is kept by the ledger: it is durable before the merge ends.
        self._ledger.conflicts.setdefault(effect.key, []).extend(merged.conflicts)
        self._counts["conflicts"] += len(merged.conflicts)
        self._step(shard, Service.end_merge, effect.key, effect.version, merged)

    # Signals

    def _deliver(self, shard: int, effect: Deliver) -> None:
        self._number += 1
        name = (self._node, "signal", self._number)
        self._signals[name] = (shard, effect)
        key = effect.signal.target
        request = Request(
            name,
            "signal",
            key,
            None,
            "eventual",
            due_ms=0,
            payload=Arrival(effect.key, effect.signal),
            strategy=Strategy.PAUSE_MINORITY,
        )
        other = self._random.randrange(self._nodes)
        known = self._hints.get(self._shard_of(key), self._node)
        target = other if self._random.random() < 0.3 else known
        now_us = self._scheduler.now_us
        self._send(target, Ask(self._shard_of(key), request, now_us, _SIGNAL_US // 1000))
        self._scheduler.after_on(self._node, _SIGNAL_US, self._late, name)

    def told(self, answer: Answer) -> None:
        """What became of a signal; it may have been told before."""
        shard, effect = self._signals.pop(answer.id, (0, None))
        if effect is None:
            return
        target = self._shard_of(effect.signal.target)
        if answer.status is Status.NOT_LEADER and answer.value is not None:
            self._hints[target] = answer.value
        elif answer.status is not Status.OK:
            self._hints.pop(target, None)
        is_there = answer.status is Status.OK
        told = Service.delivered if is_there else Service.undelivered
        self._step(shard, told, effect.key, [effect.signal.name])

    def _late(self, name: tuple[Any, ...]) -> None:
        self.told(Answer(name, Status.LATE))
