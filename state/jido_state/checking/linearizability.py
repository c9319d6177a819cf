"""Whether what clients saw of an agent could have come from one copy of it.

Theory. A history is linearizable when every operation can be given a moment between its call and
its return such that, run one after another at those moments, all answer what they did. Only the
order matters, so the search goes through the returns: at each one the operation must have taken
effect, after any of those that are under way. A *configuration* is the state, which of those under
way took effect, and which of unknown outcome did. Two ways that lead to one configuration have one
future, so each is tried once; a configuration that has used more of the unknown ones than another,
and is otherwise equal, can do nothing that the other cannot.

Operations of unknown outcome never return: they may take effect at any time after their call, or
never. Those that ask for the same are interchangeable, so only their number counts. They are tried
last, and only where they change the state, which is what keeps a history with many of them quick.

*Source*: Wing and Gong, Testing and verifying concurrent objects (1993); Lowe, Testing for
linearizability (2017), for the memory and for deciding at the returns.
*Departures*: the set of unknown ones is a vector of counts, compared by dominance.
"""

from collections.abc import Hashable, Iterable, Iterator, Sequence
from enum import Enum
from typing import Any, Final, NamedTuple

from jido_state.checking.models import UNKNOWN, Model, Register, frozen
from jido_state.simulation.history import Operation

__all__ = ["MAX_STEPS", "Outcome", "Verdict", "check_linearizable"]

MAX_STEPS: Final = 20_000_000  # steps of the model, about 20 s; a good history of 300 takes 2,000
FIRST_STEPS: Final = 100_000  # before longer chains of unknown operations are looked at, too
MAX_EXTRA: Final = 64  # beyond it only when less is not all there is
_LANE: Final = 16  # bits for the count of one kind of unknown operation; the highest stays 0
_COUNT: Final = (1 << _LANE - 1) - 1
_SHOWN: Final = 30  # operations of a witness that are printed

_Config = tuple[Any, int, int]  # state, bits of what took effect, counts of unknown ones used


class Outcome(Enum):
    """What a check found."""

    LINEARIZABLE = "linearizable"
    ILLEGAL = "not linearizable"
    UNDECIDED = "undecided"
    """The limit was reached. For a test that is a failure: have fewer unknown ones, or clients."""


class Verdict(NamedTuple):
    """What a check found, and for a bad history why.

    Attributes:
        outcome: LINEARIZABLE when that is so for every key.
        key: The first key, in the order of calls, for which it is not; None when there is none.
        witness: Of a bad key, the shortest part from the start that cannot be linearized: the
            operations called before the last one in it returned, with the answers that those
            still under way then gave later. Up to the return before, it can be.
            Of an undecided key, the part for which no quick way was found.
        states: What the state could be at the return before, sorted by their text.
        steps: How many steps of the model all this took.
    """

    outcome: Outcome
    key: str | None
    witness: tuple[Operation, ...]
    states: tuple[Hashable, ...]
    steps: int

    @property
    def is_linearizable(self) -> bool:
        """Whether the history is good, and known to be."""
        return self.outcome is Outcome.LINEARIZABLE

    def __str__(self) -> str:
        """The witness, one operation a line, and what the last one could not have seen."""
        if self.key is None:
            return self.outcome.value
        lines = [f"key {self.key!r} is {self.outcome.value}, after {self.steps} steps:"]
        hidden = len(self.witness) - _SHOWN
        if hidden > 0:
            lines.append(f"  ... {hidden} operations before")
        lines += [f"  {_line(one)}" for one in self.witness[-_SHOWN:]]
        states = ", ".join(map(repr, self.states))
        lines.append(f"  nothing explains the last return; before it the state could be {states}")
        return "\n".join(lines)


def check_linearizable(
    operations: Iterable[Operation], model: Model | None = None, *, max_steps: int = MAX_STEPS
) -> Verdict:
    """Checks each key by itself, which for linearizability is as good as all together.

    Intervals are closed: an operation that was called at the moment another returned was
    concurrent with it. What is known not to have run must not be among the operations.

    Args:
        operations: Of any keys, in any order, such as a `History`.
        model: What an agent may answer; None for a `Register` that is absent at first.
        max_steps: Limit for all keys together, after which the verdict is UNDECIDED.

    Raises:
        ValueError: An operation that the model does not know.
    """
    model = Register() if model is None else model
    keys: dict[str, list[Operation]] = {}
    for operation in operations:
        keys.setdefault(operation.key, []).append(operation)
    steps = 0
    for key, ones in keys.items():
        search = _Search(ones, model, max_steps - steps)
        outcome = search.run()
        steps += search.steps
        if outcome is not Outcome.LINEARIZABLE:
            return Verdict(outcome, key, *search.explanation, steps)
    return Verdict(Outcome.LINEARIZABLE, None, (), (), steps)


class _Return(NamedTuple):
    """One return, and what may have taken effect before it."""

    bit: int
    operations: Sequence[tuple[int, Operation]]  # under way, with their bits; first the one itself
    unknown: Sequence[tuple[int, int, Operation]]  # lane, how many, one of them
    called: int  # how many unknown ones in all


class _LimitError(Exception):
    pass


class _Search:
    """Depth first over the returns of one key.

    Attributes:
        steps: As in the `Verdict`.
        explanation: Witness and states of the `Verdict`, from the last search that found no way.
    """

    def __init__(self, operations: list[Operation], model: Model, max_steps: int) -> None:
        self.steps = 0
        self.explanation: tuple[tuple[Operation, ...], tuple[Hashable, ...]] = ((), ())
        self._operations = operations
        self._model = model
        self._max_steps = self._limit = max_steps
        self._returns, lanes = _returns(operations)
        # The lane after those of the operations counts what chains had beyond their first.
        self._extra = lanes * _LANE
        self._highs = sum(1 << (lane * _LANE + _LANE - 1) for lane in range(lanes + 1))
        self._unknown_steps: dict[tuple[Hashable, int], Hashable] = {}
        self._begin(0)

    def _begin(self, max_extra: int) -> None:
        """Forgets what was found with fewer."""
        self._max_extra = max_extra
        self._is_cut_short = False
        self._deepest = -1
        self._states: dict[Hashable, None] = {}
        self._reached: dict[tuple[int, Hashable, int], list[tuple[Hashable, int]]] = {}

    def run(self) -> Outcome:
        """The verdict on this key.

        A good history can nearly everywhere be explained by single unknown operations, each between
        two returns, and needs chains of several in few places; while looking at all chains may take
        for ever. So what chains have beyond their first is rationed. More is tried where less was
        not all there is, or has taken so long that more may be quicker.
        """
        extras = [0]
        budget = FIRST_STEPS
        while True:
            for max_extra in list(extras):
                self._begin(max_extra)
                self._limit = min(self.steps + budget, self._max_steps)
                try:
                    if self._finds_a_way():
                        return Outcome.LINEARIZABLE
                except _LimitError:
                    if self._limit == self._max_steps:
                        self.explanation = self._explain()
                        return Outcome.UNDECIDED
                    continue
                self.explanation = self._explain()
                if not self._is_cut_short:
                    return Outcome.ILLEGAL
                extras.remove(max_extra)
                extras = extras or [2 * max_extra or 1]
            if extras[-1] < MAX_EXTRA:
                extras.append(2 * extras[-1] or 1)
            budget *= 2

    def _finds_a_way(self) -> bool:
        returns = self._returns
        if not returns:
            return True
        tried: list[dict[tuple[Hashable, int], list[int]]] = [{} for _ in returns]
        start: _Config = (self._model.initial, 0, 0)
        self._note(0, start)
        stack = [self._after(0, start)]
        while stack:
            config = next(stack[-1], None)
            if config is None:
                stack.pop()
            elif len(stack) == len(returns):
                return True
            elif self._is_new(tried[len(stack)], config):
                self._note(len(stack), config)
                stack.append(self._after(len(stack), config))
        return False

    def _explain(self) -> tuple[tuple[Operation, ...], tuple[Hashable, ...]]:
        last = self._returns[self._deepest].operations[0][1]
        assert last.return_ns is not None
        end_ns = last.return_ns
        witness = [one for one in self._operations if one.call_ns <= end_ns and one is not last]
        witness.sort(key=lambda one: one.call_ns)
        return (*witness, last), tuple(sorted(self._states, key=repr))

    def _note(self, place: int, config: _Config) -> None:
        if place > self._deepest:
            self._deepest = place
            self._states = {}
        if place == self._deepest:
            self._states[config[0]] = None

    def _is_new(self, tried: dict[tuple[Hashable, int], list[int]], config: _Config) -> bool:
        """Whether no configuration tried here could do all that this one can; notes it if so."""
        state, done, used = config
        others = tried.setdefault((state, done), [])
        highs = self._highs
        for other in others:
            # No lane borrows from its high bit: other <= used in every lane.
            if ((used | highs) - other) & highs == highs:
                return False
        others.append(used)
        return True

    def _count(self, steps: int) -> None:
        self.steps += steps
        if self.steps > self._limit:
            raise _LimitError

    def _step(self, state: Hashable, operation: Operation) -> tuple[bool, Hashable]:
        self._count(1)
        return self._model.step(state, operation.op, operation.arg, operation.ret)

    def _after(self, place: int, config: _Config) -> Iterator[_Config]:
        """The configurations after this return, likely ones first."""
        event = self._returns[place]
        state, done, used = config
        if done & event.bit:
            yield state, done ^ event.bit, used
            return
        yield from self._explore(event, config, unknown=False)
        if event.unknown:
            yield from self._explore(event, config, unknown=True)

    def _explore(self, event: _Return, config: _Config, *, unknown: bool) -> Iterator[_Config]:
        """Breadth first over what took effect before the operation that returns."""
        tried: dict[tuple[Hashable, int], list[int]] = {}
        self._is_new(tried, config)
        queue = [config]
        for state, done, used in queue:
            for bit, operation in event.operations:
                if done & bit:
                    continue
                for after, spent in self._steps(event, state, used, operation, unknown=unknown):
                    if bit == event.bit:
                        yield after, done, spent
                    elif self._is_new(tried, (after, done | bit, spent)):
                        queue.append((after, done | bit, spent))

    def _steps(
        self, event: _Return, state: Hashable, used: int, operation: Operation, *, unknown: bool
    ) -> Iterator[tuple[Hashable, int]]:
        """The states after the operation, at once or after some of unknown outcome."""
        fits, after = self._step(state, operation)
        if fits:
            yield after, used
            if self._model.forgets:
                return  # the unknown ones can as well take effect later, or be overwritten
        if unknown:
            for before, spent in self._reach(event, state, used):
                fits, after = self._step(before, operation)
                if fits:
                    yield after, spent

    def _reach(self, event: _Return, state: Hashable, used: int) -> list[tuple[Hashable, int]]:
        """The states to which operations of unknown outcome can lead from here, with their cost."""
        name = (event.called, state, used)
        found = self._reached.get(name)
        if found is None:
            tried: dict[tuple[Hashable, int], list[int]] = {}
            self._is_new(tried, (state, 0, used))
            found = self._reached[name] = []
            ends = [(state, used)]
            cost = 0
            while ends:
                ends = self._lengthen(event, ends, tried, cost)
                found += ends
                cost = 1 << self._extra
        return found

    def _lengthen(
        self,
        event: _Return,
        ends: list[tuple[Hashable, int]],
        tried: dict[tuple[Hashable, int], list[int]],
        cost: int,
    ) -> list[tuple[Hashable, int]]:
        """Where one more unknown operation leads to from the ends of chains."""
        longer = []
        for state, used in ends:
            if cost and used >> self._extra >= self._max_extra:
                self._is_cut_short = True
                continue
            self._count(len(event.unknown))
            for lane, number, operation in event.unknown:
                if (used >> lane * _LANE) & _COUNT < number:
                    after = self._unknown_step(state, lane, operation)
                    spent = used + (1 << lane * _LANE) + cost
                    if after != state and self._is_new(tried, (after, 0, spent)):
                        longer.append((after, spent))
        return longer

    def _unknown_step(self, state: Hashable, lane: int, operation: Operation) -> Hashable:
        name = (state, lane)
        if name not in self._unknown_steps:
            fits, after = self._model.step(state, operation.op, operation.arg, UNKNOWN)
            self._unknown_steps[name] = after if fits else state
        return self._unknown_steps[name]


def _returns(operations: list[Operation]) -> tuple[list[_Return], int]:
    """The returns in order, each with what was under way; and how many kinds of unknown ones."""
    events = [(one.call_ns, 0, place) for place, one in enumerate(operations)]
    events += [
        (one.return_ns, 1, place)
        for place, one in enumerate(operations)
        if one.return_ns is not None
    ]
    events.sort()  # calls before the returns of the same moment
    lanes: dict[Hashable, int] = {}
    unknown: dict[int, tuple[int, int, Operation]] = {}
    bits: dict[int, int] = {}  # of those under way
    returns = []
    for _, is_return, place in events:
        operation = operations[place]
        if is_return:
            bit = bits.pop(place)
            under_way = [(bit, operation)]
            under_way += [(other, operations[one]) for one, other in bits.items()]
            called = sum(number for _, number, _ in unknown.values())
            returns.append(_Return(bit, under_way, tuple(unknown.values()), called))
        elif operation.return_ns is not None:
            bits[place] = _free_bit(bits.values())
        else:
            lane = lanes.setdefault((operation.op, frozen(operation.arg)), len(lanes))
            number = unknown[lane][1] + 1 if lane in unknown else 1
            unknown[lane] = (lane, number, operation)
    return returns, len(lanes)


def _free_bit(used: Iterable[int]) -> int:
    taken = sum(used)
    return (taken + 1) & ~taken


def _line(operation: Operation) -> str:
    call_ns, return_ns = operation.call_ns, operation.return_ns
    end = "?" if return_ns is None else f"{return_ns / 1e6:.3f}"
    arg = "" if operation.arg is None else repr(operation.arg)
    ret = "?" if return_ns is None else repr(operation.ret)
    return (
        f"{call_ns / 1e6:12.3f} .. {end:>12} ms  client {operation.client}: "
        f"{operation.op}({arg}) -> {ret}"
    )
