"""Histories: grown call by call, written as JSON lines, read back, refused when malformed."""

import json
from random import Random

import pytest

from jido_state.simulation import History, Operation
from tests.simulation.histories import random_history


def test_a_history_grows_call_by_call() -> None:
    """Calls are unknown until answered; what surely did not run is not in it."""
    history = History()
    first = history.call(1, "a", "write", 5, 10)
    second = history.call(2, "b", "read", None, 11)
    third = history.call(1, "a", "read", None, 12)
    history.drop(second)
    history.answer(third, 5, 20)
    history.call(2, "b", "read", None, 21)
    assert list(history) == [
        Operation(1, "a", "write", 5, None, 10_000, None),
        Operation(1, "a", "read", None, 5, 12_000, 20_000),
        Operation(2, "b", "read", None, None, 21_000, None),
    ]
    assert first == 0
    assert len(history) == 3
    assert list(history.by_key()) == ["a", "b"]
    assert len(history.by_key()["a"]) == 2


def test_json_lines_read_back_equal() -> None:
    """Any history survives its own format, which has exactly the seven agreed fields."""
    for seed in range(50):
        operations = random_history(Random(seed), clients=3, operations=20, unknown=0.2)
        lines = list(History(operations).to_lines())
        assert list(History.from_lines(lines)) == operations
        fields = {"client", "key", "op", "arg", "ret", "call_ns", "return_ns"}
        assert all(json.loads(line).keys() == fields for line in lines)


def test_lines_that_say_nothing_are_skipped() -> None:
    """Blank lines and remarks are no operations; the order is that of the calls."""
    lines = list(
        History(
            [Operation(0, "k", "read", None, 1, 5, 6), Operation(0, "k", "read", None, 1, 2, 3)]
        ).to_lines()
    )
    history = History.from_lines(["# a reason", "", *lines, "  "])
    assert [one.call_ns for one in history] == [2, 5]


GOOD = {
    "client": 1, "key": "k", "op": "read", "arg": None, "ret": 1, "call_ns": 5, "return_ns": 6,
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"client": "1"}, "client='1' must be of type int"),
        ({"client": True}, "client=True must be of type int"),
        ({"key": 1}, "key=1 must be of type str"),
        ({"op": None}, "op=None must be of type str"),
        ({"call_ns": 1.5}, "call_ns=1.5 must be of type int"),
        ({"return_ns": 4}, "return_ns=4 must be null or an integer >= call_ns"),
        ({"return_ns": "6"}, "return_ns='6' must be null or an integer >= call_ns"),
        ({"extra": 1}, "exactly the fields client, key, op, arg, ret, call_ns, return_ns"),
    ],
)
def test_a_malformed_line_is_refused(change: dict[str, object], reason: str) -> None:
    """The error names the line, the value and the rule."""
    lines = [json.dumps(GOOD), json.dumps(GOOD | change)]
    with pytest.raises(ValueError, match="line 2: ") as caught:
        History.from_lines(lines)
    assert reason in str(caught.value)


@pytest.mark.parametrize("line", ["{", "[]", "7", '"x"', "{}"])
def test_a_line_that_is_no_object_is_refused(line: str) -> None:
    """Nothing is guessed."""
    with pytest.raises(ValueError, match="line 1: "):
        History.from_lines([line])
