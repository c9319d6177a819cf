"""The root group's layer above its register: commands in order, committed in batches.

Theory. The record of the cluster (`jido_placement.record`) is one register of one more group, under
the same protocol as any shard. Its leader applies commands to the committed record and writes the
result; what came while that was on its way goes into the next write. A command that changes nothing
is answered after a round of CONFIRMs, like a strong read, since another leader may have changed
what it found. The group's own config is a field of the record: see `Leadership.has_other_config`.
*Source*: Vertical Paxos' auxiliary master; riak_ensemble's root ensemble.
"""

from collections import deque
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from jido_placement.changes import apply_all
from jido_placement.commands import Answer, Command
from jido_placement.config import GroupConfig
from jido_placement.record import Record
from jido_state.leadership import Leadership
from jido_state.messages import Header, Row
from jido_state.versions import Ballot

__all__ = ["ROOT_KEY", "Applied", "Committed", "RootCommands", "founding", "root_config"]

ROOT_KEY: Final = "root"
_BATCH: Final = 64  # commands of one write
_WAITING: Final = 4096  # commands that may wait; beyond it they are refused, to be sent again


class Applied(NamedTuple):
    """What became of a command.

    Attributes:
        id: The driver's name for it.
        answer: What the record says; None when this replica does not lead, or too many wait: the
            command may or may not have been applied, and is to be sent again to the leader.
        leader: The node to ask, when `answer` is None and somebody is known to lead.
    """

    id: Any
    answer: Answer | None
    leader: int | None = None


class Committed(NamedTuple):
    """A newer record is committed: every node may go by it."""

    record: Record


def root_config(record: Record) -> GroupConfig:
    """The root group's own config, as its record has it."""
    return record.root.config


def founding(record: Record) -> tuple[Header, dict[str, Row]]:
    """What the founder writes durably before it opens its root replica, once in a cluster's life.

    Args:
        record: As `jido_placement.record.found` makes it.
    """
    config = record.root.config
    (me,) = config.voters
    ballot = Ballot(record.recovery_no, config.number, 0, me.node)
    return Header(me.rno, "voter", config, ballot), {
        ROOT_KEY: Row(ballot.version(1), content=record)
    }


class RootCommands:
    """The commands of the root group on one replica. A `Listener` of its group.

    Args:
        emit: Takes the `Applied` and `Committed` effects of the step.
        leader: Tells who leads, when this replica does not.
    """

    def __init__(self, emit: Callable[[Any], None], leader: Callable[[], int | None]) -> None:
        self._emit = emit
        self._leader = leader
        self._leadership: Leadership | None = None
        self._waiting: deque[tuple[Any, Command]] = deque()
        self._written: list[tuple[Any, Answer]] = []
        self._is_writing = False
        self._is_confirming = False

    @property
    def record(self) -> Record | None:
        """The committed record, while this replica leads and knows it; it may be superseded."""
        leadership = self._leadership
        if leadership is None or not leadership.is_readable(ROOT_KEY):
            return None
        row = leadership.view.get(ROOT_KEY)
        return None if row is None else row.content

    def submit(self, id: Any, command: Command) -> None:
        """Takes a command; its `Applied` comes in this step or a later one."""
        if self._leadership is None or len(self._waiting) >= _WAITING:
            self._emit(Applied(id, None, self._leader()))
            return
        self._waiting.append((id, command))
        self._write()

    def _write(self) -> None:
        """Applies what waits to the committed record, and writes the result."""
        leadership = self._leadership
        if leadership is None or self._is_writing or self._is_confirming or not self._waiting:
            return
        if leadership.is_sealed:
            return  # it goes on, or it stops and all of them are answered
        if not leadership.is_fresh:
            self._confirm(leadership, [])
            return
        if not leadership.is_ready(ROOT_KEY):
            leadership.make_ready(ROOT_KEY)
            return
        batch = [self._waiting.popleft() for _ in range(min(_BATCH, len(self._waiting)))]
        record: Record = leadership.view[ROOT_KEY].content
        after, answers = apply_all(record, [command for _, command in batch])
        answered = [(name, answer) for (name, _), answer in zip(batch, answers, strict=True)]
        if after is record:
            self._confirm(leadership, answered)
            return
        self._is_writing = True
        self._written = answered
        version = leadership.begin(ROOT_KEY)
        leadership.write(ROOT_KEY, Row(version, content=after))

    def _confirm(self, leadership: Leadership, answered: list[tuple[Any, Answer]]) -> None:
        self._is_confirming = True
        self._written = answered
        leadership.confirm(ROOT_KEY)

    def _answer(self) -> None:
        written, self._written = self._written, []
        for name, answer in written:
            self._emit(Applied(name, answer))

    def tick(self) -> int | None:
        """Goes on after a seal that came to nothing; when to look again, None for never."""
        self._write()
        return 0 if self._waiting else None

    # What the group tells

    def led(self, leadership: Leadership) -> None:
        """See `Listener.led`."""
        self._leadership = leadership
        leadership.make_ready(ROOT_KEY)

    def stopped(self, _: str) -> None:
        """See `Listener.stopped`. Whoever waits has to ask the next leader."""
        self._leadership = None
        self._is_writing = self._is_confirming = False
        leader = self._leader()
        names = [name for name, _ in self._written] + [name for name, _ in self._waiting]
        self._written = []
        self._waiting.clear()
        for name in names:
            self._emit(Applied(name, None, leader))

    def ready(self, _: str) -> None:
        """See `Listener.ready`."""
        record = self.record
        if record is not None:
            self._emit(Committed(record))
        self._write()

    def committed(self, _: str, row: Row) -> None:
        """See `Listener.committed`."""
        self._is_writing = False
        self._emit(Committed(row.content))
        self._answer()
        self._write()

    def confirmed(self, _: list[Any]) -> None:
        """See `Listener.confirmed`."""
        self._is_confirming = False
        self._answer()
        self._write()
