"""Counters of what partition strategies decide, and of the healing after a split.

| metric | labels | what |
| --- | --- | --- |
| `jido_cluster_admissions_total` | strategy, admitted | a node may serve under a strategy, or not |
| `jido_cluster_refused_total` | reason | requests refused for want of a quorum |
| `jido_cluster_acted_total` | what | turns and reads without a quorum; "stale" ones |
| `jido_cluster_merged_total` | outcome | merges of states that were made apart |
| `jido_cluster_conflicts_total` | reason | states that a merge did not take |
| `jido_cluster_healing_total` | stage | stages of a split, and of its healing, that nodes reached |

All labels have few values, which stand in code.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

from prometheus_client import Counter

from jido_cluster.runtime.partitions import ACTED, ADMISSION, HEALING, MERGED, REFUSED

__all__ = ["PartitionMetrics"]

CONFLICT: Final = "jido.cluster.conflict"
_Labels = Callable[[Mapping[str, Any]], tuple[str, ...]]


class PartitionMetrics:
    """The collectors of one registry.

    Attributes:
        events: The events they are fed by.
    """

    def __init__(self) -> None:
        self._counters: dict[str, tuple[Counter, _Labels]] = {
            ADMISSION: (
                _counter("admissions", "Changes of who may serve", "strategy", "admitted"),
                lambda data: (data["strategy"], "yes" if data["admitted"] else "no"),
            ),
            REFUSED: (
                _counter("refused", "Requests refused for want of a quorum", "reason"),
                lambda data: (data["reason"],),
            ),
            ACTED: (
                _counter("acted", "Turns and reads without a quorum", "what"),
                lambda data: (data["what"],),
            ),
            MERGED: (
                _counter("merged", "Merges of states that were made apart", "outcome"),
                lambda data: ("failed" if data["failure"] else "merged",),
            ),
            CONFLICT: (
                _counter("conflicts", "States that a merge did not take", "reason"),
                lambda data: (data["reason"],),
            ),
            HEALING: (
                _counter("healing", "Stages of splits and of their healing", "stage"),
                lambda data: (data["stage"],),
            ),
        }
        self.events = tuple(self._counters)

    @property
    def collectors(self) -> list[Counter]:
        """What is to be registered."""
        return [counter for counter, _ in self._counters.values()]

    def hear(self, event: str, metadata: Mapping[str, Any]) -> None:
        """Count one event."""
        counter, labels = self._counters[event]
        counter.labels(*labels(metadata)).inc()


def _counter(name: str, documentation: str, *labels: str) -> Counter:
    return Counter(f"jido_cluster_{name}_total", documentation, labels, registry=None)
