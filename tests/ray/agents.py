"""Agents of the fault tests; hosts import this module."""

import asyncio
import os
import subprocess
import time
from collections.abc import AsyncIterator

from pydantic import BaseModel

from jido_cluster import Action, Agent, Context, on


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


class Stuck(Agent, name="faults.stuck", isolation="dedicated"):
    """Gives an item, then blocks its whole process."""

    value: int = 0

    @on("stuck.stream")
    async def stream(self) -> AsyncIterator[int]:
        """Can be stopped by nothing but the end of its process."""
        self.value += 1000
        yield 1
        while True:
            time.sleep(1.0)  # noqa: ASYNC251 - the point

    @on("stuck.add")
    async def add(self) -> int:
        """One more."""
        self.value += 1
        return self.value


class Family(Action, name="faults.family", timeout=None, max_retries=5, retry_delay=0.01):
    """Starts processes that start processes, writes down their ids, and waits for them."""

    class Params(BaseModel):
        path: str

    def run(self, params: Params, ctx: Context) -> int:
        """Fails, to be tried again, whenever they end."""
        script = 'sleep 1000 & echo "$1 $$ $!" >> "$0"; wait'
        command = ["/bin/sh", "-c", script, params.path, str(os.getpid())]
        subprocess.run(command, check=False)
        raise ConnectionError("they ended")
