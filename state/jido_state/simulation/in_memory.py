"""Which agents kept in memory may have lost what was acknowledged, and which must not have.

Theory. What is acked from memory is gone with the process until it is written. The next leader is
elected by a quorum. As long as the running replicas that lack the content are no quorum, one that
has it is among those who elect, or nobody is elected: then it must not be lost, whatever else
happens. When they are a quorum it may be, and nobody can know; nothing is judged of that agent any
more. With three replicas of which two had it, this takes the end of one of the two before it had
written and its return, or the end of both.

So of most crashes nothing is excused: a disk that keeps up leaves nothing to be lost.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from jido_placement.config import GroupConfig, Replica
from jido_state.acceptor import Acceptor
from jido_state.messages import Row
from jido_state.versions import NO_VERSION, Version

__all__ = ["AgentsInMemory"]


class _Group(Protocol):
    @property
    def acceptor(self) -> Acceptor: ...


class AgentsInMemory:
    """What was acknowledged of agents that are kept in memory, and who has it.

    Args:
        groups: Gives the groups of a shard in all running processes.

    Attributes:
        answers: How many rested on memory.
        may_be_lost: Agents of which nothing is to be expected any more.
    """

    def __init__(self, groups: Callable[[int], Iterable[_Group]]) -> None:
        self.answers = 0
        self.may_be_lost: set[str] = set()
        self._groups = groups
        self._acknowledged: dict[int, dict[str, Version]] = {}

    def answered(self, shard: int, key: str, version: Version, config: GroupConfig) -> None:
        """Somebody was told of this version, which a quorum had in memory."""
        self.answers += 1
        known = self._acknowledged.setdefault(shard, {})
        if version > known.get(key, NO_VERSION):
            known[key] = version
        self._look(shard, key, config, [])

    def returned(
        self, replica: Replica, shard: int, rows: Mapping[str, Row], config: GroupConfig
    ) -> None:
        """A replica begins again with these rows."""
        for key, version in self._acknowledged.get(shard, {}).items():
            row = rows.get(key)
            lacks = row is None or row.version < version
            self._look(shard, key, config, [replica] if lacks else [])

    def _look(self, shard: int, key: str, config: GroupConfig, lacking: Iterable[Replica]) -> None:
        version = self._acknowledged[shard][key]
        lack = set(lacking)
        for group in self._groups(shard):
            row = group.acceptor.rows.get(key)
            if row is None or row.version < version:
                lack.add(group.acceptor.me)
        for voters in (config.voters, config.joining):
            if voters and 2 * sum(one in lack for one in voters) > len(voters):
                self.may_be_lost.add(key)
