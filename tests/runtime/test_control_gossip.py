"""Announcements and leads: in whatever order they come, and however often, the view is the same."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from jido_cluster._local.clock import VirtualLoop
from jido_cluster.runtime.formation import Seen
from jido_cluster.runtime.gossip import PAGE, Gossip, Place
from jido_cluster.runtime.peer_messages import Announce
from jido_cluster.runtime.view import View
from jido_cluster.runtime.wire import pack
from jido_placement.changes import apply_all
from jido_placement.commands import Join, Leave, Remove
from jido_placement.record import MemberRecord, Record, found

NODES = 4


class SilentPeers:
    """Remembers what it was told, and delivers nothing."""

    def __init__(self) -> None:
        self.sent: list[tuple[int, Any]] = []
        self.known: list[tuple[int, int, str]] = []

    def start(self, listener: Any) -> None:
        raise AssertionError

    def know(self, node: int, part: int, address: str, life: int) -> None:
        self.known.append((node, part, address))

    def send(self, node: int, part: int, message: Any) -> None:
        assert part == 0
        self.sent.append((node, message))

    def close(self) -> None:
        raise AssertionError


def record_of(nodes: int = NODES) -> Record:
    first = found("c", MemberRecord(0, "m0", 1, 0, "m0"), shards=4)
    joins = [Join(f"m{node}", 0, f"m{node}", (), 1.0, None, "") for node in range(1, nodes)]
    return apply_all(first, joins)[0]


def announce(
    node: int, boot: int, life: int, *, told: int = 0, host: str = "", wall_ms: int = 0
) -> Announce:
    host = host or f"host/{node}.{boot}.{life}"
    place = Place(boot, life, told, f"s/{node}.{boot}", (host,), (f"p{node}.{boot}", host))
    return Announce(node, boot, life, pack([*place.to_data(), wall_ms, 0, 1]), ())


def run(body: Callable[[], Coroutine[Any, Any, None]]) -> None:
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(body())


def made(peers: SilentPeers, record: Record | None = None, node: int = 0) -> Gossip:
    return Gossip(
        node,
        record or record_of(),
        peers=peers,
        instance="i",
        wall=lambda: 0.0,
        draw=lambda below: 0,
    )


messages = st.lists(
    st.builds(
        lambda node, boot, life, rows: announce(node, boot, life)._replace(leads=tuple(rows)),
        st.integers(1, NODES - 1),
        st.integers(1, 2),
        st.integers(1, 2),
        st.lists(
            st.tuples(st.integers(0, 3), st.tuples(*[st.integers(0, 2)] * 3, st.just(9))),
            max_size=2,
        ),
    ),
    max_size=8,
)


@given(messages, st.randoms(use_true_random=False))
def test_the_order_and_number_of_announcements_make_no_difference(
    heard: list[Announce], chance: Any
) -> None:
    # A ballot names its leader: no two nodes lead under one.
    own = [
        one._replace(leads=tuple((shard, (*ballot[:3], one.node)) for shard, ballot in one.leads))
        for one in heard
    ]
    other = own + [chance.choice(own) for _ in own]
    chance.shuffle(other)
    views: list[View] = []

    async def body() -> None:
        for order in (own, other):
            gossip = made(SilentPeers())
            for message in order:
                gossip.receive(message.node, message)
            await asyncio.sleep(0)
            views.append(gossip.view)

    run(body)
    assert views[0] == views[1]


@given(st.binary(max_size=40))
def test_an_announcement_that_cannot_be_read_is_dropped(data: bytes) -> None:
    async def body() -> None:
        gossip = made(SilentPeers())
        before = gossip.view
        gossip.receive(1, Announce(1, 1, 1, data, ()))
        await asyncio.sleep(0)
        assert gossip.view is before

    run(body)


def test_an_older_life_changes_nothing_and_a_newer_one_moves_the_addresses() -> None:
    async def body() -> None:
        peers = SilentPeers()
        gossip = made(peers)
        gossip.receive(1, announce(1, 2, 2))
        assert peers.known == [(1, 0, "p1.2"), (1, 1, "host/1.2.2")]
        for boot, life in ((2, 1), (1, 9), (2, 2)):
            gossip.receive(1, announce(1, boot, life))
        assert len(peers.known) == 2
        gossip.receive(1, announce(1, 2, 3))
        assert peers.known[2:] == [(1, 1, "host/1.2.3")]
        gossip.receive(1, announce(1, 3, 1))
        assert peers.known[3:] == [(1, 0, "p1.3"), (1, 1, "host/1.3.1")]

    run(body)


def test_who_announces_a_new_start_is_told_everything_once() -> None:
    async def body() -> None:
        peers = SilentPeers()
        gossip = made(peers)
        gossip.settle(Place(1, 1, 0, "s/0", (), ("p0",)))
        gossip.report(1, [(2, (0, 1, 5, 0))])
        gossip.receive(1, announce(1, 1, 1))
        peers.sent.clear()
        gossip.receive(2, announce(2, 1, 1))
        assert [to for to, _ in peers.sent] == [2, 2]
        assert [message.node for _, message in peers.sent] == [0, 1]
        assert peers.sent[0][1].leads == ((2, (0, 1, 5, 0)),)
        peers.sent.clear()
        gossip.receive(2, announce(2, 1, 1, told=1))
        assert peers.sent == []

    run(body)


def test_each_second_the_own_announcement_goes_out_with_some_of_the_others() -> None:
    async def body() -> None:
        peers = SilentPeers()
        nodes = 3 * PAGE
        gossip = made(peers, record_of(nodes))
        gossip.settle(Place(1, 1, 0, "s/0", (), ("p0",)))
        for node in range(1, nodes):
            gossip.receive(node, announce(node, 1, 1))
        heard: set[int] = set()
        for _ in range(3):
            peers.sent.clear()
            gossip.tick()
            assert len(peers.sent) <= 1 + PAGE
            assert peers.sent[0][1].node == 0
            heard |= {message.node for _, message in peers.sent}
        assert heard == set(range(nodes)) - {1}  # 1 is whom it told

    run(body)


def test_only_what_is_new_is_told_at_once_and_nothing_is_told_twice() -> None:
    async def body() -> None:
        peers = SilentPeers()
        gossip = made(peers)
        gossip.settle(Place(1, 1, 0, "s/0", (), ("p0",)))
        peers.sent.clear()
        gossip.report(1, [(0, (0, 1, 1, 0))])
        gossip.report(1, [(0, (0, 1, 1, 0)), (2, (0, 1, 1, 0))])
        gossip.report(1, [(0, (0, 1, 1, 0)), (2, (0, 1, 1, 0))])
        told = [message.leads for to, message in peers.sent if to == 1]
        assert told == [((0, (0, 1, 1, 0)),), ((2, (0, 1, 1, 0)),)]
        gossip.report(1, [])
        assert len(peers.sent) == 2 * (NODES - 1)
        await asyncio.sleep(0)
        assert gossip.view.leads[0] is not None, "a higher ballot ends a lead, nothing else does"

    run(body)


def test_a_removed_member_is_forgotten_and_a_member_to_be_is_not() -> None:
    async def body() -> None:
        peers = SilentPeers()
        record = record_of()
        gossip = made(peers, record)
        gossip.receive(2, announce(2, 1, 1)._replace(leads=((1, (0, 1, 1, 2)),)))
        gossip.receive(NODES, announce(NODES, 1, 1))
        left = apply_all(record, [Leave(2), Remove(2)])[0]
        gossip.adopt(left)
        await asyncio.sleep(0)
        assert peers.known[-2:] == [(2, 0, ""), (2, 1, "")]
        assert gossip.place(2) is None
        assert gossip.view.leads[1] is None
        assert gossip.place(NODES) is not None
        joined = apply_all(left, [Join("m4", 0, "m4", (), 1.0, None, "")])[0]
        gossip.adopt(joined)
        await asyncio.sleep(0)
        member = gossip.view.member(NODES)
        assert member is not None
        assert member.hosts == (f"host/{NODES}.1.1",)

    run(body)


def test_what_a_starting_node_was_seen_at_gives_way_to_what_it_announces() -> None:
    async def body() -> None:
        peers = SilentPeers()
        gossip = made(peers)
        gossip.introduce(Seen("m1", "c", 1, 1, "s/early", "p-early"))
        assert peers.known == [(1, 0, "p-early")]
        gossip.receive(1, announce(1, 1, 1))
        gossip.introduce(Seen("m1", "c", 1, 1, "s/late", "p-late"))
        assert peers.known[1:] == [(1, 0, "p1.1"), (1, 1, "host/1.1.1")]

    run(body)


def test_a_record_that_others_go_by_is_missed_until_it_is_here() -> None:
    async def body() -> None:
        record = record_of()
        gossip = made(SilentPeers(), record)
        assert gossip.is_record_newest
        newer = announce(1, 1, 1)
        place = Place(1, 1, 0, "s", (), ())
        data = pack([*place.to_data(), 0, record.recovery_no, record.epoch + 1])
        gossip.receive(1, newer._replace(data=data))
        assert not gossip.is_record_newest
        gossip.adopt(apply_all(record, [Leave(3)])[0])
        assert gossip.is_record_newest

    run(body)
