"""Stamps: which of two concurrent values is the later one, for those who must have just one.

Theory. A stamp is wall time where that suffices and a count where it does not: a value's stamp is
above the stamp of the value it was made from, whatever the clocks say, and close to wall time. Ties
go to the higher dot, so two stamps are never equal. Stamps decide between concurrent values only;
nothing that must not be lost depends on them.
*Source*: Kulkarni et al., Logical physical clocks (2014).
*Departure*: a stamp far ahead of the own wall clock is left alone, so one wrong clock does not push
all others ahead with it.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from jido_state.dots import Dot

__all__ = ["MAX_AHEAD_MS", "NO_STAMP", "Stamp"]

MAX_AHEAD_MS: Final = 60_000
"""A clock this far ahead is broken: NTP keeps machines within tens of milliseconds."""


class Stamp(NamedTuple):
    """A hybrid logical clock's reading. Ordered; two deeds never have the same.

    Attributes:
        wall_ms: Milliseconds of wall time, >= 0.
        counter: How many came before at this wall time, >= 0.
        dot: Of the deed that made it.
    """

    wall_ms: int
    counter: int
    dot: Dot

    def next(self, wall_ms: int, dot: Dot) -> Stamp:
        """The stamp of what is made from this, above it even if the clock went back."""
        if wall_ms > self.wall_ms:
            return Stamp(wall_ms, 0, dot)
        return Stamp(self.wall_ms, self.counter + 1, dot)

    def adopt(self, other: Stamp, wall_ms: int) -> Stamp:
        """The later of both; this one if the other is too far ahead of the wall clock."""
        return max(self, other) if other.wall_ms <= wall_ms + MAX_AHEAD_MS else self


NO_STAMP: Final = Stamp(0, 0, ())
