"""Byte columns of a message to read-only numpy arrays, checked.

Source: the comments of protos/relaygr/v1/common.proto say what a column holds.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from relaygr.errors import InvalidRequest

TIMESTAMP_END_S = 1 << 36
"""Timestamps are below this (year 4147). Milliseconds since 1972 are above it, and are refused by it."""


def bad(field: str, problem: str) -> InvalidRequest:
    """The error for a field of a request."""
    return InvalidRequest(field, problem)


def read_only(array: NDArray[Any]) -> NDArray[Any]:
    """The array itself when nobody can write through it, else a view that cannot."""
    if not array.flags.writeable:
        return array
    view = array.view()
    view.flags.writeable = False
    return view


def count_within(count: int, field: str, count_min: int, count_max: int | None) -> int:
    """A message's count within its bounds."""
    if count < count_min:
        raise bad(f"{field}.count", f"{count}, must be at least {count_min}")
    if count_max is not None and count > count_max:
        raise bad(f"{field}.count", f"{count} exceeds the limit of {count_max}")
    return count


def vector(data: bytes, dtype: str, count: int, field: str) -> NDArray[Any]:
    """`count` values, sharing the message's memory."""
    expected = count * np.dtype(dtype).itemsize
    if len(data) != expected:
        raise bad(field, f"{len(data)} bytes, expected {expected} for {count} values")
    return np.frombuffer(data, dtype) if data else np.zeros(0, dtype)


def matrix(data: bytes, dtype: str, count: int, width: int, field: str, sizes: tuple[int, ...] = ()) -> NDArray[Any]:
    """`count` rows of `width` values, sharing the message's memory; zeros when the field is empty."""
    if not data:
        return np.zeros((count, width), dtype)
    expected = count * width * np.dtype(dtype).itemsize
    if len(data) != expected:
        raise bad(field, f"{len(data)} bytes, expected {expected} for {count} rows of width {width}")
    values = np.frombuffer(data, dtype).reshape(count, width)
    if dtype == "<f4":
        if not np.isfinite(values).all():
            row = int(np.flatnonzero(~np.isfinite(values).all(axis=1))[0])
            raise bad(field, f"row {row} holds a value that is not a finite number")
    elif sizes:
        _check_categorical(values, sizes, field)
    return values


def check_timestamps(timestamps_s: NDArray[np.int64], field: str) -> None:
    """Refuses what runs backwards or cannot be Unix seconds."""
    if not len(timestamps_s):
        return
    # Compared, not subtracted: a difference of two int64 may overflow.
    backwards = timestamps_s[1:] < timestamps_s[:-1]
    if backwards.any():
        row = int(np.argmax(backwards)) + 1
        raise bad(field, f"not sorted: row {row} ({timestamps_s[row]}) is before row {row - 1}")
    if timestamps_s[0] < 0 or timestamps_s[-1] >= TIMESTAMP_END_S:
        raise bad(field, f"{timestamps_s[0]} to {timestamps_s[-1]} are not Unix seconds")


def _check_categorical(values: NDArray[np.int32], sizes: tuple[int, ...], field: str) -> None:
    assert values.shape[1] == len(sizes)
    wrong = ((values < 0) | (values >= np.asarray(sizes))).any(axis=1)
    if wrong.any():
        row = int(np.argmax(wrong))
        raise bad(field, f"row {row} {values[row].tolist()} is outside the vocabulary sizes {list(sizes)}")
