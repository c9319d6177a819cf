"""Ways to split a network: which pairs of nodes lose each other.

A pair `(source, target)` says that nothing sent by `source` reaches `target`; the other direction
is a pair of its own. *Source*: Jepsen's nemeses; for the partial ones Alfatafta et al., Toward a
generic fault tolerance technique for partial network partitioning (OSDI 2020).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from random import Random
from types import MappingProxyType
from typing import Final

__all__ = ["PARTITIONS", "Pairs", "partition", "swizzle", "two_way"]

Pairs = tuple[tuple[int, int], ...]


def two_way(left: Iterable[int], right: Sequence[int]) -> Pairs:
    """Both directions between each of the left nodes and each of the right ones."""
    return tuple(pair for one in left for other in right for pair in ((one, other), (other, one)))


def _halves(nodes: list[int], random: Random) -> Pairs:
    """Two sides of any size, each at least one node: with a majority on one, or on none."""
    size = random.randrange(1, len(nodes))
    return two_way(nodes[:size], nodes[size:])


def _one(nodes: list[int], _: Random) -> Pairs:
    """One node sees nobody."""
    return two_way(nodes[:1], nodes[1:])


def _one_way(nodes: list[int], random: Random) -> Pairs:
    """One node is heard and hears nobody, or hears and is heard by nobody."""
    mute = random.random() < 0.5
    return tuple((nodes[0], one) if mute else (one, nodes[0]) for one in nodes[1:])


def _bridge(nodes: list[int], _: Random) -> Pairs:
    """Two halves that only one node in the middle sees both of."""
    middle = len(nodes) // 2
    return two_way(nodes[:middle], nodes[middle + 1 :])


def _ring(nodes: list[int], _: Random) -> Pairs:
    """Every node hears a majority, and no two of them the same one."""
    total = len(nodes)
    majority = total // 2 + 1
    pairs = []
    for place, target in enumerate(nodes):
        first = place - majority // 2
        heard = {nodes[(first + step) % total] for step in range(majority)}
        pairs += [(source, target) for source in nodes if source not in heard]
    return tuple(pairs)


def _partial(nodes: list[int], random: Random) -> Pairs:
    """Some directions between some pairs, each with the same probability."""
    rate = 0.1 + 0.5 * random.random()
    return tuple(
        (source, target)
        for source in nodes
        for target in nodes
        if source != target and random.random() < rate
    )


PARTITIONS: Final[Mapping[str, Callable[[list[int], Random], Pairs]]] = MappingProxyType(
    {
        "halves": _halves,
        "one": _one,
        "one_way": _one_way,
        "bridge": _bridge,
        "ring": _ring,
        "partial": _partial,
    }
)


def partition(kind: str, nodes: Iterable[int], random: Random) -> Pairs:
    """The pairs that a partition of this kind cuts.

    Args:
        kind: A key of `PARTITIONS`.
        nodes: Distinct; with fewer than two there is nothing to cut.
        random: Draws who is where.

    Raises:
        ValueError: There is no such kind.
    """
    if kind not in PARTITIONS:
        raise ValueError(f"partition {kind!r} is none of {', '.join(PARTITIONS)}")
    order = list(nodes)
    if len(order) < 2:
        return ()
    random.shuffle(order)
    return PARTITIONS[kind](order, random)


def swizzle(nodes: Iterable[int], random: Random) -> tuple[list[int], list[int]]:
    """Some of the nodes in the order in which they stop, and in the one in which they come back.

    Stopping one by one and coming back in another order leaves each node with another idea of who
    was there last. *Source*: FoundationDB's swizzle-clogging.
    """
    order = list(nodes)
    random.shuffle(order)
    stopped = order[: random.randint(1, len(order))] if order else []
    back = list(stopped)
    random.shuffle(back)
    return stopped, back
