"""Splits told step by step: three or five replicas whose messages and faults the test decides."""

from collections.abc import Callable, Iterable
from typing import Any

from jido_placement.policies import Strategy
from jido_state.operations import OpId
from jido_state.record import Record
from jido_state.requests import Answer, Request, Status
from jido_state.session import Token
from jido_state.simulation.acting import Node, Split
from jido_state.simulation.acting_agents import BAG, Bag, Work, names_of
from jido_state.simulation.acting_judge import judge_answer
from jido_state.simulation.clients import CLIENTS
from jido_state.simulation.machine import Ask
from jido_state.simulation.network import Network, NetworkFaults
from jido_state.simulation.partitions import two_way
from jido_state.simulation.swarm import stream

ADDRESS = CLIENTS + 99


def must(is_so: object, what: object) -> None:
    """An assertion that stays one in copies of this module that pytest has not rewritten."""
    if not is_so:
        raise AssertionError(what)


class _Wire(Network):
    """A network on which the test drops what it likes."""

    drops: Callable[[int, int, Any], bool] | None = None

    def send(self, source: int, target: int, message: object) -> None:
        inner = message[1] if isinstance(message, tuple) and len(message) == 2 else message
        if self.drops is None or not self.drops(source, target, inner):
            super().send(source, target, message)


class Script(Split):
    """A shard that stands still but for what the test does.

    Args:
        size: Number of replicas; node 0 is the first in the order of preference, and leads.
    """

    def __init__(self, size: int = 3) -> None:
        super().__init__(0, size=size)
        faults = NetworkFaults(least_us=1_000, mean_us=0)
        self.wire = _Wire(self.scheduler, stream(0, "wire"), self._arrived, faults)
        self.network = self.wire
        self.failures = 0.0
        self._is_faulted = False
        self._answers: dict[Any, Answer] = {}
        self._keys: dict[Any, str] = {}
        self._asked = 0
        self._ops = 0
        self.scheduler.start(ADDRESS)
        self.begin()
        must(self.leader == 0, f"node {self.leader} leads")

    # What the world is told

    def answered(self, node: Node, answer: Answer) -> None:
        if answer.id[0] == ADDRESS:
            self._answers[answer.id] = answer
            # That nothing is there it may say of what has ended there: tests see to that.
            key = self._keys[answer.id]
            self.ledger.problems += judge_answer(self.ledger, key, answer, may_end=True)
        else:
            super().answered(node, answer)

    @property
    def leader(self) -> int | None:
        """The node that leads; None when none does, or more than one."""
        nodes = [one.node for one in self.nodes if one.is_up and one.replica.leadership is not None]
        return nodes[0] if len(nodes) == 1 else None

    def run(self, ms: int) -> None:
        """Lets time pass."""
        self.scheduler.run(self.scheduler.now_us + ms * 1_000)

    def until(self, is_so: Callable[[], object], ms: int = 20_000) -> None:
        """Lets time pass until something holds."""
        end_us = self.scheduler.now_us + ms * 1_000
        while not is_so():
            must(self.scheduler.now_us < end_us, "it never came to that")
            self.run(10)

    def cut(self, *sides: Iterable[int]) -> None:
        """Cuts the links between these sides, and gives everybody the time to notice."""
        groups = [list(side) for side in sides]
        for place, side in enumerate(groups):
            for other in groups[place + 1 :]:
                self.network.cut(two_way(side, other))
        self.run(4_000)

    def heal(self) -> None:
        """Mends everything, and waits until all is as it should be."""
        self.network.heal(NetworkFaults(least_us=1_000, mean_us=0))
        self.wire.drops = None
        for node in self.nodes:
            self._restart(node)
            self.scheduler.resume(node.node)
        self.run(1_000)
        self.until(lambda: not self.restless(), 60_000)
        must(not self.ledger.problems, self.ledger.problems)

    def restless(self) -> list[str]:
        return [one for one in super().restless() if "client" not in one]

    # Operations

    def send(
        self,
        node: int,
        kind: str,
        key: str = "k",
        work: Work | None = None,
        *,
        op: OpId | None = None,
        level: str = "eventual",
        token: Token | None = None,
        strategy: Strategy = Strategy.CONTINUE_ALL,
        accepts_stale: bool = False,
        left_ms: int = 3_000,
    ) -> tuple[Any, ...]:
        """Asks a node; `answer` has what it says."""
        self._asked += 1
        name = (ADDRESS, self._asked)
        self._keys[name] = key
        if op is None and work is not None:
            self._ops += 1
            op = OpId("test", self._ops)
        request = Request(
            name,
            kind,
            key,
            op,
            level,
            due_ms=0,
            payload=work,
            token=token,
            strategy=strategy,
            accepts_stale=accepts_stale,
        )
        self.nodes[node].receive(ADDRESS, Ask(0, request, self.scheduler.now_us, left_ms))
        return name

    def answer(self, name: tuple[Any, ...]) -> Answer:
        """What was answered, when it is."""
        self.until(lambda: name in self._answers)
        return self._answers[name]

    def is_answered(self, name: tuple[Any, ...]) -> bool:
        """Whether anything was."""
        return name in self._answers

    def call(self, node: int, what: str = "mark", arg: Any = None, **more: Any) -> Answer:
        """A turn on a node; its operation is named after how many there were."""
        kind = {"make": "spawn", "end": "stop"}.get(what, "call")
        type_ = more.pop("type_", BAG)
        name = more.pop("name", f"op{self._ops + 1}")
        return self.answer(self.send(node, kind, work=Work(what, name, arg, type_), **more))

    def ok(self, node: int, what: str = "mark", arg: Any = None, **more: Any) -> Answer:
        """A turn that succeeds."""
        answer = self.call(node, what, arg, **more)
        must(answer.status is Status.OK, answer)
        return answer

    def read(self, node: int, key: str = "k", **more: Any) -> Answer:
        """A read on a node."""
        return self.answer(self.send(node, "read", key, **more))

    # What is there

    def record(self, node: int = 0, key: str = "k") -> Record:
        """What a node's register holds."""
        row = self.nodes[node].replica.acceptor.rows[key]
        must(isinstance(row.content, Record), row)
        return row.content  # type: ignore[no-any-return]

    def names(self, key: str = "k") -> dict[str, int]:
        """How often each operation is in the state of a bag; the counter must agree."""
        bag = Bag.of(self.record(key=key))
        marks = bag.marks()
        must(bag.counter.value == len(marks), f"counted {bag.counter.value}, marked {marks}")
        return {name: len(dots) for name, dots in names_of(marks).items()}

    def held(self, node: int) -> dict[str, int]:
        """How many entries a node holds, by agent."""
        service = self.nodes[node].service
        assert service is not None
        return {key: len(each.entries) for key, each in service.entries.held.items()}
