"""Replicated fields: they change in place, are stored as text, and merge whatever their order."""

import asyncio
import copy
import pickle
from datetime import UTC, datetime
from itertools import permutations
from typing import Any

import pytest

from jido_cluster import Agent, ExecutionError, InvalidInputError, InvalidOutputError, on
from jido_cluster.agent import current_turn, spec_of
from jido_cluster.crdt import GCounter, LWWMap, LWWRegister, MVRegister, ORSet, PNCounter
from jido_cluster.runtime.conflicts import resolve_of
from jido_cluster.runtime.turn import TurnContext, run_call
from jido_cluster.signals.handler import declaration_of
from jido_cluster.testing import AgentHarness, check_state
from jido_state.record import Record


class Cart(Agent, name="agents.cart", partition_strategy="continue_all"):
    items: ORSet[str] = ORSet()
    visits: GCounter = GCounter()
    balance: PNCounter = PNCounter()
    address: LWWRegister[str] = LWWRegister()
    prices: LWWMap[str, int] = LWWMap()
    wishes: MVRegister[str] = MVRegister()
    dates: ORSet[datetime] = ORSet()
    note: str = ""

    @on("cart.change")
    async def change(self, item: str, amount: int = 1, gone: str = "") -> None:
        self.items.add(item)
        self.items.discard(gone)
        self.visits.increment()
        self.balance.decrement(amount)
        self.address.set(item)
        self.prices.set(item, amount)
        self.wishes.set(item)
        self.note = item

    @on("cart.dates")
    async def add_date(self, when: datetime) -> list[datetime]:
        self.dates.add(when)
        return list(self.dates)

    @on("cart.fail")
    async def fail(self) -> None:
        self.items.add("lost")
        raise ValueError("no")

    @on("cart.peek", read_only=True)
    async def peek(self) -> None:
        self.items.add("not mine")

    @on("cart.misfit")
    async def misfit(self, what: str) -> None:
        if what == "item":
            self.items.add(object())  # type: ignore[arg-type]
        elif what == "price":
            self.prices.set("x", "much")  # type: ignore[arg-type]
        else:
            self.visits.increment(-1)


def acted(state: bytes, node: int, wall: float, item: str, amount: int, gone: str = "") -> bytes:
    """The state after a turn on one side of a split."""
    spec = spec_of(Cart)
    cart = spec.load(state)
    where: Any = {"is_new": False, "shard": 0, "clock": lambda: 0.0, "binding": None}
    version = (node, 1, 1, 1)
    context = TurnContext("cart", "cart.change", "op", b"{}", None, 1e9, version, wall, **where)
    context.agent = cart
    params = {"item": item, "amount": amount, "gone": gone}
    before = current_turn.get()
    asyncio.run(run_call(declaration_of(Cart.change), cart, params, context))
    assert current_turn.get() is before
    return spec.dump(cart)


def test_fields_change_in_turns_and_are_stored() -> None:
    """Whole turns: what failed is undone, what is shown is what was stored."""

    async def main() -> None:
        harness = AgentHarness(Cart())
        await harness.call(Cart.change, "tea", 3)
        await harness.call(Cart.change, "milk", 2, gone="tea")
        with pytest.raises(ExecutionError):
            await harness.call(Cart.fail)
        cart = harness.state
        assert set(cart.items) == {"milk"}
        assert "milk" in cart.items
        assert "tea" not in cart.items
        assert len(cart.items) == 1
        assert (cart.visits.value, cart.balance.value) == (2, -5)
        assert cart.address.value == "milk"
        assert dict(cart.prices) == {"tea": 3, "milk": 2}
        assert cart.prices["tea"] == 3
        assert cart.prices.get("coffee") is None
        assert list(cart.wishes.values) == ["milk"]
        check_state(cart)

    asyncio.run(main())


def test_items_have_their_type() -> None:
    """A point in time comes back as one."""

    async def main() -> None:
        when = datetime(2026, 5, 1, tzinfo=UTC)
        harness = AgentHarness(Cart())
        assert await harness.call(Cart.add_date, when) == [when]
        assert list(harness.state.dates) == [when]
        assert when in harness.state.dates

    asyncio.run(main())


@pytest.mark.parametrize("what", ["item", "price", "count"])
def test_what_does_not_fit_is_refused(what: str) -> None:
    """By the annotation, and by what can be stored."""

    async def main() -> None:
        with pytest.raises(ExecutionError, match="does not fit"):
            await AgentHarness(Cart()).call(Cart.misfit, what)

    asyncio.run(main())


def test_a_read_only_handler_may_only_look() -> None:
    """It says so, although its copy would have been thrown away."""

    async def main() -> None:
        with pytest.raises(ExecutionError, match="read_only"):
            await AgentHarness(Cart()).call(Cart.peek)

    asyncio.run(main())


def test_defaults_are_not_shared_and_fields_copy() -> None:
    """Objects of one class have nothing in common; copies and pickles are detached."""
    one, two = Cart(), Cart()
    one.items.add("tea")
    assert "tea" not in two.items
    with pytest.raises(TypeError):
        hash(one.items)
    for other in (
        copy.copy(one.items),
        copy.deepcopy(one.items),
        pickle.loads(pickle.dumps(one.items)),
    ):
        assert other == one.items
        other.add("milk")
        assert "milk" not in one.items
    assert one.items | {"milk"} == {"tea", "milk"}
    assert one.items != two.items


def test_damaged_text_is_no_state() -> None:
    """Neither text that is none of ours, nor a field of another kind."""
    spec = spec_of(Cart)
    cart = Cart()
    cart.visits.increment(2)
    visits = spec.dump(cart).decode().split('"visits":"')[1].split('"')[0]
    for text in ("", "%%%", "AAAA", visits):
        with pytest.raises(InvalidOutputError):
            spec.load(f'{{"items":"{text}"}}'.encode())
    with pytest.raises(InvalidInputError):
        spec.new_state({"items": 5})


def test_two_sides_merge_in_any_order() -> None:
    """Counts add up, additions stay, the later value is seen; other fields are the latest's."""
    base = acted(spec_of(Cart).new_state({}), 1, 10.0, "tea", 1)
    left = acted(base, 2, 20.0, "milk", 2, gone="tea")
    right = acted(base, 3, 30.0, "tea", 4)
    resolve = resolve_of("agents.cart")
    assert resolve is not None
    for order in permutations((base, left, right)):
        records = [Record(type="agents.cart", schema=1, state=state) for state in order]
        schema, state = resolve(records, order.index(right))
        cart: Any = spec_of(Cart).load(state)
        assert schema == 1
        assert set(cart.items) == {"tea", "milk"}
        assert (cart.visits.value, cart.balance.value) == (3, -7)
        assert cart.address.value == "tea"
        assert dict(cart.prices) == {"tea": 4, "milk": 2}
        assert sorted(cart.wishes.values) == ["milk", "tea"]
        assert cart.note == "tea"
