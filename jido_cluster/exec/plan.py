"""Plans: steps with dependencies, as a value. `jido_cluster.exec.plan_run` runs them.

    plan = (
        Plan()
        .add("probe", Probe)
        .add("video", Encode, lambda done: {"seconds": done["probe"].seconds}, depends_on=["probe"])
        .add("cover", Cover, {"width": 320}, depends_on=["probe"])
        .add("pack", Pack, depends_on=["video", "cover"])
    )
    result = await run_plan(plan, {"path": "in.mkv"}, max_concurrency=4)
    result.results["pack"]

Results do not flow by themselves: a step that wants those of the steps it depends on takes its
parameters from a function of them. So no two results can hide each other, and what a step reads is
what it declares.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from inspect import iscoroutinefunction
from typing import Annotated, Any, Final, Literal, Self, Unpack, cast

from pydantic import BaseModel, PlainSerializer
from pydantic_core import from_json, to_json

from jido_cluster.errors import ConfigError
from jido_cluster.exec.instruction import Instruction, given, instruction_of
from jido_cluster.exec.options import RunOptions, check_options, nearest

__all__ = ["Plan", "PlanResult", "PlanStep", "StepStatus", "check_graph", "dependents_of", "listed"]

StepStatus = Literal["succeeded", "failed", "skipped", "cancelled"]
Compute = Callable[[Mapping[str, Any]], Mapping[str, Any]]

_NAMED_AT_MOST: Final = 10


def _jsonable(results: Mapping[str, Any]) -> Any:
    # As results travel otherwise; infinities as texts, since JSON libraries differ about numbers.
    return from_json(to_json(results, bytes_mode="base64", inf_nan_mode="strings"))


@dataclass(frozen=True)
class PlanResult:
    """What became of a plan. To keep it as JSON: pydantic's ``TypeAdapter(PlanResult)``.

    Attributes:
        results: Result of each step that succeeded, by its name, in the plan's order.
        statuses: How each step ended, in the plan's order; "skipped" are those that never began,
            because one that they depend on did not succeed.
    """

    results: Annotated[Mapping[str, Any], PlainSerializer(_jsonable, when_used="json")]
    statuses: Mapping[str, StepStatus]


@dataclass(frozen=True, slots=True)
class PlanStep:
    """One step of a plan; its instruction holds what is known beforehand.

    Attributes:
        name: Names the step in the plan.
        instruction: What to run.
        compute: Makes further parameters from the results of `depends_on`; None for none.
        depends_on: Names of the steps that must have succeeded, in the author's order; distinct.
    """

    name: str
    instruction: Instruction
    compute: Compute | None
    depends_on: tuple[str, ...]


class Plan:
    """Steps that depend on each other. Adding changes it; running it does not."""

    def __init__(self, *, context: Mapping[str, Any] | None = None) -> None:
        """Takes data for the `ctx` of every step, which it copies."""
        self._context: Mapping[str, Any] = dict(given(context, "context"))
        self._steps: dict[str, PlanStep] = {}

    def __repr__(self) -> str:
        return f"<Plan steps: {listed(list(self._steps))}>"

    def add(
        self,
        step: str,
        action: Any,
        params: Mapping[str, Any] | Compute | None = None,
        *,
        depends_on: Sequence[str] = (),
        **options: Unpack[RunOptions],
    ) -> Self:
        """Adds a step and returns the plan.

        Args:
            step: Its name, not used yet.
            action: An action, in any form of `Instruction`; what follows wins over its parts.
            params: Its parameters, or a function that makes them when the step begins: it is called
                with the results of ``depends_on`` by name, on the loop, and should be quick.
            depends_on: Names of steps that have to succeed before this one begins; they may be
                added later.
            **options: As for `run`.

        Raises:
            ConfigError: The name is taken or ill, the step depends on itself, ``action`` is none,
                or an option is unknown or ill; the plan is as before.
            InvalidInputError: ``params`` are neither a mapping nor a function.
            NotRegisteredError: ``action`` is a name that nothing here has.
        """
        where = f"step {step!r}"
        self._check(step, depends_on, where)
        instruction = instruction_of(action, where)
        compute: Compute | None = None
        if callable(params) and not isinstance(params, Mapping | BaseModel):
            if iscoroutinefunction(params):
                raise ConfigError(
                    f"{where}: the function of its params is async: make it a plain one, and let a "
                    f"step of its own do the waiting"
                )
            compute, params = params, None
        self._steps[step] = PlanStep(
            step,
            Instruction(
                instruction.action,
                {**instruction.params, **given(params, f"{where}: params")},
                instruction.context,
                cast("RunOptions", {**instruction.options, **check_options(options, owner=where)}),
            ),
            compute,
            tuple(dict.fromkeys(depends_on)),
        )
        return self

    def _check(self, name: Any, depends_on: Any, where: str) -> None:
        if not isinstance(name, str) or not name:
            raise ConfigError(f"a step's name must be a text, not {name!r}")
        if name in self._steps:
            raise ConfigError(f"{where} is in the plan already: give this one another name")
        if not isinstance(depends_on, Collection) or isinstance(depends_on, str):
            raise ConfigError(f"{where}: depends_on={depends_on!r}: it must be a list of names")
        if not all(isinstance(one, str) for one in depends_on):
            raise ConfigError(f"{where}: depends_on={depends_on!r}: names of steps are texts")
        if name in depends_on:
            raise ConfigError(f"{where} depends on itself: {name} -> {name}")


def check_graph(steps: Mapping[str, PlanStep]) -> None:
    """Does nothing when every dependency is a step, and none waits for itself.

    Raises:
        ConfigError: A dependency is unknown; or there is a cycle, which the message prints.
    """
    for step in steps.values():
        for one in step.depends_on:
            if one not in steps:
                hint = nearest(one, steps)
                raise ConfigError(
                    f"step {step.name!r} depends on {one!r}, which the plan does not have; {hint}",
                    step=step.name,
                    unknown=one,
                )
    cycle = _cycle(steps)
    if cycle:
        path = " -> ".join(cycle)
        raise ConfigError(f"steps wait for each other in a circle: {path}", cycle=cycle)


def _cycle(steps: Mapping[str, PlanStep]) -> list[str]:
    """Names along a cycle, each depending on the next, the first one again at the end; or none."""
    dependents = dependents_of(steps)
    waiting = {name: len(step.depends_on) for name, step in steps.items()}
    free = [name for name, count in waiting.items() if not count]
    while free:
        name = free.pop()
        del waiting[name]
        for one in dependents[name]:
            waiting[one] -= 1
            if not waiting[one]:
                free.append(one)
    if not waiting:
        return []
    # Each of the rest waits for another of the rest, so that the walk must come back to itself.
    name = next(iter(waiting))
    path: dict[str, None] = {}
    while name not in path:
        path[name] = None
        name = next(one for one in steps[name].depends_on if one in waiting)
    names = list(path)
    return [*names[names.index(name) :], name]


def dependents_of(steps: Mapping[str, PlanStep]) -> dict[str, list[str]]:
    """Names of the steps that depend on each step directly, in the plan's order."""
    dependents: dict[str, list[str]] = {name: [] for name in steps}
    for step in steps.values():
        for one in step.depends_on:
            dependents[one].append(step.name)
    return dependents


def listed(names: Sequence[str]) -> str:
    """The names for a message, some of them when they are many."""
    shown = ", ".join(names[:_NAMED_AT_MOST]) or "none"
    more = len(names) - _NAMED_AT_MOST
    return f"{shown} and {more} more" if more > 0 else shown
