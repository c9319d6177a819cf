"""Actions: what may be defined, what is refused at definition, and how they are found."""

import subprocess
import sys
from abc import abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from ray import cloudpickle

from jido_cluster.errors import ConfigError, JidoError, NotRegisteredError
from jido_cluster.exec import (
    Action,
    Context,
    Needs,
    action,
    find_action,
    register_action,
    registered_actions,
    run_sync,
    spec_of,
)


class Described(
    Action,
    name="test.described",
    category="media",
    tags=["a", "b"],
    version="2",
    needs=Needs(labels={"gpu": "yes"}),
    timeout=5.0,
    max_retries=2,
):
    """Makes a thing.

    At length.
    """

    class Params(BaseModel):
        width: int = 640
        raw: bytes = b"\xff"

    class Result(BaseModel):
        path: str
        ratio: float = float("inf")

    def run(self, params: Params, ctx: Context) -> Result:
        return self.Result(path=f"{params.width}")


@action(name="test.greet", description="Says hello.", timeout=None)
async def greet(name: str, ctx: Context, *, loud: bool = False) -> str:
    return f"{name.upper() if loud else name} {ctx.get('user')}"


def test_the_specification_says_what_the_author_said() -> None:
    """Metadata, options with their defaults, and schemas; the text is the docstring's first."""
    spec = spec_of(Described)
    assert (spec.name, spec.version, spec.category, spec.tags) == (
        "test.described",
        "2",
        "media",
        ("a", "b"),
    )
    assert spec.description == "Makes a thing."
    assert spec.needs == Needs(labels={"gpu": "yes"})
    assert (spec.options.timeout, spec.options.max_retries, spec.options.retry_delay) == (5, 2, 1)
    assert list(spec.input_schema()["properties"]) == ["width", "raw"]
    assert spec.output_schema()["required"] == ["path"]
    assert spec_of(greet).description == "Says hello."
    assert spec_of(greet).options.timeout is None


def test_a_function_stays_callable() -> None:
    """The decorator returns the function itself."""
    coroutine = greet("ann", Context({"user": 1}), loud=True)
    with pytest.raises(StopIteration) as stopped:
        coroutine.send(None)
    assert stopped.value.value == "ANN 1"


def test_the_default_name_is_module_and_qualified_name() -> None:
    """Explicit names are for what must survive moving."""

    class Plain(Action):
        def run(self, params: Mapping[str, Any], ctx: Context) -> None: ...

    assert spec_of(Plain).name == f"{__name__}.{Plain.__qualname__}"


def test_actions_are_found_by_name() -> None:
    """In this process, by class, function, or name; a stranger's name says what to do."""
    assert find_action("test.described") is spec_of(Described) is spec_of("test.described")
    assert spec_of(greet) in registered_actions()
    with pytest.raises(NotRegisteredError, match=r"import its module") as raised:
        find_action("test.nobody")
    assert "test.greet" in raised.value.details["known"]


def test_redefinition_replaces_but_a_stranger_may_not_take_the_name() -> None:
    """A notebook cell run again is the same home; another class of that name is refused."""

    def define(answer: int) -> type[Action]:
        class Again(Action, name="test.again"):
            def run(self, params: Mapping[str, Any], ctx: Context) -> int:
                return answer

        return Again

    first, second = define(1), define(2)
    assert find_action("test.again").target is second
    assert spec_of(first).target is first
    with pytest.raises(ConfigError, match=r"'test\.again' belongs to .*Again already"):

        class Thief(Action, name="test.again"):
            def run(self, params: Mapping[str, Any], ctx: Context) -> None: ...

    assert find_action("test.again").target is second


class Shared(BaseModel):
    x: int


def test_the_model_may_come_from_the_annotation() -> None:
    """Without `Params` the model that `run` takes counts; without either any mapping does."""

    class FromAnnotation(Action):
        def run(self, params: Shared, ctx: Context) -> int:
            return params.x

    class Loose(Action):
        def run(self, params: Any, ctx: Any) -> Any:
            return params

    assert run_sync(FromAnnotation, {"x": "4"}) == 4
    assert run_sync(FromAnnotation, Shared(x=4)) == 4
    assert run_sync(Loose, {"any": "thing"}) == {"any": "thing"}
    assert run_sync(Loose) == {}


def test_annotations_may_name_the_nested_models_as_text() -> None:
    """As `from __future__ import annotations` makes them all."""

    class Lazy(Action):
        class Params(BaseModel):
            x: "int"

        class Result(BaseModel):
            y: int

        def run(self, params: "Params", ctx: "Context") -> "Result":
            return self.Result(y=params.x)

    assert run_sync(Lazy, {"x": 1}).y == 1


def test_nested_models_get_the_settings_that_travelling_needs() -> None:
    """Bytes that are no text and infinities survive; a model from elsewhere is left alone."""
    work = spec_of(Described).work
    params = Described.Params()
    assert work.load_params(work.dump_params(params)) == params
    result = Described.Result(path="x")
    assert work.load_result(work.dump_result(result)) == result
    assert "ser_json_bytes" not in Shared.model_config


# ------------------------------------------------------------------ definition errors


def _no_run() -> None:
    class NoRun(Action, name="test.norun"):
        pass


def _helper_but_no_run() -> None:
    class Helper(Action):
        def help(self) -> None: ...


def _wrong_parameters() -> None:
    class Wrong(Action):
        def run(self, params: Any) -> None: ...  # type: ignore[override]


def _by_keyword() -> None:
    class Wrong(Action):
        def run(self, params: Any, *, ctx: Context) -> None: ...  # type: ignore[override]


def _static() -> None:
    class Wrong(Action):
        run = 5  # type: ignore[assignment]


def _generator() -> None:
    class Wrong(Action):
        def run(self, params: Any, ctx: Context) -> Any:
            yield 1


def _unresolved() -> None:
    class Wrong(Action):
        def run(self, params: "Nowhere", ctx: Context) -> None: ...  # type: ignore[name-defined]


def _bad_params() -> None:
    class Wrong(Action):
        Params = dict

        def run(self, params: Any, ctx: Context) -> None: ...


def _other_params() -> None:
    class Wrong(Action):
        class Params(BaseModel):
            y: int

        def run(self, params: Shared, ctx: Context) -> None: ...


def _constructor() -> None:
    class Wrong(Action):
        def __init__(self, pool: Any) -> None: ...

        def run(self, params: Any, ctx: Context) -> None: ...


def _async_hook() -> None:
    class Wrong(Action):
        def run(self, params: Any, ctx: Context) -> None: ...

        async def on_after_run(self, result: Any) -> None: ...


def _in_main() -> None:
    @action(name="test.wrong", executor="process")
    @_moved_to_main
    def wrong() -> None: ...


def _moved_to_main(function: Callable[..., Any]) -> Callable[..., Any]:
    function.__module__, function.__qualname__ = "__main__", "wrong"
    return function


def _keyword(**keywords: Any) -> Callable[[], None]:
    def define() -> None:
        class Wrong(Action, **keywords):
            def run(self, params: Any, ctx: Context) -> None: ...

    return define


def _function(function: Any, **keywords: Any) -> Callable[[], None]:
    return lambda: action(**({"name": "test.wrong"} | keywords))(function) and None


def _untyped(x):  # type: ignore[no-untyped-def]  # noqa: ANN202
    ...


@pytest.mark.parametrize(
    ("define", "words"),
    [
        (_no_run, "NoRun has no run"),
        (_helper_but_no_run, "Helper has no run"),
        (_wrong_parameters, r"run takes \(self, params, ctx\), not \(self, params: "),
        (_by_keyword, r"run takes \(self, params, ctx\)"),
        (_static, "run must be a plain method"),
        (_generator, "run is a generator"),
        (_unresolved, "does not resolve: name 'Nowhere'"),
        (_bad_params, "Params must be a pydantic model"),
        (_other_params, "run takes Shared, but Params is"),
        (_constructor, "without arguments, but __init__ wants some: missing .*'pool'"),
        (_async_hook, "on_after_run is async, so run must be async too"),
        (_keyword(timout=5), "unknown keyword 'timout'; did you mean 'timeout'"),
        (_keyword(fallback=5), "fallback=5: it must be an action"),
        (_keyword(fallback=Action), "fallback=.*it must be an action"),
        (_keyword(fallback="a b"), "fallback='a b': it must be an action"),
        (_keyword(breaker="payments"), r"breaker='payments': it must be a Breaker\(name\)"),
        (_keyword(timeout=-1), "timeout=-1: it must be seconds > 0"),
        (_keyword(name="a b"), r"name='a b' is not an id"),
        (_keyword(name=""), "name='' is not an id"),
        (
            _keyword(executor="thread"),
            r"executor='thread': it must be one of \('auto', 'process'\)",
        ),
        (_keyword(executor="process"), "move it out of the function it is in"),
        (_in_main, "which __main__ is not: move the action to a module of its own"),
        (_keyword(tags="video"), "tags='video': it must be a list"),
        (_keyword(version=2), "version=2: it must be a text"),
        (_keyword(needs={"gpu": 1}), r"it must be a Needs"),
        (_function(5), "decorates a plain function, not 5"),
        (_function(Described), "decorates a plain function"),
        (_function(_untyped), "'x' has no annotation"),
        (_function(greet, retries=3), "did you mean 'max_retries'"),
    ],
)
def test_what_cannot_work_is_refused_at_definition(define: Callable[[], None], words: str) -> None:
    """The error names the class and the remedy; nothing is registered."""
    before = registered_actions()
    with pytest.raises(ConfigError, match=words):
        define()
    assert registered_actions() == before


@pytest.mark.parametrize("target", [5, "test nobody", len, dict, Action, [1], None])
def test_what_is_no_action_cannot_be_run(target: Any) -> None:
    """An undecorated function, a base, or something else entirely."""
    with pytest.raises(JidoError, match=r"is no action|no action named"):
        spec_of(target)


def test_a_base_is_no_action_but_lends_its_parts() -> None:
    """An abstract `run`, or an empty body, makes a base; its parts are inherited."""

    class Base(Action):
        class Params(BaseModel):
            x: int

        @abstractmethod
        def run(self, params: Params, ctx: Context) -> int: ...

    class Empty(Action):
        pass

    class Concrete(Base):
        def run(self, params: Base.Params, ctx: Context) -> int:
            return params.x + 1

    assert run_sync(Concrete, {"x": 1}) == 2
    for base in (Base, Empty):
        with pytest.raises(ConfigError, match="is no action"):
            spec_of(base)


SCRIPT = """
import pickle, sys
from jido_cluster.exec import find_action, register_action, run_sync, spec_of
for target in pickle.load(open(sys.argv[1], "rb")):
    spec = register_action(target) if len(sys.argv) > 2 else spec_of(target)
    assert find_action(spec.name) is spec
    print(spec.name, spec.options.timeout, run_sync(target, {"x": 2}))
"""


@pytest.mark.parametrize("explicitly", [True, False])
def test_actions_that_arrive_by_value_are_complete(tmp_path: Path, explicitly: bool) -> None:
    """A class made in a script is rebuilt elsewhere without its keywords: they travel as data."""
    namespace: dict[str, Any] = {"__name__": "__main__"}
    exec(
        "from pydantic import BaseModel\n"
        "from jido_cluster.exec import Action, action\n"
        "class Double(Action, name='value.double', timeout=7.0):\n"
        "    class Params(BaseModel):\n"
        "        x: int\n"
        "    def run(self, params: Params, ctx): return params.x * 2\n"
        "class Triple(Double, name='value.triple', timeout=8.0):\n"
        "    def run(self, params, ctx): return params.x * 3\n"
        "@action(name='value.add', timeout=9.0)\n"
        "def add(x: int) -> int: return x + 1\n",
        namespace,
    )
    file = tmp_path / "actions.pickle"
    targets = [namespace[name] for name in ("Double", "Triple", "add")]
    file.write_bytes(cloudpickle.dumps(targets))  # type: ignore[no-untyped-call]
    arguments = [sys.executable, "-c", SCRIPT, str(file), *(["explicitly"] if explicitly else [])]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        "value.double 7.0 4",
        "value.triple 8.0 6",
        "value.add 9.0 3",
    ]


def test_registering_again_is_harmless() -> None:
    """It compiles anew and replaces."""
    assert register_action(greet).name == "test.greet"
    assert find_action("test.greet").target is greet
