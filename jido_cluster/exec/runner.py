"""From a specification and what a caller gave to a run: arguments, context, options, outcome."""

from collections.abc import Callable, Coroutine, Mapping
from dataclasses import replace
from typing import Any

from jido_cluster.errors import InvalidInputError, JidoError
from jido_cluster.exec.context import CURRENT, Context
from jido_cluster.exec.definition import ActionSpec
from jido_cluster.exec.engine import execute, tell_rejected
from jido_cluster.exec.failures import wrap
from jido_cluster.exec.options import ResolvedOptions, check_options
from jido_cluster.exec.outcome import Outcome

__all__ = ["context_of", "options_of", "outcome_of", "run_spec"]

Arguments = tuple[tuple[Any, ...], dict[str, Any]]


def context_of(data: Mapping[str, Any] | None) -> Context:
    """The context of a new run, inside the run that is going on here, when there is one.

    Raises:
        InvalidInputError: ``data`` is no mapping.
    """
    if data is not None and not isinstance(data, Mapping):
        raise InvalidInputError(f"context must be a mapping, not {type(data).__name__}")
    if isinstance(data, Context):
        return data.for_run(data.data)
    outer = CURRENT.get()
    if outer is not None:
        return outer.for_run(data)
    return Context(attempt=0) if data is None else Context(data, attempt=0)


def options_of(spec: ActionSpec, options: Mapping[str, Any]) -> ResolvedOptions:
    """The options of one run of an action: its own, where ``options`` are silent.

    Raises:
        ConfigError: An unknown name or an ill value.
    """
    return replace(spec.options, **check_options(options)) if options else spec.options


async def run_spec(
    spec: ActionSpec,
    params: Any,
    context: Context,
    options: ResolvedOptions,
    *,
    load: Callable[[Any], Coroutine[Any, Any, Arguments]] | None = None,
    output: Callable[[Any], Any] | None = None,
) -> Any:
    """Checks the parameters, once, and runs the action.

    Args:
        spec: The action.
        params: Whatever ``load`` takes.
        context: The context of the run.
        options: How to run it.
        load: Makes checked arguments; None for the action's `ActionSpec.arguments`.
        output: Applied to the result in place of the action's own check.

    Raises:
        JidoError: As `jido_cluster.exec.engine.execute`, or the parameters do not fit.
    """
    try:
        args, kwargs = await (spec.arguments if load is None else load)(params)
    except JidoError as error:
        tell_rejected(spec.work, context, error)
        raise
    except Exception as error:
        # A hook or the constructor of the action; nothing ran that would need compensation.
        wrapped = wrap(spec.name, error, retryable=False)
        tell_rejected(spec.work, context, wrapped)
        raise wrapped from error
    return await execute(
        spec.work,
        args,
        kwargs,
        context,
        options,
        output=spec.output if output is None else output,
        compensation=spec.compensation,
    )


async def outcome_of(
    running: Coroutine[Any, Any, Any], context: Context, *, tag: str = "", node: str | None = None
) -> Outcome[Any]:
    """How a run ends, as data; ``running`` is the run, ``context`` its context.

    Raises:
        asyncio.CancelledError: The task was cancelled.
    """
    begun = context.clock()
    try:
        value = await running
    except JidoError as error:
        seconds = context.clock() - begun
        return Outcome.failed(
            error,
            run_id=context.run_id,
            tag=tag,
            attempts=context.attempt,
            seconds=seconds,
            node=node,
        )
    return Outcome(
        run_id=context.run_id,
        tag=tag,
        ok=True,
        value=value,
        attempts=context.attempt,
        seconds=context.clock() - begun,
        node=node,
    )
