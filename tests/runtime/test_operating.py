"""What operators ask of a cluster, in one process: drain, preview, explain, nodes, join."""

import asyncio
from collections.abc import Sequence
from typing import Self

import pytest

from jido_cluster import (
    AsyncAgentRef,
    InvalidInputError,
    MovePlan,
    NodeInfo,
    StillRunningError,
    UnavailableError,
    UsageError,
)
from jido_cluster.testing import AsyncLocalCluster
from tests.exec.loops import now
from tests.runtime.agents import Hasty, Tally
from tests.runtime.support import local, run, runtime_of

NODES = ["node-1", "node-2", "node-3", "node-4"]


class Load:
    """Callers that never pause, and what their calls gave: each must count exactly once.

    Attributes:
        counts: What each agent has answered last.
        longest: Seconds of the longest call.
    """

    def __init__(self, refs: Sequence[AsyncAgentRef[Tally]]) -> None:
        self.counts: dict[str, int] = {}
        self.longest = 0.0
        self._refs = refs
        self._is_over = False
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(self._call(ref)) for ref in self._refs]
        return self

    async def __aexit__(self, *error: object) -> None:
        self._is_over = True
        await asyncio.gather(*self._tasks)  # raises what a call raised

    async def _call(self, ref: AsyncAgentRef[Tally]) -> None:
        self.counts[ref.id] = await ref.call(Tally.get)
        while not self._is_over:
            begun = now()
            assert await ref.call(Tally.add) == self.counts[ref.id] + 1
            self.counts[ref.id] += 1
            self.longest = max(self.longest, now() - begun)
            await asyncio.sleep(0.05)


async def until_status(cluster: AsyncLocalCluster, name: str, status: str) -> None:
    async with asyncio.timeout(10):
        while (await node(cluster, name)).status != status:  # noqa: ASYNC110 - no event for it
            await asyncio.sleep(0.01)


async def spawned(cluster: AsyncLocalCluster, count: int) -> list[AsyncAgentRef[Tally]]:
    """Agents of which every third answers before its turns are on disks."""
    types = [Hasty if n % 3 == 0 else Tally for n in range(count)]
    return [await cluster.spawn(one, f"t-{n}") for n, one in enumerate(types)]


async def names(cluster: AsyncLocalCluster) -> list[str]:
    return [info.name for info in await cluster.nodes()]


async def node(cluster: AsyncLocalCluster, name: str) -> NodeInfo:
    return next(info for info in await cluster.nodes() if info.name == name)


def holders(cluster: AsyncLocalCluster) -> list[list[str]]:
    """For each shard the names of the nodes whose replicas decide, in order of preference."""
    record = runtime_of(cluster).root.record
    titles = {one.node: one.name for one in record.members}
    return [[titles[one.node] for one in group.config.voters] for group in record.shards]


def after(before: list[list[str]], plan: MovePlan) -> list[set[str]]:
    """Who holds each shard when the plan is done."""
    sets = [set(one) for one in before]
    for move in plan.moves:
        if move.role == "replica":
            sets[move.shard] -= {move.source or ""}
            sets[move.shard] |= {move.to} if move.to else set()
    return sets


def test_a_node_is_drained_under_load_without_a_failed_call() -> None:
    """When it returns, no config names the node, and it is no member; the plan is what was done."""

    async def main() -> None:
        async with local(4) as cluster:
            refs = await spawned(cluster, 12)
            before = holders(cluster)
            shown = await cluster.preview(remove=["node-4"])
            assert holders(cluster) == before
            async with Load(refs) as load:
                done = await cluster.drain("node-4")
            assert done.moves == shown.moves
            assert done.agents > 0
            assert done.bytes > done.agents * len(b'{"value":0}')
            assert "node-4" in {name for row in before for name in row}
            assert [set(row) for row in holders(cluster)] == after(before, shown)
            assert "node-4" not in {name for row in holders(cluster) for name in row}
            assert await names(cluster) == NODES[:3]
            assert load.longest < 1.0
            for ref in refs:
                assert await ref.call(Tally.get) == load.counts[ref.id]
                assert (await ref.info()).node != "node-4"
            with pytest.raises(UsageError, match="'node-4' has left the cluster"):
                await cluster.kill("node-4")
            with pytest.raises(InvalidInputError, match="one of node-1, node-2, node-3"):
                await cluster.drain("node-4")

    run(main)


def test_a_node_that_has_left_joins_anew_under_load_without_a_failed_call() -> None:
    """It is another member, with empty disks; replicas come to it as the preview says."""

    async def main() -> None:
        async with local(4) as cluster:
            refs = await spawned(cluster, 12)
            old = (await node(cluster, "node-4")).id
            await cluster.drain("node-4")
            shown = await cluster.preview(add=["node-4"])
            before = holders(cluster)
            async with Load(refs) as load:
                await cluster.restart("node-4")
                most = await moving_at_most(cluster)
            assert 0 < most <= runtime_of(cluster).root.limits.max_moves
            assert load.longest < 1.0
            assert [set(row) for row in holders(cluster)] == after(before, shown)
            assert {one.to for one in shown.moves} == {"node-4"}
            found = await node(cluster, "node-4")
            assert found.id != old
            assert (found.status, found.is_reachable) == ("up", True)
            async with asyncio.timeout(30):
                while not (await node(cluster, "node-4")).shards_led:  # noqa: ASYNC110 - as above
                    await asyncio.sleep(0.2)
            for ref in refs:
                assert await ref.call(Tally.get) == load.counts[ref.id]

    run(main)


async def moving_at_most(cluster: AsyncLocalCluster) -> int:
    """How many shards moved at once, until none did any more."""
    runtime = runtime_of(cluster)
    most = 0
    while (await cluster.preview()).moves:
        configs = [group.config for group in runtime.root.record.shards]
        most = max(most, sum(bool(one.learners or one.joining) for one in configs))
        await asyncio.sleep(0.02)
    return most


def test_of_three_nodes_one_is_drained_and_two_replicas_are_left() -> None:
    """The plan says so: what goes from it goes nowhere."""

    async def main() -> None:
        async with local(3) as cluster:
            refs = await spawned(cluster, 6)
            plan = await cluster.drain("node-2")
            assert {one.to for one in plan.moves if one.role == "replica"} == {None}
            assert plan.agents == plan.bytes == 0
            assert {len(row) for row in holders(cluster)} == {2}
            for ref in refs:
                assert await ref.call(Tally.add) == 1
            await cluster.drain("node-1")
            assert holders(cluster) == [["node-3"]] * 32
            with pytest.raises(UnavailableError, match="no other node is up") as caught:
                await cluster.drain("node-3")
            assert caught.value.retry_after is None
            for ref in refs:
                assert await ref.call(Tally.add) == 2

    run(main)


def test_a_drain_is_refused_at_once_while_another_replica_is_missing() -> None:
    """Nothing is changed; when it is back, the drain is done."""

    async def main() -> None:
        async with local(4) as cluster:
            await spawned(cluster, 4)
            before = holders(cluster)
            await cluster.kill("node-1")
            with pytest.raises(UnavailableError, match=r"node node-1 does not answer \(the root"):
                await cluster.drain("node-2")
            assert (await node(cluster, "node-2")).status == "up"
            await cluster.restart("node-1")
            assert holders(cluster) == before
            await cluster.drain("node-2")
            assert await names(cluster) == ["node-1", "node-3", "node-4"]

    run(main)


def test_a_drain_that_cannot_go_on_says_what_is_left_and_goes_on_when_it_can() -> None:
    """A node with another replica dies meanwhile; the error names it."""

    async def main() -> None:
        async with local(4, replicas=2) as cluster:
            await spawned(cluster, 8)
            draining = asyncio.create_task(cluster.options(timeout=20.0).drain("node-4"))
            await until_status(cluster, "node-4", "leaving")
            await cluster.kill("node-3")
            with pytest.raises(StillRunningError, match="node-3 does not answer") as caught:
                await draining
            assert caught.value.details["left"] > 0
            assert (await node(cluster, "node-4")).status == "leaving"
            again = asyncio.create_task(cluster.drain("node-4"))
            await cluster.restart("node-3")
            await again
            assert await names(cluster) == NODES[:3]

    run(main)


def test_a_drain_waits_for_a_stream_and_says_so() -> None:
    """Its shard is led from the node until it has ended, however long that is."""

    async def main() -> None:
        async with local(3) as cluster:
            refs = await spawned(cluster, 16)
            here = [ref for ref in refs if (await ref.info()).node == "node-3"]
            stream = here[0].options(timeout=300.0).stream(Tally.give, 10**6, 0.1)
            assert await anext(stream) == 1
            with pytest.raises(StillRunningError, match="led there still, which streams"):
                await cluster.options(timeout=15.0).drain("node-3")
            assert await anext(stream) == 2
            await stream.aclose()
            await cluster.drain("node-3")
            assert await names(cluster) == NODES[:2]

    run(main)


def test_a_drain_asked_for_twice_is_one_and_goes_on_when_its_caller_is_cancelled() -> None:
    """Both return; a cancelled one leaves the node leaving, and a third call waits for the rest."""

    async def main() -> None:
        async with local(4) as cluster:
            await spawned(cluster, 4)
            first = asyncio.create_task(cluster.drain("node-4"))
            second = asyncio.create_task(cluster.drain((await node(cluster, "node-4")).id))
            await asyncio.gather(first, second)
            assert await names(cluster) == NODES[:3]
            third = asyncio.create_task(cluster.drain("node-3"))
            await until_status(cluster, "node-3", "leaving")
            third.cancel()
            await asyncio.gather(third, return_exceptions=True)
            assert third.cancelled()
            await cluster.drain("node-3")
            assert await names(cluster) == NODES[:2]

    run(main)


def test_two_nodes_are_drained_at_once_under_load() -> None:
    """Shards that were on both end on neither; nothing that was answered is lost."""

    async def main() -> None:
        async with local(5) as cluster:
            refs = await spawned(cluster, 12)
            async with Load(refs) as load:
                plans = await asyncio.gather(cluster.drain("node-4"), cluster.drain("node-5"))
            assert all(plan.moves for plan in plans)
            assert await names(cluster) == NODES[:3]
            assert {frozenset(row) for row in holders(cluster)} == {frozenset(NODES[:3])}
            assert load.longest < 1.0
            for ref in refs:
                assert await ref.call(Tally.get) == load.counts[ref.id]

    run(main)


def test_when_all_nodes_are_drained_at_once_one_is_refused() -> None:
    """Somebody has to stay, whatever each of them was told when it asked."""

    async def main() -> None:
        async with local(3) as cluster:
            refs = await spawned(cluster, 6)
            drains = [asyncio.create_task(cluster.drain(name)) for name in NODES[:3]]
            ends = await asyncio.gather(*drains, return_exceptions=True)
            (refused,) = [end for end in ends if not isinstance(end, MovePlan)]
            assert isinstance(refused, UnavailableError)
            assert "no other node is up" in refused.message
            (left,) = await cluster.nodes()
            assert (left.status, left.shards_led) == ("up", 32)
            for ref in refs:
                assert await ref.call(Tally.add) == 1

    run(main)


def test_a_dead_node_is_drained() -> None:
    """Its replicas are made elsewhere, from those that are left."""

    async def main() -> None:
        async with local(4) as cluster:
            refs = await spawned(cluster, 12)
            for ref in refs:
                await ref.call(Tally.add)
            await cluster.kill("node-2")
            plan = await cluster.drain("node-2")
            assert plan.agents > 0
            assert await names(cluster) == ["node-1", "node-3", "node-4"]
            assert {len(set(row)) for row in holders(cluster)} == {3}
            for ref in refs:
                assert await ref.call(Tally.add) == 2
            await cluster.restart("node-2")
            async with asyncio.timeout(10):
                while "node-2" not in await names(cluster):  # noqa: ASYNC110 - no event for it
                    await asyncio.sleep(0.01)

    run(main)


def test_a_node_that_dies_while_it_is_drained_is_drained_all_the_same() -> None:
    """What was answered is on the replicas that are left, and goes on from there."""

    async def main() -> None:
        async with local(4) as cluster:
            refs = await spawned(cluster, 12)
            async with Load(refs) as load:
                draining = asyncio.create_task(cluster.drain("node-4"))
                await until_status(cluster, "node-4", "leaving")
                await asyncio.sleep(0.2)
                assert not draining.done()
                await cluster.kill("node-4")
                await draining
            assert await names(cluster) == NODES[:3]
            assert "node-4" not in {name for row in holders(cluster) for name in row}
            for ref in refs:
                assert await ref.call(Tally.get) == load.counts[ref.id]

    run(main)


def test_nodes_come_and_go_only_where_most_of_the_cluster_is() -> None:
    """Across a cut nothing is promised; when it ends, all hear what was decided."""

    async def main() -> None:
        async with local(5, partition_strategy="continue_all") as cluster:
            refs = await spawned(cluster, 6)
            await cluster.partition(["node-4", "node-5"])
            with pytest.raises(UnavailableError):
                await cluster.drain("node-5")
            await cluster.heal()
            await cluster.partition(NODES[:3])
            with pytest.raises(UnavailableError, match="does not answer"):
                await cluster.drain("node-1")
            await cluster.heal()
            await cluster.drain("node-1")
            assert await names(cluster) == [*NODES[1:], "node-5"]
            for ref in refs:
                assert await ref.call(Tally.add) == 1

    run(main)


def test_retiring_passes_on_all_that_is_led() -> None:
    """Before its end a node hands over, under load; its replicas stay and vote."""

    async def main() -> None:
        async with local(3) as cluster:
            refs = await spawned(cluster, 12)
            runtime = runtime_of(cluster)
            before = holders(cluster)
            async with Load(refs) as load:
                hosts = runtime.nodes["node-3"].hosts.values()
                assert any(host.replicas.led_shards() for host in hosts)
                left = await asyncio.gather(*(host.replicas.retire(5.0) for host in hosts))
                assert sum(left) == 0
                assert not any(host.replicas.led_shards() for host in hosts)
                await cluster.kill("node-3")
            assert load.longest < 1.0
            assert holders(cluster) == before
            for ref in refs:
                assert await ref.call(Tally.get) == load.counts[ref.id]

    run(main)


def test_retiring_gives_up_when_nobody_else_is_there() -> None:
    async def main() -> None:
        async with local(1) as cluster:
            (host,) = runtime_of(cluster).hosts()
            assert await host.replicas.retire(0.5) == 32

    run(main)


def test_a_preview_names_what_is_wrong() -> None:
    async def main() -> None:
        async with local(3) as cluster:
            with pytest.raises(InvalidInputError, match="no node 'nobody'; use an id, or one of"):
                await cluster.preview(remove=["nobody"])
            with pytest.raises(InvalidInputError, match="'node-1' is there already"):
                await cluster.preview(add=["node-1"])
            with pytest.raises(InvalidInputError, match="'new' is there already"):
                await cluster.preview(add=["new", "new"])
            with pytest.raises(InvalidInputError, match="nobody would be left"):
                await cluster.preview(remove=NODES[:3])
            with pytest.raises(InvalidInputError, match="give a list of names"):
                await cluster.preview(remove="node-1")
            with pytest.raises(InvalidInputError, match="'' ?; use the name"):
                await cluster.drain("")
            assert (await cluster.preview()).moves == ()

    run(main)


def test_an_agents_place_is_explained() -> None:
    """Its shard, who holds it, who leads it, and who of them is silent."""

    async def main() -> None:
        async with local(3) as cluster:
            (ref, *_) = await spawned(cluster, 1)
            info = await ref.info()
            text = await cluster.explain(ref.id)
            assert f"agent {ref.id!r} is in shard {info.shard} of 32" in text
            assert f"{info.node} (node " in text
            assert "leads it now, under ballot" in text
            await cluster.kill("node-3")
            assert "is not reachable" in await cluster.explain(ref.id)
            assert "is in shard" in await cluster.explain("nobody-yet")
            with pytest.raises(InvalidInputError, match="no id"):
                await cluster.explain("no id")

    run(main)


def test_nodes_that_are_killed_or_have_said_nothing_are_not_reachable() -> None:
    async def main() -> None:
        async with local(3) as cluster:
            await cluster.kill("node-2")
            await until_status(cluster, "node-2", "down")
            found = {info.name: info for info in await cluster.nodes()}
            assert [found[name].is_reachable for name in NODES[:3]] == [True, False, True]
            assert found["node-2"].status == "down"
            assert found["node-2"].agents == found["node-2"].shards_led == 0

    run(main)
