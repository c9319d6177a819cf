"""Turns: atomic, one at a time, in order, within their time, and once for each operation."""

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

import pytest

from jido_cluster import (
    ActionTimeoutError,
    AgentRef,
    Cluster,
    DeadlineExceededError,
    ExecutionError,
    InvalidInputError,
    InvalidOutputError,
    OverloadedError,
    new_id,
)
from tests.contract.actions import OutOfStock
from tests.contract.agents import Counter, NarrowQueue, Picky, Queue, Shelf, Stillborn, Witness
from tests.contract.support import Gate, wait_until

MakeGate = Callable[[], Gate]


@pytest.fixture
def counter(cluster: Cluster, name: str) -> AgentRef[Counter]:
    return cluster.spawn(Counter, name, value=1)


@pytest.fixture
def queue(cluster: Cluster, name: str) -> AgentRef[Queue]:
    return cluster.spawn(Queue, name)


class Stopwatch:
    """Seconds a block took."""

    def __enter__(self) -> Self:
        self._begun = time.monotonic()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.monotonic() - self._begun


# -- atomic


@pytest.mark.parametrize("handler", [Counter.fail, Counter.fail_sync], ids=["async", "sync"])
def test_a_turn_that_fails_changes_nothing(
    counter: AgentRef[Counter], handler: Callable[[Counter], None]
) -> None:
    """The error has the kind, the text and an id; the next turn begins from before."""
    version = counter.info().version
    with pytest.raises(ExecutionError, match=r"(ValueError|KeyError): .*(empty|gone)") as raised:
        counter.call(handler)
    assert type(raised.value) is ExecutionError
    assert raised.value.error_id
    assert any(counter.id in note for note in raised.value.__notes__)
    assert (counter.state().value, counter.info().version) == (1, version)
    assert counter.call(Counter.add) == 2


def test_an_error_of_the_users_arrives_as_itself(counter: AgentRef[Counter]) -> None:
    """A subclass of `ExecutionError` keeps its class, kind, message, details and `retryable`."""
    with pytest.raises(OutOfStock, match="no books left") as raised:
        counter.call(Counter.fail, "stock")
    error = raised.value
    assert (error.kind, error.retryable) == ("contract_out_of_stock", True)
    assert error.details["shelf"] == 7
    assert counter.state().value == 1


def test_a_state_that_does_not_validate_is_never_committed(
    cluster: Cluster, name: str, counter: AgentRef[Counter]
) -> None:
    """A wrong type, or a broken rule of the type; the agent goes on from before."""
    with pytest.raises(InvalidOutputError, match="value"):
        counter.call(Counter.spoil)
    assert counter.call(Counter.add) == 2
    picky = cluster.spawn(Picky, name + ".p")
    with pytest.raises(InvalidOutputError, match="high"):
        picky.call(Picky.set, 5, 101)
    assert (picky.state().low, picky.state().high) == (0, 10)
    picky.call(Picky.set, 50, 100)
    assert picky.state().low == 50


def test_a_result_that_does_not_fit_fails_the_turn(counter: AgentRef[Counter]) -> None:
    """The state it would have come with is not kept."""
    with pytest.raises(InvalidOutputError):
        counter.call(Counter.wrong_result)
    assert counter.state().value == 1


def test_states_and_results_have_a_limit(cluster: Cluster, name: str) -> None:
    """1 MiB; what is larger fails the turn with the limit in its message."""
    shelf = cluster.spawn(Shelf, name)
    assert shelf.call(Shelf.write, 1_000_000) == 1_000_000
    with pytest.raises(InvalidOutputError, match="1048576"):
        shelf.call(Shelf.write, 1 << 20)
    assert len(shelf.state().text) == 1_000_000
    assert len(shelf.call(Shelf.read, (1 << 20) - 2)) == (1 << 20) - 2
    with pytest.raises(InvalidOutputError, match="1048576"):
        shelf.call(Shelf.read, 1 << 20)


def test_a_read_only_handler_may_not_assign(counter: AgentRef[Counter]) -> None:
    """It is told so, and nothing is changed."""
    with pytest.raises(ExecutionError, match=r"UsageError: .*read_only"):
        counter.call(Counter.assign)
    assert counter.state().value == 1


# -- one at a time, in order


def test_calls_of_one_caller_run_in_the_order_made(queue: AgentRef[Queue]) -> None:
    """Two hundred of them, sync and async handlers mixed."""
    handlers = (Queue.put, Queue.put_sync)
    calls = [queue.submit(handlers[n % 2], n) for n in range(200)]
    assert [call.result(30) for call in calls] == list(range(200))
    assert queue.call(Queue.all) == list(range(200))


def test_casts_and_calls_keep_their_order(queue: AgentRef[Queue]) -> None:
    """A cast before a call runs before it."""
    for n in range(0, 100, 2):
        queue.cast(Queue.put, n)
        queue.submit(Queue.put, n + 1)
    wait_until(lambda: queue.call(Queue.count) == 100, "a hundred turns")
    assert queue.call(Queue.all) == list(range(100))


def test_turns_of_many_callers_do_not_mix(counter: AgentRef[Counter]) -> None:
    """Threads that add at once lose no addition."""
    results: list[int] = []
    threads = [
        threading.Thread(
            target=lambda: results.extend(counter.call(Counter.add) for _ in range(50))
        )
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(results) == list(range(2, 402))


def test_reads_run_beside_a_slow_turn(queue: AgentRef[Queue], gate: MakeGate) -> None:
    """They see the state from before it, at once; writes wait."""
    door = gate()
    slow = queue.submit(Queue.hold, **door.files, item=1)
    with door.held():
        assert queue.call(Queue.count) == 0
        assert queue.call(Queue.all) == []
        waiting = queue.submit(Queue.put, 2)
        assert queue.state().items == []
        assert not waiting.done()
    assert (slow.result(15), waiting.result(15)) == (1, 2)
    assert queue.call(Queue.all) == [1, 2]


def test_a_slow_turn_holds_back_no_other_agent(
    cluster: Cluster, name: str, queue: AgentRef[Queue], gate: MakeGate
) -> None:
    """Others on every node answer while it lasts; so do sync handlers."""
    door = gate()
    slow = queue.submit(Queue.hold, **door.files)
    with door.held():
        others = [cluster.spawn(Counter, f"{name}.{n}") for n in range(20)]
        assert [other.call(Counter.add_sync) for other in others] == [1] * 20
    slow.result(15)


def test_a_full_mailbox_refuses(cluster: Cluster, name: str, gate: MakeGate) -> None:
    """At once, saying when to come again; what waits is served, and then there is room."""
    narrow = cluster.spawn(NarrowQueue, name)
    door = gate()
    slow = narrow.submit(Queue.hold, **door.files, item=0)
    with door.held():
        waiting = [narrow.submit(Queue.put, n) for n in (1, 2)]
        with pytest.raises(OverloadedError, match="max_mailbox") as raised:
            narrow.call(Queue.put, 3)
        assert raised.value.retry_after is not None
        assert raised.value.retry_after > 0
        assert raised.value.retryable
    assert [call.result(15) for call in (slow, *waiting)] == [0, 1, 2]
    assert narrow.call(Queue.put, 3) == 3
    assert narrow.call(Queue.all) == [0, 1, 2, 3]


# -- within their time


def test_a_slow_handler_is_stopped_at_the_deadline(counter: AgentRef[Counter]) -> None:
    """An async one is cancelled, its changes are dropped, the next turn runs at once."""
    with Stopwatch() as watch, pytest.raises(ActionTimeoutError):
        counter.options(timeout=0.3).call(Counter.nap, 60)
    assert 0.25 < watch.seconds < 1.3
    assert counter.call(Counter.add) == 2


def test_a_blocked_handler_is_abandoned_at_the_deadline(
    counter: AgentRef[Counter], tmp_path: Path
) -> None:
    """A sync one goes on in its thread, with an object nobody will see again."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    try:
        with Stopwatch() as watch, pytest.raises(ActionTimeoutError):
            counter.options(timeout=0.3).call(Counter.block, str(fifo))
        assert watch.seconds < 1.3
        assert counter.call(Counter.add) == 2
    finally:
        fifo.write_bytes(b"go on")
    assert counter.call(Counter.add) == 3


def test_what_waited_too_long_never_ran(queue: AgentRef[Queue], gate: MakeGate) -> None:
    """A call behind a slow turn ends at its own deadline, and does not run afterwards."""
    door = gate()
    slow = queue.submit(Queue.hold, **door.files, item=1)
    with door.held():
        with Stopwatch() as watch, pytest.raises(DeadlineExceededError):
            queue.options(timeout=0.3).call(Queue.put, 2)
        assert 0.25 < watch.seconds < 1.3
    slow.result(15)
    assert queue.call(Queue.put, 3) == 3
    assert queue.call(Queue.all) == [1, 3]


def test_a_handler_can_set_its_own_deadline(counter: AgentRef[Counter]) -> None:
    """The handler's timeout holds where the call sets none; the call's wins."""
    with Stopwatch() as watch, pytest.raises(ActionTimeoutError):
        counter.call(Counter.brief)
    assert watch.seconds < 1.2
    with Stopwatch() as watch, pytest.raises(ActionTimeoutError):
        counter.options(timeout=0.6).call(Counter.brief)
    assert 0.5 < watch.seconds < 1.6


def test_the_deadline_of_a_turn_caps_the_calls_it_makes(
    cluster: Cluster, name: str, gate: MakeGate
) -> None:
    """The inner call ends when the outer one's time is up, whatever its own default is."""
    witness = cluster.spawn(Witness, name + ".w")
    queue = cluster.spawn(Queue, name + ".q")
    door = gate()
    slow = queue.submit(Queue.hold, **door.files, item=1)
    with door.held():
        with Stopwatch() as watch, pytest.raises((TimeoutError, ExecutionError)):
            witness.options(timeout=0.4).call(Witness.put, queue.id)
        assert watch.seconds < 1.4
        # The queue counts the time from when the call came, a moment later than the caller.
        over = time.monotonic() + 0.4
        wait_until(lambda: time.monotonic() > over, "the end of the inner call's time")
    slow.result(15)
    assert queue.call(Queue.put, 2) == 2
    assert queue.call(Queue.all) == [1, 2]


# -- once for each operation


def test_an_operation_runs_once(counter: AgentRef[Counter]) -> None:
    """The same operation id gives the remembered result, from any ref, also after other turns."""
    once = counter.options(op_id=new_id("op-"))
    assert once.call(Counter.add, 5) == 6
    assert counter.call(Counter.add, 100) == 106
    assert once.call(Counter.add, 5) == 6
    assert counter.call(Counter.get) == 106
    assert counter.info().version == 2


def test_an_operation_in_flight_runs_once(queue: AgentRef[Queue], gate: MakeGate) -> None:
    """A retry that comes while the first one runs waits for its result."""
    door = gate()
    once = queue.options(op_id=new_id("op-"))
    first = once.submit(Queue.hold, **door.files, item=4)
    with door.held():
        second = once.submit(Queue.hold, **door.files, item=4)
    assert (first.result(15), second.result(15)) == (4, 4)
    assert queue.call(Queue.all) == [4]


def test_an_operation_id_with_other_parameters_is_refused(counter: AgentRef[Counter]) -> None:
    """Also with another handler that takes the same parameters: it would get the wrong result."""
    once = counter.options(op_id=new_id("op-"))
    once.call(Counter.add, 5)
    with pytest.raises(InvalidInputError, match="op_id"):
        once.call(Counter.add, 6)
    with pytest.raises(InvalidInputError, match="op_id"):
        once.call(Counter.sub, 5)
    assert counter.call(Counter.get) == 6


def test_operation_ids_are_looked_up_per_agent(cluster: Cluster, name: str) -> None:
    """Two agents may have the same one."""
    op_id = new_id("op-")
    for n in (1, 2):
        ref = cluster.spawn(Counter, f"{name}.{n}").options(op_id=op_id)
        assert ref.call(Counter.add, n) == n


def test_a_failed_operation_runs_again(cluster: Cluster, name: str, tmp_path: Path) -> None:
    """Failures are not remembered; every run has the same operation id."""
    path = tmp_path / "runs"
    once = cluster.spawn(Witness, name).options(op_id="op-again")
    with pytest.raises(ExecutionError, match="ConnectionError") as raised:
        once.call(Witness.stumble, str(path))
    assert raised.value.retryable
    assert once.call(Witness.stumble, str(path)) == 2
    assert once.call(Witness.stumble, str(path)) == 2
    assert path.read_text().split() == ["op-again", "op-again"]


def test_a_turn_does_not_begin_while_activation_fails(
    cluster: Cluster, name: str, tmp_path: Path
) -> None:
    """A wake-up whose `on_start` raises is the caller's error; the state is kept for later."""
    food = tmp_path / "food"
    food.touch()
    ref = cluster.spawn(Stillborn, name, path=str(food))
    food.unlink()
    ref.passivate()
    with pytest.raises(ExecutionError, match="nothing to live on"):
        ref.call(Stillborn.ping)
    food.touch()
    assert ref.call(Stillborn.ping) == "pong"
