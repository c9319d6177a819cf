"""Schedules about agents kept in memory: what their acks say, and what they must not put at risk.

A commit that is under way when its process ends may be on the disk all the same. So where something
is to be forgotten another write, of the agent "j", keeps the disk busy before it.
"""

from jido_state.messages import Accept, Prepare
from jido_state.simulation.authority import Report
from jido_state.simulation.watch import UnsafeError
from tests.simulation.script import Call, Script


def _script(replicas: int = 3, nodes: int | None = None, *, leader: int = 0) -> Script:
    """Led by this node, with "j" and "k" to be kept in memory, and "d" on disks."""
    script = Script(replicas, nodes)
    script.cluster.in_memory = frozenset({"j", "k"})
    script.elect(leader)
    return script


def _slow(script: Script, *nodes: int, ms: int = 500) -> None:
    for node in nodes:
        script.slow(node, ms)


def _forgets(script: Script, node: int) -> None:
    """The node loses its power, and what it had only in memory."""
    script.crash(node, power=True)


def _must(holds: bool, what: str) -> None:
    if not holds:
        raise UnsafeError(what)


def _kept(script: Script, op: str, arg: object, *, key: str = "k", node: int = 0) -> Call:
    """A call of an agent kept in memory, acknowledged while disks stand still."""
    call = script.call(node, op, arg, key=key, level="eventual")
    _must(call.is_ok, f"{op} is not acknowledged from memory: {call.status}")
    return call


def a_crash_does_not_cost_what_is_in_memory() -> None:
    """The leader dies before anybody has written what it acknowledged."""
    script = _script()
    _slow(script, 0, 1, 2)
    _kept(script, "spawn", 0, key="j")
    call = _kept(script, "spawn", 7)
    _must(call.answers[0].durability == "memory", "the answer does not say what it rests on")
    _forgets(script, 0)
    script.run(4_000)
    script.judge()
    _must(not script.cluster.watch.in_memory.may_be_lost, "one crash is excused")


def the_memory_of_the_leader_is_no_quorum() -> None:
    """Nobody else has heard of the write."""
    script = _script()
    _slow(script, 0)
    script.hold(Accept)
    script.call(0, "spawn", 0, key="j")
    script.call(0, "spawn", 7, level="eventual")
    _forgets(script, 0)
    script.run(4_000)
    script.judge()


def what_is_forgotten_is_sent_again() -> None:
    """A follower forgets what it acked, and is brought up to date before the leader dies."""
    script = _script()
    hold = script.hold(Accept, target=2)
    _slow(script, 1)
    _kept(script, "spawn", 0, key="j")
    _kept(script, "spawn", 7)
    _forgets(script, 1)
    script.start(1)
    script.run(3_000)
    script.crash(0)
    hold.stop()
    script.elect(1)
    record = script.value(1)
    _must(record is not None and record.state == 7, "the follower was not brought up to date")
    script.judge()


def two_may_forget() -> None:
    """Both that acknowledged a write lose their power before it is written."""
    script = _script()
    script.hold(Accept, target=2)
    _slow(script, 0, 1)
    _kept(script, "spawn", 0, key="j")
    _kept(script, "spawn", 7)
    _forgets(script, 0)
    _forgets(script, 1)
    script.start(0)
    script.start(1)
    script.run(6_000)
    _must("k" in script.cluster.watch.in_memory.may_be_lost, "the loss of both is not seen")
    leader = next(node for node in script.machines if script.leads(node))
    _must(script.value(leader) is None, "what both have forgotten is there")


def an_ack_is_given_under_a_durable_promise() -> None:
    """A follower that was not among the electors learns of the leader by its first write."""
    script = Script()
    script.cluster.in_memory = frozenset({"j", "k"})
    script.hold(Prepare, target=2)
    script.elect(0)
    script.stall(2)
    script.call(0, "spawn", 7, level="eventual")
    script.judge()


def a_disk_write_is_not_acked_from_memory() -> None:
    """Both kinds of writes are on their way at once, and no disk but the leader's answers."""
    script = _script()
    _slow(script, 1, 2)
    _kept(script, "spawn", 7)
    call = script.call(0, "spawn", 7, key="d", level="eventual")
    _must(not call.is_ok, "what is to be on disks is acknowledged from memory")
    script.judge()


def the_own_disk_write_is_not_acked_from_memory() -> None:
    """One follower has written, the leader has not, the third is not there."""
    script = _script()
    script.alone(2)
    _slow(script, 0)
    call = script.call(0, "spawn", 7, key="d", level="eventual", ms=100)
    _must(not call.is_ok, "the leader counts its memory for what is to be on disks")
    script.judge()


def an_ack_from_memory_counts_nothing_as_written() -> None:
    """A follower is killed with what it acked unwritten: its disk was not set back."""
    script = _script()
    _slow(script, 1)
    _kept(script, "spawn", 0, key="j")
    _kept(script, "spawn", 7)
    _forgets(script, 1)
    script.run(1_000)
    script.start(1)
    script.run(2_000)
    status = script.machines[1].groups[0].header.status
    _must(status == "voter", f"a process that was killed comes back {status}")
    script.judge()


def a_single_replica_waits_for_its_disk() -> None:
    """There is no second memory."""
    script = _script(1)
    _slow(script, 0)
    script.call(0, "spawn", 0, key="j")
    script.call(0, "spawn", 7, level="eventual", ms=100)
    _forgets(script, 0)
    script.start(0)
    script.judge()


def a_disk_that_hangs_is_waited_for() -> None:
    """The followers' disks have not written anything for longer than an election takes."""
    script = _script()
    _slow(script, 1, 2, ms=6_000)
    _kept(script, "spawn", 7)
    script.run(3_000)
    call = script.call(0, "add", 1, level="eventual")
    _must(not call.is_ok, "more and more is kept in memory only")
    script.judge()


def _joint(script: Script) -> int:
    """Begins a move from 0, 1, 2 to 3, 4, 5; its leader, once that knows what there is."""
    script.join([3, 4, 5])

    def leaders() -> list[int]:
        found = []
        for node, machine in script.machines.items():
            group = machine.groups.get(0)
            leadership = None if group is None else group.leadership
            if leadership is not None and leadership.ballot.config == script.config.number:
                found.append(node)
        return found

    script.until(lambda: bool(leaders()), "somebody leads under the joint config")
    return leaders()[0]


def a_move_waits_for_disks() -> None:
    """All replicas are replaced by others, which have in memory what was on disks."""
    script = _script(3, 6)
    _kept(script, "spawn", 7)
    script.run(1_000)
    settling = script.hold(Accept)
    _joint(script)
    _slow(script, 3, 4, 5, ms=2_000)
    settling.release()
    script.run(1_500)
    _must(script.authority.is_changing(0), "the old replicas go before the new ones have written")
    script.simple()
    script.judge()


def turns_during_a_move_wait_for_disks() -> None:
    """What replicas in their old and their new places acknowledge is to outlive the old ones."""
    script = _script(3, 6)
    done = script.hold(_is_joint)
    leader = _joint(script)
    script.run(1_000)
    _slow(script, 3, 4, 5)
    call = script.call(leader, "spawn", 7, level="eventual", ms=200)
    _must(not call.is_ok, "a turn of a joint config is acknowledged from memory")
    script.until(lambda: call.is_ok, "it is acknowledged from disks")
    done.release()
    script.judge()


def _is_joint(message: object) -> bool:
    return type(message) is Report and message.kind == "joint"
