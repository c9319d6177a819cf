"""Workflows: the four kinds of step, definition errors, schemas, and being an action."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from ray import cloudpickle

from jido_cluster.errors import (
    ActionTimeoutError,
    ChainError,
    ConfigError,
    ExecutionError,
    InvalidInputError,
    InvalidOutputError,
    JidoError,
)
from jido_cluster.exec import (
    Action,
    Context,
    Instruction,
    Plan,
    Workflow,
    action,
    chain,
    run,
    run_many,
    run_named,
    run_plan,
    run_sync,
    spec_of,
)
from tests.exec.loops import now, run_virtual

LOG: list[tuple[str, float]] = []


@pytest.fixture(autouse=True)
def log() -> None:
    """What the steps below did, and when."""
    LOG.clear()


def did() -> list[str]:
    return [what for what, _ in LOG]


class Source(BaseModel):
    path: str


class Probe(Action, name="workflow.probe"):
    class Params(BaseModel):
        source: Source
        depth: int = 3
        codec: str

    async def run(self, params: Params, ctx: Context) -> dict[str, Any]:
        LOG.append(("probe", now()))
        return {"seconds": float(params.depth), "user": ctx.get("user")}


@action(name="workflow.encode")
async def encode(seconds: float, codec: str = "h264", fail: str = "") -> dict[str, Any]:
    LOG.append((f"encode {codec}", now()))
    try:
        await asyncio.sleep(seconds)
    except asyncio.CancelledError:
        LOG.append((f"cancel {codec}", now()))
        raise
    if fail == codec:
        raise ExecutionError(f"no {codec}", retryable=True)
    return {"file": f"{codec}.mkv"}


@action(name="workflow.size")
async def size(file: str = "none") -> int:
    return len(file)


@action(name="workflow.note")
async def note(**values: Any) -> None:
    LOG.append((f"note {sorted(values)}", now()))


@action(name="workflow.anything")
async def anything(value: Any = None) -> Any:
    return value


def always(values: dict[str, Any], ctx: Context) -> bool:
    return True


class Publish(Workflow, name="workflow.publish", description="All of it", max_retries=0):
    class Params(BaseModel):
        source: Source
        draft: bool = False
        fail: str = ""

    class Result(BaseModel):
        seconds: float
        size: int = 0
        av1: Mapping[str, Any]

    steps = (
        (Probe, {"codec": "any"}),
        Workflow.parallel(size=size, av1=[(encode, {"codec": "av1"}), note], h264=encode),
        Workflow.branch(lambda values, ctx: values["draft"], (note, {"kept": 1}), [note, note]),
    )


SOURCE = {"source": {"path": "in.mkv"}}


# ------------------------------------------------------------------ the four kinds of step


def test_a_workflow_is_run_like_any_action() -> None:
    """Its parameters are the values at the start, its result what the steps have added."""
    found = run_virtual(lambda: run(Publish, SOURCE, {"user": "ann"}))
    assert found == Publish.Result(seconds=3.0, size=4, av1={"file": "av1.mkv"})
    after = "note ['av1', 'draft', 'fail', 'h264', 'seconds', 'size', 'source', 'user']"
    assert did() == [
        "probe",
        "encode av1",
        "encode h264",
        "note ['draft', 'fail', 'file', 'seconds', 'source', 'user']",
        after,
        after,
    ]


def test_a_branch_takes_one_way() -> None:
    """The other is not run; a missing one is nothing to do."""
    run_virtual(lambda: run(Publish, {**SOURCE, "draft": True}))
    assert did()[-1].startswith("note ['av1', 'draft', 'fail', 'h264', 'kept'")

    async def is_long(values: dict[str, Any], ctx: Context) -> bool:
        await asyncio.sleep(1.0)
        return bool(values["seconds"] > 2 and ctx["user"] == "ann")

    class Maybe(Workflow, name="workflow.maybe"):
        steps = [Workflow.branch(is_long, note)]

    LOG.clear()
    for seconds in (1, 3):
        assert run_virtual(partial(run, Maybe, {"seconds": seconds}, {"user": "ann"})) == {}
    assert len(LOG) == 1


def test_a_test_has_a_copy_of_the_values() -> None:
    """What it does to them is lost."""

    def rude(values: dict[str, Any], ctx: Context) -> bool:
        values.clear()
        return True

    class Rude(Workflow, name="workflow.rude"):
        steps = [Workflow.branch(rude, note)]

    run_virtual(lambda: run(Rude, {"x": 1}))
    assert did() == ["note ['x']"]


def test_parallel_steps_run_at_once() -> None:
    """From the same values; results come by name, in the order listed, whoever is first."""

    class Both(Workflow, name="workflow.both"):
        steps = [
            Workflow.parallel(
                slow=(encode, {"seconds": 3.0, "codec": "slow"}),
                quick=(encode, {"codec": "quick"}),
                number=size,
                choice=Workflow.branch(always, encode),
                nested=Workflow.parallel(one=size, two=[]),
            )
        ]

    async def main() -> Any:
        begun = now()
        found = await run(Both, {"seconds": 1.0})
        assert now() - begun == 3.0
        return found

    found = run_virtual(main)
    assert list(found) == ["slow", "quick", "number", "choice", "nested"]
    assert found == {
        "slow": {"file": "slow.mkv"},
        "quick": {"file": "quick.mkv"},
        "number": 4,
        "choice": {"file": "h264.mkv"},
        "nested": {"one": 4, "two": {}},
    }


def test_a_parallel_group_keeps_to_its_limit() -> None:
    """Two at once of four that take a second."""

    class Limited(Workflow, name="workflow.limited"):
        steps = [Workflow.parallel(a=encode, b=encode, c=encode, d=encode, max_concurrency=2)]

    async def main() -> float:
        begun = now()
        await run(Limited, {"seconds": 1.0})
        return now() - begun

    assert run_virtual(main) == 2.0


def test_a_failure_in_a_group_ends_the_others() -> None:
    """They are cancelled before the error passes; it names the path to the action that failed."""

    class Failing(Workflow, name="workflow.failing"):
        steps = [
            (note, {"x": 1}),
            Workflow.parallel(
                one=(encode, {"codec": "one", "seconds": 9.0}),
                two=[note, (encode, {"codec": "two"})],
            ),
            note,
        ]

    with pytest.raises(ChainError) as caught:
        run_virtual(lambda: run(Failing, {"seconds": 1.0, "fail": "two"}))
    error = caught.value
    assert error.message == "steps[1].two[1] (workflow.encode) failed: no two"
    assert (error.action, error.index) == ("workflow.encode", 1)
    assert error.details["path"] == "steps[1].two[1]"
    assert error.results == {"seconds": 1.0, "fail": "two"}
    assert error.retryable
    assert isinstance(error.error, ExecutionError)
    assert error.__cause__ is error.error
    assert did()[-2:] == ["encode two", "cancel one"]
    assert JidoError.from_dict(error.to_dict()).to_dict() == error.to_dict()


def test_steps_have_options_of_their_own() -> None:
    """Retries inside are the step's; the workflow's begin at its first step again."""

    class Stubborn(Workflow, name="workflow.stubborn"):
        steps = [note, Instruction(encode, {"fail": "h264"}, {}, {"max_retries": 2})]

    with pytest.raises(ChainError):
        run_virtual(lambda: run(Stubborn, {"seconds": 1.0}))
    assert [what[:6] for what in did()] == ["note [", "encode", "encode", "encode"]

    class Again(Workflow, name="workflow.again", max_retries=1):
        steps = [note, (encode, {"fail": "h264"})]

    LOG.clear()
    with pytest.raises(ChainError):
        run_virtual(lambda: run(Again, {"seconds": 1.0}))
    assert [what[:6] for what in did()] == ["note [", "encode"] * 2


def test_the_timeout_of_a_workflow_caps_all_its_steps() -> None:
    """None of them goes on."""

    class Short(Workflow, name="workflow.short", timeout=1.5):
        steps = [encode, encode]

    with pytest.raises(ActionTimeoutError, match="workflow.short did not end within"):
        run_virtual(lambda: run(Short, {"seconds": 1.0}))
    assert did() == ["encode h264", "encode h264", "cancel h264"]


def test_compensation_is_the_workflow_s_own() -> None:
    """`on_error` sees how far it came."""
    seen: list[Any] = []

    class Undone(Workflow, name="workflow.undone"):
        steps = [anything, (encode, {"fail": "h264", "seconds": 0.0})]

        async def on_error(self, params: Any, error: JidoError, ctx: Context) -> None:
            seen.append((dict(params), error))

    with pytest.raises(ChainError) as caught:
        run_virtual(lambda: run(Undone, {"value": {"made": 1}}))
    assert seen == [({"value": {"made": 1}}, caught.value)]
    assert caught.value.results == {"value": {"made": 1}, "made": 1}
    assert caught.value.details["compensated"] is True


# ------------------------------------------------------------------ failures


@pytest.mark.parametrize(
    ("test", "kind", "message"),
    [
        (lambda values, ctx: None, "config_error", "the test must return True or False, not None"),
        (lambda values, ctx: values["x"], "execution_error", "KeyError: 'x'"),
        (lambda values, ctx: sys.exit(3), "execution_error", "SystemExit: 3"),
        (lambda values, ctx: (_ for _ in ()).throw(InvalidInputError("bad")), "validation", "bad"),
    ],
)
def test_a_failing_test_is_an_error_of_its_branch(
    test: Callable[..., Any], kind: str, message: str
) -> None:
    """The path leads there, and the action is the test."""

    class Wrong(Workflow, name="workflow.wrong"):
        steps = [Workflow.branch(test, note, note)]

    with pytest.raises(
        ChainError, match=r"^steps\[0\] \(.*<lambda>\) failed: " + message
    ) as caught:
        asyncio.run(run(Wrong, {}))
    assert caught.value.error is not None
    assert caught.value.error.kind.startswith(kind)
    assert caught.value.details["path"] == "steps[0]"
    assert LOG == []


def test_the_input_of_the_first_step_is_that_of_the_workflow() -> None:
    """Nothing has run: the refusal comes as it is. Later ones are failures of their steps."""

    class Open(Workflow, name="workflow.open"):
        steps = [(Probe, {"codec": "any"}), (encode, {"seconds": "none"})]

    with pytest.raises(InvalidInputError, match=r"workflow.probe: source: Field required"):
        asyncio.run(run(Open, {}))
    with pytest.raises(ChainError) as caught:
        run_virtual(lambda: run(Open, SOURCE))
    assert isinstance(caught.value.error, InvalidInputError)
    assert caught.value.index == 1

    class Grouped(Workflow, name="workflow.grouped"):
        steps = [Workflow.parallel(a=Probe, b=note)]

    with pytest.raises(ChainError) as caught:
        run_virtual(lambda: run(Grouped, {}))
    assert caught.value.details["path"] == "steps[0].a"


def test_a_result_without_names_is_a_failure_of_its_step() -> None:
    """Unless it stands in a group, where it gets one."""

    class Number(Workflow, name="workflow.number"):
        steps = [(anything, {"value": 5})]

    with pytest.raises(ChainError, match=r"steps\[0\] .*of type int, cannot be merged") as caught:
        asyncio.run(run(Number))
    assert isinstance(caught.value.error, InvalidOutputError)

    class Named(Workflow, name="workflow.named"):
        steps = [Workflow.parallel(number=(anything, {"value": 5}))]

    assert asyncio.run(run(Named)) == {"number": 5}


def test_a_result_that_does_not_fit_is_the_workflow_s() -> None:
    """`Result` is checked as for any action."""

    class Unfit(Workflow, name="workflow.unfit"):
        class Result(BaseModel):
            seconds: float

        steps = [note]

    with pytest.raises(InvalidOutputError, match="workflow.unfit: .*seconds: Field required"):
        run_virtual(lambda: run(Unfit))


# ------------------------------------------------------------------ definitions


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ((), r"workflow .*Bad: steps=\(\): it must be a list of at least one step"),
        (note, "workflow .*Bad: steps=<function note .*: it must be a list"),
        ([note, 5], r"workflow .*Bad: steps\[1\]: 5 is no action"),
        ([note, [note, 5]], r"steps\[1\]\[1\]: 5 is no action"),
        ([(note, note)], r"steps\[0\]: params must be a mapping, not <function note"),
        (["workflow.none"], r"steps\[0\]: no action named 'workflow.none'"),
        ([Workflow.branch(always, note, [note, 5])], r"steps\[0\].otherwise\[1\]: 5 is no action"),
        ([Workflow.branch(always, 5)], r"steps\[0\].then: 5 is no action"),
        ([Workflow.parallel(a=[5])], r"steps\[0\].a\[0\]: 5 is no action"),
        (
            [Workflow.parallel(a=[size])],
            r"steps\[0\].a\[0\]: workflow.size: its result, of type int",
        ),
        ([size], r"steps\[0\]: workflow.size: its result, of type int, cannot be merged"),
        ([(note, {}, {}, {"timout": 1})], r"steps\[0\]: unknown option 'timout'"),
    ],
)
def test_a_bad_definition_is_refused_when_the_class_is_made(steps: Any, message: str) -> None:
    """With the path to the fault."""
    with pytest.raises(ConfigError, match=message):
        type("Bad", (Workflow,), {"steps": steps})


def test_bad_parts_are_refused_where_they_are_made() -> None:
    """Before there is a class."""
    with pytest.raises(ConfigError, match="branch.*: 5 is no function"):
        Workflow.branch(5, note)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="has no steps: give each by a name"):
        Workflow.parallel()
    with pytest.raises(ConfigError, match="max_concurrency=0"):
        Workflow.parallel(a=note, max_concurrency=0)


def test_a_workflow_does_not_write_its_own_run() -> None:
    """With steps or without; unknown keywords are refused as for every action."""
    for steps in ({}, {"steps": [note]}):

        async def mine(self: Any, params: Any, ctx: Context) -> None: ...

        with pytest.raises(ConfigError, match="list steps, and leave run to it"):
            type("Own", (Workflow,), {"run": mine, **steps})
    with pytest.raises(ConfigError, match="unknown keyword 'timout'; did you mean 'timeout'"):

        class Slip(Workflow, name="workflow.slip", timout=1):
            steps = [note]


def test_a_base_without_steps_is_no_action() -> None:
    """It may hold what its subclasses share; they run their own steps, or inherited ones."""

    class Base(Workflow):
        class Params(BaseModel):
            value: dict[str, Any] = {"a": 1}

    with pytest.raises(ConfigError, match="no action"):
        spec_of(Base)
    with pytest.raises(ConfigError, match="no action"):
        spec_of(Workflow)

    class One(Base, name="workflow.one"):
        steps = [anything]

    class Two(One, name="workflow.two"):
        pass

    class Three(Two, name="workflow.three"):
        steps = [anything, (anything, {"value": {"b": 2}})]

    assert [run_sync(one, {}) for one in (One, Two, Three)] == [
        {"a": 1},
        {"a": 1},
        {"a": 1, "b": 2},
    ]
    with pytest.raises(NotImplementedError):
        asyncio.run(Workflow().run({}, Context()))


# ------------------------------------------------------------------ schemas


def test_the_schemas_are_those_declared() -> None:
    """As of every action."""
    spec = spec_of(Publish)
    assert spec.description == "All of it"
    assert list(spec.input_schema()["properties"]) == ["source", "draft", "fail"]
    assert spec.output_schema()["required"] == ["seconds", "av1"]


def test_an_undeclared_input_is_what_the_first_step_takes() -> None:
    """Without what it has already; others are let through. So far as it is known which is first."""

    class Open(Workflow, name="workflow.open_input"):
        steps = [[(Probe, {"codec": "any"}), encode]]

    class Nested(Workflow, name="workflow.nested_input"):
        steps = [Open, note]

    known: list[type[Workflow]] = [Open, Nested]
    for workflow in known:
        schema = spec_of(workflow).input_schema()
        assert schema["$defs"]["Source"]["required"] == ["path"]
        assert schema["title"] == "Params"
        assert schema["type"] == "object"
        assert schema["additionalProperties"] is True
        assert schema["required"] == ["source"]
        assert schema["properties"] == {
            "source": {"$ref": "#/$defs/Source"},
            "depth": {"default": 3, "title": "Depth", "type": "integer"},
        }
        assert json.dumps(spec_of(workflow).output_schema())

    class Function(Workflow, name="workflow.function_input"):
        steps = [encode]

    schema = spec_of(Function).input_schema()
    assert schema["required"] == ["seconds"]
    assert schema["properties"]["codec"] == {"default": "h264", "title": "Codec", "type": "string"}

    class Settled(Workflow, name="workflow.settled_input"):
        steps = [(encode, {"seconds": 1.0})]

    assert "required" not in spec_of(Settled).input_schema()

    class Unknown(Workflow, name="workflow.unknown_input"):
        steps = [Workflow.branch(always, Probe)]

    class Empty(Workflow, name="workflow.empty_input"):
        steps = [[], note]

    unknown: list[type[Workflow]] = [Unknown, Empty]
    for workflow in unknown:
        assert spec_of(workflow).input_schema() == {
            "additionalProperties": True,
            "properties": {},
            "title": "Params",
            "type": "object",
        }


def test_a_subclass_has_the_input_of_its_own_steps() -> None:
    """Not that of its base, unless the base has declared one."""

    class First(Workflow, name="workflow.first_of_two"):
        steps = [encode]

    class Second(First, name="workflow.second_of_two"):
        steps = [Probe]

    assert "codec" in spec_of(First).input_schema()["properties"]
    assert "source" in spec_of(Second).input_schema()["properties"]
    assert "seconds" not in spec_of(Second).input_schema()["properties"]


# ------------------------------------------------------------------ being an action


def test_a_workflow_is_a_step_wherever_actions_are() -> None:
    """In a chain, a plan, another workflow, many at once, and by name for another process."""

    class Small(Workflow, name="workflow.small"):
        steps = [anything, Workflow.parallel(size=size)]

    class Outer(Workflow, name="workflow.outer"):
        steps = [(Small, {"value": {"a": 1}}), "workflow.small"]

    async def main() -> None:
        assert await chain([Small], {"value": {"a": 1}}) == {"value": {"a": 1}, "a": 1, "size": 4}
        assert await run(Outer, {"value": {"b": 2}}) == {"a": 1, "size": 4, "b": 2}
        plan = Plan().add("small", Small, {"value": {"a": 1}})
        assert (await run_plan(plan)).results == {"small": {"a": 1, "size": 4}}
        assert len(await run_many(Small, [{}, {}])) == 2
        outcome = await run_named("workflow.small", b'{"value": {"file": "long name"}}', None, {})
        assert outcome.unwrap() == {"file": "long name", "size": 9}

    asyncio.run(main())
    assert spec_of(Outer).dump_params({"value": 1}) == b'{"value":1}'


def test_cancelling_a_workflow_leaves_nothing_behind() -> None:
    """Not from its parallel groups either."""

    async def main() -> None:
        task = asyncio.create_task(run(Publish, SOURCE))
        await asyncio.sleep(1.0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run_virtual(main)
    assert sorted(did()[-2:]) == ["cancel av1", "cancel h264"]


ARRIVING = """
import asyncio, pickle, sys

from jido_cluster.exec import run_named, spec_of
from pathlib import Path

first = pickle.loads(Path(sys.argv[1]).read_bytes())
assert list(spec_of(first).input_schema()["properties"]) == ["value"]
print(asyncio.run(run_named("arriving.flow", b'{"value": {"n": 2}}', None, {})).unwrap())
"""


def test_a_workflow_that_arrives_by_value_is_complete(tmp_path: Path) -> None:
    """With its steps, its tests and its input; compiled again where it arrives."""
    space: dict[str, Any] = {"__name__": "__main__"}
    exec(  # a script's classes travel by value
        "from typing import Any\n"
        "from jido_cluster.exec import Workflow, action\n"
        "@action(name='arriving.step')\n"
        "async def step(value: dict[str, int]) -> dict[str, Any]:\n"
        "    return {'value': value, 'n': value['n'] * 2}\n"
        "class Flow(Workflow, name='arriving.flow'):\n"
        "    steps = [step, Workflow.branch(lambda values, ctx: values['n'] > 3, [step, step])]\n",
        space,
    )
    file = tmp_path / "flow"
    file.write_bytes(cloudpickle.dumps(space["Flow"]))  # type: ignore[no-untyped-call]
    done = subprocess.run(
        [sys.executable, "-c", ARRIVING, str(file)], capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "{'value': {'n': 2}, 'n': 4}", done.stderr
