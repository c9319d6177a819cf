"""What the states of the end must hold, given what clients were told: the judge of splits."""

from collections.abc import Iterable, Mapping, Sequence

from jido_state.dots import Dot
from jido_state.record import Record
from jido_state.simulation.acting_agents import LINE, Bag, Ledger, line_of, names_of
from jido_state.simulation.acting_clients import Call

__all__ = ["judge"]


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
        if key == "mortal" or not any(call.is_ok for call in own):
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
        if call.request.key == "mortal" or work.arg not in records:
            continue
        name = f"signal:{work.name}:{tuple(answer.value[1])}"
        if name not in names_of(Bag.of(records[work.arg]).marks()):
            problems.append(f"{name} never arrived")
    return problems
