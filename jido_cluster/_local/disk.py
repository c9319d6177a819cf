"""A disk in memory: what a node of a local cluster keeps over `kill` and `restart`.

Writes become durable on the next pass of the loop, all together, as a group commit would make them.
What was asked for and not durable when the node was killed is lost, as on a real disk.
"""

import asyncio
from typing import Any

from jido_cluster.ports import DiskListener
from jido_placement.config import GroupConfig, Replica
from jido_state.divergence import Siblings
from jido_state.entries import PersistEntries
from jido_state.messages import Header, Persist, Row
from jido_state.node import StoredGroup

__all__ = ["MemoryDisk"]


class _Group:
    """What is durable of one group."""

    __slots__ = ("header", "period", "rows", "siblings")

    def __init__(self) -> None:
        self.header: Header | None = None
        self.rows: dict[str, Row] = {}
        self.siblings: dict[str, Siblings] = {}
        self.period = 0


class MemoryDisk:
    """Implements `ports.Disk` for one process of a node at a time."""

    def __init__(self) -> None:
        self._groups: dict[int, _Group] = {}
        self._appended = 0
        self._listener: DiskListener | None = None
        self._asked: list[tuple[int, int, Persist | PersistEntries]] = []
        self._commit: asyncio.Handle | None = None

    def format(self, group: int, me: Replica, config: GroupConfig) -> None:
        """Writes the header of a replica of a cluster that is made as a whole."""
        self._group(group).header = Header(me.rno, "voter", config)

    def stored(self) -> dict[int, StoredGroup]:
        """What is durable, for the next process."""
        return {
            number: StoredGroup(
                group.header,
                dict(group.rows),
                (),
                dict(group.siblings),
                group.period,
                self._appended,
            )
            for number, group in self._groups.items()
        }

    def start(self, listener: DiskListener) -> None:
        """As the port says."""
        self._listener = listener

    def write(self, group: int, rno: int, effect: Persist | PersistEntries) -> None:
        """As the port says."""
        self._asked.append((group, rno, effect))
        if self._commit is None:
            self._commit = asyncio.get_running_loop().call_soon(self._flush)

    def close(self) -> None:
        """As the port says: what is not durable is lost."""
        self._listener = None
        self._asked = []
        if self._commit is not None:
            self._commit.cancel()
            self._commit = None

    def _flush(self) -> None:
        self._commit = None
        asked, self._asked = self._asked, []
        for number, _, effect in asked:
            self._apply(self._group(number), effect)
            self._appended += 1
        if self._listener is not None:
            self._listener.durable(asked, self._appended)

    def _group(self, number: int) -> _Group:
        found = self._groups.get(number)
        if found is None:
            found = self._groups[number] = _Group()
        return found

    @staticmethod
    def _apply(group: _Group, effect: Any) -> None:
        if type(effect) is Persist:
            if effect.clears:
                group.rows.clear()
            if effect.header is not None:
                group.header = effect.header
            _put(group.rows, effect.rows)
        else:
            _put(group.siblings, effect.entries)
            if effect.period is not None:
                group.period = effect.period


def _put(held: dict[str, Any], changes: Any) -> None:
    for key, value in changes.items():
        if value is None:
            held.pop(key, None)
        else:
            held[key] = value
