"""What clients noted, as a history that the checkers read, and what they say of it.

A log has lines of three kinds, joined by their number `n`: the call (`client, key, op, arg,
call_ns`), the answer (`ret, return_ns`, and `version` of the state where the cluster says it), and
the end without one (`refused` or `unknown` with the kind of the error). An operation that was
refused did not run and is in no history; one that is unknown, or whose client died, may have.

Strong agents are judged by all of their operations. A read of the others may be old, so for them
the changes have to fit together, which their answers tell, and every run ends by a change to each
agent: an acknowledged change that was lost is seen there. What sessions read of agents with
sessions is judged by its versions.
"""

import itertools
import json
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from jido_state.checking import Sight, check_counter, check_linearizable, check_sessions
from jido_state.simulation.history import History, Operation
from tests.faults.load import COUNTER, EVENTUAL, SESSION, SESSIONS

_NS: Final = 1_000_000_000


@dataclass(frozen=True)
class Findings:
    """What the checkers say of one run.

    Attributes:
        operations: How many were answered.
        unknown: How many may have run, by kind of error; "died" with their client.
        refused: How many did not run, by kind of error.
        longest_wait: Seconds; over all operations, the longest time from the call to the next
            answer of that agent to anybody. Where none came any more it counts to the last answer
            of all.
        illegal: Number of agents of each level whose history no single copy explains: it has a
            lost write, one that took effect twice, or, of strong ones, an old read.
        wrong_sums: Number of counters that are not what was added to them.
        broken_sessions: Number of answers that are older than what their session had seen.
        problems: Broken promises, as sentences; none is good.
    """

    operations: int
    unknown: Mapping[str, int]
    refused: Mapping[str, int]
    longest_wait: float
    illegal: Mapping[str, int]
    wrong_sums: int
    broken_sessions: int
    problems: tuple[str, ...]

    def to_json(self) -> str:
        """On one line."""
        return json.dumps(asdict(self))


class Record:
    """The operations of all clients of a run.

    Attributes:
        calls: Each with what is known of its end, in the order of `call_ns`.
    """

    def __init__(self, calls: Iterable[Mapping[str, Any]]) -> None:
        """From joined lines, such as `joined` gives, in any order."""
        self.calls: Final = sorted(calls, key=lambda call: int(call["call_ns"]))

    @classmethod
    def read(cls, logs: Iterable[Path]) -> "Record":
        """From the logs of the clients, living or dead."""
        return cls(call for log in logs for call in _joined(log.read_text()))

    def history(self) -> History:
        """What may have run, in the order of calls."""
        return History(
            Operation(
                call["client"],
                call["key"],
                call["op"],
                call["arg"],
                call.get("ret"),
                call["call_ns"],
                call.get("return_ns"),
            )
            for call in self.calls
            if "refused" not in call
        )

    def write(self, path: Path) -> None:
        """The history as JSON lines, for a file to keep and for checkers elsewhere."""
        path.write_text("".join(f"{line}\n" for line in self.history().to_lines()))

    def sights(self) -> list[Sight]:
        """What each session saw, where that may not be old and the answer says what it rests on."""
        return [
            Sight(
                call["client"],
                call["key"],
                "read" if call["op"] == "read" else "write",
                tuple(call["version"]),
            )
            for call in self.calls
            # A comparison that failed wrote nothing, and is no read of a session either.
            if "version" in call
            and call["ret"] is not False
            and not call["key"].startswith(EVENTUAL)
        ]

    def judge(self) -> Findings:
        """Every promise that agents of each level make."""
        keys = self.history().by_key()
        verdicts = [check_linearizable(_binding(key, ones)) for key, ones in keys.items()]
        bad = [verdict for verdict in verdicts if not verdict.is_linearizable]
        problems = [str(verdict) for verdict in bad[:1]]  # one story is enough to understand
        if bad[1:]:
            others = ", ".join(f"{verdict.key} ({verdict.outcome.value})" for verdict in bad[1:])
            problems.append(f"{len(bad) - 1} more keys: {others}")
        illegal = Counter(_level(verdict.key or "") for verdict in bad)
        sums = [
            f"key {key!r}: {one}"
            for key, operations in keys.items()
            if key.startswith(COUNTER)
            for one in _check_counter(operations)
        ]
        sessions = [str(one) for one in check_sessions(self.sights())]
        problems += sums + sessions
        ends = Counter(_end(call) for call in self.calls)
        return Findings(
            operations=ends.pop(("answered", ""), 0),
            unknown={kind: count for (end, kind), count in ends.items() if end == "unknown"},
            refused={kind: count for (end, kind), count in ends.items() if end == "refused"},
            longest_wait=self._longest_wait() / _NS,
            illegal={level: illegal[level] for level in ("strong", "session", "eventual")},
            wrong_sums=len(sums),
            broken_sessions=len(sessions),
            problems=tuple(problems),
        )

    def failovers(
        self, after_ns: int, keys: Iterable[str], *, by: Iterable[int] = ()
    ) -> dict[str, float | None]:
        """Seconds from this moment to the first answer of another leader, by agent; None for never.

        A change is answered under the ballot of the leader that made it, so that it is told from
        what the one before had still answered.

        Args:
            after_ns: When it was that the leader was lost.
            keys: Agents that it led.
            by: Numbers of the clients that count; none for all.
        """
        wanted, counted = set(keys), set(by)
        before: dict[str, list[int]] = {}
        found: dict[str, float | None] = dict.fromkeys(wanted)
        ends = [call for call in self.calls if "version" in call and call["op"] != "read"]
        for call in sorted(ends, key=lambda call: int(call["return_ns"])):
            key, ballot = call["key"], call["version"][:3]
            if key not in wanted or (counted and client_of(call) not in counted):
                continue
            if call["return_ns"] < after_ns:
                before[key] = max(ballot, before.get(key, []))
            elif found[key] is None and ballot > before.get(key, []):
                found[key] = (call["return_ns"] - after_ns) / _NS
        return found

    def gaps(
        self, after_ns: int, until_ns: int, keys: Iterable[str], *, by: int
    ) -> dict[str, float]:
        """Seconds of the longest time between these moments without an answer, by agent.

        Args:
            after_ns: The first moment.
            until_ns: The last one.
            keys: The agents.
            by: Number of the client that asked.
        """
        answers: dict[str, list[int]] = {key: [] for key in keys}
        for call in self.calls:
            if call["key"] in answers and client_of(call) == by and "return_ns" in call:
                answers[call["key"]].append(call["return_ns"])
        gaps = {}
        for key, times in answers.items():
            moments = [after_ns, *sorted(t for t in times if after_ns < t < until_ns), until_ns]
            gaps[key] = max(b - a for a, b in itertools.pairwise(moments)) / _NS
        return gaps

    def waits(
        self, after_ns: int, until_ns: int, keys: Iterable[str], *, by: int
    ) -> dict[str, float]:
        """Seconds of the longest operation that began between these moments, by agent.

        Args:
            after_ns: The first moment.
            until_ns: The last one.
            keys: The agents.
            by: Number of the client that asked.
        """
        longest = dict.fromkeys(keys, 0)
        for call in self.calls:
            key, began = call["key"], call["call_ns"]
            if key in longest and client_of(call) == by and after_ns <= began < until_ns:
                end = call.get("return_ns", call.get("end_ns", until_ns))
                longest[key] = max(longest[key], end - began)
        return {key: wait / _NS for key, wait in longest.items()}

    def ends(self, after_ns: int, until_ns: int, keys: Iterable[str], *, by: int) -> dict[str, int]:
        """How many operations of a client ended how between these moments, where that was noted."""
        wanted = set(keys)
        found: Counter[str] = Counter()
        for call in self.calls:
            at = call.get("return_ns", call.get("end_ns", 0))
            if call["key"] in wanted and client_of(call) == by and after_ns < at < until_ns:
                end, kind = _end(call)
                found[kind or end] += 1
        return dict(found)

    def _longest_wait(self) -> int:
        answers: dict[str, list[int]] = {}
        for call in self.calls:
            if "return_ns" in call:
                answers.setdefault(call["key"], []).append(call["return_ns"])
        last = max((max(times) for times in answers.values()), default=0)
        longest = 0
        for times in answers.values():
            times.sort()
        for call in self.calls:
            times = answers.get(call["key"], [])
            place = bisect_right(times, call["call_ns"])
            longest = max(longest, (times[place] if times[place:] else last) - call["call_ns"])
        return longest


def client_of(call: Mapping[str, Any]) -> int:
    """The number of the client whose operation it was."""
    return int(call["client"]) // SESSIONS


def _level(key: str) -> str:
    if key.startswith(SESSION):
        return "session"
    return "eventual" if key.startswith(EVENTUAL) else "strong"


def _binding(key: str, operations: Sequence[Operation]) -> list[Operation]:
    """The operations of an agent that have to fit together: all, or its changes."""
    return [one for one in operations if one.op != "read" or _level(key) == "strong"]


def _joined(text: str) -> list[dict[str, Any]]:
    """One mapping for each operation of a log; that of a killed client ends with a whole line."""
    calls: dict[int, dict[str, Any]] = {}
    for line in text.splitlines():
        part = json.loads(line)
        calls.setdefault(part.pop("n"), {}).update(part)
    return list(calls.values())


def _end(call: Mapping[str, Any]) -> tuple[str, str]:
    if "return_ns" in call:
        return "answered", ""
    if "refused" in call:
        return "refused", str(call["refused"])
    return "unknown", str(call.get("unknown", "died"))


def _check_counter(operations: Sequence[Operation]) -> list[str]:
    """Whether the last read, which comes after everything else, has every addition."""
    reads = [one for one in operations if one.op == "read" and one.return_ns is not None]
    if not reads or reads[-1].ret is None:
        return ["nobody could read the counter at the end"]
    last = reads[-1]
    if any(one.op == "add" and (one.return_ns or 0) > last.call_ns for one in operations):
        return ["the last read of the counter does not come after all additions"]
    return check_counter(last.ret, operations)
