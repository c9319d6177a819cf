"""Clients follow leaders: whoever leads next gets the calls, in order, each done once."""

import asyncio
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jido_cluster.errors import (
    AgentNotFoundError,
    DeadlineExceededError,
    ExecutionError,
    JidoError,
    NoQuorumError,
    OutcomeUnknownError,
)
from jido_cluster.runtime.link import Call, look
from jido_cluster.runtime.view import Lead
from jido_cluster.runtime.wire import ACK, CALL, CAST, DOUBT, LEADS, pack, unpack
from jido_state.operations import OpId
from tests.runtime.fakes import SHARDS, STUCK, WAY, FakeCluster, run


def put(cluster: FakeCluster, key: str = "a", timeout: float = 30.0, kind: int = CALL) -> Call:
    return cluster.client.submit(kind, key, "put", b"{}", timeout)


def asked(cluster: FakeCluster, name: str | None = None) -> list[str]:
    """The hosts that got a question, or a call, in order."""
    return [
        host
        for host, parts in cluster.frames
        for message in parts[5]
        if (message[3] == LEADS) is (name == LEADS)
    ]


async def values(calls: list[Call]) -> list[int]:
    return [unpack(body) for body in await asyncio.gather(*calls)]


def test_calls_in_flight_when_their_leader_dies_are_done_once_by_the_next() -> None:
    """Under the same numbers, whether the dead one had done them or not, and in order."""

    async def main() -> None:
        cluster = FakeCluster()
        cluster.elect(0)
        client = cluster.connect()
        await client.start()
        done = [put(cluster) for _ in range(3)]
        await asyncio.gather(*done)
        calls = [put(cluster) for _ in range(5)]
        await asyncio.sleep(0.005)  # they are at the leader
        cluster.apply("me", [calls[0].number, CALL, "a"])  # committed, and not answered
        cluster.kill(0)
        await asyncio.sleep(0.1)
        calls += [put(cluster) for _ in range(3)]
        await asyncio.sleep(0.5)
        assert [call.is_doubtful for call in calls] == [True] * 5 + [False] * 3
        cluster.tell(cluster.elect(2))
        assert await values(calls) == list(range(4, 12))
        assert cluster.applied["a"] == [call.number for call in done + calls]
        assert cluster.hosts[2].taken == [call.number for call in calls]
        assert client.op_id(calls[0]) == OpId("me", calls[0].number).text
        await client.close()

    run(main)


@pytest.mark.parametrize("applies", [True, False])
def test_a_doubtful_answer_sends_the_call_to_the_next_leader(applies: bool) -> None:
    """Which knows whether it has taken effect."""

    async def main() -> None:
        cluster = FakeCluster()
        cluster.elect(0)
        client = cluster.connect()
        calls = [put(cluster) for _ in range(3)]
        await asyncio.sleep(0.005)
        cluster.elect(1, applies=applies)
        assert await values(calls) == [1, 2, 3]
        assert [call.is_doubtful for call in calls] == [True, False, False]
        assert cluster.applied["a"] == [1, 2, 3]
        assert asked(cluster, LEADS) == []  # the old leader has said who is the new one
        await client.close()

    run(main)


def test_a_chain_of_redirects_is_followed() -> None:
    """Each host knows the next; one call travels the whole way, nobody is asked twice."""

    async def main() -> None:
        cluster = FakeCluster(5)
        for node in range(4):
            cluster.hosts[node].knows = Lead((0, 1, node + 1, node + 1), node + 1)
        cluster.lead = Lead((0, 1, 1, 0), 0)
        client = cluster.connect()
        cluster.lead = Lead((0, 1, 4, 4), 4)
        assert await values([put(cluster)]) == [1]
        assert asked(cluster) == [f"host/{node}" for node in range(5)]
        again = put(cluster, "b")
        await again
        assert asked(cluster)[5:] == ["host/4"] or client.view.leaders.count("host/4") < SHARDS
        assert client.view.leads.count(cluster.lead) >= 1
        await client.close()

    run(main)


def test_an_unknown_leader_is_asked_for_in_order_of_preference() -> None:
    """One replica at a time; no call goes anywhere before somebody says that it leads."""

    async def main() -> None:
        cluster = FakeCluster()
        cluster.elect(2)
        client = cluster.connect(knows_lead=False)
        calls = [put(cluster) for _ in range(50)]
        assert await values(calls) == list(range(1, 51))
        assert asked(cluster, LEADS) == ["host/0", "host/1", "host/2"]
        assert set(asked(cluster)) == {"host/2"}
        await client.close()

    run(main)


def test_a_replica_that_knows_the_leader_spares_the_rest_of_the_search() -> None:
    """Also when it names one that the client did not know of as a replica."""

    async def main() -> None:
        cluster = FakeCluster(4)
        cluster.hosts[0].knows = cluster.elect(3)
        client = cluster.connect(knows_lead=False)
        assert await values([put(cluster)]) == [1]
        assert asked(cluster, LEADS) == ["host/0"]
        await client.close()

    run(main)


def test_during_an_election_hosts_are_asked_every_50_ms_at_most() -> None:
    """And calls that wait are served as soon as one says that it leads, without any view."""

    async def main() -> None:
        cluster = FakeCluster()
        client = cluster.connect()
        calls = [put(cluster) for _ in range(20)]
        await asyncio.sleep(1.0)
        assert 3 * 10 <= len(asked(cluster, LEADS)) <= 3 * 20
        for host in cluster.hosts:
            gaps = [b - a for a, b in zip(host.asked, host.asked[1:], strict=False)]
            assert min(gaps) >= 0.05
        assert asked(cluster) == []
        cluster.elect(1)
        begun = asyncio.get_running_loop().time()
        assert await values(calls) == list(range(1, 21))
        assert asyncio.get_running_loop().time() - begun < 0.2
        await client.close()

    run(main)


def test_two_hosts_that_name_each_other_are_no_reason_to_hurry() -> None:
    """The call goes to each of them at most every 50 ms, until one leads."""

    async def main() -> None:
        cluster = FakeCluster(2)
        one, two = cluster.hosts
        one.knows, two.knows = Lead((0, 1, 2, 1), 1), Lead((0, 1, 1, 0), 0)
        client = cluster.connect()
        call = put(cluster)
        await asyncio.sleep(1.0)
        assert not call.done()
        for host in cluster.hosts:
            assert 5 <= len(host.asked) <= 42  # a question and a call within each 50 ms
        cluster.elect(0)
        assert await values([call]) == [1]
        await client.close()

    run(main)


def test_a_newer_view_moves_calls_on_before_anybody_is_asked() -> None:
    """The long poll of the near supervisor says who leads."""

    async def main() -> None:
        cluster = FakeCluster()
        for host in cluster.hosts:
            host.is_silent = True
        client = cluster.connect()
        await client.start()
        call = put(cluster)
        await asyncio.sleep(0.1)
        assert asked(cluster) == []
        cluster.hosts[1].is_silent = False
        cluster.tell(cluster.elect(1))
        begun = asyncio.get_running_loop().time()
        assert await values([call]) == [1]
        assert asyncio.get_running_loop().time() - begun < 0.05
        await client.close()

    run(main)


def test_a_silent_leader_is_left_when_another_one_is_elected() -> None:
    """A second later; what it was sent is doubtful, and what came after waits behind."""

    async def main() -> None:
        cluster = FakeCluster()
        cluster.elect(0)
        client = cluster.connect()
        await client.start()
        await put(cluster)
        cluster.hosts[0].is_silent = True
        calls = []
        for _ in range(3):  # two frames are under way, and one call waits for a third
            calls.append(put(cluster))
            await asyncio.sleep(WAY)
        cluster.tell(cluster.elect(1))
        await asyncio.sleep(0.1)
        calls += [put(cluster) for _ in range(3)]
        begun = asyncio.get_running_loop().time()
        assert await values(calls) == [2, 3, 4, 5, 6, 7]
        assert asyncio.get_running_loop().time() - begun < 1.2
        assert [call.is_doubtful for call in calls] == [True] * 2 + [False] * 4
        await client.close()

    run(main)


def test_a_leader_out_of_reach_is_looked_for_elsewhere() -> None:
    """Without any view; and turned to again when it is the leader still."""

    async def main() -> None:
        cluster = FakeCluster()
        cluster.elect(0)
        client = cluster.connect()
        cluster.hosts[0].is_cut = True
        call = put(cluster)
        await asyncio.sleep(0.5)
        assert {"host/1", "host/2"} <= set(asked(cluster, LEADS))
        cluster.elect(2)
        assert await values([call]) == [1]
        cluster.hosts[2].is_cut = True
        again = put(cluster)
        await asyncio.sleep(1.0)
        cluster.hosts[2].is_cut = False
        assert await values([again]) == [2]
        await client.close()

    run(main)


def test_what_comes_after_a_refused_call_is_refused_too() -> None:
    """The host begins to lead between two frames of one client; their order is kept."""

    async def main() -> None:
        cluster = FakeCluster(1)
        client = cluster.connect()
        cluster.lead = Lead((0, 1, 1, 0), 0)
        client.install(cluster.view.with_leads(dict.fromkeys(range(SHARDS), cluster.lead)))
        cluster.lead = None
        first = put(cluster)
        await asyncio.sleep(WAY / 2)
        second = put(cluster)
        await asyncio.sleep(WAY * 3 / 4)
        assert cluster.hosts[0].taken == [first.number]
        cluster.elect(0)
        assert await values([first, second]) == [1, 2]
        assert cluster.hosts[0].taken == [first.number, second.number] * 2
        await client.close()

    run(main)


def test_a_call_that_follows_waits_until_the_old_leader_has_answered() -> None:
    """The view is ahead of the answer; which is a refusal, so that nothing is in doubt."""

    async def main() -> None:
        cluster = FakeCluster()
        cluster.elect(0)
        client = cluster.connect()
        await client.start()
        await put(cluster)
        first = put(cluster)
        await asyncio.sleep(0)
        cluster.tell(cluster.elect(1))
        await asyncio.sleep(0)
        second = put(cluster)
        assert await values([first, second]) == [2, 3]
        assert not first.is_doubtful
        assert cluster.hosts[1].taken == [first.number, second.number]
        await client.close()

    run(main)


# -- how calls end


@pytest.mark.parametrize(("timeout", "error"), [(5.0, NoQuorumError), (1.0, DeadlineExceededError)])
def test_a_call_that_no_leader_took_did_not_run(timeout: float, error: type[Exception]) -> None:
    """For lack of a quorum, when hosts have said for two seconds that nobody leads."""

    async def main() -> None:
        cluster = FakeCluster()
        client = cluster.connect()
        begun = asyncio.get_running_loop().time()
        with pytest.raises(error):
            await put(cluster, timeout=timeout)
        assert timeout <= asyncio.get_running_loop().time() - begun < timeout + 0.1
        assert client.calls == {} or all(call.name == LEADS for call in client.calls.values())
        await client.close()

    run(main)


def test_replicas_that_say_nothing_are_no_quorum() -> None:
    """They may be there; nobody answers who could lead, and that is said."""

    async def main() -> None:
        cluster = FakeCluster()
        for host in cluster.hosts:
            host.is_silent = True
        client = cluster.connect()
        with pytest.raises(NoQuorumError):
            await put(cluster, timeout=5.0)
        await client.close()

    run(main)


@pytest.mark.parametrize(("is_alone", "seconds"), [(True, 30.0), (False, 10.0)])
def test_calls_wait_longer_while_no_host_at_all_answers(is_alone: bool, seconds: float) -> None:
    """All nodes may be starting; where others answer all along, only the replicas are gone."""

    async def main() -> None:
        cluster = FakeCluster(4)
        client = cluster.connect()
        loop = asyncio.get_running_loop()
        for host in cluster.hosts[: 4 if is_alone else 3]:
            host.is_silent = True
        begun = loop.time()
        call = put(cluster, timeout=60.0)
        while not call.done():
            client.submit_to_host("host/3", LEADS, "", pack(0), 0.5).add_done_callback(look)
            await asyncio.wait([call], timeout=1.0)
        assert isinstance(call.exception(), NoQuorumError)
        assert seconds <= loop.time() - begun < seconds + 3.0
        await client.close()

    run(main)


def test_calls_do_not_wait_for_a_leader_that_is_out_of_reach_for_long() -> None:
    """It is not dialled for each of them; it has them again when it has answered a question."""

    async def main() -> None:
        cluster = FakeCluster()
        lead = cluster.elect(0)
        client = cluster.connect()
        loop = asyncio.get_running_loop()
        cluster.hosts[0].is_cut, cluster.hosts[0].cut_seconds = True, 2.0
        cluster.lead = None
        with pytest.raises(JidoError):
            await put(cluster, timeout=20.0)
        for _ in range(5):
            begun = loop.time()
            with pytest.raises(NoQuorumError):
                await put(cluster, timeout=5.0)
            assert loop.time() - begun < 0.2
        cluster.hosts[0].is_cut, cluster.lead = False, lead
        async with asyncio.timeout(3.0):
            while True:
                call = put(cluster, timeout=5.0)
                await asyncio.wait([call])
                if call.exception() is None:
                    break
        assert await values([call]) == [1]
        await client.close()

    run(main)


def test_a_call_that_was_sent_ends_as_unknown() -> None:
    """With its op id; its number is not acknowledged for a minute, so that a retry finds out."""

    async def main() -> None:
        cluster = FakeCluster()
        cluster.elect(0)
        client = cluster.connect()
        await put(cluster, "b")
        call = put(cluster, timeout=3.0)
        await asyncio.sleep(0.005)
        cluster.kill(0)
        with pytest.raises(OutcomeUnknownError) as raised:
            await call
        assert OpId.named(raised.value.op_id) == OpId("me", call.number)
        assert client.ack() == call.number
        cluster.elect(1)
        await put(cluster, "b")
        assert client.ack() == call.number
        await asyncio.sleep(61.0)
        assert client.ack() > call.number
        await client.close()

    run(main)


@pytest.mark.parametrize(
    ("answer", "ends"),
    [
        (AgentNotFoundError("none"), OutcomeUnknownError),
        (NoQuorumError("few"), OutcomeUnknownError),
        (ExecutionError("no"), ExecutionError),
    ],
    ids=["refused", "no quorum", "failed"],
)
def test_a_refusal_after_a_doubtful_attempt_refuses_only_that_one(
    answer: Any, ends: type[Exception]
) -> None:
    """Alone it would be final: this attempt did not run. The first may have."""

    async def main() -> None:
        cluster = FakeCluster()
        cluster.elect(0)
        client = cluster.connect()
        for host in cluster.hosts:
            host.answers_with = answer
        with pytest.raises(type(answer)):
            await put(cluster)
        cluster.hosts[0].answers_with = None
        call = put(cluster)
        await asyncio.sleep(0.005)
        cluster.elect(1)  # by an answer of doubt
        with pytest.raises(ends) as raised:
            await call
        assert ends is type(answer) or type(raised.value.__cause__) is type(answer)
        await client.close()

    run(main)


def test_casts_wait_for_a_leader_and_are_sent_once() -> None:
    """In order with the calls; those that a dead leader was sent are not sent again."""

    async def main() -> None:
        cluster = FakeCluster()
        client = cluster.connect()
        casts = [put(cluster, kind=CAST) for _ in range(2)]
        call = put(cluster)
        late = put(cluster, "b", timeout=0.2, kind=CAST)
        with pytest.raises(DeadlineExceededError):
            await late
        assert client.dropped_casts == 1
        cluster.elect(0)
        await call
        await asyncio.gather(*casts)
        assert cluster.applied["a"] == [done.number for done in (*casts, call)]
        lost = put(cluster, kind=CAST)
        await asyncio.sleep(0)
        cluster.kill(0)
        await lost
        cluster.elect(1)
        assert await values([put(cluster)]) == [4]
        assert client.dropped_casts == 2
        await client.close()

    run(main)


def test_a_stream_is_not_sent_to_the_next_leader() -> None:
    """Once it may have run it ends as unknown."""

    async def main() -> None:
        cluster = FakeCluster()
        cluster.elect(0)
        client = cluster.connect()
        cluster.hosts[0].answers_with = DOUBT
        inflow = client.submit_stream("a", "stream", b"{}", 5.0, None)
        with pytest.raises(OutcomeUnknownError, match="leads the agent's shard no more"):
            await inflow.batch()
        assert client.ack() > inflow.call.number
        await client.close()

    run(main)


# -- acknowledging


def test_a_crowded_agent_learns_what_is_answered() -> None:
    """Though another agent's long call keeps the frames from saying so; order is kept."""

    async def main() -> None:
        cluster = FakeCluster()
        cluster.elect(0)
        client = cluster.connect()
        cluster.hosts[0].crowded_from = 8
        long = put(cluster, STUCK)
        calls = [put(cluster, "busy") for _ in range(100)]
        assert await values(calls) == list(range(1, 101))
        assert cluster.accepted["busy"] == [call.number for call in calls]
        assert client.ack() == long.number
        extras = [m[6] for _, parts in cluster.frames for m in parts[5] if m[6]]
        assert {frozenset(extra) for extra in extras} == {frozenset({ACK})}
        await client.close()

    run(main)


def test_a_crowded_agent_is_not_asked_without_pause() -> None:
    """When there is nothing new to acknowledge, every 50 ms."""

    async def main() -> None:
        cluster = FakeCluster()
        cluster.elect(0)
        client = cluster.connect()
        cluster.hosts[0].crowded_from = 0
        call = put(cluster)
        await asyncio.sleep(1.0)
        assert 5 <= len(cluster.hosts[0].taken) <= 25
        cluster.hosts[0].crowded_from = None
        assert await values([call]) == [1]
        await client.close()

    run(main)


# -- whatever happens

EVENTS = st.one_of(
    st.tuples(st.just("elect"), st.integers(0, 3), st.booleans()),
    st.tuples(st.just("depose"), st.just(0), st.booleans()),
    st.tuples(st.just("kill"), st.integers(0, 1), st.just(value=False)),
    st.tuples(st.just("cut"), st.integers(0, 3), st.just(value=True)),
    st.tuples(st.just("cut"), st.integers(0, 3), st.just(value=False)),
    st.tuples(st.just("rumour"), st.integers(0, 3), st.booleans()),
    st.tuples(st.just("tell"), st.just(0), st.just(value=False)),
    st.tuples(st.just("call"), st.integers(1, 6), st.just(value=False)),
)
STEPS = st.lists(
    st.tuples(st.sampled_from([0.0, 0.001, 0.004, 0.02, 0.2, 1.5]), EVENTS), max_size=30
)


async def happen(cluster: FakeCluster, event: tuple[str, int, bool], calls: list[Call]) -> None:
    what, which, flag = event
    if what == "elect" and cluster.hosts[which].is_alive:
        cluster.elect(which, applies=flag)
    elif what == "depose":
        cluster.depose(applies=flag)
    elif what == "kill":
        cluster.kill(which)
    elif what == "cut":
        cluster.hosts[which].is_cut = flag
    elif what == "rumour":  # an old one: every ballot of it has been
        old = Lead((0, 1, max(cluster._round - 1, 1), 3 - which), 3 - which)
        cluster.hosts[which].knows = None if flag else old
    elif what == "tell" and cluster.lead is not None:
        cluster.tell(cluster.lead)
    elif what == "call":
        calls += [put(cluster, f"agent-{n % 3}", 300.0) for n in range(which)]


@settings(max_examples=150)
@given(STEPS, st.booleans())
def test_each_agents_calls_are_taken_in_order_and_done_once(
    steps: list[tuple[float, tuple[str, int, bool]]], is_following: bool
) -> None:
    """Whatever leaders die, are deposed, cannot be reached, and whatever hosts believe."""

    async def main() -> None:
        cluster = FakeCluster(4)
        cluster.elect(0)
        client = cluster.connect()
        if is_following:
            await client.start()
        calls: list[Call] = []
        for pause, event in steps:
            await happen(cluster, event, calls)
            await asyncio.sleep(pause)
        calls += [put(cluster, f"agent-{n}", 300.0) for n in range(3)]
        for host in cluster.hosts:
            host.is_cut = False
            host.knows = None
        cluster.elect(3)
        await asyncio.wait_for(asyncio.gather(*calls), 20.0)
        for key in ("agent-0", "agent-1", "agent-2"):
            mine = [call.number for call in calls if call.key == key]
            assert cluster.accepted[key] == mine
            assert cluster.applied[key] == mine
        await client.close()

    run(main)


def test_a_question_is_the_shards_number() -> None:
    """So that a host answers it without looking at any key."""

    async def main() -> None:
        cluster = FakeCluster()
        client = cluster.connect()
        call = put(cluster)
        await asyncio.sleep(0.01)
        (question, *_) = [m for _, parts in cluster.frames for m in parts[5]]
        assert question[2:5] == ["", LEADS, pack(call.shard)]
        call.cancel()
        await client.close()

    run(main)
