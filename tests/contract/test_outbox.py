"""What a turn sends: delivered if and only if it commits, and as one turn of the receiver."""

from collections.abc import Callable
from pathlib import Path

import pytest

from jido_cluster import AgentRef, Cluster, ExecutionError
from tests.contract.agents import Counter, Diary, Inbox, Queue, Room, Sender
from tests.contract.support import Gate, wait_until

MakeGate = Callable[[], Gate]


@pytest.fixture
def sender(cluster: Cluster, name: str) -> AgentRef[Sender]:
    return cluster.spawn(Sender, f"{name}.from")


@pytest.fixture
def inbox(cluster: Cluster, name: str) -> AgentRef[Inbox]:
    return cluster.spawn(Inbox, f"{name}.to")


def settled(sender: AgentRef[Sender], inbox: AgentRef[Inbox]) -> Inbox:
    """The inbox's state when everything sent so far has been delivered."""
    mark = inbox.info().version
    number = 1_000_000 + mark
    sender.call(Sender.send, inbox.id, "inbox.number", {"number": number})
    wait_until(lambda: number in inbox.state().numbers, "the last signal's delivery")
    return inbox.state()


def test_all_matching_handlers_run_in_one_turn(
    sender: AgentRef[Sender], inbox: AgentRef[Inbox]
) -> None:
    """Higher priority first, then the more specific pattern; the whole is one commit."""
    sender.call(Sender.send, inbox.id, "note.book.new", {"title": "Dune"})
    wait_until(lambda: inbox.state().ran, "the delivery")
    state = inbox.state()
    assert state.ran == ["first", "new", "book Dune", "any"]
    assert inbox.info().version == 1
    assert state.source == sender.id


def test_a_delivery_that_fails_changes_nothing(
    sender: AgentRef[Sender], inbox: AgentRef[Inbox]
) -> None:
    """Also what an earlier handler of the turn had done is dropped; the sender keeps its own."""
    assert sender.call(Sender.send, inbox.id, "note.bad.new") == 1
    assert settled(sender, inbox).ran == []


def test_unknown_names_are_ignored_and_missing_ones_have_defaults(
    sender: AgentRef[Sender], inbox: AgentRef[Inbox]
) -> None:
    """Publishers may add fields; a field the handler knows is checked all the same."""
    sender.call(Sender.send, inbox.id, "note.book.old", {"pages": 3, "price": 4})
    sender.call(Sender.send, inbox.id, "note.book.old", {"title": ["no", "text"]})
    assert settled(sender, inbox).ran == ["book untitled", "any"]


@pytest.mark.parametrize("data", [[1, 2], "text", 5, None])
def test_data_that_are_no_object_are_seen_in_the_signal(
    sender: AgentRef[Sender], inbox: AgentRef[Inbox], data: object
) -> None:
    """Parameters keep their defaults."""
    sender.call(Sender.send, inbox.id, "note.book.new", data)
    state = settled(sender, inbox)
    assert state.ran == ["first", "new", "book untitled", "any"]
    assert state.last == data


def test_nothing_is_sent_when_the_turn_fails(
    sender: AgentRef[Sender], inbox: AgentRef[Inbox]
) -> None:
    """The outbox goes with the state."""
    with pytest.raises(ExecutionError, match="changed my mind"):
        sender.call(Sender.send, inbox.id, "note.x", how="fail")
    assert settled(sender, inbox).ran == []
    assert sender.state().sent == 1


def test_a_repeated_operation_sends_nothing_again(
    sender: AgentRef[Sender], inbox: AgentRef[Inbox]
) -> None:
    """The remembered result is all the caller gets."""
    once = sender.options(op_id="send-once")
    assert [once.call(Sender.send, inbox.id, "note.x") for _ in range(3)] == [1, 1, 1]
    assert settled(sender, inbox).ran == ["any"]


def test_signals_to_one_agent_keep_their_order(
    sender: AgentRef[Sender], inbox: AgentRef[Inbox]
) -> None:
    """Five hundred of one turn arrive in the order sent."""
    sender.call(Sender.many, inbox.id, 500)
    wait_until(lambda: len(inbox.state().numbers) == 500, "500 deliveries")
    assert inbox.state().numbers == list(range(500))


def test_a_signal_to_oneself_is_a_later_turn(cluster: Cluster, sender: AgentRef[Sender]) -> None:
    """It waits for the turn that sent it."""
    sender.call(Sender.send, sender.id, "sender.send", {"to": sender.id, "name": "note.none"})
    wait_until(lambda: sender.state().sent == 2, "the second turn")


def test_a_signal_nobody_takes_disturbs_nobody(
    cluster: Cluster, sender: AgentRef[Sender], inbox: AgentRef[Inbox]
) -> None:
    """An absent receiver, or one without a handler for it."""
    assert sender.call(Sender.send, "nobody-at-all", "note.x") == 1
    assert sender.call(Sender.send, inbox.id, "unknown.type") == 2
    assert settled(sender, inbox).ran == []


def test_what_cannot_be_sent_fails_the_turn(
    sender: AgentRef[Sender], inbox: AgentRef[Inbox]
) -> None:
    """A bad id, data over the limit; a read-only turn sends nothing at all."""
    with pytest.raises(ExecutionError, match="InvalidInputError: 'a b'"):
        sender.call(Sender.send, "a b", "note.x")
    with pytest.raises(ExecutionError, match=r"InvalidInputError: .*1048576"):
        sender.call(Sender.send, inbox.id, "note.x", "x" * ((1 << 20) - 150))
    with pytest.raises(ExecutionError, match=r"UsageError: .*read_only"):
        sender.call(Sender.read, inbox.id)
    assert settled(sender, inbox).ran == []


def test_a_signal_to_a_busy_agent_waits(
    cluster: Cluster, name: str, sender: AgentRef[Sender], gate: MakeGate
) -> None:
    """Its turn comes after the one that runs."""
    queue = cluster.spawn(Queue, f"{name}.queue")
    door = gate()
    slow = queue.submit(Queue.hold, **door.files, item=1)
    with door.held():
        sender.call(Sender.send, queue.id, "queue.put", {"item": 2, "more": True})
        assert queue.state().items == []
    slow.result(15)
    wait_until(lambda: queue.call(Queue.all) == [1, 2], "the delivery")


def test_a_signal_wakes_its_receiver(
    cluster: Cluster, name: str, sender: AgentRef[Sender], tmp_path: Path
) -> None:
    """A passive agent is activated by it."""
    diary = cluster.spawn(Diary, f"{name}.diary", path=str(tmp_path / "diary"))
    diary.passivate()
    sender.call(Sender.send, diary.id, "diary.write", {"line": "from afar"})
    wait_until(lambda: "from afar" in diary.state().lines, "the delivery")


def test_a_signal_creates_a_virtual_agent(
    cluster: Cluster, name: str, sender: AgentRef[Sender]
) -> None:
    """Sent to a ref of a virtual type, the first signal makes the agent."""
    room = f"{name}.room"
    sender.call(Sender.to_ref, room)
    wait_until(lambda: list(cluster.agents(prefix=room)), "the room")
    assert cluster.ref(Room, room).call(Room.count) == 1


def test_casting_a_signal_runs_one_handler(inbox: AgentRef[Inbox]) -> None:
    """A cast is a call nobody waits for, not a delivery."""
    from jido_cluster import Signal

    inbox.cast(Signal("note.book.new", {}))
    wait_until(lambda: inbox.state().ran, "the cast")
    assert inbox.state().ran == ["first"]


def test_other_agents_are_left_alone(
    cluster: Cluster, name: str, sender: AgentRef[Sender], inbox: AgentRef[Inbox]
) -> None:
    """A delivery is one agent's, however many would match."""
    other, counter = cluster.spawn(Inbox, f"{name}.other"), cluster.spawn(Counter, f"{name}.c")
    sender.call(Sender.send, inbox.id, "note.x")
    assert settled(sender, inbox).ran == ["any"]
    assert (other.info().version, counter.info().version) == (0, 0)
