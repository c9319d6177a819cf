"""What is measured: agents as a user would write them, and Ray actors that do the same.

The actors are plain classes here, made into actors by `cluster.Site.raw`, so that a shard host
imports this module without anything else.
"""

import os

from jido_cluster import Agent, on


class Counter(Agent, durability="none"):
    """A shared agent with one field."""

    value: int = 0

    @on("counter.add")
    async def add(self, amount: int = 1) -> int:
        """The value after adding to it."""
        self.value += amount
        return self.value


class DurableCounter(Agent, consistency="strong"):
    """A shared agent whose every answer is on the disks of a majority."""

    value: int = 0

    @on("counter.add")
    async def add(self, amount: int = 1) -> int:
        """The value after adding to it."""
        self.value += amount
        return self.value


class EventualCounter(DurableCounter, consistency="eventual"):
    """The same, read without asking a majority."""


class MemoryCounter(EventualCounter, durability="memory"):
    """The same, answered when a majority has it in memory."""


class DedicatedCounter(Counter, isolation="dedicated"):
    """The same agent in a process of its own."""


class RawCounter:
    """The same as an async Ray actor."""

    def __init__(self) -> None:
        self.value = 0

    async def add(self, amount: int = 1) -> int:
        """The value after adding to it."""
        self.value += amount
        return self.value


class Profile(Agent):
    """A shared agent with five fields."""

    name: str = "Ada Lovelace"
    email: str = "ada@example.org"
    visits: int = 0
    score: float = 0.5
    is_active: bool = True

    @on("profile.visit")
    async def visit(self) -> int:
        """The number of visits, this one included."""
        self.visits += 1
        return self.visits


class RawProfile:
    """The same as an async Ray actor."""

    def __init__(self) -> None:
        self.name = "Ada Lovelace"
        self.email = "ada@example.org"
        self.visits = 0
        self.score = 0.5
        self.is_active = True

    async def visit(self) -> int:
        """The number of visits, this one included."""
        self.visits += 1
        return self.visits

    async def process_id(self) -> int:
        """The operating system's id of the actor's process."""
        return os.getpid()
