"""Instruments of the ranker; names from ops/telemetry.yaml."""

from __future__ import annotations

from collections.abc import Callable

from opentelemetry.context import Context

from relaygr.telemetry import Telemetry, names
from services.ranker.adapters.executor import Outcome
from services.ranker.core.residency import Residency
from services.ranker.core.schedule import Job, Queues


class RankerMetrics:
    """What the ranker counts and times."""

    def __init__(self, telemetry: Telemetry):
        """Create the instruments."""
        self._telemetry = telemetry
        self._ranks = telemetry.counter(names.METRIC_RANK_REQUESTS)
        self._stages = telemetry.histogram(names.METRIC_RANK_STAGE_DURATION)
        self._psi_used = telemetry.histogram(names.METRIC_RANK_PSI_USED)
        self._pre_infers = telemetry.counter(names.METRIC_PRE_INFER_REQUESTS)
        self._productions = telemetry.histogram(names.METRIC_PRE_INFER_DURATION)
        self._preempt_waits = telemetry.histogram(names.METRIC_DEVICE_PREEMPT_WAIT)
        self._steps = telemetry.histogram(names.METRIC_DEVICE_STEP_LONGEST)

    def ranked(self, tier: str, fallback: str, psi_tokens: int, stages_ns: dict[str, int]) -> None:
        """One rank was answered."""
        self._ranks.add(1, {names.ATTR_RANK_TIER: tier, names.ATTR_RANK_FALLBACK: fallback})
        self._psi_used.record(psi_tokens)
        for stage, elapsed_ns in stages_ns.items():
            self._stages.record(elapsed_ns / 1e9, {names.ATTR_RANK_TIER: tier, names.ATTR_RANK_STAGE: stage})

    def pre_inferred(self, acceptance: str, reason: str) -> None:
        """One pre-infer was answered."""
        attributes = {names.ATTR_PRE_INFER_ACCEPTANCE: acceptance, names.ATTR_PRE_INFER_REASON: reason}
        self._pre_infers.add(1, attributes)

    def produced(self, source: str, elapsed_ns: int, context: Context | None = None) -> None:
        """A production ended well; `source` is "compute" or "reload", `context` has its span unless that is current."""
        self._productions.record(elapsed_ns / 1e9, {names.ATTR_PRE_INFER_SOURCE: source}, context)

    def worked(self, job: Job, outcome: Outcome) -> None:
        """One job of the device that had begun has ended, in whatever way."""
        attributes = {names.ATTR_DEVICE_JOB_CLASS: job.job_class.name}
        self._steps.record(outcome.longest_step_ns / 1e9, attributes)
        if outcome.preempt_wait_ns is not None:
            self._preempt_waits.record(outcome.preempt_wait_ns / 1e9, attributes)

    def observe(self, residency: Residency, load: Callable[[], Queues]) -> None:
        """Publish the state gauges; both are read at each collection."""

        def pages() -> list[tuple[float, dict[str, str]]]:
            seen = residency.snapshot()
            return [
                (seen.used_pages, {names.ATTR_RESIDENCY_STATE: "used"}),
                (seen.reserved_pages, {names.ATTR_RESIDENCY_STATE: "reserved"}),
                (seen.total_pages, {names.ATTR_RESIDENCY_STATE: "total"}),
            ]

        gauge = self._telemetry.gauge
        gauge(names.METRIC_RESIDENCY_PAGES, pages)
        gauge(names.METRIC_RESIDENCY_ENTRIES, lambda: residency.snapshot().resident_entries)
        gauge(names.METRIC_RESIDENCY_OPEN_TICKETS, lambda: residency.snapshot().open_tickets)
        gauge(names.METRIC_RESIDENCY_EVENTS, lambda: _counters(residency))
        self._telemetry.total(names.METRIC_RANK_TICKETS, lambda: _tickets(residency))
        gauge(names.METRIC_SCHEDULE_BACKLOG, lambda: load().backlog_ns / 1e9)


def _counters(residency: Residency) -> list[tuple[float, dict[str, str]]]:
    counters = residency.snapshot().counters
    return [(value, {names.ATTR_RESIDENCY_EVENT: name}) for name, value in counters.items()]


def _tickets(residency: Residency) -> list[tuple[float, dict[str, str]]]:
    counters = residency.snapshot().counters
    ranked, found = counters["rank_with_ticket"], counters["rank_with_ticket_hit"]
    return [(found, {names.ATTR_RANK_PSI: "FOUND"}), (ranked - found, {names.ATTR_RANK_PSI: "LOST"})]
