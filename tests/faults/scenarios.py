"""What happens to a cluster under load, and what its clients may then say of it.

A scenario is played while clients on some of the nodes do mixed operations at an even pace. Then
everything is healed, every agent is looked at once, and the checkers judge all that clients saw.
"""

import random
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from tests.faults.agents import relayed
from tests.faults.faults import BusyCores, FullDisk, Slowed, failing_calls
from tests.faults.load import COUNTER
from tests.faults.nodes import HEAD, RayNodes, Storage, wait_until
from tests.faults.stage import FOREVER, GRACE, MOVE_SECONDS, Report, Size, Stage, percentiles

HOST: Final = "ray::ShardHostActor"
SUPERVISOR: Final = "ray::NodeSupervisorActor"
DISK_BYTES: Final = 64 << 20
PROBED: Final = 20  # agents that are asked for all the time where times are measured
PROBE_PATIENCE: Final = 8.0  # seconds
RELAY_SECONDS: Final = 12.0  # that a turn lasts which calls others; a process starts meanwhile
NOTICE_NS: Final = 12_000_000_000  # after which a side without most of the nodes has paused
END_NS: Final = 2_000_000_000  # the last calls of a probe
ADDITIONS: Final = 10_000
COUNT_SECONDS: Final = 600.0
FAILOVER_SECONDS: Final = 1.0  # between looks whether all agents answer again
FAILOVER_LOOKS: Final = 30
SETTLED_SECONDS: Final = 20.0  # for leaderships to be passed to whom the shards prefer
SLOWED: Final = 0.1  # of its time that a busy node gets
DRAIN_SECONDS: Final = 20.0  # for a node that Ray drains to hand over, and end
MAX_CHANGES: Final = 3  # of leaders, while nothing is wrong


def calm(stage: Stage) -> None:
    """Nothing happens."""
    stage.until(1.0)


def kill_node(stage: Stage) -> None:
    """A node loses its power under load, and comes back with its disk."""
    stage.until(0.33)
    victim = stage.victim()
    stage.kill(victim)
    stage.until(0.66)
    stage.restart(victim)
    stage.wait_members(stage.nodes.names)


def kill_host(stage: Stage) -> None:
    """The process that has a node's agents dies, and the node lives on."""
    stage.until(0.33)
    victim = stage.victim()
    stage.nodes.kill_process(victim, HOST)
    stage.note(f"killed the host of {victim}")
    stage.until(1.0)


def kills(stage: Stage) -> None:
    """Nodes and processes die at random, one after the other, as often as there are rounds."""
    chance = random.Random(stage.size.seed)
    safe = {HEAD, *(client.name for client in stage.living)}
    for _ in range(stage.size.rounds):
        what = chance.choice(("node", "node", HOST, SUPERVISOR))
        if what == "node":
            victim = chance.choice(sorted(set(stage.nodes.names) - safe))
            stage.kill(victim)
            stage.restart(victim)
        else:
            victim = chance.choice(stage.nodes.names)
            stage.nodes.kill_process(victim, what)
            stage.note(f"killed the {what} of {victim}")
        stage.wait_members(stage.nodes.names)
        stage.pause(chance.uniform(0.0, 2.0))
    stage.stop()


def failover(stage: Stage) -> None:
    """Its agents are asked for all the time while a node or its process dies, or falls silent.

    Measures from the fault to the first answer of another leader, for each agent.
    """
    times: dict[str, list[float | None]] = {"node": [], "process": [], "silent": []}
    for number in range(stage.size.rounds):
        for what, all_times in times.items():
            stage.wait_settled()  # a shard that moves meanwhile has another leader already
            victim, found = _fail_over(stage, what)
            all_times.extend(found)
            stage.note(f"round {number}: {what} {victim}: {percentiles(found)}")
            stage.faults.heal()
            if stage.down:
                stage.restart(*stage.down)
            stage.wait_members(stage.nodes.names)
    for what, found in times.items():
        stage.measure(what, found)


def _fail_over(stage: Stage, what: str) -> tuple[str, list[float | None]]:
    """Lose a leader; its node, and the times of its agents."""
    (client,) = stage.clients
    homes = client.ask("homes", keys=stage.size.keys())
    victim = stage.victim()
    led = [key for key in sorted(homes) if homes[key] == victim][:PROBED]
    probing = client.begin("probe", keys=led, seconds=FOREVER, pause=0.2)
    stage.pause(1.0)
    homes = client.ask("homes", keys=led)  # some may be led by whom their shard prefers by now
    led = [key for key in led if homes.get(key) == victim]
    began = time.monotonic_ns()
    if what == "node":
        stage.kill(victim)
    elif what == "process":
        stage.nodes.kill_process(victim, HOST)
    else:
        stage.faults.black_hole((victim,), set(stage.nodes.names) - {victim})
    for _ in range(FAILOVER_LOOKS):
        stage.pause(FAILOVER_SECONDS)
        found = stage.record().failovers(began, led)
        if None not in found.values():
            break
    client.ask("stop")
    probing.result(GRACE)
    return victim, list(found.values())


def kill_all(stage: Stage) -> None:
    """All nodes lose their power at one moment, and come back with their disks.

    Measures from the loss to when every agent has answered.
    """
    stage.until(0.5)
    names, homes = stage.nodes.names, [client.name for client in stage.clients]
    began = time.monotonic()
    stage.kill(*names)
    stage.restart(*names)
    stage.connect(homes[:1])
    stage.living[0].ask("each", keys=stage.size.keys())
    stage.note("every agent answers")
    stage.measure("serving", [time.monotonic() - began])
    stage.connect(homes[1:])
    stage.begin(stage.size.seconds / 2)
    stage.until(1.0)


def pause_leader(stage: Stage) -> None:
    """The node that leads the most stands still for a third of the time, and does not notice.

    Turns are under way there that have called another agent and will call it again. They run anew
    elsewhere; what the first ones call when they go on has to be refused. The host cancels its own
    when it goes on; those in other processes go on at the same moment, and do call.
    """
    stage.until(0.33)
    victim, client = stage.victim(), stage.living[0]
    relays = [f"relay-{i}{stage.size.tag}" for i in range(20)]
    client.ask("spawn_relays", keys=relays)
    homes = client.ask("homes", keys=relays)
    led = [key for key in relays if homes.get(key) == victim]
    log = stage.nodes.data_dir / "nested.log"
    targets = [f"target-{i}{stage.size.tag}" for i in range(len(led))]
    client.ask("spawn", keys=targets)
    written = [
        client.begin(
            "relay",
            key=key,
            register=target,
            value=i + 1,
            seconds=RELAY_SECONDS,
            timeout=stage.size.seconds,  # the first turn still has time when it goes on
            log=str(log),
        )
        for i, (key, target) in enumerate(zip(led, targets, strict=True))
    ]
    noted = stage.nodes.data(victim) / log.name
    wait_until(
        lambda: noted.exists() and len(noted.read_text().splitlines()) == len(led),
        "the first write of each relay",
        RELAY_SECONDS,
    )
    stage.nodes.freeze(victim)
    stage.note(f"froze {victim}")
    stage.until(0.66)
    fences = [one.result(GRACE) for one in written]
    stage.nodes.thaw(victim)
    stage.note(f"thawed {victim}")
    stage.until(1.0)
    lines = [line.split() for line in noted.read_text().splitlines()]
    late = [(int(value), end) for fence, value, end in lines if fence not in fences]
    stage.measures["relays"] = len(led)
    stage.measures["nested calls before and after the pause"] = sorted(
        Counter(f"{'before' if value > 0 else 'after'}: {end}" for value, end in late).items()
    )
    stage.problems += [
        f"the nested call of value {value} was taken after its turn was over elsewhere"
        for value, end in late
        if value < 0 and end == "ok"
    ]
    values = [client.ask("value", key=target) for target in targets]
    stage.problems += [
        f"{target} holds {value}, which the turn that committed did not write last"
        for target, value, fence, i in zip(
            targets, values, fences, range(len(targets)), strict=True
        )
        if value != relayed(-(i + 1), fence)
    ]


def split(stage: Stage) -> None:
    """A minority is cut off without a word; clients are on both sides.

    Measures, while it is so, the longest time without an answer on the larger side for agents with
    most of their replicas there, and how calls of the others end; and that the smaller side
    answers nothing once it has noticed.
    """
    names = stage.nodes.names
    majority, minority = names[: len(names) // 2 + 1], names[len(names) // 2 + 1 :]
    large, small = stage.clients
    homes = large.ask("replicas", keys=stage.size.keys())
    served = [key for key, held in homes.items() if 2 * len(set(held) & set(majority)) > len(held)]
    others = sorted(homes.keys() - served)
    probed = served[:PROBED] + others[:PROBED]
    stage.until(0.33)
    seconds = stage.size.seconds * 0.66
    probing = [
        one.begin("probe", keys=probed, seconds=seconds, pause=0.5, patience=PROBE_PATIENCE)
        for one in (large, small)
    ]
    cut = time.monotonic_ns()
    stage.faults.black_hole(majority, minority)
    stage.note(f"cut {', '.join(minority)} off")
    stage.until(0.66)
    healed = time.monotonic_ns()
    stage.faults.heal()
    stage.note("healed")
    stage.until(1.0)
    for one in probing:
        one.result(PROBE_PATIENCE + GRACE)
    record = stage.record()
    end = time.monotonic_ns()
    stage.measure("served", record.gaps(cut, healed, served[:PROBED], by=large.number))
    stage.measure("all after healing", record.gaps(healed, end - END_NS, probed, by=large.number))
    noticed = cut + NOTICE_NS
    for name, keys, client in (
        ("others' calls", others[:PROBED], large),
        ("smaller side's calls", probed, small),
    ):
        stage.measures[name] = record.ends(noticed, healed, keys, by=client.number)
        if stage.measures[name].get("answered"):
            stage.problems.append(f"{name} were answered without a majority")


def one_way(stage: Stage) -> None:
    """Others hear the node that leads the most, and it does not hear them."""
    stage.until(0.33)
    victim = stage.victim()
    stage.faults.one_way([one for one in stage.nodes.names if one != victim], [victim])
    stage.note(f"{victim} hears nobody")
    stage.until(0.66)
    stage.faults.heal()
    stage.note("healed")


def flap(stage: Stage) -> None:
    """A node is refused by the others and taken again, every second."""
    stage.until(0.33)
    victim, share = stage.victim(), 1 / stage.size.seconds
    others = [one for one in stage.nodes.names if one != victim]
    rounds = int(stage.size.seconds / 3 / 2)
    stage.note(f"{victim} comes and goes, {rounds} times")
    for i in range(rounds):
        stage.faults.refuse(others, (victim,))
        stage.until(0.33 + (2 * i + 1) * share)
        stage.faults.heal()
        stage.until(0.33 + (2 * i + 2) * share)
    stage.note("healed")


def lossy(stage: Stage) -> None:
    """Every twentieth packet between any two nodes is lost for a third of the time."""
    stage.until(0.33)
    stage.faults.lose(0.05)
    stage.note("lose 5 %")
    stage.until(0.66)
    stage.faults.heal()
    stage.note("healed")


def gcs_outage(stage: Stage) -> None:
    """Ray's GCS dies, and comes back with its storage after a third of the time.

    A node dies meanwhile. Measures the longest time without an answer before that, and from its
    death to the first answer of another leader.
    """
    client = stage.living[0]
    stage.until(0.3)
    homes = client.ask("homes", keys=stage.size.keys())
    victim = stage.victim()
    led = [key for key in sorted(homes) if homes[key] == victim][:PROBED]
    rest = [key for key in sorted(homes) if homes[key] != victim][:PROBED]
    seconds = stage.size.seconds * 0.5
    probing = client.begin("probe", keys=led + rest, seconds=seconds, pause=0.2)
    stage.until(0.33)
    lost = time.monotonic_ns()
    stage.nodes.kill_gcs()
    stage.note("killed the GCS")
    stage.until(0.45)
    killed = time.monotonic_ns()
    stage.kill(victim)
    stage.until(0.66)
    stage.nodes.start_gcs()
    stage.note("started the GCS")
    stage.restart(victim)
    probing.result(stage.size.seconds + GRACE)
    record = stage.record()
    stage.measure("without the GCS", record.gaps(lost, killed, led + rest, by=client.number))
    stage.measure("node", record.failovers(killed, led, by=[client.number]))
    stage.wait_members(stage.nodes.names)


def counter(stage: Stage) -> None:
    """A fixed number of additions, while most frames and calls of Ray fail; the sum is exact."""
    keys = [f"{COUNTER}sum-{i}{stage.size.tag}" for i in range(20)]
    stage.clients[0].ask("spawn", keys=keys)
    counting = [
        client.begin("count", keys=keys, number=ADDITIONS // len(stage.clients))
        for client in stage.clients
    ]
    for one in counting:
        one.result(COUNT_SECONDS)
    stage.note("counted")
    stage.stop()
    total = sum(stage.clients[0].ask("value", key=key) for key in keys)
    stage.measures["additions"] = ADDITIONS
    stage.measures["sum"] = total
    if total != ADDITIONS:
        stage.problems.append(f"{ADDITIONS} additions made {total}")


def join(stage: Stage) -> None:
    """A node joins under load, and gets its share."""

    def add() -> None:
        stage.nodes.add()
        stage.wait_members(stage.nodes.names)
        stage.wait_settled()

    stage.wait_settled()
    stage.planned("join", add)
    stage.stop()


def drain(stage: Stage) -> None:
    """The node that leads the most is drained under load, and then taken away."""
    victim = stage.victim()

    def leave() -> None:
        moves, agents, size = stage.living[0].ask("drain", MOVE_SECONDS, node=victim)
        stage.note(f"{victim} has left: {moves} moves, {agents} agents, {size} bytes")

    stage.wait_settled()
    stage.planned("drain", leave)
    stage.kill(victim)
    stage.wait_members([one for one in stage.nodes.names if one != victim])
    stage.stop()


def terminate(stage: Stage) -> None:
    """A node that leads shards is ended by SIGTERM: it hands them over first, and comes back."""
    (name,) = stage.nodes.add(block=True)
    stage.wait_members(stage.nodes.names)
    stage.wait_settled()
    stage.planned("terminate", lambda: stage.nodes.terminate(name))
    stage.stop()
    if stage.measures["terminate"]["seconds"] > DRAIN_SECONDS:
        stage.problems.append(f"{name} did not end by itself: Ray ended it after 30 s")
    stage.nodes.start([name])
    stage.wait_members(stage.nodes.names)


def full_disk(stage: Stage) -> None:
    """The disk of the node that leads the most is full for a third of the time."""
    stage.until(0.33)
    victim = stage.victim()
    with FullDisk(stage.nodes.data(victim)):
        stage.note(f"filled the disk of {victim}")
        stage.until(0.66)
    stage.note("freed it")


def busy(stage: Stage) -> None:
    """All cores are busy, and a node gets a tenth of its time: none of that is a death.

    Counts nodes that are removed, and leaders that change.
    """
    stage.wait_settled()
    stage.pause(SETTLED_SECONDS)
    victim = stage.victim()
    watching = stage.living[0].begin("watch", seconds=stage.size.seconds)
    with BusyCores(), Slowed(stage.nodes.network, victim, SLOWED):
        stage.note(f"slowed {victim}")
        stage.until(1.0)
        seen = watching.result(GRACE)
    stage.note("let go")
    stage.measures.update(seen, victim=victim)
    if seen["removed"] or seen["leader changes"] > MAX_CHANGES:
        removed, changes = seen["removed"], seen["leader changes"]
        stage.problems.append(f"false alarms: {removed} removed, {changes} led by others")


@dataclass(frozen=True)
class Scenario:
    """A story, and the cluster that it needs.

    Attributes:
        play: Acts while the load is on; whatever it did is healed afterwards.
        clients: Numbers of the nodes that clients run on, from 0; negative from the end.
        storage: Where the GCS keeps its state.
        environment: More variables for what Ray starts on the nodes.
        data_bytes: Size of each node's disk; None for the host's.
        stretch: How much longer than `Size.seconds` it takes: the fault must outlast something.
        load: Seconds of load, where the scenario decides; 0 for none.
        frames: Probabilities that a frame of the clients is lost, and that its answer is.
    """

    play: Callable[[Stage], None]
    clients: tuple[int, ...] = (0, 1)
    storage: Storage = "memory"
    environment: Mapping[str, str] = field(default_factory=dict)
    data_bytes: int | None = None
    stretch: float = 1.0
    load: float | None = None
    frames: tuple[float, float] | None = None


# Ray takes a node that was silent for some 15 s for dead, and ends it when it is heard of again.
# Here it does not, so that the runtime is by itself to deal with what comes back.
PATIENT: Final = {
    "RAY_health_check_failure_threshold": "1000",
    "RAY_gcs_rpc_server_reconnect_timeout_s": "600",
}

SCENARIOS: Final = {
    "calm": Scenario(calm),
    "kill_node": Scenario(kill_node),
    "kill_host": Scenario(kill_host),
    "kill_all": Scenario(kill_all),
    "kills": Scenario(kills, clients=(0, 0), load=FOREVER),
    "failover": Scenario(failover, clients=(0,), load=0.0, environment=PATIENT),
    # 90 s at the usual size: longer than Ray, a lease or a TCP connection is patient.
    "pause_leader": Scenario(pause_leader, stretch=3.0, environment=PATIENT),
    "split": Scenario(split, clients=(0, -1), environment=PATIENT),
    "one_way": Scenario(one_way, environment=PATIENT),
    "flap": Scenario(flap),
    "lossy": Scenario(lossy),
    "gcs_outage": Scenario(gcs_outage, storage="rocksdb"),
    "join": Scenario(join, load=FOREVER),
    "drain": Scenario(drain, load=FOREVER),
    "terminate": Scenario(terminate, load=FOREVER),
    "full_disk": Scenario(full_disk, data_bytes=DISK_BYTES),
    "busy": Scenario(busy, environment=PATIENT),
    "failing_calls": Scenario(calm, environment=failing_calls(5, 5, 5)),
    "counter": Scenario(
        counter, environment=failing_calls(25, 50, 0), frames=(0.25, 0.5), load=0.0
    ),
}


def run(name: str, size: Size, keep: Path | None = None, nodes: RayNodes | None = None) -> Report:
    """Play a scenario.

    Args:
        name: One of `SCENARIOS`.
        size: How big.
        keep: Where to leave the history of the clients as JSON lines; None for nowhere.
        nodes: A whole cluster to play it on; its agents must be new. None for a cluster of its own,
            of the kind that the scenario wants.
    """
    scenario = SCENARIOS[name]
    size = replace(size, seconds=size.seconds * scenario.stretch)
    with ExitStack() as stack:
        if nodes is None:
            nodes = stack.enter_context(
                RayNodes(
                    size.nodes,
                    storage=scenario.storage,
                    environment=scenario.environment,
                    data_bytes=scenario.data_bytes,
                )
            )
        stage = Stage(nodes, size)
        stack.callback(stage.close)
        stage.connect([nodes.names[number] for number in scenario.clients], scenario.frames)
        stage.prepare()
        stage.begin(size.seconds if scenario.load is None else scenario.load)
        scenario.play(stage)
        stage.end()
        record = stage.record()
        if keep is not None:
            record.write(keep)
        findings = record.judge()
        findings = replace(findings, problems=(*findings.problems, *stage.problems))
        return Report(name, size, tuple(stage.events), stage.measures, findings)
