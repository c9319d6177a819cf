"""Our side of a peer's program: makes what it needs, starts it, asks it, ends it.

Python packages go into an environment beside this file, which git ignores; it is made when it is
not there, or when `requirements.txt` has changed. Erlang is what the machine has. What is missing
is told as `MissingError`, in one sentence with the remedy.
"""

import asyncio
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

import psutil

from benchmarks.load import Load
from benchmarks.peers import lines
from benchmarks.peers.program import HOST, free_port

FOLDER: Final = Path(__file__).resolve().parent
REPOSITORY: Final = FOLDER.parents[1]
REQUIREMENTS: Final = FOLDER / "requirements.txt"
ENVIRONMENT: Final = FOLDER / ".venv"
START_S: Final = 120.0
ANSWER_S: Final = 120.0  # beside the load itself
END_S: Final = 20.0

_making = threading.Lock()


class MissingError(Exception):
    """This machine lacks what a peer needs; the message says what, and how to get it."""


def python() -> Path:
    """The interpreter of the peers' environment, which is made when it is not there.

    Peers are started at the same time, from several threads: one of them makes it.

    Raises:
        MissingError: Its packages cannot be installed.
    """
    with _making:
        return _environment()


def _environment() -> Path:
    found = ENVIRONMENT / "bin" / "python"
    mark = ENVIRONMENT / "installed"
    wanted = hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()
    if mark.exists() and mark.read_text(encoding="utf-8") == wanted:
        return found
    print("installing the peers' packages, once", file=sys.stderr)
    install = (found, "-m", "pip", "install", "--quiet", "--retries", "1")
    steps: tuple[tuple[str | Path, ...], ...] = (
        (sys.executable, "-m", "venv", ENVIRONMENT),
        (*install, "-r", REQUIREMENTS),
    )
    for step in steps:
        done = subprocess.run(step, capture_output=True, text=True, check=False)
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise MissingError(f"the peers' packages could not be installed: {last}")
    mark.write_text(wanted, encoding="utf-8")
    return found


def in_python(module: str) -> Callable[[Path], list[str]]:
    """The command of a program in the peers' environment."""
    return lambda _: [str(python()), "-m", module]


def in_erlang(folder: Path) -> list[str]:
    """The command of the Erlang program, compiled into this folder.

    Raises:
        MissingError: There is no Erlang.
    """
    if shutil.which("erlc") is None or shutil.which("erl") is None:
        raise MissingError(
            "there is no Erlang on this machine; on Debian: apt-get install erlang-base"
        )
    done = subprocess.run(
        ["erlc", "-o", str(folder), str(FOLDER / "counter.erl")],  # noqa: S607 - wherever it is
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise MissingError(f"this Erlang does not compile counter.erl: {done.stdout.strip()}")
    # Two nodes share the machine: more schedulers than half of its cores take them from each other.
    schedulers = max(1, (os.cpu_count() or 1) // 2)
    options = f"+S {schedulers} -noshell -name asking@{HOST} -dist_listen false -start_epmd false"
    interface = HOST.replace(".", ",")
    return [
        "erl",
        *options.split(),
        *("-erl_epmd_port", str(free_port()), "-interface", f"{{{interface}}}"),
        *("-setcookie", "benchmarks", "-pa", str(folder), "-s", "counter", "main"),
    ]


@dataclass(frozen=True, slots=True)
class Peer:
    """A system that others use.

    Attributes:
        key: Of its samples.
        name: As tables have it.
        command: Of its program, given a folder for what has to be made first.
        can_fan: Whether it can hold 10,000 agents.
    """

    key: str
    name: str
    command: Callable[[Path], list[str]]
    can_fan: bool = True


PEERS: Final = (
    Peer("xoscar", "xoscar", in_python("benchmarks.peers.xoscar_peer")),
    Peer("autogen", "AutoGen gRPC", in_python("benchmarks.peers.autogen_peer")),
    Peer("thespian", "Thespian", in_python("benchmarks.peers.thespian_peer"), can_fan=False),
    Peer("erlang", "Erlang/OTP", in_erlang),
)


class Program:
    """A peer's program, running; one request at a time.

    Attributes:
        versions: What it says it is made of.
    """

    def __init__(
        self, peer: Peer, process: asyncio.subprocess.Process, folder: Path, errors: IO[bytes]
    ) -> None:
        self.versions: dict[str, str] = {}
        self._peer = peer
        self._process = process
        self._folder = folder
        self._errors = errors

    @classmethod
    async def start(cls, peer: Peer) -> "Program":
        """A program that serves requests.

        Raises:
            MissingError: This machine lacks what it needs.
            lines.PeerError: It does not start.
        """
        folder = Path(tempfile.mkdtemp(prefix="jido-bench-"))
        errors = (folder / "errors").open("w+b")
        try:
            command = await asyncio.to_thread(peer.command, folder)
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                cwd=REPOSITORY,
                env={**os.environ, "PYTHONPATH": str(REPOSITORY), "ERL_CRASH_DUMP_BYTES": "0"},
            )
        except BaseException:
            errors.close()
            shutil.rmtree(folder)
            raise
        program = cls(peer, process, folder, errors)
        try:
            program.versions = lines.versions(await program._line(START_S))
        except BaseException:
            await program.close()
            raise
        return program

    async def load(self, in_flight: int, seconds: float) -> Load:
        """What it did under this load."""
        return lines.as_load(await self._ask(f"load {in_flight} {seconds}", ANSWER_S + seconds))

    async def fan(self, agents: int) -> float:
        """Seconds until so many agents have answered."""
        return lines.as_seconds(await self._ask(f"fan {agents}", ANSWER_S))

    async def close(self) -> None:
        """Ends it, and whatever it has started."""
        started: list[psutil.Process] = []
        with suppress(psutil.NoSuchProcess):
            started = psutil.Process(self._process.pid).children(recursive=True)
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            await asyncio.wait_for(self._process.wait(), END_S)
        except TimeoutError:
            self._process.kill()
            await self._process.wait()
        for process in started:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self._errors.close()
        shutil.rmtree(self._folder)

    async def _ask(self, request: str, timeout: float) -> str:
        if self._process.stdin is None:
            raise lines.PeerError(f"{self._peer.name} has no input")
        self._process.stdin.write(f"{request}\n".encode())
        return await self._line(timeout)

    async def _line(self, timeout: float) -> str:
        if self._process.stdout is None:
            raise lines.PeerError(f"{self._peer.name} has no output")
        try:
            line = await asyncio.wait_for(self._process.stdout.readline(), timeout)
        except TimeoutError:
            raise lines.PeerError(f"{self._peer.name} did not answer in {timeout:g} s") from None
        if not line:
            self._errors.seek(0)
            said = self._errors.read().decode(errors="replace").strip().splitlines() or ["nothing"]
            raise lines.PeerError(f"{self._peer.name} has ended; it said last: {said[-1]}")
        return line.decode().strip()
