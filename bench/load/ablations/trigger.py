"""Starts a trigger that admits everything: `python -m bench.load.ablations.trigger`.

No test of risk, of hope, of footprint or of load: only the tables' sizes and the rankers'
own refusals bound what is pre-inferred. Settings come from RELAYGR_TRIGGER_*, as for the
trigger itself.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from services.trigger.__main__ import main as serve
from services.trigger.core.account import Account
from services.trigger.core.admission import Admission
from services.trigger.core.effects import DeclineReason
from services.trigger.core.events import Arrived, Demand, InstanceView
from services.trigger.core.price import Terms
from services.trigger.core.risk import Assessment

NO_BOUND_BYTES = 1 << 62


@dataclass(frozen=True, slots=True)
class AlwaysAtRisk(Assessment):
    """The predictions of an assessment, without its verdict."""

    @property
    def is_at_risk(self) -> bool:
        """True."""
        return True


class AdmitEverything(Admission):
    """Counts and remembers like the trigger's own machine, and holds nothing against anybody."""

    def _assess(self, demand: Demand, instance: InstanceView, account: Account) -> Assessment:
        assessment = super()._assess(demand, instance, account)
        return AlwaysAtRisk(**{field.name: getattr(assessment, field.name) for field in fields(assessment)})

    def _hopeless(self, event: Arrived, assessment: Assessment) -> DeclineReason | None:
        return None

    def _footprint_share_bytes(self, instance: InstanceView, scale: float) -> int:
        return NO_BOUND_BYTES

    def _over_bound(self, account: Account, assessment: Assessment, terms: Terms) -> DeclineReason | None:
        return None


if __name__ == "__main__":
    serve(AdmitEverything)
