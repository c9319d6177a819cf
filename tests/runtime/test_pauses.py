"""How long a call waits while shards move, on nodes that are apart.

Messages between nodes take 10 ms, and news of the cluster's record reaches one node after the
other: what the in-process cluster does at once takes time, as on a network. Times are simulated,
so that they tell what waits for what and not how busy a machine is.
"""

import asyncio

import pytest

from jido_cluster._local import runtime
from jido_cluster._local.peers import LocalPeers
from jido_cluster._local.root import LocalRoot
from jido_cluster.runtime.host import ShardHost
from jido_cluster.testing import AsyncLocalCluster
from jido_placement.record import Record
from jido_state.settings import GroupSettings
from tests.runtime.support import local, run, runtime_of
from tests.runtime.test_operating import Load, spawned

WIRE = 0.01  # seconds from node to node
NEWS = 0.1  # seconds from one node to the next for the cluster's record
LONGEST = 0.2  # of a call: some round trips; a repetition would come after 0.25


@pytest.fixture
def apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nodes of in-process clusters are apart, with the times of real ones."""
    receive, tell = LocalPeers.receive, LocalRoot._tell_record
    due: dict[
        tuple[str, str], float
    ] = {}  # of the last message of each link: they keep their order

    def received(self: LocalPeers, sender: LocalPeers, data: bytes) -> None:
        loop, link = asyncio.get_running_loop(), (sender.address, self.address)
        wire = WIRE if sender.node != self.node else 0.0
        due[link] = max(loop.time() + wire, due.get(link, 0.0) + 1e-6)
        loop.call_at(due[link], receive, self, sender, data)

    def told(host: ShardHost, record: Record) -> None:
        delay = NEWS * host.replicas.core.node
        asyncio.get_running_loop().call_later(delay, tell, host, record)

    monkeypatch.setattr(LocalPeers, "receive", received)
    monkeypatch.setattr(LocalRoot, "_tell_record", staticmethod(told))
    monkeypatch.setattr(runtime, "SETTINGS", GroupSettings())
    monkeypatch.setattr(runtime, "TICK", 0.1)


async def drain(cluster: AsyncLocalCluster) -> None:
    await cluster.drain("node-5")


async def join(cluster: AsyncLocalCluster) -> None:
    """The node comes anew and has its share, leaderships too."""
    await cluster.restart("node-5")
    async with asyncio.timeout(60):
        while (await cluster.preview()).moves or not (await cluster.nodes())[-1].shards_led:  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0.1)


async def retire(cluster: AsyncLocalCluster) -> None:
    """As before the end of a node that Ray drains; then it ends."""
    (host,) = runtime_of(cluster).nodes["node-4"].hosts.values()
    assert await host.replicas.retire(5.0) == 0
    await cluster.kill("node-4")
    await asyncio.sleep(1.0)  # simulated


@pytest.mark.usefixtures("apart")
def test_calls_wait_for_round_trips_only() -> None:
    """Not for repetitions, elections or silence; and none fails or counts twice."""

    async def main() -> None:
        async with local(5) as cluster:
            refs = await spawned(cluster, 40)
            for act in (drain, join, retire):
                async with Load(refs) as load:
                    await act(cluster)
                assert 0.0 < load.longest <= LONGEST, act.__name__

    run(main)
