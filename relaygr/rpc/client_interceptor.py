"""Around every unary call a channel makes: a client span, trace context, duration.

Source: design, section 7.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
from opentelemetry import trace
from opentelemetry.trace import SpanKind

from relaygr.rpc.calls import base_attributes, is_traced, mark, method_of, outcome_attributes
from relaygr.telemetry import Telemetry, names
from relaygr.telemetry.trace_context import inject


class ClientInterceptor(grpc.aio.UnaryUnaryClientInterceptor):
    """Traces the calls of one channel."""

    def __init__(self, telemetry: Telemetry, address: str) -> None:
        self._tracer = telemetry.tracer
        self._duration = telemetry.histogram(names.METRIC_RPC_CLIENT_CALL_DURATION)
        self._peer = _peer_attributes(address)

    async def intercept_unary_unary(
        self,
        continuation: Callable[[grpc.aio.ClientCallDetails, Any], Awaitable[grpc.aio.UnaryUnaryCall]],
        client_call_details: grpc.aio.ClientCallDetails,
        request: Any,
    ) -> grpc.aio.UnaryUnaryCall:
        """Make the call inside a span that ends when the call does."""
        method = method_of(client_call_details.method)
        if not is_traced("/" + method):
            return await continuation(client_call_details, request)
        attributes = {**base_attributes(method), **self._peer}
        span = self._tracer.start_span(method, kind=SpanKind.CLIENT, attributes=attributes)
        details = client_call_details._replace(
            metadata=_with_trace(client_call_details.metadata, trace.set_span_in_context(span))
        )
        began_ns = time.perf_counter_ns()
        code, message = grpc.StatusCode.CANCELLED, ""
        try:
            call = await continuation(details, request)
            try:
                code = await call.code()
            except asyncio.CancelledError:
                # The caller gave up: the transport must hear of it, or the callee works on for nobody.
                call.cancel()
                raise
            if code is not grpc.StatusCode.OK:
                message = await call.details() or ""
            return call
        finally:
            failed = code is not grpc.StatusCode.OK
            mark(span, code, failed, message)
            span.end()
            seconds = (time.perf_counter_ns() - began_ns) / 1e9
            self._duration.record(seconds, {**attributes, **outcome_attributes(code, failed)})


def _with_trace(metadata: grpc.aio.Metadata | None, context: Any) -> grpc.aio.Metadata:
    carrier: dict[str, str] = {}
    inject(carrier, context)
    return grpc.aio.Metadata(*(metadata or ()), *carrier.items())


def _peer_attributes(address: str) -> dict[str, Any]:
    host, separator, port = address.rpartition(":")
    if not separator or not port.isdigit():
        return {names.ATTR_SERVER_ADDRESS: address}
    return {names.ATTR_SERVER_ADDRESS: host.strip("[]"), names.ATTR_SERVER_PORT: int(port)}
