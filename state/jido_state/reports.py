"""What members have told the root leader, and no record knows: what it plans by.

Nothing of this is safe to rely on, and nothing does: a step that was planned by old news is refused
by the record, or by the group that it is for.
"""

from typing import Final

from jido_placement.record import Record
from jido_placement.steps import World
from jido_state.node_messages import Done, Leads

__all__ = ["Reports"]

_LEADS_MS: Final = 2_000  # a leader that was last heard of longer ago than this may be gone


class Reports:
    """What one process has heard, for when its root replica leads."""

    def __init__(self) -> None:
        self._staged: dict[tuple[int, int, int], None] = {}  # group, config, node
        self._settled: dict[tuple[int, int], tuple[int, int]] = {}  # group, config: ballot
        self._leads: dict[int, tuple[int, int]] = {}  # by group: who leads it, heard when

    def done(self, done: Done) -> None:
        """A learner has copied, or a joint config is settled."""
        if done.node < 0:
            self._settled[done.group, done.config] = done.ballot
        else:
            self._staged[done.group, done.config, done.node] = None

    def leads(self, leads: Leads, now_ms: int) -> None:
        """A process leads these groups."""
        for group in leads.groups:
            self._leads[group] = (leads.node, now_ms)

    def world(
        self, record: Record, now_ms: int, *, unreachable: frozenset[int], expired: frozenset[int]
    ) -> World:
        """The world for the planner; what was said of configs that are over is forgotten."""

        def is_current(group: int, number: int) -> bool:
            found = record.group(group)
            return found is not None and found.config.number == number

        self._staged = {key: None for key in self._staged if is_current(key[0], key[1])}
        self._settled = {key: ballot for key, ballot in self._settled.items() if is_current(*key)}
        return World(
            unreachable=unreachable,
            expired=expired,
            leaders={
                group: node
                for group, (node, heard_ms) in sorted(self._leads.items())
                if now_ms - heard_ms < _LEADS_MS
            },
            staged=frozenset((group, node) for group, _, node in self._staged),
            settled={group: ballot for (group, _), ballot in self._settled.items()},
        )
