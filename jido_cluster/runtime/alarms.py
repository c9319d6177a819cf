"""Alarms: has a shard looked at just when a timer of one of its agents is due.

Theory. What is due is found by the core whenever time passes for it, at its ticks: ten times a
second in a host process, four times in one process, every two minutes where time is virtual. An
alarm makes that punctual. It is an aid and no more: it is lost with the leadership, and then the
next tick finds what is due.
"""

import asyncio
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from jido_cluster.runtime.host import ShardHost

__all__ = ["Alarms"]

_AFTER: Final = 0.001  # seconds: the core counts whole milliseconds, and must not find it early
_LONGEST: Final = 3600.0  # wall and loop clocks drift apart: look again rather than trust a day


class Alarms:
    """The alarms of one host: one for each agent with timers that had a turn here."""

    def __init__(self, host: "ShardHost") -> None:
        self._host = host
        self._set: dict[str, tuple[int, int, asyncio.TimerHandle]] = {}

    def note(self, shard: int, key: str, due_ms: int | None) -> None:
        """An agent's next timer is due then, by the wall clock; None when it has none."""
        known = self._set.get(key)
        if known is not None:
            if known[1] == due_ms:
                return
            known[2].cancel()
            del self._set[key]
        if due_ms is not None:
            left = due_ms / 1000 - self._host.wall() + _AFTER
            handle = self._host.loop.call_later(min(max(left, 0.0), _LONGEST), self._ring, key)
            self._set[key] = (shard, due_ms, handle)

    def drop_shard(self, shard: int) -> None:
        """The shard is led here no more."""
        for key in [key for key, (number, _, _) in self._set.items() if number == shard]:
            self._set.pop(key)[2].cancel()

    def _ring(self, key: str) -> None:
        shard, due_ms, _ = self._set.pop(key)
        if self._host.is_closed:
            return
        if due_ms > self._host.wall() * 1000:
            self.note(shard, key, due_ms)
        else:
            self._host.replicas.look(shard)
