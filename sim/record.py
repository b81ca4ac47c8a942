"""What came of the requests of a run, added up as they end: no list of them is kept.

Latencies are counted in steps of a tenth of a millisecond, rounded up.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from sim.kernel import MS
from sim.messages import Request

_STEP_NS = MS // 10
_STEPS = 30_000
_TENTH_NS = 100 * MS
ON_PSI = ("DEVICE", "DRAM", "JOINED")


class Record:
    """Counts of one run.

    Args:
        rank_ns: ranking's budget.
        end_to_end_ns: the whole's.
    """

    def __init__(self, rank_ns: int, end_to_end_ns: int) -> None:
        self._rank_ns = rank_ns
        self._end_to_end_ns = end_to_end_ns
        self._steps = [0] * (_STEPS + 1)
        self.requests = 0
        self.ranked = 0
        self.met = 0
        """Ranked within both budgets."""
        self.accepted = 0
        """Whose pre-infer an instance took, and which were ranked."""
        self.survived = 0
        self.met_instance = 0
        """Of the accepted, ranked by the very boot that made their psi."""
        self.returns = 0
        self.reused = 0
        self.tiers: Counter[str] = Counter()
        self.decisions: Counter[str] = Counter()
        self.fallbacks: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()
        self.by_instance: Counter[str] = Counter()
        self.by_tenth: dict[int, list[int]] = {}
        """Requests and those that met both budgets, by the tenth of a second of their arrival."""
        self.on_add: Callable[[Request], None] | None = None
        """Told of each request that has ended; for a closer look."""

    def add(self, request: Request) -> None:
        """A request has ended."""
        if self.on_add is not None:
            self.on_add(request)
        self.requests += 1
        self.decisions[request.decision] += 1
        tenth = self.by_tenth.setdefault(request.arrives_ns // _TENTH_NS, [0, 0])
        tenth[0] += 1
        if request.error:
            self.errors[request.error] += 1
            return
        self.ranked += 1
        rank_ns = request.rank_ns
        is_met = rank_ns <= self._rank_ns and request.ended_ns - request.arrives_ns <= self._end_to_end_ns
        self.met += is_met
        tenth[1] += is_met
        self._steps[min(_STEPS, -(-rank_ns // _STEP_NS))] += 1
        self.tiers[request.tier] += 1
        self.by_instance[request.instance_id] += 1
        if request.fallback:
            self.fallbacks[request.fallback] += 1
        ticket = request.ticket
        if ticket is not None and request.is_accepted:
            self.accepted += 1
            self.survived += request.tier in ON_PSI
            self.met_instance += (ticket.instance_id, ticket.epoch) == (request.instance_id, request.epoch)

    def quantile_ms(self, quantile: float) -> float | None:
        """Of the ranks answered, from when they were due."""
        if not self.ranked:
            return None
        wanted, seen = quantile * self.ranked, 0
        for step, count in enumerate(self._steps):
            seen += count
            if seen >= wanted:
                return step / 10
        return _STEPS / 10

    def to_json(self) -> dict[str, Any]:
        """Counts and shares."""
        return {
            "requests": self.requests,
            "ranked": self.ranked,
            "slo_met": share(self.met, self.requests),
            "rank_p50_ms": self.quantile_ms(0.5),
            "rank_p99_ms": self.quantile_ms(0.99),
            "survival": share(self.survived, self.accepted),
            "affinity": share(self.met_instance, self.accepted),
            "tiers": dict(sorted(self.tiers.items())),
            "decisions": dict(sorted(self.decisions.items())),
            "fallbacks": dict(sorted(self.fallbacks.items())),
            "errors": dict(sorted(self.errors.items())),
        }


def share(part: int, whole: int) -> float | None:
    """Part of a whole; None of nothing."""
    return round(part / whole, 5) if whole else None
