"""Schedules about the life of a record: op ids, tombstones, and what an answer rests on."""

from jido_state.messages import Accept, Accepted, Read
from jido_state.requests import Status
from jido_state.simulation.machine import Told
from tests.simulation.script import Script, ScriptError

WINDOW_MS = 2_000


def _led(by: int = 0) -> Script:
    script = Script(window_ms=WINDOW_MS)
    script.elect(by)
    return script


def _again_led(script: Script, by: int) -> None:
    """The leader crashes, and another one leads, with all replicas."""
    leader = next(node for node in script.machines if script.leads(node))
    script.crash(leader)
    script.elect(by)
    script.start(leader)
    script.run(500)


def an_operation_takes_effect_once() -> None:
    """The answer is lost, and the caller asks again."""
    script = _led()
    script.call(0, "spawn", 0)
    lost = script.hold(Told)
    call = script.call(0, "add", 1)
    lost.stop()
    script.again(call, 0)
    script.judge()


def a_tombstone_outlives_its_ballot() -> None:
    """A write from before the delete comes late, while its ballot is still the highest."""
    script = _led()
    late = script.record(Accept, 0, 2)
    script.call(0, "spawn", 7)
    late.stop()
    script.call(0, "delete")
    script.run(3 * WINDOW_MS + 6_000)
    late.release()
    script.crash(0)
    script.elect(2)
    script.judge()


def a_tombstone_waits_for_all() -> None:
    """A replica sleeps through the delete, and has the agent when it comes back."""
    script = _led()
    script.call(0, "spawn", 7)
    script.crash(2)
    script.call(0, "delete")
    script.crash(0)
    script.start(0)
    script.elect(1)
    script.run(3 * WINDOW_MS + 6_000)
    script.crash(1)
    script.start(2)
    script.elect(2)
    script.judge()


def a_tombstone_remembers_op_ids() -> None:
    """The answer to a spawn is lost; the agent is deleted; then the caller spawns again."""
    script = Script(window_ms=60_000)
    script.elect(0)
    lost = script.hold(Told)
    spawn = script.call(0, "spawn", 7)
    lost.stop()
    script.call(0, "delete")
    _again_led(script, 1)
    script.run(12_000)
    script.again(spawn, 1)
    script.judge()


def a_new_life_takes_the_place_of_the_named_one() -> None:
    """A leader dies while it replaces a life; two more callers replace it at the next one.

    The agent is there all along, the second of them comes too late, and who asks again under its
    operation id is answered as before.
    """
    script = _led()
    script.call(0, "spawn", 7)
    lost = script.value(0).generation
    script.hold(Accept, 0)
    first = script.call(0, "respawn", [7, 8], over=lost)
    script.crash(0)
    script.elect(1)
    script.start(0)
    script.until(lambda: script.value(1).state == 7, "the old life is there")
    second = script.call(1, "respawn", [7, 9], over=lost)
    third = script.call(1, "respawn", [7, 10], over=lost, ms=500)
    _again_led(script, 2)
    script.again(second, 2)
    script.again(first, 2, ms=500)
    if second.status is not Status.OK or third.status is None:
        raise ScriptError("nothing was replaced")
    script.judge()


def the_own_tombstone_is_durable_too() -> None:
    """A leader that slept through the delete writes the tombstone again, into its cache only."""
    script = Script(window_ms=1_000)
    script.elect(0)
    script.call(0, "spawn", 7)
    missed = script.hold(Accept, target=2)
    script.call(0, "delete")
    script.crash(0)
    reads = script.hold(Read, 2)
    script.elect(2)
    missed.stop()
    script.start(0)
    script.run(1_800)
    script.stall(2)
    reads.release()
    script.run(1_500)
    script.crash(2, power=True)
    script.start(2)
    script.elect(2)
    script.judge()


def a_repeated_answer_is_as_new_as_its_row() -> None:
    """A write that only the third leader finds; its answer is shown to the second one.

    The second leader has not seen the write. If the answer to the repeated call named the version
    under which the turn ran, which is older than the second leader, that one would think that it
    has seen everything the session has.
    """
    script = Script(5, election_ms=2_500)
    script.elect(0)
    script.call(0, "spawn", 0, level="session")
    script.hold(Accept, 0, 1)
    script.hold(Accept, 0, 2)
    script.hold(Accept, 0, 3)
    script.hold(Accept, 0, 4)
    write = script.call(0, "add", 1, level="session", session="s")
    script.crash(0)
    script.elect(1)
    script.alone(1)
    script.start(0)
    script.gone(1)
    script.elect(0)
    script.again(write, 0, ms=50)
    script.call(1, "read", level="session", session="s")
    script.judge()


def a_repeated_answer_is_of_its_leader() -> None:
    """A leader does not hear that its write is on a quorum; the next one answers for it.

    The row still has the version of the leader that is deposed and does not know. If the answer
    named that version, that leader would think that it has seen everything the session has.
    """
    script = _led()
    script.call(0, "spawn", 0, level="session")
    script.hold(Accepted, target=0)
    write = script.call(0, "add", 1, level="session", session="s")
    script.alone(0)
    script.gone(0)
    script.elect(1)
    script.again(write, 1, ms=50)
    script.call(0, "read", level="session", session="s")
    script.judge()
