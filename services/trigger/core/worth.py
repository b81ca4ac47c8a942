"""What a relay would be worth to one request: how late psi would be, and how much surer its budget would be held.

Source: design, section 3 (trigger).
"""

from __future__ import annotations

from services.trigger.core import risk
from services.trigger.core.events import Arrived
from services.trigger.core.risk import Assessment, ServiceTimes


def late_ns(event: Arrived, assessment: Assessment) -> int:
    """How long after the rank psi is ready; negative: before it.

    Expected times, without the margin of error: this weighs two ways against each other. A pre-infer is the last class
    of its device: all that is queued goes first.
    """
    return event.instance.backlog_ns + assessment.expected.pre_infer_ns - event.demand.time_to_rank_ns


def join_ns(event: Arrived, assessment: Assessment) -> int:
    """From the rank's coming to its scores. It lends its class, so at most the pre-infer is left to wait for."""
    expected = assessment.expected
    return min(max(0, late_ns(event, assessment)), expected.pre_infer_ns) + expected.rank_on_psi_ns


def miss_saved(event: Arrived, times: ServiceTimes, assessment: Assessment) -> float:
    """How much less likely a relay makes it that the budget is missed, 0 to 1.

    A full inference waits at least not at all, when the relay works for everybody else, and at most as if nobody
    else had one. Which of the two depends on what is being decided here, and real queues must not be read for it
    (risk.py), so it is the mean of both: who misses by its own length is worth twice as much as who misses only
    for others'. Ranks on psi go first on their device, so that their wait is left out.
    """
    budget_ns, instance, full_ns = event.demand.rank_budget_ns, event.instance, assessment.expected.full_ns
    error = instance.cost.relative_error
    at_worst = risk.miss_share(full_ns, error, budget_ns, instance.rank_rate_hz, times)
    at_best = risk.miss_share(full_ns, error, budget_ns, 0.0, times)
    relayed = risk.miss_share(join_ns(event, assessment), error, budget_ns, 0.0, times)
    return max(0.0, (at_worst + at_best) / 2.0 - relayed)
