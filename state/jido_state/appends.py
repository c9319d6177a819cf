"""What the replicas of a group remember of each other's stores: how much each had written.

Theory. A store counts its batches over the whole life of its file. A replica says with its acks and
promises how far its own store is durable, and leaders and candidates say what they remember of
everybody's. Whoever hears that it had written, in an earlier process, more than its store held when
this one was started knows that its disk was set back in between: it has forgotten promises and
acknowledged records, and must not vote any more. The verdict is the replica's own, so that messages
which come late or in another order accuse nobody; and each count names its process, since a store
that was set back counts on, and soon has written as much as before.

Nothing of this is durable. When everybody who remembered has been restarted, or was told nothing
in time, nobody notices: a disk that lies is noticed at best effort.
*Source*: findings 4 and 42 of the replication protocol.
"""

from collections.abc import Iterable
from typing import Final, NamedTuple

from jido_placement.config import Replica

__all__ = ["NO_COUNT", "Appends", "Count", "Told"]


class Count(NamedTuple):
    """How far a store is durable.

    Attributes:
        appended: Its append counter.
        life: The process that said so: a number drawn for it, not 0.
        opened: The counter when that process opened the store.
    """

    appended: int
    life: int
    opened: int


NO_COUNT: Final = Count(0, 0, 0)

Told = tuple[tuple[Replica, Count], ...]
"""Replicas, and the highest count that the sender knows of each."""


class Appends:
    """The counts of a group, as one replica knows them.

    Args:
        opened: The append counter of its own store when this process opened it.
        life: Of this process; 0 where the driver does not tell.

    Attributes:
        own: What its own store has written.
    """

    __slots__ = ("_life", "_opened", "_others", "own")

    def __init__(self, opened: int, life: int) -> None:
        self._opened = opened
        self._life = life
        self._others: dict[Replica, Count] = {}
        self.own = Count(opened, life, opened)

    def durable(self, appended: int) -> None:
        """The own store has written more."""
        if appended > self.own.appended:
            self.own = Count(appended, self._life, self._opened)

    def heard(self, replica: Replica, count: Count) -> None:
        """Another replica's store is durable up to this.

        What an earlier process said stays when the store has less since: it is to be told so.
        """
        known = self._others.get(replica, NO_COUNT)
        if count.appended > known.appended and (
            count.life == known.life or count.opened >= known.appended
        ):
            self._others[replica] = count

    def holds(self, me: Replica, told: Told) -> bool:
        """Takes over what somebody remembers; whether the own store still has what it had."""
        is_there = True
        for replica, count in told:
            if replica != me:
                self.heard(replica, count)
            elif count.life != self._life and count.appended > self._opened:
                is_there = False
        return is_there

    def known(self, me: Replica, members: Iterable[Replica]) -> Told:
        """What to tell others; of those who are no members it forgets."""
        others = self._others
        self._others = {one: others[one] for one in members if one in others}
        own = ((me, self.own),) if self._life else ()
        return (*own, *self._others.items())
