"""Trace context as a W3C traceparent string, for tickets, cache entries and metadata.

Source: design, section 7.
"""

from __future__ import annotations

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Link
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

TRACEPARENT_KEY = "traceparent"

_PROPAGATOR = TraceContextTextMapPropagator()


def inject(carrier: dict[str, str], context: Context | None = None) -> None:
    """Write the current (or given) span's context into a carrier."""
    _PROPAGATOR.inject(carrier, context)


def extract(carrier: dict[str, str]) -> Context:
    """A context from a carrier; an empty one when there is nothing or nonsense in it."""
    return _PROPAGATOR.extract(carrier, Context())


def current_traceparent() -> str:
    """The current span's traceparent; empty outside a trace."""
    carrier: dict[str, str] = {}
    inject(carrier)
    return carrier.get(TRACEPARENT_KEY, "")


def context_of(traceparent: str) -> Context:
    """A context whose remote parent is `traceparent`; an empty context when that is malformed."""
    return extract({TRACEPARENT_KEY: traceparent} if traceparent else {})


def link_of(traceparent: str) -> Link | None:
    """A link to the span of `traceparent`, or None when that is empty or malformed."""
    span_context = trace.get_current_span(context_of(traceparent)).get_span_context()
    return Link(span_context) if span_context.is_valid else None
