"""Scenarios on Ray nodes, played short one after the other; `python -m tests.faults` has all.

Where the fault makes calls wait, the test sees to it that they did: else nothing was tried.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from jido_state.checking import check_linearizable
from jido_state.simulation.history import History
from tests.faults.nodes import RayNodes
from tests.faults.scenarios import PATIENT, run
from tests.faults.stage import Report, Size

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.usefixtures("machines")]

NODES = 3


@pytest.fixture(scope="module")
def nodes() -> Iterator[RayNodes]:
    with RayNodes(NODES, environment=PATIENT) as started:
        yield started


@pytest.mark.parametrize(
    ("name", "seconds", "waits"),
    [
        ("kill_host", 9.0, 0.03),
        ("split", 18.0, 1.0),
        ("pause_leader", 8.0, 1.0),
        ("kill_node", 9.0, 0.03),
    ],
)
def test_a_scenario_ends_well(
    name: str, seconds: float, waits: float, nodes: RayNodes, tmp_path: Path
) -> None:
    """No promise is broken, and the history that is left says so by itself."""
    play(name, seconds, waits, nodes, tmp_path)


def test_an_end_of_the_gcs_ends_well(tmp_path: Path) -> None:
    """On nodes of its own: a GCS that is told to be patient comes back with dead nodes as alive."""
    play("gcs_outage", 15.0, 0.1, None, tmp_path)


def test_the_end_of_all_nodes_ends_well(tmp_path: Path) -> None:
    """The clients end with their nodes, so that it is new ones that wait."""
    report = play("kill_all", 9.0, 0.0, None, tmp_path)
    assert report.measures["serving"]["max"] >= 1.0


def play(name: str, seconds: float, waits: float, nodes: RayNodes | None, tmp_path: Path) -> Report:
    """Play a scenario for so long, in which a call waits at least so many seconds."""
    size = Size(nodes=NODES, seconds=seconds, rate=60.0, agents=40, tag=f"-{name}")
    report = run(name, size, tmp_path / "history.jsonl", nodes)
    assert report.findings.problems == ()
    assert report.findings.operations > size.agents * 2
    assert report.findings.longest_wait >= waits
    history = History.from_lines((tmp_path / "history.jsonl").read_text().splitlines())
    strong = [one for one in history if one.key.startswith(("count-", "register-"))]
    assert check_linearizable(strong).is_linearizable
    assert len(history) >= report.findings.operations
    return report
