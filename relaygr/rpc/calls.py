"""What the traced channel and the traced handlers share: which calls are traced, names, attributes.

Source: OpenTelemetry RPC semantic conventions (release candidate).
"""

from __future__ import annotations

from typing import Any

import grpc
from opentelemetry.context import Context
from opentelemetry.metrics import Histogram
from opentelemetry.trace import Span, Status, StatusCode

from relaygr.telemetry import names

_UNTRACED_PREFIXES = ("/grpc.health.", "/grpc.reflection.", "/relaygr.v1.LaneService/")


def is_traced(path: str) -> bool:
    """False for health checks, reflection and the opening of lanes, which would drown everything else."""
    return not path.startswith(_UNTRACED_PREFIXES)


def method_of(path: str | bytes) -> str:
    """The full method, which is the span's name: /a.B/C -> a.B/C."""
    text = path.decode("ascii", "replace") if isinstance(path, bytes) else path
    return text.removeprefix("/")


def base_attributes(method: str) -> dict[str, Any]:
    """Attributes of the span and the histogram alike."""
    return {names.ATTR_RPC_SYSTEM_NAME: "grpc", names.ATTR_RPC_METHOD: method}


def outcome_attributes(code: grpc.StatusCode, failed: bool) -> dict[str, Any]:
    """Attributes known when the call has ended."""
    attributes: dict[str, Any] = {names.ATTR_RPC_RESPONSE_STATUS_CODE: code.name}
    if failed:
        attributes[names.ATTR_ERROR_TYPE] = code.name
    return attributes


class Outcomes:
    """Durations of one method's calls, by how they ended; attribute sets are built once.

    Args:
        duration: the histogram.
        attributes: of the method, beside the outcome's.
    """

    def __init__(self, duration: Histogram, attributes: dict[str, Any]) -> None:
        self._duration = duration
        self._attributes = attributes
        self._by_outcome: dict[tuple[grpc.StatusCode, bool], dict[str, Any]] = {}

    def record(self, seconds: float, code: grpc.StatusCode, failed: bool, context: Context | None = None) -> None:
        """One call ended; `context` holds its span, of which the duration becomes an exemplar. None: it is current."""
        found = self._by_outcome.get((code, failed))
        if found is None:
            found = self._by_outcome[code, failed] = {**self._attributes, **outcome_attributes(code, failed)}
        self._duration.record(seconds, found, context)


def mark(span: Span, code: grpc.StatusCode, failed: bool, message: str) -> None:
    """Write a call's outcome on its span."""
    if not span.is_recording():
        return
    span.set_attributes(outcome_attributes(code, failed))
    if failed:
        span.set_status(Status(StatusCode.ERROR, message))
