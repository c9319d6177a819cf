"""What the Exec core tells telemetry: names, measurements and metadata of its events.

    start      attempt                              an attempt begins
    stop       duration, queue, attempt             it succeeded
    exception  duration, queue, attempt             it failed, or was refused before it began
    retry      delay, attempt                       another attempt follows, after ``delay``
    compensate duration, attempt                    `on_error` ran

    params     attempt                              as start, with the parameters
    result     attempt                              as stop, with the result

Durations are seconds. ``queue`` is the part of ``duration`` spent waiting for a thread or a worker
process; on the loop there is nothing to wait for. Metadata name the action, its version and run,
and the error's kind; never messages, and parameters and results only in the two events that exist
for them: whoever attaches to those has asked. There they are bounded, and redacted by the names of
their keys. Listeners find the run's context by `current_context`.
"""

from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final

from pydantic_core import from_json

from jido_cluster import telemetry
from jido_cluster.errors import JidoError, RunCancelledError
from jido_cluster.exec.context import CURRENT, Context
from jido_cluster.exec.work import Work

__all__ = [
    "NO_META",
    "tell_compensated",
    "tell_ended",
    "tell_params",
    "tell_rejected",
    "tell_result",
    "tell_retry",
    "tell_start",
]

START: Final = "jido.exec.start"
STOP: Final = "jido.exec.stop"
EXCEPTION: Final = "jido.exec.exception"
RETRY: Final = "jido.exec.retry"
COMPENSATE: Final = "jido.exec.compensate"
PARAMS: Final = "jido.exec.params"
RESULT: Final = "jido.exec.result"

NO_META: Final[Mapping[str, Any]] = {}


def tell_start(context: Context, metadata: Mapping[str, Any]) -> None:
    """An attempt begins."""
    _tell(START, context, {"attempt": context.attempt}, metadata)


def tell_params(
    work: Work,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    context: Context,
    metadata: Mapping[str, Any],
) -> None:
    """What an attempt gets, for those who asked."""
    if PARAMS in telemetry.LISTENERS:
        params = args[-1] if work.takes_context_last else kwargs
        told = {**metadata, "params": telemetry.redact(params)}
        _tell(PARAMS, context, {"attempt": context.attempt}, told)


def tell_result(
    value: object, output: object, context: Context, metadata: Mapping[str, Any]
) -> None:
    """What an attempt gave, for those who asked; ``output`` may have made JSON of it."""
    if RESULT in telemetry.LISTENERS:
        if output is not None and isinstance(value, bytes):
            with suppress(ValueError):
                value = from_json(value)
        told = {**metadata, "result": telemetry.redact(value)}
        _tell(RESULT, context, {"attempt": context.attempt}, told)


def tell_ended(
    context: Context,
    begun: float,
    queue: float,
    metadata: Mapping[str, Any],
    error: BaseException | None = None,
) -> None:
    """An attempt that began at ``begun`` has ended, with this error when there is one."""
    spent = {"duration": context.clock() - begun, "queue": queue, "attempt": context.attempt}
    if error is None:
        _tell(STOP, context, spent, metadata)
    else:
        _tell(EXCEPTION, context, spent, {**metadata, **kind_of(error)})


def tell_rejected(
    work: Work, context: Context, error: JidoError, meta: Mapping[str, Any] = NO_META
) -> None:
    """An attempt was refused before anything ran; of a run without any its number is 0."""
    if telemetry.LISTENERS:
        spent = {"duration": 0.0, "queue": 0.0, "attempt": context.attempt}
        _tell(EXCEPTION, context, spent, {**metadata_of(work, context, meta), **kind_of(error)})


def tell_retry(
    work: Work, context: Context, error: JidoError, pause: float, meta: Mapping[str, Any]
) -> None:
    """Another attempt follows the failed one."""
    if telemetry.LISTENERS:
        metadata = {**metadata_of(work, context, meta), **kind_of(error)}
        _tell(RETRY, context, {"delay": pause, "attempt": context.attempt}, metadata)


def tell_compensated(
    compensation: Work, context: Context, begun: float, error: JidoError, meta: Mapping[str, Any]
) -> None:
    """`on_error` has run; the error tells how that went."""
    if telemetry.LISTENERS:
        metadata = {**metadata_of(compensation, context, meta), **kind_of(error)}
        metadata["compensated"] = error.details["compensated"]
        spent = {"duration": context.clock() - begun, "attempt": context.attempt}
        _tell(COMPENSATE, context, spent, metadata)


def _tell(
    event: str, context: Context, measurements: Mapping[str, float], metadata: Mapping[str, Any]
) -> None:
    outer = CURRENT.get()
    CURRENT.set(context)
    telemetry.execute(event, measurements, metadata)
    CURRENT.set(outer)


def metadata_of(work: Work, context: Context, meta: Mapping[str, Any]) -> dict[str, Any]:
    """What every event of a run says."""
    return {"action": work.name, "version": work.version, "run_id": context.run_id, **meta}


def kind_of(error: BaseException) -> dict[str, Any]:
    """How an error shows in events."""
    if isinstance(error, JidoError):
        return {"error_kind": error.kind, "retryable": error.retryable}
    return {"error_kind": RunCancelledError.kind, "retryable": False}
