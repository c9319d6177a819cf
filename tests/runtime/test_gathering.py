"""Which turns are handed to the core together: those that end while others are on their way."""

import asyncio
from typing import Any

from jido_cluster.runtime.replicas import GATHER_SECONDS
from jido_state.service import Service
from tests.runtime.agents import Tally
from tests.runtime.support import hosts_of, local, run, runtime_of

PASSES = 50  # of the loop; more than a frame needs to its host, and its turns to end


def test_turns_wait_for_those_before_them_and_not_for_long() -> None:
    """With nothing on its way a turn is handed on at once, the next ones together and in time."""

    async def main() -> None:
        async with local(3, shards=1) as cluster:
            refs = [await cluster.spawn(Tally, f"t-{number}") for number in range(3)]
            (host,) = [one for one in hosts_of(cluster) if one.replicas.led_shards()]
            replicas, loop = host.replicas, asyncio.get_running_loop()
            handed: list[tuple[float, int]] = []
            step = replicas.core.step

            def watched(group: int, now_ms: int, method: Any, *args: Any) -> Any:
                if method is Service.end_all:
                    handed.append((loop.time(), len(args[0])))
                return step(group, now_ms, method, *args)

            replicas.core.step = watched
            leader = replicas.core.node
            runtime_of(cluster).switchboard.partition({leader}, {0, 1, 2} - {leader})
            begun = loop.time()
            calls = [asyncio.ensure_future(refs[0].call(Tally.add))]
            await _passes()
            assert handed == [(begun, 1)]
            for ref in refs[1:]:
                calls.append(asyncio.ensure_future(ref.call(Tally.add)))
                await _passes()
            assert len(handed) == 1, "the turn before them is not committed"
            await asyncio.sleep(GATHER_SECONDS)
            assert handed == [(begun, 1), (begun + GATHER_SECONDS, 2)]
            runtime_of(cluster).switchboard.heal()
            assert await asyncio.gather(*calls) == [1, 1, 1]

    run(main)


async def _passes() -> None:
    for _ in range(PASSES):
        await asyncio.sleep(0)
