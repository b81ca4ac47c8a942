"""The trigger's instruments; names from ops/telemetry.yaml."""

from __future__ import annotations

from relaygr.telemetry import Telemetry, names
from services.trigger.core.admission import Admission


class TriggerMetrics:
    """Counters of decisions and acceptances, gauges of what is held."""

    def __init__(self, telemetry: Telemetry, admission: Admission):
        self._arrivals = telemetry.counter(names.METRIC_TRIGGER_ARRIVALS)
        self._acceptances = telemetry.counter(names.METRIC_TRIGGER_ACCEPTANCES)
        telemetry.gauge(names.METRIC_TRIGGER_OPEN_TICKETS, lambda: admission.holdings.open_tickets)
        telemetry.gauge(
            names.METRIC_TRIGGER_FOOTPRINT,
            lambda: [(size, {names.ATTR_INSTANCE_ID: instance_id}) for instance_id, size in admission.footprints()],
        )

        telemetry.gauge(
            names.METRIC_TRIGGER_SCALE,
            lambda: [
                (scale, {names.ATTR_INSTANCE_ID: instance_id, names.ATTR_TRIGGER_BOUND: bound})
                for instance_id, *scales in admission.scales()
                for bound, scale in zip(("footprint", "load"), scales, strict=True)
            ],
        )

    def decided(self, decision: str, reason: str) -> None:
        """Count an arrival."""
        self._arrivals.add(1, {names.ATTR_TRIGGER_DECISION: decision, names.ATTR_TRIGGER_REASON: reason})

    def answered(self, acceptance: str, reason: str) -> None:
        """Count a pre-infer's answer."""
        self._acceptances.add(1, {names.ATTR_PRE_INFER_ACCEPTANCE: acceptance, names.ATTR_PRE_INFER_REASON: reason})
