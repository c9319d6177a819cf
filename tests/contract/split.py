"""Agents of the tests of partition strategies: one type for each strategy and level.

Workers of a real cluster may import this module, so it holds no fixtures and no state of its own.
"""

from typing import Any

from jido_cluster import Agent, Signal, crdt, on

STRATEGIES = ("pause_minority", "continue_all", "leader_election")
LEVELS = ("eventual", "session", "strong")


class Tally(Agent):
    """An amount that is added to and read."""

    amount: int = 0

    @on("tally.add")
    async def add(self, amount: int = 1) -> int:
        self.amount += amount
        return self.amount

    @on("tally.read", read_only=True)
    async def read(self) -> int:
        return self.amount


def _tally(strategy: str, level: str) -> type[Tally]:
    options: dict[str, Any] = {"consistency": level, "partition_strategy": strategy}
    name = f"Tally_{strategy}_{level}"
    return type(name, (Tally,), {"__module__": __name__}, name=f"split.{name}", **options)


TALLIES = {
    (strategy, level): _tally(strategy, level) for strategy in STRATEGIES for level in LEVELS
}


class Votes(Agent, name="split.votes", partition_strategy="continue_all"):
    """Counts exactly, on however many sides; and notes what a turn without a quorum sees."""

    count: crdt.PNCounter = crdt.PNCounter()
    starts: int = 0

    def on_start(self) -> None:
        self.starts += 1

    @on("votes.add")
    async def add(self, by: int = 1) -> int:
        self.count.increment(by)
        return self.count.value

    @on("votes.fenced")
    async def fenced(self) -> bool:
        return self.ctx.fence is not None

    @on("votes.fail")
    async def fail(self) -> None:
        self.count.increment(100)
        raise ValueError("not this time")


class Lamp(Agent, name="split.lamp", partition_strategy="continue_all"):
    """Plain fields and no merge of its own: the last one wins."""

    colour: str = "white"

    @on("lamp.set")
    async def set(self, colour: str) -> None:
        self.colour = colour


class Basket(Agent, name="split.basket", partition_strategy="continue_all"):
    """Merged by its own code."""

    things: list[str] = []

    @on("basket.put")
    async def put(self, thing: str) -> int:
        self.things = [*self.things, thing]
        return len(self.things)

    @classmethod
    def on_conflict(cls, versions: Any, /) -> "Basket":
        return Basket(things=sorted({thing for one in versions for thing in one.things}))


class Bell(Agent, name="split.bell", partition_strategy="continue_all"):
    """Sets timers and sends signals."""

    rung: int = 0
    heard: list[str] = []

    @on("bell.wind")
    async def wind(self, seconds: float) -> None:
        self.ctx.schedule(Signal.of(Bell.ring), key="ring", after=seconds)

    @on("bell.ring")
    async def ring(self) -> None:
        self.rung += 1

    @on("bell.tell")
    async def tell(self, to: str, what: str) -> None:
        self.ctx.send(to, Signal.of(Bell.hear, what))

    @on("bell.hear")
    async def hear(self, what: str) -> None:
        self.heard = [*self.heard, what]


class Door(Agent, name="split.door", virtual=True, partition_strategy="continue_all"):
    """Made by its first call."""

    opened: crdt.GCounter = crdt.GCounter()

    @on("door.open")
    async def open(self) -> int:
        self.opened.increment()
        return self.opened.value


class Fleeting(Agent, name="split.fleeting", durability="none"):
    """In memory only."""

    @on("fleeting.ping")
    async def ping(self) -> str:
        return "pong"
