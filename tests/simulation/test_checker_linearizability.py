"""The checker against the definition, against hand-made histories, and against its own limits."""

from collections.abc import Hashable
from pathlib import Path
from random import Random
from typing import Any

import pytest

from jido_state.checking import UNKNOWN, Outcome, Register, Verdict, check_linearizable
from jido_state.simulation import History, Operation
from tests.simulation.histories import (
    is_linearizable_by_force,
    random_history,
    spoil,
)

FOLDER = Path(__file__).parent
BAD = sorted((FOLDER / "bad_histories").glob("*.jsonl"))
GOOD = sorted((FOLDER / "good_histories").glob("*.jsonl"))


def read(path: Path) -> History:
    return History.from_lines(path.read_text().splitlines())


def drawn(seed: int) -> list[Operation]:
    """A small history; every other one is spoilt."""
    random = Random(seed)
    history = random_history(
        random,
        clients=random.choice((2, 3, 4)),
        operations=random.randrange(2, 9),
        unknown=random.choice((0.0, 0.2, 0.4)),
    )
    return spoil(random, history) if seed % 2 else history


def by_force(history: History) -> bool:
    return all(is_linearizable_by_force(ones) for ones in history.by_key().values())


def check_witness(verdict: Verdict) -> None:
    """The witness cannot be linearized, but can when its last return has not come yet."""
    assert verdict.outcome is Outcome.ILLEGAL
    assert verdict.states
    assert not is_linearizable_by_force(verdict.witness)
    end_ns = verdict.witness[-1].return_ns
    assert end_ns is not None
    before = [
        one._replace(ret=None, return_ns=None)
        if one.return_ns is not None and one.return_ns >= end_ns
        else one
        for one in verdict.witness
    ]
    assert is_linearizable_by_force(before)


def test_random_histories_get_the_verdict_of_the_definition() -> None:
    """Of 1,000 drawn histories, good and bad, none is judged otherwise than by all orders."""
    bad = 0
    for seed in range(1000):
        history = drawn(seed)
        expected = is_linearizable_by_force(history)
        verdict = check_linearizable(history)
        assert verdict.is_linearizable is expected, seed
        assert expected or seed % 2, f"seed {seed}: the generator of good histories made a bad one"
        if not expected:
            bad += 1
            check_witness(verdict)
    assert 150 < bad < 500


class Remembering(Register):
    """A register of which the checker does not know that it forgets."""

    @property
    def forgets(self) -> bool:
        return False


def test_a_model_that_forgets_gets_the_same_verdicts() -> None:
    """The short cut for registers changes no verdict."""
    for seed in range(1, 600, 2):
        history = drawn(seed)
        fast, slow = check_linearizable(history), check_linearizable(history, Remembering())
        assert fast.outcome is slow.outcome, seed


class Appends:
    """A list that grows without an answer: what a write found is not gone."""

    initial: Hashable = ()
    forgets = False

    def step(self, state: Any, op: str, arg: Any, ret: Any) -> tuple[bool, Hashable]:
        if op == "append":
            return ret in ("ok", UNKNOWN), (*state, arg)
        return ret is UNKNOWN or tuple(ret) == state, state


def test_a_model_that_does_not_forget_is_checked_in_full() -> None:
    """An unknown append that comes before one that fits without it is found."""
    base = [
        Operation(0, "k", "append", 1, None, 0, None),
        Operation(1, "k", "append", 2, "ok", 1, 2),
    ]
    late = Operation(1, "k", "read", None, [1, 2], 3, 4)
    assert check_linearizable([*base, late], Appends()).is_linearizable
    wrong = late._replace(ret=[2, 1, 1])
    assert check_linearizable([*base, wrong], Appends()).outcome is Outcome.ILLEGAL


def test_there_are_fifty_bad_histories() -> None:
    """Each begins with its reason, in one line."""
    assert len(BAD) >= 50
    assert len(GOOD) >= 10
    for path in BAD + GOOD:
        assert path.read_text().startswith("# ")


@pytest.mark.parametrize("path", BAD, ids=lambda path: path.stem)
def test_a_bad_history_is_found_bad(path: Path) -> None:
    """It is refused, also by force; the witness is bad, and good up to the return before."""
    history = read(path)
    assert not by_force(history)
    check_witness(check_linearizable(history))


@pytest.mark.parametrize("path", GOOD, ids=lambda path: path.stem)
def test_a_tricky_good_history_is_found_good(path: Path) -> None:
    """What looks wrong and is not passes, also by force."""
    history = read(path)
    assert by_force(history)
    assert check_linearizable(history).outcome is Outcome.LINEARIZABLE


def test_a_witness_ends_where_the_history_goes_wrong() -> None:
    """A long good history with one stale read: the witness ends with that read, and says why."""
    good = random_history(Random(7), clients=4, operations=100, values=1000, ops=("spawn", "write"))
    end = max(one.return_ns or 0 for one in good)
    before = [
        Operation(0, "k", "write", "new", "ok", end + 1, end + 2),
        Operation(1, "k", "read", None, "new", end + 3, end + 4),
    ]
    wrong = Operation(2, "k", "read", None, "old", end + 5, end + 6)
    after = Operation(3, "k", "read", None, "new", end + 7, end + 8)
    verdict = check_linearizable([*good, *before, wrong, after])
    assert verdict.outcome is Outcome.ILLEGAL
    assert verdict.key == "k"
    assert verdict.witness[-1] == wrong
    assert after not in verdict.witness
    assert verdict.states == ("new",)
    text = str(verdict)
    assert "73 operations before" in text
    assert "client 2: read() -> 'old'" in text
    assert text.endswith("before it the state could be 'new'")


def test_a_bad_key_is_named_among_good_ones() -> None:
    """One check per key; the others neither help nor hide."""
    good = [
        one for key in "abd" for one in random_history(Random(1), clients=2, operations=9, key=key)
    ]
    bad = [Operation(0, "c", "read", None, 5, 0, 1)]
    verdict = check_linearizable(good + bad)
    assert verdict.key == "c"
    assert verdict.witness == tuple(bad)
    assert str(check_linearizable(good)) == "linearizable"


def test_a_check_that_takes_too_long_is_undecided() -> None:
    """The limit is named, and is neither a pass nor a proof."""
    history = random_history(Random(3), clients=5, operations=50, values=1000)
    verdict = check_linearizable(history, max_steps=20)
    assert verdict.outcome is Outcome.UNDECIDED
    assert not verdict.is_linearizable
    assert verdict.key == "k"
    assert "undecided" in str(verdict)


def test_histories_as_the_simulator_makes_them_are_quick() -> None:
    """300 calls of five clients, one in ten of unknown outcome, take a few thousand steps."""
    steps = []
    for seed in range(10):
        history = random_history(Random(seed), clients=5, operations=300, unknown=0.1, values=1000)
        verdict = check_linearizable(history)
        assert verdict.is_linearizable
        steps.append(verdict.steps)
    assert sorted(steps)[5] < 10_000


def test_many_alike_of_unknown_outcome_are_quick() -> None:
    """Forty unknown additions of one are one kind of operation, not 2**40 choices."""
    unknown = [Operation(n, "k", "add", 1, None, 2, None) for n in range(40)]
    spawn = Operation(0, "k", "spawn", 0, "ok", 0, 1)
    some = Operation(0, "k", "read", None, 23, 3, 4)
    more = some._replace(ret=41)
    assert check_linearizable([spawn, *unknown, some]).steps < 2_000
    assert check_linearizable([spawn, *unknown, more]).outcome is Outcome.ILLEGAL


def test_an_operation_the_model_does_not_know_is_refused() -> None:
    """It is an error of the test, not of the history."""
    with pytest.raises(ValueError, match="'increment' is none of"):
        check_linearizable([Operation(0, "k", "increment", 1, 1, 0, 1)])


def test_an_addition_to_text_has_no_right_answer() -> None:
    """Whatever it claims to have answered is refused; unknown, it changes nothing."""
    spawn = Operation(0, "k", "spawn", "x", "ok", 0, 1)
    added = Operation(0, "k", "add", 1, "x1", 2, 3)
    assert check_linearizable([spawn, added]).outcome is Outcome.ILLEGAL
    unknown = added._replace(ret=None, return_ns=None)
    still = Operation(0, "k", "read", None, "x", 4, 5)
    assert check_linearizable([spawn, unknown, still]).is_linearizable


def test_values_are_compared_as_json_does() -> None:
    """Lists and objects are equal by content; true is not one."""
    value = {"b": [1, {"c": None}], "a": True}
    spawn = Operation(0, "k", "spawn", value, "ok", 0, 1)
    same = Operation(0, "k", "read", None, {"a": True, "b": [1, {"c": None}]}, 2, 3)
    assert check_linearizable([spawn, same]).is_linearizable
    other = same._replace(ret={"a": 1, "b": [1, {"c": None}]})
    assert not check_linearizable([spawn, other]).is_linearizable
