"""What the simulator can see: each mutant is caught by its schedule, the real code by none."""

import pytest

from tests.simulation.breaking import Edit, Mutant, StaleMutantError, broken, play
from tests.simulation.mutants import MUTANTS


def _name(mutant: Mutant) -> str:
    return mutant.name.replace(" ", "-")


@pytest.mark.parametrize("mutant", MUTANTS, ids=_name)
def test_a_schedule_catches_the_mutant(mutant: Mutant) -> None:
    """With the rule broken the schedule ends in something that must not be."""
    with pytest.raises(AssertionError):
        play(mutant, is_broken=True)


@pytest.mark.parametrize("schedule", sorted({mutant.schedule for mutant in MUTANTS}))
def test_the_real_code_passes_the_schedule(schedule: str) -> None:
    """With all rules in place the same schedule ends well, so it was the rule that was missing."""
    mutant = next(one for one in MUTANTS if one.schedule == schedule)
    play(mutant, is_broken=False)


def test_each_mutant_is_named_once() -> None:
    """Names are what the table and the command line go by."""
    names = [mutant.name for mutant in MUTANTS]
    assert len(set(names)) == len(names)


def test_a_mutant_of_lines_that_are_gone_is_an_error() -> None:
    """The code moves on; a mutant that changes nothing must not look like one that is caught."""
    edit = Edit("jido_state.hlc", "these words are not there", "")
    with pytest.raises(StaleMutantError, match="0 times"), broken(Mutant("", "", (edit,), "")):
        __import__("jido_state.hlc")


def test_broken_code_does_not_stay() -> None:
    """After a mutant the modules are the ones of before."""
    import jido_state.hlc as before

    with broken(None):
        import jido_state.hlc as within
    import jido_state.hlc as after

    assert within is not before
    assert after is before
