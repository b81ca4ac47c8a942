"""OTLP over gRPC into the keeper."""

from __future__ import annotations

import time

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2, metrics_service_pb2_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

from console.keeper import Keeper
from console.otlp import points_of, spans_of

MESSAGE_BYTES_MAX = 16 * 1024 * 1024


class TraceReceiver(trace_service_pb2_grpc.TraceServiceServicer):  # type: ignore[misc, unused-ignore]
    """Takes batches of spans."""

    def __init__(self, keeper: Keeper) -> None:
        self._keeper = keeper

    async def Export(
        self, request: trace_service_pb2.ExportTraceServiceRequest, _context: grpc.aio.ServicerContext
    ) -> trace_service_pb2.ExportTraceServiceResponse:
        """Take one batch."""
        self._keeper.add_spans(spans_of(request), time.monotonic_ns())
        return trace_service_pb2.ExportTraceServiceResponse()


class MetricReceiver(metrics_service_pb2_grpc.MetricsServiceServicer):  # type: ignore[misc, unused-ignore]
    """Takes batches of metrics."""

    def __init__(self, keeper: Keeper) -> None:
        self._keeper = keeper

    async def Export(
        self, request: metrics_service_pb2.ExportMetricsServiceRequest, _context: grpc.aio.ServicerContext
    ) -> metrics_service_pb2.ExportMetricsServiceResponse:
        """Take one batch."""
        for service, instance, points in points_of(request):
            self._keeper.add_points(service, instance, points, time.monotonic_ns())
        return metrics_service_pb2.ExportMetricsServiceResponse()


async def serve_otlp(listen: str, keeper: Keeper) -> tuple[grpc.aio.Server, int]:
    """A started server and its port.

    Raises:
        OSError: the address cannot be bound.
    """
    server = grpc.aio.server(options=[("grpc.max_receive_message_length", MESSAGE_BYTES_MAX), ("grpc.so_reuseport", 0)])
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(TraceReceiver(keeper), server)
    metrics_service_pb2_grpc.add_MetricsServiceServicer_to_server(MetricReceiver(keeper), server)
    status = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(status, server)
    await status.set("", health_pb2.HealthCheckResponse.SERVING)
    try:
        port = server.add_insecure_port(listen)
    except RuntimeError as error:
        raise OSError(f"cannot listen on {listen}") from error
    await server.start()
    return server, port
