"""What a seed stands for: the size of a cluster, its load, and its own mix of faults.

Theory. With one mix of faults for all runs, common faults drown the rare ones: a cluster that is
always cut never gets to the state that a lost disk needs. So every seed draws which faults there
are at all, how often each comes, and how bad the network and the disks are.
*Source*: Groce et al., Swarm testing (ISSTA 2012); TigerBeetle's simulator.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from random import Random
from types import MappingProxyType
from typing import Final

from jido_state.simulation.disk import DiskFaults
from jido_state.simulation.network import NetworkFaults
from jido_state.simulation.partitions import PARTITIONS

__all__ = ["FAULTS", "Swarm", "stream"]

# What can befall a cluster, and how often each kind is drawn for a seed: the costly ones less.
FAULTS: Final[Mapping[str, float]] = MappingProxyType(
    {
        "crash": 0.6,  # a process is killed, and started again
        "power": 0.4,  # a machine loses its power: also its page cache
        "power_all": 0.2,  # all machines do
        "pause": 0.5,  # a virtual machine is suspended
        "lag": 0.5,  # a loop is blocked for a while
        "lose_disk": 0.3,  # one store file is gone, or all of a node's
        "rot": 0.3,  # a bit of a row flips
        "disk_full": 0.3,
        "sync_error": 0.3,  # an fsync fails, and sometimes the power after it
        "hosts": 0.2,  # a node comes back with another number of hosts
        "clone": 0.2,  # a node's data directory is copied, and the copy started as well
        "rollback": 0.2,  # a node comes back with an older image of its data directory
        "twin": 0.2,  # a second process is started on the files of one that stands still
        "rumour": 0.2,  # it is said that the leader's process is gone, which is not so
        "clock": 0.4,  # a wall clock jumps
        "swizzle": 0.3,  # nodes stop one by one, and come back in another order
        "transfer": 0.4,  # leadership is handed over
        "config": 0.5,  # replicas are exchanged
        "abort": 0.3,  # an exchange of replicas is given up
        "depose": 0.7,  # the leader is cut off, perhaps only its voice, and said to be gone
        "slow": 0.4,  # what a node is sent takes a second longer, and it may be said to be gone
        "cut": 0.6,  # a partition of one of the kinds drawn
        "release": 0.3,  # messages that were held arrive all at once
    }
)
_ALWAYS_SOME = ("crash", "cut", "pause")  # one of them is in every mix


def stream(seed: int, name: str) -> Random:
    """Random numbers of their own for one purpose of a seed.

    What one part of a run draws then does not change what another part draws.
    """
    return Random(f"{seed}/{name}")  # noqa: S311 - to be repeated is what it is for


@dataclass(frozen=True, slots=True)
class Swarm:
    """The drawn configuration of one run; `Swarm.draw` makes it.

    Attributes:
        seed: Gives all else.
        hosts: Store files of each node, 1 or 2.
        nodes: Machines at the start, 1 to 6; at least `replicas`.
        replicas: Replicas of the group, 1 to 5.
        keys: Agents that are used.
        clients: Concurrent clients.
        operations: Calls that all clients make together.
        duration_us: Virtual time with faults, after which they stop.
        levels: Weight of each consistency level among the agents.
        reads: How many of the operations read, 0 to 1.
        faults: Kinds of faults with their weights, both above 0; may be empty.
        fault_us: Mean pause between two of them.
        partitions: Kinds of partitions that cuts are drawn from.
        network: What the network does to messages while there are faults.
        disk: What the disks do, as well.
        offset_ms: Farthest that a wall clock is off.
        drift_ppm: Farthest that a clock is too fast or too slow.
        evidence: How often the end of a process is noticed by others at once, 0 to 1.
        election_ms: Of the groups' settings; the others of time follow from it.
        window_ms: How long the groups remember op ids.
        in_memory: How many of the agents that are not strong are kept in memory, 0 to 1.
    """

    seed: int
    hosts: int
    nodes: int
    replicas: int
    keys: int
    clients: int
    operations: int
    duration_us: int
    levels: tuple[tuple[str, float], ...]
    reads: float
    faults: tuple[tuple[str, float], ...]
    fault_us: int
    partitions: tuple[str, ...]
    network: NetworkFaults
    disk: DiskFaults
    offset_ms: int
    drift_ppm: int
    evidence: float
    election_ms: int
    window_ms: int
    in_memory: float = 0.0

    @classmethod
    def draw(cls, seed: int) -> "Swarm":
        """The configuration of a seed, the same on every machine."""
        random = stream(seed, "swarm")
        replicas = random.choices((1, 2, 3, 4, 5), (1, 2, 10, 2, 5))[0]
        return cls(
            seed=seed,
            hosts=random.choice((1, 2)),
            nodes=replicas + random.choice((0, 1, 1, 2)) if replicas < 5 else 5,
            replicas=replicas,
            keys=random.choice((1, 1, 2, 3, 5)),
            clients=random.choice((2, 3, 5, 5, 6)),
            operations=random.choice((300, 500, 700)),
            duration_us=random.choice((10, 20, 30, 40)) * 1_000_000,
            levels=_draw_levels(random),
            reads=random.choice((0.2, 0.4, 0.6)),
            faults=_draw_faults(random),
            fault_us=random.choice((500, 1_000, 2_000, 5_000)) * 1_000,
            partitions=_some(tuple(PARTITIONS), random),
            network=_draw_network(random),
            disk=_draw_disk(random),
            offset_ms=random.choice((0, 0, 1_000, 60_000, 3_600_000)),
            drift_ppm=random.choice((0, 0, 50, 500)),
            evidence=random.choice((0.0, 0.5, 1.0)),
            election_ms=random.choice((800, 1_200, 2_500)),
            window_ms=random.choice((2_400, 8_000)),
            in_memory=stream(seed, "in memory").choice((0.0, 0.5, 1.0)),
        )

    def next_fault(self, random: Random) -> tuple[int, str] | None:
        """Microseconds until the next fault, and its kind; None when the mix is empty."""
        if not self.faults:
            return None
        kinds, weights = zip(*self.faults, strict=True)
        return 1 + int(random.expovariate(1 / self.fault_us)), random.choices(kinds, weights)[0]

    def __str__(self) -> str:
        """One line for each field, as a failing run prints it."""
        return "\n".join(f"{field.name:<12} {getattr(self, field.name)}" for field in fields(self))


def _some(kinds: tuple[str, ...], random: Random) -> tuple[str, ...]:
    """At least one of them, each with the same probability."""
    drawn = tuple(kind for kind in kinds if random.random() < 0.5)
    return drawn or (random.choice(kinds),)


def _draw_levels(random: Random) -> tuple[tuple[str, float], ...]:
    if random.random() < 0.5:
        return (("strong", 1.0),)
    return tuple((level, random.random()) for level in ("strong", "session", "eventual"))


def _draw_faults(random: Random) -> tuple[tuple[str, float], ...]:
    if random.random() < 0.02:
        return ()  # what fails without any fault is found where nothing else can be to blame
    kinds = [kind for kind, rate in FAULTS.items() if random.random() < rate]
    if not any(kind in kinds for kind in _ALWAYS_SOME):
        kinds.append(random.choice(_ALWAYS_SOME))
    return tuple((kind, random.choice((1.0, 2.0, 5.0))) for kind in kinds)


def _draw_network(random: Random) -> NetworkFaults:
    return NetworkFaults(
        least_us=random.choice((50, 500, 5_000)),
        mean_us=random.choice((100, 1_000, 20_000, 100_000)),
        loss=random.choice((0.0, 0.0, 0.01, 0.05, 0.2)),
        repeat=random.choice((0.0, 0.0, 0.01, 0.1)),
        hold=random.choice((0.0, 0.0, 0.001, 0.02)),
        hold_us=random.choice(((100_000, 2_000_000), (3_000_000, 20_000_000))),
        in_order=random.random() < 0.2,
    )


def _draw_disk(random: Random) -> DiskFaults:
    return DiskFaults(
        latency_us=random.choice((100, 400, 5_000, 30_000)),
        stall_rate=random.choice((0.0, 0.0, 0.01)),
        stall_us=random.choice((100_000, 5_000_000)),
        sync_error_rate=random.choice((0.0, 0.0, 0.0, 0.002)),
    )
