"""Runs the simulator over many seeds, replays one, or hunts for planted mutants.

    python -m tests.simulation --seeds 2000
    python -m tests.simulation --seed 42 --history 42.jsonl
    python -m tests.simulation --mutant pending --seeds 500

`make sim` calls this. It ends with 1 when a seed failed, or when a mutant was not caught.
"""

import argparse
import importlib
import re
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from itertools import islice
from pathlib import Path

from jido_state.simulation.cluster import simulate
from jido_state.simulation.swarm import Swarm
from tests.simulation.breaking import Mutant, broken
from tests.simulation.mutants import MUTANTS

__all__ = ["Totals", "hunt", "main", "run"]

_KEPT = 200  # events of a failing run that are shown
_WIDTH = 300  # characters of a line of the trace
_BLOCK = 25  # seeds that a process takes at a time


class Totals:
    """What many runs came to."""

    def __init__(self) -> None:
        self.runs = self.calls = self.acknowledged = self.elections = self.virtual_us = 0
        self.faults: Counter[str] = Counter()
        self.counts: Counter[str] = Counter()
        self.failures: list[tuple[int, str]] = []

    def add(self, other: "Totals") -> None:
        """Takes the other's as well."""
        self.runs += other.runs
        self.calls += other.calls
        self.acknowledged += other.acknowledged
        self.elections += other.elections
        self.virtual_us += other.virtual_us
        self.faults += other.faults
        self.counts += other.counts
        self.failures += other.failures

    def lines(self) -> Iterator[str]:
        """For a reader."""
        yield (
            f"{self.runs} runs, {len(self.failures)} failed; {self.calls} calls, "
            f"{self.acknowledged} acknowledged; {self.elections} elections; "
            f"{self.virtual_us / 3.6e9:.1f} hours of virtual time"
        )
        yield "faults: " + ", ".join(f"{kind} {n}" for kind, n in sorted(self.faults.items()))
        yield ", ".join(f"{what} {n}" for what, n in sorted(self.counts.items()))


def run(seeds: range) -> Totals:
    """Runs these seeds; what raises counts as a failure of its seed."""
    totals = Totals()
    for seed in seeds:
        try:
            result = simulate(seed)
        except Exception as error:
            totals.failures.append((seed, f"{type(error).__name__}: {error}"))
            totals.runs += 1
            continue
        totals.runs += 1
        totals.calls += result.operations
        totals.acknowledged += result.acknowledged
        totals.elections += result.elections
        totals.virtual_us += result.virtual_us
        totals.faults += Counter(result.faults)
        totals.counts += Counter(result.counts)
        if result.failure:
            totals.failures.append((seed, result.failure))
    return totals


def _run_all(first: int, seeds: int, jobs: int) -> Totals:
    end = first + seeds
    blocks = [range(n, min(n + _BLOCK, end)) for n in range(first, end, _BLOCK)]
    totals = Totals()
    began = time.perf_counter()
    with ExitStack() as stack:
        pool = stack.enter_context(ProcessPoolExecutor(jobs)) if jobs > 1 else None
        for done in map(run, blocks) if pool is None else pool.map(run, blocks):
            totals.add(done)
            for seed, failure in done.failures:
                _say(f"\nseed {seed}: {failure}\n  replay: make sim SEED={seed}\n")
            seconds = time.perf_counter() - began
            _say(f"\r{totals.runs}/{seeds} in {seconds:.0f} s, {len(totals.failures)} failed", "")
    _say("")
    return totals


def _replay(seed: int, history: str | None) -> bool:
    """Runs one seed and shows it; whether it passed."""
    _say(str(Swarm.draw(seed)))
    result = simulate(seed, kept=_KEPT)
    if history is not None:
        Path(history).write_text("".join(f"{line}\n" for line in result.history.to_lines()))
        _say(f"{len(result.history)} operations in {history}")
    if result.failure:
        _say("\n".join(map(_short, result.trace)))
    _say(
        f"seed {seed}: {result.operations} calls, {result.acknowledged} acknowledged, "
        f"{result.elections} elections in {result.virtual_us / 1e6:.1f} virtual s, "
        f"faults {result.faults}, digest {result.digest}"
    )
    _say(result.failure or "all held")
    return not result.failure


_SHORT = (
    (r"Ballot\(recovery=(\d+), config=(\d+), round=(\d+), node=(\d+)\)", r"b\1.\2.\3.\4"),
    (
        r"Version\(recovery=(\d+), config=(\d+), round=(\d+), node=(\d+), number=(\d+)\)",
        r"v\1.\2.\3.\4:\5",
    ),
    (r"Replica\(node=(\d+), rno=(\d+)\)", r"\1#\2"),
    (r"Frame\(shard=(\d+), rno=(\d+), message=(.*)\)", r"shard \1, #\2: \3"),
    (r"OpId\(caller='(\w+)', n=(\d+), path=''\)", r"\1/\2"),
)


def _short(line: str) -> str:
    """A line of the trace with ballots, versions and replicas as dots: `b0.1.2.0`, `v0.1.2.0:5`."""
    for pattern, by in _SHORT:
        line = re.sub(pattern, by, line)
    return line if len(line) <= _WIDTH else line[:_WIDTH] + "..."


def hunt(mutant: Mutant, first: int, seeds: int) -> tuple[int, str] | None:
    """The first of these seeds that catches the mutant, and what it saw."""
    with broken(mutant):
        cluster = importlib.import_module("jido_state.simulation.cluster")
        for seed in range(first, first + seeds):
            try:
                failure = cluster.simulate(seed).failure
            except Exception as error:
                failure = f"{type(error).__name__}: {error}"
            if failure:
                return seed, failure
    return None


def _hunt_all(word: str, first: int, seeds: int) -> bool:
    survivors = 0
    for mutant in (one for one in MUTANTS if word in one.name):
        began = time.perf_counter()
        found = hunt(mutant, first, seeds)
        survivors += found is None
        seconds = time.perf_counter() - began
        after = f"seed {found[0]}" if found else f"none of {seeds} seeds"
        why = f": {' '.join(found[1].split())[:90]}" if found else ""
        _say(f"{mutant.name:<50} {after} ({seconds:.0f} s){why}")
    return not survivors


def _say(text: str, end: str = "\n") -> None:
    sys.stdout.write(text + end)
    sys.stdout.flush()


def main(arguments: list[str]) -> int:
    """Does what the command line asks for; 0 when all is well."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=200, help="how many seeds")
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    parser.add_argument("--seed", type=int, help="replay this one")
    parser.add_argument("--history", help="write what clients saw of --seed to this file")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--mutant", help="hunt for mutants whose name has this word; '' for all")
    asked = parser.parse_args(arguments)
    if asked.seed is not None:
        return 0 if _replay(asked.seed, asked.history) else 1
    if asked.mutant is not None:
        return 0 if _hunt_all(asked.mutant, asked.first, asked.seeds) else 1
    totals = _run_all(asked.first, asked.seeds, asked.jobs)
    for line in totals.lines():
        _say(line)
    for seed, failure in islice(totals.failures, 20):
        _say(f"failed: make sim SEED={seed}  # {failure.splitlines()[0][:100]}")
    return 1 if totals.failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
