"""What a replica that acts refuses, and how it ends: each answer is certain about what was run."""

from contextlib import suppress
from dataclasses import replace
from typing import Any

from jido_placement.config import GroupConfig, Replica
from jido_placement.policies import Strategy
from jido_state.divergence import Siblings
from jido_state.entries import AskEntries, NoEntries, Offer, Put, SendEntries
from jido_state.messages import HAS_OUTBOX
from jido_state.operations import CallerFence, OpId
from jido_state.outbox import Outgoing
from jido_state.requests import Arrival, Request, RunMerge, Status
from jido_state.session import Token, TokenFullError
from jido_state.simulation.acting_agents import LINE, Work
from jido_state.simulation.partitions import two_way
from jido_state.versions import NO_BALLOT
from tests.state.acting_script import ADDRESS, Script


def alone(size: int = 3, **more: str) -> Script:
    """Every node is cut off, after the agent was made; node 1 is the one that tests ask."""
    script = Script(size)
    script.ok(0, "make", **more)
    script.run(300)
    script.cut(*([node] for node in range(size)))
    return script


def slow(script: Script, node: int, latency_us: int) -> None:
    disk = script.nodes[node].disk
    disk.faults = replace(disk.faults, latency_us=latency_us)


def service_of(script: Script, node: int) -> Any:
    service = script.nodes[node].service
    assert service is not None
    return service


def ask(script: Script, node: int, request: Request) -> Any:
    name = (ADDRESS, "own", request.key, request.kind, len(script.ledger.dots))
    script._keys[name] = request.key
    due_ms = script.nodes[node].now_ms() + 3_000
    service = service_of(script, node)
    script.nodes[node].step(service.submit, request._replace(id=name, due_ms=due_ms))
    return script.answer(name)


def call(op: OpId | None, **more: Any) -> Request:
    work = Work("mark", "direct")
    return Request(
        None,
        more.pop("kind", "call"),
        "k",
        op,
        "eventual",
        due_ms=0,
        payload=more.pop("payload", work),
        strategy=Strategy.CONTINUE_ALL,
        **more,
    )


def test_a_handler_that_fails_changes_nothing() -> None:
    """No entry is made, and the op id may run again."""
    script = alone()
    op = OpId("caller", 1)
    script.failures = 1.0
    assert script.call(1, op=op).status is Status.FAILED
    assert script.held(1) == {}
    script.failures = 0.0
    assert script.call(1, op=op).status is Status.OK


def test_what_exists_or_has_ended_here_is_known() -> None:
    """An agent that is here cannot be made; one that ended here is not found, and can."""
    script = alone()
    assert script.call(1, "make").status is Status.EXISTS
    script.ok(1, "end")
    assert script.call(1).status is Status.NOT_FOUND
    assert script.read(1).value is None
    script.ok(1, "make", name="again")
    assert script.read(1).value is not None


def test_an_agent_may_be_made_where_nothing_is_known() -> None:
    """Unless rows of the store are spoilt, one of which may be it."""
    script = alone()
    script.ok(1, "make", key="new")
    script.nodes[2].replica.acceptor.is_whole = False
    assert script.call(2, "make", key="new").status is Status.NO_QUORUM


def test_old_operations_and_callers_without_right_are_refused() -> None:
    """The table of op ids says the same as at a leader."""
    script = alone()
    first = call(OpId("agent", 1), fence=CallerFence("other", (2, 0)))
    assert ask(script, 1, first).status is Status.OK
    fenced = call(OpId("agent", 2), fence=CallerFence("other", (1, 0)))
    assert ask(script, 1, fenced).status is Status.FENCED
    expired = call(OpId("unknown", 3), ack=4)
    assert ask(script, 1, expired).status is Status.EXPIRED


def test_a_signal_is_taken_once_on_a_side() -> None:
    """It comes twice; the second one is acknowledged and not run."""
    script = alone()
    signal = Outgoing((0, 1, 1, 0, 9), 0, "k", 0, b"signal:s:1")
    request = call(None, kind="signal", payload=Arrival("from", signal))
    assert ask(script, 1, request).durability == "local"
    turns = script.counts["turns apart"]
    again = ask(script, 1, request._replace(key="k", ack=1))
    assert (again.status, again.is_partitioned) == (Status.OK, True)
    assert script.counts["turns apart"] == turns


def test_a_full_mailbox_refuses() -> None:
    """What it refuses was not run."""
    script = alone()
    service_of(script, 1).acting._max_mailbox = 2
    slow(script, 1, 300_000)  # nothing begins before the acting period is durable
    names = [script.send(1, "call", work=Work("mark", f"n{n}")) for n in range(3)]
    statuses = [script.answer(name).status for name in names]
    assert statuses == [Status.OK, Status.OK, Status.OVERLOADED]


def test_no_more_agents_are_held_than_there_is_room_for() -> None:
    """Turns are refused, and copies too: then the answer is local."""
    script = Script(5)
    script.ok(0, "make")
    script.ok(0, "make", key="other")
    script.cut([0, 1, 2], [3, 4])
    service_of(script, 4).entries._max_keys = 0
    assert script.ok(3).durability == "local"
    assert script.held(4) == {}
    service_of(script, 3).entries._max_keys = 1
    assert script.call(3, key="other").status is Status.OVERLOADED
    assert script.call(3).status is Status.OK


def test_what_waits_too_long_is_late() -> None:
    """It has surely not been run."""
    script = alone()
    slow(script, 1, 3_000_000)
    name = script.send(1, "call", work=Work("mark", "late"), left_ms=200)
    assert script.answer(name).status is Status.LATE
    assert script.held(1) == {}


def test_what_has_no_entry_when_a_leader_is_there_was_not_run() -> None:
    """Those that wait, and the turn that runs, are sent to the leader."""
    script = alone()
    slow(script, 1, 1_500_000)
    names = [script.send(1, "call", work=Work("mark", f"n{n}")) for n in range(2)]
    script.network.heal(script.network.faults)
    script.until(lambda: script.leader is not None)
    answers = [script.answer(name) for name in names]
    assert [one.status for one in answers] == [Status.NOT_LEADER] * 2
    slow(script, 1, 400)
    script.heal()
    assert not any("n0" in name or "n1" in name for name in script.names())


def test_a_merge_that_cannot_be_made_is_said() -> None:
    """What waits for it is refused, and the next request tries again."""
    script = Script(5)
    script.ok(0, "make")
    script.run(300)
    script.cut([0, 1, 2], [3], [4])
    script.ok(3)
    script.ok(4)
    script.network.mend([(3, 4), (4, 3)])
    script.until(lambda: script.held(3) == {"k": 2})
    node = script.nodes[3]
    merge = node.hands._run_merge

    def give_up(_: int, effect: RunMerge) -> None:
        node.step(service_of(script, 3).end_merge, effect.key, effect.version, None)

    vars(node.hands)["_run_merge"] = give_up
    assert script.read(3).status is Status.NO_QUORUM
    assert script.call(3).status is Status.NO_QUORUM
    vars(node.hands)["_run_merge"] = merge
    assert script.ok(3).is_partitioned


def test_a_session_that_has_seen_too_much_is_refused() -> None:
    """A token that has no room for what the answer rests on gets none."""
    script = alone(level="session")
    token = Token("sim", 0)
    with suppress(TokenFullError):
        for number in range(999):
            token = token.saw_acting(f"agent-{number:03}", (1, 1, 1, 1))
    answer = script.read(1, level="session", token=token)
    assert answer.status is Status.SESSION_UNAVAILABLE


def test_a_token_with_room_for_one_sibling_is_not_given_two() -> None:
    """The answer would rest on more than the session could know of."""
    script = Script(5)
    script.ok(0, "make", level="session")
    script.run(300)
    script.cut([0, 1, 2], [3], [4])
    script.ok(3, level="session")
    script.ok(4, level="session")
    script.network.mend([(3, 4), (4, 3)])
    script.until(lambda: script.held(3) == {"k": 2})
    token = Token("sim", 0)
    with suppress(TokenFullError):
        for number in range(999):
            token = token.saw_acting(f"agent-{number:02}", (1, 1, 1, 1))
    read = script.read(3, level="session", token=token)
    assert read.status is Status.SESSION_UNAVAILABLE
    assert read.token == token
    assert script.ok(3, level="session", token=token).token is not None


def test_entries_that_go_while_a_session_waits_are_missed() -> None:
    """They were there when it came; what it is served from has to have them when it is."""
    script = alone(level="session")
    written = script.ok(1, level="session", token=Token("sim", 0))
    service = service_of(script, 1)
    slow(script, 1, 200_000)
    name = script.send(1, "call", work=Work("mark", "n"), level="session", token=written.token)
    del service.entries.durable["k"]
    service.entries.held.pop("k")
    service.acting.covered()
    read = script.send(1, "read", level="session", token=written.token)
    assert script.answer(name).status is Status.SESSION_UNAVAILABLE
    assert script.answer(read).status is Status.SESSION_UNAVAILABLE


def test_a_removed_replica_hands_over_what_it_holds() -> None:
    """Nobody tells it who leads: it asks all who may."""
    script = Script()
    script.ok(0, "make", name="born")
    script.run(300)
    script.cut([0, 1], [2])
    script.ok(2, name="apart")
    config = GroupConfig(2, (Replica(0, 1), Replica(1, 2)))
    for node in script.nodes:
        node._perform(node.replica.adopt(config, node.now_ms()))
    assert script.nodes[2].replica.header.status == "removed"
    script.network.heal(script.network.faults)
    script.until(lambda: script.held(2) == {})
    script.until(lambda: "apart" in script.names())
    assert script.call(2).status is Status.NO_QUORUM


def test_only_those_who_vote_hold_copies_and_only_leaders_merge() -> None:
    """A copy on a replica that was removed would be one that nobody looks for."""
    script = Script()
    script.ok(0, "make")
    script.run(300)
    header = script.nodes[2].replica.acceptor.header
    script.nodes[2].replica.acceptor.header = header._replace(status="removed")
    script.nodes[2].receive(1, (2, Put(1, "k", Siblings())))
    script.nodes[1].receive(2, (3, Offer("k", Siblings())))
    assert script.held(2) == {}
    assert script.held(1) == {}


def test_who_holds_entries_or_acts_does_not_say_it_has_none() -> None:
    """Only after that may actors be folded."""
    script = alone()
    sent: list[Any] = []
    node = script.nodes[1]
    effect = node._effect

    def note(each: Any) -> None:
        if isinstance(each, SendEntries):
            sent.append(each.message)
        effect(each)

    service_of(script, 1)._driver = note
    question = AskEntries(NO_BALLOT, 1, (("k", script.record(1).version),), (0, 0))
    node.receive(0, (1, question))
    assert sent == [NoEntries(NO_BALLOT, 1)]
    newer = script.record(1).version._replace(number=999)
    node.receive(0, (1, AskEntries(NO_BALLOT, 2, (("k", newer),), (0, 0))))
    assert len(sent) == 1, "it lacks the record"
    node.receive(0, (1, question._replace(epoch=(0, 1))))
    assert len(sent) == 1, "it goes by an older record"
    script.ok(1)
    sent.clear()
    node.receive(0, (1, question))
    assert not any(isinstance(one, NoEntries) for one in sent)


def test_a_tombstone_is_folded_too() -> None:
    """What has ended names those who acted until nobody holds their entries."""
    script = Script()
    script.ok(0, "make", type_=LINE)
    script.run(300)
    script.cut([0], [1, 2])
    script.ok(0, "end")
    script.heal()
    record = script.record()
    assert record.is_tomb
    assert [actor for actor in record.merged.numbers if len(actor) == 3] == []
    assert record.merged.floors[0]


def test_what_outlives_an_agent_comes_to_the_next_of_its_name() -> None:
    """Signals that are on their way, and what has been merged."""
    script = Script()
    script.ok(0, "make", key="to")
    script.ok(0, "make")
    script.wire.drops = lambda _, __, message: "signal" in str(getattr(message, "request", ""))
    first = script.ok(0, "emit", "to")
    script.ok(0, "end")
    record = script.record()
    assert record.is_tomb
    assert record.flags & HAS_OUTBOX
    script.ok(0, "make", name="second")
    assert script.record().merged.covers(tuple(first.value[1]))
    script.wire.drops = None
    script.heal()
    assert any(name.startswith("signal") for name in script.names("to"))


def test_a_leader_is_missed_from_when_it_is_given_up() -> None:
    """An election's time is not counted, though a follower has nothing to do until it is over."""
    script = Script(3)
    script.ok(0, "make")
    script.run(2_000)
    follower = next(node for node in range(3) if node != script.leader)
    node, service = script.nodes[follower], service_of(script, follower)
    script.network.cut(two_way([follower], [one for one in range(3) if one != follower]))
    script.until(lambda: node.replica.leader is None)
    assert service.leaderless_ms == 0
    given_up_ms = node.now_ms()
    script.until(lambda: service.leaderless_ms > 0)
    assert service.leaderless_ms < 100
    script.run(5_000)
    assert service.leaderless_ms > 4_000
    assert service.leaderless_ms <= node.now_ms() - given_up_ms
