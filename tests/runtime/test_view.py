"""Views: they merge in any order to the same, and travel whole."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jido_cluster.runtime.view import Lead, Member, View
from jido_cluster.runtime.wire import pack, pack_lead, unpack, unpack_lead

SHARDS = 4
LAST_EPOCH = 6

# Node n is a member from its first to its last epoch, as an index is never given again.
LIVES = {0: (0, 6), 1: (1, 3), 2: (2, 6), 3: (4, 5), 4: (0, 1)}


def node(number: int, boot: int = 1, life: int = 0, **fields: Any) -> Member:
    """A member whose announced fields follow from its boot, life and count of announcements."""
    told = fields.get("told", 0)
    hosts = tuple(f"host/{number}.{boot}.{life}/{part}" for part in range(2))
    known: dict[str, Any] = {
        "supervisor": f"supervisor/{number}.{boot}",
        "hosts": hosts,
        "peers": (f"peer/{number}.{boot}.{life}",),
        "resources": {"CPU": 1.0 + told},
        "load": told / 8,
        **fields,
    }
    return Member(number, f"uuid-{number}", f"node-{number}", "up", boot, life, **known)


def view(
    *numbers: int, epoch: int = 1, leads: dict[int, Lead] | None = None, shards: int = SHARDS
) -> View:
    """Nodes with these indexes, all of them replicas of every shard."""
    led = tuple((leads or {}).get(shard) for shard in range(shards))
    return View("c", 0, epoch, tuple(node(n) for n in numbers), (numbers,) * shards, led)


def lead(round_: int, number: int) -> Lead:
    return Lead((0, 1, round_, number), number)


AGES = st.tuples(st.integers(1, 2), st.integers(0, 2), st.integers(0, 2))
LEADS = st.one_of(st.none(), st.builds(lead, st.integers(1, 4), st.integers(0, 4)))


@st.composite
def heard(draw: st.DrawFn) -> View:
    """A view that a process of one cluster may have put together, however late its news."""
    epoch = draw(st.integers(0, LAST_EPOCH))
    present = [n for n, (first, last) in LIVES.items() if first <= epoch <= last]
    members = []
    for number in present:
        boot, life, told = draw(AGES)
        member = node(number, boot, life, told=told)
        members.append(replace(member, status="up" if epoch < 5 else "leaving"))
    replicas = tuple(tuple(n for n in present if (n + s) % 3) for s in range(SHARDS))
    leads = tuple(draw(LEADS) for _ in range(SHARDS))
    return View(
        "c" if epoch else draw(st.sampled_from(["", "c"])),
        0,
        epoch,
        tuple(members),
        replicas,
        leads,
        draw(st.sampled_from(["", "s:1", "t:9"])),
    )


def says(one: View) -> tuple[Any, ...]:
    """Everything that `==` and a reader see of a view."""
    return (one.to_data()[:-1], one.leaders, one.addresses)


@given(heard(), heard(), heard())
def test_views_merge_to_the_same_in_any_order(one: View, two: View, three: View) -> None:
    """Commutative, associative, idempotent; what was merged in says nothing new any more."""
    assert says(one.merge(two)) == says(two.merge(one))
    assert says(one.merge(two).merge(three)) == says(one.merge(two.merge(three)))
    assert one.merge(one) is one
    both = one.merge(two)
    assert both.merge(one) is both
    assert both.merge(two) is both
    assert both == two.merge(one)


@given(heard(), heard())
def test_nothing_goes_back(one: View, two: View) -> None:
    """Record, announcements and ballots of a merged view are at least those of its parts."""
    both = one.merge(two)
    for part in (one, two):
        assert (both.recovery_no, both.epoch) >= (part.recovery_no, part.epoch)
        for known, was in zip(both.leads, part.leads, strict=True):
            assert was is None or (known is not None and known >= was)
        for member in part.members:
            now = both.member(member.node)
            if now is not None:
                assert (now.boot, now.life, now.told) >= (member.boot, member.life, member.told)
    newest = one if one.epoch >= two.epoch else two
    assert [(m.node, m.status) for m in both.members] == [
        (m.node, m.status) for m in newest.members
    ]
    assert both.replicas == newest.replicas


@given(heard(), heard())
def test_what_is_derived_fits_what_is_said(one: View, two: View) -> None:
    """Fast look-ups equal slow ones, also in a view that was made from another."""
    both = one.merge(two)
    for number in range(SHARDS):
        known = both.leads[number]
        member = None if known is None else both.member(known.node)
        host = "" if member is None else member.hosts[number % len(member.hosts)]
        assert both.leaders[number] == host
        following = both.with_lead(number, lead(9, 0))
        assert following.leaders[number] == following.host_of(0, number)
        back = following.without_lead(number, lead(9, 0))
        assert back.leaders[number] == ""
        assert back.leaders == [h if s != number else "" for s, h in enumerate(both.leaders)]
        assert View.from_data(following.to_data()).leaders == following.leaders
    for member in both.members:
        assert both.by_id(member.id) is member
        assert both.addresses.issuperset(member.hosts)


@given(heard())
def test_a_view_comes_out_as_it_went_in(one: View) -> None:
    """With its source; its leads pass through replies as well."""
    back = View.from_data(unpack(pack(one.to_data())))
    assert (says(back), back.source) == (says(one), one.source)
    for known in one.leads:
        assert unpack_lead(pack_lead(known)) == known


@pytest.mark.parametrize(("shards", "nodes"), [(256, 3), (65_536, 3), (256, 1000)])
def test_a_large_view_travels_small(shards: int, nodes: int) -> None:
    """21 bytes a shard, and below 350 for a member with two hosts."""
    members = tuple(node(n) for n in range(nodes))
    replicas = tuple(tuple((s + k) % nodes for k in range(3)) for s in range(shards))
    large = View("c", 1, 7, members, replicas, tuple(lead(5, s % nodes) for s in range(shards)))
    data = pack(large.to_data())
    assert len(data) <= 100 + 21 * shards + 350 * nodes
    assert View.from_data(unpack(data)) == large


def test_a_later_lead_stands_and_an_earlier_one_changes_nothing() -> None:
    """By ballot, whatever was heard first; a lead found wrong can be heard again."""
    one = view(0, 1, leads={2: lead(3, 0)})
    assert one.with_lead(2, lead(2, 1)) is one
    assert one.with_lead(2, lead(3, 0)) is one
    later = one.with_lead(2, lead(4, 1))
    assert (later.leaders[2], one.leaders[2]) == ("host/1.1.0/0", "host/0.1.0/0")
    assert later.without_lead(2, lead(3, 0)) is later
    assert later.without_lead(2, lead(4, 1)).leads[2] is None
    assert later.merge(one) is later
    assert one.merge(later) == later


def test_who_leads_may_be_no_member_yet() -> None:
    """Then nobody can be sent to, until the record says who it is."""
    early = view(0, epoch=1).with_lead(1, lead(2, 5))
    assert early.leaders[1] == ""
    assert early.merge(view(0, 5, epoch=2)).leaders[1] == "host/5.1.0/1"


def test_a_replaced_process_has_a_new_address() -> None:
    """A later life, and a later boot, win over what the record's later epoch brings along."""
    old = view(0, 1, epoch=9)
    moved = replace(view(0, 1).members[0], life=1, hosts=("host/new", "host/newer"))
    early = View("c", 0, 3, (moved,), ((0,),) * SHARDS)
    both = old.merge(early)
    assert both.host_of(0, 3) == "host/newer"
    assert both.member(1) is not None
    assert "host/0.1.0/0" not in both.addresses


def test_candidates_are_the_leader_and_then_the_replicas_in_order() -> None:
    """Each once; none that has no address."""
    silent = Member(7, "uuid-7", "node-7", "joining")
    members = (node(0), node(1), node(2), silent)
    one = View("c", 0, 1, members, ((2, 7, 0, 1),), (lead(3, 0),))
    assert one.candidates(0) == ["host/0.1.0/0", "host/2.1.0/0", "host/1.1.0/0"]


def test_another_clusters_view_is_refused() -> None:
    """Both are named; a view that does not know its cluster yet learns it."""
    mine = view(0)
    with pytest.raises(ValueError, match="cluster d does not fit that of cluster c"):
        mine.merge(View("d", 0, 9, (), ((),) * SHARDS))
    assert View("", 0, 0, (), ((),) * SHARDS).merge(mine) == mine


@pytest.mark.parametrize("cut", [(), ("c", 0, 1), ("c", 0, 1, [], b"\x03", b"\0\0", b"", "")])
def test_a_malformed_view_is_refused(cut: tuple[Any, ...]) -> None:
    """As a ValueError."""
    with pytest.raises(ValueError, match="unpack|fit"):
        View.from_data(cut)
