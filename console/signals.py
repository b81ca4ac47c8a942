"""What has been seen of each service: its spans, and the newest value of its metrics. No input or output.

Bounded by the number of processes, metrics and attribute sets, the oldest process given up first.

Source: design, section 7.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from console.traces import Span
from relaygr.telemetry import names

PROCESSES_MAX = 256
POINTS_MAX = 500
"""Attribute sets kept of one metric of one process, as many as our services send at most."""
METRICS_MAX = 200
FORGOTTEN_S = 60.0
"""A process that has not been heard of for so long is not shown."""
_STATES = ("published", "staging", "quarantined", "doomed", "free")

Attributes = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Point:
    """The newest of one attribute set of a metric."""

    name: str
    attributes: dict[str, Any]
    value: float
    """Of a histogram, how many were counted."""
    p99: float | None = None
    """Upper bound of the bucket that holds it; histograms only."""


@dataclass(slots=True)
class _Process:
    service: str
    instance: str
    seen_ns: int = 0
    spans: Counter[str] = field(default_factory=Counter)
    metrics: dict[str, dict[Attributes, Point]] = field(default_factory=dict)
    nonzero: set[str] = field(default_factory=set)


class SignalBook:
    """By process, which is a service's name and its instance."""

    def __init__(self) -> None:
        self._processes: OrderedDict[tuple[str, str], _Process] = OrderedDict()
        self.points = 0
        """Taken since the start."""

    def add_spans(self, spans: Iterable[Span], now_ns: int) -> None:
        """Count them."""
        for span in spans:
            process = self._process(span.service, span.instance, now_ns)
            if span.name in process.spans or len(process.spans) < METRICS_MAX:
                process.spans[span.name] += 1

    def add_points(self, service: str, instance: str, points: Iterable[Point], now_ns: int) -> None:
        """Keep the newest of each metric and attribute set."""
        process = self._process(service, instance, now_ns)
        for point in points:
            self.points += 1
            if point.name not in process.metrics and len(process.metrics) >= METRICS_MAX:
                continue
            of_metric = process.metrics.setdefault(point.name, {})
            key = tuple(sorted((name, str(value)) for name, value in point.attributes.items()))
            if key in of_metric or len(of_metric) < POINTS_MAX:
                of_metric[key] = point
            if point.value:
                process.nonzero.add(point.name)

    def signals(self) -> dict[str, Any]:
        """By service: its instances, how often each span was seen, and each metric, non-zero once or not."""
        found: dict[str, Any] = {}
        for process in self._processes.values():
            service = found.setdefault(process.service, {"instances": [], "spans": Counter(), "metrics": {}})
            service["instances"].append(process.instance)
            service["spans"].update(process.spans)
            for name, points in process.metrics.items():
                seen = service["metrics"].setdefault(name, {"points": 0, "is_nonzero": False})
                seen["points"] += len(points)
                seen["is_nonzero"] |= name in process.nonzero
        return {"services": found}

    def instances(self, now_ns: int) -> list[dict[str, Any]]:
        """Processes that were heard of lately, with what each says of itself."""
        return [_instance(process, now_ns) for process in self._recent(now_ns)]

    def dram(self, now_ns: int) -> list[dict[str, Any]]:
        """Expanders that were heard of lately."""
        return [
            _dram(process, now_ns) for process in self._recent(now_ns) if names.METRIC_DRAM_BYTES in process.metrics
        ]

    def must_be_zero(self, now_ns: int) -> list[dict[str, Any]]:
        """Counters of what cannot happen, of processes that were heard of lately."""
        return [
            {"instance": process.instance, "event": event, "value": value}
            for process in self._recent(now_ns)
            for metric, events in names.MUST_BE_ZERO.items()
            for event, value in _by(process, metric, names.ATTR_RESIDENCY_EVENT).items()
            if event in events
        ]

    def _process(self, service: str, instance: str, now_ns: int) -> _Process:
        process = self._processes.setdefault((service, instance), _Process(service, instance))
        process.seen_ns = now_ns
        self._processes.move_to_end((service, instance))
        if len(self._processes) > PROCESSES_MAX:
            self._processes.popitem(last=False)
        return process

    def _recent(self, now_ns: int) -> list[_Process]:
        recent = [one for one in self._processes.values() if now_ns - one.seen_ns <= FORGOTTEN_S * 1e9]
        return sorted(recent, key=lambda one: (one.service, one.instance))


def _instance(process: _Process, now_ns: int) -> dict[str, Any]:
    pages = _by(process, names.METRIC_RESIDENCY_PAGES, names.ATTR_RESIDENCY_STATE)
    backlog_s = _one(process, names.METRIC_SCHEDULE_BACKLOG)
    lag = next(iter(process.metrics.get(names.METRIC_LOOP_LAG, {}).values()), None)
    tickets = names.METRIC_RESIDENCY_OPEN_TICKETS, names.METRIC_TRIGGER_OPEN_TICKETS
    return {
        "id": process.instance,
        "service": process.service,
        "seen_s_ago": _seen_s_ago(process, now_ns),
        "device": {f"{state}_pages": int(pages.get(state, 0)) for state in ("used", "reserved", "total")}
        if pages
        else None,
        "entries": _one(process, names.METRIC_RESIDENCY_ENTRIES),
        "open_tickets": next((value for name in tickets if (value := _one(process, name)) is not None), None),
        "backlog_ms": None if backlog_s is None else round(1e3 * backlog_s, 3),
        "loop_lag_p99_ms": None if lag is None or lag.p99 is None else round(1e3 * lag.p99, 3),
    }


def _dram(process: _Process, now_ns: int) -> dict[str, Any]:
    by_state = _by(process, names.METRIC_DRAM_BYTES, names.ATTR_RESIDENCY_STATE)
    return {
        "id": process.instance,
        "seen_s_ago": _seen_s_ago(process, now_ns),
        "bytes": {state: int(by_state.get(state, 0)) for state in _STATES},
        "entries": _one(process, names.METRIC_DRAM_ENTRIES),
        "pins": _one(process, names.METRIC_DRAM_PINS),
        "owners": _one(process, names.METRIC_DRAM_OWNERS),
    }


def _by(process: _Process, metric: str, attribute: str) -> dict[str, float]:
    """Values of a metric by one attribute."""
    points = process.metrics.get(metric, {}).values()
    return {str(point.attributes[attribute]): point.value for point in points if attribute in point.attributes}


def _one(process: _Process, metric: str) -> float | None:
    points = process.metrics.get(metric)
    return sum(point.value for point in points.values()) if points else None


def _seen_s_ago(process: _Process, now_ns: int) -> float:
    return round((now_ns - process.seen_ns) / 1e9, 1)
