"""Control plane: what it costs a node that the cluster has 10 to 1000 of them, in virtual time.

All failure detectors of a cluster in one thread, joined by a network that delays each message by 1
to 5 ms and loses none; messages are packed as the runtime packs them. Messages and bytes are those
that a node sends in a quiet second, CPU time is that of its detector alone, without packing and
sockets. Then one node stops, and convergence is when the last of the others holds it for dead.
"""

import heapq
import random
import time
from collections.abc import Sequence
from typing import Final, NamedTuple

from benchmarks.here import Here
from benchmarks.report import Comparison, Samples
from jido_cluster.runtime.peer_wire import Packer
from jido_placement import Detector, Reachability, Timings, first_incarnation
from jido_placement.probing import Ack, Carried, Effect, Message, ReachabilityChanged, Send

SIZES: Final = (10, 100, 300, 1000)
QUICK_SIZES: Final = SIZES[:-1]
SETTLE_MS: Final = 2_000  # virtual: no node begins its probes in step with the others
QUIET_MS: Final = 5_000
DEATH_MS: Final = 120_000  # the longest that a death may take to be known
STEP_MS: Final = 500
DELAY_MS: Final = (1, 5)
UNITS: Final = {"messages": "/s", "bytes": "B/s", "cpu": "ms/s", "convergence": "s"}
WORDS: Final = {
    "messages": "messages a node sends",
    "bytes": "bytes a node sends",
    "cpu": "CPU time of a node's detector",
    "convergence": "a death is known to all",
}
FIRST: Final = "10 nodes"

COMPARISONS: Final = tuple(
    Comparison(f"{key}-{size}", "control", f"{WORDS[key]}, {size} nodes", UNITS[key], FIRST)
    for key in UNITS
    for size in SIZES[1:]
)


def left_out(one: Comparison) -> str:
    """Why a comparison was not measured."""
    return f"{one.metric.rpartition(', ')[2]} are not in short rounds"


class Costs(NamedTuple):
    """Of one size, as the case says: per node and second, and seconds to convergence."""

    messages: float
    bytes: float
    cpu: float
    convergence: float


class Control:
    """Clusters of all sizes, one after the other, another seed in each round."""

    def __init__(self, site: Here) -> None:
        self._sizes = QUICK_SIZES if site.is_quick else SIZES

    async def prepare(self) -> None:
        """As the protocol says."""
        costs(SIZES[0], seed=0)

    async def round(self, number: int) -> Samples:
        """As the protocol says."""
        first = costs(SIZES[0], number + 1)
        samples: dict[str, tuple[float, float]] = {}
        for size in self._sizes[1:]:
            found = costs(size, number + 1)
            for key in UNITS:
                samples[f"{key}-{size}"] = (getattr(found, key), getattr(first, key))
        return samples


def costs(size: int, seed: int) -> Costs:
    """What a cluster of so many nodes costs; the same seed gives the same, but for the CPU time."""
    cluster = Detectors(size, seed)
    cluster.run(SETTLE_MS)
    messages, sent, seconds = cluster.messages, cluster.bytes, cluster.seconds
    cluster.run(QUIET_MS)
    node_seconds = size * QUIET_MS / 1000
    quiet = (
        (cluster.messages - messages) / node_seconds,
        (cluster.bytes - sent) / node_seconds,
        (cluster.seconds - seconds) * 1000 / node_seconds,
    )
    return Costs(*quiet, cluster.death_ms() / 1000)


class Detectors:
    """Nodes that watch each other, in virtual time.

    Attributes:
        messages: Sent since the start, by all nodes.
        bytes: The same, as the runtime packs them.
        seconds: CPU time in the detectors.
    """

    def __init__(self, size: int, seed: int) -> None:
        self.messages = self.bytes = 0
        self.seconds = 0.0
        self._chance = random.Random(seed)
        self._packer = Packer()
        self._now_ms = 0
        self._order = 0
        self._events: list[tuple[int, int, str, str, Message | None]] = []
        self._waking: dict[str, int] = {}
        self._unaware: set[str] = set()  # of the death that is waited for
        names = [f"node-{number}" for number in range(size)]
        self._detectors = {name: self._new(name) for name in names}
        for name, detector in self._detectors.items():
            self._acquaint(detector, names)
            self._wake(name)

    def _new(self, name: str) -> Detector:
        return Detector(
            name,
            incarnation=first_incarnation(1),
            timings=Timings.lan(),
            seed=self._chance.getrandbits(64),
            now_ms=0,
        )

    @staticmethod
    def _acquaint(detector: Detector, names: Sequence[str]) -> None:
        """Has a detector know all others, as if it had been there for long."""
        incarnation = first_incarnation(1)
        heard = Carried(incarnation)
        for name in names:
            detector.watch(name)
        for name in names:
            if name != detector.node:
                detector.receive(name, Ack(0, name, incarnation, heard), 0)
                # A thousand nodes that all meet at once hand on a million pieces of news, and
                # compare all that they know: that was long ago.
                detector._opinions.news.drop(name)  # noqa: SLF001 - nobody else may drop them
        detector._exchange.early_syncs = 0  # noqa: SLF001 - as above

    def run(self, duration_ms: int) -> None:
        """Lets so much virtual time pass."""
        end_ms = self._now_ms + duration_ms
        while self._events and self._events[0][0] <= end_ms:
            at_ms, _, name, sender, message = heapq.heappop(self._events)
            self._now_ms = max(self._now_ms, at_ms)
            detector = self._detectors.get(name)
            if detector is None:
                continue
            begun = time.process_time()
            if message is not None:
                effects = detector.receive(sender, message, self._now_ms)
            else:
                effects = detector.tick(self._now_ms)
            self.seconds += time.process_time() - begun
            self._perform(name, effects)
        self._now_ms = end_ms

    def death_ms(self) -> int:
        """Stops a node; the time until nobody takes it for reachable or in doubt any more.

        Raises:
            RuntimeError: That takes more than two minutes.
        """
        victim = next(iter(self._detectors))
        del self._detectors[victim]
        self._unaware = set(self._detectors)
        begun_ms = self._now_ms
        while self._now_ms - begun_ms < DEATH_MS:
            self.run(STEP_MS)
            self._unaware = {
                name
                for name in self._unaware
                if self._detectors[name].opinion_of(victim).reachability
                is not Reachability.UNREACHABLE
            }
            if not self._unaware:
                return self._known_ms - begun_ms
        raise RuntimeError(f"{len(self._unaware)} nodes did not learn of the death")

    def _perform(self, name: str, effects: Sequence[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, ReachabilityChanged):
                self._known_ms = self._now_ms
            elif isinstance(effect, Send):
                self.messages += 1
                self.bytes += len(self._packer.pack(effect.message))
                at_ms = self._now_ms + self._chance.randint(*DELAY_MS)
                self._push(at_ms, effect.to, name, effect.message)
        self._wake(name)

    def _wake(self, name: str) -> None:
        at_ms = max(self._now_ms, self._detectors[name].next_at_ms)
        if not self._now_ms < self._waking.get(name, 0) <= at_ms:
            self._waking[name] = at_ms
            self._push(at_ms, name, "", None)

    def _push(self, at_ms: int, name: str, sender: str, message: Message | None) -> None:
        self._order += 1
        heapq.heappush(self._events, (at_ms, self._order, name, sender, message))
