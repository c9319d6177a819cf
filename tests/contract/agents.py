"""The agents and actions of the contract suite.

Workers of a real cluster import this module, so it holds no fixtures and no state of its own.
"""

import asyncio
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field

from jido_cluster import (
    Action,
    Agent,
    CallCycleError,
    Context,
    Outcome,
    Signal,
    on,
)
from tests.contract.actions import (
    Book,
    Break,
    Double,
    Mend,
    OutOfStock,
    WaitForFile,
    wait_for_file,
    write_line,
)


class Counter(Agent, name="contract.counter"):
    """A number that turns change, and fail to change."""

    value: int = 0

    @on("counter.add")
    async def add(self, amount: int = 1) -> int:
        self.value += amount
        return self.value

    @on("counter.sub")
    async def sub(self, amount: int = 1) -> int:
        self.value -= amount
        return self.value

    @on("counter.add_sync")
    def add_sync(self, amount: int = 1) -> int:
        self.value += amount
        return self.value

    @on("counter.get", read_only=True)
    def get(self) -> int:
        return self.value

    @on("counter.assign", read_only=True)
    async def assign(self) -> None:
        self.value = 99

    @on("counter.fail")
    async def fail(self, how: str = "value") -> None:
        self.value += 1000
        if how == "stock":
            raise OutOfStock("no books left", shelf=7, retryable=True)
        raise ValueError("the shelf is empty")

    @on("counter.fail_sync")
    def fail_sync(self) -> None:
        self.value += 1000
        raise KeyError("gone")

    @on("counter.spoil")
    async def spoil(self) -> None:
        self.value = "many"  # type: ignore[assignment]

    @on("counter.wrong_result")
    async def wrong_result(self) -> int:
        self.value += 1000
        return "many"  # type: ignore[return-value]

    @on("counter.nap")
    async def nap(self, seconds: float) -> None:
        self.value += 1000
        await asyncio.sleep(seconds)

    @on("counter.block")
    def block(self, fifo: str) -> None:
        self.value += 1000
        Path(fifo).read_bytes()  # returns when somebody has written to it

    @on("counter.brief", timeout=0.2)
    async def brief(self) -> None:
        await asyncio.sleep(30)


class Shelf(Agent, name="contract.shelf"):
    """Parameters and results of many types."""

    books: list[Book] = []
    text: str = ""

    @on("shelf.put")
    async def put(self, book: Book, copies: int = 1) -> list[Book]:
        self.books = [*self.books, *[book] * copies]
        return self.books

    @on("shelf.first", read_only=True)
    async def first(self) -> Book | None:
        return self.books[0] if self.books else None

    @on("shelf.later")
    async def later(self, when: datetime, by: timedelta) -> datetime:
        return when + by

    @on("shelf.sum")
    async def sum(self, prices: list[Decimal]) -> Decimal:
        return sum(prices, Decimal(0))

    @on("shelf.echo")
    async def echo(self, raw: bytes, number: float) -> dict[str, Any]:
        return {"size": len(raw), "is_finite": number not in (float("inf"), float("-inf"))}

    @on("shelf.same")
    async def same(self, raw: bytes, number: float) -> tuple[bytes, float]:
        return raw, number

    @on("shelf.options")
    async def options(self, timeout: int, handler: str, copy_: bool = False) -> list[Any]:
        return [timeout, handler, copy_]

    @on("shelf.extra")
    async def extra(self, /, first: int, **others: int) -> dict[str, int]:
        return {"first": first, **others}

    @on("shelf.write")
    async def write(self, size: int) -> int:
        self.text = "x" * size
        return len(self.text)

    @on("shelf.copy")
    async def copy_text(self, text: str) -> int:
        return len(text)

    @on("shelf.read")
    async def read(self, size: int) -> str:
        return "x" * size


class Fleeting(Agent, name="contract.fleeting", durability="none"):
    """A number that is kept in the memory of one process."""

    value: int = 0

    @on("fleeting.add")
    async def add(self, amount: int = 1) -> int:
        self.value += amount
        return self.value


class Hasty(Counter, name="contract.hasty", durability="memory"):
    """A number that is acknowledged before it is on a disk."""


class Queue(Agent, name="contract.queue"):
    """Holds its turn for as long as a file is missing."""

    items: list[int] = []

    @on("queue.hold")
    async def hold(self, begun: str, go_on: str, item: int = -1) -> int:
        self.items.append(item)
        Path(begun).touch()  # noqa: ASYNC240 - a file in memory's cache
        await wait_for_file(go_on)
        return item

    @on("queue.put")
    async def put(self, item: int) -> int:
        self.items.append(item)
        return item

    @on("queue.put_sync")
    def put_sync(self, item: int) -> int:
        self.items.append(item)
        return item

    @on("queue.count", read_only=True)
    def count(self) -> int:
        return len(self.items)

    @on("queue.all", read_only=True)
    async def all(self) -> list[int]:
        return self.items


class NarrowQueue(Queue, name="contract.narrow", max_mailbox=2):
    """A queue with little room."""


class Seen(BaseModel):
    """What one turn saw in its context."""

    agent_id: str
    caller: str | None
    op_id: str
    is_new: bool
    fence: str
    now: datetime
    type: str
    data: Any
    source: str
    signal_id: str
    extensions: dict[str, Any]
    has_time: bool


class Witness(Agent, name="contract.witness"):
    """Tells what its turns see."""

    turns: int = 0

    def _seen(self) -> Seen:
        ctx = self.ctx
        left = ctx.remaining()
        return Seen(
            agent_id=ctx.agent_id,
            caller=ctx.caller,
            op_id=ctx.op_id,
            is_new=ctx.is_new,
            fence=ctx.fence.token,
            now=ctx.now,
            type=ctx.signal.type,
            data=ctx.signal.data,
            source=ctx.signal.source,
            signal_id=ctx.signal.id,
            extensions=dict(ctx.signal.extensions),
            has_time=left is not None and left > 0,
        )

    @on("witness.look")
    async def look(self, mark: int = 0) -> Seen:
        self.turns += 1
        return self._seen()

    @on("witness.raw")
    async def raw(self) -> Seen:
        self.turns += 1
        return self._seen()

    @on("witness.ask")
    async def ask(self, other: str) -> Seen:
        return await self.ctx.cluster.ref(Witness, other).call(Witness.look)

    @on("witness.ask_sync")
    def ask_sync(self, other: str) -> Seen:
        return self.ctx.sync_cluster.ref(Witness, other).call(Witness.look)

    @on("witness.put")
    async def put(self, queue: str) -> int:
        return await self.ctx.cluster.ref(Queue, queue).call(Queue.put, 1)

    @on("witness.wrong_view")
    async def wrong_view(self) -> None:
        _ = self.ctx.sync_cluster

    @on("witness.wrong_view_sync")
    def wrong_view_sync(self) -> None:
        _ = self.ctx.cluster

    @on("witness.stumble")
    async def stumble(self, path: str) -> int:
        """Fails the first time it runs; leaves its op ids in the file."""
        write_line(path, self.ctx.op_id)
        self.turns += 1
        runs = len(Path(path).read_text().splitlines())  # noqa: ASYNC240 - one short line
        if runs == 1:
            raise ConnectionError("not yet")
        return runs


class Relay(Agent, name="contract.relay"):
    """Calls the next agent of a path while its own turn lasts."""

    passed: int = 0

    @on("relay.pass")
    async def pass_on(self, path: list[str]) -> list[str]:
        self.passed += 1
        if not path:
            return [self.ctx.agent_id]
        rest = await self.ctx.cluster.ref(Relay, path[0]).call(Relay.pass_on, path[1:])
        return [self.ctx.agent_id, *rest]

    @on("relay.catch")
    async def catch(self, path: list[str]) -> list[str]:
        """The chain of the cycle that the path makes, as the handler learns of it."""
        self.passed += 1
        try:
            await self.ctx.cluster.ref(Relay, path[0]).call(Relay.catch, path[1:])
        except CallCycleError as error:
            return list(error.details["chain"])
        return []

    @on("relay.cross")
    async def cross(self, other: str, begun: str, go_on: str) -> list[str]:
        """Calls the other one when the gate opens: by then it may be about to call back."""
        self.passed += 1
        Path(begun).touch()  # noqa: ASYNC240 - a file in memory's cache
        await wait_for_file(go_on)
        return await self.ctx.cluster.ref(Relay, other).call(Relay.pass_on, [])

    @on("relay.mirror")
    async def mirror(self, other: str) -> int:
        """What the other one reads in this one while this turn has changed it."""
        self.passed += 1
        return await self.ctx.cluster.ref(Relay, other).call(Relay.read_of, self.ctx.agent_id)

    @on("relay.read_of")
    async def read_of(self, other: str) -> int:
        return await self.ctx.cluster.ref(Relay, other).call(Relay.count)

    @on("relay.count", read_only=True)
    async def count(self) -> int:
        return self.passed


class Sender(Agent, name="contract.sender"):
    """Puts signals in its outbox."""

    sent: int = 0

    @on("sender.send")
    async def send(self, to: str, name: str, data: Any = None, how: str = "") -> int:
        self.sent += 1
        self.ctx.send(to, Signal(name, data))
        if how == "fail":
            raise RuntimeError("changed my mind")
        return self.sent

    @on("sender.many")
    async def many(self, to: str, count: int) -> None:
        for number in range(count):
            self.ctx.send(to, Signal.of(Inbox.number, number))

    @on("sender.to_ref")
    async def to_ref(self, room: str) -> None:
        self.ctx.send(self.ctx.cluster.ref(Room, room), Signal.of(Room.enter, who="sent"))

    @on("sender.read", read_only=True)
    async def read(self, to: str) -> None:
        self.ctx.send(to, Signal.of(Inbox.number, 1))


class Inbox(Agent, name="contract.inbox"):
    """Handlers that match the same signals; notes which ran."""

    ran: list[str] = []
    numbers: list[int] = []
    last: Any = None
    source: str = ""

    @on("note.**")
    async def any_note(self) -> None:
        self.ran.append("any")

    @on("note.book.*")
    async def book_note(self, title: str = "untitled") -> None:
        self.ran.append(f"book {title}")

    @on("note.book.new")
    async def new_book(self) -> None:
        self.ran.append("new")

    @on("note.*.new", priority=10)
    async def new_any(self) -> None:
        self.ran.append("first")
        self.last = self.ctx.signal.data
        self.source = self.ctx.signal.source

    @on("note.bad.*")
    async def bad(self) -> None:
        self.ran.append("bad")
        raise ValueError("a bad note")

    @on("inbox.number")
    async def number(self, number: int) -> None:
        self.numbers.append(number)


class Diary(Agent, name="contract.diary"):
    """Notes its activations in its state and its ends in a file."""

    path: str
    lines: list[str] = []

    async def on_start(self) -> None:
        self.lines.append(f"start new={self.ctx.is_new}")
        write_line(self.path, "start")

    def on_stop(self) -> None:
        self.lines.append("stop")
        write_line(self.path, "stop")

    @on("diary.write")
    async def write(self, line: str) -> int:
        self.lines.append(line)
        return len(self.lines)

    @on("diary.end")
    async def end(self, how: str = "") -> str:
        self.ctx.delete()
        if how == "fail":
            raise RuntimeError("not yet")
        return "ended"

    @on("diary.hold_and_end")
    async def hold_and_end(self, begun: str, go_on: str) -> None:
        Path(begun).touch()  # noqa: ASYNC240 - a file in memory's cache
        await wait_for_file(go_on)
        self.ctx.delete()


class Sleepy(Diary, name="contract.sleepy", idle_timeout=0.2):
    """Leaves memory soon."""


class Stillborn(Agent, name="contract.stillborn"):
    """Its activation fails as long as a file is missing."""

    path: str

    async def on_start(self) -> None:
        if not Path(self.path).exists():  # noqa: ASYNC240 - a look at one file
            raise ValueError("nothing to live on")

    @on("stillborn.ping")
    async def ping(self) -> str:
        return "pong"


class Room(Agent, name="contract.room", virtual=True):
    """Made by its first signal."""

    guests: list[str] = []

    @on("room.enter")
    async def enter(self, who: str) -> int:
        self.guests.append(who)
        return len(self.guests)

    @on("room.leave")
    async def leave(self) -> None:
        self.ctx.delete()

    @on("room.count", read_only=True)
    async def count(self) -> int:
        return len(self.guests)


class Ask(Action, name="contract.ask"):
    """Calls an agent."""

    class Params(BaseModel):
        counter: str

    async def run(self, params: Params, ctx: Context) -> int:
        result: int = await ctx.cluster.ref(Counter, params.counter).call(Counter.add, 5)
        return result


class Boss(Agent, name="contract.boss"):
    """Starts runs and gets their outcomes."""

    runs: list[str] = []
    done: list[str] = []
    values: list[int] = []

    @on("boss.double")
    async def double(self, numbers: list[int], how: str = "") -> list[str]:
        for number in numbers:
            params = Double.Params(number=number)
            run_id = self.ctx.start(Double, params, reply=self.doubled, tag=str(number))
            self.runs.append(run_id)
        if how == "fail":
            raise RuntimeError("changed my mind")
        return self.runs

    @on("boss.doubled")
    async def doubled(self, outcome: Outcome[int]) -> None:
        self.values.append(outcome.unwrap())
        self.done.append(f"{outcome.tag} {outcome.run_id in self.runs} {self.ctx.is_new}")

    @on("boss.break")
    async def break_(self, how: str) -> None:
        self.ctx.start(Break, Break.Params(how=how), reply=self.ended, tag=how)

    @on("boss.mend")
    async def mend(self, how: str) -> None:
        params = Break.Params(how=how)
        self.ctx.start(Break, params, reply=self.ended, tag=how, fallback=Mend)

    @on("boss.run", timeout=1.0)
    async def run(self, begun: str, go_on: str) -> None:
        await self.ctx.cluster.run(WaitForFile, {"begun": begun, "go_on": go_on})

    @on("boss.run_sync", timeout=1.0)
    def run_sync(self, begun: str, go_on: str) -> None:
        self.ctx.sync_cluster.run(WaitForFile, {"begun": begun, "go_on": go_on})

    @on("boss.wait")
    async def wait(self, begun: str, go_on: str) -> str:
        params = WaitForFile.Params(begun=begun, go_on=go_on, value=7)
        return self.ctx.start(WaitForFile, params, reply=self.ended, tag="wait")

    @on("boss.cancel")
    async def cancel(self, run_id: str) -> None:
        self.ctx.cancel(run_id)

    @on("boss.bad_params")
    async def bad_params(self) -> None:
        self.ctx.start(Double, {"number": "many"})

    @on("boss.ended")
    async def ended(self, outcome: Outcome[Any]) -> None:
        error = outcome.error
        kind = error.kind if error is not None else "none"
        message = error.message if error is not None else str(outcome.value)
        has_node = outcome.node is not None
        self.done.append(f"{outcome.tag}: {kind}: {message} (node: {has_node})")


class Picky(Agent, name="contract.picky"):
    """A state with rules of its own."""

    low: int = 0
    high: Annotated[int, Field(le=100)] = 10

    @on("picky.set")
    async def set(self, low: int, high: int) -> None:
        self.low, self.high = low, high


class Alone(Agent, name="contract.alone", isolation="dedicated"):
    """Lives in a process of its own."""

    value: int = 0

    async def on_start(self) -> None:
        self.value += 100

    @on("alone.add")
    async def add(self, amount: int = 1) -> int:
        self.value += amount
        return self.value

    @on("alone.fail")
    def fail(self) -> None:
        self.value += 1000
        raise ValueError("alone and empty")

    @on("alone.send")
    async def send(self, to: str) -> None:
        self.ctx.send(to, Signal.of(Inbox.number, 5))

    @on("alone.ask")
    async def ask(self, other: str) -> Seen:
        return await self.ctx.cluster.ref(Witness, other).call(Witness.look)

    @on("alone.get", read_only=True)
    async def get(self) -> int:
        return self.value
