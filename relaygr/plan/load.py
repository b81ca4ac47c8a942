"""One instance at one rate: device time by tier, bytes, and the tail of ranking.

Whether a length is at risk is asked as the trigger asks it: full inference at the cost model's error, behind the wait
of a device on which all run in full. Who is at risk is pre-inferred when nothing of it is left, and ranked on psi.

Source: design, section 3 (trigger, ranker).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, sqrt

from relaygr.domain.chain import PAGE_TOKENS
from relaygr.plan.demand import NORMAL, Demand
from relaygr.plan.device import DeviceModel
from relaygr.plan.queueing import Line, line
from relaygr.plan.residence import Residence, residence

MS = 1e6
TAIL_STEPS = 40
FAR_NS = 1e12


@dataclass(frozen=True, slots=True)
class Load:
    """What one instance sees; shares are of all requests."""

    rate_hz: float
    at_risk: float
    device: float
    """Ranked on psi that was there from the last time."""
    dram: float
    made: float
    """Ranked on psi that was made for this request."""
    full: float
    rank_busy: float
    """Share of the device's time."""
    production_busy: float
    footprint_bytes: float
    """Of open tickets, at the quantile of the objective."""
    survival: float
    """Of the at-risk requests, those whose ticket finds room."""
    tail_ms: float
    """Ranking's latency at the quantile of the objective."""
    is_in_time: bool
    """The tail is within the budget."""
    residence: Residence

    @property
    def busy(self) -> float:
        """Share of the device's time."""
        return self.rank_busy + self.production_busy


def load_of(demand: Demand, model: DeviceModel, rate_hz: float) -> Load:
    """At `rate_hz` requests a second."""
    is_at_risk = at_risk(demand, model, rate_hz)
    lengths = [tokens for tokens, risky in zip(demand.lengths, is_at_risk, strict=True) if risky]
    share = len(lengths) / len(demand.lengths)
    psi_bytes = sum(psi_bytes_of(model, tokens) for tokens in lengths) / max(1, len(lengths))
    pinned_mean, pinned = footprint(demand, model, share * rate_hz, psi_bytes)
    room = max(0.0, model.device_bytes - pinned_mean)
    kept = residence(demand, share * rate_hz, psi_bytes, room, model.dram_bytes / model.instances_per_host)
    hit, reloaded = kept.device_share, kept.dram_share
    services = _services(demand, model, is_at_risk, (hit, reloaded, 1.0 - hit - reloaded))
    ranks = line(rate_hz, services.ranks)
    left = max(1e-9, 1.0 - ranks.load)
    productions = line(rate_hz, [(each, work / left) for each, work in services.productions])
    tail_ms = Tail(demand, model, services, ranks, productions, left).quantile_ns() / MS
    return Load(
        rate_hz=rate_hz,
        at_risk=share,
        device=share * hit,
        dram=share * reloaded,
        made=share * (1.0 - hit - reloaded),
        full=1.0 - share,
        rank_busy=ranks.load,
        production_busy=productions.load * left,
        footprint_bytes=pinned,
        survival=_fits(model, pinned_mean, psi_bytes),
        tail_ms=tail_ms,
        is_in_time=tail_ms <= demand.slo_ms,
        residence=kept,
    )


def at_risk(demand: Demand, model: DeviceModel, rate_hz: float) -> list[bool]:
    """Of each length: full inference would miss the budget."""
    cost, budget_ns = model.cost, (demand.slo_ms - demand.overhead_ms) * MS
    times = [cost.full_ns(demand.candidates, 0, tokens) for tokens in demand.lengths]
    wait_ns = line(rate_hz, [(1 / len(times), time_ns) for time_ns in times]).quantile_ns(demand.quantile)
    return [min(wait_ns, budget_ns) + cost.upper_ns(time_ns) > budget_ns for time_ns in times]


def psi_bytes_of(model: DeviceModel, tokens: int) -> int:
    """Whole pages."""
    return -(-tokens // PAGE_TOKENS) * PAGE_TOKENS * model.cost.token_bytes


def footprint(demand: Demand, model: DeviceModel, admitted_hz: float, psi_bytes: float) -> tuple[float, float]:
    """Bytes of open tickets, mean and at the quantile: they are held from arrival until ranking has ended."""
    held_s = (demand.time_to_rank_ms + demand.slo_ms / 2) / 1e3
    tickets = admitted_hz * held_s
    return tickets * psi_bytes, (tickets + NORMAL.inv_cdf(demand.quantile) * sqrt(tickets)) * psi_bytes


def _fits(model: DeviceModel, mean_bytes: float, psi_bytes: float) -> float:
    """Chance that one more ticket is within the footprint's bound."""
    bound, tickets = model.footprint_share * model.device_bytes, mean_bytes / max(1.0, psi_bytes)
    if not tickets:
        return 1.0
    return NORMAL.cdf((bound / max(1.0, psi_bytes) - tickets - 1.0) / sqrt(tickets))


@dataclass(frozen=True, slots=True)
class Services:
    """(share of the requests, device nanoseconds)."""

    ranks: list[tuple[float, float]]
    productions: list[tuple[float, float]]
    cold: list[tuple[float, float, float]]
    """Share, production and rank of those whose psi is made."""
    warm: list[tuple[float, float]]
    """Share, and rank with what it needs before, of all others."""


def _services(
    demand: Demand, model: DeviceModel, is_at_risk: list[bool], shares: tuple[float, float, float]
) -> Services:
    cost, count = model.cost, len(demand.lengths)
    found = Services([], [], [], [])
    for tokens, risky in zip(demand.lengths, is_at_risk, strict=True):
        if not risky:
            full_ns = cost.full_ns(demand.candidates, 0, tokens)
            found.ranks.append((1 / count, full_ns))
            found.warm.append((1 / count, full_ns))
            continue
        again_ns = cost.rank_ns(demand.candidates, demand.append_tokens, tokens)
        rank_ns, made_ns = cost.rank_ns(demand.candidates, 0, tokens), cost.extend_ns(tokens, 0)
        hit, reloaded, made = (share / count for share in shares)
        found.ranks.extend([(hit + reloaded, again_ns), (made, rank_ns)])
        found.productions.append((made, made_ns))
        found.warm.append((hit, again_ns))
        # A reload has the stages' time; only what is longer is waited for.
        late_ns = max(0.0, cost.reload_ns(tokens) - demand.time_to_rank_ms * MS)
        found.warm.append((reloaded, again_ns + late_ns))
        found.cold.append((made, made_ns, rank_ns))
    return found


@dataclass(frozen=True, slots=True)
class Tail:
    """P(latency of ranking > t)."""

    demand: Demand
    model: DeviceModel
    services: Services
    ranks: Line
    productions: Line
    left: float
    """Of the device's time, what ranks leave."""

    def beyond(self, time_ns: float) -> float:
        """Chance that a rank takes longer; waits for psi and for the device are added as if both were worst."""
        room_ns = time_ns - self.demand.overhead_ms * MS
        over = 1.0 + self.model.cost.relative_error
        late = sum(share * self._rank(room_ns - over * work) for share, work in self.services.warm)
        stages_ns = self.demand.time_to_rank_ms * MS - self.demand.overhead_ms * MS
        for share, made_ns, rank_ns in self.services.cold:
            slack_ns = room_ns - over * rank_ns
            waits = self.productions.tail(stages_ns + slack_ns - over * made_ns / self.left)
            late += share * min(1.0, self._rank(slack_ns) + waits)
        return late

    def quantile_ns(self) -> float:
        """At the objective's quantile; infinite when the device does not keep up."""
        if self.ranks.load >= 1.0 or self.productions.load >= 1.0:
            return inf
        low, high = 0.0, FAR_NS
        for _ in range(TAIL_STEPS):
            middle = (low + high) / 2
            low, high = (middle, high) if self.beyond(middle) > 1.0 - self.demand.quantile else (low, middle)
        return high

    def _rank(self, slack_ns: float) -> float:
        return 1.0 if slack_ns < 0.0 else self.ranks.tail(slack_ns)
