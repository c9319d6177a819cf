"""The side of a peer's program: reads requests, loads its system, answers.

Whatever a library prints goes to standard error; standard output is for the answers.
"""

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from typing import Protocol

from benchmarks.load import Ask, fan, load
from benchmarks.peers import lines

AGENTS = 1000  # that a load is spread over, as over ours
HOST = "127.0.0.1"


class Lines:
    """Requests in, answers out."""

    def __init__(self, *packages: str) -> None:
        self._out = os.fdopen(os.dup(sys.stdout.fileno()), "w")
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        self._packages = packages

    def ready(self) -> None:
        """Says that requests are served from now on, and by what."""
        self.say(" ".join(("ready", *(f"{name}={version(name)}" for name in self._packages))))

    def say(self, line: str) -> None:
        """Writes one line."""
        print(line, file=self._out, flush=True)

    def requests(self) -> Iterator[tuple[str, list[float]]]:
        """Each request, until the input ends."""
        while line := sys.stdin.readline():
            yield lines.request(line)


class System(Protocol):
    """A system that answers asks on an event loop."""

    async def start(self) -> None:
        """Connects to the process that serves."""
        ...

    async def ask(self, number: int) -> object:
        """Adds 1 to the counter of this number."""
        ...


def run(system: System, *packages: str) -> None:
    """Serves requests with this system until the input ends."""
    asyncio.run(_serve(system, Lines(*packages)))


async def _serve(system: System, told: Lines) -> None:
    await system.start()
    told.ready()
    loop = asyncio.get_running_loop()
    requests = told.requests()
    spread: Ask = lambda number: system.ask(number % AGENTS)  # noqa: E731 - a name for its type
    while (request := await loop.run_in_executor(None, next, requests, None)) is not None:
        word, numbers = request
        if word == "load":
            told.say(lines.answer(word, *await load(spread, int(numbers[0]), numbers[1])))
        else:
            told.say(lines.answer(word, await fan(system.ask, int(numbers[0]))))


def serve_in(module: str, *arguments: str) -> None:
    """Starts another process of a peer; returns when it has written a line. It ends with us."""
    process = subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        stdin=subprocess.PIPE,  # ends with this process
        stdout=subprocess.PIPE,
        text=True,
    )
    if process.stdout is None or not process.stdout.readline():
        raise RuntimeError(f"{module} {' '.join(arguments)} ended before it served")


async def wait_end() -> None:
    """Says that this process serves, and waits until its input ends."""
    print("serving", flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


def free_port() -> int:
    """A port of this machine that nobody listens at."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])
