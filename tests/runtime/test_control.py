"""A cluster of supervisors: it forms once, agrees, lets in whom it should, notices who is gone."""

import asyncio
from typing import Any

import pytest

from jido_cluster.errors import ClusterUnavailableError, ConfigError, JidoError
from jido_cluster.runtime.entry import About, Entry, Later
from jido_cluster.runtime.formation import Seen
from jido_cluster.runtime.identity import Boot
from jido_placement.commands import Accepted, BecomeUp, RegisterBoot
from jido_placement.membership import Status
from tests.runtime.control_world import Machine, World, is_led, is_settled, run, until


def status_of(machine: Machine, other: Machine) -> Status | None:
    member = machine.record.member_of_id(other.identity.id)
    return None if member is None else member.status


async def start_fails(machine: Machine) -> JidoError:
    task = machine.begin()
    await until(task.done, "the start has failed")
    error = task.exception()
    assert isinstance(error, JidoError), error
    machine.kill()
    return error


def test_three_nodes_form_one_cluster_and_agree_on_its_record() -> None:
    async def main(world: World) -> None:
        machines = await world.form("abc")
        await until(lambda: is_settled(machines), "they agree")
        records = [machine.record for machine in machines]
        assert len({record.cluster_id for record in records}) == 1
        assert all(record == records[0] for record in records)
        assert {one.node for one in records[0].root.config.voters} == {0, 1, 2}
        assert [one.status for one in records[0].members] == [Status.UP] * 3
        await until(lambda: is_led(machines), "every shard is led, and all know")

    run(main)


def test_of_five_nodes_that_start_at_once_one_cluster_comes_with_expect_three() -> None:
    async def main(world: World) -> None:
        machines = await world.form("abcde")
        await until(lambda: is_settled(machines), "they agree")
        assert len({machine.record.cluster_id for machine in machines}) == 1
        assert len(machines[0].record.members) == 5
        assert len(machines[0].record.root.config.voters) == 5

    run(main)


def test_nobody_founds_before_as_many_as_expected_are_in_sight() -> None:
    async def main(world: World) -> None:
        early = [world.add(name) for name in "ab"]
        for machine in early:
            machine.begin()
        await world.loop.advance(30)
        assert world.claimed is None
        assert not any(machine.control.is_open for machine in early)
        world.add("c").begin()
        await until(lambda: all(one.starting.done() for one in early), "the third lets them found")

    run(main)


def test_directories_of_two_clusters_under_one_name_are_a_conflict_that_names_both() -> None:
    async def main(world: World) -> None:
        first = await world.form("abc")
        for machine in first:
            machine.kill()
        world.claimed = None
        second = await world.form("def")
        for machine in second:
            machine.kill()
        ids = {first[0].record.cluster_id, second[0].record.cluster_id}
        assert len(ids) == 2
        tasks = [world.machines[name].begin() for name in "ad"]
        await until(lambda: all(task.done() for task in tasks), "both are refused")
        for task in tasks:
            error = task.exception()
            assert isinstance(error, ClusterUnavailableError)
            assert all(one in str(error) for one in ids)

    run(main)


def test_a_fourth_node_joins_and_is_given_shards() -> None:
    async def main(world: World) -> None:
        machines = await world.form("abc")
        machines.append(world.add("d"))
        machines[3].begin()
        await until(machines[3].starting.done, "it is in")
        machines[3].starting.result()
        await until(
            lambda: is_settled(machines) and machines[0].record.groups_naming(machines[3].node),
            "it has shards",
        )
        await until(lambda: is_led(machines), "every shard is led")
        assert status_of(machines[0], machines[3]) is Status.UP

    run(main)


def test_a_node_with_another_configuration_is_refused_by_the_name_of_the_field() -> None:
    async def main(world: World) -> None:
        await world.form("abc")
        error = await start_fails(world.add("d", shards=16))
        assert isinstance(error, ConfigError)
        assert "shards" in str(error)

    run(main)


def test_a_node_that_restarts_registers_its_next_boot_and_keeps_its_index() -> None:
    async def main(world: World) -> None:
        machines = await world.form("abc")
        await until(lambda: is_settled(machines), "they agree")
        node = machines[1].node
        machines[1].kill()
        await world.loop.advance(1)
        machines[1].begin()
        await until(machines[1].starting.done, "it is back")
        assert machines[1].node == node
        member = machines[0].record.member(node)
        assert member is not None
        assert (member.boot, member.status) == (2, Status.UP)
        assert machines[1].identity.registered == (2, member.nonce)
        await until(
            lambda: all(not one.control.watching.unreachable for one in machines), "all reachable"
        )

    run(main)


def test_a_cluster_whose_nodes_all_died_comes_back_from_its_directories() -> None:
    async def main(world: World) -> None:
        machines = await world.form("abc")
        await until(lambda: is_settled(machines), "they agree")
        cluster_id, epoch = machines[0].record.cluster_id, machines[0].record.epoch
        for machine in machines:
            machine.kill()
        await world.loop.advance(5)
        for machine in machines:
            machine.begin()
        await until(lambda: all(one.starting.done() for one in machines), "all are back")
        for machine in machines:
            machine.starting.result()
            assert machine.record.cluster_id == cluster_id
            assert machine.record.epoch > epoch
        await until(lambda: is_led(machines), "every shard is led")
        assert [one.boot for one in machines[0].record.members] == [2, 2, 2]

    run(main)


def test_a_founder_alone_that_restarts_needs_nobody() -> None:
    async def main(world: World) -> None:
        (machine,) = await world.form("a")
        machine.kill()
        machine.begin()
        await until(machine.starting.done, "it is back")
        machine.starting.result()
        await until(lambda: is_led([machine]), "its shards are led")

    run(main, expect=1, replicas=1)


@pytest.mark.parametrize("was_heard", [False, True])
def test_a_start_that_may_be_registered_is_settled_before_the_process_has_its_own(
    was_heard: bool,
) -> None:
    async def main(world: World) -> None:
        machines = await world.form("abc")
        machine = machines[2]
        machine.kill()
        machine.begin()
        await asyncio.sleep(0)  # it intends, and has asked nobody yet
        machine.kill()
        intended = machine.identity.intent
        assert intended is not None
        assert intended[0] == 2
        if was_heard:  # the root group registers it, and the node dies before it hears of that
            old = machine.identity.registered[1]
            command = RegisterBoot("id-c", *intended, old, machines[0].record.agreed)
            assert await machines[0].control.root.order(command, 2.0) is not None
        machine.begin()
        await until(machine.starting.done, "it is back")
        machine.starting.result()
        boot = machine.control.boot
        assert (boot.number, boot.old_nonce, boot.is_own) == (3, intended[1], True)
        member = machines[0].record.member(machine.node)
        assert member is not None
        assert (member.boot, member.nonce) == boot[:2]
        assert (machine.identity.registered, machine.identity.intent) == (boot[:2], None)

    run(main)


def test_a_fresh_node_that_died_while_it_joined_is_let_in_under_its_next_boot() -> None:
    async def main(world: World) -> None:
        machines = await world.form("abc")
        machine = world.add("d")
        machine.begin()
        await asyncio.sleep(0)
        machine.kill()
        assert machine.identity.intent is not None
        machine.begin()
        await until(machine.starting.done, "it is in")
        machine.starting.result()
        member = machines[0].record.member_of_id("id-d")
        assert member is not None
        assert (member.boot, member.nonce) == machine.control.boot[:2]
        assert member.boot == 2

    run(main)


def test_a_founder_that_died_before_it_founded_founds_and_goes_on_under_its_next_boot() -> None:
    async def main(world: World) -> None:
        machine = world.add("a")
        machine.begin()
        await asyncio.sleep(0)
        machine.kill()
        machine.begin()
        await until(machine.starting.done, "it has founded")
        machine.starting.result()
        assert machine.record.members[0].boot == 2
        await until(lambda: machine.record.shards and is_led([machine]), "its shards are led")

    run(main, expect=1, replicas=1)


def test_a_copied_directory_is_refused_while_the_original_runs() -> None:
    async def main(world: World) -> None:
        machines = await world.form("abc")
        error = await start_fails(machines[1].copy("x"))
        assert isinstance(error, ConfigError)
        assert "copied" in str(error)
        assert all(not machine.ended for machine in machines)

    run(main)


def test_a_directory_restored_from_an_older_copy_is_refused() -> None:
    async def main(world: World) -> None:
        machines = await world.form("abc")
        old = machines[1].copy("x")
        machines[1].kill()
        machines[1].begin()
        await until(machines[1].starting.done, "it is back, as boot 2")
        machines[1].kill()
        await world.loop.advance(1)
        error = await start_fails(old)
        assert "boot 2" in str(error)

    run(main)


def test_the_original_ends_when_a_copy_was_let_in_behind_its_back() -> None:
    async def main(world: World) -> None:
        machines = await world.form("abc")
        await until(lambda: is_settled(machines), "they agree")
        twin = machines[2].copy("x")
        world.split("c", "abx")
        await until(lambda: machines[2].node in machines[0].control.watching.unreachable, "lost")
        twin.begin()
        await until(twin.starting.done, "the copy is let in")
        twin.starting.result()
        world.split()
        await until(lambda: machines[2].ended, "the original has noticed")
        assert "copied" in str(machines[2].ended[0])

    run(main)


def test_a_copy_and_its_original_that_start_together_are_both_refused() -> None:
    async def main(world: World) -> None:
        machines = await world.form("abc")
        for machine in machines:
            machine.kill()
        twins = [machines[1], machines[1].copy("x")]
        tasks = [machine.begin() for machine in twins]
        await until(lambda: all(task.done() for task in tasks), "both are refused", 1)
        assert all("copied" in str(task.exception()) for task in tasks)

    run(main)


def test_a_node_ends_when_the_record_has_another_start_of_it() -> None:
    async def main(world: World) -> None:
        machines = await world.form("abc")
        await until(lambda: is_settled(machines), "they agree")
        boot, agreed = machines[2].control.boot, machines[0].record.agreed
        other = RegisterBoot("id-c", boot.number + 1, boot.nonce + 1, boot.nonce, agreed)
        assert await machines[0].control.root.order(other, 2.0) is not None
        await until(lambda: machines[2].ended, "it has noticed", 1)
        assert "started once more elsewhere" in str(machines[2].ended[0])

    run(main)


def test_a_command_is_answered_by_whoever_leads_the_root_group_after_its_leader_died() -> None:
    async def main(world: World) -> None:
        machines = await world.form("abc")
        await until(lambda: is_settled(machines), "they agree")
        leader = next(one for one in machines if one.control.root.is_leading)
        others = [one for one in machines if one is not leader]
        leader.kill()
        command = BecomeUp(leader.node, 1)
        tasks = [asyncio.ensure_future(one.control.root.order(command, 10.0)) for one in others]
        await until(lambda: all(task.done() for task in tasks), "they are answered", 10)
        assert [task.result() for task in tasks] == [
            Accepted(is_change=False, value=leader.node)
        ] * 2

    run(main)


def test_who_has_been_told_who_leads_the_root_group_asks_there_at_once() -> None:
    async def main(world: World) -> None:
        machines = await world.form("abcde")
        await until(lambda: is_settled(machines), "they agree")
        for machine in machines:
            for _ in range(4):  # whoever is asked first, by the time
                machine.control.root._leader = None
                command = BecomeUp(machine.node, 1)
                task = asyncio.ensure_future(machine.control.root.order(command, 2.0))
                await world.loop.rest()
                assert task.done()
                await world.loop.advance(0.2)

    run(main, expect=5)


def test_a_node_is_let_in_only_when_the_record_shows_it() -> None:
    async def main(world: World) -> None:
        machines = await world.form("abc")
        control = machines[0].control

        async def order(command: Any, timeout: float) -> Any:
            return Accepted(is_change=True, value=9)

        control.root.order = order
        seen = Seen("id-d", None, None, 1, "d/supervisor")
        agreed = world.config.agreed()
        entry = Entry(seen, Boot(1, 5, 0, is_own=True), About("d"), agreed, is_fresh=True)
        task = asyncio.ensure_future(control.requests.let_in(entry))
        await until(task.done, "it has given up")
        assert isinstance(task.result(), Later)

    run(main)


def test_a_killed_node_is_unreachable_at_once_then_down_and_replaced() -> None:
    async def main(world: World) -> None:
        machines = await world.form("abcd")
        await until(lambda: is_settled(machines), "they agree")
        dead, left = machines[3], machines[:3]
        node = dead.node
        dead.kill()
        seconds = await until(
            lambda: all(node in one.control.watching.unreachable for one in left), "unreachable"
        )
        assert seconds < 1
        await world.loop.advance(0.1)
        assert all(node not in one.hosts[0].standing.reachable for one in left)
        assert status_of(left[0], dead) is Status.UP
        seconds = await until(
            lambda: status_of(left[0], dead) in {Status.DOWN, None}, "declared down"
        )
        assert 9 < seconds < 13
        await until(lambda: not left[0].record.groups_naming(node), "its replicas are replaced")
        await until(lambda: is_settled(left) and is_led(left), "every shard is led")
        await until(lambda: status_of(left[0], dead) is None, "it is forgotten")

    run(main, expect=4, down_after=10.0)


def test_a_node_that_was_declared_down_comes_back_with_its_next_boot() -> None:
    async def main(world: World) -> None:
        machines = await world.form("abc")
        await until(lambda: is_settled(machines), "they agree")
        world.split("c", "ab")
        await until(lambda: status_of(machines[0], machines[2]) is Status.DOWN, "declared down")
        world.split()
        await until(lambda: status_of(machines[0], machines[2]) is Status.UP, "it is back")
        member = machines[0].record.member(machines[2].node)
        assert member is not None
        assert member.boot == 2
        await until(lambda: is_settled(machines) and is_led(machines), "every shard is led")
        assert not machines[2].ended

    run(main, down_after=5.0)


def test_a_node_that_was_removed_while_it_was_cut_off_ends_when_it_hears_of_it() -> None:
    async def main(world: World) -> None:
        machines = await world.form("abcd")
        await until(lambda: is_settled(machines), "they agree")
        world.split("d", "abc")
        await until(lambda: status_of(machines[0], machines[3]) is None, "removed", 120)
        world.split()
        await until(lambda: machines[3].ended, "it has heard of it")
        assert "empty data directory" in str(machines[3].ended[0])

    run(main, expect=4, down_after=5.0)


def test_a_minority_is_not_admitted_and_the_majority_is() -> None:
    async def main(world: World) -> None:
        machines = await world.form("abc")
        await until(lambda: is_settled(machines), "they agree")
        host = machines[2].hosts[0]
        await until(lambda: host.standing and "pause_minority" in host.standing.admitted, "all in")
        world.split("c", "ab")
        await until(lambda: "pause_minority" not in host.standing.admitted, "paused")
        assert "continue_all" in host.standing.admitted
        assert "leader_election" not in host.standing.admitted
        other = machines[0].hosts[0].standing
        assert other is not None
        assert set(other.admitted) == {"pause_minority", "continue_all", "leader_election"}
        assert machines[2].node not in other.reachable
        world.split()
        await until(lambda: len(host.standing.admitted) == 3, "all in again")
        await until(
            lambda: machines[2].control.watching.stage.name == "WHOLE", "the split is healed"
        )

    run(main)


def test_views_merge_until_all_nodes_say_the_same() -> None:
    async def main(world: World) -> None:
        machines = await world.form("abc")
        await until(lambda: is_settled(machines) and is_led(machines), "every shard is led")
        await world.loop.advance(2)
        views = [machine.control.gossip.view for machine in machines]
        assert views[0] == views[1] == views[2]
        assert views[0].merge(views[1]) is views[0]
        for machine, member in zip(machines, sorted_members(views[0], machines), strict=True):
            assert member.supervisor == machine.control.supervisor
            assert len(member.hosts) == 2
            assert len(member.peers) == 3
        assert all(host for host in views[0].leaders)

    run(main, hosts=2)


def sorted_members(view: Any, machines: list[Machine]) -> list[Any]:
    return [view.by_id(machine.identity.id) for machine in machines]


def test_a_new_view_wakes_whoever_waits_for_another_source() -> None:
    async def main(world: World) -> None:
        machines = await world.form("abc")
        await until(lambda: is_settled(machines) and is_led(machines), "every shard is led")
        await world.loop.advance(2)
        control = machines[0].control
        view = control.gossip.view
        waiting = asyncio.ensure_future(control.newer_view(view.source))
        await world.loop.advance(1)
        assert not waiting.done()
        assert (await control.newer_view("")).source == view.source
        machines[2].control.replace_host(1, "frames/new", "c/new")
        await until(waiting.done, "it has woken")
        assert waiting.result().by_id(machines[2].identity.id).hosts == ("frames/new",)

    run(main)


def test_a_host_that_was_replaced_is_known_everywhere_and_told_how_things_stand() -> None:
    async def main(world: World) -> None:
        machines = await world.form("abc")
        await until(lambda: is_settled(machines) and is_led(machines), "every shard is led")
        machine = machines[1]
        machine.hosts[0].close()
        life = machines[0].control.gossip.view.by_id(machine.identity.id).life
        machine.replace_host(0)
        host = machine.hosts[0]
        assert machine.control.gossip._all_rows() == ()
        await world.loop.advance(0.05)
        assert host.standing is not None
        for other in machines:
            await until(
                lambda other=other: (
                    host.peers.address in other.control.gossip.view.by_id(machine.identity.id).peers
                ),
                "its address is known",
                1,
            )
            member = other.control.gossip.view.by_id(machine.identity.id)
            assert member is not None
            assert member.life > life
        await until(lambda: is_led(machines), "every shard is led")

    run(main)


def test_a_wall_clock_that_differs_from_most_others_is_noticed_by_its_own_node() -> None:
    async def main(world: World) -> None:
        world.skews["b"] = 3600.0
        machines = await world.form("abc")
        await world.loop.advance(5)
        sound = [machine.hosts[0].standing.wall_skew_ok for machine in machines]
        assert sound == [True, False, True]

    run(main)


@pytest.mark.slow
def test_from_start_to_assigned_shards_takes_few_seconds() -> None:
    async def main(world: World) -> float:
        await world.form("abc")
        return world.loop.time()

    assert run(main, shards=256) < 10


def test_all_come_back_though_one_is_late_and_knows_nothing_of_the_others() -> None:
    """Who is let in learns of members that are still silent; it goes on hearing them all the same.

    Else the late node would not be answered by anybody, and be replaced while it runs.
    """

    async def main(world: World) -> None:
        machines = await world.form("abc")
        await until(lambda: is_settled(machines), "they agree")
        for machine in machines:
            machine.kill()
        early, late = machines[:2], machines[2]
        tasks = [machine.begin() for machine in machines]
        # All are introduced to each other, before anybody is registered.
        await until(lambda: all(one.control.is_open for one in machines), "all have opened")
        for one in early:
            one.control.gossip.learn(late.control.gossip.view)
        await until(lambda: all(task.done() for task in tasks), "all are back", 10.0)
        every = tuple(sorted(one.node for one in machines))
        await until(
            lambda: all(one.control.watching.contacts == every for one in machines),
            "all are in contact",
            10.0,
        )
        await until(lambda: is_led(machines), "every shard is led")

    run(main)


def test_a_node_starts_again_while_another_one_is_dead() -> None:
    """The root group has two of three: the one that runs has to answer at a new address."""

    async def main(world: World) -> None:
        machines = await world.form("abc")
        await until(lambda: is_settled(machines), "they agree")
        stays, restarts, dies = machines
        dies.kill()
        restarts.kill()
        await world.loop.advance(3)
        again = restarts.begin()
        await until(again.done, "it is back", 20.0)
        again.result()
        assert stays.record.member(restarts.node).boot == 2

    run(main)
