"""Around every unary call a server takes: trace, deadline, error translation, duration.

Streaming calls (health's Watch, reflection) pass untouched.

Source: design, section 7.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
from opentelemetry.trace import Span, SpanKind

from relaygr.errors import InvalidRequest, RelayError
from relaygr.rpc import deadline
from relaygr.rpc.calls import base_attributes, is_traced, mark, method_of, outcome_attributes
from relaygr.rpc.status import ERROR_METADATA_KEY, SERVER_ERROR_CODES, error_of, message_of, status_of
from relaygr.telemetry import Telemetry, names
from relaygr.telemetry.trace_context import extract

_log = logging.getLogger(__name__)

Handler = Callable[[Any, grpc.aio.ServicerContext], Awaitable[Any]]


class ServerInterceptor(grpc.aio.ServerInterceptor):
    """Traces and translates; one per server."""

    def __init__(self, telemetry: Telemetry, default_deadline_ns: int) -> None:
        self._telemetry = telemetry
        self._default_deadline_ns = default_deadline_ns
        self._duration = telemetry.histogram(names.METRIC_RPC_SERVER_CALL_DURATION)
        self._errors = telemetry.counter(names.METRIC_RPC_ERRORS)

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler | None:
        """Wrap the handler of a traced unary call."""
        handler = await continuation(handler_call_details)
        path = handler_call_details.method
        if handler is None or handler.unary_unary is None or not is_traced(path):
            return handler
        serve = handler.unary_unary
        parse = handler.request_deserializer
        method = method_of(path)
        carrier = _carrier(handler_call_details)

        async def served(raw: bytes, context: grpc.aio.ServicerContext) -> Any:
            return await self._serve(method, carrier, serve, parse, raw, context)

        # The request is parsed in here, so that garbage is INVALID_ARGUMENT and not UNKNOWN.
        return grpc.unary_unary_rpc_method_handler(served, None, handler.response_serializer)

    async def _serve(
        self,
        method: str,
        carrier: dict[str, str],
        serve: Handler,
        parse: Callable[[bytes], Any],
        raw: bytes,
        context: grpc.aio.ServicerContext,
    ) -> Any:
        began_ns = time.perf_counter_ns()
        deadline.start_default(self._default_deadline_ns)
        attributes = base_attributes(method)
        remaining_ms = deadline.remaining_ns(context, self._default_deadline_ns) / 1e6
        name, code, failure = "", grpc.StatusCode.OK, ""
        with self._telemetry.tracer.start_as_current_span(
            method,
            context=extract(carrier),
            kind=SpanKind.SERVER,
            attributes={**attributes, names.ATTR_DEADLINE_REMAINING_MS: remaining_ms},
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            try:
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
                seconds = (time.perf_counter_ns() - began_ns) / 1e9
                self._duration.record(seconds, {**attributes, **outcome_attributes(code, failed)})
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
        _log.error("%s failed", method, exc_info=error)
        # What exactly broke is in this server's log; callers get no insides.
        return "PeerFailed", grpc.StatusCode.INTERNAL, "internal error"


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


def _carrier(details: grpc.HandlerCallDetails) -> dict[str, str]:
    return {key: value for key, value in details.invocation_metadata or () if isinstance(value, str)}
