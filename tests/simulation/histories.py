"""Histories to check checkers with: drawn, spoilt, and judged by trying every order."""

from collections.abc import Sequence
from random import Random

from jido_state.checking import UNKNOWN, Model, Register
from jido_state.simulation import Operation

OPS = ("read", "read", "write", "cas", "add", "spawn", "respawn", "delete")


def random_history(
    random: Random,
    *,
    clients: int,
    operations: int,
    unknown: float = 0.0,
    values: int = 4,
    ops: Sequence[str] = OPS,
    key: str = "k",
) -> list[Operation]:
    """A history that is linearizable, since it comes from one copy: each call has its moment.

    Operations of unknown outcome take effect late, or never; their clients go on at once, as new
    clients would. With few values many operations can stand for each other, which is harder.
    """
    model = Register()
    plans: list[tuple[float, int, int | None, int, str, object]] = []
    free = [random.randrange(10) for _ in range(clients)]
    for _ in range(operations):
        client = random.randrange(clients)
        call = free[client] + random.randrange(4)
        effect = call + random.randrange(8)
        end = effect + 1 + random.randrange(8)
        free[client] = end
        op = random.choice(ops)
        draw = random.randrange
        pair = [draw(values), draw(values)]
        args = {"cas": pair, "respawn": pair, "add": 1 + draw(2)}
        arg = args.get(op, None if op in {"read", "delete"} else draw(values))
        is_unknown = random.random() < unknown
        moment = effect + random.random() + (random.choice((0, 5, 50)) if is_unknown else 0)
        plans.append((moment, call, None if is_unknown else end, client, op, arg))
    state: object = model.initial
    history = []
    for _, call, returned, client, op, arg in sorted(plans, key=lambda plan: plan[0]):
        ret: object = None
        if returned is not None or random.random() < 0.5:
            ret, state = answer_of(model, state, op, arg)
        answer = None if returned is None else ret
        history.append(Operation(client, key, op, arg, answer, call, returned))
    return sorted(history, key=lambda one: one.call_ns)


def answer_of(model: Model, state: object, op: str, arg: object) -> tuple[object, object]:
    """The one answer that is right in this state, and the state after it."""
    if op == "read":
        return state, state
    if op == "add" and isinstance(state, int):
        assert isinstance(arg, int)
        candidates: tuple[object, ...] = (state + arg,)
    else:
        candidates = ("ok", "absent", "exists", True, False)
    for answer in candidates:
        fits, after = model.step(state, op, arg, answer)
        if fits:
            return answer, after
    raise AssertionError((state, op, arg))


def spoil(random: Random, history: list[Operation], values: int = 4) -> list[Operation]:
    """The history with one or two answers changed, or moments moved: often no longer good."""
    spoilt = list(history)
    for _ in range(random.choice((1, 1, 2))):
        place = random.randrange(len(spoilt))
        one = spoilt[place]
        if one.return_ns is None:
            continue
        answers = {
            "read": [None, *range(values + 3)],
            "add": ["absent", *range(1, values + 4)],
            "cas": [True, False, "absent"],
            "spawn": ["ok", "exists"],
            "respawn": ["ok", "exists"],
        }
        if random.random() < 0.3:
            moved = one.call_ns + random.randrange(-10, 10)
            length = one.return_ns - one.call_ns
            one = one._replace(call_ns=moved, return_ns=moved + random.randrange(length + 1))
        else:
            one = one._replace(ret=random.choice(answers.get(one.op, ["ok", "absent"])))
        spoilt[place] = one
    return spoilt


def is_linearizable_by_force(operations: Sequence[Operation], model: Model | None = None) -> bool:
    """Tries every order of every subset that has all operations that returned.

    No memory, no bits, no dominance: slow, and plainly the definition.
    """
    model = Register() if model is None else model

    def extend(state: object, left: list[Operation]) -> bool:
        if all(one.return_ns is None for one in left):
            return True
        for one in left:
            rest = [other for other in left if other is not one]
            # It may come first of those left unless another had returned before it was called.
            if any(other.return_ns is not None and other.return_ns < one.call_ns for other in rest):
                continue
            ret = UNKNOWN if one.return_ns is None else one.ret
            fits, after = model.step(state, one.op, one.arg, ret)
            if fits and extend(after, rest):
                return True
        return False

    return extend(model.initial, list(operations))
