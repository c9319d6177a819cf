"""An event loop whose time stands still until it is told to advance."""

import asyncio
from typing import Any, Final

_ROUNDS: Final = 100_000  # passes of the loop without rest: something spins


def is_virtual(loop: asyncio.AbstractEventLoop) -> bool:
    """Whether time on this loop is simulated: it says so, and time then passes in jumps."""
    return bool(getattr(loop, "is_virtual", False))


class VirtualLoop(asyncio.SelectorEventLoop):
    """Timers fire in order as `advance` passes them; input, threads and callbacks run as ever."""

    is_virtual: Final = True

    def __init__(self) -> None:
        self._virtual = 0.0
        super().__init__()

    def time(self) -> float:
        """Virtual seconds since the loop was made."""
        return self._virtual

    async def advance(self, seconds: float) -> None:
        """Let this many seconds pass; each timer sees its own time."""
        end = self._virtual + seconds
        while True:
            await self.rest()
            due = [handle.when() for handle in self._timers() if not handle.cancelled()]
            following = min(due, default=end + 1)
            if following > end:
                break
            self._virtual = max(self._virtual, following)
            await asyncio.sleep(0)
        self._virtual = end
        await self.rest()

    async def rest(self) -> None:
        """Return when nothing is ready to run but the caller."""
        for _ in range(_ROUNDS):
            await asyncio.sleep(0)
            if not self._ready:  # type: ignore[attr-defined]
                return

    def _timers(self) -> list[asyncio.TimerHandle]:
        scheduled: Any = self._scheduled  # type: ignore[attr-defined]
        return list(scheduled)
