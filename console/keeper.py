"""Everything that the console keeps, fed by the receiver and read by the page. No input or output."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from console.requests import RequestBook, Row, row_of
from console.signals import Point, SignalBook
from console.story import is_request
from console.traces import Due, Span, TraceBook
from console.waterfall import to_json, waterfall_of

SLOWEST = "slowest"
"""Stands for a trace's id."""


class Unknown(Exception):
    """No trace of that id is kept."""


class Keeper:
    """Traces, the requests that they are of, and signals by process.

    Args:
        traces_max: traces kept; the oldest go first.
        spans_max: of one trace; further ones are counted and dropped.
        quiet_ns: a trace to which nothing has come for so long is read.
    """

    def __init__(self, *, traces_max: int, spans_max: int, quiet_ns: int) -> None:
        self._traces = TraceBook(traces_max=traces_max, spans_max=spans_max, quiet_ns=quiet_ns)
        self._requests = RequestBook()
        self._signals = SignalBook()

    def add_spans(self, spans: Iterable[Span], now_ns: int) -> None:
        """Take a batch."""
        batch = list(spans)
        self._traces.add(batch, now_ns)
        self._signals.add_spans(batch, now_ns)

    def add_points(self, service: str, instance: str, points: Iterable[Point], now_ns: int) -> None:
        """Take a process's metrics."""
        self._signals.add_points(service, instance, points, now_ns)

    def settle(self, now_ns: int) -> Due:
        """Read the traces that have gone quiet; what is given up is forgotten."""
        due = self._traces.due(now_ns)
        for trace_id, spans in due.written.items():
            if is_request(spans):
                self._requests.put(row_of(trace_id, spans))
        for trace_id in due.deleted:
            self._requests.drop(trace_id)
        return due

    def check(self) -> None:
        """Assert the bounds."""
        self._traces.check()

    def overview(self, now_ns: int, now_unix_ns: int) -> dict[str, Any]:
        """What the page shows at its top; the two clocks are of the same moment."""
        return {
            "now_unix_ms": now_unix_ns // 1_000_000,
            "window_s": 60,
            **self._requests.overview(now_unix_ns),
            "instances": self._signals.instances(now_ns),
            "dram": self._signals.dram(now_ns),
            "must_be_zero": self._signals.must_be_zero(now_ns),
            "collector": {
                "traces": len(self._traces),
                "spans": self._traces.spans,
                "dropped_spans": self._traces.dropped_spans,
                "metric_points": self._signals.points,
            },
        }

    def requests(self, filter_name: str, limit: int) -> dict[str, Any]:
        """Rows that a filter shows, newest first.

        Raises:
            KeyError: no such filter.
        """
        return {"filter": filter_name, "requests": [row.to_json() for row in self._requests.shown(filter_name, limit)]}

    def request(self, trace_id: str) -> dict[str, Any]:
        """One request and its waterfall.

        Raises:
            Unknown: it is not kept.
        """
        row, spans = self.found(trace_id)
        return {"request": row.to_json(), **to_json(waterfall_of(spans))}

    def found(self, trace_id: str) -> tuple[Row, list[Span]]:
        """A request's row and spans, by id or as the slowest.

        Raises:
            Unknown: it is not kept.
        """
        row = self._requests.slowest() if trace_id == SLOWEST else self._requests.get(trace_id)
        spans = self._traces.spans_of(row.trace_id) if row is not None else self._traces.spans_of(trace_id)
        if not spans:
            raise Unknown(f"no trace {trace_id} is kept; the oldest go first, and one is shown a second after its end")
        return row or row_of(trace_id, spans), spans

    def signals(self) -> dict[str, Any]:
        """What was seen of each service since the start."""
        return self._signals.signals()
