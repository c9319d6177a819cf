"""Draws docs/transitions.md from the code.

The page is written by hand, except for what stands between a line `<!-- drawn: name -->` and the
next `<!-- end -->`: diagrams in Mermaid, and tables, which are made here from the tables of the
cores, or by asking their functions for every case. Without options it fills them in; `--check`
fails when one of them is not what the code gives.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from enum import Enum
from itertools import product
from pathlib import Path
from types import MappingProxyType
from typing import Final, NamedTuple, TypeVar

from jido_placement.config import GroupConfig, Replica
from jido_placement.healing import TRANSITIONS, Event, Stage
from jido_placement.membership import STATUS_TRANSITIONS, Opinion, Reachability, newer_opinion
from jido_placement.policies import CELLS, Column, Level, Rule, Strategy
from jido_state.acceptor import Acceptor
from jido_state.journal import Journal
from jido_state.messages import Header

PAGE: Final = Path(__file__).resolve().parent.parent / "docs" / "transitions.md"
BLOCK: Final = re.compile(r"(<!-- drawn: ([a-z ]+) -->\n).*?(<!-- end -->)", re.DOTALL)

STATUSES: Final = ("pending", "learner", "voter", "removed")  # of a replica, as `Header` has them
ME: Final = Replica(1, 1)
OTHER: Final = Replica(2, 2)

S = TypeVar("S", bound=Hashable)
E = TypeVar("E", bound=Hashable)


class Edge(NamedTuple):
    """One arrow of a diagram."""

    before: str
    after: str
    cause: str


def word(value: Enum) -> str:
    """A member of an enumeration as a reader meets it."""
    return value.name.lower().replace("_", " ")


def diagram(edges: Iterable[Edge]) -> list[str]:
    """A state diagram in Mermaid."""
    lines = [f"    {one.before} --> {one.after}: {one.cause}" for one in edges]
    return ["```mermaid", "stateDiagram-v2", *lines, "```", ""]


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return [f"| {' | '.join(line)} |" for line in lines]


def everywhere(
    transitions: Mapping[tuple[S, E], S], states: Collection[S], events: Iterable[E]
) -> dict[E, S]:
    """The events that lead from every other state to one and the same, and to which."""
    found: dict[E, S] = {}
    for event in events:
        targets = {after for (_, cause), after in transitions.items() if cause == event}
        if len(targets) == 1:
            (target,) = targets
            others = [state for state in states if state != target]
            if len(others) > 1 and all((state, event) in transitions for state in others):
                found[event] = target
    return found


def status_of_a_member() -> list[str]:
    """`membership.STATUS_TRANSITIONS`."""
    edges = [Edge(word(old), word(new), why) for (old, new), why in STATUS_TRANSITIONS.items()]
    return diagram(edges) + table(("from", "to", "when"), edges)


def opinion_of_a_node() -> list[str]:
    """`membership.newer_opinion`, asked for every pair of opinions."""
    relations = {"an earlier": 1, "the same": 2, "a later": 3}
    causes: dict[tuple[str, str], list[str]] = {}
    rows = []
    for mine, theirs in product(Reachability, Reachability):
        cells = [word(mine), word(theirs)]
        for relation, incarnation in relations.items():
            stands = newer_opinion(Opinion(2, mine), Opinion(incarnation, theirs)).reachability
            cells.append(word(stands))
            if stands is not mine:
                causes.setdefault((word(mine), word(stands)), []).append(relation)
        rows.append(cells)
    edges = [
        Edge(before, after, f"said of {' or '.join(found)} incarnation")
        for (before, after), found in causes.items()
    ]
    head = ("believed", "said", *(f"of {one} incarnation" for one in relations))
    return diagram(edges) + table(head, rows)


def healing_of_a_node() -> list[str]:
    """`healing.TRANSITIONS`."""
    common = everywhere(TRANSITIONS, tuple(Stage), Event)
    edges = [
        Edge(word(stage), word(after), word(event))
        for (stage, event), after in TRANSITIONS.items()
        if event not in common
    ]
    lines = diagram(edges)
    for event, target in common.items():
        lines += [f"From every other stage `{word(event)}` leads to `{word(target)}`.", ""]
    lines += table(("event", "means"), ((word(event), event.value) for event in Event))
    next_of = [
        ", ".join(
            f"{word(event)}: {word(TRANSITIONS[stage, event])}"
            for event in Event
            if (stage, event) in TRANSITIONS
        )
        for stage in Stage
    ]
    rows = ((word(stage), stage.value, then) for stage, then in zip(Stage, next_of, strict=True))
    return [*lines, "", *table(("stage", "what the node does", "then"), rows)]


def status_of_a_replica() -> list[str]:
    """`Acceptor.adopt` and `Acceptor.formatted`, asked in every status."""
    configs = {
        "it is a voter": GroupConfig(2, (ME, OTHER)),
        "it is a learner": GroupConfig(2, (OTHER,), (), (ME,)),
        "it is not named": GroupConfig(2, (OTHER,)),
    }
    edges = []
    rows = []
    for status in STATUSES:
        cells = [status]
        noted = []
        for place, config in configs.items():
            one = replica(status, GroupConfig(1, (OTHER,)))
            one.adopt(config)
            if (status, place) == ("voter", "it is a learner"):
                cells.append("-")  # its node would learn under another number, as another replica
                continue
            cells.append(one.header.status)
            edges.append(Edge(status, one.header.status, f"a config in which {place}"))
            one.formatted()
            if one.header.status != cells[-1]:
                edges.append(Edge(status, one.header.status, f"its header is noted, {place}"))
                noted.append(one.header.status)
        rows.append([*cells, " or ".join(noted) or status])
    head = ("status", *(f"a config in which {place}" for place in configs), "its header is noted")
    return diagram(one for one in edges if one.before != one.after) + table(head, rows)


def replica(status: str, config: GroupConfig) -> Acceptor:
    """A shard's replica in this status, which knows this config."""
    journal = Journal()
    journal.begin(0)
    header = Header(ME.rno, status, config)
    return Acceptor(
        ME.node, header, journal, rows={}, bad=(), leaves=1, list_rows=1, appended=0, life=1
    )


def partition_rules() -> list[str]:
    """`policies.CELLS`: what becomes of reads and writes, and what the words mean."""
    head = ("strategy", "level", *(column.value for column in Column))
    rows = []
    for strategy, level in product(Strategy, Level):
        cells = [CELLS[strategy, level, column] for column in Column]
        rows.append(
            (
                f"`{strategy.value}`",
                level.value,
                *(_rules(cell.read, cell.write) for cell in cells),
            )
        )
    legend = table(("rule", "what becomes of it"), ((_rule(rule), rule.value) for rule in Rule))
    return [*table(head, rows), "", *legend]


def _rules(read: Rule, write: Rule) -> str:
    return _rule(read) if read is write else f"read: {_rule(read)}; write: {_rule(write)}"


def _rule(rule: Rule) -> str:
    return word(rule)


BLOCKS: Final[Mapping[str, Callable[[], list[str]]]] = MappingProxyType(
    {
        "status of a member": status_of_a_member,
        "opinion of a node": opinion_of_a_node,
        "healing of a node": healing_of_a_node,
        "status of a replica": status_of_a_replica,
        "partition rules": partition_rules,
    }
)


def filled(page: str) -> str:
    """The page with everything drawn anew.

    Raises:
        KeyError: The page has a place for something that nobody draws.
    """
    return BLOCK.sub(lambda found: "\n".join([found[1], *BLOCKS[found[2]](), "", found[3]]), page)


def problems(page: str) -> list[str]:
    """What is wrong with the page, one sentence each; empty when nothing is."""
    places = [name for _, name, _ in BLOCK.findall(page)]
    found = [f"nobody draws {name!r}" for name in places if name not in BLOCKS]
    found += [f"{name!r} has no place" for name in BLOCKS if name not in places]
    if not found and filled(page) != page:
        found.append("it is not what the code gives")
    return found


def main() -> int:
    """Fills the page in, or with `--check` says whether it is in step; returns the exit code."""
    if "--check" not in sys.argv[1:]:
        PAGE.write_text(filled(PAGE.read_text()))
    found = problems(PAGE.read_text())
    for problem in found:
        print(f"docs/transitions.md: {problem}; run `python scripts/diagrams.py`", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
