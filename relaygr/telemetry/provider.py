"""One object that makes spans and instruments; handed to whoever needs it.

Nothing global is set: two of these live side by side in one process, as in tests.

Source: design, section 7.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, TypeVar, cast

from opentelemetry import metrics, trace
from opentelemetry.context import Context
from opentelemetry.sdk.metrics import Histogram, MeterProvider, TraceBasedExemplarFilter
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, MetricReader
from opentelemetry.sdk.metrics.view import ExplicitBucketHistogramAggregation, View
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import Link, Span, SpanKind

from relaygr.domain.identity import UserKey
from relaygr.telemetry import names
from relaygr.telemetry.checked import Check, CheckedInstrument
from relaygr.telemetry.export import otlp_metric_reader, otlp_span_processor, quiet_exporter_logs
from relaygr.telemetry.quiet import QuietTracer
from relaygr.telemetry.recording import RecordingTracer

SECONDS_BUCKETS = (
    *(0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075),
    # Ranking budgets live between ten and a hundred milliseconds.
    *(0.01, 0.0125, 0.015, 0.02, 0.025, 0.03, 0.035, 0.04, 0.045, 0.05, 0.06, 0.07, 0.08, 0.09, 0.1),
    *(0.125, 0.15, 0.2, 0.3, 0.5, 1.0, 2.5, 5.0),
)
TOKEN_BUCKETS = tuple(float(2**power) for power in range(4, 16))

ATTRIBUTE_SETS_MAX = 500
"""Distinct attribute sets of one metric; what is beyond goes to one overflow point."""


Instrument = TypeVar("Instrument")
Read = Callable[[], float | Iterable[tuple[float, Mapping[str, str]]]]
"""Gives one value, or (value, attributes) pairs. Called on a telemetry thread."""


class Telemetry:
    """Tracer, meter and the key that hashes user ids."""

    def __init__(
        self,
        *,
        resource: Mapping[str, Any],
        user_hash_key: bytes,
        span_processors: Sequence[SpanProcessor] = (),
        metric_readers: Sequence[MetricReader] = (),
        sample_ratio: float = 1.0,
    ) -> None:
        described = Resource(dict(resource))
        self._closing: list[Callable[[], object]] = []
        self._user_hash_key = user_hash_key
        self._is_shut_down = False
        self._reads: dict[str, list[Read]] = {}
        self._check: Check | None = None
        self.tracer = self._tracer(described, span_processors, sample_ratio)
        self.meter = self._meter(described, metric_readers)
        self.has_reader = bool(metric_readers)
        """Whether anybody takes the metrics; what is measured for them alone need not be."""
        self.metric_reader: InMemoryMetricReader | None = None
        """Set by `for_tests`."""

    @classmethod
    def setup(
        cls,
        service_name: str,
        instance_id: str,
        otlp_endpoint: str | None,
        user_hash_key: bytes,
        *,
        sample_ratio: float = 1.0,
        resource: Mapping[str, str] | None = None,
    ) -> Telemetry:
        """The telemetry of a process.

        Args:
            service_name: for example "relaygr-router".
            instance_id: unique per process.
            otlp_endpoint: OTLP over gRPC, or None or empty to send nothing (trace context
                is then still drawn and carried on).
            user_hash_key: keys the hashes that stand for user ids.
            sample_ratio: share of the traces begun here that are recorded.
            resource: further resource attributes, such as the resolved config.
        """
        if otlp_endpoint:
            quiet_exporter_logs()
        return cls(
            resource={"service.name": service_name, "service.instance.id": instance_id, **(resource or {})},
            user_hash_key=user_hash_key,
            span_processors=(otlp_span_processor(otlp_endpoint),) if otlp_endpoint else (),
            metric_readers=(otlp_metric_reader(otlp_endpoint),) if otlp_endpoint else (),
            sample_ratio=sample_ratio,
        )

    @classmethod
    def for_tests(cls, service_name: str = "test") -> tuple[Telemetry, InMemorySpanExporter]:
        """Telemetry that keeps everything in memory; metrics are in `metric_reader`.

        Attributes that the registry does not declare for a metric fail the recording, and `points` and `shutdown`.
        """
        exporter = InMemorySpanExporter()
        reader = InMemoryMetricReader()
        telemetry = cls(
            resource={"service.name": service_name},
            user_hash_key=b"test",
            span_processors=(SimpleSpanProcessor(exporter),),
            metric_readers=(reader,),
        )
        telemetry.metric_reader = reader
        telemetry._check = Check()
        return telemetry, exporter

    def span(
        self,
        name: str,
        attributes: Mapping[str, Any] | None = None,
        links: Sequence[Link | None] = (),
        parent: Context | None = None,
        kind: SpanKind = SpanKind.INTERNAL,
    ) -> AbstractContextManager[Span]:
        """A span that is current inside the block; links that are None are left out.

        Args:
            name: a `names.SPAN_...` constant.
            attributes: by `names.ATTR_...` constants.
            links: from `link_of`.
            parent: instead of the current span; from `context_of`.
            kind: INTERNAL unless it is a hop.
        """
        there = [link for link in links if link is not None] if links else ()
        return self.tracer.start_as_current_span(name, context=parent, kind=kind, attributes=attributes, links=there)

    def counter(self, name: str) -> metrics.Counter:
        """A counter declared in the registry."""
        unit, meaning = _declared(name, "counter")
        return self._checked(name, self.meter.create_counter(name, unit, meaning))

    def up_down_counter(self, name: str) -> metrics.UpDownCounter:
        """An up-down counter declared in the registry."""
        unit, meaning = _declared(name, "updowncounter")
        return self._checked(name, self.meter.create_up_down_counter(name, unit, meaning))

    def histogram(self, name: str) -> metrics.Histogram:
        """A histogram declared in the registry; buckets follow its unit."""
        unit, meaning = _declared(name, "histogram")
        return self._checked(name, self.meter.create_histogram(name, unit, meaning))

    def gauge(self, name: str, read: Read) -> None:
        """A gauge declared in the registry, read at each collection."""
        self._observe(name, "gauge", read)

    def total(self, name: str, read: Read) -> None:
        """A counter or up-down counter declared in the registry that somebody counts already, read at each collection.

        Several readers of one name, such as two pools of channels, add up.
        """
        self._observe(name, names.INSTRUMENTS[name][0], read)

    def _observe(self, name: str, instrument: str, read: Read) -> None:
        unit, meaning = _declared(name, instrument)
        reads = self._reads.setdefault(name, [])
        reads.append(read)
        if len(reads) > 1:
            return

        def observe(_: metrics.CallbackOptions) -> list[metrics.Observation]:
            return [one for each in tuple(reads) for one in self._observations(name, each())]

        makers = {
            "gauge": self.meter.create_observable_gauge,
            "counter": self.meter.create_observable_counter,
            "updowncounter": self.meter.create_observable_up_down_counter,
        }
        makers[instrument](name, [observe], unit, meaning)

    def _observations(
        self, name: str, seen: float | Iterable[tuple[float, Mapping[str, str]]]
    ) -> list[metrics.Observation]:
        pairs: list[tuple[float, dict[str, str]]]
        pairs = [(seen, {})] if isinstance(seen, int | float) else [(value, dict(found)) for value, found in seen]
        if self._check is not None:
            for _, attributes in pairs:
                self._check.attributes(name, attributes)
        return [metrics.Observation(value, attributes) for value, attributes in pairs]

    def _checked(self, name: str, instrument: Instrument) -> Instrument:
        if self._check is None:
            return instrument
        return cast(Instrument, CheckedInstrument(name, instrument, self._check))

    def points(self, name: str) -> list[Any]:
        """The data points of a metric; only for `for_tests`."""
        assert self.metric_reader is not None, "made by for_tests only"
        data = self.metric_reader.get_metrics_data()
        if self._check is not None:
            self._check.close()
        return [
            point
            for resource in (data.resource_metrics if data is not None else ())
            for scope in resource.scope_metrics
            for metric in scope.metrics
            if metric.name == name
            for point in metric.data.data_points
        ]

    def user_hash(self, user: UserKey) -> str:
        """The keyed hash that stands for a user in spans and logs."""
        return user.hashed(self._user_hash_key)

    def shutdown(self) -> None:
        """Send what is queued, for about a second at most, and stop; repeatable."""
        if self._is_shut_down:
            return
        self._is_shut_down = True
        for close in self._closing:
            close()
        if self._check is not None:
            self._check.close()

    def _tracer(self, described: Resource, processors: Sequence[SpanProcessor], sample_ratio: float) -> trace.Tracer:
        if not processors:
            return QuietTracer(sample_ratio)
        self._closing += [processor.shutdown for processor in processors]
        # A caller's decision is kept: one trace is sampled on all hops or on none.
        return RecordingTracer(described, processors, sample_ratio)

    def _meter(self, described: Resource, readers: Sequence[MetricReader]) -> metrics.Meter:
        if not readers:
            # Nobody reads, so nothing is summed up.
            return metrics.NoOpMeterProvider().get_meter("relaygr")
        provider = MeterProvider(
            resource=described,
            metric_readers=readers,
            views=_views(),
            shutdown_on_exit=False,
            # A slow bucket leads to a trace that was in it.
            exemplar_filter=TraceBasedExemplarFilter(),
        )
        self._closing.append(partial(provider.shutdown, timeout_millis=2_000))
        return provider.get_meter("relaygr")


def current_span() -> Span:
    """The span that is current in this task; a non-recording one outside a trace."""
    return trace.get_current_span()


def _declared(name: str, instrument: str) -> tuple[str, str]:
    found = names.INSTRUMENTS.get(name)
    assert found is not None and found[0] == instrument, f"{name} is not declared as {instrument}"
    return found[1], found[2]


def _views() -> list[View]:
    buckets = {"s": SECONDS_BUCKETS, "{token}": TOKEN_BUCKETS}
    return [
        View(
            instrument_type=Histogram,
            instrument_unit=unit,
            aggregation=ExplicitBucketHistogramAggregation(boundaries),
            aggregation_cardinality_limit=ATTRIBUTE_SETS_MAX,
        )
        for unit, boundaries in buckets.items()
    ]
