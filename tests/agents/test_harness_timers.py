"""Timers in the harness: time passes as told, and each timer fires at its own time."""

import asyncio
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from jido_cluster import Agent, ExecutionError, Signal, on
from jido_cluster.testing import AgentHarness


class Alarm(Agent, name="agents.alarm"):
    rung: list[tuple[str, datetime]] = []
    is_broken: bool = False

    @on("alarm.set")
    async def set(self, key: str, after: float) -> datetime:
        self.ctx.schedule(Signal.of(Alarm.ring, key), key=key, after=after)
        return self.ctx.now

    @on("alarm.daily")
    async def daily(self, hour: int, tz: str) -> None:
        line = f"0 {hour} * * *"
        self.ctx.schedule(Signal.of(Alarm.ring, "daily"), key="daily", cron=line, tz=tz)

    @on("alarm.clear")
    async def clear(self, key: str) -> None:
        self.ctx.unschedule(key)

    @on("alarm.mend")
    async def mend(self, *, is_broken: bool) -> None:
        self.is_broken = is_broken

    @on("alarm.ring")
    async def ring(self, key: str) -> None:
        if self.is_broken:
            raise RuntimeError("broken")
        self.rung = [*self.rung, (key, self.ctx.now)]


def test_timers_fire_in_their_order_at_their_time() -> None:
    """Whatever span is let pass at once; those beyond it stay."""

    async def main() -> None:
        harness = AgentHarness(Alarm())
        start = await harness.call(Alarm.set, "second", 20.0)
        await harness.call(Alarm.set, "first", 10.0)
        await harness.call(Alarm.set, "third", 30.0)
        await harness.call(Alarm.clear, "nothing")
        await harness.advance(25.0)
        assert [key for key, _ in harness.state.rung] == ["first", "second"]
        for (_, when), seconds in zip(harness.state.rung, (10.0, 20.0), strict=True):
            assert abs(when - start - timedelta(seconds=seconds)) < timedelta(milliseconds=5)
        await harness.call(Alarm.clear, "third")
        await harness.advance(100.0)
        assert len(harness.state.rung) == 2

    asyncio.run(main())


def test_a_timer_whose_turn_fails_is_due_again() -> None:
    """The failure is the test's to see; nothing of that turn is kept."""

    async def main() -> None:
        harness = AgentHarness(Alarm())
        await harness.call(Alarm.mend, is_broken=True)
        await harness.call(Alarm.set, "one", 1.0)
        with pytest.raises(ExecutionError, match="broken"):
            await harness.advance(5.0)
        assert harness.state.rung == []
        await harness.call(Alarm.mend, is_broken=False)
        await harness.advance(0.0)
        assert [key for key, _ in harness.state.rung] == ["one"]

    asyncio.run(main())


def test_a_daily_timer_keeps_its_hour_over_a_change_of_clocks() -> None:
    """Once a day at nine in that zone, on the days when its clocks are changed too."""

    async def main() -> None:
        harness = AgentHarness(Alarm())
        await harness.call(Alarm.daily, 9, "Europe/Berlin")
        await harness.advance(366 * 86400.0)
        local = [when.astimezone(ZoneInfo("Europe/Berlin")) for _, when in harness.state.rung]
        assert len(local) in {366, 367}
        assert {when.hour for when in local} == {9}
        assert len({when.date() for when in local}) == len(local)

    asyncio.run(main())
