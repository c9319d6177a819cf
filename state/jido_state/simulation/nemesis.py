"""What befalls a simulated cluster: draws faults from the swarm's mix, and ends them all."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from jido_placement.config import Replica
from jido_state.appends import NO_COUNT
from jido_state.simulation.disk import DiskFaults, SimDisk
from jido_state.simulation.machine import Directory, Machine, Stored, is_sound
from jido_state.simulation.partitions import Pairs, partition, swizzle, two_way
from jido_state.simulation.swarm import stream
from jido_state.simulation.watch import UnsafeError
from jido_state.store import Table

if TYPE_CHECKING:
    from jido_state.simulation.cluster import Cluster

__all__ = ["Nemesis"]

_LEADERS = 0.5  # how often a fault that could befall anybody befalls a leader


class Nemesis:
    """Does one fault after the other until it is stopped.

    At most one voter of a group may have lost its disk at a time: more is not survived, and says
    so in the documentation. "set_back" is in no seed's own mix: whether a store that was set back
    is noticed depends on who else fails meanwhile, and nobody promises that it is.

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
        self._newer: dict[int, Directory] = {}  # what nodes have that were given an older image
        self._faults: dict[str, Callable[[], None]] = {
            "crash": self._crash,
            "power": self._power,
            "power_all": self._power_all,
            "pause": self._pause,
            "lag": self._lag,
            "lose_disk": self._lose_disk,
            "rot": self._rot,
            "set_back": self._set_back,
            "disk_full": self._disk_full,
            "sync_error": self._sync_error,
            "hosts": self._hosts,
            "clone": self._clone,
            "rollback": self._rollback,
            "twin": self._twin,
            "rumour": self._rumour,
            "clock": self._clock,
            "swizzle": self._swizzle,
            "transfer": self._transfer,
            "config": self._config,
            "abort": self._abort,
            "depose": self._depose,
            "slow": self._slow,
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
        self.counts[kind] += 1
        self._cluster.trace.add(self._cluster.scheduler.now_us, kind)
        self._faults[kind]()
        self._next()

    def stop(self) -> None:
        """All faults end: everything runs, is connected, and has room."""
        cluster = self._cluster
        self._is_on = False
        cluster.slow.clear()
        swarm = cluster.swarm
        cluster.network.heal(
            replace(swarm.network, loss=0.0, repeat=0.0, hold=0.0, least_us=100, mean_us=1_000)
        )
        directories = [*self._newer.values()]
        for twin in list(cluster.twins.values()):
            directories.append(twin.directory)
            if twin.directory is cluster.machines[twin.node].directory:
                self._end_twin(twin)
        for machine in cluster.machines.values():
            directories.append(machine.directory)
            cluster.scheduler.resume(machine.node)
        for file in [file for directory in directories for file in directory.files]:
            file.is_full = file.fails_next_sync = False
            file.faults = DiskFaults(latency_us=min(swarm.disk.latency_us, 2_000))
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

    @staticmethod
    def _start(machine: Machine, hosts: int | None = None) -> None:
        if not machine.is_up:
            machine.start(hosts)

    def _some(self) -> Machine:
        """Any machine; often one that leads, since it has more to lose."""
        machines = list(self._cluster.machines.values())
        if self._random.random() < _LEADERS:
            machines = [one for one in machines if self._leads(one)] or machines
        return self._random.choice(machines)

    @staticmethod
    def _leads(machine: Machine) -> bool:
        return any(group.leadership is not None for group in machine.groups.values())

    def _later(self, low_ms: int, high_ms: int, call: Callable[..., object], *args: object) -> None:
        """Calls within these bounds: mostly in the first part of them."""
        if self._random.random() < 0.7:
            high_ms = low_ms + (high_ms - low_ms) // 4
        delay = self._random.randint(low_ms, high_ms) * 1000
        self._cluster.scheduler.after(delay, call, *args)

    # What the world tells

    def ended(self, machine: Machine) -> None:
        """A process is gone. Others may notice at once, by their connections to it."""
        random = self._random
        if self._is_on and random.random() < self._cluster.swarm.evidence:
            self._spread(machine.node)

    def _spread(self, node: int) -> None:
        for other in self._cluster.machines.values():
            if other.node != node and self._random.random() < 0.8:
                self._later(5, 2_000, self._tell, other, partial(other.certain, node))
                if self._random.random() < 0.5:
                    back = partial(other.certain, node, is_gone=False)
                    self._later(50, 4_000, self._tell, other, back)

    def _tell(self, machine: Machine, tell: Callable[[], None]) -> None:
        self._cluster.scheduler.run_on(machine.process, tell)

    def refused(self, machine: Machine) -> None:
        """The root group knows another, newer directory of this node."""
        cluster = self._cluster
        machine.crash()
        twin = cluster.twins.pop(machine.node, None)
        if machine is twin:
            return  # the image goes
        if twin is not None:
            twin.crash(power=True)
            machine.directory = twin.directory
        elif machine.node in self._newer:
            machine.directory = self._newer.pop(machine.node)
        else:
            raise UnsafeError(f"node {machine.node}: its only directory is refused")
        self._later(50, 1_000, self._start, machine)

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
        for machine in [*self._cluster.machines.values(), *self._cluster.twins.values()]:
            if machine.is_up:
                machine.crash(power=True)
        for machine in self._cluster.machines.values():
            self._later(500, 5_000, self._start, machine)

    def _pause(self) -> None:
        machine = self._some()
        self._cluster.scheduler.pause(machine.process)
        self._later(500, 15_000, self._cluster.scheduler.resume, machine.process)

    def _lag(self) -> None:
        self._cluster.scheduler.lag(self._some().node, self._random.randint(100, 4_000) * 1000)

    def _lose_disk(self) -> None:
        machine = self._some()
        if not self._may_impair(machine):
            return
        files = machine.directory.files
        lost = (
            [self._random.randrange(len(files))]
            if self._random.random() < 0.5
            else range(len(files))
        )
        for shard, config in self._cluster.authority.configs.items():
            if shard % len(files) in lost:
                for one in config.members:
                    if one.node == machine.node:
                        self._wiped.add((shard, one))
        if machine.is_up:
            machine.crash()
        for place in lost:
            files[place].lose()
        self._later(50, 3_000, self._start, machine)
        self._later(3_000, 5_000, self._replace)

    def _set_back(self) -> None:
        """The store files of a node forget some seconds while its process is down."""
        machine = self._some()
        if not self._is_double(machine):
            image = machine.directory.copy(self._random)
            self._later(1_000, 5_000, self._forget, machine, image)

    def _forget(self, machine: Machine, image: Directory) -> None:
        files = machine.directory.files
        if not self._is_on or not self._is_remembered(machine, image):
            return
        for shard, config in self._cluster.authority.configs.items():
            self._wiped.update((shard, one) for one in config.members if one.node == machine.node)
        machine.crash(power=True)
        for file, old in zip(files, image.files, strict=True):
            file.set_back(old)
        self._cluster.watch.set_back(machine.node)
        self._later(50, 3_000, self._start, machine)
        self._later(3_000, 5_000, self._replace)

    def _is_remembered(self, machine: Machine, image: Directory) -> bool:
        """Whether all others know that the node's replicas have written more than is in the image.

        Only then is it sure to be noticed, as long as nobody else fails.
        """
        if not machine.is_up or not machine.groups or not self._may_impair(machine):
            return False
        for shard, group in machine.groups.items():
            held = image.files[shard % machine.directory.hosts].rows.counter
            me = group.acceptor.me
            for one in group.config.members:
                other = self._cluster.machines[one.node].groups.get(shard)
                told = (
                    () if other is None else other.acceptor.appends.known(one, group.config.members)
                )
                if one != me and dict(told).get(me, NO_COUNT).appended <= held:
                    return False
        return True

    def _may_impair(self, machine: Machine) -> bool:
        """Whether this node's copies may go bad: in each group those of one node at a time.

        With two of three copies gone nothing can be promised. Groups of one or two have none to
        spare, and a group that changes its replicas has to come through first.
        """
        authority = self._cluster.authority
        if machine.node in self._rotten or self._is_double(machine):
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
        return any(
            not is_sound(file.rows.get(table, shard, key), shard, key)
            for file in machine.directory.files
            for table, shard, key in file.rows.names()
        )

    def _is_double(self, machine: Machine) -> bool:
        """Whether there is an image of the node's directory somewhere."""
        return machine.node in self._cluster.twins or machine.node in self._newer

    def _file(self, machine: Machine) -> SimDisk[Stored]:
        return self._random.choice(machine.directory.files)

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
        self._file(machine).rot(Table.RECORD, in_key=self._random.random() < 0.3)
        if machine.is_up and self._random.random() < 0.7:
            machine.crash()
            self._later(50, 3_000, self._start, machine)

    def _disk_full(self) -> None:
        machine = self._some()
        file = self._file(machine)
        file.is_full = True
        self._later(500, 6_000, self._room, machine, file)

    def _room(self, machine: Machine, file: SimDisk[Stored]) -> None:
        file.is_full = False
        self._start(machine)

    def _sync_error(self) -> None:
        machine = self._some()
        self._file(machine).fails_next_sync = True
        self._later(1_000, 4_000, self._after_sync_error, machine)

    def _after_sync_error(self, machine: Machine) -> None:
        if self._random.random() < 0.5 and machine.is_up:
            machine.crash(power=True)
        self._start(machine)

    def _hosts(self) -> None:
        """A machine with another number of cores: the directory has fixed which file is whose."""
        machine = self._some()
        if machine.is_up:
            machine.crash()
        hosts = self._random.randint(1, len(machine.directory.files))
        self._later(50, 2_000, self._start, machine, hosts)

    def _clone(self) -> None:
        """The image of a halted machine is started as well: both are the same node."""
        machine = self._some()
        if self._is_double(machine) or machine.node in self._rotten:
            return
        if machine.is_up:
            machine.crash(power=True)
        twin = self._cluster.make_twin(machine.node, machine.directory.copy(self._random))
        for one in (machine, twin):
            self._later(100, 2_000, self._start, one)

    def _rollback(self) -> None:
        """An image is taken, and put in the place of the directory that has gone on since."""
        machine = self._some()
        if self._is_double(machine):
            return
        if machine.is_up:
            machine.crash(power=True)
        if machine.directory.intent is None:
            image = machine.directory.copy(self._random)
            self._later(1_000, 20_000, self._put_back, machine, image)
        self._start(machine)

    def _put_back(self, machine: Machine, image: Directory) -> None:
        directory = machine.directory
        is_older = directory.registered > image.registered
        if self._is_on and is_older and not self._is_double(machine):
            if machine.is_up:
                machine.crash(power=True)
            self._newer[machine.node] = directory
            machine.directory = image
            self._later(50, 500, self._start, machine)

    def _twin(self) -> None:
        """The process is taken for dead, and another one started on its files."""
        machine = self._some()
        if (
            not machine.is_up
            or self._is_double(machine)
            or self._cluster.scheduler.is_paused(machine.process)
        ):
            return
        self._cluster.scheduler.pause(machine.process)
        twin = self._cluster.make_twin(machine.node, machine.directory)
        twin.start(is_supervised=True)
        if twin.is_up:
            self._later(1_000, 8_000, self._end_twin, twin)
        else:
            self._end_twin(twin)
        self._later(500, 6_000, self._cluster.scheduler.resume, machine.process)

    def _end_twin(self, twin: Machine) -> None:
        if self._cluster.twins.get(twin.node) is twin:
            del self._cluster.twins[twin.node]
        if twin.is_up:
            twin.crash()

    def _rumour(self) -> None:
        self._spread(self._some().node)

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
        """An exchange is given up: at any point of it, the joint config's own leader included."""
        authority = self._cluster.authority
        shard = self._random.choice(list(authority.configs))
        authority.exchange(shard)
        self._later(100, 6_000, authority.abort, shard)

    def _depose(self) -> None:
        """A leader goes on without being heard, while the others elect another at once.

        What they said before may still be on its way to it, and reach it long after.
        """
        machines = self._cluster.machines
        leaders = [one for one in machines.values() if self._leads(one)]
        if not leaders or len(machines) < 2:
            return
        node = self._random.choice(leaders).node
        pairs = two_way([node], [one for one in machines if one != node])
        if self._random.random() < 0.7:
            pairs = tuple(pair for pair in pairs if pair[0] == node)
        delay_ms = 0
        if self._random.random() < 0.5:
            delay_ms = self._random.randint(1, 500)
            self._make_slow(node)
        self._cluster.scheduler.after(delay_ms * 1_000, self._cut_off, node, pairs)

    def _cut_off(self, node: int, pairs: Pairs) -> None:
        cluster = self._cluster
        if not self._is_on:
            return
        cluster.network.cut(pairs)
        self._later(500, 8_000, cluster.network.mend, pairs)
        if self._random.random() < 0.8:
            for other in cluster.machines.values():
                if other.node != node:
                    self._later(1, 100, self._tell, other, partial(other.certain, node))

    def _make_slow(self, node: int) -> None:
        slow = self._cluster.slow
        slow[node] = self._random.randint(100, 2_000) * 1_000
        self._later(1_000, 8_000, slow.pop, node, None)

    def _slow(self) -> None:
        """A node hears what others said long ago; the answers to its own questions, too."""
        node = self._some().node
        self._make_slow(node)
        if self._random.random() < 0.7:
            self._spread(node)

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
