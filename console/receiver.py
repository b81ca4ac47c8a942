"""A small trace receiver: OTLP over gRPC in, one JSON file and one page per trace out.

    python -m demo.collector --listen 127.0.0.1:4317 --out run/traces

It stands where an OpenTelemetry collector and a trace viewer stand in production; the
services send it what they would send those. Memory and disk are bounded: the oldest traces
are deleted.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import logging
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2, metrics_service_pb2_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.common.v1 import common_pb2
from opentelemetry.proto.trace.v1 import trace_pb2

from demo.traces import Link, Span, TraceBook
from demo.waterfall import index_page, sentence, trace_page

_LOG = logging.getLogger("demo.collector")
_TRACES_MAX = 400
_SPANS_MAX = 200
_QUIET_NS = 1_500_000_000  # Longer than the services' export interval.
_FLUSH_S = 0.25
_MESSAGE_BYTES_MAX = 16 * 1024 * 1024
_KINDS = {
    trace_pb2.Span.SPAN_KIND_SERVER: "SERVER",
    trace_pb2.Span.SPAN_KIND_CLIENT: "CLIENT",
    trace_pb2.Span.SPAN_KIND_PRODUCER: "PRODUCER",
    trace_pb2.Span.SPAN_KIND_CONSUMER: "CONSUMER",
}


class Receiver(trace_service_pb2_grpc.TraceServiceServicer):  # type: ignore[misc, unused-ignore]
    """Takes batches of spans into the book."""

    def __init__(self, book: TraceBook) -> None:
        self._book = book

    async def Export(
        self, request: trace_service_pb2.ExportTraceServiceRequest, _context: grpc.aio.ServicerContext
    ) -> trace_service_pb2.ExportTraceServiceResponse:
        """Take one batch."""
        self._book.add(spans_of(request), time.monotonic_ns())
        return trace_service_pb2.ExportTraceServiceResponse()


class MetricsSink(metrics_service_pb2_grpc.MetricsServiceServicer):  # type: ignore[misc, unused-ignore]
    """Takes metrics and drops them: the services send both, this collector keeps traces."""

    async def Export(
        self, _request: metrics_service_pb2.ExportMetricsServiceRequest, _context: grpc.aio.ServicerContext
    ) -> metrics_service_pb2.ExportMetricsServiceResponse:
        """Take one batch."""
        return metrics_service_pb2.ExportMetricsServiceResponse()


def spans_of(request: trace_service_pb2.ExportTraceServiceRequest) -> Iterator[Span]:
    """The spans of one OTLP batch."""
    for resource in request.resource_spans:
        about = _attributes(resource.resource.attributes)
        for scope in resource.scope_spans:
            for raw in scope.spans:
                yield Span(
                    trace_id=raw.trace_id.hex(),
                    span_id=raw.span_id.hex(),
                    parent_span_id=raw.parent_span_id.hex(),
                    name=raw.name,
                    kind=_KINDS.get(raw.kind, "INTERNAL"),
                    service=str(about.get("service.name", "unknown")),
                    instance=str(about.get("service.instance.id", "")),
                    start_unix_ns=raw.start_time_unix_nano,
                    end_unix_ns=raw.end_time_unix_nano,
                    attributes=_attributes(raw.attributes),
                    links=tuple(Link(trace_id=link.trace_id.hex(), span_id=link.span_id.hex()) for link in raw.links),
                    is_error=raw.status.code == trace_pb2.Status.STATUS_CODE_ERROR,
                )


def _attributes(pairs: Any) -> dict[str, Any]:
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: common_pb2.AnyValue) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(entry) for entry in value.array_value.values]
    if kind in ("string_value", "bool_value", "int_value", "double_value"):
        return getattr(value, kind)
    return str(value)


class Shelf:
    """The folder of written traces."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._entries: dict[str, tuple[int, str]] = {}
        folder.mkdir(parents=True, exist_ok=True)

    def flush(self, book: TraceBook, now_ns: int) -> None:
        """Write what is due, delete what was given up, and the index when either happened."""
        due = book.due(now_ns)
        for trace_id, spans in due.written.items():
            (self._folder / f"{trace_id}.html").write_text(trace_page(spans))
            _replace(self._folder / f"{trace_id}.json", json.dumps([span.to_json() for span in spans]))
            self._entries[trace_id] = (spans[0].start_unix_ns, sentence(spans))
        for trace_id in due.deleted:
            self._entries.pop(trace_id, None)
            for suffix in ("html", "json"):
                (self._folder / f"{trace_id}.{suffix}").unlink(missing_ok=True)
        if due.written or due.deleted:
            newest = sorted(self._entries.items(), key=lambda entry: entry[1], reverse=True)
            _replace(self._folder / "index.html", index_page([(key, title) for key, (_, title) in newest]))


def _replace(path: Path, text: str) -> None:
    # A reader never sees half a file.
    draft = path.with_suffix(path.suffix + ".draft")
    draft.write_text(text)
    draft.replace(path)


async def serve(listen: str, folder: Path) -> None:
    """Receive until SIGTERM or SIGINT."""
    book = TraceBook(traces_max=_TRACES_MAX, spans_max=_SPANS_MAX, quiet_ns=_QUIET_NS)
    shelf = Shelf(folder)
    server = grpc.aio.server(options=[("grpc.max_receive_message_length", _MESSAGE_BYTES_MAX)])
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(Receiver(book), server)
    metrics_service_pb2_grpc.add_MetricsServiceServicer_to_server(MetricsSink(), server)
    status = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(status, server)
    await status.set("", health_pb2.HealthCheckResponse.SERVING)
    server.add_insecure_port(listen)
    await server.start()
    _LOG.info("receiving OTLP on %s, writing to %s", listen, folder)
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    while not stopping.is_set():
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stopping.wait(), _FLUSH_S)
        shelf.flush(book, time.monotonic_ns())
        book.check()
    await server.stop(grace=1.0)
    shelf.flush(book, time.monotonic_ns() + _QUIET_NS)


def main() -> None:
    """Parse the command line and serve."""
    parser = argparse.ArgumentParser(prog="python -m demo.collector", description="Receive traces and write pages.")
    parser.add_argument("--listen", required=True, help="host:port of the OTLP gRPC receiver")
    parser.add_argument("--out", required=True, type=Path, help="folder of the written traces")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    asyncio.run(serve(arguments.listen, arguments.out))


if __name__ == "__main__":
    main()
