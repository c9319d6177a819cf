"""Where the cases run: a Ray cluster of some nodes on this machine, for as long as a case takes.

The client is the process that runs the command: a driver on the first node, on asyncio's own event
loop. It does all asking, of agents and of raw actors alike. What is asked lives on the second node,
called far, or on all of them. Ray has its default settings, but for the dashboard.
"""

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Protocol, Self, TypeVar

import psutil

# Ray reads these when it is imported, here and in the processes it starts.
REPOSITORY: Final = Path(__file__).resolve().parents[1]
os.environ.update(
    RAY_AUTH_MODE="disabled",  # the nodes listen on this machine, for as long as a case runs
    RAY_USAGE_STATS_ENABLED="0",
    RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S="0",
    PYTHONPATH=os.pathsep.join(filter(None, (str(REPOSITORY), os.environ.get("PYTHONPATH")))),
)

import ray  # noqa: E402 - after what it reads
from ray.cluster_utils import Cluster  # noqa: E402 - as above
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy  # noqa: E402 - as above

from benchmarks.report import Samples  # noqa: E402 - as above
from jido_cluster import Agent, AsyncAgentRef, AsyncCluster, ClusterConfig  # noqa: E402 - as above

Item = TypeVar("Item")
A = TypeVar("A", bound=Agent)

OBJECT_STORE_BYTES: Final = 80_000_000  # about the least that Ray takes; nothing here uses it
NEAR: Final = "near"
FAR: Final = "far"
CONFIG: Final = ClusterConfig(hosts_per_node=1, warm_workers=1, modules=("benchmarks.agents",))
MAX_CONCURRENCY: Final = 10_000  # of a raw actor; Ray's 1000 would hold back 2048 in flight
SPAWNING: Final = 256  # spawns under way while a case prepares
END_SECONDS: Final = 20.0


@dataclass(frozen=True)
class Site:
    """What a case finds in the client's process.

    Attributes:
        address: Of the Ray cluster.
        far_id: Ray's id of the node that holds what is measured.
        root: Process whose descendants are the cluster's processes.
        ending: Ends what a case has started beside Ray's processes.
    """

    address: str
    far_id: str
    root: int
    is_quick: bool
    ending: ExitStack = field(default_factory=ExitStack)

    async def connect(self, name: str = "default", config: ClusterConfig = CONFIG) -> AsyncCluster:
        """The runtime of this name, started on all nodes when it is not there."""
        return await AsyncCluster.connect(self.address, name=name, config=config)

    def raw(self, kind: type) -> Any:
        """A new raw async actor on the far node."""
        options = {
            "num_cpus": 0,
            "max_concurrency": MAX_CONCURRENCY,
            "scheduling_strategy": NodeAffinitySchedulingStrategy(self.far_id, soft=False),
        }
        return ray.remote(kind).options(**options).remote()

    async def place(
        self, cluster: AsyncCluster, kind: type[A], count: int, prefix: str
    ) -> list[AsyncAgentRef[A]]:
        """`count` new agents that live on the far node."""
        found: list[AsyncAgentRef[A]] = []
        elsewhere: list[AsyncAgentRef[A]] = []

        async def spawn(number: int) -> None:
            ref = await cluster.spawn(kind, f"{prefix}-{number}")
            is_far = (await ref.info()).node == FAR
            (found if is_far and len(found) < count else elsewhere).append(ref)

        number = 0
        while len(found) < count:
            await each(SPAWNING, range(number, number + count), spawn)
            number += count
        await each(SPAWNING, elsewhere, lambda ref: ref.delete())
        return found

    def processes(self, *actors: str) -> list[psutil.Process]:
        """The cluster's processes that run actors of these classes."""
        titles = tuple(f"ray::{actor}" for actor in actors)
        return [
            process
            for process in psutil.Process(self.root).children(recursive=True)
            if _title(process).startswith(titles)
        ]


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""  # it ended while we looked


class Case(Protocol):
    """One command's measurements; made and run in the client's process."""

    def __init__(self, site: Site) -> None: ...

    async def prepare(self) -> None:
        """Make and warm up what is measured."""
        ...

    async def round(self, number: int) -> Samples:
        """One sample of each side for every comparison; odd rounds begin with the peer."""
        ...


class RayNodes:
    """A Ray cluster with the client on its first node.

    Args:
        more: Nodes beside the first and the far one.
    """

    def __init__(self, more: int = 0) -> None:
        self._cluster = Cluster()
        self._more = more

    def __enter__(self) -> Self:
        """Start all nodes."""
        try:
            self._add(NEAR, include_dashboard=False)
            self._far_id = self._add(FAR)
            for number in range(self._more):
                self._add(f"{FAR}-{number + 2}")
            ray.init(self._cluster.address, log_to_driver=False, logging_level=logging.ERROR)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End everything."""
        self.close()

    def rounds(self, case: type[Case], count: int, *, is_quick: bool) -> Iterator[Samples]:
        """Prepare a case, then yield the samples of its rounds."""
        site = Site(self._cluster.address, self._far_id, os.getpid(), is_quick)
        with asyncio.Runner() as runner, site.ending:
            asked = case(site)
            runner.run(asked.prepare())
            for number in range(count):
                yield runner.run(asked.round(number))

    def close(self) -> None:
        """End all nodes, and whatever they left behind."""
        started = psutil.Process().children(recursive=True)
        ray.shutdown()
        self._cluster.shutdown()  # type: ignore[no-untyped-call]
        _, left = psutil.wait_procs(started, timeout=END_SECONDS)
        for process in left:
            process.kill()
        psutil.wait_procs(left, timeout=END_SECONDS)

    def _add(self, name: str, **options: Any) -> str:
        node = self._cluster.add_node(
            num_cpus=2, object_store_memory=OBJECT_STORE_BYTES, node_name=name, **options
        )
        return str(node.node_id)


async def each(width: int, items: Iterable[Item], do: Callable[[Item], Awaitable[object]]) -> None:
    """Do something for every item, `width` of them at a time."""
    rest = iter(items)

    async def work() -> None:
        for item in rest:  # shared: each worker takes the next one
            await do(item)

    await asyncio.gather(*(work() for _ in range(width)))
