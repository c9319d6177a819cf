"""Schedules about one ballot and the next: who leads, what is durable, what a read may see."""

from jido_state.messages import (
    Accept,
    Confirm,
    Confirmed,
    Prepare,
    Prevote,
    PrevoteAnswer,
    Promise,
)
from jido_state.requests import Status
from tests.simulation.script import Script


def _one_agent(level: str = "strong") -> Script:
    """Three replicas, led by node 0, and one agent with the value 0."""
    script = Script()
    script.elect(0)
    script.call(0, "spawn", 0, level=level)
    return script


def _deposed(script: Script) -> None:
    """Node 0 leads on, cut off; 1 and 2 hold it for dead, and 1 leads as well."""
    script.alone(0)
    script.gone(0)
    script.elect(1)


def a_ballot_is_used_once() -> None:
    """A leader that crashed comes back as a follower, and is elected under another ballot."""
    script = _one_agent()
    script.call(0, "add", 1)
    script.crash(0)
    script.start(0)
    script.elect(0)
    script.judge()


def what_is_not_on_a_quorum_is_written_again() -> None:
    """A write that one replica took is found by a quorum with it, and then missed by another."""
    script = _one_agent()
    script.alone(0)
    script.call(0, "add", 1)
    script.crash(0)
    script.heal()
    script.crash(2)
    script.start(0)
    script.elect(0)
    script.value(0)
    script.start(2)
    script.crash(0)
    script.elect(1)
    script.judge()


def a_read_sees_what_is_committed() -> None:
    """A read beside a write that nobody else has yet; the write is then lost with its leader."""
    script = _one_agent()
    script.hold(Accept, 0)
    script.call(0, "add", 1)
    script.call(0, "read", ms=50)
    script.crash(0)
    script.elect(1)
    script.judge()


def a_deposed_leader_reads_nothing() -> None:
    """Cut off and not aware of it, the old leader is asked after the new one has written."""
    script = _one_agent()
    _deposed(script)
    script.call(1, "add", 1)
    script.call(0, "read")
    script.judge()


def a_read_waits_for_the_next_round() -> None:
    """The answers to a round are under way when another leads, writes, and a second read comes."""
    script = _one_agent()
    answers = script.hold(Confirmed, target=0)
    first = script.call(0, "read")
    _deposed(script)
    script.hold(Confirm, 0)
    script.call(1, "add", 1)
    script.call(0, "read")
    answers.release()
    assert first.is_ok
    script.judge()


def an_old_round_vouches_for_nothing_new() -> None:
    """The answers to a round for an absent agent are under way when another leads and makes it.

    A second call, which comes after the agent was made, waits behind the one that the round was
    asked for. That there is no agent may be said to the first, not to the second.
    """
    script = Script()
    script.elect(0)
    answers = script.hold(Confirmed, target=0)
    first = script.call(0, "add", 1)
    _deposed(script)
    script.hold(Confirm, 0)
    script.call(1, "spawn", 0)
    second = script.call(0, "add", 1)
    answers.release()
    assert first.status is Status.NOT_FOUND
    assert second.status is not Status.NOT_FOUND
    script.judge()


def the_own_promise_comes_first() -> None:
    """A power cut takes the promise that a leader made to itself; late messages elect it again."""
    script = Script()
    grants = script.record(PrevoteAnswer, 1, 0)
    promises = script.record(Promise, 1, 0)
    asked = script.record(Prevote, 0)
    script.hold(Prevote, 1)
    script.hold(Prevote, 2)
    script.until(lambda: bool(asked.messages), "0 asks for votes")
    script.stall(0)
    script.run(300)
    script.call(0, "spawn", 7)
    grants.stop()
    promises.stop()
    script.alone(0)
    script.crash(0, power=True)
    script.start(0)
    asked = script.record(Prevote, 0)
    script.until(lambda: bool(asked.messages), "0 asks for votes again")
    grants.release()
    promises.release()
    script.call(0, "spawn", 8, ms=50)
    script.judge()


def a_promise_outlives_a_power_cut() -> None:
    """A promise to the new leader is lost by a power cut, and its sender follows the old one."""
    script = _one_agent()
    script.alone(0)
    script.gone(0)
    script.hold(Prevote, 2)
    prepared = script.record(Prepare, 1, 2)
    script.until(lambda: bool(prepared.messages), "1 asks for promises")
    script.stall(2)
    script.run(100)
    script.crash(2, power=True)
    script.start(2)
    script.heal()
    script.alone(1)
    script.run(400)  # a heartbeat: 2 acks nothing before it has heard who may remember its store
    script.call(0, "add", 1, ms=50)
    script.heal()
    script.alone(0)
    script.call(1, "read", ms=50)
    script.judge()


def an_ack_is_durable() -> None:
    """The second copy of a write is in a cache when its leader dies and the power fails."""
    script = _one_agent()
    script.alone(2)
    script.stall(1)
    script.call(0, "add", 1)
    script.crash(1, power=True)
    script.crash(0)
    script.start(1)
    script.heal()
    script.elect(1)
    script.judge()


def the_own_ack_is_durable_too() -> None:
    """The leader's own copy is in a cache when the power fails."""
    script = _one_agent()
    script.alone(2)
    script.stall(0)
    script.call(0, "add", 1)
    script.crash(0, power=True)
    script.crash(1)
    script.start(0)
    script.heal()
    script.elect(0)
    script.judge()


def nothing_below_the_promise_is_stored() -> None:
    """A write of the old leader comes after the promise to the new one."""
    script = _one_agent()
    late = script.hold(Accept, 0)
    script.call(0, "add", 1)
    _deposed(script)
    script.value(1)
    late.release()
    script.run(20)
    script.call(1, "add", 10)
    script.judge()


def a_session_sees_its_own_writes() -> None:
    """A session that wrote at the new leader asks the old one, which is cut off."""
    script = _one_agent("session")
    _deposed(script)
    script.call(1, "add", 1, level="session", session="s")
    script.call(0, "read", level="session", session="s")
    script.judge()


def _gone_and_back(script: Script) -> None:
    """The leader's process, on node 0, has ended; a new one is there before anybody was elected."""
    script.crash(0)
    script.gone(0)
    script.start(0)
    script.back(0)


def evidence_outlives_the_return_of_its_node() -> None:
    """Who is back is another process: its node's leadership is over, and nobody waits for it."""
    script = _one_agent()
    began_us = script.scheduler.now_us
    _gone_and_back(script)
    script.until(lambda: any(map(script.leads, script.machines)), "somebody leads")
    took_ms = (script.scheduler.now_us - began_us) // 1_000
    assert took_ms <= 200, f"{took_ms} ms without a leader that was known to be gone"
    script.judge()


def evidence_is_of_one_ballot() -> None:
    """The node whose process was gone leads again: who does not hear it is not helped."""
    script = _one_agent()
    _gone_and_back(script)
    script.elect(0)
    script.run(1_000)
    script.cut([0], [1])
    script.run(10_000)
    assert script.leads(0), "evidence against a process that is over has ended a leadership"
    script.judge()
