"""Ports: what the runtime needs from the world. `_local` and `_ray` implement them.

A port fails with `PeerGoneError` when the other side is known to be dead (nothing new can reach it,
what was in flight may have run), and with `PeerTroubleError` when it only could not be reached.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

from jido_cluster.runtime.view import Member, View


class PeerTroubleError(ConnectionError):
    """The other side did not answer; it may be alive, and what was sent may have run."""


class PeerGoneError(PeerTroubleError):
    """The other side is dead for good; what was in flight may have run."""


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

    async def newer_view(self, epoch: int) -> View:
        """The first view with a higher epoch; waits until there is one."""
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
