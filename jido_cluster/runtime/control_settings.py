"""What a supervisor can be tuned by, and what the world gives it."""

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from jido_cluster.ports import Disk, Peers, Transport, WallClock
from jido_cluster.runtime.formation import Discovery
from jido_cluster.runtime.identity import Identity
from jido_placement.steps import Limits
from jido_placement.timings import Timings
from jido_state.node import StoredGroup
from jido_state.settings import GroupSettings

__all__ = ["ControlSettings", "Ports"]


@dataclass(frozen=True, kw_only=True)
class ControlSettings:
    """What one supervisor can be tuned by.

    Attributes:
        expect: How many nodes the cluster is founded with, >= 1: those that are there when it is
            started for the first time.
        down_after: Seconds for which a node must be unreachable before its replicas are replaced.
            Shorter repairs sooner, and copies everything for a node that only restarts.
        stable_after: Seconds for which contact must be there, or lost, before it counts.
        tick: Seconds between looks at what is due; at most half of the detector's `max_gap_ms`.
        timings: Of the failure detector.
        group: Of the root group.
        limits: Of the planner.
    """

    expect: int
    down_after: float = 30.0
    stable_after: float = 1.0
    tick: float = 0.1
    timings: Timings = field(default_factory=Timings.lan)
    group: GroupSettings = field(default_factory=GroupSettings)
    limits: Limits = field(default_factory=Limits)


@dataclass(frozen=True, kw_only=True)
class Ports:
    """What the world gives a supervisor.

    Attributes:
        identity: The data directory's account of the node.
        discovery: Where others are seen before there is a record.
        transport: For control requests to other supervisors.
        disk: Of the root group's replica.
        stored: What that disk holds.
        open_peers: Makes the links to other processes, given cluster id, own index and boot.
        wall: Time for people.
        draw: A random number of so many bits.
    """

    identity: Identity
    discovery: Discovery
    transport: Transport
    disk: Disk
    stored: Mapping[int, StoredGroup]
    open_peers: Callable[[str, int, int], Peers]
    wall: WallClock
    draw: Callable[[int], int] = secrets.randbits
