"""How much time a request has left, carried over every hop.

Python's gRPC does not hand a server's deadline to the calls it makes, so each servicer
reads `remaining_ns` and each outgoing call passes `child_timeout_s`.

Source: design, section 5, invariant I6.
"""

from __future__ import annotations

import time
from contextvars import ContextVar

import grpc

from relaygr.errors import DeadlineTooShort

DEFAULT_DEADLINE_NS = 5_000_000_000
"""For callers that set no deadline: long beside tens of milliseconds, short enough that
nothing waits for ever."""

_UNBOUNDED_S = 86_400.0
"""A deadline further away than a day is no deadline."""

_default_end_ns: ContextVar[int | None] = ContextVar("relaygr_default_end_ns", default=None)
"""Monotonic end of the server's default deadline, set when a request arrives."""


def start_default(default_ns: int) -> None:
    """Start the default deadline of the request that the current task serves."""
    _default_end_ns.set(time.monotonic_ns() + default_ns)


def remaining_ns(context: grpc.aio.ServicerContext, default_ns: int = DEFAULT_DEADLINE_NS) -> int:
    """Time left for the current request, at least 0.

    Args:
        context: the servicer's context.
        default_ns: for a caller that set no deadline; the server's own default counts
            from the request's arrival and wins when it is shorter.
    """
    left_s = context.time_remaining()
    if left_s is not None and left_s < _UNBOUNDED_S:
        return max(0, int(left_s * 1e9))
    end_ns = _default_end_ns.get()
    if end_ns is None:
        return default_ns
    return max(0, min(default_ns, end_ns - time.monotonic_ns()))


def child_timeout_s(remaining_ns: int, margin_ns: int) -> float:
    """Timeout of an outgoing call that leaves `margin_ns` for this hop's own work.

    gRPC rounds a timeout up on the wire: to a millisecond below a second, by at most one
    per cent above. The margin should cover that too.

    Raises:
        DeadlineTooShort: nothing is left for the callee; nothing was sent.
    """
    left_ns = remaining_ns - margin_ns
    if left_ns <= 0:
        raise DeadlineTooShort(f"{remaining_ns / 1e6:.1f} ms left, {margin_ns / 1e6:.1f} ms needed here")
    return left_ns / 1e9
