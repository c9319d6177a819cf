"""A stream of chance that is given, not drawn: the same seed, the same numbers everywhere.

The cores read nothing from their process, so whoever drives one hands it a seed. This is
SplitMix64: a counter and a mixer of 64 bits, enough to spread probes and choices, and nothing that
a secret may rest on.
*Source*: Steele, Lea, Flood, Fast Splittable Pseudorandom Number Generators (2014), figure 17.
"""

from collections.abc import MutableSequence
from typing import Any

__all__ = ["Stream"]

_MASK = (1 << 64) - 1


class Stream:
    """Numbers that follow from a seed. Belongs to one machine; copying it repeats them."""

    __slots__ = ("_state",)

    def __init__(self, seed: int) -> None:
        """Starts the stream of this seed, any integer; the lowest 64 bits count."""
        self._state = seed & _MASK

    def bits(self) -> int:
        """The next 64 bits, 0 <= result < 2**64."""
        self._state = mixed = self._state + 0x9E3779B97F4A7C15 & _MASK
        mixed = (mixed ^ mixed >> 30) * 0xBF58476D1CE4E5B9 & _MASK
        mixed = (mixed ^ mixed >> 27) * 0x94D049BB133111EB & _MASK
        return mixed ^ mixed >> 31

    def below(self, limit: int) -> int:
        """A number, 0 <= result < `limit`; `limit` > 0. Uneven by less than limit / 2**64."""
        return self.bits() * limit >> 64

    def shuffle(self, items: MutableSequence[Any]) -> None:
        """Puts the items into an order of which each is as likely as any other."""
        for last in range(len(items) - 1, 0, -1):
            other = self.below(last + 1)
            items[last], items[other] = items[other], items[last]
