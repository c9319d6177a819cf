"""What the failure detector can be tuned by, and three named settings.

Nothing here touches safety: a wrong suspicion costs time, a late one too. The values of `lan` are
those of hashicorp/memberlist where it has them.
"""

from dataclasses import dataclass
from typing import Self

__all__ = ["Timings"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Timings:
    """Spans and limits of one node's detector; nodes may differ, but gain nothing by it.

    A node that stops is suspected within 2 x `probe_interval_ms` in the mean, whatever the size of
    the cluster, and unreachable after a suspicion of `suspicion_factor` x max(1, log10(nodes)) x
    `probe_interval_ms` if others agree, `suspicion_max_factor` times that if nobody does.

    Attributes:
        probe_interval_ms: From one probe to the next, >= 2 x probe_timeout_ms. Shorter finds
            failures sooner; each node sends and answers one probe in this time.
        probe_timeout_ms: How long an answer may take before others are asked to try, > 0. At least
            the 99th percentile of a round trip.
        indirect_probes: How many others are asked. More forgive more broken links, for messages.
        suspicion_factor: See above, >= 1. Its excess over 2 is how many confirmations count.
        suspicion_max_factor: See above, >= 1. Higher forgives a node that is slow itself.
        gossip_interval_ms: From one handing on of news to the next; only while there is news.
        gossip_fanout: To how many nodes at a time.
        retransmit_factor: Each piece of news is sent this many times ceil(log10(nodes + 1)) by each
            node, then no more. Higher survives more loss.
        sync_interval_ms: From one comparison of all that is known with another node's to the next:
            what gossip has lost comes with it.
        reconnect_interval_ms: From one probe of an unreachable node to the next, so that the sides
            of a partition find each other again.
        max_awareness: How much a node may doubt itself: its spans grow up to 1 + this many times.
        max_gap_ms: The longest the own loop may be late before that counts as its own lag. At least
            twice the pause between ticks.
        max_message_bytes: About how large a message may get, >= 4 x max_payload_bytes or 1024.
        max_payload_bytes: The most a node may advertise of itself.
    """

    probe_interval_ms: int = 1_000
    probe_timeout_ms: int = 500
    indirect_probes: int = 3
    suspicion_factor: int = 4
    suspicion_max_factor: int = 6
    gossip_interval_ms: int = 200
    gossip_fanout: int = 3
    retransmit_factor: int = 4
    sync_interval_ms: int = 30_000
    reconnect_interval_ms: int = 5_000
    max_awareness: int = 7
    max_gap_ms: int = 200
    max_message_bytes: int = 4_096
    max_payload_bytes: int = 1_024

    def __post_init__(self) -> None:
        """Refuses values that contradict each other (ValueError)."""
        least = {"indirect_probes": 0, "max_awareness": 0}
        for name in self.__slots__:
            value = getattr(self, name)
            if value < least.get(name, 1):
                raise ValueError(f"{name}={value}: give at least {least.get(name, 1)}")
        if 2 * self.probe_timeout_ms > self.probe_interval_ms:
            raise ValueError(
                f"probe_timeout_ms={self.probe_timeout_ms}: it must be at most half of "
                f"probe_interval_ms ({self.probe_interval_ms}), or others that are asked to try "
                "cannot answer in time"
            )
        if self.max_message_bytes < max(1_024, 4 * self.max_payload_bytes):
            raise ValueError(
                f"max_message_bytes={self.max_message_bytes}: it must be at least 1024 and 4 x "
                f"max_payload_bytes ({4 * self.max_payload_bytes}), or payloads crowd news out"
            )

    @classmethod
    def lan(cls) -> Self:
        """Machines in one place: answers within half a second, even under load."""
        return cls()

    @classmethod
    def local(cls) -> Self:
        """Processes of one machine, and tests: answers within 200 ms, quick verdicts."""
        return cls(
            probe_interval_ms=500,
            probe_timeout_ms=200,
            gossip_interval_ms=100,
            suspicion_factor=3,
            sync_interval_ms=15_000,
            reconnect_interval_ms=2_000,
        )

    @classmethod
    def wan(cls) -> Self:
        """Machines in several places: answers within two seconds."""
        return cls(
            probe_interval_ms=5_000,
            probe_timeout_ms=2_000,
            suspicion_factor=6,
            gossip_interval_ms=500,
            gossip_fanout=4,
            sync_interval_ms=60_000,
            reconnect_interval_ms=15_000,
        )
