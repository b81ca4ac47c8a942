"""Cores with a part taken out, to see what the part is worth.

Source: design, section 3.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from bench.load.ablations.placement import LeastLoaded
from services.router.core.binding import Binding, Branch, Subject
from services.router.core.membership import Member
from services.trigger.core.account import Account
from services.trigger.core.admission import Admission
from services.trigger.core.effects import DeclineReason
from services.trigger.core.events import Arrived, Demand, InstanceView
from services.trigger.core.price import Terms
from services.trigger.core.risk import Assessment
from sim.nodes.pool import PooledRanker
from sim.nodes.ranker import Ranker

ABLATIONS = ("no_trigger", "no_affinity", "no_bound", "no_dram", "remote_pool")


class AdmitEveryone(Admission):
    """No test of risk and no bounds: every request pre-infers."""

    def _assess(self, demand: Demand, instance: InstanceView, account: Account) -> Assessment:
        return replace(super()._assess(demand, instance, account), queue_ns=demand.rank_budget_ns)

    def _hopeless(self, event: Arrived, assessment: Assessment) -> DeclineReason | None:
        return None

    def _over_bound(self, account: Account, assessment: Assessment, terms: Terms) -> DeclineReason | None:
        return None

    def check(self) -> None:
        """Nothing bounds the footprint."""


class NoBound(Binding):
    """Users stay with their slot's instance, however busy it is."""

    def _lighter(self, subject: Subject, model_key: str, owner: Member, now_ns: int) -> tuple[Member, Branch]:
        return owner, Branch.SLOT

    def _spill_to(self, named: str, able: Mapping[str, Member], model_key: str, slot: int, now_ns: int) -> str | None:
        return None


class LeastLoadedPooled(LeastLoaded):
    """Each rank goes to the least loaded instance, which fetches its psi."""

    def __init__(self, **limits: Any) -> None:
        super().__init__(tickets_anywhere=True, **limits)


def admission_of(ablation: str) -> type[Admission]:
    """The triggers' core."""
    return AdmitEveryone if ablation == "no_trigger" else Admission


def binding_of(ablation: str) -> type[Binding]:
    """The routers' core."""
    found: dict[str, type[Binding]] = {
        "no_affinity": LeastLoaded,
        "no_bound": NoBound,
        "remote_pool": LeastLoadedPooled,
    }
    return found.get(ablation, Binding)


def ranker_of(ablation: str) -> type[Ranker]:
    """The instances."""
    return PooledRanker if ablation == "remote_pool" else Ranker
