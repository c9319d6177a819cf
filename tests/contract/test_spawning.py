"""Agents come to life, are found, listed, and end."""

import pickle
from typing import Any

import pytest

from jido_cluster import (
    Agent,
    AgentExistsError,
    AgentNotFoundError,
    Cluster,
    ConfigError,
    ExecutionError,
    InvalidInputError,
    NotRegisteredError,
    new_id,
)
from tests.contract.agents import Counter, Diary, Picky, Shelf, Stillborn
from tests.contract.support import wait_until

BAD_IDS = ["", "a b", "a/b", "ü", "x" * 129, "a\n", None, 7]


def test_a_spawned_agent_has_the_state_given(cluster: Cluster, name: str) -> None:
    """State given by name, defaults for the rest, and a ref that reaches it."""
    ref = cluster.spawn(Counter, name, value=5)
    assert ref.id == name
    assert ref.call(Counter.get) == 5
    assert cluster.spawn(Counter, name + ".2").call(Counter.get) == 0


def test_state_is_coerced_as_pydantic_does(cluster: Cluster, name: str) -> None:
    """A text that is a number is a number."""
    assert cluster.spawn(Counter, name, value="7").state().value == 7  # type: ignore[arg-type]


def test_an_id_is_taken_once(cluster: Cluster, name: str) -> None:
    """The second spawn is refused, names the node, and leaves the first agent as it was."""
    first = cluster.spawn(Counter, name, value=1)
    with pytest.raises(AgentExistsError, match=name) as raised:
        cluster.spawn(Counter, name, value=2)
    assert raised.value.node == first.info().node
    with pytest.raises(AgentExistsError):
        cluster.spawn(Shelf, name)
    assert first.call(Counter.get) == 1


def test_one_operation_id_is_one_spawn(cluster: Cluster, name: str) -> None:
    """The same spawn again is the same agent; another state under that id is refused."""
    again = cluster.options(op_id=new_id())
    again.spawn(Counter, name, value=1).call(Counter.add)
    assert again.spawn(Counter, name, value=1).call(Counter.get) == 2
    with pytest.raises(InvalidInputError, match="op_id"):
        again.spawn(Counter, name, value=9)
    with pytest.raises(AgentExistsError):
        cluster.options(op_id=new_id()).spawn(Counter, name, value=1)


def test_an_operation_id_of_a_view_is_not_that_of_calls(cluster: Cluster, name: str) -> None:
    """The ref a spawn returns does not repeat the spawn's operation id in its calls."""
    ref = cluster.options(op_id=new_id()).spawn(Counter, name)
    assert [ref.call(Counter.add) for _ in range(3)] == [1, 2, 3]


def test_get_or_spawn_spawns_once(cluster: Cluster, name: str) -> None:
    """The state counts only when the agent is new; another type is refused."""
    assert cluster.get_or_spawn(Counter, name, value=1).call(Counter.add) == 2
    assert cluster.get_or_spawn(Counter, name, value=50).call(Counter.get) == 2
    with pytest.raises(AgentExistsError, match=r"contract\.counter"):
        cluster.get_or_spawn(Shelf, name)


@pytest.mark.parametrize("bad", BAD_IDS, ids=repr)
def test_ids_outside_the_pattern_are_refused(cluster: Cluster, bad: Any) -> None:
    """Everywhere an id is taken, with the value and the rule in the message."""
    for take in (cluster.spawn, cluster.get_or_spawn, cluster.ref, cluster.get):
        with pytest.raises(InvalidInputError, match=r"\^\[A-Za-z0-9") as raised:
            take(Counter, bad)
        assert bad is None or repr(bad)[:20] in raised.value.message


def test_the_largest_id_is_an_id(cluster: Cluster) -> None:
    """128 characters, of every kind."""
    id_ = new_id("A.z:9_-") + "x" * 90
    assert len(id_) == 128
    assert cluster.spawn(Counter, id_, value=3).call(Counter.get) == 3


@pytest.mark.parametrize(
    ("agent_type", "state"),
    [
        (Counter, {"value": "many"}),
        (Counter, {"valeu": 1}),
        (Picky, {"high": 101}),
        (Diary, {}),
    ],
    ids=["ill value", "unknown field", "out of range", "missing field"],
)
def test_a_state_that_does_not_validate_makes_no_agent(
    cluster: Cluster, name: str, agent_type: type[Agent], state: dict[str, Any]
) -> None:
    """The error names the field; the id stays free."""
    with pytest.raises(InvalidInputError) as raised:
        cluster.spawn(agent_type, name, **state)
    assert raised.value.details["errors"][0]["loc"]
    with pytest.raises(AgentNotFoundError):
        cluster.get(name)


def test_state_is_given_by_name(cluster: Cluster, name: str) -> None:
    """A positional value is refused, with the remedy."""
    with pytest.raises(InvalidInputError, match="by name"):
        cluster.spawn(Counter, name, 5)  # type: ignore[call-arg]


def test_only_agents_are_spawned(cluster: Cluster, name: str) -> None:
    """Any other class is refused before anything is sent."""
    with pytest.raises(ConfigError, match="not an agent type"):
        cluster.spawn(dict, name)  # type: ignore[type-var]


def test_a_state_too_large_makes_no_agent(cluster: Cluster, name: str) -> None:
    """The message names the limit."""
    with pytest.raises(InvalidInputError, match="1048576"):
        cluster.spawn(Shelf, name, text="x" * (1 << 20))
    with pytest.raises(AgentNotFoundError):
        cluster.get(name)


def test_get_finds_what_exists(cluster: Cluster, name: str) -> None:
    """By id, with or without the type; another type is refused."""
    cluster.spawn(Counter, name, value=4)
    assert cluster.get(Counter, name).call(Counter.get) == 4
    assert cluster.get(name).call("counter.get") == 4
    with pytest.raises(InvalidInputError, match=r"contract\.counter"):
        cluster.get(Shelf, name)
    with pytest.raises(AgentNotFoundError, match="absent"):
        cluster.get(Counter, "absent")


def test_a_ref_does_no_io(cluster: Cluster, name: str) -> None:
    """A ref to nobody can be made; what uses it is refused."""
    ref = cluster.ref(Counter, name)
    for attempt in (
        lambda: ref.call(Counter.get),
        lambda: ref.call("counter.get"),
        ref.state,
        ref.info,
        ref.passivate,
        ref.delete,
    ):
        with pytest.raises(AgentNotFoundError, match=name):
            attempt()


def test_refs_are_values(cluster: Cluster, name: str) -> None:
    """Equal and hashed by cluster and id; printed with type and id."""
    ref = cluster.ref(Counter, name)
    assert ref == cluster.ref(name)
    assert len({ref, cluster.ref(name), cluster.ref(Counter, name)}) == 1
    assert ref != cluster.ref(name + "x")
    assert name in repr(ref)
    assert "contract.counter" in repr(ref)


def test_a_pickled_ref_reaches_the_same_agent(cluster: Cluster, name: str) -> None:
    """With its type and options, over this process's connection."""
    ref = cluster.spawn(Counter, name, value=3)
    copy = pickle.loads(pickle.dumps(ref.options(timeout=9.0)))
    assert copy == ref
    assert copy.call(Counter.add) == 4
    assert ref.call(Counter.get) == 4


def test_a_type_no_host_knows_is_named(cluster: Cluster, name: str) -> None:
    """The error names the type, and the setting that brings its module to the hosts."""
    if type(cluster) is not Cluster:
        with pytest.raises(NotRegisteredError, match=r"contract\.forgotten.*modules"):
            _spawn_forgotten(cluster, name)
        return

    class Stranger(Agent, name="contract.stranger"):
        value: int = 0

    with pytest.raises(NotRegisteredError, match=r"contract\.stranger.*modules"):
        cluster.spawn(Stranger, name)


def _spawn_forgotten(cluster: Cluster, name: str) -> None:
    """In one process the only unknown type is one that its registry has forgotten."""
    from jido_cluster import agent

    class Forgotten(Agent, name="contract.forgotten"):
        value: int = 0

    del agent._agents["contract.forgotten"]
    cluster.spawn(Forgotten, name)


def test_a_failed_activation_leaves_no_agent(cluster: Cluster, name: str, tmp_path: Any) -> None:
    """`on_start` that raises is the caller's error; the same id can be spawned again."""
    path = tmp_path / "food"
    with pytest.raises(ExecutionError, match="ValueError: nothing to live on"):
        cluster.spawn(Stillborn, name, path=str(path))
    with pytest.raises(AgentNotFoundError):
        cluster.get(name)
    path.touch()
    assert cluster.spawn(Stillborn, name, path=str(path)).call(Stillborn.ping) == "pong"


def test_agents_are_listed(cluster: Cluster, name: str) -> None:
    """By prefix, by type as class or name, and gone after they are deleted."""
    refs = [cluster.spawn(Counter, f"{name}.c{n}") for n in range(12)]
    cluster.spawn(Shelf, f"{name}.s")
    listed = list(cluster.agents(prefix=name))
    assert sorted(info.id for info in listed) == sorted([*(r.id for r in refs), f"{name}.s"])
    assert {info.type for info in listed} == {"contract.counter", "contract.shelf"}
    assert all(info.is_active and info.version == 0 for info in listed)
    by_class = [info.id for info in cluster.agents(prefix=name, type=Shelf)]
    assert by_class == [info.id for info in cluster.agents(prefix=name, type="contract.shelf")]
    assert by_class == [f"{name}.s"]
    for ref in refs:
        ref.delete()
    assert [info.id for info in cluster.agents(prefix=name)] == [f"{name}.s"]
    assert list(cluster.agents(prefix=name, type="contract.nothing")) == []


def test_info_says_where_and_what(cluster: Cluster, name: str) -> None:
    """A node of the cluster, first of its replicas, and a version that counts commits."""
    ref = cluster.spawn(Counter, name)
    before = ref.info()
    nodes = {node.name for node in cluster.nodes()}
    assert (before.id, before.type, before.consistency) == (name, "contract.counter", "eventual")
    assert before.node in nodes
    assert before.replicas[0] == before.node
    assert set(before.replicas) <= nodes
    assert len(set(before.replicas)) == len(before.replicas) == 3
    for _ in range(3):
        ref.call(Counter.add)
    ref.call(Counter.get)
    after = ref.info()
    assert after.version == before.version + 3
    assert after.fence > before.fence
    assert (after.node, after.shard) == (before.node, before.shard)


def test_agents_spread_over_the_nodes(cluster: Cluster, name: str) -> None:
    """A hundred agents live on all three nodes, and the nodes count them."""
    refs = [cluster.spawn(Counter, f"{name}.{n}") for n in range(100)]
    nodes = cluster.nodes()
    assert {ref.info().node for ref in refs} == {node.name for node in nodes}
    assert [node.name for node in nodes] == sorted(node.name for node in nodes)
    assert len({node.id for node in nodes}) == len(nodes) == 3
    assert all(node.status == "up" and node.is_reachable for node in nodes)
    assert sum(node.agents for node in nodes) >= 100
    assert sum(node.shards_led for node in nodes) == 256
    for ref in refs:
        ref.delete()


def test_a_deleted_agent_is_gone(cluster: Cluster, name: str, tmp_path: Any) -> None:
    """Its hooks ran, calls and a second delete find nobody, its id is free for a fresh one."""
    path = tmp_path / "diary"
    ref = cluster.spawn(Diary, name, path=str(path))
    ref.call(Diary.write, "one")
    ref.delete()
    assert path.read_text().split() == ["start", "stop"]
    with pytest.raises(AgentNotFoundError):
        ref.delete()
    with pytest.raises(AgentNotFoundError):
        ref.call(Diary.write, "two")
    again = cluster.spawn(Diary, name, path=str(path))
    assert again.state().lines == ["start new=True"]


def test_a_turn_can_end_its_agent(cluster: Cluster, name: str, tmp_path: Any) -> None:
    """`ctx.delete` answers the call, then the agent is gone; a failed turn keeps it."""
    ref = cluster.spawn(Diary, name, path=str(tmp_path / "diary"))
    with pytest.raises(ExecutionError, match="not yet"):
        ref.call(Diary.end, "fail")
    assert ref.call(Diary.write, "still here") == 3
    assert ref.call(Diary.end) == "ended"
    wait_until(lambda: not list(cluster.agents(prefix=name)), "the agent's end")
    with pytest.raises(AgentNotFoundError):
        ref.call(Diary.write, "too late")
    assert (tmp_path / "diary").read_text().split() == ["start", "start", "stop"]


def test_calls_behind_the_end_find_nobody(
    cluster: Cluster, name: str, tmp_path: Any, gate: Any
) -> None:
    """What waited while the last turn ran is told that there is no such agent."""
    ref = cluster.spawn(Diary, name, path=str(tmp_path / "diary"))
    door = gate()
    ending = ref.submit(Diary.hold_and_end, **door.files)
    with door.held():
        behind = [ref.submit(Diary.write, str(n)) for n in range(5)]
    ending.result(15)
    for late in behind:
        assert isinstance(late.exception(15), AgentNotFoundError)
