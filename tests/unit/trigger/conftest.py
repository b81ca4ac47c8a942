"""Values shared by the trigger's core tests."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from relaygr.domain.cost import CostModel
from services.trigger.core.admission import AdmissionRules
from services.trigger.core.events import Demand, InstanceView

MS = 1_000_000


class Values:
    """Builders with defaults: 10 us a token, so 1,000 tokens take 10 ms."""

    rules = AdmissionRules(
        slo_quantile=0.99,
        footprint_share=0.5,
        pre_infer_share=0.5,
        load_burst_ns=1_000 * MS,
        tickets_max=100,
        unanswered_max=100,
        accounts_max=4,
        window_ns_max=10_000 * MS,
        account_idle_ns=60_000 * MS,
    )
    cost = CostModel(
        fixed_ns=100_000.0,
        token_ns=10_000.0,
        pair_ns=0.0,
        reload_fixed_ns=0.0,
        reload_byte_ns=0.0,
        relative_error=0.0,
        token_bytes=1_000,
        candidates_typical=100,
    )
    demand = Demand(
        prefix_tokens=1_281,  # 11 pages: 1,408,000 bytes
        delta_tokens=10,
        candidate_count=100,
        rank_budget_ns=10 * MS,
        time_to_rank_ns=50 * MS,
        window_ns=2_000 * MS,
    )
    instance = InstanceView(
        instance_id="r0",
        epoch=7,
        cost=cost,
        device_budget_bytes=100_000_000,
        backlog_ns=0,
        rank_rate_hz=0.0,
        trigger_count=1,
    )

    def with_rules(self, **changes: Any) -> AdmissionRules:
        return replace(self.rules, **changes)

    def with_demand(self, **changes: Any) -> Demand:
        return replace(self.demand, **changes)

    def with_instance(self, **changes: Any) -> InstanceView:
        return replace(self.instance, **changes)


@pytest.fixture
def values() -> Values:
    return Values()
