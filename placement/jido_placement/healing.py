"""What a node does when a split of the network ends: step by step, each as often as needed.

Theory. When sides that acted apart meet again, the order matters: first they must agree which
configs hold, then who leads, then what was kept apart is merged, then copies are compared, and only
when all that is done are replicas moved about. Each step is idempotent, so that one whose end was
not seen is simply asked for again; and a split in the middle of it all starts over.

The machine asks for work by `Do` and is told by `done`; it says what happened by `Noted`, which the
driver logs. `TRANSITIONS` is the whole of it, and what `docs` draws.
"""

from collections.abc import Mapping
from enum import Enum
from types import MappingProxyType
from typing import Final, NamedTuple

__all__ = ["STEPS", "TRANSITIONS", "Do", "Effect", "Event", "Healing", "Noted", "Stage"]


class Stage(Enum):
    """Where a node stands."""

    WHOLE = "in contact with everybody that is not declared down"
    SPLIT = "out of contact with somebody"
    SETTLING = "in contact again, waiting whether it lasts"
    RECORD = "adopting the newest committed record, fencing what is older"
    LEADERS = "seeing that each shard has one leader; older ones step down"
    ENTRIES = "handing over what was kept apart, until it is covered"
    COPIES = "comparing the copies of all shards"
    SIGNALS = "delivering again the durable signals that were missed"
    DIRECTORY = "comparing what nodes advertise"
    REPORT = "telling how long it took and what was merged"
    RESTING = "waiting before replicas are moved"


class Event(Enum):
    """What happens to it."""

    LOST = "contact with somebody is lost"
    FOUND = "there is contact with everybody"
    LASTED = "the wait is over"
    DONE = "the step is done"


# The steps that the driver performs, in this order.
STEPS: Final = (
    Stage.RECORD,
    Stage.LEADERS,
    Stage.ENTRIES,
    Stage.COPIES,
    Stage.SIGNALS,
    Stage.DIRECTORY,
    Stage.REPORT,
)


def _transitions() -> Mapping[tuple[Stage, Event], Stage]:
    table: dict[tuple[Stage, Event], Stage] = {}
    table.update(((stage, Event.LOST), Stage.SPLIT) for stage in Stage if stage is not Stage.SPLIT)
    table[Stage.SPLIT, Event.FOUND] = Stage.SETTLING
    table[Stage.SETTLING, Event.LASTED] = STEPS[0]
    for step, following in zip(STEPS, (*STEPS[1:], Stage.RESTING), strict=True):
        table[step, Event.DONE] = following
    table[Stage.RESTING, Event.LASTED] = Stage.WHOLE
    return MappingProxyType(table)


TRANSITIONS: Final = _transitions()


class Do(NamedTuple):
    """Perform this step, then call `done` with both values. Performing it twice does no harm."""

    episode: int
    step: Stage


class Noted(NamedTuple):
    """A transition to log.

    Attributes:
        episode: Which split, counted from 1.
        before: Where the node stood.
        after: Where it stands now.
        lasted_ms: How long the split has lasted so far, healing included.
    """

    episode: int
    before: Stage
    after: Stage
    lasted_ms: int


Effect = Do | Noted


class Healing:
    """The healing of one node. Not thread-safe: only its driver calls it.

    Attributes:
        stage: Where it stands.
        episode: Which split it is, or was, about; 0 before the first.
    """

    __slots__ = ("_due_ms", "_retry_ms", "_since_ms", "_stable_ms", "episode", "stage")

    def __init__(self, *, stable_ms: int, retry_ms: int) -> None:
        """Starts whole.

        Args:
            stable_ms: How long contact must have lasted before healing begins, >= 0. Replicas rest
                twice as long after it.
            retry_ms: After how long a step that is not done is asked for again, > 0.
        """
        self._stable_ms = stable_ms
        self._retry_ms = retry_ms
        self._since_ms = 0
        self._due_ms: int | None = None
        self.stage = Stage.WHOLE
        self.episode = 0

    @property
    def may_rebalance(self) -> bool:
        """Whether replicas may be moved for balance; repair needs no leave."""
        return self.stage is Stage.WHOLE

    @property
    def next_at_ms(self) -> int | None:
        """When `tick` has something to do; None when nothing is due."""
        return self._due_ms

    def observe(self, is_whole: bool, now_ms: int) -> tuple[Effect, ...]:
        """Takes in whether there is contact with every member that is not declared down."""
        return self._on(Event.FOUND if is_whole else Event.LOST, now_ms)

    def done(self, episode: int, step: Stage, now_ms: int) -> tuple[Effect, ...]:
        """Takes in that a step is done; of an earlier split, or another step, it counts nothing."""
        if episode != self.episode or step is not self.stage:
            return ()
        return self._on(Event.DONE, now_ms)

    def tick(self, now_ms: int) -> tuple[Effect, ...]:
        """Ends a wait that is over; asks again for a step that takes long."""
        if self._due_ms is None or now_ms < self._due_ms:
            return ()
        if self.stage in STEPS:
            self._due_ms = now_ms + self._retry_ms
            return (Do(self.episode, self.stage),)
        return self._on(Event.LASTED, now_ms)

    def _on(self, event: Event, now_ms: int) -> tuple[Effect, ...]:
        before = self.stage
        after = TRANSITIONS.get((before, event))
        if after is None:
            return ()
        if before is Stage.WHOLE:
            self.episode += 1
            self._since_ms = now_ms
        self.stage = after
        effects: list[Effect] = [Noted(self.episode, before, after, now_ms - self._since_ms)]
        self._due_ms = None
        if after in STEPS:
            self._due_ms = now_ms + self._retry_ms
            effects.append(Do(self.episode, after))
        elif after is Stage.SETTLING:
            self._due_ms = now_ms + self._stable_ms
        elif after is Stage.RESTING:
            self._due_ms = now_ms + 2 * self._stable_ms
        return tuple(effects)
