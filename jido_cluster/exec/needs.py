"""What an action or agent needs of the node it runs on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Needs", "needs_from_data", "needs_to_data"]


@dataclass(frozen=True, slots=True)
class Needs:
    """Requirements on a node; an empty one is met by every node.

    Attributes:
        labels: Labels the node must carry, with these values.
        resources: Amounts the node must have left, in the units of Ray ("CPU", "num_gpus" is "GPU",
            bytes of "memory", custom names); each >= 0.
        actions: Names of actions the node must offer.
    """

    labels: Mapping[str, str] = field(default_factory=dict)
    resources: Mapping[str, float] = field(default_factory=dict)
    actions: Sequence[str] = ()


def needs_to_data(needs: Needs | None) -> list[Any] | None:
    """Plain data of what a run needs."""
    if needs is None:
        return None
    return [dict(needs.labels), dict(needs.resources), list(needs.actions)]


def needs_from_data(data: Sequence[Any] | None) -> Needs | None:
    """The needs of `needs_to_data`."""
    if data is None:
        return None
    labels, resources, actions = data
    return Needs(labels=labels, resources=resources, actions=tuple(actions))
