"""Adds up what came of the counted requests of a probe."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from bench.load.estimate import bursts_of
from bench.load.outcome import Outcome
from bench.load.profile import Slo
from bench.load.traffic import PlannedRequest

Pair = tuple[PlannedRequest, Outcome]
STAGES: dict[str, Callable[[Outcome], int]] = {
    "send_late": lambda one: one.rank_late_ns,
    "hops": lambda one: one.call_ns - one.total_ns,
    "prepare": lambda one: one.prepare_ns,
    "join": lambda one: one.join_ns,
    "queue": lambda one: one.queue_ns,
    "compute": lambda one: one.compute_ns,
    "between": lambda one: one.total_ns - one.prepare_ns - one.join_ns - one.queue_ns - one.compute_ns,
}
"""Where a rank's time goes, in order; together they are the time from when it was due. "hops" is what the ranker does
not see: client, router and network, both ways. "between" is the ranker's own way between its steps."""
ON_PSI = ("DEVICE", "DRAM", "JOINED")


def tally(pairs: Sequence[Pair], slo: Slo) -> dict[str, Any]:
    """Latencies, counts and shares of a probe."""
    ranked = [outcome for _, outcome in pairs if not outcome.error]
    failed = [outcome for _, outcome in pairs if outcome.error]
    late = len(failed) + sum(one.rank_ns > slo.rank_ms * 1e6 for one in ranked)
    end_to_end_late = len(failed) + sum(one.end_to_end_ns > slo.end_to_end_ms * 1e6 for one in ranked)
    # 1 - 0.9 is a little less than 0.1.
    allowed = (1.0 - slo.quantile) * len(pairs) + 1e-9
    device = [one for one in ranked if one.tier == "DEVICE"]
    return {
        "achieved_hz": _rate_hz(pairs),
        "errors": dict(Counter(one.error.partition(":")[0] for one in failed)),
        "error_example": failed[0].error if failed else "",
        "rank_ms": latencies_ms([one.rank_ns for one in ranked]),
        "end_to_end_ms": latencies_ms([one.end_to_end_ns for one in ranked]),
        "arrive_ms": latencies_ms([one.arrive_ns for one in ranked if one.arrive_ns >= 0]),
        "late": late,
        "end_to_end_late": end_to_end_late,
        "late_bursts": list(bursts_of(_is_late(outcome, slo) for _, outcome in pairs)),
        "held": not failed and max(late, end_to_end_late) <= allowed,
        "tiers": dict(Counter(one.tier for one in ranked)),
        "decisions": dict(Counter(_decision(one) for one in ranked if one.decision)),
        "fallbacks": dict(Counter(one.fallback for one in ranked if one.fallback)),
        "branches": dict(Counter(one.branch for one in ranked)),
        "instances": dict(Counter(one.instance_id for one in ranked)),
        "stages_ms": _stages_ms(ranked),
        "overhead_ms": latencies_ms([one.call_ns - one.compute_ns for one in device]),
        "generator_late_ms": latencies_ms([one.arrive_late_ns for one in ranked]),
        **_relayed(pairs),
    }


def _is_late(outcome: Outcome, slo: Slo) -> bool:
    return bool(outcome.error) or outcome.rank_ns > slo.rank_ms * 1e6


def _relayed(pairs: Sequence[Pair]) -> dict[str, int]:
    admitted = [outcome for _, outcome in pairs if outcome.decision == "ADMITTED" and not outcome.error]
    return {
        "admitted": len(admitted),
        "survived": sum(outcome.tier in ON_PSI for outcome in admitted),
        "returns": sum(request.visit > 0 for request, _ in pairs),
    }


def latencies_ms(values_ns: Sequence[int]) -> dict[str, float]:
    """Quantiles with the count they come from."""
    if not values_ns:
        return {"count": 0}
    times_ms = np.asarray(values_ns) / 1e6
    # The next larger one that was measured: no quantile is better than what somebody saw.
    p50, p99, p999 = np.quantile(times_ms, (0.5, 0.99, 0.999), method="higher")
    named = {"p50": p50, "p99": p99, "p99.9": p999, "max": times_ms.max(), "mean": times_ms.mean()}
    return {"count": len(values_ns), **{name: round(float(value), 3) for name, value in named.items()}}


def _stages_ms(ranked: Sequence[Outcome]) -> dict[str, dict[str, dict[str, float]]]:
    groups = {"ALL": list(ranked)}
    for one in ranked:
        groups.setdefault(one.tier, []).append(one)
    return {
        tier: {stage: latencies_ms([of(one) for one in group]) for stage, of in STAGES.items()}
        for tier, group in groups.items()
        if group
    }


def _rate_hz(pairs: Sequence[Pair]) -> float:
    span_ns = pairs[-1][0].arrives_ns - pairs[0][0].arrives_ns if len(pairs) > 1 else 0
    return round((len(pairs) - 1) / span_ns * 1e9, 3) if span_ns else 0.0


def _decision(outcome: Outcome) -> str:
    return f"{outcome.decision}/{outcome.reason}" if outcome.decision == "DECLINED" else outcome.decision
