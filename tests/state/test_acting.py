"""Acting without a quorum, and healing: the schedules of the protocol's findings, step by step."""

import importlib
import inspect
import sys

import pytest

from tests.simulation.breaking import Mutant, broken
from tests.state import acting_schedules
from tests.state.acting_mutants import MUTANTS

SCHEDULES = sorted(
    name
    for name, each in vars(acting_schedules).items()
    if inspect.isfunction(each)
    and each.__module__ == acting_schedules.__name__
    and name != "made"
    and not name.startswith("_")
)
COPIED = ("tests.state.acting_script", "tests.state.acting_schedules")


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_schedule_ends_well(schedule: str) -> None:
    """What the schedule's own words say holds, step by step."""
    getattr(acting_schedules, schedule)()


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name.replace(" ", "-"))
def test_a_schedule_catches_the_mutant(mutant: Mutant) -> None:
    """With the rule broken its schedule ends in something that must not be."""
    saved = {name: sys.modules.pop(name) for name in COPIED if name in sys.modules}
    try:
        with broken(mutant), pytest.raises((AssertionError, RuntimeError)):
            getattr(importlib.import_module(COPIED[1]), mutant.schedule)()
    finally:
        for name in COPIED:
            sys.modules.pop(name, None)
        sys.modules.update(saved)
