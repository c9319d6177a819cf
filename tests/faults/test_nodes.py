"""Ray nodes on machines of their own: what dies and freezes is what was meant, and nothing else."""

from collections.abc import Iterator

import psutil
import pytest

from tests.faults.clients import Client, ClientGoneError
from tests.faults.faults import Faults
from tests.faults.judge import Record
from tests.faults.nodes import HEAD, RayNodes, wait_until
from tests.faults.stage import Size

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("machines")]

SIZE = Size(nodes=3, seconds=5.0, rate=60.0, agents=40)
JOIN_SECONDS = 90.0


def is_running(pid: int) -> bool:
    """Whether it is there, other than as a zombie that waits for the init process."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


@pytest.fixture(scope="module")
def nodes() -> Iterator[RayNodes]:
    with RayNodes(SIZE.nodes, storage="rocksdb") as started:
        yield started
        pids = [pid for name in started.names for pid in started.network.pids(name)]
    assert len(pids) > 2 * SIZE.nodes
    assert [pid for pid in pids if is_running(pid)] == []
    assert not started.network.folder.exists()


@pytest.fixture(scope="module")
def client(nodes: RayNodes) -> Iterator[Client]:
    with Client(nodes, HEAD) as connected:
        yield connected


@pytest.fixture
def complete(nodes: RayNodes, client: Client) -> None:
    """All nodes are members before the test."""

    def is_complete() -> bool:
        led = client.members()
        return set(led) == set(nodes.names) and all(led.values())

    wait_until(is_complete, "membership of all nodes", JOIN_SECONDS)


def raylets(nodes: RayNodes) -> dict[str, int]:
    return {
        name: one.pid
        for name in nodes.names
        for one in nodes.network.processes(name, "raylet/raylet")
    }


def problems(client: Client, keys: list[str]) -> tuple[str, ...]:
    """What the client alone can say of agents that nobody else used."""
    calls = Record.read([client.log]).calls
    return Record(call for call in calls if call["key"] in keys).judge().problems


@pytest.mark.usefixtures("complete")
def test_a_calm_run_is_judged_good_and_a_doctored_one_is_not(
    nodes: RayNodes, client: Client
) -> None:
    """Clients on two nodes call agents on all three; one answer that is changed is found."""
    with Client(nodes, "node-2") as other:
        client.ask("spawn", keys=SIZE.keys())
        assert set(client.ask("homes", keys=SIZE.keys()).values()) == set(nodes.names)
        load = {"keys": SIZE.keys(), "seconds": SIZE.seconds, "rate": SIZE.rate / 2}
        for running in [one.begin("load", **load) for one in (client, other)]:
            running.result(60.0)
        client.ask("each", keys=SIZE.keys())
        record = Record.read([client.log, other.log])
    findings = record.judge()
    assert findings.problems == ()
    assert findings.unknown == findings.refused == {}
    assert findings.operations > SIZE.agents * 2 + SIZE.rate * SIZE.seconds / 2
    assert len({operation.client for operation in record.history()}) > 20
    doctored = [dict(call) for call in record.calls]
    next(call for call in doctored if call["op"] == "write")["ret"] = "absent"
    (problem,) = Record(doctored).judge().problems
    assert "not linearizable" in problem


@pytest.mark.usefixtures("complete")
def test_a_frozen_node_stands_still_and_goes_on(nodes: RayNodes, client: Client) -> None:
    """All its processes stop, the others' do not; a call to it waits, and ends when it goes on."""
    keys = [f"frozen-{i}" for i in range(30)]
    client.ask("spawn", keys=keys)
    homes = client.ask("homes", keys=keys)
    there = [key for key, node in homes.items() if node == "node-3"]
    elsewhere = [key for key, node in homes.items() if node != "node-3"]
    nodes.freeze("node-3")
    stopped = {
        name: {one.status() == psutil.STATUS_STOPPED for one in nodes.network.processes(name)}
        for name in nodes.names
    }
    assert stopped == {HEAD: {False}, "node-2": {False}, "node-3": {True}}
    waiting = client.begin("each", keys=there)
    client.ask("each", keys=elsewhere)
    assert not waiting.done()
    nodes.thaw("node-3")
    waiting.result(30.0)
    assert problems(client, keys) == ()


@pytest.mark.usefixtures("complete")
def test_a_black_hole_between_nodes_is_survived(nodes: RayNodes, client: Client) -> None:
    """Calls into it wait; they are answered when it has healed in time, and nothing ran twice."""
    faults = Faults(nodes.network)
    keys = [f"count-cut-{i}" for i in range(30)]
    client.ask("spawn", keys=keys)
    homes = client.ask("homes", keys=keys)
    there = [key for key, node in homes.items() if node == "node-2"]
    faults.black_hole((HEAD, "node-3"), ("node-2",))
    waiting = client.begin("each", keys=there, op="add", arg=1)
    client.ask("each", keys=[key for key, node in homes.items() if node != "node-2"])
    assert not waiting.done()
    faults.heal()
    waiting.result(30.0)
    client.ask("each", keys=keys)
    assert problems(client, keys) == ()


@pytest.mark.usefixtures("complete")
def test_the_gcs_dies_alone_and_comes_back(nodes: RayNodes, client: Client) -> None:
    """Calls go on without it; with its storage it knows the nodes, and no raylet was restarted."""
    before, keys = raylets(nodes), [f"gcs-{i}" for i in range(20)]
    nodes.kill_gcs()
    assert nodes.network.processes(HEAD, "gcs_server") == []
    client.ask("spawn", keys=keys)
    nodes.start_gcs()
    client.ask("each", keys=keys)
    assert raylets(nodes) == before
    assert problems(client, keys) == ()
    with pytest.raises(RuntimeError, match="not killed"):
        nodes.start_gcs()


@pytest.mark.usefixtures("complete")
def test_a_killed_node_is_gone_with_its_client_and_comes_back_with_its_data(
    nodes: RayNodes, client: Client
) -> None:
    """All its processes end and no other's; started again it is a member, and has its folder."""
    before = raylets(nodes)
    (nodes.data("node-3") / "kept").write_text("kept")
    with Client(nodes, "node-3") as dying:
        running = dying.begin("load", keys=SIZE.keys(), seconds=60.0, rate=10.0)
        nodes.kill("node-3")
        with pytest.raises(ClientGoneError):
            running.result(10.0)
        assert nodes.network.pids("node-3") == []
        left = before | {"node-3": 0}
        assert raylets(nodes) | {"node-3": 0} == left
    nodes.start(["node-3"])
    wait_until(lambda: "node-3" in client.members(), "the return of the node", JOIN_SECONDS)
    assert raylets(nodes)["node-3"] != before["node-3"]
    assert (nodes.data("node-3") / "kept").read_text() == "kept"
