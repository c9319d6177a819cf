"""Whether copies agree once all is healed, and hold what was acknowledged: no more, no less.

These need no order of everything, so they also judge what is not linearizable on purpose: agents
that went on on both sides of a split. Each returns what is wrong as sentences; none is good.
"""

from collections.abc import Callable, Collection, Hashable, Iterable, Mapping
from typing import Any, Final

from jido_state.checking.models import frozen
from jido_state.simulation.history import Operation

__all__ = ["check_converged", "check_counter", "check_elements", "in_real_time"]


class _Nothing:
    def __repr__(self) -> str:
        return "nothing"


_NOTHING: Final = _Nothing()


def check_converged(replicas: Mapping[Any, Mapping[str, Any]]) -> list[str]:
    """Every replica holds the same keys with equal states.

    Args:
        replicas: By replica, its state of each key that it holds; states can be hashed.
    """
    problems = []
    for key in sorted({key for states in replicas.values() for key in states}):
        held: dict[Hashable, list[Hashable]] = {}
        for replica, states in replicas.items():
            state = states.get(key, _NOTHING)
            held.setdefault(state, []).append(replica)
        if len(held) > 1:
            sides = "; ".join(f"{state!r} at {ones}" for state, ones in held.items())
            problems.append(f"key {key!r} differs: {sides}")
    return problems


def check_counter(final: int, operations: Iterable[Operation], initial: int = 0) -> list[str]:
    """The final value holds every acknowledged addition once, and each unknown one at most once.

    Args:
        final: The value after everything has ended.
        operations: Additions of one key, with the amount as `arg`; others are passed over.
        initial: The value at first.
    """
    additions = [one for one in operations if one.op == "add"]
    acked = [one.arg for one in additions if one.return_ns is not None]
    unknown = [one.arg for one in additions if one.return_ns is None]
    sums = {initial + sum(acked)}
    for amount in unknown:
        sums |= {total + amount for total in sums}
    if final in sums:
        return []
    possible = ", ".join(map(str, sorted(sums)))
    return [f"counter is {final}: the {len(acked)} acknowledged additions allow {possible}"]


def in_real_time(earlier: Operation, later: Operation) -> bool:
    """Whether the one had returned before the other was called."""
    return earlier.return_ns is not None and earlier.return_ns < later.call_ns


def check_elements(
    final: Collection[Any],
    operations: Iterable[Operation],
    precedes: Callable[[Operation, Operation], bool] = in_real_time,
) -> list[str]:
    """What was added is there and what was removed is not, where the order leaves no doubt.

    An element must be there when an acknowledged addition of it comes after all its removals. It
    must not when an acknowledged removal comes after all its additions, which would be a
    resurrection, or when nobody ever added it. Else either is right.

    Args:
        final: The elements after everything has ended.
        operations: "add" and "remove" of one set, with the element as `arg`; others are passed
            over. Agents fit as well: their ids are elements, spawned and deleted.
        precedes: Whether the first certainly comes before the second. Real time is right for what
            has one copy; where both sides of a split went on, say what each operation had seen.
    """
    added: dict[Hashable, list[Operation]] = {}
    removed: dict[Hashable, list[Operation]] = {}
    for one in operations:
        if one.op in {"add", "remove"}:
            sides = added if one.op == "add" else removed
            sides.setdefault(frozen(one.arg), []).append(one)
    present = {frozen(element) for element in final}
    problems = []
    for element in sorted(present | added.keys(), key=repr):
        adds, removes = added.get(element, []), removed.get(element, [])
        if element not in present and _is_last(adds, removes, precedes):
            problems.append(f"element {element!r} is lost: its addition was acknowledged")
        elif element in present and not adds:
            problems.append(f"element {element!r} is there, and was never added")
        elif element in present and _is_last(removes, adds, precedes):
            problems.append(f"element {element!r} is back after its removal was acknowledged")
    return problems


def _is_last(
    ones: list[Operation],
    others: list[Operation],
    precedes: Callable[[Operation, Operation], bool],
) -> bool:
    """Whether one that was acknowledged comes after all the others."""
    return any(
        one.return_ns is not None and all(precedes(other, one) for other in others) for one in ones
    )
