"""Telemetry: who hears an event, and that a bad listener harms nobody."""

import logging
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from jido_cluster import telemetry
from jido_cluster.errors import ConfigError

Heard = list[tuple[str, Mapping[str, float], Mapping[str, Any]]]


@pytest.fixture(autouse=True)
def _nobody_listens_before_and_after() -> Iterator[None]:
    assert not telemetry.LISTENERS
    yield
    for name in {name for attached in telemetry.LISTENERS.values() for name, _ in attached}:
        telemetry.detach(name)


def test_a_listener_hears_its_event_only() -> None:
    """Event name, measurements and metadata arrive as given."""
    heard: Heard = []
    telemetry.attach("one", "a.b", lambda *event: heard.append(event))
    telemetry.execute("a.b", {"duration": 0.5}, {"action": "x"})
    telemetry.execute("a.c", {}, {})
    assert heard == [("a.b", {"duration": 0.5}, {"action": "x"})]


def test_many_events_one_listener() -> None:
    """`attach_many` hears each once, even when named twice; `detach` ends all."""
    heard: Heard = []
    telemetry.attach_many("many", ["a", "b", "a"], lambda *event: heard.append(event))
    telemetry.execute("a", {}, {})
    telemetry.execute("b", {}, {})
    assert [event for event, _, _ in heard] == ["a", "b"]
    assert telemetry.detach("many")
    assert not telemetry.detach("many")
    telemetry.execute("a", {}, {})
    assert len(heard) == 2
    assert not telemetry.LISTENERS


def test_listeners_run_in_the_order_attached() -> None:
    """First come, first told."""
    order: list[str] = []
    telemetry.attach("z", "e", lambda *_: order.append("z"))
    telemetry.attach("a", "e", lambda *_: order.append("a"))
    telemetry.execute("e", {}, {})
    assert order == ["z", "a"]


def test_a_failing_listener_is_detached_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    """The others still hear the event, the caller nothing; the failure is in the log once."""
    heard: Heard = []

    def broken(*_: Any) -> None:
        raise ValueError("boom")

    telemetry.attach_many("broken", ["e", "f"], broken)
    telemetry.attach("good", "e", lambda *event: heard.append(event))
    with caplog.at_level(logging.ERROR):
        telemetry.execute("e", {}, {})
        telemetry.execute("e", {}, {})
        telemetry.execute("f", {}, {})
    assert len(heard) == 2
    assert [record.exc_info is not None for record in caplog.records] == [True]
    assert "broken" in caplog.text


def test_a_name_is_taken_once() -> None:
    """A second listener of a name is refused; the first stays, the second hears nothing."""
    heard: Heard = []
    telemetry.attach("same", "e", lambda *event: heard.append(event))
    with pytest.raises(ConfigError, match="detach it first"):
        telemetry.attach("same", "f", lambda *event: heard.append(event))
    telemetry.execute("e", {}, {})
    telemetry.execute("f", {}, {})
    assert [event for event, _, _ in heard] == ["e"]


@pytest.mark.parametrize("events", ["a.b", [""], [None]])
def test_events_must_be_names(events: Any) -> None:
    """A bare text would be taken apart into letters."""
    with pytest.raises(ConfigError, match="list of names"):
        telemetry.attach_many("x", events, print)


def test_a_listener_may_detach_itself() -> None:
    """Changing the listeners while an event is told leaves that event alone."""
    heard: Heard = []

    def leaves(*_: Any) -> None:
        telemetry.detach("self")

    telemetry.attach("self", "e", leaves)
    telemetry.attach("other", "e", lambda *event: heard.append(event))
    telemetry.execute("e", {}, {})
    telemetry.execute("e", {}, {})
    assert len(heard) == 2


def test_attaching_from_threads_loses_nobody() -> None:
    """Eight threads attach at once; all are heard."""
    heard: list[str] = []
    barrier = threading.Barrier(8)

    def work(name: str) -> None:
        barrier.wait()
        telemetry.attach(name, "e", lambda *_: heard.append(name))

    threads = [threading.Thread(target=work, args=(f"t{i}",)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    telemetry.execute("e", {}, {})
    assert sorted(heard) == [f"t{i}" for i in range(8)]
