"""Whether full inference inside ranking would miss the budget.

At risk: P(wait + service > budget) exceeds 1 - quantile. Service is what the instance's
published cost model predicts for full inference, at the quantile of that model's own
error. The wait is that of a device on which *every* request runs in full, also those that
were admitted: real queues are short exactly when the relay does its job, and a test that
read them would conclude that the relay is not needed.

The wait. Ranks come to the instance at rate r (the router's smoothed count). With S the
predicted full inference of recent requests, load is rho = r E[S]. Pollaczek-Khinchine
gives the mean wait of one server in arrival order,

    W = r E[S^2] / (2 (1 - rho)),

a request waits at all with probability rho, and the tail is taken as exponential (exact
for exponential service):

    P(wait > t) = rho exp(-rho t / W)
    wait at quantile q = (W / rho) ln(rho / (1 - q)), or 0 when rho <= 1 - q.

The wait is capped at the budget: from there on everything is at risk, and rho >= 1 is
treated so. Adding two upper quantiles errs towards "at risk", the cheap side: an
unneeded pre-infer costs device time that has its own bound.

Source: design, section 3 (trigger).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from relaygr.domain.chain import PAGE_TOKENS
from relaygr.domain.cost import CostModel
from services.trigger.core.events import Demand

SMOOTHING = 1 / 64
"""Weight of the newest request. 64 requests span well under a second at the rates where
queueing matters, and average single long histories out."""

P99_DEVIATIONS = 2.576
"""|error| of a normal exceeds so many standard deviations once in a hundred times."""


class ServiceTimes:
    """Smoothed first and second moment of full inference over recent requests."""

    __slots__ = ("_count", "mean_ns", "mean_square_ns2")

    def __init__(self) -> None:
        self._count = 0
        self.mean_ns = 0.0
        self.mean_square_ns2 = 0.0

    def observe(self, full_ns: int) -> None:
        """Count one request's predicted full inference, whether it will run in full or not."""
        # The plain mean until there are enough: the first request must not count for all of them.
        self._count += 1
        weight = max(SMOOTHING, 1.0 / self._count)
        self.mean_ns += weight * (full_ns - self.mean_ns)
        self.mean_square_ns2 += weight * (float(full_ns) ** 2 - self.mean_square_ns2)


@dataclass(frozen=True, slots=True)
class Times:
    """What a request takes on the device, nanoseconds; without the error margin."""

    full_ns: int
    rank_on_psi_ns: int
    pre_infer_ns: int
    """From nothing. What the load bound counts, since errors cancel out over many."""


@dataclass(frozen=True, slots=True)
class Assessment:
    """Predicted times of one request, nanoseconds, and its psi's size."""

    full_ns: int
    """Full inference, at the cost model's error quantile."""
    rank_on_psi_ns: int
    """Ranking on psi, at the cost model's error quantile."""
    pre_infer_ns: int
    """The pre-infer from nothing, at the cost model's error quantile."""
    expected: Times
    """The same three without the error margin."""
    queue_ns: int
    """Wait ahead of a full inference at the SLO's quantile, as if all ran in full."""
    rank_budget_ns: int
    psi_bytes: int
    """Whole pages."""

    @property
    def is_at_risk(self) -> bool:
        """True when full inference is predicted to miss the budget."""
        return self.queue_ns + self.full_ns > self.rank_budget_ns


def wait_quantile_ns(rate_hz: float, times: ServiceTimes, quantile: float, cap_ns: int) -> int:
    """Wait at `quantile` of one server on which all requests run in full; see the module.

    Args:
        rate_hz: ranks a second.
        times: moments of their full inference.
        quantile: of the SLO, in (0, 1).
        cap_ns: returned at most, and when the load is 1 or more.
    """
    rate_per_ns = rate_hz * 1e-9
    load = rate_per_ns * times.mean_ns
    if load <= 1.0 - quantile:
        return 0
    if load >= 1.0:
        return cap_ns
    mean_wait_ns = rate_per_ns * times.mean_square_ns2 / (2.0 * (1.0 - load))
    return min(cap_ns, int(mean_wait_ns / load * math.log(load / (1.0 - quantile))))


def miss_share(service_ns: int, relative_error: float, budget_ns: int, rate_hz: float, times: ServiceTimes) -> float:
    """P(wait + service > budget), with the wait of the module and a service that is normal around what is expected.

    Either the service alone is too long, or it is not and what it is expected to leave is less than the wait.

    Args:
        service_ns: expected, without the margin of error.
        relative_error: the cost model's, the P99 of its errors.
        budget_ns: for both.
        rate_hz: ranks a second; 0 takes no wait into account.
        times: moments of their full inference.
    """
    left_ns = budget_ns - service_ns
    deviation_ns = relative_error * service_ns / P99_DEVIATIONS
    alone = math.erfc(left_ns / (deviation_ns * math.sqrt(2.0))) / 2.0 if deviation_ns else float(left_ns < 0)
    return alone + (1.0 - alone) * _wait_share(max(0, left_ns), rate_hz, times)


def _wait_share(beyond_ns: int, rate_hz: float, times: ServiceTimes) -> float:
    """P(wait > t); see the module."""
    rate_per_ns = rate_hz * 1e-9
    load = rate_per_ns * times.mean_ns
    if load >= 1.0:
        return 1.0
    if not load:
        return 0.0
    mean_wait_ns = rate_per_ns * times.mean_square_ns2 / (2.0 * (1.0 - load))
    return load * math.exp(-load * beyond_ns / mean_wait_ns)


def psi_bytes(prefix_tokens: int, cost: CostModel) -> int:
    """Device bytes of a prefix: pages are not shared, so the last one counts whole."""
    pages = -(-prefix_tokens // PAGE_TOKENS)
    return pages * PAGE_TOKENS * cost.token_bytes


def full_ns(demand: Demand, cost: CostModel) -> int:
    """Predicted full inference of a request, without the error margin."""
    return cost.full_ns(demand.candidate_count, demand.delta_tokens, demand.prefix_tokens)


def assess(demand: Demand, cost: CostModel, queue_ns: int) -> Assessment:
    """Predictions for one request with `queue_ns` of waiting ahead of it."""
    expected = Times(
        full_ns=full_ns(demand, cost),
        rank_on_psi_ns=cost.rank_ns(demand.candidate_count, demand.delta_tokens, demand.prefix_tokens),
        pre_infer_ns=cost.extend_ns(demand.prefix_tokens, 0),
    )
    return Assessment(
        full_ns=cost.upper_ns(expected.full_ns),
        rank_on_psi_ns=cost.upper_ns(expected.rank_on_psi_ns),
        pre_infer_ns=cost.upper_ns(expected.pre_infer_ns),
        expected=expected,
        queue_ns=queue_ns,
        rank_budget_ns=demand.rank_budget_ns,
        psi_bytes=psi_bytes(demand.prefix_tokens, cost),
    )
