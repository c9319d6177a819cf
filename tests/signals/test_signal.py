"""Signals are CloudEvents: immutable, plain, and the same after any journey."""

import copy
import json
import pickle
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jido_cluster import (
    Agent,
    ConfigError,
    HandlerNotFoundError,
    InvalidInputError,
    Signal,
    on,
)
from jido_cluster.runtime.turn import encode_signal
from jido_cluster.signals.signal import from_wire

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
NAMES = st.text("abcdefghijklmnopqrstuvwxyz0123456789", min_size=1, max_size=20).filter(
    lambda name: name not in {"id", "source", "type", "time", "subject", "data", "specversion"}
)
SIGNALS = st.builds(
    lambda data, subject, extensions: Signal(
        "order.placed", data, source="urn:shop", subject=subject, extensions=extensions
    ),
    PLAIN,
    st.none() | st.text(min_size=1),
    st.dictionaries(NAMES, st.text() | st.integers(-(2**31), 2**31) | st.booleans(), max_size=3),
)


class Player(Agent, name="signals.player"):
    seat_number: int = 0

    @on("player.seated")
    async def seated(self, seat: int, name: str = "") -> None:
        self.seat_number = seat

    @on("player.*.moved")
    async def moved(self) -> None: ...

    def free(self) -> None: ...


def parts(signal: Signal) -> tuple[Any, ...]:
    return (
        signal.type,
        signal.data,
        signal.id,
        signal.source,
        signal.subject,
        signal.time,
        dict(signal.extensions),
    )


def test_a_signal_has_all_attributes_of_an_event() -> None:
    """Made by itself where it was not given: id, source, time."""
    before = datetime.now(UTC)
    one, two = Signal("a.b"), Signal("a.b", {"x": 1})
    assert one.id != two.id
    assert (one.type, one.data, one.source, one.subject) == ("a.b", None, "/", None)
    assert before <= one.time <= datetime.now(UTC)
    assert one.time.tzinfo is not None
    assert dict(one.extensions) == {}


def test_a_signal_is_immutable() -> None:
    """No attribute can be set, removed or added; extensions cannot be changed either way."""
    given_: dict[str, Any] = {"trial": 1}
    signal = Signal("a.b", extensions=given_)
    for name in ("type", "data", "id", "extensions", "other"):
        with pytest.raises(AttributeError, match="immutable"):
            setattr(signal, name, "x")
    with pytest.raises(AttributeError):
        del signal.type
    with pytest.raises(TypeError):
        signal.extensions["trial"] = 2  # type: ignore[index]
    given_["trial"] = 3
    assert dict(signal.extensions) == {"trial": 1}


@given(SIGNALS)
def test_an_event_comes_back_as_it_was(signal: Signal) -> None:
    """As a mapping, as JSON, as a pickle, as a copy, and over the wire."""
    assert parts(Signal.from_dict(signal.to_dict())) == parts(signal)
    assert parts(Signal.from_dict(json.loads(json.dumps(signal.to_dict())))) == parts(signal)
    assert parts(pickle.loads(pickle.dumps(signal))) == parts(signal)
    assert parts(copy.deepcopy(signal)) == parts(signal)
    assert parts(from_wire(encode_signal(signal, None))) == parts(signal)


def test_the_json_form_is_the_standards() -> None:
    """Version, required attributes, RFC 3339 time; extensions beside them, absent ones absent."""
    signal = Signal("a.b", {"x": 1}, id="1", source="urn:s", extensions={"trial": True})
    event = signal.to_dict()
    assert event["specversion"] == "1.0"
    assert (event["id"], event["source"], event["type"]) == ("1", "urn:s", "a.b")
    assert datetime.fromisoformat(event["time"]) == signal.time
    assert event["trial"] is True
    assert event["data"] == {"x": 1}
    assert "subject" not in event
    assert Signal("a.b", subject="s").to_dict()["subject"] == "s"


def test_unknown_attributes_become_extensions() -> None:
    """Events of other systems keep what we do not know."""
    event = {"specversion": "1.0", "id": "1", "source": "/s", "type": "a.b", "vendor": "v", "n": 3}
    signal = Signal.from_dict(event)
    assert dict(signal.extensions) == {"vendor": "v", "n": 3}
    assert signal.data is None
    assert signal.time.tzinfo is not None


@pytest.mark.parametrize("missing", ["id", "source", "type"])
@pytest.mark.parametrize("how", ["absent", "empty"])
def test_required_attributes_are_required(missing: str, how: str) -> None:
    """Named when one is absent or empty."""
    event = {"specversion": "1.0", "id": "1", "source": "/s", "type": "a.b"}
    if how == "absent":
        del event[missing]
    else:
        event[missing] = ""
    with pytest.raises(InvalidInputError, match=missing):
        Signal.from_dict(event)


@pytest.mark.parametrize("version", ["0.3", "2.0", "1.1", "", None, 1])
def test_other_versions_are_refused(version: object) -> None:
    """Named, with the one that is spoken."""
    event = {"specversion": version, "id": "1", "source": "/s", "type": "a.b"}
    with pytest.raises(InvalidInputError, match=r"specversion.*1\.0"):
        Signal.from_dict(event)


@pytest.mark.parametrize(
    "event",
    [
        {"id": 5, "source": "/s", "type": "a.b"},
        {"id": "1", "source": ["s"], "type": "a.b"},
        {"id": "1", "source": "/s", "type": 5},
        {"id": "1", "source": "/s", "type": "a..b"},
        {"id": "1", "source": "/s", "type": "a.*"},
        {"id": "1", "source": "/s", "type": "a.b", "time": "yesterday"},
        {"id": "1", "source": "/s", "type": "a.b", "time": 5},
        {"id": "1", "source": "/s", "type": "a.b", "time": "2026-01-01T00:00:00"},
        {"id": "1", "source": "/s", "type": "a.b", "subject": 7},
        {"id": "1", "source": "/s", "type": "a.b", "other": {"deep": 1}},
        {"id": "1", "source": "/s", "type": "a.b", "Other-Name": "x"},
    ],
    ids=repr,
)
def test_ill_events_are_the_senders_mistake(event: dict[str, Any]) -> None:
    """An event from outside that is malformed is invalid input, whatever is wrong with it."""
    with pytest.raises(InvalidInputError):
        Signal.from_dict({"specversion": "1.0", **event})


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"5", b"null", b"\xff"])
def test_bytes_that_are_no_event_are_the_senders_mistake(data: bytes) -> None:
    """As above, from the wire."""
    with pytest.raises(InvalidInputError):
        from_wire(data)


def test_time_keeps_its_zone_and_needs_one() -> None:
    """Any zone is the same point in time; a naive one is refused, with the remedy."""
    when = datetime(2026, 1, 1, 12, tzinfo=timezone(timedelta(hours=2)))
    assert Signal.from_dict(Signal("a.b", time=when).to_dict()).time == when
    with pytest.raises(InvalidInputError, match="time zone"):
        Signal("a.b", time=datetime(2026, 1, 1))  # noqa: DTZ001 - the mistake under test
    zulu = {"specversion": "1.0", "id": "1", "source": "/s", "type": "a.b"}
    assert Signal.from_dict({**zulu, "time": "2026-01-01T10:00:00Z"}).time == when


@pytest.mark.parametrize("type_", ["", "a.*", "**", "a b", "a..b", None, 5])
def test_a_signal_has_a_literal_type(type_: Any) -> None:
    """Patterns and malformed types are refused."""
    with pytest.raises(ConfigError):
        Signal(type_)


@pytest.mark.parametrize(
    "extensions",
    [
        {"Upper": 1},
        {"a-b": 1},
        {"": 1},
        {"id": "x"},
        {"data": 1},
        {"ok": 1.5},
        {"ok": None},
        {"ok": []},
    ],
    ids=repr,
)
def test_ill_extensions_are_refused(extensions: dict[str, Any]) -> None:
    """Lower-case letters and digits, scalar values, and no name of an attribute."""
    with pytest.raises(InvalidInputError, match="extension"):
        Signal("a.b", extensions=extensions)


def test_data_take_the_shape_of_json_when_they_travel() -> None:
    """Models, points in time and bytes become what the receiver reads."""
    when = datetime(2026, 1, 1, tzinfo=UTC)
    event = Signal("a.b", {"when": when, "raw": b"\xff", "far": float("inf")}).to_dict()
    assert event["data"]["when"] == "2026-01-01T00:00:00Z"
    assert event["data"]["raw"] == "_w=="
    back = from_wire(encode_signal(Signal("a.b", {"far": float("inf")}), None))
    assert back.data == {"far": float("inf")}


def test_data_that_do_not_travel_are_refused() -> None:
    """When the signal is sent, as invalid input."""
    with pytest.raises(InvalidInputError):
        encode_signal(Signal("a.b", object()), None)


def test_a_sender_is_the_source_unless_there_is_one() -> None:
    """The agent's id stands in for the default source only."""
    assert from_wire(encode_signal(Signal("a.b"), "agent-1")).source == "agent-1"
    assert from_wire(encode_signal(Signal("a.b", source="urn:x"), "agent-1")).source == "urn:x"


def test_of_names_the_arguments_of_a_handler() -> None:
    """By position and by name, for the function and for the bound method."""
    for handler in (Player.seated, Player().seated):
        signal = Signal.of(handler, 3, name="ann")
        assert (signal.type, signal.data) == ("player.seated", {"seat": 3, "name": "ann"})
    assert Signal.of(Player.seated, seat=3).data == {"seat": 3}


def test_of_refuses_what_does_not_fit() -> None:
    """Too many arguments, one twice, a pattern, no handler."""
    of: Any = Signal.of
    with pytest.raises(InvalidInputError, match="positional"):
        of(Player.seated, 1, "ann", 5)
    with pytest.raises(InvalidInputError, match="twice"):
        of(Player.seated, 1, seat=1)
    with pytest.raises(InvalidInputError, match="pattern"):
        of(Player.moved)
    with pytest.raises(HandlerNotFoundError, match="free"):
        of(Player.free)
    with pytest.raises(InvalidInputError, match="chair"):
        of(Player.seated, chair=1)


def test_signals_are_equal_by_their_parts() -> None:
    """An event that has travelled equals the one that was sent; its text names type and id."""
    signal = Signal("a.b", {"x": 1}, id="1")
    assert pickle.loads(pickle.dumps(signal)) == signal
    assert Signal("a.b", {"x": 1}) != Signal("a.b", {"x": 1})
    assert "a.b" in repr(signal)
