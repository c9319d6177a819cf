"""Plots as SVG text, without any library: horizontal bars, and lines over named points.

A plot has a ground of its own, so that it reads on every page, and follows the reader's preference
for light or dark. Values may be on a logarithmic axis; lengths of bars never are without saying so.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

WIDTH: Final = 720
CHARACTER: Final = 7.2  # pixels of a letter of a name, about
VALUE_WIDTH: Final = 110  # of a bar's figure, right of the longest bar
ROW: Final = 30
BAR: Final = 18
TOP: Final = 58  # title and subtitle
BOTTOM: Final = 16
PLOT_HEIGHT: Final = 260
# Of Okabe and Ito, whose differences colour-blind readers see; ours is the first.
COLOURS: Final = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
STYLE: Final = """
text{font:13px system-ui,sans-serif;fill:#24292f}.title{font-size:16px;font-weight:600}
.note,.end{font-size:12px;fill:#57606a}.end{text-anchor:end}.ground{fill:#ffffff;stroke:#d0d7de}.axis{stroke:#d0d7de}
.ours{fill:#0072b2}.peer{fill:#8c959f}.whisker{stroke:#24292f}
@media(prefers-color-scheme:dark){text{fill:#e6edf3}.note,.end{fill:#9198a1}
.ground{fill:#0d1117;stroke:#3d444d}.axis{stroke:#3d444d}.ours{fill:#4aa8e0}.peer{fill:#6e7681}
.whisker{stroke:#e6edf3}}
"""


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar.

    Attributes:
        spread: (max - min) / median of the rounds, >= 0, drawn around the end of the bar.
    """

    name: str
    value: float
    is_ours: bool = False
    spread: float = 0.0


def number(value: float) -> str:
    """Three digits, as a reader says them: 61.7k, 1.23, 0.17."""
    if value >= 1e6:
        return f"{value / 1e6:.3g}M"
    if value >= 1e4:
        return f"{value / 1e3:.3g}k"
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def bars(title: str, note: str, found: Sequence[Bar]) -> str:
    """Horizontal bars from zero, in the order given; at least one, values >= 0."""
    longest = max(bar.value * (1 + bar.spread / 2) for bar in found) or 1.0
    left = _width(bar.name for bar in found)
    scale = (WIDTH - left - VALUE_WIDTH) / longest
    parts = []
    for place, bar in enumerate(found):
        y = TOP + place * ROW
        end = left + bar.value * scale
        half = bar.value * bar.spread / 2 * scale
        middle = y + BAR / 2
        kind = "ours" if bar.is_ours else "peer"
        name, length = escape(bar.name), max(1.0, bar.value * scale)
        low, high = max(left, end - half), end + half
        parts += [
            f'<text x="{left - 10}" y="{y + 14}" text-anchor="end">{name}</text>',
            f'<rect class="{kind}" x="{left}" y="{y}" width="{length:.1f}" height="{BAR}"/>',
            f'<path class="whisker" d="M{low:.1f} {middle}H{high:.1f}"/>',
            f'<text x="{high + 8:.1f}" y="{y + 14}">{number(bar.value)}</text>',
        ]
    return _framed(title, note, TOP + len(found) * ROW + BOTTOM, parts)


def lines(
    title: str,
    note: str,
    points: Sequence[str],
    series: Mapping[str, Sequence[float | None]],
    *,
    is_log: bool = False,
) -> str:
    """One line for each name over the same points; None: not measured there.

    Args:
        title: What is shown.
        note: In which unit, and how it was measured.
        points: Names of the points, at least two, from left to right.
        series: Values by name; ours first. On a logarithmic axis all are > 0.
        is_log: Whether the values' axis is logarithmic.
    """
    values = [value for line in series.values() for value in line if value is not None]
    ticks = _powers(values) if is_log else _even(values)
    low, high = (math.log10(ticks[0]), math.log10(ticks[-1])) if is_log else (0.0, ticks[-1])
    left, right = 70, WIDTH - _width(series)

    def x(place: int) -> float:
        return left + (right - left) * place / (len(points) - 1)

    def y(value: float) -> float:
        height = ((math.log10(value) if is_log else value) - low) / (high - low)
        return TOP + PLOT_HEIGHT * (1 - height)

    parts = []
    for tick in ticks:
        down, label = y(tick), number(tick)
        parts += [
            f'<path class="axis" d="M{left} {down:.1f}H{right}"/>',
            f'<text class="end" x="{left - 8}" y="{down + 4:.1f}">{label}</text>',
        ]
    parts += [
        f'<text class="note" x="{x(place):.1f}" y="{TOP + PLOT_HEIGHT + 20}" '
        f'text-anchor="middle">{escape(name)}</text>'
        for place, name in enumerate(points)
    ]
    names = _apart({name: y(_last(line)) for name, line in series.items()})
    for colour, (name, line) in zip(COLOURS * len(series), series.items(), strict=False):
        drawn = [(x(place), y(value)) for place, value in enumerate(line) if value is not None]
        path = " ".join(f"{across:.1f},{down:.1f}" for across, down in drawn)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [
            f'<circle cx="{across:.1f}" cy="{down:.1f}" r="3" fill="{colour}"/>'
            for across, down in drawn
        ]
        parts.append(
            f'<rect x="{right + 12}" y="{names[name] - 5:.1f}" width="10" height="10" rx="2" '
            f'fill="{colour}"/><text x="{right + 28}" y="{names[name] + 4:.1f}">'
            f"{escape(name)}</text>"
        )
    return _framed(title, note, TOP + PLOT_HEIGHT + 36, parts)


def _framed(title: str, note: str, height: int, parts: Sequence[str]) -> str:
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        f'width="{WIDTH}" height="{height}" role="img" aria-label="{escape(title)}">'
    )
    ground = f'width="{WIDTH - 1}" height="{height - 1}" rx="6"/>'
    return "\n".join(
        (
            head,
            f"<style>{STYLE}</style>",
            f'<rect class="ground" x="0.5" y="0.5" {ground}',
            f'<text class="title" x="16" y="26">{escape(title)}</text>',
            f'<text class="note" x="16" y="45">{escape(note)}</text>',
            *parts,
            "</svg>\n",
        )
    )


def _width(names: Iterable[str]) -> int:
    """Pixels that the longest of these names takes, with some room around it."""
    return 40 + math.ceil(CHARACTER * max(map(len, names)))


def _last(line: Sequence[float | None]) -> float:
    return next(value for value in reversed(line) if value is not None)


def _powers(values: Sequence[float]) -> list[float]:
    """Powers of ten around all values, at least two."""
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    return [10.0**power for power in range(low, max(high, low + 1) + 1)]


def _even(values: Sequence[float]) -> list[float]:
    """Zero and up to five even steps, beyond the largest value."""
    most = max(values) or 1.0
    unit = 10.0 ** math.floor(math.log10(most))
    step = next(unit * part for part in (0.2, 0.5, 1.0, 2.0) if unit * part * 5 >= most)
    return [step * place for place in range(math.ceil(most / step - 1e-9) + 1)]


def _apart(wanted: Mapping[str, float], gap: float = 18.0) -> dict[str, float]:
    """Places near those wanted, at least a gap from each other, in the same order."""
    found: dict[str, float] = {}
    least = -math.inf
    for name, place in sorted(wanted.items(), key=lambda each: each[1]):
        found[name] = least = max(place, least + gap)
    return found
