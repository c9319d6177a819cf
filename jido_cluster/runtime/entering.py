"""How a node that starts becomes a member, or one again.

Theory. A fresh node founds the cluster or is let in by any member. A node that was a member asks
the members to register its new start. When none of them can, because the root group itself is only
starting, a node that has a replica of it opens that replica unregistered and takes part in the
election: the root group could not come back otherwise. It asks first, so that a copy of a directory
does so only where the original and everybody else is silent.
"""

import asyncio
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from jido_cluster.errors import ConfigError, WireError
from jido_cluster.ports import PeerTroubleError
from jido_cluster.runtime.entry import (
    REMOVED,
    Entered,
    Entry,
    Later,
    Refusal,
    answer_of,
    removed_error,
)
from jido_cluster.runtime.formation import LOOK_SECONDS, Seen, look_around
from jido_cluster.runtime.root_replica import found_durably, stored_record
from jido_placement.commands import Accepted, Refused
from jido_placement.formation import Candidate
from jido_placement.record import ROOT, MemberRecord, Record, found

if TYPE_CHECKING:
    from jido_cluster.runtime.control import NodeControl

__all__ = ["Entering"]

ORDER_SECONDS: Final = 2.0


class Entering:
    """Brings one node in.

    Args:
        control: The node's supervisor.
    """

    def __init__(self, control: "NodeControl") -> None:
        self._control = control
        self._ports = control.ports

    async def run(self) -> None:
        """The node is a member when this returns; see `NodeControl.start`."""
        control, identity = self._control, self._ports.identity
        known = [identity.record(), stored_record(self._ports.stored)]
        records = [record for record in known if record is not None]
        if not records:
            await self._enter_first()
            return
        record = max(records, key=_age)
        control.cluster_id = record.cluster_id
        await self._enter_again(record)

    async def ask_again(self) -> None:
        """Asks those in sight whether this start of the node is still registered."""
        control = self._control
        try:
            others = await self._ports.discovery.others()
        except PeerTroubleError:
            return
        answer = await self._ask(others, is_fresh=False)
        if isinstance(answer, Entered):
            control.root.adopt(answer.record)
            control.gossip.learn(answer.view)
        elif isinstance(answer, Refusal):
            control.end(self._refused(answer.text))

    async def _enter_first(self) -> None:
        control, identity = self._control, self._ports.identity
        while True:
            me = Candidate(identity.id, None)
            expect, discovery = control.settings.expect, self._ports.discovery
            sight = await look_around(me, discovery, expect, control.is_alive)
            if sight.cluster_id is None:
                record = self._founded()
                stored = await found_durably(self._ports.disk, record)
                control.keep(record, 0)
                control.open(0, record, stored)
                if not control.registered():
                    await self._enter_again(record)
                return
            answer = await self._ask(sight.others, is_fresh=True)
            if isinstance(answer, Entered):
                if not self._let_in(answer):
                    await self._enter_again(answer.record)
                return
            if isinstance(answer, Refusal):
                raise self._refused(answer.text)
            await asyncio.sleep(LOOK_SECONDS)

    def _founded(self) -> Record:
        control, about = self._control, self._control.about
        founder = MemberRecord(
            0,
            self._ports.identity.id,
            control.boot.number,
            control.boot.nonce,
            about.name,
            tuple(sorted(about.labels.items())),
            about.weight,
            about.zone,
        )
        return found(
            f"{self._ports.draw(64):016x}",
            founder,
            shards=control.config.shards,
            replicas=control.config.replicas,
            expect=control.settings.expect,
            agreed=control.agreed,
        )

    async def _enter_again(self, record: Record) -> None:
        control, identity = self._control, self._ports.identity
        me = Candidate(identity.id, record.cluster_id)
        mine = record.member_of_id(identity.id)
        while True:
            sight = await look_around(me, self._ports.discovery, 1, control.is_alive)
            if control.is_open:
                self._introduce(sight.others)
            answer = await self._ask(sight.others, is_fresh=False)
            if isinstance(answer, Later) and control.is_open and control.root.is_leading:
                answer = await self._register()
            if isinstance(answer, Refusal):
                raise self._refused(answer.text)
            if isinstance(answer, Entered) and self._let_in(answer):
                return
            if not control.is_open and mine is not None and ROOT in self._ports.stored:
                control.open(mine.node, record, self._ports.stored)
                self._introduce(sight.others)
            if control.is_open and control.is_registered:
                return
            await asyncio.sleep(LOOK_SECONDS)

    async def _register(self) -> Later | Refusal:
        """Registers this start at the own root replica, which leads."""
        control = self._control
        command = self._entry(is_fresh=False).command(control.agreed)
        answer = await control.root.order(command, ORDER_SECONDS)
        if isinstance(answer, Refused):
            return Refusal(answer.text)
        if isinstance(answer, Accepted):
            control.registered()
        return Later("")

    def _let_in(self, answer: Entered) -> bool:
        """Goes on as a member; see `NodeControl.registered` for what it says."""
        control = self._control
        control.keep(answer.record, answer.node)
        if control.is_open:
            control.root.adopt(answer.record)
            control.gossip.learn(answer.view)
        else:
            control.open(answer.node, answer.record, self._ports.stored, answer.view)
        return control.registered()

    async def _ask(self, others: Iterable[Seen], *, is_fresh: bool) -> Entered | Refusal | Later:
        """What the first of these members says that can say anything."""
        entry = self._entry(is_fresh=is_fresh).to_bytes()
        answer: Entered | Refusal | Later = Later("no member is in sight")
        for one in others:
            if one.peer and one.id != self._ports.identity.id:
                try:
                    data = await self._ports.transport.ask(one.supervisor, "join", entry)
                    answer = answer_of(data)
                except (PeerTroubleError, WireError) as error:
                    answer = Later(str(error))
                if not isinstance(answer, Later):
                    break
        return answer

    def _entry(self, *, is_fresh: bool) -> Entry:
        control = self._control
        agreed = control.config.agreed()
        return Entry(control.seen, control.boot, control.about, agreed, is_fresh)

    def _introduce(self, others: Iterable[Seen]) -> None:
        """The links to other root replicas that are only starting, too."""
        for one in others:
            self._control.gossip.introduce(one)

    def _refused(self, text: str) -> ConfigError:
        id_ = self._ports.identity.id
        if text == REMOVED:
            return removed_error(id_)
        return ConfigError(f"node {id_} is refused: {text}", node=id_)


def _age(record: Record) -> tuple[int, int]:
    return record.recovery_no, record.epoch
