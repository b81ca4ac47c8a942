"""Instruments that take the attributes declared for them and no others.

For tests, where everything recorded goes through them. In a service an undeclared attribute would be one more time
series that nobody expects; there nothing is checked, since it would cost a little of each call.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from opentelemetry.context import Context

from relaygr.telemetry import names


class Check:
    """Holds recordings to the registry, and keeps what was undeclared: a callback's exception is easily lost."""

    def __init__(self) -> None:
        self.undeclared: list[str] = []

    def attributes(self, metric: str, attributes: Mapping[str, Any] | None) -> None:
        """Raise AssertionError for attributes that ops/telemetry.yaml does not list for the metric."""
        strangers = set(attributes or ()) - names.ATTRIBUTES[metric]
        if strangers:
            self.undeclared.append(f"{metric} is recorded with {', '.join(sorted(strangers))}")
            raise AssertionError(f"{self.undeclared[-1]}: declare it in ops/telemetry.yaml")

    def close(self) -> None:
        """Raise AssertionError when anything was undeclared."""
        assert not self.undeclared, "; ".join(self.undeclared)


class CheckedInstrument:
    """A counter, an up-down counter or a histogram behind a check."""

    __slots__ = ("_check", "_inner", "_name")

    def __init__(self, name: str, inner: Any, check: Check) -> None:
        self._name = name
        self._inner = inner
        self._check = check

    def add(self, amount: float, attributes: Any = None, context: Context | None = None) -> None:
        """As the instrument's own."""
        self._check.attributes(self._name, attributes)
        self._inner.add(amount, attributes, context)

    def record(self, amount: float, attributes: Any = None, context: Context | None = None) -> None:
        """As the instrument's own."""
        self._check.attributes(self._name, attributes)
        self._inner.record(amount, attributes, context)
