"""In memory, out of memory, and agents that come into being with their first signal."""

from pathlib import Path

import pytest

from jido_cluster import AgentNotFoundError, Cluster, HandlerNotFoundError, InvalidInputError
from tests.contract.agents import Counter, Diary, Room, Sleepy, Witness
from tests.contract.support import wait_until


def test_passivation_keeps_the_state(cluster: Cluster, name: str, tmp_path: Path) -> None:
    """`on_stop` and `on_start` run around it, and what they change is kept."""
    path = tmp_path / "diary"
    ref = cluster.spawn(Diary, name, path=str(path))
    ref.call(Diary.write, "one")
    ref.passivate()
    assert not ref.info().is_active
    assert ref.state().lines == ["start new=True", "one", "stop"]
    ref.call(Diary.write, "two")
    assert ref.info().is_active
    assert ref.state().lines == ["start new=True", "one", "stop", "start new=False", "two"]
    assert path.read_text().split() == ["start", "stop", "start"]


def test_passivation_is_repeatable(cluster: Cluster, name: str, tmp_path: Path) -> None:
    """A passive agent has nothing to stop; looking at it does not wake it."""
    path = tmp_path / "diary"
    ref = cluster.spawn(Diary, name, path=str(path))
    for _ in range(3):
        ref.passivate()
    ref.state()
    list(cluster.agents(prefix=name))
    assert not ref.info().is_active
    assert path.read_text().split() == ["start", "stop"]


def test_a_passive_agent_remembers_its_operations(cluster: Cluster, name: str) -> None:
    """A retry after passivation does not run again."""
    ref = cluster.spawn(Counter, name)
    once = ref.options(op_id="kept")
    assert once.call(Counter.add, 2) == 2
    ref.passivate()
    assert once.call(Counter.add, 2) == 2
    assert ref.call(Counter.get) == 2


def test_fence_and_newness_survive_passivation(cluster: Cluster, name: str) -> None:
    """The fence goes on rising; the agent is new only once."""
    ref = cluster.spawn(Witness, name)
    first = ref.call(Witness.look)
    ref.passivate()
    second = ref.call(Witness.look)
    assert (first.is_new, second.is_new) == (True, False)
    assert second.fence > first.fence
    assert second.now >= first.now


def test_an_idle_agent_leaves_memory(cluster: Cluster, name: str, tmp_path: Path) -> None:
    """After its type's `idle_timeout`; the next call finds its state."""
    path = tmp_path / "diary"
    ref = cluster.spawn(Sleepy, _settled_id(cluster, name), path=str(path))
    ref.call(Diary.write, "one")
    wait_until(lambda: not ref.info().is_active, "passivation")
    assert path.read_text().split() == ["start", "stop"]
    assert ref.call(Diary.write, "two") == 5
    assert ref.state().lines == ["start new=True", "one", "stop", "start new=False", "two"]


def _settled_id(cluster: Cluster, name: str) -> str:
    """An id whose shard is led by whom it prefers: who hands it over drops objects unasked."""
    for number in range(100):
        ref = cluster.spawn(Counter, f"{name}.{number}")
        info = ref.info()
        ref.delete()
        if info.node == info.replicas[0]:
            return ref.id
    raise AssertionError("none of 100 agents is led by the node that its shard prefers")


def test_a_virtual_agent_comes_with_its_first_call(cluster: Cluster, name: str) -> None:
    """From field defaults; by handler or by type name, as long as the ref knows its type."""
    ref = cluster.ref(Room, name)
    with pytest.raises(AgentNotFoundError):
        ref.info()
    assert ref.call(Room.enter, "anna") == 1
    assert ref.call("room.enter", who="bert") == 2
    assert cluster.get(Room, name).state().guests == ["anna", "bert"]
    assert cluster.ref(name).call("room.count") == 2
    assert cluster.ref(Room, name + ".2").call("room.enter", who="carl") == 1


def test_a_bad_first_call_creates_nothing(cluster: Cluster, name: str) -> None:
    """Wrong parameters, an unknown type, no type at all: the id stays free."""
    ref = cluster.ref(Room, name)
    with pytest.raises(InvalidInputError):
        ref.call("room.enter", whom="x")
    with pytest.raises(HandlerNotFoundError):
        ref.call("room.burn")
    with pytest.raises(AgentNotFoundError):
        cluster.ref(name).call("room.enter", who="x")
    with pytest.raises(AgentNotFoundError):
        ref.delete()
    with pytest.raises(AgentNotFoundError):
        cluster.get(name)


def test_many_first_calls_make_one_agent(cluster: Cluster, name: str) -> None:
    """All of them are counted."""
    ref = cluster.ref(Room, name)
    calls = [ref.submit(Room.enter, str(n)) for n in range(50)]
    assert [call.result(15) for call in calls] == list(range(1, 51))
    assert ref.state().guests == [str(n) for n in range(50)]


def test_a_virtual_agent_can_be_spawned_and_ended(cluster: Cluster, name: str) -> None:
    """With a state of its own; after its end the next call begins afresh."""
    ref = cluster.spawn(Room, name, guests=["anna"])
    assert ref.call(Room.enter, "bert") == 2
    ref.delete()
    assert ref.call(Room.enter, "carl") == 1
    ref.call(Room.leave)
    wait_until(lambda: not list(cluster.agents(prefix=name)), "the room's end")
    assert ref.call(Room.count) == 0
