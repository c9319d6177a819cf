"""The ports of a host or a caller in one process: what is a network, and other machines, on Ray."""

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from jido_cluster._local.peers import OUTSIDE
from jido_cluster.exec.stream import Put
from jido_cluster.ports import PeerGoneError, PeerTroubleError
from jido_cluster.runtime.actions import run_request
from jido_cluster.runtime.view import Member, View
from jido_cluster.runtime.wire import unpack
from jido_cluster.runtime.worker import Worker

if TYPE_CHECKING:
    from jido_cluster._local.runtime import LocalNode, LocalRuntime

__all__ = ["LocalScheduler", "LocalTransport", "LocalWorkers"]


class LocalTransport:
    """Hands frames over on the loop; both sides still pack and unpack them.

    Args:
        runtime: Of the cluster.
        node: Index of the node it is on; `OUTSIDE` for that of a caller.
    """

    def __init__(self, runtime: "LocalRuntime", node: int = OUTSIDE) -> None:
        self._runtime = runtime
        self.node = node
        if node == OUTSIDE:
            runtime.outside.append(self)

    def send(self, host: str, frame: bytes) -> "asyncio.Future[bytes]":
        """As the port says."""
        runtime = self._runtime
        place = runtime.place(host)
        if place is not None and not runtime.switchboard.is_joined(self.node, place.index):
            failed: asyncio.Future[bytes] = runtime.loop.create_future()
            message = f"host {host} cannot be reached"
            failed.set_exception(PeerTroubleError(message, was_sent=False))
            return failed
        task = runtime.loop.create_task(self._send(host, frame))
        if place is not None:
            runtime.sending[task] = (self.node, place.index)
            task.add_done_callback(runtime.sending.pop)
        return task

    async def _send(self, address: str, frame: bytes) -> bytes:
        host = self._runtime.host(address)
        if host is None:
            message = f"host {address} is down"
            raise PeerGoneError(message, was_sent=False)
        answer = await host.frame(frame, self)
        if host.is_closed:
            message = f"host {address} went down before it could answer"
            raise PeerGoneError(message)
        return answer

    async def ask(self, supervisor: str, operation: str, data: bytes) -> bytes:
        """As the port says."""
        await asyncio.sleep(0)
        place = self._runtime.supervised(supervisor)
        if place is None or not self._runtime.switchboard.is_joined(self.node, place.index):
            message = f"{supervisor} answers nothing"
            raise PeerTroubleError(message)
        return await self._runtime.root.answer(place.index, operation, data)

    async def newer_view(self, source: str) -> View:
        """As the port says."""
        while (view := self._runtime.view_at(self.node)).source == source:
            await self._runtime.wait_change()
        return view


class LocalScheduler:
    """Runs actions as tasks that die with their node."""

    def __init__(self, runtime: "LocalRuntime") -> None:
        self._runtime = runtime

    async def run(
        self, node: Member, request: bytes, resources: Mapping[str, float], run_id: str
    ) -> bytes:
        """As the port says."""
        place = self._runtime.node_by_id(node.id)
        if place is None:
            message = f"node {node.name} is down"
            raise PeerTroubleError(message)
        host = next(iter(place.hosts.values()))
        task = self._runtime.loop.create_task(run_request(request, node.name, host.binding))
        place.runs.add(task)
        try:
            return await task
        except asyncio.CancelledError:
            if place.is_up or self._runtime.node_by_id(node.id) is place:
                raise
            message = f"node {node.name} went down under the run"
            raise PeerTroubleError(message) from None
        finally:
            task.cancel()
            place.runs.discard(task)


class LocalWorkers:
    """Gives out workers that are objects of this process."""

    def __init__(self, runtime: "LocalRuntime", node: "LocalNode") -> None:
        self._runtime = runtime
        self._node = node

    async def acquire(
        self, options: Mapping[str, Any] | None, needs: list[Any] | None
    ) -> "LocalWorker":
        """As the port says; options of Ray actors mean nothing here."""
        host = next(iter(self._node.hosts.values()))
        return LocalWorker(Worker(host.binding))


class LocalWorker:
    """A worker in this process."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self.is_closed = False

    async def turn(self, request: bytes, timeout: float | None) -> bytes:
        """As the port says."""
        self._check()
        return await self._worker.turn(unpack(request))

    async def stream(self, request: bytes, timeout: float | None, put: Put) -> bytes:
        """As the port says."""
        self._check()
        return await self._worker.turn(unpack(request), put)

    def close(self) -> None:
        """As the port says."""
        self.is_closed = True

    def _check(self) -> None:
        if self.is_closed:
            message = "the worker was closed"
            raise PeerGoneError(message)
