"""The load that every system is put under, and the lines in which peers tell of it."""

import asyncio

import pytest

from benchmarks.load import Load, fan, load, percentiles, turned
from benchmarks.peers import lines


def test_a_load_keeps_as_many_asks_under_way_and_no_more() -> None:
    """Every worker has one ask under way, and the workers ask different agents."""
    asked: list[int] = []
    under_way = most = 0

    async def ask(number: int) -> None:
        nonlocal under_way, most
        asked.append(number)
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0)
        under_way -= 1

    found = asyncio.run(load(ask, 8, 0.01))
    assert most == 8
    assert sorted(asked[:8]) == list(range(8))
    assert len(asked) == len(set(asked))
    assert found.rate > 0
    assert 0 < found.p50 <= found.p95 <= found.p99


def test_a_fan_asks_every_agent_once() -> None:
    """Each number comes once, whatever the order."""
    asked: list[int] = []

    async def ask(number: int) -> None:
        asked.append(number)

    assert asyncio.run(fan(ask, 50)) > 0
    assert sorted(asked) == list(range(50))


def test_percentiles_are_read_between_the_times() -> None:
    """A single time is all three; of 0 to 100 each is its own number."""
    assert percentiles([7.0]) == (7.0, 7.0, 7.0)
    assert percentiles([float(each) for each in range(101)]) == pytest.approx((50, 95, 99))


def test_what_a_program_says_is_read_back() -> None:
    """Both sides of a line agree."""
    found = Load(1234.5, 0.25, 0.5, 1.0)
    assert lines.as_load(lines.answer("load", *found)) == found
    assert lines.as_seconds("fan 0.750000") == 0.75
    assert lines.versions("ready autogen-core=0.7.5 erlang/otp=25") == {
        "autogen-core": "0.7.5",
        "erlang/otp": "25",
    }
    assert lines.request("load 64 0.5\n") == ("load", [64.0, 0.5])


@pytest.mark.parametrize("line", ["", "load", "load 1 2 3", "load 1 2 3 many", "fan 1 2 3 4"])
def test_another_answer_than_was_asked_for_is_quoted(line: str) -> None:
    """A figure is never made of a line that is not its answer."""
    with pytest.raises(lines.PeerError, match="expected"):
        lines.as_load(line)


def test_a_first_line_without_versions_is_quoted() -> None:
    """Every word after `ready` names a version."""
    with pytest.raises(lines.PeerError, match="'xoscar' in 'ready xoscar'"):
        lines.versions("ready xoscar")


def test_what_a_system_cannot_do_is_told_apart() -> None:
    """The reason is the error's message."""
    with pytest.raises(lines.CannotError, match="^each is a process$"):
        lines.as_seconds("cannot each is a process")


def test_every_system_begins_a_round() -> None:
    """Nobody always runs on a machine that another one has just warmed."""
    keys = ["ours", "raw", "erlang"]
    orders = [turned(keys, number) for number in range(6)]
    assert {order[0] for order in orders} == set(keys)
    assert all(sorted(order) == sorted(keys) for order in orders)
