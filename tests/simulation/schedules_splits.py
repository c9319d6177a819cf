"""Schedules about tombstones of agents that sent signals, or were changed without a quorum."""

from jido_state.entries import Cover
from jido_state.simulation.acting import SETTINGS
from tests.state.acting_script import Script, must


def _ended() -> Script:
    """A shard of three with one agent, led by node 0."""
    script = Script()
    script.ok(0, "make", name="born")
    script.run(500)
    return script


def _reaped(script: Script) -> None:
    """Another node leads, with all replicas, for as long as op ids are remembered and more."""
    script.nodes[0].crash()
    script.until(lambda: script.leader is not None)
    script.nodes[0].start()
    script.run(SETTINGS.dedupe_window_ms + 5 * SETTINGS.election_ms)


def a_tombstone_delivers_its_signals() -> None:
    """An agent sends a signal to one that is not there yet, and ends."""
    script = _ended()
    script.ok(0, "emit", "to", name="last")
    script.ok(0, "end")
    _reaped(script)
    leader = script.leader
    must(leader is not None, "nobody leads")
    script.ok(leader or 0, "make", key="to", name="to")
    script.heal()
    names = {name.split(":")[1] for name in script.names("to") if ":" in name}
    must(names == {"last"}, f"the signal was lost: {script.names('to')}")
    _is_over(script)


def a_tombstone_waits_for_entries() -> None:
    """What one node did apart is merged, but it is not told so; then the agent ends."""
    script = _ended()
    script.cut([0, 1], [2])
    script.ok(2, name="apart")
    script.wire.drops = lambda _, __, message: isinstance(message, Cover)
    script.network.heal(script.network.faults)
    script.until(lambda: "apart" in script.names())
    must(script.held(2), "it has been told")
    script.ok(0, "end")
    _reaped(script)
    script.heal()
    _is_over(script)


def _is_over(script: Script) -> None:
    """The agent does not come back, and in the end nothing is left of it."""
    row = script.nodes[0].replica.acceptor.rows.get("k")
    must(row is None or row.content.is_tomb, f"the agent is back: {row}")
    script.run(2 * SETTINGS.dedupe_window_ms)
    rows = [node.replica.acceptor.rows for node in script.nodes]
    must(not any("k" in one for one in rows), "its tombstone stays")
