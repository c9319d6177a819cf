"""Ray nodes on this machine: what `ray start` does on three hosts, done three times on one.

Each node is a process group of its own, ended by its process ids. (`ray stop` would end every Ray
cluster on the machine, also those of other people.)
"""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

REPOSITORY = Path(__file__).resolve().parents[2]
HEAD = "head"
ENVIRONMENT = {
    "RAY_AUTH_MODE": "disabled",  # the nodes listen on this machine, for as long as the demo runs
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
}
NODE_OPTIONS = (
    "--block",
    "--num-cpus=1",
    "--object-store-memory=80000000",
    "--disable-usage-stats",
    "--include-log-monitor=false",
    # Three nodes share this machine's ports, so each takes free ones.
    *("--min-worker-port=0", "--max-worker-port=0"),
    *("--dashboard-agent-listen-port=0", "--metrics-export-port=0"),
)
START_SECONDS = 120.0


class NodeStartError(RuntimeError):
    """A Ray node did not start; the message holds what it said."""


class RayNodes:
    """A Ray cluster of a head and some workers, alive while the context lasts.

    Attributes:
        address: Where `Cluster.connect` finds it.
    """

    def __init__(self, workers: int = 2) -> None:
        self._workers = workers
        # Ray puts sockets there, whose paths may have no more than 107 characters.
        self._directory = Path(tempfile.mkdtemp(prefix="jt", dir="/tmp"))
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._killed: list[psutil.Process] = []
        self.address = f"127.0.0.1:{_free_port()}"

    def __enter__(self) -> Self:
        """Start the head, and the workers once it listens."""
        os.environ.update(ENVIRONMENT)  # for the driver too: Ray compares them
        try:
            self._start(
                HEAD,
                *("--head", f"--port={self.address.rpartition(':')[2]}"),
                "--include-dashboard=false",
            )
            self._wait_for_head()
            for number in range(1, self._workers + 1):
                self._start(f"worker-{number}", f"--address={self.address}")
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
        """End all nodes."""
        self.close()

    @property
    def names(self) -> tuple[str, ...]:
        """The nodes that have not been killed."""
        return tuple(self._processes)

    def kill(self, name: str) -> None:
        """End a node as a power cut would: SIGKILL for everything that runs on it."""
        node = self._processes.pop(name)
        with contextlib.suppress(psutil.NoSuchProcess):
            root = psutil.Process(node.pid)
            doomed = [root, *root.children(recursive=True)]
            self._killed += doomed
            # All stop before the first one dies: none is to tell of another's end.
            for signal in (psutil.Process.suspend, psutil.Process.kill):
                for process in doomed:
                    with contextlib.suppress(psutil.NoSuchProcess):
                        signal(process)
        node.wait()

    def close(self) -> None:
        """End all nodes, the head last, and remove their files."""
        if (ray := sys.modules.get("ray")) is not None:
            ray.shutdown()  # a driver that is connected would report the end of its node as a crash
        for name in reversed(self.names):
            self.kill(name)
        psutil.wait_procs(self._killed, timeout=10.0)
        shutil.rmtree(self._directory, ignore_errors=True)

    def check(self) -> None:
        """Raise NodeStartError when a node has ended by itself."""
        for name, process in self._processes.items():
            if process.poll() is not None:
                said = self._log(name).read_text(errors="replace").strip().splitlines()[-3:]
                raise NodeStartError(f"Ray node {name} did not start: " + " ".join(said))

    def _start(self, name: str, *options: str) -> None:
        with self._log(name).open("wb") as log:
            self._processes[name] = subprocess.Popen(
                [
                    *(sys.executable, "-m", "ray.scripts.scripts", "start"),
                    # In one directory, nodes that start together take each other's socket names.
                    *(f"--node-name={name}", f"--temp-dir={self._directory / name}"),
                    *(*NODE_OPTIONS, *options),
                ],
                env=_environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _wait_for_head(self) -> None:
        host, _, port = self.address.rpartition(":")
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            self.check()
            with contextlib.suppress(OSError), socket.create_connection((host, int(port)), 1.0):
                return
            time.sleep(0.1)
        raise NodeStartError(f"the Ray head does not listen at {self.address}")

    def _log(self, name: str) -> Path:
        return self._directory / f"{name}.log"


def _environment() -> Mapping[str, str]:
    """The environment of a node: Ray workers inherit it, and find this example by it."""
    path = os.pathsep.join(filter(None, (str(REPOSITORY), os.environ.get("PYTHONPATH"))))
    return {**os.environ, **ENVIRONMENT, "PYTHONPATH": path}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
