"""What an action or agent needs of the node it runs on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

__all__ = ["Needs"]


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
