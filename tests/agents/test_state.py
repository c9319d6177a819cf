"""States are stored as JSON and load as they were, or are refused before they are committed."""

import asyncio
import enum
import math
import pickle
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import AliasChoices, BaseModel, ConfigDict, Field, SerializeAsAny, model_validator

from jido_cluster import Agent, InvalidInputError, InvalidOutputError, on
from jido_cluster.agent import spec_of
from jido_cluster.testing import AgentHarness, check_state


class Colour(enum.Enum):
    RED = "r"
    BLUE = "b"


class Item(BaseModel):
    name: str
    price: Decimal = Decimal(0)


class Special(Item):
    discount: int = 0


class Everything(Agent, name="state.everything"):
    number: float = 0.0
    raw: bytes = b""
    text: str = ""
    when: datetime | None = None
    day: date | None = None
    lasting: timedelta = timedelta()
    money: Decimal = Decimal(0)
    id_: UUID = UUID(int=0)
    path: Path = Path()
    colour: Colour = Colour.RED
    tags: set[str] = set()
    frozen: frozenset[int] = frozenset()
    pair: tuple[int, str] = (0, "")
    items: list[Item] = []
    by_day: dict[date, list[int]] = {}
    by_number: dict[int, bytes] = {}
    either: int | str = 0
    literal: Literal["a", "b"] = "a"
    nested: list[dict[str, float | None]] = []


STATES = st.builds(
    Everything,
    number=st.floats(),
    raw=st.binary(),
    text=st.text(),
    when=st.none() | st.datetimes(timezones=st.just(UTC)),
    day=st.none() | st.dates(),
    lasting=st.timedeltas(),
    money=st.decimals(allow_nan=False, allow_infinity=False),
    id_=st.uuids(),
    path=st.sampled_from([Path(), Path("/a/b"), Path("c d")]),
    colour=st.sampled_from(Colour),
    tags=st.sets(st.text(), max_size=3),
    frozen=st.frozensets(st.integers(), max_size=3),
    pair=st.tuples(st.integers(), st.text()),
    items=st.lists(st.builds(Item, name=st.text(), price=st.just(Decimal("1.50"))), max_size=2),
    by_day=st.dictionaries(st.dates(), st.lists(st.integers(), max_size=2), max_size=2),
    by_number=st.dictionaries(st.integers(), st.binary(), max_size=2),
    either=st.integers() | st.text(),
    literal=st.sampled_from(["a", "b"]),
    nested=st.lists(st.dictionaries(st.text(), st.none() | st.floats(), max_size=2), max_size=2),
)


def same(one: Any, two: Any) -> bool:
    """Equal, with not-a-number equal to itself."""
    if isinstance(one, float) and isinstance(two, float) and math.isnan(one):
        return math.isnan(two)
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(same(one[key], two[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(two) and all(map(same, one, two))
    return type(one) is type(two) and bool(one == two)


@given(STATES)
def test_any_state_loads_as_it_was(agent: Everything) -> None:
    """Infinity, not-a-number, bytes that are no UTF-8, sets, keys that are no texts."""
    spec = spec_of(Everything)
    back = spec.load(spec.dump(agent))
    for name in Everything.model_fields:
        assert same(getattr(agent, name), getattr(back, name)), name


@pytest.mark.parametrize("number", [math.inf, -math.inf, math.nan])
def test_special_numbers_survive(number: float) -> None:
    """By default they would be stored as null and never load again."""
    back = spec_of(Everything).load(spec_of(Everything).dump(Everything(number=number)))
    assert same(back.number, number)  # type: ignore[attr-defined]


class Aliased(Agent, name="state.aliased"):
    model_config = ConfigDict(populate_by_name=True)
    first: int = Field(0, alias="f")
    second: int = Field(0, validation_alias=AliasChoices("s", "two"))
    third: int = Field(0, serialization_alias="t")


def test_aliases_are_for_others() -> None:
    """A state is stored under the fields' own names and loads whatever aliases there are."""
    spec = spec_of(Aliased)
    agent = Aliased(f=1, s=2, third=3)  # type: ignore[call-arg]
    data = spec.dump(agent)
    assert b'"first":1' in data
    assert b'"third":3' in data
    back = spec.load(data)
    assert (back.first, back.second, back.third) == (1, 2, 3)  # type: ignore[attr-defined]
    check_state(agent)


class Strict(Agent, name="state.strict"):
    model_config = ConfigDict(strict=True)
    day: date = date(2026, 1, 1)
    raw: bytes = b"\xff"
    pair: tuple[int, int] = (1, 2)


def test_a_strict_type_loads_its_own_states() -> None:
    """Strictness is about what callers give, and JSON has no dates."""
    check_state(Strict(day=date(2025, 5, 5)))


class Holder(Agent, name="state.holder"):
    item: Item = Item(name="x")
    any_item: SerializeAsAny[Item] = Item(name="y")


def test_a_subclass_in_a_field_of_its_base_is_found() -> None:
    """It would silently be cut to the base; `check_state` says which field."""
    check_state(Holder())
    with pytest.raises(InvalidOutputError, match=r"'item'.*state\.holder"):
        check_state(Holder(item=Special(name="x", discount=5)))
    with pytest.raises(InvalidOutputError):
        check_state(Holder(any_item=Special(name="x", discount=5)))


@given(STATES)
def test_check_state_passes_what_survives(agent: Everything) -> None:
    """Any state of plain types does, also with not-a-number in it."""
    check_state(agent)


def test_check_state_finds_what_does_not_encode() -> None:
    """Assigned past validation, as in a turn."""
    agent = Everything()
    agent.text = object()  # type: ignore[assignment]
    with pytest.raises(InvalidOutputError):
        check_state(agent)


class Ordered(Agent, name="state.ordered"):
    low: int = 0
    high: Annotated[int, Field(le=100)] = 10

    @model_validator(mode="after")
    def _in_order(self) -> "Ordered":
        if self.low > self.high:
            raise ValueError("low is above high")
        return self

    @on("ordered.set")
    async def set(self, low: int, high: int) -> None:
        self.low = low
        self.high = high

    @on("ordered.spoil")
    async def spoil(self, name: str, value: Any) -> None:
        setattr(self, name, value)

    @on("ordered.extra")
    async def extra(self) -> None:
        self.__dict__["surprise"] = 5

    @on("ordered.get")
    async def get(self) -> list[Any]:
        return [self.low, type(self.low).__name__]


def test_two_fields_move_under_one_rule() -> None:
    """The rule is checked for the turn's end, not between two assignments."""

    async def main() -> None:
        harness = AgentHarness(Ordered())
        await harness.call(Ordered.set, 50, 60)
        assert (harness.state.low, harness.state.high) == (50, 60)
        with pytest.raises(InvalidOutputError, match="low is above high"):
            await harness.call(Ordered.set, 70, 60)
        with pytest.raises(InvalidOutputError, match="high"):
            await harness.call(Ordered.set, 1, 101)
        assert (harness.state.low, harness.state.high) == (50, 60)

    asyncio.run(main())


@pytest.mark.parametrize("value", ["many", None, [1], {"a": 1}, 1.5])
def test_a_field_with_a_wrong_value_fails_the_turn(value: Any) -> None:
    """Named with the field; the state is as before."""

    async def main() -> None:
        harness = AgentHarness(Ordered(low=3))
        with pytest.raises(InvalidOutputError, match="low"):
            await harness.call(Ordered.spoil, "low", value)
        assert harness.state.low == 3

    asyncio.run(main())


def test_a_value_that_can_be_read_as_the_fields_type_becomes_it() -> None:
    """What is committed is what would be loaded: the next turn sees a number, not a text."""

    async def main() -> None:
        harness = AgentHarness(Ordered())
        await harness.call(Ordered.spoil, "low", "7")
        assert await harness.call(Ordered.get) == [7, "int"]

    asyncio.run(main())


def test_a_name_that_is_no_field_fails_the_turn() -> None:
    """It is refused when it is assigned, so it cannot be lost silently."""

    async def main() -> None:
        harness = AgentHarness(Ordered())
        with pytest.raises(Exception, match="surprise"):
            await harness.call(Ordered.spoil, "surprise", 5)
        assert "surprise" not in harness.state.__dict__

    asyncio.run(main())


class Private(Agent, name="state.private"):
    value: int = 0
    _calls: int = 0
    _cache: dict[str, int] = {}

    @on("private.count")
    async def count(self, fail: bool = False) -> int:
        self.value += 1
        self._calls += 1
        self._cache["calls"] = self._calls
        if fail:
            raise ValueError("no")
        return self._calls


def test_private_attributes_last_as_long_as_the_object() -> None:
    """Kept from turn to turn, never stored, gone with the object that a failed turn throws away."""

    async def main() -> None:
        harness = AgentHarness(Private())
        assert [await harness.call(Private.count) for _ in range(3)] == [1, 2, 3]
        assert harness.state._calls == 0
        assert b"calls" not in spec_of(Private).dump(harness.state)
        with pytest.raises(Exception, match="no"):
            await harness.call(Private.count, fail=True)
        assert await harness.call(Private.count) == 1
        assert harness.state.value == 4

    asyncio.run(main())


class Aliasing(Agent, name="state.aliasing"):
    lists: list[list[int]] = []
    _kept: list[int] = []

    @on("aliasing.keep")
    async def keep(self) -> None:
        self._kept = [1]
        self.lists = [self._kept, self._kept]

    @on("aliasing.change")
    async def change(self) -> list[list[int]]:
        self._kept.append(2)
        return self.lists


def test_committed_values_are_shared_with_nobody() -> None:
    """A list kept beside the state is not the state's any more after the turn."""

    async def main() -> None:
        harness = AgentHarness(Aliasing())
        await harness.call(Aliasing.keep)
        assert await harness.call(Aliasing.change) == [[1], [1]]
        harness.state.lists.clear()
        assert harness.state.lists == [[1], [1]]

    asyncio.run(main())


def test_defaults_are_shared_with_nobody() -> None:
    """Each agent has lists and sets of its own."""
    one, two = Everything(), Everything()
    one.tags.add("x")
    one.items.append(Item(name="x"))
    assert (two.tags, two.items) == (set(), [])


def test_states_have_a_limit() -> None:
    """1 MiB, named in the message, at spawn and after a turn."""
    spec = spec_of(Everything)
    with pytest.raises(InvalidOutputError, match=r"1048576.*path or key") as raised:
        spec.dump(Everything(text="x" * (1 << 20)))
    assert raised.value.details["limit"] == 1 << 20
    with pytest.raises(InvalidInputError, match="1048576"):
        spec.new_state({"text": "x" * (1 << 20)})


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"null", b'{"text": 5}', b'{"unknown": 1}'])
def test_bytes_that_are_no_state_are_refused(data: bytes) -> None:
    """With the type's name."""
    with pytest.raises(InvalidOutputError, match=r"state\.everything"):
        spec_of(Everything).load(data)


def test_secrets_of_a_bad_state_are_shortened() -> None:
    """A message shows the beginning of a value, never all of it."""
    with pytest.raises(InvalidInputError) as raised:
        spec_of(Ordered).new_state({"low": "x" * 5000})
    assert len(raised.value.message) < 300


def test_agents_pickle_and_copy() -> None:
    """As models do, also one that a turn has owned."""

    async def main() -> None:
        harness = AgentHarness(Private())
        await harness.call(Private.count)
        for agent in (Private(value=3), harness.state):
            for copy in (pickle.loads(pickle.dumps(agent)), agent.model_copy(deep=True)):
                assert copy.value == agent.value
                copy.value = 9
                assert agent.value != 9

    asyncio.run(main())
