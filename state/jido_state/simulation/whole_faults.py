"""What befalls a whole cluster: a seed draws the kinds, and each comes now and then.

Of each group at most one replica loses its rows at a time, and only where it can be replaced: two
of three are not survived. A disk that is lost holds no divergence entries either, since these may
be all that there is of what was acknowledged.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from random import Random
from typing import Final

from jido_placement.commands import Describe, Leave
from jido_placement.record import Record
from jido_state.simulation.acting import crumbs
from jido_state.simulation.machine import is_sound
from jido_state.simulation.network import Network
from jido_state.simulation.partitions import partition
from jido_state.simulation.scheduler import Scheduler
from jido_state.simulation.swarm import Swarm
from jido_state.simulation.trace import Trace
from jido_state.simulation.whole_machine import WholeMachine
from jido_state.store import Table

__all__ = ["FAULTS", "WholeFaults"]

# What befalls a whole cluster, and how often each kind is drawn for a seed.
FAULTS: Final = {
    "crash": 0.7,
    "power": 0.4,
    "power_all": 0.2,
    "pause": 0.5,
    "lag": 0.4,
    "cut": 0.7,
    "lose_disk": 0.4,
    "rot": 0.3,
    "weight": 0.6,
    "leave": 0.3,
    "distrust": 0.4,
    "release": 0.3,
    "crumbs": 0.5,
}


class WholeFaults:
    """The faults of one run.

    Args:
        swarm: How often they come, and the kinds of partitions.
        random: Its own random numbers.
        machines: By node.
        scheduler: Gives the time.
        network: What is cut.
        trace: Gets a line for each.
        distrusted: The nodes that are believed to be gone, which it changes.
        settled: The committed record, when all groups are whole and none is changing.
    """

    def __init__(
        self,
        swarm: Swarm,
        random: Random,
        machines: Mapping[int, WholeMachine],
        scheduler: Scheduler,
        network: Network,
        trace: Trace,
        distrusted: set[int],
        settled: Callable[[], Record | None],
    ) -> None:
        self.counts: Counter[str] = Counter()
        self._swarm = swarm
        self._random = random
        self._machines = machines
        self._scheduler = scheduler
        self._network = network
        self._trace = trace
        self._distrusted = distrusted
        self._settled = settled
        self._left: set[int] = set()
        self._is_on = True
        kinds = [kind for kind, rate in FAULTS.items() if random.random() < rate]
        self._kinds = kinds or ["crash"]

    def start(self) -> None:
        """Begins."""
        pause = 1 + int(self._random.expovariate(1 / max(self._swarm.fault_us, 500_000)))
        self._scheduler.after(pause, self._fault)

    def stop(self) -> None:
        """No further one comes."""
        self._is_on = False

    def _fault(self) -> None:
        if not self._is_on:
            return
        kind = self._random.choice(self._kinds)
        machine = self._random.choice(list(self._machines.values()))
        self._trace.add(self._scheduler.now_us, kind, machine.node)
        if getattr(self, f"_do_{kind}")(machine) is not False:
            self.counts[kind] += 1
        self.start()

    def _later(self, low_ms: int, high_ms: int, call: Callable[..., None], *args: object) -> None:
        self._scheduler.after(self._random.randint(low_ms, high_ms) * 1000, call, *args)

    # Processes and machines

    def _do_crash(self, machine: WholeMachine) -> None:
        if machine.is_up:
            machine.crash()
        self._later(50, 6_000, machine.start)

    def _do_power(self, machine: WholeMachine) -> None:
        if machine.is_up:
            machine.crash(power=True)
        self._later(500, 8_000, machine.start)

    def _do_power_all(self, _: WholeMachine) -> None:
        for machine in self._machines.values():
            self._do_power(machine)

    def _do_pause(self, machine: WholeMachine) -> None:
        self._scheduler.pause(machine.node)
        self._later(500, 12_000, self._scheduler.resume, machine.node)

    def _do_lag(self, machine: WholeMachine) -> None:
        self._scheduler.lag(machine.node, self._random.randint(100, 4_000) * 1000)

    # The network

    def _do_cut(self, _: WholeMachine) -> None:
        if len(self._machines) > 1:
            kind = self._random.choice(self._swarm.partitions)
            self._cut(partition(kind, self._machines, self._random))

    def _do_crumbs(self, _: WholeMachine) -> None:
        self._cut(crumbs(self._machines, self._random))

    def _cut(self, pairs: Iterable[tuple[int, int]]) -> None:
        pairs = tuple(pairs)
        self._network.cut(pairs)
        self._later(500, 12_000, self._network.mend, pairs)

    def _do_release(self, _: WholeMachine) -> None:
        self._network.release()

    # Members

    def _do_weight(self, machine: WholeMachine) -> None:
        weight = self._random.choice((0.5, 1.0, 2.0))
        core = machine.core
        if core is not None:
            command = Describe(core.record.epoch, machine.node, (), weight, None)
            machine.perform(core.submit(command, machine.now_ms()))

    def _do_leave(self, machine: WholeMachine) -> bool:
        core = machine.core
        room = len(self._machines) - len(self._left) > self._swarm.replicas
        if core is None or not core.record.is_serving or not room or machine.node in self._left:
            return False
        self._left.add(machine.node)
        machine.perform(core.submit(Leave(machine.node), machine.now_ms()))
        return True

    def _do_distrust(self, machine: WholeMachine) -> bool:
        """The detector is wrong, or right: the node is believed to be gone."""
        serves = machine.core is not None and machine.core.record.is_serving
        if not serves or 2 * len(self._distrusted) + 2 >= len(self._machines):
            return False
        self._distrusted.add(machine.node)
        self._later(1_000, 10_000, self._distrusted.discard, machine.node)
        return True

    # Disks

    def _do_lose_disk(self, machine: WholeMachine) -> bool:
        if not self._may_impair(machine):
            return False
        machine.crash()
        machine.disk.format()
        self._later(50, 3_000, machine.start)
        return True

    def _do_rot(self, machine: WholeMachine) -> bool:
        if not self._may_impair(machine):
            return False
        machine.disk.rot(Table.RECORD, in_key=self._random.random() < 0.3)
        machine.crash()
        self._later(50, 3_000, machine.start)
        return True

    def _may_impair(self, machine: WholeMachine) -> bool:
        """Whether everything that went bad before is whole again, and every group has three."""
        record = self._settled()
        if record is None or machine.held():
            return False
        if any(len(group.config.voters) < 3 for group in (record.root, *record.shards)):
            return False
        for other in self._machines.values():
            rows = other.disk.rows
            if any(
                not is_sound(rows.get(table, shard, key), shard, key)
                for table, shard, key in rows.names()
            ):
                return False
        return all(other.is_up for other in self._machines.values())
