"""Which node a piece of work goes to: one that can do it, and is not the busiest.

Theory. Sending everything to the least loaded node sends everybody's work there at once, since all
look at the same, slightly old figures. Of two capable nodes drawn at random the fitter one is
nearly as good a pick, and herds nobody. A node that was chosen before keeps its work as long as the
other is not clearly fitter, so that noise in the figures moves nothing.
*Source*: Mitzenmacher, The Power of Two Choices in Randomized Load Balancing (2001).
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, NamedTuple

from jido_placement.stream import Stream

__all__ = ["Choice", "NoCapable", "Offer", "Requirements", "choose", "fitness", "lacks"]

# By how much another node must be fitter to take over what one has. Load figures of idle nodes
# differ by a few hundredths from second to second.
HYSTERESIS: Final = 0.15
# How many nodes a refusal explains; the count of the others is given.
MAX_EXPLAINED: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """What a node has advertised.

    Attributes:
        node: Who.
        labels: Its labels.
        total: Its resources, by name, in their own units, > 0.
        free: What of them is free; a name that is missing here has nothing free.
        actions: The versions of each action that it can run, by name.
        load: How busy it is: 0 idle, 1 as busy as it may be, more when it is overloaded.
        is_available: Whether it takes work: reachable, not draining.
    """

    node: str
    labels: Mapping[str, str] = field(default_factory=dict)
    total: Mapping[str, float] = field(default_factory=dict)
    free: Mapping[str, float] = field(default_factory=dict)
    actions: Mapping[str, Sequence[str]] = field(default_factory=dict)
    load: float = 0.0
    is_available: bool = True

    def __post_init__(self) -> None:
        """Refuses figures that cannot be compared (ValueError)."""
        for name, figure in [("load", self.load), *self.total.items(), *self.free.items()]:
            if not (math.isfinite(figure) and figure >= 0):
                raise ValueError(f"{name}={figure!r} of {self.node!r}: give a finite number >= 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class Requirements:
    """What a piece of work needs of its node.

    Attributes:
        labels: These, with these values.
        resources: So much of each must be free, > 0.
        actions: These must be there: "name" in any version, "name@version" in this one.
    """

    labels: Mapping[str, str] = field(default_factory=dict)
    resources: Mapping[str, float] = field(default_factory=dict)
    actions: Sequence[str] = ()

    def __post_init__(self) -> None:
        """Refuses amounts that are nothing, or no number (ValueError)."""
        for name, amount in self.resources.items():
            if not (math.isfinite(amount) and amount > 0):
                raise ValueError(f"resource {name}={amount!r}: give a finite number > 0, or none")


class Choice(NamedTuple):
    """The node that is to do it.

    Attributes:
        node: Who.
        fitness: How fit it is, 0 to 1.
        capable: How many nodes could have done it.
    """

    node: str
    fitness: float
    capable: int


class NoCapable(NamedTuple):
    """Nobody can do it.

    Attributes:
        lacking: What each of some nodes lacks, by node.
        others: How many more nodes lack something.
    """

    lacking: Mapping[str, tuple[str, ...]]
    others: int


def lacks(offer: Offer, needs: Requirements) -> tuple[str, ...]:
    """What the node lacks, in words; empty when it is capable."""
    if not offer.is_available:
        return ("takes no work",)
    found = [
        f"label {key}={value}"
        for key, value in sorted(needs.labels.items())
        if offer.labels.get(key) != value
    ]
    found += [
        f"{amount:g} {name} (has {offer.free.get(name, 0):g} free)"
        for name, amount in sorted(needs.resources.items())
        if offer.free.get(name, 0) < amount
    ]
    for wanted in needs.actions:
        name, _, version = wanted.partition("@")
        versions = offer.actions.get(name, ())
        if not versions:
            found.append(f"action {name}")
        elif version and version not in versions:
            found.append(f"action {wanted} (has {', '.join(versions)})")
    return tuple(found)


def fitness(offer: Offer, needs: Requirements) -> float:
    """How fit a capable node is, 0 (no room) to 1 (idle): what its scarcest means leave over.

    Its load, and of each resource that is needed the part that would be taken afterwards.
    """
    taken = [offer.load]
    for name, amount in sorted(needs.resources.items()):
        free = offer.free.get(name, 0)
        taken.append(1 - (free - amount) / max(offer.total.get(name, 0), free, amount))
    return min(1.0, max(0.0, 1 - max(taken)))


def choose(
    needs: Requirements, offers: Iterable[Offer], chance: Stream, *, current: str | None = None
) -> Choice | NoCapable:
    """The node for a piece of work.

    Args:
        needs: Of the work.
        offers: Of all nodes, in any order, one each.
        chance: Decides which two are compared; moves on.
        current: Who has the work now; stays unless the other is fitter by `HYSTERESIS`.
    """
    capable: list[Offer] = []
    lacking: dict[str, tuple[str, ...]] = {}
    others = 0
    for offer in sorted(offers, key=_node_of):
        missing = lacks(offer, needs)
        if not missing:
            capable.append(offer)
        elif len(lacking) < MAX_EXPLAINED:
            lacking[offer.node] = missing
        else:
            others += 1
    if not capable:
        return NoCapable(MappingProxyType(lacking), others)
    first = chance.below(len(capable))
    # The second is another one, if there is another one.
    second = (first + 1 + chance.below(max(1, len(capable) - 1))) % len(capable)
    rated = [(fitness(capable[place], needs), capable[place].node) for place in (first, second)]
    best_fitness, best = max(rated, key=lambda one: one[0])
    kept = next((offer for offer in capable if offer.node == current), None)
    if kept is not None:
        kept_fitness = fitness(kept, needs)
        if best_fitness < kept_fitness + HYSTERESIS:
            return Choice(kept.node, kept_fitness, len(capable))
    return Choice(best, best_fitness, len(capable))


def _node_of(offer: Offer) -> str:
    return offer.node
