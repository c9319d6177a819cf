"""Connections: where they may be used, and what remains when they end. In this process only."""

import asyncio
import concurrent.futures
import gc
import threading
from typing import Any

import pytest

from jido_cluster import (
    AsyncCluster,
    Cluster,
    ClusterConfig,
    ClusterUnavailableError,
    ConfigError,
    InvalidInputError,
    UsageError,
)
from jido_cluster.connections import resolve_address
from tests.contract.actions import Double
from tests.contract.agents import Counter, Queue
from tests.contract.support import CONFIG


def test_an_async_cluster_opens_in_both_forms() -> None:
    """`async with` closes it; awaited, it is closed by hand; `connect("local")` is the same."""

    async def use(cluster: AsyncCluster) -> int:
        ref = await cluster.spawn(Counter, "c-1", value=4)
        return await ref.call(Counter.add)

    async def main() -> list[int]:
        found = []
        async with AsyncCluster.local(2) as cluster:
            found.append(await use(cluster))
        awaited = await AsyncCluster.local(1)
        found.append(await use(awaited))
        await awaited.close()
        async with AsyncCluster.connect("local", config=CONFIG) as connected:
            found.append(await use(connected))
        again = await AsyncCluster.connect("local")
        found.append(await use(again))
        await again.shutdown()
        return found

    assert asyncio.run(main()) == [5, 5, 5, 5]


def test_the_async_surface_does_what_the_sync_one_does() -> None:
    """Calls, listings, runs and refs as coroutines."""

    async def main() -> None:
        async with AsyncCluster.local(3) as cluster:
            refs = [await cluster.spawn(Counter, f"c-{n}") for n in range(5)]
            assert await asyncio.gather(*(ref.call(Counter.add, 2) for ref in refs)) == [2] * 5
            assert [info.id async for info in cluster.agents(prefix="c-")].sort() is None
            assert (await refs[0].request(Counter.add)).value == 3
            await refs[0].cast(Counter.add)
            assert (await refs[0].state()).value >= 3
            run = await cluster.start(Double, {"number": 4})
            assert await run == 8
            assert await run.status() == "succeeded"
            assert await cluster.run_many(Double, [{"number": 1}, {"number": 2}]) == [2, 4]
            assert len(await cluster.nodes()) == 3
            await refs[0].delete()
            assert await cluster.get(Counter, "c-1") == refs[1]

    asyncio.run(main())


def test_a_listing_has_as_many_pages_as_it_needs() -> None:
    """Thousands of agents on one host, each listed once, in order."""
    with Cluster.local() as cluster:
        calls = [cluster.spawn(Counter, f"c-{n:05d}") for n in range(2100)]
        assert [info.id for info in cluster.agents(prefix="c-")] == [ref.id for ref in calls]


def test_the_local_address_is_a_cluster_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """By argument or environment: the switch between a laptop and a cluster is the address."""
    with Cluster.connect("local", config=CONFIG) as cluster:
        assert cluster.spawn(Counter, "c-1").call(Counter.add) == 1
    monkeypatch.setenv("JIDO_ADDRESS", "local")
    with Cluster.connect() as cluster:
        assert cluster.spawn(Counter, "c-1").call(Counter.add) == 1


def test_a_closed_cluster_says_so() -> None:
    """Closing again does nothing; what is used afterwards is refused, with the remedy."""
    cluster = Cluster.local()
    ref = cluster.spawn(Counter, "c-1")
    cluster.close()
    cluster.close()
    for attempt in (
        lambda: ref.call(Counter.add),
        lambda: cluster.spawn(Counter, "c-2"),
        cluster.nodes,
    ):
        with pytest.raises((ClusterUnavailableError, UsageError)):
            attempt()
    gc.collect()  # a coroutine that was made and never awaited would be reported here


def test_calls_in_flight_end_when_the_cluster_closes() -> None:
    """None hangs."""
    cluster = Cluster.local()
    calls = [cluster.spawn(Counter, f"c-{n}").submit(Counter.nap, 60) for n in range(3)]
    cluster.close()
    for call in calls:
        try:
            assert call.exception(5) is not None
        except concurrent.futures.CancelledError:
            assert call.cancelled()


def test_closing_leaves_no_thread_of_the_cluster() -> None:
    """The portal's thread ends with it."""
    before = set(threading.enumerate())
    with Cluster.local(nodes=2) as cluster:
        cluster.spawn(Counter, "c-1").call(Counter.add)
        (own,) = set(threading.enumerate()) - before
        assert own.name == "jido-local"
    assert not own.is_alive()


def test_a_sync_cluster_refuses_the_loop_it_runs_on() -> None:
    """There it would wait for itself: the error names `AsyncCluster`."""
    with Cluster.local() as cluster:
        ref = cluster.spawn(Counter, "c-1")

        async def misuse() -> Any:
            return ref.call(Counter.add)

        with pytest.raises(UsageError, match="AsyncCluster"):
            cluster._portal.call(misuse())
        assert ref.call(Counter.add) == 1


def test_a_sync_cluster_works_on_a_thread_with_another_loop() -> None:
    """Blocking one's own loop is unwise, but no deadlock."""
    with Cluster.local() as cluster:

        async def main() -> int:
            return cluster.spawn(Counter, "c-1").call(Counter.add)

        assert asyncio.run(main()) == 1


def test_an_async_cluster_is_bound_to_its_loop() -> None:
    """On another loop every use of it is refused before anything is sent."""
    first = asyncio.new_event_loop()
    try:
        cluster = first.run_until_complete(_local())
        ref = first.run_until_complete(cluster.spawn(Counter, "c-1"))

        async def elsewhere() -> None:
            for attempt in (
                lambda: ref.call(Counter.add),
                lambda: ref.request(Counter.add),
                lambda: ref.cast(Counter.add),
                ref.state,
                ref.info,
                lambda: cluster.spawn(Counter, "c-2"),
                lambda: cluster.get("c-1"),
                cluster.nodes,
                cluster.actions,
                lambda: cluster.run(Double, {"number": 1}),
                lambda: anext(cluster.agents()),
            ):
                with pytest.raises(UsageError, match="bound to the event loop"):
                    await attempt()

        asyncio.run(elsewhere())
        assert first.run_until_complete(ref.call(Counter.add)) == 1
        first.run_until_complete(cluster.close())
    finally:
        first.close()


async def _local() -> AsyncCluster:
    return await AsyncCluster.local(1)


def test_cancelling_a_call_abandons_it() -> None:
    """The caller goes on at once; the agent is not disturbed."""

    async def main() -> None:
        async with AsyncCluster.local(1) as cluster:
            ref = await cluster.spawn(Queue, "q-1")
            call = asyncio.create_task(
                ref.options(timeout=1).call(Queue.hold, "/dev/null", "/none")
            )
            await asyncio.sleep(0)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            assert await ref.options(timeout=10).call(Queue.put, 5) == 5

    asyncio.run(main())


@pytest.mark.parametrize("nodes", [0, -1, 65])
def test_a_local_cluster_has_some_nodes(nodes: int) -> None:
    """A number out of range is refused, and nothing is left running."""
    with pytest.raises(InvalidInputError, match=str(nodes)):
        Cluster.local(nodes=nodes)


def test_modules_that_cannot_be_imported_are_named() -> None:
    """With the reason."""
    with pytest.raises(ConfigError, match=r"no_such_module.*No module named"):
        Cluster.local(config=ClusterConfig(modules=("no_such_module",)))


def test_agreed_settings_have_to_agree() -> None:
    """A difference names the field and both values; the others may differ."""
    running = ClusterConfig(replicas=3).agreed()
    ClusterConfig(call_timeout=1.0).check_agrees(running)
    with pytest.raises(ConfigError, match=r"replicas is 2 here and 3"):
        ClusterConfig(replicas=2).check_agrees(running)


@pytest.mark.parametrize(
    ("given", "environment", "expected"),
    [
        (None, {}, "auto"),
        (None, {"RAY_ADDRESS": "a:1"}, "a:1"),
        (None, {"RAY_ADDRESS": "a:1", "JIDO_ADDRESS": "b:2"}, "b:2"),
        ("c:3", {"JIDO_ADDRESS": "b:2"}, "c:3"),
        ("local", {}, "local"),
    ],
)
def test_the_nearest_address_wins(
    monkeypatch: pytest.MonkeyPatch, given: str | None, environment: dict[str, str], expected: str
) -> None:
    """Argument, `$JIDO_ADDRESS`, `$RAY_ADDRESS`, then "auto"."""
    for name in ("JIDO_ADDRESS", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert resolve_address(given) == expected


@pytest.mark.parametrize("address", ["ray://host:10001", "host", "host:", "host:port"])
def test_ill_addresses_are_refused(address: str) -> None:
    """With the value; a Ray Client address with the reason."""
    with pytest.raises(InvalidInputError, match=address):
        resolve_address(address)
    with pytest.raises(InvalidInputError, match=address):
        Cluster.connect(address)
