"""Chooses budgets that make the relay necessary on this machine, whatever its speed.

The ranking budget. The demo's model is small and machines differ, so a fixed number of
milliseconds would make every request at risk on one machine and none on another. The budget
is therefore placed where about half of the planned requests are at risk by the trigger's own
test: near the median, over requests and rankers, of predicted full inference at the cost model's
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

from demo.outcome import quantile
from demo.plan import PlannedRequest
from relaygr.domain.chain import PAGE_TOKENS
from relaygr.domain.cost import CostModel
from services.trigger.core.risk import ServiceTimes, wait_quantile_ns

RANK_BUDGET_LEAST_NS = 2_000_000
FITTING_SHARE = 0.4
"""Share of the predictions that fit the budget. Less than half, because the wait at the start of a replay, before
the router has seen its rate, is shorter than predicted: what comes out is about half."""
SLO_QUANTILE = 0.99
_ELEMENT_BYTES = 4  # float32


def rank_budget_ns(planned: Sequence[PlannedRequest], costs: Sequence[CostModel], rate_hz: float) -> int:
    """The ranking budget at which about half of the requests are at risk.

    Args:
        planned: the replay.
        costs: of the rankers, as they publish them; the requests are shared among them.
        rate_hz: of the replay.
    """
    foreseen = [value for cost in costs for value in _foreseen_ns(planned, cost, rate_hz / len(costs))]
    return max(RANK_BUDGET_LEAST_NS, int(quantile(foreseen, FITTING_SHARE)))


def _foreseen_ns(planned: Sequence[PlannedRequest], cost: CostModel, rate_hz: float) -> list[int]:
    """What the trigger's test would predict for each request on one ranker."""
    full_ns = [
        cost.full_ns(len(request.asked.candidates), request.delta_count, 1 + request.arrive_count)
        for request in planned
    ]
    times = ServiceTimes()
    times.mean_ns = statistics.fmean(full_ns)
    times.mean_square_ns2 = statistics.fmean(value**2 for value in full_ns)
    wait_ns = wait_quantile_ns(rate_hz, times, SLO_QUANTILE, cost.upper_ns(int(times.mean_ns)))
    return [cost.upper_ns(value) + wait_ns for value in full_ns]


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
