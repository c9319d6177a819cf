"""`python -m benchmarks profile`: where the time of one ask goes, in the host and in the client.

A load of 2048 asks in flight, as in `calls`, while py-spy, which comes with Ray, samples one of
the two processes; then the same for the other one. Writes docs/plots/flame-host.svg and
flame-client.svg, and prints the functions that took most time themselves, and the CPU time of one
ask.
"""

import asyncio
import gc
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final, Self

import psutil

from benchmarks.agents import Counter
from benchmarks.cluster import RayNodes, Site
from benchmarks.flame import flame_graph, self_times, tree
from benchmarks.load import rate
from benchmarks.page import PLOTS
from benchmarks.report import Samples

AGENTS: Final = 1000
IN_FLIGHT: Final = 2048
SECONDS: Final = 10
PER_SECOND: Final = 250
SHOWN: Final = 12


class Profile:
    """A case whose one round samples both processes under load."""

    def __init__(self, site: Site) -> None:
        self._site = site

    async def prepare(self) -> None:
        """As the protocol says."""
        cluster = await self._site.connect()
        self._refs = await self._site.place(cluster, Counter, AGENTS, "profiled")
        await rate(self._ask, IN_FLIGHT, 1.0)

    async def _ask(self, number: int) -> object:
        return await self._refs[number % AGENTS].call(Counter.add, 1)

    async def round(self, _: int) -> Samples:
        """As the protocol says; it compares nothing."""
        client = psutil.Process(os.getpid())
        host = max(
            self._site.processes("ShardHostActor"), key=_seconds
        )  # the far one: it has served
        before = _seconds(host), _seconds(client)
        with Collecting() as collecting:
            answered = await rate(self._ask, IN_FLIGHT, 3.0) * 3.0
        spent = _seconds(host) - before[0], _seconds(client) - before[1]
        print(f"client: {collecting.seconds / spent[1]:.1%} of its CPU time collects garbage")
        costs = {"host": spent[0] / answered * 1e6, "client": spent[1] / answered * 1e6}
        for name, process in (("host", host), ("client", client)):
            stacks, asks = await self._sampled(process)
            root = tree(stacks.splitlines())
            note = (
                f"{costs[name]:.1f} us of CPU time for one ask, {IN_FLIGHT} in flight; samples "
                f"with the interpreter's lock, {PER_SECOND} a second for {SECONDS} s"
            )
            PLOTS.mkdir(parents=True, exist_ok=True)
            text = flame_graph(f"Where the time of an ask goes: the {name}", note, root)
            (PLOTS / f"flame-{name}.svg").write_text(text, encoding="utf-8")
            print(f"{name}: {costs[name]:.1f} us an ask; {asks:,.0f} asks/s while sampled")
            for function, share in list(self_times(root).items())[:SHOWN]:
                print(f"  {share:6.1%}  {function}")
        return {}

    async def _sampled(self, process: psutil.Process) -> tuple[str, float]:
        """Stacks of a process under load, and the asks per second meanwhile."""
        spy = shutil.which("py-spy", path=str(Path(sys.executable).parent)) or "py-spy"
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "stacks"
            command = [spy, "record", "--gil", "--rate", str(PER_SECOND), "--format", "raw"]
            command += ["--duration", str(SECONDS), "--output", str(file), "--function"]
            quiet: dict[str, Any] = {"stdout": asyncio.subprocess.DEVNULL}
            spying = await asyncio.create_subprocess_exec(
                *command, "--pid", str(process.pid), **quiet
            )
            asks = await rate(self._ask, IN_FLIGHT, SECONDS + 1.0)
            if await spying.wait():
                raise RuntimeError(
                    "py-spy could not sample: it needs root, or ptrace to be allowed"
                )
            return file.read_text(encoding="utf-8"), asks


class Collecting:
    """The CPU time in which this process collects garbage while the block runs.

    A sampling profiler does not see that: it shows the function that happened to allocate.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self._begun = 0.0

    def __enter__(self) -> Self:
        """Begins to listen."""
        gc.callbacks.append(self._hear)
        return self

    def __exit__(self, *_: object) -> None:
        """Listens no more."""
        gc.callbacks.remove(self._hear)

    def _hear(self, phase: str, _: dict[str, int]) -> None:
        if phase == "start":
            self._begun = time.process_time()
        else:
            self.seconds += time.process_time() - self._begun


def _seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def main() -> int:
    """Starts two nodes, and profiles."""
    with RayNodes() as nodes:
        for _ in nodes.rounds(Profile, 1, is_quick=False):
            pass
    return 0
