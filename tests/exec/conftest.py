"""What the tests of the Exec core share: ears for telemetry, and a pool of threads of their own."""

from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from jido_cluster import telemetry
from jido_cluster.exec import threads

EVENTS = ("start", "stop", "exception", "retry", "compensate")


class Heard(list[tuple[str, Mapping[str, float], Mapping[str, Any]]]):
    """Events in the order told: short name, measurements, metadata."""

    @property
    def names(self) -> list[str]:
        """Short names only."""
        return [event for event, _, _ in self]


@pytest.fixture
def heard() -> Iterator[Heard]:
    """Every event of the Exec core, as long as the test lasts."""
    events = Heard()
    telemetry.attach_many(
        "test",
        [f"jido.exec.{event}" for event in EVENTS],
        lambda event, *rest: events.append((event.rpartition(".")[2], *rest)),
    )
    yield events
    telemetry.detach("test")


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch) -> threads.ThreadPool:
    """A small pool in place of the process's: 2 threads, 2 abandoned, 3 queued."""
    small = threads.ThreadPool(max_threads=2, max_abandoned=2, max_queued=3)
    monkeypatch.setattr(threads, "POOL", small)
    return small
