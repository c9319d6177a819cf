"""The context: data, trace, deadline, and the way to the cluster."""

import asyncio
import copy
import re
from typing import Any

import pytest

from jido_cluster.errors import UsageError
from jido_cluster.exec.context import Context, current_context

TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00"


class Binding:
    """Two views of no cluster."""

    def async_view(self) -> str:
        return "async"

    def sync_view(self) -> str:
        return "sync"


def test_a_context_is_a_mapping_of_the_callers_data() -> None:
    """Keys, values, length and absence as in the data; the data are shared."""
    data = {"user": "u1"}
    ctx = Context(data)
    assert ctx["user"] == "u1"
    assert dict(ctx) == data
    assert len(ctx) == 1
    assert ctx.get("other") is None
    assert ctx.data is data
    with pytest.raises(KeyError):
        ctx["other"]


def test_repr_shows_names_but_no_values() -> None:
    """The data may be secret, and contexts end up in logs."""
    assert "hunter2" not in repr(Context({"password": "hunter2"}))
    assert "password" in repr(Context({"password": "hunter2"}))


def test_run_ids_are_made_when_asked_for_and_stay() -> None:
    """A given one counts; otherwise one is made, once."""
    assert Context(run_id="r1").run_id == "r1"
    ctx = Context()
    assert ctx.run_id == ctx.run_id
    assert ctx.run_id != Context().run_id


def test_a_trace_is_continued_with_a_new_span() -> None:
    """Trace id and flags stay, the span is new and does not change."""
    ctx = Context(trace=TRACE)
    assert re.fullmatch(r"00-4bf92f3577b34da6a3ce929d0e0e4736-[0-9a-f]{16}-00", ctx.trace)
    assert ctx.trace == ctx.trace
    assert ctx.trace != TRACE


@pytest.mark.parametrize(
    "bad",
    [
        None,
        "",
        "garbage",
        TRACE.upper(),
        f"{TRACE}-x",
        TRACE.replace("00-4b", "ff-4b"),
        TRACE.replace("4bf92f3577b34da6a3ce929d0e0e4736", "0" * 32),
        TRACE.replace("00f067aa0ba902b7", "0" * 16),
    ],
)
def test_without_a_valid_trace_a_new_one_begins(bad: str | None) -> None:
    """What the standard calls invalid is not passed on."""
    trace = Context(trace=bad).trace
    assert re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-01", trace)
    assert trace[3:35] != TRACE[3:35]


def test_runs_below_inherit_trace_deadline_and_cluster_but_not_data() -> None:
    """Data are passed on by whoever wants to; limits always."""
    outer = Context({"a": 1}, deadline=5.0, clock=lambda: 2.0, cluster=Binding())
    inner = outer.for_run(None)
    assert dict(inner) == {}
    assert inner.trace[:36] == outer.trace[:36]
    assert inner.trace != outer.trace
    assert inner.remaining() == 3.0
    assert inner.sync_cluster == "sync"
    assert inner.run_id != outer.run_id
    assert inner.attempt == 0


def test_attempts_share_run_and_data() -> None:
    """An attempt has its number and its deadline, all else is the run's."""
    outer = Context({"a": 1}, deadline=5.0, clock=lambda: 2.0)
    second = outer.for_attempt(2, 4.0)
    assert (second.attempt, second.deadline) == (2, 4.0)
    assert second.run_id == outer.run_id
    assert second.data is outer.data
    second.narrow(3.0)
    second.narrow(9.0)
    assert second.deadline == 3.0
    assert outer.deadline == 5.0


def test_remaining_is_never_negative() -> None:
    """None without a limit, zero once it has passed."""
    assert Context().remaining() is None
    assert Context(deadline=1.0, clock=lambda: 7.0).remaining() == 0.0


def test_each_kind_of_code_has_its_view_of_the_cluster() -> None:
    """On a loop `cluster`, elsewhere `sync_cluster`; the error names the other one."""
    ctx = Context(cluster=Binding())

    async def on_loop() -> Any:
        with pytest.raises(UsageError, match=r"use ctx\.cluster"):
            _ = ctx.sync_cluster
        return ctx.cluster

    assert asyncio.run(on_loop()) == "async"
    assert ctx.sync_cluster == "sync"
    with pytest.raises(UsageError, match=r"use ctx\.sync_cluster"):
        _ = ctx.cluster


def test_without_a_cluster_the_error_says_how_to_get_one() -> None:
    """An action run by `jido.run` has none."""
    with pytest.raises(UsageError, match=r"cluster\.run"):
        _ = Context().sync_cluster


def test_a_context_is_not_copied() -> None:
    """A copy would keep a deadline that its original no longer has."""
    with pytest.raises(UsageError, match=r"ctx\.data"):
        copy.copy(Context())


def test_there_is_no_current_context_outside_of_runs() -> None:
    """Only a run sets it."""
    assert current_context() is None
