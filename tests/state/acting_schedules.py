"""Schedules of splits: each shows what one rule is for, and fails where that rule is broken."""

from jido_placement.config import GroupConfig, Replica
from jido_placement.policies import Strategy
from jido_state.entries import Cover, Put, PutAck
from jido_state.messages import Accept, Heartbeat
from jido_state.operations import OpId
from jido_state.requests import Status
from jido_state.service import Service
from jido_state.session import Token
from jido_state.simulation.acting_agents import LINE, Bag, Work, line_of, names_of
from jido_state.simulation.partitions import two_way
from tests.state.acting_script import Script, must


def made(size: int = 3, type_: str = "bag", **more: str) -> Script:
    """A shard with one agent, and one turn of it."""
    script = Script(size)
    script.ok(0, "make", type_=type_, name="born", **more)
    script.run(500)
    return script


# Finding 18: with a quorum there is one owner at every level


def a_failover_is_no_split() -> None:
    """The leader dies after a write that the next leader's own copy lacks: nothing is beside."""
    script = made()
    script.wire.drops = lambda _, target, message: target == 1 and isinstance(message, Accept)
    script.ok(0, name="w")
    script.nodes[0].crash()
    script.wire.drops = None
    script.until(lambda: script.leader is not None)
    leader = script.leader
    assert leader is not None
    script.ok(leader, name="x")
    must(not script.held(1) and not script.held(2), "there are entries without a split")
    script.heal()
    must(script.names() == {"born": 1, "w": 1, "x": 1}, script.names())


def a_paused_leader_writes_nothing_beside() -> None:
    """It stands still, another one leads, it goes on with what it had waiting."""
    script = made()
    script.scheduler.pause(0)
    script.until(lambda: script.nodes[1].replica.leadership is not None)
    script.ok(1, name="new")
    old = script.send(0, "call", work=Work("mark", "old"))
    script.scheduler.resume(0)
    script.until(lambda: script.is_answered(old))
    must(script.answer(old).status in {Status.NOT_LEADER, Status.UNKNOWN}, script.answer(old))
    must(not any(script.held(node) for node in range(3)), "there are entries without a split")
    script.heal()
    must("new" in script.names() and "old" not in script.names(), script.names())


def an_orphan_is_no_sibling() -> None:
    """What a deposed leader alone has is not there beside what its caller tried again."""
    script = made()
    op = OpId("caller", 1)
    script.wire.drops = lambda source, _, message: source == 0 and isinstance(message, Accept)
    script.send(0, "call", work=Work("mark", "x"), op=op)
    script.run(300)
    script.nodes[0].crash()
    script.wire.drops = None
    script.until(lambda: script.leader is not None)
    leader = script.leader
    assert leader is not None
    script.ok(leader, name="x", op=op)
    script.heal()
    must(script.names() == {"born": 1, "x": 1}, script.names())


def a_register_does_not_overwrite_entries() -> None:
    """A replica that acted hears of newer records before anybody asks for its entries."""
    script = made()
    script.cut([0, 1], [2])
    answer = script.ok(2, name="apart")
    must(answer.is_partitioned and answer.durability == "local", answer)
    script.ok(0, name="quorum")
    script.wire.drops = lambda _, __, message: isinstance(message, Cover)
    script.network.heal(script.network.faults)
    script.until(lambda: script.record(2).version == script.record(0).version)
    must(script.held(2), "the entry was dropped before it was covered")
    script.heal()
    must(script.names() == {"born": 1, "apart": 1, "quorum": 1}, script.names())


# Finding 19: an actor is one linear history


def an_acting_period_is_never_resumed() -> None:
    """A copy arrives where its maker's own was lost with the power; the maker acts again."""
    script = made(5)
    script.cut([0, 1, 2], [3, 4])
    script.ok(3, name="before")
    disk = script.nodes[3].disk
    disk.faults = type(disk.faults)(latency_us=500_000)
    lost = script.send(3, "call", work=Work("mark", "lost"))
    script.until(lambda: len(script.ledger.dots["k"]) == 3)
    script.run(20)
    script.nodes[3].crash(power=True)
    must(not script.is_answered(lost), "answered before it was durable")
    script.network.cut([(4, 3), (3, 4)])  # what the other one holds it is not told
    disk.faults = type(disk.faults)()
    script.nodes[3].start()
    script.run(3_000)
    script.ok(3, name="after")
    script.heal()
    must(script.names() == {"born": 1, "before": 1, "lost": 1, "after": 1}, script.names())


def an_orphan_and_what_was_done_on_it_count_once_each() -> None:
    """A leader's turn that no quorum has, and one of the same node while it acts."""
    script = made()
    script.wire.drops = lambda source, _, message: source == 0 and isinstance(message, Accept)
    script.send(0, "call", work=Work("mark", "orphan"))
    script.run(50)
    script.cut([0], [1, 2])
    script.ok(0, name="apart")
    script.ok(1, name="quorum")
    script.heal()
    must(
        script.names() == {"born": 1, "orphan": 1, "apart": 1, "quorum": 1},
        script.names(),
    )


def what_is_answered_again_is_kept() -> None:
    """A repeated operation is known to the node that acts, from a turn that no quorum had."""
    script = made(type_=LINE)
    op = OpId("caller", 1)
    script.wire.drops = lambda source, _, message: source == 0 and isinstance(message, Accept)
    script.send(0, "call", work=Work("mark", "orphan"), op=op)
    script.run(50)
    script.cut([0], [1, 2])
    script.ok(0, name="orphan", op=op)
    script.ok(1, name="quorum")
    script.heal()
    lines = [line_of(script.record())]
    lines += [line_of(each.record) for each in script.ledger.conflicts.get("k", ())]
    found = {mark.split("@")[0] for line in lines for mark in line}
    must(found == {"born", "orphan", "quorum"}, lines)


# Finding 20: what is merged beside the value


def both_sides_deliver_what_they_sent() -> None:
    """The loser's signals arrive, each once; so do those that were sent before the split."""
    script = made(type_=LINE)
    script.ok(0, "make", key="to", name="to")
    script.ok(0, "make", key="from", name="from")
    script.cut([0, 1], [2])
    script.ok(2, "emit", "to", key="from", name="left")
    script.ok(0, "emit", "to", key="from", name="right")
    script.heal()
    arrived = {name.split(":")[1]: n for name, n in script.names("to").items() if ":" in name}
    must(arrived == {"left": 1, "right": 1}, arrived)


def timers_wait_for_the_merge() -> None:
    """One that was set apart, and one from before, are due during the split: each fires once."""
    script = made()
    script.ok(0, "timer", 6_000, name="before")
    script.cut([0], [1], [2])
    script.ok(0, "timer", 100, name="apart")
    script.run(5_000)
    must(not any("fire" in name for name in script.names()), script.names())
    script.heal()
    fired = {name.split(":")[1]: n for name, n in script.names().items() if "fire" in name}
    must(fired == {"before": 1, "apart": 1}, fired)


def an_operation_counts_once_on_its_side() -> None:
    """It is repeated at the node that acts, and to the leader once all has come together."""
    script = made()
    op = OpId("caller", 1)
    script.cut([0], [1], [2])
    first = script.ok(0, name="x", op=op)
    again = script.ok(0, name="x", op=op)
    must(first.value == again.value, (first, again))
    script.heal()
    leader = script.leader
    assert leader is not None
    later = script.ok(leader, name="x", op=op)
    must(later.value == first.value, (first, later))
    must(script.names() == {"born": 1, "x": 1}, script.names())


def an_update_wins_over_a_delete() -> None:
    """One side ends the agent, the other one goes on with it."""
    script = made()
    script.cut([0, 1], [2])
    script.ok(2, name="apart")
    script.ok(0, "end")
    script.heal()
    must(not script.record().is_tomb, "the update was lost")
    must(script.names()["apart"] == 1, script.names())
    reasons = {conflict.reason.value for conflict in script.ledger.conflicts["k"]}
    must(reasons == {"deleted"}, reasons)


def two_types_do_not_mix() -> None:
    """Both sides make the agent, each of another type: the register's stays."""
    script = Script()
    script.cut([0, 1], [2])
    script.ok(2, "make", type_=LINE, name="line")
    script.ok(0, "make", name="bag")
    script.heal()
    must(script.record().type == "bag", script.record().type)
    conflicts = script.ledger.conflicts["k"]
    must([one.record.type for one in conflicts] == ["line"], conflicts)


# Finding 21: copies that counted


def a_copy_that_counted_is_kept() -> None:
    """The node that acted is gone for good; the copy is merged when its holder is back."""
    script = made(5)
    script.cut([0, 1, 2], [3, 4])
    script.until(lambda: script.nodes[3].service is not None)
    answer = script.ok(3, name="apart")
    must(answer.durability == "two", answer)
    script.nodes[3].crash(power=True)
    script.run(60_000)
    script.nodes[4].crash(power=True)
    script.nodes[4].start()
    must(script.held(4) == {"k": 1}, "the copy was given up")
    script.network.heal(script.network.faults)
    script.until(lambda: not script.held(4))
    must(script.names() == {"born": 1, "apart": 1}, script.names())


def a_copy_is_durable_before_it_counts() -> None:
    """The copy's disk is slow, and its machine loses power."""
    script = made(5)
    script.cut([0, 1, 2], [3, 4])
    disk = script.nodes[4].disk
    disk.faults = type(disk.faults)(latency_us=5_000_000)
    answer = script.ok(3, name="apart")
    must(answer.durability == "local", answer)
    must(not script.ledger.problems, script.ledger.problems)


def a_lost_copy_is_not_counted() -> None:
    """The copy's acknowledgement is lost: the answer says that it is local."""
    script = made(5)
    script.cut([0, 1, 2], [3, 4])
    script.wire.drops = lambda _, __, message: isinstance(message, PutAck)
    must(script.ok(3, name="a").durability == "local", "two copies were claimed")
    script.wire.drops = lambda _, __, message: isinstance(message, Put)
    must(script.ok(3, name="b").durability == "local", "two copies were claimed")
    script.heal()
    must(script.names() == {"born": 1, "a": 1, "b": 1}, script.names())


def an_uncovered_entry_is_kept() -> None:
    """Its leader dies between hearing of it and having merged it."""
    script = made()
    script.cut([0, 1], [2])
    script.ok(2, name="apart")
    script.wire.drops = lambda _, __, message: isinstance(message, Accept)
    script.network.heal(script.network.faults)
    script.run(400)
    leader = script.leader
    assert leader is not None
    script.nodes[leader].crash(power=True)
    script.wire.drops = None
    script.run(5_000)
    script.heal()
    must(script.names() == {"born": 1, "apart": 1}, script.names())


def a_cover_ends_the_acting_period() -> None:
    """Entries are merged through their copies; that is said to their maker, who still acts."""
    script = made(5)
    script.cut([0, 1, 2], [3, 4])
    script.ok(3, name="one")
    script.ok(3, name="two")
    script.network.cut([(3, 4), (4, 3)])
    script.network.mend(two_way([0, 1, 2], [4]))
    script.until(lambda: "two" in script.names())
    script.nodes[3].receive(0, (1, Cover("k", script.record(0).merged)))
    must(not script.held(3), "it is not covered")
    script.run(100)
    script.ok(3, name="three")
    script.heal()
    wanted = {"born": 1, "one": 1, "two": 1, "three": 1}
    must(script.names() == wanted, script.names())


def siblings_stay_side_by_side() -> None:
    """Three nodes act, each for itself; the one that hears of the others loses nothing."""
    script = made(5)
    script.cut([0], [1, 2, 3], [4])
    script.network.cut([(1, 2), (2, 1), (1, 3), (3, 1), (2, 3), (3, 2)])
    script.run(4_000)
    for node in range(5):
        script.ok(node, name=f"at{node}")
    script.heal()
    wanted = {"born": 1, **{f"at{node}": 1 for node in range(5)}}
    must(script.names() == wanted, script.names())


def siblings_meet_without_a_leader() -> None:
    """Two that acted apart see each other: what is done then has seen both, and so has a reader."""
    script = made(5)
    script.cut([0, 1, 2], [3], [4])
    script.ok(3, name="at3")
    script.ok(4, name="at4")
    script.network.mend(two_way([3], [4]))
    script.until(lambda: script.held(3) == script.held(4) == {"k": 2})
    read = script.read(3)
    must(Bag.of(read.value).counter.value == 3, read)
    script.ok(3, name="on both")
    script.until(lambda: script.held(3) == script.held(4) == {"k": 1})
    script.heal()
    must(script.names() == {"born": 1, "at3": 1, "at4": 1, "on both": 1}, script.names())


# Finding 22: who acknowledges alone


def a_strategy_of_majorities_never_acts() -> None:
    """A leader that is cut off acknowledges nothing, and then says why."""
    script = made()
    script.network.cut([(0, 1), (1, 0), (0, 2), (2, 0)])
    early = script.send(
        0, "call", work=Work("mark", "early"), strategy=Strategy.PAUSE_MINORITY, left_ms=9_000
    )
    script.run(5_000)
    must(script.answer(early).status is not Status.OK, script.answer(early))
    for strategy in (Strategy.PAUSE_MINORITY, Strategy.LEADER_ELECTION):
        late = script.call(0, strategy=strategy)
        must(late.status is Status.NO_QUORUM, late)
    strong = script.call(0, level="strong")
    must(strong.status is Status.NO_QUORUM, strong)
    must(not script.held(0), "it acted")


def what_is_not_here_may_be_elsewhere() -> None:
    """A replica that acts says of no agent that there is none."""
    script = Script()
    script.wire.drops = lambda _, target, message: target == 2 and isinstance(message, Accept)
    script.ok(0, "make", name="born")
    script.cut([0, 1], [2])
    script.wire.drops = None
    for answer in (script.read(2), script.call(2)):
        must(answer.status is Status.NO_QUORUM, answer)


# Finding 23: tokens


def a_session_never_sees_less() -> None:
    """It writes on one side of a split, and then reads on the others, and after it."""
    script = made(level="session")
    token = Token("sim", 0)
    before = script.read(0, level="session", token=token)
    script.cut([0], [1], [2])
    written = script.ok(0, name="mine", level="session", token=before.token)
    must(written.token is not None and written.token.acted, written.token)
    own = script.read(0, level="session", token=written.token)
    must(own.status is Status.OK and own.is_partitioned, own)
    other = script.read(1, level="session", token=written.token)
    must(other.status is Status.SESSION_UNAVAILABLE, other)
    write = script.call(1, level="session", token=written.token)
    must(write.status is Status.SESSION_UNAVAILABLE, write)
    script.heal()
    leader = script.leader
    assert leader is not None
    after = script.read(leader, level="session", token=written.token)
    must(after.status is Status.OK and after.token is not None, after)
    must(after.token is None or not after.token.acted, "the merged turns are still asked for")


def a_leader_waits_for_what_a_session_has_seen() -> None:
    """The session comes to the leader before the entries do."""
    script = made(level="session")
    script.cut([0, 1], [2])
    written = script.ok(2, name="mine", level="session", token=Token("sim", 0))
    early = script.send(0, "read", level="session", token=written.token, left_ms=500)
    must(script.answer(early).status is Status.SESSION_UNAVAILABLE, script.answer(early))
    read = script.send(0, "read", level="session", token=written.token, left_ms=9_000)
    write = script.send(
        0, "call", work=Work("mark", "next"), level="session", token=written.token, left_ms=9_000
    )
    script.run(300)
    must(not script.is_answered(read), "answered without what the session has seen")
    script.heal()
    must(script.answer(read).status is Status.OK, script.answer(read))
    must(script.answer(write).status is Status.OK, script.answer(write))
    must(script.names() == {"born": 1, "mine": 1, "next": 1}, script.names())


# Finding 30: timers


def a_timer_fires_once_over_leaders() -> None:
    """Its leader dies when the firing is on its way to some; the wall clock of the next is back."""
    script = made()
    script.ok(0, "ticks", 300, name="t")
    script.wire.drops = lambda source, target, message: (
        source == 0 and target == 2 and isinstance(message, Accept)
    )
    script.until(lambda: any("fire" in name for name in script.names()))
    script.nodes[0].crash()
    script.wire.drops = None
    for node in (1, 2):
        script.scheduler.set_clock(node, offset_ms=-2_000)
    script.heal()
    fired = [n for name, n in script.names().items() if "fire" in name]
    must(fired == [1, 1, 1], script.names())


def a_timer_is_not_early() -> None:
    """The leader's own wall clock decides; ticks that were missed fire once."""
    script = made()
    script.ok(0, "timer", 1_500, name="t")
    script.run(1_300)
    must("fire" not in str(script.names()), "it fired early")
    script.run(500)
    must("fire" in str(script.names()), "it did not fire")
    script.ok(0, "ticks", 200, name="u")
    script.scheduler.pause(0)
    script.run(900)
    script.scheduler.resume(0)
    script.heal()
    fired = [n for name, n in script.names().items() if "fire:u" in name]
    must(fired == [1, 1, 1], script.names())


def a_signal_that_is_sent_again_is_taken_once() -> None:
    """The leader dies when the receiver has the signal, and the sender's record still has it."""
    script = made()
    script.ok(0, "make", key="to", name="to")
    script.ok(0, "emit", "to", name="s")
    script.until(lambda: any("signal" in name for name in script.names("to")))
    script.nodes[0].crash()
    script.heal()
    must(script.names("to") == {"to": 1, "signal:s:" + _dot_of(script, "s"): 1}, script.names("to"))


def _dot_of(script: Script, name: str) -> str:
    """The turn that the operation was."""
    marks = Bag.of(script.record()).marks()
    (dot,) = names_of(marks)[name]
    return str(dot)


# Folding


def an_actor_is_folded_when_nobody_holds_its_entries() -> None:
    """One replica does not answer: the actors stay named until it does."""
    script = made()
    script.cut([0], [1, 2])
    script.ok(0, name="apart")
    script.network.heal(script.network.faults)
    script.until(lambda: not script.held(0))
    script.nodes[0].crash()
    script.until(lambda: script.leader is not None)
    script.run(5_000)
    leader = script.leader
    assert leader is not None
    named = [actor for actor in script.record(leader).merged.numbers if len(actor) == 3]
    must(named, "the actor was folded while a replica was away")
    script.heal()
    must(not [a for a in script.record().merged.numbers if len(a) == 3], "it is not folded")
    must(script.names() == {"born": 1, "apart": 1}, script.names())


def who_was_removed_brings_nothing_back() -> None:
    """It has seen an actor that was folded since, whose turns would now be counted twice."""
    script = made(5)
    script.cut([0, 1, 2], [3], [4])
    script.ok(3, name="folded")
    script.network.mend(two_way([3], [4]))
    script.until(lambda: script.held(4) == {"k": 1})
    script.network.cut(two_way([3], [4]))
    script.run(4_000)
    script.ok(4, name="given up")
    _remove(script, 4)
    script.network.mend(two_way([0, 1, 2], [3]))
    script.until(lambda: "folded" in script.names() and not _acted(script))
    script.network.heal(script.network.faults)
    script.until(lambda: script.nodes[4].replica.header.status == "removed")
    script.run(10_000)
    must(script.held(4), "it was taken from who was removed")
    must(script.names() == {"born": 1, "folded": 1}, script.names())


def who_has_not_heard_of_a_removal_is_waited_for() -> None:
    """It would take entries from who was removed, and merge them when it leads."""
    script = made(5)
    script.cut([0, 1, 2, 3], [4])
    script.ok(4, name="apart")
    script.network.heal(script.network.faults)
    script.until(lambda: not script.held(4))
    _remove(script, 4)
    _service(script, 1).epoch = (0, 0)
    script.run(10_000)
    must(_acted(script), "the actor was folded although node 1 goes by an older record")
    _service(script, 1).epoch = (0, 1)
    script.until(lambda: not _acted(script))


def a_replica_that_is_removed_while_it_acts_stops() -> None:
    """What has not begun is no deed of it; and it must be able to say that it holds no entries."""
    script = made()
    script.cut([0, 2], [1])
    disk = script.nodes[1].disk
    disk.faults = type(disk.faults)(latency_us=600_000)
    waiting = script.send(1, "call", work=Work("mark", "waits"))
    script.run(20)
    node = script.nodes[1]
    node._perform(node.replica.adopt(GroupConfig(2, _replicas(0, 2)), node.now_ms()))
    must(script.answer(waiting).status is Status.NOT_LEADER, script.answer(waiting))
    must(not _service(script, 1).acting.is_acting, "it still acts")


def _replicas(*nodes: int) -> tuple[Replica, ...]:
    return tuple(Replica(node, node + 1) for node in nodes)


def _service(script: Script, node: int) -> Service:
    service = script.nodes[node].service
    assert service is not None
    return service


def _acted(script: Script) -> list[object]:
    """The actors of acting periods that the agent's record names."""
    return [actor for actor in script.record().merged.numbers if len(actor) == 3]


def _remove(script: Script, node: int) -> None:
    """All but the node itself go by a record without it."""
    others = [one for one in range(script.size) if one != node]
    for one in others:
        service, here = _service(script, one), script.nodes[one]
        service.members, service.epoch = tuple(others), (0, 1)
        here._perform(here.replica.adopt(GroupConfig(2, _replicas(*others)), here.now_ms()))


def an_entry_that_was_away_is_not_folded() -> None:
    """Two periods of a node: the later one is merged while the earlier one is only elsewhere."""
    script = made(5)
    script.cut([0, 1, 2], [3, 4])
    script.wire.drops = lambda _, target, message: target == 4 and isinstance(message, Put)
    script.ok(3, key="k", name="first")
    script.wire.drops = None
    script.until(lambda: script.held(4))
    script.nodes[4].crash()  # holds the first period's entry
    disk = script.nodes[3].disk
    script.nodes[3].crash()
    disk.lose()
    disk.format()
    script.network.heal(script.network.faults)
    script.run(6_000)
    must("first" not in script.names(), "the entry came by another way")
    script.heal()
    must(script.names()["first"] == 1, script.names())


def heartbeats_decide_who_acts() -> None:
    """A replica that hears a leader does not act, though the leader does not hear it."""
    script = made()
    script.network.cut([(2, 0), (2, 1)])
    script.run(3_000)
    answer = script.call(2)
    must(answer.status is Status.NOT_LEADER and answer.value == 0, answer)
    script.wire.drops = lambda _, target, message: target == 2 and isinstance(message, Heartbeat)
    script.run(3_000)
    must(script.ok(2, name="apart").is_partitioned, "it is cut off, and does not act")
    script.heal()
    must(script.names() == {"born": 1, "apart": 1}, script.names())


def the_first_in_reach_acts() -> None:
    """Of two that see each other the one that is preferred acts, and the other one says so."""
    script = made(5)
    script.cut([0, 1, 2], [3, 4])
    other = script.call(4)
    must(other.status is Status.NOT_LEADER and other.value == 3, other)
    script.ok(3, name="at3")
    script.nodes[3].crash()
    script.run(1_000)
    script.ok(4, name="at4")
    must(script.held(4) == {"k": 1}, "it does not go on from what it was sent")
    script.nodes[3].start()
    script.run(4_000)
    other = script.call(4)
    must(other.status is Status.NOT_LEADER and other.value == 3, other)
    script.heal()
    must(script.names() == {"born": 1, "at3": 1, "at4": 1}, script.names())
