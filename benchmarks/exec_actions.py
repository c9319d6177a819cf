"""Actions of the exec benchmarks; worker processes import this module to find them."""

import asyncio

from pydantic import BaseModel

from jido_cluster import Action, Context, action


class ThreeFields(BaseModel):
    """Three fields, as a small action has them."""

    name: str
    count: int
    weight: float = 1.0


class Noop(Action, name="benchmark.noop"):
    """Does nothing, on the loop."""

    Params = ThreeFields

    async def run(self, params: ThreeFields, _: Context) -> int:
        """Give one of its parameters."""
        return params.count


class Retrying(Action, name="benchmark.retrying", max_retries=3, timeout=30.0):
    """Does nothing, and would be retried."""

    Params = ThreeFields

    async def run(self, params: ThreeFields, _: Context) -> int:
        """Give one of its parameters."""
        return params.count


class Step(Action, name="benchmark.step"):
    """Gives what the next step of a chain takes."""

    Params = ThreeFields

    async def run(self, params: ThreeFields, _: Context) -> dict[str, int]:
        """Give one of its parameters, by name."""
        return {"count": params.count}


@action(name="benchmark.sleep")
async def sleep(seconds: float) -> None:
    """Wait."""
    await asyncio.sleep(seconds)


@action(name="benchmark.threaded")
def threaded(count: int) -> int:
    """Do nothing, in a thread."""
    return count


@action(name="benchmark.process", executor="process")
def in_process(count: int) -> int:
    """Do nothing, in a worker process."""
    return count


@action(name="benchmark.flaky", max_retries=1, retry_delay=0.0)
async def flaky(ctx: Context) -> int:
    """Fail once."""
    if ctx.attempt == 1:
        await asyncio.sleep(0)
        raise_again()
    return ctx.attempt


def raise_again() -> None:
    """Fail as an overloaded service would; an error of the tree is not logged."""
    from jido_cluster import OverloadedError

    raise OverloadedError("again")
