"""docs/transitions.md is drawn from the code, and the check that says so can fail."""

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

from jido_placement.healing import TRANSITIONS, Event, Stage
from jido_placement.membership import STATUS_TRANSITIONS
from jido_placement.policies import CELLS

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def diagrams() -> ModuleType:
    spec = importlib.util.spec_from_file_location("diagrams", ROOT / "scripts" / "diagrams.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_what_the_code_gives(diagrams: ModuleType) -> None:
    """Otherwise run `python scripts/diagrams.py`, and read the difference."""
    assert diagrams.problems(diagrams.PAGE.read_text()) == []


def test_a_page_that_differs_is_noticed(diagrams: ModuleType) -> None:
    """A cell that was changed by hand, a place too many, a place too few; filling in mends one."""
    page = diagrams.PAGE.read_text()
    wrong = page.replace("| joining | up |", "| joining | down |", 1)
    assert wrong != page
    assert diagrams.problems(wrong) == ["it is not what the code gives"]
    assert diagrams.filled(wrong) == page
    more = page + "<!-- drawn: the moon -->\n<!-- end -->\n"
    assert diagrams.problems(more) == ["nobody draws 'the moon'"]
    fewer = page.replace("drawn: partition rules", "not so")
    assert diagrams.problems(fewer) == ["'partition rules' has no place"]


def test_nothing_is_left_out(diagrams: ModuleType) -> None:
    """Every transition is an arrow, or said of all stages at once; every cell has its place."""
    arrows = [line for line in diagrams.status_of_a_member() if " --> " in line]
    assert len(arrows) == len(STATUS_TRANSITIONS)
    common = diagrams.everywhere(TRANSITIONS, Stage, Event)
    assert common == {Event.LOST: Stage.SPLIT}
    arrows = [line for line in diagrams.healing_of_a_node() if " --> " in line]
    assert len(arrows) == len(TRANSITIONS) - (len(Stage) - 1)
    rows = [line for line in diagrams.partition_rules() if line.startswith("| `")]
    assert sum(line.count("|") - 3 for line in rows) == len(CELLS) == 27


def test_an_event_that_some_stages_lack_is_not_said_of_all(diagrams: ModuleType) -> None:
    """Nor one that leads to two of them."""
    states, events = "abc", "xy"
    transitions = {("a", "x"): "c", ("b", "x"): "c", ("a", "y"): "b", ("c", "y"): "b"}
    assert diagrams.everywhere(transitions, states, events) == {"x": "c", "y": "b"}
    del transitions["b", "x"]
    transitions["b", "y"] = "c"
    assert diagrams.everywhere(transitions, states, events) == {}


def test_the_functions_that_change_a_role_are_there(diagrams: ModuleType) -> None:
    """What the page says in words names methods and files of the replication core."""
    section = (
        diagrams.PAGE.read_text().partition("## The roles of a voter\n")[2].partition("\n## ")[0]
    )
    files = {path.name: path.read_text() for path in (ROOT / "state/jido_state").glob("*.py")}
    named = re.findall(r"`(?:([A-Z]\w+)\.)?([a-z_]+)(\.py)?`", section)
    source = "".join(files.values())
    missing = [
        name
        for owner, name, suffix in named
        if (f"{name}.py" not in files if suffix else not _has(source, owner, name))
    ]
    assert missing == []
    assert len(named) > 10


def _has(source: str, owner: str, name: str) -> bool:
    """Whether a class of this name has the method; any class, if none is named."""
    classes = re.split(r"^class ", source, flags=re.MULTILINE)[1:]
    return any(
        re.match(rf"{owner}\b" if owner else "", one) and f"    def {name}(" in one
        for one in classes
    )
