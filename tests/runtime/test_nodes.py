"""Nodes that die, come back and join, on simulated time: what becomes of agents, calls and runs."""

import asyncio
import random
from collections.abc import Coroutine
from typing import Any

import pytest

from jido_cluster import (
    AgentExistsError,
    AgentLostError,
    AgentNotFoundError,
    AsyncAgentRef,
    DeadlineExceededError,
    InvalidInputError,
    JidoError,
    NoQuorumError,
    OutcomeUnknownError,
    UnavailableError,
    UsageError,
    new_id,
)
from jido_cluster._local.runtime import PREFER_SECONDS
from jido_cluster.runtime.asked import Asked
from jido_cluster.testing import AsyncLocalCluster
from jido_state.requests import Answer
from tests.exec.loops import now
from tests.runtime.agents import Fleeting, Guest, Passerby, Starter, Step, Tally
from tests.runtime.support import hosts_of, local, run

ENDS = (AgentLostError, OutcomeUnknownError)


async def tallies(
    cluster: AsyncLocalCluster, count: int, made: type[Tally] = Tally, **state: Any
) -> list[AsyncAgentRef[Tally]]:
    return [await cluster.spawn(made, f"t-{n}", **state) for n in range(count)]


async def on_node(
    cluster: AsyncLocalCluster, refs: list[AsyncAgentRef[Tally]], node: str
) -> list[AsyncAgentRef[Tally]]:
    return [ref for ref in refs if (await ref.info()).node == node]


async def outcome(call: Coroutine[Any, Any, Any]) -> Any:
    """The result, or the error."""
    try:
        return await call
    except JidoError as error:
        return error


async def losing(
    cluster: AsyncLocalCluster,
) -> tuple[list[AsyncAgentRef[Tally]], list[AsyncAgentRef[Tally]]]:
    """Agents that are kept in memory only, and those of them that are lost with "node-2"."""
    refs = await tallies(cluster, 60, Fleeting, value=5)
    lost = await on_node(cluster, refs, "node-2")
    assert len(lost) > 5
    await cluster.kill("node-2")
    for ref in lost:
        await outcome(ref.call(Tally.get))  # it may be unknown whether that one ran
    return refs, lost


async def until_preferred() -> None:
    """Return when shards are led where they are to be, after a node has come back."""
    await asyncio.sleep(2 * PREFER_SECONDS)


def test_agents_survive_a_killed_node() -> None:
    """They are served elsewhere within seconds, with their state; their ids stay taken."""

    async def main() -> None:
        async with local(3) as cluster:
            refs = await tallies(cluster, 60, value=5)
            moved = await on_node(cluster, refs, "node-2")
            assert len(moved) > 5
            await cluster.kill("node-2")
            begun = now()
            for ref in moved:
                assert await ref.call(Tally.get) == 5
            assert now() - begun < 5.0
            for ref in refs:
                assert await ref.call(Tally.add) == 6
                assert (await ref.info()).node != "node-2"
            with pytest.raises(AgentExistsError):
                await cluster.spawn(Tally, moved[0].id)
            assert {info.id async for info in cluster.agents()} == {ref.id for ref in refs}

    run(main)


def test_agents_in_memory_of_a_killed_node_are_lost_and_others_untouched() -> None:
    """Calls say so, also after more calls; ids are free for a spawn; the rest never notices."""

    async def main() -> None:
        async with local(3) as cluster:
            refs, lost = await losing(cluster)
            for ref in refs:
                for _ in range(2):
                    if ref in lost:
                        with pytest.raises(AgentLostError, match=ref.id):
                            await ref.call(Tally.get)
                    else:
                        assert await ref.call(Tally.get) == 5
            for look in (lost[0].info, lost[0].state, lost[0].passivate, lost[0].delete):
                with pytest.raises(AgentLostError):
                    await look()
            again = await cluster.spawn(Fleeting, lost[0].id, value=1)
            assert await again.call(Tally.add) == 2
            assert await (await cluster.get_or_spawn(Fleeting, lost[1].id)).call(Tally.add) == 1

    run(main)


def test_a_lost_agent_that_is_spawned_again_is_not_gone_in_between(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The new life takes the place of the lost one; calls of others find one or the other."""
    ended = Asked.ended

    async def ended_late(self: Asked) -> Answer:
        answer = await ended(self)
        await asyncio.sleep(0.05)
        return answer

    monkeypatch.setattr(Asked, "ended", ended_late)

    async def main() -> None:
        async with local(3) as cluster:
            _, lost = await losing(cluster)
            for ref in lost:
                spawning = asyncio.ensure_future(cluster.get_or_spawn(Fleeting, ref.id, value=1))
                seen = []
                while not spawning.done():
                    seen.append(asyncio.ensure_future(outcome(ref.call(Tally.get))))
                    await asyncio.sleep(0.005)
                await spawning
                found = await asyncio.gather(*seen)
                assert found
                for one in found:
                    assert one == 1 or isinstance(one, AgentLostError), one

    run(main)


def test_a_spawn_over_a_lost_agent_counts_once() -> None:
    """Repeated after the new one was lost, too: it is done, and makes no other one."""

    async def main() -> None:
        async with local(3) as cluster:
            _, lost = await losing(cluster)
            for ref in lost:
                once = cluster.options(op_id=f"again-{ref.id}")
                assert (
                    await (await once.get_or_spawn(Fleeting, ref.id, value=1)).call(Tally.get) == 1
                )
            await cluster.restart("node-2")
            await until_preferred()  # what has come back to it is lost once more
            assert isinstance(await outcome(lost[0].call(Tally.get)), AgentLostError)
            for ref in lost:
                once = cluster.options(op_id=f"again-{ref.id}")
                found = await outcome(ref.call(Tally.get))
                await once.get_or_spawn(Fleeting, ref.id, value=1)
                assert type(await outcome(ref.call(Tally.get))) is type(found)
                anew = await cluster.get_or_spawn(Fleeting, ref.id, value=2)
                assert await anew.call(Tally.get) == (1 if found == 1 else 2)

    run(main)


def test_a_node_is_back_with_what_its_disk_held() -> None:
    """Where only both replicas are a quorum, nothing is served until it is; nothing is lost."""

    async def main() -> None:
        async with local(2) as cluster:
            refs = await tallies(cluster, 20, value=5)
            await cluster.kill("node-1")
            for ref in refs[:2]:
                with pytest.raises((NoQuorumError, OutcomeUnknownError)):
                    await ref.options(timeout=8.0).call(Tally.put, 1)
            await cluster.kill("node-2")
            await cluster.restart("node-2")
            await cluster.restart("node-1")
            for ref in refs:
                assert await ref.call(Tally.add) == 6

    run(main)


def test_calls_wait_for_nodes_that_are_slow_to_start() -> None:
    """All were killed: neither who asks in vain nor the first one to be back gives up at once."""

    async def main() -> None:
        async with local(3) as cluster:
            refs = await tallies(cluster, 20, value=5)
            for name in ("node-1", "node-2", "node-3"):
                await cluster.kill(name)
            during = [
                asyncio.ensure_future(ref.options(timeout=60.0).call(Tally.add)) for ref in refs
            ]
            await asyncio.sleep(12.0)
            await cluster.restart("node-2")
            await asyncio.sleep(12.0)
            await cluster.restart("node-1")
            assert await asyncio.gather(*during) == [6] * 20

    run(main)


def test_without_a_majority_calls_are_refused_in_seconds() -> None:
    """What had a leader, and has lost two replicas of three, is not waited for."""

    async def main() -> None:
        async with local(3) as cluster:
            refs = await tallies(cluster, 20)
            for name in ("node-1", "node-2"):
                await cluster.kill(name)
            begun = now()
            found = await asyncio.gather(*(outcome(ref.call(Tally.get)) for ref in refs))
            assert {type(one) for one in found} == {NoQuorumError}
            assert now() - begun < 10.0

    run(main)


@pytest.mark.parametrize("made", [Guest, Passerby])
def test_a_virtual_agent_is_not_created_afresh(made: type[Guest]) -> None:
    """Where its node is lost it survives, or is said to be lost; others are created as ever."""

    async def main() -> None:
        async with local(3) as cluster:
            guests = [cluster.ref(made, f"g-{n}") for n in range(30)]
            for guest in guests:
                await guest.call(Guest.visit)
            away = [guest for guest in guests if (await guest.info()).node == "node-1"]
            assert away
            await cluster.kill("node-1")
            for guest in away if made is Passerby else ():
                with pytest.raises((AgentLostError, OutcomeUnknownError)):
                    await guest.call(Guest.visit)
            for guest in guests:
                if made is Passerby and guest in away:
                    with pytest.raises(AgentLostError):
                        await guest.call(Guest.visit)
                else:
                    assert await guest.call(Guest.visit) == 2
            assert await cluster.ref(made, "g-new").call(Guest.visit) == 1

    run(main)


def test_an_agent_that_had_ended_is_still_not_there() -> None:
    """A deleted agent of a killed node is just not there, and a virtual one begins anew."""

    async def main() -> None:
        async with local(3) as cluster:
            refs = await tallies(cluster, 20)
            guests = [cluster.ref(Guest, f"g-{n}") for n in range(20)]
            for guest in guests:
                await guest.call(Guest.visit)
            for ref in (*refs, *guests):
                await ref.delete()
            await cluster.kill("node-3")
            assert [await guest.call(Guest.visit) for guest in guests] == [1] * 20
            for ref in refs:
                with pytest.raises(AgentNotFoundError):
                    await ref.call(Tally.get)

    run(main)


def test_calls_in_flight_at_the_kill_are_done_once() -> None:
    """Those that ran, those that waited behind them, those being made: each counts once."""

    async def main() -> None:
        async with local(3) as cluster:
            refs = await tallies(cluster, 30)
            slow = [asyncio.ensure_future(ref.call(Tally.nap, 5.0)) for ref in refs]
            await asyncio.sleep(0.1)
            behind = [asyncio.ensure_future(ref.call(Tally.add)) for ref in refs]
            assert await on_node(cluster, refs, "node-1")
            await cluster.kill("node-1")
            during = [asyncio.ensure_future(ref.call(Tally.add)) for ref in refs]
            assert await asyncio.gather(*slow) == [5.0] * 30
            assert await asyncio.gather(*behind) == [2] * 30
            assert await asyncio.gather(*during) == [3] * 30

    run(main)


def test_calls_of_lost_agents_in_flight_end_at_once() -> None:
    """As unknown or lost: those that ran, those that waited behind them, those being made."""

    async def main() -> None:
        async with local(3) as cluster:
            refs = await tallies(cluster, 30, Fleeting)
            slow = [asyncio.ensure_future(outcome(ref.call(Tally.nap, 20))) for ref in refs]
            await asyncio.sleep(0.1)
            behind = [asyncio.ensure_future(outcome(ref.call(Tally.add))) for ref in refs]
            lost = await on_node(cluster, refs, "node-1")
            begun = now()
            await cluster.kill("node-1")
            during = [asyncio.ensure_future(outcome(ref.call(Tally.add))) for ref in lost]
            for ref, first, second in zip(refs, slow, behind, strict=True):
                if ref in lost:
                    assert isinstance(await first, ENDS)
                    assert isinstance(await second, ENDS)
            for call in during:
                assert isinstance(await call, ENDS)
            assert now() - begun < 5.0
            for ref, first in zip(refs, slow, strict=True):
                assert ref in lost or not first.done()

    run(main)


def test_a_call_that_waits_for_an_agent_of_a_killed_node_ends_too() -> None:
    """With the result, or the caller's turn gets the error; the caller's agent lives."""

    async def main() -> None:
        for made in (Tally, Fleeting):
            async with local(3) as cluster:
                refs = await tallies(cluster, 30, made)
                (caller, *_), (callee, *_) = [
                    await on_node(cluster, refs, node) for node in ("node-1", "node-2")
                ]
                call = asyncio.ensure_future(outcome(caller.call(Tally.via, callee.id, 5.0)))
                await asyncio.sleep(0.1)
                await cluster.kill("node-2")
                result = await asyncio.wait_for(call, 15.0)
                if made is Tally:
                    assert result == 5.0
                    assert await callee.call(Tally.get) == 1
                else:
                    assert result.kind == "execution_error"
                    assert result.message.startswith(("AgentLostError", "OutcomeUnknownError"))
                assert await caller.call(Tally.add) == 1

    run(main)


def test_a_node_can_be_killed_and_restarted_by_name_only_as_fits() -> None:
    """Unknown names, a second kill, a restart of what is up: refused, and nothing happens."""

    async def main() -> None:
        async with local(2) as cluster:

            async def up() -> list[str]:
                await cluster.settle()
                return [node.name for node in await cluster.nodes() if node.status == "up"]

            with pytest.raises(InvalidInputError, match=r"node-9.*node-1, node-2"):
                await cluster.kill("node-9")
            with pytest.raises(UsageError, match="is up"):
                await cluster.restart("node-1")
            await cluster.kill("node-1")
            with pytest.raises(UsageError, match="down already"):
                await cluster.kill("node-1")
            assert await up() == ["node-2"]
            await cluster.restart("node-1")
            assert await up() == ["node-1", "node-2"]

    run(main)


def test_without_a_node_calls_wait_for_one() -> None:
    """They end at their deadline, or are served when a node is back in time."""

    async def main() -> None:
        async with local(1) as cluster:
            await tallies(cluster, 1)
            await cluster.kill("node-1")
            ref = cluster.ref(Guest, "g-1").options(timeout=5.0)
            with pytest.raises((UnavailableError, TimeoutError)):
                await ref.call(Guest.visit)
            call = asyncio.ensure_future(ref.call(Guest.visit))
            await asyncio.sleep(1.0)
            await cluster.restart("node-1")
            assert await call == 1

    run(main)


# -- coming back


def test_a_node_that_is_back_takes_agents_over_with_all_they_have() -> None:
    """State, remembered operations and fences move; no call fails or runs twice meanwhile."""

    async def main() -> None:
        async with local(3) as cluster:
            await cluster.kill("node-3")
            refs = await tallies(cluster, 60)
            fences = {ref: (await ref.info()).fence for ref in refs}
            for ref in refs:
                assert await ref.options(op_id="once").call(Tally.add, 1000) == 1000
            counts = dict.fromkeys(refs, 0)
            stop = asyncio.Event()

            async def keep_calling(ref: AsyncAgentRef[Tally]) -> None:
                while not stop.is_set():
                    value = await ref.call(Tally.add)
                    counts[ref] += 1
                    assert value == 1000 + counts[ref]
                    await asyncio.sleep(0.02)

            callers = [asyncio.create_task(keep_calling(ref)) for ref in refs]
            await asyncio.sleep(0.5)
            await cluster.restart("node-3")
            await until_preferred()
            stop.set()
            await asyncio.gather(*callers)
            moved = await on_node(cluster, refs, "node-3")
            assert 5 < len(moved) < 50
            for ref in refs:
                assert await ref.options(op_id="once").call(Tally.add, 1000) == 1000
                assert await ref.call(Tally.get) == 1000 + counts[ref]
                assert (await ref.info()).fence > fences[ref]
                assert (await ref.state()).starts == (2 if ref in moved else 1)

    run(main)


def test_a_busy_agent_moves_when_its_turn_ends() -> None:
    """The turn ends where it began; those behind it run where the agent has gone, in order."""

    async def main() -> None:
        async with local(3) as cluster:
            await cluster.kill("node-3")
            refs = await tallies(cluster, 40)
            calls: list[list[asyncio.Future[float]]] = [
                [asyncio.ensure_future(ref.call(Tally.nap, 5.0))] for ref in refs
            ]
            await asyncio.sleep(0.1)
            for ref, made in zip(refs, calls, strict=True):
                made += [asyncio.ensure_future(ref.call(Tally.put, n)) for n in range(5)]
            await asyncio.sleep(0.1)
            await cluster.restart("node-3")
            await asyncio.sleep(0.1)
            for ref, made in zip(refs, calls, strict=True):
                made += [asyncio.ensure_future(ref.call(Tally.put, n)) for n in range(5, 10)]
            for made in calls:
                assert await asyncio.gather(*made) == [5.0, *range(10)]
            assert await on_node(cluster, refs, "node-3")
            for ref in refs:
                state = await ref.state()
                assert (state.items, state.value) == (list(range(10)), 1)

    run(main)


def test_nodes_that_go_and_come_one_upon_the_other_lose_no_agent() -> None:
    """A shard that is passed on before it has arrived takes its agents along."""

    async def main() -> None:
        async with local(6) as cluster:
            refs = await tallies(cluster, 200, value=7)
            naps = [asyncio.ensure_future(ref.call(Tally.nap, 0.5)) for ref in refs[::5]]
            await asyncio.sleep(0.1)
            for name in ("node-4", "node-5", "node-6"):
                await cluster.kill(name)
                await cluster.restart(name)
            assert await asyncio.gather(*naps) == [0.5] * 40
            found = [await ref.call(Tally.get) for ref in refs]
            assert found == [8 if n % 5 == 0 else 7 for n in range(200)]
            assert len([info async for info in cluster.agents()]) == 200

    run(main)


def test_a_node_that_dies_while_it_takes_over_hides_nothing() -> None:
    """Each agent is there with its state, and each call that was answered counted once."""

    async def main() -> None:
        async with local(3) as cluster:
            await cluster.kill("node-3")
            refs = await tallies(cluster, 100, value=7)
            naps = [asyncio.ensure_future(ref.call(Tally.nap, 3.0)) for ref in refs[::2]]
            await asyncio.sleep(0.1)
            await cluster.restart("node-3")
            await asyncio.sleep(PREFER_SECONDS)
            await cluster.kill("node-3")
            assert await asyncio.gather(*naps) == [3.0] * 50
            found = [await ref.call(Tally.get) for ref in refs]
            assert found == [8 if n % 2 == 0 else 7 for n in range(100)]

    run(main)


class Guests:
    """Virtual agents that are visited all the time, and what may be true of their counts.

    A visit that was answered is counted; one whose outcome is unknown may be; none is lost.
    """

    def __init__(self, cluster: AsyncLocalCluster, count: int, chance: random.Random) -> None:
        self.refs = [cluster.ref(Guest, f"g-{n}") for n in range(count)]
        self._chance = chance
        self._least = dict.fromkeys(self.refs, 0)
        self._most = dict.fromkeys(self.refs, 0)
        self._stop = asyncio.Event()

    async def visit(self, ref: AsyncAgentRef[Guest]) -> None:
        """Visit until told to stop; an unknown outcome is asked for again, once."""
        while not self._stop.is_set():
            self._most[ref] += 1
            once = ref.options(timeout=20.0, op_id=new_id("op-"))
            try:
                visits = await once.call(Guest.visit)
            except (NoQuorumError, DeadlineExceededError):
                self._most[ref] -= 1
                await asyncio.sleep(0.05)  # where no majority was for long, it comes at once
                continue
            except OutcomeUnknownError:
                again = await outcome(once.call(Guest.visit))
                if isinstance(again, JidoError):
                    continue
                visits = again
            self._least[ref] += 1
            assert self._least[ref] <= visits <= self._most[ref], ref.id
            await asyncio.sleep(self._chance.random() * 0.05)

    async def during(self, history: Coroutine[Any, Any, None]) -> None:
        """Visit all of them while the history happens."""
        visits = [asyncio.create_task(self.visit(ref)) for ref in self.refs]
        await history
        self._stop.set()
        await asyncio.gather(*visits)
        for ref in self.refs:
            visits_now = await ref.call(Guest.visit) - 1
            assert self._least[ref] <= visits_now <= self._most[ref], ref.id


@pytest.mark.slow
@pytest.mark.parametrize("hosts", [1, 2])
@pytest.mark.parametrize("seed", range(4))
def test_through_any_history_of_nodes_every_count_is_right(seed: int, hosts: int) -> None:
    """Losses also of what most replicas are on, at any time: every answered visit counts."""

    async def main() -> None:
        chance = random.Random(seed)

        async def history() -> None:
            down: set[str] = set()
            for _ in range(12):
                await asyncio.sleep(chance.choice([0.0, 0.001, 0.3, 1.0]))
                up = sorted({f"node-{n}" for n in range(1, 6)} - down)
                if down and (len(up) < 3 or chance.random() < 0.5):
                    name = chance.choice(sorted(down))
                    await cluster.restart(name)
                    down.discard(name)
                else:
                    name = chance.choice(up)
                    await cluster.kill(name)
                    down.add(name)
            for name in sorted(down):
                await cluster.restart(name)
            await asyncio.sleep(10.0)

        async with local(5, hosts_per_node=hosts) as cluster:
            await Guests(cluster, 25, chance).during(history())

    run(main)


# -- runs


def test_runs_of_a_killed_node_begin_again_on_another() -> None:
    """Runs of clients and of turns; each ends, though the tracker's own may be forgotten."""

    async def main() -> None:
        async with local(3) as cluster:
            Step.begun.clear()
            boss = await cluster.spawn(Starter, "boss")
            home = (await boss.info()).node
            for n in range(9):
                await boss.call(Starter.start, f"turn-{n}", 5.0)
            runs = [
                await cluster.start(Step, {"key": f"run-{n}", "seconds": 5.0}) for n in range(9)
            ]
            await asyncio.sleep(1.0)
            victim = next(node.name for node in await cluster.nodes() if node.name != home)
            await cluster.kill(victim)
            await asyncio.sleep(15.0)
            done = (await boss.state()).done
            assert sorted(done) == [f"turn-{n}: turn-{n}" for n in range(9)]
            assert max(Step.begun.values()) == 2
            for n, ref in enumerate(runs):
                assert await outcome(ref.result(20.0)) == f"run-{n}" or isinstance(
                    await outcome(ref.result(1.0)), OutcomeUnknownError
                )

    run(main)


def test_shards_wait_for_the_runs_of_clients() -> None:
    """A node that is back leads when they have ended; runs of turns go along, replies too."""

    async def main() -> None:
        async with local(3) as cluster:
            Step.begun.clear()
            await cluster.kill("node-3")
            starters = [await cluster.spawn(Starter, f"s-{n}") for n in range(12)]
            for n, ref in enumerate(starters):
                await ref.call(Starter.start, f"k-{n}", 5.0)
            under_way = [
                await cluster.start(Step, {"key": f"u-{n}", "seconds": 5.0}) for n in range(12)
            ]
            waits = [asyncio.ensure_future(ref.result(60.0)) for ref in under_way]
            await asyncio.sleep(1.0)
            await cluster.restart("node-3")
            assert await asyncio.gather(*waits) == [f"u-{n}" for n in range(12)]
            assert [Step.begun[f"u-{n}"] for n in range(12)] == [1] * 12
            await asyncio.sleep(10.0)
            for n, ref in enumerate(starters):
                assert (await ref.state()).done == [f"k-{n}: k-{n}"]

    run(main)


# -- the cluster itself


def test_all_hosts_hold_the_same_view_after_a_change() -> None:
    """Every shard is led by exactly one living host, and everybody knows by whom."""

    async def main() -> None:
        async with local(5, hosts_per_node=2) as cluster:
            for change in (cluster.kill, cluster.restart):
                await change("node-2")
                await cluster.settle()
                await until_preferred()
                hosts = hosts_of(cluster)
                assert len({host.view.epoch for host in hosts}) == 1
                led = {
                    number: host.address for host in hosts for number in host.replicas.led_shards()
                }
                assert sum(len(host.replicas.led_shards()) for host in hosts) == 32
                assert sorted(led) == list(range(32))
                for host in hosts:
                    assert host.view.leaders == [led[number] for number in range(32)]

    run(main)
