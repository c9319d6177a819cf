"""`python -m benchmarks CASE [--json [FILE]] [--quick] [--rounds N]`; `--help` lists the cases."""

import argparse
import contextlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from benchmarks import report
from benchmarks.questions import ABOUT, ROUNDS

PLAIN_WIDTH: Final = 120  # of a table that goes to a file
STANDARD_OUTPUT: Final = "-"
OTHERS: Final = ("all", "check", "profile", "report")  # what is no case


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The options `case`, `files`, `json`, `quick` and `rounds`."""
    width = max(map(len, ABOUT))
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Measure agents, and beside them what a user would take instead. A missed bar\n"
        "is reported; the exit code is 0 unless something failed to run.",
        epilog="\n".join(
            (
                *(f"  {name:{width}}  {about.question}" for name, about in ABOUT.items()),
                f"  {'all':{width}}  These, but for exec-soak, one after the other.",
                f"  {'check':{width}}  A short run; exit code 1 when a ratio falls below its bar.",
                f"  {'profile':{width}}  Where the time of an ask goes, as flame graphs.",
                f"  {'report':{width}}  A page and plots from what --json wrote to FILEs.",
            )
        ),
    )
    parser.add_argument("case", choices=[*ABOUT, *OTHERS], metavar="CASE")
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE", help="of `report` only")
    parser.add_argument(
        "--json",
        nargs="?",
        const=STANDARD_OUTPUT,
        metavar="FILE",
        help="write one JSON object there; without FILE print it, and nothing else",
    )
    parser.add_argument("--quick", action="store_true", help="short rounds, noisy figures")
    parser.add_argument(
        "--rounds",
        type=_positive,
        metavar="N",
        help=f"medians are of N rounds (default {ROUNDS}, with --quick 1 or 2)",
    )
    options = parser.parse_args(arguments)
    if (options.case == "report") != bool(options.files):
        parser.error("a FILE is given with `report`, and only there")
    return options


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} rounds measure nothing; use 1 or more")
    return number


def rounds_of(case: str, rounds: int | None, *, is_quick: bool) -> int:
    """How many rounds a case takes: as told, else its own number."""
    return rounds or (ABOUT[case].quick_rounds if is_quick else ROUNDS)


def measure(case: str, rounds: int, *, is_quick: bool) -> report.Result:
    """The result of a case; says on standard error how far it is."""
    about = ABOUT[case]
    name, _, kind = about.where.partition(":")
    module = import_module(f"benchmarks.{name}")
    facts = report.machine(is_quick=is_quick)
    samples: list[report.Samples] = []
    waiting = Console(stderr=True).status(f"{case}: starting")
    with waiting, _place(about.nodes) as place:
        waiting.update(f"{case}: preparing")
        for each in place.rounds(getattr(module, kind), rounds, is_quick=is_quick):
            samples.append(each)
            waiting.update(f"{case}: {len(samples)} of {rounds} rounds")
        versions = report.versions() | place.versions
    found = [one for one in module.COMPARISONS if all(one.key in each for each in samples)]
    missing = [one for one in module.COMPARISONS if one not in found]
    return report.Result(
        facts,
        versions,
        {case: asdict(about) | {"rounds": rounds}},
        tuple(dict.fromkeys(f"{case}: {module.left_out(one)}" for one in missing)),
        tuple(report.rows(found, samples)),
    )


def _place(nodes: int) -> Any:
    """Where a case runs: this process, or Ray nodes."""
    if nodes == 0:
        from benchmarks.here import ThisProcess

        return ThisProcess()
    from benchmarks.cluster import RayNodes  # imports Ray; --help needs none

    return RayNodes(nodes)


def apart(case: str, options: Sequence[str]) -> report.Result:
    """The result of a case that runs in a process of its own, so that none inherits anything.

    Raises:
        subprocess.CalledProcessError: It failed to run; it has said why on standard error.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "result.json"
        command = [sys.executable, "-m", "benchmarks", case, *options, "--json", str(file)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        return report.from_json(file.read_text(encoding="utf-8"))


def measure_all(options: argparse.Namespace) -> tuple[report.Result, bool]:
    """Every case that `all` has, one after the other; and whether all of them ran."""
    given = ["--quick"] if options.quick else []
    given += ["--rounds", str(options.rounds)] if options.rounds else []
    cases = [
        name
        for name, about in ABOUT.items()
        if about.in_all and (about.in_quick or not options.quick)
    ]
    found: list[report.Result] = []
    failed: list[str] = []
    for case in cases:
        begun = time.monotonic()
        try:
            found.append(apart(case, given))
        except subprocess.CalledProcessError:
            failed.append(f"{case}: it failed to run; standard error says why")
        print(f"{case}: {time.monotonic() - begun:.0f} s", file=sys.stderr)
    if not found:
        raise SystemExit("no case ran")
    whole = report.joined(found)
    return replace(whole, left_out=(*failed, *whole.left_out)), not failed


def main(arguments: Sequence[str]) -> int:
    """Measure, then print; the exit code."""
    options = parse(arguments)
    if options.case == "report":
        from benchmarks import page

        texts = [file.read_text(encoding="utf-8") for file in options.files]
        page.write(report.joined([report.from_json(text) for text in texts]))
        return 0
    if options.case == "profile":
        from benchmarks import profile_asks

        return profile_asks.main()
    if options.case == "check":
        from benchmarks import promises

        return promises.main(apart)
    ran = True
    with contextlib.redirect_stdout(sys.stderr):  # standard output is for the result alone
        if options.case == "all":
            result, ran = measure_all(options)
        else:
            rounds = rounds_of(options.case, options.rounds, is_quick=options.quick)
            result = measure(options.case, rounds, is_quick=options.quick)
    if options.json == STANDARD_OUTPUT:
        print(report.as_json(result))
        return int(not ran)
    if options.json is not None:
        Path(options.json).write_text(report.as_json(result) + "\n", encoding="utf-8")
    width = None if sys.stdout.isatty() else PLAIN_WIDTH
    report.show(Console(width=width), result)
    return int(not ran)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
