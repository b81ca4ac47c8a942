"""OTLP messages as the console's own values."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1 import common_pb2
from opentelemetry.proto.metrics.v1 import metrics_pb2
from opentelemetry.proto.trace.v1 import trace_pb2

from console.signals import Point
from console.traces import Link, Span

KINDS = {
    trace_pb2.Span.SPAN_KIND_SERVER: "SERVER",
    trace_pb2.Span.SPAN_KIND_CLIENT: "CLIENT",
    trace_pb2.Span.SPAN_KIND_PRODUCER: "PRODUCER",
    trace_pb2.Span.SPAN_KIND_CONSUMER: "CONSUMER",
}
TRACE_ID_BYTES, SPAN_ID_BYTES = 16, 8
"""OTLP knows no others; a trace's id is part of a file's name here."""
VALUE_MAX = 1e100
"""Of a metric: what is added up stays a number that JSON can say, which knows neither infinity nor NaN."""
_QUANTILE = 0.99


def spans_of(request: ExportTraceServiceRequest) -> Iterator[Span]:
    """The spans of one batch; those without proper ids are left out, as OTLP has it."""
    for resource in request.resource_spans:
        service, instance = _origin(resource.resource.attributes)
        for scope in resource.scope_spans:
            for raw in scope.spans:
                if len(raw.trace_id) != TRACE_ID_BYTES or len(raw.span_id) != SPAN_ID_BYTES:
                    continue
                yield Span(
                    trace_id=raw.trace_id.hex(),
                    span_id=raw.span_id.hex(),
                    parent_span_id=raw.parent_span_id.hex(),
                    name=raw.name,
                    kind=KINDS.get(raw.kind, "INTERNAL"),
                    service=service,
                    instance=instance,
                    start_unix_ns=raw.start_time_unix_nano,
                    end_unix_ns=raw.end_time_unix_nano,
                    attributes=attributes_of(raw.attributes),
                    links=tuple(Link(trace_id=link.trace_id.hex(), span_id=link.span_id.hex()) for link in raw.links),
                    is_error=raw.status.code == trace_pb2.Status.STATUS_CODE_ERROR,
                )


def points_of(request: ExportMetricsServiceRequest) -> Iterator[tuple[str, str, list[Point]]]:
    """Service, instance and points of each resource of one batch."""
    for resource in request.resource_metrics:
        service, instance = _origin(resource.resource.attributes)
        metrics = (metric for scope in resource.scope_metrics for metric in scope.metrics)
        yield service, instance, [point for metric in metrics for point in _points(metric)]


def attributes_of(pairs: Iterable[common_pb2.KeyValue]) -> dict[str, Any]:
    """As plain values; what has no plain form is text."""
    return {pair.key: _value(pair.value) for pair in pairs}


def _origin(pairs: Iterable[common_pb2.KeyValue]) -> tuple[str, str]:
    about = attributes_of(pairs)
    return str(about.get("service.name", "unknown")), str(about.get("service.instance.id", ""))


def _points(metric: metrics_pb2.Metric) -> Iterator[Point]:
    match metric.WhichOneof("data"):
        case "gauge":
            points = metric.gauge.data_points
        case "sum":
            points = metric.sum.data_points
        case "histogram":
            for counted in metric.histogram.data_points:
                yield Point(metric.name, attributes_of(counted.attributes), counted.count, _p99(counted))
            return
        case _:
            # Our services send none of the other kinds.
            return
    for point in points:
        value = point.as_double if point.WhichOneof("value") == "as_double" else float(point.as_int)
        if abs(value) <= VALUE_MAX:
            yield Point(metric.name, attributes_of(point.attributes), value)


def _p99(counted: metrics_pb2.HistogramDataPoint) -> float | None:
    """Upper bound of the bucket where the quantile lies; what was greatest, for the bucket without a bound."""
    wanted, seen = _QUANTILE * counted.count, 0
    for bound, count in zip(counted.explicit_bounds, counted.bucket_counts, strict=False):
        seen += count
        if seen >= wanted and seen:
            return _sayable(bound)
    return _sayable(counted.max) if counted.count else None


def _sayable(value: float) -> float | None:
    return value if abs(value) <= VALUE_MAX else None


def _value(value: common_pb2.AnyValue) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(entry) for entry in value.array_value.values]
    if kind == "double_value" and not math.isfinite(value.double_value):
        return str(value.double_value)
    if kind in ("string_value", "bool_value", "int_value", "double_value"):
        return getattr(value, kind)
    return str(value)
