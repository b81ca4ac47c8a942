"""Recorded spans are what the SDK's would be, up to the bytes that are exported."""

from collections.abc import Callable

import pytest
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import Link, SpanKind, Status, StatusCode, Tracer, get_current_span

from relaygr.telemetry import context_of, link_of, names
from relaygr.telemetry.recording import ATTRIBUTES_MAX, RecordingTracer

SAMPLED = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
UNSAMPLED = SAMPLED.removesuffix("01") + "00"
RESOURCE = Resource({"service.name": "s", "service.instance.id": "i"})


def recording(sample_ratio: float = 1.0) -> tuple[RecordingTracer, InMemorySpanExporter]:
    spans = InMemorySpanExporter()
    return RecordingTracer(RESOURCE, [SimpleSpanProcessor(spans)], sample_ratio), spans


def of_the_sdk() -> tuple[Tracer, InMemorySpanExporter]:
    spans = InMemorySpanExporter()
    provider = TracerProvider(resource=RESOURCE, shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(spans))
    return provider.get_tracer("relaygr"), spans


def plain(tracer: Tracer) -> None:
    tracer.start_span("plain", context=context_of(SAMPLED), start_time=5).end(9)


def full(tracer: Tracer) -> None:
    link = link_of(SAMPLED)
    assert link is not None
    attributes = {names.ATTR_RANK_TIER: "DRAM", names.ATTR_RANK_PSI_TOKENS: 7, names.ATTR_RANK_QUEUE_MS: 0.5, "b": True}
    span = tracer.start_span("full", context_of(SAMPLED), SpanKind.SERVER, attributes, [link], 5)
    span.set_attribute(names.ATTR_RANK_TIER, "FULL")
    span.set_attributes({names.ATTR_REQUEST_ID: "q"})
    span.add_link(link.context, {names.ATTR_LINK_KIND: "psi_producer"})
    span.add_event("thing", {"a": 1}, 6)
    span.update_name("fuller")
    span.set_status(Status(StatusCode.ERROR, "broke"))
    span.end(9)


def told(tracer: Tracer) -> None:
    span = tracer.start_span("told", context_of(SAMPLED), start_time=5)
    span.set_status(StatusCode.OK)
    span.set_status(StatusCode.ERROR, "too late")
    span.set_status(StatusCode.UNSET)
    span.end(9)


@pytest.mark.parametrize("make", [plain, full, told])
def test_what_is_exported_is_what_the_sdks_span_would_be(make: Callable[[Tracer], None]) -> None:
    encoded = []
    for tracer, spans in (recording(), of_the_sdk()):
        make(tracer)
        message = encode_spans(spans.get_finished_spans())
        (span,) = message.resource_spans[0].scope_spans[0].spans
        assert len(span.span_id) == 8
        span.span_id = b""
        # The SDK puts an attribute that is set again last.
        span.attributes.sort(key=lambda pair: pair.key)
        encoded.append(message)
    assert encoded[0] == encoded[1]


def test_an_exception_ends_the_span_as_an_error_and_is_noted() -> None:
    noted = []
    for tracer, spans in (recording(), of_the_sdk()):
        with pytest.raises(ValueError, match="no"), tracer.start_as_current_span("s"):
            raise ValueError("no")
        (span,) = spans.get_finished_spans()
        (event,) = span.events
        assert "Traceback" in str(event.attributes["exception.stacktrace"])
        kept = {key: value for key, value in event.attributes.items() if key != "exception.stacktrace"}
        noted.append((event.name, kept, span.status.status_code, span.status.description))
    assert noted[0] == noted[1]


def test_an_exception_is_not_noted_where_that_was_asked() -> None:
    tracer, spans = recording()
    with pytest.raises(ValueError, match="no"):
        with tracer.start_as_current_span("s", record_exception=False, set_status_on_exception=False):
            raise ValueError("no")
    (span,) = spans.get_finished_spans()
    assert not span.events and span.status.status_code is StatusCode.UNSET


def test_a_span_is_current_in_its_block_and_parent_of_those_within() -> None:
    tracer, spans = recording()
    with tracer.start_as_current_span("outer") as outer:
        assert get_current_span() is outer
        tracer.start_span("inner").end()
    assert not get_current_span().get_span_context().is_valid
    inner, ended = spans.get_finished_spans()
    assert inner.parent == ended.context == outer.get_span_context() and ended.parent is None
    assert inner.context.trace_id == ended.context.trace_id and inner.context.span_id != ended.context.span_id


def test_a_block_may_leave_its_span_open() -> None:
    tracer, spans = recording()
    with tracer.start_as_current_span("s", end_on_exit=False) as span:
        pass
    assert span.is_recording() and not spans.get_finished_spans()


def test_a_span_ends_once_and_stays_as_it_was() -> None:
    tracer, spans = recording()
    span = tracer.start_span("s", attributes={"a": 1})
    span.end(7)
    span.end(8)
    span.set_attribute("a", 2)
    span.set_attributes({"b": 2})
    span.add_event("late")
    span.update_name("late")
    span.set_status(StatusCode.ERROR)
    link = link_of(SAMPLED)
    assert link is not None
    span.add_link(link.context)
    (ended,) = spans.get_finished_spans()
    assert not span.is_recording() and ended.end_time == 7
    assert (ended.name, dict(ended.attributes or {}), list(ended.events), list(ended.links)) == ("s", {"a": 1}, [], [])
    assert ended.status.status_code is StatusCode.UNSET


def test_attributes_are_the_spans_own() -> None:
    tracer, spans = recording()
    shared, links = {"a": 1}, [Link(tracer.start_span("other").get_span_context())]
    one, other = (tracer.start_span("s", attributes=shared, links=links) for _ in range(2))
    one.set_attribute("a", 2)
    one.add_link(links[0].context)
    other.end()
    (ended,) = spans.get_finished_spans()
    assert ended.attributes == shared == {"a": 1} and len(ended.links) == len(links) == 1


def test_attributes_are_bounded_and_what_is_dropped_is_counted() -> None:
    tracer, spans = recording()
    span = tracer.start_span("s")
    for number in range(ATTRIBUTES_MAX + 3):
        span.set_attribute(f"a{number}", number)
    span.set_attribute("a0", "again")
    span.end()
    (ended,) = spans.get_finished_spans()
    assert len(ended.attributes or {}) == ATTRIBUTES_MAX and ended.dropped_attributes == 3
    assert (ended.attributes or {})["a0"] == "again"


def test_who_began_a_trace_decides_whether_it_is_recorded() -> None:
    for ratio in (0.0, 1.0):
        tracer, spans = recording(ratio)
        tracer.start_span("a", context_of(SAMPLED)).end()
        unsampled = tracer.start_span("b", context_of(UNSAMPLED))
        unsampled.end()
        assert [span.name for span in spans.get_finished_spans()] == ["a"]
        assert format(unsampled.get_span_context().trace_id, "032x") == UNSAMPLED.split("-")[1]
        assert not unsampled.get_span_context().trace_flags.sampled


def test_a_share_of_the_traces_begun_here_is_recorded_whole_or_not_at_all() -> None:
    tracer, spans = recording(0.25)
    for _ in range(1000):
        with tracer.start_as_current_span("outer"):
            tracer.start_span("inner").end()
    outer = {span.context.trace_id for span in spans.get_finished_spans() if span.name == "outer"}
    inner = {span.context.trace_id for span in spans.get_finished_spans() if span.name == "inner"}
    assert outer == inner and 150 < len(outer) < 350


def test_a_tracestate_is_handed_to_children() -> None:
    from relaygr.telemetry.trace_context import extract

    tracer, _ = recording()
    context = extract({"traceparent": SAMPLED, "tracestate": "vendor=1"})
    assert tracer.start_span("s", context).get_span_context().trace_state == {"vendor": "1"}
