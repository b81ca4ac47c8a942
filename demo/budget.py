"""Chooses budgets that make the relay necessary on this machine, whatever its speed.

The ranking budget. The demo's model is small and machines differ, so a fixed number of
milliseconds would make every request at risk on one machine and none on another. The budget
is therefore placed where about half of the planned requests are at risk by the trigger's own
test: at the median, over the requests, of their predicted full inference at the cost models'
error quantile, plus the wait that the test adds at the replay's rate. A production system has
its budget given and sizes its histories to it; here it is the other way round.

Device memory. Each ranker gets room for a fraction of the users' psi, so that a user who
returns finds psi in DRAM, as in production, where users outnumber what a device holds.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from pathlib import Path

from demo.plan import PlannedRequest
from relaygr.domain.chain import PAGE_TOKENS
from relaygr.domain.cost import CostModel
from services.trigger.core.risk import ServiceTimes, wait_quantile_ns

RANK_BUDGET_LEAST_NS = 2_000_000
SLO_QUANTILE = 0.99
_ELEMENT_BYTES = 4  # float32


def rank_budget_ns(planned: Sequence[PlannedRequest], costs: Sequence[CostModel], rate_hz: float) -> int:
    """The ranking budget at which about half of the requests are at risk.

    Args:
        planned: the replay.
        costs: of the rankers, as they publish them; the requests are shared among them.
        rate_hz: of the replay.
    """
    full_ns = [
        sum(
            cost.full_ns(len(request.asked.candidates), request.delta_count, 1 + request.arrive_count) for cost in costs
        )
        // len(costs)
        for request in planned
    ]
    times = ServiceTimes()
    times.mean_ns = statistics.fmean(full_ns)
    times.mean_square_ns2 = statistics.fmean(value**2 for value in full_ns)
    wait_ns = wait_quantile_ns(rate_hz / len(costs), times, SLO_QUANTILE, int(statistics.median(full_ns)))
    error = statistics.fmean(cost.relative_error for cost in costs)
    return max(RANK_BUDGET_LEAST_NS, int(statistics.median(full_ns) * (1 + error)) + wait_ns)


def psi_bytes(planned: Sequence[PlannedRequest], token_bytes: int) -> int:
    """Bytes of all users' psi at their longest, in whole pages."""
    longest: dict[str, int] = {}
    for request in planned:
        longest[request.asked.user] = max(longest.get(request.asked.user, 0), 1 + request.arrive_count)
    return sum(-(-tokens // PAGE_TOKENS) * PAGE_TOKENS * token_bytes for tokens in longest.values())


def token_bytes_of(model_dir: Path) -> int:
    """K/V bytes of one token over all layers of a saved model."""
    values = json.loads((model_dir / "model.json").read_text())
    config = values.get("config", values)
    elements = config["layers"] * config["heads"] * (config["qk_dim"] + config["v_dim"])
    return int(elements * _ELEMENT_BYTES)
