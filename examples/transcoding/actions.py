"""The pipeline's actions: what is done, each with typed parameters and a typed result.

`InitiateTranscodingJob`, `FanOutTranscodingTasks`, `AggregateResults` and `FinalizeJob` are short
and run where the job's agent lives. `SplitVideo`, `TranscodeVideoSegment`, `EncodeSound` and
`JoinSegments` take long and run on whatever node the cluster finds fit.

Files stand for an object store: every node sees the same directory.
"""

# ruff: noqa: ARG002 - every action is given a context, and few need it

import shutil
from fractions import Fraction
from math import ceil
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from examples.transcoding import media
from examples.transcoding.media import Media, MediaError, NoSpaceError
from jido_cluster import Action, Context, JidoError

MAX_SEGMENTS = 100  # of one video, so that the job's state stays small: longer videos, longer cuts
SPARE_BYTES = 32 * 1024 * 1024  # kept free on the disk beyond what the files need


class Data(BaseModel):
    """A value that travels: parameters and results of actions, answers of the agent."""

    model_config = ConfigDict(frozen=True)


class Rendition(Data):
    """One of the sizes to make."""

    name: str
    width: int
    height: int


class Segment(Data):
    """A run of frames of the source."""

    first: int
    count: int


class Piece(Data):
    """A file that some node has written."""

    path: Path
    size_bytes: int

    @classmethod
    def of(cls, path: Path) -> "Piece":
        """Describe the file at `path`."""
        return cls(path=path, size_bytes=path.stat().st_size)


class Task(BaseModel):
    """A part of the job that runs on a worker node, as the agent remembers it."""

    kind: Literal["split", "sound", "segment", "join"]
    rendition: str = ""
    segment: int = 0
    status: Literal["running", "done", "failed"] = "running"
    run_id: str = ""
    attempts: int = 0
    node: str | None = None
    seconds: float = 0.0
    size_bytes: int = 0

    @property
    def id(self) -> str:
        """The name of the task within its job; its outcome comes back under it."""
        return {
            "segment": f"{self.rendition}-{self.segment:03}",
            "join": f"{self.rendition}-join",
        }.get(self.kind, self.kind)


class InitiateTranscodingJob(Action, name="transcoding.initiate"):
    """Refuse a source that cannot work; make the job's own directory."""

    class Params(Data):
        """What is to be transcoded, and the directory that shall not exist yet."""

        source: Path
        job_dir: Path

    class Result(Data):
        """What is known of the source so far."""

        source_bytes: int

    def run(self, params: Params, ctx: Context) -> Result:
        """Check what can be checked without reading the video."""
        source = params.source
        if source.is_dir():
            raise MediaError(f"{source} is a directory")
        if not source.exists():
            raise MediaError(f"no such file: {source}")
        if not source.is_file():
            raise MediaError(f"{source} is not a regular file")
        source_bytes = source.stat().st_size
        if source_bytes == 0:
            raise MediaError(f"{source} is empty")
        try:
            with source.open("rb"):
                pass
            params.job_dir.mkdir(parents=True)
        except OSError as error:
            raise MediaError(f"{error.strerror}: {error.filename}") from error
        # The copy that the workers read, and room for what they write.
        needed = 2 * source_bytes + SPARE_BYTES
        free = shutil.disk_usage(params.job_dir).free
        if free < needed:
            raise NoSpaceError(
                f"{params.job_dir.parent} has {free / 1e6:.0f} MB left, "
                f"the job needs about {needed / 1e6:.0f} MB"
            )
        return self.Result(source_bytes=source_bytes)


class SplitVideo(Action, name="transcoding.split", timeout=1800.0):
    """Put the source into the store in a form that can be cut at any frame."""

    class Params(Data):
        """Where from, where to."""

        source: Path
        target: Path

    async def run(self, params: Params, ctx: Context) -> Media:
        """Copy the source, without encoding, and read what it holds."""
        await media.copy_streams(params.source, params.target)
        return await media.probe(params.target)


class FanOutTranscodingTasks(Action, name="transcoding.fan_out"):
    """Decide what the worker nodes are to do."""

    class Params(Data):
        """The video, and the wishes."""

        media: Media
        heights: tuple[int, ...]
        segment_seconds: float

    class Result(Data):
        """Every segment is to be made in every rendition."""

        segments: tuple[Segment, ...]
        renditions: tuple[Rendition, ...]

    def run(self, params: Params, ctx: Context) -> Result:
        """Cut on the grid of frames: the segments of every rendition have the same borders."""
        video = params.media
        length = max(
            1,
            round(Fraction(params.segment_seconds) * video.rate),
            ceil(video.frames / MAX_SEGMENTS),
        )
        segments = tuple(
            Segment(first=first, count=min(length, video.frames - first))
            for first in range(0, video.frames, length)
        )
        renditions = tuple(self._rendition(video, height) for height in params.heights)
        return self.Result(segments=segments, renditions=renditions)

    @staticmethod
    def _rendition(video: Media, height: int) -> Rendition:
        """Scale so that the shorter side is `height`: a film held upright is 480 wide at 480p."""
        scale = Fraction(height, min(video.width, video.height))
        # The encoder wants even numbers.
        sides = [max(2, round(side * scale / 2) * 2) for side in (video.width, video.height)]
        return Rendition(name=f"{height}p", width=sides[0], height=sides[1])


class TranscodeVideoSegment(Action, name="transcoding.transcode_segment"):
    """Encode one segment in one rendition. The only heavy work, and it runs on any node.

    It may run twice at once, or again after a node was lost: the file appears whole or not at all.
    """

    class Params(Data):
        """Which frames of which file, in which size, to which file."""

        source: Path
        media: Media
        segment: Segment
        rendition: Rendition
        target: Path
        log: Path | None = None  # gets a line for each time that a segment is begun

    async def run(self, params: Params, ctx: Context) -> Piece:
        """Encode it, on one core: parallelism comes from the nodes."""
        if params.log is not None:
            with params.log.open("a") as log:
                log.write(f"{params.target.stem}\n")
        await media.encode_picture(
            params.source,
            params.target,
            params.media,
            first=params.segment.first,
            count=params.segment.count,
            size=(params.rendition.width, params.rendition.height),
        )
        return Piece.of(params.target)


class EncodeSound(Action, name="transcoding.encode_sound", timeout=1800.0):
    """Encode the sound of the whole video, once for all renditions."""

    class Params(Data):
        """Which file, to which file."""

        source: Path
        media: Media
        target: Path

    async def run(self, params: Params, ctx: Context) -> Piece:
        """Encode it."""
        await media.encode_sound(params.source, params.target, params.media)
        return Piece.of(params.target)


class AggregateResults(Action, name="transcoding.aggregate"):
    """Tell what the finished tasks make possible."""

    class Params(Data):
        """All tasks of the job, and the renditions that are wanted."""

        tasks: tuple[Task, ...]
        renditions: tuple[str, ...]

    class Result(Data):
        """Renditions whose join can start now, and how far the whole job is."""

        can_be_joined: tuple[str, ...]
        is_transcoded: bool
        is_joined: bool

    def run(self, params: Params, ctx: Context) -> Result:
        """Look through the tasks."""
        joins = {task.rendition for task in params.tasks if task.kind == "join"}
        open_tasks = [task for task in params.tasks if task.status != "done"]
        # The sound belongs to no rendition: all of them wait for it.
        waiting = {task.rendition for task in open_tasks if task.kind != "join"}
        return self.Result(
            can_be_joined=tuple(
                name for name in params.renditions if name not in joins and not {name, ""} & waiting
            ),
            is_transcoded=not waiting,
            is_joined=not open_tasks and joins == set(params.renditions),
        )


class JoinSegments(Action, name="transcoding.join", timeout=1800.0):
    """Make one file of a rendition's segments and the sound."""

    class Params(Data):
        """The parts, in order, and the file to make."""

        pieces: tuple[Path, ...]
        sound: Path | None
        target: Path

    async def run(self, params: Params, ctx: Context) -> Piece:
        """Join them, without encoding again."""
        await media.join(params.pieces, params.sound, params.target)
        return Piece.of(params.target)


class FinalizeJob(Action, name="transcoding.finalize"):
    """Put the results in place, if there are any, and remove everything else."""

    class Params(Data):
        """The job's directory, and from which file to which the results go."""

        job_dir: Path
        results: dict[Path, Path]

    def run(self, params: Params, ctx: Context) -> None:
        """Rename the results, then drop the job's directory."""
        for made, wanted in params.results.items():
            made.replace(wanted)
        self._remove(params.job_dir)

    def on_error(self, params: Params, error: JidoError, ctx: Context) -> None:
        """Take back what was put in place: the job delivers all of its files or none."""
        for wanted in params.results.values():
            wanted.unlink(missing_ok=True)
        self._remove(params.job_dir)

    @staticmethod
    def _remove(job_dir: Path) -> None:
        """Remove a directory that a worker may be writing into at this moment."""
        # Under another name it no longer is where the stragglers' files would go.
        doomed = job_dir.with_name(f"{job_dir.name}-removed")
        if job_dir.exists():
            job_dir.rename(doomed)
        shutil.rmtree(doomed, ignore_errors=True)
