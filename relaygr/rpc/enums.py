"""Names of enum values in replies."""

from __future__ import annotations

from typing import Any


def name_of(enum: Any, number: int, prefix: str) -> str:
    """The value's name without its prefix; the number itself when a newer peer sent what we do not know."""
    value = enum.DESCRIPTOR.values_by_number.get(number)
    return str(number) if value is None else str(value.name).removeprefix(prefix)
