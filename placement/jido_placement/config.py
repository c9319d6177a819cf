"""The replicas of one group and which of them make a quorum.

Theory. A config is simple (one set of voters) or joint (the old set and the new one). A quorum of
a simple config is a majority of its voters; of a joint one it is a majority of the old voters and a
majority of the new ones, counted over the config, never over who is visible. Quorums of configs
that follow each other so meet in a replica.
*Source*: Ongaro's thesis, section 4.3 (joint consensus); riak_ensemble's views.
"""

from collections.abc import Collection
from typing import NamedTuple

__all__ = ["GroupConfig", "Replica"]


class Replica(NamedTuple):
    """A node's assignment to a group.

    Attributes:
        node: Index of the member in the root record, 0 to 65535.
        rno: Number of this assignment, > 0, given by the root group and never used again: a node
            that is added again is another replica, and starts empty.
    """

    node: int
    rno: int


class GroupConfig(NamedTuple):
    """The committed replicas of one group. Only the root group makes them.

    Attributes:
        number: Rises by one with each change of this group, from 1.
        voters: Those who vote, in order of preference; distinct nodes, at least one.
        joining: The voters to be, while the config is joint; empty while it is simple.
        learners: Replicas that copy and do not vote; none of them is a voter.
    """

    number: int
    voters: tuple[Replica, ...]
    joining: tuple[Replica, ...] = ()
    learners: tuple[Replica, ...] = ()

    @property
    def is_joint(self) -> bool:
        """Whether two sets of voters decide together."""
        return bool(self.joining)

    @property
    def members(self) -> tuple[Replica, ...]:
        """All voters of both sets, each once, the old ones first."""
        if not self.joining:
            return self.voters
        return self.voters + tuple(one for one in self.joining if one not in self.voters)

    def is_quorum(self, replicas: Collection[Replica]) -> bool:
        """Whether these are a majority of the voters, and of those joining when it is joint.

        Replicas are counted, not nodes: one that lost its store is another replica on its node.
        """
        return _is_majority(self.voters, replicas) and (
            not self.joining or _is_majority(self.joining, replicas)
        )


def _is_majority(voters: tuple[Replica, ...], replicas: Collection[Replica]) -> bool:
    count = 0
    for one in voters:  # a loop: a sum over a generator takes three times as long
        if one in replicas:
            count += 1
    return 2 * count > len(voters)
