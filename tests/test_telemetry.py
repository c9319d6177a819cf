"""Telemetry: who hears an event, and that a bad listener harms nobody."""

import asyncio
import json
import logging
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from pydantic import BaseModel

from jido_cluster import telemetry
from jido_cluster.errors import ConfigError, ExecutionError, InvalidInputError
from jido_cluster.exec import Action, Context, action, current_context, run, run_named

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


# ------------------------------------------------------------------ parameters and results


class Login(Action, name="telemetry.login"):
    class Params(BaseModel):
        user: str
        password: str
        tags: list[str] = []

    async def run(self, params: Params, ctx: Context) -> dict[str, Any]:
        return {"user": params.user, "token": "hunter2"}


@action(name="telemetry.encode")
def encode(data: bytes, api_key: str = "") -> bytes:
    if not data:
        raise ExecutionError("empty")
    return data


def test_no_event_holds_parameters_or_results() -> None:
    """Of those that tell how runs go; whatever happens in them."""
    heard: Heard = []
    names = ("start", "stop", "exception", "retry", "compensate")
    telemetry.attach_many(
        "all", [f"jido.exec.{name}" for name in names], lambda *event: heard.append(event)
    )
    asyncio.run(run(Login, {"user": "ann", "password": "hunter2"}))
    with pytest.raises(InvalidInputError):
        asyncio.run(run(Login, {"user": "ann", "password": ["hunter2"]}))
    assert len(heard) == 3
    assert "hunter2" not in repr(heard)
    assert "ann" not in repr(heard)


def test_who_attaches_to_them_gets_parameters_and_results() -> None:
    """Redacted by the names of their keys; of classes, functions and runs over the wire."""
    heard: list[tuple[str, Any]] = []

    def listen(event: str, _: Mapping[str, float], metadata: Mapping[str, Any]) -> None:
        heard.append((event, metadata["params" if event.endswith("params") else "result"]))

    telemetry.attach_many("data", ["jido.exec.params", "jido.exec.result"], listen)
    asyncio.run(run(Login, {"user": "ann", "password": "hunter2"}))
    asyncio.run(run(encode, {"data": b"abc", "api_key": "hunter2"}))
    with pytest.raises(ExecutionError):
        asyncio.run(run(encode, {"data": b""}))
    asyncio.run(run_named("telemetry.login", b'{"user": "bob", "password": "x"}', None, {}))
    secret = "[REDACTED]"
    assert heard == [
        ("jido.exec.params", {"user": "ann", "password": secret, "tags": []}),
        ("jido.exec.result", {"user": "ann", "token": secret}),
        ("jido.exec.params", {"data": "<3 bytes>", "api_key": secret}),
        ("jido.exec.result", "<3 bytes>"),
        ("jido.exec.params", {"data": "<0 bytes>"}),
        ("jido.exec.params", {"user": "bob", "password": secret, "tags": []}),
        ("jido.exec.result", {"user": "bob", "token": secret}),
    ]


def test_redact_is_for_events_of_ones_own() -> None:
    """Whatever it is given, it gives something bounded that JSON can hold."""
    shown = telemetry.redact({"password": 1, "deep": [{"token": 2}], "long": "x" * 10**6})
    assert shown["password"] == shown["deep"][0]["token"] == "[REDACTED]"
    assert len(json.dumps(shown)) < 10_000
    assert telemetry.redact(object) == "<class 'object'>"


def test_listeners_find_the_context_of_the_run() -> None:
    """In every event; afterwards the caller's own is current again."""
    found: list[Any] = []

    def listen(event: str, _: Mapping[str, float], metadata: Mapping[str, Any]) -> None:
        context = current_context()
        assert context is not None
        found.append(context.run_id == metadata["run_id"])

    telemetry.attach_many("ctx", [f"jido.exec.{name}" for name in ("start", "stop")], listen)

    async def main() -> None:
        await run(encode, {"data": b"x"})
        assert current_context() is None

    asyncio.run(main())
    assert found == [True, True]
