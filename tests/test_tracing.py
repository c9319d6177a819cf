"""OpenTelemetry spans: their parents, names, attributes and ends."""

import asyncio
import builtins
import re
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from jido_cluster import telemetry, tracing
from jido_cluster.agent import Agent
from jido_cluster.errors import ConfigError, ExecutionError, InvalidInputError
from jido_cluster.exec import Action, Context, action, run, start
from jido_cluster.signals.handler import on
from jido_cluster.testing import LocalCluster

TRACE = "00-" + "1" * 32 + "-" + "2" * 16 + "-01"


class Spans:
    """What was exported."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.tracer = self.provider.get_tracer("test")

    def named(self, name: str) -> list[ReadableSpan]:
        found = self.exporter.get_finished_spans()
        return [span for span in found if span.name == name]

    def one(self, name: str) -> ReadableSpan:
        (span,) = self.named(name)
        return span


@pytest.fixture
def spans() -> Iterator[Spans]:
    """An exporter in memory, attached."""
    found = Spans()
    tracing.attach(found.provider)
    yield found
    tracing.detach()
    assert not telemetry.LISTENERS


def ids(span: ReadableSpan) -> tuple[int, int]:
    context = span.get_span_context()
    assert context is not None
    return context.trace_id, context.span_id


def parent(span: ReadableSpan) -> tuple[int, int] | None:
    return None if span.parent is None else (span.parent.trace_id, span.parent.span_id)


def ids_of(traceparent: str) -> tuple[int, int]:
    _, trace_id, span_id, _ = traceparent.split("-")
    return int(trace_id, 16), int(span_id, 16)


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


@action(name="tracing.inner")
def inner(ctx: Context) -> str:
    current = trace.get_current_span().get_span_context()
    assert ids_of(ctx.trace) == (current.trace_id, current.span_id)
    return ctx.trace


@action(name="tracing.outer")
async def outer(ctx: Context) -> list[str]:
    return [ctx.trace, await run(inner), await run(inner, None, ctx)]


@action(name="tracing.fails", max_retries=2, retry_delay=0.0)
async def fails(ctx: Context) -> None:
    raise ExecutionError("secret words", retryable=True)


def test_an_attempt_is_a_span(spans: Spans) -> None:
    """Named for the action, with the metadata of its events; `ctx.trace` is that span."""
    traces = asyncio.run(run(inner))
    span = spans.one("tracing.inner")
    assert ids(span) == ids_of(traces)
    assert span.parent is None
    assert span.status.status_code is StatusCode.UNSET
    found = attributes(span)
    assert re.match(r"run-", found.pop("jido.run_id"))
    assert found.pop("jido.queue") >= 0.0
    assert found == {"jido.action": "tracing.inner", "jido.version": "1", "jido.attempt": 1}
    assert span.end_time is not None
    assert span.start_time is not None
    assert span.end_time > span.start_time


def test_a_nested_run_is_a_child(spans: Spans) -> None:
    """By the context that is current or given; in threads too."""
    own, first, second = asyncio.run(run(outer))
    assert ids(spans.one("tracing.outer")) == ids_of(own)
    children = spans.named("tracing.inner")
    assert [ids(child) for child in children] == [ids_of(first), ids_of(second)]
    assert [parent(child) for child in children] == [ids_of(own)] * 2


def test_the_parent_is_the_callers_traceparent(spans: Spans) -> None:
    """Of the context that was given; each attempt is its child."""
    with pytest.raises(ExecutionError):
        asyncio.run(run(fails, None, Context(trace=TRACE)))
    found = spans.named("tracing.fails")
    assert [attributes(span)["jido.attempt"] for span in found] == [1, 2, 3]
    assert len({parent(span) for span in found}) == 1
    assert {ids(span)[0] for span in found} == {ids_of(TRACE)[0]}


def test_a_span_of_the_application_is_the_parent_of_what_it_runs(spans: Spans) -> None:
    """Without a traceparent; and what runs inside an action is a child of that."""

    @action(name="tracing.calls")
    async def calls() -> None:
        with spans.tracer.start_as_current_span("inside"):
            pass

    async def main() -> None:
        with spans.tracer.start_as_current_span("around") as around:
            await run(calls)
            assert trace.get_current_span() is around

    asyncio.run(main())
    assert parent(spans.one("tracing.calls")) == ids(spans.one("around"))
    assert parent(spans.one("inside")) == ids(spans.one("tracing.calls"))


def test_runs_at_once_are_siblings(spans: Spans) -> None:
    """Started in the background, they keep out of each other's way."""

    @action(name="tracing.both")
    async def both(ctx: Context) -> str:
        await asyncio.gather(start(inner), start(inner))
        return ctx.trace

    own = asyncio.run(run(both))
    assert [parent(span) for span in spans.named("tracing.inner")] == [ids_of(own)] * 2


def test_a_failure_marks_the_span(spans: Spans) -> None:
    """By its kind; the message may hold anything, and is left out."""
    with pytest.raises(ExecutionError):
        asyncio.run(run(fails))
    span = spans.named("tracing.fails")[-1]
    assert span.status.status_code is StatusCode.ERROR
    assert span.status.description == "execution_error"
    assert attributes(span)["error.type"] == "execution_error"
    assert "secret" not in span.to_json()


def test_a_refused_run_is_a_span(spans: Spans) -> None:
    """Though it never began; its parent is the caller all the same."""

    async def main() -> None:
        with spans.tracer.start_as_current_span("around"), pytest.raises(InvalidInputError):
            await run(inner, {"nope": 1})

    asyncio.run(main())
    span = spans.one("tracing.inner")
    assert parent(span) == ids(spans.one("around"))
    assert attributes(span)["error.type"] == "validation_error"
    assert attributes(span)["jido.attempt"] == 0


class Undo(Action, name="tracing.undo"):
    async def run(self, params: dict[str, bool], ctx: Context) -> None:
        raise ExecutionError("no")

    async def on_error(self, params: dict[str, bool], error: Exception, ctx: Context) -> None:
        if params:
            raise ValueError("cannot")


@pytest.mark.parametrize("breaks", [False, True])
def test_compensation_is_a_span_beside_the_attempts(spans: Spans, breaks: bool) -> None:
    """Marked when it failed itself, whatever it was called for."""
    data = {"break": True} if breaks else {}
    with pytest.raises(ExecutionError):
        asyncio.run(run(Undo, data, Context(trace=TRACE)))
    span = spans.one("tracing.undo.on_error")
    assert parent(span) == parent(spans.one("tracing.undo"))
    assert (span.status.status_code is StatusCode.ERROR) is breaks
    assert attributes(span)["jido.compensated"] is not breaks


class Relay(Agent, name="tracing.relay"):
    @on("tracing.ask")
    async def ask(self, to: str) -> list[str]:
        if not to:
            return [self.ctx.trace]
        ref = self.ctx.cluster.ref(Relay, to)
        return [self.ctx.trace, *await ref.call(Relay.ask, "")]


def test_calls_from_agent_to_agent_are_one_trace(spans: Spans) -> None:
    """The span of the called handler is a child of the calling one's, over the wire."""
    with LocalCluster.local(nodes=2) as cluster:
        cluster.spawn(Relay, "b")
        first, second = cluster.spawn(Relay, "a").call(Relay.ask, "b")
    children = {ids(span): parent(span) for span in spans.named("tracing.ask")}
    assert children[ids_of(second)] == ids_of(first)
    assert children[ids_of(first)] is None


def test_an_ill_traceparent_starts_a_trace(spans: Spans) -> None:
    """Nobody is its child, and the listener stays."""

    @action(name="tracing.ill")
    async def ill(ctx: Context) -> None: ...

    for bad in ("", "x", "00-" + "0" * 32 + "-" + "2" * 16 + "-01"):
        asyncio.run(run(ill, None, Nested(bad)))
    assert [span.parent for span in spans.named("tracing.ill")] == [None] * 3


class Nested(Context):
    """A context of a run whose caller's traceparent is this, as it came from the wire."""

    def __init__(self, trace: str) -> None:
        super().__init__(trace=trace)

    def for_run(self, data: Any) -> Context:
        return Context(data or {}, attempt=0, trace=self._parent)


def test_what_is_not_sampled_goes_on_unsampled(spans: Spans) -> None:
    """The flag of the caller counts, here and further on."""
    off = TRACE[:-2] + "00"
    made = asyncio.run(run(inner, None, Nested(off)))
    assert spans.exporter.get_finished_spans() == ()
    assert made.startswith(TRACE[:35])
    assert made.endswith("-00")


def test_without_an_sdk_traces_pass_through() -> None:
    """A provider that makes no spans leaves the caller's traceparent as it is."""
    tracing.attach(trace.NoOpTracerProvider())
    assert asyncio.run(run(plain, None, Nested(TRACE))) == TRACE
    assert ids_of(asyncio.run(run(plain)))[0] != 0
    assert tracing.detach()


@action(name="tracing.plain")
async def plain(ctx: Context) -> str:
    return ctx.trace


def test_attaching_again_replaces(spans: Spans) -> None:
    """The later provider gets the spans; detaching twice says so."""
    other = Spans()
    tracing.attach(other.provider)
    asyncio.run(run(plain))
    assert len(other.named("tracing.plain")) == 1
    assert spans.named("tracing.plain") == []
    assert tracing.detach()
    assert not tracing.detach()


def test_attached_and_detached_in_the_middle_of_a_run() -> None:
    """What has begun before gets a span at its end; what has not ended gets one that is ended."""
    found = Spans()

    @action(name="tracing.middle")
    async def middle(begun: bool) -> None:
        if begun:
            tracing.detach()
        else:
            tracing.attach(found.provider)

    telemetry.attach("ear", "jido.exec.start", lambda *_: None)  # so that events are told at all
    asyncio.run(run(middle, {"begun": False}))
    assert len(found.named("tracing.middle")) == 1
    asyncio.run(run(middle, {"begun": True}))
    assert len(found.named("tracing.middle")) == 2
    telemetry.detach("ear")


def test_without_the_package_attaching_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And changes nothing."""
    imported = builtins.__import__

    def refuse(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("opentelemetry"):
            raise ModuleNotFoundError(name)
        return imported(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ConfigError, match=r"pip install 'jido-cluster\[otel\]'"):
        tracing.attach()
    assert not telemetry.LISTENERS
