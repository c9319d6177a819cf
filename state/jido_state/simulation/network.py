"""A network that loses, delays, repeats, reorders, holds back and splits.

Theory. A message is one call of `send` and no, one or two calls of `deliver`, later. Its delay is a
least time and an exponential part, as queues have it, so messages overtake each other unless the
links are in order. Some messages are *held*: they arrive after several elections, like packets from
a switch that was asleep. A cut is a direction between two hosts in which nothing arrives: neither
what is sent while it lasts nor what would arrive then; what is held may outlast it.
*Source*: TigerBeetle's packet simulator.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import log
from random import Random
from typing import NamedTuple

from jido_state.simulation.scheduler import Event, Scheduler

__all__ = ["Network", "NetworkFaults", "NetworkStatistics"]


@dataclass(frozen=True, slots=True)
class NetworkFaults:
    """What happens to messages. Rates are probabilities per message, 0 to 1.

    Attributes:
        least_us: The shortest delay, >= 0.
        mean_us: Mean of what is added to it, >= 0.
        loss: How many are lost.
        repeat: How many arrive twice, each time with a delay of its own.
        hold: How many are held: arrive only after `hold_us`, or when the held are released.
        hold_us: Shortest and longest time a message is held; elections take some 3 s.
        in_order: Whether the messages of a link arrive in the order in which they were sent; held
            ones never do.
    """

    least_us: int = 100
    mean_us: int = 400
    loss: float = 0.0
    repeat: float = 0.0
    hold: float = 0.0
    hold_us: tuple[int, int] = (3_000_000, 20_000_000)
    in_order: bool = False


class NetworkStatistics(NamedTuple):
    """What has become of the messages.

    Attributes:
        sent: Calls of `send`.
        delivered: Calls of `deliver`.
        lost: By chance.
        cut: Because the way was cut when they were sent, or when they would have arrived.
        unheard: Because the target ran no process when they arrived.
        repeated: Second copies.
        held: Held back, over the whole run.
        holding: Held back now.
    """

    sent: int
    delivered: int
    lost: int
    cut: int
    unheard: int
    repeated: int
    held: int
    holding: int


class Network:
    """Carries messages between addresses: nodes, and clients that live on a node's host.

    Attributes:
        faults: What happens to messages from now on; may be replaced at any time.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        random: Random,
        deliver: Callable[[int, int, object], None],
        faults: NetworkFaults | None = None,
    ) -> None:
        """A network that connects everybody.

        Args:
            scheduler: Gives the time; a message waits while its target's process is paused.
            random: Draws what happens; used by this network alone.
            deliver: Called with source, target and message, in the target's process. It may send.
            faults: None for a network that only takes its time.
        """
        self.faults = NetworkFaults() if faults is None else faults
        self._scheduler = scheduler
        self._random = random
        self._deliver = deliver
        self._cuts: dict[tuple[int, int], int] = {}  # how many cuts there are per direction
        self._hosts: dict[int, int] = {}
        self._latest: dict[tuple[int, int], int] = {}
        self._held: dict[int, tuple[Event, int, int, object]] = {}
        self._sent = self._delivered = self._lost = self._cut = 0
        self._unheard = self._repeated = self._hold_count = 0

    def send(self, source: int, target: int, message: object) -> None:
        """Sends a message; it may be lost. It is shared with the receiver: never change it."""
        self._sent += 1
        faults = self.faults
        random = self._random.random
        if faults.loss and random() < faults.loss:
            self._lost += 1
        elif faults.hold and random() < faults.hold:
            self._hold(source, target, message)
        elif self._cuts and self.is_cut(source, target):
            self._cut += 1
        else:
            self._carry(source, target, message)
            if faults.repeat and random() < faults.repeat:
                self._repeated += 1
                self._carry(source, target, message)

    def _carry(self, source: int, target: int, message: object) -> None:
        faults = self.faults
        # 1 - random() is above 0, of which the logarithm exists.
        delay = faults.least_us - int(log(1.0 - self._random.random()) * faults.mean_us)
        if faults.in_order:
            link = (source, target)
            now = self._scheduler.now_us
            arrival = max(now + delay, self._latest.get(link, 0))
            self._latest[link] = arrival
            delay = arrival - now
        self._scheduler.after(delay, self._arrive, source, target, message)

    def _arrive(self, source: int, target: int, message: object) -> None:
        if self._cuts and self.is_cut(source, target):
            self._cut += 1
        elif not self._scheduler.run_on(target, self._hear, source, target, message):
            self._unheard += 1

    def _hear(self, source: int, target: int, message: object) -> None:
        self._delivered += 1
        self._deliver(source, target, message)

    # Messages that are held

    def _hold(self, source: int, target: int, message: object) -> None:
        self._hold_count += 1
        number = self._hold_count
        event = self._scheduler.after(
            self._random.randint(*self.faults.hold_us), self._release, number
        )
        self._held[number] = (event, source, target, message)

    def _release(self, number: int) -> None:
        _, source, target, message = self._held.pop(number)
        self._carry(source, target, message)

    def release(self) -> None:
        """What is held goes on its way now."""
        for number, (event, *_) in tuple(self._held.items()):
            self._scheduler.cancel(event)
            self._release(number)

    # Cuts

    def place(self, address: int, node: int) -> None:
        """The address is on the node's host: what cuts the node cuts it."""
        self._hosts[address] = node

    def cut(self, pairs: Iterable[tuple[int, int]]) -> None:
        """Nothing arrives from source to target, for each pair, until all its cuts are mended."""
        for pair in pairs:
            self._cuts[pair] = self._cuts.get(pair, 0) + 1

    def mend(self, pairs: Iterable[tuple[int, int]]) -> None:
        """Undoes one `cut` for each pair that is cut."""
        for pair in pairs:
            cuts = self._cuts.pop(pair, 0)
            if cuts > 1:
                self._cuts[pair] = cuts - 1

    def is_cut(self, source: int, target: int) -> bool:
        """Whether nothing that `source` sends reaches `target`, by a cut between their hosts."""
        hosts = self._hosts
        return (hosts.get(source, source), hosts.get(target, target)) in self._cuts

    def heal(self, faults: NetworkFaults | None = None) -> None:
        """All cuts end, what is held goes on its way, and `faults` (None: no faults) hold on."""
        self.faults = NetworkFaults() if faults is None else faults
        self._cuts.clear()
        self.release()

    def statistics(self) -> NetworkStatistics:
        """What has become of the messages so far."""
        return NetworkStatistics(
            self._sent,
            self._delivered,
            self._lost,
            self._cut,
            self._unheard,
            self._repeated,
            self._hold_count,
            len(self._held),
        )
