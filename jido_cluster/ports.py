"""Ports: what the runtime needs from the world. `_local` and `_ray` implement them.

A port fails with `PeerGoneError` when the other side is known to be dead (nothing new can reach it,
what was in flight may have run), and with `PeerTroubleError` when it only could not be reached.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from jido_cluster.runtime.view import Member, View

if TYPE_CHECKING:
    from jido_state.entries import PersistEntries
    from jido_state.messages import Persist


class PeerTroubleError(ConnectionError):
    """The other side did not answer; it may be alive, and what was sent may have run.

    Attributes:
        was_sent: False when surely nothing has left, so that nothing has run.
    """

    def __init__(self, message: str, *, was_sent: bool = True) -> None:
        super().__init__(message)
        self.was_sent = was_sent


class PeerGoneError(PeerTroubleError):
    """The other side is dead for good; what was in flight may have run, if it `was_sent`."""


class Transport(Protocol):
    """Carries frames to hosts and requests to node supervisors."""

    def send(self, host: str, frame: bytes) -> "asyncio.Future[bytes]":
        """Send a frame; the future holds the answer, PeerTroubleError or PeerGoneError."""
        ...

    async def ask(self, supervisor: str, operation: str, data: bytes) -> bytes:
        """The answer of a node's supervisor to a control request.

        Raises:
            PeerTroubleError: It could not be reached within a few seconds.
        """
        ...

    async def newer_view(self, source: str) -> View:
        """The first view whose `source` is another one; waits until there is one."""
        ...


class Peers(Protocol):
    """One-way messages between the processes of a cluster; lost, late, repeated ones are fine.

    A process is named by its node and its part of it: 0 is the supervisor, 1 and up are hosts.
    """

    def start(self, listener: "PeerListener") -> None:
        """Tell this listener what comes; nothing is told before, or within a call of it."""
        ...

    def know(self, node: int, part: int, address: str, life: int) -> None:
        """Where a process is from now on; "" for nowhere.

        An address names one process and is never used again. With another one, what was to go to
        the process before is dropped, and nothing that it still sends is heard. `life` is that of
        the announcement, for people.
        """
        ...

    def send(self, node: int, part: int, message: Any) -> None:
        """Queue a message; everything of one pass of the loop leaves as one frame.

        Dropped without a word when the process is unknown or unreachable.
        """
        ...

    def close(self) -> None:
        """End all links at once, as a crash would."""
        ...


class PeerListener(Protocol):
    """Hears what comes from the other processes."""

    def received(self, node: int, part: int, messages: list[Any]) -> None:
        """Messages of another process, in its order."""
        ...

    def gone(self, node: int, part: int) -> None:
        """Certain: the process at the address that is known of these is dead."""
        ...

    def back(self, node: int, part: int) -> None:
        """There is a connection to the process of these."""
        ...


class Disk(Protocol):
    """Makes durable what the replicas of one process ask for, in their order."""

    def start(self, listener: "DiskListener") -> None:
        """Tell this listener what has become durable; never within a call of it."""
        ...

    def write(self, group: int, rno: int, effect: "Persist | PersistEntries") -> None:
        """Make it durable, whole and after everything asked before.

        Args:
            group: Whose.
            rno: The assignment of the replica that asks.
            effect: What is to be written.
        """
        ...

    def close(self) -> None:
        """End at once; what is not durable may be lost."""
        ...


class DiskListener(Protocol):
    """Hears what has become of writes."""

    def durable(
        self, written: "Sequence[tuple[int, int, Persist | PersistEntries]]", appended: int
    ) -> None:
        """These writes are durable, in their order; with the store's append counter."""
        ...

    def full(self, *, is_full: bool) -> None:
        """The disk has no room, or has room again and holds everything."""
        ...


class Scheduler(Protocol):
    """Runs actions on nodes."""

    async def run(
        self, node: Member, request: bytes, resources: Mapping[str, float], run_id: str
    ) -> bytes:
        """The outcome of the action on this node, as bytes.

        Cancelling the awaiting task kills the run.

        Raises:
            PeerTroubleError: The node or the process died, or took no work.
        """
        ...


class WorkerLink(Protocol):
    """A process of its own for one agent.

    Attributes:
        is_closed: Whether it was given up, or has to be.
    """

    is_closed: bool

    async def turn(self, request: bytes, timeout: float | None) -> bytes:
        """The outcome of a turn there.

        Raises:
            PeerGoneError: The process died; whether the handler had finished is unknown, but its
                state was not committed.
        """
        ...

    async def stream(
        self, request: bytes, timeout: float | None, put: Callable[[bytes], Awaitable[None]]
    ) -> bytes:
        """As `turn`, for a stream: `put` is awaited with each item, in order.

        Cancelling the awaiting task cancels the handler.
        """
        ...

    def close(self) -> None:
        """Give the process up; it ends."""
        ...


class Workers(Protocol):
    """Gives out processes for dedicated agents."""

    async def acquire(
        self, options: Mapping[str, Any] | None, needs: list[Any] | None
    ) -> WorkerLink:
        """A fresh process, from the warm pool when it has no special options.

        Raises:
            PeerTroubleError: None could be started.
            NoCapableNodeError: No node offers what it needs.
        """
        ...


class WallClock(Protocol):
    """Seconds since the epoch, for people; never used for safety."""

    def __call__(self) -> float:
        """Now."""
        ...
