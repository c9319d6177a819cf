"""The detector by example, and what a cluster of detectors promises."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jido_placement.detector import Detector
from jido_placement.membership import Opinion, Reachability, first_incarnation
from jido_placement.probing import (
    Ack,
    Advertisement,
    Carried,
    Effect,
    Gossip,
    Message,
    Nack,
    News,
    Probe,
    ProbeFor,
    ReachabilityChanged,
    Send,
    Sync,
    SyncEntry,
)
from jido_placement.timings import Timings
from tests.placement.detectors import DetectorCluster

REACHABLE, SUSPECT, UNREACHABLE = Reachability
BOOT = first_incarnation(1)
PEER = Carried(BOOT)


def detector(*peers: str, timings: Timings | None = None) -> Detector:
    """Node "me" at time 0, that has heard of all these peers."""
    made = Detector("me", incarnation=BOOT, timings=timings or Timings(), seed=1, now_ms=0)
    for peer in peers:
        made.watch(peer)
        made.receive(peer, Gossip(PEER), 0)
    return made


def sent(effects: tuple[Effect, ...]) -> list[tuple[str, Message]]:
    return [(one.to, one.message) for one in effects if isinstance(one, Send)]


def changes(effects: tuple[Effect, ...]) -> list[tuple[str, Reachability]]:
    return [(one.node, one.after) for one in effects if isinstance(one, ReachabilityChanged)]


def test_what_cannot_be_watched_is_refused() -> None:
    """Bad ids, and a first incarnation that is none, are named."""
    with pytest.raises(ValueError, match="give 1 to 128 characters"):
        Detector("", incarnation=BOOT, timings=Timings(), seed=1, now_ms=0)
    with pytest.raises(ValueError, match="incarnation=0"):
        Detector("me", incarnation=0, timings=Timings(), seed=1, now_ms=0)
    one = detector("a")
    with pytest.raises(ValueError, match="128 characters"):
        one.watch("x" * 129)
    one.watch("me")
    one.watch("a")
    assert one.statistics().reachable == 1


def test_a_probe_is_answered_also_to_strangers() -> None:
    """Who does not know the asker yet answers all the same; it learns nothing from it."""
    one = detector()
    ((to, ack),) = sent(one.receive("stranger", Probe(7, PEER), 10))
    assert (to, ack) == ("stranger", Ack(7, "me", BOOT, Carried(BOOT)))
    assert one.statistics().reachable == 0
    ((_, nack),) = sent(one.receive("stranger", ProbeFor(8, "nobody", PEER), 20))
    assert isinstance(nack, Nack)


def test_gossip_brings_nobody_back() -> None:
    """News of a node that the driver does not name adds nothing: removed nodes stay removed."""
    one = detector("a", "b")
    one.forget("b")
    one.forget("b")
    news = News("b", Opinion(BOOT + 5, REACHABLE), "b")
    effects = one.receive("a", Gossip(Carried(BOOT, (news,), (Advertisement("b", 1, b""),))), 10)
    assert effects == ()
    with pytest.raises(KeyError):
        one.opinion_of("b")
    one.check()


def test_accusations_against_itself_are_contradicted() -> None:
    """The incarnation rises above the accused one, however high that is; nothing else answers."""
    one = detector("a")
    for against in (Opinion(BOOT, SUSPECT), Opinion(BOOT + 9, UNREACHABLE)):
        one.receive("a", Gossip(Carried(BOOT, (News("me", against, "a"),))), 10)
        assert one.opinion_of("me") == Opinion(against.incarnation + 1, REACHABLE)
    one.receive("a", Gossip(Carried(BOOT, (News("me", Opinion(BOOT, SUSPECT), "a"),))), 10)
    one.receive("a", Gossip(Carried(BOOT, (News("me", Opinion(BOOT + 20, REACHABLE), "a"),))), 10)
    assert one.statistics().refutations == 2
    assert one.opinion_of("me").incarnation == BOOT + 20


def test_doubt_in_itself_comes_with_accusations_and_goes_with_answers() -> None:
    """Who has to contradict may have been slow; who is answered in time is not."""
    one = detector("a")
    one.receive("a", Gossip(Carried(BOOT, (News("me", Opinion(BOOT, SUSPECT), "a"),))), 0)
    assert one.statistics().awareness == 1
    ((_, probe),) = [item for item in sent(one.tick(0)) if isinstance(item[1], Probe)]
    assert isinstance(probe, Probe)
    one.receive("a", Ack(probe.number, "a", BOOT, PEER), 5)
    assert one.statistics().awareness == 0


@pytest.mark.parametrize(
    ("others", "nacks", "awareness"), [(0, 0, 1), (2, 0, 2), (2, 1, 1), (2, 2, 0)]
)
def test_who_hears_nothing_from_helpers_doubts_itself(
    others: int, nacks: int, awareness: int
) -> None:
    """A helper that declines is a sign of the own health; one that is not heard at all is none."""
    one = detector("a", *[f"h{number}" for number in range(others)])
    ((_, probe),) = [item for item in sent(one.tick(0)) if isinstance(item[1], Probe)]
    assert isinstance(probe, Probe)
    asked: list[str] = []
    for ms in range(100, 1_000, 100):
        asked += [to for to, message in sent(one.tick(ms)) if isinstance(message, ProbeFor)]
    for helper in asked[:nacks]:
        one.receive(helper, Nack(probe.number, PEER), 950)
    one.tick(1_000)
    assert one.statistics().failed_probes == 1
    assert one.statistics().awareness == awareness


def test_certain_evidence_needs_no_waiting_and_is_not_believed_late() -> None:
    """It holds against the incarnation it was found for, not against a later one."""
    one = detector("a")
    assert changes(one.certain("a", BOOT, 10)) == [("a", UNREACHABLE)]
    assert one.certain("a", BOOT, 20) == ()
    again = one.receive("a", Gossip(Carried(first_incarnation(2))), 30)
    assert changes(again) == [("a", REACHABLE)]
    assert one.certain("a", BOOT, 40) == ()
    assert one.certain("me", BOOT + 99, 50) == ()
    assert one.certain("stranger", BOOT, 50) == ()


def test_an_unreachable_node_is_told_so_that_it_can_contradict() -> None:
    """The answer to its probe carries what is believed of it, before all else."""
    one = detector("a")
    one.certain("a", BOOT, 10)
    ((_, ack),) = sent(one.receive("a", Probe(1, PEER), 20))
    assert ack.carried.news[0] == News("a", Opinion(BOOT, UNREACHABLE), "me")


def test_confirmations_shorten_a_suspicion_and_travel_on() -> None:
    """Who suspects by itself counts; the same accuser twice does not, nor is it handed on."""
    one = detector("a", "b", "c", "d", "e")
    suspect = Opinion(BOOT, SUSPECT)

    def hear(accuser: str) -> None:
        one.receive(accuser, Gossip(Carried(BOOT, (News("e", suspect, accuser),))), 0)

    for accuser in "aabc":
        hear(accuser)
    assert one.opinion_of("e") == suspect
    times = range(0, 30_000, 100)
    assert [ms for ms in times if ("e", UNREACHABLE) in changes(one.tick(ms))] == [4_000]


def test_advertisements_arrive_once_and_the_newest_stays() -> None:
    """An older one, or one of a node that is not watched, is ignored; too long ones are refused."""
    one = detector("a")

    def hear(node: str, version: int) -> tuple[Effect, ...]:
        carried = Carried(BOOT, (), (Advertisement(node, version, b"x"),))
        return one.receive("a", Gossip(carried), 0)

    assert len(hear("a", 2)) == 1
    assert hear("a", 1) == hear("a", 2) == hear("stranger", 9) == ()
    known = one.advertisement_of("a")
    assert known is not None
    assert known.version == 2
    one.advertise(b"1")
    with pytest.raises(ValueError, match="at most max_payload_bytes=1024"):
        one.advertise(bytes(1_025))
    mine = one.advertisement_of("me")
    assert mine is not None
    assert mine.payload == b"1"


def test_comparison_brings_what_gossip_lost() -> None:
    """Newer here is sent, newer there is asked for; an answer asks no further."""
    one = detector("a", "b")
    one.advertise(b"mine")
    one.certain("b", BOOT, 0)
    entries = (
        SyncEntry("me", Opinion(BOOT, REACHABLE), 0),
        SyncEntry("b", Opinion(BOOT, REACHABLE), 5),
        SyncEntry("stranger", Opinion(BOOT, SUSPECT), 5),
    )
    answers = sent(one.receive("a", Sync(entries, is_answer=False, carried=PEER), 10))
    asked = next(message for _, message in answers if isinstance(message, Sync))
    assert [entry.node for entry in asked.entries] == ["b"]
    assert asked.is_answer
    brought = next(message for _, message in answers if isinstance(message, Gossip))
    assert [one.payload for one in brought.carried.advertisements] == [b"mine"]
    final = sent(one.receive("a", Sync(entries, is_answer=True, carried=PEER), 20))
    assert not [message for _, message in final if isinstance(message, Sync)]
    worse = (SyncEntry("a", Opinion(BOOT, SUSPECT), 0),)
    effects = one.receive("b", Sync(worse, is_answer=True, carried=Carried(BOOT + 1)), 30)
    assert changes(effects) == [("b", REACHABLE), ("a", SUSPECT)]


def test_a_large_comparison_stays_within_its_size() -> None:
    """Pages are bounded, and go round; so are the advertisements that answer one."""
    names = [f"node-{number:03}" for number in range(300)]
    one = detector(*names)
    seen: list[str] = []
    now_ms = 0
    while len(seen) < 301:
        now_ms = one.next_at_ms
        for _, message in sent(one.tick(now_ms)):
            if isinstance(message, Sync):
                assert len(message.entries) <= 50
                seen += [entry.node for entry in message.entries]
    assert seen[:301] == sorted([*names, "me"])
    for name in names[:20]:
        carried = Carried(BOOT, (), (Advertisement(name, 1, bytes(1_000)),))
        one.receive(name, Gossip(carried), now_ms)
    entries = tuple(SyncEntry(name, Opinion(BOOT, REACHABLE), 0) for name in names[:20])
    answers = sent(one.receive(names[0], Sync(entries, is_answer=True, carried=PEER), now_ms))
    (brought,) = [message for _, message in answers]
    assert len(brought.carried.advertisements) == 1


def test_time_in_which_the_own_loop_did_not_run_is_nobodys_silence() -> None:
    """After a pause a suspicion has as long to run as before, and the node doubts itself."""
    one = detector("a", "b")
    news = News("b", Opinion(BOOT, SUSPECT), "a")
    one.receive("a", Gossip(Carried(BOOT, (news,))), 0)
    one.tick(0)
    assert changes(one.tick(100_000)) == []
    assert one.statistics().awareness >= 1
    assert one.statistics().lag_ms >= 99_000


def test_what_waits_waits_longer_by_the_own_lag() -> None:
    """The probe in flight and the word to an asker do; a node forgotten meanwhile does not."""
    one = detector("a", "b")
    ((target, _),) = [item for item in sent(one.tick(0)) if isinstance(item[1], Probe)]
    one.receive("a", ProbeFor(4, "b", PEER), 0)
    one.lagged(1_000)
    one.tick(200)
    assert [kind for _, kind in sent(one.tick(400)) if isinstance(kind, Nack)] == []
    one.forget(target)
    one.lagged(1_000)
    one.check()
    assert one.statistics().lag_ms == 2_000


def test_a_node_that_hears_nothing_counts_nobody_as_contact() -> None:
    """Being heard of is not contact: only an answer to an own probe is a way there and back."""
    one = detector("a", "b")
    assert one.contacts(0) == ("me",)
    ((to, message),) = [item for item in sent(one.tick(0)) if isinstance(item[1], Probe)]
    assert isinstance(message, Probe)
    one.receive(to, Ack(message.number, to, BOOT, PEER), 5)
    assert one.contacts(5) == ("a", "b", "me")


def test_an_answer_that_somebody_else_brings_is_good_enough() -> None:
    """Others are asked in time, their word ends the round without suspicion, late ones too."""
    one = detector("a", "b")
    ((target, probe),) = [item for item in sent(one.tick(0)) if isinstance(item[1], Probe)]
    assert isinstance(probe, Probe)
    helper = "b" if target == "a" else "a"
    one.tick(200)
    asked = [item for item in sent(one.tick(500)) if isinstance(item[1], ProbeFor)]
    assert [to for to, _ in asked] == [helper]
    one.receive(helper, Nack(probe.number, PEER), 900)
    one.receive(helper, Nack(99, PEER), 900)
    one.receive(helper, Ack(probe.number, target, BOOT, PEER), 950)
    assert changes(one.tick(1_000)) == []
    assert one.statistics().failed_probes == 0


def test_a_helper_declines_in_time_and_passes_a_late_answer_on() -> None:
    """After 80 % of the asker's patience it says that it is well; one request of a node counts."""
    one = detector("a", "b")
    one.receive("a", ProbeFor(4, "b", PEER), 0)
    ((_, probe),) = sent(one.receive("a", ProbeFor(5, "b", PEER), 0))
    assert isinstance(probe, Probe)
    one.tick(200)
    nacks = [item for item in sent(one.tick(400)) if isinstance(item[1], Nack)]
    assert [(to, message.number) for to, message in nacks if isinstance(message, Nack)] == [
        ("a", 5)
    ]
    passed = sent(one.receive("b", Ack(probe.number, "b", BOOT, PEER), 450))
    assert [(to, type(message)) for to, message in passed] == [("a", Ack)]
    assert sent(one.receive("b", Ack(probe.number, "b", BOOT, PEER), 460)) == []


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 3, 5, 20, 60])
def test_a_dead_node_is_found_by_all_and_nobody_else_is_accused(size: int) -> None:
    """Suspected within two intervals of its turn, given up after the suspicion, by everybody."""
    cluster = DetectorCluster(size)
    cluster.run(30_000)
    assert cluster.changes == []
    killed_ms = cluster.now_ms
    cluster.kill("n1")
    cluster.run(60_000)
    assert cluster.opinions("n1") == {"unreachable": size - 1}
    assert {change.node for _, _, change in cluster.changes} == {"n1"}
    suspected_ms = cluster.first("n1", SUSPECT)
    given_up_ms = cluster.first("n1", UNREACHABLE)
    assert suspected_ms is not None
    assert given_up_ms is not None
    # A node's turn comes once in as many intervals as there are nodes, but all others probe too.
    assert suspected_ms - killed_ms <= 4_000
    assert given_up_ms - killed_ms <= 16_000
    cluster.restart("n1")
    cluster.run(15_000)
    assert cluster.opinions("n1") == {"reachable": size - 1}


@pytest.mark.slow
def test_messages_of_a_node_do_not_grow_with_the_cluster() -> None:
    """A node sends about as much in a cluster of eighty as in one of eight, idle or not."""
    rates = []
    for size in (8, 80):
        cluster = DetectorCluster(size)
        cluster.run(60_000)
        cluster.sent.clear()
        cluster.run(20_000)
        idle = max(cluster.sent.values()) / 20
        cluster.sent.clear()
        cluster.kill("n1")
        cluster.run(20_000)
        rates.append((idle, max(cluster.sent.values()) / 20))
    assert all(idle <= 4 and busy <= 8 for idle, busy in rates)
    for (idle, busy), (idle_more, busy_more) in pairwise(rates):
        assert idle_more <= 1.5 * idle
        assert busy_more <= 1.5 * busy


@pytest.mark.slow
def test_messages_are_bounded_whatever_there_is_to_say() -> None:
    """Forty nodes with advertisements of 300 bytes, half of which die at once."""
    cluster = DetectorCluster(40)
    for one in cluster.detectors.values():
        one.advertise(bytes(300))
    cluster.run(3_000)
    for name in cluster.names[20:]:
        cluster.kill(name)
    cluster.run(30_000)
    # A page for comparison takes half a message beside what every message may carry.
    limit = cluster.timings.max_message_bytes
    assert limit // 2 < cluster.largest <= 1.5 * limit


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_a_slow_node_accuses_nobody_falsely_for_long(seed: int) -> None:
    """A node whose loop stops for seconds again and again gives up nobody, nor is it given up."""
    cluster = DetectorCluster(5, seed=seed)
    cluster.run(10_000)
    for _ in range(20):
        cluster.pause("n0", 3_000)
        cluster.run(5_000)
    assert not [one for _, _, one in cluster.changes if one.after is UNREACHABLE]
    accused_by_it = [
        one for _, name, one in cluster.changes if name == "n0" and one.accuser == "n0"
    ]
    assert not [one for one in accused_by_it if one.after is SUSPECT]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_loss_of_a_tenth_of_all_messages_gives_up_nobody(seed: int) -> None:
    """Suspicions come and are contradicted; in ten minutes none ends in unreachable."""
    cluster = DetectorCluster(5, seed=seed, loss=0.1)
    cluster.run(600_000)
    assert not [one for _, _, one in cluster.changes if one.after is UNREACHABLE]


@pytest.mark.slow
def test_both_sides_of_a_split_know_their_side_and_find_together_again() -> None:
    """Contacts become the own side; a while after the end of the split everybody is reachable."""
    cluster = DetectorCluster(5)
    cluster.run(20_000)
    sides = ["n0", "n1"], ["n2", "n3", "n4"]
    cluster.cut(*sides)
    cluster.run(30_000)
    for side in sides:
        for name in side:
            assert cluster.detectors[name].contacts(cluster.now_ms) == tuple(side)
    cluster.heal()
    cluster.run(20_000)
    for one in cluster.detectors.values():
        assert len(one.contacts(cluster.now_ms)) == 5


@pytest.mark.slow
@pytest.mark.parametrize("is_deaf", [True, False])
def test_a_node_cut_off_one_way_knows_it(is_deaf: bool) -> None:
    """Who cannot hear, or cannot be heard, has no contact with most; the others lose only it."""
    cluster = DetectorCluster(5)
    cluster.run(20_000)
    others = [name for name in cluster.names if name != "n0"]
    left, right = (others, ["n0"]) if is_deaf else (["n0"], others)
    cluster.cut(left, right, both_ways=False)
    cluster.run(30_000)
    assert len(cluster.detectors["n0"].contacts(cluster.now_ms)) <= 2
    assert all(len(cluster.detectors[one].contacts(cluster.now_ms)) == 4 for one in others)


@pytest.mark.parametrize("seed", range(40))
def test_the_smaller_side_finds_out_within_ten_intervals(seed: int) -> None:
    """Its doubt in itself makes it slow to accuse the larger side, not slow to pause."""
    cluster = DetectorCluster(5, seed=seed)
    cluster.run(20_000 + 97 * seed)
    small = ("n0", "n1")
    cluster.cut(small, ("n2", "n3", "n4"))
    cluster.run(10 * cluster.timings.probe_interval_ms)
    for name in small:
        assert len(cluster.detectors[name].contacts(cluster.now_ms)) <= 2
    cluster.heal()
    cluster.run(10 * cluster.timings.probe_interval_ms)
    for name in small:
        assert len(cluster.detectors[name].contacts(cluster.now_ms)) == 5


@pytest.mark.slow
def test_advertisements_reach_everybody_also_who_came_late() -> None:
    """What was said before a node was known comes to it by comparison."""
    cluster = DetectorCluster(12, loss=0.2)
    for name, one in cluster.detectors.items():
        one.advertise(name.encode())
    cluster.run(5_000)
    cluster.join("late")
    cluster.run(60_000)
    for one in cluster.detectors.values():
        for other in cluster.names:
            known = one.advertisement_of(other)
            assert (known is None) == (other == "late"), other
            assert known is None or known.payload == other.encode()


@settings(max_examples=25)
@given(st.integers(0, 2**32), st.integers(2, 6), st.floats(0, 0.3))
def test_equal_seeds_give_equal_courses(seed: int, size: int, loss: float) -> None:
    """The same calls have the same effects, and after any trouble everybody is reachable again."""
    logs = []
    for _ in range(2):
        cluster = DetectorCluster(size, seed=seed, loss=loss, timings=Timings.local())
        cluster.run(3_000)
        cluster.cut(cluster.names[:1], cluster.names[1:])
        cluster.run(5_000)
        cluster.heal()
        cluster.loss = 0.0
        logs.append(list(cluster.log))
    assert logs[0] == logs[1]
    cluster.run(60_000)
    for name in cluster.names:
        assert cluster.opinions(name) == {"reachable": size - 1}
