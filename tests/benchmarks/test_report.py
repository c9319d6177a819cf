"""Benchmarks' rows: medians, ratios, bars, spread, and the shape of the JSON."""

import io
import json
from dataclasses import asdict
from typing import Literal

import pytest
from rich.console import Console

from benchmarks.report import (
    Bar,
    Comparison,
    Result,
    Row,
    as_json,
    from_json,
    joined,
    machine,
    row,
    rows,
    show,
    spread,
    verdict,
)

RATE = Comparison("rate", "calls", "64 in flight", "asks/s", "raw actor", Bar(">=", 12))
MEMORY = Comparison("memory", "density", "agent", "KB", "raw actor", Bar("<=", 20, of="ours"))
PLAIN = Comparison("p99", "calls", "p99", "ms", "raw actor")


def test_a_row_holds_medians_and_their_ratio() -> None:
    """Rounds that stray do not move the figures: both sides are medians, the ratio theirs."""
    found = row(RATE, [1_200, 30_000, 1_300, 1_250, 1], [100, 101, 99, 1, 5_000])
    assert (found.ours, found.peer, found.ratio) == (1_250, 100, 12.5)
    assert found.holds


def test_spread_is_range_over_median() -> None:
    """(max - min) / median, of each side by itself."""
    assert spread([8.0, 10.0, 12.0]) == pytest.approx(0.4)
    assert spread([-1.0, 0.0, 2.0]) == pytest.approx(3.0)  # of nothing, in the metric's unit
    assert row(RATE, [8, 10, 12], [1, 1, 1]).spread == (0.4, 0.0)


@pytest.mark.parametrize(
    ("sign", "of", "ours", "ratio", "expected"),
    [
        (">=", "ratio", 1.0, 12.0, True),
        (">=", "ratio", 99.0, 11.99, False),
        ("<=", "ratio", 99.0, 1.25, True),
        ("<=", "ratio", 0.1, 1.26, False),
        ("<=", "ours", 12.0, 99.0, True),
        ("<=", "ours", 12.1, 0.1, False),
        (">=", "ours", 11.9, 99.0, False),
    ],
)
def test_a_bar_holds_up_to_its_limit(
    sign: Literal[">=", "<="],
    of: Literal["ratio", "ours"],
    ours: float,
    ratio: float,
    expected: bool,
) -> None:
    """The limit itself is kept; only the side the bar speaks of counts."""
    limit = 1.25 if (sign, of) == ("<=", "ratio") else 12
    assert Bar(sign, limit, of).holds(ours, ratio) is expected


def test_a_bar_says_what_it_is_about() -> None:
    """A bar on the ratio ends in x, one on our own value in its unit."""
    assert Bar(">=", 1000).text("agents/s") == ">= 1,000x"
    assert Bar("<=", 1.25).text("ms") == "<= 1.25x"
    assert Bar("<=", 20, of="ours").text("KB") == "<= 20 KB"


def test_holds_is_decided_before_rounding() -> None:
    """A figure that only its rounding lifts to the bar misses it."""
    found = row(RATE, [11.99999], [1])
    assert (found.ratio, found.holds) == (12.0, False)


def test_a_row_without_a_bar_holds() -> None:
    """It informs only, so that `holds` of all rows together is the run's verdict."""
    found = row(PLAIN, [1], [2])
    assert found.bar is None
    assert found.holds


def test_rows_keep_the_order_of_the_comparisons() -> None:
    """Each comparison takes its own samples, whatever order a round returns them in."""
    rounds = [{"memory": (2.0, 59_000.0), "rate": (10.0, 1.0)} for _ in range(5)]
    found = rows([RATE, MEMORY], rounds)
    assert [(each.case, each.ours) for each in found] == [("calls", 10.0), ("density", 2.0)]
    assert [each.holds for each in found] == [False, True]


def result(*found: Row, left_out: tuple[str, ...] = (), case: str = "calls") -> Result:
    """What a run of one case would find."""
    return Result({"cores": 2}, {"python": "3.11"}, {case: {"rounds": 5}}, left_out, found)


def test_the_json_is_one_object() -> None:
    """The shape that later benchmarks keep, and readers of results rely on."""
    whole = result(row(MEMORY, [8.2], [59_000]), left_out=("calls: no Erlang",))
    data = json.loads(as_json(whole))
    assert list(data) == ["machine", "versions", "cases", "left_out", "rows"]
    assert data["rows"] == [
        {
            "case": "density",
            "metric": "agent",
            "unit": "KB",
            "ours": 8.2,
            "peer": 59_000.0,
            "peer_name": "raw actor",
            "ratio": 0.000139,
            "bar": "<= 20 KB",
            "holds": True,
            "spread": [0.0, 0.0],
            "is_detail": False,
        }
    ]
    assert from_json(as_json(whole)) == whole


@pytest.mark.parametrize("text", ["[]", "{}", "nothing", '{"rows": [{"case": "calls"}]}'])
def test_another_json_is_refused(text: str) -> None:
    """A page is never made of a file that is not a result."""
    with pytest.raises(ValueError, match=r"no result|Expecting value"):
        from_json(text)


def test_runs_are_joined_in_order() -> None:
    """Rows follow each other; what was missing twice is said once."""
    rate, memory = row(RATE, [900], [100]), row(MEMORY, [8.2], [59_000])
    whole = joined(
        [
            result(rate, left_out=("calls: no Erlang",)),
            result(memory, left_out=("density: no Redis",), case="density"),
        ]
    )
    assert whole.rows == (rate, memory)
    assert list(whole.cases) == ["calls", "density"]
    assert whole.left_out == ("calls: no Erlang", "density: no Redis")


def test_a_case_that_was_run_again_counts_once() -> None:
    """As it was found last, and so does what it left out."""
    again = row(RATE, [1_200], [100])
    whole = joined([result(row(RATE, [900], [100]), left_out=("calls: no Erlang",)), result(again)])
    assert whole.rows == (again,)
    assert whole.left_out == ()


def test_the_machine_is_described() -> None:
    """A figure without its machine says nothing."""
    facts = machine(is_quick=True)
    assert facts["quick"] is True
    assert {"cpu", "cores", "memory_gb", "load", "system"} <= facts.keys()


def shown(*results: Row, left_out: tuple[str, ...] = ()) -> str:
    """What a terminal of 140 columns would show."""
    screen = io.StringIO()
    show(Console(file=screen, width=140), result(*results, left_out=left_out))
    return screen.getvalue()


def test_the_table_names_missed_bars_and_ends_in_a_verdict() -> None:
    """A reader finds each figure with its bar, and in one line what is missed."""
    good, bad = row(MEMORY, [8.2], [59_000]), row(RATE, [900], [100])
    text = shown(good, bad, row(PLAIN, [1], [2]))
    assert "cores 2" in text
    assert "59,000" in text
    assert ">= 12x" in text
    assert text.rstrip().endswith(
        "1 of 2 bars hold; missed: calls, 64 in flight, against raw actor"
    )
    assert verdict([good]) == "1 of 1 bars hold"


def test_details_are_for_the_json_alone() -> None:
    """A table that fits a screen; its verdict counts them all the same."""
    detail = Comparison("p99", "calls", "p99, 64 in flight", "ms", "raw", is_detail=True)
    text = shown(row(MEMORY, [8.2], [59_000]), row(detail, [1], [2]), left_out=("no [b]Erlang",))
    assert "p99, 64 in flight" not in text
    assert "left out: no [b]Erlang" in text
    assert asdict(row(detail, [1], [2]))["is_detail"]
