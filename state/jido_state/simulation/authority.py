"""A stand-in for the root group: one process that never fails and decides configs.

The groups under test see of the root group only its committed configs and its answers. Here both
come from one place, reached over the same bad network, so that a run shows what the groups make of
configs that arrive late, out of order or not at all. The root group itself is simulated apart.
"""

from collections.abc import Callable
from random import Random
from typing import Final, NamedTuple

from jido_placement.config import GroupConfig, Replica
from jido_state.versions import Ballot

__all__ = ["AUTHORITY", "Authority", "Boot", "Configs", "Report"]

AUTHORITY: Final = 900  # its address


class Configs(NamedTuple):
    """What the root group's record says that concerns the groups.

    Attributes:
        configs: The newest committed one of each shard.
        formatted: Replicas that have, or had, a header.
        asked: The number in the question that this answers; 0 for what nobody asked.
    """

    configs: dict[int, GroupConfig]
    formatted: frozenset[tuple[int, Replica]]
    asked: int = 0


class Report(NamedTuple):
    """What a node tells the root group: "pull", "formatted", "lost", "ready" or "joint"."""

    kind: str
    shard: int = 0
    replica: Replica = Replica(0, 0)
    config: int = 0
    ballot: Ballot | None = None
    question: int = 0


class Boot(NamedTuple):
    """A node asks to register a boot; `is_granted` is the answer."""

    boot: int
    nonce: int
    old_nonce: int
    is_granted: bool | None = None


class Authority:
    """Commits one config after the other for each shard.

    Args:
        send: Sends from `AUTHORITY` to a node.
        random: Draws which replicas are exchanged.
        nodes: All machines.
        shards: How many groups there are.
        replicas: Voters of each.
    """

    def __init__(
        self,
        send: Callable[[int, object], None],
        random: Random,
        nodes: list[int],
        shards: int,
        replicas: int,
    ) -> None:
        self._send = send
        self._random = random
        self._nodes = nodes
        self._next_rno: dict[int, int] = {}
        self.formatted: set[tuple[int, Replica]] = set()
        self.lost: set[tuple[int, Replica]] = set()
        self.configs: dict[int, GroupConfig] = {}
        self.done: set[tuple[int, int]] = set()  # (shard, config) whose joint leader reported
        self.history: dict[tuple[int, int], GroupConfig] = {}
        self._targets: dict[int, tuple[Replica, ...]] = {}  # new voters of a change in progress
        self._boots: dict[int, tuple[int, int]] = {}
        for shard in range(shards):
            order = [nodes[(shard + i) % len(nodes)] for i in range(replicas)]
            voters = tuple(Replica(node, self._rno(shard)) for node in order)
            self._commit(shard, GroupConfig(1, voters))

    def _rno(self, shard: int) -> int:
        rno = self._next_rno.get(shard, 0) + 1
        self._next_rno[shard] = rno
        return rno

    def _commit(self, shard: int, config: GroupConfig) -> None:
        self.configs[shard] = config
        self.history[shard, config.number] = config
        self.push()

    def push(self) -> None:
        """Tells all nodes what is committed."""
        message = Configs(dict(self.configs), frozenset(self.formatted))
        for node in self._nodes:
            self._send(node, message)

    def receive(self, source: int, message: object) -> None:
        """A node reports, or asks."""
        if type(message) is Boot:
            self._send(source, message._replace(is_granted=self._register(source, message)))
        if type(message) is not Report:
            return
        shard, replica = message.shard, message.replica
        config = self.configs.get(shard)
        if message.kind == "pull":
            formatted = frozenset(self.formatted)
            self._send(source, Configs(dict(self.configs), formatted, message.question))
        elif message.kind == "formatted":
            self.formatted.add((shard, replica))
        elif message.kind == "lost":
            self.lost.add((shard, replica))
        elif message.kind == "ready" and config is not None and replica in config.learners:
            self._begin_joint(shard, config)
        elif message.kind == "joint" and config is not None and config.number == message.config:
            self._joint_done(shard, config, message.ballot)

    def _joint_done(self, shard: int, config: GroupConfig, ballot: Ballot | None) -> None:
        """I8: only the leader of a ballot of this very joint config ends it."""
        if ballot is not None and ballot.config == config.number:
            self._finish(shard, config)

    def _register(self, node: int, boot: Boot) -> bool:
        known = self._boots.get(node, (0, 0))
        if known == (boot.boot, boot.nonce):
            return True
        if known != (boot.boot - 1, boot.old_nonce):
            return False
        self._boots[node] = (boot.boot, boot.nonce)
        return True

    # Changes

    def is_changing(self, shard: int) -> bool:
        """Whether a change is in progress."""
        config = self.configs[shard]
        return config.is_joint or bool(config.learners)

    def exchange(self, shard: int) -> bool:
        """Begins to exchange one replica: a lost one first, else any. False when it cannot."""
        config = self.configs[shard]
        if self.is_changing(shard):
            return False
        used = {one.node for one in config.voters}
        free = [node for node in self._nodes if node not in used]
        self._random.shuffle(free)
        target = list(config.voters)
        if lost := [one for one in config.voters if (shard, one) in self.lost]:
            target[target.index(lost[0])] = Replica(lost[0].node, self._rno(shard))
        elif free:
            # One at a time, or as many as there are places for.
            most = 1 if self._random.random() < 0.7 else len(target)
            places = self._random.sample(range(len(target)), len(target))
            for node, place in list(zip(free, places, strict=False))[:most]:
                target[place] = Replica(node, self._rno(shard))
        else:
            return False
        self._targets[shard] = tuple(target)
        learners = tuple(one for one in target if one not in config.voters)
        self._commit(shard, GroupConfig(config.number + 1, config.voters, (), learners))
        return True

    def _begin_joint(self, shard: int, config: GroupConfig) -> None:
        target = self._targets.get(shard)
        if target is not None:
            self._commit(shard, GroupConfig(config.number + 1, config.voters, target))

    def _finish(self, shard: int, config: GroupConfig) -> None:
        self.done.add((shard, config.number))
        self._targets.pop(shard, None)
        self._commit(shard, GroupConfig(config.number + 1, config.joining))

    def abort(self, shard: int) -> bool:
        """Gives up a change: back to the old voters. False when there is none."""
        config = self.configs[shard]
        if not self.is_changing(shard):
            return False
        self._targets.pop(shard, None)
        self._commit(shard, GroupConfig(config.number + 1, config.voters))
        return True
