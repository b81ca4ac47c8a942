"""Spans that are recorded: what the SDK's are, at a fraction of their cost.

A hop makes half a dozen spans before its answer leaves. The SDK's span takes locks, cleans and copies attributes,
keeps statistics, and is copied once more at its end: most of what tracing cost was spent there, in code that a
service at a few requests a second finds cold each time. These are plain objects of the event loop. Processors and
exporters are the SDK's, which read of a span what is here.

Written by one thread until they end, and by nobody afterwards, when the exporter's thread reads them.

Source: design, section 7.
"""

from __future__ import annotations

import random
import time
import traceback
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

from opentelemetry import context as context_api
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, SpanProcessor
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, NonRecordingSpan, Span, SpanContext, SpanKind, Status, StatusCode, TraceFlags

ATTRIBUTES_MAX = 128
"""Of one span, as in the SDK; what is beyond is dropped, and counted."""

_SAMPLED = TraceFlags(TraceFlags.SAMPLED)
_UNSAMPLED = TraceFlags(TraceFlags.DEFAULT)
_UNSET = Status(StatusCode.UNSET)
_TRACE_ID_LOW = (1 << 64) - 1
"""The bits that decide sampling by ratio, as in the SDK: hops decide alike."""


class RecordedSpan(Span):
    """One span; has what exporters read of the SDK's."""

    __slots__ = (
        *("_tracer", "name", "context", "parent", "kind", "attributes", "links", "events", "status"),
        *("start_time", "end_time", "dropped_attributes"),
    )

    dropped_events = 0
    dropped_links = 0

    def __init__(
        self,
        tracer: RecordingTracer,
        name: str,
        context: SpanContext,
        parent: SpanContext | None,
        kind: SpanKind,
        attributes: Mapping[str, Any] | None,
        links: Sequence[Link],
        start_ns: int,
    ) -> None:
        self._tracer = tracer
        self.name = name
        self.context = context
        self.parent = parent
        self.kind = kind
        self.attributes: dict[str, Any] = dict(attributes) if attributes else {}
        self.links: tuple[Link, ...] = tuple(links)
        self.events: tuple[Event, ...] = ()
        self.status = _UNSET
        self.start_time = start_ns
        self.end_time: int | None = None
        self.dropped_attributes = 0

    @property
    def resource(self) -> Resource:
        """Of the process."""
        return self._tracer.resource

    @property
    def instrumentation_scope(self) -> InstrumentationScope:
        """Who made it."""
        return self._tracer.scope

    def get_span_context(self) -> SpanContext:
        """Its ids."""
        return self.context

    def is_recording(self) -> bool:
        """True until it ends."""
        return self.end_time is None

    def set_attribute(self, key: str, value: Any) -> None:
        """Add or replace one."""
        self.set_attributes({key: value})

    def set_attributes(self, attributes: Mapping[str, Any]) -> None:
        """Add or replace some; after the end nothing happens."""
        if self.end_time is not None:
            return
        if len(self.attributes) + len(attributes) <= ATTRIBUTES_MAX:
            self.attributes.update(attributes)
            return
        for key, value in attributes.items():
            if key in self.attributes or len(self.attributes) < ATTRIBUTES_MAX:
                self.attributes[key] = value
            else:
                self.dropped_attributes += 1

    def add_event(self, name: str, attributes: Any = None, timestamp: int | None = None) -> None:
        """Note that something happened."""
        if self.end_time is None:
            self.events = (*self.events, Event(name, attributes, timestamp))

    def add_link(self, context: SpanContext, attributes: Any = None) -> None:
        """Point to another span."""
        if self.end_time is None:
            self.links = (*self.links, Link(context, attributes))

    def update_name(self, name: str) -> None:
        """Call it something else."""
        if self.end_time is None:
            self.name = name

    def set_status(self, status: Status | StatusCode, description: str | None = None) -> None:
        """Say how it ended; OK is final, and unset says nothing."""
        given = status if isinstance(status, Status) else Status(status, description)
        is_said = given.status_code is not StatusCode.UNSET and self.status.status_code is not StatusCode.OK
        if is_said and self.end_time is None:
            self.status = given

    def record_exception(
        self, exception: BaseException, attributes: Any = None, timestamp: int | None = None, escaped: bool = False
    ) -> None:
        """Note an exception as an event."""
        kind = type(exception)
        about = {
            "exception.type": f"{kind.__module__}.{kind.__qualname__}".removeprefix("builtins."),
            "exception.message": str(exception),
            "exception.stacktrace": "".join(traceback.format_exception(exception)),
            "exception.escaped": str(escaped),
        }
        self.add_event("exception", {**about, **(attributes or {})}, timestamp)

    def end(self, end_time: int | None = None) -> None:
        """End it and hand it on; repeatable."""
        if self.end_time is None:
            self.end_time = end_time or time.time_ns()
            for processor in self._tracer.processors:
                processor.on_end(self)  # type: ignore[arg-type]


class RecordingTracer(trace.Tracer):
    """Makes spans for a process that exports them.

    Args:
        resource: what the process is.
        processors: take spans that have ended.
        sample_ratio: share of the traces begun here that are recorded; of others, who began them has decided.
    """

    def __init__(self, resource: Resource, processors: Sequence[SpanProcessor], sample_ratio: float) -> None:
        self.resource = resource
        self.processors = tuple(processors)
        self.scope = InstrumentationScope("relaygr")
        self._bound = round(sample_ratio * (1 << 64))

    def start_span(
        self,
        name: str,
        context: Context | None = None,
        kind: SpanKind = SpanKind.INTERNAL,
        attributes: Any = None,
        links: Sequence[Link] | None = (),
        start_time: int | None = None,
        record_exception: bool = True,
        set_status_on_exception: bool = True,
    ) -> Span:
        """A span, or one that records nothing where the trace is not sampled."""
        parent: SpanContext | None = trace.get_current_span(context).get_span_context()
        if parent is not None and parent.is_valid:
            if not parent.trace_flags & TraceFlags.SAMPLED:
                return NonRecordingSpan(parent)
            trace_id, flags, state = parent.trace_id, parent.trace_flags, parent.trace_state
        else:
            parent, state, trace_id = None, None, _drawn(128)
            flags = _SAMPLED if trace_id & _TRACE_ID_LOW < self._bound else _UNSAMPLED
        own = SpanContext(trace_id, _drawn(64), is_remote=False, trace_flags=flags, trace_state=state)
        if flags is _UNSAMPLED:
            return NonRecordingSpan(own)
        return RecordedSpan(self, name, own, parent, kind, attributes, links or (), start_time or time.time_ns())

    def start_as_current_span(  # type: ignore[override]
        self,
        name: str,
        context: Context | None = None,
        kind: SpanKind = SpanKind.INTERNAL,
        attributes: Any = None,
        links: Sequence[Link] | None = (),
        start_time: int | None = None,
        record_exception: bool = True,
        set_status_on_exception: bool = True,
        end_on_exit: bool = True,
    ) -> CurrentSpan:
        """The same, current inside the block, which ends it."""
        span = self.start_span(name, context, kind, attributes, links, start_time)
        return CurrentSpan(span, record_exception, set_status_on_exception, end_on_exit)


class CurrentSpan:
    """A block in which a span is current."""

    __slots__ = ("_ends", "_records", "_sets_status", "_span", "_token")

    def __init__(self, span: Span, records: bool, sets_status: bool, ends: bool) -> None:
        self._span = span
        self._records = records
        self._sets_status = sets_status
        self._ends = ends

    def __enter__(self) -> Span:
        self._token = context_api.attach(trace.set_span_in_context(self._span))
        return self._span

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        context_api.detach(self._token)
        if isinstance(error, Exception) and self._span.is_recording():
            if self._records:
                self._span.record_exception(error)
            if self._sets_status:
                self._span.set_status(Status(StatusCode.ERROR, f"{type(error).__name__}: {error}"))
        if self._ends:
            self._span.end()


def _drawn(bits: int) -> int:
    """An id; zero is none."""
    return random.getrandbits(bits) or _drawn(bits)
