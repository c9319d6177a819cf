"""An instruction: an action with everything it needs to run, as a value."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from jido_cluster.exec.options import RunOptions

__all__ = ["Instruction"]


@dataclass(frozen=True)
class Instruction:
    """What to run: an action, its parameters, its context and its options."""

    action: Any
    params: Mapping[str, Any] = field(default_factory=dict)
    context: Mapping[str, Any] = field(default_factory=dict)
    options: RunOptions = field(default_factory=RunOptions)
