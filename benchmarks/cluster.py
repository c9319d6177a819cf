"""Where the cases run: a Ray cluster of some nodes on this machine, for as long as a case takes.

The client is the process that runs the command: a driver on the first node, on asyncio's own event
loop. It does all asking, of agents and of raw actors alike. What is asked lives on the second node,
called far, or on all of them. Ray has its default settings, but for the dashboard.
"""

import asyncio
import logging
import os
import signal
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import AsyncExitStack, ExitStack, suppress
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
WAIT_SECONDS: Final = 120.0
PAUSE_SECONDS: Final = 0.05
SETTLED_SECONDS: Final = 3.0
SHARE: Final = 0.9  # of an even part of the shards: a node with less has not all of its own yet


@dataclass(frozen=True)
class Site:
    """What a case finds in the client's process.

    Attributes:
        address: Of the Ray cluster.
        far_id: Ray's id of the node that holds what is measured.
        root: Process whose descendants are the cluster's processes.
        nodes: What the cluster runs on, for cases that add nodes and kill some.
        ending: Ends what a case has started beside Ray's processes.
        closing: The same, for what ends on the client's event loop.
        versions: Releases of what takes part beside our packages, filled by the case.
    """

    address: str
    far_id: str
    root: int
    is_quick: bool
    nodes: "RayNodes"
    ending: ExitStack = field(default_factory=ExitStack)
    closing: AsyncExitStack = field(default_factory=AsyncExitStack)
    versions: dict[str, str] = field(default_factory=dict)

    async def connect(
        self,
        name: str = "default",
        config: ClusterConfig = CONFIG,
        *,
        is_settled: bool = True,
    ) -> AsyncCluster:
        """The runtime of this name, started on all nodes when it is not there.

        Args:
            name: Of the runtime.
            config: Of the runtime.
            is_settled: Return when its shards move no more, see `wait_settled`.
        """
        cluster = await AsyncCluster.connect(self.address, name=name, config=config)
        if is_settled:
            await wait_settled(cluster, len(self.nodes.ids))
        return cluster

    def raw(self, kind: type, **more: Any) -> Any:
        """A new raw async actor on the far node, or as these options of Ray's say."""
        options = {
            "num_cpus": 0,
            "max_concurrency": MAX_CONCURRENCY,
            "scheduling_strategy": on_node(self.far_id),
        }
        return ray.remote(kind).options(**options | more).remote()

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


def on_node(node_id: str) -> NodeAffinitySchedulingStrategy:
    """Where an actor goes, and nowhere else."""
    return NodeAffinitySchedulingStrategy(node_id, soft=False)


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
        count: Nodes to start with, >= 1; the second one is the far node.

    Attributes:
        ids: Ray's ids of the living nodes by name, in the order of their start.
        versions: What cases have said of what takes part, see `Site`.
    """

    def __init__(self, count: int = 2) -> None:
        self._cluster = Cluster()
        self._count = count
        self._nodes: dict[str, Any] = {}
        self._killed: dict[str, Any] = {}
        self._slots: dict[str, int] = {}
        self.versions: dict[str, str] = {}

    @property
    def ids(self) -> dict[str, str]:
        """See the class."""
        return {name: str(node.node_id) for name, node in self._nodes.items()}

    def __enter__(self) -> Self:
        """Start all nodes."""
        try:
            self.add(NEAR, include_dashboard=False)
            while len(self._nodes) < self._count:
                self.add(far(len(self._nodes)))
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
        site = Site(
            self._cluster.address,
            self.ids.get(FAR, ""),
            os.getpid(),
            is_quick,
            self,
            versions=self.versions,
        )
        with asyncio.Runner() as runner, site.ending:
            try:
                asked = case(site)
                runner.run(asked.prepare())
                for number in range(count):
                    yield runner.run(asked.round(number))
            finally:
                runner.run(site.closing.aclose())

    def add(self, name: str, **options: Any) -> None:
        """Start one more node; under the name of one that was killed, in its data directory."""
        if name in self._killed:
            self._cluster.remove_node(self._killed.pop(name), allow_graceful=False)
        self._nodes[name] = self._cluster.add_node(
            num_cpus=2,
            object_store_memory=OBJECT_STORE_BYTES,
            node_name=name,
            labels={"jido.slot": str(self._slots.setdefault(name, len(self._slots)))},
            **options,
        )

    def kill(self, name: str) -> None:
        """SIGKILL every process of a node; their connections close. Returns at once."""
        victims = self.processes(name)
        self._killed[name] = self._nodes.pop(name)
        for process in victims:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)

    def processes(self, name: str) -> list[int]:
        """The ids of a node's processes, Ray's own first."""
        infos = [info for infos in self._nodes[name].all_processes.values() for info in infos]
        roots = [psutil.Process(info.process.pid) for info in infos]
        below = [process for root in roots for process in root.children(recursive=True)]
        return [process.pid for process in (*roots, *below)]

    def close(self) -> None:
        """End all nodes, and whatever they left behind."""
        started = psutil.Process().children(recursive=True)
        ray.shutdown()
        self._cluster.shutdown()  # type: ignore[no-untyped-call]
        _, left = psutil.wait_procs(started, timeout=END_SECONDS)
        for process in left:
            process.kill()
        psutil.wait_procs(left, timeout=END_SECONDS)


def far(number: int) -> str:
    """The name of a node beside the first one: number 1 is the far node."""
    return FAR if number == 1 else f"{FAR}-{number}"


async def wait_serving(cluster: AsyncCluster, nodes: int) -> list[int]:
    """Waits until so many nodes are up, and no others; returns how many shards each leads."""
    end = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < end:
        found = await cluster.nodes()
        led = [info.shards_led for info in found if info.status == "up" and info.is_reachable]
        if len(led) == len(found) == nodes and all(led):
            return led
        await asyncio.sleep(PAUSE_SECONDS)
    raise TimeoutError(f"{nodes} nodes did not serve within {WAIT_SECONDS:g} s: {found}")


async def wait_settled(cluster: AsyncCluster, nodes: int) -> None:
    """Waits until so many nodes lead about as many shards each, and have done so for a while.

    Until then a shard may move, and agents that are in memory only are lost with it.
    """
    end = time.monotonic() + WAIT_SECONDS
    before: list[int] = []
    since = time.monotonic()
    while time.monotonic() < end:
        led = await wait_serving(cluster, nodes)
        if led != before or min(led) < SHARE * sum(led) / nodes:
            before, since = led, time.monotonic()
        elif time.monotonic() > since + SETTLED_SECONDS:
            return
        await asyncio.sleep(PAUSE_SECONDS)
    raise TimeoutError(f"shards still move after {WAIT_SECONDS:g} s: {before}")


async def each(width: int, items: Iterable[Item], do: Callable[[Item], Awaitable[object]]) -> None:
    """Do something for every item, `width` of them at a time."""
    rest = iter(items)

    async def work() -> None:
        for item in rest:  # shared: each worker takes the next one
            await do(item)

    await asyncio.gather(*(work() for _ in range(width)))
