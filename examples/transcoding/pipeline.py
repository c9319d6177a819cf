"""The pipeline: a `JobAgent` holds one video's job and conducts the actions.

    begin ── InitiateTranscodingJob
      └─ SplitVideo ─────────────────────────── split_done
           └─ FanOutTranscodingTasks
                └─ TranscodeVideoSegment, EncodeSound ── segment_done
                     └─ AggregateResults
                          └─ JoinSegments ── join_done
                               └─ FinalizeJob

Short actions run inside the agent's turns (`await run(...)`). Everything that takes long is handed
to the cluster with `ctx.start(..., reply=handler)`: it starts when the turn has committed, on any
node, and its outcome comes back as a turn of its own. So the agent is never busy for long, and
whoever asks for its progress gets an answer at once.
"""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from examples.transcoding.actions import (
    AggregateResults,
    Data,
    EncodeSound,
    FanOutTranscodingTasks,
    FinalizeJob,
    InitiateTranscodingJob,
    JoinSegments,
    Piece,
    Rendition,
    Segment,
    SplitVideo,
    Task,
    TranscodeVideoSegment,
)
from examples.transcoding.media import Media
from jido_cluster import Agent, JidoError, Needs, Outcome, on, run

HEIGHTS = (480, 360, 240)
MAX_ATTEMPTS = 4  # at one task; a task that failed this often fails the job

Status = Literal["pending", "splitting", "transcoding", "joining", "completed", "failed"]


class RenditionProgress(Data):
    """How far one rendition is."""

    name: str
    segments: int
    segments_done: int
    nodes: tuple[str, ...]
    seconds: float
    """Time spent on its segments and its join, summed over the nodes."""
    result: Piece | None


class Progress(Data):
    """How far the job is."""

    status: Status
    message: str
    tasks: int
    tasks_done: int
    recorded: tuple[str, ...]
    """Ids of the segments whose outcome is in the agent's state, sorted."""
    attempts: int
    """Attempts at the tasks that have ended; more than `tasks_done` when some were made again."""
    renditions: tuple[RenditionProgress, ...]

    @property
    def has_ended(self) -> bool:
        """Whether nothing more will happen."""
        return self.status in {"completed", "failed"}


class JobAgent(Agent, name="transcoding.JobAgent"):
    """The job of one video: what is wanted, what was started, and how it came out."""

    source: Path
    workdir: Path
    log: Path | None = None  # see `TranscodeVideoSegment`
    heights: tuple[int, ...] = HEIGHTS
    segment_seconds: float = 4.0

    status: Status = "pending"
    message: str = ""
    media: Media | None = None
    segments: tuple[Segment, ...] = ()
    renditions: tuple[Rendition, ...] = ()
    tasks: dict[str, Task] = Field(default_factory=dict)

    @on("job.begin")
    async def begin(self) -> Progress:
        """Start the job; asked again, only tell how far it is."""
        if self.status == "pending":
            params = InitiateTranscodingJob.Params(source=self.source, job_dir=self._job_dir)
            try:
                await run(InitiateTranscodingJob, params)
            except JidoError as error:
                await self._end("failed", error.message)
            else:
                self.status = "splitting"
                self._start(Task(kind="split"))
        return await self.progress()

    @on("job.split_done")
    async def split_done(self, outcome: Outcome[Media]) -> None:
        """Hand every segment of every rendition to the worker nodes."""
        if await self._settle(outcome) is None:
            return
        self.status = "transcoding"
        self.media = outcome.unwrap()
        plan = await run(
            FanOutTranscodingTasks,
            FanOutTranscodingTasks.Params(
                media=self.media, heights=self.heights, segment_seconds=self.segment_seconds
            ),
        )
        self.segments, self.renditions = plan.segments, plan.renditions
        if self.media.sound_seconds is not None:
            self._start(Task(kind="sound"))
        for number in range(len(plan.segments)):
            for rendition in plan.renditions:
                self._start(Task(kind="segment", rendition=rendition.name, segment=number))

    @on("job.segment_done")
    async def segment_done(self, outcome: Outcome[Piece]) -> None:
        """Join each rendition as soon as its last part is there."""
        if await self._settle(outcome) is None:
            return
        state = await self._aggregate()
        for name in state.can_be_joined:
            self._start(Task(kind="join", rendition=name))
        if state.is_transcoded:
            self.status = "joining"

    @on("job.join_done")
    async def join_done(self, outcome: Outcome[Piece]) -> None:
        """Finish the job with its last rendition."""
        if await self._settle(outcome) is None:
            return
        if (await self._aggregate()).is_joined:
            await self._end("completed")

    @on("job.progress", read_only=True)
    async def progress(self) -> Progress:
        """Tell how far the job is; answered beside whatever else the agent is doing."""
        done = [task for task in self.tasks.values() if task.status == "done"]
        return Progress(
            status=self.status,
            message=self.message,
            tasks=len(self.tasks),
            tasks_done=len(done),
            recorded=tuple(sorted(task.id for task in done if task.kind == "segment")),
            attempts=sum(task.attempts for task in self.tasks.values()),
            renditions=tuple(self._progress_of(rendition.name) for rendition in self.renditions),
        )

    def _progress_of(self, name: str) -> RenditionProgress:
        done = [t for t in self.tasks.values() if t.rendition == name and t.status == "done"]
        segments = [task for task in done if task.kind == "segment"]
        joined = [task for task in done if task.kind == "join"]
        return RenditionProgress(
            name=name,
            segments=len(self.segments),
            segments_done=len(segments),
            nodes=tuple(sorted({task.node for task in segments if task.node})),
            seconds=sum(task.seconds for task in done),
            result=Piece(path=self._result(name), size_bytes=joined[0].size_bytes)
            if joined
            else None,
        )

    def _start(self, task: Task, needs: Needs | None = None) -> None:
        """Hand a task to the cluster, for the first time or again."""
        task.status = "running"
        task.run_id = self._hand_out(task, needs)
        self.tasks[task.id] = task

    def _hand_out(self, task: Task, needs: Needs | None) -> str:
        """Start the action that does the task when this turn commits, and return the run's id."""
        if task.kind == "split":
            copy = SplitVideo.Params(source=self.source, target=self._source)
            return self.ctx.start(SplitVideo, copy, reply=self.split_done, tag=task.id, needs=needs)
        if task.kind == "join":
            parts = JoinSegments.Params(
                pieces=tuple(self._piece(task.rendition, n) for n in range(len(self.segments))),
                sound=self._sound if "sound" in self.tasks else None,
                target=self._job_dir / f"{task.rendition}.mp4",
            )
            return self.ctx.start(
                JoinSegments, parts, reply=self.join_done, tag=task.id, needs=needs
            )
        if self.media is None:
            raise RuntimeError("there is nothing to encode before the split is done")
        if task.kind == "sound":
            sound = EncodeSound.Params(source=self._source, media=self.media, target=self._sound)
            return self.ctx.start(
                EncodeSound, sound, reply=self.segment_done, tag=task.id, needs=needs
            )
        segment = self.segments[task.segment]
        return self.ctx.start(
            TranscodeVideoSegment,
            TranscodeVideoSegment.Params(
                source=self._source,
                media=self.media,
                segment=segment,
                rendition=next(r for r in self.renditions if r.name == task.rendition),
                target=self._piece(task.rendition, task.segment),
                log=self.log,
            ),
            reply=self.segment_done,
            tag=task.id,
            needs=needs,
            # A core that needs 30 times as long as the segment lasts is hanging, not working.
            timeout=60.0 + 30.0 * float(segment.count / self.media.rate),
        )

    async def _settle(self, outcome: Outcome[Any]) -> Task | None:
        """Record how a run ended; a failed one is started again, or ends the job.

        Returns None when nothing follows from the outcome.
        """
        task = self.tasks.get(outcome.tag)
        if task is None or task.run_id != outcome.run_id or self.status in {"completed", "failed"}:
            return None  # of an attempt that no longer counts
        task.attempts += max(1, outcome.attempts)
        task.node, task.seconds = outcome.node, outcome.seconds
        if outcome.error is None:
            task.status = "done"
            if isinstance(outcome.value, Piece):
                task.size_bytes = outcome.value.size_bytes
            return task
        # An outcome nobody knows is as good as a failure here: the same file is written again.
        may_succeed = outcome.error.retryable or outcome.error.kind == "outcome_unknown"
        if may_succeed and task.attempts < MAX_ATTEMPTS:
            self._start(task, await self._elsewhere(outcome.node))
        else:
            task.status = "failed"
            await self._end("failed", f"{task.id}: {outcome.error.message}")
        return None

    async def _elsewhere(self, node: str | None) -> Needs | None:
        """Name what another node has and this one lacks; None when nothing tells them apart."""
        nodes = [other for other in await self.ctx.cluster.nodes() if other.status == "up"]
        here = next((other for other in nodes if node in {other.id, other.name}), None)
        for other in sorted(nodes, key=lambda other: other.load):
            for label, value in other.labels.items():
                if here is not None and here.labels.get(label) != value:
                    return Needs(labels={label: value})
        return None

    async def _aggregate(self) -> AggregateResults.Result:
        """Ask what the finished tasks make possible."""
        return await run(
            AggregateResults,
            AggregateResults.Params(
                tasks=tuple(self.tasks.values()),
                renditions=tuple(rendition.name for rendition in self.renditions),
            ),
        )

    async def _end(self, status: Literal["completed", "failed"], message: str = "") -> None:
        """Bring the job to its end; what still runs is called off."""
        for task in self.tasks.values():
            if task.status == "running":
                self.ctx.cancel(task.run_id)
        made = self.renditions if status == "completed" else ()
        results = {self._job_dir / f"{r.name}.mp4": self._result(r.name) for r in made}
        try:
            await run(FinalizeJob, FinalizeJob.Params(job_dir=self._job_dir, results=results))
        except JidoError as error:
            status, message = "failed", message or error.message
        self.status, self.message = status, message

    # Where the files are. In the job's own directory until the job is finished.

    @property
    def _job_dir(self) -> Path:
        return self.workdir / f".{self.ctx.agent_id}"

    @property
    def _source(self) -> Path:
        return self._job_dir / "source.mkv"

    @property
    def _sound(self) -> Path:
        return self._job_dir / "sound.m4a"

    def _piece(self, rendition: str, segment: int) -> Path:
        return self._job_dir / f"{rendition}-{segment:03}.mp4"

    def _result(self, rendition: str) -> Path:
        return self.workdir / f"{self.source.stem}-{rendition}.mp4"
