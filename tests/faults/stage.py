"""A cluster under load, for a scenario to act upon, and what is reported of it."""

import concurrent.futures
import json
import math
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from typing import Any, Final

from tests.faults.clients import Client
from tests.faults.faults import Faults
from tests.faults.judge import Findings, Record
from tests.faults.load import COUNTER, EVENTUAL, PATIENCE, SESSION
from tests.faults.nodes import HEAD, RayNodes, wait_until

JOIN_SECONDS: Final = 120.0  # for a started node to lead shards
MOVE_SECONDS: Final = 300.0
WATCHED: Final = 40  # agents whose pauses are measured
WATCH_PAUSE: Final = 0.2  # between calls of one of them
CALM_SECONDS: Final = 20.0  # of the same calls before, for comparison
FOREVER: Final = 3600.0  # seconds of calls that something else ends
GRACE: Final = 60.0  # seconds that a load may take beyond its time and its last operations


_KINDS: Final = (COUNTER, *(SESSION, EVENTUAL) * 2, *("register-",) * 5)


@dataclass(frozen=True)
class Size:
    """How big a run is.

    Attributes:
        nodes: Of the cluster, at least 3.
        seconds: How long the load lasts; the fault takes about a third of it.
        rate: Operations a second, over all clients.
        agents: How many: of ten one is a counter, two are for sessions, two eventual.
        rounds: How often a fault is made again, where a scenario says so.
        seed: Of what is left to chance.
        tag: End of the agents' ids.
    """

    nodes: int = 5
    seconds: float = 90.0
    rate: float = 100.0
    agents: int = 200
    rounds: int = 10
    seed: int = 1
    tag: str = ""

    def keys(self) -> list[str]:
        """The ids of the agents."""
        return [f"{_KINDS[i % len(_KINDS)]}{i}{self.tag}" for i in range(self.agents)]


@dataclass(frozen=True)
class Report:
    """One run.

    Attributes:
        events: What was done when, in seconds since the load began.
        measures: What the scenario measured.
        findings: What the checkers say of it.
    """

    scenario: str
    size: Size
    events: tuple[tuple[float, str], ...]
    measures: Mapping[str, Any]
    findings: Findings

    def to_json(self) -> str:
        """On one line."""
        return json.dumps(asdict(self))


def percentiles(seconds: Sequence[float | None]) -> dict[str, float]:
    """Number, median, 99th percentile and maximum of times; None counts as endless."""
    times = sorted(math.inf if one is None else one for one in seconds)
    if not times:
        return {"count": 0}

    def at(share: float) -> float:
        return round(times[math.ceil(share * len(times)) - 1], 3)

    return {"count": len(times), "p50": at(0.5), "p99": at(0.99), "max": at(1.0)}


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
        self.measures: dict[str, Any] = {}
        self.problems: list[str] = []  # broken promises that no history shows
        self._loads: list[tuple[Client, Future[Any]]] = []
        self._began = time.monotonic()

    # -- the load

    def connect(self, names: Sequence[str], frames: tuple[float, float] | None = None) -> None:
        """Start a client on each of these nodes, one after the other.

        Args:
            names: The nodes.
            frames: Probabilities that a frame of theirs is lost, and that its answer is.
        """
        for name in names:
            client = Client(self.nodes, name, frames)
            self.clients.append(client)
            self.living.append(client)

    def prepare(self) -> None:
        """Make the agents; wait for all nodes to lead shards first."""
        self.wait_members(self.nodes.names)
        self.clients[0].ask("spawn", keys=self.size.keys())

    def begin(self, seconds: float) -> None:
        """Start a load on all living clients that lasts so long unless it is stopped."""
        rate = self.size.rate / len(self.living)
        load = {"seconds": seconds, "rate": rate, "keys": self.size.keys()}
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

    def stop(self) -> None:
        """End the load now."""
        for client in self.living:
            client.ask("stop")

    def pause(self, seconds: float) -> None:
        """Let the cluster go on for some time."""
        time.sleep(seconds)

    def end(self) -> None:
        """Wait for the load to end, and look at every agent once.

        A read of one that is not strong may be old, so nothing is added to it instead.

        Raises:
            ClientGoneError: A client died, other than with its node.
        """
        for client, load in self._loads:
            if client in self.living:
                load.result(self.size.seconds + PATIENCE + GRACE)
        keys = self.size.keys()
        weak = [key for key in keys if key.startswith((SESSION, EVENTUAL))]
        self.living[0].ask("each", keys=[key for key in keys if key not in weak])
        self.living[0].ask("each", keys=weak, op="add", arg=0)

    def record(self) -> Record:
        """What all clients have noted."""
        return Record.read(client.log for client in self.clients)

    def close(self) -> None:
        """End all clients."""
        for client in self.clients:
            client.close()

    # -- moves that are planned, for which no call may fail or wait for long

    def planned(self, what: str, act: Callable[[], object]) -> None:
        """Do something that no caller is to notice, while one calls some agents all the time.

        Measures the longest call of each agent meanwhile, and counts attempts that failed.
        """
        (watcher,) = self.living[-1:]
        keys = self.size.keys()[:WATCHED]
        probing = watcher.begin("probe", keys=keys, seconds=FOREVER, pause=WATCH_PAUSE)
        calm, began = time.monotonic_ns(), 0
        self.pause(CALM_SECONDS)
        self._failures()
        began = time.monotonic_ns()
        act()
        self.note(what)
        ended = time.monotonic_ns()
        watcher.ask("stop")
        probing.result(PATIENCE + GRACE)
        failed = self._failures()
        record = self.record()
        self.measure("calm", record.waits(calm, began, keys, by=watcher.number))
        waits = record.waits(began, ended, keys, by=watcher.number)
        self.measure(what, waits)
        self.measures[what]["seconds"] = round((ended - began) / 1e9, 1)
        self.measures[what]["failed"] = failed
        if failed:
            self.problems.append(f"{what}: attempts failed: {failed}")

    def _failures(self) -> dict[str, int]:
        found: Counter[str] = Counter()
        for client in self.living:
            found.update(client.ask("failures"))
        return dict(found)

    def wait_settled(self) -> None:
        """Return when nothing is to be moved any more."""
        wait_until(lambda: not self.living[0].ask("moves"), "the end of all moves", MOVE_SECONDS)

    # -- what scenarios say and ask

    def note(self, event: str) -> None:
        """Something was done; also said on standard error, for whoever waits for a long run."""
        self.events.append((round(time.monotonic() - self._began, 3), event))
        sys.stderr.write(f"{self.events[-1][0]:9.3f} s  {event}\n")

    def measure(self, name: str, seconds: Mapping[str, Any] | Sequence[float | None]) -> None:
        """Keep the percentiles of these times; None is one that did not end."""
        times = list(seconds.values()) if isinstance(seconds, Mapping) else list(seconds)
        self.measures[name] = percentiles(times)

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
