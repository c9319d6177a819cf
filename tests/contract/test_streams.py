"""Handlers that yield: items as they come, one turn, and commit at the end or not at all."""

import asyncio
import gc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from jido_cluster import (
    ActionTimeoutError,
    AgentNotFoundError,
    AgentRef,
    AsyncCluster,
    Cluster,
    ExecutionError,
    HandlerNotFoundError,
    InvalidInputError,
    InvalidOutputError,
    OutcomeUnknownError,
    Signal,
    UsageError,
)
from jido_cluster.runtime.flow import WINDOW_ITEMS
from tests.contract.actions import Book, OutOfStock
from tests.contract.agents import Inbox, Sender
from tests.contract.support import Gate, Mortal, spawn_on, wait_until
from tests.contract.tapes import FoundTape, LoneTape, Tape

MakeGate = Callable[[], Gate]
WINDOWS = {Tape: WINDOW_ITEMS, LoneTape: 2 * WINDOW_ITEMS}


@pytest.fixture(params=[Tape, LoneTape], ids=["shared", "dedicated"])
def kind(request: pytest.FixtureRequest) -> type[Tape]:
    return request.param


@pytest.fixture
def tape(cluster: Cluster, name: str, kind: type[Tape]) -> AgentRef[Tape]:
    return cluster.spawn(kind, name)


@pytest.fixture
def shared(cluster: Cluster, name: str) -> AgentRef[Tape]:
    return cluster.spawn(Tape, name)


def lines(path: Path, text: str = "") -> int:
    """How many lines a handler has left, or how many of this text."""
    found = path.read_text().splitlines() if path.exists() else []
    return sum(1 for line in found if line == text or not text)


# -- items, and the commit


def test_items_come_in_order_and_the_end_commits(tape: AgentRef[Tape]) -> None:
    """One turn: the version rises by one, however many items; far more than are on their way."""
    version = tape.info().version
    assert list(tape.stream(Tape.count, 1000)) == list(range(1, 1001))
    assert tape.call(Tape.get) == tape.state().value == 1000
    assert tape.info().version == version + 1
    assert list(tape.stream(Tape.count, n=3)) == [1001, 1002, 1003]


def test_an_empty_stream_commits_too(tape: AgentRef[Tape]) -> None:
    """There is nothing to take."""
    version = tape.info().version
    assert list(tape.stream(Tape.count, 0)) == []
    assert tape.info().version == version + 1


def test_items_have_the_type_that_is_declared(shared: AgentRef[Tape]) -> None:
    """Models arrive as such; of any type, items are plain data."""
    assert list(shared.stream(Tape.books, ["Dune"])) == [Book(title="Dune", pages=4)]
    items = [1, "a", None, {"b": [True]}]
    assert list(shared.stream(Tape.loose, items)) == items
    assert list(shared.stream(Tape.number, ["3"])) == [3]


def test_a_failure_comes_after_the_items(tape: AgentRef[Tape]) -> None:
    """Typed as in a call; the state is unchanged and the next turn begins from before."""
    for how, error in (("stock", OutOfStock), ("value", ExecutionError)):
        stream = tape.stream(Tape.count, 3, how)
        assert [next(stream) for _ in range(3)] == [1, 2, 3]
        with pytest.raises(error, match="no tape left|ValueError: the tape is torn") as raised:
            next(stream)
        assert raised.value.details["agent"] == tape.id
        assert list(stream) == []
    assert tape.call(Tape.add) == 1


def test_a_state_that_does_not_fit_fails_at_the_end(tape: AgentRef[Tape]) -> None:
    """After all items: nothing is committed."""
    stream = tape.stream(Tape.count, 2, "spoil")
    assert [next(stream), next(stream)] == [1, 2]
    with pytest.raises(InvalidOutputError):
        next(stream)
    assert tape.call(Tape.get) == 0


def test_an_item_that_does_not_fit_ends_the_stream(tape: AgentRef[Tape], tmp_path: Path) -> None:
    """Of the wrong type, or larger than what may travel; earlier items were given."""
    stream = tape.stream(Tape.number, [1, 2, "many", 4])
    assert [next(stream), next(stream)] == [1, 2]
    with pytest.raises(InvalidOutputError, match="tape.number"):
        next(stream)
    large = tape.stream(Tape.text, str(tmp_path / "made"), [10, (1 << 20) - 2, 1 << 20])
    assert [len(next(large)), len(next(large))] == [10, (1 << 20) - 2]
    with pytest.raises(InvalidOutputError, match="an item: .* limit of 1048576"):
        next(large)
    assert tape.call(Tape.get) == 0


def test_the_outbox_of_a_stream_leaves_with_its_commit(
    cluster: Cluster, tape: AgentRef[Tape], name: str
) -> None:
    """Nothing of a stream that was closed, everything of one that came to its end."""
    inbox = cluster.spawn(Inbox, f"{name}.inbox")
    stream = tape.stream(Tape.send, inbox.id, 3)
    assert next(stream) == 0
    stream.close()
    assert list(tape.stream(Tape.send, inbox.id, 2)) == [0, 1]
    wait_until(lambda: len(inbox.state().numbers) >= 2, "the signals")
    assert inbox.state().numbers == [0, 1]


def test_a_stream_may_end_its_agent(tape: AgentRef[Tape]) -> None:
    """With its commit."""
    stream = tape.stream(Tape.end)
    assert next(stream) == "ending"
    assert tape.call(Tape.get) == 0
    assert list(stream) == []
    with pytest.raises(AgentNotFoundError):
        tape.call(Tape.get)


# -- closing


def test_closing_early_cancels_the_turn(tape: AgentRef[Tape], tmp_path: Path) -> None:
    """Nothing commits; the handler's `finally` runs, and the agent goes on."""
    path = tmp_path / "log"
    stream = tape.stream(Tape.log, str(path), 10_000)
    assert [next(stream), next(stream)] == [0, 1]
    stream.close()
    assert list(stream) == []
    assert tape.call(Tape.add) == 1
    assert lines(path, "end") == 1
    assert lines(path, "last") == 0


def test_a_stream_that_is_dropped_is_closed(tape: AgentRef[Tape], tmp_path: Path) -> None:
    """`break` is enough."""
    path = tmp_path / "log"
    for item in tape.stream(Tape.log, str(path), 10_000):
        if item == 100:
            break
    gc.collect()
    wait_until(lambda: lines(path, "end"), "the end of the handler")
    assert tape.call(Tape.add) == 1


def test_nothing_commits_before_the_end_is_asked_for(tape: AgentRef[Tape], tmp_path: Path) -> None:
    """Who closes after the last item, although the handler has ended, closes early."""
    path = tmp_path / "log"
    stream = tape.stream(Tape.log, str(path), 3)
    assert [next(stream) for _ in range(3)] == [0, 1, 2]
    wait_until(lambda: lines(path, "end"), "the end of the handler")
    stream.close()
    assert tape.call(Tape.add) == 1


def test_a_stream_that_is_never_begun_is_never_sent(cluster: Cluster, name: str) -> None:
    """It is asked for with its first item: there is no agent to find before."""
    stream = cluster.ref(Tape, name).stream(Tape.count, 3)
    stream.close()
    late = cluster.ref(Tape, name).stream(Tape.count, 3)
    cluster.spawn(Tape, name)
    assert list(late) == [1, 2, 3]


def test_a_handler_that_ignores_its_cancellation_commits_nothing(
    tape: AgentRef[Tape], tmp_path: Path
) -> None:
    """It goes on to its next `yield`, where it ends."""
    path = tmp_path / "log"
    stream = tape.stream(Tape.stubborn, str(path))
    assert next(stream) == 1
    wait_until(lambda: lines(path, "waits"), "the wait")
    stream.close()
    assert tape.call(Tape.add) == 1
    assert lines(path, "goes on") == 1


def test_a_stream_can_be_closed_while_it_waits_for_its_turn(
    cluster: Cluster, tape: AgentRef[Tape], gate: MakeGate, tmp_path: Path
) -> None:
    """It never runs."""
    path, door = tmp_path / "log", gate()

    async def wait_and_leave(view: AsyncCluster) -> None:
        ref = view.ref(Tape, tape.id)
        first = asyncio.ensure_future(anext(ref.stream(Tape.log, str(path), 3)))
        await ref.info()  # answered after the stream has been taken
        first.cancel()
        await asyncio.wait((first,))
        assert first.cancelled()

    stream = tape.stream(Tape.hold, **door.files)
    assert next(stream) == 1
    with door.held():
        cluster._portal.call(wait_and_leave(cluster._inner))
    assert list(stream) == [2]
    assert tape.call(Tape.get) == 1
    assert lines(path) == 0


# -- not too much at once


def test_the_handler_waits_for_its_taker(
    cluster: Cluster, tape: AgentRef[Tape], kind: type[Tape], tmp_path: Path
) -> None:
    """It runs ahead by a window of items, and goes on as they are taken."""
    path = tmp_path / "log"
    stream = tape.stream(Tape.log, str(path), 1000)
    next(stream)
    wait_until(lambda: lines(path, "made") > WINDOW_ITEMS, "a full window")
    for _ in range(20):  # time enough to run away
        cluster.nodes()
    most = WINDOWS[kind] + WINDOW_ITEMS // 2 + 2
    assert lines(path, "made") <= most
    taken = 1
    for _ in stream:
        taken += 1
        assert lines(path, "made") <= taken + most
    assert taken == 1000
    assert lines(path, "last") == 1


def test_large_items_fill_the_window_sooner(
    cluster: Cluster, shared: AgentRef[Tape], tmp_path: Path
) -> None:
    """It is a window of bytes too: 1 MiB, and one item more."""
    path, size = tmp_path / "log", 400_000
    stream = shared.stream(Tape.text, str(path), [size] * 30)
    assert len(next(stream)) == size
    wait_until(lambda: lines(path) >= 4, "a full window")
    for _ in range(20):
        cluster.nodes()
    assert lines(path) <= 6
    assert [len(item) for item in stream] == [size] * 29


def test_streams_do_not_wait_for_each_other(cluster: Cluster, name: str) -> None:
    """Many takers, many agents, at their own pace."""
    refs = [cluster.spawn(Tape, f"{name}.{n}") for n in range(8)]
    streams = [ref.stream(Tape.count, 300) for ref in refs]
    idle = refs[0].stream(Tape.now)
    assert next(idle) == 0
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(sum, streams)) == [300 * 301 // 2] * 8
    assert list(idle) == []


# -- one turn at a time


def test_other_turns_wait_and_reads_do_not(tape: AgentRef[Tape], gate: MakeGate) -> None:
    """A read sees what is committed; a call waits until the stream has ended."""
    door = gate()
    stream = tape.stream(Tape.hold, **door.files)
    assert next(stream) == 1
    with door.held():
        assert tape.call(Tape.get) == 0
        assert list(tape.stream(Tape.now)) == [0]
        later = tape.submit(Tape.add, 10)
        tape.info()  # answered after the call has been taken
        assert not later.done()
    assert list(stream) == [2]
    assert later.result(15) == 11


def test_a_read_only_stream_runs_beside_turns(tape: AgentRef[Tape], gate: MakeGate) -> None:
    """It keeps the state of its beginning, and holds up no turn."""
    door = gate()
    stream = tape.stream(Tape.watch, **door.files)
    assert next(stream) == 0
    with door.held():
        assert tape.call(Tape.add, 5) == 5
        assert list(tape.stream(Tape.count, 1)) == [6]
    assert list(stream) == [0]
    assert list(tape.stream(Tape.now)) == [6]


def test_a_read_only_stream_changes_nothing(tape: AgentRef[Tape]) -> None:
    """Assigning raises; its items were given."""
    stream = tape.stream(Tape.assign)
    assert next(stream) == 0
    with pytest.raises(ExecutionError, match="UsageError: .*read_only"):
        next(stream)
    assert tape.call(Tape.get) == 0


def test_streams_and_calls_of_one_client_keep_their_order(shared: AgentRef[Tape]) -> None:
    """They start as they were made."""
    before = shared.submit(Tape.add, 10)
    assert list(shared.stream(Tape.count, 2)) == [11, 12]
    assert before.result(15) == 10
    assert shared.call(Tape.add) == 13


# -- time


def test_a_stream_has_a_deadline_as_a_whole(tape: AgentRef[Tape]) -> None:
    """That of its handler, here; what came before is given first."""
    tape.call(Tape.get)  # a dedicated worker starts before the time begins to count
    stream = tape.stream(Tape.brief)
    assert next(stream) == 1
    # On a busy machine the host's verdict may come too late to be waited for.
    with pytest.raises((ActionTimeoutError, OutcomeUnknownError)):
        next(stream)
    assert tape.call(Tape.get) == 0


def test_a_slow_taker_uses_up_the_time_too(tape: AgentRef[Tape]) -> None:
    """The items that had come are still given, then the error."""
    stream = tape.options(timeout=0.5).stream(Tape.count, 10_000)
    assert next(stream) == 1
    assert tape.call(Tape.add) == 1  # its turn comes when the stream has been ended
    with pytest.raises(ActionTimeoutError):
        list(stream)
    stream = tape.options(timeout=0.5).stream(Tape.count, 2)
    assert [next(stream), next(stream)] == [2, 3]
    assert tape.call(Tape.add) == 2
    with pytest.raises(ActionTimeoutError):
        next(stream)


# -- from handlers


def test_a_handler_takes_the_stream_of_another_agent(
    cluster: Cluster, tape: AgentRef[Tape], name: str
) -> None:
    """And gives it on, item by item; in threads too. Closing the outer one closes the inner one."""
    other = cluster.spawn(Tape, f"{name}.other")
    assert list(tape.stream(Tape.copy_of, other.id, 200)) == list(range(1, 201))
    assert (tape.call(Tape.get), other.call(Tape.get)) == (200, 200)
    assert tape.call(Tape.sum, other.id, 2) == 201 + 202
    stream = tape.stream(Tape.copy_of, other.id, 10_000)
    assert next(stream) == 203
    stream.close()
    assert (tape.call(Tape.add), other.call(Tape.add)) == (404, 203)


def test_a_stream_in_a_handler_inherits_from_its_turn(
    cluster: Cluster, shared: AgentRef[Tape], name: str
) -> None:
    """Who calls, the trace, and what is left of the time."""
    other = cluster.spawn(Tape, f"{name}.other")
    mine, its = shared.options(timeout=4.0).stream(Tape.seen, other.id)
    assert mine[0] is None
    assert its[0] == shared.id
    assert its[1] == mine[1]
    assert its[2] == mine[2] == "True"


def test_a_stream_of_itself_is_a_cycle(shared: AgentRef[Tape]) -> None:
    """Unless it is read-only: that one sees the committed state."""
    with pytest.raises(ExecutionError, match="CallCycleError"):
        list(shared.stream(Tape.of_itself))
    assert list(shared.stream(Tape.look_back)) == [0]
    assert shared.call(Tape.get) == 1000


# -- what is refused


def test_calls_and_streams_are_told_apart(shared: AgentRef[Tape]) -> None:
    """Before anything is sent; by name, by the agent's host."""
    ref: Any = shared
    for attempt in (ref.call, ref.request, ref.cast):
        with pytest.raises(InvalidInputError, match=r"Tape.count.*ref.stream"):
            attempt(Tape.count, 1)
    with pytest.raises(InvalidInputError, match=r"Tape.add.*ref.call"):
        ref.stream(Tape.add)
    with pytest.raises(InvalidInputError, match=r"Tape.count.*ref.stream"):
        ref.call("tape.count", n=1)
    with pytest.raises(InvalidInputError, match=r"Tape.now.*ref.stream"):
        ref.call("tape.now")
    with pytest.raises(InvalidInputError, match=r"Tape.count.*ref.stream"):
        ref.call(Signal("tape.count", {"n": 1}))
    assert shared.call(Tape.get) == 0


def test_a_stream_is_asked_for_well(cluster: Cluster, shared: AgentRef[Tape], name: str) -> None:
    """Its mistakes are told at once, by the call of `stream` itself."""
    ref: Any = shared
    with pytest.raises(InvalidInputError, match="'many'"):
        ref.stream(Tape.count, "many")
    with pytest.raises(InvalidInputError, match="how"):
        ref.stream(Tape.count, 1, hwo="fail")
    with pytest.raises(HandlerNotFoundError):
        ref.stream("tape.count", n=1)
    with pytest.raises(HandlerNotFoundError):
        ref.stream(len)
    with pytest.raises(InvalidInputError, match="op_id"):
        ref.options(op_id="op-1").stream(Tape.count, 1)
    with pytest.raises(HandlerNotFoundError, match="tape.count"):
        list(cluster.spawn(Inbox, f"{name}.inbox").stream(Tape.count, 1))


def test_a_stream_of_nobody(cluster: Cluster, name: str) -> None:
    """An agent that is not there says so; a virtual one is made, unless the parameters are ill."""
    with pytest.raises(AgentNotFoundError, match=name):
        next(cluster.ref(Tape, name).stream(Tape.count, 1))
    found = cluster.ref(FoundTape, f"{name}.found")
    assert list(found.stream(Tape.count, 2)) == [1, 2]
    assert found.call(Tape.get) == 2


def test_a_signal_does_not_reach_a_stream(cluster: Cluster, name: str) -> None:
    """Nobody would take its items: it is dropped, and the next one arrives."""
    tape = cluster.spawn(Tape, name)
    sender = cluster.spawn(Sender, f"{name}.sender")
    sender.call(Sender.send, tape.id, "tape.count", {"n": 3})
    sender.call(Sender.send, tape.id, "tape.add", {"amount": 5})
    wait_until(lambda: tape.state().value, "the second signal")
    assert tape.state().value == 5


def test_the_loop_of_a_cluster_is_not_blocked(cluster: Cluster, shared: AgentRef[Tape]) -> None:
    """As calls: on the portal's own loop a sync stream would wait for itself."""

    async def main() -> None:
        with pytest.raises(UsageError):
            next(shared.stream(Tape.count, 1))

    cluster._portal.call(main())


# -- on an event loop


def test_streams_on_an_event_loop(cluster: Cluster, name: str) -> None:
    """`async for`, closing, failing: the same."""
    cluster.spawn(Tape, name)

    async def main(view: AsyncCluster) -> None:
        ref = view.ref(Tape, name)
        assert [item async for item in ref.stream(Tape.count, 200)] == list(range(1, 201))
        async for item in ref.stream(Tape.count, 10_000):
            if item == 250:
                break
        stream = ref.stream(Tape.count, 10_000)
        assert await anext(stream) == 201
        await stream.aclose()
        assert await ref.call(Tape.get) == 200
        torn = ref.stream(Tape.count, 2, "stock")
        assert [await anext(torn), await anext(torn)] == [201, 202]
        with pytest.raises(OutOfStock):
            await anext(torn)
        with pytest.raises(InvalidInputError):
            ref.stream(Tape.count, "many")  # type: ignore[arg-type]

    cluster._portal.call(main(cluster._inner))


# -- loss


def test_a_stream_ends_with_its_node(mortal: Mortal, gate: MakeGate) -> None:
    """Its outcome is unknown; items that had come are given."""
    victim = mortal.victims[0]
    ref = spawn_on(mortal.cluster, victim, Tape)
    door = gate()
    with closing(ref.stream(Tape.hold, **door.files)) as stream:
        assert next(stream) == 1
        with door.held():
            mortal.kill(victim)
            with pytest.raises(OutcomeUnknownError, match="read the state"):
                next(stream)


def test_the_stream_of_a_taker_that_died_is_cancelled(mortal: Mortal) -> None:
    """An agent that takes another one's stream dies with its node: the other one is free again."""
    cluster = mortal.cluster
    victim, home = mortal.victims[0], mortal.victims[1]
    taker = spawn_on(cluster, victim, Tape)
    other = spawn_on(cluster, home, Tape)
    stream = taker.options(timeout=120.0).stream(Tape.copy_of, other.id, 1_000_000)
    assert next(stream) == 1
    mortal.kill(victim)
    assert other.options(timeout=20.0).call(Tape.add) == 1
    with pytest.raises(OutcomeUnknownError):
        list(stream)


def test_many_streams_are_closed_without_a_trace(cluster: Cluster, name: str) -> None:
    """However far each has come; every agent takes its next turn."""
    refs = [cluster.spawn(Tape, f"{name}.{n}") for n in range(4)]
    for count in range(40):
        with closing(refs[count % 4].stream(Tape.count, 500)) as stream:
            for _ in range(count * 3):
                next(stream)
    assert [ref.call(Tape.add) for ref in refs] == [1] * 4
