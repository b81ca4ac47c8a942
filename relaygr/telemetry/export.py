"""Sending spans and metrics over OTLP so that a dead collector costs nothing.

Spans queue in a bounded queue that a background thread empties. After a failed export
further batches are dropped unsent for a while, so that neither the thread nor a
shutdown waits for a collector that is not there. The exporter's own complaints pass at
most once a minute.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

EXPORT_TIMEOUT_S = 1.0
PAUSE_AFTER_FAILURE_S = 5.0
QUEUE_SPANS_MAX = 8192
"""About a second of spans at a thousand requests a second; older ones are dropped."""
BATCH_SPANS_MAX = 512
SPAN_PERIOD_MS = 500
METRIC_PERIOD_MS = 5_000
COMPLAINT_PERIOD_S = 60.0

_CHATTY_LOGGERS = ("opentelemetry.exporter.otlp.proto.grpc.exporter", "opentelemetry.sdk._shared_internal")


class PausingSpanExporter(SpanExporter):
    """Drops batches unsent for `pause_s` after a failed export."""

    def __init__(self, inner: SpanExporter, pause_s: float = PAUSE_AFTER_FAILURE_S) -> None:
        self._inner = inner
        self._pause_s = pause_s
        self._resume_s = 0.0
        self.dropped_spans = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Export, or drop while paused."""
        if time.monotonic() < self._resume_s:
            self.dropped_spans += len(spans)
            return SpanExportResult.FAILURE
        result = self._inner.export(spans)
        if result is not SpanExportResult.SUCCESS:
            self._resume_s = time.monotonic() + self._pause_s
            self.dropped_spans += len(spans)
        return result

    def shutdown(self) -> None:
        """Close the inner exporter."""
        self._inner.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Nothing is buffered here."""
        return True


class OncePerPeriod(logging.Filter):
    """Lets one record through per period and logger."""

    def __init__(self, period_s: float = COMPLAINT_PERIOD_S) -> None:
        super().__init__()
        self._period_s = period_s
        self._next_s: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """True when nothing passed for this logger within the period."""
        now_s = time.monotonic()
        if now_s < self._next_s.get(record.name, 0.0):
            return False
        self._next_s[record.name] = now_s + self._period_s
        return True


def quiet_exporter_logs() -> None:
    """Rate-limit what the exporters log; for a process's entry point, repeatable."""
    for name in _CHATTY_LOGGERS:
        logger = logging.getLogger(name)
        if not any(isinstance(existing, OncePerPeriod) for existing in logger.filters):
            logger.addFilter(OncePerPeriod())


def otlp_span_processor(endpoint: str) -> BatchSpanProcessor:
    """A processor that sends spans to an OTLP gRPC endpoint such as http://127.0.0.1:4317."""
    return BatchSpanProcessor(
        PausingSpanExporter(OTLPSpanExporter(endpoint=endpoint, timeout=EXPORT_TIMEOUT_S)),
        max_queue_size=QUEUE_SPANS_MAX,
        schedule_delay_millis=SPAN_PERIOD_MS,
        max_export_batch_size=BATCH_SPANS_MAX,
        export_timeout_millis=EXPORT_TIMEOUT_S * 1000,
    )


def otlp_metric_reader(endpoint: str) -> PeriodicExportingMetricReader:
    """A reader that sends metrics to an OTLP gRPC endpoint."""
    return PeriodicExportingMetricReader(
        OTLPMetricExporter(endpoint=endpoint, timeout=EXPORT_TIMEOUT_S),
        export_interval_millis=METRIC_PERIOD_MS,
        export_timeout_millis=EXPORT_TIMEOUT_S * 1000,
    )
