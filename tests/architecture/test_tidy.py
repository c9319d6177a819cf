"""Rules about the source that no linter here checks."""

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("jido_cluster", "placement/jido_placement", "state/jido_state")
MAY_PRINT = {"jido_cluster/cli.py", "jido_cluster/cli_output.py"}
MAX_MODULE_LINES = 600
MAX_FUNCTION_LINES = 70

# Written in parts, so that this file does not find itself.
MACHINE_PATH = re.compile(r"(?<![\w.~-])/(?:root|home|work" + r"|Users)/\w")
INDEX_ADDRESS = re.compile(
    r"--(?:extra-)?index" + r"-url\b|https?://\S+/simple\b|find" + r"-links\b"
)
# Tools that look for index addresses have to name them.
MAY_NAME_INDEX = {"scripts/lock.py"}


def sources() -> list[Path]:
    return sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def tracked_texts() -> Iterator[tuple[str, str]]:
    """Every text file that is, or is about to be, in the repository: its name and its content."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for file in filter(None, listed.split("\0")):
        path = ROOT / file
        if path.is_file():
            content = path.read_bytes()
            if b"\0" not in content:
                yield file, content.decode(errors="replace")


def called_by_name(tree: ast.AST, function: str) -> list[int]:
    """The lines that call the builtin of this name."""
    return [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == function
    ]


def without_hash_methods(tree: ast.Module) -> ast.Module:
    """The module without its `__hash__` methods: inside one process the builtin is right."""

    class Remove(ast.NodeTransformer):
        def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST | None:
            return None if node.name == "__hash__" else self.generic_visit(node)

    kept = Remove().visit(tree)
    assert isinstance(kept, ast.Module)
    return kept


@pytest.mark.parametrize("path", sources(), ids=name)
def test_a_module_is_tidy(path: Path) -> None:
    """A module fits 600 lines, a function 70; nothing depends on `hash()` or prints."""
    text = path.read_text()
    tree = ast.parse(text)
    assert len(text.splitlines()) <= MAX_MODULE_LINES
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            assert node.end_lineno - node.lineno < MAX_FUNCTION_LINES, node.name
    # The builtin is salted per process: two nodes would disagree. `digest.h64` is the hash.
    assert called_by_name(without_hash_methods(tree), "hash") == []
    if name(path) not in MAY_PRINT:
        assert called_by_name(tree, "print") == []


def test_the_rules_see_what_they_are_meant_to_see() -> None:
    """The checks above find offenders when there are some."""
    code = "def f(x):\n    print(hash(x))\n    x.hash()\ndef __hash__(x): return hash(x)"
    tree = without_hash_methods(ast.parse(code))
    assert called_by_name(tree, "hash") == called_by_name(tree, "print") == [2]
    assert MACHINE_PATH.search("at /ho" + "me/me/x")
    assert not MACHINE_PATH.search("https://host/ho" + "me/x")
    assert INDEX_ADDRESS.search("pip --index" + "-url x")
    assert len(sources()) > 10


def test_no_file_names_a_machine_or_a_package_index() -> None:
    """A clone elsewhere finds no path of the machine it was written on, and no index address."""
    found = []
    for file, text in tracked_texts():
        found += [f"{file}: {hit[0]}" for hit in MACHINE_PATH.finditer(text)]
        if file not in MAY_NAME_INDEX:
            found += [f"{file}: {hit[0]}" for hit in INDEX_ADDRESS.finditer(text)]
    assert found == []
