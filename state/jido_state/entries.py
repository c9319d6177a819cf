"""The divergence entries that a replica holds beside its registers until a leader covers them.

Theory. Entries never touch a register. Whoever holds some keeps them, whatever their age, until the
shard's leader says that a committed record has seen them: a copy that counted in an answer must not
be given up on any other evidence. While no leader is in contact, holders show each other what they
hold, so that a later one of them goes on from there; once there is one, it is offered everything
again and again until it covers it. All of these messages may be lost, late, repeated and reordered:
sets of entries are joined, and what is covered stays so.

An acting period has a number that was durable before the first entry under it, so that no process
of this replica, whatever it lost, ever makes two deeds under one dot.
*Source*: section 1.12 and findings 18, 19 and 21 of the replication protocol.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, NamedTuple

from jido_state.divergence import NO_SIBLINGS, Siblings
from jido_state.dots import VersionVector
from jido_state.versions import Ballot, Version

__all__ = [
    "MESSAGES",
    "AskEntries",
    "Cover",
    "Entries",
    "NoEntries",
    "Offer",
    "PersistEntries",
    "Put",
    "PutAck",
    "SendEntries",
]

_PAGE: Final = 16  # keys sent at a time: a record may have 256 KiB
_RNO_SHIFT: Final = 16  # acting periods of one assignment: each lasts for a split


class Put(NamedTuple):
    """Hold these entries as well."""

    number: int
    key: str
    siblings: Siblings


class PutAck(NamedTuple):
    """They are held, durably."""

    number: int
    key: str


class Offer(NamedTuple):
    """To the leader: merge these; they are held here until you cover them."""

    key: str
    siblings: Siblings


class Cover(NamedTuple):
    """A committed record of the key has seen all this: entries of it may go."""

    key: str
    merged: VersionVector


class AskEntries(NamedTuple):
    """From a leader: do you hold any entries, and these keys in these versions or newer?

    Attributes:
        ballot: The leader's.
        number: Of the round of questions.
        rows: Keys and versions.
        epoch: Recovery and epoch of the record it goes by. Who goes by an older one may yet take
            entries from members that this leader does not ask, and does not answer.
    """

    ballot: Ballot
    number: int
    rows: tuple[tuple[str, Version], ...]
    epoch: tuple[int, int]


class NoEntries(NamedTuple):
    """It holds no entry of the shard, and as a voter it holds what it was asked for."""

    ballot: Ballot
    number: int


MESSAGES: Final = frozenset({Put, PutAck, Offer, Cover, AskEntries, NoEntries})
"""The messages that are for `Service.receive` and not for the group."""

Message = Put | PutAck | Offer | Cover | AskEntries | NoEntries


class SendEntries(NamedTuple):
    """Send this to the replica on that node: it is for `Service.receive`, not for its group.

    As with `Send`, it may be lost, late, repeated or out of order.
    """

    to: int
    message: Message


class PersistEntries(NamedTuple):
    """Make this durable, whole and after everything asked before; then call `Service.persisted`.

    Attributes:
        ticket: Names it in the call of `persisted`; rises by one. Not a ticket of the group's.
        entries: All entries of a key, in place of those before; None deletes them.
        period: The number of the acting period, beside them; None leaves it.
    """

    ticket: int
    entries: Mapping[str, Siblings | None]
    period: int | None = None


class _Copies:
    """Who else holds what is held of a key."""

    __slots__ = ("acked", "number", "offered_ms", "sent_ms")

    def __init__(self, number: int, now_ms: int) -> None:
        self.number = number
        self.acked: set[int] = set()
        self.sent_ms = now_ms
        self.offered_ms: int | None = None


class Entries:
    """What one replica holds, and who else does.

    Args:
        emit: Takes effects.
        siblings: What is durable, by key.
        period: The number of the last acting period that is durable.
        resend_ms: Pause before what is not acknowledged is sent again.
        max_keys: Of how many agents entries are held: beyond it copies are refused.
        copied: Told key, number and node when another replica holds what `put` gave a number.

    Attributes:
        held: By key what is held, durable or on its way there.
        durable: By key what is durable.
        now_ms: The time of the current step, on the node's own monotonic clock.
    """

    def __init__(
        self,
        emit: Callable[[Any], None],
        siblings: Mapping[str, Siblings],
        period: int,
        *,
        resend_ms: int,
        max_keys: int,
        copied: Callable[[str, int, int], None],
    ) -> None:
        self._emit = emit
        self._resend_ms = resend_ms
        self._max_keys = max_keys
        self._copied = copied
        self._period = period
        self.held = dict(siblings)
        self.durable = dict(siblings)
        self.now_ms = 0
        self._number = 0
        self._copies: dict[str, _Copies] = {}
        self._fresh: dict[str, Siblings | None] = {}
        self._fresh_period: int | None = None
        self._later: list[tuple[Callable[..., None], tuple[Any, ...]]] = []
        self._ticket = 0
        self._batches: dict[
            int,
            tuple[dict[str, Siblings | None], list[tuple[Callable[..., None], tuple[Any, ...]]]],
        ] = {}

    # What is held

    def get(self, key: str) -> Siblings:
        """What is held of a key, durable or not."""
        return self.held.get(key, NO_SIBLINGS)

    def has_room(self, key: str) -> bool:
        """Whether entries of this key may be held."""
        return key in self.held or len(self.held) < self._max_keys

    def put(self, key: str, siblings: Siblings) -> int:
        """Holds exactly these, not empty, from now on; the number tells `copied` who does too."""
        self._number += 1
        self.held[key] = self._fresh[key] = siblings
        self._copies[key] = _Copies(self._number, self.now_ms)
        return self._number

    def new_period(self, rno: int) -> int:
        """The number of an acting period that never was; not to be used before it is durable.

        Args:
            rno: Of the replica: a replica that lost its store comes back under a higher one.
        """
        self._period = self._fresh_period = max(self._period, rno << _RNO_SHIFT) + 1
        return self._period

    def when_durable(self, action: Callable[..., None], *args: Any) -> None:
        """Calls once everything asked so far is durable."""
        self._later.append((action, args))

    @property
    def is_asking(self) -> bool:
        """Whether `flush` has anything to do."""
        return bool(self._fresh or self._later or self._fresh_period is not None)

    def flush(self) -> None:
        """Ends a step: asks for what is to be written."""
        while self._fresh or self._fresh_period is not None or self._later:
            later, self._later = self._later, []
            if self._fresh or self._fresh_period is not None:
                self._ticket += 1
                self._batches[self._ticket] = (self._fresh, later)
                self._emit(PersistEntries(self._ticket, self._fresh, self._fresh_period))
                self._fresh, self._fresh_period = {}, None
            elif self._batches:
                self._batches[next(reversed(self._batches))][1].extend(later)
            else:
                for action, args in later:
                    action(*args)

    def persisted(self, ticket: int) -> None:
        """Everything up to this ticket is durable: does what waited for it."""
        while self._batches and (first := next(iter(self._batches))) <= ticket:
            changes, later = self._batches.pop(first)
            for key, siblings in changes.items():
                if siblings is None:
                    self.durable.pop(key, None)
                else:
                    self.durable[key] = siblings
            for action, args in later:
                action(*args)

    # Other holders

    def send_copies(self, key: str, nodes: Iterable[int]) -> None:
        """Sends what is held of the key to those nodes that are not known to hold it."""
        copies = self._copies.get(key)
        if copies is None:
            self._number += 1
            copies = self._copies[key] = _Copies(self._number, self.now_ms)
        copies.sent_ms = self.now_ms
        message = Put(copies.number, key, self.held[key])
        for node in nodes:
            if node not in copies.acked:
                self._emit(SendEntries(node, message))

    def spread(self, nodes: Iterable[int]) -> None:
        """Shows the other replicas within reach what they may lack, a page at a time."""
        others = list(nodes)
        room = _PAGE
        for key in self.held:
            copies = self._copies.get(key)
            if copies is not None:
                if all(node in copies.acked for node in others):
                    continue
                if self.now_ms - copies.sent_ms < self._resend_ms:
                    continue
            self.send_copies(key, others)
            room -= 1
            if room <= 0:
                return

    def receive_put(self, sender: int, message: Put) -> None:
        """Holds what another replica holds, and says so once that is durable; silent when full."""
        key = message.key
        if not self.has_room(key):
            return
        mine = self.get(key)
        joined = mine.sync(message.siblings)
        if joined != mine:
            self.put(key, joined)
        if key in self.held and joined == message.siblings:
            self._acked(key, sender)
        self.when_durable(self._emit, SendEntries(sender, PutAck(message.number, key)))

    def _acked(self, key: str, node: int) -> None:
        copies = self._copies.get(key)
        if copies is not None:
            copies.acked.add(node)

    def receive_ack(self, sender: int, message: PutAck) -> None:
        """Another replica holds what was sent under this number, or more."""
        copies = self._copies.get(message.key)
        if copies is not None and copies.number == message.number:
            copies.acked.add(sender)
        self._copied(message.key, message.number, sender)

    # The leader

    def offer(self, nodes: Iterable[int]) -> None:
        """Offers everything that is held to the leader, or to those who may know it; a page."""
        targets = list(nodes)
        room = _PAGE
        for key, siblings in self.held.items():
            copies = self._copies.get(key)
            if copies is None:
                self._number += 1
                copies = self._copies[key] = _Copies(self._number, self.now_ms)
            last_ms = copies.offered_ms
            if last_ms is None or self.now_ms - last_ms >= self._resend_ms:
                copies.offered_ms = self.now_ms
                for node in targets:
                    self._emit(SendEntries(node, Offer(key, siblings)))
                room -= 1
                if room <= 0:
                    return

    def cover(self, key: str, merged: VersionVector) -> bool:
        """Drops what a committed record has seen; whether there was any of it."""
        mine = self.get(key)
        left = mine.without(merged)
        if left == mine:
            return False
        if left.entries:
            self.put(key, left)
        else:
            del self.held[key]
            self._copies.pop(key, None)
            self._fresh[key] = None
        return True
