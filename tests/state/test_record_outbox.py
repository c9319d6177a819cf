"""Signals on their way, and which were taken: in order, once, and bounded."""

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from jido_state.dots import NOTHING_SEEN, Acting, Dot, VersionVector
from jido_state.outbox import (
    NO_RECEIPTS,
    NO_SIGNALS,
    OUTBOX_TTL_MS,
    Outbox,
    OutboxFull,
    Outgoing,
    Receipts,
    ReceiptsFull,
)
from jido_state.versions import Ballot
from tests.state.values import DOTS

B1, B2 = Ballot(0, 1, 1, 0), Ballot(0, 1, 2, 1)
APART = Acting(2, 1, 1)


def sent(outbox: Outbox, dot: Dot, *targets: str, now_ms: int = 0) -> Outbox:
    added = outbox.add(dot, [(target, b"s") for target in targets], now_ms)
    assert isinstance(added, Outbox)
    return added


def names(outbox: Outbox) -> list[tuple[Dot, int]]:
    return [signal.name for signal in outbox.signals]


def test_one_signal_is_on_its_way_to_each_target() -> None:
    """The first of each target is due; the next once that is delivered."""
    outbox = sent(sent(NO_SIGNALS, B1.version(1), "b", "c", "b"), B1.version(2), "c", "d")
    first = outbox.due()
    assert [(one.target, one.name) for one in first] == [
        ("b", (B1.version(1), 0)),
        ("c", (B1.version(1), 1)),
        ("d", (B1.version(2), 1)),
    ]
    rest = outbox.without(one.name for one in first)
    assert [one.name for one in rest.due()] == [(B1.version(1), 2), (B1.version(2), 0)]
    assert rest.without(one.name for one in rest.due()) == NO_SIGNALS


def test_a_replica_that_acts_delivers_its_own_signals() -> None:
    """What was sent with a quorum may be delivered on the other side: it waits."""
    outbox = sent(sent(NO_SIGNALS, B1.version(1), "b"), APART.dot(1), "b", "c")
    assert [one.name for one in outbox.due(APART)] == [(APART.dot(1), 0), (APART.dot(1), 1)]
    assert [one.name for one in outbox.due()] == [(B1.version(1), 0), (APART.dot(1), 1)]


def test_an_outbox_is_bounded_in_number_and_bytes() -> None:
    """Signals that do not fit are refused together, and nothing is added."""
    outbox = sent(NO_SIGNALS, B1.version(1), *["b"] * 1023)
    refused = outbox.add(B1.version(2), [("b", b""), ("c", b"")], 0)
    assert isinstance(refused, OutboxFull)
    assert "1023 of 1024" in refused.reason
    assert isinstance(outbox.add(B1.version(2), [("b", b"")], 0), Outbox)
    big = NO_SIGNALS.add(B1.version(1), [("b", b"x" * 131_072)], 0)
    assert isinstance(big, Outbox)
    more = big.add(B1.version(2), [("b", b"x")], 0)
    assert isinstance(more, OutboxFull)
    assert "1 bytes do not fit" in more.reason


def test_what_is_too_old_is_given_up_at_half_the_time() -> None:
    """A receiver forgets a stream no sooner than twice as late."""
    outbox = sent(sent(NO_SIGNALS, B1.version(1), "b", now_ms=0), B1.version(2), "b", now_ms=5)
    half = OUTBOX_TTL_MS // 2
    assert outbox.overdue(half) == []
    assert [one.name for one in outbox.overdue(half + 1)] == [(B1.version(1), 0)]
    assert len(outbox.overdue(20, ttl_ms=10)) == 2


def test_what_was_delivered_on_one_side_is_not_brought_back() -> None:
    """What one copy lacks is delivered if it has seen the turn, and new if it has not."""
    seen = NOTHING_SEEN.add(B1.version(2))
    base = sent(sent(NO_SIGNALS, B1.version(1), "b"), B1.version(2), "c")
    acted = sent(base, APART.dot(1), "d")
    delivered = base.without([(B1.version(1), 0)])
    joined = delivered.join(seen, acted, seen.add(APART.dot(1)))
    assert names(joined) == [(B1.version(2), 0), (APART.dot(1), 0)]
    # The acting side began from a turn that was never committed: its signal is still to be sent.
    orphan = sent(base, B1.version(3), "e")
    joined = delivered.join(seen.add(B2.version(1)), orphan, seen.add(B1.version(3)))
    assert names(joined) == [(B1.version(2), 0), (B1.version(3), 0)]


@st.composite
def copies(draw: st.DrawFn) -> tuple[Outbox, VersionVector]:
    """A copy as some history left it: what it holds, it has seen."""
    dots = draw(st.lists(DOTS, max_size=5, unique=True))
    seen, outbox = NOTHING_SEEN, NO_SIGNALS
    for dot in dots:
        seen = seen.add(dot)
        if draw(st.booleans()):
            outbox = sent(outbox, dot, "b")
    return outbox, seen


@given(copies(), copies(), copies())
def test_joining_copies_commutes_and_associates(
    one: tuple[Outbox, VersionVector],
    two: tuple[Outbox, VersionVector],
    three: tuple[Outbox, VersionVector],
) -> None:
    """In whatever order copies come together, the same signals are left."""

    def join(
        left: tuple[Outbox, VersionVector], right: tuple[Outbox, VersionVector]
    ) -> tuple[Outbox, VersionVector]:
        return left[0].join(left[1], right[0], right[1]), left[1].join(right[1])

    assert join(one, two) == join(two, one)
    assert join(join(one, two), three) == join(one, join(two, three))
    assert join(one, one) == one


def test_a_taken_signal_is_known_in_its_stream() -> None:
    """Up to the last one of its sender and actor; other senders and actors are other streams."""
    receipts = NO_RECEIPTS.add("a", B1.version(3), 1, now_ms=0)
    assert isinstance(receipts, Receipts)
    for dot, place in ((B1.version(3), 1), (B1.version(3), 0), (B1.version(2), 9)):
        assert receipts.has("a", dot, place)
    assert not receipts.has("a", B1.version(3), 2)
    assert not receipts.has("a", B1.version(4), 0)
    assert not receipts.has("b", B1.version(3), 1)
    assert not receipts.has("a", B2.version(1), 0)


def test_streams_are_bounded_and_remembered_for_their_time() -> None:
    """The 1025th is refused until one has been silent long enough."""
    receipts = NO_RECEIPTS
    for number in range(1024):
        added = receipts.add(f"a{number}", B1.version(1), 0, now_ms=number, ttl_ms=10_000)
        assert isinstance(added, Receipts)
        receipts = added
    refused = receipts.add("new", B1.version(1), 0, now_ms=10_000, ttl_ms=10_000)
    assert isinstance(refused, ReceiptsFull)
    assert isinstance(receipts.add("a0", B1.version(2), 0, now_ms=10_000), Receipts)
    later = receipts.add("new", B1.version(1), 0, now_ms=10_001, ttl_ms=10_000)
    assert isinstance(later, Receipts)
    assert not later.has("a0", B1.version(1), 0)
    assert later.has("a1", B1.version(1), 0)


def test_receipts_of_two_copies_are_joined() -> None:
    """Of each stream the later, counted as used now; through their data they are equal."""
    one = NO_RECEIPTS.add("a", B1.version(3), 1, now_ms=0)
    two = NO_RECEIPTS.add("a", B1.version(3), 4, now_ms=0)
    assert isinstance(one, Receipts)
    assert isinstance(two, Receipts)
    for joined in (one.join(two, now_ms=7), two.join(one, now_ms=7)):
        assert joined.has("a", B1.version(3), 4)
        assert next(iter(joined.last.values())).used_ms == 7
        assert Receipts.from_data(joined.to_data()) == joined


class Delivery(RuleBasedStateMachine):
    """Over several ballots and a link that loses and repeats, each is taken once, in order."""

    @initialize()
    def begin(self) -> None:
        self.outbox = NO_SIGNALS
        self.receipts = NO_RECEIPTS
        self.ballot, self.number = B1, 0
        self.made: list[tuple[Dot, int]] = []
        self.taken: list[tuple[Dot, int]] = []
        self.wire: list[Outgoing] = []

    @rule(count=st.integers(0, 3))
    def turn(self, count: int) -> None:
        self.number += 1
        dot = self.ballot.version(self.number)
        self.outbox = sent(self.outbox, dot, *["b"] * count)
        self.made += [(dot, place) for place in range(count)]

    @rule()
    def change_leader(self) -> None:
        self.ballot = self.ballot._replace(round=self.ballot.round + 1)
        self.number = 0

    @rule(is_lost=st.booleans())
    def send(self, is_lost: bool) -> None:
        if not is_lost:
            self.wire += self.outbox.due()

    @rule(data=st.data(), is_acked=st.booleans(), is_repeated=st.booleans())
    def receive(self, data: st.DataObject, is_acked: bool, is_repeated: bool) -> None:
        if not self.wire:
            return
        place = data.draw(st.integers(0, len(self.wire) - 1))
        signal = self.wire[place] if is_repeated else self.wire.pop(place)
        if not self.receipts.has("a", signal.dot, signal.place):
            receipts = self.receipts.add("a", signal.dot, signal.place, now_ms=0)
            assert isinstance(receipts, Receipts)
            self.receipts = receipts
            self.taken.append(signal.name)
        if is_acked:
            self.outbox = self.outbox.without([signal.name])

    @rule()
    def check(self) -> None:
        assert self.taken == self.made[: len(self.taken)]
        left = [name for name in self.made if name not in self.taken]
        assert set(left) <= set(names(self.outbox))
        assert Outbox.from_data(self.outbox.to_data()) == self.outbox


TestDelivery = Delivery.TestCase
