"""Ballots and versions: the two orders that replication rests on.

A ballot names one incarnation of one leader. A version names one content of one register: the
ballot it was written under and a number that the leader counts per shard. Both are ordered
lexicographically, which plain tuples do at the speed of C. A version is what users see as a fence.
*Source*: Lamport, Paxos made simple (ballots); CASPaxos (arXiv 1802.07000), section 2.2.
"""

from typing import Final, NamedTuple

__all__ = ["NO_BALLOT", "NO_VERSION", "Ballot", "Version"]


class Ballot(NamedTuple):
    """What a leader was elected under. Used by one incarnation only.

    Attributes:
        recovery: How often an operator forced recovery, 0 to 2**16 - 1.
        config: Number of the config it was elected in, 0 to 2**32 - 1.
        round: Above every round its candidate had seen, 0 to 2**32 - 1.
        node: Index of the candidate, 0 to 2**16 - 1.
    """

    recovery: int
    config: int
    round: int
    node: int

    def version(self, number: int) -> "Version":
        """The version with this number under the ballot."""
        return Version(*self, number)


class Version(NamedTuple):
    """A ballot's fields and the number of the turn that wrote; never names two contents.

    Attributes:
        recovery: As in the ballot.
        config: As in the ballot.
        round: As in the ballot.
        node: As in the ballot.
        number: Counted by the leader per shard and ballot, from 1; 0 to 2**64 - 1.
    """

    recovery: int
    config: int
    round: int
    node: int
    number: int

    @property
    def ballot(self) -> Ballot:
        """What it was written under."""
        return Ballot(self.recovery, self.config, self.round, self.node)

    @property
    def token(self) -> int:
        """The fence as one integer below 2**192, in the same order as the versions.

        From the highest: recovery 16 bits, config 32, round 32, node 16, number 64, spare 32.
        """
        high = (self.recovery << 32 | self.config) << 32 | self.round
        return ((high << 16 | self.node) << 64 | self.number) << 32


NO_BALLOT: Final = Ballot(0, 0, 0, 0)
NO_VERSION: Final = Version(0, 0, 0, 0, 0)
