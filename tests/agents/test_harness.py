"""`AgentHarness` runs whole turns as a cluster does: the contract of turns, without a cluster."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import BaseModel

from jido_cluster import (
    Action,
    Agent,
    AgentNotFoundError,
    Context,
    ExecutionError,
    HandlerNotFoundError,
    InvalidInputError,
    InvalidOutputError,
    Outcome,
    OverloadedError,
    Signal,
    UsageError,
    on,
)
from jido_cluster.testing import AgentHarness


class Grow(Action, name="harness.grow"):
    class Params(BaseModel):
        by: int

    async def run(self, params: Params, ctx: Context) -> int:
        return params.by


class Other(Agent, name="harness.other"):
    @on("other.price")
    async def price(self, of: str) -> int:
        return len(of)


class Plant(Agent, name="harness.plant"):
    height: int = 0
    log: list[str] = []
    _tasks: list[Any] = []

    @on("plant.grow")
    async def grow(self, by: int = 1) -> int:
        self.height += by
        return self.height

    @on("plant.grow_sync")
    def grow_sync(self, by: int = 1) -> int:
        self.height += by
        return self.height

    @on("plant.height", read_only=True)
    def get(self) -> int:
        return self.height

    @on("plant.fail")
    async def fail(self, how: str = "value") -> None:
        self.height += 1000
        self.ctx.send("gone", Signal("a.b"))
        raise {"value": ValueError("no"), "own": ExecutionError("own", reason=3)}[how]

    @on("plant.spoil")
    async def spoil(self) -> None:
        self.height = "tall"  # type: ignore[assignment]

    @on("plant.peek", read_only=True)
    async def peek(self, how: str) -> None:
        if how == "assign":
            self.height = 5
        elif how == "send":
            self.ctx.send("x", Signal("a.b"))
        elif how == "start":
            self.ctx.start(Grow, Grow.Params(by=1))
        elif how == "delete":
            self.ctx.delete()
        else:
            self.log.append("changed a copy")

    @on("plant.leave")
    async def leave(self, how: str) -> None:
        async def later() -> None:
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            if how == "assign":
                self.height = 99
            elif how == "ctx":
                _ = self.ctx
            else:
                kept.send("x", Signal("a.b"))

        kept = self.ctx
        self._tasks.append(asyncio.ensure_future(later()))

    @on("plant.wait")
    async def wait(self) -> None:
        await self._tasks.pop()

    @on("plant.thread")
    async def thread(self) -> str:
        """What a thread that the handler has started sees."""

        def assign() -> None:
            try:
                self.height = 7
            except UsageError as error:
                said.append(error.message)

        said: list[str] = []
        worker = threading.Thread(target=assign)
        worker.start()
        worker.join()
        return "".join(said)

    @on("plant.outbox")
    async def outbox(self) -> str:
        self.ctx.send("one", Signal.of(Plant.grow, 5))
        self.ctx.send("two", Signal("note.x", {"n": 1}, source="urn:me"))
        run_id = self.ctx.start(Grow, Grow.Params(by=2), reply=self.grown, tag="t", timeout=5.0)
        self.ctx.cancel(run_id)
        return run_id

    @on("plant.grown")
    async def grown(self, outcome: Outcome[int]) -> None:
        self.height += outcome.unwrap()

    @on("plant.bad_reply")
    async def bad_reply(self, how: str) -> None:
        replies: dict[str, Any] = {
            "no handler": self.helper,
            "unbound": Plant.grown,
            "another's": Plant().grown,
            "no parameter": self.get,
        }
        self.ctx.start(Grow, Grow.Params(by=2), reply=replies[how])

    def helper(self, outcome: Outcome[int]) -> None: ...

    @on("plant.end")
    async def end(self) -> None:
        self.ctx.delete()

    @on("plant.ask")
    async def ask(self, of: str) -> int:
        price: int = await self.ctx.cluster.ref(Other, "shop").call(Other.price, of)
        return price

    @on("plant.ask_sync")
    def ask_sync(self, of: str) -> Any:
        return self.ctx.sync_cluster.ref("shop").call("other.price", of=of)

    @on("plant.seen")
    async def seen(self, mark: int = 0) -> dict[str, Any]:
        ctx = self.ctx
        return {
            "id": ctx.agent_id,
            "now": ctx.now.isoformat(),
            "type": ctx.signal.type,
            "data": ctx.signal.data,
            "fence": ctx.fence.token,
            "new": ctx.is_new,
            "left": ctx.remaining(),
        }

    @on("event.**")
    async def any_event(self, more: int = 0) -> None:
        self.log.append(f"any {more}")

    @on("event.rain")
    async def rain(self, mm: int) -> None:
        self.log.append(f"rain {mm}")
        self.height += mm

    @on("event.bad.*")
    async def bad(self) -> None:
        self.log.append("bad")
        raise ValueError("bad")


class Hooked(Agent, name="harness.hooked"):
    starts: int = 0
    fail: bool = False

    async def on_start(self) -> None:
        self.starts += 1
        self.ctx.send("log", Signal("started", {"new": self.ctx.is_new}))
        if self.fail:
            raise ValueError("cannot start")

    @on("hooked.touch")
    async def touch(self, fail: bool = False) -> int:
        if fail:
            raise ValueError("no")
        return self.starts

    @on("hooked.set")
    async def set(self, fail: bool) -> None:
        self.fail = fail


Main = Callable[[], Coroutine[Any, Any, None]]


def run(main: Main) -> None:
    asyncio.run(main())


# -- plain calls


def test_a_handler_is_a_plain_method() -> None:
    """Outside a turn: no validation, no rollback, the object is free, `super` and hover work."""

    async def main() -> None:
        plant = Plant(height=1)
        assert await plant.grow(2) == 3
        assert plant.grow_sync(by=2) == 5
        plant.height = 9
        assert plant.get() == 9
        with pytest.raises(TypeError):
            await plant.grow("x")  # type: ignore[arg-type]

    run(main)


def test_there_is_no_context_outside_a_turn() -> None:
    """The message names the harness."""

    async def main() -> None:
        plant = Plant()
        with pytest.raises(UsageError, match="AgentHarness"):
            _ = plant.ctx
        with pytest.raises(UsageError, match="AgentHarness"):
            await plant.end()

    run(main)


# -- turns


def test_a_call_is_a_whole_turn() -> None:
    """Checked parameters, committed state, typed result."""

    async def main() -> None:
        plant = Plant(height=1)
        harness = AgentHarness(plant)
        assert await harness.call(Plant.grow, 2) == 3
        assert await harness.call(Plant.grow_sync, by=2) == 5
        assert await harness.call(Plant.grow, "3") == 8  # type: ignore[call-overload]
        assert await harness.call(Plant.get) == 8
        assert harness.state.height == 8
        assert plant.height == 1

    run(main)


def test_ill_calls_change_nothing() -> None:
    """Parameters that do not fit, and things that are no handler of the agent."""

    async def main() -> None:
        harness = AgentHarness(Plant())
        call: Any = harness.call
        with pytest.raises(InvalidInputError, match="by"):
            await call(Plant.grow, "tall")
        with pytest.raises(InvalidInputError, match="bi"):
            await call(Plant.grow, bi=1)
        with pytest.raises(HandlerNotFoundError):
            await call(Plant.helper, 1)
        with pytest.raises(HandlerNotFoundError):
            await call(Other.price, "x")
        assert harness.state == Plant()

    run(main)


@pytest.mark.parametrize(
    ("how", "said"), [("value", "ValueError: no"), ("own", "own")], ids=["other", "own"]
)
def test_a_turn_that_fails_changes_nothing(how: str, said: str) -> None:
    """State and outbox are as before; the handler's own exception is the cause."""

    async def main() -> None:
        harness = AgentHarness(Plant(height=4))
        with pytest.raises(ExecutionError, match=said) as raised:
            await harness.call(Plant.fail, how)
        assert harness.state.height == 4
        assert harness.sent == []
        if how == "value":
            assert isinstance(raised.value.__cause__, ValueError)
        assert await harness.call(Plant.grow) == 5

    run(main)


def test_a_state_that_does_not_validate_fails_the_turn() -> None:
    """The next turn begins from before."""

    async def main() -> None:
        harness = AgentHarness(Plant(height=4))
        with pytest.raises(InvalidOutputError, match="height"):
            await harness.call(Plant.spoil)
        assert await harness.call(Plant.grow) == 5

    run(main)


@pytest.mark.parametrize("how", ["assign", "send", "start", "delete"])
def test_a_read_only_handler_changes_and_sends_nothing(how: str) -> None:
    """It is told so."""

    async def main() -> None:
        harness = AgentHarness(Plant(height=4))
        with pytest.raises(ExecutionError, match=r"UsageError: .*read_only"):
            await harness.call(Plant.peek, how)
        assert (harness.state, harness.sent, harness.started) == (Plant(height=4), [], [])
        assert not harness.is_deleted

    run(main)


def test_a_read_only_handler_has_a_copy() -> None:
    """What it appends to a list is nobody's."""

    async def main() -> None:
        harness = AgentHarness(Plant())
        await harness.call(Plant.peek, "append")
        assert harness.state.log == []

    run(main)


# -- sealed


@pytest.mark.parametrize("how", ["assign", "ctx", "outbox"])
def test_a_task_left_behind_may_not_touch_the_agent(how: str) -> None:
    """After the turn it assigns nothing, has no context, and puts nothing in an outbox."""

    async def main() -> None:
        harness = AgentHarness(Plant(height=4))
        await harness.call(Plant.leave, how)
        live: Any = harness._live
        with pytest.raises(UsageError):
            await live._tasks.pop()
        assert harness.state.height == 4
        assert harness.sent == []

    run(main)


@pytest.mark.parametrize("how", ["assign", "outbox"])
def test_a_task_left_behind_may_not_touch_a_later_turn(how: str) -> None:
    """Also while another turn of the same agent runs: it is not its own."""

    async def main() -> None:
        harness = AgentHarness(Plant(height=4))
        await harness.call(Plant.leave, how)
        with pytest.raises(ExecutionError, match="UsageError"):
            await harness.call(Plant.wait)
        assert harness.state.height == 4
        assert harness.sent == []

    run(main)


def test_a_thread_of_ones_own_may_not_assign() -> None:
    """Only the turn may; `asyncio.to_thread` carries the turn along, a bare thread does not."""

    async def main() -> None:
        harness = AgentHarness(Plant(height=4))
        assert "after its turn" in await harness.call(Plant.thread)
        assert harness.state.height == 4

    run(main)


# -- outbox


def test_the_outbox_is_there_after_the_commit() -> None:
    """Signals with receivers, actions as instructions, cancellations; in order."""

    async def main() -> None:
        harness = AgentHarness(Plant(), "plant-1")
        run_id = await harness.call(Plant.outbox)
        (one, first), (two, second) = harness.sent
        assert (one, first.type, first.data, first.source) == (
            "one",
            "plant.grow",
            {"by": 5},
            "plant-1",
        )
        assert (two, second.data, second.source) == ("two", {"n": 1}, "urn:me")
        (instruction,) = harness.started
        assert instruction.action is Grow
        assert instruction.params == {"by": 2}
        assert instruction.options == {"timeout": 5.0}
        assert harness.cancelled == [run_id]
        assert not harness.is_deleted
        await harness.call(Plant.end)
        assert harness.is_deleted

    run(main)


@pytest.mark.parametrize("how", ["no handler", "unbound", "another's", "no parameter"])
def test_a_reply_is_a_bound_handler_of_the_agent(how: str) -> None:
    """With a parameter for the outcome; anything else is refused at once."""

    async def main() -> None:
        harness = AgentHarness(Plant())
        with pytest.raises(ExecutionError, match=r"(UsageError|HandlerNotFoundError): "):
            await harness.call(Plant.bad_reply, how)
        assert harness.started == []

    run(main)


def test_an_outcome_is_a_parameter_like_any_other() -> None:
    """So a reply can be tested as a call."""

    async def main() -> None:
        harness = AgentHarness(Plant(height=1))
        outcome = Outcome[int](run_id="r", ok=True, value=5, attempts=1, seconds=0.1)
        await harness.call(Plant.grown, outcome)
        assert harness.state.height == 6
        failed: Outcome[int] = Outcome.failed(
            OverloadedError("full"), run_id="r", attempts=1, seconds=0.1
        )
        with pytest.raises(ExecutionError, match="OverloadedError: full"):
            await harness.call(Plant.grown, failed)

    run(main)


# -- delivery


def test_all_handlers_that_match_run_in_one_turn() -> None:
    """The more specific first; unknown names are ignored."""

    async def main() -> None:
        harness = AgentHarness(Plant())
        await harness.deliver(Signal("event.rain", {"mm": 3, "more": 2, "unknown": True}))
        assert harness.state.log == ["rain 3", "any 2"]
        assert harness.state.height == 3
        await harness.deliver(Signal("event.sun", "bright"))
        assert harness.state.log[-1] == "any 0"

    run(main)


def test_a_delivery_fails_as_a_whole() -> None:
    """One handler that raises, a known name that does not fit, or none that matches."""

    async def main() -> None:
        harness = AgentHarness(Plant())
        with pytest.raises(ExecutionError, match="bad"):
            await harness.deliver(Signal("event.bad.luck"))
        with pytest.raises(InvalidInputError, match="mm"):
            await harness.deliver(Signal("event.rain", {"mm": "much"}))
        with pytest.raises(InvalidInputError, match="mm"):
            await harness.deliver(Signal("event.rain"))
        with pytest.raises(HandlerNotFoundError):
            await harness.deliver(Signal("nothing.such"))
        assert harness.state == Plant()

    run(main)


# -- hooks


def test_on_start_runs_before_the_first_turn() -> None:
    """Once for each activation; its changes and signals are committed."""

    async def main() -> None:
        harness = AgentHarness(Hooked())
        assert await harness.call(Hooked.touch) == 1
        assert await harness.call(Hooked.touch) == 1
        assert [(to, signal.data) for to, signal in harness.sent] == [("log", {"new": True})]
        with pytest.raises(ExecutionError):
            await harness.call(Hooked.touch, fail=True)
        assert await harness.call(Hooked.touch) == 2
        assert harness.sent[-1][1].data == {"new": False}

    run(main)


def test_an_on_start_that_fails_fails_the_call() -> None:
    """Nothing of it is kept."""

    async def main() -> None:
        harness = AgentHarness(Hooked(fail=True))
        with pytest.raises(ExecutionError, match="cannot start"):
            await harness.call(Hooked.touch)
        assert (harness.state.starts, harness.sent) == (0, [])

    run(main)


# -- stubs


def test_other_agents_are_stubs() -> None:
    """Calls get what the stub returns or raises, in async and sync handlers; others are refused."""

    async def main() -> None:
        harness = AgentHarness(Plant())
        with pytest.raises(ExecutionError, match=r"AgentNotFoundError: no stub .*other\.price"):
            await harness.call(Plant.ask, "tree")
        harness.stub("shop", Other.price, returns=7)
        assert await harness.call(Plant.ask, "tree") == 7
        assert await harness.call(Plant.ask_sync, "tree") == 7
        harness.stub("shop", Other.price, raises=AgentNotFoundError("closed"))
        with pytest.raises(ExecutionError, match="AgentNotFoundError: closed"):
            await harness.call(Plant.ask, "tree")
        with pytest.raises(InvalidInputError):
            harness.stub("a b", Other.price)

    run(main)


# -- context


def test_a_turn_sees_its_context() -> None:
    """Id, signal, fence; a fence rises with each turn."""

    async def main() -> None:
        harness = AgentHarness(Plant(), "plant-1")
        first = await harness.call(Plant.seen, 7)
        second = await harness.call(Plant.seen)
        assert (first["id"], first["type"], first["data"]) == ("plant-1", "plant.seen", {"mark": 7})
        assert first["new"] is True
        assert second["fence"] > first["fence"]
        assert first["left"] > 0

    run(main)


def test_time_is_virtual() -> None:
    """It stands still until it is told to pass; a turn has its whole time however late it is."""

    async def main() -> None:
        harness = AgentHarness(Plant())
        first = await harness.call(Plant.seen)
        assert (await harness.call(Plant.seen))["now"] == first["now"]
        await harness.advance(3600.5)
        later = await harness.call(Plant.seen)
        passed = datetime.fromisoformat(later["now"]) - datetime.fromisoformat(first["now"])
        assert passed.total_seconds() == pytest.approx(3600.5)
        assert later["left"] == pytest.approx(first["left"])
        begun = datetime.fromisoformat(first["now"])
        assert abs((begun - datetime.now(UTC)).total_seconds()) < 60

    run(main)


def test_a_turn_in_the_future_is_not_late() -> None:
    """A handler that really awaits runs to its end after time has been advanced far."""

    async def main() -> None:
        harness = AgentHarness(Plant())
        await harness.advance(1e6)
        assert await harness.call(Plant.grow_sync) == 1
        assert await harness.call(Plant.grow) == 2

    run(main)


@pytest.mark.parametrize("agent_id", ["", "a b", None])
def test_a_harness_needs_an_id_that_is_one(agent_id: Any) -> None:
    """As a cluster does."""
    with pytest.raises(InvalidInputError):
        AgentHarness(Plant(), agent_id)
