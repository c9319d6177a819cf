"""Definitions that cannot work are refused when the class is made, with the name and the remedy."""

import abc
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import pytest
from pydantic import BaseModel, Field, computed_field, field_validator

from jido_cluster import (
    Agent,
    ConfigError,
    HandlerNotFoundError,
    InvalidInputError,
    Needs,
    TurnContext,
    on,
)
from jido_cluster.agent import find_agent, spec_of

if TYPE_CHECKING:
    from decimal import Decimal

T = TypeVar("T")

# Names with which pydantic or Agent would break, or that would silently break pydantic's.
TAKEN = [
    "ctx",
    "copy",
    "json",
    "schema",
    "validate",
    "dict",
    "construct",
    "parse_obj",
    "fields",
    "on_start",
    "on_stop",
    "model_dump",
    "model_config_",
    "model_anything",
]
TAKEN_FIELDS = [name for name in TAKEN if name != "fields"]


def define(**body: Any) -> type[Agent]:
    """An agent class with this body."""
    return type("Made", (Agent,), {"__module__": __name__, **body})


# -- class keywords


def test_an_unknown_class_keyword_is_refused_with_the_nearest_name() -> None:
    """Neither type checker looks at them, so this is the only guard."""
    with pytest.raises(ConfigError, match=r"Typo.*'consistancy'.*'consistency'"):

        class Typo(Agent, consistancy="strong"):
            pass


def test_a_class_keyword_that_resembles_none_lists_them() -> None:
    """All that there are."""
    with pytest.raises(ConfigError, match=r"zzz.*idle_timeout"):

        class Odd(Agent, zzz=1):
            pass


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("name", ""),
        ("name", "a b"),
        ("name", "x" * 201),
        ("name", 5),
        ("version", 0),
        ("version", "two"),
        ("consistency", "sometimes"),
        ("durability", "paper"),
        ("virtual", "perhaps"),
        ("isolation", "lonely"),
        ("ray_options", 5),
        ("needs", {"gpu": 1}),
        ("idle_timeout", 0),
        ("idle_timeout", -1.0),
        ("idle_timeout", float("nan")),
        ("max_mailbox", 0),
        ("max_mailbox", "many"),
        ("partition_strategy", "hope"),
    ],
)
def test_an_ill_class_keyword_is_refused(keyword: str, value: object) -> None:
    """Named, with the class."""
    with pytest.raises(ConfigError, match=keyword):
        type("Ill", (Agent,), {"__module__": __name__}, **{keyword: value})


def test_needs_go_with_a_process_of_its_own() -> None:
    """A shared agent lives where its shard is; ray_options mean a process of its own."""
    with pytest.raises(ConfigError, match=r"needs.*dedicated"):

        class Shared(Agent, needs=Needs(labels={"gpu": "yes"})):
            pass

    class Own(Agent, name="definition.own", needs=Needs(), ray_options={"num_gpus": 1}):
        pass

    assert spec_of(Own).isolation == "dedicated"


def test_a_strong_agent_is_kept_on_disks() -> None:
    """What two crashes may undo is not strong."""
    with pytest.raises(ConfigError, match=r"durability is 'memory'.*\"disk\""):
        type("Both", (Agent,), {}, consistency="strong", durability="memory")


def test_defaults_of_the_class_keywords() -> None:
    """As documented; the name is module and qualified name."""

    class Plain(Agent):
        pass

    spec = spec_of(Plain)
    assert spec.name == f"{__name__}.{Plain.__qualname__}"
    assert (spec.version, spec.consistency, spec.durability) == (1, "eventual", "disk")
    assert (spec.virtual, spec.isolation, spec.idle_timeout) == (False, "shared", 900.0)
    assert (spec.max_mailbox, spec.needs, spec.ray_options) == (1000, None, None)
    assert find_agent(spec.name) is spec


def test_class_keywords_are_not_inherited() -> None:
    """A subclass is another type, with a name of its own."""

    class Parent(Agent, name="definition.parent", virtual=True, max_mailbox=5):
        pass

    class Child(Parent):
        pass

    assert spec_of(Child).name.endswith("Child")
    assert spec_of(Child).name != spec_of(Parent).name


def test_a_name_belongs_to_one_class() -> None:
    """Another class is refused; the same one again replaces it (a notebook cell that ran twice)."""

    def make() -> type[Agent]:
        class Cell(Agent, name="definition.cell"):
            value: int = 0

        return Cell

    make()
    again = make()
    assert spec_of(again) is find_agent("definition.cell")
    with pytest.raises(ConfigError, match=r"definition\.cell.*belongs to.*Cell"):

        class Other(Agent, name="definition.cell"):
            pass

    assert find_agent("definition.cell") is spec_of(again)


# -- names of fields and handlers


@pytest.mark.parametrize("name", TAKEN_FIELDS)
@pytest.mark.filterwarnings("ignore:Field name")
def test_a_field_may_not_take_a_name_that_has_a_meaning(name: str) -> None:
    """With pydantic alone some of them are only warned about."""
    with pytest.raises(ConfigError, match=rf"field '{name}'"):
        define(__annotations__={name: int}, **{name: 0})


@pytest.mark.parametrize("name", TAKEN_FIELDS)
def test_a_handler_may_not_take_a_name_that_has_a_meaning(name: str) -> None:
    """With pydantic alone none of them is noticed."""

    async def handle(self: Any) -> None: ...

    with pytest.raises(ConfigError, match=rf"handler '{name}'"):
        define(**{name: on("a.b")(handle)})


def test_hooks_may_be_overridden_but_are_no_handlers() -> None:
    """Without `@on` they are what they are for."""

    class Hooked(Agent, name="definition.hooked"):
        def on_start(self) -> None: ...
        async def on_stop(self) -> None: ...

    assert spec_of(Hooked).has_on_start
    assert spec_of(Hooked).has_on_stop


def test_field_and_handler_of_one_name_are_refused() -> None:
    """In one class, and between a class and its base, either way round."""
    with pytest.raises(ConfigError, match="'value' is both a field and a handler"):

        class Both(Agent):
            value: int = 0

            @on("a.b")
            async def value(self) -> None: ...  # type: ignore[no-redef]

    class Fielded(Agent, name="definition.fielded"):
        value: int = 0

    with pytest.raises(ConfigError, match="'value'"):

        class Handled(Fielded):
            @on("a.b")
            async def value(self) -> None: ...  # type: ignore[misc, override]

    class Base(Agent, name="definition.base"):
        @on("a.b")
        async def handle(self) -> None: ...

    with pytest.raises(ConfigError, match="'handle'"):

        class Refielded(Base):
            handle: int = 0  # type: ignore[assignment]


def test_an_overriding_method_repeats_its_on() -> None:
    """Otherwise the handler would vanish, or its old code run; with `@on` it replaces it."""

    class Base(Agent, name="definition.overridden"):
        @on("a.b")
        async def handle(self) -> str:
            return "base"

    with pytest.raises(ConfigError, match=r"Silent\.handle.*repeat its @on"):

        class Silent(Base):
            async def handle(self) -> str:
                return "child"

    class Loud(Base, name="definition.loud"):
        @on("a.b")
        async def handle(self) -> str:
            return "child and " + await super().handle()

    assert [one.function for one in spec_of(Loud).handlers] == [Loud.handle]


# -- handlers


def test_two_handlers_of_one_type_are_refused() -> None:
    """In one class, and between a class and its base; both are named."""
    with pytest.raises(ConfigError, match=r"first.*second.*'a\.b'"):

        class Double(Agent):
            @on("a.b")
            async def first(self) -> None: ...

            @on("a.b")
            async def second(self) -> None: ...

    class Base(Agent, name="definition.double"):
        @on("a.**")
        async def first(self) -> None: ...

    with pytest.raises(ConfigError, match="both listen"):

        class Child(Base):
            @on("a.**")
            async def second(self) -> None: ...


def test_a_function_has_one_on() -> None:
    """A second type needs a second method."""
    with pytest.raises(ConfigError, match="two @on"):

        class Twice(Agent):
            @on("a.b")
            @on("a.c")
            async def handle(self) -> None: ...


def stars(self: Any, *args: int) -> None: ...
def only_by_position(self: Any, a: int, /) -> None: ...
def unannotated(self: Any, a) -> None: ...  # type: ignore[no-untyped-def]
def unresolvable(self: Any, a: "Nowhere") -> None: ...  # type: ignore[name-defined]
def unresolvable_result(self: Any) -> "Nowhere": ...  # type: ignore[name-defined]
def uncheckable(self: Any, a: "Opaque") -> None: ...
def wants_context(self: Any, ctx: TurnContext) -> None: ...
def field_default(self: Any, a: int = Field(1)) -> None: ...
def generates(self: Any) -> Any:
    yield 1


async def generates_one(self: Any) -> int:  # type: ignore[misc]
    yield 1


async def generates_opaque(self: Any) -> "AsyncIterator[Opaque]":
    yield Opaque()


async def generates_loosely(self: Any) -> Any:
    yield 1


async def generates_unsaid(self: Any) -> AsyncIterator:  # type: ignore[type-arg]
    yield 1


async def generates_numbers(self: Any, upto: int = 3) -> AsyncGenerator[int, None]:
    yield upto


class Opaque:
    """No type that pydantic can check."""


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (stars, "args.*by name"),
        (only_by_position, "'a' is positional-only"),
        (unannotated, "'a' has no annotation"),
        (unresolvable, "Nowhere"),
        (unresolvable_result, "Nowhere"),
        (uncheckable, "Opaque"),
        (wants_context, "self.ctx"),
        (field_default, "Annotated"),
        (generates, "generator; make it an `async def` that yields"),
        (generates_one, r"AsyncIterator\[\.\.\.\].*int"),
        (generates_opaque, "Opaque"),
    ],
)
def test_a_signature_that_cannot_be_called_by_name_is_refused(
    function: Callable[..., Any], said: str
) -> None:
    """With the parameter."""
    with pytest.raises(ConfigError, match=said):
        define(handle=on("a.b")(function))


@pytest.mark.parametrize(
    ("function", "schema"),
    [
        (generates_loosely, {}),
        (generates_unsaid, {}),
        (generates_numbers, {"type": "integer"}),
    ],
)
def test_a_handler_may_yield(function: Callable[..., Any], schema: dict[str, Any]) -> None:
    """What it says of its result holds for each item; without that, items are plain data."""
    (handler,) = spec_of(define(handle=on("a.b")(function))).handlers
    assert handler.is_stream
    assert handler.work.output_schema() == schema


def test_a_stream_has_one_type() -> None:
    """Nobody could ask for a pattern."""

    async def items(self: Any) -> AsyncIterator[int]:
        yield 1

    with pytest.raises(ConfigError, match="pattern"):
        on("a.*")(items)


def test_a_stream_is_neither_called_nor_sent_a_signal() -> None:
    """It is left out of what a signal runs; a type that only a stream has says so."""

    class Mixed(Agent, name="definition.mixed"):
        @on("a.*")
        async def any_of(self) -> None: ...

        @on("a.b")
        async def items(self) -> AsyncIterator[int]:
            yield 1

        @on("c.d")
        async def others(self) -> AsyncIterator[int]:
            yield 1

    spec = spec_of(Mixed)
    assert [one.type for one in spec.handlers_for("a.b")] == ["a.*"]
    assert spec.stream_for("a.b").type == "a.b"
    assert spec.handler_for("a.c").type == "a.*"
    for refused in (spec.handler_for, spec.handlers_for):
        with pytest.raises(InvalidInputError, match=r"Mixed.others.*stream"):
            refused("c.d")
    with pytest.raises(InvalidInputError, match=r"Mixed.any_of.*call"):
        spec.stream_for("a.c")
    for missing in (spec.handler_for, spec.handlers_for, spec.stream_for):
        with pytest.raises(HandlerNotFoundError, match=r"did you mean 'c\.d'"):
            missing("c.dd")


def test_a_handler_needs_self() -> None:
    """A function without parameters cannot be a method."""
    with pytest.raises(ConfigError):

        class Selfless(Agent):
            @on("a.b")
            def handle() -> None: ...  # type: ignore[misc]


@pytest.mark.parametrize("kind", [staticmethod, classmethod, property])
def test_only_plain_methods_are_handlers(kind: Any) -> None:
    """`@on` outside another decorator is refused; inside one, it would be lost."""

    def handle(self: Any) -> None: ...

    with pytest.raises(ConfigError, match="plain method"):
        on("a.b")(kind(handle))
    with pytest.raises(ConfigError):
        define(handle=kind(on("a.b")(handle)))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"timeout": 0}, "timeout"),
        ({"timeout": -1}, "timeout"),
        ({"timeout": float("inf")}, "timeout"),
        ({"timeout": float("nan")}, "timeout"),
        ({"timeout": "5"}, "timeout"),
        ({"priority": 101}, "priority"),
        ({"priority": -101}, "priority"),
        ({"priority": "high"}, "priority"),
    ],
    ids=repr,
)
def test_ill_options_of_on_are_refused(arguments: dict[str, Any], said: str) -> None:
    """With the value and the rule."""
    with pytest.raises(ConfigError, match=rf"a\.b.*{said}"):
        on("a.b", **arguments)


@pytest.mark.parametrize("type_", ["", "a b", "a..b", "a.***", None, 5, len])
def test_ill_types_of_on_are_refused(type_: Any) -> None:
    """Also `@on` without parentheses."""
    with pytest.raises(ConfigError, match="signal type"):
        on(type_)


def test_priorities_have_inclusive_limits() -> None:
    """-100 and 100 are allowed."""
    on("a.b", priority=100)
    on("a.b", priority=-100)


# -- fields


def test_a_field_whose_annotation_does_not_resolve_is_refused() -> None:
    """At the definition, not at the first spawn."""
    with pytest.raises(ConfigError, match=r"Lost.*Nowhere"):

        class Lost(Agent):
            value: "Nowhere"  # type: ignore[name-defined]


def test_a_field_imported_for_type_checkers_only_is_refused() -> None:
    """The usual cause."""
    with pytest.raises(ConfigError, match="Decimal"):

        class Priced(Agent):
            price: "Decimal"


def test_names_of_the_enclosing_function_are_found() -> None:
    """A class in a function may use what the function has defined."""

    class Part(BaseModel):
        size: int

    class Whole(Agent, name="definition.whole"):
        parts: list["Part"] = []

        @on("whole.add")
        async def add(self, part: "Part") -> "Part":
            return part

    body = spec_of(Whole).handler_for("whole.add").work.load_params(b'{"part":{"size":3}}')
    assert body["part"] == Part(size=3)
    assert Whole(parts=[Part(size=1)]).parts[0].size == 1


def test_a_virtual_agent_has_defaults_for_all_fields() -> None:
    """Its first signal has no state to give; inherited fields count."""
    with pytest.raises(ConfigError, match=r"virtual.*'owner' needs a default"):

        class Cart(Agent, virtual=True):
            items: list[str] = []
            owner: str

    class Base(Agent, name="definition.owned"):
        owner: str

    with pytest.raises(ConfigError, match="'owner'"):

        class Child(Base, virtual=True):
            pass

    class Fine(Agent, name="definition.fine", virtual=True):
        items: list[str] = Field(default_factory=list)
        owner: str | None = None

    assert spec_of(Fine).virtual


def test_unbound_type_parameters_are_refused() -> None:
    """A bound one is an agent type; its base may be generic as long as it is no agent type."""
    with pytest.raises(ConfigError, match=r"Box.*type parameters"):

        class Box(Agent, Generic[T]):
            item: T


def test_a_field_left_out_of_the_state_is_refused() -> None:
    """`exclude=True` would lose it; a private attribute says so."""
    with pytest.raises(ConfigError, match=r"'cache' has exclude=True.*_cache"):

        class Cached(Agent):
            cache: int = Field(0, exclude=True)


def test_what_pydantic_offers_beside_fields_is_free() -> None:
    """Validators, computed fields, private attributes, plain methods, class variables."""

    class Rich(Agent, name="definition.rich"):
        low: int = 0
        _hidden: int = 3

        @field_validator("low")
        @classmethod
        def _check_low(cls, value: int) -> int:
            return max(value, 0)

        @computed_field  # type: ignore[prop-decorator]
        @property
        def doubled(self) -> int:
            return self.low * 2

        def helper(self) -> int:
            return self.low

        @on("rich.get")
        async def get(self) -> int:
            return self.helper()

    assert Rich(low=-5).low == 0
    state = spec_of(Rich).dump(Rich(low=4))
    assert spec_of(Rich).load(state).low == 4  # type: ignore[attr-defined]


def test_mixins_without_state_are_free() -> None:
    """Abstract bases and handlers in a common base are inherited."""

    class Greets(Agent, abc.ABC, name="definition.greets"):
        name_: str = "?"

        @on("greet")
        async def greet(self) -> str:
            return f"I am {self.name_}"

    class Robot(Greets, name="definition.robot"):
        @on("robot.beep")
        async def beep(self) -> str:
            return "beep"

    assert {one.type for one in spec_of(Robot).handlers} == {"greet", "robot.beep"}


# -- order


def test_handlers_are_ranked() -> None:
    """Priority, then specificity, then registration; a base registers before its subclass."""

    class Base(Agent, name="definition.ranked"):
        @on("a.**")
        async def all_of_a(self) -> None: ...

        @on("a.*.c")
        async def middle(self) -> None: ...

    class Ranked(Base, name="definition.ranked2"):
        @on("a.b.c")
        async def exact(self) -> None: ...

        @on("**.c", priority=1)
        async def first(self) -> None: ...

        @on("a.b.*")
        async def right(self) -> None: ...

        @on("**", priority=-1)
        async def last(self) -> None: ...

        @on("*.b.c")
        async def left(self) -> None: ...

    spec = spec_of(Ranked)
    expected = ["**.c", "a.b.c", "a.b.*", "a.*.c", "a.**", "*.b.c", "**"]
    assert [one.type for one in spec.handlers_for("a.b.c")] == expected
    assert spec.handler_for("a.b.c").type == "**.c"
    assert spec.handler_for("a.b").type == "a.**"
    assert spec.handler_for("x").type == "**"


def test_equal_patterns_run_in_order_of_registration() -> None:
    """Of the same specificity: a base's handlers come first, then as written."""

    class First(Agent, name="definition.order"):
        @on("a.*.c")
        async def one(self) -> None: ...

        @on("a.*.*")
        async def two(self) -> None: ...

        @on("a.*.b")
        async def three(self) -> None: ...

    types = [one.type for one in spec_of(First).handlers]
    assert types.index("a.*.c") < types.index("a.*.b")
    assert types[-1] == "a.*.*"


def test_messages_name_the_class_and_fit_a_screen() -> None:
    """No traceback of pydantic's, no web address."""
    with pytest.raises(ConfigError) as raised:
        type("Ill", (Agent,), {"__module__": __name__}, max_mailbox="many")
    assert re.match(r"Ill: ", raised.value.message)
    assert "http" not in raised.value.message
    assert "\n" not in raised.value.message


def test_only_subclasses_of_agent_are_agent_types() -> None:
    """`Agent` itself, instances and other classes are refused."""
    for thing in (Agent, dict, BaseModel, 5, None, Agent()):
        with pytest.raises(ConfigError, match="not an agent type"):
            spec_of(thing)
