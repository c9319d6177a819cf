"""Simulated clients: each makes one call after the other, and notes what came of it.

A call has one op id over all its attempts. An attempt that is not answered, or answered "unknown",
may have been applied, now or later; after one of these only the remembered result ends the call
with certainty. A refusal is believed while no attempt is in doubt.

A client is a session: it shows what it has seen by its token, and notes what each answer rests on.
Every second one shows it to agents of level "session" only, so that nothing but its own rules keeps
a strong agent from telling what is old.
"""

from collections.abc import Callable, Mapping
from random import Random
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from jido_placement.policies import Strategy
from jido_state.checking.sessions import Sight
from jido_state.dots import Dot
from jido_state.operations import OpId
from jido_state.requests import Answer, Request, Status
from jido_state.session import Token
from jido_state.simulation.history import History
from jido_state.simulation.machine import Ask, Told
from jido_state.simulation.scheduler import Event, Scheduler
from jido_state.versions import NO_VERSION, Version

__all__ = ["CLIENTS", "Client", "Workload"]

CLIENTS: Final = 1000  # address of the first client
_KINDS: Final = {"read": "read", "spawn": "spawn", "delete": "stop"}
_PAUSE_US: Final = 20_000  # before another replica is asked
_ROAMING: Final = 0.2  # how many reads go to any node: a session is not bound to one


class Workload(NamedTuple):
    """What clients do.

    Attributes:
        keys: Agents with their shard and level.
        nodes: Whom to ask.
        operations: How many calls each client makes.
        reads: Part of them that read, 0 to 1.
        until_us: By when the calls should have been made.
        attempt_us: How long an answer is waited for.
        patience_us: How long a call is tried; at most half of the time op ids are remembered.
        strategies: Of agents that do not pause with their minority.
    """

    keys: tuple[tuple[str, int, str], ...]
    nodes: tuple[int, ...]
    operations: int
    reads: float
    until_us: int
    attempt_us: int
    patience_us: int
    strategies: Mapping[str, Strategy] = MappingProxyType({})


class _Call:
    __slots__ = ("attempts", "due_us", "is_doubtful", "number", "request", "shard", "timer")

    def __init__(self, number: int, shard: int, request: Request, due_us: int) -> None:
        self.number = number
        self.shard = shard
        self.request = request
        self.due_us = due_us
        self.attempts = 0
        self.is_doubtful = False
        self.timer: Event | None = None


class Client:
    """One client; its address is `CLIENTS + index`.

    Args:
        index: Which.
        scheduler: Gives the time.
        send: Sends from its address to a node.
        random: Its own random numbers.
        history: Where its calls are noted.
        sights: Where what its session has seen is noted.
        workload: What it does.
    """

    def __init__(
        self,
        index: int,
        scheduler: Scheduler,
        send: Callable[[int, int, object], None],
        random: Random,
        history: History,
        sights: list[Sight],
        workload: Workload,
    ) -> None:
        self.index = index
        self.address = CLIENTS + index
        self.keys = workload.keys
        self.left = workload.operations
        self.is_done = workload.operations == 0
        self._scheduler = scheduler
        self._send = send
        self._random = random
        self._history = history
        self._sights = sights
        self._latest: dict[str, Version] = {}  # of the sights, by agent
        self._stale: dict[str, dict[Dot, None]] = {}  # turns seen in stale copies, by agent
        self._workload = workload
        self._call: _Call | None = None
        self._ops = 0
        self._hint: dict[int, int] = {}  # who led a shard
        self._token = Token("sim", 0)
        self._values: dict[str, Any] = {}

    def start(self) -> None:
        """Begins, after a first pause."""
        self._think()

    def stop(self) -> None:
        """No new call; the running one goes on to its end."""
        self.left = 0
        if self._call is None:
            self.is_done = True

    def _think(self) -> None:
        if self.left == 0:
            self.is_done = True
            return
        # Who was held up hurries, so that a run has its calls however bad it is.
        left_us = max(self._workload.until_us - self._scheduler.now_us, 1) // self.left
        pause = self._random.expovariate(1 / max(0.7 * left_us, 1_000))
        self._scheduler.after(1 + int(pause), self._begin)

    def _begin(self) -> None:
        if self.left == 0:
            self.is_done = True
            return
        self.left -= 1
        random = self._random
        key, shard, level = random.choice(self._workload.keys)
        op, arg = self._draw(key)
        self.call(key, shard, level, op, arg)

    def call(self, key: str, shard: int, level: str, op: str, arg: Any) -> None:
        """Makes one call; `is_done` tells its end when no others are left to be made."""
        self.is_done = False
        now_us = self._scheduler.now_us
        number = self._history.call(self.index, key, op, arg, now_us)
        self._ops += 1
        op_id = None if op == "read" else OpId(f"c{self.index}", self._ops)
        request = Request(
            (self.address, number, 0),
            _KINDS.get(op, "call"),
            key,
            op_id,
            level,
            due_ms=0,
            payload=(op, arg),
            ack=self._ops if op_id is not None else 0,
            token=self._token if level == "session" or self.index % 2 == 0 else None,
            strategy=self._workload.strategies.get(key, Strategy.PAUSE_MINORITY),
            accepts_stale=op == "read" and self.index % 3 == 0,
        )
        self._call = _Call(number, shard, request, now_us + self._workload.patience_us)
        self._try(self._call)

    def _draw(self, key: str) -> tuple[str, Any]:
        random = self._random
        if random.random() < self._workload.reads:
            return "read", None
        op = random.choices(("add", "write", "cas", "spawn", "delete"), (5.0, 3.0, 2.0, 3.0, 0.7))[
            0
        ]
        unique = self.index * 1_000_000 + self._ops * 10
        if op == "add":
            return op, random.choice((1, 10, 100))
        if op == "cas":
            return op, [self._values.get(key, 0), unique]
        return (op, None) if op == "delete" else (op, unique)

    def _try(self, call: _Call) -> None:
        """Sends the next attempt, or gives the call up."""
        if call is not self._call:
            return
        left_us = call.due_us - self._scheduler.now_us
        if left_us <= 0:
            self._give_up(call)
            return
        call.attempts += 1
        node = self._hint.get(call.shard)
        is_roaming = call.request.kind == "read" and self._random.random() < _ROAMING
        if node is None or is_roaming:
            node = self._random.choice(self._workload.nodes)
        request = call.request._replace(id=(self.address, call.number, call.attempts))
        called_us = call.due_us - self._workload.patience_us
        self._send(self.address, node, Ask(call.shard, request, called_us, left_us // 1000))
        wait = min(self._workload.attempt_us, left_us)
        call.timer = self._scheduler.after(wait, self._late, call, call.attempts)

    def _late(self, call: _Call, attempt: int) -> None:
        """No answer: it may have been applied, or yet be."""
        if call is self._call and call.attempts == attempt:
            call.is_doubtful = True
            self._hint.pop(call.shard, None)
            self._try(call)

    def _give_up(self, call: _Call) -> None:
        if not call.is_doubtful or call.request.kind == "read":
            self._history.drop(call.number)  # it has no effect, now or later
        self._end()

    def _end(self) -> None:
        self._call = None
        self._think()

    def receive(self, told: Told) -> None:
        """An answer, perhaps to an attempt or a call of long ago."""
        call = self._call
        answer = told.answer
        if call is None or answer.id[1] != call.number:
            return
        status = answer.status
        if status is Status.OK:
            self._succeed(call, answer)
        elif answer.id[2] != call.attempts:
            return  # said of an attempt that another has followed
        elif status in {Status.NOT_FOUND, Status.EXISTS}:
            self._refused(call, "absent" if status is Status.NOT_FOUND else "exists")
        elif status is Status.NOT_LEADER:
            self._again(call, answer.value)
        elif status is Status.UNKNOWN:
            call.is_doubtful = True
            self._again(call, answer.value)
        elif status is Status.EXPIRED:
            call.is_doubtful = True
            self._give_up(call)
        else:
            self._again(call, None)

    def _again(self, call: _Call, hint: int | None) -> None:
        if call.timer is not None:
            self._scheduler.cancel(call.timer)
        call.attempts += 1  # what the old timer waited for is answered
        if hint is None or hint not in self._workload.nodes:
            self._hint.pop(call.shard, None)
        else:
            self._hint[call.shard] = hint
        self._scheduler.after(_PAUSE_US, self._try, call)

    def _refused(self, call: _Call, ret: str) -> None:
        if call.timer is not None:
            self._scheduler.cancel(call.timer)
        if not call.is_doubtful:
            self._history.answer(call.number, ret, self._scheduler.now_us)
        self._end()

    def _succeed(self, call: _Call, answer: Answer) -> None:
        if call.timer is not None:
            self._scheduler.cancel(call.timer)
        request = call.request
        if answer.is_stale:
            self._history.drop(call.number)  # what is old says nothing of what is
        else:
            value = answer.value
            if request.kind == "read":
                value = None if value is None else value.state
                self._values[request.key] = value
            self._history.answer(call.number, value, self._scheduler.now_us)
        # Who takes what is stale is told so, and has not seen it; others are promised more.
        if not (answer.is_stale and request.accepts_stale):
            self._token = answer.token or self._token.saw(call.shard, answer.version)
            if request.level != "eventual":
                self._note(request, answer)
        self._end()

    def _note(self, request: Request, answer: Answer) -> None:
        """Notes what the answer rests on: what was stale by its turn, for want of a leader's word.

        A row of no quorum may be under a newer ballot than the same turn elsewhere.
        """
        key, version, record = request.key, answer.version, answer.value
        before = self._latest.get(key, NO_VERSION)
        stale = self._stale.setdefault(key, {})
        if answer.is_stale:
            if record is not None:
                stale[tuple(record.version)] = None
            version = min(version, before)
        elif version.number == 0 and version[:4] == before[:4]:
            return  # nothing is there, said by the ballot that said so before, or has reaped it
        self._latest[key] = max(version, before)
        op = "read" if request.kind == "read" else "write"
        is_shown = op == "read" and record is not None
        dots = (dot for dot in stale if not is_shown or record.merged.covers(dot))
        self._sights.append(Sight(self.index, key, op, version, frozenset(dots)))
