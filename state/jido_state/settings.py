"""What a group can be tuned by. Safety depends on none of these numbers."""

from dataclasses import dataclass

__all__ = ["GroupSettings"]


@dataclass(frozen=True, slots=True)
class GroupSettings:
    """Timings and limits of one group; equal on all its replicas, or elections get slower.

    Attributes:
        election_ms: Silence after which a follower campaigns, and time without acks of a quorum
            after which a leader stops. Shorter finds a dead leader sooner and mistakes a busy one
            for dead more often. At least 4 x heartbeat_ms.
        heartbeat_ms: Pause between a leader's heartbeats. Shorter costs messages.
        jitter_ms: Random part added to election_ms, so that candidates do not collide for ever.
        rank_ms: Added once for each place in the order of preference, of those not known to be
            gone: the first replica usually campaigns alone. At least one round trip.
        resend_ms: Pause before an unanswered request is sent again. At least two round trips.
        seal_ms: How long a leader that hands over refuses turns before it goes on.
        dedupe_window_ms: How long op ids are remembered, and tombstones kept, in leading time.
        max_gap_ms: The longest the loop may be away before that counts as its own lag rather than
            as the silence of others. At least twice the pause between ticks.
        max_settling: Keys settled at a time in the background. More recovers faster and delays
            turns more.
        max_trailing: Committed writes remembered for replicas that have not acked them; beyond
            it the comparison of trees finds them.
        leaves: Leaves of the Merkle tree. More narrows a difference down further; each costs 8
            bytes in the message that compares trees.
        list_rows: Rows of one page of a listing or copy, at least one leaf.
    """

    election_ms: int = 2500
    heartbeat_ms: int = 300
    jitter_ms: int = 300
    rank_ms: int = 300
    resend_ms: int = 250
    seal_ms: int = 250
    dedupe_window_ms: int = 900_000
    max_gap_ms: int = 200
    max_settling: int = 64
    max_trailing: int = 4096
    leaves: int = 256
    list_rows: int = 256

    def __post_init__(self) -> None:
        if self.election_ms < 4 * self.heartbeat_ms:
            raise ValueError(
                f"election_ms={self.election_ms}: it must be >= 4 x heartbeat_ms "
                f"({4 * self.heartbeat_ms}), or a lost message deposes a leader"
            )
