"""The judge of splits finds each thing that must not be."""

from dataclasses import replace
from typing import Any

import ormsgpack
import pytest

from jido_state.divergence import Entry, Siblings
from jido_state.dots import NOTHING_SEEN, Dot
from jido_state.merge import Conflict, Reason
from jido_state.outbox import NO_SIGNALS, Outbox
from jido_state.record import Record
from jido_state.requests import Answer, Request, Status
from jido_state.simulation.acting_agents import BAG, LINE, Bag, Ledger, Work
from jido_state.simulation.acting_clients import Call
from jido_state.simulation.acting_judge import forgive, judge, judge_answer, restless_record
from jido_state.timers import Timer, Timers
from jido_state.versions import NO_BALLOT, NO_VERSION

AGENTS = (("bag", BAG, "eventual"), ("line", LINE, "eventual"))
ONE: Dot = (0, 1, 1, 0, 1)
TWO: Dot = (0, 1, 1, 0, 2)


def mark(name: str, dot: Dot = ONE) -> str:
    return f"{name}@{'.'.join(map(str, dot))}"


def bag(*marks: str, items: tuple[str, ...] = ()) -> Record:
    state = Bag()
    for each in marks:
        state = state.marked(ONE[:-1], each)
    for item in items:
        state = state._replace(items=state.items.add(ONE[:-1], item))
    return Record(type=BAG, state=state.to_bytes())


def line(*marks: str) -> Record:
    return Record(type=LINE, state=ormsgpack.packb(list(marks)))


def call(key: str, what: str, name: str, arg: Any = None, *, value: Any = True) -> Call:
    request = Request(1, "call", key, None, "eventual", due_ms=0)
    made = Call(1, request, Work(what, name, arg), 0)
    made.answer = Answer(1, Status.OK, (value, ONE))
    return made


def found(records: dict[str, Record], *calls: Call, ledger: Ledger | None = None) -> str:
    return "; ".join(judge(AGENTS, ledger or Ledger(), records, calls))


def test_what_is_as_it_should_be_is_no_problem() -> None:
    """A turn in the state, and one that only the conflict log has."""
    ledger = Ledger()
    ledger.conflicts["line"] = [Conflict(Reason.VALUE, TWO, line(mark("b", TWO)))]
    calls = [call("line", "mark", "a"), call("line", "mark", "b"), call("bag", "put", "c", "i")]
    records = {"line": line(mark("a")), "bag": bag(mark("c"), items=("i",))}
    assert found(records, *calls, ledger=ledger) == ""


@pytest.mark.parametrize(
    ("records", "made", "problem"),
    [
        ({}, call("bag", "mark", "a"), "bag is gone"),
        ({"bag": Record(tomb=NO_BALLOT)}, call("bag", "mark", "a"), "bag is gone"),
        ({"line": line()}, call("line", "mark", "a"), "a is lost"),
        ({"bag": bag()}, call("bag", "mark", "a"), "a is lost"),
        ({"bag": bag(mark("a"))}, call("bag", "put", "a", "i"), "i is lost"),
        (
            {"line": line(mark("a"), mark("a", TWO))},
            call("line", "mark", "a"),
            "a took effect in",
        ),
        (
            {"bag": bag(mark("a"), mark("a", TWO))},
            call("bag", "mark", "a"),
            "a took effect in",
        ),
        ({"bag": bag(mark("a"))}, call("bag", "emit", "a", "bag"), "never arrived"),
    ],
)
def test_a_state_that_must_not_be_is_found(
    records: dict[str, Record], made: Call, problem: str
) -> None:
    """Lost, there too often, or never arrived."""
    assert problem in found(records, made)


def test_a_count_that_is_no_sum_of_turns_is_found() -> None:
    """The counter counts every turn once."""
    state = Bag.of(bag(mark("a")))
    state = state._replace(counter=state.counter.increment(TWO[:-1]))
    record = Record(type=BAG, state=state.to_bytes())
    assert "counted 2 turns of 1" in found({"bag": record}, call("bag", "mark", "a"))


def test_an_item_that_was_taken_does_not_come_back() -> None:
    """It was there when it was taken; if it was not, its addition may be concurrent."""
    record = bag(mark("a"), mark("b", TWO), items=("i",))
    put = call("bag", "put", "a", "i")
    assert "i is back" in found({"bag": record}, put, call("bag", "take", "b", "i"))
    assert found({"bag": record}, put, call("bag", "take", "b", "i", value=False)) == ""


def test_a_timer_that_did_not_fire_or_fired_twice_is_found() -> None:
    """Twice with a quorum, that is: what no quorum had is done again by the next leader."""
    ledger = Ledger()
    ledger.timers["a"] = [Timer("t", ONE, 0, 1, b"", b"")]
    made = call("bag", "timer", "a", 5)
    assert "fire:t:1 is missing" in found({"bag": bag(mark("a"))}, made, ledger=ledger)
    twice = bag(mark("a"), mark("fire:t:1"), mark("fire:t:1", TWO))
    ledger.committed.add(("bag", ONE))
    assert found({"bag": twice}, made, ledger=ledger) == ""
    ledger.committed.add(("bag", TWO))
    assert "fire:t:1 took effect in" in found({"bag": twice}, made, ledger=ledger)


def test_calls_of_unknown_outcome_may_or_may_not_have_taken_effect() -> None:
    """Once for each attempt that was not answered."""
    doubtful = call("bag", "put", "a", "i")
    doubtful.answer, doubtful.doubtful = None, 1
    made = call("bag", "mark", "b")
    assert found({"bag": bag(mark("b"))}, doubtful, made) == ""
    assert found({"bag": bag(mark("b"), mark("a"))}, doubtful, made) == ""
    assert "a took effect" in found(
        {"bag": bag(mark("b"), mark("a"), mark("a", TWO))}, doubtful, made
    )


APART: Dot = (1, 1, 1, 1)


def left() -> Siblings:
    record = replace(bag(mark("a", APART)), merged=NOTHING_SEEN.add(APART))
    added = Siblings().add(Entry(APART, NO_VERSION, record))
    assert isinstance(added, Siblings)
    return added


def test_what_only_a_removed_member_holds_may_be_missing() -> None:
    """Its calls are as those that were never answered; others are not forgiven."""
    mine, other, read = (call("bag", "mark", name) for name in ("a", "b", "c"))
    mine.answer = Answer(1, Status.OK, (True, APART))
    read.work = None
    forgive([mine, other, read], "line", left())
    assert mine.is_ok
    forgive([mine, other, read], "bag", left())
    assert (mine.is_ok, mine.at_most) == (False, 1)
    assert other.is_ok
    assert found({"bag": bag(mark("b"))}, mine, other) == ""
    assert "b is lost" in found({"bag": bag()}, mine, other)


def test_an_answer_that_claims_too_much_is_found() -> None:
    """More copies than there are, a quorum where there is none, or that nothing is there."""
    ledger = Ledger()
    local = Answer(1, Status.OK, (True, APART), durability="local", is_partitioned=True)
    two = local._replace(durability="two")
    assert judge_answer(ledger, "bag", local) == ["local copies claimed, held by set()"]
    ledger.keep(1, {"bag": left(), "line": None})
    assert judge_answer(ledger, "bag", local) == []
    assert judge_answer(ledger, "bag", two) == ["two copies claimed, held by {1}"]
    ledger.keep(2, {"bag": left()})
    assert judge_answer(ledger, "bag", two) == []
    assert judge_answer(ledger, None, two._replace(value=None)) == []
    (claim,) = judge_answer(ledger, "bag", two._replace(durability="quorum"))
    assert claim.startswith("a quorum is claimed without one")
    gone = Answer(1, Status.NOT_FOUND, is_partitioned=True)
    assert judge_answer(ledger, "bag", gone) == ["who acts says that bag is not there"]
    assert judge_answer(ledger, "bag", gone, may_end=True) == []
    assert judge_answer(ledger, "bag", gone._replace(is_partitioned=False)) == []


def test_what_a_record_has_still_to_do_is_found() -> None:
    """Signals, timers, and actors that could be folded."""
    outbox = NO_SIGNALS.add(ONE, [("line", b"x")], 0)
    timers = Timers().set(Timer("t", ONE, 0, 1, b"", b""))
    assert isinstance(outbox, Outbox)
    assert isinstance(timers, Timers)
    record = Record(outbox=outbox, timers=timers, merged=NOTHING_SEEN.add(APART).add(ONE))
    assert [one.split()[1] for one in restless_record("bag", record)] == ["has", "has", "names"]
    assert restless_record("bag", Record(merged=NOTHING_SEEN.add(ONE))) == []
