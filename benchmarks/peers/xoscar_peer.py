"""Xoscar: one process with a pool of actors, and this one, which asks them.

The pool's process is on uvloop, which xoscar brings, this one on asyncio's own loop, as with ours.
"""

import asyncio
import sys

import uvloop
import xoscar

from benchmarks.peers.program import HOST, free_port, run, serve_in, wait_end

ACTORS = 10_000


class Counter(xoscar.Actor):
    """An actor with one field."""

    def __init__(self) -> None:
        self.value = 0

    async def add(self, amount: int) -> int:
        """The value after adding to it."""
        self.value += amount
        return self.value


async def serve(address: str) -> None:
    """The pool, with all its actors, until the input ends."""
    pool = await xoscar.create_actor_pool(address=address, n_process=0)
    for number in range(ACTORS):
        await xoscar.create_actor(Counter, uid=str(number), address=address)
    async with pool:
        await wait_end()


class Xoscar:
    """The side that asks."""

    async def start(self) -> None:
        """As the protocol says."""
        address = f"{HOST}:{free_port()}"
        serve_in("benchmarks.peers.xoscar_peer", address)
        self._actors = [
            await xoscar.actor_ref(uid=str(number), address=address) for number in range(ACTORS)
        ]

    async def ask(self, number: int) -> object:
        """As the protocol says."""
        return await self._actors[number].add(1)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(serve(sys.argv[1]))
    else:
        run(Xoscar(), "xoscar")
