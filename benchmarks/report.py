"""Samples into rows, and rows into a table or JSON. Knows nothing of Ray.

A case says what it compares (`Comparison`); each round yields a pair of values, ours and the
peer's, for every comparison. A row holds the medians over the rounds. `ratio` is always ours / peer
of those medians, whichever way is better; the bar's sign says which way that is.
"""

import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any, Final, Literal

import psutil
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

PACKAGES: Final = ("jido-cluster", "ray", "pydantic", "uvloop", "ormsgpack")
Samples = Mapping[str, tuple[float, float]]  # of one round: comparison -> (ours, peer)


@dataclass(frozen=True, slots=True)
class Bar:
    """What a comparison has to reach.

    Attributes:
        of: What is compared with the limit: the ratio, or our own value in the metric's unit.
    """

    sign: Literal[">=", "<="]
    limit: float
    of: Literal["ratio", "ours"] = "ratio"

    def holds(self, ours: float, ratio: float) -> bool:
        """True if the limit is kept."""
        value = ratio if self.of == "ratio" else ours
        return value >= self.limit if self.sign == ">=" else value <= self.limit

    def text(self, unit: str) -> str:
        """As in a row: ">= 12x" speaks of the ratio, "<= 20 KB" of our value."""
        number = f"{self.limit:,g}"
        return f"{self.sign} {number}x" if self.of == "ratio" else f"{self.sign} {number} {unit}"


@dataclass(frozen=True, slots=True)
class Comparison:
    """One thing that a case measures on both sides.

    Attributes:
        key: Under which the case's rounds return their samples.
        bar: None for a row that only informs.
        is_detail: Left out of the table in a terminal; in the JSON, and on the page, all the same.
    """

    key: str
    case: str
    metric: str
    unit: str
    peer_name: str
    bar: Bar | None = None
    is_detail: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """One comparison's result.

    Attributes:
        ratio: ours / peer.
        bar: As `Bar.text` writes it; None: none was set, and `holds` is True.
        spread: (max - min) / median over the rounds, of ours and of the peer.
    """

    case: str
    metric: str
    unit: str
    ours: float
    peer: float
    peer_name: str
    ratio: float
    bar: str | None
    holds: bool
    spread: tuple[float, float]
    is_detail: bool = False


def spread(values: Sequence[float]) -> float:
    """How far the rounds lie apart: (max - min) / median, in the metric's unit if that is 0."""
    return (max(values) - min(values)) / (median(values) or 1.0)


def row(comparison: Comparison, ours: Sequence[float], peer: Sequence[float]) -> Row:
    """The row of a comparison's samples, one of each side for every round."""
    middle, peer_middle = median(ours), median(peer)
    ratio = middle / peer_middle
    bar = comparison.bar
    return Row(
        case=comparison.case,
        metric=comparison.metric,
        unit=comparison.unit,
        ours=_rounded(middle),
        peer=_rounded(peer_middle),
        peer_name=comparison.peer_name,
        ratio=_rounded(ratio),
        bar=None if bar is None else bar.text(comparison.unit),
        holds=bar is None or bar.holds(middle, ratio),
        spread=(round(spread(ours), 3), round(spread(peer), 3)),
        is_detail=comparison.is_detail,
    )


def rows(comparisons: Sequence[Comparison], rounds: Sequence[Samples]) -> list[Row]:
    """A row for every comparison, in their order."""
    return [
        row(one, [each[one.key][0] for each in rounds], [each[one.key][1] for each in rounds])
        for one in comparisons
    ]


def _rounded(value: float) -> float:
    """Four digits: the rounds never agree on a fifth."""
    return float(f"{value:.4g}")


def machine(*, is_quick: bool) -> dict[str, Any]:
    """The facts that the figures depend on; `load` is the machine's before the run began."""
    return {
        "system": platform.platform(),
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "load": round(os.getloadavg()[0], 2),
        "quick": is_quick,
    }


def _cpu_name() -> str:
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8") as lines:
            return next(line.partition(":")[2].strip() for line in lines if "model name" in line)
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def versions() -> dict[str, str]:
    """Releases of Python and of what takes part."""
    return {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}


@dataclass(frozen=True, slots=True)
class Result:
    """What a run of some cases has found.

    Attributes:
        machine: See `machine`.
        versions: Releases of what took part.
        cases: What each case asked, by its name, with `rounds`; see `questions.About`.
        left_out: What was not measured, and why; a sentence each.
        rows: In the order of the cases.
    """

    machine: dict[str, Any]
    versions: dict[str, str]
    cases: dict[str, dict[str, Any]]
    left_out: tuple[str, ...]
    rows: tuple[Row, ...]


def joined(results: Sequence[Result]) -> Result:
    """The results of several runs on one machine, at least one, as one.

    The machine's facts are the first's. A case that was run again counts as it was found last.
    """
    last = {name: each for each in results for name in each.cases}
    return Result(
        results[0].machine,
        {name: value for each in results for name, value in each.versions.items()},
        {name: each.cases[name] for name, each in last.items()},
        tuple(
            dict.fromkeys(
                line
                for each in results
                for line in each.left_out
                if last.get(line.partition(":")[0], each) is each
            )
        ),
        tuple(row for name, each in last.items() for row in each.rows if row.case == name),
    )


def as_json(result: Result) -> str:
    """The one object `{machine, versions, cases, left_out, rows}`."""
    return json.dumps(asdict(result), indent=2)


def from_json(text: str) -> Result:
    """What `as_json` wrote.

    Raises:
        ValueError: It is something else.
    """
    try:
        data = json.loads(text)
        found = [Row(**{**each, "spread": tuple(each["spread"])}) for each in data["rows"]]
        facts = data["machine"], data["versions"], data["cases"], tuple(data["left_out"])
    except (KeyError, TypeError) as error:
        message = f"no result of `python -m benchmarks --json`: {error!r} is wrong or missing"
        raise ValueError(message) from error
    return Result(*facts, tuple(found))


def verdict(results: Sequence[Row]) -> str:
    """One line: how many bars are kept, and which are missed."""
    barred = [each for each in results if each.bar is not None]
    missed = [
        f"{each.case}, {each.metric}, against {each.peer_name}" for each in barred if not each.holds
    ]
    text = f"{len(barred) - len(missed)} of {len(barred)} bars hold"
    return f"{text}; missed: {'; '.join(missed)}" if missed else text


def show(console: Console, result: Result) -> None:
    """Print machine, versions, table, what was left out, and the verdict."""
    for facts in (result.machine, result.versions):
        console.print(", ".join(f"{name} {value}" for name, value in facts.items()), style="dim")
    table = Table(box=SIMPLE_HEAD, show_lines=False)
    table.add_column("ours against peer", min_width=34)
    for name in ("ours", "peer", "unit", "ratio", "bar", "", "spread"):
        table.add_column(name, justify="right", no_wrap=True)
    for each in result.rows:
        if each.is_detail:
            continue
        table.add_row(
            f"{each.case}: {each.metric} [dim]against {each.peer_name}[/]",
            f"{each.ours:,g}",
            f"{each.peer:,g}",
            each.unit,
            f"{each.ratio:,g}x",
            each.bar or "",
            "" if each.bar is None else "[green]holds[/]" if each.holds else "[red]missed[/]",
            " / ".join(f"{part:.0%}" for part in each.spread),
        )
    console.print(table)
    for line in result.left_out:
        console.print(f"left out: {line}", style="dim", markup=False, highlight=False)
    console.print(verdict(result.rows))
