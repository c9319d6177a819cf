"""Scenarios that end well on the cluster as it is, played short; `python -m tests.faults` has all.

Where the fault makes calls wait, the test sees to it that they did: else nothing was tried.
"""

from pathlib import Path

import pytest

from jido_state.checking import check_linearizable
from jido_state.simulation.history import History
from tests.faults.scenarios import run
from tests.faults.stage import Size

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.usefixtures("machines")]

SIZE = Size(nodes=3, seconds=6.0, rate=60.0, agents=40)


@pytest.mark.parametrize(("name", "waits"), [("split", 1.0), ("gcs_outage", 0.0)])
def test_a_scenario_ends_well(name: str, waits: float, tmp_path: Path) -> None:
    """No promise is broken, and the history that is left says so by itself."""
    report = run(name, SIZE, tmp_path / "history.jsonl")
    assert report.findings.problems == ()
    assert report.findings.operations > SIZE.agents * 2
    assert report.findings.longest_wait >= waits
    assert len(report.events) == 2
    history = History.from_lines((tmp_path / "history.jsonl").read_text().splitlines())
    assert check_linearizable(history).is_linearizable
    assert len(history) >= report.findings.operations
