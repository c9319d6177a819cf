"""An agent whose total is shown elsewhere, in the store."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from examples.fencing.store import Store
from jido_cluster import Agent, Resource, on


@asynccontextmanager
async def _open() -> AsyncIterator[Store]:
    yield Store(Path(os.environ["METER_STORE"]))


STORE = Resource("fencing.store", _open)


class Meter(Agent, name="fencing.Meter"):
    """Adds up what is used. The state decides; the store shows it."""

    total: int = 0

    @on("meter.use")
    def use(self, amount: int) -> int:
        """Count it, and show the new total.

        A turn may run twice, on two nodes, when its leader changes. What it writes follows from the
        committed state, so twice is as good as once; and of the two the later one wins.
        """
        self.total += amount
        with self.ctx.use(STORE) as store:
            store.write(self.ctx.agent_id, self.total, self.ctx.fence.token)
        return self.total
