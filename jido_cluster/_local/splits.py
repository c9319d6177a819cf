"""Splits of the network between nodes of one process: who is cut off, and what follows of it.

Theory. On real machines a failure detector finds whom a node reaches, and a supervisor tells its
hosts; both take seconds. Here it is known at once, to those it concerns. All the rest is as there:
nobody is told of a cut, so leaders stop and are elected by silence; and when it ends each node goes
through the stages of healing.
"""

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from jido_cluster.errors import InvalidInputError
from jido_cluster.runtime.partitions import note_admission, note_healing
from jido_placement.healing import Do, Effect, Healing, Noted, Stage
from jido_placement.policies import Strategy, admitted

if TYPE_CHECKING:
    from jido_cluster._local.runtime import LocalNode, LocalRuntime

__all__ = ["Splits"]

STABLE_MS: Final = 500  # how long contact must have lasted before healing begins
RETRY_MS: Final = 250  # between looks whether a step of healing is done


class Splits:
    """What stands between the nodes of one local cluster, and what each makes of it."""

    def __init__(self, runtime: "LocalRuntime") -> None:
        self._runtime = runtime
        self._healing: defaultdict[int, Healing] = defaultdict(
            lambda: Healing(stable_ms=STABLE_MS, retry_ms=RETRY_MS)
        )
        self._admitted: dict[int, frozenset[Strategy]] = {}
        self._timer: asyncio.TimerHandle | None = None

    def partition(self, sides: Sequence[Sequence[str]]) -> None:
        """Cut the network between the named nodes.

        Raises:
            InvalidInputError: As `AsyncLocalCluster.partition`.
        """
        runtime = self._runtime
        if not sides:
            raise InvalidInputError("partition() names no nodes; give one side at least")
        cut: list[list[int]] = []
        side_of: dict[int, int] = {}
        for number, side in enumerate(sides, 1):
            if isinstance(side, str) or not side:
                message = f"side {number} is {side!r}; give the names of its nodes as a list"
                raise InvalidInputError(message)
            indexes = [runtime.named(name).index for name in side]
            for name, index in zip(side, indexes, strict=True):
                if index in side_of:
                    message = (
                        f"node {name!r} is named in side {side_of[index]} and in side {number}; "
                        "name each node once"
                    )
                    raise InvalidInputError(message)
                side_of[index] = number
            cut.append(indexes)
        runtime.switchboard.partition(*cut)
        runtime.views_follow()
        self._break_connections()
        self.look()

    def heal(self) -> None:
        """Join the network again."""
        self._runtime.switchboard.heal()
        self._runtime.views_follow()
        self.look()
        self._runtime.prefer_later()

    def close(self) -> None:
        """Do nothing more."""
        if self._timer is not None:
            self._timer.cancel()

    def _break_connections(self) -> None:
        """What is on its way across the cut is lost, and whoever waits for it learns that."""
        runtime = self._runtime
        is_joined = runtime.switchboard.is_joined
        for task, (sender, receiver) in list(runtime.sending.items()):
            if not is_joined(sender, receiver):
                task.cancel()
        transports = list(runtime.outside)
        for node in runtime.nodes.values():
            transports += node.transports
        for node in runtime.nodes.values():
            for host in node.hosts.values():
                for transport in transports:
                    if not is_joined(transport.node, node.index):
                        host.disconnected(transport)

    # -- what nodes make of it

    def look(self) -> None:
        """Tell each node whom it reaches, and whom it may serve; go on with the healing."""
        up = self._runtime.up()
        for node in up:
            contacts = self._contacts(node, up)
            holds = self._strategies(node, contacts)
            for host in node.hosts.values():
                host.replicas.core.reachable = contacts
                host.replicas.core.admitted = holds
            before = self._admitted.get(node.index, frozenset(Strategy))
            self._admitted[node.index] = holds
            for strategy in Strategy:
                if (strategy in before) != (strategy in holds):
                    note_admission(node.name, strategy, is_admitted=strategy in holds)
        self._heal()
        self._runtime.root.look_soon()

    def _contacts(self, node: "LocalNode", up: "Sequence[LocalNode]") -> frozenset[int]:
        is_joined = self._runtime.switchboard.is_joined
        return frozenset(one.index for one in up if is_joined(node.index, one.index))

    def _strategies(self, node: "LocalNode", contacts: frozenset[int]) -> frozenset[Strategy]:
        """The strategies under which a node with these contacts may serve users."""
        record = self._runtime.record_at(node.index)
        members = {one.node for one in record.members}
        root = record.root.config
        answering = [one for one in root.members if one.node in contacts]
        return frozenset(
            strategy
            for strategy in Strategy
            if admitted(
                strategy,
                contacts=len(contacts & members),
                members=len(members),
                reaches_root_quorum=root.is_quorum(answering),
            )
        )

    # -- healing

    def _heal(self) -> None:
        """Let each node go on with its healing, now and whenever there is more to do."""
        now_ms = int(self._runtime.loop.time() * 1000)
        up = self._runtime.up()
        due = []
        for node in up:
            healing = self._healing[node.index]
            is_whole = len(self._contacts(node, up)) == len(up)
            waiting = [*healing.observe(is_whole, now_ms), *healing.tick(now_ms)]
            self._perform(node, waiting, now_ms)
            if healing.next_at_ms is not None:
                due.append(healing.next_at_ms)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if due:
            # Times are whole milliseconds: a little later is not too early.
            self._timer = self._runtime.loop.call_at((min(due) + 1) / 1000, self._heal)

    def _perform(self, node: "LocalNode", waiting: list[Effect], now_ms: int) -> None:
        while waiting:
            effect = waiting.pop(0)
            if isinstance(effect, Noted):
                note_healing(node.name, effect)
            elif self._is_done(node, effect):
                waiting += self._healing[node.index].done(effect.episode, effect.step, now_ms)

    def _is_done(self, node: "LocalNode", do: Do) -> bool:
        """Whether a step of healing is done; nobody has to do anything but wait for it."""
        if do.step is Stage.LEADERS:
            hosts = self._runtime.hosts()
            led = {shard for host in hosts for shard in host.replicas.led_shards()}
            return len(led) == len(self._runtime.root.record.shards)
        if do.step is Stage.ENTRIES:
            cores = [host.replicas.core for host in node.hosts.values()]
            return not any(one.entries.held for core in cores for one in core.services.values())
        return True
