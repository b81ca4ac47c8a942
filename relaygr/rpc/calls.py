"""What server and client interceptors share: which calls are traced, names, attributes.

Source: OpenTelemetry RPC semantic conventions (release candidate).
"""

from __future__ import annotations

from typing import Any

import grpc
from opentelemetry.trace import Span, Status, StatusCode

from relaygr.telemetry import names

_UNTRACED_PREFIXES = ("/grpc.health.", "/grpc.reflection.")


def is_traced(path: str) -> bool:
    """False for health checks and reflection, which would drown everything else."""
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


def mark(span: Span, code: grpc.StatusCode, failed: bool, message: str) -> None:
    """Write a call's outcome on its span."""
    span.set_attributes(outcome_attributes(code, failed))
    if failed:
        span.set_status(Status(StatusCode.ERROR, message))
