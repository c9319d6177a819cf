"""What is served when the network is split: every cell of the table, through the public API.

Five nodes, three replicas, cut in two and three. Who calls is on one side; how many replicas of an
agent's shard are on that side decides whether there is a quorum.
"""

from collections.abc import Iterator
from concurrent.futures import Future, wait
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pytest

from jido_cluster import (
    AgentRef,
    ClusterConfig,
    InvalidInputError,
    NoQuorumError,
    Reply,
    SessionUnavailableError,
    UnavailableError,
    new_id,
)
from jido_cluster.sync_cluster import Cluster
from jido_cluster.testing import LocalCluster
from jido_placement.policies import CELLS, Column, Level, Rule, Strategy
from tests.contract.split import LEVELS, STRATEGIES, TALLIES, Tally
from tests.contract.support import wait_until

CONFIG = ClusterConfig(shards=32)
FEW, MANY = ("node-1", "node-2"), ("node-3", "node-4", "node-5")
PATIENCE = 60.0  # seconds
AMOUNT = 5


@dataclass(frozen=True)
class Side:
    """A cluster that is cut, seen from one side.

    Attributes:
        cluster: Whose caller is on that side.
        nodes: Names of the side's nodes.
        refs: By strategy, level, and how many replicas the side has of the agent's shard.
    """

    cluster: LocalCluster
    nodes: tuple[str, ...]
    refs: dict[tuple[str, str, int], AgentRef[Tally]]

    @property
    def is_major(self) -> bool:
        """Whether it has more than half of the nodes."""
        return len(self.nodes) > 2


def _spawn_all(cluster: LocalCluster, nodes: tuple[str, ...]) -> dict[Any, AgentRef[Tally]]:
    """One agent for each strategy, level, and number of replicas on these nodes."""
    numbers = range(3 - (5 - len(nodes)), len(nodes) + 1)
    refs: dict[Any, AgentRef[Tally]] = {}
    for (strategy, level), agent_type in TALLIES.items():
        wanted = {max(number, 0) for number in numbers}
        for _ in range(300):
            ref = cluster.spawn(agent_type, new_id("t-"), amount=AMOUNT)
            held = len(set(ref.info().replicas) & set(nodes))
            refs.setdefault((strategy, level, held), ref)
            wanted.discard(held)
            if not wanted:
                break
        assert not wanted, "no agent has so many replicas there"
    return refs


def _cut(nodes: tuple[str, ...], others: tuple[str, ...]) -> Iterator[Side]:
    with Cluster.local(nodes=5, config=CONFIG) as cluster:
        refs = _spawn_all(cluster, nodes)
        cluster.partition(nodes, others)
        # All wait together until the silence of leaders is long enough for every decision: that of
        # strong reads, which leaders that have lost their quorum cannot serve until then.
        first: list[Future[Any]] = [ref.submit(Tally.add, 0) for ref in refs.values()]
        assert not wait(first, PATIENCE).not_done
        yield Side(cluster, nodes, refs)


@pytest.fixture(scope="module")
def major() -> Iterator[Side]:
    """The side with most nodes."""
    yield from _cut(MANY, FEW)


@pytest.fixture(scope="module")
def minor() -> Iterator[Side]:
    """The other one."""
    yield from _cut(FEW, MANY)


@pytest.fixture(params=["major", "minor"])
def side(request: pytest.FixtureRequest) -> Side:
    """Either side."""
    found: Side = request.getfixturevalue(request.param)
    return found


def _rules(side: Side, strategy: str, level: str, held: int) -> tuple[Rule, Rule]:
    """What the table says of reads and writes; without a replica nothing is served."""
    is_admitted = strategy == "continue_all" or side.is_major
    column = Column.QUORUM if held >= 2 else Column.NO_QUORUM
    cell = CELLS[Strategy(strategy), Level(level), column if is_admitted else Column.NOT_ADMITTED]
    return (cell.read, cell.write) if held else (Rule.NO_QUORUM, Rule.NO_QUORUM)


def _check(rule: Rule, ref: AgentRef[Tally], handler: Any, *args: int) -> Reply[int] | None:
    """The request ends as the rule says."""
    if rule in {Rule.NO_QUORUM, Rule.PAUSED}:
        remedy = "other side" if rule is Rule.PAUSED else "retry when"
        with pytest.raises(NoQuorumError, match=remedy) as caught:
            ref.request(handler, *args)
        assert caught.value.retryable
        assert caught.value.retry_after
        return None
    reply: Reply[int] = ref.request(handler, *args)
    is_served = rule is Rule.SERVE
    assert reply.durability == ("quorum" if is_served else "local")
    assert (reply.fence is not None) is is_served
    assert reply.is_partitioned is not is_served
    assert reply.is_stale is (rule in {Rule.STALE, Rule.STALE_IF_COVERED})
    return reply


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_what_is_served_is_what_the_table_says(side: Side, strategy: str, level: str) -> None:
    """Of reads and of writes, with a quorum in reach, with one replica, and with none."""
    checked = 0
    for (own_strategy, own_level, held), ref in side.refs.items():
        if (own_strategy, own_level) != (strategy, level):
            continue
        read, write = _rules(side, strategy, level, held)
        short = ref.options(timeout=PATIENCE)
        seen = _check(read, short, Tally.read)
        added = _check(write, short, Tally.add, 2)
        if seen is not None and added is not None:
            assert added.value == seen.value + 2
            assert short.call(Tally.read) == seen.value + 2
            assert short.state().amount == seen.value + 2
        checked += 1
    assert checked >= 2


def test_reachable_is_who_is_on_the_callers_side(side: Side) -> None:
    """`nodes()` tells apart whom the caller reaches."""
    nodes = side.cluster.options(timeout=1.0).nodes()
    assert {node.name for node in nodes if node.is_reachable} == set(side.nodes)
    assert len(nodes) == 5


@pytest.mark.parametrize("strategy", ["continue_all", "leader_election"])
def test_a_session_is_not_shown_less_than_it_has_seen(strategy: str) -> None:
    """What it wrote on the larger side is not on the smaller one, which says so."""
    with Cluster.local(nodes=5, config=CONFIG) as cluster:
        refs = (cluster.spawn(TALLIES[strategy, "session"], new_id("s-")) for _ in range(300))
        ref = next(ref for ref in refs if len({*ref.info().replicas} & {*FEW}) == 1)
        cluster.partition(MANY, FEW)
        with cluster.session() as session:
            assert ref.call(Tally.add, 3) == 3
        cluster.partition(FEW, MANY)
        wait_until(lambda: ref.request(Tally.read).is_partitioned, "an answer without a quorum")
        with cluster.session(session.token), pytest.raises(SessionUnavailableError):
            ref.call(Tally.read)
        # Whoever has seen nothing is shown what there is.
        assert ref.call(Tally.read) == 0
        cluster.heal()

        def reads() -> int | None:
            with cluster.session(session.token), suppress(UnavailableError):
                return ref.call(Tally.read)
            return None

        assert wait_until(reads, "a leader in contact") == 3


@pytest.mark.parametrize(
    ("sides", "error"),
    [
        ((), "names no nodes"),
        (([],), "side 1"),
        (("node-1",), "side 1 is 'node-1'"),
        ((["node-1"], ["node-9"]), "no node 'node-9'"),
        ((["node-1", "node-2"], ["node-2"]), "'node-2' is named in side 1 and in side 2"),
        ((["node-1", "node-1.id"],), "'node-1.id' is named in side 1 and in side 1"),
    ],
)
def test_a_cut_that_makes_no_sense_is_refused(minor: Side, sides: Any, error: str) -> None:
    """And changes nothing."""
    with pytest.raises(InvalidInputError, match=error):
        minor.cluster.partition(*sides)
    nodes = minor.cluster.options(timeout=1.0).nodes()
    assert {node.name for node in nodes if node.is_reachable} == set(minor.nodes)
