"""OpenTelemetry spans of what runs in this process: ``pip install 'jido-cluster[otel]'``.

    from jido_cluster import tracing

    tracing.attach()             # to the tracer provider that OpenTelemetry knows

Each attempt to run an action or handler is a span, its parent whoever started the run: another
attempt, here or on another node, or else the span around the call. An attempt's ``ctx.trace`` is
its span, so that what it calls, by this library or with that header, continues the trace; and its
span is the current one inside, so that what other instrumentation records there becomes its child.
A run that is refused, and one of `on_error`, are spans too.

Names are those of actions; attributes are the metadata of the events, prefixed "jido.". No
parameter, result or message is among them.
"""

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from jido_cluster import telemetry
from jido_cluster.errors import ConfigError
from jido_cluster.exec.context import Context, current_context, is_traceparent

if TYPE_CHECKING:
    from opentelemetry.context import Context as OtelContext
    from opentelemetry.trace import Span, TracerProvider

__all__ = ["attach", "detach"]

NAME: Final = "jido.tracing"
_EVENTS: Final = tuple(
    f"jido.exec.{event}" for event in ("start", "stop", "exception", "compensate")
)


def attach(tracer_provider: "TracerProvider | None" = None) -> None:
    """From now on attempts are spans; of two calls the later counts.

    Args:
        tracer_provider: Makes the spans; None for the one that OpenTelemetry knows.

    Raises:
        ConfigError: The package opentelemetry-api is missing. Nothing changed.
    """
    global _attached  # noqa: PLW0603 - one for each process, as its telemetry
    try:
        spans = _Spans(tracer_provider)
    except ImportError as error:
        raise ConfigError(
            "tracing needs the package opentelemetry-api: pip install 'jido-cluster[otel]'"
        ) from error
    detach()
    telemetry.attach_many(NAME, _EVENTS, spans.hear)
    _attached = spans


def detach() -> bool:
    """Ends it, and the spans that are open; False when it was not attached."""
    global _attached  # noqa: PLW0603 - see above
    if _attached is not None:
        _attached.end_all()
        _attached = None
    return telemetry.detach(NAME)


_attached: "_Spans | None" = None


class _Spans:
    """The listener: makes the spans of one provider, and keeps those that are open."""

    def __init__(self, provider: "TracerProvider | None") -> None:
        from opentelemetry import context, trace

        self._otel = context
        self._trace = trace
        self._tracer = trace.get_tracer("jido_cluster", tracer_provider=provider)
        # By the identity of the run's context, which lives as long as its attempt: its span, and
        # what was current around it.
        self._open: dict[int, tuple[Span, OtelContext]] = {}

    def hear(
        self, event: str, measurements: Mapping[str, float], metadata: Mapping[str, Any]
    ) -> None:
        """The listener of all events."""
        context = current_context()
        assert context is not None, "every event of the Exec core is told within its run"
        if event == "jido.exec.start":
            self._begin(context, measurements, metadata)
            return
        found = None if event == "jido.exec.compensate" else self._open.pop(id(context), None)
        if found is None:
            # Refused before it began, or begun before this was attached, or `on_error`.
            end = time.time_ns()
            span = self._make(
                context, measurements, metadata, end - int(measurements["duration"] * 1e9)
            )
        else:
            span, around = found
            # Not by the token of `attach`: a coroutine closed elsewhere could not give it back.
            self._otel.attach(around)
        if "queue" in measurements:
            span.set_attribute("jido.queue", measurements["queue"])
        self._end(span, metadata)

    def end_all(self) -> None:
        """Ends what is open: nobody will hear of its end."""
        for span, _ in list(self._open.values()):
            span.end()

    def _begin(
        self, context: Context, measurements: Mapping[str, float], metadata: Mapping[str, Any]
    ) -> None:
        caller = context.caller_trace()
        span = self._make(context, measurements, metadata, None)
        around = self._otel.get_current()
        self._open[id(context)] = span, around
        self._otel.attach(self._trace.set_span_in_context(span, around))
        own = span.get_span_context()
        if own.is_valid:
            flags = int(own.trace_flags)
            context.adopt(f"00-{own.trace_id:032x}-{own.span_id:016x}-{flags:02x}", caller)

    def _make(
        self,
        context: Context,
        measurements: Mapping[str, float],
        metadata: Mapping[str, Any],
        start: int | None,
    ) -> "Span":
        attributes: dict[str, Any] = {
            f"jido.{key}": value
            for key, value in metadata.items()
            if key != "error_kind" and isinstance(value, str | int | float)
        }
        attributes["jido.attempt"] = measurements["attempt"]
        return self._tracer.start_span(
            metadata["action"],
            context=self._around(context.caller_trace()),
            attributes=attributes,
            start_time=start,
        )

    def _around(self, caller: str | None) -> "OtelContext":
        """The surroundings of a span whose parent is this traceparent; as they are, for none."""
        around = self._otel.get_current()
        if caller is None or not is_traceparent(caller):
            return around
        _, trace_id, span_id, flags = caller.split("-")[:4]
        current = self._trace.get_current_span(around).get_span_context()
        if f"{current.span_id:016x}" == span_id:
            return around
        parent = self._trace.SpanContext(
            int(trace_id, 16),
            int(span_id, 16),
            is_remote=True,
            trace_flags=self._trace.TraceFlags(int(flags, 16)),
        )
        return self._trace.set_span_in_context(self._trace.NonRecordingSpan(parent), around)

    def _end(self, span: "Span", metadata: Mapping[str, Any]) -> None:
        kind = metadata.get("error_kind")
        # That of `on_error` is the error it was called for, which is none of its own.
        if kind is not None and not metadata.get("compensated"):
            span.set_attribute("error.type", kind)
            span.set_status(self._trace.Status(self._trace.StatusCode.ERROR, kind))
        span.end()
