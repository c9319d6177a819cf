"""Clients of the cluster that run on its nodes, seen from the test."""

import itertools
import json
import subprocess
import sys
import threading
from concurrent.futures import Future
from typing import Any, Final, Self

from tests.faults.nodes import RayNodes
from tests.ray_support import ROOT

CONNECT_SECONDS: Final = 180.0  # the runtime is started on each node by whoever connects first
ASK_SECONDS: Final = 60.0
MODULES: Final = ("tests.faults.agents",)


class ClientGoneError(Exception):
    """The client's process ended before it answered, or it refused."""


class Client:
    """A process on a node that is connected to the cluster; see `load.py` for what it can do.

    It belongs to its node: it dies and freezes with it. Close it, or use it in `with`.

    Attributes:
        number: Part of the numbers of its sessions; see `judge.client_of`.
        log: Where it notes its operations.
    """

    _numbers = itertools.count(1)

    def __init__(
        self,
        nodes: RayNodes,
        name: str,
        frames: tuple[float, float] | None = None,
        **config: Any,
    ) -> None:
        """Start it and connect.

        Args:
            nodes: The cluster.
            name: The node it runs on.
            frames: Probabilities that a frame of its calls is lost, and that its answer is.
            **config: Settings of the cluster beside modules, hosts and the data folder.
        """
        self.number: Final = next(Client._numbers)
        self.name: Final = name
        folder = nodes.network.folder
        self.log: Final = folder / f"client-{self.number}.jsonl"
        self.log.touch()
        self._errors: Final = folder / f"client-{self.number}.err"
        settings = {"modules": MODULES, "hosts_per_node": 1, "data_dir": str(nodes.data_dir)}
        command = [sys.executable, "-m", "tests.faults.load", nodes.address, str(self.number)]
        environment = nodes.environment | {"FAULTS_CONFIG": json.dumps(settings | config)}
        if frames is not None:
            environment["FAULTS_FRAMES"] = json.dumps(frames)
        with self._errors.open("wb") as errors:
            self._process = subprocess.Popen(
                nodes.network.command(name, [*command, str(self.log)]),
                cwd=ROOT,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        self._ids = itertools.count(1)
        self._lock = threading.Lock()
        self._pending: dict[int, Future[Any]] = {0: Future()}
        connected = self._pending[0]
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        try:
            connected.result(CONNECT_SECONDS)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def begin(self, do: str, **arguments: Any) -> "Future[Any]":
        """Have it do something; the future raises `ClientGoneError` when it dies meanwhile."""
        future: Future[Any] = Future()
        with self._lock:
            id_ = next(self._ids)
            self._pending[id_] = future
        try:
            self._write(json.dumps({"id": id_, "do": do, **arguments}) + "\n")
        except OSError:
            self._fail()
        return future

    def ask(self, do: str, seconds: float = ASK_SECONDS, **arguments: Any) -> Any:
        """As `begin`, and wait for the result."""
        return self.begin(do, **arguments).result(seconds)

    def members(self) -> dict[str, int]:
        """How many shards each member leads, by name."""
        return {name: led for name, _, led in self.ask("nodes")}

    def close(self) -> None:
        """End the process. Idempotent."""
        self._process.kill()
        self._process.wait(10.0)
        self._reader.join(10.0)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def _write(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line)
        self._process.stdin.flush()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            answer = json.loads(line)
            with self._lock:
                future = self._pending.pop(answer["id"])
            if "error" in answer:
                future.set_exception(ClientGoneError(answer["error"]))
            else:
                future.set_result(answer["result"])
        self._process.wait()
        self._fail()

    def _fail(self) -> None:
        with self._lock:
            pending, self._pending = self._pending, {}
        for future in pending.values():
            future.set_exception(ClientGoneError(self._last_words()))

    def _last_words(self) -> str:
        text = self._errors.read_text(errors="replace") if self._errors.exists() else ""
        return f"the client on {self.name} ended: {text[-3000:]}"
