"""What the states of the end must hold, given what clients were told: the judge of splits."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from jido_state.divergence import Siblings
from jido_state.dots import LEADERS, Dot, source_of
from jido_state.record import Record
from jido_state.requests import Answer, Status
from jido_state.simulation.acting_agents import LINE, MORTAL, Bag, Ledger, line_of, names_of
from jido_state.simulation.acting_clients import Call

__all__ = ["forgive", "judge", "judge_answer", "restless_record"]

_ACTING_FIELDS: Final = 4  # of the dot of a turn without a quorum


def judge_answer(
    ledger: Ledger, key: str | None, answer: Answer, *, may_end: bool = False
) -> list[str]:
    """What is wrong with an answer that is given just now.

    Args:
        ledger: What happened before it.
        key: The agent that a client asked for; None when it answers a signal.
        answer: What is said.
        may_end: Whether somebody ends the agent.
    """
    if answer.status is Status.NOT_FOUND and answer.is_partitioned and not may_end:
        return [f"who acts says that {key} is not there"]
    if answer.status is not Status.OK or not answer.is_partitioned:
        return []
    if answer.durability == "quorum":
        return [f"a quorum is claimed without one: {answer}"]
    if key is None or not isinstance(answer.value, tuple):
        return []
    dot = tuple(answer.value[1])
    holders = ledger.holders(key, dot)
    wanted = 2 if answer.durability == "two" else 1
    # A turn of a leader that is answered again has its copies in registers as well.
    if len(holders) < wanted and len(dot) == _ACTING_FIELDS:
        return [f"{answer.durability} copies claimed, held by {holders}"]
    return []


def restless_record(key: str, record: Record) -> list[str]:
    """What a record has that is to come to its end."""
    found = []
    if record.outbox.signals:
        found.append(f"{key} has signals {record.outbox.signals[:2]}")
    if record.timers.by_key:
        found.append(f"{key} has timers {sorted(record.timers.by_key)}")
    if any(source_of(actor) != LEADERS for actor in record.merged.numbers):
        found.append(f"{key} names {record.merged}")
    return found


def forgive(calls: Iterable[Call], key: str, left: Siblings) -> None:
    """Nobody is promised what only a member that was removed for being gone still holds."""
    for call in calls:
        answer = call.answer
        if call.work is None or answer is None or not call.is_ok or call.request.key != key:
            continue
        if any(entry.record.merged.covers(tuple(answer.value[1])) for entry in left.entries):
            call.answer = None
            call.doubtful += 1


def judge(
    agents: Iterable[tuple[str, str, str]],
    ledger: Ledger,
    records: Mapping[str, Record],
    calls: Sequence[Call],
) -> list[str]:
    """What is missing, or there too often, as sentences.

    Args:
        agents: Ids with types and levels.
        ledger: What happened.
        records: By agent what all replicas hold.
        calls: Of all clients.
    """
    alive = {key: record for key, record in records.items() if not record.is_tomb}
    by_key: dict[str, list[Call]] = {}
    for call in calls:
        if call.work is not None:
            by_key.setdefault(call.request.key, []).append(call)
    problems = []
    for key, type_, _ in agents:
        own = by_key.get(key, [])
        if key == MORTAL or not any(call.is_ok for call in own):
            continue
        if key not in alive:
            problems.append(f"{key} is gone")
        elif type_ == LINE:
            problems += _judge_line(key, ledger, alive[key], own)
        else:
            problems += _judge_bag(key, ledger, alive[key], own)
    return problems + _judge_signals(alive, calls)


def _judge_line(key: str, ledger: Ledger, record: Record, calls: list[Call]) -> list[str]:
    logged = [line_of(conflict.record) for conflict in ledger.conflicts.get(key, ())]
    lines = [line_of(record), *logged]
    found = {mark for line in lines for mark in line}
    named = names_of(sorted(found))
    problems = [
        f"{key}: {call.work.name} is lost"
        for call in calls
        if call.is_ok and call.work is not None and call.work.name not in named
    ]
    return problems + _too_often(key, ledger, named, calls)


def _judge_bag(key: str, ledger: Ledger, record: Record, calls: list[Call]) -> list[str]:
    bag = Bag.of(record)
    marks = bag.marks()
    named = names_of(marks)
    problems = []
    if bag.counter.value != len(marks):
        problems.append(f"{key}: counted {bag.counter.value} turns of {len(marks)}")
    taken = {
        call.work.arg: call
        for call in calls
        if call.work is not None and call.work.what == "take" and call.at_most
    }
    for call in calls:
        work = call.work
        if work is None or not call.at_most:
            continue
        if call.is_ok and work.name not in named:
            problems.append(f"{key}: {work.name} is lost")
        if work.what == "put" and call.is_ok and not call.doubtful:
            take = taken.get(work.arg)
            has = bag.items.has(work.arg)
            if take is None and not has:
                problems.append(f"{key}: {work.arg} is lost")
            if take is not None and take.is_ok and has and _took(take):
                problems.append(f"{key}: {work.arg} is back")
        if work.what in {"timer", "ticks"}:
            problems += _judge_timers(key, ledger, call, named)
    return problems + _too_often(key, ledger, named, calls)


def _took(take: Call) -> bool:
    """Whether the item was there, so that nobody else's addition of it can be concurrent."""
    return take.answer is not None and bool(take.answer.value[0]) and not take.doubtful


def _too_often(
    key: str, ledger: Ledger, named: Mapping[str, list[Dot]], calls: list[Call]
) -> list[str]:
    """What took effect more often than it was tried.

    A firing or a signal's turn that no quorum ever had stays if its node acted from it; the next
    leader did it again. Of those that a quorum had there must be one.
    """
    at_most = {call.work.name: call.at_most for call in calls if call.work is not None}
    problems = []
    for name, dots in named.items():
        if name in at_most:
            is_wrong = len(dots) > at_most[name]
        else:
            is_wrong = sum((key, dot) in ledger.committed for dot in dots) > 1
        if is_wrong:
            problems.append(f"{key}: {name} took effect in {dots}")
    return problems


def _judge_timers(
    key: str, ledger: Ledger, call: Call, named: Mapping[str, list[Dot]]
) -> list[str]:
    work, answer = call.work, call.answer
    if work is None or answer is None or not call.is_ok:
        return []
    set_by = [each for each in ledger.timers.get(work.name, ()) if each.dot == answer.value[1]]
    firings = [
        f"fire:{timer.key}:{occurrence}"
        for timer in set_by
        for occurrence in range(1, 4 if timer.schedule else 2)
    ]
    return [f"{key}: {firing} is missing" for firing in firings if firing not in named]


def _judge_signals(records: Mapping[str, Record], calls: Iterable[Call]) -> list[str]:
    problems = []
    for call in calls:
        work, answer = call.work, call.answer
        if work is None or work.what != "emit" or not call.is_ok or answer is None:
            continue
        if call.request.key == MORTAL or work.arg not in records:
            continue
        name = f"signal:{work.name}:{tuple(answer.value[1])}"
        if name not in names_of(Bag.of(records[work.arg]).marks()):
            problems.append(f"{name} never arrived")
    return problems
