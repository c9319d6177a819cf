"""Schedules about what a replica is: lost and old stores, removal, images, second processes."""

from jido_state.messages import Accept, Copied, Heartbeat, List, Prevote
from jido_state.simulation.authority import AUTHORITY, Boot, Configs, Report
from jido_state.simulation.cluster import TWINS
from jido_state.simulation.disk import SimDisk
from jido_state.simulation.machine import Machine, Stored
from jido_state.store import Table
from tests.simulation.script import Script


def _agent_on_two(missing: int, replicas: int = 3, nodes: int | None = None) -> Script:
    """Led by node 0, with an agent that one replica has not heard of."""
    script = Script(replicas, nodes)
    script.elect(0)
    script.hold(Accept, target=missing)
    script.call(0, "spawn", 7)
    return script


def a_lost_store_is_silent() -> None:
    """One of the two that hold the agent loses its store, the other is away."""
    script = _agent_on_two(2)
    script.lose(1)
    script.crash(0)
    script.run(6_000)
    script.call(1, "read", ms=100)
    script.call(2, "read", ms=100)
    script.judge()


def an_old_answer_makes_no_header() -> None:
    """The root group's first answer, from before the header was made, comes after its loss."""
    script = Script()
    old = Configs({0: script.config}, frozenset())
    script.elect(0)
    script.hold(Accept, target=2)
    script.call(0, "spawn", 7)
    configs = script.hold(Configs, target=1)
    script.lose(1)
    script.run(100)
    script.carry(AUTHORITY, 1, old)
    script.run(10)
    configs.stop()
    script.crash(0)
    script.run(6_000)
    script.call(1, "read", ms=100)
    script.call(2, "read", ms=100)
    script.judge()


def followers_take_records_from_leaders_only() -> None:
    """What one replica holds is copied to another, and then counts as if a quorum had taken it."""
    script = Script()
    script.elect(0)
    script.call(0, "spawn", 0)
    pages = script.hold(Copied, 0, 2)
    script.hold(Copied, 0, 1)
    script.hold(Accept, 0)
    script.call(0, "add", 1)
    script.run(8_000)
    script.alone(0)
    script.gone(0)
    script.elect(1)
    script.hold(Accept, 1)
    script.call(1, "add", 10)
    pages.release()
    script.heal()
    script.alone(1)
    script.elect(0)
    script.call(0, "read", ms=100)
    script.judge()


def a_removed_replica_remembers() -> None:
    """A replica that slept through a change of config asks the one that was removed."""
    script = Script(3, 4)
    script.elect(0)
    script.call(0, "spawn", 0)
    script.alone(0)
    script.crash(0)
    script.elect(1)
    configs = script.hold(Configs, target=0)
    script.join([0, 1, 3])
    script.simple()
    script.call(1, "add", 1)
    script.run(500)
    script.cut([1, 3], [0, 2])
    script.start(0)
    script.run(8_000)
    script.call(0, "read", ms=100)
    configs.stop()
    script.judge()


def added_again_is_empty() -> None:
    """A replica leaves while an agent lives, and comes back after its tombstone is gone."""
    script = Script(3, 4)
    script.elect(0)
    script.call(0, "spawn", 7)
    script.alone(2)
    script.crash(2)
    script.join([0, 1, 3])
    script.simple()
    script.call(next(n for n in (0, 1, 3) if script.leads(n)), "delete", ms=50)
    leader = next(node for node in script.machines if script.leads(node))
    script.crash(leader)
    other = 1 if leader != 1 else 0
    script.elect(other)
    script.start(leader)
    script.run(16_000)
    script.heal()
    script.join([0, 1, 2])
    script.start(2)
    script.run(8_000)
    script.judge()


def copies_are_no_records() -> None:
    """A learner copies an agent, which is deleted and forgotten before the learner may vote."""
    script = Script(3, 4)
    script.elect(0)
    script.call(0, "spawn", 7)
    ready = script.hold(_is_ready)
    script.learn([0, 1, 3])
    script.until(lambda: bool(ready.messages), "the learner has copied")
    script.call(0, "delete")
    script.crash(0)
    script.elect(1)
    script.start(0)
    script.run(16_000)
    ready.release()
    script.simple()
    script.judge()


def _rot(script: Script, node: int) -> None:
    """The record of the agent is spoilt on this node, and found so at its next start."""
    script.crash(node)
    file: SimDisk[Stored] = script.machines[node].directory.files[0]
    file.rot(Table.RECORD)
    script.start(node)


def a_spoilt_replica_does_not_know_what_is_absent() -> None:
    """One of the two copies rots, and the replica with the other is away."""
    script = _agent_on_two(2)
    _rot(script, 1)
    script.crash(0)
    script.run(6_000)
    script.call(1, "read", ms=100)
    script.call(2, "read", ms=100)
    script.judge()


def what_rotted_is_not_absent() -> None:
    """A copy rots between the promise of its replica and the listing of what it holds."""
    script = _agent_on_two(2)
    script.crash(0)
    script.hold(Prevote, 1)
    lists = script.hold(List, 2, 1)
    script.until(lambda: bool(lists.messages), "2 asks what 1 holds")
    _rot(script, 1)
    lists.release()
    script.run(100)
    script.call(2, "read", ms=100)
    script.judge()


def a_cloned_directory_is_refused() -> None:
    """The image of a halted node runs beside the node: both answer in its name."""
    script = Script()
    script.elect(0)
    script.call(0, "spawn", 0)
    script.crash(1, power=True)
    twin = script.twin(1, script.image(1))
    _both(script, twin)


def an_image_with_an_intent_is_refused() -> None:
    """As before; the node was halted while it had asked to be registered."""
    script = Script()
    script.elect(0)
    script.call(0, "spawn", 0)
    script.crash(1)
    asked = script.hold(Boot, source=AUTHORITY)
    script.start(1)
    script.crash(1, power=True)
    asked.stop()
    twin = script.twin(1, script.image(1))
    _both(script, twin)


def _both(script: Script, twin: Machine) -> None:
    """Node 1 and its image run; the leaders of both sides count on one of them each."""
    machine = script.machines[1]
    machine.start()
    script.run(200)
    script.routes[1] = TWINS + 1
    twin.start()
    script.run(200)
    # 0 knows the image, 2 knows the node.
    script.routes.clear()
    script.alone(0)
    script.gone(0)
    script.elect(2)
    script.call(2, "add", 1)
    script.heal()
    script.routes[1] = TWINS + 1
    script.alone(2)
    script.call(0, "add", 10, ms=100)
    script.judge()


def a_file_has_one_process() -> None:
    """A process is taken for dead and replaced, and goes on: two of them write one file."""
    script = Script()
    script.elect(0)
    script.call(0, "spawn", 0)
    script.scheduler.pause(1)
    twin = script.twin(1, script.machines[1].directory)
    twin.start(is_supervised=True)
    script.routes[1] = TWINS + 1
    script.alone(0)
    script.gone(0)
    script.hold(Prevote, TWINS + 1)
    script.run(800)
    script.call(2, "add", 1)
    if twin.is_up:
        twin.crash()
    script.routes.clear()
    script.scheduler.resume(1)
    script.heal()
    script.alone(2)
    script.call(0, "add", 10)
    script.judge()


def a_store_that_was_set_back_is_lost() -> None:
    """One of the two that acknowledged a write forgets it; the other one is away."""
    script = _agent_on_two(2)
    image = script.image(1)
    script.call(0, "add", 1)
    script.run(400)
    script.set_back(1, image)
    script.crash(0)
    script.start(1)
    script.run(6_000)
    script.call(1, "read", ms=100)
    script.call(2, "read", ms=100)
    script.judge()


def a_store_is_checked_before_it_acks() -> None:
    """A deposed leader finds the replica that deposed it with a store from before that."""
    script = Script()
    script.elect(0)
    script.call(0, "spawn", 0)
    image = script.image(1)
    script.alone(0)
    script.gone(0)
    script.elect(2)
    script.call(2, "add", 1, ms=500)
    script.set_back(1, image)
    script.heal()
    script.alone(2)
    script.hold(Heartbeat, 0, 1)
    script.start(1)
    script.call(0, "add", 10)
    script.judge()


def what_a_full_disk_refused_is_written_again() -> None:
    """A write meets a full disk; a later one does not."""
    script = _agent_on_two(2)
    script.full(1)
    first = script.call(0, "add", 1)
    script.full(1, is_full=False)
    script.call(0, "spawn", 1, key="j")
    script.until(lambda: first.is_ok, "the first write is acknowledged")
    script.judge()


def _is_ready(message: object) -> bool:
    return type(message) is Report and message.kind == "ready"
