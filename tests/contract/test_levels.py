"""Levels of consistency: what a read of a type may be, and what it may not."""

from contextlib import suppress

import pytest

from jido_cluster import (
    Agent,
    Cluster,
    InvalidInputError,
    NoQuorumError,
    OutcomeUnknownError,
    RejectedError,
    new_id,
)
from tests.contract.agents import Counter
from tests.contract.replicated import Ledger, Note
from tests.contract.support import Mortal

LEVELS = ("eventual", "session", "strong")


@pytest.mark.parametrize(
    ("agent_type", "own"),
    [(Counter, 0), (Note, 1), (Ledger, 2)],
    ids=["eventual", "session", "strong"],
)
def test_a_state_is_read_at_its_level_or_a_weaker_one(
    cluster: Cluster, agent_type: type[Agent], own: int
) -> None:
    """A stronger one would promise what the writes did not."""
    ref = cluster.spawn(agent_type, new_id("level-"))
    assert ref.info().consistency == LEVELS[own]
    for rank, level in enumerate(LEVELS):
        if rank <= own:
            assert ref.state(consistency=level) == ref.state()  # type: ignore[arg-type]
        else:
            with pytest.raises(InvalidInputError, match="stronger level"):
                ref.state(consistency=level)  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError, match="use 'eventual'"):
        ref.state(consistency="linear")  # type: ignore[arg-type]


def test_a_strong_read_asks_a_quorum_and_a_weaker_one_does_not(mortal: Mortal) -> None:
    """With two of three replicas gone the leader shows what it holds until it pauses."""
    cluster = mortal.cluster
    survivor = next(n.name for n in cluster.nodes() if n.name not in mortal.victims[:2])
    ledger = next(
        ref
        for ref in (cluster.spawn(Ledger, new_id("ledger-")) for _ in range(200))
        if ref.info().node == survivor
    )
    assert ledger.call(Ledger.add, 3) == 3
    assert ledger.state(consistency="strong").amount == 3
    for victim in mortal.victims[:2]:
        mortal.kill(victim)
    with suppress(NoQuorumError):
        assert ledger.options(timeout=2.0).state(consistency="eventual").amount == 3
    with pytest.raises((RejectedError, OutcomeUnknownError)):
        ledger.options(timeout=1.0).state(consistency="strong")
