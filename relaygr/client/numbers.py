"""Numbers of the caller, checked before a message takes them."""

from __future__ import annotations

from relaygr.errors import InvalidRequest

COUNT_MAX = (1 << 32) - 1
INDEX_MAX = (1 << 62) - 1
SECONDS_MAX = (1 << 63) - 1
_MS_MAX = 1e12


def whole(field: str, value: int, most: int) -> int:
    """The value, a whole number from 0 to `most`.

    Raises:
        InvalidRequest: it is not.
    """
    if not 0 <= value <= most:
        raise InvalidRequest(field, f"must be from 0 to {most}")
    return int(value)


def ns_of(field: str, ms: float) -> int:
    """Milliseconds as nanoseconds.

    Raises:
        InvalidRequest: negative, not finite, or decades.
    """
    if not 0 <= ms <= _MS_MAX:
        raise InvalidRequest(field, "must be a time from 0 on")
    return int(ms * 1e6)
