"""Ray nodes on machines of their own: started, killed, frozen and started again one by one.

The head is "node-1" and has the GCS. No Ray process fate-shares with the one that started it, so
each can be killed alone; what belongs to a node is known by its network namespace.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Final, Literal, Self, TypeVar

import psutil

from tests.faults.namespaces import Network, send_signal
from tests.ray_support import ENVIRONMENT, ROOT

HEAD: Final = "node-1"
PORT: Final = 6379
START_SECONDS: Final = 120.0  # five nodes start at once on two cores
STOP_SECONDS: Final = 30.0
STARTED: Final = "Ray runtime started"
DRAINED_FIRST: Final = {"RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "30"}  # as Ray's default
TERMINATE_SECONDS: Final = 60.0  # Ray itself gives a node 30 s
_OPTIONS: Final = (
    "--num-cpus=2",
    "--object-store-memory=80000000",  # about the least that Ray takes
    "--include-log-monitor=false",
    "--disable-usage-stats",
)

T = TypeVar("T")
Storage = Literal["memory", "rocksdb"]


class RayNodes:
    """One Ray cluster, a node on each machine of a network. Close it, or use it in `with`.

    Attributes:
        network: The machines; more are added with `add`.
        data_dir: Where a node keeps durable state, as its processes see it: one path, another
            folder on each node, which stays when the node is killed.
    """

    def __init__(
        self,
        count: int = 3,
        *,
        storage: Storage = "memory",
        environment: Mapping[str, str] | None = None,
        data_bytes: int | None = None,
    ) -> None:
        """Start the nodes and return when all of them have joined.

        Args:
            count: How many, the head among them.
            storage: Where the GCS keeps what a new GCS process goes on with.
            environment: More variables for what Ray starts on the nodes; not for drivers.
            data_bytes: Size of a file system for each data folder; None for the host's own.
        """
        self.network: Final = Network()
        self.data_dir: Final = self.network.here / "data"
        self._data_bytes = data_bytes
        paths = filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))
        self._environment = {**ENVIRONMENT, "PYTHONPATH": os.pathsep.join(paths)}
        self._nodes_only = dict(environment or {})
        # Ray compares what a node was given with the head's, so all nodes are told of the storage.
        self._environment["RAY_gcs_storage"] = storage
        self._environment["RAY_gcs_storage_path"] = str(self.network.here / "gcs")
        self._gcs: tuple[list[str], dict[str, str]] | None = None
        self._children: list[subprocess.Popen[bytes]] = []
        try:
            self._make(HEAD)
            self.start((HEAD,))
            self.add(count - 1)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def address(self) -> str:
        """Where drivers connect."""
        return f"{self.network.address(HEAD)}:{PORT}"

    @property
    def names(self) -> tuple[str, ...]:
        """All nodes that ever were, the head first."""
        return self.network.names

    @property
    def environment(self) -> dict[str, str]:
        """What drivers get, as the nodes do: Ray wants it alike."""
        return {**os.environ, **self._environment}

    def data(self, name: str) -> Path:
        """The node's data folder, as the host sees it."""
        return self.network.private(name) / "data"

    def add(self, count: int = 1, *, block: bool = False) -> tuple[str, ...]:
        """Start more nodes, all at once; their names.

        Args:
            count: How many.
            block: Whether the process that starts a node stays, and may be terminated.
        """
        names = tuple(f"node-{len(self.names) + 1 + i}" for i in range(count))
        for name in names:
            self._make(name)
        self.start(names, block=block)
        return names

    def _make(self, name: str) -> None:
        self.network.add(name)
        if self._data_bytes is None:
            self.data(name).mkdir()
        else:
            self.network.add_disk(name, "data", self._data_bytes)

    def start(self, names: Iterable[str], *, block: bool = False) -> None:
        """Start these nodes, of which nothing runs, with the folders they have; see `add`."""
        started = {name: self._start(name, block=block) for name in names}
        for name, process in started.items():
            path = self.network.private(name) / "start.log"
            if block:
                wait_until(lambda: STARTED in path.read_text(), f"start of {name}", START_SECONDS)  # noqa: B023
            elif process.wait(START_SECONDS) != 0:
                log = path.read_text()
                message = f"{name} did not start:\n{log[-2000:]}"
                raise RuntimeError(message)

    def _start(self, name: str, *, block: bool) -> "subprocess.Popen[bytes]":
        address = self.network.address(name)
        command = [str(Path(sys.executable).parent / "ray"), "start", *_OPTIONS]
        command += [f"--node-name={name}", f"--node-ip-address={address}"]
        command.append(f"--temp-dir={self.network.here / 'ray'}")
        if name == HEAD:
            command += ["--head", f"--port={PORT}", "--include-dashboard=false"]
            # A new head must not take the address that a killed one wrote down for a running one.
            (self.network.private(name) / "ray" / "ray_current_cluster").unlink(missing_ok=True)
        else:
            command.append(f"--address={self.address}")
        environment = self.environment | self._nodes_only
        if block:
            command.append("--block")
            environment |= DRAINED_FIRST
        return self._launch(name, command, environment, "start.log")

    def _launch(
        self, name: str, command: list[str], environment: dict[str, str], log: str
    ) -> "subprocess.Popen[bytes]":
        with (self.network.private(name) / log).open("ab") as output:
            process = subprocess.Popen(
                self.network.command(name, command),
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._children.append(process)
        return process

    # -- faults

    def kill(self, *names: str) -> None:
        """End everything on these nodes at once, as a loss of power would."""
        for name in names:  # first all of them, so that none sees another go
            send_signal(self.network.pids(name), signal.SIGSTOP)
        for name in names:
            self.network.kill(name)

    def kill_process(self, name: str, title: str) -> int:
        """End the one process on the node whose command line holds the text; its id.

        Waits for one: an earlier one may have died just now.
        """
        (process,) = wait_until(lambda: self.network.processes(name, title), f"a {title}")
        process.kill()
        wait_until(lambda: process.pid not in self.network.pids(name), f"the end of {title}")
        return int(process.pid)

    def terminate(self, name: str) -> None:
        """End the node with SIGTERM to its `ray start --block`, as an orchestrator does.

        It must have been started with `block=True`.
        """
        (starter,) = self.network.processes(name, "--block")
        starter.terminate()
        wait_until(lambda: not self.network.pids(name), f"the end of {name}", TERMINATE_SECONDS)

    def freeze(self, name: str) -> None:
        """Stop all processes of the node, as the pause of a virtual machine does."""

        def is_frozen() -> bool:
            send_signal(self.network.pids(name), signal.SIGSTOP)
            return all(map(_is_stopped, self.network.processes(name)))

        wait_until(is_frozen, f"the stop of all processes of {name}")

    def thaw(self, name: str) -> None:
        """Let a frozen node go on."""
        send_signal(self.network.pids(name), signal.SIGCONT)

    def kill_gcs(self) -> None:
        """End the GCS alone."""
        (process,) = self.network.processes(HEAD, "gcs_server")
        self._gcs = (process.cmdline(), process.environ())
        self.kill_process(HEAD, "gcs_server")

    def start_gcs(self) -> None:
        """Start the GCS again that was killed; with storage in memory it knows nothing any more.

        Raises:
            RuntimeError: None was killed.
        """
        if self._gcs is None:
            raise RuntimeError("the GCS was not killed")
        command, environment = self._gcs
        self._gcs = None
        self._launch(HEAD, command, environment, "gcs.log")
        wait_until(lambda: self.network.listens(HEAD, PORT), "the GCS listening")

    def close(self) -> None:
        """End all nodes and remove what they wrote. Idempotent."""
        self.network.close()
        for process in self._children:
            process.wait(STOP_SECONDS)


def wait_until(condition: Callable[[], T], what: str, seconds: float = STOP_SECONDS) -> T:
    """The first true value of the condition.

    Raises:
        TimeoutError: There is none in time.
    """
    end = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > end:
            message = f"{what} did not happen within {seconds} s"
            raise TimeoutError(message)
        time.sleep(0.02)
    return value


def _is_stopped(process: psutil.Process) -> bool:
    try:
        return bool(process.status() in {psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE})
    except psutil.NoSuchProcess:
        return True
