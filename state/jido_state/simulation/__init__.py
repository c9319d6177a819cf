"""A simulator for clusters of cores: virtual time, a seeded network, disks, and drawn faults.

Everything runs in one thread and is a function of a seed. The pieces know nothing of the cores and
can be used for other protocols; each file imports only what stands above it:

- `scheduler.py`: events in virtual time; processes that end, pause and lag; clocks that differ;
- `disk.py`: a store file that survives crashes and power cuts, or does not;
- `partitions.py`: which pairs of nodes lose each other;
- `network.py`: messages that are lost, late, repeated, out of order, held, or cut off;
- `swarm.py`: the mix of all this that a seed stands for;
- `trace.py`: a digest of all events, and the last ones in words;
- `history.py`: what clients saw, as JSON lines, for `jido_state.checking` and outside checkers.
"""

from jido_state.simulation.disk import DiskFaults, DiskStatistics, SimDisk, SimStore, flip_bit
from jido_state.simulation.history import History, Operation, parse_operation
from jido_state.simulation.network import Network, NetworkFaults, NetworkStatistics
from jido_state.simulation.partitions import PARTITIONS, Pairs, partition, swizzle, two_way
from jido_state.simulation.scheduler import Event, Scheduler
from jido_state.simulation.swarm import FAULTS, Swarm, stream
from jido_state.simulation.trace import Trace

__all__ = [
    "FAULTS",
    "PARTITIONS",
    "DiskFaults",
    "DiskStatistics",
    "Event",
    "History",
    "Network",
    "NetworkFaults",
    "NetworkStatistics",
    "Operation",
    "Pairs",
    "Scheduler",
    "SimDisk",
    "SimStore",
    "Swarm",
    "Trace",
    "flip_bit",
    "parse_operation",
    "partition",
    "stream",
    "swizzle",
    "two_way",
]
