"""What people ask a supervisor: who is there, what would move, and to have a node emptied."""

import asyncio
from typing import Any

import pytest

from jido_cluster.errors import InvalidInputError, UnavailableError
from jido_cluster.runtime.wire import pack, unpack
from jido_placement.membership import Status
from jido_placement.record import ROOT
from tests.runtime.control_world import Machine, World, is_led, is_settled, run, until


async def formed(world: World, names: str) -> list[Machine]:
    machines = await world.form(names)
    await until(lambda: is_settled(machines) and is_led(machines), "every shard is led")
    return machines


async def ask(machine: Machine, operation: str, data: Any = None) -> Any:
    return unpack(await machine.control.answer(operation, pack(data)))


def test_a_drain_returns_when_no_config_names_the_node_and_the_node_is_then_removed() -> None:
    async def main(world: World) -> None:
        machines = await formed(world, "abcd")
        node, left = machines[3].node, machines[:3]
        assert left[0].record.groups_naming(node)
        draining = asyncio.ensure_future(left[0].control.requests.drain_all("d"))
        await until(lambda: draining.done() or bool(left[0].record.member(node)), "it goes on")
        named = left[0].record.groups_naming(node)
        assert not draining.done() or not named
        await until(draining.done, "it is drained", 120)
        assert left[0].record.groups_naming(node) == ()
        drained = draining.result()
        assert {move[0] for move in drained.moves if move[3] == "replica"}
        assert all("d" in move[1:3] for move in drained.moves if move[3] == "replica")
        await until(lambda: left[0].record.member(node) is None, "it is removed")
        await until(lambda: is_settled(left) and is_led(left), "every shard is led")
        await until(lambda: machines[3].ended, "it has heard of it")

    run(main, expect=4)


def test_a_drain_is_refused_while_another_replica_is_missing_and_says_which() -> None:
    async def main(world: World) -> None:
        machines = await formed(world, "abc")
        machines[2].kill()
        await until(
            lambda: machines[2].node in machines[0].control.watching.unreachable, "it is missed"
        )
        with pytest.raises(
            UnavailableError, match=r"node c does not answer \(the root group, shard 0,"
        ):
            await machines[0].control.requests.drain("b")
        with pytest.raises(UnavailableError, match="and 1 more"):
            await machines[0].control.requests.drain("b", is_restart=True)
        member = machines[0].record.member(machines[1].node)
        assert member is not None
        assert not member.is_retiring

    run(main)


def test_the_last_node_cannot_be_drained() -> None:
    async def main(world: World) -> None:
        machines = await formed(world, "a")
        with pytest.raises(UnavailableError, match="no other node is up"):
            await machines[0].control.requests.drain("a")

    run(main, expect=1, replicas=1)


def test_draining_for_a_restart_moves_leaderships_and_leaves_replicas() -> None:
    async def main(world: World) -> None:
        machines = await formed(world, "abc")
        target = next(machine for machine in machines if machine.control.root.is_leading)
        other = next(machine for machine in machines if machine is not target)
        node, groups = target.node, other.record.groups_naming(target.node)
        view = other.control.gossip.view
        assert any(lead is not None and lead.node == node for lead in view.leads)
        draining = asyncio.ensure_future(
            other.control.requests.drain_all(target.name, is_restart=True)
        )
        await until(draining.done, "it leads nothing")
        assert {move[3] for move in draining.result().moves} == {"leader"}
        view = other.control.gossip.view
        assert not any(lead is not None and lead.node == node for lead in view.leads)
        assert not target.control.root.is_leading
        assert other.record.groups_naming(node) == groups
        member = other.record.member(node)
        assert member is not None
        assert (member.status, member.is_retiring) == (Status.UP, False)

    run(main)


def test_a_preview_says_what_then_moves_and_changes_nothing() -> None:
    async def main(world: World) -> None:
        machines = await formed(world, "abcd")
        before = machines[0].record
        shown = await ask(machines[0], "preview", [[], ["d"]])
        assert machines[0].record is before
        draining = asyncio.ensure_future(machines[0].control.requests.drain_all("d"))
        await until(draining.done, "it is drained", 120)
        assert [list(move) for move in draining.result().moves] == shown
        names = {one.node: one.name for one in before.members}
        after = machines[0].record.shards
        for shard, going, coming, role in shown:
            had = [names[one.node] for one in before.shards[shard].config.voters]
            has = [names[one.node] for one in after[shard].config.voters]
            if role == "replica":
                assert going in had
                assert coming in has
                assert coming not in had

    run(main, expect=4)


def test_a_preview_of_more_nodes_names_what_they_would_get() -> None:
    async def main(world: World) -> None:
        machines = await formed(world, "abc")
        shown = await ask(machines[1], "preview", [["new-1", "new-2"], []])
        coming = {move[2] for move in shown if move[3] == "replica"}
        assert coming == {"new-1", "new-2"}

    run(main)


def test_names_that_are_no_members_are_refused_with_those_that_are() -> None:
    async def main(world: World) -> None:
        machines = await formed(world, "abc")
        with pytest.raises(InvalidInputError, match="one of a, b, c"):
            await ask(machines[0], "preview", [[], ["nobody"]])
        with pytest.raises(InvalidInputError, match="no control request 'dance'"):
            await ask(machines[0], "dance")

    run(main)


def test_an_agents_place_is_explained_with_who_leads_it_and_who_is_silent() -> None:
    async def main(world: World) -> None:
        machines = await formed(world, "abc")
        text = await ask(machines[0], "explain", "agent-1")
        assert "agent 'agent-1' is in shard" in text
        assert "leads it now, under ballot" in text
        machines[2].kill()
        await until(
            lambda: machines[2].node in machines[0].control.watching.unreachable, "it is missed"
        )
        text = await ask(machines[0], "explain", "agent-1")
        assert f"node {machines[2].node} is not reachable" in text

    run(main)


def test_nodes_are_listed_with_their_status_and_whether_they_answer() -> None:
    async def main(world: World) -> None:
        machines = await formed(world, "abc")
        machines[1].control.load(0.75, {"CPU": 8.0})
        machines[2].kill()
        await until(
            lambda: machines[2].node in machines[0].control.watching.unreachable, "it is missed"
        )
        await world.loop.advance(10)
        rows = {row["name"]: row for row in await ask(machines[0], "nodes")}
        assert [rows[name]["is_reachable"] for name in "abc"] == [True, True, False]
        assert rows["b"]["load"] == 0.75
        assert rows["c"]["status"] == "up"
        assert rows["a"]["id"] == machines[0].identity.id
        assert sum(row["shards_led"] for row in rows.values()) == 8

    run(main)


def test_before_it_is_a_member_a_node_says_that_it_cannot_say() -> None:
    async def main(world: World) -> None:
        machine = world.add("a")
        machine.begin()
        await world.loop.advance(1)
        with pytest.raises(UnavailableError, match="no member of a cluster yet"):
            await ask(machine, "nodes")
        id_, cluster_id, node, *_ = await ask(machine, "who")
        assert (id_, cluster_id, node) == ("id-a", None, None)

    run(main)


def test_the_root_group_leaves_a_node_that_is_drained_too() -> None:
    async def main(world: World) -> None:
        machines = await formed(world, "abcd")
        voters = {one.node for one in machines[0].record.root.config.voters}
        target = next(one for one in machines if one.node in voters and one.name != "a")
        draining = asyncio.ensure_future(machines[0].control.requests.drain_all(target.name))
        await until(draining.done, "it is drained", 120)
        draining.result()
        record = machines[0].record
        assert ROOT not in record.groups_naming(target.node)
        assert len(record.root.config.voters) == 3

    run(main, expect=4)
