"""A cluster of detectors in one thread, with a network that delays, loses and cuts."""

import heapq
import random
from collections import Counter
from collections.abc import Iterable, Sequence

from jido_placement.detector import Detector
from jido_placement.membership import Reachability, first_incarnation
from jido_placement.probing import Effect, Message, ReachabilityChanged, Send
from jido_placement.timings import Timings


class DetectorCluster:
    """Nodes n0, n1, ... that watch each other, in virtual time.

    Attributes:
        now_ms: Virtual time.
        changes: Every change of an opinion: when, at whom, what.
        sent: Messages per sender since the last look.
        log: What happened, a line each.
        largest: The largest message, in bytes of text and four for each number.
    """

    def __init__(
        self,
        size: int,
        *,
        seed: int = 1,
        timings: Timings | None = None,
        loss: float = 0.0,
        delay_ms: tuple[int, int] = (1, 5),
    ) -> None:
        self.timings = timings or Timings.lan()
        self.names = [f"n{number}" for number in range(size)]
        self.chance = random.Random(seed)
        self.loss = loss
        self.delay_ms = delay_ms
        self.now_ms = 0
        self.log: list[str] = []
        self.largest = 0
        self.boots = dict.fromkeys(self.names, 1)
        self.detectors: dict[str, Detector] = {}
        self.changes: list[tuple[int, str, ReachabilityChanged]] = []
        self.sent: Counter[str] = Counter()
        self.cuts: set[tuple[str, str]] = set()
        self.delays: dict[str, tuple[int, int]] = {}
        self.paused_until: dict[str, int] = {}
        self._events: list[tuple[int, int, str, str | None, Message | None]] = []
        self._order = 0
        self._waking: dict[str, int] = {}
        for name in self.names:
            self.start(name)

    def start(self, name: str) -> None:
        """Starts the node under its boot number, watching all others."""
        self.detectors[name] = Detector(
            name,
            incarnation=first_incarnation(self.boots[name]),
            timings=self.timings,
            seed=self.chance.getrandbits(64),
            now_ms=self.now_ms,
        )
        for other in self.names:
            self.detectors[name].watch(other)
        self._wake(name)

    def kill(self, name: str) -> None:
        """Ends the node; what was under way to it is lost."""
        del self.detectors[name]

    def restart(self, name: str) -> None:
        self.boots[name] += 1
        self.start(name)

    def join(self, name: str) -> None:
        """Starts a node that nobody has watched so far."""
        self.names.append(name)
        self.boots[name] = 1
        self.start(name)
        for other in self.detectors.values():
            other.watch(name)

    def cut(self, left: Iterable[str], right: Iterable[str], *, both_ways: bool = True) -> None:
        """Loses every message from left to right, and back unless it is one-way."""
        for one in left:
            for other in right:
                self.cuts.add((one, other))
                if both_ways:
                    self.cuts.add((other, one))

    def heal(self) -> None:
        self.cuts.clear()

    def pause(self, name: str, ms: int) -> None:
        """Stops the node's loop; what arrives meanwhile waits."""
        self.paused_until[name] = self.now_ms + ms

    def run(self, ms: int) -> None:
        """Lets so much virtual time pass."""
        end_ms = self.now_ms + ms
        while self._events and self._events[0][0] <= end_ms:
            at_ms, _, name, sender, message = heapq.heappop(self._events)
            self.now_ms = max(self.now_ms, at_ms)
            detector = self.detectors.get(name)
            if detector is None:
                continue
            if self.paused_until.get(name, 0) > self.now_ms:
                self._push(self.paused_until[name], name, sender, message)
                continue
            if message is not None and sender is not None:
                self.perform(name, detector.receive(sender, message, self.now_ms))
            elif detector.next_at_ms <= self.now_ms:
                self.perform(name, detector.tick(self.now_ms))
            else:
                self._wake(name)
        self.now_ms = end_ms

    def perform(self, name: str, effects: Sequence[Effect]) -> None:
        """Does what the node's detector asks for."""
        for effect in effects:
            if isinstance(effect, ReachabilityChanged):
                self.changes.append((self.now_ms, name, effect))
                after = effect.after.name.lower()
                self.log.append(f"{self.now_ms} {name}: {effect.node} is {after}")
            elif isinstance(effect, Send):
                self.sent[name] += 1
                self.largest = max(self.largest, _size(effect.message))
                kind = type(effect.message).__name__.lower()
                self.log.append(f"{self.now_ms} {name} -> {effect.to} {kind}")
                is_lost = self.chance.random() < self.loss
                if (name, effect.to) not in self.cuts and not is_lost:
                    low, high = self.delays.get(name, self.delay_ms)
                    delay_ms = self.chance.randint(low, high)
                    self._push(self.now_ms + delay_ms, effect.to, name, effect.message)

        self.detectors[name].check()
        self._wake(name)

    def opinions(self, about: str) -> Counter[str]:
        """How many of the other living nodes believe what."""
        return Counter(
            detector.opinion_of(about).reachability.name.lower()
            for name, detector in self.detectors.items()
            if name != about
        )

    def first(self, about: str, after: Reachability) -> int | None:
        """When somebody first came to this opinion of the node."""
        times = [at for at, _, one in self.changes if one.node == about and one.after is after]
        return min(times, default=None)

    def _wake(self, name: str) -> None:
        at_ms = max(self.now_ms, self.detectors[name].next_at_ms)
        if not self.now_ms < self._waking.get(name, 0) <= at_ms:
            self._waking[name] = at_ms
            self._push(at_ms, name, None, None)

    def _push(self, at_ms: int, name: str, sender: str | None, message: Message | None) -> None:
        self._order += 1
        heapq.heappush(self._events, (at_ms, self._order, name, sender, message))


def _size(part: object) -> int:
    if isinstance(part, str | bytes):
        return len(part)
    return sum(map(_size, part)) if isinstance(part, tuple) else 4
