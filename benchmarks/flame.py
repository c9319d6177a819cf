"""A flame graph as SVG, of the stacks that a sampling profiler has counted.

The root is at the top, a frame's width is its share of the samples, and frames below are those that
it called. Narrow frames are left out, so that the file stays small; a frame's share is its tooltip.
"""

import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from html import escape
from typing import Final

WIDTH: Final = 1200
ROW: Final = 18
TOP: Final = 54
NARROWEST: Final = 0.002  # of all samples: a frame below that is drawn as nothing
TRUNK: Final = 0.99  # of the samples: what so many share is how the program was started
CHARACTER: Final = 6.6  # pixels of a letter, about
STYLE: Final = """
text{font:11px ui-monospace,monospace;fill:#1f2328}.title{font:600 16px system-ui,sans-serif}
.note{font:12px system-ui,sans-serif;fill:#57606a}.ground{fill:#ffffff;stroke:#d0d7de}
@media(prefers-color-scheme:dark){.title{fill:#e6edf3}.note{fill:#9198a1}
.ground{fill:#0d1117;stroke:#3d444d}}
"""
WARM: Final = ("#ffd8a8", "#ffc078", "#ffec99", "#ffe066", "#ffc9c9", "#fcc2d7")


@dataclass(slots=True)
class Frame:
    """A function in one place of the stacks, with what it has called.

    Attributes:
        samples: In which it was, itself or below.
    """

    name: str
    samples: int = 0
    called: dict[str, "Frame"] = field(default_factory=dict)


def tree(stacks: Iterable[str]) -> Frame:
    """The stacks as one tree.

    Args:
        stacks: Lines `outermost;...;innermost COUNT`, as py-spy's raw format has them.

    Raises:
        ValueError: A line has no count, or nothing was sampled.
    """
    root = Frame("all")
    for line in stacks:
        if not line.strip():
            continue
        names, _, count = line.rstrip().rpartition(" ")
        samples = int(count)
        root.samples += samples
        frame = root
        for name in names.split(";"):
            frame = frame.called.setdefault(name, Frame(name))
            frame.samples += samples
    if root.samples == 0:
        raise ValueError("no samples: was the process idle, or had it ended?")
    return root


def self_times(root: Frame) -> dict[str, float]:
    """The share of the samples in which each function was innermost, largest first."""
    found: dict[str, int] = {}
    rest = [root]
    while rest:
        frame = rest.pop()
        below = sum(each.samples for each in frame.called.values())
        found[frame.name] = found.get(frame.name, 0) + frame.samples - below
        rest += frame.called.values()
    ordered = sorted(found.items(), key=lambda each: (-each[1], each[0]))
    return {name: count / root.samples for name, count in ordered if count > 0}


def flame_graph(title: str, note: str, root: Frame) -> str:
    """The SVG text; it begins where the stacks part, since nearly all are alike above."""
    while alike := [each for each in root.called.values() if each.samples >= TRUNK * root.samples]:
        root = alike[0]
    parts: list[str] = []
    deepest = _draw(root, 0.0, 0, root.samples, parts)
    height = TOP + (deepest + 1) * ROW + 12
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        f'width="{WIDTH}" height="{height}" role="img" aria-label="{escape(title)}">'
    )
    return "\n".join(
        (
            head,
            f"<style>{STYLE}</style>",
            f'<rect class="ground" x="0.5" y="0.5" width="{WIDTH - 1}" height="{height - 1}"/>',
            f'<text class="title" x="12" y="24">{escape(title)}</text>',
            f'<text class="note" x="12" y="43">{escape(note)}</text>',
            *parts,
            "</svg>\n",
        )
    )


def _draw(frame: Frame, left: float, depth: int, total: int, parts: list[str]) -> int:
    """Appends a frame and those below it; the deepest row that was drawn."""
    share = frame.samples / total
    width = share * (WIDTH - 24)
    x, y = 12 + left * (WIDTH - 24), TOP + depth * ROW
    short = frame.name.partition(" (")[0]
    letters = int((width - 6) / CHARACTER)
    label = short if len(short) <= letters else f"{short[: letters - 1]}…" if letters > 3 else ""
    colour = WARM[zlib.crc32(short.encode()) % len(WARM)]  # one function, one colour, in every run
    text = f'<text x="{x + 3:.1f}" y="{y + 13}">{escape(label)}</text>' if label else ""
    parts.append(
        f"<g><title>{escape(frame.name)}: {share:.1%}</title>"
        f'<rect x="{x:.1f}" y="{y}" width="{max(width - 0.4, 0.4):.1f}" height="{ROW - 1}" '
        f'fill="{colour}"/>{text}</g>'
    )
    deepest = depth
    for each in sorted(frame.called.values(), key=lambda one: (-one.samples, one.name)):
        if each.samples / total < NARROWEST:
            break
        deepest = max(deepest, _draw(each, left, depth + 1, total, parts))
        left += each.samples / total
    return deepest
