"""Membership in virtual time: what the benchmark counts."""

from benchmarks.control import COMPARISONS, SIZES, UNITS, costs


def test_the_same_seed_costs_the_same() -> None:
    """All but CPU time, which is the machine's."""
    first, again = costs(20, seed=3), costs(20, seed=3)
    assert first._replace(cpu=0) == again._replace(cpu=0)


def test_a_quiet_node_probes_once_a_second_and_answers_once() -> None:
    """Two messages a second, whatever the number of nodes: nothing else is under way."""
    for size in (10, 60):
        found = costs(size, seed=1)
        assert found.messages == 2.0
        assert 20 <= found.bytes / found.messages <= 60
        assert found.cpu > 0


def test_a_death_is_known_to_all_in_the_end() -> None:
    """Not before a probe has failed and a suspicion has ended; Timings.lan() says 4 s and more."""
    assert 4.0 < costs(10, seed=2).convergence < 30.0


def test_every_size_is_compared_with_the_first() -> None:
    """In each of the four units."""
    assert len(COMPARISONS) == len(UNITS) * (len(SIZES) - 1)
