"""Which nodes answer: SWIM with Lifeguard's self-doubt, for one node.

Theory. In each interval a node probes one peer, in an order that takes everybody's turn before
anybody's second one. If no answer comes in time it asks a few others to try, since the fault may
lie on its own path. If theirs come to nothing either, the peer is suspected, and that is gossiped;
the suspicion ends in *unreachable* unless the peer contradicts. Work and messages of a node do not
grow with the number of nodes; the time to find a failure does not either, except for the logarithm
in the length of a suspicion.
*Source*: Das, Gupta, Motivala, SWIM: Scalable Weakly-consistent Infection-style Process Group
Membership Protocol (2002); Lifeguard (2018); the intervals between gossip, and the comparison of
all that is known, are hashicorp/memberlist's.
*Departures*: peers are named by the driver, not found by gossip (`opinions.py`). Evidence that
needs no waiting, such as a refused connection to where the process was, is taken beside suspicion
(`certain`). Unreachable nodes are probed on, now and then, so that a healed partition is noticed.
Time in which the own loop did not run counts as nobody's silence.

The driver's duties:

1. Call `tick` at `next_at_ms`, or soon after; one call at a time, time never going back.
2. Perform the effects; messages may be lost, not changed.
3. Start with an incarnation above all earlier ones of this node (`first_incarnation(boot)`).
4. Keep `watch` and `forget` in step with the committed member list.
"""

from typing import NamedTuple

from jido_placement.exchange import Exchange
from jido_placement.membership import Opinion, Reachability
from jido_placement.opinions import Opinions
from jido_placement.probing import (
    Ack,
    Advertisement,
    Effect,
    Gossip,
    Message,
    Nack,
    News,
    Probe,
    ProbeFor,
    Send,
    Sync,
)
from jido_placement.stream import Stream
from jido_placement.timings import Timings

__all__ = ["Detector", "DetectorStatistics"]

# A helper declines after this share of the time in which the asking node waits, so that the word is
# there before the verdict (Lifeguard's implementation has the same 80 %).
NACK_AFTER = 0.8
CONTACT_INTERVALS = 3  # of probes, without an answer
MAX_NODE_CHARS = 128


class DetectorStatistics(NamedTuple):
    """What a detector has done and believes; counts are since it started.

    Attributes:
        reachable: Peers that are believed to be so, now.
        suspect: As above.
        unreachable: As above.
        awareness: The doubt in itself, 0 is healthy, now.
        incarnation: The own one, now.
        probes: Direct probes, without those for others.
        failed_probes: Those that nobody answered in time.
        refutations: How often the node contradicted what was said of it.
        messages: Sent, of all kinds.
        lag_ms: Time in which the own loop did not run, as far as it was noticed.
        news: Pieces still being handed on, now.
    """

    reachable: int
    suspect: int
    unreachable: int
    awareness: int
    incarnation: int
    probes: int
    failed_probes: int
    refutations: int
    messages: int
    lag_ms: int
    news: int


class _Round:
    """A probe in flight."""

    __slots__ = ("asked", "ends_at_ms", "helpers_at_ms", "nacks", "number", "target")

    def __init__(self, number: int, target: str, helpers_at_ms: int, ends_at_ms: int) -> None:
        self.number = number
        self.target = target
        self.helpers_at_ms: int | None = helpers_at_ms
        self.ends_at_ms = ends_at_ms
        self.asked = 0
        self.nacks = 0


class _Relay:
    """A probe made for another node. Kept after the nack: an answer may still be in time."""

    __slots__ = ("asker", "nack_at_ms", "number", "target")

    def __init__(self, asker: str, number: int, target: str, nack_at_ms: int) -> None:
        self.asker = asker
        self.number = number
        self.target = target
        self.nack_at_ms: int | None = nack_at_ms


class Detector:
    """The failure detector of one node. Not thread-safe: only its driver calls it."""

    def __init__(
        self, node: str, *, incarnation: int, timings: Timings, seed: int, now_ms: int
    ) -> None:
        """Knows nobody yet; `incarnation` > 0, `seed` decides the order of probes."""
        if incarnation < 1:
            raise ValueError(f"incarnation={incarnation}: give first_incarnation(boot), boot >= 1")
        _check_node(node)
        self.node = node
        self._timings = timings
        self._chance = Stream(seed)
        self._opinions = Opinions(node, incarnation, timings)
        self._exchange = Exchange(node, self._opinions, timings)
        self._rotation: list[str] = []
        self._turn = 0
        self._number = 0
        self._rounds: dict[int, _Round] = {}  # by number
        self._relays: dict[int, _Relay] = {}
        self._is_in_contact = False
        self._awake_at_ms = now_ms
        self._probe_at_ms = now_ms
        self._gossip_at_ms = now_ms
        self._sync_at_ms = now_ms + timings.probe_interval_ms
        self._reconnect_at_ms = now_ms + timings.reconnect_interval_ms
        self._probes = self._failed = self._messages = self._lag_ms = 0

    # What the driver tells.

    def watch(self, node: str) -> None:
        """Has the node watched from now on, as one that was not heard of; no effect when it is."""
        _check_node(node)
        peers = self._opinions.peers
        if node == self.node or node in peers:
            return
        self._opinions.add(node)
        self._rotation.insert(self._chance.below(len(self._rotation) + 1), node)
        # What gossip brought before the node was known here has to be fetched.
        self._exchange.welcome()

    def forget(self, node: str) -> None:
        """Stops watching the node, which the committed member list has no more; never fails."""
        if node not in self._opinions.peers:
            return
        self._opinions.forget(node)
        self._rotation.remove(node)
        self._exchange.forget(node)
        for number in [one.number for one in self._rounds.values() if one.target == node]:
            del self._rounds[number]

    def certain(self, node: str, incarnation: int, now_ms: int) -> tuple[Effect, ...]:
        """Takes in proof that this incarnation of the node runs no more; older proof is ignored."""
        self._notice_lag(now_ms)
        accusation = News(node, Opinion(incarnation, Reachability.UNREACHABLE), self.node)
        change = self._opinions.merge(accusation, now_ms) if node != self.node else None
        return () if change is None else (change,)

    def advertise(self, payload: bytes) -> None:
        """Hands this to everybody, in place of what the node advertised before.

        Raises:
            ValueError: it is longer than `max_payload_bytes`; the earlier one stays.
        """
        self._exchange.advertise(payload)

    def lagged(self, lag_ms: int) -> None:
        """Takes in that the own loop did not run for so long: nobody else was silent in it.

        What `tick` and `receive` notice themselves need not be told.
        """
        self._lag_ms += lag_ms
        self._opinions.postpone(lag_ms)
        self._opinions.awareness.add(1)
        for current in self._rounds.values():
            current.ends_at_ms += lag_ms
            if current.helpers_at_ms is not None:
                current.helpers_at_ms += lag_ms
        for relay in self._relays.values():
            if relay.nack_at_ms is not None:
                relay.nack_at_ms += lag_ms

    def receive(self, sender: str, message: Message, now_ms: int) -> tuple[Effect, ...]:
        """What follows from a message of another node's detector."""
        self._notice_lag(now_ms)
        effects: list[Effect] = [*self._exchange.take_in(sender, message.carried, now_ms)]
        match message:
            case Probe(number, _):
                carried = self._exchange.carry(sender)
                ack = Ack(number, self.node, self._opinions.incarnation, carried)
                self._send(effects, sender, ack)
            case ProbeFor(number, target, _):
                self._probe_for(sender, number, target, now_ms, effects)
            case Ack():
                self._acked(message, now_ms, effects)
            case Nack(number, _):
                if number in self._rounds:
                    self._rounds[number].nacks += 1
            case Sync():
                changes, answers = self._exchange.compare(sender, message, now_ms)
                effects += changes
                for answer in answers:
                    self._send(effects, sender, answer)
            case Gossip():
                pass
        return tuple(effects)

    def tick(self, now_ms: int) -> tuple[Effect, ...]:
        """What is due by now: verdicts first, then probes, then what is handed on."""
        self._notice_lag(now_ms)
        effects: list[Effect] = [*self._opinions.expire(now_ms)]
        for relay in self._relays.values():
            if relay.nack_at_ms is not None and relay.nack_at_ms <= now_ms:
                relay.nack_at_ms = None
                nack = Nack(relay.number, self._exchange.carry(relay.asker))
                self._send(effects, relay.asker, nack)
        self._advance_rounds(now_ms, effects)
        if now_ms >= self._gossip_at_ms and self._has_gossip:
            self._gossip_at_ms = now_ms + self._timings.gossip_interval_ms
            for target in self._some(self._timings.gossip_fanout):
                self._send(effects, target, Gossip(self._exchange.carry(target)))
        if now_ms >= self._reconnect_at_ms:
            self._reconnect_at_ms = now_ms + self._timings.reconnect_interval_ms
            self._reconnect(effects)
        if now_ms >= self._sync_at_ms:
            self._show_a_page(now_ms, effects)
        return tuple(effects)

    # What the driver asks. Takes no time and changes nothing.

    @property
    def next_at_ms(self) -> int:
        """When `tick` has something to do, unless a message comes before."""
        due = [self._probe_at_ms, self._sync_at_ms, self._reconnect_at_ms]
        for current in self._rounds.values():
            helpers_at_ms = current.helpers_at_ms
            due.append(current.ends_at_ms if helpers_at_ms is None else helpers_at_ms)
        if self._has_gossip:
            due.append(self._gossip_at_ms)
        if self._opinions.next_end_ms is not None:
            due.append(self._opinions.next_end_ms)
        nacks = (relay.nack_at_ms for relay in self._relays.values())
        due += [nack_at_ms for nack_at_ms in nacks if nack_at_ms is not None]
        return min(due)

    def opinion_of(self, node: str) -> Opinion:
        """What is believed of the node, this one included; KeyError if it is not watched."""
        if node == self.node:
            return Opinion(self._opinions.incarnation, Reachability.REACHABLE)
        return self._opinions.peers[node].opinion

    def contacts(self, now_ms: int) -> tuple[str, ...]:
        """The nodes with which there is contact both ways, this one included; sorted.

        Those that were heard of, are neither unreachable nor under an old suspicion, and have
        answered a probe since three intervals ago, unless none was sent before that; nobody else as
        long as no probe of this node has ever been answered. How long a suspicion lasts grows
        with this node's doubt in itself, how soon it stops counting on the other node does not: who
        doubts itself shall be slow to accuse, not slow to pause.
        """
        peers = self._opinions.peers.items() if self._is_in_contact else ()
        patience_ms = CONTACT_INTERVALS * self._timings.probe_interval_ms
        found = [node for node, peer in peers if peer.is_in_contact(now_ms, patience_ms)]
        return tuple(sorted([self.node, *found]))

    def advertisement_of(self, node: str) -> Advertisement | None:
        """What the node advertised last, as far as it has come here."""
        return self._exchange.advertisements.get(node)

    def statistics(self) -> DetectorStatistics:
        """See `DetectorStatistics`."""
        opinions = self._opinions
        return DetectorStatistics(
            reachable=opinions.count(Reachability.REACHABLE),
            suspect=opinions.count(Reachability.SUSPECT),
            unreachable=opinions.count(Reachability.UNREACHABLE),
            awareness=opinions.awareness.score,
            incarnation=opinions.incarnation,
            probes=self._probes,
            failed_probes=self._failed,
            refutations=opinions.refutations,
            messages=self._messages,
            lag_ms=self._lag_ms,
            news=len(opinions.news),
        )

    def check(self) -> None:
        """Asserts what must hold between any two calls."""
        self._opinions.check()
        assert sorted(self._rotation) == sorted(self._opinions.peers)
        assert self.node not in self._opinions.peers
        assert self._exchange.advertisements.keys() <= self._opinions.peers.keys() | {self.node}
        targets = [one.target for one in self._rounds.values()]
        assert len(set(targets)) == len(targets), "a node is probed twice at once"
        assert set(targets) <= self._opinions.peers.keys()

    # Rounds of probing.

    def _advance_rounds(self, now_ms: int, effects: list[Effect]) -> None:
        """A round begins at each interval: doubt makes rounds longer, and then some are under way.

        One after the other they would be too slow to find out that most nodes are out of contact.
        """
        for current in list(self._rounds.values()):
            if current.ends_at_ms <= now_ms:
                del self._rounds[current.number]
                self._give_up(current, now_ms, effects)
            elif current.helpers_at_ms is not None and current.helpers_at_ms <= now_ms:
                current.helpers_at_ms = None
                self._ask_others(current, effects)
        if now_ms >= self._probe_at_ms:
            target = self._next_target()
            awareness, timings = self._opinions.awareness, self._timings
            ends_at_ms = now_ms + awareness.stretch(timings.probe_interval_ms)
            self._probe_at_ms = now_ms + timings.probe_interval_ms
            if target is not None:
                self._number += 1
                helpers_at_ms = now_ms + awareness.stretch(timings.probe_timeout_ms)
                self._rounds[self._number] = _Round(self._number, target, helpers_at_ms, ends_at_ms)
                self._probes += 1
                self._opinions.ask(target, now_ms)
                self._send(effects, target, Probe(self._number, self._exchange.carry(target)))

    def _next_target(self) -> str | None:
        """The next peer in turn that is not unreachable, nor being probed.

        The order changes with each full turn.
        """
        peers = self._opinions.peers
        probed = {one.target for one in self._rounds.values()}
        for _ in range(2 * len(self._rotation)):
            if self._turn >= len(self._rotation):
                self._turn = 0
                self._chance.shuffle(self._rotation)
            node = self._rotation[self._turn]
            self._turn += 1
            is_probed = node in probed
            if peers[node].opinion.reachability is not Reachability.UNREACHABLE and not is_probed:
                return node
        return None

    def _ask_others(self, current: _Round, effects: list[Effect]) -> None:
        for helper in self._some(self._timings.indirect_probes, besides=current.target):
            current.asked += 1
            carried = self._exchange.carry(helper)
            self._send(effects, helper, ProbeFor(current.number, current.target, carried))

    def _give_up(self, current: _Round, now_ms: int, effects: list[Effect]) -> None:
        """Suspects the target; doubts this node the more, the fewer helpers were heard of."""
        self._failed += 1
        self._opinions.awareness.add(max(0, current.asked - current.nacks) if current.asked else 1)
        change = self._opinions.suspect(current.target, now_ms)
        if change is not None:
            effects.append(change)

    def _acked(self, ack: Ack, now_ms: int, effects: list[Effect]) -> None:
        self._opinions.answered(ack.node)
        change = self._opinions.hear(ack.node, ack.incarnation, now_ms)
        if change is not None:
            effects.append(change)
        relay = self._relays.get(ack.number)
        if relay is not None and relay.target == ack.node:
            del self._relays[ack.number]
            passed = Ack(relay.number, ack.node, ack.incarnation, self._exchange.carry(relay.asker))
            self._send(effects, relay.asker, passed)
            return
        self._is_in_contact = self._is_in_contact or ack.node in self._opinions.peers
        if self._rounds.pop(ack.number, None) is not None:
            self._opinions.awareness.add(-1)

    def _probe_for(
        self, asker: str, number: int, target: str, now_ms: int, effects: list[Effect]
    ) -> None:
        # One request of a node at a time counts: so the peers bound how many are kept.
        earlier = [mine for mine, relay in self._relays.items() if relay.asker == asker]
        for mine in earlier:
            del self._relays[mine]
        if asker not in self._opinions.peers or target not in self._opinions.peers:
            self._send(effects, asker, Nack(number, self._exchange.carry(asker)))
            return
        self._number += 1
        nack_at_ms = now_ms + int(self._timings.probe_timeout_ms * NACK_AFTER)
        self._relays[self._number] = _Relay(asker, number, target, nack_at_ms)
        self._send(effects, target, Probe(self._number, self._exchange.carry(target)))

    def _reconnect(self, effects: list[Effect]) -> None:
        lost = [
            node
            for node in self._rotation
            if self._opinions.peers[node].opinion.reachability is Reachability.UNREACHABLE
        ]
        if lost:
            target = lost[self._chance.below(len(lost))]
            # No round waits for this number: the answer counts by the incarnation it brings.
            self._number += 1
            self._send(effects, target, Probe(self._number, self._exchange.carry(target)))

    # Small things.

    @property
    def _has_gossip(self) -> bool:
        return len(self._opinions.news) > 0 or len(self._exchange.spread) > 0

    def _show_a_page(self, now_ms: int, effects: list[Effect]) -> None:
        pause_ms = self._timings.sync_interval_ms
        if self._exchange.early_syncs > 0:
            self._exchange.early_syncs -= 1
            pause_ms = self._timings.probe_interval_ms
        self._sync_at_ms = now_ms + pause_ms
        for target in self._some(1):
            self._send(effects, target, self._exchange.next_page(target))

    def _some(self, count: int, *, besides: str | None = None) -> list[str]:
        """Up to so many different peers at random that are not unreachable."""
        found: list[str] = []
        peers, rotation = self._opinions.peers, self._rotation
        # In a small cluster every peer may be needed, in a large one a few draws find enough.
        if len(rotation) <= 4 * count:
            able = list(rotation)
            self._chance.shuffle(able)
        else:
            draws = range(4 * count)
            able = list(dict.fromkeys(rotation[self._chance.below(len(rotation))] for _ in draws))
        for node in able:
            if len(found) == count:
                break
            if node != besides and (
                peers[node].opinion.reachability is not Reachability.UNREACHABLE
            ):
                found.append(node)
        return found

    def _send(self, effects: list[Effect], to: str, message: Message) -> None:
        self._messages += 1
        effects.append(Send(to, message))

    def _notice_lag(self, now_ms: int) -> None:
        if now_ms - self._awake_at_ms > self._timings.max_gap_ms:
            late_ms = now_ms - max(self.next_at_ms, self._awake_at_ms)
            if late_ms > self._timings.max_gap_ms:
                self.lagged(late_ms)
        self._awake_at_ms = now_ms


def _check_node(node: str) -> None:
    if not 0 < len(node) <= MAX_NODE_CHARS:
        raise ValueError(f"node id {node!r}: give 1 to {MAX_NODE_CHARS} characters")
