"""What a node believes of the others, and what follows: whom to replace, and whether to serve.

Theory. The failure detector tells who answers. That a supervisor's process is dead is certain when
its connection ends and its address refuses another; it says nothing of the node's hosts, which have
links of their own. So it ends the detector's waiting, and nothing more: for planning the node is
unreachable until another life of its supervisor is heard, and is replaced only when it stays so.

Time in which the own process did not run is nobody's silence: the detector takes it out of its
suspicions, and here it is taken out of the spans after which nodes are replaced.
"""

import logging
from typing import Final, NamedTuple

from jido_cluster.runtime.partitions import note_admission, note_healing
from jido_placement import healing as heal
from jido_placement.detector import Detector
from jido_placement.healing import Healing, Noted, Stage
from jido_placement.membership import Reachability, Status, first_incarnation
from jido_placement.policies import Admission, Strategy, admitted
from jido_placement.probing import Effect, Message, ReachabilityChanged, Send
from jido_placement.record import Record
from jido_placement.timings import Timings

logger = logging.getLogger(__name__)

__all__ = ["Outgoing", "Watching"]

HEAL_RETRY_MS: Final = 1_000  # between looks whether a step of healing is done


class Outgoing(NamedTuple):
    """A message of the detector for another node."""

    node: int
    message: Message


class Watching:
    """The detector of one node, kept in step with the record. Not thread-safe; time comes in.

    Args:
        node: The own index.
        record: The committed record as of now.
        boot: The own boot number.
        timings: Of the detector.
        seed: Decides the order of probes.
        now_ms: Monotonic.
        down_after_ms: How long a node must have been unreachable to be replaced.
        stable_after_ms: How long contact must have been there, or not, before it counts.

    Attributes:
        contacts: The nodes with which there is contact both ways, this one included; sorted.
        unreachable: The nodes that the detector believes to be so.
        expired: Those that are so for too long.
        admitted: The strategies under which this node may serve users, by value; sorted.
    """

    def __init__(
        self,
        node: int,
        record: Record,
        *,
        boot: int,
        timings: Timings,
        seed: int,
        now_ms: int,
        down_after_ms: int,
        stable_after_ms: int,
    ) -> None:
        self._node = node
        self._timings = timings
        self._down_after_ms = down_after_ms
        self._detector = Detector(
            str(node),
            incarnation=first_incarnation(boot),
            timings=timings,
            seed=seed,
            now_ms=now_ms,
        )
        self._admissions = {strategy: Admission(stable_after_ms) for strategy in Strategy}
        self._healing = Healing(stable_ms=stable_after_ms, retry_ms=HEAL_RETRY_MS)
        self._was_whole = False
        self._since_ms: dict[int, int] = {}  # since when nodes are unreachable
        self._looked_ms = now_ms
        self._members: frozenset[int] = frozenset()
        self.contacts: tuple[int, ...] = (node,)
        self.unreachable: frozenset[int] = frozenset()
        self.expired: frozenset[int] = frozenset()
        self.admitted: tuple[str, ...] = ()
        self.adopt(record)

    @property
    def may_rebalance(self) -> bool:
        """Whether replicas may be moved for balance: not while a split heals."""
        return self._healing.may_rebalance

    def adopt(self, record: Record) -> None:
        """Watch the members of this record, and nobody else."""
        members = frozenset(one.node for one in record.members)
        for node in sorted(members - self._members):
            self._detector.watch(str(node))
        for node in sorted(self._members - members):
            self._detector.forget(str(node))
            self._since_ms.pop(node, None)
        self._members = members
        self._record = record

    def receive(self, sender: int, message: Message, now_ms: int) -> list[Outgoing]:
        """What another node's detector says."""
        return self._outgoing(self._detector.receive(str(sender), message, now_ms))

    def gone(self, node: int, now_ms: int) -> list[Outgoing]:
        """The supervisor of that node, as it was last heard of, is dead for certain."""
        if node not in self._members or node == self._node:
            return []
        incarnation = self._detector.opinion_of(str(node)).incarnation
        return self._outgoing(self._detector.certain(str(node), incarnation, now_ms))

    def tick(self, now_ms: int) -> list[Outgoing]:
        """Let time pass, and look again at what the attributes say."""
        late_ms = now_ms - self._looked_ms - self._timings.max_gap_ms
        self._looked_ms = now_ms
        if late_ms > 0:
            self._since_ms = {node: since + late_ms for node, since in self._since_ms.items()}
        sent = self._outgoing(self._detector.tick(now_ms))
        self._look(now_ms)
        return sent

    def steps(self, now_ms: int) -> list[heal.Do]:
        """The steps of healing that are to be performed now; `done` ends each."""
        if not self._was_whole and not self._is_whole():
            return []  # what was never together does not come together again
        self._was_whole = True
        healing = self._healing
        return self._noted((*healing.observe(self._is_whole(), now_ms), *healing.tick(now_ms)))

    def done(self, step: heal.Do, now_ms: int) -> list[heal.Do]:
        """A step of healing is done; the next ones."""
        return self._noted(self._healing.done(step.episode, step.step, now_ms))

    def _is_whole(self) -> bool:
        """Whether there is contact with every member that is not declared down."""
        contacts = frozenset(self.contacts)
        members = self._record.members
        return all(one.node in contacts for one in members if one.status is not Status.DOWN)

    def _look(self, now_ms: int) -> None:
        contacts = [int(name) for name in self._detector.contacts(now_ms)]
        self.contacts = tuple(sorted(contacts))
        found = {node for node in self._members if self._is_unreachable(node)}
        self._since_ms = {node: self._since_ms.get(node, now_ms) for node in sorted(found)}
        self.unreachable = frozenset(found)
        self.expired = frozenset(
            node
            for node, since_ms in self._since_ms.items()
            if now_ms - since_ms >= self._down_after_ms
        )
        voters = self._record.root.config
        answering = [one for one in voters.members if one.node in self.contacts]
        for strategy, admission in self._admissions.items():
            holds = admitted(
                strategy,
                contacts=len(self._members.intersection(contacts)),
                members=len(self._members),
                reaches_root_quorum=voters.is_quorum(answering),
            )
            if admission.observe(holds, now_ms):
                note_admission(str(self._node), strategy, is_admitted=holds)
        self.admitted = tuple(
            sorted(
                one.value for one, admission in self._admissions.items() if admission.is_admitted
            )
        )

    def _is_unreachable(self, node: int) -> bool:
        reachability = self._detector.opinion_of(str(node)).reachability
        return reachability is Reachability.UNREACHABLE

    def _outgoing(self, effects: tuple[Effect, ...]) -> list[Outgoing]:
        sent = []
        for effect in effects:
            if isinstance(effect, Send):
                sent.append(Outgoing(int(effect.to), effect.message))
            elif isinstance(effect, ReachabilityChanged):
                level = logging.INFO if effect.after is Reachability.REACHABLE else logging.WARNING
                logger.log(
                    level,
                    "node %s is %s, says node %s",
                    effect.node,
                    effect.after.name.lower(),
                    effect.accuser,
                    extra={"node": effect.node, "incarnation": effect.incarnation},
                )
        return sent

    def _noted(self, effects: tuple[heal.Effect, ...]) -> list[heal.Do]:
        steps = []
        for effect in effects:
            if isinstance(effect, Noted):
                note_healing(str(self._node), effect)
            else:
                steps.append(effect)
        return steps

    @property
    def stage(self) -> Stage:
        """Where healing stands."""
        return self._healing.stage
