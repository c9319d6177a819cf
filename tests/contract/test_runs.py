"""Actions on the nodes of the cluster, started by clients and by turns."""

import asyncio
import pickle
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from jido_cluster import (
    ActionTimeoutError,
    AgentRef,
    Breaker,
    Cluster,
    ConfigError,
    ExecutionError,
    InvalidInputError,
    InvalidOutputError,
    Needs,
    NoCapableNodeError,
    NotRegisteredError,
    Outcome,
    OutcomeUnknownError,
    RunCancelledError,
    StillRunningError,
    new_id,
)
from tests.contract.actions import (
    Book,
    Break,
    Double,
    Flaky,
    Mend,
    NeedsMoon,
    OutOfStock,
    Print,
    WaitForFile,
    join,
)
from tests.contract.agents import Ask, Boss, Counter
from tests.contract.support import Gate, wait_until

MakeGate = Callable[[], Gate]


def test_an_action_runs_on_a_node(cluster: Cluster) -> None:
    """Parameters as a model or a mapping, coerced as pydantic does; the result is typed."""
    assert cluster.run(Double, Double.Params(number=4)) == 8
    assert cluster.run(Double, {"number": "5"}) == 10
    result = cluster.run(Print, {"title": "Dune"}, {"user": "ann"})
    assert result == Print.Result(book=Book(title="Dune", pages=1), user="ann", attempt=1)


def test_a_function_is_an_action(cluster: Cluster) -> None:
    """With defaults, and a context that is injected."""
    run: Any = cluster.run
    assert run(join, {"words": ["a", "b"]}) == "a-b"
    assert run(join, {"words": ["a", "b"], "by": "+"}) == "a+b"


@pytest.mark.parametrize(
    "params", [{"number": "many"}, {"nubmer": 1}, None, {}], ids=["ill", "unknown", "none", "empty"]
)
def test_ill_parameters_start_nothing(cluster: Cluster, params: Any) -> None:
    """Refused here, with the name of the parameter."""
    for attempt in (cluster.run, cluster.start):
        with pytest.raises(InvalidInputError, match="number"):
            attempt(Double, params)
    with pytest.raises(InvalidInputError, match="number"):
        cluster.run_many(Double, [{"number": 1}, params])


def test_ill_options_start_nothing(cluster: Cluster) -> None:
    """Unknown ones with the nearest name, ill ones with their rule."""
    start: Any = cluster.start
    with pytest.raises(ConfigError, match="max_retries"):
        start(Double, {"number": 1}, max_retry=2)
    with pytest.raises(ConfigError, match="timeout"):
        start(Double, {"number": 1}, timeout=-1)
    with pytest.raises(ConfigError, match="retry_on"):
        start(Double, {"number": 1}, retry_on=(ValueError,))
    with pytest.raises(ConfigError):
        start(len, {"number": 1})
    with pytest.raises(NotRegisteredError):
        start("contract.nothing", {"number": 1})
    with pytest.raises(ConfigError):
        start(Double, {"number": 1}, needs={"gpu": 1})


def test_a_failure_arrives_typed(cluster: Cluster) -> None:
    """A user's error as itself, any other by its text, a result that does not fit as such."""
    with pytest.raises(ExecutionError, match="ValueError: broken") as raised:
        cluster.run(Break)
    assert raised.value.error_id
    with pytest.raises(OutOfStock, match="no paper left") as stock:
        cluster.run(Break, {"how": "stock"})
    assert stock.value.details["shelf"] == 3
    with pytest.raises(InvalidOutputError):
        cluster.run(Break, {"how": "result"})


def test_retries_and_time_limits_hold_there(
    cluster: Cluster, tmp_path: Path, gate: MakeGate
) -> None:
    """Options of the run reach the node: attempts are counted, a slow attempt is ended."""
    path = tmp_path / "runs"
    params = {"path": str(path), "fails": 2}
    with pytest.raises(ExecutionError, match="ConnectionError"):
        cluster.run(Flaky, params, max_retries=0)
    path.unlink()
    assert cluster.run(Flaky, params, max_retries=3, retry_delay=0.01) == 3
    with pytest.raises(ActionTimeoutError):
        cluster.run(WaitForFile, gate().files, timeout=0.2)


def test_a_fallback_runs_there(cluster: Cluster) -> None:
    """In place of an action that has failed for good; given by class or name, in `run_many` too."""
    assert cluster.run(Break, fallback=Mend) == 7
    assert cluster.run(Break, fallback="contract.mend") == 7
    assert cluster.start(Break, fallback=Mend).result(15) == 7
    assert cluster.run_many(Break, [{"how": "value"}] * 3, fallback=Mend) == [7] * 3
    with pytest.raises(ExecutionError, match="no glue either"):
        cluster.run(Break, {"how": "stock"}, fallback=Mend)
    run: Any = cluster.run
    with pytest.raises(ConfigError, match="fallback"):
        run(Break, fallback=len)


def test_a_breaker_counts_there(cluster: Cluster, name: str) -> None:
    """By its name, in each process: after one failure it opens, and further runs are refused."""
    breaker = Breaker(name, failures=1, reset=600.0)
    outcomes = cluster.run_many(
        Break, [{}] * 40, on_failure="collect", max_concurrency=1, breaker=breaker
    )
    kinds = [one.error.kind for one in outcomes if one.error]
    assert len(kinds) == 40
    assert set(kinds) == {"execution_error", "circuit_open"}
    run: Any = cluster.run
    with pytest.raises(ConfigError, match="breaker"):
        run(Break, breaker=name)


def test_a_run_whose_caller_leaves_is_cancelled(cluster: Cluster, gate: MakeGate) -> None:
    """`run` and `run_many` wait for what they start, unlike `start`."""
    door, others = gate(), [gate() for _ in range(2)]

    async def leave(work: Coroutine[Any, Any, Any], doors: list[Gate]) -> None:
        task = asyncio.ensure_future(work)
        for one in doors:
            await asyncio.to_thread(one.wait_begun)
        task.cancel()
        await asyncio.wait((task,))
        assert task.cancelled()

    inner = cluster._inner
    wait_until(lambda: _runs(cluster) == 0, "the end of all runs")
    cluster._portal.call(leave(inner.run(WaitForFile, door.files), [door]))
    items = [one.files for one in others]
    cluster._portal.call(leave(inner.run_many(WaitForFile, items), others))
    wait_until(lambda: _runs(cluster) == 0, "the end of the runs that nobody waits for")


def _runs(cluster: Cluster) -> float:
    """What the nodes have to do: agents are idle in these tests."""
    return sum(node.load for node in cluster.nodes())


def test_an_action_calls_agents(cluster: Cluster, name: str) -> None:
    """Its context has the cluster it runs in."""
    counter = cluster.spawn(Counter, name)
    assert cluster.run(Ask, {"counter": name}) == 5
    assert counter.call(Counter.get) == 5


def test_a_run_can_be_watched(cluster: Cluster, gate: MakeGate) -> None:
    """Its status, waits that end early, and a result that can be read many times."""
    door = gate()
    ref = cluster.start(WaitForFile, {**door.files, "value": 3})
    with door.held():
        assert ref.status() == "running"
        assert ref.wait(0.05) == "running"
        with pytest.raises(StillRunningError, match=ref.run_id):
            ref.result(0.05)
    assert ref.wait() == "succeeded"
    assert [ref.result() for _ in range(3)] == [3, 3, 3]
    assert ref.status() == "succeeded"
    assert ref.cancel() is False


def test_a_failed_run_tells_so_every_time(cluster: Cluster) -> None:
    """Its status is failed, its result raises."""
    ref = cluster.start(Break, {"how": "stock"})
    assert ref.wait() == "failed"
    for _ in range(2):
        with pytest.raises(OutOfStock):
            ref.result()
    assert ref.cancel() is False


def test_a_run_can_be_cancelled(cluster: Cluster, gate: MakeGate) -> None:
    """It ends as cancelled; a second time there is nothing to cancel."""
    door = gate()
    ref = cluster.start(WaitForFile, door.files)
    door.wait_begun()
    assert ref.cancel() is True
    assert ref.wait(15) == "cancelled"
    assert ref.cancel() is False
    with pytest.raises(RunCancelledError, match=ref.run_id):
        ref.result()


def test_a_pickled_run_is_the_same_run(cluster: Cluster) -> None:
    """Any process can ask about it; the value is plain data there."""
    ref = cluster.start(Print, {"title": "Dune"})
    copy = pickle.loads(pickle.dumps(ref))
    assert copy.run_id == ref.run_id
    assert copy.result(15)["book"]["title"] == "Dune"
    assert ref.result().book.title == "Dune"


def test_an_unknown_run_is_unknown(cluster: Cluster) -> None:
    """An id that never was, or is forgotten: nobody can tell what became of it."""
    from jido_cluster.runrefs import AsyncRunRef, RunRef

    inner = cluster._inner._connection
    unknown: RunRef[Any] = RunRef(AsyncRunRef(inner, "run-x.00aa"), cluster._portal)
    with pytest.raises(OutcomeUnknownError, match="run-x"):
        unknown.result(1)
    malformed: RunRef[Any] = RunRef(AsyncRunRef(inner, "no-run-id"), cluster._portal)
    with pytest.raises(InvalidInputError, match="no-run-id"):
        malformed.status()


def test_needs_that_nobody_meets_are_refused(cluster: Cluster) -> None:
    """Labels, resources, actions; said at once, naming what was asked for."""
    needs = [
        Needs(labels={"planet": "moon"}),
        Needs(resources={"CPU": 100_000.0}),
        Needs(resources={"telescope": 1.0}),
        Needs(actions=("contract.unheard",)),
    ]
    for need in needs:
        with pytest.raises(NoCapableNodeError) as raised:
            cluster.run(Double, {"number": 1}, needs=need)
        assert raised.value.retryable
    with pytest.raises(NoCapableNodeError, match="moon"):
        cluster.run(NeedsMoon, {"number": 1})
    assert cluster.run(NeedsMoon, {"number": 2}, needs=Needs()) == 4
    assert cluster.run(Double, {"number": 3}, needs=Needs(actions=("contract.double",))) == 6


def test_many_runs_in_the_order_of_their_items(cluster: Cluster) -> None:
    """From any iterable; progress hears of each once."""
    heard: list[Outcome[int]] = []
    results = cluster.run_many(
        Double, ({"number": n} for n in range(20)), max_concurrency=4, progress=heard.append
    )
    assert results == [n * 2 for n in range(20)]
    assert sorted(one.value for one in heard if one.value is not None) == results
    assert cluster.run_many(Double, []) == []


def test_many_runs_go_to_all_nodes(cluster: Cluster) -> None:
    """Each outcome names its node."""
    outcomes = cluster.run_many(
        Double, [{"number": n} for n in range(24)], on_failure="collect", max_concurrency=6
    )
    assert {one.node for one in outcomes} == {node.name for node in cluster.nodes()}
    assert len({one.run_id for one in outcomes}) == 24


def test_failures_are_collected_or_raised(cluster: Cluster, gate: MakeGate) -> None:
    """With "raise" the others are ended; with "collect" each is kept with its error."""
    items = [{"how": "value"}, {"how": "stock"}, {"how": "result"}]
    outcomes = cluster.run_many(Break, items, on_failure="collect")
    kinds = [one.error.kind for one in outcomes if one.error]
    assert kinds == ["execution_error", "contract_out_of_stock", "invalid_output"]
    assert not any(one.ok for one in outcomes)
    with pytest.raises(OutOfStock):
        outcomes[1].unwrap()
    with pytest.raises(ExecutionError):
        cluster.run_many(Break, items)


def test_run_many_checks_its_options(cluster: Cluster) -> None:
    """Before anything runs, as `jido.run_many` does."""
    run_many: Any = cluster.run_many
    with pytest.raises(ConfigError, match="max_concurrency"):
        run_many(Double, [{"number": 1}], max_concurrency=0)
    with pytest.raises(ConfigError, match="max_concurrency"):
        run_many(Double, [{"number": 1}], max_concurrency=-1)
    with pytest.raises(ConfigError, match="on_failure"):
        run_many(Double, [{"number": 1}], on_failure="ignore")


def test_no_more_run_at_once_than_allowed(cluster: Cluster, tmp_path: Path) -> None:
    """With a limit of one, the second begins when the first has ended."""
    begun, go_on = tmp_path / "begun", tmp_path / "go_on"
    items = [{"begun": str(begun), "go_on": str(go_on), "value": n} for n in range(4)]
    done: list[int] = []

    def note(outcome: Outcome[int]) -> None:
        done.append(len(begun.read_text().split()))

    go_on.touch()
    assert cluster.run_many(WaitForFile, items, max_concurrency=1, progress=note) == [0, 1, 2, 3]
    assert done == [1, 2, 3, 4]


def test_actions_are_listed(cluster: Cluster) -> None:
    """With their schemas and the nodes that know them; by name, by tag."""
    (double,) = cluster.actions(name="contract.double")
    assert double.description == "Twice a number."
    assert double.nodes == tuple(node.name for node in cluster.nodes())
    assert double.input_schema["properties"]["number"]["type"] == "integer"
    assert double.output_schema["type"] == "integer"
    names = [one.name for one in cluster.actions()]
    assert names == sorted(names)
    assert "contract.join" in names
    assert cluster.actions(name="contract.nothing") == []
    assert cluster.actions(tag="contract-no-such-tag") == []


# -- started by turns


@pytest.fixture
def boss(cluster: Cluster, name: str) -> AgentRef[Boss]:
    return cluster.spawn(Boss, name)


def test_a_turn_starts_runs_and_hears_of_them(boss: AgentRef[Boss]) -> None:
    """Each outcome is a later turn, with its tag and the id that `start` gave."""
    run_ids = boss.call(Boss.double, [1, 2, 3])
    assert len(set(run_ids)) == 3
    wait_until(lambda: len(boss.state().done) == 3, "three replies")
    assert sorted(boss.state().values) == [2, 4, 6]
    assert sorted(boss.state().done) == ["1 True True", "2 True True", "3 True True"]


def test_a_failed_turn_starts_nothing(boss: AgentRef[Boss]) -> None:
    """Neither does one that is given parameters that do not fit."""
    with pytest.raises(ExecutionError, match="changed my mind"):
        boss.call(Boss.double, [1], "fail")
    with pytest.raises(ExecutionError, match=r"InvalidInputError: .*number"):
        boss.call(Boss.bad_params)
    boss.call(Boss.double, [5])
    wait_until(lambda: boss.state().done, "the reply")
    assert boss.state().values == [10]


def test_a_repeated_operation_starts_nothing_again(boss: AgentRef[Boss]) -> None:
    """The same run ids come back, and one reply each."""
    once = boss.options(op_id=new_id("op-"))
    first = once.call(Boss.double, [1, 2])
    wait_until(lambda: len(boss.state().done) == 2, "two replies")
    assert once.call(Boss.double, [1, 2]) == first
    boss.call(Boss.double, [3])
    wait_until(lambda: len(boss.state().done) == 3, "the third reply")
    assert sorted(boss.state().values) == [2, 4, 6]


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("value", "value: execution_error: ValueError: broken (node: True)"),
        ("stock", "stock: contract_out_of_stock: no paper left (node: True)"),
    ],
)
def test_a_failure_is_a_reply_too(boss: AgentRef[Boss], how: str, said: str) -> None:
    """The outcome holds the error, typed by its kind."""
    boss.call(Boss.break_, how)
    assert wait_until(lambda: boss.state().done, "the reply") == [said]


def test_a_fallback_of_a_turn(boss: AgentRef[Boss]) -> None:
    """Its result is the outcome that the turn gets."""
    boss.call(Boss.mend, "value")
    assert wait_until(lambda: boss.state().done, "the reply") == ["value: none: 7 (node: True)"]


@pytest.mark.parametrize("handler", [Boss.run, Boss.run_sync], ids=["async", "sync"])
def test_a_run_ends_with_the_turn_that_waits_for_it(
    cluster: Cluster, boss: AgentRef[Boss], gate: MakeGate, handler: Any
) -> None:
    """When its deadline passes, the run is cancelled."""
    door = gate()
    wait_until(lambda: _runs(cluster) == 0, "the end of all runs")
    with pytest.raises(ExecutionError):
        boss.call(handler, **door.files)
    wait_until(lambda: _runs(cluster) == 0, "the end of the run")


def test_a_turn_cancels_a_run(boss: AgentRef[Boss], gate: MakeGate) -> None:
    """The reply says that it was cancelled."""
    door = gate()
    run_id = boss.call(Boss.wait, **door.files)
    door.wait_begun()
    boss.call(Boss.cancel, run_id)
    (said,) = wait_until(lambda: boss.state().done, "the reply")
    assert said.startswith("wait: cancelled: ")


def test_a_run_outlives_the_memory_of_its_agent(boss: AgentRef[Boss], gate: MakeGate) -> None:
    """The reply wakes an agent that was passivated meanwhile."""
    door = gate()
    boss.call(Boss.wait, **door.files)
    with door.held():
        boss.passivate()
        assert not boss.info().is_active
    assert wait_until(lambda: boss.state().done, "the reply") == ["wait: none: 7 (node: True)"]
