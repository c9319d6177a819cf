"""What the documents say of names, settings and files is so."""

import re
from pathlib import Path
from urllib.parse import unquote

import pytest
import typer

from jido_cluster import ClusterConfig
from jido_cluster.cli import app
from jido_cluster.config import AGREED

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted(
    [
        ROOT / "README.md",
        ROOT / "CHANGELOG.md",
        ROOT / "benchmarks/README.md",
        ROOT / "placement/README.md",
        ROOT / "state/README.md",
        ROOT / "examples/fencing/README.md",
        ROOT / "examples/transcoding/README.md",
        *(ROOT / "docs").rglob("*.md"),
    ]
)
ARCHITECTURE = (ROOT / "docs/architecture.md").read_text()

CODE = re.compile(r"^ *```sh\n(.*?)^ *```$|`([^`\n]+)`|^ {4}([^\n]+)$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]+\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def anchors(text: str) -> set[str]:
    """What a link may name after `#`: headings as the code hosts write them."""
    kept = (re.sub(r"[^\w\- ]", "", heading).strip().lower() for heading in HEADING.findall(text))
    return {heading.replace(" ", "-") for heading in kept}


def shell(text: str) -> str:
    """What is set as code: shell blocks, indented lines, and code in sentences."""
    return "\n".join("".join(parts).strip() for parts in CODE.findall(text))


def rows(heading: str, document: str = ARCHITECTURE) -> list[list[str]]:
    """The cells of the first table under a heading, without its head."""
    section = document.partition(f"\n{heading}\n")[2].partition("\n#")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


@pytest.mark.parametrize("document", DOCUMENTS, ids=name)
def test_every_link_leads_somewhere(document: Path) -> None:
    """A link inside the repository names a file that exists, and a heading in it."""
    broken = []
    for target in LINK.findall(document.read_text()):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = unquote(target).partition("#")
        path = (document.parent / file).resolve() if file else document
        if not path.exists() or (anchor and anchor not in anchors(path.read_text())):
            broken.append(target)
    assert broken == []


def test_the_settings_are_those_of_the_code() -> None:
    """Names, defaults and which must agree, in the order of the class."""
    found = [(key, default, agreed == "yes") for key, default, agreed, _ in rows("### Settings")]
    fields = ClusterConfig.model_fields.items()
    assert found == [(f"`{key}`", f"`{field.default!r}`", key in AGREED) for key, field in fields]


def test_the_events_are_those_of_the_code() -> None:
    """The table lists exactly the names that the package executes."""
    source = "".join(path.read_text() for path in (ROOT / "jido_cluster").rglob("*.py"))
    used = re.findall(r"(?:execute\(\s*|: Final = )\"(jido\.(?:exec|cluster)\.[a-z.]+)\"", source)
    listed = [event for cell, _ in rows("### Events") for event in re.findall(r"`([^`]+)`", cell)]
    assert sorted(listed) == sorted(set(used))


def test_the_commands_are_there() -> None:
    """Each `make x` and `jido-cluster x` of the documents exists."""
    text = "\n".join(shell(document.read_text()) for document in DOCUMENTS)
    targets = set(re.findall(r"^([a-z]+):.*##", (ROOT / "Makefile").read_text(), re.MULTILINE))
    commands = set(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
    made = set(re.findall(r"^ *make ([a-z]+)", text, re.MULTILINE))
    called = set(re.findall(r"^ *jido-cluster ([a-z]+)", text, re.MULTILINE))
    assert {"demo", "test"} <= made <= targets
    assert {"start", "stop"} <= called <= commands


def test_definition_errors_are_where_the_code_says() -> None:
    """`Agent` sends its readers to that section."""
    assert "definition-errors" in anchors(ARCHITECTURE)
    assert len(rows("## Definition errors")) > 5


def test_the_checks_see_what_they_are_meant_to_see() -> None:
    """Tables and anchors are read as intended."""
    document = "# A b\n\n## It's (so)\n\n| a | b |\n| --- | --- |\n| `x` | y |\n\n## C\n| z |\n"
    assert rows("## It's (so)", document) == [["`x`", "y"]]
    assert anchors(document) == {"a-b", "its-so", "c"}
    assert len(DOCUMENTS) > 10
