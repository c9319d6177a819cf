"""The whole program, as a user starts it: Ray nodes, the job's node killed, bad input."""

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import psutil
import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


def demo(arguments: Sequence[str], **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "examples.transcoding", *arguments],
        cwd=REPOSITORY,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=150,
        check=False,
    )


def ray_processes() -> set[int]:
    return {
        process.pid
        for process in psutil.process_iter()
        if "raylet" in process.name() or "gcs_server" in process.name()
    }


@pytest.mark.ray
def test_the_demo_survives_the_loss_of_its_own_node(tmp_path: Path) -> None:
    """With KILL=1 the job's own node is lost half-way: the job goes on elsewhere, repeats nothing.

    Three right files are made, and no process is left.
    """
    before = ray_processes()
    done = demo(["--seconds=12", f"--workdir={tmp_path}"], KILL="1")
    assert done.returncode == 0, done.stdout
    home = re.search(r"^job-\S+ lives on (worker-[12])$", done.stdout, re.MULTILINE)
    assert home, done.stdout
    killed = re.search(rf"killing {home[1]}, the job's node: (\d+) segments", done.stdout)
    assert killed, done.stdout
    assert int(killed[1]) > 0
    told = f"segments recorded before the kill: {killed[1]}; begun again: 0\n"
    assert told in done.stdout, done.stdout
    after = re.search(rf"node: {home[1]}, which was killed; \S+ s later (\S+)", done.stdout)
    assert after, done.stdout
    assert after[1] in {"head", "worker-1", "worker-2"} - {home[1]}
    assert "checked: 3 files decode and match the source" in done.stdout
    made = sorted(path.name for path in tmp_path.iterdir())
    assert made == ["clip-240p.mp4", "clip-360p.mp4", "clip-480p.mp4", "clip.mp4"]
    # Ray itself may tell of the lost node, in colour, when the demo takes long enough.
    own = re.sub(r".*\(raylet\).*\n(?:\t.*\n)*", "", done.stdout)
    assert "\x1b" not in own
    assert "\r" not in own
    assert ray_processes() <= before


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--kill", "--address=auto"], "leave out --address"),
        (["--seconds=0"], "--seconds is from"),
    ],
)
def test_options_that_make_no_sense_are_refused(arguments: list[str], reason: str) -> None:
    """Before anything is started, with exit code 2."""
    done = demo(arguments)
    assert done.returncode == 2
    assert reason in done.stdout


@pytest.mark.ray
def test_the_demo_fails_on_bad_input(tmp_path: Path) -> None:
    """A file that is no video: exit code 1, one clear line, no traceback, no files."""
    video = tmp_path / "words.mp4"
    video.write_text("these are words, not pictures\n" * 100)
    out = tmp_path / "out"
    done = demo([f"--workdir={out}"], VIDEO=str(video))
    assert done.returncode == 1
    assert f"failed: the job failed: split: {video} is not a video that can be read" in done.stdout
    assert "Traceback" not in done.stdout
    assert not out.exists() or list(out.iterdir()) == []
