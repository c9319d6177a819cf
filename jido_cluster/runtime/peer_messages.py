"""What the processes of the runtime say to each other beside what their cores say.

A node is one supervisor process, which has the failure detector and the addresses of everybody, and
its host processes, which have the shards. The supervisor tells its own hosts how things stand,
they tell it what they lead, and the supervisors tell each other.
"""

from typing import NamedTuple

__all__ = ["Announce", "Leads", "Standing"]


class Standing(NamedTuple):
    """From a supervisor to the hosts of its own node: what the failure detector has found.

    Attributes:
        reachable: The nodes with which this one has contact both ways, sorted.
        admitted: The strategies, by their values, under which the node may serve users now.
        members: All nodes of the cluster, sorted.
        wall_skew_ok: Whether the wall clocks of the nodes agree as well as they have to.
    """

    reachable: tuple[int, ...]
    admitted: tuple[str, ...]
    members: tuple[int, ...]
    wall_skew_ok: bool


class Leads(NamedTuple):
    """From a host to the supervisor of its node: all shards it leads, and under which ballots.

    Attributes:
        rows: Shard and ballot, by shard.
    """

    rows: tuple[tuple[int, tuple[int, int, int, int]], ...]


class Announce(NamedTuple):
    """From one supervisor to another: where the processes of a node are, and what it leads.

    Attributes:
        node: Whom it is about.
        boot: How often that node has started.
        life: How often its processes have been replaced within that boot; of two announcements
            the one with the higher (boot, life) holds.
        data: Addresses, capabilities and load, as the view has them; not looked into on the way.
        leads: As in `Leads`, of all hosts of the node.
    """

    node: int
    boot: int
    life: int
    data: bytes
    leads: tuple[tuple[int, tuple[int, int, int, int]], ...]
