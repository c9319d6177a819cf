"""What the leader does about divergence entries: merges them, and forgets their actors at last.

Theory. Holders offer their entries until the leader says that a committed record has seen them. The
leader merges what the record has not seen, as a turn of its own beside the turns of users, and
tells those who offered. It keeps nothing of this: a leader that stops is followed by one to whom
everything is offered again, and what is merged already is seen to be.

Actors would become ever more, so they are folded: once every member has said that it holds no entry
of the shard, and every voter that it holds the record that names them, after these were merged. Who
is removed from the cluster is not waited for: what it holds was given up, and may contain what has
been folded. So nothing is taken from it any more, and every member knows of the removal before it
says anything (`AskEntries.epoch`).

A tombstone that names acting replicas is not to be reaped before they are folded: an entry that
comes late would find nothing that has seen it, and bring the agent back.
*Source*: section 1.12 and finding 19 of the replication protocol; Almeida et al., Delta state
replicated data types (2018), for what may be folded when.
"""

from collections import deque
from collections.abc import Callable
from typing import Any, Final

from jido_state.divergence import NO_SIBLINGS, Siblings
from jido_state.dots import LEADERS, NOTHING_SEEN, Actor, VersionVector, source_of
from jido_state.entries import AskEntries, Cover, Entries, NoEntries, Offer, SendEntries
from jido_state.group import Group
from jido_state.leadership import Leadership
from jido_state.messages import UNREAD, Row
from jido_state.record import Record
from jido_state.requests import Answer, OwnWork, Request, Status
from jido_state.versions import Version

__all__ = ["Healing"]

_OWNER: Final = "healing"
_PAGE: Final = 64  # keys that are folded after one round of questions
_LOOKS: Final = 1_000  # records looked at per step after an election: about a millisecond
_KEPT_BALLOTS: Final = 8  # a record that names more leaders than this is folded for their sake


class _Poll:
    """A round of questions: who holds entries, and the named records?"""

    __slots__ = ("actors", "missing", "number", "rows", "sent_ms")

    def __init__(
        self,
        number: int,
        rows: tuple[tuple[str, Version], ...],
        actors: dict[str, tuple[Actor, ...]],
        nodes: tuple[int, ...],
        sent_ms: int,
    ) -> None:
        self.number = number
        self.rows = rows
        self.actors = actors
        self.missing = set(nodes)
        self.sent_ms = sent_ms


class Healing:
    """A leader's merging, of one shard on one replica.

    Args:
        emit: Takes effects.
        group: Its replica.
        entries: What it holds itself.
        submit: Takes requests to itself; their answers come to `answered`.
        own_covered: Told when entries of its own are covered.
        round_ms: Pause between two rounds of questions.

    Attributes:
        members: Nodes that may hold entries of the shard: all that have, or ever had, a replica of
            it and are members of the cluster. Its voters are asked in any case.
        epoch: Recovery and epoch of the record that `members` is from.
        now_ms: The time of the current step, on the node's own monotonic clock.
    """

    def __init__(
        self,
        emit: Callable[[Any], None],
        group: Callable[[], Group],
        entries: Entries,
        *,
        submit: Callable[[Request], None],
        own_covered: Callable[[], None],
        round_ms: int,
    ) -> None:
        self._emit = emit
        self._group = group
        self._entries = entries
        self._submit = submit
        self._own_covered = own_covered
        self._round_ms = round_ms
        self.members: tuple[int, ...] = ()
        self.epoch = (0, 0)
        self.now_ms = 0
        self._leadership: Leadership | None = None
        self._wanted: dict[str, Siblings] = {}
        self._holders: dict[str, dict[int, None]] = {}
        self._merging: set[str] = set()
        self._grown: dict[str, None] = {}  # keys whose records name actors that may be over
        self._unread: deque[str] = deque()  # keys not looked at since it leads
        self._poll: _Poll | None = None
        self._polls = 0
        self._polled_ms = 0
        self._offered_ms = 0

    def led(self, leadership: Leadership) -> None:
        """See `Listener.led`."""
        self.stopped()
        self._leadership = leadership
        self._polled_ms = self.now_ms
        self._unread = deque(leadership.view)

    def stopped(self) -> None:
        """See `Listener.stopped`."""
        self._leadership = None
        self._wanted, self._holders, self._merging, self._grown = {}, {}, set(), {}
        self._unread = deque()
        self._poll = None

    # Merging

    def receive_offer(self, node: int, message: Offer) -> None:
        """Entries that a node holds: covers them, or merges them first."""
        leadership, key = self._leadership, message.key
        if leadership is None:
            return
        if not leadership.is_readable(key):
            leadership.make_ready(key)  # it will be offered again
            return
        row = leadership.view.get(key)
        seen = NOTHING_SEEN if row is None else row.content.merged
        left = message.siblings.without(seen)
        if not left.entries:
            self._cover(node, key, seen)
            return
        self._wanted[key] = self._wanted.get(key, NO_SIBLINGS).sync(left)
        self._holders.setdefault(key, {})[node] = None
        if key not in self._merging:
            self._merging.add(key)
            self._submit(OwnWork(_OWNER, "merge", key).request(self._wanted[key]))

    def _cover(self, node: int, key: str, merged: VersionVector) -> None:
        if node != self._group().node:
            self._emit(SendEntries(node, Cover(key, merged)))
        elif self._entries.cover(key, merged):
            self._own_covered()

    def answered(self, answer: Answer) -> None:
        """Own work has ended. What could not be merged will be offered again."""
        key = answer.id.key
        leadership = self._leadership
        if answer.id.kind != "merge" or leadership is None:
            return
        self._merging.discard(key)
        self._wanted.pop(key, None)
        holders = self._holders.pop(key, {})
        row = leadership.view.get(key)
        if answer.status is Status.OK and row is not None:
            for node in holders:
                self._cover(node, key, row.content.merged)

    # Folding

    def noticed(self, key: str, row: Row) -> None:
        """A committed row is known: looks whether its record names too many."""
        if self._over(row.content):
            self._grown[key] = None
        else:
            self._grown.pop(key, None)

    def _over(self, record: Record) -> tuple[Actor, ...]:
        """The actors of a committed record that can be folded if nobody holds entries."""
        leadership = self._leadership
        if leadership is None:
            return ()
        ballot = tuple(leadership.ballot)
        actors = sorted(actor for actor in record.merged.numbers if tuple(actor) != ballot)
        leaders = [actor for actor in actors if source_of(actor) == LEADERS]
        acting = [actor for actor in actors if source_of(actor) != LEADERS]
        return tuple(actors) if acting or len(leaders) > _KEPT_BALLOTS else ()

    @property
    def is_idle(self) -> bool:
        """Whether there is nothing to look at, and nobody to ask."""
        return not (self._grown or self._unread or self._poll)

    def tick(self) -> None:
        """Takes up its own entries, and asks who holds any."""
        leadership = self._leadership
        if leadership is None:
            return
        if self.now_ms - self._offered_ms >= self._round_ms // 4:
            self._offered_ms = self.now_ms
            node = self._group().node
            for key, siblings in list(self._entries.held.items())[:_PAGE]:
                self.receive_offer(node, Offer(key, siblings))
        for _ in range(min(_LOOKS, len(self._unread))):
            key = self._unread.popleft()
            row = leadership.view.get(key)
            if row is not None and row.content is UNREAD:
                self._unread.append(key)  # it is fetched in the background
            elif row is not None:
                self.noticed(key, row)
        poll = self._poll
        if poll is not None and self.now_ms - poll.sent_ms < self._round_ms:
            return
        if self._grown and self.now_ms - self._polled_ms >= self._round_ms:
            self._ask(leadership)

    def _ask(self, leadership: Leadership) -> None:
        """Begins a round; one that was not answered by all is over."""
        self._polled_ms = self.now_ms
        self._poll = None
        if self._entries.held:
            return
        rows: dict[str, Version] = {}
        actors: dict[str, tuple[Actor, ...]] = {}
        for key in list(self._grown):
            row = leadership.view.get(key)
            # Last in the next round, so that a key that is never ready keeps out no other.
            del self._grown[key]
            if row is None:
                continue
            self._grown[key] = None
            if leadership.is_ready(key) and len(rows) < _PAGE:
                rows[key] = row.version
                actors[key] = self._over(row.content)
        if not rows:
            return
        group = self._group()
        named = tuple(rows.items())
        voters = (one.node for one in group.config.members)
        nodes = tuple(node for node in dict.fromkeys((*voters, *self.members)))
        self._polls += 1
        self._poll = _Poll(self._polls, named, actors, nodes, self.now_ms)
        question = AskEntries(leadership.ballot, self._polls, named, self.epoch)
        for node in nodes:
            if node != group.node:
                self._emit(SendEntries(node, question))
        if self.holds(named):
            self._none(group.node, self._polls)

    def holds(self, rows: tuple[tuple[str, Version], ...]) -> bool:
        """Whether this replica has no entries, and as a voter these rows or newer ones."""
        if self._entries.held:
            return False
        acceptor = self._group().acceptor
        if not acceptor.is_voter():
            return True
        held = acceptor.rows
        return all(key in held and held[key].version >= version for key, version in rows)

    def receive_none(self, node: int, message: NoEntries) -> None:
        """A node holds no entries."""
        leadership = self._leadership
        if leadership is not None and leadership.ballot == message.ballot:
            self._none(node, message.number)

    def _none(self, node: int, number: int) -> None:
        poll = self._poll
        if poll is None or poll.number != number:
            return
        poll.missing.discard(node)
        if poll.missing:
            return
        self._poll = None
        for key, _ in poll.rows:
            self._submit(OwnWork(_OWNER, "fold", key).request(poll.actors[key]))
