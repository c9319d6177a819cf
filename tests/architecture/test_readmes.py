"""The README of each core names its modules, each below what it imports; decisions are indexed."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CORES = {"placement": "jido_placement", "state": "jido_state"}

FILE = re.compile(r"`(\w+)\.py`")
ROW = re.compile(r"^\|(.*?)\|", re.MULTILINE)


def places(readme: str) -> dict[str, int]:
    """The modules in the first column of a README's tables, and the rows they stand in."""
    rows = enumerate(ROW.findall(readme))
    return {module: row for row, cell in rows for module in FILE.findall(cell)}


def modules(core: str) -> dict[str, Path]:
    return {path.stem: path for path in sorted((ROOT / core / CORES[core]).glob("[!_]*.py"))}


def imported(source: str, package: str) -> Iterator[str]:
    """The modules of its own package that a module imports."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(f"{package}."):
            yield str(node.module).split(".")[1]


def out_of_order(sources: dict[str, str], package: str, rows: dict[str, int]) -> list[str]:
    """The imports that go down the table."""
    return [
        f"{module} imports {below}"
        for module, source in sources.items()
        for below in sorted(set(imported(source, package)))
        if below in rows and rows[below] > rows[module]
    ]


@pytest.mark.parametrize("core", CORES)
def test_a_core_can_be_read_from_top_to_bottom(core: str) -> None:
    """Its README names every module once, and none that is not there, in an order of knowledge."""
    rows = places((ROOT / core / "README.md").read_text())
    files = modules(core)
    assert sorted(rows) == sorted(files)
    sources = {name: path.read_text() for name, path in files.items()}
    assert out_of_order(sources, CORES[core], rows) == []


def test_an_import_that_goes_down_is_noticed() -> None:
    """The order of rows counts; files of one row may import each other."""
    rows = places("| `a.py` | x |\n| `b.py`, `c.py` | see `d.py` |\n")
    assert rows == {"a": 0, "b": 1, "c": 1}
    sources = {"a": "from core.b import x", "b": "from core.c import y", "c": "import os"}
    assert out_of_order(sources, "core", rows) == ["a imports b"]


def test_every_decision_is_in_the_index() -> None:
    """By its file, in order."""
    folder = ROOT / "docs/decisions"
    listed = re.findall(r"\]\((\d{4}-[a-z0-9-]+\.md)\)", (folder / "README.md").read_text())
    assert listed == sorted(path.name for path in folder.glob("[0-9]*.md"))


@pytest.mark.parametrize("core", CORES)
def test_the_documents_that_a_core_names_are_there(core: str) -> None:
    """They are named by path, since a core knows nothing of what is around it."""
    named = re.findall(r"`(docs/[^`]+)`", (ROOT / core / "README.md").read_text())
    assert named
    assert [path for path in named if not (ROOT / path).is_file()] == []
