"""Schedules of parts that a run of groups does not reach: op ids, timers, tokens, and merges."""

from dataclasses import replace

from jido_placement.config import GroupConfig, Replica
from jido_state.dedupe import NO_OPERATIONS, Hit, lookup, remember
from jido_state.divergence import Entry, Siblings
from jido_state.dots import NOTHING_SEEN
from jido_state.group import Group
from jido_state.merge import merge
from jido_state.messages import Header, Row, Send
from jido_state.operations import OpId
from jido_state.record import Record
from jido_state.session import Token, Trust
from jido_state.settings import GroupSettings
from jido_state.simulation.watch import UnsafeError
from jido_state.timers import NO_TIMERS, Timer
from jido_state.turns import Turns
from jido_state.versions import Ballot, Version

WINDOW_MS = 900_000
OLD, NEW = Ballot(0, 1, 5, 0), Ballot(0, 1, 6, 1)


def _must(is_so: object, what: str) -> None:
    if not is_so:
        raise UnsafeError(what)


def a_caller_is_remembered_for_the_window() -> None:
    """Another caller comes a second later; then the first one asks again."""
    first, second = OpId("a", 1), OpId("b", 1)
    table = remember(NO_OPERATIONS, first, "done", now_ms=0, window_ms=WINDOW_MS)
    table = remember(table, second, "done", now_ms=1_000, window_ms=WINDOW_MS)
    found = lookup(table, first, now_ms=2_000, window_ms=WINDOW_MS)
    _must(isinstance(found, Hit), f"the operation would be run twice: {found}")


def an_occurrence_fires_once() -> None:
    """Two leaders, one after the other, fire the timer as it was when it was due."""
    timer = Timer("tick", Version(0, 1, 1, 0, 1), 1_000, 1, b"every second", b"")
    timers = NO_TIMERS.set(timer)
    first = timers.fire(timer, 2_000)  # type: ignore[union-attr]
    assert first is not None
    _must(first.fire(timer, 2_000) is None, "the first occurrence fires twice")


def a_token_never_goes_back() -> None:
    """A session that has seen a new leader is then answered by the old one."""
    seen = Token("c", 0).saw(3, NEW.version(1)).saw(3, OLD.version(9))
    trust = seen.at_leader(3, OLD, "agent", NOTHING_SEEN)
    _must(trust is Trust.NOT_HERE, f"a deposed leader would answer: {trust}")


def _entry(node: int, state: bytes, op: OpId) -> Entry:
    """One turn that the node did alone, from nothing."""
    dot = (node, 1, 1, 1)
    operations = remember(NO_OPERATIONS, op, "done", now_ms=0)
    record = Record.blank(state=state, type="t").acted(
        dot=dot, generation=dot, born_op=op, dedupe=operations, wall_ms=node
    )
    return Entry(dot, Version(0, 0, 0, 0, 0), record)


def nothing_acknowledged_disappears() -> None:
    """Both sides of a split made the agent: one value is taken, the other one logged."""
    entries = (_entry(0, b"left", OpId("a", 1)), _entry(1, b"right", OpId("b", 1)))
    merged = merge(None, Siblings(entries), version=NEW.version(1), now_ms=0, wall_ms=10)
    assert merged.record is not None
    states = {merged.record.state, *(one.record.state for one in merged.conflicts)}
    _must(states == {b"left", b"right"}, f"of both values {states} are left")


def both_sides_have_done_what_they_did() -> None:
    """After the merge each caller asks again, also the one whose value was not taken."""
    left, right = OpId("a", 1), OpId("b", 1)
    entries = (_entry(0, b"left", left), _entry(1, b"right", right))
    register = replace(Record.blank(state=b"old", type="t"), version=OLD.version(1))
    merged = merge(register, Siblings(entries), version=NEW.version(1), now_ms=0, wall_ms=10)
    assert merged.record is not None
    for op in (left, right):
        found = lookup(merged.record.dedupe, op, now_ms=1)
        _must(isinstance(found, Hit), f"{op} would be run again: {found}")


def the_root_group_goes_by_its_newest_record() -> None:
    """A replica of the root group has taken a record with another root group in it.

    Node 0 campaigns alone: it must ask those whom the record names, not those it knew before.
    """
    me = Replica(0, 1)
    before = GroupConfig(1, (me,))
    after = GroupConfig(2, (me, Replica(1, 1), Replica(2, 1)))
    header = Header(1, "voter", before, OLD)
    settings = GroupSettings()
    rows = {"root": Row(OLD.version(1), content=before)}
    turns = Turns(lambda _: None, lambda: None)
    group = Group(0, 0, header, rows, turns, settings, 0, config_of=lambda content: content)
    group.step(1, group.acceptor.put, "root", Row(OLD.version(2), content=after))
    asked: set[int] = set()
    for now_ms in range(100, 10_000, 100):
        effects = group.tick(now_ms)
        while effects:
            asked |= {effect.to for effect in effects if isinstance(effect, Send)}
            effects = group.persisted(10**6, now_ms)
    _must(group.leadership is None, "it leads alone a group of three")
    _must(asked == {1, 2}, f"it has asked {sorted(asked)} of 1 and 2")
