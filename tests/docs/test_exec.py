"""The examples of the guide to the Exec core run, each by itself, and print what they say."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
GUIDE = (ROOT / "docs/exec.md").read_text()
SECONDS = 120.0

HEADING = re.compile(r"^##+ (.+)$", re.MULTILINE)
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PRINTED = re.compile(r"^\s*print\(.*\)  # (.+)$", re.MULTILINE)
MODULE = re.compile(r"# (\w+\.py)\n")

EXAMPLES = [
    "Synchronous Execution",
    "Asynchronous Execution",
    "Timeout Management",
    "Retry Logic",
    "Custom Retry Logic",
    "Killable Work",
    "Basic Chaining",
    "Advanced Chaining",
    "Chain Error Handling",
    "Closures",
    "Plans",
    "Workflows",
    "Tools for Language Models",
    "Built-in Events",
    "Custom Metrics",
    "Prometheus",
    "OpenTelemetry",
    "Error Types",
    "Error Recovery",
    "Resource Management",
    "Async Patterns",
]


def sections() -> dict[str, list[str]]:
    """The Python blocks under each heading that has some; "" is what stands before the first."""
    first, *rest = HEADING.split(GUIDE)
    texts = {"": first, **dict(zip(rest[::2], rest[1::2], strict=True))}
    return {heading: BLOCK.findall(text) for heading, text in texts.items() if "```python" in text}


def test_every_example_is_tested() -> None:
    """By the heading it stands under; the actions that all of them use come first."""
    assert list(sections()) == ["", *EXAMPLES]
    assert len(set(HEADING.findall(GUIDE))) == len(HEADING.findall(GUIDE))


@pytest.mark.slow
@pytest.mark.parametrize("heading", EXAMPLES)
def test_the_example_runs(heading: str, tmp_path: Path) -> None:
    """As a reader runs it: the common lines, then its own; every `print` says what it prints."""
    blocks = []
    for block in sections()[heading]:
        module = MODULE.match(block)
        if module is None:
            blocks.append(block)
        else:
            (tmp_path / module[1]).write_text(block)
    text = "\n\n".join([*sections()[""], *blocks])
    script = tmp_path / "example.py"
    script.write_text(text)
    done = subprocess.run(
        [sys.executable, "-W", "error", script],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])},
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == PRINTED.findall(text)
    assert text.count("print(") == len(PRINTED.findall(text)) > 0
