"""Where the cases run that need no cluster: this process, on asyncio's own event loop."""

import asyncio
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType, TracebackType
from typing import Protocol, Self

from benchmarks.report import Samples


@dataclass(frozen=True)
class Here:
    """What such a case finds."""

    is_quick: bool


class Case(Protocol):
    """One command's measurements."""

    def __init__(self, site: Here) -> None: ...

    async def prepare(self) -> None:
        """Make and warm up what is measured."""
        ...

    async def round(self, number: int, /) -> Samples:
        """One sample of each side for every comparison; odd rounds begin with the peer."""
        ...


class ThisProcess:
    """Nothing to start and nothing to end.

    Attributes:
        versions: None beside those of every run.
    """

    versions: Mapping[str, str] = MappingProxyType({})

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...

    def rounds(self, case: type[Case], count: int, *, is_quick: bool) -> Iterator[Samples]:
        """Prepare a case, then yield the samples of its rounds."""
        with asyncio.Runner() as runner:
            asked = case(Here(is_quick))
            runner.run(asked.prepare())
            for number in range(count):
                yield runner.run(asked.round(number))
