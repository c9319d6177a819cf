"""What a node believes of each of its peers, of itself, and why.

Theory. News of a node is merged by `membership.newer_opinion`; what is new is handed on. A
suspicion has an end, at which its node counts as unreachable. Only the suspected node itself can
contradict: it raises its incarnation above the one that is suspected, and that news outdoes the
suspicion everywhere.
*Source*: SWIM (2002), section 4.2; Lifeguard (2018), section IV.
*Departures*: nobody is added by gossip. The peers are those the driver names, from the committed
member list, so that late news cannot bring back a node that was removed. An unreachable node stays
a peer until it is removed from that list.
"""

import math

from jido_placement.awareness import Awareness
from jido_placement.gossip import Spread
from jido_placement.membership import Opinion, Reachability, newer_opinion
from jido_placement.probing import News, ReachabilityChanged
from jido_placement.suspicion import Suspicion
from jido_placement.timings import Timings

__all__ = ["Opinions", "Peer"]

REACHABLE, SUSPECT, UNREACHABLE = Reachability


class Peer:
    """What is believed of one other node.

    Attributes:
        opinion: What stands.
        suspicion: The running one if the opinion is SUSPECT, else None.
        is_heard: Whether it was ever known to live: it answered, or others said so.
        silent_since_ms: When the first probe left that it has not answered; None after an answer,
            and when it has contradicted a suspicion.
    """

    __slots__ = ("is_heard", "opinion", "silent_since_ms", "suspicion")

    def __init__(self) -> None:
        self.opinion = Opinion(0, REACHABLE)
        self.suspicion: Suspicion | None = None
        self.is_heard = False
        self.silent_since_ms: int | None = None

    def is_in_contact(self, now_ms: int, patience_ms: int) -> bool:
        """Whether the node was heard of, and nothing but a young suspicion is against it.

        Nor may a probe have been without an answer for this patience, although it is not suspected
        yet, or others have heard of it.
        """
        if self.silent_since_ms is not None and now_ms >= self.silent_since_ms + patience_ms:
            return False
        if self.suspicion is not None:
            return self.is_heard and not self.suspicion.is_old(now_ms)
        return self.is_heard and self.opinion.reachability is REACHABLE


class Opinions:
    """The peers of one node and its own incarnation.

    Attributes:
        incarnation: The own one; rises with each contradiction.
        peers: By node.
        news: What is to be handed on.
        awareness: The doubt in itself.
        refutations: How often the node has contradicted.
    """

    def __init__(self, node: str, incarnation: int, timings: Timings) -> None:
        self._node = node
        self._timings = timings
        self.incarnation = incarnation
        self.peers: dict[str, Peer] = {}
        self.news: Spread[News] = Spread()
        self.awareness = Awareness(timings.max_awareness)
        self.refutations = 0
        self._suspects: dict[str, Suspicion] = {}

    def add(self, node: str) -> None:
        """Has an opinion of the node from now on: as of one that was not heard of."""
        self.peers[node] = Peer()

    def hear(self, node: str, incarnation: int, now_ms: int) -> ReachabilityChanged | None:
        """Takes in that this incarnation of the node said something itself."""
        return self.merge(News(node, Opinion(incarnation, REACHABLE), node), now_ms)

    def ask(self, node: str, now_ms: int) -> None:
        """Takes in that a probe leaves for the node."""
        peer = self.peers[node]
        if peer.silent_since_ms is None:
            peer.silent_since_ms = now_ms

    def answered(self, node: str) -> None:
        """Takes in that the node has answered a probe, itself or through another one."""
        peer = self.peers.get(node)
        if peer is not None:
            peer.silent_since_ms = None

    def suspect(self, node: str, now_ms: int) -> ReachabilityChanged | None:
        """Takes in that the node did not answer this one, nor those that were asked to try."""
        incarnation = self.peers[node].opinion.incarnation
        return self.merge(News(node, Opinion(incarnation, SUSPECT), self._node), now_ms)

    def merge(self, news: News, now_ms: int) -> ReachabilityChanged | None:
        """Takes the news in; returns the change if the opinion of that node has one."""
        if news.node == self._node:
            self._answer(news.opinion)
            return None
        peer = self.peers.get(news.node)
        if peer is None:
            return None
        before = peer.opinion
        if news.opinion == before:
            if news.opinion.reachability is REACHABLE:
                peer.is_heard = True
            elif peer.suspicion is not None and peer.suspicion.confirm(news.accuser):
                self._hand_on(news)
            return None
        peer.opinion = newer_opinion(before, news.opinion)
        if peer.opinion == before:
            return None
        peer.is_heard = peer.is_heard or news.opinion.incarnation > 0
        if peer.opinion.reachability is REACHABLE:
            peer.silent_since_ms = None  # it contradicts, so that both ways are open to somebody
        self._replace_suspicion(news, peer, now_ms)
        self._hand_on(news)
        if peer.opinion.reachability is before.reachability:
            return None
        return ReachabilityChanged(
            news.node,
            peer.opinion.incarnation,
            before.reachability,
            peer.opinion.reachability,
            news.accuser,
        )

    def expire(self, now_ms: int) -> list[ReachabilityChanged]:
        """The nodes whose suspicion has ended count as unreachable from now on; in order."""
        ended = [node for node, one in self._suspects.items() if one.ends_at_ms <= now_ms]
        changes = []
        for node in sorted(ended):
            opinion = Opinion(self.peers[node].opinion.incarnation, UNREACHABLE)
            change = self.merge(News(node, opinion, self._node), now_ms)
            if change is not None:
                changes.append(change)
        return changes

    def postpone(self, lag_ms: int) -> None:
        """Takes time in which the own loop did not run out of all running suspicions."""
        for suspicion in self._suspects.values():
            suspicion.since_ms += lag_ms
        for peer in self.peers.values():
            if peer.silent_since_ms is not None:
                peer.silent_since_ms += lag_ms

    def forget(self, node: str) -> None:
        """Nothing is believed of the node any more, nor handed on."""
        del self.peers[node]
        self._suspects.pop(node, None)
        self.news.drop(node)

    def news_of(self, node: str) -> News | None:
        """What the node itself must hear to contradict it; None when nothing is said against it."""
        peer = self.peers.get(node)
        if peer is None or peer.opinion.reachability is REACHABLE:
            return None
        accusers = peer.suspicion.accusers if peer.suspicion is not None else [self._node]
        return News(node, peer.opinion, accusers[0])

    @property
    def next_end_ms(self) -> int | None:
        """When the next suspicion ends; None without any."""
        return min((one.ends_at_ms for one in self._suspects.values()), default=None)

    def count(self, reachability: Reachability) -> int:
        """How many peers are believed to be so."""
        return sum(peer.opinion.reachability is reachability for peer in self.peers.values())

    def check(self) -> None:
        """Asserts that suspicions run exactly for the peers that are suspect."""
        for node, peer in self.peers.items():
            assert (peer.suspicion is not None) == (peer.opinion.reachability is SUSPECT), node
            assert self._suspects.get(node) is peer.suspicion, node
        assert self._suspects.keys() <= self.peers.keys()

    def _answer(self, opinion: Opinion) -> None:
        """Contradicts what is said against this node."""
        if opinion.reachability is not REACHABLE and opinion.incarnation >= self.incarnation:
            self.incarnation = opinion.incarnation + 1
            self.refutations += 1
            # Somebody waited in vain for this node: part of the cause may be here.
            self.awareness.add(1)
            self._hand_on(News(self._node, Opinion(self.incarnation, REACHABLE), self._node))
        elif opinion.incarnation > self.incarnation:
            # An earlier life of this node went further than its driver knew.
            self.incarnation = opinion.incarnation

    def _replace_suspicion(self, news: News, peer: Peer, now_ms: int) -> None:
        peer.suspicion = None
        self._suspects.pop(news.node, None)
        if news.opinion.reachability is SUSPECT:
            peers, factor = len(self.peers), self._timings.suspicion_factor
            span = factor * max(1.0, math.log10(peers + 1)) * self._timings.probe_interval_ms
            peer.suspicion = self._suspects[news.node] = Suspicion(
                [news.accuser],
                now_ms,
                min_ms=int(span),
                max_ms=int(span * self._timings.suspicion_max_factor),
                # Two nodes are neither accuser nor accused here: this one and the suspect.
                expected=max(0, min(factor - 2, peers - 1)),
            )

    def _hand_on(self, news: News) -> None:
        self.news.put(news.node, news, len(news.node) + len(news.accuser))
