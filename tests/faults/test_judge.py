"""The judge believes a good history and sees through a bad one."""

import json
from pathlib import Path
from typing import Any

import pytest

from jido_state.simulation.history import History
from tests.faults.judge import Record
from tests.faults.load import SESSIONS
from tests.faults.stage import percentiles


def call(key: str, op: str, arg: Any, at: int, **end: Any) -> dict[str, Any]:
    """An operation that was called at this second, and returned one later if it has an answer."""
    if "ret" in end:
        end["return_ns"] = (at + 1) * 10**9
    return {"client": 1, "key": key, "op": op, "arg": arg, "call_ns": at * 10**9, **end}


def good() -> list[dict[str, Any]]:
    return [
        call("a", "spawn", 0, 1, ret="ok"),
        call("a", "write", 5, 3, ret="ok", version=[1, 1]),
        call("a", "cas", [4, 6], 5, ret=False, version=[1, 0]),
        call("a", "cas", [5, 6], 7, unknown="outcome_unknown"),
        call("a", "write", 9, 9, refused="no_quorum"),
        call("a", "read", None, 11, ret=6, version=[1, 2]),
    ]


def counter(*rest: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        call("count-1", "spawn", 0, 1, ret="ok"),
        call("count-1", "add", 2, 3, ret=2),
        call("count-1", "add", 3, 5, unknown="outcome_unknown"),
        *rest,
    ]


def test_a_good_record_has_no_problems() -> None:
    """What was refused is in no history, and what is unknown may have run."""
    findings = Record(good()).judge()
    assert findings.problems == ()
    assert findings.operations == 4
    assert findings.unknown == {"outcome_unknown": 1}
    assert findings.refused == {"no_quorum": 1}
    assert json.loads(findings.to_json())["longest_wait"] == findings.longest_wait == 5.0


def test_a_read_of_what_was_overwritten_is_a_problem() -> None:
    """The answer of the last read is older than an acknowledged write."""
    bad = good()
    bad[-1]["ret"] = 0
    (problem,) = Record(bad).judge().problems
    assert "'a' is not linearizable" in problem
    assert "read() -> 0" in problem


def test_a_lost_state_is_a_problem() -> None:
    """An agent that nobody deleted says that it is absent."""
    bad = [*good(), call("a", "read", None, 13, ret=None)]
    (problem,) = Record(bad).judge().problems
    assert "not linearizable" in problem


def test_a_session_that_goes_back_is_a_problem() -> None:
    """The second read rests on an older state than the first; as a register it would pass."""
    reads = [call("a", "read", None, at, ret=6, version=[1, 4 - at // 10]) for at in (11, 21)]
    (problem,) = Record([*good()[:-1], *reads]).judge().problems
    assert problem.startswith("monotonic reads")


@pytest.mark.parametrize(("kind", "level"), [("session", "session"), ("eventual", "eventual")])
def test_a_weaker_read_may_be_old_and_a_lost_write_is_seen(kind: str, level: str) -> None:
    """The last change to an agent tells what is there."""
    key = f"{kind}-1"
    fair = [
        call(key, "spawn", 0, 1, ret="ok"),
        call(key, "write", 5, 3, ret="ok", version=[1, 1]),
        call(key, "read", None, 5, ret=0),
        call(key, "add", 0, 7, ret=5, version=[1, 2]),
    ]
    assert Record(fair).judge().problems == ()
    findings = Record([*fair[:-1], call(key, "add", 0, 7, ret=0, version=[1, 2])]).judge()
    assert findings.illegal == {"strong": 0, "session": 0, "eventual": 0} | {level: 1}
    (problem,) = findings.problems
    assert "not linearizable" in problem


def test_only_an_eventual_agent_may_go_back_for_a_session() -> None:
    """Of what its reads rest on."""
    for kind, broken in (("session", 1), ("eventual", 0), ("register", 1)):
        reads = [
            call(f"{kind}-1", "read", None, at, ret=0, version=[1, 4 - at // 10]) for at in (11, 21)
        ]
        spawn = call(f"{kind}-1", "spawn", 0, 1, ret="ok")
        assert Record([spawn, *reads]).judge().broken_sessions == broken


def test_a_failover_is_the_first_answer_under_another_ballot() -> None:
    """What the leader before had still answered does not count, nor do others' answers."""
    client = 2 * SESSIONS
    calls = [
        call("a", "add", 1, 1, ret=1, version=[1, 1, 0, 1]),
        call("a", "add", 1, 3, ret=2, version=[1, 1, 0, 2]),
        call("a", "add", 1, 5, ret=3, version=[1, 2, 1, 1]) | {"client": client},
        call("a", "add", 1, 8, ret=4, version=[1, 2, 1, 2]),
    ]
    second = 10**9
    assert Record(calls).failovers(3 * second, ["a", "b"]) == {"a": 3.0, "b": None}
    assert Record(calls).failovers(3 * second, ["a"], by=[0]) == {"a": 6.0}


def test_gaps_and_ends_are_those_of_one_client_between_two_moments() -> None:
    """A moment without an answer before and after counts, too."""
    calls = [
        call("a", "add", 1, 1, ret=1),
        call("a", "add", 1, 4, ret=2),
        call("a", "add", 1, 5, ret=2) | {"client": SESSIONS},
        call("a", "add", 1, 7, unknown="outcome_unknown", end_ns=8 * 10**9),
    ]
    second = 10**9
    record = Record(calls)
    assert record.gaps(1 * second, 9 * second, ["a", "b"], by=0) == {"a": 4.0, "b": 8.0}
    assert record.ends(3 * second, 9 * second, ["a"], by=0) == {
        "answered": 1,
        "outcome_unknown": 1,
    }


def test_a_counter_holds_what_was_acknowledged() -> None:
    """The unknown addition may be in the sum; the acknowledged one must, and nothing else."""
    for total in (2, 5):
        assert Record(counter(call("count-1", "read", None, 9, ret=total))).judge().problems == ()
    for total in (0, 3, 7):
        problems = Record(counter(call("count-1", "read", None, 9, ret=total))).judge().problems
        assert any("acknowledged additions allow" in problem for problem in problems)


@pytest.mark.parametrize(
    "rest",
    [
        (),
        (call("count-1", "read", None, 9, unknown="outcome_unknown"),),
        (call("count-1", "read", None, 9, ret=2), call("count-1", "add", 1, 11, ret=3)),
    ],
)
def test_a_counter_that_was_not_read_last_is_a_problem(rest: tuple[dict[str, Any], ...]) -> None:
    """Without a read after everything else nothing is known of what was lost."""
    problems = Record(counter(*rest)).judge().problems
    assert any("counter" in problem for problem in problems)


def test_a_record_is_read_from_the_logs_of_dead_clients(tmp_path: Path) -> None:
    """A call without an end is unknown, and numbers of two logs do not meet."""
    logs = [tmp_path / "1", tmp_path / "2"]
    for log, op in zip(logs, ("spawn", "read"), strict=True):
        begin = {"n": 1, "client": 1, "key": "a", "op": op, "arg": None, "call_ns": 1}
        log.write_text(json.dumps(begin) + "\n")
    with logs[0].open("a") as log_file:
        log_file.write(json.dumps({"n": 1, "ret": "ok", "return_ns": 2}) + "\n")
    record = Record.read(logs)
    assert record.judge().unknown == {"died": 1}
    assert record.judge().operations == 1
    record.write(tmp_path / "history")
    lines = (tmp_path / "history").read_text().splitlines()
    assert list(History.from_lines(lines)) == list(record.history())


def test_percentiles_are_times_that_occurred() -> None:
    """And what never ended is the worst of them."""
    assert percentiles([0.3, 0.1, 0.2]) == {"count": 3, "p50": 0.2, "p99": 0.3, "max": 0.3}
    assert percentiles([1.0, None])["max"] == float("inf")
    assert percentiles([]) == {"count": 0}
