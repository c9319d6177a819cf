"""The checkers of sessions, of convergence, and of what was acknowledged."""

import pytest

from jido_state.checking import (
    Sight,
    check_converged,
    check_counter,
    check_elements,
    check_sessions,
)
from jido_state.simulation import Operation


def sights(text: str) -> list[Sight]:
    """Answers as text: session, key, op, version, dots; `a x read 2 +p +q`."""
    found = []
    for line in text.split(","):
        session, key, op, version, *dots = line.split()
        found.append(Sight(session, key, op, (int(version),), frozenset(dots)))
    return found


@pytest.mark.parametrize(
    ("answers", "guarantee"),
    [
        ("a x write 2, a x read 1", "read your writes"),
        ("a x write 2, a x write 3, a x read 2", "read your writes"),
        ("a x read 2, a x read 1", "monotonic reads"),
        ("a x read 1, a x read 3, a x read 2", "monotonic reads"),
        ("a x write 2, a x write 1", "monotonic writes"),
        ("a x write 2, a x write 2", "monotonic writes"),
        ("a x read 2, a x write 1", "writes follow reads"),
        ("a x read 2, a x write 2", "writes follow reads"),
        ("a x write 2 +p, a x read 3", "read your writes"),
        ("a x write 2 +p, a x read 2 +q", "read your writes"),
        ("a x read 2 +p, a x read 2", "monotonic reads"),
        ("a x write 2 +p, a x write 2 +q", "monotonic writes"),
        ("a x read 2 +p +q, a x write 2 +q", "writes follow reads"),
        ("a x read 2 +p, a x read 1 +p +q", "monotonic reads"),
    ],
)
def test_each_guarantee_is_missed(answers: str, guarantee: str) -> None:
    """The violation names the guarantee, and both answers."""
    given = sights(answers)
    violations = check_sessions(given)
    assert [one.guarantee for one in violations] == [guarantee]
    assert violations[0].later == given[-1]
    text = str(violations[0])
    assert text.startswith(f"{guarantee}: session 'a', key 'x': {given[-1].op} at (")
    assert ("with ['" in text) == any(one.dots for one in (violations[0].earlier, given[-1]))


@pytest.mark.parametrize(
    "answers",
    [
        "a x write 2, a x read 2, a x read 3, a x write 4, a x read 4",
        "a x write 2, b x read 1",  # another session
        "a x write 2, a y read 1",  # another agent
        "a x read 1, a x read 1",
        "a x write 1 +p, a x write 1 +p +q, a x read 1 +p +q +r",
        "a x write 1 +p, a x read 2 +p",  # merged into the register
    ],
)
def test_answers_that_build_on_each_other_pass(answers: str) -> None:
    """Each session and each agent by itself."""
    assert check_sessions(sights(answers)) == []


def test_one_answer_can_break_several_guarantees() -> None:
    """Each is named once, and what an answer covers is not forgotten with it."""
    answers = "a x write 5, a x read 6, a x read 7, a x read 1"
    found = [one.guarantee for one in check_sessions(sights(answers))]
    assert found == ["read your writes", "monotonic reads"]
    later = [one.guarantee for one in check_sessions(sights(answers + ", a x write 6"))]
    assert later[2:] == ["writes follow reads"]


def test_an_answer_must_read_or_write() -> None:
    """Anything else is an error of the test."""
    with pytest.raises(ValueError, match="op='cas' must be"):
        check_sessions([Sight("a", "x", "cas", (1,))])


# Convergence


def test_replicas_that_are_equal_have_converged() -> None:
    """In any order of keys; no replica at all is fine, too."""
    assert check_converged({0: {"a": 1, "b": 2}, 1: {"b": 2, "a": 1}}) == []
    assert check_converged({}) == []


def test_replicas_that_differ_are_named() -> None:
    """By key, with who holds what; a missing key is a difference, not a value."""
    replicas = {0: {"a": 1, "b": 2}, 1: {"a": 1, "b": 3}, 2: {"a": 1, "b": 2}, 3: {"a": 1}}
    assert check_converged(replicas) == ["key 'b' differs: 2 at [0, 2]; 3 at [1]; nothing at [3]"]
    assert len(check_converged({0: {"a": "nothing"}, 1: {}})) == 1


def add(arg: object, call: int = 0, end: int | None = 1, op: str = "add") -> Operation:
    return Operation(0, "k", op, arg, None, call, end)


def test_a_counter_holds_what_was_acknowledged() -> None:
    """All of it once, and any part of what is unknown."""
    operations = [add(1), add(2), add(10, end=None), add(20, end=None), add(9, op="read")]
    for final in (3, 13, 23, 33):
        assert check_counter(final, operations) == []
    for final in (2, 4, 12, 43):
        assert check_counter(final, operations)
    assert check_counter(103, operations, initial=100) == []
    (problem,) = check_counter(5, operations)
    assert problem == "counter is 5: the 2 acknowledged additions allow 3, 13, 23, 33"


def remove(arg: object, call: int = 0, end: int | None = 1) -> Operation:
    return add(arg, call, end, "remove")


@pytest.mark.parametrize(
    ("final", "operations", "problem"),
    [
        ([], [add("x")], "element 'x' is lost"),
        (["x"], [], "element 'x' is there, and was never added"),
        (["x"], [add("x", 0, 1), remove("x", 2, 3)], "element 'x' is back"),
        ([], [add("x", 0, 1), remove("x", 2, 3), add("x", 4, 5)], "element 'x' is lost"),
        (["x"], [add("x", 0, 1), remove("x", 2, 3), remove("x", 2, None)], "element 'x' is back"),
    ],
)
def test_elements_that_are_lost_or_back_are_found(
    final: list[str], operations: list[Operation], problem: str
) -> None:
    """Where the order leaves no doubt."""
    (found,) = check_elements(final, operations)
    assert found.startswith(problem)


@pytest.mark.parametrize(
    "operations",
    [
        [add("x", 0, 9), remove("x", 5, 12)],  # concurrent
        [add("x", 0, 1), remove("x", 2, None)],  # removed, or not yet
        [add("x", 0, 1), remove("x", 1, 2)],  # touching
        [add("x", 0, None)],
        [add("x", 0, None), remove("x", 5, 6)],  # the addition may come late
    ],
)
def test_where_the_order_leaves_doubt_either_is_right(operations: list[Operation]) -> None:
    """There or not there."""
    assert check_elements([], operations) == []
    assert check_elements(["x"], operations) == []


def test_the_order_may_be_what_each_had_seen() -> None:
    """A removal on the other side of a split, that had not seen the addition, loses to it."""
    operations = [add(["x"], 0, 1), remove(["x"], 2, 3)]
    assert check_elements([["x"]], operations)
    assert check_elements([["x"]], operations, precedes=lambda one, other: False) == []
