"""Agents of the contract suite that show what replication gives users: timers, levels, sessions.

Workers of a real cluster import this module, so it holds no fixtures and no state of its own.
"""

from datetime import datetime
from typing import Any

from jido_cluster import Agent, Signal, on


class Clock(Agent, name="contract.clock"):
    """Notes what its timers tell it."""

    ticks: list[str] = []
    planned: list[str] = []
    starts: int = 0
    failures: int = 0

    def on_start(self) -> None:
        self.starts += 1

    @on("clock.after")
    async def after(self, key: str, seconds: float, text: str = "tick") -> None:
        self.ctx.schedule(Signal.of(Clock.tick, text), key=key, after=seconds)

    @on("clock.at")
    async def at(self, key: str, when: datetime) -> None:
        self.ctx.schedule(Signal.of(Clock.tick, key), key=key, at=when)

    @on("clock.cron")
    async def cron(self, key: str, cron: str, tz: str = "UTC") -> None:
        self.ctx.schedule(Signal.of(Clock.tick, key), key=key, cron=cron, tz=tz)

    @on("clock.stop")
    async def stop(self, key: str) -> None:
        self.ctx.unschedule(key)

    @on("clock.fail")
    async def fail(self, key: str) -> None:
        self.ctx.schedule(Signal.of(Clock.tick, "never"), key=key, after=0)
        raise ValueError("not this time")

    @on("clock.again")
    async def again(self, left: int) -> None:
        self.ticks = [*self.ticks, f"left {left}"]
        if left:
            self.ctx.schedule(Signal.of(Clock.again, left - 1), key="again", after=0.01)

    @on("clock.tick")
    async def tick(self, text: str) -> None:
        self.ticks = [*self.ticks, text]
        self.planned = [*self.planned, str(self.ctx.signal.extensions["jidoplanned"])]

    @on("clock.wrong")
    async def wrong(self, how: str) -> None:
        tick = Signal.of(Clock.tick, "x")
        wrong: dict[str, Any] = {
            "none": {},
            "two": {"after": 1, "cron": "* * * * *"},
            "naive": {"at": datetime(2030, 1, 1)},  # noqa: DTZ001 - to be refused
            "negative": {"after": -1},
            "endless": {"after": float("inf")},
            "cron": {"cron": "every day"},
            "never": {"cron": "0 0 30 2 *"},
            "zone": {"cron": "* * * * *", "tz": "Mars/Olympus"},
        }[how]
        self.ctx.schedule(tick, key="wrong", **wrong)

    @on("clock.unknown")
    async def unknown(self) -> None:
        self.ctx.schedule(Signal("clock.nothing"), key="unknown", after=1)

    @on("clock.misfit")
    async def misfit(self) -> None:
        self.ctx.schedule(Signal("clock.tick", {"text": 5}), key="misfit", after=1)


class Forgetful(Agent, name="contract.forgetful", durability="none"):
    """Has no record that could keep a timer."""

    @on("forgetful.try")
    async def try_it(self) -> None:
        self.ctx.schedule(Signal("forgetful.try"), key="x", after=1)


class Note(Agent, name="contract.note", consistency="session"):
    """A text that a session reads and writes, and passes on."""

    text: str = ""

    @on("note.write")
    async def write(self, text: str) -> None:
        self.text = text

    @on("note.read", read_only=True)
    async def read(self) -> str:
        return self.text

    @on("note.copy")
    async def copy_from(self, other: str) -> str:
        self.text = await self.ctx.cluster.ref(Note, other).call(Note.read)
        return self.text

    @on("note.pass_on")
    async def pass_on(self, to: str, text: str) -> None:
        self.text = text
        self.ctx.send(to, Signal.of(Note.hear, text))

    @on("note.hear")
    async def hear(self, text: str) -> None:
        session = self.ctx.seen
        count = 0 if session is None else len(session.token.versions)
        self.text = f"{text} in {count}"


class Ledger(Agent, name="contract.ledger", consistency="strong"):
    """An amount that is never read old."""

    amount: int = 0

    @on("ledger.add")
    async def add(self, amount: int) -> int:
        self.amount += amount
        return self.amount

    @on("ledger.read", read_only=True)
    async def read(self) -> int:
        return self.amount
