"""Peers' programs, as they are started, asked and ended."""

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.load import Load
from benchmarks.peers import starting
from benchmarks.peers.lines import CannotError, PeerError
from benchmarks.peers.starting import MissingError, Peer, Program, in_erlang

ANSWERING = """
import sys
print("ready fake=1.0", flush=True)
for line in sys.stdin:
    word = line.split()[0]
    if word == "load":
        print("load 100 1 2 3", flush=True)
    elif "7" in line:
        sys.exit("it broke")
    else:
        print("cannot each is a process", flush=True)
"""


def a_peer(program: str) -> Peer:
    """A peer whose program is this text."""
    return Peer("fake", "Fake", lambda _: [sys.executable, "-c", program])


def test_a_program_is_asked_and_ends_with_its_input() -> None:
    """Its versions, a load, and what it cannot do come back; nothing is left of it."""

    async def use() -> None:
        program = await Program.start(a_peer(ANSWERING))
        assert program.versions == {"fake": "1.0"}
        assert await program.load(64, 0.5) == Load(100, 1, 2, 3)
        with pytest.raises(CannotError, match="each is a process"):
            await program.fan(10)
        await program.close()
        assert program._process.returncode == 0
        assert not program._folder.exists()

    asyncio.run(use())


def test_a_program_that_ends_early_is_quoted() -> None:
    """The reason stands in what it said last."""

    async def use() -> None:
        program = await Program.start(a_peer(ANSWERING))
        with pytest.raises(PeerError, match="Fake has ended; it said last: it broke"):
            await program.fan(7)
        await program.close()

    asyncio.run(use())


def test_a_program_that_does_not_start_leaves_nothing() -> None:
    """The case goes on without it, with what it said."""

    async def use() -> None:
        with pytest.raises(PeerError, match="it said last: no module"):
            await Program.start(a_peer("import sys; sys.exit('no module')"))

    asyncio.run(use())


def test_a_machine_without_erlang_is_told_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """One sentence with the remedy."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingError, match="no Erlang on this machine; on Debian: apt-get install"):
        in_erlang(tmp_path)


class Steps:
    """Stands in for the commands that make an environment.

    Attributes:
        made: The module that each command ran.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path, said: str = "") -> None:
        self.made: list[str] = []
        self.wanted = folder / "requirements.txt"
        self.wanted.write_text("", encoding="utf-8")
        self._said = said
        (folder / "environment").mkdir()
        monkeypatch.setattr(starting, "REQUIREMENTS", self.wanted)
        monkeypatch.setattr(starting, "ENVIRONMENT", folder / "environment")
        monkeypatch.setattr(subprocess, "run", self._run)

    def _run(self, step: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        self.made.append(str(step[2]))
        return subprocess.CompletedProcess(step, bool(self._said), "", self._said)


def test_packages_that_cannot_be_installed_are_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A machine without a package index measures the rest, and tries again next time."""
    steps = Steps(monkeypatch, tmp_path, said="first\nno index")
    for _ in range(2):
        with pytest.raises(MissingError, match="packages could not be installed: no index"):
            starting.python()
    assert steps.made == ["venv", "venv"]


def test_an_environment_is_made_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Until the requirements change."""
    steps = Steps(monkeypatch, tmp_path)
    for _ in range(2):
        assert starting.python() == tmp_path / "environment" / "bin" / "python"
    assert steps.made == ["venv", "pip"]
    steps.wanted.write_text("xoscar\n", encoding="utf-8")
    starting.python()
    assert steps.made == ["venv", "pip"] * 2
