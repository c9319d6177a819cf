"""Async generators as work: whoever runs one says where its items go.

The generator is stepped in the task that awaits the drained function. So its time limit, its
cancellation and what it finds in context variables are those of any other work, and while an item
is not accepted it stands still at its `yield`.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import aclosing
from typing import Any

__all__ = ["Put", "drained"]

Put = Callable[[Any], Awaitable[None]]


def drained(
    function: Callable[..., AsyncGenerator[Any, None]],
) -> Callable[..., Coroutine[Any, Any, None]]:
    """A coroutine function that runs the generator method to its end.

    It takes the method's object, then a `Put` that is awaited with each item, then the method's
    parameters by name. However it ends, the generator is closed.
    """

    async def drain(owner: Any, put: Put, /, **params: Any) -> None:
        async with aclosing(function(owner, **params)) as items:
            async for item in items:
                await put(item)

    return drain
