"""Groups spans by trace and says which traces are ready to be written. No input or output.

Spans of one trace come from several processes in batches, seconds apart; a trace is written
when it has a root and nothing has come for a while, and written again when a straggler does.
What is kept in memory is what is kept on disk: at most `traces_max` traces of at most
`spans_max` spans, the oldest given up first.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Link:
    """A span that this one follows from."""

    trace_id: str
    span_id: str


@dataclass(frozen=True, kw_only=True)
class Span:
    """One span, as the collector keeps it."""

    trace_id: str
    """32 hex digits."""
    span_id: str
    """16 hex digits."""
    parent_span_id: str
    """Empty for a root."""
    name: str
    kind: str
    """INTERNAL, SERVER, CLIENT, PRODUCER or CONSUMER."""
    service: str
    instance: str
    start_unix_ns: int
    end_unix_ns: int
    attributes: dict[str, Any]
    links: tuple[Link, ...]
    is_error: bool

    def to_json(self) -> dict[str, Any]:
        """As written to disk."""
        return asdict(self)

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> Span:
        """As read from disk."""
        return cls(**(raw | {"links": tuple(Link(**link) for link in raw["links"])}))


@dataclass
class _Trace:
    spans: dict[str, Span] = field(default_factory=dict)
    changed_ns: int = 0
    is_written: bool = False

    @property
    def has_root(self) -> bool:
        return any(not span.parent_span_id for span in self.spans.values())


@dataclass(frozen=True)
class Due:
    """What the owner should do now."""

    written: dict[str, list[Span]]
    """Traces to write, by trace id; spans in order of start."""
    deleted: tuple[str, ...]
    """Traces whose files are to be deleted."""


class TraceBook:
    """The traces under way and those kept."""

    def __init__(self, *, traces_max: int, spans_max: int, quiet_ns: int) -> None:
        self._traces_max = traces_max
        self._spans_max = spans_max
        self._quiet_ns = quiet_ns
        self._traces: OrderedDict[str, _Trace] = OrderedDict()
        self._deleted: list[str] = []
        self.dropped_spans = 0

    def add(self, spans: Iterable[Span], now_ns: int) -> None:
        """Take a batch."""
        for span in spans:
            trace = self._traces.setdefault(span.trace_id, _Trace())
            if len(trace.spans) >= self._spans_max and span.span_id not in trace.spans:
                self.dropped_spans += 1
                continue
            trace.spans[span.span_id] = span
            trace.changed_ns, trace.is_written = now_ns, False
        while len(self._traces) > self._traces_max:
            trace_id, _ = self._traces.popitem(last=False)
            self._deleted.append(trace_id)

    def due(self, now_ns: int) -> Due:
        """Traces that have a root and went quiet, once each until they change."""
        written = {}
        for trace_id, trace in self._traces.items():
            if not trace.is_written and trace.has_root and now_ns - trace.changed_ns >= self._quiet_ns:
                trace.is_written = True
                written[trace_id] = sorted(trace.spans.values(), key=lambda span: (span.start_unix_ns, span.span_id))
        deleted, self._deleted = tuple(self._deleted), []
        return Due(written=written, deleted=deleted)

    def check(self) -> None:
        """Assert the bounds."""
        assert len(self._traces) <= self._traces_max
        assert all(len(trace.spans) <= self._spans_max for trace in self._traces.values())
