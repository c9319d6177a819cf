"""Agents kept in memory: what survives, and what may be lost and is then noticed."""

from jido_state.simulation.cluster import Cluster
from jido_state.simulation.swarm import Swarm
from tests.simulation import schedules_memory


def test_two_crashes_may_cost_what_was_acknowledged() -> None:
    """The judge excuses the loss of both, and sees it happen; other schedules excuse nothing."""
    schedules_memory.two_may_forget()


def test_seeds_keep_agents_in_memory_and_judge_most_of_them() -> None:
    """A judge that excused whatever crashed would see nothing."""
    answers = agents = lost = 0
    for seed in range(40):
        swarm = Swarm.draw(seed)
        if not swarm.in_memory or swarm.levels == (("strong", 1.0),):
            continue
        cluster = Cluster(swarm)
        result = cluster.run()
        assert not result.failure, f"seed {seed}: {result.failure}"
        answers += result.counts["answers from memory"]
        agents += result.counts["agents in memory"]
        lost += result.counts["of them perhaps lost"]
    assert answers > 500
    assert lost * 4 < agents
