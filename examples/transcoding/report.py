"""What the user sees: the progress of a job, its result, and whether the result is right."""

import sys
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars
from rich.table import Table

from examples.transcoding.media import Media, MediaError, count_frames, probe
from examples.transcoding.pipeline import Progress

LINE_SECONDS = 2.0  # between two lines when there is no terminal to draw on
# A frame may be rounded away at either end; a frame of AAC lasts 21 to 64 ms.
PICTURE_TOLERANCE_SECONDS = 0.1
SOUND_TOLERANCE_SECONDS = 0.2


class Display:
    """Shows a job while it runs: bars on a terminal, a line now and then elsewhere."""

    def __init__(self, console: Console, node_names: Mapping[str, str]) -> None:
        self._console = console
        self._node_names = node_names
        self._rows: dict[str, TaskID] = {}
        self._last_line = ("", -LINE_SECONDS)
        self._bars = Bars(
            TextColumn("{task.description:>12}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}"),
            console=console,
            disable=not console.is_terminal,
        )

    def __enter__(self) -> Self:
        """Begin to draw."""
        self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave the last picture standing."""
        self._bars.stop()

    def show(self, progress: Progress) -> None:
        """Draw how far the job is."""
        if not self._console.is_terminal:
            self._show_line(progress)
            return
        self._show_row("job", progress.tasks_done, progress.tasks, progress.status)
        for row in progress.renditions:
            self._show_row(row.name, row.segments_done, row.segments, self._names(row.nodes))

    def say(self, text: str) -> None:
        """Print a line above the bars."""
        self._bars.console.print(text)

    def _show_row(self, name: str, done: int, total: int, note: str) -> None:
        if name not in self._rows:
            self._rows[name] = self._bars.add_task(name, total=total or None, note=note)
        self._bars.update(self._rows[name], completed=done, total=total or None, note=note)

    def _show_line(self, progress: Progress) -> None:
        status, said_at = self._last_line
        if progress.status == "failed":
            return  # the reason follows, in a line of its own
        if progress.status == status and time.monotonic() - said_at < LINE_SECONDS:
            return
        self._last_line = (progress.status, time.monotonic())
        renditions = ", ".join(
            f"{row.name} {row.segments_done}/{row.segments}" for row in progress.renditions
        )
        self._console.print(
            progress.status
            + (f": {progress.tasks_done} of {progress.tasks} tasks" if progress.tasks else "")
            + (f" ({renditions})" if renditions else "")
        )

    def _names(self, nodes: Iterable[str]) -> str:
        return ", ".join(sorted(self._node_names.get(node, node) for node in nodes))


def result_table(progress: Progress, node_names: Mapping[str, str]) -> Table:
    """Tabulate what was made, where, in what time."""
    table = Table()
    for heading in ("rendition", "segments", "nodes used", "seconds", "size", "file"):
        is_number = heading in {"segments", "seconds", "size"}
        table.add_column(heading, justify="right" if is_number else "left", overflow="fold")
    for row in progress.renditions:
        table.add_row(
            row.name,
            str(row.segments),
            ", ".join(sorted(node_names.get(node, node) for node in row.nodes)),
            f"{row.seconds:.1f}",
            f"{row.result.size_bytes / 1e6:.2f} MB" if row.result else "-",
            row.result.path.name if row.result else "-",
        )
    return table


@dataclass(frozen=True)
class Loss:
    """The death of the node that hosted the job, and what was to be kept.

    Attributes:
        killed: The node.
        host: The node that hosts the job since.
        seconds: From the kill until the job answered there.
        recorded: Ids of the segments whose outcome the job had committed before the kill.
        begun: How often each segment had been begun before the kill.
    """

    killed: str
    host: str
    seconds: float
    recorded: tuple[str, ...]
    begun: Mapping[str, int]


def times_begun(log: Path) -> Counter[str]:
    """How often each segment was begun, by the lines that the encoders have written."""
    return Counter(log.read_text().split()) if log.exists() else Counter()


def tell_loss(loss: Loss, begun: Mapping[str, int]) -> list[str]:
    """Say what became of the job, in lines; `begun` is as in `Loss`, at the end of the job."""
    again = {key for key, count in begun.items() if 0 < loss.begun.get(key, 0) < count}
    repeated = again & set(loss.recorded)
    return [
        f"the job's node: {loss.killed}, which was killed; {loss.seconds:.1f} s later {loss.host}",
        f"segments recorded before the kill: {len(loss.recorded)}; begun again: {len(repeated)}",
        f"segments under way at the kill that were begun again: {len(again - repeated)}",
    ]


def check_loss(loss: Loss, begun: Mapping[str, int]) -> list[str]:
    """What the death of the node has undone or repeated; empty when it is as promised."""
    problems = []
    if loss.host == loss.killed:
        problems.append(f"the job is said to live on {loss.killed}, which is dead")
    for segment in loss.recorded:
        before, after = loss.begun.get(segment, 0), begun.get(segment, 0)
        if before == 0:
            problems.append(f"{segment} was recorded, and nobody has begun it")
        elif after != before:
            problems.append(f"{segment} was begun again after it had been recorded")
    return problems


async def check_results(source: Path, results: Mapping[int, Path]) -> list[str]:
    """Decode every result, by its height, and return what differs from the source."""
    wanted = await probe(source)
    problems = []
    for height, path in results.items():
        try:
            problems += [f"{path.name}: {p}" for p in await _differences(wanted, height, path)]
        except (MediaError, OSError) as error:
            problems.append(f"{path.name}: {error}")
    return problems


async def _differences(wanted: Media, height: int, path: Path) -> list[str]:
    found = await probe(path)
    frames = await count_frames(path)
    problems = []
    if abs(min(found.width, found.height) - height) > 1:
        problems.append(f"{found.width}x{found.height} is not {height}p")
    shape = Fraction(wanted.width, wanted.height) * found.height
    if abs(found.width - shape) > 1 + found.height / 100:
        problems.append(f"{found.width}x{found.height} is out of shape")
    if abs(found.seconds - wanted.seconds) > PICTURE_TOLERANCE_SECONDS:
        problems.append(f"lasts {found.seconds:.3f} s, the source {wanted.seconds:.3f} s")
    if abs(frames - wanted.frames) > 1 + PICTURE_TOLERANCE_SECONDS * wanted.rate:
        problems.append(f"{frames} frames can be decoded, of {wanted.frames}")
    if (found.sound_seconds is None) != (wanted.sound_seconds is None):
        problems.append("has sound" if wanted.sound_seconds is None else "has no sound")
    elif (
        found.sound_seconds is not None
        and wanted.sound_seconds is not None
        and abs(found.sound_seconds - wanted.sound_seconds) > SOUND_TOLERANCE_SECONDS
    ):
        problems.append(
            f"its sound lasts {found.sound_seconds:.3f} s, "
            f"that of the source {wanted.sound_seconds:.3f} s"
        )
    return problems


def make_console() -> Console:
    """Make the console: as wide as the terminal, or wide enough for the table elsewhere."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else 120)
