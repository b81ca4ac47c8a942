"""Groups spans by trace and says which traces are ready to be read. No input or output.

Spans of one trace come from several processes in batches, seconds apart; a trace is ready when it has a root
and nothing has come for a while, and ready again when a straggler has. At most `traces_max` traces of at most
`spans_max` spans are kept, the oldest given up first.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True, slots=True)
class Link:
    """A span that this one follows from."""

    trace_id: str
    span_id: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Span:
    """One span, as the console keeps it."""

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

    @property
    def length_ns(self) -> int:
        """From start to end."""
        return self.end_unix_ns - self.start_unix_ns

    def to_json(self) -> dict[str, Any]:
        """As written to disk."""
        return asdict(self)

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> Span:
        """As read from disk."""
        return cls(**(raw | {"links": tuple(Link(**link) for link in raw["links"])}))


@dataclass(slots=True)
class _Trace:
    spans: dict[str, Span] = field(default_factory=dict)
    changed_ns: int = 0
    has_root: bool = False


@dataclass(frozen=True)
class Due:
    """What the owner should do now."""

    written: dict[str, list[Span]]
    """Traces that are ready, by trace id; spans in order of start."""
    deleted: tuple[str, ...]
    """Traces that were given up."""


class TraceBook:
    """The traces under way and those kept."""

    def __init__(self, *, traces_max: int, spans_max: int, quiet_ns: int) -> None:
        self._traces_max = traces_max
        self._spans_max = spans_max
        self._quiet_ns = quiet_ns
        self._traces: OrderedDict[str, _Trace] = OrderedDict()
        self._changed: OrderedDict[str, None] = OrderedDict()
        """Traces that have changed since they were last ready, the one that changed last at the end."""
        self._deleted: list[str] = []
        self._given_up: OrderedDict[str, None] = OrderedDict()
        """As many as are kept: what comes late for one of them must not push out another."""
        self.spans = 0
        """Kept now."""
        self.dropped_spans = 0
        """Beyond the maximum of a trace, or of a trace that was given up; since the start."""

    def __len__(self) -> int:
        return len(self._traces)

    def add(self, spans: Iterable[Span], now_ns: int) -> None:
        """Take a batch."""
        for span in spans:
            if span.trace_id in self._given_up:
                self.dropped_spans += 1
                continue
            trace = self._traces.setdefault(span.trace_id, _Trace())
            is_new = span.span_id not in trace.spans
            if is_new and len(trace.spans) >= self._spans_max:
                self.dropped_spans += 1
                continue
            self.spans += is_new
            trace.spans[span.span_id] = span
            trace.has_root = trace.has_root or not span.parent_span_id
            trace.changed_ns = now_ns
            self._changed[span.trace_id] = None
            self._changed.move_to_end(span.trace_id)
        while len(self._traces) > self._traces_max:
            self._give_up()

    def due(self, now_ns: int) -> Due:
        """Traces that have a root and went quiet, once each until they change."""
        written: dict[str, list[Span]] = {}
        for trace_id in list(self._changed):
            trace = self._traces[trace_id]
            if now_ns - trace.changed_ns < self._quiet_ns:
                break
            if trace.has_root:
                del self._changed[trace_id]
                written[trace_id] = self.spans_of(trace_id)
        deleted, self._deleted = tuple(self._deleted), []
        return Due(written=written, deleted=deleted)

    def spans_of(self, trace_id: str) -> list[Span]:
        """The spans of a trace in order of start; empty when it is not kept."""
        trace = self._traces.get(trace_id)
        return [] if trace is None else sorted(trace.spans.values(), key=lambda one: (one.start_unix_ns, one.span_id))

    def check(self) -> None:
        """Assert the bounds."""
        assert len(self._traces) <= self._traces_max
        assert all(len(trace.spans) <= self._spans_max for trace in self._traces.values())
        assert self.spans == sum(len(trace.spans) for trace in self._traces.values())
        assert self._changed.keys() <= self._traces.keys()
        assert len(self._given_up) <= self._traces_max and not self._given_up.keys() & self._traces.keys()

    def _give_up(self) -> None:
        trace_id, trace = self._traces.popitem(last=False)
        self._changed.pop(trace_id, None)
        self.spans -= len(trace.spans)
        self._deleted.append(trace_id)
        self._given_up[trace_id] = None
        if len(self._given_up) > self._traces_max:
            self._given_up.popitem(last=False)
