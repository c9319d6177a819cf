"""`make bench-check`: a short run that fails when a promised ratio falls below its bar.

Only ratios of two sides that were measured in one run are judged: a slow machine slows both. A case
that misses is measured once more before it fails, for the sake of whatever else the machine did.
"""

import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Final

from benchmarks.report import Result, Row

# Case -> the metrics whose ratios the project has promised. Times, which have bars too, and memory,
# are not in it.
PROMISED: Final = {
    "calls": ("shared, 2048 in flight", "shared, one at a time, p50"),
    "spawn": ("shared, 256 in flight",),
    "replication": ("strong, 256 clients",),
}
Measure = Callable[[str, Sequence[str]], Result]


def promised(case: str, result: Result) -> list[Row]:
    """The rows of this case that are judged: those with a bar on their ratio."""
    return [
        row
        for row in result.rows
        if row.metric in PROMISED[case] and row.bar is not None and row.bar.endswith("x")
    ]


def line(row: Row) -> str:
    """One judged row in words."""
    return (
        f"{'holds ' if row.holds else 'MISSED'} {row.case}: {row.metric}: {row.ratio:g}x, "
        f"bar {row.bar} ({row.ours:,g} against {row.peer:,g} {row.unit}, {row.peer_name})"
    )


def measured(measure: Measure, case: str) -> Result | None:
    """What a case has found; None: it failed to run, and has said why."""
    try:
        return measure(case, ["--quick"])
    except subprocess.CalledProcessError:
        return None


def main(measure: Measure) -> int:
    """Measure, print a line for each ratio; 1 if one was missed twice, or not found twice, else 0.

    Args:
        measure: Measures a case with these options of the command line.
    """
    failed = False
    for case in PROMISED:
        result = measured(measure, case)
        if result is None or not all(row.holds for row in promised(case, result)):
            print(f"{case} missed a bar, or failed to run; once more", file=sys.stderr)
            result = measured(measure, case)
        if result is None:
            print(f"FAILED {case}: it did not run", flush=True)
            failed = True
            continue
        rows = promised(case, result)
        for row in rows:
            print(line(row), flush=True)
        if not rows:
            print(f"not measured: {'; '.join(result.left_out) or case}", flush=True)
        failed = failed or not all(row.holds for row in rows)
    return int(failed)
