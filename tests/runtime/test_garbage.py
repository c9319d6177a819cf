"""What turns leave behind: nothing that only the collector of garbage would find."""

import gc
from collections import Counter

from jido_cluster.runtime.asked import Asked, Committing
from jido_state.record import Record
from jido_state.requests import Request, RunTurn
from tests.runtime.agents import Tally
from tests.runtime.support import local, run

CALLS = 50
KINDS = (Asked, Committing, Request, RunTurn, Record)


def _living() -> Counter[str]:
    return Counter(type(one).__name__ for one in gc.get_objects() if isinstance(one, KINDS))


def test_turns_and_reads_are_freed_without_the_collector_of_garbage() -> None:
    """A cycle for each turn would keep its record, and let a collection stop its host for long."""

    async def main() -> None:
        async with local(3) as cluster:
            ref = await cluster.spawn(Tally, "t-1")
            await ref.call(Tally.add)
            gc.collect()
            gc.disable()
            try:
                before = _living()
                for _ in range(CALLS):
                    await ref.call(Tally.add)
                    await ref.call(Tally.get)
                after = _living()
            finally:
                gc.enable()
            # Some are in use: the last record of each replica, and what is on its way to them.
            assert (after - before).total() < CALLS / 5

    run(main)
