"""Schedules about changes of the replicas: joint configs, learners, and how a change ends."""

from jido_state.messages import Accept
from jido_state.simulation.authority import Report
from tests.simulation.script import Script


def _on_two_of_three(missing: int) -> Script:
    """Replicas on 0, 1 and 2, a machine 3, and an agent that `missing` has not heard of."""
    script = Script(3, 4)
    script.elect(0)
    script.hold(Accept, target=missing)
    script.call(0, "spawn", 7)
    return script


def new_needs_a_leader_of_the_joint_config() -> None:
    """An old leader goes on in the joint config, and what one replica lacks is lost with two."""
    script = _on_two_of_three(1)
    script.hold(Accept, target=3)
    script.join([0, 1, 3])
    script.run(4_000)
    script.crash(0)
    script.crash(2)
    script.run(6_000)
    script.judge()


def a_joint_leader_learns_all_keys() -> None:
    """The leader of the joint config is the one that never heard of the agent."""
    script = _on_two_of_three(1)
    script.crash(0)
    script.join([0, 1, 3])
    script.elect(1)
    script.simple()
    script.judge()


def a_joint_config_comes_between() -> None:
    """From 0, 1, 2 to 1, 3 and 4 at once: the majority of the new knows nothing."""
    script = Script(3, 5)
    script.elect(0)
    script.call(0, "spawn", 7)
    script.join([1, 3, 4])
    script.crash(0)
    script.crash(1)
    script.run(6_000)
    script.call(3, "read", ms=100)
    script.call(4, "read", ms=100)
    script.judge()


def both_majorities_count() -> None:
    """A joint leader settles to the old majority alone, and the new one serves without it."""
    script = Script(3, 5)
    script.elect(0)
    script.call(0, "spawn", 7)
    script.cut([0, 1, 2], [3, 4])
    script.join([0, 3, 4])
    script.run(6_000)
    script.heal()
    script.crash(0)
    script.run(6_000)
    script.judge()


def a_learner_does_not_vote() -> None:
    """A leader with one learner on its side of a cut; the two other voters elect another."""
    script = Script(3, 4)
    script.elect(0)
    script.call(0, "spawn", 0)
    script.hold(_is_ready)
    script.learn([0, 1, 3])
    script.run(2_000)
    script.cut([0, 3], [1, 2])
    script.call(0, "add", 1)
    script.gone(0)
    script.elect(1)
    script.value(1)
    script.judge()


def staged_content_is_named_by_version() -> None:
    """Learners copy a value, it changes, and the copies are named when they become voters."""
    script = Script(3, 5)
    script.elect(0)
    script.call(0, "spawn", 0)
    ready = script.hold(_is_ready)
    script.learn([0, 3, 4])
    script.until(lambda: len({one for one, *_ in ready.messages}) == 2, "both have copied")
    script.call(0, "add", 1)
    ready.release()
    script.simple()
    script.crash(0)
    script.elect(3)
    script.value(3)
    script.judge()


def _is_ready(message: object) -> bool:
    return type(message) is Report and message.kind == "ready"
