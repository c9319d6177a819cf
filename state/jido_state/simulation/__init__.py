"""A simulator for clusters of cores: virtual time, a seeded network, disks, and drawn faults.

Everything runs in one thread and is a function of a seed. Each file imports only what stands above
it. The first pieces know nothing of the cores and can be used for other protocols:

- `scheduler.py`: events in virtual time; processes that end, pause and lag; clocks that differ;
- `disk.py`: a store file that survives crashes and power cuts, or does not;
- `partitions.py`: which pairs of nodes lose each other;
- `network.py`: messages that are lost, late, repeated, out of order, held, or cut off;
- `swarm.py`: the mix of all this that a seed stands for;
- `trace.py`: a digest of all events, and the last ones in words;
- `history.py`: what clients saw, as JSON lines, for `jido_state.checking` and outside checkers.

Groups of replicas whose configs come from outside, by the thousand seeds:

- `authority.py`: a stand-in for the root group that never fails;
- `watch.py`: the invariants that no single process can see;
- `machine.py`: a node, with its process, store files and replicas;
- `clients.py`: callers of registers, who are sessions and note what they saw;
- `nemesis.py`: what befalls the nodes;
- `cluster.py`: all of it together: `simulate`.

One shard under splits, with the layer above its group:

- `acting_agents.py`: agents whose states tell which turns took effect, and the ledger of a run;
- `acting_clients.py`: sessions that call them;
- `acting_judge.py`: what must be there in the end;
- `hands.py`: what a process does for its services: turns, merges, signals;
- `acting.py`: all of it together: `simulate_split`. Schedules that tests tell step by step run on
  it, and random splits are many times as dense here as in a whole cluster.

Whole clusters of both cores, with a root group that can fail, and users of all kinds:

- `whole_machine.py`: a node as its driver runs it;
- `whole_faults.py`: what befalls them;
- `whole.py`: all of it together: `simulate_whole`.
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
