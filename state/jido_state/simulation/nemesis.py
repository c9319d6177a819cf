"""What befalls a simulated cluster: draws faults from the swarm's mix, and ends them all."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from jido_placement.config import Replica
from jido_state.simulation.disk import DiskFaults
from jido_state.simulation.machine import Machine, is_sound
from jido_state.simulation.partitions import partition, swizzle
from jido_state.simulation.swarm import stream
from jido_state.store import Table

if TYPE_CHECKING:
    from jido_state.simulation.cluster import Cluster

__all__ = ["Nemesis"]


class Nemesis:
    """Does one fault after the other until it is stopped.

    At most one voter of a group may have lost its disk at a time: more is not survived, and says
    so in the documentation.

    Attributes:
        counts: How often each kind came.
    """

    def __init__(self, cluster: "Cluster") -> None:
        self.counts: Counter[str] = Counter()
        self._cluster = cluster
        self._random = stream(cluster.swarm.seed, "nemesis")
        self._is_on = False
        self._wiped: set[tuple[int, Replica]] = set()
        self._rotten: set[int] = set()
        self._faults: dict[str, Callable[[], None]] = {
            "crash": self._crash,
            "power": self._power,
            "power_all": self._power_all,
            "pause": self._pause,
            "lag": self._lag,
            "lose_disk": self._lose_disk,
            "rot": self._rot,
            "disk_full": self._disk_full,
            "sync_error": self._sync_error,
            "clock": self._clock,
            "swizzle": self._swizzle,
            "transfer": self._transfer,
            "config": self._config,
            "abort": self._abort,
            "cut": self._cut,
            "release": self._release,
        }

    def start(self) -> None:
        """Begins to draw faults."""
        self._is_on = True
        self._next()

    def _next(self) -> None:
        drawn = self._cluster.swarm.next_fault(self._random)
        if drawn is not None:
            self._cluster.scheduler.after(drawn[0], self._happen, drawn[1])

    def _happen(self, kind: str) -> None:
        if not self._is_on:
            return
        fault = self._faults.get(kind)
        if fault is not None:
            self.counts[kind] += 1
            self._cluster.trace.add(self._cluster.scheduler.now_us, kind)
            fault()
        self._next()

    def stop(self) -> None:
        """All faults end: everything runs, is connected, and has room."""
        cluster = self._cluster
        self._is_on = False
        swarm = cluster.swarm
        cluster.network.heal(
            replace(swarm.network, loss=0.0, repeat=0.0, hold=0.0, least_us=100, mean_us=1_000)
        )
        for machine in cluster.machines.values():
            machine.disk.is_full = False
            machine.disk.fails_next_sync = False
            machine.disk.faults = DiskFaults(latency_us=min(swarm.disk.latency_us, 2_000))
            cluster.scheduler.resume(machine.node)
            self._start(machine)
        self._repair()

    def _repair(self) -> None:
        """What an operator's planner goes on doing: lost replicas are replaced."""
        cluster = self._cluster
        authority = cluster.authority
        for machine in cluster.machines.values():
            self._start(machine)
        for shard, config in list(authority.configs.items()):
            if any((shard, one) in authority.lost for one in config.voters):
                authority.exchange(shard)
        cluster.scheduler.after(1_000_000, self._repair)

    # Helpers

    def _start(self, machine: Machine) -> None:
        if not machine.is_up:
            machine.start()

    def _some(self) -> Machine:
        return self._random.choice(list(self._cluster.machines.values()))

    def _later(self, low_ms: int, high_ms: int, call: Callable[..., None], *args: object) -> None:
        delay = self._random.randint(low_ms, high_ms) * 1000
        self._cluster.scheduler.after(delay, call, *args)

    # Faults

    def _crash(self) -> None:
        machine = self._some()
        if machine.is_up:
            machine.crash()
            self._later(50, 8_000, self._start, machine)

    def _power(self) -> None:
        machine = self._some()
        if machine.is_up:
            machine.crash(power=True)
            self._later(500, 10_000, self._start, machine)

    def _power_all(self) -> None:
        for machine in self._cluster.machines.values():
            if machine.is_up:
                machine.crash(power=True)
            self._later(500, 5_000, self._start, machine)

    def _pause(self) -> None:
        machine = self._some()
        self._cluster.scheduler.pause(machine.node)
        self._later(500, 15_000, self._cluster.scheduler.resume, machine.node)

    def _lag(self) -> None:
        self._cluster.scheduler.lag(self._some().node, self._random.randint(100, 4_000) * 1000)

    def _lose_disk(self) -> None:
        machine = self._some()
        if not self._may_impair(machine):
            return
        for shard, config in self._cluster.authority.configs.items():
            for one in config.members:
                if one.node == machine.node:
                    self._wiped.add((shard, one))
        if machine.is_up:
            machine.crash()
        machine.disk.format()
        self._later(50, 3_000, self._start, machine)
        self._later(3_000, 5_000, self._replace)

    def _may_impair(self, machine: Machine) -> bool:
        """Whether this node's copies may go bad: in each group those of one node at a time.

        With two of three copies gone nothing can be promised. Groups of one or two have none to
        spare, and a group that changes its replicas has to come through first.
        """
        authority = self._cluster.authority
        if machine.node in self._rotten:
            return False
        for shard, config in authority.configs.items():
            if len(config.voters) < 3 or authority.is_changing(shard):
                return False
            if any((shard, one) in self._wiped for one in config.members):
                return False
        self._rotten = {node for node in self._rotten if not self._is_sound(node)}
        return not self._rotten

    def _is_sound(self, node: int) -> bool:
        """Whether what rotted on a node has been seen and written again."""
        machine = self._cluster.machines[node]
        groups = machine.groups.values()
        is_whole = machine.is_up and all(group.acceptor.is_whole for group in groups)
        return is_whole and not self._holds_rot(machine)

    @staticmethod
    def _holds_rot(machine: Machine) -> bool:
        rows = machine.disk.rows
        return any(
            not is_sound(rows.get(table, shard, key), shard, key)
            for table, shard, key in rows.names()
        )

    def _replace(self) -> None:
        authority = self._cluster.authority
        for shard in list(authority.configs):
            if any((shard, one) in authority.lost for one in authority.configs[shard].voters):
                authority.exchange(shard)

    def _rot(self) -> None:
        machine = self._some()
        if not self._may_impair(machine):
            return
        self._rotten.add(machine.node)
        machine.disk.rot(Table.RECORD, in_key=self._random.random() < 0.3)
        if machine.is_up and self._random.random() < 0.7:
            machine.crash()
            self._later(50, 3_000, self._start, machine)

    def _disk_full(self) -> None:
        machine = self._some()
        machine.disk.is_full = True
        self._later(500, 6_000, self._room, machine)

    def _room(self, machine: Machine) -> None:
        machine.disk.is_full = False
        self._start(machine)

    def _sync_error(self) -> None:
        machine = self._some()
        machine.disk.fails_next_sync = True
        self._later(1_000, 4_000, self._after_sync_error, machine)

    def _after_sync_error(self, machine: Machine) -> None:
        if self._random.random() < 0.5 and machine.is_up:
            machine.crash(power=True)
        self._start(machine)

    def _clock(self) -> None:
        reach = max(1_000, self._cluster.swarm.offset_ms)
        offset = self._random.randint(-reach, reach)
        self._cluster.scheduler.set_clock(self._some().node, offset_ms=offset)

    def _swizzle(self) -> None:
        nodes = list(self._cluster.machines)
        down, up = swizzle(nodes, self._random)
        for place, node in enumerate(down):
            self._cluster.scheduler.after(place * 400_000, self._end, node)
        for place, node in enumerate(up):
            delay = (len(down) + place) * 400_000
            self._cluster.scheduler.after(delay, self._begin, node)

    def _end(self, node: int) -> None:
        machine = self._cluster.machines[node]
        if machine.is_up and self._is_on:
            machine.crash()

    def _begin(self, node: int) -> None:
        self._start(self._cluster.machines[node])

    def _transfer(self) -> None:
        for machine in self._cluster.machines.values():
            for shard, group in list(machine.groups.items()):
                voters = [one.node for one in group.config.voters if one.node != machine.node]
                if group.leadership is not None and voters and machine.is_up:
                    if self._cluster.scheduler.is_paused(machine.node):
                        continue
                    target = self._random.choice(voters)
                    machine.perform(shard, group.transfer(target, machine.now_ms()))

    def _config(self) -> None:
        authority = self._cluster.authority
        authority.exchange(self._random.choice(list(authority.configs)))

    def _abort(self) -> None:
        authority = self._cluster.authority
        authority.abort(self._random.choice(list(authority.configs)))

    def _cut(self) -> None:
        swarm = self._cluster.swarm
        if swarm.nodes < 2:
            return
        kind = self._random.choice(swarm.partitions)
        pairs = partition(kind, self._cluster.machines, self._random)
        self._cluster.network.cut(pairs)
        self._later(500, 12_000, self._cluster.network.mend, pairs)

    def _release(self) -> None:
        self._cluster.network.release()
