"""The actions of the contract suite, and what they share with its agents.

Handlers and actions may run in other processes than the test: they meet it through files.
"""

import asyncio
import os
from datetime import datetime
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, Field

from jido_cluster import Action, Context, ExecutionError, Needs, action

PAUSE = 0.005  # seconds between looks for a file


async def wait_for_file(path: str) -> None:
    """Return when the file is there; whoever awaits this has a deadline."""
    while not Path(path).exists():  # noqa: ASYNC110, ASYNC240 - another process makes it
        await asyncio.sleep(PAUSE)


def write_line(path: str, line: str) -> None:
    """Add a line to a file, whole: processes may write to it at once."""
    out = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(out, f"{line}\n".encode())
    os.close(out)


class OutOfStock(ExecutionError):  # noqa: N818 - named as a user may
    """A user's error, with a kind of its own."""

    kind = "contract_out_of_stock"


class Book(BaseModel):
    """A parameter, a result and a part of a state."""

    title: str
    pages: Annotated[int, Field(ge=1)]
    printed: datetime | None = None


class Double(Action, name="contract.double"):
    """Twice a number."""

    class Params(BaseModel):
        number: int

    def run(self, params: Params, ctx: Context) -> int:
        return params.number * 2


class Print(Action, name="contract.print"):
    """A book, and what the context says."""

    class Params(BaseModel):
        title: str

    class Result(BaseModel):
        book: Book
        user: str
        attempt: int

    async def run(self, params: Params, ctx: Context) -> "Print.Result":
        book = Book(title=params.title, pages=1)
        return Print.Result(book=book, user=ctx.get("user", ""), attempt=ctx.attempt)


class Break(Action, name="contract.break"):
    """Fails, as its parameter says."""

    class Params(BaseModel):
        how: str = "value"

    async def run(self, params: Params, ctx: Context) -> int:
        if params.how == "stock":
            raise OutOfStock("no paper left", shelf=3)
        if params.how == "result":
            return "many"  # type: ignore[return-value]
        raise ValueError("broken")


class Mend(Action, name="contract.mend"):
    """What is to run in place of `Break`."""

    class Params(BaseModel):
        how: str = "value"

    async def run(self, params: Params, ctx: Context) -> int:
        if params.how == "stock":
            raise ValueError("no glue either")
        return 7


class Flaky(Action, name="contract.flaky"):
    """Fails until it has run often enough; its runs are lines of a file."""

    class Params(BaseModel):
        path: str
        fails: int

    async def run(self, params: Params, ctx: Context) -> int:
        write_line(params.path, str(ctx.attempt))
        runs = len(Path(params.path).read_text().splitlines())  # noqa: ASYNC240 - short
        if runs <= params.fails:
            raise ConnectionError("not yet")
        return ctx.attempt


class WaitForFile(Action, name="contract.wait", timeout=None):
    """Runs until a file is there; tells that it began with a line in another one."""

    class Params(BaseModel):
        begun: str
        go_on: str
        value: int = 0

    async def run(self, params: Params, ctx: Context) -> int:
        write_line(params.begun, "begun")
        await wait_for_file(params.go_on)
        return params.value


class NeedsMoon(Double, name="contract.moon", needs=Needs(labels={"planet": "moon"})):
    """An action that fits no node."""


@action(name="contract.join")
def join(words: list[str], ctx: Context, by: str = "-") -> str:
    """A function as an action."""
    return by.join(words)
