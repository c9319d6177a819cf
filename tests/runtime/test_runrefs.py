"""What a ref of a run tells when its host is slow, silent or gone, and how long it is told."""

import asyncio
from typing import Any

import pytest

from jido_cluster import (
    Action,
    AsyncCluster,
    Context,
    OutcomeUnknownError,
    StillRunningError,
    UnavailableError,
)
from jido_cluster.runrefs import AsyncRunRef
from tests.runtime.support import local, over, run


class Nap(Action, name="runrefs.nap", timeout=None):
    async def run(self, params: dict[str, Any], ctx: Context) -> int:
        await asyncio.sleep(params["seconds"])
        return 3


async def started(cluster: AsyncCluster, seconds: float) -> AsyncRunRef[Any]:
    return await cluster.start(Nap, {"seconds": seconds})


def at(other: AsyncCluster, ref: AsyncRunRef[Any]) -> AsyncRunRef[Any]:
    """The same run, asked about over another connection."""
    return AsyncRunRef(other._connection, ref.run_id)


def test_an_outcome_is_kept_for_600_seconds() -> None:
    """From its end, however long the run took; then nobody knows it."""

    async def main() -> None:
        async with local(shards=4) as cluster:
            ref = await started(cluster, 5000.0)
            assert await ref.wait(4000.0) == "running"
            assert await ref.result() == 3
            await asyncio.sleep(590.0)
            assert await ref.result() == 3
            await asyncio.sleep(30.0)
            for question in (ref.status(), ref.wait(1.0), ref.result(1.0)):
                with pytest.raises(OutcomeUnknownError, match="600 s ago") as raised:
                    await question
                assert raised.value.op_id == ref.run_id

    run(main)


def test_waiting_leaves_a_run_alone() -> None:
    """However often and long."""

    async def main() -> None:
        async with local() as cluster:
            ref = await started(cluster, 100.0)
            begun = asyncio.get_running_loop().time()
            assert await ref.wait(30.0) == "running"
            assert asyncio.get_running_loop().time() - begun == pytest.approx(30.0, abs=0.1)
            for seconds in (0.0, 20.0):
                with pytest.raises(StillRunningError, match="goes on"):
                    await ref.result(seconds)
            assert await ref == 3
            assert asyncio.get_running_loop().time() - begun == pytest.approx(100.0, abs=0.1)

    run(main)


def test_a_host_that_does_not_answer_is_asked_again() -> None:
    """As long as the caller waits; the question changes nothing."""

    async def main() -> None:
        async with local() as cluster, over(cluster, []) as (other, network):
            ref = await started(cluster, 60.0)
            mine = at(other, ref)
            network.script = ["lost"] * 400  # one every 50 ms
            with pytest.raises(UnavailableError, match=ref.run_id):
                await mine.status()
            with pytest.raises(UnavailableError, match="goes on"):
                await mine.result(5.0)
            assert await mine.result() == 3

    run(main)


def test_a_run_goes_with_the_host_that_tracks_it() -> None:
    """Also for whoever waits for it at that moment."""

    async def main() -> None:
        async with local(3, shards=8) as cluster:
            refs = [await started(cluster, 1000.0) for _ in range(20)]
            waiting = [asyncio.ensure_future(ref.result()) for ref in refs]
            await asyncio.sleep(1.0)
            await cluster.kill("node-2")
            outcomes = await asyncio.gather(*waiting, return_exceptions=True)
            gone = [one for one in outcomes if isinstance(one, OutcomeUnknownError)]
            assert 0 < len(gone) < 20
            assert all("nobody knows run" in str(one) for one in gone)
            assert [one for one in outcomes if one != 3 and one not in gone] == []

    run(main)


def test_a_run_whose_time_is_up_is_cancelled() -> None:
    """`run` waits within the time of what runs around it; `start` leaves the run alone."""

    class Outer(Action, name="runrefs.outer", timeout=10.0):
        async def run(self, params: dict[str, Any], ctx: Context) -> int:
            napped: int = await ctx.cluster.run(Nap, {"seconds": 1000.0})
            return napped

    async def main() -> None:
        async with local() as cluster:
            ref = await cluster.start(Outer, {})
            assert await ref.wait(5.0) == "running"
            assert (await cluster.nodes())[0].load == 2.0
            assert await ref.wait(20.0) == "failed"
            await asyncio.sleep(1.0)
            assert (await cluster.nodes())[0].load == 0.0

    run(main)
