"""`python -m benchmarks CASE [--json] [--quick] [--rounds N]`; `--help` lists the cases."""

import argparse
import contextlib
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any, Final

from rich.console import Console

from benchmarks import report

CASES: Final = {
    "calls": "Calls",
    "spawn": "Spawn",
    "density": "Density",
    "exec": "Exec",
    "exec-soak": "ExecSoak",
    "cores": "Cores",
    "store": "Store",
    "replication": "Replication",
}
HERE: Final = frozenset({"cores", "exec", "exec-soak", "store"})  # they need no cluster
MORE_NODES: Final = {"replication": 1}  # beside the two that the other cases have
ROUNDS: Final = 5
QUICK_ROUNDS: Final = 3
PLAIN_WIDTH: Final = 120  # of a table that goes to a file


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The options `case`, `json`, `quick` and `rounds`."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure agents and raw Ray actors side by side, runs of actions and what one "
        "would use without them (exec, exec-soak), durable writes and Redis (replication), or "
        "the cores alone (cores). A missed bar "
        "is reported; the exit code is 0 unless something failed to run.",
    )
    parser.add_argument("case", choices=CASES)
    parser.add_argument("--json", action="store_true", help="print one JSON object, nothing else")
    parser.add_argument("--quick", action="store_true", help="short rounds, noisy figures")
    parser.add_argument(
        "--rounds",
        type=_positive,
        metavar="N",
        help=f"medians are of N rounds (default {ROUNDS}, with --quick {QUICK_ROUNDS})",
    )
    options = parser.parse_args(arguments)
    if options.rounds is None:
        options.rounds = QUICK_ROUNDS if options.quick else ROUNDS
    return options


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} rounds measure nothing; use 1 or more")
    return number


def measure(case: str, rounds: int, *, is_quick: bool) -> list[report.Row]:
    """The rows of a case; says on standard error how far it is."""
    module = import_module(f"benchmarks.{case.replace('-', '_')}")
    kind = getattr(module, CASES[case])
    samples: list[report.Samples] = []
    waiting = Console(stderr=True).status(f"{case}: starting")
    with waiting, _place(case) as place:
        waiting.update(f"{case}: preparing")
        for each in place.rounds(kind, rounds, is_quick=is_quick):
            samples.append(each)
            waiting.update(f"{case}: {len(samples)} of {rounds} rounds")
    found = [one for one in module.COMPARISONS if all(one.key in each for each in samples)]
    for one in module.COMPARISONS:
        if one not in found:
            print(f"left out: {one.case}, {one.metric}: {module.left_out(one)}", file=sys.stderr)
    return report.rows(found, samples)


def _place(case: str) -> Any:
    """Where a case runs: this process, or Ray nodes."""
    if case in HERE:
        from benchmarks.here import ThisProcess

        return ThisProcess()
    from benchmarks.cluster import RayNodes  # imports Ray; --help needs none

    return RayNodes(MORE_NODES.get(case, 0))


def main(arguments: Sequence[str]) -> None:
    """Measure, then print."""
    options = parse(arguments)
    facts = report.machine(options.rounds, is_quick=options.quick)
    with contextlib.redirect_stdout(sys.stderr):  # standard output is for the result alone
        rows = measure(options.case, options.rounds, is_quick=options.quick)
    if options.json:
        print(report.as_json(facts, rows))
    else:
        width = None if sys.stdout.isatty() else PLAIN_WIDTH
        report.show(Console(width=width), facts, rows)


if __name__ == "__main__":
    main(sys.argv[1:])
