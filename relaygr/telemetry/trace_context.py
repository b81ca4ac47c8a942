"""Trace context as a W3C traceparent string, for tickets, cache entries and metadata.

Read and written here for the common case, since every hop does both; what carries a
tracestate too, or is of a later version, goes the SDK's way.

Source: design, section 7.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, MutableMapping

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, NonRecordingSpan, SpanContext, TraceFlags
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

TRACEPARENT_KEY = "traceparent"
TRACESTATE_KEY = "tracestate"

_PROPAGATOR = TraceContextTextMapPropagator()
_VERSION_0 = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")


def inject(carrier: MutableMapping[str, str], context: Context | None = None) -> None:
    """Write the current (or given) span's context into a carrier."""
    found = trace.get_current_span(context).get_span_context()
    if found.trace_state:
        _PROPAGATOR.inject(carrier, context)
    elif found.is_valid:
        carrier[TRACEPARENT_KEY] = _text_of(found)


def extract(carrier: Mapping[str, str]) -> Context:
    """A context from a carrier; an empty one when there is nothing or nonsense in it."""
    text = carrier.get(TRACEPARENT_KEY)
    if not text:
        return Context()
    fields = _VERSION_0.fullmatch(text)
    if fields is None or TRACESTATE_KEY in carrier:
        return _PROPAGATOR.extract(dict(carrier), Context())
    trace_id, span_id, flags = (int(field, 16) for field in fields.groups())
    found = SpanContext(trace_id, span_id, is_remote=True, trace_flags=TraceFlags(flags))
    return trace.set_span_in_context(NonRecordingSpan(found), Context()) if found.is_valid else Context()


def current_traceparent() -> str:
    """The current span's traceparent; empty outside a trace."""
    found = trace.get_current_span().get_span_context()
    return _text_of(found) if found.is_valid else ""


def context_of(traceparent: str) -> Context:
    """A context whose remote parent is `traceparent`; an empty context when that is malformed."""
    return extract({TRACEPARENT_KEY: traceparent} if traceparent else {})


def link_of(traceparent: str) -> Link | None:
    """A link to the span of `traceparent`, or None when that is empty or malformed."""
    span_context = trace.get_current_span(context_of(traceparent)).get_span_context()
    return Link(span_context) if span_context.is_valid else None


def _text_of(found: SpanContext) -> str:
    return f"00-{found.trace_id:032x}-{found.span_id:016x}-{found.trace_flags:02x}"
