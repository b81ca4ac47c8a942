import logging

import pytest
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from relaygr.domain.identity import UserKey
from relaygr.telemetry import Telemetry, context_of, current_traceparent, link_of, names
from relaygr.telemetry.export import OncePerPeriod, PausingSpanExporter
from relaygr.telemetry.provider import TOKEN_BUCKETS

TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def test_two_telemetries_do_not_see_each_other() -> None:
    (one, one_spans), (two, two_spans) = Telemetry.for_tests(), Telemetry.for_tests()
    with one.span(names.SPAN_RANK_COMPUTE), two.span(names.SPAN_RANK_QUEUE):
        pass
    assert [span.name for span in one_spans.get_finished_spans()] == [names.SPAN_RANK_COMPUTE]
    assert [span.name for span in two_spans.get_finished_spans()] == [names.SPAN_RANK_QUEUE]


def test_traceparent_goes_around() -> None:
    telemetry, _ = Telemetry.for_tests()
    assert current_traceparent() == ""
    with telemetry.span(names.SPAN_RANK_COMPUTE, parent=context_of(TRACEPARENT)):
        assert current_traceparent().split("-")[1] == TRACEPARENT.split("-")[1]


@pytest.mark.parametrize("nonsense", ["", "x", "00-0-0-01", TRACEPARENT.replace("4bf9", "zzzz"), "00-" + "0" * 32])
def test_nonsense_is_no_link_and_no_parent(nonsense: str) -> None:
    telemetry, spans = Telemetry.for_tests()
    assert link_of(nonsense) is None
    with telemetry.span(names.SPAN_RANK_COMPUTE, parent=context_of(nonsense), links=[link_of(nonsense)]):
        pass
    (span,) = spans.get_finished_spans()
    assert span.parent is None and span.links == ()


def test_link_names_the_span() -> None:
    link = link_of(TRACEPARENT)
    assert link is not None and link.context.span_id == 0x00F067AA0BA902B7


def test_user_hash_needs_the_key_and_hides_the_user() -> None:
    user = UserKey("tenant", "user-17")
    one, two = (Telemetry(resource={}, user_hash_key=key).user_hash(user) for key in (b"k" * 16, b"q" * 16))
    assert one != two and "user-17" not in one and len(one) == 16


def test_histogram_of_tokens_has_buckets_of_tokens() -> None:
    telemetry, _ = Telemetry.for_tests()
    telemetry.histogram(names.METRIC_RANK_PSI_USED).record(1000)
    (point,) = telemetry.points(names.METRIC_RANK_PSI_USED)
    assert point.explicit_bounds == TOKEN_BUCKETS


def test_gauge_reads_values_with_and_without_attributes() -> None:
    telemetry, _ = Telemetry.for_tests()
    telemetry.gauge(names.METRIC_REGISTRY_AGE, lambda: 3)
    telemetry.gauge(names.METRIC_RESIDENCY_PAGES, lambda: [(1, {names.ATTR_RESIDENCY_STATE: "used"}), (2, {})])
    assert [point.value for point in telemetry.points(names.METRIC_REGISTRY_AGE)] == [3]
    assert [point.value for point in telemetry.points(names.METRIC_RESIDENCY_PAGES)] == [1, 2]


def test_undeclared_metric_or_wrong_instrument_is_a_bug() -> None:
    telemetry, _ = Telemetry.for_tests()
    with pytest.raises(AssertionError):
        telemetry.counter("relaygr.nothing")
    with pytest.raises(AssertionError):
        telemetry.counter(names.METRIC_LOOP_LAG)


def test_attribute_sets_of_a_metric_are_bounded() -> None:
    telemetry, _ = Telemetry.for_tests()
    histogram = telemetry.histogram(names.METRIC_RPC_SERVER_CALL_DURATION)
    counter = telemetry.counter(names.METRIC_RPC_ERRORS)
    for number in range(3000):
        histogram.record(1, {names.ATTR_RPC_METHOD: number})
        counter.add(1, {names.ATTR_RPC_METHOD: number})
    for name in (names.METRIC_RPC_SERVER_CALL_DURATION, names.METRIC_RPC_ERRORS):
        assert len(telemetry.points(name)) <= 2001


def test_shutdown_is_repeatable() -> None:
    telemetry = Telemetry.setup("s", "i", None, b"")
    telemetry.shutdown()
    telemetry.shutdown()


class Failing(InMemorySpanExporter):
    def __init__(self) -> None:
        super().__init__()
        self.tries = 0

    def export(self, spans: object) -> SpanExportResult:
        self.tries += 1
        return SpanExportResult.FAILURE


def test_failed_export_pauses_the_next_ones() -> None:
    inner = Failing()
    exporter = PausingSpanExporter(inner, pause_s=1000)
    assert [exporter.export([]) for _ in range(5)] == [SpanExportResult.FAILURE] * 5
    assert inner.tries == 1
    eager = PausingSpanExporter(Failing(), pause_s=0)
    for _ in range(3):
        eager.export([])
    assert eager._inner.tries == 3  # type: ignore[attr-defined]


def test_complaints_pass_once_per_period_and_logger() -> None:
    limit = OncePerPeriod(1000)
    one, two = (logging.makeLogRecord({"name": name}) for name in ("one", "two"))
    assert [limit.filter(record) for record in (one, one, two, two)] == [True, False, True, False]


def test_setup_limits_the_exporters_complaints_once() -> None:
    logger = logging.getLogger("opentelemetry.exporter.otlp.proto.grpc.exporter")
    logger.filters[:] = [kept for kept in logger.filters if not isinstance(kept, OncePerPeriod)]
    for _ in range(2):
        Telemetry.setup("s", "i", "http://127.0.0.1:9", b"").shutdown()
    assert sum(isinstance(limit, OncePerPeriod) for limit in logger.filters) == 1
