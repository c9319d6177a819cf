"""Breaks the cores on purpose, in copies of their own.

A mutant names source lines and what is put in their place. `broken` loads fresh copies of the
cores with the mutant in them, and of the schedules, which import them; the production code has no
switches. A line that is not there exactly once is an error, so the table keeps up with the code.
"""

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import CodeType, ModuleType
from typing import Any, Final, NamedTuple

__all__ = ["Edit", "Mutant", "StaleMutantError", "broken", "play"]

_OURS: Final = ("jido_state", "jido_placement")
_SCHEDULES: Final = "tests.simulation."
_TELLERS: Final = (_SCHEDULES + "script", _SCHEDULES + "sch", "tests.state.acting_script")


class StaleMutantError(Exception):
    """The source no longer has the lines that a mutant wants to change."""


class Edit(NamedTuple):
    """Lines of a module and what is put in their place."""

    module: str
    before: str
    after: str


class Mutant(NamedTuple):
    """A broken rule.

    Attributes:
        name: Also the name of its schedule, unless that is given.
        rule: What it breaks: an invariant or section of the protocol.
        edits: One, or as many as the rule has guards.
        schedule: File and function that catch it.
    """

    name: str
    rule: str
    edits: tuple[Edit, ...]
    schedule: str


class _Loader(SourceFileLoader):
    def __init__(self, name: str, path: str, edits: list[Edit]) -> None:
        super().__init__(name, path)
        self._edits = edits

    def get_code(self, fullname: str) -> CodeType:
        source = self.get_data(self.path).decode()
        for edit in self._edits:
            count = source.count(edit.before)
            if count != 1:
                raise StaleMutantError(f"{fullname} has {count} times: {edit.before}")
            source = source.replace(edit.before, edit.after)
        return compile(source, self.path, "exec", dont_inherit=True)


class _Finder(MetaPathFinder):
    def __init__(self, edits: tuple[Edit, ...]) -> None:
        self._edits: dict[str, list[Edit]] = {}
        for edit in edits:
            self._edits.setdefault(edit.module, []).append(edit)

    def find_spec(
        self, fullname: str, path: Any, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        edits = self._edits.get(fullname)
        if edits is None:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is None or spec.origin is None:
            raise StaleMutantError(f"there is no module {fullname}")
        spec.loader = _Loader(fullname, spec.origin, edits)
        return spec


def _is_ours(name: str) -> bool:
    return name.split(".", maxsplit=1)[0] in _OURS or name.startswith(_TELLERS)


@contextmanager
def broken(mutant: Mutant | None) -> Iterator[None]:
    """Within, imports get fresh copies of the cores with the mutant in them; None: with none."""
    saved = {name: module for name, module in sys.modules.items() if _is_ours(name)}
    for name in saved:
        del sys.modules[name]
    finder = _Finder(mutant.edits if mutant is not None else ())
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for name in [name for name in sys.modules if _is_ours(name)]:
            del sys.modules[name]
        sys.modules.update(saved)


def play(mutant: Mutant, *, is_broken: bool) -> None:
    """Runs the mutant's schedule, on the broken code or on the real one.

    Raises:
        AssertionError: Something was seen that must not be.
    """
    file, _, name = mutant.schedule.partition(":")
    with broken(mutant if is_broken else None):
        getattr(importlib.import_module(_SCHEDULES + file), name)()
