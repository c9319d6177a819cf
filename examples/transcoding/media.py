"""What the pipeline asks of ffmpeg: plain coroutines that know nothing of agents or clusters.

Every file is written under a name of its own and then renamed, so that two attempts at the same
work may run at once, or one may be killed, and the file at the final name is always whole.
"""

import asyncio
import contextlib
import os
import re
import signal
import uuid
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import imageio_ffmpeg
from pydantic import BaseModel

from jido_cluster import ExecutionError

# Containers that are read. Without the list ffmpeg takes a text file for a film of its letters,
# and a playlist would make it open other files and network addresses.
CONTAINERS = "mov,matroska,avi,mpegts,mpeg,flv,asf,ogg,mxf,nut,dv,rm,ivf"
MAX_FRAME_RATE = 60
NO_TIME = -(2**63)  # how ffmpeg prints a missing time stamp; old containers lack some
# x264 of every segment must be set up alike: the join copies the streams without looking inside.
ENCODER = ("-c:v", "libx264", "-preset", "veryfast", "-crf", "26", "-threads", "1")


class MediaError(ExecutionError):
    """The media cannot be worked on; trying again gives the same."""

    kind = "media_error"


class NoSpaceError(ExecutionError):
    """The disk is full; what was begun has been removed."""

    kind = "no_space"


class Media(BaseModel, frozen=True):
    """What a file holds. Seconds count from its first picture frame.

    Width and height are what a viewer sees: after rotation, with square pixels.
    """

    width: int
    height: int
    rate: Fraction
    """Frames per second; for a variable rate, the one that ffmpeg would make constant."""
    start: float
    """When the first frame is shown, in seconds of the file's own clock."""
    seconds: float
    sound_seconds: float | None
    """When the sound ends; None without sound."""

    @property
    def frames(self) -> int:
        """Number of frames at the constant rate, at least 1."""
        return max(1, round(Fraction(self.seconds) * self.rate))


async def ffmpeg(*arguments: str) -> str:
    """Run ffmpeg to its end and return what it printed.

    Raises:
        MediaError: It refused, with the reasons it gave.
        NoSpaceError: The disk is full.
        ExecutionError: It was killed from outside; trying again is sensible.
    """
    start = asyncio.create_subprocess_exec(
        imageio_ffmpeg.get_ffmpeg_exe(),
        *("-hide_banner", "-nostdin", "-nostats", "-loglevel", "error", "-y", *arguments),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,  # a group of its own, so that nothing it started survives it
    )
    starting = asyncio.ensure_future(start)
    try:
        # Shielded: a start that is broken off half-way leaves a process that nobody knows.
        process = await asyncio.shield(starting)
        printed, complaints = await process.communicate()
    except BaseException:  # cancelled or timed out: no encoder is left behind
        await _kill(await starting)
        raise
    if process.returncode == 0:
        return printed.decode()
    reason = _reason(complaints.decode(errors="replace"))
    if "No space left on device" in reason:
        message = "no space left on the disk"
        raise NoSpaceError(message)
    if process.returncode is not None and process.returncode < 0:
        message = f"ffmpeg was killed by signal {-process.returncode}"
        raise ExecutionError(message, retryable=True)
    raise MediaError(reason)


async def _kill(process: asyncio.subprocess.Process) -> None:
    """Kill a process and what it started; wait until it is gone and its pipes are closed."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    await process.communicate()


def _reason(complaints: str) -> str:
    """Reduce ffmpeg's complaints to the first few different sentences."""
    if "Format not on whitelist" in complaints:
        return f"its container is none of {CONTAINERS}"
    lines = (re.sub(r"^(\[[^\]]*\] *)+", "", line).strip() for line in complaints.splitlines())
    told = [line for line in lines if line and not line.startswith("Error opening input file")]
    return "; ".join(list(dict.fromkeys(told))[:3]) or "ffmpeg failed without a reason"


@contextlib.contextmanager
def replacing(target: Path) -> Iterator[str]:
    """Give a name to write to; at the end it becomes `target`, or after an error it is removed."""
    attempt = target.with_name(f".{uuid.uuid4().hex}{target.suffix}")
    try:
        yield str(attempt)
        attempt.replace(target)
    finally:
        attempt.unlink(missing_ok=True)


async def make_clip(target: Path, seconds: float, size: str = "1280x720") -> None:
    """Write a test film: moving shapes with a running clock, and a tone."""
    picture = f"testsrc2=size={size}:rate=30:duration={seconds}"
    tone = f"sine=frequency=440:sample_rate=48000:duration={seconds}"
    with replacing(target) as path:
        await ffmpeg(
            *("-f", "lavfi", "-i", picture, "-f", "lavfi", "-i", tone),
            *("-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p", "-c:a", "aac"),
            path,
        )


async def copy_streams(source: Path, target: Path) -> None:
    """Copy the picture and the first sound track, as they are, into one Matroska file.

    Its index lets a worker start reading at any frame, which not every container allows.
    """
    with replacing(target) as path:
        try:
            await ffmpeg(
                *("-protocol_whitelist", "file", "-format_whitelist", CONTAINERS),
                *("-fflags", "+genpts", "-i", f"file:{source}"),
                *("-map", "0:V:0", "-map", "0:a:0?", "-c", "copy", "-f", "matroska", path),
            )
        except MediaError as error:
            if "matches no streams" in error.message:
                message = f"{source} holds no moving picture"
            else:
                message = f"{source} is not a video that can be read ({error.message})"
            raise MediaError(message) from None


async def probe(path: Path) -> Media:
    """Read what a file holds, from its first frame and the time stamps of all its packets."""
    first_frame = await ffmpeg(
        *("-i", f"file:{path}", "-map", "0:V:0", "-frames:v", "1"),
        *("-vf", "scale=iw*sar:ih,setsar=1", "-c:v", "rawvideo", "-f", "framecrc", "pipe:1"),
    )
    size = re.search(r"^#dimensions 0: (\d+)x(\d+)$", first_frame, re.MULTILINE)
    frame_seconds = _clocks(first_frame).get(0)
    packets = await ffmpeg(
        *("-fflags", "+genpts", "-i", f"file:{path}", "-map", "0:V:0", "-map", "0:a:0?"),
        *("-c", "copy", "-f", "framecrc", "pipe:1"),
    )
    picture, sound = _span(packets, 0), _span(packets, 1)
    if size is None or frame_seconds is None or picture is None:
        message = "it holds no picture that can be decoded"
        raise MediaError(message)
    start, end = picture
    return Media(
        width=int(size[1]),
        height=int(size[2]),
        rate=min(1 / frame_seconds, Fraction(MAX_FRAME_RATE)),
        start=float(start),
        seconds=float(end - start),
        sound_seconds=None if sound is None else float(sound[1] - start),
    )


def _clocks(table: str) -> dict[int, Fraction]:
    """Return the length of a clock tick of each stream, in seconds."""
    ticks = re.findall(r"^#tb (\d+): (\d+)/(\d+)$", table, re.MULTILINE)
    return {int(stream): Fraction(int(top), int(bottom)) for stream, top, bottom in ticks}


def _span(table: str, stream: int) -> tuple[Fraction, Fraction] | None:
    """Return when a stream starts and ends, in seconds, by the packets listed in a table."""
    rows = re.findall(rf"^{stream}, *-?\d+, *(-?\d+), *(\d+),", table, re.MULTILINE)
    times = [(int(shown), int(length)) for shown, length in rows if int(shown) != NO_TIME]
    if not times:
        return None
    tick = _clocks(table)[stream]
    return tick * min(t for t, _ in times), tick * max(t + length for t, length in times)


async def encode_picture(
    source: Path, target: Path, media: Media, *, first: int, count: int, size: tuple[int, int]
) -> None:
    """Encode exactly `count` frames, from frame number `first`, without sound.

    Reading starts at the key frame before, and the clock a quarter of a frame early so that
    rounding cannot swap neighbours; the fps filter then picks the frames, the same ones that any
    other cut of this film has at these numbers. A film that ends early is held on its last frame.
    """
    begin = max(0.0, media.start + float((first - Fraction(1, 4)) / media.rate))
    filters = (
        f"fps={media.rate}:start_time=0,scale={size[0]}:{size[1]},setsar=1,format=yuv420p,"
        "tpad=stop=-1:stop_mode=clone"
    )
    with replacing(target) as path:
        await ffmpeg(
            *("-noaccurate_seek", "-ss", f"{begin:.6f}", "-i", f"file:{source}"),
            *("-map", "0:V:0", "-vf", filters, "-frames:v", str(count), *ENCODER, path),
        )


async def encode_sound(source: Path, target: Path, media: Media) -> None:
    """Encode the sound track in one piece: cut into segments it would click at every joint."""
    with replacing(target) as path:
        await ffmpeg(
            *("-ss", f"{max(0.0, media.start):.6f}", "-i", f"file:{source}", "-map", "0:a:0"),
            *("-af", "aresample=async=1:first_pts=0", "-ac", "2", "-c:a", "aac", "-b:a", "128k"),
            path,
        )


async def join(pieces: Sequence[Path], sound: Path | None, target: Path) -> None:
    """Put encoded segments one behind the other, beside the sound, without encoding again."""
    with replacing(target) as path:
        listing = Path(path).with_suffix(".txt")
        lines = ("file '" + str(piece).replace("'", "'\\''") + "'\n" for piece in pieces)
        listing.write_text("".join(lines))
        sound_track = () if sound is None else ("-i", f"file:{sound}", "-map", "1:a")
        try:
            await ffmpeg(
                *("-f", "concat", "-safe", "0", "-i", f"file:{listing}", *sound_track),
                *("-map", "0:v", "-c", "copy", "-movflags", "+faststart", path),
            )
        finally:
            listing.unlink(missing_ok=True)


async def count_frames(path: Path) -> int:
    """Decode the whole file, picture and sound, and return the number of frames.

    Raises:
        MediaError: Any part of it cannot be decoded.
    """
    printed = await ffmpeg(
        *("-xerror", "-progress", "pipe:1", "-i", f"file:{path}", "-map", "0:V:0"),
        *("-map", "0:a:0?", "-fps_mode", "passthrough", "-f", "null", "-"),
    )
    return int(re.findall(r"^frame=(\d+)$", printed, re.MULTILINE)[-1])
