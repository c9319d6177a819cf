"""A tiny film, and a fake ffmpeg that fails or waits where a test says so."""

import asyncio
import stat
from collections.abc import Callable
from pathlib import Path

import imageio_ffmpeg
import pytest

from examples.transcoding.media import make_clip

ENCODES_PICTURE = "*libx264*"


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seconds of 160x90 at 30 frames a second, with sound."""
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    asyncio.run(make_clip(path, 2.0, "160x90"))
    return path


@pytest.fixture
def fake_ffmpeg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Put a shell script before ffmpeg; it has ``$marks``, a directory to leave marks in."""

    def install(script: str, when: str = ENCODES_PICTURE) -> Path:
        marks = tmp_path / "marks"
        marks.mkdir(exist_ok=True)
        program = tmp_path / "ffmpeg.sh"
        program.write_text(
            f'#!/bin/sh\nmarks="{marks}"\ncase "$*" in {when}) {script} ;; esac\n'
            f'exec "{imageio_ffmpeg.get_ffmpeg_exe()}" "$@"\n'
        )
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(program))
        return marks

    return install
