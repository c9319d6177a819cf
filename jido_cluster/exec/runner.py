"""From a specification and what a caller gave to a run: arguments, context, options, outcome."""

from collections.abc import Coroutine, Mapping
from dataclasses import replace
from typing import Any, Final, cast

from pydantic import BaseModel

from jido_cluster.errors import (
    ConfigError,
    FencedError,
    InvalidInputError,
    JidoError,
    RejectedError,
    RunCancelledError,
    UsageError,
)
from jido_cluster.exec.action import spec_of
from jido_cluster.exec.context import CURRENT, Context
from jido_cluster.exec.definition import ActionSpec
from jido_cluster.exec.engine import execute
from jido_cluster.exec.events import NO_META, tell_rejected
from jido_cluster.exec.failures import wrap
from jido_cluster.exec.options import ResolvedOptions, action_name, check_options
from jido_cluster.exec.outcome import Outcome

__all__ = ["context_of", "options_of", "outcome_of", "run_spec"]

# Failures that no other action mends.
_FINAL: Final = (InvalidInputError, ConfigError, UsageError, RunCancelledError, FencedError)


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


def run_spec(
    spec: ActionSpec,
    params: Any,
    context: Context,
    options: ResolvedOptions,
    *,
    as_json: bool = False,
    meta: Mapping[str, Any] = NO_META,
) -> Coroutine[Any, Any, Any]:
    """Checks the parameters, once, and runs the action; then its fallback, if it failed for good.

    Args:
        spec: The action.
        params: A model, a mapping, or None; JSON bytes when ``as_json``.
        context: The context of the run.
        options: How to run it.
        as_json: Give the result as JSON bytes, too.
        meta: More metadata for telemetry (the node, say).

    Raises:
        JidoError: As `jido_cluster.exec.engine.execute`, or the parameters do not fit.
    """
    # No coroutine of its own: on the way of every run that would cost time.
    run = _run if options.fallback is None else _run_with_fallback
    return run(spec, params, context, options, as_json, meta)


async def _run_with_fallback(
    spec: ActionSpec,
    params: Any,
    context: Context,
    options: ResolvedOptions,
    as_json: bool,
    meta: Mapping[str, Any],
) -> Any:
    limits = context.deadline, context.budget
    try:
        return await _run(spec, params, context, options, as_json, meta)
    except JidoError as error:
        context.deadline, context.budget = limits
        if not may_fall_back(error, context):
            raise
        failure = error
    return await _fall_back(spec, failure, options, params, context, as_json, meta)


def may_fall_back(error: JidoError, context: Context) -> bool:
    """Whether a fallback may make good what a run failed with.

    Not what the caller or author has to mend, not what was asked for, not a right that is lost; and
    not when the deadline has passed.
    """
    return not isinstance(error, _FINAL) and context.remaining() != 0.0


async def _fall_back(
    spec: ActionSpec,
    failure: JidoError,
    options: ResolvedOptions,
    params: Any,
    context: Context,
    as_json: bool,
    meta: Mapping[str, Any],
) -> Any:
    """The result of the fallback; of its own fallback when it fails in turn, and so on.

    One that fails has the failure before it in its details and, when it has no other, as its cause.
    One that did not even begin leaves that failure as it is, and is told of in its details.
    """
    tried = {spec.name}
    while True:
        told = {**meta, "fallback_of": spec.name}
        own = context.for_attempt(0, context.deadline)
        tried.add(cast("str", action_name(options.fallback)))
        try:
            spec = spec_of(options.fallback)
            options = spec.options
            given = params if as_json else _plain(params, spec)
            return await _run(spec, given, own, options, as_json, told)
        except JidoError as error:
            latest = error
        if isinstance(latest, RejectedError | ConfigError):
            failure.details["fallback_error"] = latest.to_dict()
        else:
            latest.details["fallback_of"] = failure.to_dict()
            if latest.__cause__ is None:
                latest.__cause__ = failure
            failure = latest
        following = action_name(options.fallback)
        if following is None or following in tried or not may_fall_back(latest, context):
            try:
                raise failure
            finally:
                del failure, latest  # their tracebacks hold this frame, which would hold them


def _plain(params: Any, spec: ActionSpec) -> Any:
    """The parameters for another action: of a model that is not its own, what was set."""
    model = spec.params_model
    if not isinstance(params, BaseModel) or (model is not None and isinstance(params, model)):
        return params
    return params.model_dump(by_alias=True, exclude_unset=True)


async def _run(
    spec: ActionSpec,
    params: Any,
    context: Context,
    options: ResolvedOptions,
    as_json: bool,
    meta: Mapping[str, Any],
) -> Any:
    try:
        args, kwargs = await (spec.load_arguments if as_json else spec.arguments)(params)
    except JidoError as error:
        tell_rejected(spec.work, context, error, meta)
        raise
    except Exception as error:
        # A hook or the constructor of the action; nothing ran that would need compensation.
        wrapped = wrap(spec.name, error, retryable=False)
        tell_rejected(spec.work, context, wrapped, meta)
        raise wrapped from error
    return await execute(
        spec.work,
        args,
        kwargs,
        context,
        options,
        output=spec.work.dump_result if as_json else spec.output,
        compensation=spec.compensation,
        meta=meta,
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
