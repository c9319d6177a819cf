"""What the tests of the contract share: waiting for a condition, gates, and a cluster to kill."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from jido_cluster import AgentRef, Cluster, ClusterConfig, new_id

MODULES = (
    "tests.contract.agents",
    "tests.contract.replicated",
    "tests.contract.tapes",
    "tests.ray.agents",
)
CONFIG = ClusterConfig(modules=MODULES, hosts_per_node=1)
PATIENCE = 60.0  # seconds; far more than anything waited for takes, on a busy machine, too
PAUSE = 0.005

T = TypeVar("T")


def wait_until(condition: Callable[[], T], what: str, seconds: float = PATIENCE) -> T:
    """The first true value of the condition; fails the test when there is none in time."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, f"{what} did not happen within {seconds} s"
        time.sleep(PAUSE)
    return value


@dataclass(frozen=True)
class Gate:
    """Two files by which a handler tells that it has begun, and is told to go on."""

    begun: Path
    go_on: Path

    @property
    def files(self) -> dict[str, Any]:
        """The parameters of a handler or an action that waits."""
        return {"begun": str(self.begun), "go_on": str(self.go_on)}

    def wait_begun(self) -> None:
        """Return when the handler runs."""
        wait_until(self.begun.exists, "the handler's start")

    def open(self) -> None:
        """Let the handler go on."""
        self.go_on.touch()

    @contextmanager
    def held(self) -> Iterator[None]:
        """The handler runs from the beginning of the block to its end."""
        self.wait_begun()
        try:
            yield
        finally:
            self.open()


def gate_in(folder: Path) -> Gate:
    """A gate of its own for each call."""
    name = new_id()
    return Gate(folder / f"{name}.begun", folder / f"{name}.go_on")


@dataclass(frozen=True)
class Mortal:
    """A cluster of at least three nodes whose nodes can be killed.

    Attributes:
        victims: Names of the nodes that may be killed, in order of preference.
        kill: Ends the node of this name at once, as a loss of power would.
    """

    cluster: Cluster
    victims: tuple[str, ...]
    kill: Callable[[str], None]


def spawn_on(cluster: Cluster, node: str, agent_type: type[Any], **state: Any) -> AgentRef[Any]:
    """An agent of this type that lives on the node."""
    for _ in range(500):
        ref: AgentRef[Any] = cluster.spawn(agent_type, new_id("on-"), **state)
        if ref.info().node == node:
            return ref
        ref.delete()
    raise AssertionError(f"none of 500 agents came to live on {node}")
