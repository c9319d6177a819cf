"""The check that keeps requirements.lock in step with pyproject.toml can fail, and why."""

import importlib.util
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def lock() -> ModuleType:
    spec = importlib.util.spec_from_file_location("lock", ROOT / "scripts" / "lock.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def project() -> dict[str, Any]:
    loaded: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return loaded


def test_the_lock_is_in_step(lock: ModuleType, project: dict[str, Any]) -> None:
    """Every dependency is locked at a version that pyproject.toml accepts."""
    assert lock.problems(project, lock.LOCK.read_text()) == []


def test_a_changed_table_is_noticed(lock: ModuleType, project: dict[str, Any]) -> None:
    """A new or tightened dependency is named, and so is the stale digest."""
    project["dependencies"] += ["not-there>=1", "pydantic>=99"]
    found = lock.problems(project, lock.LOCK.read_text())
    assert "dependency tables of pyproject.toml changed" in found[0]
    assert any("not-there is not in the lock" in one for one in found)
    assert any("'pydantic>=99'" in one for one in found)


@pytest.mark.parametrize("line", ["--index" + "-url x", "-e ./x", "a @ https://host/a.whl"])
def test_a_foreign_line_is_noticed(lock: ModuleType, project: dict[str, Any], line: str) -> None:
    """The lock names neither an index nor a path."""
    found = lock.problems(project, f"{lock.LOCK.read_text()}\n{line}\n")
    assert any("names an index or a path" in one for one in found)
