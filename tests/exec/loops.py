"""An event loop whose time is simulated, so that a test of seconds takes none."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

from jido_cluster.exec.context import Context

T = TypeVar("T")


class VirtualLoop(asyncio.SelectorEventLoop):
    """Whenever nothing is ready, time jumps to the next timer."""

    is_virtual: Final = True

    def __init__(self) -> None:
        super().__init__()
        self._now = 1000.0

    def time(self) -> float:
        return self._now

    def _run_once(self) -> None:
        timers: list[asyncio.TimerHandle] = self._scheduled  # type: ignore[attr-defined]
        due = [timer.when() for timer in timers if not timer.cancelled()]
        if not self._ready and due:  # type: ignore[attr-defined]
            self._now = max(self._now, min(due))
        super()._run_once()  # type: ignore[misc]


def run_virtual(main: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """The result of ``main()`` on a virtual loop."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main())


def now() -> float:
    """Time of the running loop."""
    return asyncio.get_running_loop().time()


def context(seconds: float | None = None, *, attempt: int = 1) -> Context:
    """A context on the running loop's time, with so many seconds left."""
    clock = asyncio.get_running_loop().time
    deadline = None if seconds is None else clock() + seconds
    return Context(attempt=attempt, clock=clock, deadline=deadline)
