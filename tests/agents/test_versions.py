"""States of older classes, of newer ones, and of two sides of a split."""

from collections.abc import Sequence
from typing import Any, Self

import pytest

from jido_cluster import Agent, InvalidInputError, InvalidOutputError, NotRegisteredError
from jido_cluster.agent import spec_of
from jido_cluster.crdt import GCounter
from jido_cluster.runtime.conflicts import folded, resolve_of
from jido_cluster.testing import check_upgrade
from jido_state.record import Record


class Person(Agent, name="agents.person", version=3):
    first: str
    last: str
    is_member: bool = False
    visits: GCounter = GCounter()

    @classmethod
    def on_upgrade(cls, data: dict[str, Any], version: int, /) -> dict[str, Any]:
        if version < 2:
            data["first"], _, data["last"] = data.pop("name").partition(" ")
        return data

    @classmethod
    def on_conflict(cls, versions: Sequence[Self], /) -> Self:
        if any(one.first == "?" for one in versions):
            raise ValueError("nobody")
        best = max(versions, key=lambda one: (one.is_member, one.first))
        return best.model_copy(update={"visits": GCounter()})


class Plain(Agent, name="agents.plain"):
    value: int = 0


def record(state: str, schema: int = 3) -> Record:
    return Record(type="agents.person", schema=schema, state=state.encode())


def test_an_older_state_is_brought_forward() -> None:
    """Whatever its version; today's is left alone."""
    person = check_upgrade(Person, {"name": "Ada Lovelace"}, 1)
    assert (person.first, person.last) == ("Ada", "Lovelace")
    assert check_upgrade(Person, {"first": "Ada", "last": "L"}, 2).last == "L"
    spec = spec_of(Person)
    today = spec.dump(person)
    assert spec.current_state(today, 3) is today


@pytest.mark.parametrize("data", [{}, {"name": "Ada", "age": 3}, {"name": 5}])
def test_an_upgrade_that_fails_says_so(data: dict[str, Any]) -> None:
    """It raised, or made what does not validate."""
    with pytest.raises(InvalidOutputError, match=r"agents\.person"):
        check_upgrade(Person, data, 1)


@pytest.mark.parametrize("version", [0, 3, 4])
def test_only_older_versions_are_upgraded(version: int) -> None:
    """In a test of an upgrade, anything else is a mistake."""
    with pytest.raises(InvalidInputError, match="below 3"):
        check_upgrade(Person, {"first": "A", "last": "B"}, version)


def test_a_newer_state_waits_for_newer_code() -> None:
    """It is left as it is, and may be asked for again."""
    with pytest.raises(NotRegisteredError, match="version 4") as raised:
        spec_of(Person).current_state(b"{}", 4)
    assert raised.value.retryable


def test_a_type_merges_by_its_own_rule() -> None:
    """Older states are brought forward first; replicated fields are merged beside it."""
    resolve = resolve_of("agents.person")
    assert resolve is not None
    ada = Person(first="Ada", last="L", is_member=True)
    ada.visits.increment(2)
    records = [
        record(spec_of(Person).dump(ada).decode()),
        record('{"name":"Zoe Z"}', 1),
    ]
    schema, state = resolve(records, 1)
    merged: Any = spec_of(Person).load(state)
    assert schema == 3
    assert (merged.first, merged.visits.value) == ("Ada", 2)
    with pytest.raises(ValueError, match="nobody"):
        resolve([*records, record('{"first":"?","last":""}')], 0)


def test_a_type_without_a_rule_has_none() -> None:
    """Then the latest state is taken; a type that is not known here has none either."""
    assert resolve_of("agents.plain") is None
    assert resolve_of("agents.nowhere") is None


def test_folding_leaves_what_is_shown_alone() -> None:
    """Actors that are over are named no more; a type without replicated fields is as it was."""
    ada = Person(first="Ada", last="L")
    ada.visits.increment(2)
    before = record(spec_of(Person).dump(ada).decode())
    after = folded(spec_of(Person), before, [(0xFFFF, 0, 0)])
    counted: Any = spec_of(Person).load(after.state)
    assert counted.visits.value == 2
    assert not counted.visits._value.counts
    plain = Record(type="agents.plain", state=b'{"value":1}')
    assert folded(spec_of(Plain), plain, [(0xFFFF, 0, 0)]) is plain
