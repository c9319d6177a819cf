"""The page and its plots, and the check of promised ratios: what they are made of, and say."""

import re
import subprocess
from collections.abc import Sequence
from xml.etree import ElementTree as ET

import pytest

from benchmarks import page, plots, promises
from benchmarks.report import Bar, Comparison, Result, Row, row

ABOUT = {
    "question": "How many?",
    "work": "one ask",
    "warm_up": "none",
    "order": "in turn",
    "rounds": 5,
}
MACHINE = {
    "cpu": "AMD EPYC",
    "cores": 2,
    "memory_gb": 25.0,
    "system": "Linux",
    "load": 0.1,
    "quick": False,
}


def a_row(case: str, metric: str, unit: str, ours: float, peer: str, theirs: float) -> Row:
    """A row of one round, without a bar."""
    return row(Comparison("key", case, metric, unit, peer), [ours], [theirs])


def a_result(*rows: Row, left_out: tuple[str, ...] = ()) -> Result:
    """A run of the cases of these rows."""
    cases = {each.case: dict(ABOUT) for each in rows}
    return Result(dict(MACHINE), {"erlang/otp": "25"}, cases, left_out, rows)


PEERS = [
    a_row("peers", f"asks per second, {width} in flight", "asks/s", ours, name, theirs)
    for width, ours in ((64, 60_000.0), (2048, 62_000.0))
    for name, theirs in (("raw Ray actor", 2_000.0), ("Erlang/OTP", 110_000.0))
]


def texts(svg: str) -> list[str]:
    """What a plot says, in order; it is well-formed."""
    return [each.text or "" for each in ET.fromstring(svg).iter() if "text" in each.tag]


def widths(svg: str) -> list[float]:
    """Of the bars of a plot, without its ground."""
    found = [each for each in ET.fromstring(svg).iter() if each.tag.endswith("rect")]
    return [float(each.attrib["width"]) for each in found[1:]]


def test_bars_are_in_proportion_from_zero() -> None:
    """Twice as much is twice as long, and escaped names are names."""
    svg = plots.bars("a < b", "per second", [plots.Bar("x & y", 200), plots.Bar("z", 100)])
    first, second = widths(svg)
    assert first == pytest.approx(2 * second, rel=0.01)
    assert {"a < b", "x & y", "200"} <= set(texts(svg))


def test_long_names_have_room() -> None:
    """They push the axis, and stay within the plot."""
    name = "Redis SET and WAIT 1 in one message"
    svg = plots.bars("t", "n", [plots.Bar(name, 2), plots.Bar("x", 1)])
    assert (
        7 * len(name) < float(re.findall(r'<rect class="peer" x="(\d+)"', svg)[0]) < plots.WIDTH / 2
    )


def test_every_plot_reads_in_light_and_dark() -> None:
    """Each has its own ground, and another one where the reader prefers dark."""
    for svg in page.plots(a_result(*PEERS)).values():
        assert 'class="ground"' in svg
        assert "prefers-color-scheme:dark" in svg
        assert "<script" not in svg


@pytest.mark.parametrize("is_log", [True, False])
def test_lines_stay_within_their_axis(is_log: bool) -> None:
    """Higher values are higher up; a point that was not measured is left out."""
    svg = plots.lines(
        "t",
        "n",
        ["1", "2", "3"],
        {"a": [1.0, None, 1000.0], "b": [10.0, 100.0, 5.0]},
        is_log=is_log,
    )
    heights = [
        float(each.attrib["cy"]) for each in ET.fromstring(svg).iter() if "cy" in each.attrib
    ]
    assert len(heights) == 5
    assert all(plots.TOP <= one <= plots.TOP + plots.PLOT_HEIGHT + 0.1 for one in heights)
    assert heights[1] < heights[0]


@pytest.mark.parametrize(
    ("value", "text"),
    [(61_660.0, "61.7k"), (1_826.4, "1,826"), (0.1234, "0.123"), (2_500_000.0, "2.5M"), (0, "0")],
)
def test_figures_are_short(value: float, text: str) -> None:
    """Three digits, as a reader says them."""
    assert plots.number(value) == text


def test_the_best_comes_first_in_a_plot() -> None:
    """Even when it is not ours."""
    names = [text for text in texts(page.plots(a_result(*PEERS))["asks"]) if text in NAMES]
    assert names == ["Erlang/OTP", page.OURS, "raw Ray actor"]


NAMES = {"Erlang/OTP", page.OURS, "raw Ray actor"}


def test_the_page_has_one_column_for_each_system() -> None:
    """A metric is one line, whatever it is compared with."""
    text = page.markdown(a_result(*PEERS), ["asks"])
    assert "| asks per second, 2048 in flight | asks/s | **62,000** | 2,000 | 110,000 |" in text
    assert "![Asks per second, 2048 in flight](plots/asks.svg)" in text
    assert "- Rounds: 5; in turn." in text
    assert "AMD EPYC, 2 cores" in text


def test_the_page_says_where_we_lose_and_why() -> None:
    """A better peer is named with the reason; a worse one is not."""
    text = (
        page.markdown(a_result(*PEERS), [])
        .partition("## Where we lose, and what we miss")[2]
        .partition("##")[0]
    )
    assert "**peers, Erlang/OTP**" in text
    assert "What differs: " in text
    assert "raw Ray actor" not in text


def test_what_was_left_out_is_on_the_page() -> None:
    """A reader sees what is missing, and how to have it."""
    text = page.markdown(a_result(*PEERS, left_out=("peers: there is no Erlang",)), [])
    assert "- peers: there is no Erlang" in text


def test_published_figures_are_marked_with_source_and_hardware() -> None:
    """They stand apart from what was measured, each with all four cells filled."""
    text = page.markdown(a_result(*PEERS), []).partition("## What others have published")[2]
    assert "Not measured here" in text
    rows = [line for line in text.splitlines() if line.startswith("| ")][2:]
    assert len(rows) >= 4
    assert all(re.fullmatch(r"(\| [^|]+ ){4}\|", line) for line in rows)


def test_the_same_result_gives_the_same_page() -> None:
    """So that a page in the repository can be compared with its JSON."""
    result = a_result(*PEERS)
    assert page.plots(result) == page.plots(result)
    assert page.markdown(result, ["asks"]) == page.markdown(result, ["asks"])


def judged(ratio: float, bar: Bar) -> Row:
    """A row of what `bench-check` judges, with this ratio."""
    metric = promises.PROMISED["spawn"][0]
    one = Comparison("rate", "spawn", metric, "agents/s", "raw", bar)
    return row(one, [ratio], [1.0])


def checked(*found: Result | None) -> tuple[int, list[str]]:
    """The exit code when `spawn` yields these results in turn, and what was measured.

    None stands for a run that fails.
    """
    asked: list[str] = []
    rest = iter(found)

    def measure(case: str, options: Sequence[str]) -> Result:
        assert options == ["--quick"]
        asked.append(case)
        result = next(rest) if case == "spawn" else a_result()
        if result is None:
            raise subprocess.CalledProcessError(1, "spawn")
        return result

    return promises.main(measure), [case for case in asked if case == "spawn"]


def test_a_missed_ratio_fails_only_when_missed_twice() -> None:
    """What else the machine did is no fault of a change."""
    good, bad = a_result(judged(2000, Bar(">=", 1000))), a_result(judged(10, Bar(">=", 1000)))
    assert checked(good) == (0, ["spawn"])
    assert checked(bad, good) == (0, ["spawn", "spawn"])
    assert checked(bad, bad) == (1, ["spawn", "spawn"])


def test_a_case_that_does_not_run_fails_the_second_time() -> None:
    """What was not measured was not kept."""
    good = a_result(judged(2000, Bar(">=", 1000)))
    assert checked(None, good) == (0, ["spawn", "spawn"])
    assert checked(None, None) == (1, ["spawn", "spawn"])


def test_absolute_figures_never_fail() -> None:
    """A bar on a time of ours says something about the machine, too."""
    slow = a_result(judged(99, Bar("<=", 3, of="ours")))
    assert checked(slow) == (0, ["spawn"])
