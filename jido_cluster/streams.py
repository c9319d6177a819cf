"""Streams as a caller sees them: iterators over the items that a handler yields."""

from collections.abc import AsyncGenerator, Generator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jido_cluster.connection import Connection, Target
    from jido_cluster.portal import Portal
    from jido_cluster.runtime.flow import Inflow


class Stream:
    """One stream, which is asked for when its first item is wanted.

    Raises:
        InvalidInputError: It cannot be asked for; nothing was sent.
        HandlerNotFoundError: The function has no `@on`.
    """

    def __init__(
        self,
        connection: "Connection",
        target: "Target",
        handler: object,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> None:
        self._connection = connection
        self._target = target
        self._declaration, self._body = connection.stream_request(target, handler, args, kwargs)
        self._inflow: Inflow | None = None

    async def items(self) -> AsyncGenerator[Any, None]:
        """The items, for code on the connection's loop; closing the generator closes the stream."""
        load = self._declaration.work.load_result
        try:
            while batch := await self._batch():
                for item in batch:
                    yield load(item)
        finally:
            self._close()

    def items_in(self, portal: "Portal") -> Generator[Any, None, None]:
        """As `items`, for synchronous code; several items cross from the loop at once."""
        load = self._declaration.work.load_result
        try:
            while batch := portal.call(self._batch()):
                for item in batch:
                    yield load(item)
        finally:
            # Not waited for: whoever drops the generator may be on the portal's own thread.
            portal.soon(self._close)

    async def _batch(self) -> list[bytes]:
        """The next items, in order; none at the end."""
        self._connection.check_usable()
        if self._inflow is None:
            await self._connection.prepare(self._target.agent_type)
            self._inflow = self._connection.open_stream(self._target, self._declaration, self._body)
        return await self._inflow.batch()

    def _close(self) -> None:
        if self._inflow is not None:
            self._inflow.close()
