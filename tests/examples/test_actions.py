"""The short actions: what they decide, and what they take back."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Literal

import pytest

from examples.transcoding.actions import (
    MAX_SEGMENTS,
    AggregateResults,
    FanOutTranscodingTasks,
    FinalizeJob,
    Task,
)
from examples.transcoding.media import Media
from jido_cluster import ExecutionError, run_sync


def film(
    seconds: float, rate: Fraction = Fraction(30), size: tuple[int, int] = (1280, 720)
) -> Media:
    width, height = size
    return Media(
        width=width, height=height, rate=rate, start=0.0, seconds=seconds, sound_seconds=None
    )


def fan_out(
    video: Media, heights: Sequence[int] = (480, 360, 240)
) -> FanOutTranscodingTasks.Result:
    params = FanOutTranscodingTasks.Params(media=video, heights=tuple(heights), segment_seconds=4.0)
    return run_sync(FanOutTranscodingTasks, params)


@pytest.mark.parametrize("seconds", [0.01, 3.9, 4.0, 20.0, 20.02, 601.3, 7200.0])
@pytest.mark.parametrize(
    "rate", [Fraction(24000, 1001), Fraction(25), Fraction(60), Fraction(1, 3)]
)
def test_segments_cover_every_frame_once(seconds: float, rate: Fraction) -> None:
    """Segments follow each other without gap or overlap, and there are not too many of them."""
    video = film(seconds, rate)
    segments = fan_out(video).segments
    assert 1 <= len(segments) <= MAX_SEGMENTS
    frames = [n for s in segments for n in range(s.first, s.first + s.count)]
    assert frames == list(range(video.frames))


@pytest.mark.parametrize(
    ("size", "wanted"),
    [
        ((1280, 720), ["854x480", "640x360", "426x240"]),
        ((720, 1280), ["480x854", "360x640", "240x426"]),
        ((640, 640), ["480x480", "360x360", "240x240"]),
        ((161, 91), ["850x480", "636x360", "424x240"]),
    ],
)
def test_renditions_keep_the_shape(size: tuple[int, int], wanted: list[str]) -> None:
    """The shorter side is as the name says, the other one fits, and both are even."""
    renditions = fan_out(film(1.0, size=size)).renditions
    assert [f"{r.width}x{r.height}" for r in renditions] == wanted
    assert [r.name for r in renditions] == ["480p", "360p", "240p"]


Status = Literal["running", "done"]


def aggregate(sound: Status, parts: dict[str, Status], **joins: Status) -> AggregateResults.Result:
    tasks = [Task(kind="split", status="done"), Task(kind="sound", status=sound)]
    tasks += [Task(kind="segment", rendition=name, status=done) for name, done in parts.items()]
    tasks += [Task(kind="join", rendition=name, status=done) for name, done in joins.items()]
    params = AggregateResults.Params(tasks=tuple(tasks), renditions=tuple(parts))
    return run_sync(AggregateResults, params)


def test_a_rendition_is_joined_when_its_parts_are_there() -> None:
    """It waits for its own segments and the sound, for no other rendition, and is joined once."""
    assert aggregate("done", {"a": "done", "b": "running"}).can_be_joined == ("a",)
    assert aggregate("running", {"a": "done", "b": "done"}).can_be_joined == ()
    assert aggregate("done", {"a": "done", "b": "done"}, a="running").can_be_joined == ("b",)


def test_the_job_is_through_when_all_is_joined() -> None:
    """A join that runs, or that has not begun, keeps the job open."""
    parts: dict[str, Status] = {"a": "done", "b": "done"}
    assert aggregate("done", parts).is_transcoded
    assert not aggregate("done", parts, a="done").is_joined
    assert not aggregate("done", parts, a="done", b="running").is_joined
    assert aggregate("done", parts, a="done", b="done").is_joined


def test_results_come_all_or_none(tmp_path: Path) -> None:
    """When one result cannot be put in place, those before it are taken back."""
    job_dir = tmp_path / ".job"
    job_dir.mkdir()
    (job_dir / "a.mp4").touch()
    results = {job_dir / f"{name}.mp4": tmp_path / f"film-{name}.mp4" for name in "ab"}
    with pytest.raises(ExecutionError):
        run_sync(FinalizeJob, FinalizeJob.Params(job_dir=job_dir, results=results))
    assert list(tmp_path.iterdir()) == []
    job_dir.mkdir()
    for made in results:
        made.touch()
    run_sync(FinalizeJob, FinalizeJob.Params(job_dir=job_dir, results=results))
    assert sorted(tmp_path.iterdir()) == sorted(results.values())
