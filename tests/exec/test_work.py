"""Work: what parameters and results may be, on both sides of the wire."""

import json
import re
from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated, Any, Literal
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from jido_cluster.errors import ConfigError, InvalidInputError, InvalidOutputError
from jido_cluster.exec.context import Context
from jido_cluster.exec.failures import MAX_DATA
from jido_cluster.exec.work import Work


class Point(BaseModel):
    x: int
    y: int = 0


ORIGIN = Point(x=0)


class Tree(BaseModel):
    children: list["Tree"] = []


def work_of(function: Callable[..., Any], **keywords: Any) -> Work:
    return Work.from_signature(function, name="test.work", **keywords)


def everything(
    a: int,
    b: str = "b",
    *,
    point: Point | None = None,
    when: datetime | None = None,
    raw: bytes = b"",
    ratio: float = 0.5,
    path: Path = Path(),
    tags: set[str] = frozenset(),  # type: ignore[assignment]
    level: Literal["low", "high"] = "low",
    small: Annotated[int, Field(ge=0, lt=10)] = 1,
) -> None: ...


EVERYTHING = {
    "a": 1,
    "b": "ü\u2028",
    "point": Point(x=1),
    "when": datetime(2024, 1, 2, 3, 4, 5, 6, tzinfo=UTC),
    "raw": b"\xff\x00",
    "ratio": float("-inf"),
    "path": Path("/tmp/x"),
    "tags": {"t"},
    "level": "high",
    "small": 9,
}


def test_parameters_survive_the_wire() -> None:
    """Types of Python come back from JSON; what is absent stays absent, for the default."""
    work = work_of(everything)
    assert work.parameters == tuple(EVERYTHING)
    assert work.load_params(work.dump_params(EVERYTHING)) == EVERYTHING
    assert work.load_params(work.dump_params({"a": 1})) == {"a": 1}


@given(st.binary(max_size=50), st.floats(), st.text(), st.integers(-(2**63), 2**63))
def test_any_plain_value_survives_the_wire(
    raw: bytes, ratio: float, text: str, number: int
) -> None:
    """Bytes that are no text, infinities, and all of Unicode that has an encoding."""

    def plain(raw: bytes, ratio: float, text: str, number: int) -> None: ...

    work = work_of(plain)
    params = {"raw": raw, "ratio": ratio, "text": text, "number": number}
    assert repr(work.load_params(work.dump_params(params))) == repr(params)


def test_values_are_read_leniently() -> None:
    """A number in quotes is a number, in JSON and in Python."""
    work = work_of(everything)
    assert work.load_params(b'{"a":"3"}') == work.check_params({"a": "3"}) == {"a": 3}


@pytest.mark.parametrize(
    ("data", "path", "words"),
    [
        ({}, ["a"], "a: Field required"),
        ({"a": "x"}, ["a"], "a: Input should be a valid integer.*, not 'x'"),
        ({"a": 1, "small": 10}, ["small"], "small: Input should be less than 10, not 10"),
        ({"a": 1, "point": {"y": 1}}, ["point", "x"], r"point\.x: Field required"),
        ({"a": 1, "level": "mid"}, ["level"], "level: Input should be 'low' or 'high', not 'mid'"),
        ({"a": 1, "smal": 1}, ["smal"], "smal: unknown parameter; known parameters: a, b, point"),
    ],
)
def test_what_does_not_fit_is_named(data: dict[str, Any], path: list[str], words: str) -> None:
    """Parameter, value and what is expected; the list of pydantic is in the details."""
    work = work_of(everything)
    for attempt in (
        lambda: work.load_params(json.dumps(data).encode()),
        lambda: work.check_params(data),
        lambda: work.dump_params(data),
    ):
        with pytest.raises(InvalidInputError, match=f"^test.work: {words}") as raised:
            attempt()
        assert raised.value.details["errors"][0]["loc"] == path
        assert raised.value.details["known"] == list(EVERYTHING)
        assert raised.value.__cause__ is None
        json.dumps(raised.value.details)


@pytest.mark.parametrize("data", [b"[", b"[]", b"null", b'"x"', b"5", b"\xff", b"{} {}"])
def test_what_is_no_object_is_refused(data: bytes) -> None:
    """Only a JSON object holds parameters; no bytes at all mean none."""
    work = work_of(lambda: None)
    with pytest.raises(InvalidInputError):
        work.load_params(data)
    assert work.load_params(b"") == {}


def test_messages_stay_short_and_keep_secrets() -> None:
    """A long value is cut, many errors are counted, the value of a password does not show."""

    def login(password: int, names: list[int]) -> None: ...

    work = work_of(login)
    with pytest.raises(InvalidInputError) as raised:
        work.check_params({"password": "hunter2", "names": ["x" * 500] * 50})
    assert "hunter2" not in raised.value.message + json.dumps(raised.value.details)
    assert "and 48 more" in raised.value.message
    assert len(raised.value.message) < 700
    assert len(json.dumps(raised.value.details)) < 10_000


def test_a_number_too_long_to_print_is_described() -> None:
    """Python refuses to print it; the error still arrives."""
    with pytest.raises(InvalidInputError, match="a number of 20000 bits"):
        work_of(everything).check_params({"a": 1, "small": 2**19999})


def test_unknown_names_are_ignored_in_deliveries() -> None:
    """A signal may have more than the handler wants, at the top; known names are still checked."""
    work = work_of(everything)
    assert work.load_params(b'{"a":1,"zzz":2}', ignore_unknown=True) == {"a": 1}
    assert work.check_params({"a": 1, "zzz": 2}, ignore_unknown=True) == {"a": 1}
    with pytest.raises(InvalidInputError, match="a: Input"):
        work.load_params(b'{"a":"x","zzz":2}', ignore_unknown=True)


def test_extra_parameters_are_checked_too() -> None:
    """`**extra` takes any name, of its own type."""

    def collect(a: int, **extra: int) -> None: ...

    work = work_of(collect)
    assert work.load_params(b'{"a":1,"b":"2"}') == {"a": 1, "b": 2}
    assert work.load_params(work.dump_params({"a": 1, "b": 2})) == {"a": 1, "b": 2}
    with pytest.raises(InvalidInputError, match="b: Input should be a valid integer"):
        work.load_params(b'{"a":1,"b":"x"}')


def test_names_of_parameters_are_free() -> None:
    """Also those that mean something to pydantic or to this library."""

    def free(
        self: int, timeout: int, copy: int, model_config: int, _x: int, schema: int
    ) -> None: ...

    params = dict.fromkeys(("self", "timeout", "copy", "model_config", "_x", "schema"), 1)
    work = work_of(free)
    assert work.load_params(work.dump_params(params)) == params


def test_recursive_and_repeated_models() -> None:
    """Types that refer to themselves, or occur twice."""

    def plant(one: Tree, two: Tree) -> Tree:
        return one

    work = work_of(plant)
    params = work.load_params(b'{"one":{"children":[{}]},"two":{}}')
    assert params == {"one": Tree(children=[Tree()]), "two": Tree()}
    assert work.load_result(work.dump_result(params["one"])) == params["one"]


def test_the_first_parameter_can_be_left_out() -> None:
    """A handler's `self` is no parameter, and needs no annotation."""

    def handler(self, amount: int = 1) -> None: ...  # type: ignore[no-untyped-def]

    assert work_of(handler, skip_first=True).parameters == ("amount",)


def test_the_context_is_injected_where_it_is_asked_for() -> None:
    """Its parameter is no input; a handler may not have one."""

    def acts(name: str, c: Context) -> None: ...

    work = work_of(acts, with_context=True)
    assert (work.parameters, work.context_name) == (("name",), "c")
    with pytest.raises(ConfigError, match=r"'c' is a Context: a handler has self\.ctx"):
        work_of(acts)


def star(*names: str) -> None: ...
def slash(name: str, /) -> None: ...
def bare(name) -> None: ...  # type: ignore[no-untyped-def]
def unresolved(name: "Nowhere") -> None: ...  # type: ignore[name-defined]
def unresolved_result() -> "Nowhere": ...  # type: ignore[name-defined]
def unknown_type(name: re.Match[str]) -> None: ...
def unknown_result() -> Context: ...  # type: ignore[empty-body]
def field_default(name: str = Field(min_length=1)) -> None: ...
def generator() -> Any:
    yield 1


async def async_generator() -> Any:
    yield 1


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (star, r"\*names cannot be given by name"),
        (slash, "'name' is positional-only"),
        (bare, "'name' has no annotation"),
        (unresolved, r"annotation of unresolved\(\) does not resolve: name 'Nowhere'"),
        (unresolved_result, "does not resolve"),
        (unknown_type, "the parameters cannot be checked"),
        (unknown_result, "the result cannot be checked"),
        (field_default, r"write name: Annotated"),
        (generator, "is a generator"),
        (async_generator, "is a generator"),
    ],
)
def test_signatures_that_cannot_work_are_refused(function: Any, words: str) -> None:
    """At definition, naming the function and the parameter."""
    with pytest.raises(ConfigError, match=f"test.work: .*{words}"):
        work_of(function)


def test_annotations_may_name_what_only_the_caller_knows() -> None:
    """Classes defined inside a function, when their names are given."""

    class Local(BaseModel):
        x: int

    def handler(local: "Local") -> "Local":
        return local

    work = work_of(handler, localns={"Local": Local})
    assert work.load_params(b'{"local":{"x":1}}') == {"local": Local(x=1)}


# ------------------------------------------------------------------ results


@pytest.mark.parametrize(
    ("annotation", "value", "data"),
    [
        (None, None, b"null"),
        (bool, True, b"true"),
        (int, 5, b"5"),
        (int, "5", b"5"),
        (int, 10**30, b"1000000000000000000000000000000"),
        (float, 1, b"1.0"),
        (float, float("inf"), b"Infinity"),
        (str, 'a"\n', b'"a\\"\\n"'),
        (bytes, b"\xff", b'"_w=="'),
        (date, date(2024, 1, 2), b'"2024-01-02"'),
        (UUID, UUID(int=1), b'"00000000-0000-0000-0000-000000000001"'),
        (list[int], ("1", 2), b"[1,2]"),
        (Point, Point(x=1), b'{"x":1,"y":0}'),
        (Point, {"x": "1"}, b'{"x":1,"y":0}'),
        (Any, {"a": [1, b"\xff", Point(x=1)]}, b'{"a":[1,"_w==",{"x":1,"y":0}]}'),
    ],
)
def test_results_become_json_by_their_type(annotation: Any, value: Any, data: bytes) -> None:
    """Checked, turned into the declared type, and written."""

    def result() -> Any: ...

    result.__annotations__["return"] = annotation
    work = work_of(result)
    assert work.dump_result(value) == data
    if annotation is not Any:
        assert work.load_result(data) == work.check_result(value)


class Broken(BaseModel):
    points: list[Point]


def test_a_result_that_does_not_fit_names_type_and_path() -> None:
    """And not the value, which nobody but the author should see."""

    def result() -> Broken: ...  # type: ignore[empty-body]

    work = work_of(result)
    with pytest.raises(
        InvalidOutputError, match=r"of type dict: points\[1\]\.x: Input should"
    ) as raised:
        work.check_result({"points": [{"x": 1}, {"x": "hunter2"}]})
    assert raised.value.details["type"] == "dict"
    assert "hunter2" not in raised.value.message + json.dumps(raised.value.details)


def test_an_instance_that_was_spoilt_does_not_travel() -> None:
    """Assigning is not checked: what no longer fits its own type is refused, not written."""

    def result() -> Point: ...  # type: ignore[empty-body]

    point = Point(x=1)
    point.x = "many"  # type: ignore[assignment]
    with pytest.raises(InvalidOutputError):
        work_of(result).dump_result(point)


@pytest.mark.parametrize("value", [object(), lambda: 1, {1: {2: object()}}])
def test_a_result_without_json_shape_is_refused(value: object) -> None:
    """Without an annotation anything may be returned that JSON can say."""

    def result(): ...  # type: ignore[no-untyped-def]  # noqa: ANN202

    with pytest.raises(InvalidOutputError, match="not JSON-shaped"):
        work_of(result).dump_result(value)


def test_a_stranger_s_result_is_refused() -> None:
    """The other side has another definition: it is not taken for ours."""

    def result() -> Point: ...  # type: ignore[empty-body]

    with pytest.raises(InvalidOutputError):
        work_of(result).load_result(b'{"y":1}')


def test_size_has_a_limit_that_errors_name() -> None:
    """At the limit it passes, one byte more is refused, on either side and for results."""

    def echo(text: str) -> str:
        return text

    work = work_of(echo)
    fits = "x" * (MAX_DATA - len('{"text":""}'))
    data = work.dump_params({"text": fits})
    assert len(data) == MAX_DATA
    assert work.load_params(data) == {"text": fits}
    with pytest.raises(InvalidInputError, match=f"{MAX_DATA + 1} bytes .* limit of {MAX_DATA}"):
        work.dump_params({"text": fits + "x"})
    with pytest.raises(InvalidInputError, match="limit"):
        work.load_params(b'{"text":"' + b"x" * MAX_DATA + b'"}')
    assert len(work.dump_result("x" * (MAX_DATA - 2))) == MAX_DATA
    with pytest.raises(InvalidOutputError, match=f"limit of {MAX_DATA}"):
        work.dump_result("x" * (MAX_DATA - 1))


def test_a_validator_that_breaks_is_an_invalid_input() -> None:
    """Whatever a user's validator raises, the work did not run."""

    def explode(value: Any) -> Any:
        raise RuntimeError("boom")

    from pydantic import BeforeValidator

    def takes(value: Annotated[int, BeforeValidator(explode)]) -> None: ...

    with pytest.raises(InvalidInputError, match="RuntimeError: boom"):
        work_of(takes, localns={"explode": explode}).load_params(b'{"value":1}')


# ------------------------------------------------------------------ models, mappings, schemas


def test_parameters_may_be_a_model_or_any_mapping() -> None:
    """A model is made, or passed through; without one the mapping is taken as given."""

    def run(self: Any, params: Any, ctx: Context) -> int: ...  # type: ignore[empty-body]

    model = Work.from_model(run, name="m", params=Point, result=int)
    point = Point(x=1)
    assert model.check_params(point) is point
    assert model.check_params({"x": "1"}) == model.load_params(b'{"x":1}') == point
    assert model.dump_params(point) == b'{"x":1,"y":0}'
    assert model.takes_context_last
    with pytest.raises(InvalidInputError, match="x: Field required"):
        model.load_params(b"{}", ignore_unknown=True)
    anything = Work.from_model(run, name="m", params=None, result=int)
    assert anything.check_params({"z": [1]}) == anything.load_params(b'{"z":[1]}') == {"z": [1]}


def test_schemas_describe_parameters_and_result() -> None:
    """JSON schema with types, defaults and what is required; the context is not in it."""

    def acts(
        a: Annotated[int, Field(description="how many", ge=1)],
        ctx: Context,
        b: Point = ORIGIN,
        c: object = re,
    ) -> list[str]:
        return []

    work = work_of(acts, with_context=True)
    schema = work.input_schema()
    assert schema["required"] == ["a"]
    assert schema["properties"]["a"] == {
        "description": "how many",
        "minimum": 1,
        "title": "A",
        "type": "integer",
    }
    assert schema["properties"]["b"]["default"] == {"x": 0, "y": 0}
    assert list(schema["properties"]) == ["a", "b", "c"]
    assert work.output_schema() == {"items": {"type": "string"}, "type": "array"}


def test_plain_reads_json_without_a_type() -> None:
    """None for no bytes; what is no JSON is an invalid input."""
    assert Work.plain(b'{"a":[1,null]}') == {"a": [1, None]}
    assert Work.plain(b"") is None
    assert Work.plain(None) is None
    with pytest.raises(InvalidInputError, match="no JSON"):
        Work.plain(b"{")
