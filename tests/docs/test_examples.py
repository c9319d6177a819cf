"""The Python of the documents runs, and prints what its comments say."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = ("README.md", "docs/guide.md")
SECONDS = 120.0

BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PRINTED = re.compile(r"^\s*print\(.*\)  # (.+)$", re.MULTILINE)


def program(document: str) -> str:
    """The Python blocks of a document, in order."""
    return "\n\n".join(BLOCK.findall((ROOT / document).read_text()))


@pytest.mark.slow
@pytest.mark.parametrize("document", DOCUMENTS)
def test_the_examples_print_what_they_say(document: str, tmp_path: Path) -> None:
    """As a reader runs them: a script, here without Ray; every `print` says what it prints."""
    text = program(document)
    script = tmp_path / "example.py"
    script.write_text(text)
    done = subprocess.run(
        [sys.executable, "-W", "error", script],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        env={**os.environ, "JIDO_ADDRESS": "local"},
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == PRINTED.findall(text)
    assert text.count("print(") == len(PRINTED.findall(text)) > 0
