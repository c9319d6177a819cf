"""The ffmpeg layer: every frame in its place, whole files or none, errors that say why."""

import asyncio
import os
import shutil
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import psutil
import pytest
import uvloop

from examples.transcoding import media
from examples.transcoding.media import Media, MediaError, NoSpaceError
from jido_cluster import ExecutionError

FRAMES = 60
STEP = 4  # brightness grows by so much from frame to frame
RATE = Fraction(30000, 1001)


async def make_ramp(target: Path, select: str = "null") -> None:
    """A film whose frames tell their number by their brightness; key frames are far apart."""
    picture = f"color=black:size=64x64:rate={RATE},format=gray,geq=lum='N*{STEP}',{select}"
    await media.ffmpeg(
        *(
            "-f",
            "lavfi",
            "-i",
            picture,
            "-f",
            "lavfi",
            "-i",
            "sine",
            "-t",
            str(float(FRAMES / RATE)),
        ),
        *(
            "-frames:v",
            str(FRAMES),
            "-fps_mode",
            "vfr",
            "-g",
            "250",
            "-bf",
            "2",
            "-pix_fmt",
            "yuvj420p",
        ),
        *("-c:v", "mpeg4", "-q:v", "2", str(target)),
    )


def frame_numbers(path: Path, raw: Path) -> list[int]:
    """Which frames of the ramp a file shows, in order."""
    picture = media.ffmpeg(
        *("-i", str(path), "-map", "0:v:0", "-vf", "scale=1:1:flags=area:out_range=pc,format=gray"),
        *("-fps_mode", "passthrough", "-f", "rawvideo", str(raw)),
    )
    asyncio.run(picture)
    return [round(level / STEP) for level in raw.read_bytes()]


@pytest.mark.parametrize("container", ["mp4", "mkv", "avi", "ts"])
@pytest.mark.parametrize("length", [7, 25])
def test_cuts_and_joins_keep_every_frame(tmp_path: Path, container: str, length: int) -> None:
    """Whatever the container and the borders, the joined film shows each frame once, in order."""

    async def scenario() -> None:
        source = tmp_path / f"ramp.{container}"
        await make_ramp(source)
        store = tmp_path / "store.mkv"
        await media.copy_streams(source, store)
        video = await media.probe(store)
        assert (video.frames, video.rate) == (FRAMES, RATE)
        pieces = []
        for first in range(0, FRAMES, length):
            piece = tmp_path / f"{first:03}.mp4"
            count = min(length, FRAMES - first)
            await media.encode_picture(store, piece, video, first=first, count=count, size=(64, 64))
            assert await media.count_frames(piece) == count
            pieces.append(piece)
        sound = tmp_path / "sound.m4a"
        await media.encode_sound(store, sound, video)
        joined = tmp_path / "joined.mp4"
        await media.join(pieces, sound, joined)
        result = await media.probe(joined)
        assert result.seconds == pytest.approx(float(FRAMES / RATE), abs=0.001)
        assert result.sound_seconds == pytest.approx(video.sound_seconds, abs=0.05)

    asyncio.run(scenario())
    assert frame_numbers(tmp_path / "joined.mp4", tmp_path / "raw") == list(range(FRAMES))


def test_a_still_is_shown_in_every_segment_it_spans(tmp_path: Path) -> None:
    """A segment in which the source has no frame of its own shows the one from before."""
    source, store = tmp_path / "ramp.mkv", tmp_path / "store.mkv"

    async def scenario() -> None:
        await make_ramp(source, "select='eq(n,0)+gte(n,50)'")
        await media.copy_streams(source, store)
        video = await media.probe(store)
        assert video.frames == FRAMES
        pieces = [tmp_path / f"{first:03}.mp4" for first in range(0, FRAMES, 20)]
        for number, piece in enumerate(pieces):
            await media.encode_picture(
                store, piece, video, first=20 * number, count=20, size=(64, 64)
            )
        await media.join(pieces, None, tmp_path / "joined.mp4")

    asyncio.run(scenario())
    shown = frame_numbers(tmp_path / "joined.mp4", tmp_path / "raw")
    assert shown == [0] * 50 + list(range(50, FRAMES))


def test_probe_tells_size_rate_and_length(clip: Path) -> None:
    """The size is that of the picture, the rate is exact, and both streams are measured."""
    found = asyncio.run(media.probe(clip))
    assert (found.width, found.height, found.rate, found.frames) == (160, 90, Fraction(30), 60)
    assert found.seconds == pytest.approx(2.0)
    assert found.sound_seconds == pytest.approx(2.0, abs=0.05)


def test_probe_sees_what_a_viewer_sees(clip: Path, tmp_path: Path) -> None:
    """A film held upright is upright, one with narrow pixels is as wide as it is shown."""

    async def scenario() -> None:
        upright, narrow = tmp_path / "upright.mp4", tmp_path / "narrow.mp4"
        await media.ffmpeg("-display_rotation", "90", "-i", str(clip), "-c", "copy", str(upright))
        await media.ffmpeg("-i", str(clip), "-an", "-vf", "setsar=2", str(narrow))
        found = await media.probe(upright)
        assert (found.width, found.height) == (90, 160)
        found = await media.probe(narrow)
        assert (found.width, found.height, found.sound_seconds) == (320, 90, None)

    asyncio.run(scenario())


def test_a_film_that_ends_early_is_held(clip: Path, tmp_path: Path) -> None:
    """A segment has the frames that were asked for, even past the end of the source."""

    async def scenario() -> None:
        video = await media.probe(clip)
        piece = tmp_path / "piece.mp4"
        await media.encode_picture(clip, piece, video, first=55, count=10, size=(32, 18))
        assert await media.count_frames(piece) == 10

    asyncio.run(scenario())


def write_text(path: Path, _: Path) -> None:
    path.write_text("these are words, not pictures\n" * 300)


def write_script(path: Path, clip: Path) -> None:
    shutil.copy(clip, path.with_name("other.mp4"))
    path.write_text("ffconcat version 1.0\nfile other.mp4\n")


def write_first_half(path: Path, clip: Path) -> None:
    data = clip.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def write_sound(path: Path, clip: Path) -> None:
    asyncio.run(media.ffmpeg("-i", str(clip), "-vn", "-c", "copy", str(path)))


def write_picture(path: Path, clip: Path) -> None:
    asyncio.run(media.ffmpeg("-i", str(clip), "-frames:v", "1", str(path)))


@pytest.mark.parametrize(
    ("name", "write", "reason"),
    [
        ("words.mp4", write_text, "not a video that can be read"),
        ("words.txt", write_text, "its container is none of"),
        ("script.mp4", write_script, "its container is none of"),
        ("half.mp4", write_first_half, "moov atom not found"),
        ("sound.m4a", write_sound, "no moving picture"),
        ("picture.png", write_picture, "its container is none of"),
    ],
)
def test_what_is_no_video_is_refused(
    tmp_path: Path, clip: Path, name: str, write: Callable[[Path, Path], None], reason: str
) -> None:
    """The error says what is wrong, trying again is not proposed, and no file is left."""
    source = tmp_path / name
    write(source, clip)
    with pytest.raises(MediaError, match=reason) as caught:
        asyncio.run(media.copy_streams(source, tmp_path / "store.mkv"))
    assert not caught.value.retryable
    assert not (tmp_path / "store.mkv").exists()
    assert not list(tmp_path.glob(".*"))


def test_a_full_disk_is_told_apart() -> None:
    """ENOSPC while writing is `NoSpaceError`, whatever else ffmpeg complains of."""
    with pytest.raises(NoSpaceError):
        asyncio.run(
            media.ffmpeg(
                *("-f", "lavfi", "-i", "testsrc2=duration=1", "-c:v", "rawvideo"),
                *("-f", "matroska", "/dev/full"),
            )
        )


def test_death_by_a_signal_may_be_tried_again(fake_ffmpeg: Callable[..., Path]) -> None:
    """An encoder that was killed from outside failed for no fault of the film."""
    fake_ffmpeg("kill -9 $$", when="*")
    with pytest.raises(ExecutionError, match="signal 9") as caught:
        asyncio.run(media.ffmpeg("-version"))
    assert caught.value.retryable


def test_damage_is_found_by_decoding(clip: Path, tmp_path: Path) -> None:
    """A file whose inside was overwritten does not pass for sound."""
    damaged = tmp_path / "damaged.mp4"
    data = bytearray(clip.read_bytes())
    middle = data.find(b"mdat") + len(data) // 3
    data[middle : middle + 2000] = b"\xff" * 2000
    damaged.write_bytes(bytes(data))
    with pytest.raises(MediaError):
        asyncio.run(media.count_frames(damaged))


def test_cancelling_kills_the_encoder(
    fake_ffmpeg: Callable[..., Path], clip: Path, tmp_path: Path
) -> None:
    """When the awaiting task is cancelled, the process is dead and its file removed."""
    marks = fake_ffmpeg('echo $$ > "$marks/new"; mv "$marks/new" "$marks/pid"; exec sleep 60')
    video = Media(
        width=160, height=90, rate=Fraction(30), start=0.0, seconds=2.0, sound_seconds=None
    )

    async def scenario() -> None:
        target = tmp_path / "out" / "piece.mp4"
        target.parent.mkdir()
        work = asyncio.create_task(
            media.encode_picture(clip, target, video, first=0, count=9, size=(32, 18))
        )
        deadline = time.monotonic() + 10.0
        while not (marks / "pid").exists():
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)
        work.cancel()
        await asyncio.wait({work}, timeout=10.0)
        assert work.cancelled()
        with pytest.raises(ProcessLookupError):
            os.kill(int((marks / "pid").read_text()), 0)
        assert not list(target.parent.iterdir())

    asyncio.run(scenario())


@pytest.mark.parametrize("make_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_cancelling_at_the_start_leaves_no_process(
    fake_ffmpeg: Callable[..., Path], make_loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    """Whenever in its start a run is cancelled, its process is gone when the run has ended."""
    fake_ffmpeg("exec sleep 60", when="*")
    before = set(psutil.Process().children())  # a Ray cluster of other tests, for instance

    async def scenario(steps: int) -> None:
        work = asyncio.create_task(media.ffmpeg("-version"))
        for _ in range(steps):
            await asyncio.sleep(0)
        work.cancel()
        await asyncio.wait({work}, timeout=10.0)
        assert work.cancelled()
        assert set(psutil.Process().children()) <= before

    for steps in range(8):
        with asyncio.Runner(loop_factory=make_loop) as runner:
            runner.run(scenario(steps))


def write_half(target: Path) -> None:
    with media.replacing(target) as path:
        Path(path).write_text("newer")
        raise RuntimeError("half-way")


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    """Until the end nothing is at the final name; after an error nothing is left anywhere."""
    target = tmp_path / "file.bin"
    with media.replacing(target) as path:
        Path(path).write_text("new")
        assert not target.exists()
    assert target.read_text() == "new"
    with pytest.raises(RuntimeError):
        write_half(target)
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("file.bin", "new")]
