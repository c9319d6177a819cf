"""The job from begin to end on an in-process cluster of three nodes."""

import asyncio
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import imageio_ffmpeg
import pytest

from examples.transcoding import actions, media
from examples.transcoding.pipeline import MAX_ATTEMPTS, JobAgent, Progress
from examples.transcoding.report import Loss, check_loss, check_results, tell_loss, times_begun
from jido_cluster import AgentRef, Cluster
from jido_cluster.testing import LocalCluster

HEIGHTS = (60, 30)
TASKS = 1 + 1 + 4 * 2 + 2  # split, sound, four segments in two renditions, two joins


@pytest.fixture
def cluster() -> Iterator[LocalCluster]:
    with Cluster.local(nodes=3) as cluster:
        yield cluster
        cluster.settle()  # what a failed job has called off is over, too


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def spawn(
    cluster: LocalCluster, source: Path, out: Path, log: Path | None = None
) -> AgentRef[JobAgent]:
    return cluster.spawn(
        JobAgent, "job-1", source=source, workdir=out, log=log, heights=HEIGHTS, segment_seconds=0.5
    )


def wait_until(job: AgentRef[JobAgent], holds: Callable[[Progress], bool]) -> Progress:
    deadline = time.monotonic() + 60.0
    while not holds(progress := job.call(JobAgent.progress)):
        assert time.monotonic() < deadline, progress
        time.sleep(0.01)
    return progress


def wait_for_end(job: AgentRef[JobAgent]) -> Progress:
    return wait_until(job, lambda progress: progress.has_ended)


def assert_results(progress: Progress, source: Path, out: Path) -> None:
    """The job completed, its files are right, and nothing else is left."""
    assert (progress.status, progress.message) == ("completed", "")
    assert progress.tasks == progress.tasks_done == TASKS
    results = {h: out / f"{source.stem}-{h}p.mp4" for h in HEIGHTS}
    assert sorted(path for path in out.iterdir()) == sorted(results.values())
    assert asyncio.run(check_results(source, results)) == []
    for row in progress.renditions:
        assert row.result is not None
        assert row.result.size_bytes == row.result.path.stat().st_size > 0
        assert row.segments == row.segments_done == 4
        assert row.nodes


def test_a_job_makes_every_rendition(cluster: LocalCluster, clip: Path, out: Path) -> None:
    """A good video becomes one right file a rendition, each task done at the first attempt."""
    job = spawn(cluster, clip, out)
    assert job.call(JobAgent.begin).status == "splitting"
    progress = wait_for_end(job)
    assert_results(progress, clip, out)
    assert progress.attempts == TASKS
    nodes = {node.name for node in cluster.nodes()} | {node.id for node in cluster.nodes()}
    assert {node for row in progress.renditions for node in row.nodes} <= nodes


def test_beginning_again_changes_nothing(cluster: LocalCluster, clip: Path, out: Path) -> None:
    """A second `begin`, while the job runs or after it, starts nothing."""
    job = spawn(cluster, clip, out)
    job.call(JobAgent.begin)
    job.call(JobAgent.begin)
    ended = wait_for_end(job)
    assert job.call(JobAgent.begin) == ended
    assert_results(ended, clip, out)


def test_a_video_without_sound(cluster: LocalCluster, clip: Path, out: Path) -> None:
    """Silent films stay silent."""
    silent = out.parent / "silent.mp4"
    asyncio.run(media.ffmpeg("-i", str(clip), "-an", "-c", "copy", str(silent)))
    job = spawn(cluster, silent, out)
    job.call(JobAgent.begin)
    progress = wait_for_end(job)
    assert (progress.status, progress.tasks) == ("completed", TASKS - 1)
    results = {h: out / f"silent-{h}p.mp4" for h in HEIGHTS}
    assert asyncio.run(check_results(silent, results)) == []


def test_a_segment_that_fails_once_is_made_again(
    cluster: LocalCluster, clip: Path, out: Path, fake_ffmpeg: Callable[..., Path]
) -> None:
    """One encoder is killed; its segment is made again and the job completes."""
    fake_ffmpeg('mkdir "$marks/once" 2>/dev/null && kill -9 $$')
    job = spawn(cluster, clip, out)
    job.call(JobAgent.begin)
    progress = wait_for_end(job)
    assert_results(progress, clip, out)
    assert progress.attempts == TASKS + 1


def test_a_segment_that_fails_always_fails_the_job(
    cluster: LocalCluster, clip: Path, out: Path, fake_ffmpeg: Callable[..., Path]
) -> None:
    """Attempts are bounded; then the job has failed, says at what, and leaves no files."""
    fake_ffmpeg('echo x >> "$marks/tries"; kill -9 $$', when="*libx264*scale=54:30*|*scale=54:30*")
    job = spawn(cluster, clip, out)
    job.call(JobAgent.begin)
    progress = wait_for_end(job)
    assert progress.status == "failed"
    assert progress.message.startswith("30p-00")
    assert "signal 9" in progress.message
    tries = (out.parent / "marks" / "tries").read_text().count("x")
    assert MAX_ATTEMPTS <= tries <= 4 * MAX_ATTEMPTS
    assert list(out.iterdir()) == []


def test_a_job_survives_the_loss_of_a_node(
    cluster: LocalCluster, clip: Path, out: Path, fake_ffmpeg: Callable[..., Path]
) -> None:
    """A node dies with segments under way: they are made elsewhere, and the job completes."""
    marks = fake_ffmpeg('while [ ! -e "$marks/go" ]; do sleep 0.01; done; true')
    job = spawn(cluster, clip, out)
    job.call(JobAgent.begin)
    wait_until(job, lambda progress: progress.status == "transcoding")
    home = job.info().node
    victim = next(node for node in cluster.nodes() if home not in {node.id, node.name})
    cluster.kill(victim.name)
    (marks / "go").touch()
    progress = wait_for_end(job)
    assert_results(progress, clip, out)
    assert not {victim.id, victim.name} & {n for row in progress.renditions for n in row.nodes}


def test_a_job_survives_the_loss_of_its_own_node(
    cluster: LocalCluster, clip: Path, out: Path, fake_ffmpeg: Callable[..., Path]
) -> None:
    """Another replica goes on where the job was: what was recorded is not begun again."""
    first_three = " || ".join(f'mkdir "$marks/{n}" 2>/dev/null' for n in range(3))
    marks = fake_ffmpeg(f'{first_three} || while [ ! -e "$marks/go" ]; do sleep 0.01; done')
    log = out.parent / "begun"
    job = spawn(cluster, clip, out, log)
    job.call(JobAgent.begin)
    before = wait_until(job, lambda progress: len(progress.recorded) == 3)
    home, begun = job.info().node, times_begun(log)
    cluster.kill(home)
    (marks / "go").touch()
    host = job.info().node
    progress = wait_for_end(job)
    assert_results(progress, clip, out)
    loss = Loss(home, host, 0.0, before.recorded, begun)
    assert check_loss(loss, times_begun(log)) == []
    told = "segments recorded before the kill: 3; begun again: 0"
    assert told in tell_loss(loss, times_begun(log))
    assert len(progress.recorded) == len(times_begun(log)) == 8
    assert sum(times_begun(log).values()) > 8  # what was under way was begun again


def test_what_a_loss_repeats_or_undoes_is_seen() -> None:
    """A recorded segment that is begun again, or was never begun, and a job on a dead node."""
    begun = {"60p-000": 1, "60p-001": 2, "60p-002": 1}
    loss = Loss("node-1", "node-2", 0.5, ("60p-000", "60p-001"), begun)
    assert check_loss(loss, begun) == []
    assert check_loss(loss, {**begun, "60p-002": 2, "60p-003": 1}) == []
    (problem,) = check_loss(loss, {**begun, "60p-001": 3})
    assert problem == "60p-001 was begun again after it had been recorded"
    told = tell_loss(loss, {**begun, "60p-001": 3, "60p-002": 2})
    assert [line.split()[-1] for line in told] == ["node-2", "1", "1"]
    (problem,) = check_loss(replace(loss, recorded=("30p-000",)), begun)
    assert "nobody has begun it" in problem
    (problem,) = check_loss(replace(loss, host="node-1"), begun)
    assert "which is dead" in problem


def test_progress_is_told_while_ffmpeg_works(
    cluster: LocalCluster, clip: Path, out: Path, fake_ffmpeg: Callable[..., Path]
) -> None:
    """The agent answers, although the split it has started takes as long as it likes."""
    marks = fake_ffmpeg('while [ ! -e "$marks/go" ]; do sleep 0.01; done; true', when="*matroska*")
    job = spawn(cluster, clip, out)
    job.call(JobAgent.begin)
    assert job.options(timeout=5.0).call(JobAgent.progress).status == "splitting"
    (marks / "go").touch()
    assert wait_for_end(job).status == "completed"


def make_missing(path: Path) -> None:
    del path


def make_words(path: Path) -> None:
    path.write_text("these are words, not pictures\n" * 100)


BAD_SOURCES: dict[str, Callable[[Path], None]] = {
    "no such file": make_missing,
    "is empty": lambda path: path.touch(),
    "is a directory": lambda path: path.mkdir(),
    "not a video that can be read": make_words,
}


@pytest.mark.parametrize("reason", BAD_SOURCES)
def test_a_bad_source_fails_the_job(
    cluster: LocalCluster, tmp_path: Path, out: Path, reason: str
) -> None:
    """The job ends as failed with a reason, and no file is left where it worked."""
    source = tmp_path / "source.mp4"
    BAD_SOURCES[reason](source)
    job = spawn(cluster, source, out)
    job.call(JobAgent.begin)
    progress = wait_for_end(job)
    assert progress.status == "failed"
    assert reason in progress.message
    assert "Traceback" not in progress.message
    assert not out.exists() or list(out.iterdir()) == []


def test_a_disk_that_is_too_small_is_seen_beforehand(
    cluster: LocalCluster,
    clip: Path,
    out: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where there is no room for the copy and the results, the job fails before it writes."""
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=actions.SPARE_BYTES))
    job = spawn(cluster, clip, out)
    progress = job.call(JobAgent.begin)
    assert progress.status == "failed"
    assert "the job needs about" in progress.message
    assert list(out.iterdir()) == []


def test_a_disk_that_fills_up_fails_the_job(
    cluster: LocalCluster, clip: Path, out: Path, fake_ffmpeg: Callable[..., Path]
) -> None:
    """When an encoder runs out of space the job fails at once, with that reason, and cleans up."""
    fake_ffmpeg(
        f'exec "{imageio_ffmpeg.get_ffmpeg_exe()}" -loglevel error -f lavfi '
        "-i testsrc2=duration=1 -c:v rawvideo -f matroska -y /dev/full"
    )
    job = spawn(cluster, clip, out)
    job.call(JobAgent.begin)
    progress = wait_for_end(job)
    assert progress.status == "failed"
    assert "no space left" in progress.message
    assert list(out.iterdir()) == []
