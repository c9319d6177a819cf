"""Actions that run in worker processes, which import this module to find them."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from jido_cluster.errors import ExecutionError, JidoError, OverloadedError
from jido_cluster.exec import Action, Context, action, run, run_sync

SLEEP = ["sleep", "1000"]


class Item(BaseModel):
    name: str
    size: int = 1


@action(name="process.echo", executor="process")
def echo(value: Any, ctx: Context, item: Item | None = None) -> dict[str, Any]:
    return {
        "value": value,
        "item": item,
        "pid": os.getpid(),
        "data": dict(ctx),
        "run_id": ctx.run_id,
        "attempt": ctx.attempt,
        "trace": ctx.trace,
        "remaining": ctx.remaining(),
        "thread": threading.current_thread() is threading.main_thread(),
    }


@action(name="process.make", executor="process")
async def make(name: str) -> Item:
    await asyncio.sleep(0)
    return Item(name=name, size=len(name))


class Hooked(Action, name="process.hooked", executor="process"):
    class Params(BaseModel):
        n: int

    def on_after_validate(self, params: Params) -> Params:
        return self.Params(n=params.n + 1)

    async def run(self, params: Params, ctx: Context) -> int:
        if params.n < 0:
            raise ValueError("negative")
        return params.n

    async def on_before_result(self, result: int) -> Any:
        return str(result * 10)

    def on_error(self, params: Params, error: JidoError, ctx: Context) -> None:
        error.details["undone_in"] = os.getpid()


class DeclinedError(ExecutionError):
    kind = "process_declined"


class Odd(Exception):  # noqa: N818 - not of any tree
    pass


@action(name="process.fails", executor="process")
def fails(how: str) -> int:
    if how == "own":
        raise DeclinedError("no", code=7)
    if how == "overloaded":
        raise OverloadedError("full", retry_after=0.5)
    if how == "transient":
        raise ConnectionResetError("gone")
    if how == "odd":
        raise Odd("odd")
    if how == "group":
        raise ExceptionGroup("two", [ConnectionError(), ValueError()])
    if how == "exit":
        sys.exit(3)
    if how == "wrong":
        return "many"  # type: ignore[return-value]
    if how == "big":
        return "x" * (1 << 21)  # type: ignore[return-value]
    if how == "pydantic":
        Item.model_validate({})
    raise ValueError("bug")


@action(name="process.dies", executor="process")
def dies(number: int = 0, code: int = 0) -> None:
    if number:
        os.kill(os.getpid(), number)
        time.sleep(60)
    os._exit(code)


@action(name="process.asks", executor="process")
async def asks(ctx: Context) -> None:
    _ = ctx.cluster


@action(name="process.sleeps", executor="process")
def sleeps(notes: str, seconds: float = 1000.0) -> str:
    """Says where it runs, then sleeps."""
    note(notes, os.getpid())
    time.sleep(seconds)
    return "slept"


@action(name="process.sleeps_once", executor="process")
def sleeps_once(notes: str, ctx: Context) -> str:
    """Is stuck in its first attempt."""
    note(notes, os.getpid())
    if ctx.attempt == 1:
        time.sleep(1000)
    return "done"


@action(name="process.family", executor="process")
def family(notes: str, *, and_waits: bool = True, ignores: bool = True) -> int:
    """A child, a grandchild, one with its own session, one forked twice; all ignore SIGTERM."""
    before = len(list(Path(notes).iterdir()))  # whoever else leaves notes here
    if ignores:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    child = subprocess.Popen(SLEEP)
    note(notes, os.getpid(), child.pid)
    grown = (
        f"import subprocess, time; from pathlib import Path; one = subprocess.Popen({SLEEP!r}); "
        f"Path({notes!r}, str(one.pid)).touch(); time.sleep(1000)"
    )
    note(notes, subprocess.Popen([sys.executable, "-c", grown]).pid)
    note(notes, subprocess.Popen(SLEEP, start_new_session=True).pid)
    daemon = (
        f"import os, subprocess; from pathlib import Path; "
        f"one = subprocess.Popen({SLEEP!r}, start_new_session=True); "
        f"Path({notes!r}, str(one.pid)).touch(); os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", daemon], check=True)
    while len(list(Path(notes).iterdir())) < before + 6:
        time.sleep(0.01)
    Path(notes, "ready").touch()
    if and_waits:
        child.wait()
    return os.getpid()


@action(name="process.inner")
async def inner(ctx: Context) -> None:
    raise ConnectionError("again")


@action(name="process.retries", executor="process")
async def retries() -> None:
    await run(inner, max_retries=5, retry_delay=0.0)


@action(name="process.nested", executor="process")
def nested(value: int) -> dict[str, Any]:
    return {"pid": os.getpid(), "inner": run_sync(echo, {"value": value})}


@action(name="process.leaves_a_task", executor="process")
async def leaves_a_task() -> int:
    task = asyncio.ensure_future(asyncio.sleep(1000))
    await asyncio.sleep(0)
    return int(task.done())


def note(notes: str, *pids: int) -> None:
    """Leaves an empty file named like each process."""
    for pid in pids:
        Path(notes, str(pid)).touch()
