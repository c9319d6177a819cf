"""What detectors hand on to each other beside their probes, and how they compare what they know.

Every message takes some news and some advertisements along, within its size. What gossip has lost,
or brought before a node was known here, comes by comparison: a node shows a page of what it has to
another one, which sends what is newer at its end and asks for what is newer at the first one's.
*Source*: SWIM (2002), section 4.1 (piggybacking); memberlist's exchange of all state, in pages.
"""

from jido_placement.gossip import Spread, retransmit_limit
from jido_placement.membership import Opinion, Reachability
from jido_placement.opinions import Opinions
from jido_placement.probing import (
    Advertised,
    Advertisement,
    Carried,
    Gossip,
    Message,
    News,
    ReachabilityChanged,
    Sync,
    SyncEntry,
)
from jido_placement.timings import Timings

__all__ = ["Exchange"]

# What one entry of a `Sync` costs besides the name of its node.
ENTRY_BYTES = 40


class Exchange:
    """What one node has to say, and what it knows that others say of themselves.

    Attributes:
        advertisements: The newest of each node, this one included; of peers and itself only.
        spread: Those that are still being handed on.
        early_syncs: How many comparisons are to follow soon, since a peer is new.
    """

    def __init__(self, node: str, opinions: Opinions, timings: Timings) -> None:
        self._node = node
        self._opinions = opinions
        self._timings = timings
        self._version = opinions.incarnation
        self._cursor = ""
        self.advertisements: dict[str, Advertisement] = {}
        self.spread: Spread[Advertisement] = Spread()
        self.early_syncs = 0

    def advertise(self, payload: bytes) -> None:
        """Hands this to everybody; ValueError when it is too long."""
        most = self._timings.max_payload_bytes
        if len(payload) > most:
            raise ValueError(
                f"advertisement of {len(payload)} bytes: at most max_payload_bytes={most}"
            )
        self._version += 1
        self._keep(Advertisement(self._node, self._version, payload))

    def welcome(self) -> None:
        """A peer is new: all pages are to be compared soon."""
        self.early_syncs = 1 + len(self._opinions.peers) // self._page_entries

    def forget(self, node: str) -> None:
        """Hands nothing on of the node any more."""
        self.spread.drop(node)
        self.advertisements.pop(node, None)

    def take_in(
        self, sender: str, carried: Carried, now_ms: int
    ) -> list[ReachabilityChanged | Advertised]:
        """Takes in that the sender lives, and what it says of itself and of others."""
        changes = [self._opinions.hear(sender, carried.incarnation, now_ms)]
        changes += [self._opinions.merge(news, now_ms) for news in carried.news]
        found: list[ReachabilityChanged | Advertised] = [one for one in changes if one is not None]
        for advertisement in carried.advertisements:
            node = advertisement.node
            known = self.advertisements.get(node)
            if node in self._opinions.peers and (
                known is None or known.version < advertisement.version
            ):
                self._keep(advertisement)
                found.append(Advertised(advertisement))
        return found

    def carry(self, to: str) -> Carried:
        """What goes with a message to this node; first of all what it must contradict."""
        limit = retransmit_limit(self._timings.retransmit_factor, len(self._opinions.peers) + 1)
        half = self._timings.max_message_bytes // 2
        news = self._opinions.news.take(half, limit)
        accusation = self._opinions.news_of(to)
        if accusation is not None and accusation not in news:
            news = (accusation, *news)
        return Carried(self._opinions.incarnation, news, self.spread.take(half, limit))

    def next_page(self, to: str) -> Sync:
        """The next part of what is known, for comparison."""
        known = sorted([self._node, *self._opinions.peers])
        page = [node for node in known if node > self._cursor][: self._page_entries]
        self._cursor = page[-1] if page and page[-1] != known[-1] else ""
        entries = tuple(self._entry(node) for node in page)
        return Sync(entries, is_answer=False, carried=self.carry(to))

    def compare(
        self, sender: str, sync: Sync, now_ms: int
    ) -> tuple[list[ReachabilityChanged], list[Message]]:
        """Takes in what is newer there; the answers send what is newer here, and ask for more."""
        changes: list[ReachabilityChanged] = []
        asked: list[SyncEntry] = []
        newer: list[Advertisement] = []
        budget = self._timings.max_message_bytes // 2
        for entry in sync.entries:
            if entry.node != self._node and entry.node not in self._opinions.peers:
                continue
            mine = self._entry(entry.node)
            if entry.opinion > mine.opinion:
                change = self._opinions.merge(News(entry.node, entry.opinion, sender), now_ms)
                changes += [] if change is None else [change]
            if mine.version > entry.version:
                known = self.advertisements[entry.node]
                budget -= len(entry.node) + len(known.payload) + ENTRY_BYTES
                newer += [known] if budget >= 0 else []
            if mine.version < entry.version or mine.opinion > entry.opinion:
                asked.append(mine)
        answers: list[Message] = []
        if asked and not sync.is_answer:
            answers.append(Sync(tuple(asked), is_answer=True, carried=self.carry(sender)))
        if newer:
            answers.append(Gossip(Carried(self._opinions.incarnation, (), tuple(newer))))
        return changes, answers

    @property
    def _page_entries(self) -> int:
        return max(1, self._timings.max_message_bytes // (2 * (ENTRY_BYTES + len(self._node))))

    def _entry(self, node: str) -> SyncEntry:
        if node == self._node:
            opinion = Opinion(self._opinions.incarnation, Reachability.REACHABLE)
        else:
            opinion = self._opinions.peers[node].opinion
        known = self.advertisements.get(node)
        return SyncEntry(node, opinion, 0 if known is None else known.version)

    def _keep(self, advertisement: Advertisement) -> None:
        node = advertisement.node
        self.advertisements[node] = advertisement
        self.spread.put(node, advertisement, len(node) + len(advertisement.payload))
