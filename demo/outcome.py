"""What came of one request of the replay, and of all of them together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from demo.plan import PlannedRequest

TIERS = ("device", "dram", "joined", "full")
AT_RISK_DECISIONS = ("ADMITTED", "DECLINED")


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One request, as its caller saw it."""

    planned: PlannedRequest
    decision: str = ""
    """ADMITTED, NOT_AT_RISK or DECLINED; empty when Arrive failed."""
    reason: str = ""
    tier: str = ""
    """DEVICE, DRAM, JOINED or FULL; empty when it was not answered."""
    fallback: str = ""
    instance_id: str = ""
    branch: str = ""
    scores: NDArray[np.float32] | None = None
    """Logits [candidates, tasks]."""
    rank_ns: int = 0
    """From the moment ranking was due to its answer: late sending counts."""
    compute_ns: int = 0
    """On the device, inside ranking."""
    foreseen_full_ns: int = 0
    """Full inference inside ranking, as the trigger predicted it at the cost model's error quantile, with queueing."""
    foreseen_on_psi_ns: int = 0
    """Ranking on psi, as the trigger predicted it."""
    trace_id: str = ""
    error: str = ""
    """Why it was not answered."""

    @property
    def is_answered(self) -> bool:
        """True when there are scores."""
        return self.scores is not None

    @property
    def is_admitted(self) -> bool:
        """True when a ticket was handed out."""
        return self.decision == "ADMITTED"

    @property
    def is_at_risk(self) -> bool:
        """True when full inference inside ranking was predicted to miss the budget."""
        return self.decision in AT_RISK_DECISIONS and self.reason not in ("EMPTY_PREFIX", "NO_INSTANCE")


@dataclass(frozen=True, kw_only=True)
class Totals:
    """The replay in numbers."""

    requests: int
    answered: int
    errors: int
    tiers: dict[str, int]
    at_risk: float
    """Share of all requests."""
    admitted: int
    """Tickets handed out."""
    survival: float
    """Share of these whose psi was resident or in production when ranking came."""
    rank_p50_ms: float
    rank_p99_ms: float


def totals(outcomes: Sequence[Outcome]) -> Totals:
    """Sum up."""
    tiers = Counter(outcome.tier.lower() for outcome in outcomes if outcome.is_answered)
    admitted = [outcome for outcome in outcomes if outcome.is_admitted]
    survived = sum(outcome.is_answered and outcome.tier != "FULL" for outcome in admitted)
    took_ms = [outcome.rank_ns / 1e6 for outcome in outcomes if outcome.is_answered]
    return Totals(
        requests=len(outcomes),
        answered=sum(outcome.is_answered for outcome in outcomes),
        errors=sum(bool(outcome.error) for outcome in outcomes),
        tiers={tier: tiers.get(tier, 0) for tier in TIERS},
        at_risk=sum(outcome.is_at_risk for outcome in outcomes) / max(1, len(outcomes)),
        admitted=len(admitted),
        survival=survived / len(admitted) if admitted else 0.0,
        rank_p50_ms=quantile(took_ms, 0.50),
        rank_p99_ms=quantile(took_ms, 0.99),
    )


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that `share` of the values do not exceed; 0 of nothing."""
    if not len(values):
        return 0.0
    return float(np.quantile(np.asarray(values), share, method="inverted_cdf"))
