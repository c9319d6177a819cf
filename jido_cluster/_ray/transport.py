"""Control requests as calls of Ray actors; frames go through channels.

Ray's own order and retries are not relied on; every call has a time limit. Handles are looked up in
a thread, because that asks the GCS, and kept: a call on a known handle needs no GCS, a frame none.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

import ormsgpack
import ray
from ray.exceptions import (
    ActorDiedError,
    ActorUnavailableError,
    GetTimeoutError,
    RayError,
    RayTaskError,
)

from jido_cluster._ray.frames import Channel
from jido_cluster._ray.names import actor_of
from jido_cluster.errors import JidoError
from jido_cluster.ports import PeerGoneError, PeerTroubleError
from jido_cluster.runtime.view import View

ASK_SECONDS: Final = 5.0
VIEW_SECONDS: Final = 25.0  # of one long poll; the supervisor answers after 20
LOOKUP_SECONDS: Final = 10.0
PAUSE_SECONDS: Final = 0.25  # when nobody answered who may be asked for views
AGAIN_SECONDS: Final = 0.1  # until a call is made again that Ray has lost


class RayTransport:
    """Reaches the runtime's actors from one event loop.

    Args:
        namespace: The runtime's Ray namespace.
        token: The cluster's; needed to send frames.
        near: Name of the node supervisor to ask for views first; any other will do, too.
    """

    def __init__(self, namespace: str, token: str = "", near: str | None = None) -> None:
        self._namespace = namespace
        self._near = near
        self._others: list[str] = []  # supervisors that the newest view named
        self._loop = asyncio.get_running_loop()
        self._token = token
        self._handles: dict[str, Any] = {}
        self._channels: dict[str, Channel] = {}

    def send(self, host: str, frame: bytes) -> "asyncio.Future[bytes]":
        """As the port says."""
        channel = self._channels.get(host)
        if channel is None:
            channel = self._channels[host] = Channel(host, self._token)
        return channel.send(frame)

    def close(self) -> None:
        """Close the connections to hosts."""
        for channel in self._channels.values():
            channel.close()
        self._channels.clear()

    async def handle(self, name: str) -> Any:
        """The actor of this name.

        Raises:
            PeerGoneError: There is none: a name is taken before it is announced, and never reused.
            PeerTroubleError: The GCS did not answer in time.
        """
        known = self._handles.get(name)
        if known is not None:
            return known
        try:
            async with asyncio.timeout(LOOKUP_SECONDS):
                found = await asyncio.to_thread(ray.get_actor, name, namespace=self._namespace)
        except ValueError as error:
            message = f"there is no actor {name!r}"
            raise PeerGoneError(message) from error
        except (TimeoutError, RayError) as error:
            message = f"actor {name!r} could not be looked up: {type(error).__name__}"
            raise PeerTroubleError(message) from error
        self._handles[name] = found
        return found

    def forget(self, name: str) -> None:
        """Look the actor up anew next time."""
        self._handles.pop(name, None)

    async def ask(self, supervisor: str, operation: str, data: bytes) -> bytes:
        """As the port says."""
        handle = await self.handle(actor_of(supervisor))
        answer: bytes = await call(handle.ask.remote(supervisor, operation, data), ASK_SECONDS)
        return answer

    async def newer_view(self, source: str) -> View:
        """As the port says; asks the near node, and while it does not answer the others."""
        while True:
            for name in filter(None, (self._near, *self._others)):
                try:
                    handle = await self.handle(name)
                    data = await call(handle.view.remote(source), VIEW_SECONDS)
                except PeerGoneError:
                    self.forget(name)
                except PeerTroubleError:
                    pass
                else:
                    if not data:
                        break  # nothing new, and it is there
                    view = unpack_view(data)
                    supervisors = {actor_of(one.supervisor) for one in view.members}
                    self._others = sorted(supervisors - {self._near, ""})
                    return view
            else:
                await asyncio.sleep(PAUSE_SECONDS)

    def also_near(self, names: Sequence[str]) -> None:
        """More supervisors that may be asked for the first view."""
        self._others = sorted({*self._others, *names})


def pack_view(view: View) -> bytes:
    """The view for another process of the runtime; it may be larger than a frame."""
    return ormsgpack.packb(view.to_data())


def unpack_view(data: bytes) -> View:
    """The view of `pack_view`."""
    return View.from_data(ormsgpack.unpackb(data))


async def call(reference: Awaitable[Any], seconds: float) -> Any:
    """The result of an actor call.

    Raises:
        PeerGoneError: The actor is dead.
        PeerTroubleError: It did not answer in time, or cannot be reached.
        JidoError: The method raised it.
    """
    try:
        async with asyncio.timeout(seconds):
            return await reference
    except BaseException as error:
        translated = translate(error)
        if translated is error:
            raise
        raise translated from error


async def call_again(request: Callable[[], Awaitable[Any]], seconds: float) -> Any:
    """The result of an actor call that may run twice, made again while Ray loses it or its answer.

    Raises:
        PeerGoneError: The actor is dead.
        PeerTroubleError: It did not answer in this time, or could not be reached for as long.
        JidoError: The method raised it.
    """
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    while True:
        try:
            return await call(request(), end - loop.time())
        except PeerTroubleError as error:
            is_lost = isinstance(error.__cause__, ActorUnavailableError)
            if not is_lost or loop.time() + AGAIN_SECONDS >= end:
                raise
        await asyncio.sleep(AGAIN_SECONDS)


def is_not_installed(error: BaseException | None) -> bool:
    """True if Ray says that a process could not import this package."""
    while error is not None:
        if "No module named 'jido" in str(error):
            return True
        error = error.__cause__
    return False


def translate(error: BaseException, who: str = "the actor") -> BaseException:
    """A Ray error as the ports know it; others stay themselves."""
    if isinstance(error, RayTaskError):
        cause = error.cause
        if isinstance(cause, JidoError | PeerTroubleError):
            return cause
        return PeerTroubleError(f"{who} failed: {str(cause)[:500]}")
    if isinstance(error, ActorDiedError):
        return PeerGoneError(f"{who} is dead")
    if isinstance(error, RayError | GetTimeoutError):
        return PeerTroubleError(f"{who} is out of reach: {type(error).__name__}")
    if isinstance(error, TimeoutError):
        return PeerTroubleError(f"{who} did not answer in time")
    return error
