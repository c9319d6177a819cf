"""The error tree: where each error stands, what it carries, and how it travels."""

import asyncio
import builtins
import copy
import enum
import json
import pickle
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from jido_cluster import errors
from jido_cluster.errors import (
    ActionTimeoutError,
    AgentExistsError,
    ChainError,
    ConfigError,
    ExecutionError,
    InvalidInputError,
    JidoError,
    OutcomeUnknownError,
    OverloadedError,
    PlanError,
    RejectedError,
    UnavailableError,
)

# Name, base, built-in base, kind, retryable: the table the public documentation gives.
TREE = [
    ("RejectedError", "JidoError", None, "rejected", False),
    ("InvalidInputError", "RejectedError", "ValueError", "validation_error", False),
    ("AgentNotFoundError", "RejectedError", "LookupError", "agent_not_found", False),
    ("HandlerNotFoundError", "RejectedError", "LookupError", "handler_not_found", False),
    ("NotRegisteredError", "RejectedError", "LookupError", "not_registered", False),
    ("AgentExistsError", "RejectedError", None, "agent_exists", False),
    ("CallCycleError", "RejectedError", None, "call_cycle", False),
    ("AgentLostError", "RejectedError", None, "agent_lost", False),
    ("FencedError", "RejectedError", None, "fenced", False),
    ("DeadlineExceededError", "RejectedError", "TimeoutError", "deadline_exceeded", True),
    ("UnavailableError", "RejectedError", None, "unavailable", True),
    ("OverloadedError", "UnavailableError", None, "overloaded", True),
    ("CircuitOpenError", "UnavailableError", None, "circuit_open", True),
    ("NoQuorumError", "UnavailableError", None, "no_quorum", True),
    ("SessionUnavailableError", "UnavailableError", None, "session_unavailable", True),
    ("NoCapableNodeError", "UnavailableError", None, "no_capable_node", True),
    ("ClusterUnavailableError", "UnavailableError", "ConnectionError", "cluster_unavailable", True),
    ("ExecutionError", "JidoError", None, "execution_error", False),
    ("ActionTimeoutError", "ExecutionError", "TimeoutError", "timeout_error", True),
    ("InvalidOutputError", "ExecutionError", None, "invalid_output", False),
    ("RunCancelledError", "ExecutionError", None, "cancelled", False),
    ("ChainError", "ExecutionError", None, "chain_error", False),
    ("PlanError", "ExecutionError", None, "plan_error", False),
    ("OutcomeUnknownError", "JidoError", "TimeoutError", "outcome_unknown", False),
    ("StillRunningError", "JidoError", "TimeoutError", "still_running", True),
    ("ConfigError", "JidoError", None, "config_error", False),
    ("UsageError", "JidoError", "RuntimeError", "usage_error", False),
    ("InternalError", "JidoError", None, "internal_error", False),
    ("WireError", "InternalError", None, "wire_error", False),
]
CLASSES = [getattr(errors, name) for name in errors.__all__]


class PaymentDeclinedError(ExecutionError):
    """An author's own error, with a constructor of its own."""

    kind = "payment_declined"

    def __init__(self, code: int) -> None:
        super().__init__(f"declined: {code}", code=code)


class QuietError(ExecutionError):
    """An author's error without a kind of its own."""


@pytest.mark.parametrize(("name", "base", "built_in", "kind", "retryable"), TREE)
def test_each_class_stands_where_the_documentation_says(
    name: str, base: str, built_in: str | None, kind: str, retryable: bool
) -> None:
    """Class, bases, kind and flag are those of the public table."""
    error = getattr(errors, name)
    assert error.__mro__[1] is getattr(errors, base)
    if built_in is not None:
        assert issubclass(error, getattr(builtins, built_in))
    assert error.kind == kind
    assert error().retryable is retryable


def test_the_tree_holds_nothing_else() -> None:
    """Every exported name is in the table, and every row exported."""
    assert {name for name, *_ in TREE} | {"JidoError"} == set(errors.__all__)


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("error_type", [*CLASSES, PaymentDeclinedError])
def test_every_error_survives_pickling_and_copying(
    error_type: type[JidoError], protocol: int
) -> None:
    """Type, message, details, flags, ids, attributes and notes come back."""
    if error_type is PaymentDeclinedError:
        error: JidoError = PaymentDeclinedError(7)
    else:
        error = error_type("it broke", retryable=True, node="n1", retry_after=1.5, op_id="o1")
    error.error_id = "err-1"
    error.add_note("agent c-1")
    for back in (pickle.loads(pickle.dumps(error, protocol)), copy.copy(error)):
        assert type(back) is type(error)
        assert vars(back) == vars(error)
        assert str(back) == str(error)
        assert back.args == (error.message,)


@pytest.mark.parametrize("error_type", CLASSES)
def test_every_error_survives_the_wire(error_type: type[JidoError]) -> None:
    """The dict is JSON, and gives the same class with the same contents."""
    error = error_type("it broke", retryable=True, known=["a", "b"], limit=3)
    error.error_id = "err-1"
    back = JidoError.from_dict(json.loads(json.dumps(error.to_dict())))
    assert type(back) is error_type
    assert vars(back) | {"retryable": True} == vars(error)


def test_named_details_are_attributes() -> None:
    """`.node`, `.retry_after` and `.op_id` read and write the details."""
    assert AgentExistsError("taken", node="n1").node == "n1"
    assert UnavailableError("later").retry_after is None
    error = OutcomeUnknownError("lost")
    error.op_id = "o1"
    assert error.details == {"op_id": "o1"}


def test_an_authors_error_arrives_as_itself_where_it_is_known() -> None:
    """A subclass with its own kind is found by it, without calling its constructor."""
    back = JidoError.from_dict(PaymentDeclinedError(7).to_dict())
    assert type(back) is PaymentDeclinedError
    assert back.details == {"code": 7}


def test_an_authors_error_arrives_as_its_base_where_it_is_not_known() -> None:
    """An unknown kind gives the nearest built-in class, carrying the kind."""
    data = PaymentDeclinedError(7).to_dict() | {"kind": "known_elsewhere"}
    back = JidoError.from_dict(data)
    assert type(back) is ExecutionError
    assert back.kind == "known_elsewhere"
    assert ExecutionError.kind == "execution_error"
    assert JidoError.from_dict(pickle.loads(pickle.dumps(back)).to_dict()).kind == back.kind


def test_an_error_without_a_kind_of_its_own_travels_as_its_parent() -> None:
    """It would be found by nobody: the parent's kind stands for it."""
    assert type(JidoError.from_dict(QuietError("x").to_dict())) is ExecutionError


def test_base_decides_when_kinds_collide() -> None:
    """A rejection never becomes an execution error because its kind is taken here."""
    data = {"kind": "payment_declined", "base": "rejected", "message": "no"}
    back = JidoError.from_dict(data)
    assert type(back) is RejectedError
    assert back.kind == "payment_declined"


def test_a_built_in_kind_cannot_be_taken() -> None:
    """A class that says it did not run, while it did, is refused at definition."""
    with pytest.raises(ConfigError, match="InvalidInputError"):

        class ThiefError(ExecutionError):
            kind = "validation_error"


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"kind": None, "message": None},
        {"kind": 5, "details": [1], "retryable": "yes"},
        {"base": "nobody"},
    ],
)
def test_a_malformed_report_still_arrives(data: dict[str, Any]) -> None:
    """An error is made of whatever there is."""
    assert type(JidoError.from_dict(data)) is ExecutionError


def test_a_chain_error_carries_its_inner_error() -> None:
    """The inner error keeps its type on the wire and lends its flag to the outer one."""
    error = ChainError("step 1", action="a", index=1, error=OverloadedError("full"), results={})
    assert error.retryable
    assert not ChainError("step 1", error=OverloadedError("full"), retryable=False).retryable
    assert PlanError("plan", error=OverloadedError("full")).retryable
    back = JidoError.from_dict(error.to_dict())
    assert isinstance(back, ChainError)
    assert isinstance(back.error, OverloadedError)
    assert (back.action, back.index, back.results) == ("a", 1, {})


@pytest.mark.parametrize(
    "name",
    [
        "password",
        "db_password",
        "apiKey",
        "API_KEY",
        "accessToken",
        "client-secret",
        "Set-Cookie",
        "Authorization",
        "x-api-key",
        "auth",
        "key",
        "aws_secret_key",
    ],
)
def test_secrets_are_redacted_by_name(name: str) -> None:
    """A value under such a key does not travel, at any depth."""
    data = ExecutionError("x", at={"deep": [{name: "hunter2"}]}).to_dict()
    assert "hunter2" not in json.dumps(data)


@pytest.mark.parametrize("name", ["author", "session", "tokens_used", "keyboard", "routing_key"])
def test_harmless_names_are_not_redacted(name: str) -> None:
    """Words that merely look alike stay readable."""
    assert JidoError.from_dict({"details": {name: "v"}}).to_dict()["details"] == {name: "v"}


class Money(BaseModel):
    amount: int


class Awkward:
    def __repr__(self) -> str:
        raise ValueError("no repr")

    __str__ = __repr__


class AwkwardMapping(dict[str, Any]):
    def items(self) -> Any:
        raise RuntimeError("no items")

    def __repr__(self) -> str:
        raise RuntimeError("no repr")


class Word(enum.StrEnum):
    YES = "yes"


def depth_of(value: Any) -> int:
    """Levels of containers."""
    if isinstance(value, dict):
        return 1 + max(map(depth_of, value.values()), default=0)
    if isinstance(value, list):
        return 1 + max(map(depth_of, value), default=0)
    return 0


@pytest.mark.parametrize(
    ("value", "shaped"),
    [
        (Money(amount=3), {"amount": 3}),
        (datetime(2024, 1, 2, tzinfo=UTC), "2024-01-02T00:00:00Z"),
        (b"abc", "<3 bytes>"),
        (float("inf"), "inf"),
        (2**70, "a number of 71 bits"),
        ((1, 2), [1, 2]),
        (ValueError("no"), "ValueError: no"),
        (asyncio.Lock, "<class 'asyncio.locks.Lock'>"),
        (Awkward(), "<Awkward>"),
        (AwkwardMapping(a=1), "<AwkwardMapping>"),
        ({Awkward(): 1}, {"<Awkward>": 1}),
        (Word.YES, "yes"),
        ((n for n in [1]), "<generator object <genexpr>"),
        ("\ud800", "?"),
    ],
)
def test_details_become_json(value: object, shaped: object) -> None:
    """What JSON has no shape for becomes text."""
    found = ExecutionError("x", value=value).to_dict()["details"]["value"]
    if isinstance(shaped, str) and " object " in shaped:
        found = found.partition(" at 0x")[0]  # its address, and nothing of what it yields
    assert found == shaped


_data = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


_scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary()
# By index: Hypothesis prints what it samples from, and not everything here can be printed.
_STRANGE = [Awkward(), AwkwardMapping(), Word.YES, ValueError("no"), OverloadedError("x"), {1}]
_strange = st.integers(0, len(_STRANGE) - 1).map(lambda index: _STRANGE[index])
_anything = st.recursive(
    _scalars | _strange | st.dates() | st.decimals(),
    lambda inner: (
        st.lists(inner, max_size=150)
        | st.tuples(inner, inner)
        | st.dictionaries(_scalars, inner, max_size=150)
    ),
    max_leaves=300,
)


@given(
    st.sampled_from(CLASSES),
    st.text(),
    st.booleans(),
    st.dictionaries(_scalars, _anything, max_size=150),
)
def test_an_error_survives_the_wire_whatever_its_details(
    error_type: type[JidoError], message: str, retryable: bool, details: dict[Any, Any]
) -> None:
    """Its dict is strict JSON within the bounds; kind, message and flag come back from it."""
    error = error_type(message, retryable=retryable)
    error.details = details
    text = json.dumps(error.to_dict(), allow_nan=False)
    assert len(text) < 500_000
    back = JidoError.from_dict(json.loads(text))
    assert (type(back), back.kind, back.retryable) == (error_type, error.kind, retryable)
    assert back.message == message.encode("utf-8", "replace").decode()[: errors.MAX_MESSAGE]
    assert depth_of(back.details) <= errors.MAX_DEPTH + 1


@given(_anything)
def test_a_report_of_any_shape_is_read(data: Any) -> None:
    """What another sender writes is bounded here too, and never raises."""
    back = JidoError.from_dict({"kind": "execution_error", "message": "m", "details": {"x": data}})
    assert type(back) is ExecutionError
    json.dumps(back.details, allow_nan=False)


@given(st.dictionaries(st.text(), _data))
def test_any_details_encode(details: dict[str, Any]) -> None:
    """Whatever JSON-like data an author puts in, the dict is strict JSON and loads again."""
    error = ExecutionError("x")
    error.details = details
    data = json.loads(json.dumps(error.to_dict(), allow_nan=False))
    assert type(JidoError.from_dict(data)) is ExecutionError


def test_details_are_bounded() -> None:
    """Depth, length and number of values have limits, whatever is put in."""
    endless: list[Any] = []
    endless.append(endless)
    wide = {f"k{i}": {f"j{j}": list(range(1000)) for j in range(100)} for i in range(100)}
    cube: Any = 0
    for _ in range(7):
        cube = [cube] * 100
    error = ExecutionError("m" * 10**6, text="x" * 10**6, endless=endless, wide=wide, cube=cube)
    assert len(json.dumps(error.to_dict())) < 100_000


def test_texts_share_one_budget() -> None:
    """Many long texts stay below the limit of a message, also when JSON escapes each character."""
    rows = [["\x00" * 10**4] * 100 for _ in range(20)]
    error = ExecutionError("x", rows=rows)
    error.details |= {f"k{i}" + "\x00" * 10**4: 1 for i in range(50)}
    assert len(json.dumps(error.to_dict())) < 500_000


def test_what_was_sent_unbounded_is_cut_on_arrival() -> None:
    """Kind, message, id and details; what `to_dict` has cut arrives as it was sent."""
    data = {
        "kind": "k" * 10**6,
        "message": "m" * 10**6,
        "error_id": "e" * 10**6,
        "details": {"many": list(range(10**5)), "password": "hunter2", "text": "x" * 10**6},
    }
    back = JidoError.from_dict(data)
    assert len(json.dumps(back.to_dict())) < 20_000
    assert back.details["password"] == "[REDACTED]"
    cut = ExecutionError("x", many=list(range(1000)), wide={str(i): i for i in range(1000)})
    sent = cut.to_dict()
    assert JidoError.from_dict(sent).details == sent["details"]


def test_details_named_like_parameters_survive() -> None:
    """Details that come from the wire may have any name."""
    data = {"kind": "validation_error", "details": {"message": 1, "retryable": 2, "self": 3}}
    back = JidoError.from_dict(data)
    assert isinstance(back, InvalidInputError)
    assert back.details == {"message": 1, "retryable": 2, "self": 3}


def test_one_handler_catches_all_kinds_of_late() -> None:
    """`except TimeoutError` sees what did not run, what ran too long, and what nobody knows."""
    late = {name for name, *_ in TREE if issubclass(getattr(errors, name), TimeoutError)}
    assert late == {
        "DeadlineExceededError",
        "ActionTimeoutError",
        "OutcomeUnknownError",
        "StillRunningError",
    }
    assert ActionTimeoutError("late").errno is None
