"""The load and what is made of its log, on a cluster in this process: no namespaces are needed."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

from jido_cluster import AsyncCluster
from tests.faults.judge import Record
from tests.faults.load import Client, Log
from tests.faults.stage import Size

SIZE = Size(nodes=3, seconds=3.0, rate=100.0, agents=20)
KEYS = SIZE.keys()


async def until(condition: Callable[[], bool]) -> None:
    """Return when it is so."""
    async with asyncio.timeout(30.0):
        while not condition():  # noqa: ASYNC110 - what is read is a file
            await asyncio.sleep(0.5)


def test_agents_of_each_level_keep_their_promises_over_a_death(tmp_path: Path) -> None:
    """A node dies under load; its agents answer elsewhere, and the judge finds nothing."""
    log = tmp_path / "log"

    def record() -> Record:
        return Record.read([log])

    async def play() -> None:
        async with AsyncCluster.local(nodes=3) as cluster:
            client = Client(cluster, 7, Log(str(log)))
            await client.spawn(KEYS)
            led = [key for key, node in (await client.homes(KEYS)).items() if node == "node-2"]
            load = asyncio.create_task(client.load(KEYS, 60.0, SIZE.rate))
            probes = asyncio.create_task(client.probe(KEYS, 60.0, 0.2))

            await until(lambda: len(record().calls) > SIZE.rate)
            killed = time.monotonic_ns()
            await cluster.kill("node-2")
            await until(lambda: None not in record().failovers(killed, led, by=[7]).values())
            await client.stop()
            await asyncio.gather(load, probes)
            strong = [key for key in KEYS if key.startswith(("count-", "register-"))]
            await client.each(strong)
            await client.each([key for key in KEYS if key not in strong], "add", 0)

    asyncio.run(play())
    findings = record().judge()
    assert findings.problems == ()
    assert findings.illegal == {"strong": 0, "session": 0, "eventual": 0}
    assert {call["key"] for call in record().calls} == set(KEYS)
    assert record().sights()
