"""Op ids: what is done is done once, and remembered for as long as it may come again."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from jido_state.dedupe import (
    DEDUPE_WINDOW_MS,
    NO_OPERATIONS,
    Expired,
    Fenced,
    Fresh,
    Full,
    Hit,
    Operations,
    age_of,
    lookup,
    remember,
    union,
)
from jido_state.operations import MAX_NAME, CallerFence, OpId, agent_caller
from tests.state.values import TEXTS, U64, tables

WINDOW = 1_000


def done(table: Operations, *ops: OpId, now_ms: int = 0, ack: int = 0) -> Operations:
    for op in ops:
        table = remember(table, op, b"r", now_ms=now_ms, ack=ack, window_ms=WINDOW)
    return table


def test_a_repeated_operation_gets_its_result() -> None:
    """By caller and number, whatever came between; another caller's number is another operation."""
    table = remember(NO_OPERATIONS, OpId("a", 2), b"two", now_ms=0)
    assert lookup(table, OpId("a", 2), now_ms=0) == Hit(b"two")
    assert lookup(table, OpId("a", 1), now_ms=0) == Fresh()
    assert lookup(table, OpId("b", 2), now_ms=0) == Fresh()
    table = remember(table, OpId("a", 1), b"one", now_ms=1)
    assert lookup(table, OpId("a", 1), now_ms=0) == Hit(b"one")
    assert lookup(table, OpId("a", 2), now_ms=0) == Hit(b"two")


def test_what_is_acknowledged_is_forgotten_and_never_run() -> None:
    """The floor moves with the caller's ack, never back; below it an operation is expired."""
    table = done(NO_OPERATIONS, OpId("a", 1), OpId("a", 2), OpId("a", 3))
    assert lookup(table, OpId("a", 1), now_ms=0, ack=3) == Hit(b"r")
    table = done(table, OpId("a", 4), ack=3)
    assert lookup(table, OpId("a", 1), now_ms=0) == Expired()
    assert lookup(table, OpId("a", 3), now_ms=0) == Hit(b"r")
    table = done(table, OpId("a", 5), ack=1)
    assert lookup(table, OpId("a", 2), now_ms=0) == Expired()
    assert lookup(table, OpId("new", 2), now_ms=0, ack=3) == Expired()
    assert lookup(table, OpId("new", 3), now_ms=0, ack=3) == Fresh()


def test_a_caller_may_have_64_operations_unanswered() -> None:
    """The 65th is refused until an acknowledgement makes room; repeats are still answered."""
    table = done(NO_OPERATIONS, *(OpId("a", n) for n in range(1, 65)))
    refused = lookup(table, OpId("a", 65), now_ms=0)
    assert isinstance(refused, Full)
    assert "64 operations" in refused.reason
    assert lookup(table, OpId("a", 64), now_ms=0) == Hit(b"r")
    assert lookup(table, OpId("b", 1), now_ms=0) == Fresh()
    assert lookup(table, OpId("a", 65), now_ms=0, ack=2) == Fresh()


def test_a_turn_may_make_many_nested_calls() -> None:
    """Nested calls share the number of their root: more than 64 fit, 1024 are the limit."""
    root = OpId("a", 1)
    ops = [root.nested(i, "b", "add", b"") for i in range(1024)]
    table = done(NO_OPERATIONS, *ops)
    assert lookup(table, ops[0], now_ms=0) == Hit(b"r")
    assert isinstance(lookup(table, root, now_ms=0), Full)
    assert lookup(table, OpId("a", 2), now_ms=0, ack=2) == Fresh()


def test_a_full_table_refuses_new_callers_until_one_is_too_old() -> None:
    """Nobody is forgotten before a window of silence; then all who were silent go at once."""
    table = NO_OPERATIONS
    for number in range(256):
        table = done(table, OpId(f"c{number}", 1), now_ms=number)
    new = OpId("new", 1)
    assert isinstance(lookup(table, new, now_ms=WINDOW, window_ms=WINDOW), Full)
    assert lookup(table, OpId("c0", 2), now_ms=WINDOW, window_ms=WINDOW) == Fresh()
    now = WINDOW + 1
    assert lookup(table, new, now_ms=now, window_ms=WINDOW) == Fresh()
    table = done(table, new, now_ms=now)
    assert len(table.callers) == 256
    assert lookup(table, OpId("c0", 1), now_ms=now, window_ms=WINDOW) != Hit(b"r")
    assert lookup(table, OpId("c1", 1), now_ms=now, window_ms=WINDOW) == Hit(b"r")
    assert len(done(table, OpId("late", 1), now_ms=now + WINDOW).callers) == 2


def test_names_given_by_users_are_kept_for_the_window() -> None:
    """Whoever calls; 1024 of them, then new ones are refused until some are too old."""
    table = done(NO_OPERATIONS, *(OpId.named(f"pay-{i}") for i in range(1024)))
    assert lookup(table, OpId.named("pay-0"), now_ms=WINDOW, window_ms=WINDOW) == Hit(b"r")
    new = OpId.named("pay-new")
    assert isinstance(lookup(table, new, now_ms=WINDOW, window_ms=WINDOW), Full)
    assert lookup(table, new, now_ms=WINDOW + 1, window_ms=WINDOW) == Fresh()
    assert len(done(table, new, now_ms=WINDOW + 1).named) == 1


def test_large_results_are_kept_as_done() -> None:
    """Above 4 KiB, or when all results together have 128 KiB, only the fact is kept."""
    big = remember(NO_OPERATIONS, OpId("a", 1), b"x" * 4097, now_ms=0)
    assert lookup(big, OpId("a", 1), now_ms=0) == Hit(None, is_dropped=True)
    assert big.kept_bytes == 0
    table = NO_OPERATIONS
    for n in range(33):
        table = remember(table, OpId("a", n), b"x" * 4096, now_ms=0)
    assert table.kept_bytes == 131_072
    assert lookup(table, OpId("a", 31), now_ms=0) == Hit(b"x" * 4096)
    assert lookup(table, OpId("a", 32), now_ms=0) == Hit(None, is_dropped=True)
    table = remember(table, OpId("a", 33), b"x" * 4096, now_ms=0, ack=2)
    assert lookup(table, OpId("a", 33), now_ms=0) == Hit(b"x" * 4096)
    assert repr(Operations.from_data(big.to_data())) == repr(big)


def test_a_lower_fence_is_refused() -> None:
    """A deposed leader's turn calls in vain, whatever op id; other agents' fences do not matter."""
    table = remember(
        NO_OPERATIONS, OpId("a", 1), b"", now_ms=0, fence=CallerFence("x", (0, 1, 5, 0, 1))
    )
    old = CallerFence("x", (0, 1, 4, 0, 9))
    assert lookup(table, OpId("a", 2), now_ms=0, fence=old) == Fenced((0, 1, 5, 0, 1))
    assert lookup(table, OpId("a", 1), now_ms=0, fence=old) == Hit(b"")
    assert lookup(table, OpId("a", 2), now_ms=0, fence=old._replace(agent="y")) == Fresh()
    same = CallerFence("x", (0, 1, 5, 0, 1))
    assert lookup(table, OpId("a", 2), now_ms=0, fence=same) == Fresh()
    table = remember(table, OpId("a", 2), b"", now_ms=0, fence=old)
    assert lookup(table, OpId("a", 3), now_ms=0, fence=old) == Fenced((0, 1, 5, 0, 1))


def test_fences_are_bounded_as_callers_are() -> None:
    """The 257th calling agent is refused until one has been silent for a window."""
    table = NO_OPERATIONS
    for number in range(256):
        fence = CallerFence(f"x{number}", (0, 0, 0, 0, 1))
        table = remember(table, OpId("a", number + 1), b"", now_ms=0, ack=number, fence=fence)
    fence = CallerFence("new", (0, 0, 0, 0, 1))
    op = OpId("a", 999)
    assert isinstance(lookup(table, op, now_ms=0, ack=999, fence=fence), Full)
    late = DEDUPE_WINDOW_MS + 1
    assert lookup(table, op, now_ms=late, ack=999, fence=fence) == Fresh()


@given(st.integers(0, 10**7), st.integers(0, 10**7))
def test_an_age_is_never_too_high(used_ms: int, now_ms: int) -> None:
    """Whoever wrote the time: a leader counts no more than it has led, and its own time exactly."""
    age = age_of(used_ms, now_ms)
    assert 0 <= age <= now_ms
    if used_ms <= now_ms:
        assert age == now_ms - used_ms


def test_an_old_leaders_times_do_not_keep_callers_for_ever() -> None:
    """After a leader of a month, its successor forgets silent callers within two windows."""
    month = 30 * 86_400_000
    table = NO_OPERATIONS
    for number in range(256):
        table = done(table, OpId(f"c{number}", 1), now_ms=month)
    refused = [
        now
        for now in range(0, 5 * WINDOW, 100)
        if lookup(table, OpId("new", 1), now_ms=now, window_ms=WINDOW) != Fresh()
    ]
    assert max(refused) <= WINDOW


@given(tables(), tables(), tables())
def test_united_tables_know_what_each_knew(
    one: Operations, two: Operations, three: Operations
) -> None:
    """Union commutes and associates in what is found, and forgets nothing above the floors."""

    def found(table: Operations) -> list[Any]:
        ops = [OpId(c, n, p) for c in ("c1", "c2") for n in range(7) for p in ("", "~" + "0" * 32)]
        return [lookup(table, op, now_ms=0) for op in [*ops, OpId.named("pay-1")]]

    both = union(one, [two], now_ms=5)
    assert found(both) == found(union(two, [one], now_ms=5))
    assert found(union(both, [three], now_ms=5)) == found(union(one, [three, two], now_ms=5))
    assert found(union(one, [one], now_ms=5)) == found(one)
    for before, after in zip(found(one), found(both), strict=True):
        if isinstance(before, Hit):
            assert isinstance(after, Hit | Expired)
    for agent, right in two.fences.items():
        assert both.fences[agent].fence >= right.fence


def test_what_was_done_apart_counts_as_done_now() -> None:
    """A caller of an acting replica is remembered for a whole window after the merge."""
    acted = done(NO_OPERATIONS, OpId("a", 1), now_ms=3)
    merged = union(NO_OPERATIONS, [acted], now_ms=10 * WINDOW)
    full = merged
    for number in range(255):
        full = done(full, OpId(f"c{number}", 1), now_ms=10 * WINDOW)
    assert isinstance(lookup(full, OpId("new", 1), now_ms=11 * WINDOW, window_ms=WINDOW), Full)


@given(tables())
def test_a_table_survives_its_data(table: Operations) -> None:
    """Through lists and back it is equal, counts of bytes included."""
    assert Operations.from_data(table.to_data()) == table


class OneAgent(RuleBasedStateMachine):
    """Against a model that remembers everything: no operation runs twice, none is lost.

    Callers retry as real ones do: with any number that they have not acknowledged.
    """

    @initialize()
    def begin(self) -> None:
        self.table = NO_OPERATIONS
        self.ran: dict[OpId, bytes] = {}
        self.acks = {"a": 1, "b": 1}
        self.used = {"a": 0, "b": 0}
        self.now = 0

    @rule(caller=st.sampled_from("ab"), ahead=st.integers(0, 70), nested=st.booleans())
    def call(self, caller: str, ahead: int, nested: bool) -> None:
        ack = self.acks[caller]
        op = OpId(caller, ack + ahead)
        if nested:
            op = op.nested(0, "t", "s", b"")
        found = lookup(self.table, op, now_ms=self.now, ack=ack, window_ms=WINDOW)
        if op in self.ran:
            assert found == Hit(self.ran[op])
        elif isinstance(found, Full):
            unanswered = {one.n for one in self.ran if one.caller == caller and one.n >= ack}
            assert len(unanswered) == 64
        else:
            assert found == Fresh()
            result = f"{op.n}".encode()
            self.table = remember(
                self.table, op, result, now_ms=self.now, ack=ack, window_ms=WINDOW
            )
            self.ran[op] = result
            self.used[caller] = self.now

    @rule(caller=st.sampled_from("ab"), by=st.integers(1, 40))
    def acknowledge(self, caller: str, by: int) -> None:
        self.acks[caller] += by

    @rule(caller=st.sampled_from("ab"))
    def repeat_acknowledged(self, caller: str) -> None:
        ack = self.acks[caller]
        for op in self.ran:
            if op.caller == caller and op.n < ack:
                found = lookup(self.table, op, now_ms=self.now, ack=ack, window_ms=WINDOW)
                assert found in {Expired(), Hit(self.ran[op])}

    @precondition(lambda self: self.now < min(self.used.values()) + WINDOW)
    @rule(by=st.integers(1, WINDOW // 2))
    def wait(self, by: int) -> None:
        if self.now + by <= min(self.used.values()) + WINDOW:
            self.now += by

    @rule()
    def change_leader(self) -> None:
        """Time begins anew; what was written stays."""
        self.now = 0
        self.used = {"a": 0, "b": 0}

    @invariant()
    def is_bounded(self) -> None:
        for caller in self.table.callers.values():
            assert len(caller.results) <= 64
        assert Operations.from_data(self.table.to_data()) == self.table


TestOneAgent = OneAgent.TestCase


# Op ids


def test_a_repeated_turn_repeats_its_nested_op_ids() -> None:
    """The same way gives the same ids; each other target, signal, parameter or place another."""
    op = OpId("c", 7)
    ids = [
        op.nested(0, "b", "add", b"1"),
        op.nested(1, "b", "add", b"1"),
        op.nested(0, "c", "add", b"1"),
        op.nested(0, "b", "sub", b"1"),
        op.nested(0, "b", "add", b"2"),
        op.nested(0, "b", "add", b"1").nested(0, "b", "add", b"1"),
        OpId.named("pay").nested(0, "b", "add", b"1"),
        OpId.named("buy").nested(0, "b", "add", b"1"),
    ]
    assert ids[0] == OpId("c", 7).nested(0, "b", "add", b"1")
    assert len(set(ids)) == len(ids)
    assert all(one[:2] == ("c", 7) for one in ids[:6])
    assert ids[0].path == "~bedce88d279f6452c3d3ffb6f522a31a"


def test_nested_op_ids_stay_short() -> None:
    """However deep calls nest and whatever the caller, the text stays within 128 characters."""
    op = OpId("x" * 64, (1 << 64) - 1)
    for depth in range(20):
        op = op.nested(depth, "t" * 128, "s" * 128, b"p" * 1000)
        assert len(op.text) <= 128
        assert OpId.named(op.text) == op


@given(
    st.builds(OpId, st.text("abc.1", min_size=1, max_size=64), U64, st.just(""))
    | st.builds(OpId.named, st.text("abc.-:_", min_size=1, max_size=20)),
    st.integers(0, 2),
)
def test_the_text_of_an_op_id_names_it_again(op: OpId, depth: int) -> None:
    """A user who repeats an operation by the id of its error repeats that operation."""
    for place in range(depth):
        op = op.nested(place, "t", "s", b"")
    assert OpId.named(op.text) == op
    assert op.is_named == (op.caller == "")


@pytest.mark.parametrize("name", ["", "~x", "x" * (MAX_NAME + 1)])
def test_a_name_that_cannot_be_is_refused(name: str) -> None:
    """Empty, too long, or like a nested id: the error says the rule."""
    with pytest.raises(ValueError, match="needs 1 to 128 characters"):
        OpId.named(name)


def test_what_only_looks_like_our_own_is_a_name() -> None:
    """A number beyond 64 bits, or no caller and no digest, cannot be ours."""
    for name in (f"op.a.{1 << 64}", "op..0", "op..5.".ljust(38, "0")):
        assert OpId.named(name) == OpId("", 0, name)


@given(TEXTS, TEXTS, TEXTS)
def test_callers_of_agents_differ(agent: str, other: str, what: str) -> None:
    """By agent, by life, and by what it is that is counted."""
    first = agent_caller(agent, (0, 1, 2, 3, 4), what)
    assert first == agent_caller(agent, (0, 1, 2, 3, 4), what)
    assert len(first) == 33
    assert first != agent_caller(agent, (0, 1, 2, 3, 5), what)
    assert (first == agent_caller(other, (0, 1, 2, 3, 4), what)) == (agent == other)
    assert first != agent_caller(agent, (0, 1, 2, 3, 4), what + "x")
