"""Virtual time: events in order, clocks that differ, processes that end, pause and lag.

Theory. The world is a heap of events, ordered by time and then by the order in which they were
asked for; running one may ask for others. Nothing else moves time, so a run is a function of its
inputs. An event belongs to the world, or to the process that a node runs at that moment: events
of a process are gone when it ends, and wait while it is paused (a stopped virtual machine, a loop
that is blocked), as timers and sockets do.
*Source*: TigerBeetle's simulated time; FoundationDB's simulation.
"""

from collections.abc import Callable
from heapq import heappop, heappush
from itertools import count
from typing import Any, Final

__all__ = ["WALL_EPOCH_MS", "Event", "Scheduler"]

WALL_EPOCH_MS: Final = 1_700_000_000_000  # so that wall clocks are not taken for monotonic ones
_WORLD: Final = -1
_WHEN, _SEQUENCE, _NODE, _LIFE, _CALL, _ARGS = range(6)

Event = list[Any]
"""An event that was asked for; opaque, for `cancel`. A list, because a heap of lists is fast."""


class Scheduler:
    """Runs events in virtual time. Nodes are small integers, >= 0.

    Attributes:
        now_us: The true time in microseconds, from 0; no node sees it.
    """

    __slots__ = (
        "_drifts",
        "_heap",
        "_lags",
        "_lives",
        "_numbers",
        "_paused",
        "_walls",
        "now_us",
    )

    def __init__(self) -> None:
        self.now_us = 0
        self._heap: list[Event] = []
        self._numbers = count(1)
        self._lives: dict[int, int] = {}  # the process that a node runs now
        self._paused: dict[int, list[Event]] = {}  # what paused processes have waiting
        self._lags: dict[int, Event] = {}  # the ends of pauses that end by themselves
        self._walls: dict[int, int] = {}
        self._drifts: dict[int, int] = {}

    def after(self, delay_us: int, call: Callable[..., object], *args: object) -> Event:
        """Asks for `call(*args)` in `delay_us` (>= 0), whatever happens to any process."""
        event: Event = [self.now_us + delay_us, next(self._numbers), _WORLD, 0, call, args]
        heappush(self._heap, event)
        return event

    def after_on(
        self, node: int, delay_us: int, call: Callable[..., object], *args: object
    ) -> Event:
        """Asks the node's process for `call(*args)` in `delay_us`, by the true time.

        Nothing happens if the process ends before; it happens late if the process is paused then.
        """
        life = self._lives.get(node, 0)
        event: Event = [self.now_us + delay_us, next(self._numbers), node, life, call, args]
        heappush(self._heap, event)
        return event

    def run_on(self, node: int, call: Callable[..., object], *args: object) -> bool:
        """Runs `call(*args)` in the node's process: now, or once it is resumed.

        Returns:
            False when the node runs no process, and nothing will happen.
        """
        life = self._lives.get(node)
        if life is None:
            return False
        waiting = self._paused.get(node)
        if waiting is None:
            call(*args)
        else:
            waiting.append([self.now_us, next(self._numbers), node, life, call, args])
        return True

    @staticmethod
    def cancel(event: Event) -> None:
        """The event does not happen; no effect on one that has happened."""
        event[_CALL] = None

    def step(self) -> bool:
        """Runs the next event. False when there is none left."""
        while self._heap:
            event = heappop(self._heap)
            self.now_us = event[_WHEN]
            if self._happen(event):
                return True
        return False

    def run(self, until_us: int, stop: Callable[[], bool] | None = None) -> int:
        """Runs all events up to and including `until_us`, then sets the time to it.

        Args:
            until_us: The true time at which to end, >= `now_us`.
            stop: Asked after each event; True ends the run there, without moving time on.

        Returns:
            How many events happened.
        """
        heap = self._heap
        happened = 0
        while heap and heap[0][_WHEN] <= until_us:
            event = heappop(heap)
            self.now_us = event[_WHEN]
            if self._happen(event):
                happened += 1
                if stop is not None and stop():
                    return happened
        self.now_us = until_us
        return happened

    def _happen(self, event: Event) -> bool:
        """Runs the event, or puts it aside. Whether anything was run."""
        _, _, node, life, call, args = event
        if call is None:
            return False
        if node != _WORLD:
            if self._lives.get(node) != life:
                return False
            waiting = self._paused.get(node)
            if waiting is not None:
                waiting.append(event)
                return False
        event[_CALL] = None
        call(*args)
        return True

    # Processes

    def start(self, node: int) -> None:
        """The node runs a new process; one that ran there before has ended."""
        self.end(node)
        self._lives[node] = next(self._numbers)

    def end(self, node: int) -> None:
        """The node's process is gone, with all events that belonged to it."""
        self._forget_lag(node)
        self._paused.pop(node, None)
        self._lives.pop(node, None)

    def is_running(self, node: int) -> bool:
        """Whether the node has a process, be it paused."""
        return node in self._lives

    def is_paused(self, node: int) -> bool:
        """Whether the node's process stands still."""
        return node in self._paused

    def pause(self, node: int) -> None:
        """The node's process stands still until `resume`: what belongs to it waits.

        Its clocks go on. A pause takes over from a lag; no effect where no process runs.
        """
        if node in self._lives:
            self._forget_lag(node)
            self._paused.setdefault(node, [])

    def resume(self, node: int) -> None:
        """The node's process goes on: all that waited happens now, in its old order."""
        self._forget_lag(node)
        for event in self._paused.pop(node, ()):
            event[_WHEN] = self.now_us
            event[_SEQUENCE] = next(self._numbers)
            heappush(self._heap, event)

    def lag(self, node: int, duration_us: int) -> None:
        """The node's loop is blocked for this long, from now; no effect while it is paused."""
        if node in self._lives and node not in self._paused:
            self._paused[node] = []
            self._lags[node] = self.after(duration_us, self.resume, node)

    def _forget_lag(self, node: int) -> None:
        event = self._lags.pop(node, None)
        if event is not None:
            self.cancel(event)

    # Clocks

    def set_clock(self, node: int, *, offset_ms: int, drift_ppm: int | None = None) -> None:
        """Sets how far the node's wall clock is off, and how much faster its clocks run.

        A new offset is a jump of the wall clock.

        Args:
            node: Whose clocks.
            offset_ms: How far the wall clock is ahead, but for the drift.
            drift_ppm: Millionths that both clocks gain; None leaves it. Set it before the node
                first starts, since the monotonic clock would jump as well.
        """
        self._walls[node] = offset_ms
        if drift_ppm is not None:
            self._drifts[node] = drift_ppm

    def monotonic_ms(self, node: int) -> int:
        """What the node's monotonic clock shows. It means nothing on another node."""
        now = self.now_us
        # A base of its own, so that a comparison of two nodes' clocks does not pass by chance.
        return (now + now * self._drifts.get(node, 0) // 1_000_000) // 1000 + (
            node + 1
        ) * 10_000_000

    def wall_ms(self, node: int) -> int:
        """What the node's wall clock shows, in milliseconds since the epoch."""
        now = self.now_us
        drifted = (now + now * self._drifts.get(node, 0) // 1_000_000) // 1000
        return WALL_EPOCH_MS + drifted + self._walls.get(node, 0)

    @property
    def waiting(self) -> int:
        """How many events are asked for, cancelled ones among them."""
        return len(self._heap)
