"""Faults to gRPC status and back: the only place that names status codes.

A status code alone is coarser than the error tree, so the server also sends the class's
name in trailing metadata; a reader trusts it only when it fits the code.
"""

from __future__ import annotations

import grpc

from relaygr.errors import (
    AccessDenied,
    CorruptData,
    DeadlineTooShort,
    ForeignEpoch,
    InvalidRequest,
    NotHere,
    PeerFailed,
    Refused,
    RelayError,
    Stale,
    Unidentified,
    Unreachable,
)

ERROR_METADATA_KEY = "relaygr-error"
"""Trailing metadata: class name of the error."""

MESSAGE_CHARACTERS_MAX = 1024
"""Details travel in HTTP/2 headers, which gRPC caps at 8 KiB."""

_CODES: dict[type[RelayError], grpc.StatusCode] = {
    InvalidRequest: grpc.StatusCode.INVALID_ARGUMENT,
    Refused: grpc.StatusCode.RESOURCE_EXHAUSTED,
    DeadlineTooShort: grpc.StatusCode.DEADLINE_EXCEEDED,
    ForeignEpoch: grpc.StatusCode.FAILED_PRECONDITION,
    Stale: grpc.StatusCode.FAILED_PRECONDITION,
    NotHere: grpc.StatusCode.NOT_FOUND,
    AccessDenied: grpc.StatusCode.PERMISSION_DENIED,
    Unidentified: grpc.StatusCode.UNAUTHENTICATED,
    CorruptData: grpc.StatusCode.DATA_LOSS,
    Unreachable: grpc.StatusCode.UNAVAILABLE,
    PeerFailed: grpc.StatusCode.INTERNAL,
}
_CLASSES = {error_class.__name__: error_class for error_class in _CODES}

SERVER_ERROR_CODES = frozenset(
    {
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.UNIMPLEMENTED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DATA_LOSS,
    }
)
"""Codes that mark a server span as failed; the others are the caller's doing.

Source: OpenTelemetry semantic conventions for gRPC.
"""


def status_of(error: RelayError) -> grpc.StatusCode:
    """The status code of an error; a subclass not listed takes its parent's."""
    for error_class in type(error).__mro__:
        code = _CODES.get(error_class)
        if code is not None:
            return code
    return grpc.StatusCode.INTERNAL


def message_of(error: RelayError) -> str:
    """The status details of an error, short enough to travel."""
    text = str(error) or type(error).__name__
    return text if len(text) <= MESSAGE_CHARACTERS_MAX else text[: MESSAGE_CHARACTERS_MAX - 3] + "..."


def error_of(rpc_error: grpc.aio.AioRpcError, peer: str) -> RelayError:
    """The error that a failed call stands for.

    Args:
        rpc_error: what the call raised.
        peer: address or id of the callee, for the message.
    """
    code = rpc_error.code()
    details = rpc_error.details() or code.name
    match code:
        case grpc.StatusCode.INVALID_ARGUMENT | grpc.StatusCode.OUT_OF_RANGE:
            field, separator, problem = details.partition(": ")
            return InvalidRequest(field, problem) if separator else InvalidRequest("request", details)
        case grpc.StatusCode.RESOURCE_EXHAUSTED:
            return Refused(details)
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            # The peer may have begun, so the outcome is open unless it says otherwise.
            return DeadlineTooShort(details, is_definite=_named_class(rpc_error, code) is DeadlineTooShort)
        case grpc.StatusCode.NOT_FOUND:
            return NotHere(details)
        case grpc.StatusCode.PERMISSION_DENIED:
            return AccessDenied(details)
        case grpc.StatusCode.UNAUTHENTICATED:
            return Unidentified(details)
        case grpc.StatusCode.DATA_LOSS:
            return CorruptData(details)
        case grpc.StatusCode.FAILED_PRECONDITION:
            return ForeignEpoch(details) if _named_class(rpc_error, code) is ForeignEpoch else Stale(details)
        case grpc.StatusCode.UNAVAILABLE | grpc.StatusCode.CANCELLED:
            # A server that goes away cancels what it was doing.
            return Unreachable(peer, details)
        case _:
            return PeerFailed(peer, f"{code.name} {details}" if details != code.name else details)


def _named_class(rpc_error: grpc.aio.AioRpcError, code: grpc.StatusCode) -> type[RelayError] | None:
    for key, value in rpc_error.trailing_metadata() or ():
        if key == ERROR_METADATA_KEY:
            named = _CLASSES.get(value if isinstance(value, str) else value.decode("ascii", "replace"))
            return named if named is not None and _CODES[named] is code else None
    return None
