"""The benchmarks' command line."""

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.__main__ import parse, rounds_of
from benchmarks.questions import ABOUT


@pytest.mark.parametrize("case", [*ABOUT, "all", "check"])
def test_a_case_alone_is_enough(case: str) -> None:
    """By default a case runs full rounds and prints a table."""
    options = parse([case])
    assert (options.case, options.rounds, options.quick, options.json) == (case, None, False, None)


@pytest.mark.parametrize("case", ABOUT)
def test_a_record_takes_five_rounds_unless_told(case: str) -> None:
    """--rounds wins over what --quick would choose, which is less."""
    assert rounds_of(case, None, is_quick=False) == 5
    assert rounds_of(case, None, is_quick=True) < 5
    assert rounds_of(case, 9, is_quick=True) == 9


def test_json_goes_to_a_file_or_to_standard_output() -> None:
    """Without a file it is all that is printed."""
    assert parse(["calls", "--json"]).json == "-"
    assert parse(["calls", "--json", "found.json"]).json == "found.json"


def test_a_report_is_made_of_a_file() -> None:
    """It measures nothing."""
    assert parse(["report", "one.json", "two.json"]).files == [Path("one.json"), Path("two.json")]


@pytest.mark.parametrize("case", ABOUT)
def test_every_case_says_what_it_measures(case: str) -> None:
    """The page is made of these sentences."""
    about = ABOUT[case]
    assert about.question.endswith("?")
    assert min(map(len, (about.work, about.warm_up, about.order))) > 5


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["nothing"], "invalid choice: 'nothing'"),
        ([], "the following arguments are required: CASE"),
        (["calls", "--rounds", "0"], "0 rounds measure nothing"),
        (["calls", "--rounds", "many"], "invalid"),
        (["calls", "found.json"], "a FILE is given with `report`, and only there"),
        (["report"], "a FILE is given with `report`, and only there"),
    ],
)
def test_wrong_arguments_are_named(
    arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A wrong argument ends the program with exit code 2 before anything starts."""
    with pytest.raises(SystemExit) as ended:
        parse(arguments)
    assert ended.value.code == 2
    assert complaint in capsys.readouterr().err


def test_reading_arguments_starts_no_ray() -> None:
    """Ray is imported only to measure, after the environment is set that it reads at import."""
    code = (
        "import sys, benchmarks.__main__ as main; main.parse(['calls']); "
        "sys.exit('ray' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
