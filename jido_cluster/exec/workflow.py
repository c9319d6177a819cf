"""Workflows: actions made of other actions.

    class Publish(Workflow, name="publish", timeout=600.0):
        class Params(BaseModel):
            path: str
            draft: bool = False

        steps = (
            Probe,
            (Encode, {"codec": "h264"}, None, {"max_retries": 2}),
            Workflow.parallel(cover=Cover, subtitles=[Transcribe, Translate]),
            Workflow.branch(lambda values, ctx: values["draft"], Keep, [Upload, Announce]),
        )

There are four things a step can be:

    an action                       in any form of `Instruction`
    a list                          steps one after another
    Workflow.branch(test, a, b)     step a where the test of the values holds; else step b, if any
    Workflow.parallel(x=a, y=b)     steps a and b at once, from the same values; the values get what
                                    they end with as "x" and "y"

Values pass along as in a chain: they start as the parameters, and results are merged into them. The
workflow's own result is all that its steps have added: their results, merged.

A workflow is an action: it runs wherever actions do, and may be a step itself. Its ``timeout`` caps
all steps together, and its retries begin at the first step again; so a step's retries are the
step's own, none by default.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final
from weakref import WeakKeyDictionary

from pydantic import BaseModel, ConfigDict, GetJsonSchemaHandler

from jido_cluster.errors import (
    ChainError,
    ConfigError,
    InvalidInputError,
    NotRegisteredError,
)
from jido_cluster.exec.action import Action, ActionSpec
from jido_cluster.exec.context import Context
from jido_cluster.exec.steps import check_concurrency
from jido_cluster.exec.workflow_nodes import (
    Branch,
    Node,
    Parallel,
    Series,
    Single,
    StepError,
    Test,
    compile_step,
)

__all__ = ["Workflow"]


class Workflow(Action):
    """An action made of steps: subclass it and list them; see the module for what they may be.

    ``Params`` and ``Result`` work as for every `Action`. Without ``Params`` any mapping goes, the
    schema says what the first step takes, and the values are the mapping as it was given.

    A failure is a `ChainError`: ``.index`` counts in `steps`, ``.results`` are the values there,
    and ``details["path"]`` leads to the action that failed. When the first step refuses its input,
    nothing has run, and that `InvalidInputError` comes as it is.

    Attributes:
        steps: What to run, in order.
    """

    steps: ClassVar[Sequence[Any]]

    def __init_subclass__(cls, **keywords: Any) -> None:
        """Checks and registers the workflow.

        Raises:
            ConfigError: A step cannot work, or a keyword; names class and step.
        """
        if "run" in vars(cls):
            raise ConfigError(f"workflow {cls.__qualname__}: list steps, and leave run to it")
        if hasattr(cls, "steps"):
            _define(cls)
        super().__init_subclass__(**keywords)

    @staticmethod
    def branch(test: Test, then: Any, otherwise: Any = ()) -> Branch:
        """A choice: ``then`` where ``test(values, ctx)`` is true, else ``otherwise``.

        Args:
            test: Called on the loop with a copy of the values, so quick when it is not async;
                returns True or False.
            then: A step, or a list of steps.
            otherwise: A step, or a list of steps; nothing by default.

        Raises:
            ConfigError: ``test`` is no function.
        """
        if not callable(test):
            raise ConfigError(f"branch(test, then, otherwise): {test!r} is no function")
        return Branch(test, then, otherwise)

    @staticmethod
    def parallel(*, max_concurrency: int | None = None, **members: Any) -> Parallel:
        """Steps that run at once, from the same values; when one fails, the others are cancelled.

        Args:
            max_concurrency: How many may run at once, >= 1; None for all.
            **members: A step, or a list of steps, by the name that the values get its result under:
                of one action the result itself, else what the steps have added.

        Raises:
            ConfigError: There are no steps, or the limit is ill.
        """
        check_concurrency(max_concurrency)
        if not members:
            raise ConfigError(
                "parallel() has no steps: give each by a name, parallel(x=..., y=...)"
            )
        return Parallel(members, max_concurrency)

    async def run(self, params: Any, ctx: Context, /) -> Any:
        """Runs the steps; the same in every workflow."""
        raise NotImplementedError

    # Marks this class as a base of actions; each subclass with steps gets a `run` of its own.
    run.__isabstractmethod__ = True  # type: ignore[attr-defined]


async def _run(self: Workflow, params: Any, ctx: Context) -> dict[str, Any]:
    """Runs the steps."""
    values = dict(params)
    added: dict[str, Any] = {}
    for index, node in enumerate(_program(type(self))):
        try:
            found = await node.run(values, ctx)
        except StepError as failure:
            error = failure.error
            if index == 0 and isinstance(error, InvalidInputError) and isinstance(node, Single):
                raise error from None
            raise ChainError(
                f"{failure.path} ({failure.action}) failed: {error.message}",
                action=failure.action,
                index=index,
                error=error,
                results=values,
                path=failure.path,
            ) from error
        values.update(found)
        added.update(found)
    return added


# Compiled steps. They are not kept on the class: validators do not pickle, and a class that is sent
# by value takes its attributes along.
_PROGRAMS: Final[WeakKeyDictionary[type[Workflow], tuple[Any, tuple[Node, ...]]]] = (
    WeakKeyDictionary()
)


def _program(cls: type[Workflow]) -> tuple[Node, ...]:
    """The compiled steps of the class."""
    steps = cls.steps
    known = _PROGRAMS.get(cls)
    if known is not None and known[0] is steps:
        return known[1]
    owner = f"workflow {cls.__qualname__}"
    if not isinstance(steps, list | tuple) or not steps:
        raise ConfigError(f"{owner}: steps={steps!r}: it must be a list of at least one step")
    program = tuple(
        compile_step(item, f"{owner}: steps[{index}]", f"steps[{index}]")
        for index, item in enumerate(steps)
    )
    _PROGRAMS[cls] = (steps, program)
    return program


class _AnyParams(BaseModel):
    """Parameters of a workflow that declares none: any; the schema says what its first step takes.

    They are not checked against that: the first step does so, and its hooks may come before.
    """

    model_config = ConfigDict(extra="allow")

    __jido_workflow__: ClassVar[type[Workflow]]

    @classmethod
    def __get_pydantic_json_schema__(cls, _: Any, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        schema: dict[str, Any] = {"type": "object", "properties": {}}
        first, settled = _first_of(_program(cls.__jido_workflow__)[0])
        if first is not None:
            taken = handler.resolve_ref_schema(handler(first.work._params.adapter.core_schema))
            schema |= _without(taken, settled, first)
        return {**schema, "title": "Params", "additionalProperties": True}


def _first_of(node: Node) -> tuple[ActionSpec | None, dict[str, Any]]:
    """The action that surely comes first, None when nobody knows; and what it is given already."""
    settled: dict[str, Any] = {}
    while True:
        while isinstance(node, Series) and node.nodes:
            node = node.nodes[0]
        if not isinstance(node, Single):
            return None, settled
        settled.update(node.step.params)
        target = node.step.spec.target
        if not _is_open(getattr(target, "Params", None)):
            return node.step.spec, settled
        node = _program(target)[0]


def _without(
    schema: Mapping[str, Any], settled: Mapping[str, Any], spec: ActionSpec
) -> dict[str, Any]:
    """The schema of the action's parameters without what is settled; with a function's defaults."""
    documented = spec.input_schema().get("properties", {})
    properties = {}
    for name, one in schema.get("properties", {}).items():
        if name not in settled:
            known = documented.get(name, {})
            properties[name] = {**one, "default": known["default"]} if "default" in known else one
    required = [name for name in schema.get("required", ()) if name not in settled]
    found = {**schema, "properties": properties, "required": required}
    return found if required else {key: found[key] for key in found if key != "required"}


def _is_open(params: Any) -> bool:
    return isinstance(params, type) and issubclass(params, _AnyParams)


def _define(cls: type[Workflow]) -> None:
    """Compiles the steps; gives the class its `run`, and the parameters its author left open."""
    try:
        _program(cls)
    except (InvalidInputError, NotRegisteredError) as error:
        raise ConfigError(error.message, **error.details) from None
    cls.run = _run  # type: ignore[method-assign]
    params = getattr(cls, "Params", None)
    if params is not None and not _is_open(params):
        return
    names = {"__module__": cls.__module__, "__qualname__": f"{cls.__qualname__}.Params"}
    made: Any = type("Params", (_AnyParams,), names)
    made.__jido_workflow__ = cls
    cls.Params = made  # type: ignore[attr-defined]
