"""Play fault scenarios: `python -m tests.faults [SCENARIO ...] --seconds 90 --nodes 5`.

Prints a report as JSON for each, and fails when a promise was broken in one. Needs root.
"""

import argparse
import os
import signal
import sys
import time
from pathlib import Path

from tests.faults.namespaces import missing
from tests.faults.scenarios import SCENARIOS, run
from tests.faults.stage import Size


def main() -> int:
    """Play those that are named, or all."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help=" ".join(SCENARIOS))
    parser.add_argument("--nodes", type=int, default=Size.nodes)
    parser.add_argument("--seconds", type=float, default=Size.seconds, help="of load, for each")
    parser.add_argument("--rate", type=float, default=Size.rate, help="operations a second")
    parser.add_argument("--agents", type=int, default=Size.agents)
    parser.add_argument("--rounds", type=int, default=Size.rounds, help="of kills and failover")
    parser.add_argument("--seed", type=int, default=Size.seed, help="of kills")
    parser.add_argument("--keep", type=Path, help="a folder for the histories")
    arguments = parser.parse_args()
    if unknown := set(arguments.scenarios) - SCENARIOS.keys():
        parser.error(f"no scenario is called {', '.join(sorted(unknown))}")
    if reason := missing():
        parser.error(reason)
    size = Size(
        arguments.nodes,
        arguments.seconds,
        arguments.rate,
        arguments.agents,
        arguments.rounds,
        arguments.seed,
    )
    # Ended from outside, it ends what it has started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    is_broken = False
    for name in arguments.scenarios or SCENARIOS:
        keep = None
        if arguments.keep is not None:
            arguments.keep.mkdir(parents=True, exist_ok=True)
            keep = arguments.keep / f"{name}-{time.strftime('%Y%m%dT%H%M%S')}.jsonl"
        report = run(name, size, keep)
        sys.stdout.write(report.to_json() + "\n")
        sys.stdout.flush()
        is_broken |= bool(report.findings.problems)
    return int(is_broken)


if __name__ == "__main__":
    os.environ["RAY_AUTH_MODE"] = "disabled"
    sys.exit(main())
