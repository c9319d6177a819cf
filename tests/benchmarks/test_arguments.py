"""The benchmarks' command line."""

import subprocess
import sys

import pytest

from benchmarks.__main__ import CASES, parse


@pytest.mark.parametrize("case", CASES)
def test_a_case_alone_is_enough(case: str) -> None:
    """By default a case runs five full rounds and prints a table."""
    options = parse([case])
    assert (options.case, options.rounds, options.quick, options.json) == (case, 5, False, False)


def test_quick_takes_fewer_rounds_unless_told() -> None:
    """--rounds wins over what --quick would choose."""
    assert parse(["calls", "--quick"]).rounds == 3
    assert parse(["calls", "--quick", "--rounds", "9"]).rounds == 9
    assert parse(["spawn", "--json"]).json


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["nothing"], "invalid choice: 'nothing'"),
        ([], "the following arguments are required: case"),
        (["calls", "--rounds", "0"], "0 rounds measure nothing"),
        (["calls", "--rounds", "many"], "invalid"),
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
