"""Cores with a part taken out, to see what the part is worth.

Source: design, section 3.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from services.router.core.binding import Binding, Branch, Placement, Subject, TicketRef
from services.router.core.membership import Member
from services.trigger.core.account import Account
from services.trigger.core.admission import Admission
from services.trigger.core.effects import DeclineReason
from services.trigger.core.events import Arrived, Demand, InstanceView
from services.trigger.core.risk import Assessment

ABLATIONS = ("no_trigger", "no_affinity", "no_bound", "no_dram")


class AdmitEveryone(Admission):
    """No test of risk and no bounds: every request pre-infers."""

    def _assess(self, demand: Demand, instance: InstanceView, account: Account) -> Assessment:
        return replace(super()._assess(demand, instance, account), queue_ns=demand.rank_budget_ns)

    def _hopeless(self, event: Arrived, assessment: Assessment) -> DeclineReason | None:
        return None

    def _over_bound(
        self, instance: InstanceView, account: Account, assessment: Assessment, now_ns: int
    ) -> DeclineReason | None:
        return None

    def check(self) -> None:
        """Nothing bounds the footprint."""


class NoAffinity(Binding):
    """The two halves of a relay are placed each by itself, on the next instance in turn."""

    def __init__(self, *, spill_floor_ns: int, members_max: int) -> None:
        super().__init__(spill_floor_ns=spill_floor_ns, members_max=members_max)
        self._turn = 0

    def resolve(
        self, subject: Subject, *, will_admit: bool = False, window_ns: int = 0, now_ns: int
    ) -> Placement | None:
        """The next in turn."""
        return self._next(())

    def route_rank(
        self, subject: Subject, ticket: TicketRef | None, tried: Collection[str], now_ns: int
    ) -> Placement | None:
        """The next in turn, whatever the ticket says."""
        return self._next(tried)

    def _next(self, tried: Collection[str]) -> Placement | None:
        able = self.candidates(None, tried)
        if not able:
            return None
        self._turn += 1
        return Placement(able[self._turn * 7919 % len(able)].record, Branch.SLOT)


class NoBound(Binding):
    """Users stay with their slot's instance, however busy it is."""

    def _lighter(self, subject: Subject, model_key: str, owner: Member, now_ns: int) -> tuple[Member, Branch]:
        return owner, Branch.SLOT


def admission_of(ablation: str) -> type[Admission]:
    """The triggers' core."""
    return AdmitEveryone if ablation == "no_trigger" else Admission


def binding_of(ablation: str) -> type[Binding]:
    """The routers' core."""
    return {"no_affinity": NoAffinity, "no_bound": NoBound}.get(ablation, Binding)
