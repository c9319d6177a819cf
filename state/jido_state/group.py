"""One replica of one group: follower, candidate or leader. The machine its driver runs.

The driver's duties:

1. One call at a time. Every call takes the node's own monotonic time in milliseconds, which never
   goes back, and returns effects to be performed in order.
2. `Persist` effects become durable in the order of their tickets, each whole; then `persisted` is
   called. A store that cannot say whether it wrote ends the process. A full one: `store_full`; what
   was rolled back is written again, in order, before anything later is durable.
3. `Send` needs no delivery: messages may be lost, late, repeated, reordered.
4. `tick`, or `is_due` as long as it says no, at least every 100 ms; late is safe, and is seen as
   the own loop's lag.
5. After a restart: a new `Group` from what was durable, nothing else.
6. `adopt` gets configs that the root group has committed, and nothing else.

Invariants, checked by `check`: I2, I4, I5 of the protocol, and that a leader's own promise is its
ballot.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from jido_placement.config import GroupConfig, Replica
from jido_state.acceptor import Acceptor
from jido_state.appends import Told
from jido_state.early import Early
from jido_state.election import Election, Recovered
from jido_state.journal import Journal
from jido_state.leadership import Leadership
from jido_state.learning import Learning
from jido_state.messages import (
    Accept,
    Accepted,
    ConfigIs,
    Confirm,
    Confirmed,
    Copied,
    Copy,
    Effect,
    Have,
    Header,
    Heartbeat,
    HeartbeatAck,
    Holds,
    Led,
    List,
    Listed,
    Message,
    Missing,
    Nack,
    Prepare,
    Prevote,
    PrevoteAnswer,
    Promise,
    Read,
    ReadAnswer,
    Reap,
    Row,
    Stopped,
    Transfer,
    Whole,
)
from jido_state.pending import Listener
from jido_state.seat import Seat
from jido_state.settings import GroupSettings
from jido_state.upkeep import AntiEntropy, Reaping
from jido_state.versions import Ballot

__all__ = ["Group"]

# Answers that rest on what the store held before this process was started.
_OF_STORE: Final = frozenset({Read, Accept, Confirm, Have})
_OF_LEARNERS: Final = frozenset({Prevote, Prepare, List, Read, Confirm})  # of the root group
_QUIET: Final = frozenset({Heartbeat, HeartbeatAck})  # nothing is to be done sooner for them
_NEVER_MS: Final = 1 << 62
_Handler = Callable[[Replica, Any], None]


class Group:
    """The replica of a shard on one node.

    Args:
        node: Index of the node.
        shard: Names the group.
        header: The replica's durable header.
        rows: Its durable rows, by key.
        listener: The layer above, which hears while this replica leads.
        settings: Timings and limits.
        now_ms: The node's own monotonic time.
        recovery: How often an operator has forced recovery.
        bad: Keys under which the store holds rows that are spoilt: while there are any, what is
            absent is unknown.
        config_of: For the root group: its own config in a record.
        appended: The store's append counter when this process opened it, `Store.durable`.
        life: Names this process among all of the node: drawn at random, not 0. 0 where the disk is
            not watched.
    """

    def __init__(
        self,
        node: int,
        shard: int,
        header: Header,
        rows: Mapping[str, Row],
        listener: Listener,
        settings: GroupSettings,
        now_ms: int,
        *,
        recovery: int = 0,
        bad: Iterable[str] = (),
        config_of: Callable[[Any], GroupConfig] | None = None,
        appended: int = 0,
        life: int = 0,
    ) -> None:
        self._journal = Journal()
        self.acceptor = Acceptor(
            node,
            header,
            self._journal,
            rows=rows,
            bad=bad,
            leaves=settings.leaves,
            list_rows=settings.list_rows,
            config_of=config_of,
            appended=appended,
            life=life,
            unwritten_ms=settings.election_ms,
        )
        self._seat = Seat(
            node,
            shard,
            self.acceptor,
            self._journal,
            settings,
            recovery=recovery,
            now_ms=now_ms,
            config_of=config_of,
        )
        self._listener = listener
        self._election = Election(self._seat, self._won)
        self.leadership: Leadership | None = None
        self._anti_entropy: AntiEntropy | None = None
        self._reaping: Reaping | None = None
        self._stop_due_ms: int | None = None  # a refused leader goes on until then at most
        self._learning = Learning(self._seat)
        self._is_full = False
        self._early = Early()
        # After a restart somebody who may remember its counter has to be heard first.
        self._is_checked = life == 0 or appended == 0
        self._handlers = self._make_handlers()

    def _make_handlers(self) -> dict[type, Callable[[Replica, Any], None]]:
        return {
            Prevote: self._on_prevote,
            PrevoteAnswer: self._election.receive_prevote_answer,
            Prepare: self._unless_set_back(self.acceptor.prepare),
            Promise: self._unless_set_back(self._election.receive_promise),
            Nack: self._on_nack,
            List: self._unless_set_back(self.acceptor.list_rows),
            Listed: self._on_listed,
            Read: self.acceptor.read,
            ReadAnswer: self._if_leading(lambda mine, _, one: mine.read_answered(one)),
            Accept: self.acceptor.accept,
            Accepted: self._on_accepted,
            Missing: self._if_leading(lambda mine, by, one: mine.missing(by.node, one.numbers)),
            Confirm: self.acceptor.confirm,
            Confirmed: self._if_leading(lambda mine, by, one: mine.confirmed(by, one.round)),
            Heartbeat: self._on_heartbeat,
            HeartbeatAck: self._on_heartbeat_ack,
            Whole: lambda _, message: self.acceptor.whole(message),
            Have: self.acceptor.have,
            Holds: self._on_holds,
            Reap: lambda _, message: self.acceptor.reap(message),
            Transfer: lambda _, message: self._election.receive_transfer(message),
        }

    # What the driver and the layer above may ask

    @property
    def node(self) -> int:
        """Index of its node."""
        return self._seat.node

    @property
    def now_ms(self) -> int:
        """The time of its last step, or of a tick at which nothing was due."""
        return self._seat.now_ms

    @property
    def config(self) -> GroupConfig:
        """The newest committed config this replica knows."""
        return self._seat.config

    @property
    def header(self) -> Header:
        """Its identity and promise, durable or on their way."""
        return self.acceptor.header

    @property
    def leader(self) -> int | None:
        """The node of the leader heard last; itself while it leads; None when none is heard."""
        return self._seat.leader if self.leadership is None else self._seat.node

    @property
    def heard(self) -> Ballot:
        """The ballot of the leader heard last, perhaps long ago."""
        return self._seat.heard

    def step(self, now_ms: int, action: Callable[..., object], *args: Any) -> list[Effect]:
        """Does something within a step: what the layer above does to the leadership, say."""
        self._begin(now_ms)
        action(*args)
        return self._finish()

    def receive(self, sender: Replica, message: Message, now_ms: int) -> list[Effect]:
        """Handles a message of another replica of the group.

        The sender's assignment is that of its own header, which travels with the message.
        """
        due_ms = self._seat.due_ms
        self._begin(now_ms)
        if type(message) in _QUIET:
            self._seat.due_ms = due_ms
        self._receive(sender, message)
        return self._finish()

    def _receive(self, sender: Replica, message: Message) -> None:
        mine = self._seat.config.number
        if self._seat.config_of is not None:
            self._receive_root(sender, message)
        elif type(message) is ConfigIs:
            self._on_config(sender, message)
        elif message.config < mine:
            self._seat.send(sender.node, ConfigIs(mine, self._seat.config))
        elif message.config > mine:
            self._early.keep(sender, message)
            self._seat.send(sender.node, ConfigIs(mine, None))
        elif self.header.status == "removed":
            if type(message) is Prepare or type(message) is Accept or type(message) is Confirm:
                nack = Nack(mine, message.ballot, self.header.promised)
                self._journal.send_when_durable(sender.node, nack)
        elif type(message) is Copied:
            self._learning.copied(message, self.leader)
        elif type(message) is Heartbeat and self.header.status == "learner":
            self._on_heartbeat(sender, message)
        elif self.acceptor.is_voter() and not self._is_full:
            if type(message) is Copy:
                self.acceptor.copy(sender, message)
            elif sender in self._seat.config.members and self._may_answer(message):
                self._handlers[type(message)](sender, message)

    def _receive_root(self, sender: Replica, message: Message) -> None:
        """As `receive`, for the root group: its config stands in the record that is asked about.

        So anybody is answered, whatever config they go by. Whose answers count is decided by who
        asked, by the replicas that the answers come from.
        """
        if self._is_full:
            return
        if self.header.status == "voter":
            if type(message) is Copy:
                self.acceptor.copy(sender, message)
            elif type(message) in self._handlers and self._may_answer(message):
                self._handlers[type(message)](sender, message)
        elif type(message) is Accept and self.header.status == "learner":
            config_of = self._seat.config_of
            assert config_of is not None
            me = self.acceptor.me
            naming = [each for each in message.rows if me in config_of(each[1].content).members]
            if naming:
                self.acceptor.accept(sender, message._replace(rows=tuple(naming)))
        elif type(message) is Heartbeat and self.header.status == "learner":
            self._on_heartbeat(sender, message)
        elif type(message) is Copied:
            self._learning.copied(message, self.leader)
        elif type(message) in _OF_LEARNERS and self.header.status == "learner":
            # It may be a voter of a config that it has not heard of: whoever asks must know.
            self._handlers[type(message)](sender, message)

    def is_due(self, now_ms: int) -> bool:
        """Whether `tick` has anything to do; most groups of a node are idle, and this is cheap."""
        return self._seat.is_due(now_ms)

    def tick(self, now_ms: int, above: Callable[[], int | None] | None = None) -> list[Effect]:
        """Lets time pass: heartbeats, campaigns, repetitions.

        `above` lets it pass in the layer above, in the same step; it returns when to do so again at
        the latest, None for no such time.
        """
        self._begin(now_ms)
        if self.header.status == "learner":
            self._learning.tick(self.leader)
        elif not self._is_full:
            if self.leadership is not None:
                self._tick_leadership(self.leadership)
            if self.acceptor.is_voter() and (self.leadership is None or self._election.is_running):
                self._election.tick()
        due_ms = None if above is None else above()
        effects = self._finish()
        self._seat.due_ms = min(self._next_due_ms(), _NEVER_MS if due_ms is None else due_ms)
        return effects

    def _next_due_ms(self) -> int:
        if self.header.status == "learner":
            return self._learning.due_ms
        if self._is_full or not self.acceptor.is_voter():
            return _NEVER_MS
        if self.leadership is None:
            return self._election.due_ms
        if self._election.is_running or self._stop_due_ms is not None:
            return self._seat.now_ms
        return self.leadership.due_ms

    def _tick_leadership(self, leadership: Leadership) -> None:
        seat = self._seat
        reason = leadership.tick()
        if reason:
            self._stop(reason)
            return
        if self._is_refused(leadership):
            # A candidate that failed may have been promised it, so that nobody leads: go above it.
            self._stop("a higher ballot was promised")
            if self.acceptor.is_voter():
                self._election.begin(leading=leadership.ballot)
            return
        if self._reaping is not None:
            self._reaping.tick()
        if self._anti_entropy is not None:
            self._anti_entropy.tick()
        is_behind = leadership.config != seat.config and seat.config_of is None
        if is_behind and not self._election.is_running:
            self._election.begin(leading=leadership.ballot)

    def persisted(self, ticket: int, now_ms: int, *, appended: int = 0) -> list[Effect]:
        """Everything up to this ticket is durable, and the store's append counter is this."""
        self._begin(now_ms)
        self.acceptor.appends.durable(appended)
        self._journal.durable(ticket)
        return self._finish()

    def adopt(self, config: GroupConfig, now_ms: int) -> list[Effect]:
        """A config that the root group has committed; an older one changes nothing."""
        self._begin(now_ms)
        self._adopt(config)
        return self._finish()

    def make(self, now_ms: int) -> list[Effect]:
        """Makes the header of a fresh replica durable, and empties what was there before it."""
        self._begin(now_ms)
        self._journal.clear_rows()
        self._journal.write_header(self.header)
        return self._finish()

    @property
    def is_durable(self) -> bool:
        """Whether everything that was asked to be written is durable."""
        return self._journal.oldest_ms is None

    def formatted(self, now_ms: int) -> list[Effect]:
        """The root group has recorded that this replica has its header."""
        self._begin(now_ms)
        self.acceptor.formatted()
        self._election.rest()
        return self._finish()

    def certain(self, node: int, now_ms: int, *, is_gone: bool = True) -> list[Effect]:
        """The process on that node is known to be gone; or another one is there now.

        What the one that is gone has led stays without a leader, whoever is there now.
        """
        self._begin(now_ms)
        self._seat.certain(node, is_gone=is_gone)
        return self._finish()

    def transfer(self, target: int, now_ms: int) -> list[Effect]:
        """Hands the leadership to another voter, if this replica has it."""
        self._begin(now_ms)
        if self.leadership is not None and target in self._seat.others():
            self.leadership.transfer(target)
        return self._finish()

    def store_full(self, now_ms: int, *, is_full: bool = True) -> list[Effect]:
        """The disk is full: no promise and no ack leaves until it is not."""
        self._begin(now_ms)
        self._is_full = is_full
        if is_full:
            self._election.rest()
            self._stop("the disk is full")
        return self._finish()

    def check(self) -> None:
        """Raises AssertionError when an invariant does not hold: a bug of this package."""
        leadership, promised = self.leadership, self.acceptor.promised
        if leadership is None:
            return
        if promised != leadership.ballot:
            raise AssertionError(f"leads under {leadership.ballot}, promised {promised}")
        leadership.check()

    # Steps

    def _begin(self, now_ms: int) -> None:
        if self._seat.lags(now_ms) and self.leadership is not None:
            self.leadership.doubt()
        self._journal.begin(now_ms)

    def _finish(self) -> list[Effect]:
        leadership = self.leadership
        if leadership is not None:
            if self.acceptor.header.promised > leadership.ballot:
                self._stop("it promised a higher ballot")
            elif leadership.other_config is not None:
                self._elect_again(leadership.other_config)
            else:
                leadership.flush()
                if self._seat.config_of is not None:
                    self._leave(leadership)
        return self._journal.finish()

    def _elect_again(self, config: GroupConfig) -> None:
        """The record it has read names another root group than the one that elected it."""
        self._stop("the record has another config")
        self.acceptor.use(config)
        if self.acceptor.is_voter():
            self._election.begin()

    def _leave(self, leadership: Leadership) -> None:
        """A root leader that the committed record no longer names hands over and stops."""
        seat = self._seat
        if not leadership.is_idle:
            return
        if seat.me not in leadership.config.members:
            for target in seat.others()[:1]:
                leadership.transfer(target)
            self._stop("it is not in the new config")

    # Roles

    def _won(self, found: Recovered) -> None:
        """The candidate knows every key: it leads."""
        if self.leadership is not None:
            self._stop("it leads under a new ballot")
        seat = self._seat
        self._stop_due_ms = None
        self._is_checked = True
        leadership = self.leadership = Leadership(seat, found, self._listener)
        self._anti_entropy = AntiEntropy(seat, leadership)
        self._reaping = Reaping(seat, leadership)
        seat.heard = found.ballot
        seat.emit(Led(found.ballot))
        self._listener.led(leadership)
        reason = leadership.tick()
        if reason:
            self._stop(reason)

    def _stop(self, reason: str) -> None:
        leadership = self.leadership
        if leadership is None:
            return
        self.leadership = self._anti_entropy = self._reaping = None
        self._stop_due_ms = None
        # Its own silence begins now.
        self._seat.heard_ms = self._seat.now_ms
        if not self._election.is_running:
            self._election.rest()
        self._seat.emit(Stopped(leadership.ballot, reason))
        self._listener.stopped(reason)

    def _is_refused(self, leadership: Leadership) -> bool:
        due_ms = self._stop_due_ms
        return due_ms is not None and (leadership.is_idle or self._seat.now_ms >= due_ms)

    def _adopt(self, config: GroupConfig) -> None:
        if config.number > self._seat.config.number:
            self._use(config)
            for sender, message in self._early.take():
                self._receive(sender, message)

    def _use(self, config: GroupConfig) -> None:
        seat = self._seat
        was_voter = self.acceptor.is_voter()
        self.acceptor.adopt(config)
        self._learning.begin()
        leadership = self.leadership
        if leadership is None:
            self._election.rest()
            if not was_voter:
                seat.heard_ms = seat.now_ms
            return
        self._election.rest()
        goes_on = leadership.adopt(config)
        if not self.acceptor.is_voter():
            for target in seat.others():
                leadership.transfer(target)
                break
            self._stop("it is not in the new config")
            return
        self._reaping = Reaping(seat, leadership)
        if not goes_on:
            self._election.begin(leading=leadership.ballot)

    def _heard(self, ballot: Ballot) -> None:
        self._seat.hear(ballot)
        if self._election.is_running and not self._election.is_deciding:
            self._election.rest()

    # Messages

    def _may_answer(self, message: Message) -> bool:
        return self._is_checked or type(message) not in _OF_STORE

    def _is_set_back(self, told: Told) -> bool:
        """Whether somebody remembers more of its store than there is; then it is lost."""
        if self.acceptor.appends.holds(self._seat.me, told):
            self._is_checked = True
            return False
        self._stop("its store was set back")
        self._election.rest()
        self.acceptor.lose()
        return True

    def _unless_set_back(self, handler: _Handler) -> _Handler:
        def handle(sender: Replica, message: Any) -> None:
            if not self._is_set_back(message.appends):
                handler(sender, message)

        return handle

    def _on_config(self, sender: Replica, message: ConfigIs) -> None:
        if message.committed is not None:
            self._adopt(message.committed)
        elif message.config < self._seat.config.number:
            self._seat.send(sender.node, ConfigIs(self._seat.config.number, self._seat.config))

    def _on_prevote(self, sender: Replica, message: Prevote) -> None:
        self._election.answer_prevote(sender, message, leads=self.leadership is not None)

    def _on_nack(self, _: Replica, message: Nack) -> None:
        self._election.receive_nack(message)
        leadership = self.leadership
        if (
            leadership is not None
            and message.ballot == leadership.ballot
            and message.promised > leadership.ballot
            and self._stop_due_ms is None
        ):
            # What a quorum still acks is answered; nothing new begins.
            self._stop_due_ms = self._seat.now_ms + self._seat.settings.seal_ms
            leadership.seal()

    def _leading(self, ballot: Ballot) -> Leadership | None:
        """The leadership, when this is an answer to it."""
        leadership = self.leadership
        return leadership if leadership is not None and leadership.ballot == ballot else None

    def _if_leading(self, act: Callable[[Leadership, Replica, Any], None]) -> _Handler:
        def handle(sender: Replica, message: Any) -> None:
            leadership = self._leading(message.ballot)
            if leadership is not None:
                act(leadership, sender, message)

        return handle

    def _on_listed(self, sender: Replica, message: Listed) -> None:
        if self._anti_entropy is not None and self._leading(message.ballot) is not None:
            self._anti_entropy.listed(sender, message)
        else:
            self._election.receive_listed(sender, message)

    def _on_accepted(self, sender: Replica, message: Accepted) -> None:
        self.acceptor.appends.heard(sender, message.appended)
        leadership = self._leading(message.ballot)
        if leadership is not None:
            leadership.accepted(sender, message.numbers)

    def _on_heartbeat(self, sender: Replica, message: Heartbeat) -> None:
        seat = self._seat
        if self._is_set_back(message.appends):
            return
        seat.saw(message.ballot)
        if message.ballot < self.acceptor.promised:
            self.acceptor.refuses(sender, message.ballot)
            return
        if seat.is_late(message.ballot):
            return
        self._heard(message.ballot)
        if self.header.status == "voter" or seat.config_of is not None:
            mine = self.acceptor
            root, is_whole, own = mine.tree.root, mine.is_whole, mine.appends.own
            ack = HeartbeatAck(seat.config.number, message.ballot, root, is_whole, own)
            seat.send(sender.node, ack)

    def _on_heartbeat_ack(self, sender: Replica, message: HeartbeatAck) -> None:
        self.acceptor.appends.heard(sender, message.appended)
        if self._anti_entropy is not None and self._leading(message.ballot) is not None:
            self._anti_entropy.heartbeat_acked(sender, message)

    def _on_holds(self, sender: Replica, message: Holds) -> None:
        if self._reaping is not None and self._leading(message.ballot) is not None:
            self._reaping.holds(sender, message)
