"""Traces and metrics. Names come from ops/telemetry.yaml through `names`."""

from relaygr.telemetry import names
from relaygr.telemetry.provider import Telemetry, current_span
from relaygr.telemetry.trace_context import context_of, current_traceparent, link_of

__all__ = ["Telemetry", "context_of", "current_span", "current_traceparent", "link_of", "names"]
