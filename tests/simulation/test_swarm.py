"""What a seed stands for, and that a run is a function of it, under any salt of `hash()`."""

import os
import subprocess
import sys
from pathlib import Path
from random import Random

from jido_state.simulation import FAULTS, PARTITIONS, Swarm, Trace, stream

SEEDS = range(2_000)

RUN = """
from jido_state.simulation import *
from jido_state.store import Change, StoreError, Table

def run(seed):
    swarm, scheduler, trace = Swarm.draw(seed), Scheduler(), Trace()
    nodes, nemesis = range(swarm.nodes), stream(seed, "nemesis")
    disks = [SimDisk(scheduler, stream(seed, f"disk/{node}"), node, swarm.disk) for node in nodes]

    def start(node):
        def told(ticket, commit):
            trace.add(scheduler.now_us, commit.value, node, ticket)
        scheduler.start(node)
        try:
            return disks[node].open(told, disks[node].crash)
        except StoreError:
            return None

    def deliver(source, target, message):
        trace.add(scheduler.now_us, "deliver", source, target, message)
        if disks[target].is_open:
            stores[target].append([Change(Table.RECORD, 1, f"{source}/{message}", b"x")])
        if message:
            network.send(target, (target + 1) % swarm.nodes, message - 1)

    stores = [start(node) for node in nodes]
    network = Network(scheduler, stream(seed, "network"), deliver, swarm.network)
    faults = []
    for number in range(60):
        network.send(number % swarm.nodes, 0, number)
        if number % 4 == 0:
            network.cut(partition(swarm.partitions[0], nodes, nemesis))
        scheduler.run(scheduler.now_us + 100_000)
        faults.append(swarm.next_fault(nemesis))
        if number % 20 == 19:
            network.heal(swarm.network)
            node = nemesis.randrange(swarm.nodes)
            disks[node].crash(power=True)
            stores[node] = start(node)
    rows = [store and store.scan(Table.RECORD, 1) for store in stores]
    trace.mark(repr((faults, rows)).encode())
    print(trace.events, trace.digest(), swarm)

for seed in range(20):
    run(seed)
"""


def test_a_seed_always_draws_the_same() -> None:
    """And its parts draw from streams of their own."""
    assert Swarm.draw(42) == Swarm.draw(42)
    assert Swarm.draw(42) != Swarm.draw(43)
    assert stream(1, "network").random() == stream(1, "network").random()
    assert stream(1, "network").random() != stream(1, "disk").random()
    assert stream(1, "network").random() != stream(2, "network").random()


def test_draws_are_within_their_bounds() -> None:
    """Every seed is a cluster that can run, with faults to stand."""
    for seed in SEEDS:
        swarm = Swarm.draw(seed)
        assert 1 <= swarm.replicas <= swarm.nodes <= 6
        assert swarm.replicas <= 5
        assert 1 <= swarm.keys <= 5
        assert 1 <= swarm.clients <= 8
        assert 300 <= swarm.operations <= 700
        assert swarm.hosts in {1, 2}
        assert swarm.election_ms >= 800
        assert swarm.window_ms >= 2 * 1_200
        assert 10_000_000 <= swarm.duration_us <= 40_000_000
        assert swarm.faults == tuple(dict(swarm.faults).items())
        assert dict(swarm.faults).keys() <= FAULTS.keys()
        assert all(weight > 0 for _, weight in swarm.faults)
        assert set(swarm.partitions) <= PARTITIONS.keys()
        assert swarm.partitions
        assert all(weight >= 0 for _, weight in swarm.levels)
        assert swarm.network.hold_us[0] < swarm.network.hold_us[1]


def test_seeds_differ_in_their_mix() -> None:
    """Each fault is in some mixes and not in others; a few have none at all."""
    swarms = [Swarm.draw(seed) for seed in SEEDS]
    for kind, rate in FAULTS.items():
        share = sum(kind in dict(swarm.faults) for swarm in swarms) / len(swarms)
        assert rate - 0.06 < share < rate + 0.06, kind
    without = sum(not swarm.faults for swarm in swarms)
    assert 15 < without < 80
    assert {swarm.replicas for swarm in swarms} == {1, 2, 3, 4, 5}
    assert len({swarm.faults for swarm in swarms}) > 1_900


def test_faults_come_by_weight_and_at_their_pace() -> None:
    """Heavier kinds more often, all of them of the mix; none where there are none."""
    swarm = next(s for s in map(Swarm.draw, SEEDS) if len({w for _, w in s.faults}) == 3)
    random = Random(1)
    drawn = [swarm.next_fault(random) for _ in range(20_000)]
    pauses, kinds = zip(*[fault for fault in drawn if fault is not None], strict=True)
    assert min(pauses) > 0
    assert 0.95 < sum(pauses) / len(pauses) / swarm.fault_us < 1.05
    total = sum(weight for _, weight in swarm.faults)
    for kind, weight in swarm.faults:
        assert abs(kinds.count(kind) / len(kinds) - weight / total) < 0.02
    calm = next(s for s in map(Swarm.draw, SEEDS) if not s.faults)
    assert calm.next_fault(random) is None


def test_a_swarm_can_be_read() -> None:
    """One line for each field; the seed first, from which the rest follows."""
    text = str(Swarm.draw(9))
    assert text.splitlines()[0].split() == ["seed", "9"]
    assert len(text.splitlines()) == 21
    assert "partitions" in text


def test_a_seed_gives_one_digest_under_any_hash_seed() -> None:
    """Nothing depends on the order of sets, or on the process."""
    printed = set()
    for salt in ("1", "2"):
        command = [sys.executable, "-c", RUN]
        environment = {**os.environ, "PYTHONHASHSEED": salt}
        root = Path(__file__).parents[2]
        done = subprocess.run(
            command, env=environment, cwd=root, capture_output=True, text=True, check=True
        )
        printed.add(done.stdout)
    (text,) = printed
    events = [int(line.split()[0]) for line in text.splitlines() if "seed" in line]
    assert len(events) == 20
    assert sum(events) > 1_000


# Traces


def trace_of(*events: tuple[int, str, int, int], kept: int = 0) -> Trace:
    trace = Trace(kept)
    for event in events:
        trace.add(*event)
    return trace


def test_a_digest_tells_traces_apart() -> None:
    """Time, kind, source, target and order all count; what is kept does not."""
    base = ((1, "send", 0, 1), (2, "deliver", 0, 1))
    digest = trace_of(*base).digest()
    assert digest == trace_of(*base, kept=5).digest()
    assert len(digest) == 32
    others = [
        base[:1],
        base[::-1],
        (base[0], (3, "deliver", 0, 1)),
        (base[0], (2, "lose", 0, 1)),
        (base[0], (2, "deliver", 2, 1)),
        (base[0], (2, "deliver", 0, 2)),
    ]
    assert len({digest, *(trace_of(*other).digest() for other in others)}) == 7


def test_marks_are_part_of_the_digest() -> None:
    """Their content and their bounds."""
    digests = set()
    for marks in ([b"ab"], [b"a", b"b"], [b"ac"], []):
        trace = Trace()
        for mark in marks:
            trace.mark(mark)
        digests.add(trace.digest())
    assert len(digests) == 4


def test_a_digest_may_be_asked_for_on_the_way() -> None:
    """It changes nothing of the final one, however much has been added."""
    asked, plain = Trace(), Trace()
    for number in range(10_000):
        asked.add(number, "tick")
        plain.add(number, "tick")
        if number % 777 == 0:
            asked.digest()
    assert asked.digest() == plain.digest()
    assert asked.events == 10_000


def test_the_last_events_can_be_read() -> None:
    """Only as many as were to be kept, and none unless asked for."""
    trace = Trace(kept=4)
    trace.add(0, "forgotten")
    trace.add(1_500_000, "start", 2)
    trace.add(1_500_001, "deliver", 0, 1, ("message", 5))
    trace.add(2_000_000, "heal")
    trace.add(3_000_000, "hear", -1, 3)
    assert trace.lines() == [
        "    1.500000 start        2",
        "    1.500001 deliver      0 -> 1    ('message', 5)",
        "    2.000000 heal",
        "    3.000000 hear         3",
    ]
    assert trace_of((1, "send", 0, 1)).lines() == []
