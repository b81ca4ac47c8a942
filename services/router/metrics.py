"""The router's instruments; names from ops/telemetry.yaml."""

from __future__ import annotations

import time

from relaygr.registry import Watch
from relaygr.telemetry import Telemetry, names
from services.router.core.binding import Binding, Branch
from services.router.core.events import FenceReason

_BY_BRANCH = {branch: {names.ATTR_ROUTE_BRANCH: branch.value} for branch in Branch}


class RouterMetrics:
    """Counters of choices and fences, gauges of the local view."""

    def __init__(self, telemetry: Telemetry, core: Binding) -> None:
        self._telemetry = telemetry
        self._choices = telemetry.counter(names.METRIC_ROUTE_CHOICES)
        self._fences = telemetry.counter(names.METRIC_ROUTE_FENCES)
        telemetry.gauge(names.METRIC_ROUTE_MEMBERS, lambda: len(core.members))
        telemetry.gauge(names.METRIC_ROUTE_PINS, lambda: len(core.pins))

    def chosen(self, branch: Branch) -> None:
        """Count a request by how its instance was chosen."""
        self._choices.add(1, _BY_BRANCH[branch])

    def fenced(self, reason: FenceReason) -> None:
        """Count a fence."""
        self._fences.add(1, {names.ATTR_ROUTE_REASON: reason.value})

    def observe_registry(self, watch: Watch) -> None:
        """Publish how old the local view is."""
        self._telemetry.gauge(names.METRIC_REGISTRY_AGE, lambda: watch.age_ns(time.monotonic_ns()) / 1e9)
