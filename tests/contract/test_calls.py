"""What goes into a call, what comes out, and what a turn sees of it."""

import math
from collections.abc import Callable
from concurrent.futures import as_completed
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from jido_cluster import (
    AgentRef,
    Cluster,
    ExecutionError,
    HandlerNotFoundError,
    InvalidInputError,
    Signal,
    new_id,
)
from jido_state.operations import OpId
from tests.contract.actions import Book
from tests.contract.agents import Alone, Counter, Hasty, Inbox, Relay, Seen, Shelf, Witness
from tests.contract.support import Gate, wait_until

LIMIT = 1 << 20


@pytest.fixture
def counter(cluster: Cluster, name: str) -> AgentRef[Counter]:
    return cluster.spawn(Counter, name)


@pytest.fixture
def shelf(cluster: Cluster, name: str) -> AgentRef[Shelf]:
    return cluster.spawn(Shelf, name)


@pytest.fixture
def witness(cluster: Cluster, name: str) -> AgentRef[Witness]:
    return cluster.spawn(Witness, name)


def test_three_ways_to_name_a_handler(counter: AgentRef[Counter]) -> None:
    """The function, its type, and a signal run the same handler."""
    assert counter.call(Counter.add, 2) == 2
    assert counter.call("counter.add", amount=3) == 5
    assert counter.call(Signal("counter.add", {"amount": 4})) == 9
    assert counter.call(Signal.of(Counter.add, 1)) == 10
    assert counter.state().value == 10


def test_parameters_by_position_name_and_default(counter: AgentRef[Counter]) -> None:
    """As in a plain call of the function."""
    assert counter.call(Counter.add) == 1
    assert counter.call(Counter.add, 2) == 3
    assert counter.call(Counter.add, amount=3) == 6
    assert counter.call("counter.add") == 7


def test_sync_handlers_are_called_like_async_ones(counter: AgentRef[Counter]) -> None:
    """They change the same state."""
    assert counter.call(Counter.add_sync, 2) == 2
    assert counter.call(Counter.add, 2) == 4
    assert counter.call(Counter.add_sync, amount=2) == 6


def test_parameters_are_coerced_as_pydantic_does(counter: AgentRef[Counter]) -> None:
    """A text that is a number is a number, by handler and by type name."""
    assert counter.call(Counter.add, "2") == 2  # type: ignore[call-overload]
    assert counter.call("counter.add", amount="2") == 4


def test_models_are_parameters_and_results(shelf: AgentRef[Shelf]) -> None:
    """A typed call gives back instances; a call by name gives plain data."""
    book = Book(title="Dune", pages=400, printed=datetime(1965, 8, 1, tzinfo=UTC))
    assert shelf.call(Shelf.first) is None
    assert shelf.call(Shelf.put, book, copies=2) == [book, book]
    assert shelf.call(Shelf.first) == book
    plain = shelf.call("shelf.first")
    assert plain == {"title": "Dune", "pages": 400, "printed": "1965-08-01T00:00:00Z"}
    assert len(shelf.call("shelf.put", book=plain)) == 3
    assert len(shelf.call("shelf.put", book=book)) == 4
    assert shelf.state().books == [book] * 4


def test_results_are_decoded_by_their_annotation(shelf: AgentRef[Shelf]) -> None:
    """Points in time, durations, decimals and bytes come back as what they are."""
    when = datetime(2026, 1, 1, 12, 30, 15, 123456, tzinfo=UTC)
    assert shelf.call(Shelf.later, when, timedelta(days=1)) == when + timedelta(days=1)
    assert shelf.call(Shelf.sum, [Decimal("0.10"), Decimal("0.20")]) == Decimal("0.30")
    assert shelf.call(Shelf.same, b"\xff\x00\xfe", math.inf) == (b"\xff\x00\xfe", math.inf)
    raw, number = shelf.call(Shelf.same, b"", math.nan)
    assert raw == b""
    assert math.isnan(number)
    assert (
        shelf.call("shelf.later", when=when, by=timedelta(hours=1)) == "2026-01-01T13:30:15.123456Z"
    )


def test_bytes_and_infinity_travel_by_name_too(shelf: AgentRef[Shelf]) -> None:
    """Both forms of a call encode parameters the same way."""
    expected = {"size": 3, "is_finite": False}
    assert shelf.call(Shelf.echo, b"\xff\x00\xfe", -math.inf) == expected
    assert shelf.call("shelf.echo", raw=b"\xff\x00\xfe", number=-math.inf) == expected


def test_parameter_names_are_free(shelf: AgentRef[Shelf]) -> None:
    """Parameters may be called like things of the library."""
    assert shelf.call(Shelf.options, 1, "h") == [1, "h", False]
    assert shelf.call(Shelf.options, timeout=1, handler="h", copy_=True) == [1, "h", True]
    assert shelf.call("shelf.options", timeout=1, handler="h") == [1, "h", False]


def test_further_parameters_are_taken_where_the_handler_wants_them(shelf: AgentRef[Shelf]) -> None:
    """`**others` gets what has no parameter of its own, checked by its annotation."""
    assert shelf.call(Shelf.extra, 1, second=2) == {"first": 1, "second": 2}
    assert shelf.call("shelf.extra", first=1, second="2") == {"first": 1, "second": 2}
    with pytest.raises(InvalidInputError, match="second"):
        shelf.call("shelf.extra", first=1, second="two")


@pytest.mark.parametrize(
    ("args", "kwargs", "said"),
    [
        ((), {"amount": "many"}, "amount"),
        ((), {"amuont": 1}, "amuont"),
        ((1, 2), {}, "positional"),
        ((1,), {"amount": 1}, "twice"),
        ((None,), {}, "amount"),
    ],
    ids=["ill", "unknown", "too many", "twice", "none"],
)
def test_ill_parameters_are_refused(
    counter: AgentRef[Counter], args: tuple[Any, ...], kwargs: dict[str, Any], said: str
) -> None:
    """The error names the parameter; nothing ran; by name it is the same error."""
    with pytest.raises(InvalidInputError, match=said):
        counter.call(Counter.add, *args, **kwargs)
    if not args:
        with pytest.raises(InvalidInputError, match=said) as raised:
            counter.call("counter.add", **kwargs)
        assert raised.value.details["errors"]
    assert counter.info().version == 0


def test_a_missing_parameter_is_refused(shelf: AgentRef[Shelf]) -> None:
    """Named, in both forms of a call; a nested rule is checked too."""
    with pytest.raises(InvalidInputError, match="book"):
        shelf.call(Shelf.put)  # type: ignore[call-overload]
    with pytest.raises(InvalidInputError, match="book"):
        shelf.call("shelf.put", copies=1)
    with pytest.raises(InvalidInputError, match=r"book\.pages"):
        shelf.call("shelf.put", book={"title": "x", "pages": 0})


def test_positional_parameters_need_the_handler(counter: AgentRef[Counter]) -> None:
    """A call by type name takes parameters by name only."""
    with pytest.raises(InvalidInputError, match="by name"):
        counter.call("counter.add", 1)  # type: ignore[call-overload]


def test_an_unknown_type_is_refused(counter: AgentRef[Counter]) -> None:
    """With the nearest name, and all there are in the details."""
    with pytest.raises(HandlerNotFoundError, match=r"did you mean 'counter\.add'") as raised:
        counter.call("counter.ad")
    assert "counter.get" in raised.value.details["known"]
    with pytest.raises(HandlerNotFoundError):
        counter.call(Inbox.number, 1)  # type: ignore[call-overload]


def test_what_is_no_handler_is_refused_before_anything_is_sent(cluster: Cluster, name: str) -> None:
    """A method without `@on`, or anything else: also for an agent that is not there."""
    ref = cluster.ref(Counter, name)
    for thing in (Counter.model_dump, Counter.on_start, 5, None, Counter):
        with pytest.raises(HandlerNotFoundError, match="not a handler"):
            ref.call(thing)  # type: ignore[call-overload]


def test_a_handler_of_a_pattern_needs_a_signal(cluster: Cluster, name: str) -> None:
    """A call by such a handler has no literal type; with a signal the best match runs, alone."""
    inbox = cluster.spawn(Inbox, name)
    with pytest.raises(InvalidInputError, match="pattern"):
        inbox.call(Inbox.book_note, "x")
    inbox.call(Signal("note.book.old", {"title": "Dune"}))
    inbox.call("note.book.new")
    inbox.call("note.other")
    assert inbox.state().ran == ["book Dune", "first", "any"]


def test_a_call_rejects_names_that_its_signal_brings_along(counter: AgentRef[Counter]) -> None:
    """Only delivered signals may have more fields than the handler knows."""
    with pytest.raises(InvalidInputError, match="more"):
        counter.call(Signal("counter.add", {"amount": 1, "more": 2}))


def test_the_largest_parameters_pass_and_larger_ones_do_not(shelf: AgentRef[Shelf]) -> None:
    """1 MiB of JSON is the limit, by handler, by name and by signal; the message names it."""
    frame = len('{"text":""}')
    fits, too_large = "x" * (LIMIT - frame), "x" * (LIMIT - frame + 1)
    assert shelf.call(Shelf.copy_text, fits) == len(fits)
    assert shelf.call("shelf.copy", text=fits) == len(fits)
    for attempt in (
        lambda: shelf.call(Shelf.copy_text, too_large),
        lambda: shelf.call("shelf.copy", text=too_large),
        lambda: shelf.call(Signal("shelf.copy", {"text": too_large})),
    ):
        with pytest.raises(InvalidInputError, match=str(LIMIT)):
            attempt()


@pytest.mark.parametrize("spare", [170, 190, 210, 230, 1000])
def test_a_signal_of_the_largest_size_is_a_call_like_any_other(
    shelf: AgentRef[Shelf], spare: int
) -> None:
    """A signal whose attributes and data fit the limit together is taken."""
    text = "x" * (LIMIT - spare - len('{"text":""}'))
    marked = shelf.options(op_id=new_id("o" * 97))
    try:
        assert marked.call(Signal("shelf.copy", {"text": text})) == len(text)
    except InvalidInputError as error:
        # The attributes of the signal count too; then nothing else may have been disturbed.
        assert str(LIMIT) in error.message  # noqa: PT017 - both ends are right
    assert shelf.call(Shelf.copy_text, "after") == 5


def test_many_large_calls_share_a_link(cluster: Cluster, name: str) -> None:
    """Calls near the limit, to one node, all arrive."""
    shelf = cluster.spawn(Shelf, name)
    size = LIMIT - 60
    text = "x" * size
    calls = [shelf.submit(Shelf.copy_text, text) for _ in range(6)]
    assert [call.result(30) for call in calls] == [size] * 6
    reads = [shelf.submit(Shelf.read, size) for _ in range(6)]
    assert [len(read.result(30)) for read in reads] == [size] * 6


def test_values_that_do_not_travel_are_refused(shelf: AgentRef[Shelf]) -> None:
    """What is not JSON-shaped never leaves."""
    with pytest.raises(InvalidInputError):
        shelf.call("shelf.copy", text=object())
    with pytest.raises(InvalidInputError):
        shelf.call(Signal("shelf.copy", {"text": object()}))


def test_a_request_tells_what_its_result_rests_on(counter: AgentRef[Counter]) -> None:
    """Value, node, fence, durability and attempts; the operation id can be used again."""
    first = counter.request(Counter.add, 2)
    assert (first.value, first.durability, first.attempts) == (2, "quorum", 1)
    assert first.node == counter.info().node
    second = counter.request("counter.add", amount=1)
    assert second.fence > first.fence
    assert second.fence == counter.info().fence
    again = counter.options(op_id=first.op_id).request(Counter.add, 2)
    assert (again.value, again.op_id) == (2, first.op_id)
    assert counter.request(Signal.of(Counter.get)).value == 3
    assert counter.request(Counter.get).fence == second.fence


def test_a_request_says_what_rests_on_memory(cluster: Cluster, name: str) -> None:
    """Of a turn, of a read, and of a turn that was done before."""
    hasty = cluster.spawn(Hasty, name)
    first = hasty.request(Hasty.add, 2)
    assert (first.value, first.durability) == (2, "memory")
    assert hasty.request(Hasty.get).durability == "memory"
    again = hasty.options(op_id=first.op_id).request(Hasty.add, 2)
    assert (again.value, again.durability) == (2, "memory")


def test_a_cast_is_not_waited_for(cluster: Cluster, counter: AgentRef[Counter]) -> None:
    """It runs; what is wrong and known here is said, all else is nobody's to hear."""
    assert counter.cast(Counter.add, 5) is None
    counter.cast("counter.add", amount=2)
    counter.cast(Signal.of(Counter.add, 1))
    wait_until(lambda: counter.call(Counter.get) == 8, "three casts")
    counter.cast(Counter.fail)
    counter.cast("counter.nothing")
    cluster.ref(Counter, new_id("nobody-")).cast(Counter.add)
    with pytest.raises(InvalidInputError):
        counter.cast(Counter.add, "many")  # type: ignore[call-overload]
    assert counter.call(Counter.get) == 8


def test_submitted_calls_are_futures(cluster: Cluster, name: str) -> None:
    """Many in flight at once, to many agents, as `concurrent.futures` knows them."""
    refs = [cluster.spawn(Counter, f"{name}.{n}", value=n) for n in range(30)]
    futures = {ref.submit(Counter.add, 100): n for n, ref in enumerate(refs)}
    assert {futures[done]: done.result() for done in as_completed(futures, timeout=30)} == {
        n: n + 100 for n in range(30)
    }
    failed = refs[0].submit(Counter.fail)
    assert "ValueError" in str(failed.exception(15))


def test_a_turn_knows_its_call(witness: AgentRef[Witness]) -> None:
    """The agent's id, no caller, the call as a signal, an operation id, and time that is left."""
    seen = witness.options(op_id="op-1").call(Witness.look, mark=7)
    assert isinstance(seen, Seen)
    assert (seen.agent_id, seen.caller, seen.op_id) == (witness.id, None, "op-1")
    assert (seen.type, seen.data) == ("witness.look", {"mark": 7})
    assert seen.is_new
    assert seen.has_time
    assert abs((seen.now - datetime.now(UTC)).total_seconds()) < 60


def test_a_turn_sees_the_signal_it_was_called_with(witness: AgentRef[Witness]) -> None:
    """Id, source and extensions are the sender's; data that are no object are there as they are."""
    sent = Signal("witness.raw", [1, 2], source="urn:test", extensions={"trial": 3})
    seen = witness.call(sent)
    assert seen["signal_id"] == sent.id
    assert seen["source"] == "urn:test"
    assert seen["extensions"] == {"trial": 3}
    assert seen["data"] == [1, 2]


def test_fences_and_time_rise_with_every_turn(witness: AgentRef[Witness]) -> None:
    """The text form of a fence sorts as the fence does."""
    seen = [witness.call(Witness.look) for _ in range(20)]
    fences = [one.fence for one in seen]
    assert sorted(set(fences)) == fences
    assert sorted(one.now for one in seen) == [one.now for one in seen]
    assert len({one.op_id for one in seen}) == 20
    assert witness.info().fence.token == fences[-1]


def test_an_agent_calls_another(cluster: Cluster, witness: AgentRef[Witness]) -> None:
    """From a sync and an async handler; the caller's id is known, its operation ids derive."""
    other = cluster.spawn(Witness, new_id("other-"))
    asking: tuple[Any, ...] = (Witness.ask, Witness.ask_sync)
    for handler in asking:
        outer = new_id("outer-")
        seen = witness.options(op_id=outer).call(handler, other.id)
        assert (seen.agent_id, seen.caller) == (other.id, witness.id)
        again = OpId.named(seen.op_id)
        assert again.is_named
        assert again.path != outer
    assert other.state().turns == 2


def test_an_error_of_an_inner_call_is_a_failure_of_the_outer_turn(
    cluster: Cluster, witness: AgentRef[Witness]
) -> None:
    """The inner one did not run, the outer one did: the caller hears of an execution error."""
    with pytest.raises(ExecutionError, match=r"AgentNotFoundError: .*nowhere") as raised:
        witness.call(Witness.ask, "nowhere")
    assert raised.value.details["cause"]["kind"] == "agent_not_found"


def test_a_view_of_the_cluster_fits_the_kind_of_handler(witness: AgentRef[Witness]) -> None:
    """The wrong one is refused, naming the right one."""
    with pytest.raises(ExecutionError, match=r"UsageError: .*async code use ctx\.cluster"):
        witness.call(Witness.wrong_view)
    with pytest.raises(ExecutionError, match=r"UsageError: .*sync code use ctx\.sync_cluster"):
        witness.call(Witness.wrong_view_sync)


def test_a_chain_of_calls_comes_back(cluster: Cluster, name: str) -> None:
    """Through agents on all nodes."""
    ids = [cluster.spawn(Relay, f"{name}.{n}").id for n in range(12)]
    assert cluster.ref(Relay, ids[0]).call(Relay.pass_on, ids[1:]) == ids


@pytest.mark.parametrize("length", [1, 2, 4])
def test_a_call_cycle_fails_at_once(cluster: Cluster, name: str, length: int) -> None:
    """Not at the deadline; the chain is in the error, and nobody's state has changed."""
    refs = [cluster.spawn(Relay, f"{name}.{n}") for n in range(length)]
    ids = [ref.id for ref in refs]
    begun = datetime.now(UTC)
    with pytest.raises(ExecutionError, match="CallCycleError: call cycle") as raised:
        refs[0].call(Relay.pass_on, [*ids[1:], ids[0]])
    assert (datetime.now(UTC) - begun).total_seconds() < 5
    cause = raised.value.details["cause"]
    assert (cause["kind"], cause["details"]["chain"]) == ("call_cycle", [*ids, ids[0]])
    assert [ref.call(Relay.count) for ref in refs] == [0] * length


def test_a_handler_can_catch_a_call_cycle(cluster: Cluster, name: str) -> None:
    """There it is a `CallCycleError`, which says who waits for whom."""
    one, two = (cluster.spawn(Relay, f"{name}.{n}") for n in "ab")
    assert one.call(Relay.catch, [one.id]) == [one.id, one.id]
    assert one.call(Relay.catch, [two.id, one.id]) == []
    assert (one.call(Relay.count), two.call(Relay.count)) == (2, 1)


def test_crossed_calls_do_not_wait_for_each_other(
    cluster: Cluster, name: str, gate: Callable[[], Gate]
) -> None:
    """Two agents call each other out of two chains: one gives way, the other gets through."""
    refs = [cluster.spawn(Relay, f"{name}.{n}") for n in "ab"]
    doors = [gate() for _ in refs]
    calls = [
        ref.options(timeout=20.0).submit(Relay.cross, other.id, **door.files)
        for ref, other, door in zip(refs, reversed(refs), doors, strict=True)
    ]
    for door in doors:
        door.wait_begun()
    for door in doors:
        door.open()
    errors = [call.exception(10) for call in calls]
    assert sum(error is None for error in errors) == 1
    assert [ref.call(Relay.pass_on, []) for ref in refs] == [[ref.id] for ref in refs]


def test_a_read_only_handler_may_be_called_back(cluster: Cluster, name: str) -> None:
    """It sees the state from before the turn that waits for it."""
    one, two = (cluster.spawn(Relay, f"{name}.{n}") for n in "ab")
    assert one.call(Relay.mirror, two.id) == 0
    assert one.call(Relay.count) == 1
    assert one.call(Relay.mirror, two.id) == 1


def test_state_is_a_detached_copy(shelf: AgentRef[Shelf]) -> None:
    """Typed; changing it changes nobody else's."""
    shelf.call(Shelf.put, Book(title="Dune", pages=1))
    copy = shelf.state()
    assert isinstance(copy, Shelf)
    copy.books.clear()
    assert len(shelf.state().books) == 1
    assert len(shelf.state(consistency="eventual").books) == 1
    with pytest.raises(InvalidInputError, match="consistency"):
        shelf.state(consistency="sometimes")  # type: ignore[arg-type]


@pytest.mark.parametrize("timeout", [0, -1, math.nan, math.inf, "5", True, 1e9], ids=repr)
def test_ill_timeouts_are_refused(cluster: Cluster, name: str, timeout: Any) -> None:
    """On refs and on the cluster; the message holds the value."""
    ref = cluster.ref(Counter, name)
    with pytest.raises(InvalidInputError, match="timeout"):
        ref.options(timeout=timeout)
    with pytest.raises(InvalidInputError, match="timeout"):
        cluster.options(timeout=timeout)


def test_ill_operation_ids_are_refused(cluster: Cluster, name: str) -> None:
    """They keep the rule of ids."""
    with pytest.raises(InvalidInputError, match="not an id"):
        cluster.ref(Counter, name).options(op_id="a b")
    with pytest.raises(InvalidInputError, match="not an id"):
        cluster.options(op_id="")


def test_options_add_up(cluster: Cluster, name: str) -> None:
    """Each view leaves the other options, and the original, as they are."""
    ref = cluster.spawn(Counter, name)
    once = ref.options(timeout=5.0).options(op_id="once")
    assert [once.call(Counter.add) for _ in range(3)] == [1, 1, 1]
    assert [ref.call(Counter.add) for _ in range(2)] == [2, 3]
    viewed = cluster.options(op_id="twice").ref(Counter, name)
    assert [viewed.call(Counter.add) for _ in range(2)] == [4, 4]


def test_a_dedicated_agent_is_called_like_any_other(cluster: Cluster, name: str) -> None:
    """Its own process runs its hooks, its turns and its outbox; commits are as everywhere."""
    alone = cluster.spawn(Alone, name)
    assert alone.call(Alone.add, 5) == 105
    with pytest.raises(Exception, match="ValueError: alone and empty"):
        alone.call(Alone.fail)
    # A failed turn throws the object away: the next one is activated again.
    assert alone.call(Alone.get) == 105
    assert alone.state().value == 105
    inbox, witness = cluster.spawn(Inbox, name + ".i"), cluster.spawn(Witness, name + ".w")
    alone.call(Alone.send, inbox.id)
    wait_until(lambda: inbox.state().numbers == [5], "the signal")
    assert alone.call(Alone.ask, witness.id).caller == alone.id
