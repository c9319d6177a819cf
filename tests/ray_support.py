"""A real Ray cluster of several nodes on this machine, for the tests that need one."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from jido_cluster import ClusterConfig

ROOT = Path(__file__).resolve().parents[1]
START_SECONDS = 60.0
MOVE_SECONDS = 180.0  # shards move few at a time, and a node that joins gets a third of all
SETTLED_SECONDS = 1.0  # without another leader; between two that are handed over it is less
SHARDS = ClusterConfig().shards

# Alike on all nodes and in the driver, as Ray compares them.
ENVIRONMENT = {
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
    "RAY_health_check_initial_delay_ms": "2000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "3000",
    "RAY_health_check_failure_threshold": "5",
    "RAY_raylet_start_wait_time_s": "120",
    "RAY_enable_metrics_collection": "0",
    "RAY_memory_monitor_refresh_ms": "0",
    "RAY_worker_niceness": "0",
    "OMP_NUM_THREADS": "1",
}


class RayNodes:
    """Ray nodes of one cluster; the head is called "node-1" and never killed."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        self._ray = Cluster()
        self._nodes: dict[str, Any] = {}
        self._killed: list[str] = []
        self._count = 0
        self.add()

    @property
    def address(self) -> str:
        """Where drivers connect."""
        return str(self._ray.address)

    @property
    def names(self) -> tuple[str, ...]:
        """The living nodes, the head first."""
        return tuple(self._nodes)

    def add(self) -> str:
        """Start one more node, as `ray start` on another machine would."""
        self._count += 1
        name = f"node-{self._count}"
        self._start(name)
        return name

    def restart(self) -> None:
        """Start the nodes that were killed, each with the slot of the data directory it had."""
        while self._killed:
            self._start(self._killed.pop())

    def _start(self, name: str) -> None:
        self._nodes[name] = self._ray.add_node(
            wait=False,
            node_name=name,
            num_cpus=2,
            object_store_memory=80_000_000,
            include_dashboard=False,
            labels={"jido.slot": name.removeprefix("node-")},
        )

    def kill(self, name: str) -> None:
        """SIGKILL the raylet and every worker of a node at once, as a loss of power would."""
        node = self._nodes.pop(name)
        victims = [
            process
            for infos in node.all_processes.values()
            for info in infos
            if (process := _alive(info.process.pid)) is not None
        ]
        tree = [child for process in victims for child in process.children(recursive=True)]
        for process in (*victims, *tree):
            _kill(process)
        psutil.wait_procs([*victims, *tree], timeout=10.0)
        self._ray.remove_node(node, allow_graceful=False)
        self._killed.append(name)

    def drain(self, name: str) -> None:
        """Tell Ray that the node is about to end, as `ray start --block` does at SIGTERM."""
        command = [str(Path(sys.executable).parent / "ray"), "drain-node"]
        command += [f"--address={self.address}", f"--node-id={self._nodes[name].node_id}"]
        command += ["--reason=DRAIN_NODE_REASON_PREEMPTION", "--reason-message=a test"]
        subprocess.run([*command, "--deadline-remaining-seconds=30"], check=True)

    def processes(self, name: str, title: str) -> list[psutil.Process]:
        """Worker processes of a node whose title holds the text, an actor's class for instance."""
        raylet = psutil.Process(self._nodes[name].all_processes["raylet"][0].process.pid)
        return [
            child for child in raylet.children(recursive=True) if title in " ".join(_command(child))
        ]

    def close(self) -> None:
        """End all nodes."""
        import ray

        ray.shutdown()
        self._ray.shutdown()  # type: ignore[no-untyped-call]


def _alive(pid: int) -> psutil.Process | None:
    try:
        return psutil.Process(pid)
    except psutil.NoSuchProcess:
        return None


def _kill(process: psutil.Process) -> None:
    with suppress(psutil.NoSuchProcess):
        process.kill()


def _command(process: psutil.Process) -> list[str]:
    try:
        return list(process.cmdline())
    except psutil.Error:
        return []


@contextmanager
def ray_nodes(count: int) -> Iterator[RayNodes]:
    """A cluster of `count` nodes for the length of the block."""
    os.environ.update(ENVIRONMENT)
    path = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), path)))
    nodes = RayNodes()
    try:
        for _ in range(count - 1):
            nodes.add()
        yield nodes
    finally:
        nodes.close()
        if path is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = path


def within(seconds: float) -> "Deadline":
    """A deadline for a loop that waits: `while deadline.pause("what"): ...`."""
    return Deadline(seconds)


class Deadline:
    """Bounds a wait for a condition that only another process can make true."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._end = time.monotonic() + seconds

    def pause(self, what: str) -> None:
        """Give the other process a moment; fail the test when the time is up."""
        assert time.monotonic() < self._end, f"{what} did not happen within {self._seconds} s"
        time.sleep(0.02)


def complete(nodes: RayNodes, cluster: Any) -> None:
    """See that all nodes that ever were are there, and that all of them serve shards."""
    nodes.restart()
    wait_members(cluster, nodes.names)


def wait_settled(cluster: Any) -> None:
    """Return when nothing moves any more, leaderships included.

    A shard that moves begins its runs anew, and loses agents that are in memory only.
    """
    deadline = within(MOVE_SECONDS)
    while moves := cluster.preview().moves:
        deadline.pause(f"the end of {len(moves)} moves")
    led: list[int] = []
    since = time.monotonic()
    while time.monotonic() < since + SETTLED_SECONDS:
        infos = [info for info in cluster.nodes() if info.is_reachable]
        before, led = led, [info.shards_led for info in infos]
        # Who was away leads a few shards at first; the rest is handed over step by step.
        if led != before or sum(led) != SHARDS or min(led) < 0.6 * SHARDS / len(led):
            since = time.monotonic()
        deadline.pause(f"{SHARDS} shards with leaders that stay (now {led})")


def wait_members(cluster: Any, names: tuple[str, ...], seconds: float = START_SECONDS) -> None:
    """Return when exactly these nodes answer, and each of them serves shards.

    A node that was killed stays a member until nothing names it any more.
    """
    deadline = within(seconds)
    while True:
        infos = {info.name: info for info in cluster.nodes() if info.is_reachable}
        if set(infos) == set(names) and all(info.shards_led > 0 for info in infos.values()):
            return
        led = {name: info.shards_led for name, info in sorted(infos.items())}
        deadline.pause(f"membership of {sorted(names)} (now {led})")
