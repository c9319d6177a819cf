"""Running a plan: each step begins as soon as its own dependencies have succeeded.

There are no waves: a slow step holds up those that depend on it, and nobody else. When one fails,
all that depends on it, however far, is skipped; everything else goes on, so that a resumed plan has
as little left to do as can be. Steps that the limit makes wait begin in the order of the plan.
"""

import asyncio
import heapq
from collections.abc import Mapping
from typing import Any, Unpack

from pydantic_core import PydanticSerializationError, to_json

from jido_cluster.errors import (
    InvalidInputError,
    InvalidOutputError,
    JidoError,
    PlanError,
    RunCancelledError,
)
from jido_cluster.exec.context import Context
from jido_cluster.exec.events import tell_rejected
from jido_cluster.exec.failures import wrap
from jido_cluster.exec.instruction import given
from jido_cluster.exec.options import RunOptions, check_options, nearest
from jido_cluster.exec.plan import (
    Plan,
    PlanResult,
    PlanStep,
    StepStatus,
    check_graph,
    dependents_of,
    listed,
)
from jido_cluster.exec.retry import is_retryable
from jido_cluster.exec.runner import context_of
from jido_cluster.exec.steps import Step, check_concurrency, prepare
from jido_cluster.exec.work import Work

__all__ = ["run_plan"]


async def run_plan(
    plan: Plan,
    params: Mapping[str, Any] | None = None,
    context: Mapping[str, Any] | None = None,
    *,
    max_concurrency: int | None = None,
    resume: PlanResult | None = None,
    **options: Unpack[RunOptions],
) -> PlanResult:
    """Runs the steps of a plan, at once where their dependencies allow, and returns their results.

    Args:
        plan: What to run; checked as a whole before anything runs. Steps added meanwhile are not
            part of it.
        params: Parameters of every step; a step's own win. A step that knows only certain names
            gets only those of them.
        context: Data for the `ctx` of every step; they win over the plan's, a step's own over both.
        max_concurrency: How many steps may run at once, >= 1; None for no limit.
        resume: How an earlier run of the plan ended (`PlanError.result`): what succeeded in it is
            not run again. One that has been JSON gets back the types that the actions declare.
        **options: As for `run`, for each step that says nothing itself.

    Raises:
        ConfigError: A dependency is unknown, steps wait for each other in a circle, or an option is
            unknown or ill; nothing ran.
        InvalidInputError: ``params`` or ``context`` is no mapping, or ``resume`` does not belong to
            this plan; nothing ran.
        PlanError: A step failed, and the rest is done or skipped. ``.result`` tells of all of them;
            of the details ``error`` is what failed first and ``errors`` has each by its step.
        asyncio.CancelledError: The task was cancelled; no step goes on.
    """
    steps = dict(plan._steps)
    check_graph(steps)
    check_concurrency(max_concurrency)
    checked = check_options(options)
    prepared = {
        name: prepare(step.instruction, f"step {name!r}", checked) for name, step in steps.items()
    }
    done = {} if resume is None else _kept(resume, prepared)
    values = dict(given(params, "params"))
    own = context_of(context)
    own.attempt = 1
    own.data = {**plan._context, **own.data}
    running = _Running(steps, prepared, done, values, own, max_concurrency)
    await running.all()
    return running.result()


class _Running:
    """One run of a plan.

    Invariants: a step is in exactly one of waiting, ready, running and settled (`_statuses`). It is
    ready when all its dependencies have succeeded. At most `_limit` run at once.
    """

    def __init__(
        self,
        steps: Mapping[str, PlanStep],
        prepared: Mapping[str, Step],
        done: Mapping[str, Any],
        values: Mapping[str, Any],
        context: Context,
        limit: int | None,
    ) -> None:
        self._steps = steps
        self._prepared = prepared
        self._values = values
        self._context = context
        self._limit = len(steps) if limit is None else limit
        self._results = dict(done)
        self._statuses: dict[str, StepStatus] = dict.fromkeys(done, "succeeded")
        self._errors: dict[str, JidoError] = {}
        self._dependents = dependents_of(steps)
        self._names = list(steps)
        self._place = {name: index for index, name in enumerate(steps)}
        self._missing = {
            name: sum(one not in done for one in step.depends_on) for name, step in steps.items()
        }
        self._ready = [  # a heap of places: the order of the plan decides who is next
            self._place[name]
            for name, count in self._missing.items()
            if not count and name not in done
        ]
        self._active = 0
        self._ended = asyncio.Event()
        self._is_stopping = False

    async def all(self) -> None:
        """Runs what there is to run; returns when every step is settled."""
        async with asyncio.TaskGroup() as group:
            self._launch(group)
            try:
                await self._ended.wait()
            except asyncio.CancelledError:
                self._is_stopping = True
                raise

    def result(self) -> PlanResult:
        """What became of the plan.

        Raises:
            PlanError: A step did not succeed.
        """
        result = PlanResult(
            {name: self._results[name] for name in self._names if name in self._results},
            {name: self._statuses[name] for name in self._names},
        )
        if not self._errors:
            return result
        name, first = next(iter(self._errors.items()))
        message = f"step {name!r} ({self._prepared[name].spec.name}) failed: {first.message}"
        others = list(self._errors)[1:]
        skipped = [one for one in self._names if self._statuses[one] == "skipped"]
        if others:
            message += f"; failed too: {listed(others)}"
        if skipped:
            message += f"; skipped: {listed(skipped)}"
        raise PlanError(
            message,
            retryable=all(error.retryable for error in self._errors.values()),
            step=name,
            error=first,
            errors=self._errors,
            result=result,
        ) from first

    def _launch(self, group: asyncio.TaskGroup) -> None:
        while self._ready and self._active < self._limit:
            name = self._names[heapq.heappop(self._ready)]
            self._active += 1
            group.create_task(self._run(name, group), name=f"step {name}")
        if not self._active:
            self._ended.set()

    async def _run(self, name: str, group: asyncio.TaskGroup) -> None:
        try:
            result = await self._start(name)
        except JidoError as error:
            self._fail(name, error)
        except asyncio.CancelledError:
            # By the whole being cancelled, or by the step's own doing; the others go on then.
            self._fail(name, RunCancelledError(f"step {name!r} was cancelled", step=name))
            raise
        else:
            self._succeed(name, result)
        finally:
            self._active -= 1
            if not self._is_stopping:
                self._launch(group)

    async def _start(self, name: str) -> Any:
        step = self._prepared[name]
        try:
            more = self._computed(self._steps[name])
        except JidoError as error:
            tell_rejected(step.spec.work, self._context.for_run(self._context.data), error)
            raise
        return await step.run(self._values, self._context, more)

    def _computed(self, step: PlanStep) -> Mapping[str, Any]:
        """What the step's function makes of the results of its dependencies."""
        if step.compute is None:
            return {}
        results = _Results(step.name, {one: self._results[one] for one in step.depends_on})
        try:
            computed = step.compute(results)
        except JidoError:
            raise
        except (Exception, SystemExit) as error:
            name = f"the function for the params of step {step.name!r}"
            raise wrap(name, error, retryable=is_retryable(error)) from error
        return given(computed, f"step {step.name!r}: what the function of its params returned")

    def _succeed(self, name: str, result: Any) -> None:
        self._results[name] = result
        self._statuses[name] = "succeeded"
        for one in self._dependents[name]:
            self._missing[one] -= 1
            if not self._missing[one] and one not in self._statuses:
                heapq.heappush(self._ready, self._place[one])

    def _fail(self, name: str, error: JidoError) -> None:
        self._errors[name] = error
        self._statuses[name] = "cancelled" if isinstance(error, RunCancelledError) else "failed"
        doomed = list(self._dependents[name])
        while doomed:
            one = doomed.pop()
            if one not in self._statuses:
                self._statuses[one] = "skipped"
                doomed += self._dependents[one]


class _Results(dict[str, Any]):
    """Results of a step's dependencies; says what to do about a name that is not there."""

    def __init__(self, step: str, results: Mapping[str, Any]) -> None:
        super().__init__(results)
        self._step = step

    def __missing__(self, name: str) -> Any:
        raise InvalidInputError(
            f"step {self._step!r}: its params need the result of {name!r}: add that to its "
            f"depends_on={list(self)}"
        )


def _kept(resume: PlanResult, prepared: Mapping[str, Step]) -> dict[str, Any]:
    """Results of the steps that are done already, as the types their actions declare.

    Raises:
        InvalidInputError: It is no result of a plan with these steps.
    """
    given_as: Any = resume
    if not isinstance(given_as, PlanResult):
        raise InvalidInputError(
            f"resume must be a PlanResult, not {type(given_as).__name__}; from JSON: "
            f"TypeAdapter(PlanResult).validate_json(...)"
        )
    kept = {}
    for name, status in resume.statuses.items():
        step = prepared.get(name)
        if step is None:
            hint = nearest(name, prepared)
            raise InvalidInputError(f"resume: the plan has no step {name!r}; {hint}", step=name)
        if status != "succeeded":
            continue
        if name not in resume.results:
            raise InvalidInputError(
                f"resume: step {name!r} succeeded, but has no result", step=name
            )
        try:
            kept[name] = _restored(step.spec.work, resume.results[name])
        except (InvalidOutputError, PydanticSerializationError) as error:
            raise InvalidInputError(f"resume: step {name!r}: {error}", step=name) from error
    return kept


def _restored(work: Work, result: Any) -> Any:
    """The result itself where it has its declared type; else it has been JSON, and gets it back."""
    try:
        work._result.validate_python(result, strict=True)
    except Exception:  # noqa: BLE001 - a user's validator may raise anything
        return work.load_result(to_json(result, bytes_mode="base64", inf_nan_mode="constants"))
    return result
