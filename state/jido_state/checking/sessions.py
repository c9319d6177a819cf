"""The four session guarantees, checked by replaying what each session saw.

Theory. Each answer names the state it rests on: the version of the register, and the dots of what
acting replicas wrote that it covers as well. One such *sight* covers another when it is at least
as new in both. A session then has its guarantees when, for each agent by itself,

- read your writes: a read covers the session's earlier writes;
- monotonic reads: a read covers its earlier reads;
- monotonic writes: a write covers its earlier writes, and is newer;
- writes follow reads: a write covers its earlier reads, and is newer.

An operation of unknown outcome promises nothing. *Source*: Terry et al., Session guarantees for
weakly consistent replicated data (PDIS 1994).
"""

from collections.abc import Hashable, Iterable
from typing import Final, NamedTuple

__all__ = ["Sight", "Violation", "check_sessions"]

_GUARANTEES: Final = {
    ("write", "read"): "read your writes",
    ("read", "read"): "monotonic reads",
    ("write", "write"): "monotonic writes",
    ("read", "write"): "writes follow reads",
}


class Sight(NamedTuple):
    """One answer to a session, with the state it rests on.

    Attributes:
        session: Whose it is. The answers of a session come in the order of its calls.
        key: The agent.
        op: "read" or "write".
        version: Of the register: what was read, or what the write made. Any tuple that is ordered
            as versions are; shorter or empty for "there is none yet".
        dots: Of acting replicas, beside the register, that the state covers; those the register
            has merged since must be among them.
    """

    session: Hashable
    key: str
    op: str
    version: tuple[int, ...]
    dots: frozenset[Hashable] = frozenset()

    def covers(self, other: "Sight") -> bool:
        """Whether the state is at least as new as the other's."""
        return self.version >= other.version and self.dots >= other.dots


class Violation(NamedTuple):
    """Two answers of a session that break a guarantee."""

    guarantee: str
    earlier: Sight
    later: Sight

    def __str__(self) -> str:
        """The guarantee, the session, and both states."""
        earlier, later = self.earlier, self.later
        return (
            f"{self.guarantee}: session {later.session!r}, key {later.key!r}: "
            f"{later.op} at {_at(later)} after {earlier.op} at {_at(earlier)}"
        )


def check_sessions(sights: Iterable[Sight]) -> list[Violation]:
    """The violations, each guarantee at most once per answer, in the order of the answers.

    Raises:
        ValueError: An operation is neither "read" nor "write".
    """
    seen: dict[tuple[Hashable, str], list[Sight]] = {}
    violations = []
    for sight in sights:
        if sight.op not in {"read", "write"}:
            raise ValueError(f"op={sight.op!r} must be 'read' or 'write'")
        earlier = seen.setdefault((sight.session, sight.key), [])
        broken: dict[str, Sight] = {}
        for one in earlier:
            is_old = sight.op == "write" and one.covers(sight)
            if is_old or not sight.covers(one):
                broken.setdefault(_GUARANTEES[one.op, sight.op], one)
        violations += [Violation(name, one, sight) for name, one in broken.items()]
        # What the new answer covers need not be remembered: who covers the new one covers it too.
        earlier[:] = [one for one in earlier if one.op != sight.op or not sight.covers(one)]
        earlier.append(sight)
    return violations


def _at(sight: Sight) -> str:
    dots = f" with {sorted(sight.dots, key=repr)}" if sight.dots else ""
    return f"{sight.version}{dots}"
