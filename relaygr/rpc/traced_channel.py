"""Around every unary call a channel makes: a client span, trace context, duration.

A wrapper and not an interceptor: with one, grpc.aio makes a call of several objects and
tasks more, which costs as much as everything that is done here.

Source: design, section 7.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Generator
from typing import Any

import grpc
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind

from relaygr.rpc.calls import Outcomes, base_attributes, is_traced, mark, method_of
from relaygr.rpc.lane_caller import LaneMethod, Lanes, Secured
from relaygr.rpc.lane_counts import LaneCounts
from relaygr.rpc.tls import RenewedChannel
from relaygr.telemetry import Telemetry, names
from relaygr.telemetry.trace_context import inject


class TracedChannel:
    """A grpc.aio channel whose unary calls are traced and take the lane; everything else is the channel's own.

    Args:
        channel: the channel.
        telemetry: spans and durations.
        address: of the peer, for attributes.
        lane_counts: given, calls share one open connection where the server offers that and host:port is what
            `address` is; None: each is a call of gRPC.
        secured: makes the TLS context of a lane, and the name that the server must prove; None: lanes are plain text.
    """

    def __init__(
        self,
        channel: grpc.aio.Channel | RenewedChannel,
        telemetry: Telemetry,
        address: str,
        *,
        lane_counts: LaneCounts | None = None,
        secured: Secured | None = None,
    ) -> None:
        self._channel = channel
        host = _host_port(address)[0]
        has_lanes = lane_counts is not None and host
        self._lanes = Lanes(channel, host, counts=lane_counts, secured=secured) if has_lanes else None
        self._telemetry = telemetry
        self._duration = telemetry.histogram(names.METRIC_RPC_CLIENT_CALL_DURATION)
        self._peer = _peer_attributes(address)

    def unary_unary(
        self, method: str, request_serializer: Any = None, response_deserializer: Any = None, **named: Any
    ) -> Any:
        """A callable for one method, as stubs make them."""
        callable_ = self._channel.unary_unary(method, request_serializer, response_deserializer, **named)
        if not is_traced(method):
            return callable_
        if self._lanes is not None:
            callable_ = LaneMethod(self._lanes, callable_, method, request_serializer, response_deserializer)
        name = method_of(method)
        attributes = {**base_attributes(name), **self._peer}
        return _TracedMethod(callable_, self._telemetry, name, Outcomes(self._duration, attributes), attributes)

    async def close(self, grace_s: float | None = None) -> None:
        """Close the channel and its lane; calls in progress fail, those of gRPC after `grace_s`."""
        if self._lanes is not None:
            await self._lanes.close()
        await self._channel.close(grace_s)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._channel, name)


class _TracedMethod:
    """One method of one channel."""

    __slots__ = ("_attributes", "_callable", "_name", "_outcomes", "_tracer")

    def __init__(
        self, callable_: Any, telemetry: Telemetry, name: str, outcomes: Outcomes, attributes: dict[str, Any]
    ) -> None:
        self._callable = callable_
        self._tracer = telemetry.tracer
        self._name = name
        self._outcomes = outcomes
        self._attributes = attributes

    def __call__(self, request: Any, *, metadata: Any = None, **named: Any) -> TracedCall:
        """Begin a call inside a span that ends when the call does."""
        span = self._tracer.start_span(self._name, kind=SpanKind.CLIENT, attributes=self._attributes)
        carrier: dict[str, str] = {}
        context = trace.set_span_in_context(span)
        inject(carrier, context)
        with_trace = grpc.aio.Metadata(*(metadata or ()), *carrier.items())
        return TracedCall(self._callable(request, metadata=with_trace, **named), span, context, self._outcomes)


class TracedCall:
    """A call on its way; awaited once, like the call inside, whose other sides it has."""

    __slots__ = ("_began_ns", "_call", "_context", "_is_ended", "_outcomes", "_span")

    def __init__(self, call: grpc.aio.UnaryUnaryCall, span: Span, context: Context, outcomes: Outcomes) -> None:
        self._call = call
        self._span = span
        self._context = context
        self._outcomes = outcomes
        self._began_ns = time.perf_counter_ns()
        self._is_ended = False

    def __await__(self) -> Generator[Any, None, Any]:
        try:
            response = yield from self._call.__await__()
        except grpc.aio.AioRpcError as error:
            self._end(error.code(), error.details() or "")
            raise
        except asyncio.CancelledError:
            # The caller gave up: the transport must hear of it, or the callee works on for nobody.
            self.cancel()
            raise
        except BaseException as error:
            self._end(grpc.StatusCode.INTERNAL, type(error).__name__)
            raise
        self._end(grpc.StatusCode.OK, "")
        return response

    def cancel(self) -> bool:
        """Give the call up; False when it was over."""
        self._end(grpc.StatusCode.CANCELLED, "")
        return bool(self._call.cancel())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._call, name)

    def _end(self, code: grpc.StatusCode, message: str) -> None:
        if self._is_ended:
            return
        self._is_ended = True
        failed = code is not grpc.StatusCode.OK
        mark(self._span, code, failed, message)
        self._span.end()
        self._outcomes.record((time.perf_counter_ns() - self._began_ns) / 1e9, code, failed, self._context)


def _peer_attributes(address: str) -> dict[str, Any]:
    host, port = _host_port(address)
    if not host:
        return {names.ATTR_SERVER_ADDRESS: address}
    return {names.ATTR_SERVER_ADDRESS: host, names.ATTR_SERVER_PORT: port}


def _host_port(address: str) -> tuple[str, int]:
    """Host and port of host:port; an empty host for gRPC's other names."""
    host, separator, port = address.rpartition(":")
    if not separator or not port.isdigit() or "/" in host:
        return "", 0
    return host.strip("[]"), int(port)
