"""A process that exports nothing: traces pass through it, and begin in it, without a span."""

import pytest

from relaygr.telemetry import Telemetry, context_of, current_span, current_traceparent, names

SAMPLED = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
UNSAMPLED = SAMPLED.removesuffix("01") + "00"


def quiet(sample_ratio: float = 1.0) -> Telemetry:
    return Telemetry.setup("s", "i", None, b"", sample_ratio=sample_ratio)


@pytest.mark.parametrize("traceparent", [SAMPLED, UNSAMPLED])
def test_a_trace_passes_through_as_it_came(traceparent: str) -> None:
    with quiet().span(names.SPAN_RECOMMEND, parent=context_of(traceparent)) as outer:
        assert current_traceparent() == traceparent and not outer.is_recording()
        with quiet().span(names.SPAN_RANK_COMPUTE) as inner:
            assert inner is outer and current_span() is outer
        assert current_traceparent() == traceparent
    assert current_traceparent() == ""


def test_a_trace_begins_where_none_came_in_and_says_whether_to_record_it() -> None:
    seen = set()
    for ratio, flags in ((1.0, "01"), (0.0, "00")):
        with quiet(ratio).span(names.SPAN_RECOMMEND):
            version, trace_id, span_id, sampled = current_traceparent().split("-")
            assert version == "00" and sampled == flags
            assert len(trace_id) == 32 and len(span_id) == 16 and int(trace_id, 16) and int(span_id, 16)
            seen.add(trace_id)
    assert len(seen) == 2


def test_half_of_the_traces_are_sampled_by_a_ratio_of_a_half() -> None:
    telemetry = quiet(0.5)
    sampled = sum(
        telemetry.tracer.start_span(names.SPAN_RECOMMEND).get_span_context().trace_flags.sampled for _ in range(1000)
    )
    assert 350 < sampled < 650


def test_a_recorded_span_is_not_written_on_by_who_exports_nothing() -> None:
    recording, spans = Telemetry.for_tests()
    with recording.span(names.SPAN_RECOMMEND) as outer, quiet().span(names.SPAN_RANK_COMPUTE) as inner:
        inner.set_attribute(names.ATTR_REQUEST_ID, "x")
        assert inner.get_span_context() == outer.get_span_context()
    (kept,) = spans.get_finished_spans()
    assert not kept.attributes


def test_metrics_are_taken_for_a_reader_only() -> None:
    assert Telemetry.for_tests()[0].has_reader
    telemetry = quiet()
    assert not telemetry.has_reader
    telemetry.histogram(names.METRIC_LOOP_LAG).record(1.0)
    telemetry.gauge(names.METRIC_REGISTRY_AGE, lambda: 1 / 0)


def test_a_tracestate_is_carried_on() -> None:
    from relaygr.telemetry.trace_context import extract, inject

    context = extract({"traceparent": SAMPLED, "tracestate": "vendor=1"})
    carrier: dict[str, str] = {}
    inject(carrier, context)
    assert carrier == {"traceparent": SAMPLED, "tracestate": "vendor=1"}
