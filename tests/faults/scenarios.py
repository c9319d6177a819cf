"""What happens to a cluster under load, and what its clients may then say of it.

A scenario is played while clients on some of the nodes do mixed operations at an even pace. Then
everything is healed, every agent is read once, and the checkers judge all that the clients saw.
"""

import concurrent.futures
import json
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from tests.faults.clients import Client
from tests.faults.faults import Faults, FullDisk, failing_calls
from tests.faults.judge import Findings, Record
from tests.faults.load import COUNTER, PATIENCE
from tests.faults.nodes import HEAD, RayNodes, Storage, wait_until

JOIN_SECONDS: Final = 120.0  # for a started node to lead shards
HOST: Final = "ray::ShardHostActor"
DISK_BYTES: Final = 64 << 20
GRACE: Final = 60.0  # seconds that a load may take beyond its time and its last operations


@dataclass(frozen=True)
class Size:
    """How big a run is.

    Attributes:
        nodes: Of the cluster, at least 3.
        seconds: How long the load lasts; the fault takes about a third of it.
        rate: Operations a second, over all clients.
        agents: How many, every tenth of them a counter.
    """

    nodes: int = 5
    seconds: float = 90.0
    rate: float = 100.0
    agents: int = 200

    def keys(self) -> list[str]:
        """The ids of the agents."""
        return [f"{COUNTER if i % 10 == 0 else 'register-'}{i}" for i in range(self.agents)]


@dataclass(frozen=True)
class Report:
    """One run: what was done when, in seconds since the load began, and what came of it."""

    scenario: str
    size: Size
    events: tuple[tuple[float, str], ...]
    findings: Findings

    def to_json(self) -> str:
        """On one line."""
        return json.dumps(asdict(self))


class Stage:
    """A cluster under load, for a scenario to act upon."""

    def __init__(self, nodes: RayNodes, size: Size) -> None:
        self.nodes: Final = nodes
        self.faults: Final = Faults(nodes.network)
        self.size: Final = size
        self.events: list[tuple[float, str]] = []
        self.down: set[str] = set()
        self.clients: list[Client] = []
        self.living: list[Client] = []  # those whose nodes were not killed, the oldest first
        self._loads: list[tuple[Client, Future[Any]]] = []
        self._began = time.monotonic()

    # -- the load

    def connect(self, names: Sequence[str]) -> None:
        """Start a client on each of these nodes, one after the other."""
        for name in names:
            client = Client(self.nodes, name)
            self.clients.append(client)
            self.living.append(client)

    def prepare(self) -> None:
        """Make the agents; wait for all nodes to lead shards first."""
        self.wait_members(self.nodes.names)
        self.clients[0].ask("spawn", keys=self.size.keys())

    def begin(self, seconds: float | None = None) -> None:
        """Start the load on all living clients."""
        rate = self.size.rate / len(self.living)
        load = {"seconds": seconds or self.size.seconds, "rate": rate, "keys": self.size.keys()}
        if not self._loads:
            self._began = time.monotonic()
            self.events.clear()
        self._loads += [(client, client.begin("load", **load)) for client in self.living]

    def until(self, share: float) -> None:
        """Return when this share of the time of the load is over."""
        left = self._began + share * self.size.seconds - time.monotonic()
        # The load lasts longer; should it end before, there is nothing to wait for.
        loads = [load for client, load in self._loads if client in self.living]
        concurrent.futures.wait(loads, timeout=max(0.0, left))

    def end(self) -> None:
        """Wait for the load to end, and read every agent once.

        Raises:
            ClientGoneError: A client died, other than with its node.
        """
        for client, load in self._loads:
            if client in self.living:
                load.result(self.size.seconds + PATIENCE + GRACE)
        self.living[0].ask("each", keys=self.size.keys())

    def close(self) -> None:
        """End all clients."""
        for client in self.clients:
            client.close()

    # -- what scenarios say and ask

    def note(self, event: str) -> None:
        """Something was done."""
        self.events.append((round(time.monotonic() - self._began, 3), event))

    def victim(self) -> str:
        """Of the nodes with neither the GCS nor a client, that with the most agents."""
        safe = {HEAD, *(client.name for client in self.living)}
        found: dict[str, str] = self.living[0].ask("homes", keys=self.size.keys())
        homes = Counter(found.values())
        return max(sorted(set(self.nodes.names) - safe - self.down), key=lambda one: homes[one])

    def kill(self, *names: str) -> None:
        """End these nodes."""
        self.living = [client for client in self.living if client.name not in names]
        self.down.update(names)
        self.nodes.kill(*names)
        self.note(f"killed {', '.join(names)}")

    def restart(self, *names: str) -> None:
        """Start killed nodes again, the head first."""
        heads = [name for name in names if name == HEAD]
        for group in (heads, [name for name in names if name != HEAD]):
            self.nodes.start(group)
        self.down.difference_update(names)
        self.note(f"started {', '.join(names)}")

    def wait_members(self, names: Sequence[str]) -> None:
        """Return when exactly these nodes are members, and all of them lead shards."""

        def is_so() -> bool:
            led = self.living[0].members()
            return set(led) == set(names) and all(led.values())

        wait_until(is_so, f"membership of {sorted(names)}", JOIN_SECONDS)
        self.note("complete")


def calm(stage: Stage) -> None:
    """Nothing happens."""
    stage.until(1.0)


def kill_node(stage: Stage) -> None:
    """A node loses its power under load, and comes back with its disk."""
    stage.until(0.33)
    victim = stage.victim()
    stage.kill(victim)
    stage.until(0.66)
    stage.restart(victim)
    stage.wait_members(stage.nodes.names)


def kill_host(stage: Stage) -> None:
    """The process that has a node's agents dies, and the node lives on."""
    stage.until(0.33)
    victim = stage.victim()
    stage.nodes.kill_process(victim, HOST)
    stage.note(f"killed the host of {victim}")
    stage.until(1.0)


def kill_all(stage: Stage) -> None:
    """All nodes lose their power at one moment, and come back with their disks."""
    stage.until(0.5)
    names, homes = stage.nodes.names, [client.name for client in stage.clients]
    stage.kill(*names)
    stage.restart(*names)
    stage.connect(homes)
    stage.note("connected again")
    stage.begin(stage.size.seconds / 2)
    stage.until(1.0)


def pause_leader(stage: Stage) -> None:
    """The node that leads the most stands still for a third of the time, and does not notice."""
    stage.until(0.33)
    victim = stage.victim()
    stage.nodes.freeze(victim)
    stage.note(f"froze {victim}")
    stage.until(0.66)
    stage.nodes.thaw(victim)
    stage.note(f"thawed {victim}")


def split(stage: Stage) -> None:
    """A minority is cut off without a word; clients are on both sides."""
    names = stage.nodes.names
    majority, minority = names[: len(names) // 2 + 1], names[len(names) // 2 + 1 :]
    stage.until(0.33)
    stage.faults.black_hole(majority, minority)
    stage.note(f"cut {', '.join(minority)} off")
    stage.until(0.66)
    stage.faults.heal()
    stage.note("healed")


def one_way(stage: Stage) -> None:
    """Others hear the node that leads the most, and it does not hear them."""
    stage.until(0.33)
    victim = stage.victim()
    stage.faults.one_way([one for one in stage.nodes.names if one != victim], [victim])
    stage.note(f"{victim} hears nobody")
    stage.until(0.66)
    stage.faults.heal()
    stage.note("healed")


def flap(stage: Stage) -> None:
    """A node is refused by the others and taken again, every second."""
    stage.until(0.33)
    victim, share = stage.victim(), 1 / stage.size.seconds
    others = [one for one in stage.nodes.names if one != victim]
    rounds = int(stage.size.seconds / 3 / 2)
    stage.note(f"{victim} comes and goes, {rounds} times")
    for i in range(rounds):
        stage.faults.refuse(others, (victim,))
        stage.until(0.33 + (2 * i + 1) * share)
        stage.faults.heal()
        stage.until(0.33 + (2 * i + 2) * share)
    stage.note("healed")


def lossy(stage: Stage) -> None:
    """Every twentieth packet between any two nodes is lost for a third of the time."""
    stage.until(0.33)
    stage.faults.lose(0.05)
    stage.note("lose 5 %")
    stage.until(0.66)
    stage.faults.heal()
    stage.note("healed")


def gcs_outage(stage: Stage) -> None:
    """Ray's GCS dies, and comes back with its storage after a third of the time."""
    stage.until(0.33)
    stage.nodes.kill_gcs()
    stage.note("killed the GCS")
    stage.until(0.66)
    stage.nodes.start_gcs()
    stage.note("started the GCS")


def join_and_leave(stage: Stage) -> None:
    """A node joins under load and is used; then it leaves in good order."""
    stage.until(0.2)
    before = stage.nodes.names
    (name,) = stage.nodes.add()
    stage.note(f"started {name}")
    stage.wait_members(stage.nodes.names)
    stage.until(0.6)
    stage.nodes.stop(name)
    stage.down.add(name)
    stage.note(f"stopped {name}")
    stage.wait_members(before)


def full_disk(stage: Stage) -> None:
    """The disk of the node that leads the most is full for a third of the time."""
    stage.until(0.33)
    victim = stage.victim()
    with FullDisk(stage.nodes.data(victim)):
        stage.note(f"filled the disk of {victim}")
        stage.until(0.66)
    stage.note("freed it")


@dataclass(frozen=True)
class Scenario:
    """A story, and the cluster that it needs.

    Attributes:
        play: Acts while the load is on; whatever it did is healed afterwards.
        clients: Numbers of the nodes that clients run on, from 0; negative from the end.
        storage: Where the GCS keeps its state.
        environment: More variables for what Ray starts on the nodes.
        data_bytes: Size of each node's disk; None for the host's.
        stretch: How much longer than `Size.seconds` it takes: the fault must outlast something.
    """

    play: Callable[[Stage], None]
    clients: tuple[int, ...] = (0, 1)
    storage: Storage = "memory"
    environment: Mapping[str, str] = field(default_factory=dict)
    data_bytes: int | None = None
    stretch: float = 1.0


SCENARIOS: Final = {
    "calm": Scenario(calm),
    "kill_node": Scenario(kill_node),
    "kill_host": Scenario(kill_host),
    "kill_all": Scenario(kill_all),
    # 90 s at the usual size: longer than Ray, a lease or a TCP connection is patient.
    "pause_leader": Scenario(pause_leader, stretch=3.0),
    "split": Scenario(split, clients=(0, -1)),
    "one_way": Scenario(one_way),
    "flap": Scenario(flap),
    "lossy": Scenario(lossy),
    "gcs_outage": Scenario(gcs_outage, storage="rocksdb"),
    "join_and_leave": Scenario(join_and_leave),
    "full_disk": Scenario(full_disk, data_bytes=DISK_BYTES),
    "failing_calls": Scenario(calm, environment=failing_calls(5, 5, 5)),
}


def run(name: str, size: Size, keep: Path | None = None) -> Report:
    """Play a scenario on a cluster of its own.

    Args:
        name: One of `SCENARIOS`.
        size: How big.
        keep: Where to leave the history of the clients as JSON lines; None for nowhere.
    """
    scenario = SCENARIOS[name]
    size = replace(size, seconds=size.seconds * scenario.stretch)
    with ExitStack() as stack:
        nodes = stack.enter_context(
            RayNodes(
                size.nodes,
                storage=scenario.storage,
                environment=scenario.environment,
                data_bytes=scenario.data_bytes,
            )
        )
        stage = Stage(nodes, size)
        stack.callback(stage.close)
        stage.connect([nodes.names[number] for number in scenario.clients])
        stage.prepare()
        stage.begin()
        scenario.play(stage)
        stage.end()
        record = Record.read(client.log for client in stage.clients)
        if keep is not None:
            record.write(keep)
        return Report(name, size, tuple(stage.events), record.judge())
