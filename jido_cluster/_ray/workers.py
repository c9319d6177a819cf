"""Dedicated agents' processes: the actor, the pool that keeps some warm, and the host's link.

A turn takes its host to the worker by TCP, not by a Ray call: both are on the way of one ask, and a
second Ray call would double its latency. Each worker serves one agent and then ends, so that no
agent finds what another one left in the process.
"""

import asyncio
import logging
import os
import threading
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, Final

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from jido_cluster._ray import process, streams
from jido_cluster._ray.process import Settings
from jido_cluster._ray.transport import RayTransport, call, call_again
from jido_cluster.connections import Binding, set_process_binding
from jido_cluster.errors import JidoError, RunCancelledError
from jido_cluster.exec.stream import Put
from jido_cluster.ports import PeerGoneError, PeerTroubleError
from jido_cluster.runtime.flow import CLOSE, TAKEN, Outflow, is_word_due
from jido_cluster.runtime.wire import encode_error, pack, unpack
from jido_cluster.runtime.worker import Worker

logger = logging.getLogger(__name__)

START_SECONDS: Final = 60.0
_ITEM: Final = None  # begins a message that is an item of a stream; an answer begins with a bool
EXIT_SECONDS: Final = 5.0  # how long a worker waits to be killed when its work is done
MARGIN_SECONDS: Final = 5.0  # past a turn's deadline, until its worker counts as stuck


class AgentWorkerActor:
    """The Ray actor of one dedicated agent: serves turns on one connection, then ends."""

    async def start(self, settings: Settings, version: int, pickles: list[bytes]) -> list[Any]:
        """Listen; the address to connect to."""
        from jido_cluster._ray.driver import connect_near

        process.set_up(settings)
        process.CODE.take(version, pickles)
        self._ended = asyncio.Event()
        connection = await connect_near(settings, process.ray_node_id())
        binding = Binding(connection, asyncio.get_running_loop())
        set_process_binding(settings.cluster, binding)
        self._worker = Worker(binding)
        ip = process.own_ip()
        self._server, port = await streams.listen(ip, settings.token, self._serve)
        return [ip, port, os.getpid()]

    async def watch(self) -> None:
        """Return when the worker has served its agent; fails when this process dies."""
        await self._ended.wait()

    async def take_code(self, version: int, pickles: list[bytes]) -> None:
        """Definitions that were shipped after this worker had started."""
        process.CODE.take(version, pickles)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        outflow: Outflow | None = None
        try:
            while True:
                request = unpack(await streams.read(reader))
                if request[0] == "stream":
                    outflow = self._begin_stream(request, writer)
                elif outflow is not None and request[0] == TAKEN:
                    outflow.taken(request[1])
                elif outflow is not None and request[0] == CLOSE:
                    outflow.close()
                else:
                    streams.write(writer, await self._worker.turn(request))
                    await writer.drain()
        finally:
            # Its pool, which waits in `watch`, kills the actor, which Ray takes for meant; should
            # that not come, the process ends itself: a stuck handler's thread must not hold it.
            self._ended.set()
            threading.Timer(EXIT_SECONDS, os._exit, (0,)).start()

    def _begin_stream(self, request: list[Any], writer: asyncio.StreamWriter) -> Outflow:
        """Run a stream beside the reading of what its host tells of it.

        What comes after its answer still finds an outflow, which then does nothing with it.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + request[3] / 1000
        outflow = Outflow(lambda item: streams.write(writer, pack((_ITEM, item))), deadline)
        outflow.task = loop.create_task(self._stream(request, writer, outflow))
        return outflow

    async def _stream(
        self, request: list[Any], writer: asyncio.StreamWriter, outflow: Outflow
    ) -> None:
        try:
            answer = await self._worker.turn(request, outflow.put)
        except asyncio.CancelledError:
            if not outflow.is_closed:
                raise
            answer = pack((False, encode_error(RunCancelledError("the stream was closed"))))
        streams.write(writer, answer)


class Pool:
    """A node's warm workers; lives in the node's supervisor."""

    def __init__(self, settings: Settings, code: "CodeStore") -> None:
        self._settings = settings
        self._code = code
        self._warm: list[asyncio.Task[tuple[Any, list[Any]]]] = []
        self._taken: set[asyncio.Task[None]] = set()

    def fill(self) -> None:
        """Start workers until the pool is full; returns at once."""
        while len(self._warm) < self._settings.config.warm_workers:
            self._warm.append(asyncio.get_running_loop().create_task(self._start({})))

    async def take(self, options: Mapping[str, Any] | None) -> list[Any]:
        """The address of a worker that is its taker's from now on.

        Raises:
            PeerTroubleError: It could not be started.
        """
        while options is None and self._warm:
            warm = self._warm.pop(0)
            self.fill()
            try:
                return await self._give(warm)
            except PeerTroubleError as error:  # it died while nobody needed it: others may do
                logger.warning("a warm worker is of no use: %s", error)
        return await self._give(
            asyncio.get_running_loop().create_task(self._start(dict(options or {})))
        )

    async def _give(self, starting: "asyncio.Task[tuple[Any, list[Any]]]") -> list[Any]:
        """The address of this worker, which has the newest definitions then.

        Raises:
            PeerTroubleError: It did not start, or is dead by now.
        """
        try:
            handle, address = await starting
        except RayError as error:
            message = f"a worker did not start: {type(error).__name__}"
            raise PeerTroubleError(message) from error
        await call_again(partial(handle.take_code.remote, *self._code.current()), START_SECONDS)
        keeping = asyncio.get_running_loop().create_task(_keep(handle))
        self._taken.add(keeping)
        keeping.add_done_callback(self._taken.discard)
        return address

    def close(self) -> None:
        """Give up the warm ones: they end when nobody holds them."""
        for warm in self._warm:
            warm.cancel()
        self._warm.clear()

    async def _start(self, options: dict[str, Any]) -> tuple[Any, list[Any]]:
        needs = options.pop("jido_needs", None)
        actor: Any = ray.remote(AgentWorkerActor)  # Ray's types know no `remote` of its methods
        arguments: dict[str, Any] = {
            "num_cpus": 0,
            "max_restarts": 0,
            "max_concurrency": 100,
            "enable_task_events": False,
            **options,
        }
        if needs is not None:
            labels, resources, _ = needs
            arguments["label_selector"] = dict(labels)
            arguments["resources"] = {
                k: v for k, v in resources.items() if k not in ("CPU", "GPU", "memory")
            }
            arguments["num_cpus"] = resources.get("CPU", arguments["num_cpus"])
            arguments["num_gpus"] = resources.get("GPU", arguments.get("num_gpus", 0))
        elif not options:
            node = NodeAffinitySchedulingStrategy(process.ray_node_id(), soft=False)
            arguments["scheduling_strategy"] = node
        handle = actor.options(**arguments).remote()
        starting = handle.start.remote(self._settings, *self._code.current())
        return handle, await call(starting, START_SECONDS)


async def _keep(handle: Any) -> None:
    """Hold the handle, and with it the actor, until the worker has served its agent."""
    try:
        await handle.watch.remote()
    except RayError:
        return  # it died
    ray.kill(handle, no_restart=True)


class CodeStore:
    """Shipped definitions as a node keeps them, for processes that start later."""

    def __init__(self) -> None:
        self.version = 0
        self.pickles: list[bytes] = []

    def take(self, version: int, pickles: list[bytes]) -> bool:
        """Keep these if they are newer; whether they are."""
        if version <= self.version:
            return False
        self.version, self.pickles = version, pickles
        return True

    def current(self) -> tuple[int, list[bytes]]:
        """Version and all definitions, oldest first."""
        return self.version, self.pickles


class RayWorkers:
    """The host's side of the pool: asks the node's supervisor, then talks to the worker."""

    def __init__(self, transport: RayTransport, node_actor: str, settings: Settings) -> None:
        self._transport = transport
        self._node_actor = node_actor
        self._settings = settings

    async def acquire(
        self, options: Mapping[str, Any] | None, needs: list[Any] | None
    ) -> "RayWorkerLink":
        """As the port says."""
        node = await self._transport.handle(self._node_actor)
        request = pack([dict(options) if options else None, needs])
        address = unpack(await call(node.acquire_worker.remote(request), START_SECONDS))
        try:
            reader, writer = await streams.dial(address[0], address[1], self._settings.token)
        except (OSError, TimeoutError) as error:
            message = f"the worker at {address[0]}:{address[1]} does not answer"
            raise PeerTroubleError(message) from error
        return RayWorkerLink(reader, writer)


class RayWorkerLink:
    """A connection to one worker; answers come in the order of the requests."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._incoming = streams.Incoming(reader)
        self._writer = writer
        self._lock = asyncio.Lock()
        self.is_closed = False

    async def turn(self, request: bytes, timeout: float | None) -> bytes:
        """As the port says."""
        async with self._lock:
            try:
                return await self._ask(request, timeout, self._incoming.read)
            except asyncio.CancelledError:
                self.close()  # the answer would be taken for the next turn's
                raise

    async def stream(self, request: bytes, timeout: float | None, put: Put) -> bytes:
        """As the port says."""
        async with self._lock:
            try:
                return await self._ask(request, timeout, lambda: self._pass_on(put))
            except (asyncio.CancelledError, JidoError):  # by whoever waits, or by `put`
                await self._end_stream()
                raise

    async def _ask(
        self, request: bytes, timeout: float | None, answer: Callable[[], Awaitable[bytes]]
    ) -> bytes:
        streams.write(self._writer, request)
        try:
            async with asyncio.timeout(None if timeout is None else timeout + MARGIN_SECONDS):
                return await answer()
        except JidoError:
            raise  # of whoever takes the items; some are TimeoutErrors too
        except TimeoutError as error:
            self.close()
            message = "the worker is stuck past the turn's deadline; it was ended"
            raise PeerGoneError(message) from error
        except (OSError, EOFError) as error:
            message = "the worker's process ended"
            raise PeerGoneError(message) from error

    async def _pass_on(self, put: Put) -> bytes:
        """Pass items on as fast as they are accepted; the answer that follows them."""
        count = told = size = 0
        while True:
            message = await self._incoming.read()
            kind, item, *_ = unpack(message)
            if kind is not _ITEM:
                return message
            await put(item)
            count += 1
            size += len(item)
            if is_word_due(count - told, size):
                streams.write(self._writer, pack((TAKEN, count)))
                told, size = count, 0

    async def _end_stream(self) -> None:
        """Have the worker cancel its handler; one that does not answer in time is ended itself."""
        streams.write(self._writer, pack((CLOSE,)))
        try:
            async with asyncio.timeout(MARGIN_SECONDS):
                while unpack(await self._incoming.read())[0] is _ITEM:
                    pass
        except (TimeoutError, OSError, EOFError, asyncio.CancelledError):
            self.close()

    def close(self) -> None:
        """As the port says: the worker ends itself when its connection closes."""
        self.is_closed = True
        self._writer.close()
