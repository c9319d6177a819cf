"""Clients of the simulation of splits: each a session that makes one call after the other.

An attempt that is not answered may have been run, on whichever side it got to. A call whose earlier
attempts are in doubt may so take effect more than once, on sides that did not know of each other:
the calls note how often they may have.
"""

from collections.abc import Callable
from random import Random
from typing import Any, Final

from jido_placement.policies import Strategy
from jido_state.dots import NOTHING_SEEN
from jido_state.operations import OpId
from jido_state.requests import Answer, Request, Status
from jido_state.session import Token
from jido_state.simulation.acting_agents import BAG, LINE, MORTAL, Ledger, Work
from jido_state.simulation.clients import CLIENTS
from jido_state.simulation.machine import Ask, Told
from jido_state.simulation.scheduler import Event, Scheduler

__all__ = ["Call", "SessionClient"]

_ATTEMPT_US: Final = 400_000
_PATIENCE_US: Final = 3_000_000
_PAUSE_US: Final = 20_000
_THINK_US: Final = 150_000
_FINAL: Final = (Status.NOT_FOUND, Status.EXISTS, Status.FAILED)
_DOUBTFUL: Final = (Status.UNKNOWN, Status.EXPIRED)


class Call:
    """One call, over all its attempts.

    Attributes:
        number: Of the client's calls.
        request: As it is sent, but for its id.
        work: What is asked for; None for a read.
        attempts: How often it was sent.
        doubtful: How many attempts may have been run without an answer.
        answer: The one that ended it; None for none.
    """

    __slots__ = ("answer", "attempts", "doubtful", "due_us", "number", "request", "timer", "work")

    def __init__(self, number: int, request: Request, work: Work | None, due_us: int) -> None:
        self.number = number
        self.request = request
        self.work = work
        self.due_us = due_us
        self.attempts = 0
        self.doubtful = 0
        self.answer: Answer | None = None
        self.timer: Event | None = None

    @property
    def is_ok(self) -> bool:
        """Whether it is known to have succeeded."""
        return self.answer is not None and self.answer.status is Status.OK

    @property
    def at_most(self) -> int:
        """How often it may have taken effect."""
        return self.doubtful + self.is_ok


class SessionClient:
    """One client; its address is `CLIENTS + index`.

    Args:
        index: Which.
        scheduler: Gives the time.
        send: Sends from its address to a node.
        random: Its own random numbers.
        ledger: What happened.
        keys: Agents with their types and levels.
        nodes: How many nodes there are.
        shard_of: Where an agent lives.
        attempt_us: How long an answer is waited for.

    Attributes:
        calls: All of them.
        is_done: Whether none is running, after `stop`.
        home: The node it asks first.
    """

    def __init__(
        self,
        index: int,
        scheduler: Scheduler,
        send: Callable[[int, int, object], None],
        random: Random,
        ledger: Ledger,
        keys: tuple[tuple[str, str, str], ...],
        nodes: int,
        shard_of: Callable[[str], int],
        attempt_us: int = _ATTEMPT_US,
    ) -> None:
        self.index = index
        self.address = CLIENTS + index
        self.calls: list[Call] = []
        self.is_done = False
        self._scheduler = scheduler
        self._send = send
        self._random = random
        self._ledger = ledger
        self._keys = keys
        self.home = index % nodes
        self._nodes = nodes
        self._shard_of = shard_of
        self._attempt_us = attempt_us
        self._is_ending = False
        self._call: Call | None = None
        self._ops = 0
        self._hints: dict[int, int] = {}  # who led a shard
        self._token = Token("sim", 0)
        self._items: list[tuple[str, str]] = []

    def start(self) -> None:
        """Begins, after a first pause."""
        self._end()

    def stop(self) -> None:
        """No new call; the running one goes on to its end."""
        self._is_ending = True
        self.is_done = self._call is None

    def _end(self) -> None:
        self._call = None
        if self._is_ending:
            self.is_done = True
            return
        pause = int(self._random.expovariate(1 / _THINK_US))
        self._scheduler.after(1 + pause, self._begin)

    def _begin(self) -> None:
        if self._is_ending:
            self.is_done = True
            return
        key, type_, level = self._random.choice(self._keys)
        self.begin(key, level, *self._draw(key, type_))

    def _draw(self, key: str, type_: str) -> tuple[str, Work | None]:
        """The kind of the next request, and its work."""
        random = self._random
        roll = random.random()
        if roll < 0.25:
            return "read", None
        name = f"c{self.index}-{self._ops + 1}"
        if roll < 0.33:
            return "spawn", Work("make", name, type=type_)
        if key == MORTAL and roll < 0.43:
            return "stop", Work("mark", name)
        if type_ == LINE:
            return "call", Work("mark", name)
        kinds = ("mark", "put", "take", "timer", "ticks", "emit")
        what = random.choices(kinds, (5, 3, 2, 1, 1, 2))[0]
        arg: Any = None
        if what == "put":
            arg = f"item-{name}"
            self._items.append((key, arg))
        elif what == "take":
            items = [item for where, item in self._items if where == key]
            arg = random.choice(items) if items else "item-none"
        elif what in {"timer", "ticks"}:
            arg = random.randrange(100, 3_000)
        elif what == "emit":
            bags = [each for each, of, _ in self._keys if of == BAG and each != MORTAL]
            arg = random.choice(bags)
        return "call", Work(what, name, arg)

    def begin(self, key: str, level: str, kind: str, work: Work | None) -> Call:
        """Makes one call; `is_done` tells its end when no others are left to be made."""
        self.is_done = False
        op = None
        if work is not None:
            self._ops += 1
            op = OpId(f"c{self.index}", self._ops)
        number = len(self.calls) + 1
        request = Request(
            None,
            kind,
            key,
            op,
            level,
            due_ms=0,
            payload=work,
            ack=self._ops if op is not None else 0,
            token=self._token,
            strategy=Strategy.CONTINUE_ALL,
        )
        call = Call(number, request, work, self._scheduler.now_us + _PATIENCE_US)
        self.calls.append(call)
        self._call = call
        self._try(call)
        return call

    def _try(self, call: Call) -> None:
        left_us = call.due_us - self._scheduler.now_us
        if call is not self._call:
            return
        if left_us <= 0:
            self._end()
            return
        call.attempts += 1
        node = self._hints.get(self._shard_of(call.request.key))
        if node is None:
            is_near = self._random.random() < 0.6
            node = self.home if is_near else self._random.randrange(self._nodes)
        request = call.request._replace(id=(self.address, call.number, call.attempts))
        shard = self._shard_of(request.key)
        called_us = call.due_us - _PATIENCE_US
        self._send(self.address, node, Ask(shard, request, called_us, left_us // 1000))
        wait_us = min(self._attempt_us, left_us)
        call.timer = self._scheduler.after(wait_us, self._late, call, call.attempts)

    def _late(self, call: Call, attempt: int) -> None:
        """No answer: most give up, since another attempt might run it again elsewhere."""
        if call is self._call and call.attempts == attempt:
            call.doubtful += 1
            self._hints.pop(self._shard_of(call.request.key), None)
            if call.work is None or self._random.random() < 0.3:
                self._try(call)
            else:
                self._end()

    def receive(self, told: Told) -> None:
        """An answer, perhaps to an attempt or a call of long ago."""
        call, answer = self._call, told.answer
        if call is None or answer.id[1:] != (call.number, call.attempts):
            return
        if call.timer is not None:
            self._scheduler.cancel(call.timer)
        if answer.status is Status.OK:
            self._succeed(call, answer)
        elif answer.status in _FINAL:
            call.answer = answer
            self._end()
        elif answer.status in _DOUBTFUL:
            call.doubtful += 1
            self._end()
        else:
            shard = self._shard_of(call.request.key)
            self._hints.pop(shard, None)
            if answer.status is Status.NOT_LEADER and answer.value is not None:
                self._hints[shard] = answer.value
            call.attempts += 1  # nobody is believed who answers the old one
            self._scheduler.after(_PAUSE_US, self._try, call)

    def _succeed(self, call: Call, answer: Answer) -> None:
        request = call.request
        call.answer = answer
        if answer.token is not None:
            self._token = answer.token
        if request.level == "session" and request.key != MORTAL:
            ledger = self._ledger
            if request.kind == "read":
                merged = NOTHING_SEEN if answer.value is None else answer.value.merged
                ledger.sight(self.index, request.key, "read", merged)
            else:
                seen = ledger.seen[request.key, tuple(answer.value[1])]
                ledger.sight(self.index, request.key, "write", seen)
        self._end()
