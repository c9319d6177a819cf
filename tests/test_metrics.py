"""Prometheus metrics: what is counted, that labels are bounded, and that attaching is harmless."""

import asyncio
import gc
import threading
import weakref
from collections.abc import Iterator

import pytest
from prometheus_client import CollectorRegistry, Counter, generate_latest

from jido_cluster import metrics, telemetry
from jido_cluster.agent import Agent
from jido_cluster.errors import ConfigError, ExecutionError, InvalidInputError, OverloadedError
from jido_cluster.exec import Action, Context, action, run, start
from jido_cluster.signals.handler import on
from jido_cluster.testing import LocalCluster


@pytest.fixture
def registry() -> Iterator[CollectorRegistry]:
    """A registry of its own, attached."""
    own = CollectorRegistry()
    metrics.attach(own)
    yield own
    metrics.detach(own)
    assert not telemetry.LISTENERS


def value(registry: CollectorRegistry, name: str, **labels: str) -> float | None:
    return registry.get_sample_value(f"jido_exec_{name}", labels)


@action(name="metrics.work", max_retries=2, retry_delay=0.0)
async def work(fail: int = 0, *, ctx: Context) -> int:
    await asyncio.sleep(0)
    if ctx.attempt <= fail:
        raise OverloadedError("full")
    return 1


class Undo(Action, name="metrics.undo"):
    def run(self, params: dict[str, bool], ctx: Context) -> None:
        raise ExecutionError("no")

    def on_error(self, params: dict[str, bool], error: Exception, ctx: Context) -> None:
        if params.get("break"):
            raise ValueError("cannot")


class Account(Agent, name="metrics.account"):
    @on("metrics.add")
    async def add(self) -> None: ...


def test_a_run_is_counted_and_timed(registry: CollectorRegistry) -> None:
    """Starts, and the duration by outcome; sync work has waited for its thread."""
    asyncio.run(run(work))
    assert value(registry, "starts_total", action="metrics.work") == 1
    labels = {"action": "metrics.work", "outcome": "succeeded"}
    assert value(registry, "duration_seconds_count", **labels) == 1
    assert 0 < (value(registry, "duration_seconds_sum", **labels) or 0) < 10
    assert value(registry, "queue_seconds_count", action="metrics.work") == 1
    assert value(registry, "queue_seconds_sum", action="metrics.work") == 0


def test_failures_retries_and_compensations_are_counted(registry: CollectorRegistry) -> None:
    """By kind and outcome; a refusal is a failure without a duration."""

    async def main() -> None:
        await run(work, {"fail": 1})
        with pytest.raises(OverloadedError):
            await run(work, {"fail": 9})
        for data in ({}, {"break": True}):
            with pytest.raises(ExecutionError):
                await run(Undo, data)
        with pytest.raises(InvalidInputError):
            await run(work, {"nope": 1})

    asyncio.run(main())
    assert value(registry, "starts_total", action="metrics.work") == 5
    assert value(registry, "retries_total", action="metrics.work") == 3
    failures = {"action": "metrics.work", "kind": "overloaded"}
    assert value(registry, "failures_total", **failures) == 4
    failures["kind"] = "validation_error"
    assert value(registry, "failures_total", **failures) == 1
    durations = {"action": "metrics.work", "outcome": "failed"}
    assert value(registry, "duration_seconds_count", **durations) == 4
    for outcome in ("succeeded", "failed"):
        labels = {"action": "metrics.undo.on_error", "outcome": outcome}
        assert value(registry, "compensations_total", **labels) == 1


def test_a_cancelled_run_is_no_failure_of_its_kind(registry: CollectorRegistry) -> None:
    """It has an outcome of its own."""
    begun = asyncio.Event()

    @action(name="metrics.waits")
    async def waits() -> None:
        begun.set()
        await asyncio.Event().wait()

    async def main() -> None:
        handle = start(waits)
        await begun.wait()
        assert await handle.cancel()

    asyncio.run(main())
    labels = {"action": "metrics.waits", "outcome": "cancelled"}
    assert value(registry, "duration_seconds_count", **labels) == 1


def test_no_label_names_an_agent(registry: CollectorRegistry) -> None:
    """Handlers are counted by what they handle, whoever does."""
    with LocalCluster.local() as cluster:
        for number in range(3):
            cluster.spawn(Account, f"unique-{number}").call(Account.add)
    text = generate_latest(registry).decode()
    assert 'jido_exec_starts_total{action="metrics.add"} 3.0' in text
    assert "unique" not in text
    assert "run-" not in text


def test_labels_are_bounded(registry: CollectorRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names beyond the limit share one; those before it stay themselves."""
    monkeypatch.setattr(metrics, "MAX_NAMES", 2)
    for name in ("a", "b", "c", "d", "a"):
        telemetry.execute("jido.exec.start", {"attempt": 1}, {"action": name})
        telemetry.execute(
            "jido.exec.exception",
            {"duration": 0.1, "queue": 0.0, "attempt": 1},
            {"action": "a", "error_kind": f"kind-{name}"},
        )
    assert value(registry, "starts_total", action="a") == 2
    assert value(registry, "starts_total", action="other") == 2
    assert value(registry, "failures_total", action="a", kind="kind-a") == 2
    assert value(registry, "failures_total", action="a", kind="other") == 2


def test_attaching_twice_counts_once(registry: CollectorRegistry) -> None:
    """Also again after detaching, and from many threads; counts go on where they were."""
    threads = [threading.Thread(target=metrics.attach, args=(registry,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    asyncio.run(run(work))
    assert metrics.detach(registry)
    assert not metrics.detach(registry)
    asyncio.run(run(work))
    metrics.attach(registry)
    asyncio.run(run(work))
    assert value(registry, "starts_total", action="metrics.work") == 2


def test_attaching_again_mends_what_an_ill_event_broke(registry: CollectorRegistry) -> None:
    """Telemetry detaches a listener that raises."""
    telemetry.execute("jido.exec.start", {}, {})
    assert not telemetry.LISTENERS
    metrics.attach(registry)
    asyncio.run(run(work))
    assert value(registry, "starts_total", action="metrics.work") == 1


def test_each_registry_counts_for_itself(registry: CollectorRegistry) -> None:
    """Two may be attached; a registry that nobody has any more is forgotten."""
    other = CollectorRegistry()
    assert not metrics.detach(other)
    metrics.attach(other)
    asyncio.run(run(work))
    assert value(other, "starts_total", action="metrics.work") == 1
    assert value(registry, "starts_total", action="metrics.work") == 1
    assert metrics.detach(other)
    gone = weakref.ref(other)
    del other
    gc.collect()
    assert gone() is None


def test_names_that_are_taken_are_refused() -> None:
    """Nothing is registered or attached by half."""
    registry = CollectorRegistry()
    Counter("jido_exec_retries_total", "mine", registry=registry)
    with pytest.raises(ConfigError, match="CollectorRegistry of its own"):
        metrics.attach(registry)
    assert "jido_exec_starts" not in generate_latest(registry).decode()
    assert not telemetry.LISTENERS
