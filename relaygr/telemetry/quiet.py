"""Trace context without spans: what a process that exports nothing needs of tracing.

Nobody would read its spans, so none are made: a trace goes through it as it came, with the
caller's decision on sampling, and the next recorded span's parent is the last one before.
Where no trace comes in, one is drawn.

Source: design, section 7.
"""

from __future__ import annotations

from contextvars import Token
from typing import Any

from opentelemetry import trace
from opentelemetry.context import Context, attach, detach
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.trace import NonRecordingSpan, Span, SpanContext, TraceFlags

_SAMPLED = TraceFlags(TraceFlags.SAMPLED)
_UNSAMPLED = TraceFlags(TraceFlags.DEFAULT)
_TRACE_ID_LOW = (1 << 64) - 1
"""The bits that decide sampling by ratio, as in the SDK: hops that record decide alike."""


class QuietTracer(trace.Tracer):
    """Makes spans that record nothing.

    Args:
        sample_ratio: share of the traces begun here that others are told to record.
    """

    def __init__(self, sample_ratio: float) -> None:
        self._ids = RandomIdGenerator()
        self._bound = round(sample_ratio * (1 << 64))

    def start_span(self, name: str, context: Context | None = None, *_: Any, **__: Any) -> Span:
        """The parent itself when there is one, else the root of a new trace."""
        span = trace.get_current_span(context)
        if span.get_span_context().is_valid:
            return span if not span.is_recording() else NonRecordingSpan(span.get_span_context())
        trace_id = self._ids.generate_trace_id()
        flags = _SAMPLED if trace_id & _TRACE_ID_LOW < self._bound else _UNSAMPLED
        return NonRecordingSpan(SpanContext(trace_id, self._ids.generate_span_id(), is_remote=False, trace_flags=flags))

    def start_as_current_span(  # type: ignore[override]
        self, name: str, context: Context | None = None, *_: Any, **__: Any
    ) -> _Current:
        """The same, current inside the block."""
        return _Current(self.start_span(name, context))


class _Current:
    """A span that is current inside a block. Nothing is written on it, so nothing needs to be seen of errors."""

    __slots__ = ("_span", "_token")

    def __init__(self, span: Span) -> None:
        self._span = span
        self._token: Token[Context] | None = None

    def __enter__(self) -> Span:
        if self._span is not trace.get_current_span():
            self._token = attach(trace.set_span_in_context(self._span))
        return self._span

    def __exit__(self, *_: object) -> None:
        if self._token is not None:
            detach(self._token)
