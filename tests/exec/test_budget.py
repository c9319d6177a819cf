"""The retry budget: nested retries share it, so that they never multiply."""

import asyncio
import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jido_cluster.errors import ExecutionError, JidoError
from jido_cluster.exec import Context, action, run, run_named, run_sync
from jido_cluster.exec.budget import RetryBudget
from jido_cluster.exec.context import CURRENT
from jido_cluster.exec.options import dump_options, load_options
from tests.exec.conftest import Heard

TRIED: list[str] = []


@action(name="budget.leaf")
async def leaf() -> None:
    TRIED.append("leaf")
    raise ConnectionError("down")


@action(name="budget.nest")
async def nest(levels: list[int]) -> None:
    TRIED.append(f"level {len(levels)}")
    options: Any = {"max_retries": levels[0], "retry_delay": 0.0}
    if len(levels) == 1:
        await run(leaf, **options)
    else:
        await run(nest, {"levels": levels[1:]}, **options)


@pytest.fixture(autouse=True)
def _clean() -> None:
    TRIED.clear()


@pytest.mark.parametrize(
    ("levels", "leaves"),
    [
        ([0, 0, 0], 1),
        ([3], 4),
        ([3, 3], 4),  # not 16
        ([3, 3, 3], 4),  # not 64
        ([2, 5], 3),
        ([5, 2], 6),  # the inner run twice, then the outer one thrice
        ([0, 3], 4),  # who does not retry grants nothing and takes nothing
        ([0, 3, 3], 4),
    ],
)
def test_the_outermost_run_grants_all_retries(levels: list[int], leaves: int) -> None:
    """Whatever the runs below say, the innermost work is tried once plus what was granted."""
    with pytest.raises(ExecutionError):
        run_sync(
            nest if len(levels) > 1 else leaf,
            {"levels": levels[1:]} if len(levels) > 1 else None,
            max_retries=levels[0],
            retry_delay=0.0,
        )
    assert TRIED.count("leaf") == leaves


class Plan:
    """A tree of runs: retries that each may make, and how often each fails before it succeeds."""

    def __init__(self, retries: int, failures: int, children: list["Plan"]) -> None:
        self.retries = retries
        self.failures = failures
        self.children = children


_plans = st.recursive(
    st.builds(Plan, st.integers(0, 3), st.integers(0, 4), st.just([])),
    lambda inner: st.builds(
        Plan, st.integers(0, 3), st.integers(0, 4), st.lists(inner, min_size=1, max_size=3)
    ),
    max_leaves=6,
)


@given(_plans, st.booleans())
def test_a_tree_of_runs_retries_no_more_than_its_root_grants(plan: Plan, at_once: bool) -> None:
    """One after the other or at the same time; and no run more than it says itself."""
    retried: list[Plan] = []

    async def attempt(one: Plan, ctx: Context) -> None:
        if ctx.attempt > 1:
            retried.append(one)
        runs = [_start(child) for child in one.children]
        if at_once:
            await asyncio.gather(*runs)
        else:
            for index, running in enumerate(runs):
                try:
                    await running
                except JidoError:
                    for later in runs[index + 1 :]:
                        later.close()
                    raise
        if one.failures:
            one.failures -= 1
            raise ConnectionError("again")

    async def _start(one: Plan) -> None:
        @action(name="budget.tree", max_retries=one.retries, retry_delay=0.0)
        async def tree(ctx: Context) -> None:
            await attempt(one, ctx)

        await run(tree)

    async def main() -> None:
        try:
            await _start(plan)
        except JidoError:
            pass
        finally:
            rest = asyncio.all_tasks() - {asyncio.current_task()}
            await asyncio.gather(*rest, return_exceptions=True)

    asyncio.run(main())
    if plan.retries:
        assert len(retried) <= plan.retries
    for one in retried:
        assert retried.count(one) <= max(one.retries, plan.retries)


def test_each_run_of_a_handler_has_its_own(heard: Heard) -> None:
    """Runs that follow each other, and retry nothing together, share nothing."""

    @action(name="budget.batch")
    async def batch() -> int:
        failed = 0
        for _ in range(3):
            try:
                await run(leaf, max_retries=1, retry_delay=0.0)
            except ExecutionError:
                failed += 1
        return failed

    assert run_sync(batch) == 3
    assert TRIED.count("leaf") == 6
    assert heard.names.count("retry") == 3


def test_it_crosses_threads() -> None:
    """A synchronous action that runs others shares it too."""

    @action(name="budget.in_thread")
    def in_thread() -> None:
        run_sync(leaf, max_retries=9, retry_delay=0.0)

    with pytest.raises(ExecutionError):
        run_sync(in_thread, max_retries=2, retry_delay=0.0)
    assert TRIED.count("leaf") == 3


def test_it_crosses_processes_as_what_is_left() -> None:
    """Options that are sent from inside a run carry it; those of an outermost run do not."""
    assert "budget" not in dump_options({"max_retries": 3})
    context = Context(budget=RetryBudget(2))
    token = CURRENT.set(context)
    try:
        data = dump_options({"max_retries": 9, "retry_delay": 0.0})
    finally:
        CURRENT.reset(token)
    assert data["budget"] == 2
    options, budget = load_options(data)
    assert options == {"max_retries": 9, "retry_delay": 0.0}
    assert budget is not None
    assert budget.left == 2
    outcome = asyncio.run(run_named("budget.leaf", b"", None, data))
    assert (outcome.attempts, TRIED.count("leaf")) == (3, 3)


def test_it_is_taken_from_by_many_threads_and_never_overdrawn() -> None:
    """As many succeed as there were."""
    budget = RetryBudget(500)
    taken: list[bool] = []

    def take() -> None:
        taken.extend(budget.take() for _ in range(200))

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (sum(taken), budget.left) == (500, 0)
    assert not budget.take(2)
    assert repr(budget) == "<RetryBudget 0 left>"
