"""Resources that a test replaces: for single turns, and for a whole local cluster."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from jido_cluster import Agent, Cluster, ConfigError, Context, Resource, action, on
from jido_cluster.testing import AgentHarness


@asynccontextmanager
async def opened() -> AsyncIterator[str]:
    yield "real"


database = Resource("tests.database", opened)


@action(name="tests.resources.ask")
async def ask(ctx: Context) -> str:
    async with ctx.use(database) as found:
        return found


class Asker(Agent):
    answer: str = ""

    @on("ask")
    async def ask(self) -> str:
        async with self.ctx.use(database) as found:
            self.answer = found
            return found


def test_a_harness_replaces_resources_while_a_turn_runs() -> None:
    """The turn gets the fake, and nobody else does, before or after."""

    async def main() -> None:
        harness = AgentHarness(Asker(), resources={database: "fake"})
        assert await harness.call(Asker.ask) == "fake"
        assert harness.state.answer == "fake"
        assert await AgentHarness(Asker()).call(Asker.ask) == "real"

    asyncio.run(main())


def test_a_local_cluster_replaces_resources_until_it_is_closed() -> None:
    """Agents and actions on it get the fake; after it the resource is itself again."""
    with Cluster.local(resources={database: "fake"}) as cluster:
        assert cluster.spawn(Asker, "a-1").call(Asker.ask) == "fake"
        assert cluster.run(ask) == "fake"
    with Cluster.local() as cluster:
        assert cluster.run(ask) == "real"


@pytest.mark.parametrize("make", [Cluster.local, lambda **given: AgentHarness(Asker(), **given)])
def test_what_is_no_resource_is_refused(make: Callable[..., object]) -> None:
    """A name in place of a resource is named, before anything starts or is replaced."""
    with pytest.raises(ConfigError, match="'database' is no Resource"):
        make(resources={database: "fake", "database": "fake"})
    with Cluster.local() as cluster:
        assert cluster.run(ask) == "real"
