"""Agents of the fault tests; hosts import this module."""

import asyncio
import os

from jido_cluster import Agent, on


class Ledger(Agent, name="faults.ledger"):
    """Sums entries."""

    entries: list[int] = []

    @on("ledger.add")
    async def add(self, amount: int) -> int:
        """Add an entry; the sum."""
        self.entries.append(amount)
        return sum(self.entries)


class Visitor(Agent, name="faults.visitor", virtual=True):
    """Counts visits; made by the first one."""

    visits: int = 0

    @on("visitor.enter")
    async def enter(self) -> int:
        """One more visit."""
        self.visits += 1
        return self.visits


class Sleeper(Agent, name="faults.sleeper"):
    """Takes its time."""

    @on("sleeper.sleep")
    async def sleep(self, seconds: float) -> None:
        """Wait inside a turn."""
        await asyncio.sleep(seconds)


class Lodger(Agent, name="faults.lodger", isolation="dedicated"):
    """Has a process of its own."""

    total: int = 0

    @on("lodger.add")
    def add(self, amount: int) -> int:
        """Add, in a thread of the worker."""
        self.total += amount
        return self.total

    @on("lodger.add-slowly")
    async def add_slowly(self, seconds: float) -> int:
        """Add one, and take long."""
        self.total += 1
        await asyncio.sleep(seconds)
        return self.total

    @on("lodger.pid", read_only=True)
    async def pid(self) -> int:
        """Process id of the worker."""
        return os.getpid()
