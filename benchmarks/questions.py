"""What each case asks, of what work, and how it is measured; in the order of `all`."""

from dataclasses import dataclass
from typing import Final

ROUNDS: Final = 5


@dataclass(frozen=True, slots=True)
class About:
    """One case.

    Attributes:
        question: What its rows answer.
        work: What is done once, over and over.
        warm_up: What was done before the first round.
        order: How the sides take turns.
        where: The module and the class, `module:Class`.
        nodes: Ray nodes that it starts with; 0: it runs in this process, without Ray.
        quick_rounds: Rounds with `--quick`.
        in_all: Whether `all` runs it.
        in_quick: Whether `all --quick` does.
    """

    question: str
    work: str
    warm_up: str
    order: str
    where: str
    nodes: int = 2
    quick_rounds: int = 2
    in_all: bool = True
    in_quick: bool = True


IN_TURN: Final = "each round one side after the other; every other round begins with the peer"

ABOUT: Final = {
    "peers": About(
        "How many asks a second, and how long does one take, beside other systems?",
        "one ask that adds 1 to a counter of 1000 in another process, every ask timed; and one ask "
        "to each of 10,000, all at once",
        "each system at each number in flight, half as long as in a round, and 1000 at once",
        "each round all systems one after the other at each number in flight, every round in "
        "another order",
        "others:Peers",
        quick_rounds=1,
    ),
    "calls": About(
        "How does a call compare with that of a raw Ray actor?",
        "one ask that adds 1 to a counter in another process",
        "half a second at 2048 in flight, then 100 asks one at a time, on each side",
        IN_TURN,
        "calls:Calls",
        in_quick=False,
    ),
    "spawn": About(
        "How many agents can be made a second, and how soon does a new one answer?",
        "one spawn; a raw actor's has its first call with it, since Ray makes actors late",
        "one burst of spawns, one raw actor",
        IN_TURN,
        "spawn:Spawn",
    ),
    "density": About(
        "How much memory does an idle agent cost?",
        "one agent with five fields that was called once",
        "256 agents in each fresh runtime",
        IN_TURN,
        "density:Density",
    ),
    "replication": About(
        "How many durable writes a second, and how long does one take?",
        "one write that is on the disks, or in the memory, of a majority when it is answered",
        "a second of each kind of write",
        IN_TURN,
        "replication:Replication",
        nodes=3,
    ),
    "failover": About(
        "How long are agents away when their node is killed with kill -9?",
        "the first answer of every agent that the node led, asked from the moment of its death",
        "each agent has answered; files and processes are warm from the start of the cluster",
        "both sides wait for the same death",
        "failover:Failover",
        nodes=3,
        quick_rounds=1,
    ),
    "startup": About(
        "How soon do three nodes serve?",
        "the start of a runtime on three Ray nodes",
        "one start",
        IN_TURN,
        "startup:StartUp",
        nodes=3,
        in_quick=False,
    ),
    "growth": About(
        "What does a call cost as nodes are added?",
        "10,000 asks, the CPU time of the client and of all processes of the runtime",
        "half as many asks at each size",
        "sizes one after the other, as the cluster grows; only the largest is measured each round",
        "growth:Growth",
        nodes=1,
        in_quick=False,
        quick_rounds=1,
    ),
    "control": About(
        "What does membership cost a node in a cluster of 10 to 1000?",
        "a second of a quiet cluster; the death of a node",
        "the smallest cluster, once; then 2 virtual seconds of each",
        "each round all sizes, smallest first, with a seed of its own",
        "control:Control",
        nodes=0,
        quick_rounds=1,
    ),
    "exec": About(
        "What does a run of an action cost beside what one would use without it?",
        "one run in this process",
        "a block of each side",
        "blocks alternate; a side's figure is its fastest block of the round",
        "exec:Exec",
        nodes=0,
    ),
    "cores": About(
        "How many writes do the two cores handle by themselves?",
        "one write without disk and network; one look-up; one first table",
        "ten batches of 64 writes",
        "no peer: the bar stands in its place",
        "cores:Cores",
        nodes=0,
    ),
    "store": About(
        "What does a commit cost beside the disk itself?",
        "one commit of one record, and of 64",
        "5000 records",
        IN_TURN,
        "store:Store",
        nodes=0,
    ),
    "exec-soak": About(
        "Does anything stay behind after a million runs?",
        "a million runs of every kind",
        "a tenth of them",
        "no peer",
        "exec_soak:ExecSoak",
        nodes=0,
        in_all=False,
    ),
}
