"""Views: who serves each shard after nodes come and go, and where its agents come from."""

import asyncio
from collections import defaultdict
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from jido_cluster.ports import PeerTroubleError
from jido_cluster.runtime.coordinator import Coordinator
from jido_cluster.runtime.roster import Change, RosterKeeper, RosterWriter
from jido_cluster.runtime.view import NOBODY, Member, Source, View
from jido_cluster.runtime.wire import pack, unpack
from tests.runtime.support import member, run

SHARDS = 64


def coordinator(*names: str, hosts: int = 1) -> Coordinator:
    made = Coordinator(SHARDS, 3)
    made.join([member(name, hosts) for name in names])
    return made


def node_of(view: View, host: str) -> Member:
    """The node with this host."""
    return next(one for one in view.members if host in one.hosts)


def test_the_first_view_serves_every_shard_from_nowhere() -> None:
    """All shards are new, spread over the hosts, with as many replicas as asked for."""
    view = coordinator("a", "b", "c", "d", hosts=2).view
    assert view.epoch == 1
    assert {tenure.source for tenure in view.tenures} == {Source.NEW}
    assert set(view.leaders) == {host for one in view.members for host in one.hosts}
    assert all(len(set(tenure.replicas)) == 3 for tenure in view.tenures)
    assert all(tenure.since == 1 for tenure in view.tenures)


def test_agents_of_a_node_that_left_are_lost_and_only_they() -> None:
    """Shards of others stay where they are, and keep their tenure."""
    one = coordinator("a", "b", "c")
    before = one.view
    after = one.leave("b.0")
    assert after.epoch == before.epoch + 1
    for old, new in zip(before.tenures, after.tenures, strict=True):
        if old.host == "host/b.0/0":
            assert (new.source, new.since) == (Source.LOST, after.epoch)
            assert new.host != old.host
        else:
            assert (new.host, new.since, new.source) == (old.host, old.since, old.source)
        assert "b.0" not in new.replicas


def test_a_joining_node_takes_shards_from_living_hosts() -> None:
    """By handoff from the host that has them; nothing moves between the others."""
    one = coordinator("a", "b", "c")
    before = one.view
    after = one.join([member("d")])
    moved = 0
    for old, new in zip(before.tenures, after.tenures, strict=True):
        if new.host == old.host:
            assert new.since == old.since
            continue
        moved += 1
        assert new.host == "host/d.0/0"
        assert (new.source, new.origin, new.since) == (Source.HANDOFF, old.host, after.epoch)
    assert 0 < moved <= 1.25 * SHARDS / 4


def test_a_replaced_host_loses_its_own_shards() -> None:
    """The other host of the node keeps its own."""
    one = coordinator("a", "b", hosts=2)
    before = one.view
    after = one.replace_host("a.0", 1, "host/a.0/1-again")
    for old, new in zip(before.tenures, after.tenures, strict=True):
        if old.host == "host/a.0/1":
            assert (new.host, new.source) == ("host/a.0/1-again", Source.LOST)
        else:
            assert (new.host, new.since) == (old.host, old.since)


def test_a_restarted_node_is_another_node() -> None:
    """What it led before is lost, also when it leads it again."""
    one = coordinator("a", "b")
    one.leave("a.0")
    view = one.join([member("a", life=1)])
    assert {one.id for one in view.members} == {"a.1", "b.0"}
    back = [tenure for tenure in view.tenures if tenure.host == "host/a.1/0"]
    assert back
    assert {(tenure.source, tenure.origin) for tenure in back} == {(Source.HANDOFF, "host/b.0/0")}


def test_the_last_node_leaves_nobody() -> None:
    """The next one to come finds what was there lost, not new."""
    one = coordinator("a")
    view = one.leave("a.0")
    assert set(view.leaders) == {NOBODY}
    view = one.join([member("b")])
    assert {tenure.source for tenure in view.tenures} == {Source.LOST}


def test_a_new_coordinator_goes_on_from_the_newest_view() -> None:
    """It moves nothing needlessly, and ignores an older view."""
    old = coordinator("a", "b", "c")
    stale = old.view
    newest = old.join([member("d")])
    new = Coordinator(SHARDS, 3)
    new.adopt(newest)
    new.adopt(stale)
    assert new.view is newest
    after = new.leave("d.0")
    assert after.epoch == newest.epoch + 1
    for before, now in zip(newest.tenures, after.tenures, strict=True):
        assert now.host == before.host or before.host == "host/d.0/0"


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5)), max_size=12))
def test_every_history_keeps_the_promises(history: list[tuple[bool, int]]) -> None:
    """Epochs rise; a served shard has a living host of its first replica; tenures say the truth."""
    one = Coordinator(SHARDS, 2)
    lives: dict[int, int] = defaultdict(int)
    up: set[int] = set()
    for joins, n in history:
        before = one.view
        if joins and n not in up:
            up.add(n)
            one.join([member(f"n{n}", life=lives[n])])
        elif not joins and n in up:
            up.discard(n)
            one.leave(f"n{n}.{lives[n]}")
            lives[n] += 1
        else:
            continue
        view = one.view
        assert view.epoch == before.epoch + 1
        for old, new in zip(before.tenures, view.tenures, strict=True):
            if not up:
                assert new.host == NOBODY
                continue
            assert node_of(view, new.host).id == new.replicas[0]
            if new.host == old.host:
                assert (new.since, new.source) == (old.since, old.source)
                continue
            assert new.since == view.epoch
            if old.since == 0:
                assert new.source is Source.NEW
            elif old.host in view.addresses:
                assert (new.source, new.origin) == (Source.HANDOFF, old.host)
            else:
                assert new.source is Source.LOST


# -- rosters


def test_a_keeper_keeps_what_the_newest_leader_says() -> None:
    """Additions and removals; an older leader is not heard; a newer one begins anew."""
    keeper = RosterKeeper()
    keeper.put([(1, 5, "a", "T"), (1, 5, "b", "T"), (2, 5, "c", "U"), (1, 5, "a", "")])
    assert keeper.get([1, 2, 3]) == [[1, 5, {"b": "T"}], [2, 5, {"c": "U"}]]
    keeper.put([(1, 4, "old", "T")])
    keeper.put([(1, 6, "d", "T")])
    keeper.put([(1, 5, "late", "T")])
    assert keeper.get([1]) == [[1, 6, {"d": "T"}]]


def test_a_whole_roster_replaces_what_was_there() -> None:
    """Of the same leader too; the first part clears, the next ones add."""
    keeper = RosterKeeper()
    keeper.put([(1, 5, "a", "T")])
    keeper.put([(1, 5, "", ""), (1, 5, "b", "T")], whole=[1])
    keeper.put([(1, 5, "c", "T")])
    assert keeper.get([1]) == [[1, 5, {"b": "T", "c": "T"}]]
    keeper.put([(1, 5, "", "")], whole=[1])
    assert keeper.get([1]) == [[1, 5, {}]]


class Keepers:
    """Supervisors' rosters by address, some of which cannot be reached for a while."""

    def __init__(self, view: View) -> None:
        self.keepers = {one.supervisor: RosterKeeper() for one in view.members}
        self.troubles: dict[str, int] = defaultdict(int)
        self.requests: list[tuple[str, Any]] = []

    def send(self, host: str, frame: bytes) -> "asyncio.Future[bytes]":
        raise AssertionError(host)

    async def ask(self, supervisor: str, operation: str, data: bytes) -> bytes:
        await asyncio.sleep(0.01)
        if self.troubles[supervisor] > 0:
            self.troubles[supervisor] -= 1
            raise PeerTroubleError(supervisor)
        self.requests.append((supervisor, unpack(data)))
        return self.keepers[supervisor].answer(operation, data)

    async def newer_view(self, epoch: int) -> View:
        await asyncio.Event().wait()
        raise AssertionError

    def held(self) -> dict[int, dict[str, str]]:
        """All ids by shard, wherever they are kept."""
        found: dict[int, dict[str, str]] = {}
        for keeper in self.keepers.values():
            for shard, _, ids in keeper.get(range(SHARDS)):
                found.setdefault(shard, {}).update(ids)
        return found


@given(
    st.lists(st.tuples(st.integers(0, 7), st.sampled_from("abcd"), st.booleans()), max_size=40),
    st.lists(st.sampled_from(["supervisor/a.0", "supervisor/b.0"]), max_size=6),
)
def test_a_writer_gets_everything_there_in_order(
    changes: list[tuple[int, str, bool]], troubles: list[str]
) -> None:
    """Whatever keepers are out of reach for a while: the rosters end as the last change says."""

    async def main() -> None:
        view = coordinator("a", "b").view
        keepers = Keepers(view)
        for name in troubles:
            keepers.troubles[name] += 1
        writer = RosterWriter(keepers, lambda: view)
        expected: dict[int, dict[str, str]] = defaultdict(dict)
        writes = []
        for n, (shard, id_, is_there) in enumerate(changes):
            if is_there:
                expected[shard][id_] = "T"
            else:
                expected[shard].pop(id_, None)
            writes.append(asyncio.ensure_future(writer.write(shard, 1, id_, "T" * is_there)))
            if n % 3 == 0:
                await asyncio.sleep(0.005)
        await asyncio.gather(*writes)
        held = keepers.held()
        assert {s: ids for s, ids in held.items() if ids} == {
            s: ids for s, ids in expected.items() if ids
        }

    run(main)


def test_changes_made_together_travel_together() -> None:
    """A thousand writes take a few requests; each goes to its shard's keeper."""

    async def main() -> None:
        view = coordinator("a", "b", "c").view
        keepers = Keepers(view)
        writer = RosterWriter(keepers, lambda: view)
        await asyncio.gather(*(writer.write(n % SHARDS, 1, f"i-{n}", "T") for n in range(1000)))
        assert len(keepers.requests) <= 10
        for supervisor, (changes, _) in keepers.requests:
            assert {view.keepers[shard] for shard, *_ in changes} == {supervisor}
        assert sum(len(ids) for ids in keepers.held().values()) == 1000

    run(main)


def test_a_large_roster_is_written_whole() -> None:
    """In parts that a request can hold, and read back by the next leader."""

    async def main() -> None:
        view = coordinator("a", "b").view
        keepers = Keepers(view)
        writer = RosterWriter(keepers, lambda: view)
        ids = {f"agent-{n}": "some.module.Type" for n in range(12_000)}
        await writer.write_whole(3, 7, ids)
        assert await writer.read_lost([3, 4]) == {3: ids}
        assert len(keepers.requests) - len(view.members) >= 3

    run(main)


def test_the_latest_word_about_a_shard_counts() -> None:
    """Keepers of earlier views still have rosters; one that is out of reach is done without."""

    async def main() -> None:
        view = coordinator("a", "b", "c").view
        keepers = Keepers(view)
        rows: list[list[Change]] = [[(3, 1, "x", "T")], [(3, 2, "y", "T")], [(5, 9, "z", "T")]]
        for keeper, changes in zip(keepers.keepers.values(), rows, strict=True):
            keeper.answer("roster.put", pack((changes, [])))
        writer = RosterWriter(keepers, lambda: view)
        assert await writer.read_lost([3, 5]) == {3: {"y": "T"}, 5: {"z": "T"}}
        keepers.troubles[view.members[2].supervisor] = 1
        assert await writer.read_lost([3, 5]) == {3: {"y": "T"}}

    run(main)


def test_the_keeper_is_never_the_leaders_own_node_when_there_is_another() -> None:
    """What says that agents were lost has to outlive the node they were on."""
    for names in ("ab", "abc", "abcde"):
        view = coordinator(*names).view
        for tenure, keeper in zip(view.tenures, view.keepers, strict=True):
            assert keeper != node_of(view, tenure.host).supervisor
    alone = coordinator("a").view
    assert set(alone.keepers) == {"supervisor/a.0"}


def test_a_roster_whose_keeper_was_changing_is_the_sum_of_both() -> None:
    """The old keeper lacks the newest ids, the new one may not have all of them yet."""

    class Both:
        def __init__(self) -> None:
            self.keepers = {"supervisor/a": RosterKeeper(), "supervisor/b": RosterKeeper()}

        async def ask(self, supervisor: str, operation: str, data: bytes) -> bytes:
            return self.keepers[supervisor].answer(operation, data)

    async def main() -> None:
        transport: Any = Both()
        view = Coordinator(4, 2).join([member("a"), member("b")])
        names = [one.supervisor for one in view.members]
        transport.keepers = {name: RosterKeeper() for name in names}
        old, new = (transport.keepers[name] for name in names)
        old.put([(1, 7, "early", "t"), (1, 7, "late", "t")])
        new.put([(1, 7, "", ""), (1, 7, "newest", "t")], whole=[1])
        writer = RosterWriter(transport, lambda: view)
        assert set((await writer.read_lost([1]))[1]) == {"early", "late", "newest"}
        await writer.drop(names[0], 1, 7)
        assert set((await writer.read_lost([1]))[1]) == {"newest"}

    asyncio.run(main())
