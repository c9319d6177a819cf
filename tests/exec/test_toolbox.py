"""Toolbox: what a language model is told, what it may get wrong, and what comes back to it."""

import asyncio
import datetime as dt
import enum
import json
from collections.abc import AsyncIterator, Coroutine
from decimal import Decimal
from functools import partial
from typing import Annotated, Any, Literal, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from jido_cluster.agent import Agent
from jido_cluster.errors import (
    ConfigError,
    ExecutionError,
    InvalidInputError,
    NotRegisteredError,
    UsageError,
)
from jido_cluster.exec import Action, Context, action, current_context
from jido_cluster.exec.instruction import Instruction
from jido_cluster.exec.tool_schema import coerce, plain_schema, strict_schema, without
from jido_cluster.exec.toolbox import MAX_DETAILS, MAX_NAME, Toolbox
from jido_cluster.harness import AgentHarness
from jido_cluster.signals.handler import on
from jido_cluster.testing import AsyncLocalCluster, LocalCluster

T = TypeVar("T")


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Node(BaseModel):
    name: str
    children: list["Node"] = []


class Filter(BaseModel):
    field: str
    limit: int = Field(10, ge=1)
    note: str | None = None


class Circle(BaseModel):
    kind: Literal["circle"]
    radius: float = 1.0


class Square(BaseModel):
    kind: Literal["square"]
    side: int


class Search(Action, name="docs.search", description="Finds documents."):
    class Params(BaseModel):
        query: str = Field(description="What to look for.", min_length=1)
        limit: int = Field(5, ge=1, le=50, description="How many.")
        color: Color = Color.RED
        filters: list[Filter] = []
        since: dt.date | None = None
        root: Node | None = None
        shape: Annotated[Circle | Square, Field(discriminator="kind")] | None = None
        pair: tuple[int, str] | None = None
        same: tuple[int, int] = (1, 1)
        only: Literal["x"] = "x"
        title: str = "untitled"

    async def run(self, params: Params, ctx: Context) -> dict[str, Any]:
        return params.model_dump(mode="json", exclude_defaults=True)


@action(name="add")
def add(a: int, b: int = 1, *, ctx: Context) -> int:
    """Adds two numbers.

    Not for the model.
    """
    return a + b + int(ctx.get("more", 0))


@action(name="fails", timeout=0.05)
async def fails(how: str, size: int = 0) -> int:
    if how == "bug":
        raise ZeroDivisionError("password=hunter2")
    if how == "cancelled":
        raise asyncio.CancelledError
    if how == "stuck":
        await asyncio.Event().wait()
    raise ExecutionError("x" * size, retryable=True, big="y" * size, small=1, token="hunter2")


@action(name="free")
def free(data: dict[str, int], **rest: int) -> dict[str, int]:
    return {**data, **rest}


class Raw(Action, name="raw"):
    def run(self, params: Any, ctx: Context) -> Any:
        return params


class Cart(Agent, name="tools.cart"):
    items: dict[str, int] = {}

    @on("cart.add")
    async def add(self, item: str, count: int = 1) -> dict[str, int]:
        """Puts something in."""
        context = current_context()
        assert context is not None
        self.items[item] = self.items.get(item, 0) + count
        return self.items

    @on("cart.fail")
    def fail(self) -> None:
        raise ExecutionError("cart is closed", kind_of="cart")

    @on("cart.**")
    def every(self) -> None: ...

    @on("cart.tail")
    async def tail(self) -> AsyncIterator[int]:
        yield 1

    @on("cart.own")
    def own(self, agent_id: str) -> str:
        return agent_id


def go(main: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(main)


def call(box: Toolbox, name: str, arguments: Any = "", context: Any = None) -> Any:
    """The decoded answer of a tool."""
    text = arguments if isinstance(arguments, str) else json.dumps(arguments)
    return json.loads(go(box.run(name, text, context)))


def error_of(box: Toolbox, name: str, arguments: Any = "") -> dict[str, Any]:
    answer = call(box, name, arguments)
    assert list(answer) == ["error"]
    error: dict[str, Any] = answer["error"]
    assert list(error) == ["kind", "message", "retryable", "details"]
    return error


# ------------------------------------------------------------------ what a model is told


def test_the_schema_is_what_providers_call_a_function() -> None:
    """Type, name, description, parameters; no titles, no references, only the first paragraph."""
    assert Toolbox(add).schemas() == [
        {
            "type": "function",
            "function": {
                "name": "add",
                "description": "Adds two numbers.",
                "parameters": {
                    "type": "object",
                    "properties": {
                        "a": {"type": "integer"},
                        "b": {"type": "integer", "default": 1},
                    },
                    "required": ["a"],
                    "additionalProperties": False,
                },
            },
        }
    ]


def test_schemas_are_the_callers_own() -> None:
    """Changing one changes no other."""
    box = Toolbox(Search)
    box.schemas()[0]["function"]["parameters"]["properties"].clear()
    assert "query" in box.schemas()[0]["function"]["parameters"]["properties"]


def test_references_are_put_in_place() -> None:
    """Only the type that contains itself keeps one; a field that is named title stays."""
    (schema,) = Toolbox(Search).schemas()
    parameters = schema["function"]["parameters"]
    assert schema["function"]["name"] == "docs_search"
    assert parameters["properties"]["filters"]["items"]["properties"]["limit"]["minimum"] == 1
    assert parameters["properties"]["title"] == {"type": "string", "default": "untitled"}
    assert list(parameters["$defs"]) == ["Node"]
    text = json.dumps(parameters)
    assert text.count('"$ref": "#/$defs/Node"') == text.count("$ref") == 2
    assert "discriminator" not in text


def walk(schema: Any, definitions: Any) -> None:
    """Asserts the rules of strict mode, part by part."""
    allowed = {"description", "anyOf", "type", "enum", "items", "format", "$ref", "properties"}
    allowed |= {"required", "additionalProperties", "minimum", "maximum", "multipleOf"}
    allowed |= {"minItems", "maxItems", "exclusiveMinimum", "exclusiveMaximum"}
    assert schema.keys() <= allowed, schema
    if "$ref" in schema:
        assert schema["$ref"].removeprefix("#/$defs/") in definitions
        return
    for option in schema.get("anyOf", ()):
        walk(option, definitions)
    if schema.get("type") == "object":
        assert schema["additionalProperties"] is False
        assert schema["required"] == list(schema["properties"])
        for one in schema["properties"].values():
            walk(one, definitions)
    elif schema.get("type") == "array":
        walk(schema["items"], definitions)
    else:
        assert schema.keys() & {"type", "anyOf", "enum"}


@pytest.mark.parametrize("target", [Search, add, fails, Cart.add], ids=str)
def test_strict_schemas_keep_the_rules_of_strict_mode(target: Any) -> None:
    """Objects closed, all required, no other keyword; the root is an object."""
    (schema,) = Toolbox(target).schemas(strict=True)
    parameters = schema["function"]["parameters"]
    definitions = parameters.pop("$defs", {})
    assert schema["function"]["strict"] is True
    assert parameters["type"] == "object"
    walk(parameters, definitions)
    for one in definitions.values():
        walk(one, definitions)


def test_strict_schemas_say_optional_by_null() -> None:
    """What may be left out may be null, and its description says what null stands for."""
    (schema,) = Toolbox(Search).schemas(strict=True)
    found = schema["function"]["parameters"]["properties"]
    assert found["limit"] == {
        "description": "How many. Null stands for 5.",
        "anyOf": [{"type": "integer", "minimum": 1, "maximum": 50}, {"type": "null"}],
    }
    assert found["since"]["anyOf"] == [{"type": "string", "format": "date"}, {"type": "null"}]
    assert found["only"]["anyOf"] == [{"type": "string", "enum": ["x"]}, {"type": "null"}]
    assert found["same"]["anyOf"][0]["items"] == {"type": "integer"}
    assert found["pair"]["anyOf"][0]["items"] == {
        "anyOf": [{"type": "integer"}, {"type": "string"}]
    }
    assert found["query"] == {"type": "string", "description": "What to look for."}


class Loose(BaseModel):
    anything: Any


@action(name="loose")
def loose(one: Loose) -> int:
    return 1


@action(name="lists")
def lists(items: list[Any]) -> int:
    return 1


@pytest.mark.parametrize(
    ("target", "where"),
    [
        (free, "'data' takes a mapping"),
        (Raw, "it takes a mapping"),
        (loose, "'one.anything' takes any value"),
        (lists, "'items[]' takes any value"),
    ],
)
def test_strict_mode_refuses_what_it_cannot_express(target: Any, where: str) -> None:
    """By a definition error that names tool, part and remedy; the plain form goes."""
    box = Toolbox(target)
    with pytest.raises(ConfigError, match="strict=False") as caught:
        box.schemas(strict=True)
    assert where in caught.value.message
    assert box.schemas()


def test_parts_that_only_hand_made_schemas_have() -> None:
    """Always-true parts, single types without a word, foreign references, open lists."""
    schema = {
        "type": "object",
        "properties": {
            "any": True,
            "list": {"type": "array", "items": True},
            "types": {"type": ["string", "null"]},
            "far": {"$ref": "http://elsewhere"},
        },
        "required": ["any"],
    }
    plain = plain_schema(schema)
    assert plain["properties"]["any"] == {}
    assert plain["properties"]["far"] == {"$ref": "http://elsewhere"}
    with pytest.raises(ConfigError, match="a list of anything"):
        strict_schema({"type": "array", "items": True}, "x")
    assert coerce({"types": None, "any": None}, plain, {}) == {"types": None, "any": None}
    assert coerce({"list": [1], "far": 1}, plain, {}) == {"list": [1], "far": 1}
    with pytest.raises(ConfigError, match="'far' takes what a schema elsewhere says"):
        strict_schema(without(plain, {"any", "list"}), "x")


# ------------------------------------------------------------------ names


def test_names_are_made_valid_and_mapped_back() -> None:
    """What providers refuse becomes an underscore; a long name keeps its end and is distinct."""
    long = "a" * 60 + "."

    @action(name=long + "first")
    def first() -> int:
        return 1

    @action(name="b" * 60 + ".first")
    def second() -> int:
        return 2

    box = Toolbox(first, second, Search)
    names = [schema["function"]["name"] for schema in box.schemas()]
    assert len(set(names)) == 3
    assert all(len(name) <= MAX_NAME for name in names)
    assert all(set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789_") for name in names)
    assert names[0].endswith("a_first")
    assert [call(box, name) for name in names[:2]] == [1, 2]


def test_names_that_would_be_one_are_refused() -> None:
    """The same action twice, and two that differ only in what providers refuse."""

    @action(name="docs:search")
    def other() -> int:
        return 1

    with pytest.raises(ConfigError, match="docs:search.*docs.search.*docs_search"):
        Toolbox(Search, other)
    with pytest.raises(ConfigError, match="wrap it"):
        Toolbox(add, add)


@pytest.mark.parametrize(
    ("target", "why"),
    [
        (print, "is no action"),
        (3, "tool 0: 3 is no action"),
        (partial(add, b=1), "no partial"),
        (partial(add, 1), "give .action, params."),
        ((add, {"c": 1}), "no parameter 'c'"),
        ((add, {"b": object()}), "no JSON"),
        (Cart.every, "pattern"),
        (Cart.tail, "stream"),
        (partial(print, Cart.add, 1, 2, 3), "2 positional arguments, 3 were given"),
        (Cart.own, "partial"),
    ],
    ids=str,
)
def test_what_is_no_tool_is_refused(target: Any, why: str) -> None:
    """When the box is made, with a reason."""
    with pytest.raises(ConfigError, match=why):
        Toolbox(target)


def test_a_name_nobody_has_is_refused() -> None:
    """As everywhere else."""
    with pytest.raises(NotRegisteredError, match="tool 1: no action named"):
        Toolbox(add, "no.such.action")


def test_an_empty_box_has_no_tools() -> None:
    """And says so to a model that calls one."""
    assert Toolbox().schemas() == []
    assert error_of(Toolbox(), "x")["kind"] == "not_registered"


# ------------------------------------------------------------------ running


def test_a_tool_gives_its_result_as_json() -> None:
    """Sync and async actions, by class, function and registered name; the context arrives."""
    assert call(Toolbox(add), "add", {"a": 2}, {"more": 10}) == 13
    assert call(Toolbox("docs.search"), "docs_search", {"query": "q"}) == {"query": "q"}
    assert call(Toolbox(Raw), "raw", {"x": [1, None, 2**70]}) == {"x": [1, None, 2**70]}
    assert call(Toolbox(free), "free", {"data": {"a": 1}, "b": 2}) == {"a": 1, "b": 2}
    assert repr(Toolbox(add, Raw)) == "<Toolbox add, raw>"


@pytest.mark.parametrize(
    "given",
    [
        {"a": "2", "b": 3.0},
        {"a": 2, "b": "3"},
        json.dumps(json.dumps({"a": 2, "b": 3})),
        ' {"a": 2, "b": 3} ',
    ],
)
def test_arguments_are_coerced(given: Any) -> None:
    """Numbers in texts, JSON in JSON, and spaces around it."""
    assert call(Toolbox(add), "add", given) == 5


@pytest.mark.parametrize("given", ["", "  ", "null", "{}"])
def test_no_arguments_are_none(given: str) -> None:
    """Providers differ in how they say so."""

    @action(name="nothing")
    def nothing() -> str:
        return "ok"

    assert call(Toolbox(nothing), "nothing", given) == "ok"


def test_null_stands_for_what_may_be_left_out() -> None:
    """At any depth; where null is a value, or the parameter is required, it stays null."""
    given: dict[str, Any] = {
        "query": "q",
        "limit": None,
        "color": None,
        "since": None,
        "filters": [{"field": "f", "limit": None, "note": None}],
        "root": {"name": "n", "children": [{"name": "m", "children": None}]},
        "shape": {"kind": "circle", "radius": None},
        "pair": [1, "a"],
        "title": None,
    }
    assert call(Toolbox(Search), "docs_search", given) == {
        "query": "q",
        "filters": [{"field": "f"}],
        "root": {"name": "n", "children": [{"name": "m"}]},
        "shape": {"kind": "circle"},
        "pair": [1, "a"],
    }
    error = error_of(Toolbox(Search), "docs_search", {"query": None})
    assert error["kind"] == "validation_error"
    assert "query" in error["message"]
    assert error_of(Toolbox(free), "free", {"data": {"a": None}})["details"]["errors"]


def test_json_in_a_text_is_read_where_an_object_belongs() -> None:
    """Lists and objects, also where null may stand; a text that belongs there stays."""
    given = {
        "query": "[1]",
        "filters": '[{"field": "f"}]',
        "root": '{"name": "n"}',
        "shape": {"kind": "square", "side": 2},
    }
    assert call(Toolbox(Search), "docs_search", given) == {
        "query": "[1]",
        "filters": [{"field": "f"}],
        "root": {"name": "n"},
        "shape": {"kind": "square", "side": 2},
    }
    for wrong in ("[1", '"x"', "3"):
        error = error_of(Toolbox(Search), "docs_search", {"query": "q", "filters": wrong})
        assert error["kind"] == "validation_error"


@pytest.mark.parametrize(
    ("name", "arguments", "kind", "says"),
    [
        ("ad", "{}", "not_registered", "did you mean 'add'?"),
        ("nope", "{}", "not_registered", "there are: add, fails"),
        ("add", "{", "validation_error", "no JSON"),
        ("add", '"{"', "validation_error", "no JSON"),
        ("add", "\ud800", "validation_error", "no JSON"),
        ("add", "[1]", "validation_error", "one JSON object, not list"),
        ("add", '"\\"x\\""', "validation_error", "one JSON object, not str"),
        ("add", "{}", "validation_error", "a: Field required"),
        ("add", '{"a": 1, "z": 2}', "validation_error", "known parameters: a, b"),
        ("add", '{"a": "x"}', "validation_error", "not 'x'"),
        ("add", '{"a": "' + "1" * 2**20 + '"}', "validation_error", "limit"),
        ("fails", '{"how": "bug"}', "execution_error", "ZeroDivisionError: password=[REDACTED]"),
        ("fails", '{"how": "cancelled"}', "execution_error", "CancelledError"),
        ("fails", '{"how": "stuck"}', "timeout_error", "within its timeout"),
    ],
)
def test_what_a_model_can_cause_comes_back_to_it(
    name: str, arguments: str, kind: str, says: str
) -> None:
    """As JSON with kind, message and flag; nothing is raised."""
    box = Toolbox(add, fails)
    error = error_of(box, name, arguments)
    assert error["kind"] == kind
    assert says in error["message"]
    assert error["retryable"] is (kind == "timeout_error")


def test_arguments_nested_too_deeply_come_back() -> None:
    """JSON in texts in JSON, of which no parser sees the whole, within the limit of size."""
    text = "[]"
    for _ in range(7):
        for _ in range(60):
            text = f'[{{"name":"n","children":{text}}}]'
        text = json.dumps(text)
    arguments = f'{{"query":"q","root":{{"name":"n","children":{text}}}}}'
    assert len(arguments) < 2**20
    error = error_of(Toolbox(Search), "docs_search", arguments)
    assert error["kind"] == "validation_error"
    assert "nested too deeply" in error["message"]


def test_answers_are_bounded() -> None:
    """A model pays for every character: what does not fit is left out, secrets always."""
    error = error_of(Toolbox(fails), "fails", {"how": "x", "size": 10**5})
    assert (error["kind"], error["retryable"]) == ("execution_error", True)
    assert error["details"] == {"small": 1, "token": "[REDACTED]"}
    assert len(json.dumps(error)) < MAX_DETAILS


def test_what_the_program_gets_wrong_is_raised() -> None:
    """Arguments that are no text, and a context that is no mapping."""
    box = Toolbox(add)
    with pytest.raises(UsageError, match=r"json\.dumps"):
        go(box.run("add", {"a": 1}))  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError, match="context"):
        go(box.run("add", "{}", 3))  # type: ignore[arg-type]


def test_cancelling_a_tool_cancels_its_action() -> None:
    """Cancellation is the program's: no answer is made of it."""

    async def main() -> None:
        begun = asyncio.Event()

        @action(name="waits")
        async def waits() -> None:
            begun.set()
            await asyncio.Event().wait()

        task = asyncio.create_task(Toolbox(waits).run("waits", ""))
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    go(main())


# ------------------------------------------------------------------ what is set beforehand


def test_what_an_instruction_sets_is_kept_from_the_model() -> None:
    """It is not in the schema, the model cannot set it, and the action gets it."""
    box = Toolbox((add, {"b": 40}))
    (schema,) = box.schemas()
    assert list(schema["function"]["parameters"]["properties"]) == ["a"]
    assert call(box, "add", {"a": 2}) == 42
    assert "unknown parameter" in error_of(box, "add", {"a": 2, "b": 1})["message"]
    limited = Toolbox(Instruction(Search, params={"limit": 7, "since": dt.date(2024, 1, 2)}))
    found = call(limited, "docs_search", {"query": "q"})
    assert (found["limit"], found["since"]) == (7, "2024-01-02")
    assert call(Toolbox((Raw, {"x": 1})), "raw", {"y": 2}) == {"y": 2, "x": 1}


def test_context_and_options_may_be_set_too() -> None:
    """Data of the call win over those of the instruction; options hold for the tool."""
    box = Toolbox((add, {}, {"more": 10}))
    assert call(box, "add", {"a": 1}) == 12
    assert call(box, "add", {"a": 1}, {"more": 20}) == 22
    slow = Toolbox((fails, None, None, {"timeout": 0.001}))
    assert "0.001 s" in error_of(slow, "fails", {"how": "stuck"})["message"]


# ------------------------------------------------------------------ handlers


def test_a_handler_of_one_agent() -> None:
    """By `partial(call, handler)`: its name, docstring and parameters; state changes."""

    async def main() -> None:
        harness = AgentHarness(Cart())
        box = Toolbox(partial(harness.call, Cart.add, count=2), partial(harness.call, Cart.fail))
        names = [schema["function"]["name"] for schema in box.schemas()]
        assert names == ["cart_add", "cart_fail"]
        assert box.schemas()[0]["function"]["description"] == "Puts something in."
        assert json.loads(await box.run("cart_add", '{"item": "tea"}')) == {"tea": 2}
        assert harness.state.items == {"tea": 2}
        error = json.loads(await box.run("cart_fail", ""))["error"]
        assert (error["kind"], error["message"]) == ("execution_error", "cart is closed")
        error = json.loads(await box.run("cart_add", '{"item": []}'))["error"]
        assert error["kind"] == "validation_error"

    go(main())


def test_a_handler_by_position_and_a_call_that_breaks() -> None:
    """Positional parameters are set beforehand too; another exception is an execution error."""

    async def broken(handler: Any, *args: Any, **params: Any) -> Any:
        raise KeyError(handler.__name__)

    box = Toolbox(partial(broken, Cart.add, "tea"))
    (schema,) = box.schemas()
    assert list(schema["function"]["parameters"]["properties"]) == ["count"]
    assert error_of(box, "cart_add", "{}")["kind"] == "execution_error"


def test_a_handler_by_a_ref_of_either_kind() -> None:
    """Sync refs are called in a thread; the loop goes on."""
    with LocalCluster.local() as cluster:
        ref = cluster.spawn(Cart, "c-1")
        assert call(Toolbox(partial(ref.call, Cart.add)), "cart_add", {"item": "a"}) == {"a": 1}

    async def main() -> None:
        async with AsyncLocalCluster.local() as cluster:
            ref = await cluster.spawn(Cart, "c-1")
            box = Toolbox(partial(ref.call, Cart.add))
            assert json.loads(await box.run("cart_add", '{"item": "a"}')) == {"a": 1}

    go(main())


class Shop(Action, name="tools.shop"):
    class Params(BaseModel):
        calls: list[tuple[str, str]]

    async def run(self, params: Params, ctx: Context) -> list[Any]:
        box = Toolbox(Cart.add, add)
        return [json.loads(await box.run(name, text, ctx)) for name, text in params.calls]


def test_a_handler_whose_agent_the_model_names() -> None:
    """It has to be named, has to exist, and is reached by the context's cluster."""
    (schema,) = Toolbox(Cart.add).schemas()
    parameters = schema["function"]["parameters"]
    assert parameters["required"] == ["agent_id", "item"]
    calls = [
        ("cart_add", '{"agent_id": "c-1", "item": "tea"}'),
        ("cart_add", '{"agent_id": "c-2", "item": "tea"}'),
        ("cart_add", '{"item": "tea"}'),
        ("cart_add", '{"agent_id": "no id", "item": "tea"}'),
        ("add", '{"a": 1}'),
    ]
    with LocalCluster.local() as cluster:
        cluster.spawn(Cart, "c-1")
        answers = cluster.run(Shop, {"calls": calls})
        assert cluster.ref(Cart, "c-1").state().items == {"tea": 1}
    assert answers[0] == {"tea": 1}
    assert answers[4] == 2
    kinds = [answer["error"]["kind"] for answer in answers[1:4]]
    assert kinds == ["agent_not_found", "validation_error", "validation_error"]


def test_without_a_cluster_such_a_handler_is_misuse() -> None:
    """Whichever tool the model picked: the program would find out too late otherwise."""
    with pytest.raises(UsageError, match="no cluster"):
        call(Toolbox(Cart.add, add), "add", {"a": 1})


# ------------------------------------------------------------------ properties


class Inner(BaseModel):
    number: int = 3
    maybe: float | None = None
    words: list[str] = ["w"]
    tree: Node | None = None


class Wide(BaseModel):
    text: str
    flag: bool = True
    amount: Decimal = Decimal("1.5")
    color: Color = Color.BLUE
    inner: Inner = Inner()
    inners: list[Inner] = []
    choice: int | list[Inner] | None = None
    shape: Circle | Square | None = None


_leaves = st.builds(Node, name=st.text(), children=st.just([]))
_nodes = st.builds(Node, name=st.text(), children=st.lists(_leaves, max_size=3))
_inners = st.builds(Inner, tree=st.none() | _nodes)
_wide = st.builds(
    Wide,
    amount=st.decimals(-100, 100, places=2),
    inner=_inners,
    inners=st.lists(_inners, max_size=3),
    choice=st.none() | st.integers() | st.lists(_inners, max_size=2),
)


@given(_wide)
def test_what_fits_is_left_as_it_is(value: Wide) -> None:
    """Undoing habits changes no arguments that have none."""
    schema = plain_schema(Wide.model_json_schema())
    given_json = json.loads(value.model_dump_json())
    found = coerce(given_json, schema, schema.get("$defs", {}))
    assert Wide.model_validate_json(json.dumps(found)) == Wide.model_validate_json(
        value.model_dump_json()
    )


@given(_wide, st.randoms(use_true_random=False))
def test_nulls_for_defaults_are_undone(value: Wide, random: Any) -> None:
    """Wherever a default stood, null may have been given instead."""

    def nulled(part: Any, default: Any) -> Any:
        if isinstance(part, dict) and isinstance(default, dict):
            return {key: nulled(one, default.get(key)) for key, one in part.items()}
        return None if part == default and random.random() < 0.5 else part

    schema = plain_schema(Wide.model_json_schema())
    plain = json.loads(value.model_dump_json())
    defaults = json.loads(Wide(text="").model_dump_json()) | {"text": object()}
    found = coerce(nulled(plain, defaults), schema, schema.get("$defs", {}))
    assert Wide.model_validate(found) == Wide.model_validate(plain)
