"""Around every unary call a server takes: trace, the guard, deadline, error translation, duration.

Streaming calls, health and reflection are only guarded, and a stream's one request that cannot be parsed is refused.

Source: design, section 7.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import grpc
from opentelemetry.trace import Span, SpanKind

from relaygr.errors import InvalidRequest, RelayError
from relaygr.rpc import deadline
from relaygr.rpc.calls import Outcomes, base_attributes, is_traced, mark, method_of
from relaygr.rpc.guarded import guarded
from relaygr.rpc.lane_server import LaneServer
from relaygr.rpc.status import ERROR_METADATA_KEY, SERVER_ERROR_CODES, error_of, message_of, status_of
from relaygr.runtime.logs import next_step
from relaygr.security.guard import Guard
from relaygr.telemetry import Telemetry, names
from relaygr.telemetry.trace_context import extract

_log = logging.getLogger(__name__)

Handler = Callable[[Any, grpc.aio.ServicerContext], Awaitable[Any]]


class TracedHandlers:
    """Traces, guards and translates; one per server.

    A wrapper of the handlers and not an interceptor, which grpc.aio would ask for a handler at each call.

    `guard` decides who may call what; None, on a server without TLS: anybody anything.
    """

    def __init__(self, telemetry: Telemetry, default_deadline_ns: int, guard: Guard | None = None) -> None:
        self._guard = guard
        self._telemetry = telemetry
        self._default_deadline_ns = default_deadline_ns
        self._duration = telemetry.histogram(names.METRIC_RPC_SERVER_CALL_DURATION)
        self._errors = telemetry.counter(names.METRIC_RPC_ERRORS)

    def on(self, server: grpc.aio.Server, lanes: LaneServer) -> Any:
        """What generated code adds handlers to, in place of the server itself and of its lanes."""
        return _Wrapping(server, self, lanes)

    def wrapped(self, path: str, handler: grpc.RpcMethodHandler) -> grpc.RpcMethodHandler:
        """The handler, traced when it is a traced unary call's, and guarded in any case."""
        if handler.unary_unary is None or not is_traced(path):
            handler = handler if handler.unary_stream is None else _parsing(handler)
            return handler if self._guard is None else guarded(self._guard, method_of(path), handler)
        serve, parse = handler.unary_unary, handler.request_deserializer
        method = method_of(path)
        attributes = base_attributes(method)
        outcomes = Outcomes(self._duration, attributes)

        async def served(raw: bytes, context: grpc.aio.ServicerContext) -> Any:
            return await self._serve(method, attributes, outcomes, serve, parse, raw, context)

        # The request is parsed in here, so that garbage is INVALID_ARGUMENT and not UNKNOWN.
        return grpc.unary_unary_rpc_method_handler(served, None, handler.response_serializer)

    async def _serve(
        self,
        method: str,
        attributes: dict[str, Any],
        outcomes: Outcomes,
        serve: Handler,
        parse: Callable[[bytes], Any],
        raw: bytes,
        context: grpc.aio.ServicerContext,
    ) -> Any:
        began_ns, loop = time.perf_counter_ns(), asyncio.get_running_loop()
        deadline.start_default(self._default_deadline_ns)
        name, code, failure = "", grpc.StatusCode.OK, ""
        with self._telemetry.tracer.start_as_current_span(
            method,
            context=extract(_carrier(context)),
            kind=SpanKind.SERVER,
            attributes=attributes,
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            if span.is_recording():
                remaining_ms = deadline.remaining_ns(context, self._default_deadline_ns) / 1e6
                span.set_attribute(names.ATTR_DEADLINE_REMAINING_MS, remaining_ms)
            try:
                if self._guard is not None:
                    self._guard.check(method, context)
                answer = serve(_parsed(parse, raw), context)
                return await answer if inspect.isawaitable(answer) else answer
            except grpc.aio.AbortError:
                code, failure = _aborted(context)
                raise
            except asyncio.CancelledError:
                code, failure = grpc.StatusCode.CANCELLED, "the caller went away"
                raise
            except Exception as error:
                name, code, failure = self._count(error, method, span)
            finally:
                failed = code in SERVER_ERROR_CODES
                mark(span, code, failed, failure)
                elapsed_s = (time.perf_counter_ns() - began_ns) / 1e9
                if not loop.is_closed():
                    # Behind the answer, and in this context: the duration leads to the span.
                    loop.call_soon(outcomes.record, elapsed_s, code, failed)
        # Only after an error. The span has ended, so that whoever has the answer finds the span.
        await context.abort(code, failure, ((ERROR_METADATA_KEY, name),))

    def _count(self, error: Exception, method: str, span: Span) -> tuple[str, grpc.StatusCode, str]:
        fault = _fault_of(error)
        name = type(fault or error).__name__
        span.set_attribute(names.ATTR_ERROR, name)
        self._errors.add(1, {names.ATTR_RPC_METHOD: method, names.ATTR_ERROR: name})
        if fault is not None:
            return name, status_of(fault), message_of(fault)
        span.record_exception(error)
        step = next_step("look at its trace; report it with the traceback")
        _log.error("%s failed", method, exc_info=error, extra=step)
        # What exactly broke is in this server's log; callers get no insides.
        return "PeerFailed", grpc.StatusCode.INTERNAL, "internal error"


def _parsing(handler: grpc.RpcMethodHandler) -> grpc.RpcMethodHandler:
    """The handler of one request and many answers, which refuses garbage as a unary one does."""
    serve, parse = handler.unary_stream, handler.request_deserializer
    if inspect.isasyncgenfunction(serve):
        return handler

    async def streamed(raw: bytes, context: grpc.aio.ServicerContext) -> None:
        try:
            request = _parsed(parse, raw)
        except InvalidRequest as error:
            await context.abort(status_of(error), message_of(error), ((ERROR_METADATA_KEY, type(error).__name__),))
        await serve(request, context)

    return grpc.unary_stream_rpc_method_handler(streamed, None, handler.response_serializer)


def _parsed(parse: Callable[[bytes], Any], raw: bytes) -> Any:
    try:
        return parse(raw)
    except Exception:
        # protobuf's DecodeError, or whatever another serialiser raises: the caller's bytes are wrong.
        raise InvalidRequest("request", "cannot be parsed") from None


def _fault_of(error: Exception) -> RelayError | None:
    if isinstance(error, RelayError):
        return error
    if isinstance(error, grpc.aio.AioRpcError):
        # A servicer that let a downstream failure through without naming the peer.
        return error_of(error, "downstream")
    return None


def _aborted(context: grpc.aio.ServicerContext) -> tuple[grpc.StatusCode, str]:
    code = context.code()
    if not isinstance(code, grpc.StatusCode):
        code = next((known for known in grpc.StatusCode if known.value[0] == code), grpc.StatusCode.UNKNOWN)
    details = context.details()
    return code, details.decode("utf-8", "replace") if isinstance(details, bytes) else str(details or "")


def _carrier(context: grpc.aio.ServicerContext) -> dict[str, str]:
    return {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}


class _Wrapping:
    """Takes handlers as a server does, and gives them to it wrapped."""

    def __init__(self, server: grpc.aio.Server, handlers: TracedHandlers, lanes: LaneServer) -> None:
        self._server = server
        self._handlers = handlers
        self._lanes = lanes

    def add_generic_rpc_handlers(self, handlers: Any) -> None:
        """Nothing to do: generated code registers each method too, and registered methods are found first."""

    def add_registered_method_handlers(self, service: str, methods: Mapping[str, grpc.RpcMethodHandler]) -> None:
        """Serve a service's methods."""
        wrapped = {name: self._handlers.wrapped(f"/{service}/{name}", method) for name, method in methods.items()}
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, wrapped),))
        self._server.add_registered_method_handlers(service, wrapped)
        for name, method in wrapped.items():
            if is_traced(f"/{service}/{name}"):
                self._lanes.serve(f"/{service}/{name}", method)
