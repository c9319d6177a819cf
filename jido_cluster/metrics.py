"""Prometheus metrics of what runs in this process.

    from jido_cluster import metrics

    metrics.attach()                                  # to prometheus_client's registry
    prometheus_client.start_http_server(9090)

| metric | labels | what |
| --- | --- | --- |
| `jido_exec_duration_seconds` | action, outcome | histogram of attempts, waiting included |
| `jido_exec_queue_seconds` | action | histogram of waiting for a thread or worker process |
| `jido_exec_starts_total` | action | attempts begun |
| `jido_exec_failures_total` | action, kind | attempts that failed or were refused, by error kind |
| `jido_exec_retries_total` | action | further attempts decided on |
| `jido_exec_compensations_total` | action, outcome | runs of `on_error` |

`partition_metrics` adds counters of splits of the network, `jido_cluster_*`.

Outcomes are "succeeded", "failed" and "cancelled". Labels are bounded: they hold names that stand
in code, never the id of an agent or a run, and after `MAX_NAMES` different ones the rest share
"other", so that no metric grows without end.
"""

import contextlib
import itertools
import threading
import weakref
from collections.abc import Callable, Mapping
from typing import Any, Final

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Histogram

from jido_cluster import telemetry
from jido_cluster.errors import ConfigError, RunCancelledError
from jido_cluster.partition_metrics import PartitionMetrics

__all__ = ["MAX_NAMES", "attach", "detach"]

MAX_NAMES: Final = 500  # of actions, and of error kinds; a process that has more generates them
OTHER: Final = "other"

# From a message to an agent, well below a millisecond, to work that takes minutes.
BUCKETS: Final = (
    0.0005,
    0.001,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1,
    2.5,
    5,
    10,
    30,
    60,
    300,
)

_lock = threading.Lock()
_numbers = itertools.count(1)
_all: "weakref.WeakKeyDictionary[CollectorRegistry, _Metrics]" = weakref.WeakKeyDictionary()


def attach(registry: CollectorRegistry = REGISTRY) -> None:
    """From now on the metrics in ``registry`` count; as often as it is called, they count once.

    Raises:
        ConfigError: The registry has other metrics of these names. Nothing changed.
    """
    with _lock:
        metrics = _all.get(registry)
        if metrics is None:
            metrics = _all[registry] = _Metrics(registry)
        telemetry.detach(metrics.name)
        telemetry.attach_many(metrics.name, metrics.events, metrics.hear)


def detach(registry: CollectorRegistry = REGISTRY) -> bool:
    """Ends the counting, and leaves what was counted; False when there was none."""
    with _lock:
        metrics = _all.get(registry)
        return metrics is not None and telemetry.detach(metrics.name)


class _Names:
    """The first `MAX_NAMES` distinct values of a label; the others are one."""

    def __init__(self) -> None:
        self._known: set[str] = set()

    def __call__(self, name: str) -> str:
        if name not in self._known:
            # Two threads may pass this at once: one name too many does no harm.
            if len(self._known) >= MAX_NAMES:
                return OTHER
            self._known.add(name)
        return name


class _Metrics:
    """The collectors of one registry, and the listener that feeds them."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.name = f"jido.metrics.{next(_numbers)}"
        self._actions = _Names()
        self._kinds = _Names()
        self._duration = Histogram(
            "jido_exec_duration_seconds",
            "Attempts to run an action, waiting included",
            ["action", "outcome"],
            buckets=BUCKETS,
            registry=None,
        )
        self._queue = Histogram(
            "jido_exec_queue_seconds",
            "Waiting for a thread or a worker process",
            ["action"],
            buckets=BUCKETS,
            registry=None,
        )
        self._starts = _counter("starts", "Attempts begun", "action")
        self._failures = _counter("failures", "Attempts that failed", "action", "kind")
        self._retries = _counter("retries", "Further attempts decided on", "action")
        self._compensations = _counter("compensations", "Runs of on_error", "action", "outcome")
        self._partitions = PartitionMetrics()
        _register(
            registry,
            self._duration,
            self._queue,
            self._starts,
            self._failures,
            self._retries,
            self._compensations,
            *self._partitions.collectors,
        )
        self.listeners: dict[str, Callable[[str, Mapping[str, float], Mapping[str, Any]], None]] = {
            "jido.exec.start": self._start,
            "jido.exec.stop": self._stop,
            "jido.exec.exception": self._exception,
            "jido.exec.retry": self._retry,
            "jido.exec.compensate": self._compensate,
        }

    @property
    def events(self) -> list[str]:
        """All events that are listened to."""
        return [*self.listeners, *self._partitions.events]

    def hear(
        self, event: str, measurements: Mapping[str, float], metadata: Mapping[str, Any]
    ) -> None:
        """The listener of all events."""
        if event in self.listeners:
            self.listeners[event](self._actions(metadata["action"]), measurements, metadata)
        else:
            self._partitions.hear(event, metadata)

    def _start(self, action: str, _: Mapping[str, float], __: Mapping[str, Any]) -> None:
        self._starts.labels(action).inc()

    def _stop(self, action: str, spent: Mapping[str, float], _: Mapping[str, Any]) -> None:
        self._observe(action, "succeeded", spent)

    def _exception(
        self, action: str, spent: Mapping[str, float], metadata: Mapping[str, Any]
    ) -> None:
        kind = metadata["error_kind"]
        self._failures.labels(action, self._kinds(kind)).inc()
        if spent["duration"] > 0.0:  # else it was refused: it took no time worth a statistic
            outcome = "cancelled" if kind == RunCancelledError.kind else "failed"
            self._observe(action, outcome, spent)

    def _observe(self, action: str, outcome: str, spent: Mapping[str, float]) -> None:
        self._duration.labels(action, outcome).observe(spent["duration"])
        self._queue.labels(action).observe(spent["queue"])

    def _retry(self, action: str, _: Mapping[str, float], __: Mapping[str, Any]) -> None:
        self._retries.labels(action).inc()

    def _compensate(self, action: str, _: Mapping[str, float], metadata: Mapping[str, Any]) -> None:
        outcome = "succeeded" if metadata["compensated"] else "failed"
        self._compensations.labels(action, outcome).inc()


def _counter(name: str, documentation: str, *labels: str) -> Counter:
    return Counter(f"jido_exec_{name}_total", documentation, labels, registry=None)


def _register(registry: CollectorRegistry, *collectors: Counter | Histogram) -> None:
    """Registers all or none.

    Raises:
        ConfigError: A name is taken.
    """
    with contextlib.ExitStack() as undo:
        for collector in collectors:
            try:
                registry.register(collector)
            except ValueError as error:
                raise ConfigError(
                    f"the registry has other metrics of these names: {error}; give metrics.attach "
                    f"a CollectorRegistry of its own"
                ) from None
            undo.callback(registry.unregister, collector)
        undo.pop_all()
